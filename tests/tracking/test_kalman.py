"""The Kalman filter: per-frame noise by hand, real time, and the textbook's matrices."""

import numpy as np
import pytest

from spiketrack.tracking import kalman
from spiketrack.tracking.kalman import FRAME_US

FRAME_S = FRAME_US * 1e-6
AXES = np.arange(4)


def new(cxcywh: list[float]) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = np.empty(8), np.empty((3, 4))
    x, y, w, h = cxcywh
    kalman.initiate(mean, covariance, np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]))
    return mean, covariance


def moving() -> tuple[np.ndarray, np.ndarray]:
    """A correlated track in motion, after a few honest steps."""
    mean, covariance = new([30.0, 80.0, 16.0, 64.0])
    for step in range(1, 4):
        kalman.predict(mean, covariance, 0.02)
        kalman.correct(mean, covariance, mean[:4] + step)
    return mean, covariance


def whole(covariance: np.ndarray) -> np.ndarray:
    """The 8 x 8 matrix of the 3 x 4 numbers."""
    matrix = np.zeros((8, 8))
    matrix[AXES, AXES], matrix[AXES + 4, AXES + 4] = covariance[0], covariance[2]
    matrix[AXES, AXES + 4] = matrix[AXES + 4, AXES] = covariance[1]
    return matrix


def test_a_new_track_is_at_rest_with_bytetracks_uncertainty() -> None:
    mean, covariance = new([100, 50, 40, 20])
    assert mean.tolist() == [100, 50, 40, 20, 0, 0, 0, 0]
    # position 2/20 of the side: 4, 2 px; velocity 10/160 of the side per frame: 2.5, 1.25 px per frame
    assert covariance[0] == pytest.approx([16, 4, 16, 4], rel=1e-12)
    assert covariance[1].tolist() == [0, 0, 0, 0]
    assert covariance[2] == pytest.approx(np.array([6.25, 1.5625, 6.25, 1.5625]) / FRAME_S**2, rel=1e-12)


def test_one_frame_equals_the_per_frame_filter_by_hand() -> None:
    mean, covariance = new([100, 50, 40, 20])
    mean[4:] = np.array([3, -1, 0.5, 0]) / FRAME_S  # per frame 3, -1, 0.5, 0 px
    kalman.predict(mean, covariance, FRAME_S)
    assert mean[:4] == pytest.approx([103, 49, 40.5, 20], rel=1e-12)
    # per frame, along x: variance 16 + 6.25 + (40/20)^2 = 26.25, velocity 6.25 + (40/160)^2 = 6.3125, between 6.25
    assert covariance[0, 0] == pytest.approx(26.25, rel=1e-12)
    assert covariance[2, 0] * FRAME_S**2 == pytest.approx(6.3125, rel=1e-12)
    assert covariance[1, 0] * FRAME_S == pytest.approx(6.25, rel=1e-12)
    # along y, side 20: 4 + 1.5625 + 1
    assert covariance[0, 1] == pytest.approx(6.5625, rel=1e-12)

    kalman.correct(mean, covariance, np.array([104.0, 49.0, 40.5, 20.0]))
    # the predicted side is 40.5: R = (40.5/20)^2 = 4.100625, gain 26.25 / 30.350625
    gain = 26.25 / 30.350625
    assert mean[0] == pytest.approx(103 + gain, rel=1e-12)
    assert mean[4] * FRAME_S == pytest.approx(3 + 6.25 / 30.350625, rel=1e-12)
    assert covariance[0, 0] == pytest.approx(26.25 * (1 - gain), rel=1e-12)


