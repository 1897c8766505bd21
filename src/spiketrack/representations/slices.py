"""Slices: the microsecond slices of the high-frequency mode, where each slice of for example 100 us is a time step.

A slice of 100 us holds a few hundred events on a million pixels, so a window of 50 ms makes a dense array of a gigabyte
that is empty but for one pixel in thousands. The sparse form holds the touched pixels only, costs as much as there
are events, and writes itself into a dense buffer, or out of it again, without passing over the empty pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from spiketrack.events import Events
from spiketrack.representations import kernels
from spiketrack.representations.counting import count_ranges
from spiketrack.representations.grid import (
    COUNT_LIMITS,
    FrameOptions,
    bin_bounds,
    bin_ranges,
    buffer,
    check_limit,
    columns_of,
    make_grid,
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SparseSlices:
    """The touched pixels of T slices.

    first: (T + 1,) int64, slice k owns the entries first[k] .. first[k + 1] - 1. pixel: (N,) uint32, the place
    c * H * W + y * W + x in a slice of shape (2, H, W), each at most once a slice, in order of its first event.
    count: (N,) uint8, at least 1. height, width: H and W.
    """

    first: NDArray[np.int64]
    pixel: NDArray[np.uint32]
    count: NDArray[np.uint8]
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, 2, H, W) of the dense form."""
        return len(self.first) - 1, 2, self.height, self.width

    def __len__(self) -> int:
        return len(self.first) - 1

    def __repr__(self) -> str:
        return f"SparseSlices({len(self)} slices of {self.width}x{self.height}, {len(self.pixel)} touched pixels)"

    def __getitem__(self, index: slice) -> SparseSlices:
        """A run of slices, as views; only slices of step 1, others raise TypeError."""
        if not isinstance(index, slice) or index.step not in (None, 1):
            raise TypeError("slices: index with a slice of step 1, for example slices[8:16]")
        start, stop, _ = index.indices(len(self))
        bounds = self.first[start : max(start, stop) + 1]
        entries = slice(bounds[0], bounds[-1])
        return SparseSlices(bounds - bounds[0], self.pixel[entries], self.count[entries], self.height, self.width)

    def indices(self) -> NDArray[np.int64]:
        """(4, N) slice, channel, row and column of each entry, as `torch.sparse_coo_tensor` takes them."""
        step = np.repeat(np.arange(len(self)), np.diff(self.first))
        channel, row, column = np.unravel_index(self.pixel, self.shape[1:])
        return np.stack([step, channel, row, column]).astype(np.int64)

    def dense(self, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(T, 2, H, W) uint8. out: a buffer of zeros of that shape to write into; only the touched pixels change.

        For a stream, reuse one buffer: slices.dense(buffer), use it, slices.clear(buffer).
        """
        target = np.zeros(self.shape, np.uint8) if out is None else buffer(out, self.shape, np.dtype(np.uint8))
        kernels.scatter(self.first, self.pixel, self.count, target.reshape(len(self), 2 * self.height * self.width))
        return target

    def clear(self, out: NDArray[np.uint8]) -> None:
        """Set the touched pixels of a buffer that `dense` has written into back to zero."""
        target = buffer(out, self.shape, np.dtype(np.uint8))
        kernels.scatter(
            self.first, self.pixel, np.zeros_like(self.count), target.reshape(len(self), 2 * self.height * self.width)
        )


def microsecond_slices(
    events: Events,
    start_us: int,
    end_us: int,
    slice_us: int = 100,
    *,
    limit: int = 1,
    dtype: DTypeLike = np.uint8,
    **frame: Unpack[FrameOptions],
) -> NDArray:
    """Each slice_us microseconds of the window as one time step: (T, 2, H, W), T = (end_us - start_us) / slice_us.

    limit: 1 for binary slices, more for counts that saturate there. Raises ValueError unless the window is a whole
    number of slices; other arguments and errors as in `stacked_histogram`.
    """
    ranges = bin_ranges(events, slice_bounds(start_us, end_us, slice_us))
    return count_ranges(events, ranges, limit=limit, dtype=dtype, **frame)


def sparse_slices(
    events: Events,
    start_us: int,
    end_us: int,
    slice_us: int = 100,
    *,
    limit: int = 1,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int, int, int] | None = None,
) -> SparseSlices:
    """The same slices in sparse form, in memory and time that grow with the events and not with the pixels.

    limit: 1 .. 255. Other arguments and errors as in `microsecond_slices`.
    """
    check_limit(limit, "uint8", COUNT_LIMITS)
    grid = make_grid(events.width, events.height, size, crop)
    ranges = bin_ranges(events, slice_bounds(start_us, end_us, slice_us))
    n = int(ranges[-1, 1] - ranges[0, 0])
    first, pixel, count = np.empty(len(ranges) + 1, np.int64), np.empty(n, np.uint32), np.empty(n, np.uint8)
    entry = np.zeros(2 * grid.height * grid.width, np.uint32)
    kernels.collect(*columns_of(events)[1:], ranges, grid, limit, entry, first, pixel, count)
    return SparseSlices(first, pixel[: first[-1]], count[: first[-1]], grid.height, grid.width)


def slice_bounds(start_us: int, end_us: int, slice_us: int) -> NDArray[np.int64]:
    if slice_us < 1 or (end_us - start_us) % slice_us:
        raise ValueError(
            f"slices: the window [{start_us}, {end_us}) us must be a whole number of slices of {slice_us} us"
        )
    return bin_bounds(start_us, end_us, (end_us - start_us) // slice_us)
