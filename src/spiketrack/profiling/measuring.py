"""Measuring: a bounded run of steps becomes the seconds of its stations, its stacks and what it took of the machine.

Station: in come a trainer or a detector with a recording, and how many steps to look at; out goes a `Measurement`.
Nothing of the first steps counts: kernels are loaded and memory is taken in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from spiketrack.errors import SettingsError
from spiketrack.pipeline import Detector, Step, track
from spiketrack.profiling.sampling import StackSampler, StackTime
from spiketrack.profiling.tracing import Trace, Tracer
from spiketrack.profiling.watching import INFERENCE, TRAINING, Stopwatch, WatchedDetector, watch_training
from spiketrack.recordings import Recording
from spiketrack.tracking import TrackerSettings, build_tracker
from spiketrack.training import Progress, Trainer


@dataclass(frozen=True)
class Plan:
    """How long to look: steps that do not count, steps that do, steps to trace, seconds between looks at the stacks."""

    warm_up: int = 5
    steps: int = 20
    traced: int = 2
    interval_s: float = 0.004

    def __post_init__(self) -> None:
        if min(self.warm_up, self.steps, self.traced) < 1:
            raise SettingsError(
                f"profile: warm-up, steps and traced steps must be at least 1, got {self.warm_up}, {self.steps}, "
                f"{self.traced}"
            )


@dataclass(frozen=True)
class Usage:
    """What a run took of the machine, per second of it unless named otherwise.

    cores: processors used by this process and its children. system: the part of them in the kernel. others: used by
    other programs. faults: pages touched for the first time per step. read_mb: from storage. children: those of child
    processes. peak_mb: most memory of the process in each station. gpu_peak_mb: of the accelerator.
    """

    cores: float
    system: float
    others: float
    faults: float
    read_mb: float
    children: float
    peak_mb: dict[str, float]
    gpu_peak_mb: dict[str, float]


@dataclass(frozen=True, eq=False)
class Measurement:
    """N steps. rows: (N, S) float64 seconds, columns `stations`. samples: in all steps. losses: of the counted steps.

    memory_mb: what lasting parts hold. device: where, and on how many threads. events: the last batch, (T, B, C, H, W)
    as the network got it. trace: of a few more steps.
    """

    stations: tuple[str, ...]
    rows: NDArray[np.float64]
    samples: int
    stacks: list[StackTime]
    usage: Usage
    losses: list[float]
    memory_mb: dict[str, float]
    device: str
    events: torch.Tensor
    trace: Trace | None

    @property
    def steps(self) -> NDArray[np.float64]:
        """(N,) seconds of each step."""
        return self.rows.sum(axis=1)

    @property
    def seconds(self) -> float:
        """Mean of a step."""
        return float(self.steps.mean())

    @property
    def rate(self) -> float:
        """Samples (of inference: time steps) per second."""
        return self.samples / float(self.steps.sum())

    def of(self, station: str) -> float:
        """Mean seconds of a station in a step."""
        return float(self.rows[:, self.stations.index(station)].mean())


class _Enough(Exception):
    """The bounded run is over."""


def measure_training(
    trainer: Trainer,
    plan: Plan,
    on_step: Callable[[Progress], None] = lambda progress: None,
    trace: Path | None = None,
) -> Measurement:
    """Train some steps of a run at its beginning; the trainer is not to be used for anything else afterwards.

    on_step: what the run does after each step, which counts as logging. trace: file for a Chrome trace of a few more
    steps. Raises SettingsError where the run is shorter.
    """
    watch = Stopwatch(TRAINING, trainer.device)
    watch_training(trainer, watch)
    look, losses = _Look(watch, plan, Tracer(trainer.model, trainer.device, trace) if trace else None), []

    def told(progress: Progress) -> None:
        watch.enter("logging")
        on_step(progress)
        watch.step_done()
        if plan.warm_up < progress.steps_done <= plan.warm_up + plan.steps:
            losses.append(progress.loss)
        if look.enough():
            raise _Enough

    try:
        finished = trainer.run(told)
    except _Enough:
        return look.result(losses, _held_by(trainer))
    finally:
        look.close()
    if not finished:
        raise KeyboardInterrupt  # as the run was asked to stop
    raise SettingsError(
        f"profile: the run has {trainer.total_steps} steps, {look.needed} were to be looked at; give fewer with "
        "--steps and --warm-up, or raise training.epochs"
    )


def measure_inference(
    detector: Detector,
    recording: Recording,
    tracking: TrackerSettings,
    plan: Plan,
    trace: Path | None = None,
) -> Measurement:
    """Detect and track in a recording, one time step at a time; the network keeps hooks.

    trace: as above. Raises SettingsError where the recording is shorter than the steps to look at.
    """
    detector.model.eval()
    device = next(detector.model.parameters()).device
    watch = Stopwatch(INFERENCE, device)
    look = _Look(watch, plan, Tracer(detector.model, device, trace) if trace else None)

    def detections() -> Iterator[Step]:
        for step in WatchedDetector.of(detector, watch).detect(recording, chunk_steps=1):
            watch.enter("tracking")
            yield step

    try:
        for _ in track(detections(), build_tracker(tracking)):
            watch.step_done()
            if look.enough():
                return look.result([], {"weights": _megabytes(detector.model.state_dict().values())})
    finally:
        look.close()
    raise SettingsError(
        f"{recording.path}: {look.done} time steps of {detector.input.slice_us} us, {look.needed} were to be looked "
        "at; give fewer with --steps and --warm-up, or a longer recording"
    )


class _Look:
    """Steps that warm up, steps that are measured, steps that are traced, one kind after the other."""

    def __init__(self, watch: Stopwatch, plan: Plan, tracer: Tracer | None) -> None:
        self._watch, self._plan, self._tracer = watch, plan, tracer
        self._meter = _Meter(watch, plan.interval_s)
        self._rows, self._samples = watch.rows(), 0
        self.done = 0
        self.needed = plan.warm_up + plan.steps + (plan.traced if tracer else 0)

    def enough(self) -> bool:
        """A step is done; whether it was the last one needed."""
        self.done += 1
        measured = self._plan.warm_up + self._plan.steps
        if self.done == self._plan.warm_up:
            self._meter.start()
        elif self.done == measured:
            self._meter.close()
            self._rows, self._samples = self._watch.rows(), self._watch.samples
            if self._tracer is not None:
                self._tracer.start(self._watch.station)
                self._watch.on_enter = self._tracer.enter
        if self.done == self.needed and self._tracer is not None:
            self._watch.on_enter = lambda station: None
            self._tracer.finish(self._plan.traced)
        return self.done == self.needed

    def close(self) -> None:
        self._meter.close()

    def result(self, losses: list[float], memory_mb: dict[str, float]) -> Measurement:
        device = self._watch.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        return Measurement(
            stations=self._watch.stations,
            rows=self._rows,
            samples=self._samples,
            stacks=self._meter.stacks,
            usage=self._meter.usage(len(self._rows)),
            losses=losses,
            memory_mb=memory_mb,
            device=f"{name}, {torch.get_num_threads()} of {psutil.cpu_count()} threads",
            events=self._watch.events,
            trace=self._tracer.result if self._tracer else None,
        )


class _Meter:
    """Stacks, memory and use of the machine between start and close."""

    def __init__(self, watch: Stopwatch, interval_s: float) -> None:
        self._watch, self._process = watch, psutil.Process()
        self._peak: dict[str, int] = {}
        self._sampler = StackSampler(self._station, interval_s)
        self.stacks: list[StackTime] = []
        self._before: _Counters | None = None
        self._after: _Counters | None = None

    def start(self) -> None:
        self._before = _Counters.now(self._process)
        self._sampler.start()
        self._watch.restart()

    def close(self) -> None:
        if self._before is not None and self._after is None:
            self._after = _Counters.now(self._process)
            self.stacks = self._sampler.stop()

    def _station(self) -> str:
        station = self._watch.station
        self._peak[station] = max(self._peak.get(station, 0), self._process.memory_info().rss)
        return station

    def usage(self, steps: int) -> Usage:
        assert self._before is not None, "not measured"
        assert self._after is not None, "not closed"
        return _usage(self._before, self._after, steps, self._peak, self._watch.peaks)


@dataclass(frozen=True)
class _Counters:
    """Readings of the system's counters, in seconds, pages and bytes."""

    time: float
    user: float
    system: float
    children: float
    machine: float
    faults: int
    read_bytes: int

    @classmethod
    def now(cls, process: psutil.Process) -> _Counters:
        own, machine = process.cpu_times(), psutil.cpu_times()
        children = 0.0
        for child in process.children(recursive=True):
            try:
                spent = child.cpu_times()
            except psutil.NoSuchProcess:
                continue  # it ended meanwhile
            children += spent.user + spent.system
        busy = sum(machine) - machine.idle - getattr(machine, "iowait", 0.0) - getattr(machine, "guest", 0.0)
        return cls(time.monotonic(), own.user, own.system, children, busy, *_pages_and_bytes(process))


