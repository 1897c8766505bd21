"""Device: the same representations for events that are already torch tensors, on a CPU or a GPU.

Each function gives what its namesake of `spiketrack.representations` gives: counts to the bit, voxel grids and time
surfaces to the rounding of float32. Each is one scatter over flat indices; events that count nowhere go to a spare
cell, so nothing is copied back and a call does not wait for the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spiketrack.events import Events
from spiketrack.representations.grid import (
    COUNT_LIMITS,
    DIFFERENCE_LIMITS,
    SURFACE_LIMITS,
    VOXEL_LIMITS,
    bin_bounds,
    check_limit,
    make_grid,
)
from spiketrack.representations.kernels import OLDEST_TAU
from spiketrack.representations.slices import slice_bounds
from spiketrack.representations.timing import NEVER

LARGEST_HALF = 65504.0
Size = tuple[int, int] | None
Crop = tuple[int, int, int, int] | None


class EventTensors(NamedTuple):
    """Events as tensors of one device: t (N,) int64 microseconds, x, y, p (N,) of any integer dtype, in any order.

    Events outside the sensor or with a polarity other than 0 and 1 are left out.
    """

    t: Tensor
    x: Tensor
    y: Tensor
    p: Tensor
    width: int
    height: int

    @classmethod
    def of(cls, events: Events, device: torch.device | str = "cpu") -> EventTensors:
        """The events, copied to a device."""
        columns = (events.t, events.x.astype("int32"), events.y.astype("int32"), events.p)
        return cls(*(torch.tensor(column, device=device) for column in columns), events.width, events.height)


def polarity_histogram(
    events: EventTensors,
    start_us: int,
    end_us: int,
    *,
    limit: int = 255,
    dtype: torch.dtype = torch.uint8,
    size: Size = None,
    crop: Crop = None,
) -> Tensor:
    """OFF and ON counts of the whole window, (1, 2, H, W)."""
    return stacked_histogram(events, start_us, end_us, 1, limit=limit, dtype=dtype, size=size, crop=crop)


def stacked_histogram(
    events: EventTensors,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    limit: int = 255,
    dtype: torch.dtype = torch.uint8,
    size: Size = None,
    crop: Crop = None,
) -> Tensor:
    """OFF and ON counts per time bin, (steps, 2, H, W), at most `limit`; limits and errors as on NumPy arrays."""
    check_limit(limit, _name(dtype), COUNT_LIMITS)
    cells = _Cells(events, start_us, end_us, steps, size, crop)
    index = cells.index((cells.bin * 2 + events.p.long()) * cells.pixels + cells.pixel, 2)
    return cells.sums(index, 2, torch.ones_like(index, dtype=torch.int32)).clamp_(max=limit).to(dtype)


def binary_occupancy(
    events: EventTensors,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    dtype: torch.dtype = torch.uint8,
    size: Size = None,
    crop: Crop = None,
) -> Tensor:
    """Whether any event fell on a pixel, per polarity and time bin: (steps, 2, H, W) of 0 and 1."""
    return stacked_histogram(events, start_us, end_us, steps, limit=1, dtype=dtype, size=size, crop=crop)


def microsecond_slices(
    events: EventTensors,
    start_us: int,
    end_us: int,
    slice_us: int = 100,
    *,
    limit: int = 1,
    dtype: torch.dtype = torch.uint8,
    size: Size = None,
    crop: Crop = None,
) -> Tensor:
    """Each slice_us microseconds of the window as one time step, (T, 2, H, W)."""
    steps = len(slice_bounds(start_us, end_us, slice_us)) - 1
    return stacked_histogram(events, start_us, end_us, steps, limit=limit, dtype=dtype, size=size, crop=crop)


def signed_difference(
    events: EventTensors,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    limit: int = 127,
    dtype: torch.dtype = torch.int8,
    size: Size = None,
    crop: Crop = None,
) -> Tensor:
    """ON minus OFF per time bin, (steps, 1, H, W), the sum clipped to -limit .. limit."""
    check_limit(limit, _name(dtype), DIFFERENCE_LIMITS)
    cells = _Cells(events, start_us, end_us, steps, size, crop)
    index = cells.index(cells.bin * cells.pixels + cells.pixel, 1)
    return cells.sums(index, 1, events.p.int() * 2 - 1).clamp_(-limit, limit).to(dtype)


def voxel_grid(
    events: EventTensors,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    dtype: torch.dtype = torch.float32,
    size: Size = None,
    crop: Crop = None,
) -> Tensor:
    """Voxel grid with bilinear time, (steps, 1, H, W); the order of float additions is the device's own."""
    check_limit(1, _name(dtype), VOXEL_LIMITS)
    cells = _Cells(events, start_us, end_us, steps, size, crop)
    time, span = (events.t - start_us) * (steps - 1), end_us - start_us  # t* = time / span
    lower = time // span
    later = (time - lower * span).float() / span
    sign = events.p.float() * 2 - 1
    plane = lower * cells.pixels + cells.pixel
    sums = cells.sums(cells.index(plane, 1), 1, sign * (1 - later))
    if steps > 1:
        sums += cells.sums(cells.index(plane + cells.pixels, 1), 1, sign * later)
    return sums.clamp_(-LARGEST_HALF, LARGEST_HALF).to(dtype) if dtype == torch.float16 else sums


