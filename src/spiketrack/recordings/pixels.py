"""Pixels: events cropped and moved to the pixels of a smaller sensor, in one pass."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spiketrack.events import Events
from spiketrack.recordings.writing import plain_columns


class Pixels:
    """Where each column and row of a sensor (width, height) goes; -1 for nowhere. width, height: the new sensor.

    crop: (x, y, width, height) within the sensor; downsample: merges that many columns, and rows, of the crop.
    """

    def __init__(self, sensor: tuple[int, int], crop: tuple[int, int, int, int] | None, downsample: int) -> None:
        x, y, width, height = crop or (0, 0, *sensor)
        self.width, self.height = -(-width // downsample), -(-height // downsample)
        self._same = (self.width, self.height) == sensor
        self._columns, self._rows = _places(sensor[0], x, width, downsample), _places(sensor[1], y, height, downsample)

    def select(self, events: Events) -> Events:
        """The events that lie in the crop, in their order, at their new pixels."""
        if self._same:
            return events
        t, x, y, p = plain_columns(events)
        new = (np.empty_like(t), np.empty_like(x), np.empty_like(y), np.empty_like(p))
        n = _select((t, x, y, p), new, self._columns, self._rows)
        t, x, y, p = (column[:n] for column in new)
        return Events.trusted(t, x, y, p, self.width, self.height)


def _places(side: int, first: int, length: int, downsample: int) -> NDArray[np.int32]:
    places = np.full(side, -1, np.int32)
    places[first : first + length] = np.arange(length) // downsample
    return places


@njit(cache=True, nogil=True)
def _select(events, new, columns, rows):
    """Copy the events whose pixel goes somewhere, in their order; returns how many."""
    t, x, y, p = events
    new_t, new_x, new_y, new_p = new
    n = 0
    for i in range(len(t)):
        column, row = columns[x[i]], rows[y[i]]
        new_t[n] = t[i]
        new_x[n] = column
        new_y[n] = row
        new_p[n] = p[i]
        n += (column >= 0) & (row >= 0)
    return n
