"""Counting: polarity histogram, stacked histogram (Histo3D), binary occupancy, signed difference (Diff3D).

Histo3D and Diff3D are the names of the eTraM tool chain. In floating point a value is the plain count, saturated at
the same limit: one event is 1.0, nothing is normalised. NaN and infinity cannot occur.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spiketrack.events import Events
from spiketrack.representations import kernels
from spiketrack.representations.grid import (
    COUNT_LIMITS,
    DIFFERENCE_LIMITS,
    FrameOptions,
    as_bits,
    bin_bounds,
    bin_ranges,
    buffer,
    check_limit,
    columns_of,
    make_grid,
    plane_costs,
    share,
)


def polarity_histogram(
    events: Events,
    start_us: int,
    end_us: int,
    *,
    limit: int = 255,
    dtype: DTypeLike = np.uint8,
    **frame: Unpack[FrameOptions],
) -> NDArray:
    """OFF and ON counts of the whole window, (1, 2, H, W): a stacked histogram of one bin; arguments as there."""
    return stacked_histogram(events, start_us, end_us, 1, limit=limit, dtype=dtype, **frame)


def stacked_histogram(
    events: Events,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    limit: int = 255,
    dtype: DTypeLike = np.uint8,
    **frame: Unpack[FrameOptions],
) -> NDArray:
    """ON and OFF counts per time bin (Histo3D), from the events of [start_us, end_us).

    Returns (steps, 2, H, W), channel 0 = OFF (p 0), channel 1 = ON (p 1), each count at most `limit`. dtype: uint8
    (limit 1 .. 255), float16 (1 .. 2048, all exact) or float32 (1 .. 65535). size, crop, out, threads: see
    `FrameOptions`. Raises ValueError for an empty window, steps < 1, a limit out of range, or a size, crop or
    buffer that does not fit.
    """
    return count_ranges(
        events, bin_ranges(events, bin_bounds(start_us, end_us, steps)), limit=limit, dtype=dtype, **frame
    )


def binary_occupancy(
    events: Events,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    dtype: DTypeLike = np.uint8,
    **frame: Unpack[FrameOptions],
) -> NDArray:
    """Whether any event fell on a pixel, per polarity and time bin: (steps, 2, H, W) of 0 and 1.

    The same as a stacked histogram that saturates at 1; arguments and errors as there.
    """
    return stacked_histogram(events, start_us, end_us, steps, limit=1, dtype=dtype, **frame)


def signed_difference(
    events: Events,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    limit: int = 127,
    dtype: DTypeLike = np.int8,
    **frame: Unpack[FrameOptions],
) -> NDArray:
    """ON minus OFF per time bin (Diff3D): (steps, 1, H, W), clipped to -limit .. limit.

    The clip is applied to the final sum, so the order of the events does not matter. dtype: int8 (limit 1 .. 127),
    float16 (1 .. 2048) or float32 (1 .. 32767). Other arguments and errors as in `stacked_histogram`.
    """
    return difference_ranges(
        events, bin_ranges(events, bin_bounds(start_us, end_us, steps)), limit=limit, dtype=dtype, **frame
    )


def count_ranges(
    events: Events,
    ranges: NDArray[np.int64],
    *,
    limit: int,
    dtype: DTypeLike = np.uint8,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    out: NDArray | None = None,
    threads: int = 1,
) -> NDArray:
    """`stacked_histogram` of the events ranges[k, 0] .. ranges[k, 1] - 1 for each plane k; ranges may overlap."""
    chosen = np.dtype(dtype)
    check_limit(limit, chosen.name, COUNT_LIMITS)
    grid = make_grid(events.width, events.height, size, crop)
    out = buffer(out, (len(ranges), 2, grid.height, grid.width), chosen)
    planes, (_, x, y, p) = out.reshape(len(ranges), -1), columns_of(events)

    def direct(first: int, last: int) -> None:
        kernels.count(x, y, p, ranges[first:last], grid, limit, planes[first:last])

    def through_total(first: int, last: int) -> None:
        total = np.empty((1, planes.shape[1]), np.uint8 if limit <= 255 else np.uint16)
        kernels.count_wide(x, y, p, ranges[first:last], grid, limit, total, as_bits(planes[first:last]))

    share(threads, plane_costs(ranges, planes), direct if chosen == np.uint8 else through_total)
    return out


def difference_ranges(
    events: Events,
    ranges: NDArray[np.int64],
    *,
    limit: int,
    dtype: DTypeLike = np.int8,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
    out: NDArray | None = None,
    threads: int = 1,
) -> NDArray:
    """`signed_difference` of the events ranges[k, 0] .. ranges[k, 1] - 1 for each plane k; ranges may overlap."""
    chosen = np.dtype(dtype)
    check_limit(limit, chosen.name, DIFFERENCE_LIMITS)
    grid = make_grid(events.width, events.height, size, crop)
    out = buffer(out, (len(ranges), 1, grid.height, grid.width), chosen)
    planes, (_, x, y, p) = out.reshape(len(ranges), -1), columns_of(events)

    def direct(first: int, last: int) -> None:
        kernels.difference(x, y, p, ranges[first:last], grid, limit, planes[first:last])

    def through_total(first: int, last: int) -> None:
        total = np.zeros(planes.shape[1], np.int32)
        kernels.difference_wide(x, y, p, ranges[first:last], grid, limit, total, as_bits(planes[first:last]))

    share(threads, plane_costs(ranges, planes), direct if chosen == np.int8 else through_total)
    return out
