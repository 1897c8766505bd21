"""Streaming evaluation: scores of what was known in time, with the latency of every step measured.

Station: beside `evaluation`, with the same detector, sequences and scores. Steps are fed one at a time, as a camera
would. A step's latency is the time from the last event of its slice, already in memory, to its tracks: counting events,
network, decoding and tracking. Steps queue: one begins when its slice has ended and the step before it is done. A label
time is compared with the last step that was done by then, so that slow and late count as wrong. Source: Li et al. 2020,
Towards Streaming Perception (section 3.1), but no step is skipped, as the network's state needs each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.errors import SettingsError
from spiketrack.evaluation import EvaluationResult, EvaluationSettings, SequenceResult, steps_of
from spiketrack.events import Window
from spiketrack.metrics import average_precision, tracking_scores
from spiketrack.pipeline import Detector, Step, TrackedStep, track
from spiketrack.recordings import Recording
from spiketrack.tracking import TrackerSettings, build_tracker

STATIONS = ("encode", "network", "decode", "track")
_REHEARSED_STEPS = 3  # before anything is measured: kernels are loaded and memory is taken in the first of them

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, eq=False)
class Latency:
    """What N steps cost. stations: (N, 4) float64 seconds, columns STATIONS. waited: (N,) float64 seconds between the
    end of a step's slice and its begin. slice_us: length of a step. device: where the network ran, and on how many
    threads of the processor.
    """

    stations: NDArray[np.float64]
    waited: NDArray[np.float64]
    slice_us: int
    device: str

    @property
    def total(self) -> NDArray[np.float64]:
        """(N,) seconds of each step."""
        return self.stations.sum(axis=1)

    @property
    def delay(self) -> NDArray[np.float64]:
        """(N,) seconds from the end of a slice to its tracks, waiting included."""
        return self.waited + self.total

    @property
    def real_time_factor(self) -> float:
        """Recorded time over computing time; below 1 the steps pile up. nan without any step."""
        spent = float(self.total.sum())
        return len(self.stations) * self.slice_us / 1e6 / spent if spent else math.nan


@dataclass(frozen=True, eq=False)
class StreamingResult(EvaluationResult):
    """Scores of what was known at the label times, and the latency behind them."""

    latency: Latency


def evaluate_streaming(
    detector: Detector,
    sequences: Sequence[LabelledSequence],
    settings: EvaluationSettings,
    tracking: TrackerSettings,
    on_sequence: Callable[[int, int, str], None] = lambda done, total, name: None,
    clock: Clock = time.perf_counter,
) -> StreamingResult:
    """Run detector and tracker over all sequences one step at a time, and score what was done at each label time.

    on_sequence(done, total, name) is called after each. clock: seconds, for the measurement. The network is left in
    evaluation mode. The scores depend on the machine and on what else it does. Raises SettingsError where the settings
    forget the state now and then, as that runs steps in groups.
    """
    if settings.reset_every is not None:
        raise SettingsError(
            f"evaluation.reset_every is {settings.reset_every}, but a streaming evaluation feeds one step at a time "
            "and carries the state over the whole recording; leave reset_every out"
        )
    detector.model.eval()
    for sequence in sequences[:1]:
        _, steps = steps_of(detector, sequence, settings, chunk_steps=1)
        for _ in islice(track(steps, build_tracker(tracking)), _REHEARSED_STEPS):
            pass
    results, stations, waited = [], [np.empty((0, len(STATIONS)))], [np.empty(0)]
    with _watched(detector, clock) as watched:
        for done, sequence in enumerate(sequences, start=1):
            result, costs, waits = _stream(watched, sequence, settings, tracking)
            results.append(result)
            stations.append(costs)
            waited.append(waits)
            on_sequence(done, len(sequences), sequence.name)
    annotated = {sequence.name: sequence.annotated for sequence in sequences}
    found = [(r.sequence.name, r.sequence.labels, r.detections) for r in results]
    tracked = [(r.sequence.name, r.sequence.labels, r.tracks) for r in results]
    return StreamingResult(
        average_precision(found, detector.class_names, settings.protocol, annotated),
        tracking_scores(tracked, detector.class_names, annotated),
        results,
        Latency(np.concatenate(stations), np.concatenate(waited), detector.input.slice_us, _device_of(detector)),
    )


class _Stopwatch:
    """Readings of the clock within one step: slice complete, before and after the network, boxes read, tracked."""

    def __init__(self, clock: Clock, device: torch.device) -> None:
        self._clock, self._device = clock, device
        self._readings: list[float] = []

    def read(self, *_: object) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._readings.append(self._clock())

    def lap(self) -> NDArray[np.float64]:
        """(4,) seconds that each station took in the step that ends here."""
        readings, self._readings = self._readings, []
        assert len(readings) == len(STATIONS) + 1, f"{len(readings)} readings in a step"
        return np.diff(readings)


@dataclass(frozen=True, eq=False)
class _WatchedDetector(Detector):
    """A detector that sees one step at a time and reads the watch before and after its stations."""

    watch: _Stopwatch

    def detect(self, source: Any, *, chunk_steps: int = 1, **span: int | None) -> Iterator[Step]:
        for step in super().detect(source, chunk_steps=1, **span):
            self.watch.read()
            yield step

    def _windows(self, recording: Recording, start_us: int | None, end_us: int | None) -> Iterator[Window]:
        for window in super()._windows(recording, start_us, end_us):
            self.watch.read()
            yield window


@contextmanager
def _watched(detector: Detector, clock: Clock) -> Generator[_WatchedDetector]:
    watch = _Stopwatch(clock, next(detector.model.parameters()).device)
    hooks = [
        detector.model.register_forward_pre_hook(watch.read),
        detector.model.register_forward_hook(watch.read),
    ]
    try:
        yield _WatchedDetector(**{part.name: getattr(detector, part.name) for part in fields(detector)}, watch=watch)
    finally:
        for hook in hooks:
            hook.remove()


def _stream(
    detector: _WatchedDetector,
    sequence: LabelledSequence,
    settings: EvaluationSettings,
    tracking: TrackerSettings,
) -> tuple[SequenceResult, NDArray[np.float64], NDArray[np.float64]]:
    """What was known at the label times of one sequence; what each step cost, (N, 4), and how long it waited, (N,)."""
    known = _Known(np.union1d(sequence.labels.t, sequence.annotated))
    costs, waits = [np.empty((0, len(STATIONS)))], []
    done_us = -math.inf
    _, steps = steps_of(detector, sequence, settings, chunk_steps=1)
    for step in track(steps, build_tracker(tracking)):
        detector.watch.read()
        costs.append(detector.watch.lap()[None])
        begin_us = max(float(step.window.end_us), done_us)
        waits.append((begin_us - step.window.end_us) / 1e6)
        done_us = begin_us + 1e6 * float(costs[-1].sum())
        known.learn(step, done_us)
    return known.result(sequence), np.concatenate(costs), np.array(waits, np.float64)


class _Known:
    """What was known at each of the given times (us, in order): the boxes of the last step done by then."""

    def __init__(self, times_us: NDArray[np.int64]) -> None:
        self._times_us, self._next = times_us.tolist(), 0
        self._last: TrackedStep | None = None
        self._detections: list[Boxes] = []
        self._tracks: list[Boxes] = []

    def learn(self, step: TrackedStep, done_us: float) -> None:
        """A step, later than those before it, is done at that time."""
        self._settle(done_us)
        self._last = step

    def result(self, sequence: LabelledSequence) -> SequenceResult:
        self._settle(math.inf)
        return SequenceResult(sequence, Boxes.concatenate(self._detections), Boxes.concatenate(self._tracks))

    def _settle(self, until_us: float) -> None:
        """No later step can speak for the times before `until_us`."""
        while self._next < len(self._times_us) and self._times_us[self._next] < until_us:
            if self._last is not None:
                time_us = self._times_us[self._next]
                self._detections.append(self._last.detections.at_time(time_us))
                self._tracks.append(self._last.tracks.at_time(time_us))
            self._next += 1


def _device_of(detector: Detector) -> str:
    device = next(detector.model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.get_num_threads()} threads"