def _pages_and_bytes(process: psutil.Process) -> tuple[int, int]:
    """Minor page faults of this process, and bytes that it read from storage; 0 where the system does not count."""
    try:
        import resource
    except ImportError:  # not POSIX
        return 0, 0
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return faults, process.io_counters().read_bytes if hasattr(process, "io_counters") else 0


def _usage(before: _Counters, after: _Counters, steps: int, peak: dict[str, int], gpu_peak: dict[str, int]) -> Usage:
    spent = max(after.time - before.time, 1e-9)
    own = after.user + after.system - before.user - before.system
    children = max(0.0, after.children - before.children)
    return Usage(
        cores=(own + children) / spent,
        system=(after.system - before.system) / spent,
        others=max(0.0, after.machine - before.machine - own - children) / spent,
        faults=(after.faults - before.faults) / max(steps, 1),
        read_mb=(after.read_bytes - before.read_bytes) / 1e6 / spent,
        children=children / spent,
        peak_mb={station: size / 1e6 for station, size in peak.items()},
        gpu_peak_mb={station: size / 1e6 for station, size in gpu_peak.items()},
    )


def _held_by(trainer: Trainer) -> dict[str, float]:
    """Megabytes of what a training run holds between steps."""
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    return {
        "weights": _megabytes(trainer.model.state_dict().values()),
        "averaged weights": _megabytes(trainer.average.state_dict().values()),
        "gradients": _megabytes(gradients),
        "optimizer": _megabytes(states),
    }


def _megabytes(values: Any) -> float:
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor)) / 1e6
