"""Task-aligned targets: which location predicts which label, and how strongly.

Station: in come labels and the current predictions of a batch of time steps, out go the positive locations, each with
its label. Source: TOOD (Feng et al., ICCV 2021), with the constants of SpikeYOLO's loss: of the locations inside a
label the ten with the largest metric = score^0.5 * CIoU^6 > 0 are its own; a location claimed by several labels goes to
the one that it overlaps most. docs/targets.md has the rules for equals.

A label looks at the locations inside its box and at no other: `target_kernels` in a loop on the CPU, `target_pairs`
with one list of all (label, location inside it) on other devices. Both give the same assignment.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from spiketrack.detector.spikeyolo import STRIDES

Overlap = Literal["ciou", "iou", "giou", "diou"]


class LabelBatch(NamedTuple):
    """Labels of N images (labelled time steps), padded to the M of the fullest.

    boxes: (N, M, 4) float32 xyxy in input pixels. classes: (N, M) int64. valid: (N, M) bool, False for padding.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor


class Grid(NamedTuple):
    """How the A locations lie: per level (L,) int64 the first location, width and height in cells, and the stride.

    Location start + row * width + column of a level has its centre at ((column + 0.5) * stride, (row + 0.5) * stride).
    """

    start: Tensor
    width: Tensor
    height: Tensor
    stride: Tensor

    @classmethod
    def of(cls, points: Tensor, strides: Tensor) -> Grid:
        """The grid of `spikeyolo.locations`, from centres (A, 2) and strides (A,), without asking the device."""
        stride = strides.new_tensor(STRIDES)
        own = strides == stride[:, None]  # (L, A)
        count = own.sum(1)
        width = (own & (points[:, 1] == stride[:, None] / 2)).sum(1)
        return cls(count.cumsum(0) - count, width, count // width, stride.long())


class Assignment(NamedTuple):
    """The P positive locations, by image, then by location; no location stands there twice.

    image: (P,) int64 in 0 .. N - 1. location: (P,) int64 in 0 .. A - 1. label: (P,) int64 in 0 .. M - 1, of its image.
    strength: (P,) float32, the target score of the label's class; that of every other class and location is 0.
    """

    image: Tensor
    location: Tensor
    label: Tensor
    strength: Tensor

    def dense(self, labels: LabelBatch, locations: int, classes: int) -> Targets:
        """The same as one row per location."""
        n = labels.valid.shape[0]
        boxes = labels.boxes.new_zeros(n, locations, 4)
        scores = self.strength.new_zeros(n, locations, classes)
        positive = torch.zeros_like(scores[..., 0], dtype=torch.bool)
        positive[self.image, self.location] = True
        boxes[self.image, self.location] = labels.boxes[self.image, self.label]
        scores[self.image, self.location, labels.classes[self.image, self.label]] = self.strength
        return Targets(positive, boxes, scores)


class Targets(NamedTuple):
    """What every location should predict.

    positive: (N, A) bool. boxes: (N, A, 4) xyxy, input pixels, 0 where not positive. scores: (N, A, K), the aligned
    soft target of the label's class, 0 elsewhere.
    """

    positive: Tensor
    boxes: Tensor
    scores: Tensor


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of boxes that broadcast against each other (..., 4) xyxy: IoU - rho^2 / c^2 - alpha v.

    Source: Zheng et al., AAAI 2020, equations 6 to 11; alpha carries no gradient. Returns (...).
    """
    return box_overlap(a, b, "ciou")


def box_overlap(a: Tensor, b: Tensor, kind: Overlap) -> Tensor:
    """IoU of boxes that broadcast against each other (..., 4) xyxy, less a penalty. Returns (...).

    giou: of the hull's empty part (Rezatofighi et al., CVPR 2019); diou: of the distance of the centres; ciou: of that
    and of the shapes (Zheng et al., AAAI 2020).
    """
    eps = 1e-7
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = size_a[..., 0] * size_a[..., 1] + size_b[..., 0] * size_b[..., 1] - intersection
    iou = intersection / (union + eps)
    if kind == "iou":
        return iou
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    if kind == "giou":
        area = hull[..., 0] * hull[..., 1]
        return iou - (area - union) / (area + eps)
    distance = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(-1) / 4
    diagonal = hull.square().sum(-1) + eps
    if kind == "diou":
        return iou - distance / diagonal
    angle_a = torch.atan(size_a[..., 0] / (size_a[..., 1] + eps))
    angle_b = torch.atan(size_b[..., 0] / (size_b[..., 1] + eps))
    v = (4 / math.pi**2) * (angle_a - angle_b).square()
    with torch.no_grad():
        alpha = v / (v - iou + 1 + eps)
    return iou - distance / diagonal - alpha * v


@torch.no_grad()
def task_aligned_targets(
    class_logits: Tensor, boxes: Tensor, grid: Grid, labels: LabelBatch, *, topk: int, alpha: float, beta: float
) -> Assignment:
    """Assign labels to locations.

    class_logits: (N, A, K). boxes: (N, A, 4) predicted xyxy in input pixels, of which only those of
    `locations_inside` are read. Memory grows with N * A and N * M * topk, and not on the CPU with the size of labels.
    Raises ValueError for a label of a class that there is no logit for (elsewhere than on the CPU the device does).
    """
    n, m = labels.valid.shape
    if n * m == 0:
        none = labels.classes.new_zeros(0)
        return Assignment(none, none, none, boxes.new_zeros(0, dtype=torch.float32))
    if boxes.device.type == "cpu":
        from spiketrack.detector.target_kernels import assign
    else:
        from spiketrack.detector.target_pairs import assign
    return Assignment(*assign(class_logits.float(), boxes.float(), grid, labels, (topk, alpha, beta)))


def locations_inside(grid: Grid, labels: LabelBatch, locations: int) -> tuple[Tensor, Tensor]:
    """Image and location, (U,) int64 each, of all locations with their centre inside a label, each once, in order."""
    if labels.valid.device.type == "cpu":
        from spiketrack.detector.target_kernels import mark
    else:
        from spiketrack.detector.target_pairs import mark
    image, location = mark(grid, labels, locations).nonzero(as_tuple=True)
    return image, location
