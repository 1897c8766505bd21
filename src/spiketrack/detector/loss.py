"""Loss: what the predictions of every labelled time step cost.

Station: in come Predictions of all time steps and the labels of those that have some, out go named loss terms.
Source: SpikeYOLO's training loss (box 7.5 * CIoU, class 0.5 * BCE or focal, 1.5 * DFL), each normalised by the sum
of the target scores; here it is taken per time step, nothing is averaged over time first.

Nearly all locations are background. Their class cost is one sum over all logits; what the positive ones cost
otherwise, and all of the box, is computed for the positive locations only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiketrack.detector.decode import expected_sides, sides_to_boxes
from spiketrack.detector.spikeyolo import REG_MAX, Predictions
from spiketrack.detector.targets import (
    Assignment,
    Grid,
    LabelBatch,
    Overlap,
    box_overlap,
    locations_inside,
    task_aligned_targets,
)
from spiketrack.errors import SettingsError

SIDES = 4 * REG_MAX  # features of a location: the logits of its sides, then those of its classes
ROWS_IN_CACHE = 4096

Total = Callable[[Tensor], Tensor]
"""What a loss is divided by, from this process's share of the batch to the whole."""


def of_one_process(tensor: Tensor) -> Tensor:
    """The total where one process has the whole batch."""
    return tensor


