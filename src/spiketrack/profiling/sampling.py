"""Sampling: which Python function each thread is in, and whether it computes there or waits.

Station: beside a run that is being measured. A thread of its own looks at the stacks of all others every few
milliseconds. In comes the name of what the run does at the moment, out go stacks with the seconds spent in them. Time
that the kernel did not count as running or ready to run is time spent waiting: for storage, for a lock, in a sleep.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

_DEEPEST = 60
_IDLE_FILES = ("/threading.py", "/concurrent/futures/thread.py", "/queue.py", "/selectors.py")


@dataclass(frozen=True, slots=True)
class StackTime:
    """Seconds in one stack. main: of the thread that steps, else of one that loads. station: what the run did then.

    frames: outermost first, as `file:function`. line: of the innermost. waited: the part without the processor.
    """

    main: bool
    station: str
    frames: tuple[str, ...]
    line: int
    seconds: float
    waited: float

    @property
    def place(self) -> str:
        """The innermost function with its line."""
        return f"{self.frames[-1]}:{self.line}"


class StackSampler:
    """Looks at the stacks while it is started; `station` is asked what the run does, once a look."""

    def __init__(self, station: Callable[[], str], interval_s: float) -> None:
        self._station, self._interval_s = station, interval_s
        self._main = threading.get_ident()
        self._found: dict[tuple[bool, str, tuple[CodeType, ...], int], list[float]] = {}
        self._looked: dict[int, tuple[float, float]] = {}  # thread: (time, seconds it had or wanted the processor)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stack sampler", daemon=True)

    def start(self) -> None:
        self._look(count=False)
        self._thread.start()

    def stop(self) -> list[StackTime]:
        """End, and give what was seen, the longest first."""
        self._stop.set()
        self._thread.join()
        found = [
            StackTime(main, station, tuple(map(_name, codes)), line, seconds, waited)
            for (main, station, codes, line), (seconds, waited) in self._found.items()
        ]
        return sorted(found, key=lambda stack: -stack.seconds)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._look(count=True)

    def _look(self, count: bool) -> None:
        stacks, station, now = _stacks(), self._station(), time.perf_counter()
        for thread in threading.enumerate():
            if thread.ident not in stacks or thread is self._thread or thread.native_id is None:
                continue
            before, busy_before = self._looked.get(thread.native_id, (now, math.nan))
            busy = _had_or_wanted_processor(thread.native_id)
            self._looked[thread.native_id] = (now, busy)
            if not count or before == now:
                continue
            codes, line = stacks[thread.ident]
            main = thread.ident == self._main
            if not main and _idle(codes):
                continue
            sums = self._found.setdefault((main, station, codes, line), [0.0, 0.0])
            sums[0] += now - before
            if not math.isnan(busy - busy_before):
                sums[1] += max(0.0, now - before - (busy - busy_before))


def _stacks() -> dict[int, tuple[tuple[CodeType, ...], int]]:
    """Of each thread the functions it is in, outermost first, and the line of the innermost.

    Garbage is not collected meanwhile: in CPython 3.11 the look itself makes frame objects, and where that starts a
    collection, a finalizer may let the other thread run on and leave the very frame, which then points into memory that
    is something else by now.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return {thread: (_functions(frame), frame.f_lineno) for thread, frame in sys._current_frames().items()}
    finally:
        if collecting:
            gc.enable()


def _functions(frame: FrameType | None) -> tuple[CodeType, ...]:
    codes: list[CodeType] = []
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    return tuple(reversed(codes))[-_DEEPEST:]


def _idle(codes: tuple[CodeType, ...]) -> bool:
    """Whether a thread has nothing to do: only the machinery of threads is on its stack."""
    return all(code.co_filename.endswith(_IDLE_FILES) for code in codes)


def _had_or_wanted_processor(native_id: int) -> float:
    """Seconds that a thread of this process ran or was ready to run, so that a busy machine does not look like
    waiting. nan where the system does not tell (not Linux)."""
    try:
        text = Path(f"/proc/self/task/{native_id}/schedstat").read_bytes()
    except OSError:
        return float("nan")  # the thread has ended, or there is no such file: then nothing counts as waiting
    ran, ready, _ = map(int, text.split())
    return (ran + ready) / 1e9


def _name(code: CodeType) -> str:
    """`detector/loss.py:DetectionLoss.assign`; files of the package from its root, others by their last two parts."""
    parts = Path(code.co_filename).parts
    own = len(parts) - 1 - parts[::-1].index("spiketrack") if "spiketrack" in parts else None
    shown = parts[own:] if own is not None and own < len(parts) - 1 else parts[-2:]
    return f"{'/'.join(shown)}:{code.co_qualname}"
