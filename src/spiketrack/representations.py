"""Representations: dense tensors that a network can read, counted from the events of a time window.

Station: in comes an `Events` record and a window [start_us, end_us), out goes an array of shape (T, C, H, W).
Bins come from the window, never from the first and last event: event t falls into bin
k = (t - start_us) * T // (end_us - start_us). Counts saturate, they never wrap. A reduced resolution is counted
directly, without a full-size image in between: pixel x lands in column x * W // sensor width.

Histo3D and Diff3D are the names of the first two in the eTraM tool chain (facts: docs/results.md names every use).
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from spiketrack.errors import SettingsError
from spiketrack.events import Events


def stacked_histogram(
    events: Events,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    size: tuple[int, int] | None = None,
    limit: int = 255,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """ON and OFF counts per time bin (Histo3D).

    Returns (steps, 2, H, W) uint8, channel 0 = OFF (p 0), channel 1 = ON (p 1), each count at most `limit`
    (1 .. 255). size: (H, W) of the result, by default the sensor's. out: a buffer of exactly that shape to
    write into (its old content is overwritten); it is returned. Events outside the window are not counted.
    Raises ValueError for an empty window, steps < 1, a limit out of range or an unfitting buffer.
    """
    if not 1 <= limit <= 255:
        raise ValueError(f"stacked_histogram: limit must be 1 .. 255, got {limit}")
    out = _buffer(out, (steps, 2, *(size or (events.height, events.width))), np.uint8)
    first = _bin_bounds(events, start_us, end_us, steps)
    rows, columns = _pixel_maps(events, out.shape[2], out.shape[3])
    _count(events.x, events.y, events.p, first, rows, columns, limit, out)
    return out


def binary_occupancy(
    events: Events,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    size: tuple[int, int] | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Whether any event fell on a pixel, per polarity and time bin: (steps, 2, H, W) uint8 of 0 and 1.

    The same as a stacked histogram that saturates at 1; arguments and errors as there.
    """
    return stacked_histogram(events, start_us, end_us, steps, size=size, limit=1, out=out)


def signed_difference(
    events: Events,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    size: tuple[int, int] | None = None,
    limit: int = 127,
    out: NDArray[np.int8] | None = None,
) -> NDArray[np.int8]:
    """ON minus OFF per time bin (Diff3D): (steps, 1, H, W) int8, clipped to -limit .. limit (1 .. 127).

    The clip is applied to the final sum, so the order of the events does not matter. Other arguments and errors
    as in `stacked_histogram`.
    """
    if not 1 <= limit <= 127:
        raise ValueError(f"signed_difference: limit must be 1 .. 127, got {limit}")
    out = _buffer(out, (steps, 1, *(size or (events.height, events.width))), np.int8)
    first = _bin_bounds(events, start_us, end_us, steps)
    rows, columns = _pixel_maps(events, out.shape[2], out.shape[3])
    _difference(events.x, events.y, events.p, first, rows, columns, limit, out)
    return out


REPRESENTATIONS = {
    "stacked_histogram": stacked_histogram,
    "signed_difference": signed_difference,
    "binary_occupancy": binary_occupancy,
}


