"""The fuzz run: processes that read inputs, a watch over them, and the figures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fuzz_corpus import make_corpus
from fuzz_inputs import Input, Inputs, Way
from fuzz_reading import read_input
from fuzz_seeds import Seed
from fuzz_worker import (
    Found,
    KindFigures,
    Limits,
    Report,
    Slot,
    place_input,
    placed_input,
    prepare_reading,
    read_alone,
    work,
)

_FORK = multiprocessing.get_context("fork")
_MOST_SAVED = 3  # inputs that are probably the same mistake


class Figures:
    """What came of a run; the inputs that broke a law lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seconds = 0.0
        self.pauses = 0  # inputs that took too long once, and not when read again alone
        self.kinds: dict[str, KindFigures] = {}
        self.formats: Counter[str] = Counter()
        self.shapes: set[tuple[Any, ...]] = set()
        self.found: Counter[str] = Counter()
        self.examples: list[dict[str, Any]] = []
        self.resident_bytes: list[int] = []  # of a process, report after report

    @property
    def inputs(self) -> int:
        return sum(kind.inputs for kind in self.kinds.values())

    def add(self, report: Report) -> None:
        for kind, figures in report.kinds.items():
            self.kinds.setdefault(kind, KindFigures()).add(figures)
        self.formats.update(report.formats)
        if report.resident_bytes:
            self.resident_bytes.append(report.resident_bytes)
        self.shapes.update(shape for shape, *_ in report.new)
        for found in report.found:
            self.add_found(found)

    def add_found(self, found: Found) -> None:
        self.found[found.like] += 1
        if self.found[found.like] > _MOST_SAVED:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{found.kind}-{found.number}{found.made.suffix}"
        found.made.place(path)
        path.with_name(path.name + ".txt").write_text(f"{found.what}\n\n{found.details}")
        self.examples.append({"number": found.number, "like": found.like, "what": found.what, "file": str(path)})

    def _resident(self, part: slice) -> float:
        return round(max(self.resident_bytes[part], default=0) / 1e6, 1)

    def as_dict(self) -> dict[str, Any]:
        kinds = {
            name: {
                "inputs": kind.inputs,
                "refused": kind.refused,
                "events": kind.events,
                "slowest_ms": round(1e3 * kind.slowest_s, 1),
                "slowest_input": kind.slowest,
                "peak_mb": round(kind.peak_bytes / 1e6, 1),
                "peak_input": kind.peak,
            }
            for name, kind in sorted(self.kinds.items())
        }
        total = {name: sum(kind[name] for kind in kinds.values()) for name in ("inputs", "refused", "events")}
        return {
            **total,
            "seconds": round(self.seconds, 1),
            "inputs_per_s": round(self.inputs / max(self.seconds, 1e-9), 1),
            "shapes": len(self.shapes),
            "pauses": self.pauses,
            "resident_mb": {"first": self._resident(slice(0, 9)), "last": self._resident(slice(-9, None))},
            "kinds": kinds,
            "formats": dict(sorted(self.formats.items())),
            "found": dict(self.found),
            "examples": self.examples,
        }


