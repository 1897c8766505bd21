"""Hot pixels: single pixels that fire all the time, whatever they see.

A hot pixel is fast, and alone: it reaches a rate, and all but one of the pixels around it (5 x 5) stay below a fraction
of its own rate. An edge or a lamp that moves or flickers covers more pixels and is left alone; two hot pixels side by
side are still found.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import SettingsError
from spiketrack.events import Events
from spiketrack.filters import kernels
from spiketrack.filters.filter import Filter
from spiketrack.filters.settings import HotPixelSettings

LEAST_EVENTS = 10  # fewer say nothing about a rate
_RADIUS, _RIVALS = 2, 1
_MOST_EVENTS = 2**32 - 1  # that a pixel's count can hold


class HotPixelFilter(Filter):
    """Takes out the events of hot pixels: those of a given mask, and those found while reading where rate_hz is set.

    Time is cut into periods that start at multiples of period_us. The pixels that were hot in one period are masked in
    the next, and are counted on, so that one that calms down comes back. hot: (H, W) bool, every pixel that was masked
    so far, ready for `save_mask`.
    """

    def __init__(
        self, settings: HotPixelSettings, width: int, height: int, known: NDArray[np.bool_] | None = None
    ) -> None:
        super().__init__(width, height)
        self.settings = settings
        self._known = np.zeros((height, width), np.bool_) if known is None else np.array(known, np.bool_)
        if self._known.shape != (height, width):
            raise ValueError(f"hot pixels: expected a mask of shape {(height, width)}, got {self._known.shape}")
        self.hot = self._known.copy()
        self._cool = ~self._known
        self._counts = np.zeros((height, width), np.uint32)
        self._period: int | None = None
        if settings.rate_hz is not None:
            self.memory_us = 2 * settings.period_us

    @property
    def pixels(self) -> NDArray[np.int64]:
        """(N, 2) x and y of every pixel masked so far, row by row."""
        return np.argwhere(self.hot)[:, ::-1]

    def _decide(self, events: Events, keep: NDArray[np.bool_]) -> int:
        if self.settings.rate_hz is None:
            return kernels.look_up(events.x, events.y, self._cool.ravel(), self.width, keep)
        first, count = 0, 0
        while first < len(events):
            period = int(events.t[first]) // self.settings.period_us
            if period != self._period:
                self._learn(period)
            last = int(np.searchsorted(events.t, (period + 1) * self.settings.period_us))
            piece, cool, counts = events[first:last], self._cool.ravel(), self._counts.ravel()
            count += kernels.look_up_and_count(piece.x, piece.y, cool, self.width, counts, keep[first:last])
            first = last
        return count

    def _learn(self, period: int) -> None:
        found = np.zeros_like(self._known)
        if self._period == period - 1:
            found = _hot(self._counts, self.settings.period_us, self.settings)
        self._cool = ~(found | self._known)
        self.hot |= found
        self._counts[:] = 0
        self._period = period


def find_hot_pixels(runs: Iterable[Events], settings: HotPixelSettings) -> NDArray[np.bool_]:
    """The hot pixels of a calibration stretch, (H, W) bool, by their mean rate from its first to its last event.

    Raises SettingsError where rate_hz is not set or there is no event.
    """
    if settings.rate_hz is None:
        raise SettingsError("hot_pixels.rate_hz: a rate is needed to find hot pixels by, got null")
    counts, first_us, last_us = np.zeros((0, 0), np.uint32), 0, 0
    for run in runs:
        if not len(run):
            continue
        if not counts.size:
            counts, first_us = np.zeros((run.height, run.width), np.uint32), int(run.t[0])
        everywhere = np.ones(counts.size, np.bool_)
        kernels.look_up_and_count(run.x, run.y, everywhere, run.width, counts.ravel(), np.empty(len(run), np.bool_))
        last_us = int(run.t[-1])
    if not counts.size:
        raise SettingsError("hot_pixels: the stretch to find them in holds no event; take a longer one")
    return _hot(counts, last_us - first_us + 1, settings)


def _hot(counts: NDArray[np.uint32], duration_us: int, settings: HotPixelSettings) -> NDArray[np.bool_]:
    assert settings.rate_hz is not None
    hot = np.zeros(counts.shape, np.bool_)
    # a rate that no count reaches finds nothing
    threshold = min(max(math.ceil(settings.rate_hz * duration_us * 1e-6), LEAST_EVENTS), _MOST_EVENTS)
    candidates = np.flatnonzero(counts >= np.uint32(threshold))
    kernels.stand_out(counts, candidates, settings.factor, _RADIUS, _RIVALS, hot)
    return hot
