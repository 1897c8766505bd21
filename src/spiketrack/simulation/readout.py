"""The read-out: from the pixels' requests to time-stamped events.

Station: behind the pixels of `sensor`. In come events with the exact times at which pixels fired, out go the same
events as a camera reports them: later by a random latency, row by row, at a bounded rate; what waits too long is lost.

The row of the oldest waiting event is read first; all events of this row that wait then are read together and
carry one time (Finateu et al., ISSCC 2020; Brandli et al., JSSC 2014: row and column arbiters). Reading a row takes
row_us, or the time its events need at max_rate if that is longer. Without rows events are read one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

_TICKS_PER_US = 4096.0  # times are sorted in steps of 0.24 ns


class ReadoutSettings(BaseModel):
    """The way from the pixels to time-stamped events; the default changes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jitter_us: float = Field(
        0.0,
        ge=0,
        le=1e5,
        description="random latency in microseconds: the absolute value of a normal number of this size",
    )
    row_us: float = Field(
        0.0,
        ge=0,
        le=1e4,
        description="least time to read a row in microseconds; events of a row that wait together share a time. "
        "0: no rows",
    )
    max_rate: float | None = Field(None, gt=0, description="most events read per second; null: no limit")
    longest_wait_us: float = Field(
        10_000.0, gt=0, le=1e6, description="an event that would wait longer for its read-out is lost, in microseconds"
    )


class Requests(NamedTuple):
    """Events before the read-out: t (N,) float64 us, x, y (N,) uint16, kind (N,) uint8 (polarity, plus 2 for noise)."""

    t: NDArray[np.float64]
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    kind: NDArray[np.uint8]

    def at(self, index: NDArray | slice) -> Requests:
        return Requests(self.t[index], self.x[index], self.y[index], self.kind[index])


class Readout:
    """The read-out with what waits in it."""

    lost: int  # events lost so far

    def __init__(self, settings: ReadoutSettings, height: int, seed: Sequence[int]) -> None:
        self.lost = 0
        self._settings = settings
        self._height = height
        self._rng = np.random.default_rng(seed)
        self._free_at = -np.inf
        self._waiting = Requests(
            np.empty(0, np.float64), np.empty(0, np.uint16), np.empty(0, np.uint16), np.empty(0, np.uint8)
        )

    def read(self, requests: Requests, until_us: float) -> Requests:
        """Take new requests, in any order, and give what is read until until_us, in order of its read-out.

        Later requests must be later than until_us. The times of the result are those of the read-out, float64 us.
        """
        settings = self._settings
        t = requests.t
        if settings.jitter_us:
            t = t + settings.jitter_us * np.abs(self._rng.standard_normal(len(t)))
        waiting = _sorted(Requests(*map(np.concatenate, zip(self._waiting, requests._replace(t=t), strict=True))))
        if not settings.row_us and settings.max_rate is None:
            ready = int(np.searchsorted(waiting.t, until_us, "right"))
            self._waiting = waiting.at(slice(ready, None))
            return waiting.at(slice(ready))
        from spiketrack.simulation.readout_kernels import serve

        per_event_us = 1e6 / settings.max_rate if settings.max_rate else 0.0
        order, times, state, self._free_at = serve(
            waiting.t,
            waiting.y,
            self._height,
            self._free_at,
            float(until_us),
            settings.row_us,
            per_event_us,
            settings.longest_wait_us,
        )
        self.lost += int(np.count_nonzero(state == 2))
        self._waiting = waiting.at(state == 0)
        return waiting.at(order)._replace(t=times)


def _sorted(requests: Requests) -> Requests:
    """In order of time, in steps of a tick; those of one tick stay in their order."""
    t = requests.t
    if not len(t):
        return requests
    base = np.floor(t.min())
    ticks = ((t - base) * _TICKS_PER_US).astype(np.int64)
    bits = len(t).bit_length()
    if int(ticks.max()).bit_length() + bits < 63:  # numbers that are all different sort several times faster
        order = np.sort(ticks << bits | np.arange(len(t))) & ((1 << bits) - 1)
    else:
        order = np.argsort(ticks, kind="stable")
    return requests._replace(t=base + ticks / _TICKS_PER_US).at(order)
