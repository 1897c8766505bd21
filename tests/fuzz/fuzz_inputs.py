"""The inputs of the fuzz run: input `number` of a run is a mutated file and a way of reading it."""

from __future__ import annotations

import json
import os
from bisect import bisect
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

from fuzz_corpus import MTIME_NS, WEIGHTS
from fuzz_mutations import mutate, mutate_text, random_nmnist, random_words
from fuzz_seeds import HEIGHT, WIDTH, Seed, array_aims
from fuzz_structures import npz_members, random_npy, random_npz, random_sidecar

from spiketrack.recordings.index import SUFFIX

WORD_BYTES = {"evt2": 4, "evt2.1": 8, "evt3": 2, "dat": 8}
_IN_PLACE = {"hdf5": 0.9, "npz": 0.8, "aedat4": 0.7, "nmnist": 0.8, "npy": 0.7, "labels": 0.7}
_MOST_KEPT = 5000
_TEXT_END = 400  # bytes of a text file that tell its layout


@dataclass(frozen=True)
class Way:
    """How an input is read. block: words, rows, bytes or events decoded at a time, None for the reader's own. second:
    the share of the events before the start of a second pass, None for no second pass; index: that it uses the index
    of the first; threads: of a pass that must give the same as with one; windows: cut that many."""

    policy: str = "drop"
    block: int | None = None
    threads: int = 1
    second: float | None = None
    index: bool = False
    windows: int = 0
    opening: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """parents: the numbers of the inputs it comes from, the last the place of the file in the corpus."""

    kind: str
    suffix: str
    content: bytes
    sidecar: bytes | None
    way: Way
    parents: tuple[int, ...]

    def place(self, path: Path) -> None:
        """Write it as a new file, with its index and, as JSON, all the rest beside it."""
        path.write_bytes(self.content)
        os.utime(path, ns=(MTIME_NS, MTIME_NS))
        if self.sidecar is not None:
            path.with_name(path.name + SUFFIX).write_bytes(self.sidecar)
        said = {"kind": self.kind, "suffix": self.suffix, "way": asdict(self.way), "parents": self.parents}
        path.with_name(path.name + ".json").write_text(json.dumps(said))


def load_input(path: Path) -> Input:
    """What `Input.place` wrote, perhaps a pass wrote the index."""
    said = json.loads(path.with_name(path.name + ".json").read_text())
    sidecar = path.with_name(path.name + SUFFIX)
    content = sidecar.read_bytes() if said["kind"] == "index" else None
    return Input(said["kind"], said["suffix"], path.read_bytes(), content, Way(**said["way"]), tuple(said["parents"]))


class Inputs:
    """Makes the inputs of a run. corpus: the valid files by kind; kept: inputs that showed something new, by kind,
    with the numbers they come from; shapes: all that was shown. A number gives the same input for the same seed and the
    same inputs kept before."""

    def __init__(self, corpus: dict[str, list[Seed]], seed: int) -> None:
        self.corpus, self.seed = corpus, seed
        self.kept: dict[str, list[tuple[Seed, tuple[int, ...]]]] = {
            kind: [(member, (-1 - i,)) for i, member in enumerate(members)] for kind, members in corpus.items()
        }
        self.shapes: set[tuple[Any, ...]] = set()
        self._kinds = [kind for kind in WEIGHTS if kind in corpus]
        self._bounds = list(accumulate(WEIGHTS[kind] for kind in self._kinds))

    def make(self, number: int) -> Input:
        random = Random(f"{self.seed}:{number}")
        kind = self._kinds[bisect(self._bounds, random.random() * self._bounds[-1])]
        files = self.kept[kind]
        fresh = random.random() < 0.5 or len(files) == len(self.corpus[kind])
        parent, parents = files[random.randrange(len(self.corpus[kind]) if fresh else len(files))]
        other = (
            random.choice(files)[0]
            if random.random() < 0.9
            else random.choice(self.kept[random.choice(self._kinds)])[0]
        )
        content, sidecar = _MUTATORS.get(kind, _mutate_bytes)(random, parent, other)
        return Input(kind, parent.suffix, content, sidecar, _random_way(random, kind), (number, *parents)[:64])

    def learn(self, shape: tuple[Any, ...], made: Input, refused: bool) -> None:
        """Remember what an input showed, and make it a parent of later ones if it was read."""
        self.shapes.add(shape)
        if refused or sum(map(len, self.kept.values())) > _MOST_KEPT:
            return
        members = self.corpus[made.kind]
        like = next((m for m in members if m.suffix == made.suffix), members[0])
        aims, body = like.aims, like.body
        if made.kind in ("npy", "labels"):
            body = made.content.find(b"\n", 0, 4096) + 1
            aims = array_aims(body, len(made.content))
        if made.kind in WORD_BYTES:
            body = self._body_of(made, like)
            aims = ((body, len(made.content)), (0, body)) if body else ()
        self.kept[made.kind].append(
            (Seed(made.kind, made.suffix, made.content, aims, body, made.sidecar), made.parents)
        )

    @staticmethod
    def _body_of(made: Input, like: Seed) -> int:
        place = made.content.find(b"% end\n", 0, 4096)
        return place + 6 if place >= 0 else min(like.body, len(made.content))


