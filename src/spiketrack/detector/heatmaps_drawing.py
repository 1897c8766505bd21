"""Drawing of keypoint heatmaps: Gaussians, discs and what lies in them, for all maps of a batch at once.

Station: in come points and the centres of the cells, out go values written into given maps. N maps, each with the M
points that may be drawn into it, in the order of drawing. Everything goes by blocks of a bounded number of cells, so
that temporary memory does not grow with the maps. Nothing waits for a device: only the CPU looks at values.

Why windows are exact: float32 rounds exp(-a) to 0 for a > 103.98, and a cell further than sqrt(2 * 104) = 14.43
standard deviations from a point in x or in y alone has a > 103.99. Why a product of a factor in x and one in y can be
exact: it differs from the definition's float64 value by less than 2^-43 of it while a < 165 (5 roundings of a, 2 a of
the product, a rounding being 2^-53), so where 1 - 2^-42 and 1 + 2^-42 times the product round to the same float32, the
definition does too. The other cells are computed by its own steps. Of several points the nearest is drawn: the steps
are monotone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_UNDERFLOW = math.sqrt(2 * 104)  # standard deviations
_MARGIN = 2.0**-42


class Grid(NamedTuple):
    """Cells of a map. rows: (h,), columns: (w,) float64, centres in input pixels. stride: about their distance."""

    rows: Tensor
    columns: Tensor
    stride: float


class Points(NamedTuple):
    """y, x: (N, M) float64 in input pixels. visible: (N, M) bool, whether a point is drawn."""

    y: Tensor
    x: Tensor
    visible: Tensor


class Windows(NamedTuple):
    """A window of equal size about each of I = N * M points, moved into the map where it would stick out.

    rows: (I, dh), columns: (I, dw) int64. dy2: (I, dh), dx2: (I, dw) float64 squared distances, infinite for points
    that are not drawn. map: (I,) int64, which of the N maps. radius: input pixels that the window covers at least.
    """

    rows: Tensor
    columns: Tensor
    dy2: Tensor
    dx2: Tensor
    map: Tensor
    radius: float

    def squared_distances(self) -> Tensor:
        return self.dy2[:, :, None] + self.dx2[:, None, :]  # (I, dh, dw)

    def places(self, height: int, width: int, channels: int = 1) -> Tensor:
        """Places of the cells of the first channel in flattened (N, channels, height, width): (I, dh, dw)."""
        row = (self.map * (channels * height))[:, None] + self.rows
        return (row * width)[:, :, None] + self.columns[:, None, :]

    def blocks(self) -> Iterator[Windows]:
        """The same windows, as many at a time as keep temporary memory bounded."""
        cells = max(1, self.rows.shape[1] * self.columns.shape[1])
        step = max(1, _cells_at_once(self.rows.device) // cells)
        for begin in range(0, len(self.rows), step):
            part = slice(begin, begin + step)
            yield Windows(
                self.rows[part], self.columns[part], self.dy2[part], self.dx2[part], self.map[part], self.radius
            )


def disc_windows(points: Points, grid: Grid, radius: float) -> Windows:
    """Windows that hold every cell whose centre is at most `radius` input pixels from its point."""
    maps, members = points.x.shape
    visible = points.visible.reshape(-1, 1)
    y, dy2 = _stretch(points.y.reshape(-1, 1), visible, grid.rows, grid.stride, radius)
    x, dx2 = _stretch(points.x.reshape(-1, 1), visible, grid.columns, grid.stride, radius)
    return Windows(y, x, dy2, dx2, torch.arange(maps, device=x.device).repeat_interleave(members), radius)


def _stretch(place: Tensor, visible: Tensor, centres: Tensor, stride: float, radius: float) -> tuple[Tensor, Tensor]:
    """The cells of one axis within `radius` of each place (I, 1), and their squared distances: both (I, d)."""
    # Cell i has its centre in (i s + s/2 - 1, i s + s/2]: those within the radius are at most (2 r + 1) / s + 1.
    length = min(len(centres), math.floor(min((2 * radius + 1) / stride, len(centres))) + 3)
    first = ((place.nan_to_num(0.0) - radius) / stride - 0.5).floor_().clamp_(0, len(centres) - length)
    cells = first.long() + torch.arange(length, device=place.device)
    return cells, _squares(centres[cells], place, visible)


def _squares(centres: Tensor, place: Tensor, visible: Tensor) -> Tensor:
    return torch.where(visible, (centres - place).square_(), math.inf)


def _cells_at_once(device: torch.device) -> int:
    """Cells of a block: about what the cache of a core holds, or enough to keep an accelerator busy."""
    return 2**17 if device.type == "cpu" else 2**23


def _scalar(value: float, like: Tensor) -> Tensor:
    """A number on the device: a division by a plain number would become a product with its inverse on CUDA."""
    return torch.full((), value, dtype=torch.float64, device=like.device)


def draw_gaussians(heatmap: Tensor, points: Points, grid: Grid, *, std: float, exact: bool, zeroed: bool) -> None:
    """Draw exp(-d^2 / (2 std^2)), the largest of a map's points, into heatmap (N, h, w) float32.

    exact: in float64 by the definition's own steps (d is a root that is squared again), rounded once. Else the product
    of a factor in x and one in y, each computed in float64 and rounded to float32: at most 1.2e-7 off. zeroed: the
    heatmap is full of zeros. A map with a NaN among its visible points is NaN throughout.
    """
    maps, members = points.x.shape
    height, width = heatmap.shape[1:]
    if exact and heatmap.device.type == "cpu":
        windows = disc_windows(points, grid, std * _UNDERFLOW)
        # a cell of a window costs about four of the map: its index is made, and it is scattered
        if 4 * members * windows.rows.shape[1] * windows.columns.shape[1] <= height * width:
            if not zeroed:
                heatmap.zero_()
            _draw_gaussian_windows(heatmap, windows, std)
            heatmap[(points.visible & (points.y.isnan() | points.x.isnan())).any(1)] = math.nan
            return
    visible = points.visible[:, :, None]
    dy2 = _squares(grid.rows, points.y[:, :, None], visible)  # (N, M, h)
    dx2 = _squares(grid.columns, points.x[:, :, None], visible)  # (N, M, w)
    divisor = _scalar(-2 * std**2, dy2)
    if not exact:
        fy, fx = (dy2 / divisor).exp_().float(), (dx2 / divisor).exp_().float()
        if members == 1:
            torch.mul(fy[:, 0, :, None], fx[:, 0, None, :], out=heatmap)
            return
    budget = _cells_at_once(heatmap.device)
    map_step = max(1, budget // (members * height * width))
    row_step = min(height, max(1, budget // (members * width)))
    for n in range(0, maps, map_step):
        for r in range(0, height, row_step):
            some, band = slice(n, n + map_step), slice(r, r + row_step)
            if exact:
                values = _exact_gaussians(dy2[some, :, band], dx2[some], divisor)
            else:
                values = (fy[some, :, band, None] * fx[some, :, None, :]).amax(1)
            heatmap[some, band].copy_(values)


def _exact_gaussians(dy2: Tensor, dx2: Tensor, divisor: Tensor) -> Tensor:
    """The definition's values from squared distances (n, M, r) and (n, M, w), the largest over M: (n, r, w) float32."""
    if dy2.device.type != "cpu":  # to look which cells need a second look would be to wait for the device
        return _bell((dy2[..., None] + dx2[:, :, None]).amin(1), divisor).float()
    fy, fx = (dy2 / divisor).exp_()[..., None], (dx2 / divisor).exp_()[:, :, None]
    low, high = fy * (1 - _MARGIN) * fx, fy * (1 + _MARGIN) * fx  # (n, M, r, w)
    one = dy2.shape[1] == 1
    low, high = (low[:, 0], high[:, 0]) if one else (low.amax(1), high.amax(1))
    values = low.float()
    doubtful = (values != high.float()).view(-1).nonzero()[:, 0]
    rows, width = dy2.shape[2], dx2.shape[2]
    n, row, column = doubtful // (rows * width), doubtful // width % rows, doubtful % width
    nearest = (dy2[n, :, row] + dx2[n, :, column]).amin(1)
    values.view(-1)[doubtful] = _bell(nearest, divisor).float()
    return values


