"""The index of a recording: states of a pass at intervals, so that a later pass need not start at the beginning.

It is built while a file is decoded for the first time, kept with the Recording, and written beside the file
(`<name>.spikeindex`, JSON). It holds for a file of the same size and modification time, read in the same way;
anything else is as if there were no index.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from spiketrack.errors import RecordingError
from spiketrack.recordings.ordering import OrderState
from spiketrack.replacing import write_whole

SUFFIX = ".spikeindex"
VERSION = 2
SPACING_EVENTS = 1 << 19
MOST_CHECKPOINTS = 4096
_LEAST_WRITTEN = 8  # checkpoints; a shorter file is decoded in no time
_MOST_BYTES = 1 << 24
_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """Where a pass can begin: the reader's place, the state of the time order, and what was counted so far."""

    place: Any
    order: OrderState
    invalid: dict[str, int]
    repaired: dict[str, int]
    first_invalid: dict[str, str]

    @classmethod
    def start(cls) -> Checkpoint:
        return cls(None, OrderState(), {}, {}, {})

    def counters(self) -> tuple[Counter[str], Counter[str], dict[str, str]]:
        """Copies that a pass may count on."""
        return Counter(self.invalid), Counter(self.repaired), dict(self.first_invalid)


class Index:
    """Checkpoints in the order of the file, their latest times rising.

    path: the recording. key: what else the checkpoints depend on. is_place: whether a place, as a tuple or a number,
    is one that a reader could continue at; None to neither read nor write the sidecar.
    """

    def __init__(self, path: Path, key: dict[str, Any], is_place: Callable[[Any], bool] | None) -> None:
        self._path, self._sidecar, self._on_disk = path, path.with_name(path.name + SUFFIX), is_place is not None
        self._key = {"version": VERSION, **self._file_key(), **key}
        self._spacing = SPACING_EVENTS
        self._checkpoints: list[Checkpoint] = self._load(is_place) if is_place is not None else []
        self._added = 0  # since it was written

    def before(self, start_us: int) -> Checkpoint:
        """The last checkpoint up to which every event was earlier than start_us."""
        i = bisect_left(self._checkpoints, start_us, key=_latest)
        return self._checkpoints[i - 1] if i else Checkpoint.start()

    def wants(self, order: OrderState) -> bool:
        """Whether a pass in this state has come far enough beyond the last checkpoint."""
        seen = self._checkpoints[-1].order.seen if self._checkpoints else 0
        return order.latest is not None and order.seen >= seen + self._spacing

    def add(self, checkpoint: Checkpoint) -> None:
        # the latest time goes back only where it was that of events far ahead, which were dropped
        while self._checkpoints and _latest(self._checkpoints[-1]) >= _latest(checkpoint):
            self._checkpoints.pop()
        self._checkpoints.append(checkpoint)
        self._added += 1
        if len(self._checkpoints) > MOST_CHECKPOINTS:
            del self._checkpoints[::2]
            self._spacing *= 2

    def save(self) -> None:
        """Write the sidecar where there is more to write than before; where that is impossible, say so and go on."""
        if not self._on_disk or self._added < _LEAST_WRITTEN or not self._file_key().items() <= self._key.items():
            return
        key, checkpoints = json.dumps(self._key), json.dumps(self._checkpoints)
        content = f'{{"key": {key}, "crc32": {crc32(checkpoints.encode())}, "checkpoints": {checkpoints}}}'
        try:
            write_whole(self._sidecar, content, RecordingError)
            self._added = 0
        except RecordingError as error:
            self._on_disk = False
            _log.info("no index is kept: %s", error)

    def _file_key(self) -> dict[str, int]:
        try:
            status = self._path.stat()
        except OSError as error:
            raise RecordingError(f"{self._path}: cannot be read: {error.strerror}") from error
        return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}

    def _load(self, is_place: Callable[[Any], bool]) -> list[Checkpoint]:
        try:
            if self._sidecar.stat().st_size > _MOST_BYTES:
                raise ValueError(f"it is larger than {_MOST_BYTES:,} bytes")
            content = json.loads(self._sidecar.read_text("utf-8"))
            if content["key"] != self._key:
                _log.info("%s belongs to another file or another way of reading; it will be made anew", self._sidecar)
                return []
            if crc32(json.dumps(content["checkpoints"]).encode()) != content["crc32"]:
                raise ValueError("its check sum is wrong")
            checkpoints = [_checkpoint(*entry) for entry in content["checkpoints"]]
            if not all(is_place(checkpoint.place) and _is_sound(checkpoint) for checkpoint in checkpoints):
                raise ValueError("it holds what no pass writes")
            if any(_latest(one) >= _latest(other) for one, other in pairwise(checkpoints)):
                raise ValueError("its times do not rise")
            return checkpoints
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            _log.warning("%s is not a readable index (%s); it will be made anew", self._sidecar, error)
            return []


def _latest(checkpoint: Checkpoint) -> int:
    latest = checkpoint.order.latest
    assert latest is not None  # only such are added
    return latest


def _checkpoint(place: Any, order: list[Any], *counts: dict[str, Any]) -> Checkpoint:
    """A checkpoint as JSON gives it back."""
    return Checkpoint(_as_tuple(place), OrderState(*order), *counts)


def _is_sound(checkpoint: Checkpoint) -> bool:
    """Whether everything but the place has the types and ranges that a pass gives it."""
    _, (latest, floor, seen), invalid, repaired, first_invalid = checkpoint
    counts = [count for counted in (invalid, repaired) for count in counted.values()]
    return (
        all(type(time) is int and abs(time) < 1 << 63 for time in (latest, floor))
        and all(type(count) is int and 0 <= count < 1 << 63 for count in (seen, *counts))
        and first_invalid.keys() == invalid.keys()
        and repaired.keys() <= {"reordered"}
        and all(type(where) is str for where in first_invalid.values())
    )


def _as_tuple(place: Any) -> Any:
    return tuple(_as_tuple(part) for part in place) if isinstance(place, list) else place