def time_surface(
    events: EventTensors,
    start_us: int,
    end_us: int,
    steps: int,
    *,
    tau_us: int = 50_000,
    dtype: torch.dtype = torch.float32,
    size: Size = None,
    crop: Crop = None,
) -> Tensor:
    """exp(-(end of bin - time of the last event) / tau_us) per polarity, (steps, 2, H, W); uint8 holds it times 255."""
    check_limit(1, _name(dtype), SURFACE_LIMITS)
    cells = _Cells(events, start_us, end_us, steps, size, crop)
    index = cells.index((cells.bin * 2 + events.p.long()) * cells.pixels + cells.pixel, 2)
    latest = torch.full((cells.count(2) + 1,), NEVER, dtype=torch.int64, device=events.t.device)
    latest.scatter_reduce_(0, index, events.t, "amax")
    latest = latest[:-1].view(cells.shape(2)).cummax(0).values
    ends = torch.from_numpy(bin_bounds(start_us, end_us, steps)[1:]).to(latest.device)
    age = ends.view(-1, 1, 1, 1) - latest
    value = torch.where(age < OLDEST_TAU * tau_us, (age.clamp(max=OLDEST_TAU * tau_us) / -tau_us).exp(), 0.0)
    return (value * 255 + 0.5).to(dtype) if dtype == torch.uint8 else value.to(dtype)


class _Cells:
    """The cells of a result: the bin and the pixel of each event, and whether it counts at all."""

    def __init__(self, events: EventTensors, start_us: int, end_us: int, steps: int, size: Size, crop: Crop) -> None:
        bin_bounds(start_us, end_us, steps)  # raises for an impossible window
        self.grid, self.steps = make_grid(events.width, events.height, size, crop), steps
        x0, y0, width, height = crop or (0, 0, events.width, events.height)
        self.pixels = self.grid.height * self.grid.width
        x, y, t, p = events.x.long() - x0, events.y.long() - y0, events.t, events.p
        self.bin = (t - start_us) * steps // (end_us - start_us)
        self.pixel = y * self.grid.height // height * self.grid.width + x * self.grid.width // width
        inside = (t >= start_us) & (t < end_us) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        self.inside = inside & (p >= 0) & (p <= 1)

    def shape(self, channels: int) -> tuple[int, int, int, int]:
        return self.steps, channels, self.grid.height, self.grid.width

    def count(self, channels: int) -> int:
        return self.steps * channels * self.pixels

    def index(self, cell: Tensor, channels: int) -> Tensor:
        """The cells of the events that count, the spare cell for the others."""
        return torch.where(self.inside, cell, self.count(channels))

    def sums(self, index: Tensor, channels: int, values: Tensor) -> Tensor:
        """The sum of the values in each cell, (T, channels, H, W)."""
        sums = torch.zeros(self.count(channels) + 1, dtype=values.dtype, device=values.device)
        return sums.index_add_(0, index, values)[:-1].view(self.shape(channels))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