class LossSettings(BaseModel):
    """Gains and forms of the loss terms, and the constants of the target assignment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box_gain: float = Field(7.5, ge=0, description="factor of the CIoU term")
    box_overlap: Overlap = Field("ciou", description="overlap that the box term is 1 minus of")
    class_gain: float = Field(0.5, ge=0, description="factor of the class term")
    dfl_gain: float = Field(1.5, ge=0, description="factor of the distribution term")
    class_loss: Literal["bce", "focal"] = Field("bce", description="binary cross entropy, or focal")
    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent of the focal loss")
    focal_alpha: float = Field(0.25, gt=0, lt=1, description="weight of positive targets in the focal loss")
    background_gain: float = Field(
        1.0, ge=0, description="factor, within the class term, of all logits of which no object is the reason"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="e: of the target of a positive location its own class gets 1 - e + e / K, the others e / K",
    )
    class_weights: tuple[NonNegativeFloat, ...] = Field(
        (), description="factor of the class term of each class at its positive locations; none: 1"
    )
    topk: int = Field(10, ge=1, description="locations per label")
    align_alpha: float = Field(0.5, ge=0, description="exponent of the score in the alignment metric")
    align_beta: float = Field(6.0, ge=0, description="exponent of the CIoU in the alignment metric")

    @property
    def focal(self) -> tuple[float, float] | None:
        """Alpha and gamma of the focal loss, None for binary cross entropy."""
        return (self.focal_alpha, self.focal_gamma) if self.class_loss == "focal" else None


class LossTerms(NamedTuple):
    """The weighted terms (0-d tensors), their sum, and how many locations were positive.

    background: the part of `classes` that logits cost which no object is the reason of.
    """

    total: Tensor
    box: Tensor
    classes: Tensor
    dfl: Tensor
    positives: Tensor
    background: Tensor


class LabelledSteps(NamedTuple):
    """What the loss reads of the predictions.

    features: (S, A, 4 * 16 + K) of all S = T * B images. images: (N,) int64, which of them are labelled.
    class_logits: (N, A, K) of the labelled ones, float32 at least, contiguous, without gradient.
    """

    features: Tensor
    images: Tensor
    class_logits: Tensor

    @classmethod
    def of(cls, features: Tensor, labelled: Tensor) -> LabelledSteps:
        """features: (T, B, A, 4 * 16 + K). labelled: (T, B) bool."""
        features = features.flatten(0, 1)
        images = labelled.flatten().nonzero().squeeze(1)
        logits = features.detach()[..., SIDES:]
        logits = logits if len(images) == len(logits) else logits[images]
        return cls(features, images, _at_least_float32(logits).contiguous())


class DetectionLoss:
    """Loss of SpikeYOLO's predictions; holds settings only.

    total: the sum of a number over all processes that share a batch, with which each gives its part of the loss.
    """

    def __init__(self, settings: LossSettings, total: Total = of_one_process) -> None:
        self.settings, self.total = settings, total

    def __call__(self, predictions: Predictions, labels: LabelBatch, labelled: Tensor) -> LossTerms:
        """labelled: (T, B) bool, the time steps that labels speak of; labels: N = labelled.sum() images in the
        order of `labelled` (time-major). Raises ValueError where the two do not agree. The total is not finite if a
        class logit is not, or a box inside a label."""
        return self.with_assignment(predictions, labels, labelled)[0]

    def with_assignment(
        self, predictions: Predictions, labels: LabelBatch, labelled: Tensor
    ) -> tuple[LossTerms, Assignment]:
        """The loss, and the positive locations with the label of each."""
        steps = LabelledSteps.of(predictions.features, labelled)
        if labels.valid.shape[0] != len(steps.images):
            raise ValueError(f"loss: {len(steps.images)} labelled steps, labels of {labels.valid.shape[0]}")
        grid = Grid.of(predictions.points, predictions.strides)
        boxes = boxes_inside(steps, predictions, labels, grid)
        assignment = self.assign(steps, boxes, labels, grid)
        terms = self.terms(steps, predictions, labels, assignment)
        # a prediction that is not finite is never positive; the loss must not be finite either
        return terms._replace(total=terms.total + 0 * boxes.sum()), assignment

    def assign(self, steps: LabelledSteps, boxes: Tensor, labels: LabelBatch, grid: Grid) -> Assignment:
        """Which location predicts which label, by what the predictions are now. boxes: those of `boxes_inside`."""
        settings = self.settings
        return task_aligned_targets(
            steps.class_logits,
            boxes,
            grid,
            labels,
            topk=settings.topk,
            alpha=settings.align_alpha,
            beta=settings.align_beta,
        )

    def terms(
        self, steps: LabelledSteps, predictions: Predictions, labels: LabelBatch, assignment: Assignment
    ) -> LossTerms:
        """The loss against a given assignment."""
        settings, (image, place, label, weight) = self.settings, assignment
        background, rows = _Background.apply(*steps, image, place, settings.focal)  # 0-d and (P, 4 * 16 + K)
        norm = self.total(weight.sum()).clamp_min(1)

        cost, unobjected = self._class_costs(rows[:, SIDES:], labels.classes[image, label], weight)
        # of the positive locations the class of the label is no background
        classes = (background * settings.background_gain + (cost - unobjected * settings.background_gain).sum()) / norm
        classes = classes * settings.class_gain
        nothing = (background - unobjected.sum()).detach() / norm * settings.background_gain * settings.class_gain

        wanted = labels.boxes[image, label]  # (P, 4)
        overlap = box_overlap(_boxes(rows, place, predictions), wanted, settings.box_overlap)
        box = ((1 - overlap) * weight).sum() / norm * settings.box_gain
        points, strides = predictions.points[place], predictions.strides[place, None]
        sides = torch.cat([points - wanted[:, :2], wanted[:, 2:] - points], dim=-1) / strides
        cost = distribution_focal_loss(rows[:, :SIDES].unflatten(-1, (4, REG_MAX)), sides)  # (P, 4)
        dfl = (cost.mean(-1) * weight).sum() / norm * settings.dfl_gain
        positives = torch.tensor(len(image), device=image.device)
        return LossTerms(box + classes + dfl, box, classes, dfl, positives, nothing)

    def _class_costs(self, logits: Tensor, classes: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """What the logits (P, K) of positive locations cost that an object is the reason of, and what they would cost
        as background: (P,) each, of the label's class alone, or (P, K) with label smoothing."""
        settings, k = self.settings, logits.shape[1]
        if settings.label_smoothing:
            wanted = F.one_hot(classes, k) * (1 - settings.label_smoothing) + settings.label_smoothing / k
            wanted = wanted * weight[:, None]
        else:
            logits, wanted = logits.gather(1, classes[:, None]).squeeze(1), weight
        cost = class_cost(logits, wanted.to(logits), settings.focal)
        if settings.class_weights:
            if len(settings.class_weights) != k:
                raise SettingsError(f"training.loss.class_weights: {len(settings.class_weights)} for {k} classes")
            factors = logits.new_tensor(settings.class_weights)[classes]
            cost = cost * factors.view(-1, *[1] * (cost.ndim - 1))
        return cost, class_cost(logits, torch.zeros_like(logits), settings.focal)


