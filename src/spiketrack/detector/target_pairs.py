"""Task-aligned targets on an accelerator: one ragged list of all pairs (label, location inside it), no loop.

Station: behind `targets.task_aligned_targets`; see there and docs/targets.md for what comes in and goes out. The same
rules as `target_kernels`, which the tests compare. Memory grows with the number of pairs. The host waits three times:
for the numbers of pairs, of claims and of positive locations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spiketrack.detector.targets import Grid, LabelBatch, ciou


class _Pairs(NamedTuple):
    """Q pairs, ordered by label, then location: label in 0 .. N * M - 1, image, location, (Q,) int64 each."""

    label: Tensor
    image: Tensor
    location: Tensor


def _span(low: Tensor, high: Tensor, stride: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """First cell and number of cells with low < (cell + 0.5) * stride < high; as target_kernels._span."""
    first = ((low / stride - 0.5).floor() + 1).nan_to_num().clamp_min(0).minimum(count)
    last = (high / stride - 0.5).ceil().nan_to_num().clamp_min(0).minimum(count)
    return first.long(), torch.where(low < high, last - first, 0).clamp_min(0).long()


def _pairs(grid: Grid, labels: LabelBatch) -> _Pairs:
    left, top, right, bottom = labels.boxes.double().reshape(-1, 4, 1).unbind(1)  # (N * M, 1) each
    first_column, columns = _span(left, right, grid.stride, grid.width)  # (N * M, L) each
    first_row, rows = _span(top, bottom, grid.stride, grid.height)
    count = (columns * rows * labels.valid.reshape(-1, 1)).flatten()  # (S,), of every label and level
    total = int(count.sum())
    every = torch.arange(len(count), device=count.device)
    segment = every.repeat_interleave(count, output_size=total)  # (Q,)
    within = torch.arange(total, device=count.device) - (count.cumsum(0) - count)[segment]
    columns = columns.flatten()[segment]
    row = first_row.flatten()[segment] + within // columns
    column = first_column.flatten()[segment] + within % columns
    levels = len(grid.stride)
    level, label = segment % levels, segment // levels
    return _Pairs(label, label // labels.valid.shape[1], grid.start[level] + row * grid.width[level] + column)


def mark(grid: Grid, labels: LabelBatch, locations: int) -> Tensor:
    """(N, A) bool: True where the centre is inside a label of the image."""
    inside = labels.valid.new_zeros(labels.valid.shape[0], locations)
    pairs = _pairs(grid, labels)
    inside[pairs.image, pairs.location] = True
    return inside


def assign(
    class_logits: Tensor, boxes: Tensor, grid: Grid, labels: LabelBatch, constants: tuple[int, float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four parts of an Assignment. class_logits: (N, A, K) and boxes: (N, A, 4), float32. constants: topk, alpha,
    beta."""
    topk, alpha, beta = constants
    label, image, location = _pairs(grid, labels)
    overlap = ciou(labels.boxes.double().flatten(0, 1)[label], boxes[image, location].double()).clamp_min(0)
    score = class_logits[image, location, labels.classes.flatten()[label]].double().sigmoid()
    metric, overlap = (score.pow(alpha) * overlap.pow(beta)).float(), overlap.float()
    metric = torch.where(metric > 0, metric, 0)  # NaN takes nobody's place

    order = metric.argsort(descending=True, stable=True)
    order = order[label[order].argsort(stable=True)]  # by label, largest metric first
    sizes = torch.bincount(label, minlength=labels.valid.numel())
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[label[order]]
    claims = order[(rank < topk) & (metric[order] > 0)]

    place = image * boxes.shape[1] + location
    claims = claims[overlap[claims].argsort(descending=True, stable=True)]
    claims = claims[place[claims].argsort(stable=True)]  # by place, largest overlap first, then the first label
    best = torch.ones_like(claims, dtype=torch.bool)
    best[1:] = place[claims[1:]] != place[claims[:-1]]
    won = claims[best]

    label, metric, overlap = label[won], metric[won], overlap[won]
    none = metric.new_zeros(labels.valid.numel())
    strongest = none.scatter_reduce(0, label, metric, "amax")
    largest = none.scatter_reduce(0, label, overlap, "amax")
    strength = metric * largest[label] / (strongest[label] + 1e-9)
    return image[won], location[won], label % labels.valid.shape[1], strength
