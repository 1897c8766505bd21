"""Streaming evaluation: what was known in time, by a clock that the test owns."""

import math
from itertools import count

import numpy as np
import pytest
from loud_detector import loud_detector
from moving_squares import CLASS_NAMES, SLICE_US

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import find_sequences
from spiketrack.errors import LabelError, SettingsError
from spiketrack.evaluation import EvaluationSettings, evaluate
from spiketrack.streaming import STATIONS, Latency, evaluate_streaming
from spiketrack.tracking import ByteTrackSettings

SETTINGS = EvaluationSettings(warm_up_steps=2)


@pytest.fixture(scope="module")
def sequences(squares):
    """Two sequences of eight slices, labelled at the end of each."""
    return find_sequences(squares, "test", CLASS_NAMES)


@pytest.fixture(scope="module")
def offline(sequences):
    return evaluate(loud_detector(), sequences, SETTINGS, ByteTrackSettings())


def streamed(sequences, station_us):
    """Every reading of the clock is that much later than the one before."""
    ticks = count()
    return evaluate_streaming(
        loud_detector(), sequences, SETTINGS, ByteTrackSettings(), clock=lambda: 1e-6 * station_us * next(ticks)
    )


def assert_known(found, expected):
    """The boxes of `found` are those of `expected`: {label time: time of the step that spoke}."""
    for kind in ("detections", "tracks"):
        boxes, reference = getattr(found[0], kind), getattr(found[1], kind)
        assert np.isin(boxes.t, list(expected)).all()
        for time, spoke in expected.items():
            here, there = boxes.at(time), reference.at(spoke)
            assert len(here) == len(there)
            np.testing.assert_allclose(here.xyxy, there.xyxy, atol=1e-3)
            np.testing.assert_array_equal(here.class_id, there.class_id)
            np.testing.assert_array_equal(here.track_id, there.track_id)


def test_without_latency_it_is_the_evaluation(sequences, offline):
    result = streamed(sequences, 0)
    ends = SLICE_US * np.arange(1, 9)
    for pair in zip(result.sequences, offline.sequences, strict=True):
        assert len(pair[0].detections) > 0
        assert_known(pair, {int(end): int(end) for end in ends})
    assert result.detection.map == pytest.approx(offline.detection.map, abs=1e-6)
    assert result.tracking.class_average.hota == pytest.approx(offline.tracking.class_average.hota, abs=1e-6)
    assert math.isnan(result.latency.real_time_factor)


def test_a_step_that_is_late_speaks_for_the_next_label_time(sequences, offline):
    result = streamed(sequences, 4_000)  # four stations, 16 of 20 ms: done before the next label time
    for pair in zip(result.sequences, offline.sequences, strict=True):
        assert len(pair[0].detections.at(SLICE_US)) == 0  # nothing was known yet
        assert_known(pair, {k * SLICE_US: (k - 1) * SLICE_US for k in range(2, 9)})
    latency = result.latency
    assert latency.stations.shape == (16, len(STATIONS))
    np.testing.assert_allclose(latency.stations, 4e-3)
    np.testing.assert_allclose(latency.delay, 16e-3)
    assert latency.real_time_factor == pytest.approx(20 / 16)
    assert latency.slice_us == SLICE_US


def test_slow_steps_pile_up(sequences, offline):
    result = streamed(sequences, 7_500)  # 30 ms for 20 ms: step k, of end 20 k, is done at 20 + 30 k ms
    np.testing.assert_allclose(result.latency.waited[:8], 10e-3 * np.arange(8), atol=1e-9)
    np.testing.assert_allclose(result.latency.waited[8:], 10e-3 * np.arange(8), atol=1e-9)  # each sequence anew
    assert result.latency.real_time_factor == pytest.approx(20 / 30)
    spoke = {label: max((k for k in range(1, 9) if 20 + 30 * k <= 20 * label), default=0) for label in range(1, 9)}
    assert spoke == {1: 0, 2: 0, 3: 1, 4: 2, 5: 2, 6: 3, 7: 4, 8: 4}
    expected = {label * SLICE_US: k * SLICE_US for label, k in spoke.items() if k}
    for pair in zip(result.sequences, offline.sequences, strict=True):
        assert_known(pair, expected)


def test_what_cannot_be_scored():
    with pytest.raises(LabelError, match="nothing to evaluate"):
        evaluate_streaming(loud_detector(), [], SETTINGS, ByteTrackSettings())
    with pytest.raises(SettingsError, match="reset_every is 5"):
        evaluate_streaming(loud_detector(), [], EvaluationSettings(reset_every=5), ByteTrackSettings())
    nothing = Latency(np.empty((0, 4)), np.empty(0), SLICE_US, "cpu")
    assert math.isnan(nothing.real_time_factor)


def test_the_network_is_left_without_hooks(sequences):
    detector = loud_detector()
    calls = []
    result = evaluate_streaming(
        detector, sequences[:1], SETTINGS, ByteTrackSettings(), lambda *call: calls.append(call)
    )
    assert calls == [(1, 1, "test_0")]
    assert not detector.model._forward_hooks
    assert not detector.model._forward_pre_hooks
    assert (result.latency.stations > 0).all()
    assert isinstance(result.sequences[0].tracks, Boxes)
