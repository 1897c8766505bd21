"""Processes: the same function over many jobs, in this process or in several of its own.

Station: in come jobs, each complete in itself, out go their results as they end. What a job yields must not depend on
the process that it runs in. Children are spawned; they leave when this process ends, however it ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol, TypeVar

from spiketrack.errors import RecordingError, SpiketrackError

_PATIENCE_S = 5.0  # for a child to clean up after itself


class Named(Protocol):
    """A job; name stands in messages."""

    @property
    def name(self) -> str: ...


Job = TypeVar("Job", bound=Named)
Work = Callable[[Any, Callable[[Any], None]], Any]


def run_jobs(
    work: Work,
    jobs: Sequence[Job],
    processes: int,
    on_result: Callable[[Job, Any], None],
    on_report: Callable[[Job, Any], None],
) -> None:
    """Call work(job, report) for every job, at most `processes` at a time.

    on_result(job, result) and on_report(job, whatever work gave to `report`) are called here. With one process the
    jobs run here, too; else work, jobs, reports and results are pickled. The first error ends all jobs: a
    SpiketrackError of a job is raised as it was, a child that died as RecordingError naming its job.
    """
    if min(processes, len(jobs)) <= 1:
        for job in jobs:
            on_result(job, _attempt(work, job, lambda value, job=job: on_report(job, value)))
        return
    waiting, busy = deque(jobs), {}
    children: list[_Child] = []
    try:
        while waiting and len(children) < processes:
            child = _start(work)
            children.append(child)
            busy[child.pipe] = (child, waiting.popleft())
            _hand(*busy[child.pipe])
        while busy:
            for pipe in wait([*busy]):
                child, job = busy[pipe]
                kind, value = _next_word(child, job)
                if kind == "report":
                    on_report(job, value)
                    continue
                del busy[pipe]
                if waiting:
                    busy[pipe] = (child, waiting.popleft())
                    _hand(*busy[pipe])
                on_result(job, value)
    finally:
        _stop(children)


def _attempt(work: Work, job: Named, report: Callable[[Any], None]) -> Any:
    try:
        return work(job, report)
    except MemoryError as error:
        raise RecordingError(f"{job.name}: out of memory; run again to go on, with fewer jobs at a time") from error


class _Child(NamedTuple):
    process: Any
    pipe: Any


def _start(work: Work) -> _Child:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_live, args=(work, there), daemon=True)
    # a child inherits the mask: Ctrl-C reaches it only through this process, from its first instruction on
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    except OSError as error:
        raise RecordingError(f"cannot start a process: {error.strerror or error}; use fewer jobs at a time") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    there.close()  # so that the end of the child is the end of the pipe
    return _Child(process, here)


def _hand(child: _Child, job: Named) -> None:
    with suppress(BrokenPipeError):  # of a dead child; found out when its next word is awaited
        child.pipe.send(job)


def _next_word(child: _Child, job: Named) -> tuple[str, Any]:
    """("report", value) or ("result", value) of a child; an error that it met is raised."""
    try:
        kind, value = child.pipe.recv()
    except (EOFError, OSError) as error:
        raise RecordingError(f"{job.name}: {_end(child)}; run again to go on") from error
    if kind == "error":
        raise value[0](value[1])
    if kind == "mistake":
        raise RuntimeError(f"{job.name}: {value}")
    return kind, value


def _end(child: _Child) -> str:
    child.process.join(_PATIENCE_S)
    code = child.process.exitcode
    if code is None or code >= 0:
        return f"its process ended unasked, with code {code}"
    hint = ", perhaps for want of memory (then use fewer jobs at a time)" if -code == signal.SIGKILL else ""
    return f"its process was killed by {signal.Signals(-code).name}{hint}"


def _stop(children: list[_Child]) -> None:
    """End all children, first asking them; they have removed their unfinished files where there was time."""
    for child in children:
        child.pipe.close()
        if child.process.is_alive():
            child.process.terminate()
    for child in children:
        child.process.join(_PATIENCE_S)
        if child.process.is_alive():
            child.process.kill()
            child.process.join()
        child.process.close()


def _live(work: Work, pipe: Connection) -> None:
    """The life of a child: jobs in, reports, results and errors out."""
    leave_when_asked()
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def say(kind: str, value: Any) -> None:
        try:
            pipe.send((kind, value))
        except OSError:  # nobody listens
            sys.exit(0)

    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            say("result", _attempt(work, job, lambda value: say("report", value)))
        except SpiketrackError as error:
            say("error", (type(error), str(error)))
        except Exception:
            say("mistake", traceback.format_exc())


def leave_when_asked() -> None:
    """From now on SIGTERM ends this process as an exit does, after all that `with` and `finally` have to do.

    Python prints and forgets an exit that is raised while a weak reference calls back or an object is deleted; it is
    raised again a moment later.
    """

    def leave(*_: object) -> None:
        sys.exit(0)

    def raise_again(unraisable: Any) -> None:
        if unraisable.exc_type is SystemExit:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            told(unraisable)

    told = sys.unraisablehook
    sys.unraisablehook = raise_again
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, leave)


def _leave_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
