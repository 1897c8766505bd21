"""Loss: what the predictions of every labelled time step cost.

Station: in come Predictions of all time steps and the labels of those that have some, out go named loss terms.
Source: SpikeYOLO's training loss (box 7.5 * CIoU, class 0.5 * BCE or focal, 1.5 * DFL), each normalised by the sum
of the target scores; here it is taken per time step, nothing is averaged over time first.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spiketrack.detector.decode import expected_sides, sides_to_boxes
from spiketrack.detector.spikeyolo import REG_MAX, Predictions
from spiketrack.detector.targets import LabelBatch, Targets, ciou, task_aligned_targets


class LossSettings(BaseModel):
    """Gains and forms of the loss terms, and the constants of the target assignment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box_gain: float = Field(7.5, ge=0, description="factor of the CIoU term")
    class_gain: float = Field(0.5, ge=0, description="factor of the class term")
    dfl_gain: float = Field(1.5, ge=0, description="factor of the distribution term")
    class_loss: Literal["bce", "focal"] = Field("bce", description="binary cross entropy, or focal")
    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent of the focal loss")
    focal_alpha: float = Field(0.25, gt=0, lt=1, description="weight of positive targets in the focal loss")
    topk: int = Field(10, ge=1, description="locations per label")
    align_alpha: float = Field(0.5, ge=0, description="exponent of the score in the alignment metric")
    align_beta: float = Field(6.0, ge=0, description="exponent of the CIoU in the alignment metric")


class LossTerms(NamedTuple):
    """The weighted terms (0-d tensors), their sum, and how many locations were positive."""

    total: Tensor
    box: Tensor
    classes: Tensor
    dfl: Tensor
    positives: Tensor


class DetectionLoss:
    """Loss of SpikeYOLO's predictions; holds settings only."""

    def __init__(self, settings: LossSettings) -> None:
        self.settings = settings

    def __call__(self, predictions: Predictions, labels: LabelBatch, labelled: Tensor) -> LossTerms:
        """labelled: (T, B) bool, the time steps that labels speak of; labels: N = labelled.sum() images in the
        order of `labelled` (time-major). Raises ValueError where the two do not agree."""
        settings = self.settings
        if labels.valid.shape[0] != int(labelled.sum()):
            raise ValueError(f"loss: {int(labelled.sum())} labelled steps, labels of {labels.valid.shape[0]}")
        features = predictions.features[labelled].float()  # (N, A, 4 * 16 + K)
        side_logits, class_logits = features.split([4 * REG_MAX, features.shape[-1] - 4 * REG_MAX], dim=-1)
        boxes = sides_to_boxes(expected_sides(side_logits), predictions.points, predictions.strides)
        targets = task_aligned_targets(
            class_logits.detach().sigmoid(),
            boxes.detach(),
            predictions.points,
            labels,
            topk=settings.topk,
            alpha=settings.align_alpha,
            beta=settings.align_beta,
        )
        norm = targets.scores.sum().clamp_min(1)
        classes = self._class_term(class_logits, targets.scores) / norm * settings.class_gain
        box, dfl = self._box_terms(boxes, side_logits, predictions, targets)
        box, dfl = box / norm * settings.box_gain, dfl / norm * settings.dfl_gain
        return LossTerms(box + classes + dfl, box, classes, dfl, targets.positive.sum())

    def _class_term(self, logits: Tensor, targets: Tensor) -> Tensor:
        settings = self.settings
        focal = (settings.focal_alpha, settings.focal_gamma) if settings.class_loss == "focal" else None
        return class_cost(logits, targets, focal).sum()

    def _box_terms(
        self, boxes: Tensor, side_logits: Tensor, predictions: Predictions, targets: Targets
    ) -> tuple[Tensor, Tensor]:
        """CIoU and distribution cost of the positive locations, weighted by their target scores, summed."""
        positive = targets.positive
        weight = targets.scores.sum(-1)[positive]  # (P,)
        target_boxes = targets.boxes[positive]
        box = ((1 - ciou(boxes[positive], target_boxes)) * weight).sum()
        place = positive.nonzero()[:, 1]
        points, strides = predictions.points[place], predictions.strides[place, None]
        sides = torch.cat([points - target_boxes[:, :2], target_boxes[:, 2:] - points], dim=-1) / strides
        cost = distribution_focal_loss(side_logits[positive].unflatten(-1, (4, REG_MAX)), sides)  # (P, 4)
        return box, (cost.mean(-1) * weight).sum()


def class_cost(logits: Tensor, targets: Tensor, focal: tuple[float, float] | None) -> Tensor:
    """Binary cross entropy of every location and class, or sigmoid focal loss (Lin et al., ICCV 2017) with focal =
    (alpha, gamma). logits, targets: (..., K), targets in 0 .. 1. Returns (..., K)."""
    cost = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if focal is not None:
        # p_t and alpha_t interpolate between the classes, so that soft targets are pushed the right way too
        alpha, gamma = focal
        p = logits.sigmoid()
        p_t = p * targets + (1 - p) * (1 - targets)
        alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
        cost = cost * alpha_t * (1 - p_t) ** gamma
    return cost


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy with the two bins next to the target, weighted by closeness (Li et al., NeurIPS 2020, eq. 6).

    logits: (..., 16). target: (...) in bins, clipped to 0 .. 14.99. Returns (...).
    """
    target = target.clamp(0, REG_MAX - 1 - 0.01)
    left = target.floor().long()
    log_p = logits.log_softmax(-1)
    right_weight = target - left
    at_left = log_p.gather(-1, left[..., None]).squeeze(-1)
    at_right = log_p.gather(-1, left[..., None] + 1).squeeze(-1)
    return -(at_left * (1 - right_weight) + at_right * right_weight)
