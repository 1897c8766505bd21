"""Distillation: a network is taught to predict what a larger one predicts.

Station: of training, beside the loss of the labels. In come the predictions of two SpikeYOLO on the same input, out
goes how far the learner is from its teacher. Sources: Hinton et al., "Distilling the knowledge in a neural network"
(2015), for the classes; Zheng et al., "Localization distillation for dense object detection" (CVPR 2022), for the
distributions of the box sides. p is the teacher's, q the learner's, both of logits divided by the temperature:

    classes   sum over locations a and classes k of  KL(Bernoulli(p[a, k]) || Bernoulli(q[a, k]))
    sides     sum over locations a of  w[a] mean over 4 sides of  KL(p[a, side] || q[a, side]),  w[a] = max_k p[a, k]

Both are divided by the sum of w, so that a scene with twice as many objects weighs the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spiketrack.detector.spikeyolo import REG_MAX, Predictions
from spiketrack.errors import SettingsError

SIDES = 4 * REG_MAX  # features of a location: the logits of its sides, then those of its classes


class DistillationSettings(BaseModel):
    """How much the teacher counts beside the labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_gain: float = Field(0.5, ge=0, description="factor of the class term")
    box_gain: float = Field(1.5, ge=0, description="factor of the term of the box sides")
    temperature: float = Field(1.0, gt=0, description="logits are divided by it; above 1 softens what is taught")


def distillation_loss(learner: Predictions, teacher: Predictions, settings: DistillationSettings) -> Tensor:
    """The weighted sum of both terms, 0-d float32; 0 where the learner predicts what the teacher does.

    Raises SettingsError where the two predict on other grids or for another number of classes.
    """
    if learner.features.shape != teacher.features.shape or not torch.equal(learner.points, teacher.points):
        raise SettingsError(
            f"distillation: the learner predicts {tuple(learner.features.shape)}, the teacher "
            f"{tuple(teacher.features.shape)} (steps, batch, locations, features); strides and classes must be the same"
        )
    heat = settings.temperature
    ours, taught = learner.features.float() / heat, teacher.features.detach().float() / heat
    wanted = taught[..., SIDES:].sigmoid()  # (T, B, A, K)
    weight = wanted.amax(-1)  # (T, B, A)
    cost = F.binary_cross_entropy_with_logits(ours[..., SIDES:], wanted, reduction="sum")
    least = F.binary_cross_entropy_with_logits(taught[..., SIDES:], wanted, reduction="sum")  # the teacher's entropy
    sides, goal = (features[..., :SIDES].unflatten(-1, (4, REG_MAX)).log_softmax(-1) for features in (ours, taught))
    apart = (goal.exp() * (goal - sides)).sum(-1).mean(-1)  # (T, B, A)
    total = settings.class_gain * (cost - least) + settings.box_gain * (weight * apart).sum()
    return total * heat**2 / weight.sum().clamp_min(1)
