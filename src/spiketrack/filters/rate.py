"""Rate control: no more events per second than what comes after can take, as the sensors' own rate controllers do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spiketrack.events import Events
from spiketrack.filters import kernels
from spiketrack.filters.filter import Filter
from spiketrack.filters.settings import RateSettings


class RateFilter(Filter):
    """At most limit events per second, kept in every period (which start at multiples of period_us).

    policy "tail": the first events of a period stay until its share is used up. "even": every k-th event stays, where
    k comes from the events of the period before, since the present one is not over; where more come than in the period
    before, the share may be used up early, and the tail goes.
    """

    def __init__(self, settings: RateSettings, width: int, height: int) -> None:
        super().__init__(width, height)
        if settings.limit is None:
            raise ValueError("rate: limit is null, which means no filter")
        self.settings = settings
        self.memory_us = settings.period_us * (2 if settings.policy == "even" else 1)
        self.budget = settings.budget
        self._state = np.array([kernels.NEVER, 0, 0, 0, 0])

    def _decide(self, events: Events, keep: NDArray[np.bool_]) -> int:
        evenly = self.settings.policy == "even"
        return kernels.within_rate(events.t, self._state, self.settings.period_us, self.budget, evenly, keep)