class _Process:
    """One process and what its parent knows of it; a process that ended early is started again behind its input."""

    def __init__(self, inputs: Inputs, numbers: range, folder: Path, limits: Limits) -> None:
        self._inputs, self._numbers, self._folder, self._limits = inputs, numbers, folder, limits
        self._slot, self._skip = Slot(), set()
        folder.mkdir()
        self._start()

    def _start(self) -> None:
        self._slot.end()
        rest = [number for number in self._numbers if number not in self._skip]
        self.connection, child = _FORK.Pipe(duplex=False)
        arguments = (self._inputs, rest, self._folder, self._slot, child, self._limits)
        self._process = _FORK.Process(target=work, args=arguments, daemon=True)
        self._process.start()
        child.close()
        self._hangs = False

    def receive(self, figures: Figures) -> bool:
        """Take a report, or the news that the process has ended; returns whether there is more to come."""
        try:
            report = self.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._ended(figures)
        for new in report.new:
            self._inputs.learn(*new)
        if report.last in self._numbers:  # a report at the very end may repeat the one before
            self._numbers = self._numbers[self._numbers.index(report.last) + 1 :]
        figures.add(report)
        return True

    def _ended(self, figures: Figures) -> bool:
        self._process.join()
        self.connection.close()
        code = self._process.exitcode or 0
        if not code:
            return False
        number, _ = self._slot.read()
        errors = (self._folder / "stderr").read_text("utf-8", "replace")[-6000:]
        if number < 0:
            raise RuntimeError(f"a process of the fuzz run ended with {code} between two inputs: {errors}")
        made = placed_input(self._folder)
        what = "hang" if self._hangs else _named(code)
        again = self._again(made)
        stack = [line.strip() for line in errors.splitlines() if "spiketrack" in line and line.lstrip()[:4] == "File"]
        like = f"{made.kind} {what} {stack[0].rpartition('/')[2] if stack else ''}"
        if what == "hang" and again != "hang":
            figures.pauses += 1  # of the machine, or by memory that an earlier input spoiled
        else:
            found = Found(number, made.kind, like, f"{what} of the process; alone: {again}", errors, made)
            figures.add_found(found)
        figures.kinds.setdefault(made.kind, KindFigures()).inputs += 1
        self._skip.add(number)
        self._start()
        return True

    def _again(self, made: Input) -> str:
        """What the input does to a process that reads nothing else."""
        process = _FORK.Process(target=read_alone, args=(made, self._folder, self._limits), daemon=True)
        process.start()
        process.join(self._limits.timeout_s)
        if process.is_alive():
            process.kill()
            process.join()
            return "hang"
        return _named(process.exitcode or 0)

    def watch(self) -> None:
        """End the process if its input takes too long."""
        number, seconds = self._slot.read()
        if number >= 0 and seconds > self._limits.timeout_s and not self._hangs:
            self._hangs = True
            self._signal(signal.SIGUSR1)  # it writes where it is
            time.sleep(0.3)
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)


def _named(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def run(
    seed: int,
    numbers: range,
    processes: int,
    limits: Limits,
    folder: Path,
    kinds: Sequence[str],
    progress: Callable[[Figures], None],
) -> Figures:
    """Read the inputs of these numbers and tell what came of them, of those so far where the user breaks it off.

    folder: for the inputs that break a law. kinds: of the files to mutate. progress: called a few times a second.
    """
    corpus = {kind: seeds for kind, seeds in make_corpus().items() if kind in kinds}
    warm_up(corpus)
    figures, began = Figures(folder), time.monotonic()
    with TemporaryDirectory(dir=_memory_folder()) as name:
        running = [
            _Process(Inputs(corpus, seed), numbers[i::processes], Path(name) / str(i), limits) for i in range(processes)
        ]
        try:
            while running:
                ready = wait([process.connection for process in running], timeout=0.2)
                running = [p for p in running if p.connection not in ready or p.receive(figures)]
                for process in running:
                    process.watch()
                figures.seconds = time.monotonic() - began
                progress(figures)
        except KeyboardInterrupt:
            pass
        finally:
            for process in running:
                process.kill()
    return figures


def warm_up(corpus: dict[str, list[Seed]]) -> None:
    """Read every file of the corpus unchanged, so that all is compiled; RuntimeError where one is not read well."""
    prepare_reading()
    with TemporaryDirectory(dir=_memory_folder()) as name:
        for kind, members in corpus.items():
            for member in members:
                way = Way(block=100, threads=2, second=0.5, index=True, windows=3, policy="fail")
                made = Input(kind, member.suffix, member.content, member.sidecar, way, ())
                outcome = read_input(place_input(Path(name), made), made)
                if outcome.refused or not outcome.events:
                    raise RuntimeError(f"the corpus has a {kind} file that is not read well: {outcome}")


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