def test_two_half_steps_move_the_mean_like_one_and_the_variance_as_documented() -> None:
    mean, covariance = moving()
    mean[6:] = 0  # noise follows the size at the start of each step: hold the size to compare
    whole_mean, whole_covariance = mean.copy(), covariance.copy()
    kalman.predict(whole_mean, whole_covariance, 0.06)
    for _ in range(2):
        kalman.predict(mean, covariance, 0.03)
    assert mean == pytest.approx(whole_mean, rel=1e-12)
    more = covariance - whole_covariance
    side = mean[[2, 3, 2, 3]]
    q = (side / 160 / FRAME_S) ** 2 / FRAME_S  # px^2 / s^3
    assert more[0] == pytest.approx(q * 0.06**3 / 8, rel=1e-6)
    assert more[1] == pytest.approx(q * 0.06**2 / 4, rel=1e-6)
    assert more[2] == pytest.approx(np.zeros(4), abs=1e-9)


def test_standing_still_in_time_changes_nothing() -> None:
    mean, covariance = moving()
    before = mean.copy(), covariance.copy()
    kalman.predict(mean, covariance, 0.0)
    assert np.array_equal(mean, before[0])
    assert np.array_equal(covariance, before[1])


def test_four_small_filters_equal_the_textbook_matrices() -> None:
    mean, covariance = moving()
    dt = 0.047
    transition = np.block([[np.eye(4), dt * np.eye(4)], [np.zeros((4, 4)), np.eye(4)]])
    seen = np.eye(4, 8)
    w, h = mean[2:4]
    noise = (np.array([w, h, w, h]) / 20) ** 2 * dt / FRAME_S
    drift = (np.array([w, h, w, h]) / 160) ** 2 / FRAME_S**2 * dt / FRAME_S
    expected = transition @ mean
    spread = transition @ whole(covariance) @ transition.T + np.diag([*noise, *drift])
    measured = expected[:4] + np.array([1.0, -2.0, 0.5, 3.0])
    w, h = expected[2:4]
    gain = spread @ seen.T @ np.linalg.inv(seen @ spread @ seen.T + np.diag(np.array([w, h, w, h]) / 20) ** 2)

    kalman.predict(mean, covariance, dt)
    kalman.correct(mean, covariance, measured)
    assert mean == pytest.approx(expected + gain @ (measured - expected[:4]), rel=1e-9)
    assert whole(covariance) == pytest.approx((np.eye(8) - gain @ seen) @ spread, rel=1e-9, abs=1e-9)


def test_an_observed_velocity_equals_the_textbook_matrices() -> None:
    mean, covariance = moving()
    seen = np.zeros((1, 8))
    seen[0, 5] = 1
    before, spread = mean.copy(), whole(covariance)
    gain = spread @ seen.T / (seen @ spread @ seen.T + 400.0)
    kalman.observe_velocity(mean, covariance, 1, 120.0, 400.0)
    assert mean == pytest.approx(before + gain[:, 0] * (120 - before[5]), rel=1e-9)
    assert whole(covariance) == pytest.approx((np.eye(8) - gain @ seen) @ spread, rel=1e-9, abs=1e-9)


def test_covariance_stays_positive_over_a_long_run() -> None:
    rng = np.random.default_rng(0)
    for start in ([10.0, 10.0, 0.0, 0.0], [300.0, 200.0, 500.0, 30.0]):
        mean, covariance = new(start)
        for _ in range(2000):
            kalman.predict(mean, covariance, float(rng.uniform(1e-6, 0.1)))
            kalman.correct(mean, covariance, mean[:4] + rng.normal(0, 1, 4))
        assert np.linalg.eigvalsh(whole(covariance)).min() > 0


def test_corners_are_those_of_the_box_and_a_negative_side_becomes_none() -> None:
    measured, xyxy = np.empty(4), np.empty(4)
    kalman.measure(measured, np.array([10.0, 20.0, 50.0, 30.0]))
    assert measured.tolist() == [30, 25, 40, 10]
    kalman.corners(xyxy, measured)
    assert xyxy.tolist() == [10, 20, 50, 30]
    kalman.corners(xyxy, np.array([30.0, 25.0, -4.0, 10.0]))
    assert xyxy.tolist() == [30, 20, 30, 30]
