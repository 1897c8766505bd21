import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spiketrack.detector.decode import DecodeSettings, decode, expected_sides, find, non_maximum_suppression
from spiketrack.detector.spikeyolo import Predictions, locations

_PATH = Path(__file__).parents[2] / "benchmarks" / "nms.py"
_spec = importlib.util.spec_from_file_location("benchmark_of_nms", _PATH)
_benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_benchmark)
greedy = _benchmark.greedy

POINTS, STRIDES = locations([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))


def crowd(seed, count, sides, classes):
    """Boxes of very different sizes; every fifth on whole pixels, every seventh a copy, some without area."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(-20, 100, (count, 2)), np.exp(rng.uniform(*np.log(sides), (count, 2)))
    xyxy = np.concatenate([corner, corner + size], axis=1).astype(np.float32)
    xyxy[::5] = xyxy[::5].round()
    xyxy[::7] = xyxy[: len(xyxy[::7])]
    return xyxy, rng.integers(0, 50, count).astype(np.float32) / 50, rng.integers(0, classes, count)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 300),
    sides=st.sampled_from([(20, 25), (1, 60), (0.01, 2000), (5, 5.0001)]),
    classes=st.integers(1, 3),
    limit=st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.6, 0.9, 1.0]),
)
@example(seed=0, count=300, sides=(1, 60), classes=1, limit=0.5)
def test_suppression_equals_the_greedy_loop(seed, count, sides, classes, limit):
    xyxy, score, class_id = crowd(seed, count, sides, classes)
    before = xyxy.copy()
    kept = non_maximum_suppression(xyxy, score, class_id, limit)
    assert kept.tolist() == greedy(xyxy, score, class_id, limit).tolist()
    assert non_maximum_suppression(xyxy, score, class_id, limit, 5).tolist() == kept[:5].tolist()
    np.testing.assert_array_equal(xyxy, before)


def test_suppression_by_hand():
    """Three boxes of 4 x 2 in a row, half over one another: IoU 1/3 of neighbours. The best is in the middle."""
    xyxy = np.array([[0, 0, 4, 2], [2, 0, 6, 2], [4, 0, 8, 2]], np.float32)
    score, one = np.array([0.5, 0.9, 0.7], np.float32), np.zeros(3, np.int64)
    assert non_maximum_suppression(xyxy, score, one, 0.3).tolist() == [1]
    assert non_maximum_suppression(xyxy, score, one, 0.34).tolist() == [1, 2, 0]
    assert non_maximum_suppression(xyxy, score, np.array([0, 1, 0]), 0.3).tolist() == [1, 2, 0]
    assert non_maximum_suppression(xyxy, np.array([0.9, 0.5, 0.7], np.float32), one, 0.3).tolist() == [0, 2]


def test_suppression_of_nothing_and_of_boxes_without_area():
    empty = np.empty((0, 4), np.float32)
    assert len(non_maximum_suppression(empty, np.empty(0, np.float32), np.empty(0, np.int64), 0.5)) == 0
    flat = np.array([[1, 1, 1, 5], [0, 0, 2, 2]], np.float32)
    assert non_maximum_suppression(flat, np.array([0.9, 0.1], np.float32), np.zeros(2, np.int64), 0.5).tolist() == [1]


def test_suppression_refuses_what_is_not_finite():
    xyxy = np.array([[0, 0, 4, 2], [2, 0, np.nan, 2]], np.float32)
    with pytest.raises(ValueError, match="expected finite boxes"):
        non_maximum_suppression(xyxy, np.ones(2, np.float32), np.zeros(2, np.int64), 0.5)


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
    assert find(predictions, DecodeSettings(score=0.1), scale=(2.0, 1.0), sensor=(100, 30))[1][0].location.tolist() == [
        9
    ]


def test_found_locations_lead_back_to_score_and_class():
    features = torch.randn(2, 2, len(POINTS), 64 + 3, generator=torch.Generator().manual_seed(0))
    predictions, settings = Predictions(features, POINTS, STRIDES), DecodeSettings(score=0.4, nms_iou=0.3)
    geometry = {"scale": (1.0, 1.0), "sensor": (64, 64)}
    decoded = decode(predictions, np.array([[10, 20], [30, 40]]), settings, **geometry)
    for t, row in enumerate(find(predictions, settings, **geometry)):
        for b, found in enumerate(row):
            assert len(found.location) >= 3
            own = features[t, b, found.location, 64 + torch.from_numpy(found.class_id)].sigmoid()
            np.testing.assert_array_equal(own.numpy(), found.score)
            np.testing.assert_array_equal(decoded[t][b].xyxy, found.xyxy)


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
