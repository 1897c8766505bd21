"""Distillation: worked out by hand, and nothing to learn from oneself."""

import math

import pytest
import torch

from spiketrack.deploy.distill import SIDES, DistillationSettings, distillation_loss
from spiketrack.detector.spikeyolo import Predictions
from spiketrack.errors import SettingsError


def predictions(class_logits, side=0.0):
    """One step of one image with one location and two classes; `side`: the logit of each side's first bin."""
    features = torch.zeros(1, 1, 1, SIDES + 2)
    features[..., :SIDES:16] = side
    features[..., SIDES:] = torch.tensor(class_logits)
    return Predictions(features, torch.tensor([[4.0, 4.0]]), torch.tensor([8.0]))


def test_the_terms_by_hand():
    # p = 3/4 and 1/2, q = 1/2 and 1/2: KL = 3/4 ln(3/2) + 1/4 ln(1/2); w = 3/4, below 1, so nothing is divided
    teacher, learner = predictions([math.log(3), 0.0], math.log(15)), predictions([0.0, 0.0])
    classes = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    # of a side p = 1/2 and 15 times 1/30, q = 1/16
    sides = 0.5 * math.log(8) + 0.5 * math.log(16 / 30)
    loss = distillation_loss(learner, teacher, DistillationSettings(class_gain=2, box_gain=3))
    assert float(loss) == pytest.approx(2 * classes + 3 * 0.75 * sides, abs=1e-5)
    # logits of twice the size at temperature 2 are the same distributions, times 2^2
    warm = distillation_loss(
        predictions([0.0, 0.0]),
        predictions([2 * math.log(3), 0.0], 2 * math.log(15)),
        DistillationSettings(class_gain=2, box_gain=3, temperature=2),
    )
    assert float(warm) == pytest.approx(4 * float(loss), rel=1e-5)


def test_twice_the_objects_weigh_the_same():
    teacher, learner = predictions([5.0, -9.0], 2.0), predictions([1.0, -8.0])
    one = distillation_loss(*(_times(p, 2) for p in (learner, teacher)), DistillationSettings())
    two = distillation_loss(*(_times(p, 4) for p in (learner, teacher)), DistillationSettings())
    assert float(one) == pytest.approx(float(two), rel=1e-5)


def _times(p, count):
    return Predictions(p.features.repeat(1, 1, count, 1), p.points.repeat(count, 1), p.strides.repeat(count))


def test_nothing_to_learn_from_oneself_and_no_gradient_for_the_teacher():
    torch.manual_seed(0)
    features = torch.randn(2, 3, 5, SIDES + 4, requires_grad=True)
    same = Predictions(features, torch.zeros(5, 2), torch.ones(5))
    loss = distillation_loss(same, same, DistillationSettings())
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    loss.backward()
    assert features.grad.abs().max() < 1e-6


def test_other_grids_are_said():
    with pytest.raises(SettingsError, match="strides and classes must be the same"):
        distillation_loss(predictions([0.0, 0.0]), _times(predictions([0.0, 0.0]), 2), DistillationSettings())
