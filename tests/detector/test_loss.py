"""The loss: by hand, and equal to the one that takes every term over all locations, values and gradients."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from spiketrack.detector.loss import (
    SIDES,
    DetectionLoss,
    LabelledSteps,
    LossSettings,
    class_cost,
    distribution_focal_loss,
)
from spiketrack.detector.spikeyolo import Predictions, locations
from spiketrack.detector.targets import LabelBatch, box_overlap, ciou
from spiketrack.errors import SettingsError

_PATH = Path(__file__).parents[2] / "benchmarks" / "targets.py"
_spec = importlib.util.spec_from_file_location("benchmark_of_loss", _PATH)
_benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_benchmark)
dense_loss = _benchmark.dense_loss

POINTS, STRIDES = locations([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))


def predictions_of(features):
    return Predictions(features, POINTS, STRIDES)


def random_case(seed, steps=3, batch=2, most=4, classes=3):
    """Predictions, labels of the labelled steps (one image has none, some labels are padding), and which these are."""
    generator = torch.Generator().manual_seed(seed)
    labelled = torch.rand(steps, batch, generator=generator) < 0.6
    labelled[-1] = True
    n = int(labelled.sum())
    corner = torch.rand(n, most, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 4 + torch.rand(n, most, 2, generator=generator) * 40], dim=-1)
    valid = torch.rand(n, most, generator=generator) < 0.8
    valid[0] = False
    labels = LabelBatch(boxes, torch.randint(classes, (n, most), generator=generator), valid)
    features = torch.randn(steps, batch, len(POINTS), SIDES + classes, generator=generator)
    return features, labels, labelled


@pytest.mark.parametrize("class_loss", ["bce", "focal"])
@pytest.mark.parametrize("seed", range(4))
def test_terms_and_gradients_equal_the_dense_loss(seed, class_loss):
    features, labels, labelled = random_case(seed)
    settings = LossSettings(class_loss=class_loss)
    sparse, dense = features.clone().requires_grad_(), features.clone().requires_grad_()
    ours = DetectionLoss(settings)(predictions_of(sparse), labels, labelled)
    theirs = dense_loss(settings, predictions_of(dense), labels, labelled, precise=True)
    assert int(ours.positives) > 10
    for name, one, other in zip(ours._fields, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    # terms weigh differently, so that none hides behind another
    (ours.box + 2 * ours.classes + 3 * ours.dfl).backward()
    (theirs.box + 2 * theirs.classes + 3 * theirs.dfl).backward()
    torch.testing.assert_close(sparse.grad, dense.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("class_loss", "gamma"), [("bce", 2.0), ("focal", 2.0), ("focal", 0.0), ("focal", 1.5)])
def test_gradients_of_a_given_assignment_by_differences(class_loss, gamma):
    features, labels, labelled = random_case(7, steps=2, batch=1, classes=2)
    labelled[0] = False
    labels = LabelBatch(*(part[-1:] for part in labels))
    loss = DetectionLoss(LossSettings(class_loss=class_loss, focal_gamma=gamma))
    features = features.double().requires_grad_()
    _, assignment = loss.with_assignment(predictions_of(features), labels, labelled)
    assert len(assignment.image) > 5

    def terms(features):
        found = loss.terms(LabelledSteps.of(features, labelled), predictions_of(features), labels, assignment)
        return found.box, found.classes, found.dfl

    assert torch.autograd.gradcheck(terms, features, fast_mode=True)


def test_bfloat16_features_cost_what_the_rounded_numbers_cost():
    features, labels, labelled = random_case(3)
    half, full = features.bfloat16().requires_grad_(), features.bfloat16().float().requires_grad_()
    loss = DetectionLoss(LossSettings())
    one, other = loss(predictions_of(half), labels, labelled), loss(predictions_of(full), labels, labelled)
    assert torch.equal(torch.stack(one), torch.stack(other))
    one.total.backward()
    other.total.backward()
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=1e-2, atol=1e-4)


def test_targets_as_rows_name_the_positive_locations():
    features, labels, labelled = random_case(5)
    loss, predictions = DetectionLoss(LossSettings()), predictions_of(features)
    _, assignment = loss.with_assignment(predictions, labels, labelled)
    locations, values = features.shape[-2:]
    targets = assignment.dense(labels, locations, values - SIDES)
    assert torch.equal(targets.positive.nonzero(), torch.stack([assignment.image, assignment.location], dim=1))
    torch.testing.assert_close(targets.scores.sum(-1)[targets.positive], assignment.strength)
    assert torch.equal(targets.boxes[targets.positive], labels.boxes[assignment.image, assignment.label])
    kind = targets.scores[targets.positive].argmax(-1)
    assert torch.equal(kind, labels.classes[assignment.image, assignment.label])


def test_class_cost_by_hand():
    logits, targets = torch.tensor([0.0, math.log(3)]), torch.tensor([0.25, 0.0])
    # p = 1/2 and 3/4
    assert class_cost(logits, targets, None).tolist() == pytest.approx([math.log(2), math.log(4)])
    # p_t = 1/2, alpha_t = 0.25 * 0.2 + 0.75 * 0.8; p_t = 1/4, alpha_t = 0.8
    focal = class_cost(logits, targets, (0.2, 2.0)).tolist()
    assert focal == pytest.approx([math.log(2) * 0.65 / 4, math.log(4) * 0.8 * 9 / 16])


def test_distribution_loss_by_hand():
    logits = torch.zeros(1, 16)
    assert distribution_focal_loss(logits, torch.tensor([3.25])).item() == pytest.approx(math.log(16))
    logits = torch.full((16,), -50.0)
    logits[3], logits[4] = math.log(0.75), math.log(0.25)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert distribution_focal_loss(logits[None], torch.tensor([3.25])).item() == pytest.approx(entropy, rel=1e-5)
    # beyond the last bin the target is 14.99
    assert distribution_focal_loss(logits[None], torch.tensor([99.0])).isfinite().all()


@pytest.mark.parametrize("class_loss", ["bce", "focal"])
def test_loss_pushes_positives_up_and_background_down(class_loss):
    features = torch.zeros(1, 1, len(POINTS), 64 + 3)
    features[..., 64:] = -5.0
    features.requires_grad_()
    labels = LabelBatch(torch.tensor([[[8.0, 8.0, 40.0, 40.0]]]), torch.tensor([[1]]), torch.tensor([[True]]))
    loss = DetectionLoss(LossSettings(class_loss=class_loss))
    terms = loss(predictions_of(features), labels, torch.ones(1, 1, dtype=torch.bool))
    assert int(terms.positives) == 10
    torch.testing.assert_close(terms.total, terms.box + terms.classes + terms.dfl)
    terms.total.backward()
    inside = ((POINTS > 8) & (POINTS < 40)).all(1)
    class_grad = features.grad[0, 0, :, 64:]
    assert (class_grad[:, [0, 2]] > 0).all()
    assert (class_grad[~inside, 1] > 0).all()
    best = class_grad[:, 1].argmin()
    assert class_grad[best, 1] < 0
    assert inside[best]


def test_unlabelled_steps_cost_nothing_and_empty_labels_are_background():
    features = torch.randn(2, 1, len(POINTS), 64 + 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = LabelBatch(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.bool))
    terms = DetectionLoss(LossSettings())(predictions_of(features), labels, torch.tensor([[False], [True]]))
    assert terms.box.item() == terms.dfl.item() == 0
    terms.total.backward()
    assert not features.grad[0].any()
    assert (features.grad[1, 0, :, 64:] > 0).all()
    with pytest.raises(ValueError, match="2 labelled steps, labels of 1"):
        DetectionLoss(LossSettings())(predictions_of(features), labels, torch.tensor([[True], [True]]))


@pytest.mark.parametrize(("corner", "side"), [(8.0, 8.0), (13.0, 2.0)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_prediction_that_is_not_finite_shows_in_the_loss(corner, side, value):
    """The larger label has location 9 inside, the smaller one none, and nothing is positive."""
    boxes = torch.tensor([[[corner, corner, corner + side, corner + side]]])
    labels = LabelBatch(boxes, torch.tensor([[1]]), torch.tensor([[True]]))
    loss, labelled = DetectionLoss(LossSettings()), torch.ones(1, 1, dtype=torch.bool)
    whole = torch.zeros(1, 1, len(POINTS), SIDES + 3)
    terms = loss(predictions_of(whole), labels, labelled)
    assert terms.total.isfinite()
    assert int(terms.positives) == (1 if corner == 8 else 0)
    for place, channel in [(9, SIDES + 1), (63, SIDES)] + [(9, 5)] * (corner == 8):
        features = whole.clone()
        features[0, 0, place, channel] = value
        assert not loss(predictions_of(features), labels, labelled).total.isfinite()


def test_no_labelled_step_at_all():
    features = torch.randn(1, 2, len(POINTS), 64 + 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = LabelBatch(torch.zeros(0, 0, 4), torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0, 0, dtype=torch.bool))
    terms = DetectionLoss(LossSettings())(predictions_of(features), labels, torch.zeros(1, 2, dtype=torch.bool))
    terms.total.backward()
    assert terms.total.item() == 0
    assert not features.grad.any()


def one_object(logits, **settings):
    """Terms of one location of stride 8 with an object of class 0 over all of it, and 5 without, for given logits."""
    points, strides = locations([(2, 2), (1, 1), (1, 1)], torch.device("cpu"))
    features = torch.zeros(1, 1, 6, SIDES + 3)
    features[..., SIDES:] = torch.tensor(logits)
    labels = LabelBatch(
        torch.tensor([[[0.0, 0.0, 8.0, 8.0]]]), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1) > 0
    )
    predictions = Predictions(features, points, strides)
    return DetectionLoss(LossSettings(**settings))(predictions, labels, torch.ones(1, 1, dtype=torch.bool))


def test_parts_of_the_class_term_by_hand():
    # one positive location, whose target is its CIoU (scaled to the best): -log p at logit 0 whatever the target
    plain = one_object(0.0, class_gain=1.0)
    weight = one_object(0.0, class_gain=2.0)
    assert int(plain.positives) == 1
    assert float(plain.background) == pytest.approx(17 * math.log(2))  # 18 logits, one of them of the object
    assert float(plain.classes) == pytest.approx(18 * math.log(2))
    assert float(weight.background) == pytest.approx(2 * 17 * math.log(2))
    half = one_object(0.0, class_gain=1.0, background_gain=0.5)
    assert float(half.background) == pytest.approx(8.5 * math.log(2))
    assert float(half.classes) == pytest.approx(9.5 * math.log(2))
    weighed = one_object(0.0, class_gain=1.0, class_weights=(3, 1, 1))
    assert float(weighed.background) == pytest.approx(17 * math.log(2))
    assert float(weighed.classes) == pytest.approx(20 * math.log(2))
    with pytest.raises(SettingsError, match="2 for 3 classes"):
        one_object(0.0, class_weights=(1, 1))


def test_smoothed_labels_share_the_target_at_positive_locations_only():
    logits = [2.0, -1.0, 0.5]
    settings = {"class_gain": 1.0, "label_smoothing": 0.3}
    terms = one_object(logits, **settings)
    cost = torch.nn.functional.softplus(torch.tensor(logits))
    # y (1 - e) + e / K of the target of the one positive location
    target = float(aligned_target(logits))
    wanted = torch.tensor([0.8, 0.1, 0.1]) * target
    at_object = cost - wanted * torch.tensor(logits)
    assert float(terms.background) == pytest.approx(float(5 * cost.sum()), rel=1e-5)
    assert float(terms.classes) == pytest.approx(float(5 * cost.sum() + at_object.sum()), rel=1e-5)


def aligned_target(logits):
    """The target of the positive location: what one_object's class term of plain labels follows from."""
    plain = one_object(logits, class_gain=1.0)
    cost = torch.nn.functional.softplus(torch.tensor(logits))
    return (6 * cost.sum() - plain.classes) / logits[0]


@pytest.mark.parametrize("logit", [-12.0, -4.0, 0.0, 2.0])
def test_focal_loss_with_smoothed_labels_pushes_positives_up(logit):
    features = torch.full((1, 3), logit, requires_grad=True)
    loss = DetectionLoss(LossSettings(class_loss="focal", label_smoothing=0.1))
    cost, _ = loss._class_costs(features, torch.tensor([1]), torch.tensor([0.8]))
    cost.sum().backward()
    assert features.grad[0, 1] < 0


@pytest.mark.parametrize(("kind", "expected"), [("iou", 1 / 7), ("giou", 1 / 7 - 2 / 9), ("diou", 1 / 7 - 2 / 18)])
def test_overlaps_of_the_box_term_by_hand(kind, expected):
    # squares of 2 shifted by (1, 1): 1 of 7 in common, hull 3 x 3, centres a distance of sqrt 2 apart
    one, other = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    assert float(box_overlap(one, other, kind)) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(box_overlap(one, other, "ciou"), ciou(one, other))
