"""Remedies: what would make the step faster, by how much, and which setting to change.

Station: after the verdict. An estimate is taken from what was measured: a part that falls away, or a pass of the
network that was tried in another way. `doctor` tries those that are settings.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from spiketrack.profiling.probing import Probes
from spiketrack.profiling.verdict import COUNTING, Verdict

_WORTH = 1.03  # times as fast, at least
MOST = 3
_CACHE_FACTOR = 5  # bytes of an event in memory over those in a compressed file
_DISK_FACTOR = 3  # the same of data.cache_dir
_READY = 0.8  # of the time that a step works: batches that take so long on the average can be there in time
_FREE_SHARE = 0.5  # of the memory or the disk that is free may go to the cache
_MOST_DECODED_MB = 20_000  # that a trial may write

Effect = Literal["same losses", "rounding differs", "another run", "same results"]


@dataclass(frozen=True)
class Remedy:
    """gain: expected rate over the present one. settings: keys of the experiment to change. threads: of torch.
    fused: the network with folded norms (inference). effect: on what is computed. by_hand: what a person has to do,
    where no setting does it."""

    what: str
    why: str
    gain: float
    effect: Effect
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    fused: bool = False
    by_hand: str = ""

    @property
    def can_be_tried(self) -> bool:
        return bool(self.settings) or self.threads is not None or self.fused

    @property
    def setting(self) -> str:
        """What to change, in words."""
        changes = [f"{key}: {value}" for key, value in self.settings.items()]
        if self.threads is not None:
            changes.append(f"OMP_NUM_THREADS={self.threads}")
        return "; ".join(changes) or self.by_hand


@dataclass(frozen=True)
class Present:
    """What is set now. files: recordings to train on. on_disk: they are read from data.cache_dir. precision: in which
    the network runs. native: whether the processor computes bfloat16 itself. read_ahead: batches. recompute:
    activations are computed twice. pageable: batches go to an accelerator from memory that is not locked. countable:
    an accelerator could count the events, which the loader does."""

    training: bool
    batch_size: int = 1
    precision: torch.dtype = torch.float32
    native: bool = False
    checkpoint_every: int = 100
    read_ahead: int = 1
    recompute: bool = False
    pageable: bool = False
    files: tuple[Path, ...] = ()
    on_disk: bool = False
    countable: bool = False


def remedies(verdict: Verdict, probes: Probes, present: Present) -> list[Remedy]:
    """The three that would gain most, the best first; fewer where nothing else is worth it."""
    found = [
        *_of_loading(verdict, present),
        *_of_calls(verdict, present),
        *_of_network(verdict, probes, present),
    ]
    worth = [remedy for remedy in found if remedy.gain >= _WORTH]
    return sorted(worth, key=lambda remedy: -remedy.gain)[:MOST]


def _without(verdict: Verdict, seconds: float) -> float:
    """How much faster a step is without so many seconds."""
    return verdict.seconds / max(verdict.seconds - seconds, 1e-9)


def _seconds(verdict: Verdict, bound: str, *stations: str) -> float:
    return sum(part.seconds for part in verdict.parts if part.bound == bound and part.station in stations)


def _of_loading(verdict: Verdict, present: Present) -> Iterator[Remedy]:
    storage = _seconds(verdict, "storage", "waiting", "reading")
    loader = _seconds(verdict, "CPU", "waiting")
    reading = storage + sum(part.seconds for part in verdict.parts if part.what == "decoding events")
    if present.training and present.files:
        yield _of_rereading(verdict, present, reading)
    elif not present.training:
        yield Remedy(
            "A faster format or disk",
            f"{reading / verdict.seconds:.0%} of the step reads and decodes events",
            _without(verdict, reading),
            "same results",
            by_hand="copy the recording to a local disk; `spiketrack convert` it to HDF5; `--threads` of `track`",
        )
    counting = loader - (reading - storage)
    if present.training:
        yield from _of_uneven_loading(verdict, present)
        if present.countable:
            seconds = sum(part.seconds for part in verdict.parts if part.what == COUNTING)
            why = f"{seconds / verdict.seconds:.0%} of the step waits for events to be moved and counted"
            settings = {"training.encode_on": "device"}
            yield Remedy("Count on the accelerator", why, _without(verdict, seconds), "same losses", settings)
        yield Remedy(
            "Cheaper samples",
            f"{counting / verdict.seconds:.0%} of the step waits for the one thread that makes batches",
            _without(verdict, counting),
            "another run",
            by_hand="input.window_us shorter, input.bins fewer, less augmentation; see which function in the report",
        )


def _of_uneven_loading(verdict: Verdict, present: Present) -> Iterator[Remedy]:
    """A thread that loads fast enough on the average, but not every batch."""
    waiting = verdict.share("waiting") * verdict.seconds
    loading = sum(seconds for kind, seconds in verdict.loading.items() if kind != "first read")
    if loading < _READY * (verdict.seconds - waiting):
        why = f"a batch takes {loading:.3g} s on the average, less than a step works, yet {waiting:.3g} s are waited"
        settings = {"training.read_ahead": 4 * present.read_ahead}
        yield Remedy("Batches further ahead", why, _without(verdict, waiting), "same losses", settings)


def _of_rereading(verdict: Verdict, present: Present, reading: float) -> Remedy:
    """Recordings that are read and decoded again: in memory where they fit there, else decoded on a disk."""
    why = f"{reading / verdict.seconds:.0%} of the step waits for events to be read and decoded again"
    gain = _without(verdict, reading)
    if present.on_disk:
        by_hand = "data.cache_dir on a faster disk, or more memory, in which the system keeps what was read"
        return Remedy("A faster disk for decoded recordings", why, gain, "same losses", by_hand=by_hand)
    compressed_mb = sum(path.stat().st_size for path in present.files if path.exists()) / 1e6
    memory_mb = _FREE_SHARE * psutil.virtual_memory().available / 1e6
    disk_mb, folder = _DISK_FACTOR * compressed_mb, _cache_folder()
    if _CACHE_FACTOR * compressed_mb <= memory_mb or disk_mb > _FREE_SHARE * _free_disk_mb(folder):
        needed_mb = int(min(max(_CACHE_FACTOR * compressed_mb, 100.0), memory_mb))
        return Remedy("Keep the recordings in memory", why, gain, "same losses", {"data.cache_mb": needed_mb})
    why = f"{why}; memory cannot hold them, about {disk_mb / 1000:,.0f} GB of a disk can"
    what = "Keep decoded recordings on a disk"
    if disk_mb > _MOST_DECODED_MB:
        return Remedy(what, why, gain, "same losses", by_hand=f"data.cache_dir: {folder}, or another folder")
    return Remedy(what, why, gain, "same losses", {"data.cache_dir": str(folder)})


def _cache_folder() -> Path:
    """Where programs of this user keep what they can make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spiketrack"


