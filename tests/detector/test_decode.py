import numpy as np
import pytest
import torch

from spiketrack.boxes import iou
from spiketrack.detector.decode import DecodeSettings, decode, expected_sides, non_maximum_suppression
from spiketrack.detector.spikeyolo import Predictions, locations

POINTS, STRIDES = locations([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))


def greedy(xyxy, score, class_id, limit):
    kept = []
    for i in np.argsort(-score, kind="stable"):
        if all(class_id[i] != class_id[j] or iou(xyxy[[i]], xyxy[[j]])[0, 0] <= limit for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_the_greedy_definition(seed):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (200, 2))
    xyxy = np.concatenate([corner, corner + rng.uniform(5, 30, (200, 2))], axis=1).astype(np.float32)
    score, class_id = rng.integers(0, 50, 200).astype(np.float32) / 50, rng.integers(0, 3, 200)
    assert non_maximum_suppression(xyxy, score, class_id, 0.4).tolist() == greedy(xyxy, score, class_id, 0.4)


def test_suppression_of_nothing_and_of_boxes_without_area():
    empty = np.empty((0, 4), np.float32)
    assert len(non_maximum_suppression(empty, np.empty(0, np.float32), np.empty(0, np.int64), 0.5)) == 0
    flat = np.array([[1, 1, 1, 5], [0, 0, 2, 2]], np.float32)
    assert non_maximum_suppression(flat, np.array([0.9, 0.1], np.float32), np.zeros(2, np.int64), 0.5).tolist() == [1]


def hand_made_prediction():
    """Two steps, two streams; only location 9 of step 1, stream 0 predicts: class 2, sides 1, 0.5, 2, 3 strides."""
    features = torch.full((2, 2, len(POINTS), 64 + 3), -20.0)
    sides = torch.full((4, 16), -50.0)
    sides[0, 1] = sides[2, 2] = sides[3, 3] = 0.0
    sides[1, 0] = sides[1, 1] = 0.0  # half and half: 0.5
    features[1, 0, 9, :64] = sides.flatten()
    features[1, 0, 9, 64 + 2] = 2.0
    return Predictions(features, POINTS, STRIDES)


def test_decoding_by_hand():
    predictions = hand_made_prediction()
    times = np.array([[10, 20], [30, 40]], np.int64)
    found = decode(predictions, times, DecodeSettings(score=0.1), scale=(2.0, 1.0), sensor=(100, 30))
    assert [[len(boxes) for boxes in row] for row in found] == [[0, 0], [1, 0]]
    boxes = found[1][0]
    # location 9 is row 1, column 1 of stride 8: centre (12, 12); 4, 8, 28, 36 in input pixels, then x twice, y clipped
    np.testing.assert_allclose(boxes.xyxy, [[8, 8, 56, 30]], rtol=1e-5)
    assert boxes.t.tolist() == [30]
    assert boxes.class_id.tolist() == [2]
    assert boxes.score[0] == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_expected_sides_of_a_flat_distribution():
    assert expected_sides(torch.zeros(1, 64)).tolist() == [[7.5] * 4]


def test_limits_on_candidates_and_boxes():
    features = torch.zeros(1, 1, len(POINTS), 64 + 3)
    features[..., 64:] = torch.linspace(-1, 1, len(POINTS) * 3).reshape(len(POINTS), 3)
    predictions = Predictions(features, POINTS, STRIDES)
    times = np.zeros((1, 1), np.int64)
    settings = DecodeSettings(score=0.01, nms_iou=1.0, max_boxes=7)
    (boxes,) = decode(predictions, times, settings, scale=(1, 1), sensor=(64, 64))[0]
    assert len(boxes) == 7
    assert (np.diff(boxes.score) <= 0).all()
    assert boxes.score[0] == pytest.approx(torch.tensor(1.0).sigmoid().item())


def test_broken_predictions_are_refused():
    features = torch.zeros(1, 1, len(POINTS), 64 + 3)
    features[0, 0, 5, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        decode(
            Predictions(features, POINTS, STRIDES),
            np.zeros((1, 1), np.int64),
            DecodeSettings(),
            scale=(1, 1),
            sensor=(9, 9),
        )
