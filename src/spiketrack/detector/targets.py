"""Task-aligned targets: which location predicts which label, and how strongly.

Station: in come labels and the current predictions of a batch of time steps, out go targets for every location.
Source: TOOD (Feng et al., ICCV 2021), with the constants of SpikeYOLO's loss: of the locations inside a label the
ten with the largest score^0.5 * CIoU^6 > 0 are its own; a location claimed by several labels goes to the one that it
overlaps most.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class LabelBatch(NamedTuple):
    """Labels of N images (labelled time steps), padded to the M of the fullest.

    boxes: (N, M, 4) float32 xyxy in input pixels. classes: (N, M) int64. valid: (N, M) bool, False for padding.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor


class Targets(NamedTuple):
    """What every location should predict.

    positive: (N, A) bool. boxes: (N, A, 4) xyxy, input pixels, undefined where not positive. scores: (N, A, K), the
    aligned soft target of the label's class, 0 elsewhere.
    """

    positive: Tensor
    boxes: Tensor
    scores: Tensor


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of boxes that broadcast against each other (..., 4) xyxy: IoU - rho^2 / c^2 - alpha v.

    Source: Zheng et al., AAAI 2020, equations 6 to 11; alpha carries no gradient. Returns (...).
    """
    eps = 1e-7
    size_a, size_b = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = size_a[..., 0] * size_a[..., 1] + size_b[..., 0] * size_b[..., 1] - intersection
    iou = intersection / (union + eps)
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    distance = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(-1) / 4
    diagonal = hull.square().sum(-1) + eps
    angle_a = torch.atan(size_a[..., 0] / (size_a[..., 1] + eps))
    angle_b = torch.atan(size_b[..., 0] / (size_b[..., 1] + eps))
    v = (4 / math.pi**2) * (angle_a - angle_b).square()
    with torch.no_grad():
        alpha = v / (v - iou + 1 + eps)
    return iou - distance / diagonal - alpha * v


@torch.no_grad()
def task_aligned_targets(
    scores: Tensor, boxes: Tensor, points: Tensor, labels: LabelBatch, *, topk: int, alpha: float, beta: float
) -> Targets:
    """Assign labels to locations.

    scores: (N, A, K) in [0, 1]. boxes: (N, A, 4) predicted xyxy. points: (A, 2) centres of the locations. All in
    input pixels. An image without labels gets no positive location. Memory grows with N * M * A.
    """
    n, m = labels.valid.shape
    a = points.shape[0]
    if m == 0:
        return Targets(scores.new_zeros(n, a, dtype=torch.bool), torch.zeros_like(boxes), torch.zeros_like(scores))
    corners = labels.boxes[:, :, None]  # (N, M, 1, 4)
    inside = torch.cat([points - corners[..., :2], corners[..., 2:] - points], dim=-1).amin(-1) > 1e-9  # (N, M, A)
    inside &= labels.valid[..., None]
    class_scores = scores.gather(2, labels.classes[:, None].expand(n, a, m)).transpose(1, 2)  # (N, M, A)
    overlap = ciou(corners, boxes[:, None]).clamp_min(0) * inside  # (N, M, A)
    metric = class_scores.pow(alpha) * overlap.pow(beta) * inside

    best = metric.topk(min(topk, a), dim=-1).indices
    chosen = torch.zeros_like(inside).scatter_(2, best, True) & (metric > 0)
    # several labels claim a location: the largest CIoU wins
    owner = overlap.masked_fill(~chosen, -1).argmax(1)  # (N, A)
    positive = chosen.any(1)
    chosen &= torch.nn.functional.one_hot(owner, m).transpose(1, 2).bool()

    metric = metric * chosen
    strongest = metric.amax(-1, keepdim=True)  # (N, M, 1)
    largest_overlap = (overlap * chosen).amax(-1, keepdim=True)
    strength = (metric * largest_overlap / (strongest + 1e-9)).amax(1)  # (N, A)
    target_boxes = labels.boxes.gather(1, owner[..., None].expand(n, a, 4))
    target_classes = labels.classes.gather(1, owner)
    target_scores = torch.zeros_like(scores)
    target_scores.scatter_(2, target_classes[..., None], (strength * positive)[..., None])
    return Targets(positive, target_boxes, target_scores)
