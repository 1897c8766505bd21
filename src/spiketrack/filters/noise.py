"""Filters of what single pixels do in time: background activity, refractory time, flicker, polarity."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spiketrack.events import Events
from spiketrack.filters import kernels
from spiketrack.filters.filter import Filter
from spiketrack.filters.settings import BackgroundSettings, FlickerSettings, RefractorySettings


class BackgroundFilter(Filter):
    """Takes out events without support: fewer than `support` other pixels nearby fired less than dt_us ago.

    The pixel's own events do not count; those removed count as support for others. Source: Delbruck, "Frame-free
    dynamic digital vision", 2008. With a support of 1, as there, an event writes its time to its neighbours and reads
    one place, which needs no branch.
    """

    def __init__(self, settings: BackgroundSettings, width: int, height: int) -> None:
        super().__init__(width, height)
        if settings.dt_us is None:
            raise ValueError("background: dt_us is null, which means no filter")
        self.settings, self.memory_us = settings, settings.dt_us
        self._stride = width + 2 * settings.radius
        self._times = np.full((height + 2 * settings.radius) * self._stride, kernels.NEVER)

    def _decide(self, events: Events, keep: NDArray[np.bool_]) -> int:
        t, x, y = events.t, events.x, events.y
        radius, support, dt_us = self.settings.radius, self.settings.support, self.memory_us
        if support > 1:
            return kernels.near_several(t, x, y, self._times, self._stride, radius, dt_us, support, keep)
        if radius > 1:
            return kernels.near_one(t, x, y, self._times, self._stride, radius, dt_us, keep)
        return kernels.near_one_in_3x3(t, x, y, self._times, self._stride, dt_us, keep)


class RefractoryFilter(Filter):
    """At most one event per pixel (and polarity, where asked) within period_us: others are taken out.

    Counted from the last event that stayed, as in the sensor. A pixel that never rests keeps the phase it started
    with, so a pass that starts late may keep other events of such a pixel.
    """

    def __init__(self, settings: RefractorySettings, width: int, height: int) -> None:
        super().__init__(width, height)
        if settings.period_us is None:
            raise ValueError("refractory: period_us is null, which means no filter")
        self.memory_us = settings.period_us
        self._layer = width * height if settings.per_polarity else 0
        self._last = np.full(width * height * (2 if settings.per_polarity else 1), kernels.NEVER)

    def _decide(self, events: Events, keep: NDArray[np.bool_]) -> int:
        columns = (events.t, events.x, events.y, events.p)
        return kernels.rested(*columns, self._last, self.width, self._layer, self.memory_us, keep)


class FlickerFilter(Filter):
    """Takes out the events of pixels that go on and off periodically, as under lamps on alternating current.

    A pixel flickers once it rose (from OFF to ON) `cycles` times in a row at intervals that lie in the band and differ
    by at most a quarter from one to the next, until it breaks the beat. Faster flicker is seen at a fraction of its
    frequency that lies in the band.
    """

    def __init__(self, settings: FlickerSettings, width: int, height: int) -> None:
        super().__init__(width, height)
        if settings.band_hz is None:
            raise ValueError("flicker: band_hz is null, which means no filter")
        lowest, highest = settings.band_hz
        self._shortest_us, self._longest_us = math.floor(1e6 / highest), math.ceil(1e6 / lowest)
        self._cycles = settings.cycles
        self.memory_us = (settings.cycles + 2) * self._longest_us
        # time of the last rise, interval before it, like intervals in a row, last polarity
        self._table = np.tile(np.array([kernels.NEVER, 0, 0, 1]), (width * height, 1))

    def _decide(self, events: Events, keep: NDArray[np.bool_]) -> int:
        columns, band = (events.t, events.x, events.y, events.p), (self._shortest_us, self._longest_us)
        return kernels.steady(*columns, self.width, self._table, *band, self._cycles, keep)


class PolarityFilter(Filter):
    """Events of one polarity stay."""

    def __init__(self, polarity: Literal["on", "off"], width: int, height: int) -> None:
        super().__init__(width, height)
        self._wanted = int(polarity == "on")

    def _decide(self, events: Events, keep: NDArray[np.bool_]) -> int:
        return kernels.has_polarity(events.p, self._wanted, keep)