def _random_way(random: Random, kind: str) -> Way:
    if kind == "index":
        return Way(second=random.random(), index=True, windows=random.choice((0, 0, 3)))
    opening: dict[str, Any] = {}
    if random.random() < 0.3:
        opening = {"width": random.choice((1, 33, 64, 640, 65536)), "height": random.choice((1, 34, 48, 480, 65536))}
        if random.random() < 0.2:
            del opening[random.choice(("width", "height"))]
    if kind in ("text", "npy", "npz") and random.random() < 0.15:
        opening["columns"] = random.choice(("txyp", "xypt", "xytp", "txyp_", "t_xyp", "ptyx"))
    if kind in ("text", "npy", "npz") and random.random() < 0.15:
        opening["time_unit"] = random.choice(("s", "ms", "us", "ns"))
    if kind == "evt2.1" and random.random() < 0.2:
        opening["endianness"] = random.choice(("little", "legacy", "big"))
    return Way(
        policy=random.choice(("drop", "drop", "keep", "fail")),
        block=random.choice(
            (None, None, None, random.choice((1, 2, 3, 7, 16, 64)), random.randrange(1, 300), 2048, 2049)
        ),
        threads=random.choice((1, 1, 1, 1, 1, 1, 2, 3)),
        second=random.random() if random.random() < 0.3 else None,
        index=random.random() < 0.5,
        windows=random.choice((0, 0, 0, 0, 3, 20)),
        opening=opening,
    )


_Made = tuple[bytes, bytes | None]


def _mutate_bytes(random: Random, parent: Seed, other: Seed) -> _Made:
    in_place = _IN_PLACE.get(parent.kind.partition("-")[0], 0.3)
    return mutate(random, parent.content, other.content, parent.aims, 8, in_place), parent.sidecar


def _mutate_words(random: Random, parent: Seed, other: Seed) -> _Made:
    body, size = parent.body, WORD_BYTES[parent.kind]
    choice = random.random()
    if choice < 0.15 and body:
        return mutate_text(random, parent.content, 0, body), None
    if choice < 0.4:
        return _mutate_bytes(random, parent, other)
    words = random_words(random, parent.kind, random.choice((1, 5, 50, 300, 300, 2100, 5000)), WIDTH, HEIGHT)
    if choice < 0.6:
        return parent.content[:body] + words + bytes(random.choice((0, 0, 0, 1))), None
    place = (
        body + random.randrange((len(parent.content) - body) // size + 1) * size if body < len(parent.content) else body
    )
    over = random.choice((0, len(words), 0, random.randrange(len(parent.content) + 1)))
    content = parent.content[:place] + words + parent.content[place + over :]
    return (mutate(random, content, other.content, parent.aims, 2) if choice > 0.85 else content), None


def _mutate_text(random: Random, parent: Seed, other: Seed) -> _Made:
    choice = random.random()
    if choice < 0.35:
        return mutate_text(random, parent.content, 0, min(_TEXT_END, len(parent.content))), None
    if choice < 0.7:
        return mutate_text(random, parent.content, 0, len(parent.content)), None
    return _mutate_bytes(random, parent, other)


def _mutate_npy(random: Random, parent: Seed, other: Seed) -> _Made:
    choice = random.random()
    if choice < 0.4:
        content = random_npy(random, parent.kind == "labels")
        return (mutate(random, content, other.content, (), 2) if choice < 0.1 else content), None
    if choice < 0.6:
        start = min(parent.body, len(parent.content))
        text = mutate_text(random, parent.content[:start], 10, start)[10:]
        size = len(text) % 65536 if random.random() < 0.95 else random.randrange(65536)
        return parent.content[:8] + size.to_bytes(2, "little") + text + parent.content[start:], None
    return _mutate_bytes(random, parent, other)


def _mutate_npz(random: Random, parent: Seed, other: Seed) -> _Made:
    if random.random() < 0.75 and (members := npz_members(parent.content)):
        return random_npz(random, members), None
    return _mutate_bytes(random, parent, other)


def _mutate_nmnist(random: Random, parent: Seed, other: Seed) -> _Made:
    if random.random() < 0.5:
        content = random_nmnist(random, random.choice((1, 2, 30, 200)))
        return (mutate(random, content, other.content, (), 1) if random.random() < 0.3 else content), None
    return _mutate_bytes(random, parent, other)


def _mutate_sidecar(random: Random, parent: Seed, other: Seed) -> _Made:
    sidecar = parent.sidecar or b""
    if random.random() < 0.8:
        return parent.content, random_sidecar(random, sidecar)
    return parent.content, mutate(random, sidecar, other.sidecar or b"", ())


_MUTATORS = {
    **dict.fromkeys(WORD_BYTES, _mutate_words),
    **dict.fromkeys(("npy", "labels"), _mutate_npy),
    "text": _mutate_text,
    "npz": _mutate_npz,
    "nmnist": _mutate_nmnist,
    "index": _mutate_sidecar,
}