class InputSettings(BaseModel):
    """What a network sees: the representation of the event slices that are its time steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    representation: Literal["stacked_histogram", "signed_difference", "binary_occupancy"] = Field(
        "stacked_histogram", description="how events are counted"
    )
    slice_us: int = Field(33_333, gt=0, description="length of one time step in microseconds")
    window_us: int | None = Field(
        None, gt=0, description="events that a step sees, ending with it; null takes slice_us, more overlaps"
    )
    bins: int = Field(1, ge=1, le=32, description="bins of the window of a step, stacked as channels, oldest first")
    limit: int = Field(10, ge=1, le=127, description="counts saturate here (signed_difference: at both signs)")
    height: int | None = Field(None, gt=0, description="rows of the input; null takes the sensor's")
    width: int | None = Field(None, gt=0, description="columns of the input; null takes the sensor's")

    @property
    def channels(self) -> int:
        """Channels C of one time step."""
        return self.bins * (1 if self.representation == "signed_difference" else 2)

    def size(self, sensor_height: int, sensor_width: int) -> tuple[int, int]:
        """(H, W) of the input for a sensor. Raises SettingsError where it would be larger than the sensor."""
        height, width = self.height or sensor_height, self.width or sensor_width
        if height > sensor_height or width > sensor_width:
            raise SettingsError(
                f"an input of {width} x {height} pixels is larger than the sensor, which has "
                f"{sensor_width} x {sensor_height}; counts are only ever reduced, choose a smaller size"
            )
        return height, width

    @model_validator(mode="after")
    def _window_covers_slice(self) -> Self:
        if self.window_us is not None and self.window_us < self.slice_us:
            raise ValueError(f"window_us ({self.window_us}) must be at least slice_us ({self.slice_us})")
        return self

    @property
    def seen_us(self) -> int:
        """Length of the events that one time step sees, microseconds."""
        return self.window_us or self.slice_us

    def encode(self, events: Events, end_us: int, steps: int = 1) -> NDArray[np.uint8 | np.int8]:
        """The last `steps` time steps before end_us: (steps, C, H, W), the bins of a step stacked in time order.

        events: must reach back to end_us - (steps - 1) * slice_us - seen_us; what lies outside is not counted.
        """
        size = self.size(events.height, events.width)
        signed = self.representation == "signed_difference"
        out = np.empty((steps, self.bins, 1 if signed else 2, *size), np.int8 if signed else np.uint8)
        function = REPRESENTATIONS[self.representation]
        options = {} if self.representation == "binary_occupancy" else {"limit": self.limit}
        for k in range(steps):
            end = end_us - (steps - 1 - k) * self.slice_us
            function(events, end - self.seen_us, end, self.bins, size=size, out=out[k], **options)
        return out.reshape(steps, self.channels, *size)  # (T, bins, C', H, W) -> (T, bins * C', H, W)


def _bin_bounds(events: Events, start_us: int, end_us: int, steps: int) -> NDArray[np.int64]:
    """Index of the first event of each bin and, last, one past the end: (steps + 1,).

    (t - start) * T // span >= k  <=>  t >= start + ceil(k * span / T)
    """
    if end_us <= start_us:
        raise ValueError(f"representation: the window must end after it starts, got [{start_us}, {end_us}) us")
    if steps < 1:
        raise ValueError(f"representation: steps must be at least 1, got {steps}")
    span = end_us - start_us
    bounds = [start_us - (-k * span) // steps for k in range(steps + 1)]
    return np.searchsorted(events.t, np.array(bounds, np.int64)).astype(np.int64)


def _pixel_maps(events: Events, height: int, width: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Row and column of the result for every row and column of the sensor."""
    if height > events.height or width > events.width or height < 1 or width < 1:
        raise ValueError(
            f"representation: size {height} x {width} must lie within the sensor's {events.height} x {events.width}"
        )
    rows = np.arange(events.height) * height // events.height
    columns = np.arange(events.width) * width // events.width
    return rows.astype(np.uint16), columns.astype(np.uint16)


def _buffer(out: NDArray | None, shape: tuple[int, ...], dtype: type) -> NDArray:
    if out is None:
        return np.zeros(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"representation: out must be a writeable C-contiguous {np.dtype(dtype)} array of shape {shape}, "
            f"got {out.dtype} of {out.shape}"
        )
    out.fill(0)
    return out


@njit(cache=True, nogil=True)
def _count(x, y, p, first, rows, columns, limit, out):
    for k in range(out.shape[0]):
        plane = out[k]
        for i in range(first[k], first[k + 1]):
            row, column = rows[y[i]], columns[x[i]]
            count = plane[p[i], row, column]
            if count < limit:
                plane[p[i], row, column] = count + 1


@njit(cache=True, nogil=True)
def _difference(x, y, p, first, rows, columns, limit, out):
    total = np.zeros(out.shape[2:], np.int32)
    for k in range(out.shape[0]):
        for i in range(first[k], first[k + 1]):
            total[rows[y[i]], columns[x[i]]] += 1 if p[i] else -1
        plane = out[k, 0]
        for row in range(plane.shape[0]):
            for column in range(plane.shape[1]):
                value = total[row, column]
                plane[row, column] = max(-limit, min(limit, value))
                total[row, column] = 0
