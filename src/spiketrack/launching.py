"""Launching: the same command in several processes of this machine, started again where one of them dies.

Station: what `--processes` and `--jobs` do; torchrun does the first for several machines. In comes a command, out goes
its exit code. The children of `--processes` get torchrun's environment variables. All are in sessions of their own, so
that Ctrl-C reaches them once, through this process. They stop when this process ends, however it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

LAUNCHER_PIPE = "SPIKETRACK_LAUNCHER_PIPE"
WORKER = "SPIKETRACK_WORKER"
_POLL_S = 0.1
_PATIENCE_S = 10.0  # for children to end when one of them has


def launch(command: Sequence[str], processes: int, restarts: int) -> int:
    """Run the command in `processes` processes until all have ended. Returns the exit code of the run.

    A process that a signal killed (no memory, the administrator) ends the others, and all are started again, at most
    `restarts` times; the command finds its last checkpoint by `distributed.restarted`. An error that it reports
    itself, with an exit code above 0, would come again: it ends the run.
    """
    asked: list[int] = []
    with _pipe() as pipe, _passing_on(asked) as children:
        for attempt in range(restarts + 1):
            children[:] = _start(command, processes, attempt, pipe)
            code = _ended(children)
            if code >= 0 or asked:
                break
            name = signal.Signals(-code).name
            left = f"starting again from the last checkpoint, {attempt + 1} of at most {restarts} times"
            sys.stderr.write(f"a process was killed by {name}; {left if attempt < restarts else 'giving up'}\n")
    return 128 - code if code < 0 else code


def keep_at_work(command: Sequence[str], processes: int, replacements: int) -> int:
    """Run the command in `processes` processes that work side by side until all have ended; the code of the run.

    Another takes the place of one that a signal killed, `replacements` times in all; an error ends only the process
    that reports it. Each finds WORKER in its environment.
    """
    asked: list[int] = []
    codes: list[int] = []
    with _pipe() as pipe, _passing_on(asked) as children:
        shared = {"OMP_NUM_THREADS": str(threads_per_process(processes)), **os.environ, LAUNCHER_PIPE: str(pipe)}

        def start() -> None:
            children.append(
                subprocess.Popen(command, env={**shared, WORKER: "1"}, pass_fds=(pipe,), start_new_session=True)
            )

        for _ in range(processes):
            start()
        while children:
            time.sleep(_POLL_S)
            for child in [child for child in children if child.poll() is not None]:
                children.remove(child)
                codes.append(child.returncode)
                if child.returncode < 0 and not asked and replacements > 0:
                    sys.stderr.write(
                        f"a worker was killed by {signal.Signals(-child.returncode).name}; another one starts\n"
                    )
                    replacements -= 1
                    start()
    if asked:
        return 128 + asked[0]
    return max((code for code in codes if code > 0), default=0)


def is_worker() -> bool:
    """Whether `keep_at_work` has started this process."""
    return WORKER in os.environ


def threads_per_process(processes: int) -> int:
    """An equal share of the processors that this process may use."""
    own = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, own // processes)


def leave_with_launcher() -> None:
    """In a child: be asked to stop when the launcher is gone. Does nothing in a process that has none."""
    number = os.environ.get(LAUNCHER_PIPE)
    if number is None:
        return

    def watch() -> None:
        with suppress(OSError):
            os.read(int(number), 1)  # nothing is ever written: it ends with the last writer
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _start(command: Sequence[str], processes: int, attempt: int, pipe: int) -> list[subprocess.Popen]:
    shared = {
        "OMP_NUM_THREADS": str(threads_per_process(processes)),
        **os.environ,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        LAUNCHER_PIPE: str(pipe),
    }
    return [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            pass_fds=(pipe,),
            start_new_session=True,
        )
        for rank in range(processes)
    ]


def _ended(children: list[subprocess.Popen]) -> int:
    """Wait for all children; where one fails, the others are ended. The code of the failure that explains the rest."""
    while all(child.returncode in (None, 0) for child in children):
        if all(child.poll() is not None for child in children):
            break
        time.sleep(_POLL_S)
    failed = [child for child in children if child.returncode]
    deadline = time.monotonic() + _PATIENCE_S
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    codes = [child.returncode for child in children if child.returncode]
    for child in children:
        if child.poll() is None:
            child.kill()
            child.wait()
    # one that was killed leaves the others with an error about their connection
    return min(codes, default=0) if failed else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _pipe() -> Generator[int]:
    """The reading end of a pipe that this process holds open for writing."""
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(writing)
        os.close(reading)


@contextmanager
def _passing_on(asked: list[int]) -> Generator[list[subprocess.Popen]]:
    """A list of children that get SIGINT and SIGTERM when this process does; `asked` remembers the signals."""
    children: list[subprocess.Popen] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
