"""A process of the fuzz run: it reads inputs one after the other and tells its parent what came of them."""

from __future__ import annotations

import faulthandler
import logging
import mmap
import os
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fuzz_corpus import INDEX_EVERY
from fuzz_inputs import Input, Inputs, load_input
from fuzz_reading import BrokenLaw, read_input

from spiketrack.recordings import index

_REPORT_EVERY_S = 0.5
_STEM = "input"
_NOTABLE_BYTES = 16 << 20
_SLOT = struct.Struct("<qd")  # number of the input, when it was begun (0: none is being read)


@dataclass(frozen=True)
class Limits:
    """timeout_s: wall time of one input, beyond which it counts as a hang. address_bytes: what a process may claim
    beyond what it has before its first input; resident_bytes: what one input may use at its peak."""

    timeout_s: float = 10.0
    address_bytes: int = 3 << 30
    resident_bytes: int = 1 << 29


@dataclass
class KindFigures:
    """What came of the inputs of one kind."""

    inputs: int = 0
    refused: int = 0
    events: int = 0
    slowest_s: float = 0.0
    slowest: int = -1
    peak_bytes: int = 0  # resident, beyond what was before the input
    peak: int = -1

    def add(self, other: KindFigures) -> None:
        self.inputs += other.inputs
        self.refused += other.refused
        self.events += other.events
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest
        if other.peak_bytes > self.peak_bytes:
            self.peak_bytes, self.peak = other.peak_bytes, other.peak


@dataclass
class Found:
    """An input that broke a law. what: on one line; like: the same for what is probably the same mistake."""

    number: int
    kind: str
    like: str
    what: str
    details: str
    made: Input


@dataclass
class Report:
    """All that happened since the report before. last: the number of the last input; resident_bytes: after it."""

    last: int
    resident_bytes: int = 0
    kinds: dict[str, KindFigures] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    new: list[tuple[tuple[Any, ...], Input, bool]] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)


class Slot:
    """A few bytes shared with the parent: which input is being read, and since when."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOT.size)

    def begin(self, number: int) -> None:
        self._memory[:] = _SLOT.pack(number, time.monotonic())

    def end(self) -> None:
        self._memory[:] = _SLOT.pack(-1, 0.0)

    def read(self) -> tuple[int, float]:
        """(number, seconds that it has taken so far); -1 between two inputs."""
        number, begun = _SLOT.unpack(self._memory[:])
        return number, time.monotonic() - begun if number >= 0 else 0.0


def work(inputs: Inputs, numbers: Iterable[int], folder: Path, slot: Slot, parent: Connection, limits: Limits) -> None:
    """Read the inputs of these numbers. The one being read lies in `folder`, with what describes it."""
    _prepare(folder, limits)
    memory = _Memory()
    report, told = Report(-1), time.monotonic()
    for number in numbers:
        made = inputs.make(number)
        path = place_input(folder, made)
        memory.begin()
        slot.begin(number)
        began = time.perf_counter()
        outcome = None
        try:
            outcome = read_input(path, made)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            report.found.append(_describe(number, made, error))
        seconds = time.perf_counter() - began
        slot.end()
        grown = memory.grown()
        if grown > limits.resident_bytes:
            what = f"{grown >> 20} MiB of resident memory for one input"
            report.found.append(Found(number, made.kind, f"{made.kind} memory", what, "", made))
        figures = KindFigures(1, 0, 0, seconds, number, grown, number)
        if outcome is not None:
            figures.refused, figures.events = int(outcome.refused), outcome.events
            name = outcome.format or "refused"
            report.formats[name] = report.formats.get(name, 0) + 1
            if outcome.shape not in inputs.shapes:
                report.new.append((outcome.shape, made, outcome.refused))
                inputs.learn(*report.new[-1])
        report.kinds.setdefault(made.kind, KindFigures()).add(figures)
        report.last = number
        if report.found or time.monotonic() - told > _REPORT_EVERY_S:
            report.resident_bytes = _resident_bytes()
            parent.send(report)
            report, told = Report(number), time.monotonic()
    parent.send(report)


def read_alone(made: Input, folder: Path, limits: Limits) -> None:
    """Read one input as a process of its own, which shows by its end what the input does to a process."""
    _prepare(folder, limits)
    with suppress(Exception):
        read_input(place_input(folder, made), made)


def place_input(folder: Path, made: Input) -> Path:
    """Write the input as the only file of the folder, beside what describes it."""
    for old in folder.iterdir():
        if old.name != "stderr":
            old.unlink()
    path = folder / f"{_STEM}{made.suffix}"
    made.place(path)
    return path


def placed_input(folder: Path) -> Input:
    """The input that a process was reading when it ended."""
    (path,) = folder.glob(f"{_STEM}*.json")
    return load_input(path.with_suffix(""))


def prepare_reading() -> None:
    """Everything that is not clean is an error; an index is written early and often."""
    warnings.simplefilter("error")
    index.SPACING_EVENTS, index._LEAST_WRITTEN = INDEX_EVERY, 1
    logger = logging.getLogger("spiketrack")
    logger.handlers, logger.propagate = [_Formatting()], False
    logger.setLevel(logging.INFO)


class _Formatting(logging.Handler):
    """Makes the text of every message, and nothing of it; a mistake in one is an error."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()

    handleError = None  # type: ignore[assignment]


def _prepare(folder: Path, limits: Limits) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    errors = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    faulthandler.enable(sys.__stderr__)
    faulthandler.register(signal.SIGUSR1, sys.__stderr__, all_threads=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + limits.address_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    prepare_reading()


class _Memory:
    """How far one input raises the resident memory at its peak, known where that is higher than ever since the last
    notable one; else it is below that, and 0 here."""

    def __init__(self) -> None:
        self._before = self._peak = 0
        self._forget()

    def begin(self) -> None:
        self._before = _resident_bytes()

    def grown(self) -> int:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if peak <= self._peak:
            return 0
        self._peak = peak
        if peak - self._before > _NOTABLE_BYTES:
            self._forget()
        return max(0, peak - self._before)

    def _forget(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")
        self._peak = _resident_bytes()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


def _describe(number: int, made: Input, error: BaseException) -> Found:
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "spiketrack" in frame.filename]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    what = f"{type(error).__name__}: {error}"[:300]
    like = f"{made.kind} {type(error).__name__} {where}"
    if isinstance(error, BrokenLaw):
        like = f"{made.kind} {''.join(c for c in str(error) if not c.isdigit())[:60]}"
    details = "".join(traceback.format_exception(error))[-6000:]
    return Found(number, made.kind, like, what, details, made)
