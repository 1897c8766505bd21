"""SSD loss: what offsets and logits of every labelled time step cost.

Station: in come SSDPredictions of all time steps and the labels of those that have some, out go named loss terms.
Source: facts/models.md, A.4: smooth L1 (beta 1) of the positive priors' offsets and sigmoid focal loss (Lin et al.,
ICCV 2017) of all priors and classes, both over the number of positive priors. Mining of hard negatives (Liu et al.,
ECCV 2016, section 2.2) is an option: only the background priors that cost most count, so many for each positive one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spiketrack.detector.loss import Total, class_cost, of_one_process
from spiketrack.detector.ssd import SSDPredictions
from spiketrack.detector.ssd_match import SSDTargets, encode_boxes, match_priors
from spiketrack.detector.targets import LabelBatch


class SSDLossSettings(BaseModel):
    """Gains and forms of the loss terms, and the threshold of the matching."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box_gain: float = Field(1.0, ge=0, description="factor of the smooth L1 term")
    class_gain: float = Field(1.0, ge=0, description="factor of the class term")
    match_iou: float = Field(0.5, gt=0, le=1, description="least overlap at which a prior takes a label")
    class_loss: Literal["bce", "focal"] = Field("focal", description="binary cross entropy, or focal")
    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent of the focal loss")
    focal_alpha: float = Field(0.25, gt=0, lt=1, description="weight of positive targets in the focal loss")
    hard_negatives: float | None = Field(
        None, gt=0, description="background priors for each positive one of an image, those that cost most; null: all"
    )


class SSDLossTerms(NamedTuple):
    """The weighted terms (0-d tensors), their sum, and how many priors were positive."""

    total: Tensor
    box: Tensor
    classes: Tensor
    positives: Tensor


class SSDLoss:
    """Loss of SSD's predictions; holds settings only. total: as of DetectionLoss."""

    def __init__(self, settings: SSDLossSettings, total: Total = of_one_process) -> None:
        self.settings, self.total = settings, total

    def __call__(self, predictions: SSDPredictions, labels: LabelBatch, labelled: Tensor) -> SSDLossTerms:
        """labelled: (T, B) bool, the time steps that labels speak of; labels: N = labelled.sum() images in the
        order of `labelled` (time-major), boxes with area. Raises ValueError where the two do not agree."""
        settings = self.settings
        if labels.valid.shape[0] != int(labelled.sum()):
            raise ValueError(f"loss: {int(labelled.sum())} labelled steps, labels of {labels.valid.shape[0]}")
        offsets, logits = predictions.offsets[labelled].float(), predictions.logits[labelled].float()  # (N, A, .)
        targets = match_priors(predictions.priors, labels, settings.match_iou)
        positives = targets.positive.sum()
        norm = self.total(positives).clamp_min(1)
        priors = predictions.priors.expand(len(offsets), -1, 4)[targets.positive]
        wanted = encode_boxes(targets.boxes[targets.positive], priors)
        box = F.smooth_l1_loss(offsets[targets.positive], wanted, reduction="sum") / norm * settings.box_gain
        classes = self._class_term(logits, targets) / norm * settings.class_gain
        return SSDLossTerms(box + classes, box, classes, positives)

    def _class_term(self, logits: Tensor, targets: SSDTargets) -> Tensor:
        settings = self.settings
        wanted = F.one_hot(targets.classes, logits.shape[-1]) * targets.positive[..., None].to(logits.dtype)
        focal = (settings.focal_alpha, settings.focal_gamma) if settings.class_loss == "focal" else None
        cost = class_cost(logits, wanted, focal)  # (N, A, K)
        if settings.hard_negatives is None:
            return cost.sum()
        per_prior = cost.sum(-1)  # (N, A)
        return (per_prior * (targets.positive | hardest(per_prior, targets.positive, settings.hard_negatives))).sum()


@torch.no_grad()
def hardest(cost: Tensor, positive: Tensor, ratio: float) -> Tensor:
    """Per image the background priors of the largest cost: `ratio` for each positive one, and as many for none.

    cost, positive: (N, A). Returns (N, A) bool.
    """
    wanted = (positive.sum(1, keepdim=True).clamp_min(1) * ratio).long()  # (N, 1)
    order = cost.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return (rank < wanted) & ~positive
