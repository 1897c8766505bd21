"""Timing: representations that keep when events happened, the voxel grid and the time surface."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spiketrack.events import Events
from spiketrack.representations import kernels
from spiketrack.representations.grid import (
    BYTES_PER_EVENT_TIME,
    SURFACE_LIMITS,
    VOXEL_LIMITS,
    as_bits,
    bin_bounds,
    bin_ranges,
    buffer,
    check_limit,
    columns_of,
    make_grid,
    share,
)

NEVER = -(2**62)
MAX_TAU_US = 20_000_000  # ages up to 87 time constants fit into 32 bits


def voxel_grid(
    events: Events,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    dtype: DTypeLike = np.float32,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    out: NDArray | None = None,
    threads: int = 1,
) -> NDArray:
    """Voxel grid with bilinear time (Zhu et al. 2019, with the window's own bounds): (steps, 1, H, W).

    V[k] = sum of s * max(0, 1 - |t* - k|) over the events of a pixel, with s = +1 for ON and -1 for OFF, and
    t* = (steps - 1) * (t - start_us) / (end_us - start_us), 0 <= t* < steps - 1. So an event is shared between the
    two planes nearest in time, the shares of an event sum to 1, and nothing is normalised. With one step V is the
    signed sum. Zhu et al. take t* from the first and last event; here it comes from the window.

    dtype: float32, or float16, which saturates at 65504 of either sign. Other arguments and errors as in
    `stacked_histogram`.
    """
    chosen = np.dtype(dtype)
    check_limit(1, chosen.name, VOXEL_LIMITS)
    bounds = bin_bounds(start_us, end_us, steps - 1 if steps > 1 else steps)
    grid = make_grid(events.width, events.height, size, crop)
    out = buffer(out, (steps, 1, grid.height, grid.width), chosen)
    planes, ranges = out.reshape(steps, -1), bin_ranges(events, bounds)
    per_us = (steps - 1) / (end_us - start_us)
    scene = (*columns_of(events), ranges, grid, start_us, per_us)

    def direct(first: int, last: int) -> None:
        kernels.interpolate(*scene, first, planes[first:last])

    def through_single(first: int, last: int) -> None:
        total = np.empty((1, planes.shape[1]), np.float32)
        for k in range(first, last):
            kernels.interpolate(*scene, k, total)
            kernels.convert(total[0], as_bits(planes[k]))

    events_of = np.diff(ranges, axis=1)[:, 0]
    costs = np.convolve(events_of, (1, 1))[:steps] + planes[0].nbytes / BYTES_PER_EVENT_TIME
    share(threads, costs, direct if chosen == np.float32 else through_single)
    return out


def time_surface(
    events: Events,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    tau_us: int = 50_000,
    dtype: DTypeLike = np.float32,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    out: NDArray | None = None,
    threads: int = 1,
) -> NDArray:
    """How recently each pixel saw an event, per polarity, at the end of each time bin: (steps, 2, H, W).

    exp(-(end of bin - time of the last event) / tau_us), 0 where there was none since start_us. dtype: float32,
    float16, or uint8, which holds round(255 * value). Other arguments and errors as in `stacked_histogram`.
    `TimeSurface` looks further back than the window.
    """
    surface = TimeSurface(events.width, events.height, tau_us=tau_us, size=size, crop=crop)
    return surface.update(events, start_us, end_us, steps, dtype=dtype, out=out, threads=threads)


class TimeSurface:
    """A time surface that remembers the last events of the windows before: the state of one stream.

    The result of many short windows equals, to the bit, that of one long window with the same bounds of bins.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        tau_us: int = 50_000,
        size: tuple[int, int] | None = None,
        crop: tuple[int, int, int, int] | None = None,
    ) -> None:
        """width, height: the sensor. Raises ValueError for a time constant below 1 us or an unfitting size or crop."""
        if not 1 <= tau_us <= MAX_TAU_US:
            raise ValueError(f"time surface: tau_us must be 1 .. {MAX_TAU_US} microseconds, got {tau_us}")
        self._sensor, self._tau_us = (width, height), tau_us
        self._grid = make_grid(width, height, size, crop)
        self._latest = np.full(2 * self._grid.height * self._grid.width, NEVER, np.int64)
        self._end_us: int | None = None

    def update(
        self,
        events: Events,
        start_us: int,
        end_us: int,
        steps: int = 1,
        *,
        dtype: DTypeLike = np.float32,
        out: NDArray | None = None,
        threads: int = 1,
    ) -> NDArray:
        """Take in the events of [start_us, end_us) and return the surfaces at the ends of its bins, (steps, 2, H, W).

        Arguments as in `time_surface`. Raises ValueError for events of another sensor, and for a window that starts
        before the one before it ended.
        """
        if (events.width, events.height) != self._sensor:
            raise ValueError(f"time surface: expected events of a {self._sensor} sensor, got {events!r}")
        if self._end_us is not None and start_us < self._end_us:
            raise ValueError(
                f"time surface: the window starts at {start_us} us, the last one ended at {self._end_us} us"
            )
        chosen = np.dtype(dtype)
        check_limit(1, chosen.name, SURFACE_LIMITS)
        bounds = bin_bounds(start_us, end_us, steps)
        grid = self._grid
        out = buffer(out, (steps, 2, grid.height, grid.width), chosen)
        planes, ranges, columns = out.reshape(steps, -1), bin_ranges(events, bounds), columns_of(events)
        for k in range(steps):
            kernels.remember(*columns, *ranges[k], grid, self._latest)
            self._surface(int(bounds[k + 1]), planes[k], threads)
        self._end_us = end_us
        return out

    def _surface(self, end_us: int, plane: NDArray, threads: int) -> None:
        """Write the surface at end_us into a flat plane; the threads share its pixels."""
        scale, half = (255.0, 0.5) if plane.dtype == np.uint8 else (1.0, 0.0)

        def write(first: int, last: int) -> None:
            pixels = slice(first * len(plane) // threads, last * len(plane) // threads)
            target = np.empty(pixels.stop - pixels.start, np.float32) if plane.dtype == np.float16 else plane[pixels]
            kernels.decay(self._latest[pixels], end_us, self._tau_us, np.float32(scale), np.float32(half), target)
            if target.dtype != plane.dtype:
                kernels.convert(target, as_bits(plane[pixels]))

        share(threads, np.full(max(threads, 1), len(plane) / max(threads, 1)), write)
