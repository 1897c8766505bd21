"""Statistics: what a report shows of a run, gathered step by step in memory that does not grow with the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.pipeline import TrackedStep
from spiketrack.representations import stacked_histogram

T = TypeVar("T")

SERIES = ("on", "off", "detections", "tracks")
SCORE_BINS = 20
DENSITY_SIDE = 640  # pixels, the longer side of the event density image
_KEPT_TRACKS = 300
_PATH_POINTS = 128
_TRACK_ENDS_US = 60_000_000  # a track unseen for so long has ended


class BoundedSeries:
    """Sums of several quantities over equal spans of steps, in at most `capacity` bins.

    When all bins are full, neighbours are merged and a bin spans twice as many steps: every sum stays exact.
    """

    def __init__(self, quantities: int, capacity: int = 512) -> None:
        if capacity < 2 or capacity % 2:
            raise ValueError(f"series: capacity must be even and at least 2, got {capacity}")
        self._bins = np.zeros((capacity, quantities), np.int64)
        self.steps = 0
        self.steps_per_bin = 1

    def append(self, values: tuple[int, ...]) -> None:
        """Add the quantities of one step."""
        capacity = len(self._bins)
        if self.steps == capacity * self.steps_per_bin:
            self._bins[: capacity // 2] = self._bins[::2] + self._bins[1::2]
            self._bins[capacity // 2 :] = 0
            self.steps_per_bin *= 2
        self._bins[self.steps // self.steps_per_bin] += values
        self.steps += 1

    @property
    def sums(self) -> NDArray[np.int64]:
        """(bins, quantities); the last bin may span fewer steps than the others, see `steps_in_bins`."""
        return self._bins[: -(-self.steps // self.steps_per_bin)]

    @property
    def steps_in_bins(self) -> NDArray[np.int64]:
        """(bins,) how many steps each bin spans."""
        first = np.arange(len(self.sums)) * self.steps_per_bin
        return np.minimum(self.steps - first, self.steps_per_bin)


class _Best(NamedTuple, Generic[T]):
    rank: tuple[int, ...]
    step: int
    item: T


class BestMoments(Generic[T]):
    """The best item of each part of a run, at most `count` parts of nearly equal length.

    Up to 2 * count equal spans of steps are kept; when they are full, neighbours are merged. An item is made only
    when its step is the best of its span so far.
    """

    def __init__(self, count: int = 9) -> None:
        self._count = count
        self._spans: list[_Best[T]] = []
        self._steps = 0
        self._steps_per_span = 1

    def offer(self, rank: tuple[int, ...], make: Callable[[], T]) -> None:
        """One step with its rank; higher is better, the earlier of equals stays."""
        if self._steps == 2 * self._count * self._steps_per_span:
            self._spans = [_best(self._spans[i : i + 2]) for i in range(0, len(self._spans), 2)]
            self._steps_per_span *= 2
        span = self._steps // self._steps_per_span
        if span == len(self._spans):
            self._spans.append(_Best(rank, self._steps, make()))
        elif rank > self._spans[span].rank:
            self._spans[span] = _Best(rank, self._steps, make())
        self._steps += 1

    def items(self) -> list[T]:
        """The best of each part, in order of time."""
        n, parts = len(self._spans), min(self._count, len(self._spans))
        return [_best(self._spans[i * n // parts : (i + 1) * n // parts]).item for i in range(parts)]


def _best(spans: list[_Best[T]]) -> _Best[T]:
    return max(spans, key=lambda span: span.rank)


@dataclass(slots=True)
class TrackSummary:
    """One track. class_id: the class of its last box; centres: every `stride`-th centre, (x, y) pixels."""

    track_id: int
    class_id: int
    first_us: int
    last_us: int
    boxes: int = 0
    score_sum: float = 0.0
    length: float = 0.0  # pixels, along the centres of all boxes
    last: tuple[float, float] | None = None
    centres: list[tuple[float, float]] = field(default_factory=list)
    stride: int = 1

    @property
    def duration_us(self) -> int:
        return self.last_us - self.first_us

    @property
    def score(self) -> float:
        """Mean over its boxes."""
        return self.score_sum / max(1, self.boxes)

    @property
    def path(self) -> list[tuple[float, float]]:
        """The kept centres and the last one."""
        return self.centres if self.last is None or self.centres[-1:] == [self.last] else [*self.centres, self.last]

    def add(self, t_us: int, class_id: int, score: float, centre: tuple[float, float]) -> None:
        if self.last is not None:
            self.length += float(np.hypot(centre[0] - self.last[0], centre[1] - self.last[1]))
        if self.boxes % self.stride == 0:
            self.centres.append(centre)
            if len(self.centres) == _PATH_POINTS:
                del self.centres[1::2]
                self.stride *= 2
        self.class_id, self.last_us, self.last = class_id, t_us, centre
        self.boxes += 1
        self.score_sum += score


class TrackTable:
    """Summaries of tracks: all that may go on, and of the ended ones the `kept` longest in time.

    count: how many tracks there were. A track counts as ended when it was not seen for a minute.
    """

    def __init__(self, kept: int = _KEPT_TRACKS) -> None:
        self.count = 0
        self._kept = kept
        self._known: dict[int, TrackSummary] = {}
        self._look_at = 2 * kept

    def add(self, tracks: Boxes) -> None:
        """The tracks of one time."""
        centres = (tracks.xyxy[:, :2] + tracks.xyxy[:, 2:]) / 2
        columns = (tracks.track_id, tracks.t, tracks.class_id, tracks.score, centres)
        for track_id, t, class_id, score, (x, y) in zip(*(column.tolist() for column in columns), strict=True):
            if track_id not in self._known:
                self._known[track_id] = TrackSummary(track_id, class_id, t, t)
                self.count += 1
            self._known[track_id].add(t, class_id, score, (x, y))
        if len(self._known) > self._look_at:
            self._forget(int(tracks.t[-1]))

    def longest(self) -> list[TrackSummary]:
        """At most `kept` tracks, those of the longest duration, in order of their first time."""
        chosen = sorted(self._known.values(), key=lambda track: (-track.duration_us, track.first_us, track.track_id))
        return sorted(chosen[: self._kept], key=lambda track: (track.first_us, track.track_id))

    def _forget(self, now_us: int) -> None:
        ended = [track for track in self._known.values() if now_us - track.last_us > _TRACK_ENDS_US]
        ended.sort(key=lambda track: (-track.duration_us, track.first_us, track.track_id))
        for track in ended[self._kept :]:
            del self._known[track.track_id]
        self._look_at = 2 * max(self._kept, len(self._known))


class RunStatistics:
    """Everything that the report of a run counts; give it each step once.

    density: (h, w) int64, events per pixel of a grid whose longer side is at most DENSITY_SIDE. score_counts:
    (2, SCORE_BINS) detections and tracks by score. detections_by_class: (classes,).
    """

    def __init__(self, width: int, height: int, classes: int) -> None:
        self.width, self.height = width, height
        shrink = min(1.0, DENSITY_SIDE / max(width, height))
        self.density = np.zeros((max(1, round(height * shrink)), max(1, round(width * shrink))), np.int64)
        self.series = BoundedSeries(len(SERIES))
        self.table = TrackTable()
        self.score_counts = np.zeros((2, SCORE_BINS), np.int64)
        self.boxes_by_class = np.zeros((2, classes), np.int64)  # detections, tracks
        self.first_us: int | None = None
        self.last_us: int | None = None
        self.slice_us: int | None = None

    def add(self, step: TrackedStep) -> None:
        """Count one step; nothing of it is kept."""
        window, detections, tracks = step
        if self.first_us is None:
            self.first_us, self.slice_us = window.start_us, window.end_us - window.start_us
        self.last_us = window.end_us
        counts = stacked_histogram(window, window.start_us, window.end_us, 1, size=self.density.shape)[0]
        self.density += counts[0]
        self.density += counts[1]
        on = int(np.count_nonzero(window.p))
        self.series.append((on, len(window) - on, len(detections), len(tracks)))
        self.table.add(tracks)
        for row, boxes in enumerate((detections, tracks)):
            score_bin = np.minimum((boxes.score * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
            self.score_counts[row] += np.bincount(score_bin, minlength=SCORE_BINS)
            self.boxes_by_class[row] += np.bincount(boxes.class_id, minlength=self.boxes_by_class.shape[1])

    @property
    def steps(self) -> int:
        return self.series.steps

    @property
    def duration_us(self) -> int:
        return 0 if self.first_us is None or self.last_us is None else self.last_us - self.first_us

    def total(self, quantity: str) -> int:
        """The sum of one of SERIES over the run."""
        return int(self.series.sums[:, SERIES.index(quantity)].sum())
