"""Keypoint heatmap targets: what a heatmap head should say about keypoints, and where that counts.

Station: in come labelled keypoints of a batch and the size of the head's maps, out go heatmaps, offsets to the
keypoints ("locref") and the weights of both. Source: the targets that DeepLabCut 3.0.2 trains its HRNet heads with, bit
for bit in float64, its traps included; docs/targets.md spells the definition out and says what is exact.

Little differs from zero: discs of the locref weights, and Gaussians that float32 cannot tell from zero beyond 14.4
standard deviations. `heatmaps_drawing` draws those parts and leaves the rest untouched where that pays.
"""

from __future__ import annotations

import math
import mmap
import sys
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from spiketrack.detector.heatmaps_drawing import Grid, Points, disc_windows, draw_discs, draw_gaussians, draw_plateaus

_LARGE = 2**25  # bytes; what is smaller glibc keeps when it is freed, so that it is not fresh the next time


class HeatmapSettings(BaseModel):
    """How keypoints become heatmaps. The defaults are those of DeepLabCut's bottom-up heads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Literal["gaussian", "plateau"] = Field("gaussian", description="bell over the whole map, or a disc of ones")
    mode: Literal["keypoint", "individual"] = Field("keypoint", description="a map per keypoint, or one per individual")
    max_individuals: int | None = Field(None, ge=1, description="maps of mode individual")
    pos_dist_thresh: float = Field(17.0, gt=0, allow_inf_nan=False, description="radius of the disc, input pixels")
    generate_locref: bool = Field(True, description="offsets from the cells to the keypoint too")
    locref_std: float = Field(7.2801, gt=0, allow_inf_nan=False, description="input pixels that make an offset of 1")
    gradient_masking: bool = Field(False, description="a map with a keypoint of visibility 0 gets background_weight")
    background_weight: float = Field(0.0, description="weight of such a map")
    arithmetic: Literal["float64", "float32"] = Field("float64", description="float32: two ulp off, fewer operations")

    @model_validator(mode="after")
    def _individuals_are_counted(self) -> HeatmapSettings:
        if (self.mode == "individual") != (self.max_individuals is not None):
            raise ValueError("max_individuals belongs to mode 'individual', which needs it")
        return self

    @property
    def std(self) -> float:
        """Standard deviation of the Gaussian in input pixels: two thirds of the threshold."""
        return 2 * self.pos_dist_thresh / 3


class HeatmapTargets(NamedTuple):
    """Targets of B images with K maps of h x w cells.

    heatmap: (B, K, h, w) float32. heatmap_weights: (B, K, h, w) float32, one number a map, a view of (B, K) that takes
    no memory and cannot be written to. locref: (B, 2 K, h, w) float32, channel 2k the x and 2k + 1 the y offset from a
    cell to keypoint k over locref_std. locref_weights: (B, 2 K, h, w) int64, 1 near the keypoint, else 0. The last two
    are None without generate_locref.
    """

    heatmap: Tensor
    heatmap_weights: Tensor
    locref: Tensor | None
    locref_weights: Tensor | None


class LocrefCells(NamedTuple):
    """The cells whose locref weight is 1, P places a map, of which `valid` ones count; each cell stands there once.

    cell: (B, K, P) int64, row * w + column. offsets: (B, K, 2, P) float32, x and y, 0 where not valid.
    valid: (B, K, P) bool.
    """

    cell: Tensor
    offsets: Tensor
    valid: Tensor


@torch.no_grad()
def heatmap_targets(
    keypoints: Tensor,
    size: tuple[int, int],
    stride: float,
    settings: HeatmapSettings,
    individual_ids: Tensor | None = None,
    out: HeatmapTargets | None = None,
) -> HeatmapTargets:
    """Draw the targets of a batch, on the device of the keypoints, without waiting for it.

    keypoints: (B, A, K, 3), or (B, K, 3) for one animal: x, y in input pixels and visibility (> 0 drawn; 0 drawn
    nowhere, see gradient_masking; -1 takes the whole map out of the loss). With (..., 2) the second number is y *and*
    visibility, as in DeepLabCut. size: (h, w) of the maps. stride: input pixels per cell. individual_ids: (B, A)
    integers, mode individual only: the map of each animal; negative ones are ignored, of equal ones the last counts.
    out: targets of an earlier call with the same shapes, whose memory is written again; what it held is gone.

    A visible keypoint at NaN makes its Gaussian map NaN; a plateau does not show it. Keypoints off the picture are
    drawn as far as they reach into it. Raises ValueError for shapes that do not fit, and on the CPU for ids that have
    no map (other devices drop those: looking would mean waiting).
    """
    grid = _grid(size, stride, keypoints.device)
    points, weights = _points(keypoints, settings, individual_ids)
    shape = (len(keypoints), settings.max_individuals or keypoints.shape[-2], *size)
    heatmap, locref, locref_weights = _buffers(shape, settings, keypoints.device, out)

    maps, height, width = len(weights), *size
    flat = heatmap.view(maps, height, width)
    flat_locref = None if locref is None else locref.view(maps, 2, height, width)
    flat_weights = None if locref_weights is None else locref_weights.view(maps, 2, height, width)
    radius, std = settings.pos_dist_thresh, settings.locref_std
    if settings.shape == "plateau":
        draw_plateaus(flat, flat_locref, flat_weights, points, grid, radius=radius, std=std)
    else:
        exact = settings.arithmetic == "float64"
        draw_gaussians(flat, points, grid, std=settings.std, exact=exact, zeroed=out is None)
        if flat_locref is not None and flat_weights is not None:
            y_offset, x_offset = _offsets_of_last(points, grid, std)
            flat_locref[:, 0].copy_(x_offset[:, None, :].expand_as(flat))
            flat_locref[:, 1].copy_(y_offset[:, :, None].expand_as(flat))
            draw_discs(flat_weights, disc_windows(points, grid, radius))
    return HeatmapTargets(heatmap, weights.view(*shape[:2], 1, 1).expand(shape), locref, locref_weights)


@torch.no_grad()
def locref_cells(
    keypoints: Tensor,
    size: tuple[int, int],
    stride: float,
    settings: HeatmapSettings,
    individual_ids: Tensor | None = None,
) -> LocrefCells:
    """The same locref targets without the zeros: arguments and meaning as in `heatmap_targets`.

    A loss over these cells equals the weighted loss over the maps; the record is 1,000 times smaller at 513 x 641.
    """
    grid = _grid(size, stride, keypoints.device)
    points, _ = _points(keypoints, settings, individual_ids)
    (maps, members), width, nowhere = points.x.shape, size[1], size[0] * size[1]
    windows = disc_windows(points, grid, settings.pos_dist_thresh)
    squares, gaussian = windows.squared_distances(), settings.shape == "gaussian"
    inside = (squares.sqrt().square() if gaussian else squares) <= windows.radius**2  # (N * M, dh, dw)
    cell = windows.rows[:, :, None] * width + windows.columns[:, None, :]
    places = members * cell.shape[1] * cell.shape[2]

    # by cell, then by member: the last of a cell's places is its owner
    member = torch.arange(members, device=cell.device).repeat(maps)[:, None, None]
    key = (torch.where(inside, cell, nowhere) * members + member).view(maps, places).sort().values
    cell, owner = key // members, key % members
    following = torch.cat([cell[:, 1:], cell.new_full((maps, 1), -1)], dim=1)
    valid = (cell != following) & (cell != nowhere)
    cell = torch.where(valid, cell, 0)
    row, column = cell // width, cell % width
    if gaussian:
        y_offset, x_offset = _offsets_of_last(points, grid, settings.locref_std)
        y, x = y_offset.gather(1, row), x_offset.gather(1, column)
    else:
        divisor = torch.full((), settings.locref_std, dtype=torch.float64, device=cell.device)
        y = ((points.y.gather(1, owner) - grid.rows[row]) / divisor).float()
        x = ((points.x.gather(1, owner) - grid.columns[column]) / divisor).float()
    offsets = torch.where(valid[:, None], torch.stack([x, y], dim=1), 0.0)  # (N, 2, P)
    shape = (len(keypoints), settings.max_individuals or keypoints.shape[-2])
    return LocrefCells(cell.view(*shape, places), offsets.view(*shape, 2, places), valid.view(*shape, places))


def _grid(size: tuple[int, int], stride: float, device: torch.device) -> Grid:
    """Centres of the cells in input pixels, cut to whole numbers as the definition cuts them."""
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"heatmaps need a size (height, width) of at least 1 x 1, got {height} x {width}")
    if not (math.isfinite(stride) and stride > 0):
        raise ValueError(f"stride must be a finite number of input pixels above 0, got {stride}")
    cells = torch.arange(max(height, width), dtype=torch.float64, device=device)
    centres = (cells * stride + stride / 2).trunc_()
    return Grid(centres[:height], centres[:width], stride)


def _points(keypoints: Tensor, settings: HeatmapSettings, ids: Tensor | None) -> tuple[Points, Tensor]:
    """The points of every map in the order of drawing (N = B * K maps), and the weight of every map (N,)."""
    if keypoints.dim() not in (3, 4) or keypoints.shape[-1] not in (2, 3):
        shape = tuple(keypoints.shape)
        raise ValueError(f"keypoints must be (B, A, K, 3) or (B, K, 3): x, y, visibility (or 2 for 3); got {shape}")
    keypoints = keypoints.to(torch.float64)
    if keypoints.dim() == 3:
        keypoints = keypoints[:, None]
    images, animals, joints, numbers = keypoints.shape
    if settings.mode == "keypoint":
        if ids is not None:
            raise ValueError("individual_ids belong to mode 'individual'; the settings say mode 'keypoint'")
        members = keypoints.transpose(1, 2).reshape(images * joints, animals, numbers)
    else:
        place = keypoints.device
        if ids is None or ids.shape != (images, animals) or ids.is_floating_point() or ids.device != place:
            got = "none" if ids is None else f"{tuple(ids.shape)} {ids.dtype} on {ids.device}"
            raise ValueError(
                f"mode 'individual' needs individual_ids, ({images}, {animals}) ints on {place}; got {got}"
            )
        members = _by_individual(keypoints, ids, settings.max_individuals or 0)
    if members.shape[1] == 0:
        members = members.new_full((len(members), 1, numbers), math.nan)  # draws nothing, weighs nothing
    visibility = members[..., -1]  # (N, M)

    # the last point that says something about the weight of its map decides
    hidden, absent = visibility == 0, visibility == -1
    says = absent | hidden if settings.gradient_masking else absent
    last = _last(says)
    weight = torch.where(hidden, settings.background_weight, 0.0).float().gather(1, last.clamp_min(0)[:, None])[:, 0]
    weight = torch.where(last >= 0, weight, 1.0)
    return Points(members[..., 1], members[..., 0], visibility > 0), weight


def _by_individual(keypoints: Tensor, ids: Tensor, maps: int) -> Tensor:
    """The keypoints of each individual in the order of ids: (B * maps, K, 3), -1 throughout for absent ones."""
    images, _, joints, numbers = keypoints.shape
    if ids.device.type == "cpu" and bool((ids >= maps).any()):
        raise ValueError(f"individual_ids reach {int(ids.max())}, but max_individuals is {maps}: ids start at 0")
    filled = torch.cat([keypoints.new_full((images, 1, joints, numbers), -1), keypoints], dim=1)
    same = ids[:, None, :] == torch.arange(maps, device=ids.device)[None, :, None]  # (B, maps, A)
    source = _last(torch.cat([same.new_ones(images, maps, 1), same], dim=2))
    source = source[:, :, None, None].expand(images, maps, joints, numbers)
    return filled.gather(1, source).reshape(images * maps, joints, numbers)


def _last(flags: Tensor) -> Tensor:
    """Index of the last true flag along the last axis, -1 where none is: (..., M) -> (...)."""
    count = torch.arange(1, flags.shape[-1] + 1, device=flags.device)
    return (flags * count).amax(-1) - 1


def _offsets_of_last(points: Points, grid: Grid, std: float) -> tuple[Tensor, Tensor]:
    """Offsets to the last visible point of each map over std, (N, h) in y and (N, w) in x, float32; 0 where none is."""
    last = _last(points.visible)[:, None]
    divisor = torch.full((), std, dtype=torch.float64, device=last.device)  # CUDA multiplies by the inverse of a number
    y, x = points.y.gather(1, last.clamp_min(0)), points.x.gather(1, last.clamp_min(0))
    y_offset = torch.where(last >= 0, (y - grid.rows) / divisor, 0.0).float()
    return y_offset, torch.where(last >= 0, (x - grid.columns) / divisor, 0.0).float()


def _buffers(
    shape: tuple[int, int, int, int], settings: HeatmapSettings, device: torch.device, out: HeatmapTargets | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Memory for the heatmap and the locref maps, new or that of `out`; zero where only some cells will be written."""
    double = (shape[0], 2 * shape[1], *shape[2:])
    if out is None:
        plateau = settings.shape == "plateau"
        heatmap = _fresh(shape, torch.float32, device, plateau or settings.arithmetic == "float64")
        if not settings.generate_locref:
            return heatmap, None, None
        return heatmap, _fresh(double, torch.float32, device, plateau), _fresh(double, torch.int64, device, True)
    wanted: list[tuple[str, Tensor | None, tuple[int, ...], torch.dtype]] = [
        ("heatmap", out.heatmap, shape, torch.float32)
    ]
    if settings.generate_locref:
        wanted += [
            ("locref", out.locref, double, torch.float32),
            ("locref_weights", out.locref_weights, double, torch.int64),
        ]
    for name, buffer, size, dtype in wanted:
        fits = buffer is not None and buffer.shape == size and buffer.dtype == dtype and buffer.device == device
        if buffer is None or not fits or not buffer.is_contiguous():
            got = None if buffer is None else f"{tuple(buffer.shape)} {buffer.dtype} on {buffer.device}"
            raise ValueError(f"out.{name} must be {size} {dtype} on {device}, contiguous; got {got}")
    # a Gaussian's heatmap and locref are written in every cell
    drawn = wanted if settings.shape == "plateau" else wanted[2:]
    for _, buffer, _, _ in drawn:
        if buffer is not None:
            buffer.zero_()
    return (out.heatmap, out.locref, out.locref_weights) if settings.generate_locref else (out.heatmap, None, None)


def _fresh(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, sparse: bool) -> Tensor:
    """Memory full of zeros where sparse, else of anything.

    On the CPU large dense maps get huge pages through NumPy; of large sparse ones only pages written to come at all.
    """
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < _LARGE:
        return (torch.zeros if sparse else torch.empty)(shape, dtype=dtype, device=device)
    if sparse and sys.platform == "linux":
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return torch.frombuffer(pages, dtype=dtype).view(shape)
    kind = np.float32 if dtype == torch.float32 else np.int64
    return torch.from_numpy((np.zeros if sparse else np.empty)(shape, dtype=kind))
