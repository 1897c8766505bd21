"""Reading one input of the fuzz run, and the laws that must hold whatever the bytes are.

A file is refused with a SpiketrackError that names it, or it is read: then every event lies on the sensor and none is
earlier than the one before, no more events come out than bytes can hold, what is counted is accounted for, and the
events depend neither on the number of threads, nor on where blocks end, nor on an index or a late start.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_inputs import WORD_BYTES, Input, Way

from spiketrack.errors import SpiketrackError
from spiketrack.events import Events, Triggers
from spiketrack.recordings import ReadOptions, hdf5, load_labels, open_recording, windows
from spiketrack.recordings.recording import TIME_LIMIT_US, FileRecording, Tally

_KINDS = {
    "off_sensor", "bad_polarity", "bad_time", "time_backwards", "time_ahead", "before_time", "before_address",
    "unknown_word", "truncated_word", "bad_clock", "bad_line", "bad_coordinate", "truncated_array", "bad_trigger",
    "broken_packet", "missing_chunk", "broken_chunk",
}  # fmt: skip
_EVENTS_PER_BYTE = {"evt2": 1 / 4, "evt2.1": 4, "evt3": 6, "dat": 1 / 8, "dat1": 1 / 8, "text": 1 / 7, "npy": 1,
                    "nmnist": 1 / 5, "npz": 1100}  # fmt: skip
_BLOCKS = {"_piece_words": 1, "_block_rows": 1, "_block_events": 1, "_block_bytes": 16}
_MOST_BLOCKS = 60
_VARIABLE = re.compile(r"'[^']*'|\"[^\"]*\"|/\S*|[-+0-9][0-9.,e+]*|0x[0-9A-F]+")


class BrokenLaw(Exception):
    """What must not happen."""


@dataclass
class Outcome:
    """refused: whether the file was not read to its end. shape: alike for inputs that showed nothing new."""

    format: str
    refused: bool
    events: int
    shape: tuple[Any, ...]


def read_input(path: Path, made: Input) -> Outcome:
    """Read the input, which lies at `path`. Raises BrokenLaw, or whatever escapes."""
    try:
        if made.kind == "labels":
            return _read_labels(path, made.way)
        return _read_events(path, made)
    except SpiketrackError as error:
        if path.name not in str(error):
            raise BrokenLaw(f"an error that does not name the file: {error}") from error
        return Outcome("", True, 0, (made.kind, _shape_of(error)))


def _shape_of(error: Exception) -> str:
    return f"{type(error).__name__} {_VARIABLE.sub('#', str(error))[:120]}"


def _law(holds: object, what: str) -> None:
    if not holds:
        raise BrokenLaw(what)


def _read_labels(path: Path, way: Way) -> Outcome:
    sides = {side: way.opening.get(side) for side in ("width", "height")}
    boxes, repairs = load_labels(path, **sides, class_names=["a"] * 200 if way.windows else None)
    for axis, side in enumerate(sides.values()):
        corners = boxes.xyxy[:, axis::2]
        _law(side is None or not len(boxes) or (corners.min() >= 0 and corners.max() <= side), "a box off the sensor")
    _law(len(boxes) <= path.stat().st_size, f"{len(boxes)} boxes of a file of {path.stat().st_size} bytes")
    _law((boxes.t[1:] >= boxes.t[:-1]).all() and np.isfinite(boxes.xyxy).all(), "boxes out of order or not finite")
    return Outcome("labels", False, len(boxes), ("labels", *_grades(repairs), len(boxes).bit_length()))


def _grades(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted((kind, count.bit_length() // 3) for kind, count in counts.items())


def _read_events(path: Path, made: Input) -> Outcome:
    way = made.way
    options = ReadOptions(way.policy, 1, index=way.index or made.kind == "index")
    recording = open_recording(path, **way.opening, options=options)
    assert isinstance(recording, FileRecording)
    with _blocks_of(recording, way.block):
        whole = _Pass(recording)
        if made.kind != "index":
            _check_against_blocks(recording, way, whole)
            _check_size(path, recording.format, len(whole.events))
        if way.second is not None:
            _check_late_start(path, made, recording, whole)
        if way.windows and len(whole.events):
            _check_windows(recording, way, whole, made.kind != "index" and recording.format != "hdf5")
    return Outcome(
        recording.format, False, len(whole.events),
        (made.kind, recording.format, *_grades(whole.invalid), *_grades(whole.repaired),
         len(whole.events).bit_length() // 2, len(whole.triggers) > 0),
    )  # fmt: skip


@contextmanager
def _blocks_of(recording: FileRecording, block: int | None) -> Iterator[None]:
    """Decode so many words, rows, bytes or events at a time, more where the file would have too many blocks."""
    kept = hdf5.BLOCK_ROWS
    if block is not None:
        least = recording.path.stat().st_size // _MOST_BLOCKS
        for name, unit in _BLOCKS.items():
            if hasattr(recording, name):
                setattr(recording, name, max(1, block * unit, least // WORD_BYTES.get(recording.format, 1)))
        hdf5.BLOCK_ROWS = max(16, block)
    try:
        yield
    finally:
        hdf5.BLOCK_ROWS = kept


class _Pass:
    """A whole pass: all its events and triggers, looked at while they are all held, and what it counted."""

    def __init__(self, recording: FileRecording, start_us: int | None = None) -> None:
        runs = list(recording.chunks_with_triggers(start_us))
        self.events = _joined(recording, [events for events, _ in runs])
        self.triggers = Triggers.concatenate([met for _, met in runs])
        self.invalid, self.repaired = recording.invalid, recording.repaired
        self.first_invalid = recording.first_invalid
        _law(not self.invalid or recording.options.on_invalid != "fail", f"no failure, but {self.invalid}")
        _law(self.invalid.keys() <= _KINDS and self.repaired.keys() <= {"reordered"}, f"kinds {self.invalid}")
        _law(self.invalid.keys() == self.first_invalid.keys(), f"places {self.first_invalid} of {self.invalid}")
        counts = [*self.invalid.values(), *self.repaired.values()]
        _law(all(isinstance(count, int) and count > 0 for count in counts), f"counts {self.invalid} {self.repaired}")
        if start_us is not None and len(self.events):
            _law(self.events.t[0] >= start_us, f"an event at {self.events.t[0]}, before {start_us}")

    def same_counts(self, other: _Pass) -> bool:
        mine, others = ((p.invalid, p.repaired, p.first_invalid) for p in (self, other))
        return mine == others


def _joined(recording: FileRecording, runs: list[Events]) -> Events:
    """All runs, each checked by itself and against the one before."""
    last = None
    for run in runs:
        _law((run.width, run.height) == (recording.width, recording.height), f"a run of another sensor: {run}")
        try:
            Events(run.t, run.x, run.y, run.p, run.width, run.height)
        except ValueError as error:
            raise BrokenLaw(str(error)) from error
        if len(run):
            _law(last is None or run.t[0] >= last, f"a run at {run.t[0]} us after one up to {last} us")
            _law(abs(int(run.t[-1])) <= 2 * TIME_LIMIT_US, f"a time of {run.t[-1]} us")
            last = run.t[-1]
    return Events.concatenate([Events.empty(recording.width, recording.height), *runs])


def _check_size(path: Path, format: str, events: int) -> None:
    most = _EVENTS_PER_BYTE.get(format)
    size = path.stat().st_size
    _law(most is None or events <= size * most, f"{events} events of a {format} file of {size} bytes")


@dataclass
class _Stream:
    """What a reader yields, in the order of the file, and what it counted; None where it failed."""

    columns: tuple[np.ndarray, ...]
    triggers: Triggers
    tally: Tally


def _stream(recording: FileRecording) -> _Stream | None:
    tally = Tally(recording.path, recording.options.on_invalid)
    columns, triggers = [], []
    try:
        with recording._reader(tally, None) as reader:
            for block in reader.blocks():
                if block.rises:
                    _law((block.columns.t[1:] >= block.columns.t[:-1]).all(), "a block that falls and is said to rise")
                columns.append([column.copy() for column in block.columns])
                triggers.append(block.triggers)
    except SpiketrackError:
        return None
    empty = [np.empty(0, dtype) for dtype in (np.int64, np.uint16, np.uint16, np.uint8)]
    return _Stream(tuple(map(np.concatenate, zip(empty, *columns, strict=True))), Triggers.concatenate(triggers), tally)


def _check_against_blocks(recording: FileRecording, way: Way, whole: _Pass) -> None:
    """The reader's own blocks, with threads or without, with what the pass made of them."""
    stream = _stream(recording)
    _law(stream is not None, "the pass ended well, but not the reader's")
    assert stream is not None
    lost = whole.invalid["time_backwards"] + whole.invalid["time_ahead"]
    gone = 0 if way.policy == "keep" else lost
    _law(
        len(stream.columns[0]) == len(whole.events) + gone,
        f"{len(stream.columns[0])} events read, {whole.events}, {lost} lost",
    )
    counted = {
        kind: count for kind, count in whole.invalid.items() if not kind.startswith(("time_backwards", "time_ahead"))
    }
    _law(counted == stream.tally.invalid, f"counted {counted} and {stream.tally.invalid}")
    _law(
        _same_triggers(stream.triggers, whole.triggers),
        f"{len(stream.triggers)} triggers, {len(whole.triggers)} in the pass",
    )
    if not lost:
        order = np.argsort(stream.columns[0], kind="stable")
        for name, column in zip("txyp", stream.columns, strict=True):
            _law(
                np.array_equal(column[order], getattr(whole.events, name)),
                f"{name} differs between the reader and the pass",
            )
    if way.threads > 1:
        options = recording.options
        recording.options = replace(options, threads=way.threads)
        _check_same(stream, _stream(recording), recording, f"{way.threads} threads")
        recording.options = options
    if way.block is not None:
        fresh = open_recording(recording.path, **way.opening, options=recording.options)
        assert isinstance(fresh, FileRecording)
        small, hdf5.BLOCK_ROWS = hdf5.BLOCK_ROWS, 1 << 18
        _check_same(stream, _stream(fresh), fresh, "the reader's own blocks")
        hdf5.BLOCK_ROWS = small