def _bell(squares: Tensor, divisor: Tensor) -> Tensor:
    """exp(-d^2 / (2 std^2)) in the given float64 memory: the root that is squared again may differ in the last bit."""
    return squares.sqrt_().square_().div_(divisor).exp_()


def _draw_gaussian_windows(heatmap: Tensor, windows: Windows, std: float) -> None:
    flat, divisor = heatmap.view(-1), _scalar(-2 * std**2, heatmap)
    alone = len(windows.map) == len(heatmap)
    for block in windows.blocks():
        values = _exact_gaussians(block.dy2[:, None], block.dx2[:, None], divisor)
        _scatter_largest(flat, block.places(*heatmap.shape[1:]), values, alone)


def _scatter_largest(flat: Tensor, index: Tensor, values: Tensor, alone: bool) -> None:
    """Raise the places of `flat` to the values; alone: no place is named twice and all are zero, so write them."""
    if alone:
        flat.scatter_(0, index.view(-1), values.view(-1))
    else:
        flat.scatter_reduce_(0, index.view(-1), values.view(-1), "amax")


def draw_discs(weights: Tensor, windows: Windows) -> None:
    """Write 1 where a Gaussian's d <= radius into both channels of weights (N, 2, h, w) int64 full of zeros."""
    height, width = weights.shape[2:]
    alone = len(windows.map) == len(weights)
    for block in windows.blocks():
        inside = (block.squared_distances().sqrt_().square_() <= block.radius**2).long()
        index = block.places(height, width, channels=2)
        _scatter_largest(weights.view(-1), index, inside, alone)
        _scatter_largest(weights.view(-1), index + height * width, inside, alone)


