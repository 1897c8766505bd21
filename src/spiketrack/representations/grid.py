"""Grid: which events fall into which plane, which pixel of it, and how planes are shared between threads.

Time: events are sorted, so the events of a bin are a slice of the record, found by searching its bounds. Space: pixel
(x, y) of a crop (x0, y0, w, h) of the sensor lands in column (x - x0) * W // w and row (y - y0) * H // h, exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, lru_cache
from itertools import pairwise
from typing import NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from spiketrack.events import Events

OUTSIDE = 2**32 - 1
MAX_PIXELS = 2**30
COUNT_LIMITS = {"uint8": 255, "float16": 2048, "float32": 65535}  # float16 holds every count exactly
DIFFERENCE_LIMITS = {"int8": 127, "float16": 2048, "float32": 32767}
VOXEL_LIMITS = {"float16": 1, "float32": 1}
SURFACE_LIMITS = {"uint8": 1, "float16": 1, "float32": 1}
BYTES_PER_EVENT_TIME = 64  # bytes of a plane that are cleared in the time one event takes
MIN_SHARED_WORK = 50_000  # events; below, handing work to a thread takes longer than doing it


class FrameOptions(TypedDict, total=False):
    """What every representation takes beside its own arguments.

    size: (H, W) of the result; default the crop's, or the sensor's. Never larger than that: counts are only reduced.
    crop: (x0, y0, width, height), the part of the sensor that is seen, in sensor pixels; default all of it.
    out: a writeable C-contiguous array of exactly the shape and dtype of the result. Its old content is overwritten,
    and it is returned. Reusing one is several times faster than fresh memory.
    threads: how many threads share the planes of the result, default 1.
    """

    size: tuple[int, int] | None
    crop: tuple[int, int, int, int] | None
    out: NDArray | None
    threads: int


class Grid(NamedTuple):
    """Where the pixels of the sensor fall: by shifting, x >> shift_x, or by looking up, with OUTSIDE for none.

    rows: (sensor height,) uint32, the first pixel of the row in the flat plane. columns: (sensor width,) uint32.
    Both are empty where shifting will do.
    """

    height: int
    width: int
    shift_y: int
    shift_x: int
    rows: NDArray[np.uint32]
    columns: NDArray[np.uint32]


def make_grid(width: int, height: int, size: tuple[int, int] | None, crop: tuple[int, int, int, int] | None) -> Grid:
    """The grid of a result for a sensor of width x height pixels.

    Raises ValueError for a crop that leaves the sensor or a size that exceeds the crop.
    """
    return _grid(width, height, None if size is None else tuple(size), None if crop is None else tuple(crop))


@lru_cache(64)
def _grid(
    sensor_width: int, sensor_height: int, size: tuple[int, int] | None, crop: tuple[int, int, int, int] | None
) -> Grid:
    x0, y0, width, height = crop or (0, 0, sensor_width, sensor_height)
    if not (0 <= x0 < x0 + width <= sensor_width and 0 <= y0 < y0 + height <= sensor_height):
        raise ValueError(
            f"representation: crop (x0, y0, width, height) = {crop} must lie within the sensor's "
            f"{sensor_width} x {sensor_height} pixels"
        )
    rows, columns = size or (height, width)
    if not (1 <= rows <= height and 1 <= columns <= width):
        what = "crop" if crop else "sensor"
        raise ValueError(
            f"representation: size {rows} x {columns} (H x W) must lie within the {what}'s {height} x {width}"
        )
    if rows * columns > MAX_PIXELS:
        raise ValueError(f"representation: a plane of {rows} x {columns} pixels is too large; choose a smaller size")
    shift_y, shift_x = (_shift(*sides) for sides in ((sensor_height, rows), (sensor_width, columns)))
    if (width, height) == (sensor_width, sensor_height) and shift_y >= 0 and shift_x >= 0:
        return Grid(rows, columns, shift_y, shift_x, np.empty(0, np.uint32), np.empty(0, np.uint32))
    row_starts = _table(sensor_height, y0, height, rows, columns)
    return Grid(rows, columns, 0, 0, row_starts, _table(sensor_width, x0, width, columns, 1))


def _shift(whole: int, reduced: int) -> int:
    """s with whole == reduced << s, so that i * reduced // whole == i >> s; -1 where there is none."""
    s = (whole // reduced).bit_length() - 1
    return s if whole == reduced << s else -1


def _table(sensor: int, first: int, cropped: int, reduced: int, stride: int) -> NDArray[np.uint32]:
    table = np.full(sensor, OUTSIDE, np.uint32)
    table[first : first + cropped] = np.arange(cropped) * reduced // cropped * stride
    return table


def bin_bounds(start_us: int, end_us: int, steps: int) -> NDArray[np.int64]:
    """The first microsecond of each bin and, last, the end: (steps + 1,).

    (t - start) * T // span >= k  <=>  t >= start + ceil(k * span / T)
    """
    if end_us <= start_us:
        raise ValueError(f"representation: the window must end after it starts, got [{start_us}, {end_us}) us")
    if steps < 1:
        raise ValueError(f"representation: steps must be at least 1, got {steps}")
    span = end_us - start_us
    return np.array([start_us - (-k * span) // steps for k in range(steps + 1)], np.int64)


def bin_ranges(events: Events, bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the first event of each bin and one past its last: (steps, 2)."""
    first = np.searchsorted(events.t, bounds)
    return np.stack([first[:-1], first[1:]], axis=1).astype(np.int64)


def columns_of(events: Events) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """t, x, y, p as contiguous read-only views, so that every kernel is compiled once."""
    return _view(events.t), _view(events.x), _view(events.y), _view(events.p)


def _view(column: NDArray) -> NDArray:
    view = np.ascontiguousarray(column).view()
    view.flags.writeable = False
    return view


def check_limit(limit: int, dtype: str, limits: Mapping[str, int]) -> None:
    """Raises ValueError for a dtype that is not in `limits`, or a limit that it cannot hold."""
    if dtype not in limits:
        raise ValueError(f"representation: dtype must be one of {', '.join(limits)}, got {dtype}")
    if not 1 <= limit <= limits[dtype]:
        raise ValueError(f"representation: limit must be 1 .. {limits[dtype]} for {dtype}, got {limit}")


def buffer(out: NDArray | None, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """The array to write into, its content to be overwritten. Raises ValueError for an `out` that does not fit."""
    if out is None:
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError(
            f"representation: out must be a writeable C-contiguous {dtype} array of shape {shape}, "
            f"got {out.dtype} of {out.shape}"
        )
    return out


def as_bits(array: NDArray) -> NDArray:
    """The same memory, float16 as uint16: what the kernels write it as."""
    return array.view(np.uint16) if array.dtype == np.float16 else array


def plane_costs(ranges: NDArray[np.int64], planes: NDArray) -> NDArray[np.float64]:
    """Work of each plane, in events: those it holds and those that could be counted while it is cleared."""
    return (ranges[:, 1] - ranges[:, 0]) + planes[0].nbytes / BYTES_PER_EVENT_TIME


def share(threads: int, costs: Sequence[float] | NDArray, work: Callable[[int, int], object]) -> None:
    """Call work(first, last) on disjoint runs of planes of about the same cost, one run per thread.

    costs: work of each plane, in the time that an event takes.
    """
    if threads < 1:
        raise ValueError(f"representation: threads must be at least 1, got {threads}")
    done = np.cumsum(costs)
    if threads == 1 or len(costs) == 1 or done[-1] < MIN_SHARED_WORK:
        work(0, len(costs))
        return
    cuts = [0, *np.searchsorted(done, done[-1] * np.arange(1, threads) / threads, side="left") + 1, len(costs)]
    cuts = np.unique(np.minimum(cuts, len(costs))).tolist()
    others = [_pool().submit(work, *cut) for cut in pairwise(cuts[1:])]
    try:
        work(cuts[0], cuts[1])
    finally:
        wait(others)
    for other in others:
        other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="representations")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
