"""SSD targets: prior boxes, which label each of them should find, and how a box is written relative to its prior.

Station: in come the sizes of the maps and labels, out go priors and, for every prior, its label or none. Source: Liu et
al., ECCV 2016, section 2.2, with the constants of facts/models.md, A.4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spiketrack.detector.targets import LabelBatch

CODER_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Factors of x, y, width and height, that bring the offsets to about unit variance."""

MOST_GROWTH = 1000 / 16
"""No decoded side is longer than this many sides of its prior."""

AspectRatios = Sequence[Sequence[float]]


def priors_per_cell(aspect_ratios: AspectRatios) -> list[int]:
    """Per level: two squares, and two boxes for each ratio."""
    return [2 + 2 * len(ratios) for ratios in aspect_ratios]


def prior_boxes(
    shapes: Sequence[Sequence[int]],
    image: tuple[int, int],
    aspect_ratios: AspectRatios,
    scale_range: tuple[float, float],
    device: torch.device | None = None,
) -> Tensor:
    """Priors (A, 4) xyxy in pixels of the image; they may reach beyond it.

    shapes: (height, width) of every level's map. image: (height, width). scale_range: share of the image that a side
    of the first and of the last level takes, of its height and its width separately. Order: level, row, column, then
    (s, s), (s', s') with s' = sqrt(s s_next), and for each ratio r (s sqrt r, s / sqrt r) and its transpose.
    """
    least, most = scale_range
    scales = [least + (most - least) * k / (len(shapes) - 1) for k in range(len(shapes))] + [1.0]
    height, width = image
    levels = []
    for k, ((rows, columns), ratios) in enumerate(zip(shapes, aspect_ratios, strict=True)):
        between = math.sqrt(scales[k] * scales[k + 1])
        sizes = [(scales[k], scales[k]), (between, between)]
        for ratio in ratios:
            long, short = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
            sizes += [(long, short), (short, long)]
        half = torch.tensor(sizes, dtype=torch.float64).clamp(0, 1) / 2  # (A_k, 2) as width, height
        y = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)  # (rows * columns, 1, 2)
        levels.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
    pixels = torch.cat(levels) * torch.tensor([width, height, width, height], dtype=torch.float64)
    return pixels.to(device, torch.float32)


def encode_boxes(boxes: Tensor, priors: Tensor) -> Tensor:
    """Offsets (..., 4) of boxes xyxy relative to priors xyxy; those of a box without area are not finite.

    10 (x - x_p) / w_p, 10 (y - y_p) / h_p, 5 ln(w / w_p), 5 ln(h / h_p), where x, y is the centre.
    """
    centre, size = _centre_size(boxes)
    prior_centre, prior_size = _centre_size(priors)
    offsets = torch.cat([(centre - prior_centre) / prior_size, torch.log(size / prior_size)], dim=-1)
    return offsets * offsets.new_tensor(CODER_WEIGHTS)


def decode_boxes(offsets: Tensor, priors: Tensor) -> Tensor:
    """The inverse of `encode_boxes`; sides grow at most MOST_GROWTH times."""
    offsets = offsets / offsets.new_tensor(CODER_WEIGHTS)
    prior_centre, prior_size = _centre_size(priors)
    centre = prior_centre + offsets[..., :2] * prior_size
    half = prior_size * offsets[..., 2:].clamp(max=math.log(MOST_GROWTH)).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


class SSDTargets(NamedTuple):
    """What every prior should predict.

    positive: (N, A) bool. boxes: (N, A, 4) xyxy in pixels and classes: (N, A) int64 of the label that it should find,
    undefined where not positive.
    """

    positive: Tensor
    boxes: Tensor
    classes: Tensor


@torch.no_grad()
def match_priors(priors: Tensor, labels: LabelBatch, min_iou: float) -> SSDTargets:
    """Assign labels to priors.

    A prior takes the label that it overlaps most, if by an IoU of at least min_iou. Then every label takes the prior
    that overlaps it most, whatever that had; of two labels with the same prior the later one gets it. A label that
    overlaps no prior is lost. Memory grows with N * M * A.
    """
    n, m = labels.valid.shape
    if m == 0:
        none = torch.zeros(n, len(priors), dtype=torch.int64, device=priors.device)
        return SSDTargets(none.bool(), priors.expand(n, -1, 4), none)
    overlap = _iou(labels.boxes[:, :, None], priors) * labels.valid[..., None]  # (N, M, A)
    best_iou, owner = overlap.max(1)  # (N, A)
    owner = owner.masked_fill(best_iou < min_iou, -1)
    own_iou, own_prior = overlap.max(2)  # (N, M)
    label = torch.arange(m, device=priors.device).expand(n, m).masked_fill(own_iou <= 0, -1)
    forced = torch.full_like(owner, -1).scatter_reduce(1, own_prior, label, "amax")
    owner = torch.where(forced >= 0, forced, owner)
    index = owner.clamp_min(0)
    boxes = labels.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return SSDTargets(owner >= 0, boxes, labels.classes.gather(1, index))


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes that broadcast against each other, (..., 4) xyxy; 0 where the union has no area."""
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp_min(0)
    intersection = size[..., 0] * size[..., 1]
    areas = [(box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b)]
    union = areas[0] + areas[1] - intersection
    return torch.where(union > 0, intersection / union.clamp_min(torch.finfo(union.dtype).tiny), 0)