@torch.no_grad()
def boxes_inside(steps: LabelledSteps, predictions: Predictions, labels: LabelBatch, grid: Grid) -> Tensor:
    """Predicted boxes (N, A, 4) of the locations inside a label, 0 for all others; without gradient."""
    n, a = steps.class_logits.shape[:2]
    boxes = steps.class_logits.new_zeros(n, a, 4)
    inside = locations_inside(grid, labels, a)
    piece = ROWS_IN_CACHE if boxes.device.type == "cpu" else max(len(inside[0]), 1)
    for image, place in zip(*(part.split(piece) for part in inside), strict=True):
        boxes[image, place] = _boxes(steps.features[steps.images[image], place], place, predictions)
    return boxes


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _boxes(rows: Tensor, place: Tensor, predictions: Predictions) -> Tensor:
    """Boxes (P, 4) that rows (P, 4 * 16 + K) of locations `place` predict."""
    sides = expected_sides(_at_least_float32(rows[:, :SIDES]))
    return sides_to_boxes(sides, predictions.points[place], predictions.strides[place])


class _Background(torch.autograd.Function):
    """Class cost of all labelled images as if no location were positive, and the features of those that are.

    One function, because its gradient is one tensor of the size of the features, filled once: nothing but the class
    logits and the rows of the positive locations gets any. (image, place) are all different.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        images: Tensor,
        class_logits: Tensor,
        image: Tensor,
        place: Tensor,
        focal: tuple[float, float] | None,
    ) -> tuple[Tensor, Tensor]:
        rows = images[image]
        ctx.save_for_backward(features, images, class_logits, rows, place)
        ctx.focal = focal
        return _background_cost(class_logits, focal).sum(), _at_least_float32(features[rows, place])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, background: Tensor, positive: Tensor) -> tuple[Tensor | None, ...]:
        features, images, class_logits, rows, place = ctx.saved_tensors
        grad = torch.zeros_like(features)
        slope = _background_slope(class_logits, ctx.focal).mul_(background).to(grad.dtype)
        if len(images) == len(grad):
            grad[..., SIDES:] = slope
        else:
            grad[..., SIDES:][images] = slope
        grad[rows, place] += positive.to(grad.dtype)
        return grad, None, None, None, None, None


def _background_cost(logits: Tensor, focal: tuple[float, float] | None) -> Tensor:
    """class_cost for targets of 0."""
    cost = F.softplus(logits)
    if focal is not None:
        alpha, gamma = focal
        cost *= logits.sigmoid().pow_(gamma).mul_(1 - alpha)
    return cost


def _background_slope(logits: Tensor, focal: tuple[float, float] | None) -> Tensor:
    """Derivative of _background_cost by the logits."""
    p = logits.sigmoid()
    if focal is None:
        return p
    alpha, gamma = focal
    return (F.softplus(logits).mul_(1 - p).mul_(gamma) + p).mul_(p.pow_(gamma)).mul_(1 - alpha)


def class_cost(logits: Tensor, targets: Tensor, focal: tuple[float, float] | None) -> Tensor:
    """Binary cross entropy of every location and class, or sigmoid focal loss (Lin et al., ICCV 2017) with focal =
    (alpha, gamma). logits, targets: (...), targets in 0 .. 1. Returns (...)."""
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