def draw_plateaus(
    heatmap: Tensor,
    locref: Tensor | None,
    weights: Tensor | None,
    points: Points,
    grid: Grid,
    *,
    radius: float,
    std: float,
) -> None:
    """Write 1 within the discs of heatmap (N, h, w) and, where given, offsets and ones into the locref maps.

    locref: (N, 2, h, w) float32, weights: (N, 2, h, w) int64, all full of zeros. Where discs overlap the later point
    owns the cell. Cells that several windows name get the same value from each, so their order is of no matter.
    """
    height, width = heatmap.shape[1:]
    windows = disc_windows(points, grid, radius)
    if locref is None or weights is None:
        for block in windows.blocks():
            inside = (block.squared_distances() <= block.radius**2).float()
            alone = len(windows.map) == len(heatmap)
            _scatter_largest(heatmap.view(-1), block.places(height, width), inside, alone)
        return
    members, area = points.x.shape[1], height * width
    order = torch.arange(1, members + 1, device=heatmap.device).repeat(len(heatmap))
    number = windows._replace(map=order)
    owners = weights.view(-1)  # holds the number of each cell's owner until the ones are written
    for block, numbered in zip(windows.blocks(), number.blocks(), strict=True):
        inside = block.squared_distances() <= block.radius**2
        index = block.places(height, width, channels=2)
        owners.scatter_reduce_(0, index.view(-1), (inside * numbered.map[:, None, None]).view(-1), "amax")
    divisor, xs, ys = _scalar(std, locref), points.x.reshape(-1), points.y.reshape(-1)
    for block in windows.blocks():
        index = block.places(height, width, channels=2)
        owner = owners[index]  # (I, dh, dw), from 1; 0 for none
        owned = owner > 0
        place = (block.map * members)[:, None, None] + (owner - 1).clamp_min_(0)
        x = torch.where(owned, (xs[place] - grid.columns[block.columns][:, None, :]) / divisor, 0.0)
        y = torch.where(owned, (ys[place] - grid.rows[block.rows][:, :, None]) / divisor, 0.0)
        locref.view(-1).scatter_(0, index.view(-1), x.float().view(-1))
        locref.view(-1).scatter_(0, (index + area).view(-1), y.float().view(-1))
        heatmap.view(-1).scatter_(0, block.places(height, width).view(-1), owned.float().view(-1))
    for block in windows.blocks():
        index = block.places(height, width, channels=2)
        ones = heatmap.view(-1)[block.places(height, width)].long().view(-1)
        owners.scatter_(0, index.view(-1), ones).scatter_(0, (index + area).view(-1), ones)