def _free_disk_mb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e6


def _of_calls(verdict: Verdict, present: Present) -> Iterator[Remedy]:
    """What Python costs outside the network."""
    for part in verdict.parts:
        if part.bound != "Python" or part.station in ("forward", "backward", "network"):
            continue
        gain, why = _without(verdict, part.seconds), f"{part.seconds / verdict.seconds:.0%} of the step: {part.what}"
        if part.station == "bookkeeping":
            settings = {"training.checkpoint_every": 10 * present.checkpoint_every}
            yield Remedy("Rarer checkpoints, longer epochs", f"{why} ({part.where})", gain, "same losses", settings)
        elif part.station == "logging":
            yield Remedy("Log less often", why, gain, "same losses", by_hand=f"call {part.where} every few steps only")
        else:
            by_hand = f"take the sleeps and .item() out of {part.where}: keep tensors, read them once a step"
            yield Remedy("A loss that does not wait", why, gain, "same losses", by_hand=by_hand)


def _of_network(verdict: Verdict, probes: Probes, present: Present) -> Iterator[Remedy]:
    network = sum(p.seconds for p in verdict.parts if p.station in ("forward", "backward", "network"))

    def faster(seconds: float) -> float:
        """Gain where a pass takes so long instead of probes.base."""
        return _without(verdict, network * (1 - seconds / probes.base))

    now = torch.get_num_threads()
    for threads, seconds in probes.threads.items():
        if threads != now:
            why = f"a pass of the network takes {seconds:.3g} s on {threads} threads, {probes.base:.3g} s on {now}"
            yield Remedy(f"{threads} threads", why, faster(seconds), "rounding differs", threads=threads)
    if probes.fused is not None:
        why = f"a pass takes {probes.fused:.3g} s without norms, {probes.base:.3g} s with them"
        yield Remedy(
            "Fold the norms",
            why,
            faster(probes.fused),
            "rounding differs",
            fused=True,
            by_hand="Detector.fused(), as `spiketrack track` does",
        )
    if present.training:
        per_sample = 0.5 * probes.doubled
        yield Remedy(
            "Larger batches",
            f"{probes.overhead:.0%} of a pass does not depend on the number of samples",
            _without(verdict, _shared_by_two(verdict) + network * max(0.0, 1 - per_sample / probes.base)),
            "another run",
            {"training.batch_size": 2 * present.batch_size},
        )
        if probes.bfloat16 is not None and present.native:
            why = f"a pass takes {probes.bfloat16:.3g} s in bfloat16, {probes.base:.3g} s in float32"
            settings = {"training.precision": "bfloat16"}
            yield Remedy("Half the bits", why, faster(probes.bfloat16), "rounding differs", settings)
        if present.recompute:
            why = "every activation is computed twice, once forward and once in the backward pass"
            again = _without(verdict, sum(part.seconds for part in verdict.parts if part.station == "forward"))
            yield Remedy("Keep activations", why, again, "same losses", {"training.recompute": False})
        if present.pageable:
            copying = 0.5 * sum(part.seconds for part in verdict.parts if part.station == "copy")
            why = "batches wait in memory that the accelerator cannot read by itself"
            yield Remedy("Pinned memory", why, _without(verdict, copying), "same losses", {"training.pin_memory": True})
        if probes.side_by_side is not None:
            why = (
                f"{probes.copies} passes side by side, one thread each, take {probes.side_by_side:.3g} s, one alone "
                f"{probes.base:.3g} s on {now}"
            )
            yield Remedy(
                "One process a core",
                why,
                probes.copies * faster(probes.side_by_side),
                "another run",
                by_hand=f"OMP_NUM_THREADS=1 and {probes.copies} runs side by side (seeds, settings), or one run with "
                f"`spiketrack train --processes {probes.copies}`",
            )


def _shared_by_two(verdict: Verdict) -> float:
    """Half of what a step costs whatever the batch: twice the samples share it."""
    fixed = {"optimizer", "bookkeeping", "logging"}
    return 0.5 * sum(part.seconds for part in verdict.parts if part.station in fixed)