def _same_triggers(one: Triggers, other: Triggers) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("t", "channel", "value"))


def _check_same(stream: _Stream, other: _Stream | None, recording: FileRecording, with_what: str) -> None:
    _law(other is not None, f"failed with {with_what}")
    assert other is not None
    if recording.format == "npz" and "truncated_array" in other.tally.invalid:
        return  # a check sum that is wrong shows at the end of a member: what came out before depends on the blocks
    sizes = f"{len(stream.columns[0])} and {len(other.columns[0])} events"
    for name, one, two in zip("txyp", stream.columns, other.columns, strict=True):
        _law(np.array_equal(one, two), f"{name} differs with {with_what}; {sizes}")
    _law(_same_triggers(stream.triggers, other.triggers), f"triggers differ with {with_what}")
    _law(
        stream.tally.invalid == other.tally.invalid,
        f"{stream.tally.invalid}, but {other.tally.invalid} with {with_what}",
    )
    if recording.format != "hdf5":
        first, others = stream.tally.first_invalid, other.tally.first_invalid
        _law(first == others, f"{first}, but {others} with {with_what}")


def _check_late_start(path: Path, made: Input, recording: FileRecording, whole: _Pass) -> None:
    """A pass that starts late gives the events of the whole pass, and counts the same."""
    share = made.way.second or 0.0
    n = len(whole.events)
    start_us = int(whole.events.t[int(share * n)]) if n else int(share * TIME_LIMIT_US)
    if made.way.index:
        again = open_recording(path, **made.way.opening, options=recording.options)
        assert isinstance(again, FileRecording)
        for name in _BLOCKS:
            if hasattr(recording, name):
                setattr(again, name, getattr(recording, name))
        recording = again
    late = _Pass(recording, start_us)
    if made.kind == "index" or recording.format == "hdf5":  # what an index says there may be a lie
        return
    first = int(np.searchsorted(whole.events.t, start_us))
    for name in "txyp":
        same = np.array_equal(getattr(late.events, name), getattr(whole.events, name)[first:])
        _law(same, f"{name} differs from {start_us} us on: {late.events}, whole {whole.events}")
    _law(
        late.same_counts(whole),
        f"{late.invalid} {late.repaired}, but {whole.invalid} {whole.repaired} in the whole pass",
    )


def _check_windows(recording: FileRecording, way: Way, whole: _Pass, exact: bool) -> None:
    n = len(whole.events)
    start = int(whole.events.t[int((way.second or 0.0) * n)])
    window_us = (int(whole.events.t[-1]) - start) // way.windows + 1
    for window in islice(windows(recording, window_us, start_us=start), way.windows + 2):
        try:
            replace(window)
        except ValueError as error:
            raise BrokenLaw(str(error)) from error
        expected = whole.events.between(window.start_us, window.end_us)
        _law(
            not exact or all(np.array_equal(getattr(window, c), getattr(expected, c)) for c in "txyp"),
            f"{window}, not {expected}",
        )
