"""Watching: the stations of a training or inference run, timed from outside.

Station: around a `Trainer` or a `Detector`, whose code does not know of it: what it calls (samples, network, loss,
scaler) reports to a stop-watch. Batches are made by another thread while the step runs, so that a step only waits for
what is not ready.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spiketrack.datasets.batches import Batch
from spiketrack.events import Window
from spiketrack.pipeline import Detector
from spiketrack.recordings import Recording
from spiketrack.training import Trainer

TRAINING = ("waiting", "copy", "forward", "loss", "backward", "optimizer", "bookkeeping", "logging")
INFERENCE = ("reading", "encoding", "network", "decoding", "tracking")

Clock = Callable[[], float]


@dataclass(eq=False)
class Stopwatch:
    """Seconds of every station, step by step; on_enter(station) is called where one begins.

    peaks: most bytes of the accelerator in each station. samples, events: how many the network saw, and the last ones
    (T, B, C, H, W).
    """

    stations: tuple[str, ...]
    device: torch.device
    clock: Clock = time.perf_counter
    on_enter: Callable[[str], None] = lambda station: None
    peaks: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.station = self.stations[0]
        self.samples = 0
        self.events = torch.empty(0)
        self._rows: list[NDArray[np.float64]] = []
        self._row = np.zeros(len(self.stations))
        self._since = self.clock()

    def enter(self, station: str, at: float | None = None) -> None:
        """The station before ends here, or ended at that time (of the clock) if that is in it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.peaks[self.station] = max(self.peaks.get(self.station, 0), torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()
        now = self.clock()
        end = now if at is None else min(max(at, self._since), now)
        self._row[self.stations.index(self.station)] += end - self._since
        self._since, self.station = end, station
        self.on_enter(station)

    def see(self, events: torch.Tensor) -> None:
        self.samples, self.events = self.samples + events.shape[1], events.detach()

    def step_done(self) -> None:
        """The step ends here; the next one begins with the first station."""
        self.enter(self.stations[0])
        self._rows.append(self._row)
        self._row = np.zeros(len(self.stations))

    def restart(self) -> None:
        """Forget the steps so far."""
        self._rows.clear()
        self._row[:] = 0
        self.peaks.clear()
        self.samples, self._since = 0, self.clock()

    def rows(self) -> NDArray[np.float64]:
        """(N, stations) seconds."""
        return np.array(self._rows).reshape(-1, len(self.stations))


def watch_training(trainer: Trainer, watch: Stopwatch) -> None:
    """Let the parts of a trainer report to the stop-watch, for as long as the trainer lives.

    Its on_step has to enter `logging`, and to say where the step is done.
    """
    ready: deque[float] = deque()
    samples, loss = trainer.samples, trainer.loss

    def before_forward(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
        # what passes between the batch and the network is its way to the device
        watch.enter("copy", at=ready.popleft() if ready else None)
        watch.enter("forward")
        watch.see(inputs[0])

    def watched_loss(*arguments: Any) -> Any:
        watch.enter("loss")
        return loss(*arguments)

    trainer.model.register_forward_pre_hook(before_forward)
    trainer.samples = _WatchedSamples(samples, ready, watch)  # ty: ignore[invalid-assignment]
    trainer.loss = watched_loss
    trainer.scaler = _WatchedScaler(trainer.scaler, watch)  # ty: ignore[invalid-assignment]


class _WatchedSamples:
    """Samples that note when each batch is ready."""

    def __init__(self, samples: Any, ready: deque[float], watch: Stopwatch) -> None:
        self._samples, self._ready, self._watch = samples, ready, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)

    def epoch(self, *place: int) -> Iterator[Batch]:
        self._watch.station = "bookkeeping"  # what came since the last step was the end of an epoch
        self._watch.enter("waiting")
        return self._noted(self._samples.epoch(*place))

    def _noted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._ready.append(self._watch.clock())
            yield batch


class _WatchedScaler:
    """The scaler stands between loss, backward pass and update."""

    def __init__(self, scaler: Any, watch: Stopwatch) -> None:
        self._scaler, self._watch = scaler, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scaler, name)

    def scale(self, loss: torch.Tensor) -> Any:
        self._watch.enter("backward")
        return self._scaler.scale(loss)

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self._watch.enter("optimizer")
        self._scaler.unscale_(optimizer)

    def update(self) -> None:
        self._scaler.update()
        self._watch.enter("bookkeeping")


@dataclass(frozen=True, eq=False)
class WatchedDetector(Detector):
    """A detector that sees one time step at a time and reports to the stop-watch; the caller enters `tracking`."""

    watch: Stopwatch

    @classmethod
    def of(cls, detector: Detector, watch: Stopwatch) -> WatchedDetector:
        """The network gets hooks, for as long as it lives."""

        def before_forward(_: object, inputs: tuple[torch.Tensor, ...]) -> None:
            watch.enter("network")
            watch.see(inputs[0])

        detector.model.register_forward_pre_hook(before_forward)
        detector.model.register_forward_hook(lambda *_: watch.enter("decoding"))
        return cls(**{part.name: getattr(detector, part.name) for part in fields(detector)}, watch=watch)

    def _windows(self, recording: Recording, start_us: int | None, end_us: int | None) -> Iterator[Window]:
        for window in super()._windows(recording, start_us, end_us):
            self.watch.enter("encoding")
            yield window
