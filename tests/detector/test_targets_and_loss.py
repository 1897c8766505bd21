import math

import numpy as np
import pytest
import torch

from spiketrack.boxes import iou
from spiketrack.detector.loss import DetectionLoss, LossSettings, distribution_focal_loss
from spiketrack.detector.spikeyolo import Predictions, locations
from spiketrack.detector.targets import LabelBatch, ciou, task_aligned_targets

CONSTANTS = {"topk": 10, "alpha": 0.5, "beta": 6.0}
POINTS, STRIDES = locations([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))


def random_case(seed, images=3, most=5, classes=4):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (images, most, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 30, (images, most, 2))], axis=2).astype(np.float32)
    labels = LabelBatch(
        torch.from_numpy(boxes),
        torch.from_numpy(rng.integers(0, classes, (images, most))),
        torch.from_numpy(rng.random((images, most)) < 0.7),
    )
    scores = torch.from_numpy(rng.random((images, len(POINTS), classes)).astype(np.float32))
    side = torch.from_numpy(rng.uniform(2, 25, (images, len(POINTS), 4)).astype(np.float32))
    predicted = torch.cat([POINTS - side[..., :2], POINTS + side[..., 2:]], dim=-1)
    return scores, predicted, labels


def assigned_one_by_one(scores, predicted, labels):
    """The definition in plain loops: returns {(image, location): (label, target score)}."""
    result = {}
    for n in range(len(scores)):
        claims = {}
        for m in np.flatnonzero(labels.valid[n]):
            box, cls = labels.boxes[n, m], labels.classes[n, m]
            metric, overlap = {}, {}
            for a, point in enumerate(POINTS):
                if (point > box[:2]).all() and (point < box[2:]).all():
                    overlap[a] = max(float(ciou(box, predicted[n, a])), 0.0)
                    metric[a] = float(scores[n, a, cls]) ** 0.5 * overlap[a] ** 6
            for a in sorted((a for a in metric if metric[a] > 0), key=metric.get, reverse=True)[:10]:
                claims.setdefault(a, []).append((overlap[a], m, metric[a]))
        winners = {a: max(c, key=lambda claim: claim[0]) for a, c in claims.items()}
        for a, (_, m, metric) in winners.items():
            own = [w for w in winners.values() if w[1] == m]
            strongest, best = max(w[2] for w in own), max(w[0] for w in own)
            result[n, a] = (int(m), metric * best / (strongest + 1e-9))
    return result


@pytest.mark.parametrize("seed", range(6))
def test_targets_equal_the_definition(seed):
    scores, predicted, labels = random_case(seed)
    targets = task_aligned_targets(scores, predicted, POINTS, labels, **CONSTANTS)
    expected = assigned_one_by_one(scores, predicted, labels)
    assert {(int(n), int(a)) for n, a in targets.positive.nonzero()} == set(expected)
    for (n, a), (m, score) in expected.items():
        torch.testing.assert_close(targets.boxes[n, a], labels.boxes[n, m])
        row = targets.scores[n, a]
        assert row[labels.classes[n, m]].item() == pytest.approx(score, rel=1e-4, abs=1e-6)
        assert row.count_nonzero() <= 1
    assert not targets.scores[~targets.positive].any()


def test_a_perfect_prediction_gets_a_target_score_of_one():
    boxes = torch.tensor([[[8.0, 8.0, 40.0, 40.0]]])
    labels = LabelBatch(boxes, torch.tensor([[2]]), torch.tensor([[True]]))
    scores = torch.full((1, len(POINTS), 3), 0.5)
    targets = task_aligned_targets(scores, boxes.expand(1, len(POINTS), 4), POINTS, labels, **CONSTANTS)
    assert int(targets.positive.sum()) == 10
    torch.testing.assert_close(targets.scores[targets.positive][:, 2], torch.ones(10), rtol=1e-4, atol=1e-4)


def test_images_without_labels_have_no_positive_location():
    scores, predicted, labels = random_case(0)
    none = LabelBatch(labels.boxes, labels.classes, torch.zeros_like(labels.valid))
    assert not task_aligned_targets(scores, predicted, POINTS, none, **CONSTANTS).positive.any()
    empty = LabelBatch(torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0, dtype=torch.bool))
    targets = task_aligned_targets(scores, predicted, POINTS, empty, **CONSTANTS)
    assert targets.scores.shape == scores.shape
    assert not targets.positive.any()


def test_ciou_by_hand():
    a, b = torch.tensor([0.0, 0.0, 4.0, 2.0]), torch.tensor([2.0, 0.0, 6.0, 2.0])
    # IoU 4 / 12; centres 2 apart, hull 6 x 2; equal aspect
    assert ciou(a, b).item() == pytest.approx(1 / 3 - 4 / 40, rel=1e-5)
    c = torch.tensor([0.0, 0.0, 2.0, 4.0])
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    overlap = 4 / 12
    assert ciou(a, c).item() == pytest.approx(overlap - 2 / 32 - v / (v - overlap + 1) * v, rel=1e-5)
    boxes = torch.rand(5, 4)
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(ciou(boxes, boxes), torch.ones(5), rtol=1e-4, atol=1e-4)
    assert (ciou(boxes[:, None], boxes[None]) <= torch.from_numpy(iou(boxes.numpy(), boxes.numpy())) + 1e-5).all()


def test_distribution_loss_by_hand():
    logits = torch.zeros(1, 16)
    assert distribution_focal_loss(logits, torch.tensor([3.25])).item() == pytest.approx(math.log(16))
    logits = torch.full((16,), -50.0)
    logits[3], logits[4] = math.log(0.75), math.log(0.25)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert distribution_focal_loss(logits[None], torch.tensor([3.25])).item() == pytest.approx(entropy, rel=1e-5)
    # beyond the last bin the target is 14.99
    assert distribution_focal_loss(logits[None], torch.tensor([99.0])).isfinite().all()


def predictions_of(features):
    return Predictions(features, POINTS, STRIDES)


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
