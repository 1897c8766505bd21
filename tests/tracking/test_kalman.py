"""The Kalman filter: per-frame noise by hand, real time, and the textbook's matrices."""

import numpy as np
import pytest

from spiketrack.tracking import kalman
from spiketrack.tracking.kalman import FRAME_US

MEASURED = np.array([[100.0, 50.0, 40.0, 20.0]])
FRAME_S = FRAME_US * 1e-6


def moving() -> tuple[np.ndarray, np.ndarray]:
    """Two correlated tracks in motion, after a few honest steps."""
    mean, covariance = kalman.initiate(np.array([[100.0, 50.0, 40.0, 20.0], [30.0, 80.0, 16.0, 64.0]]))
    for step in range(1, 4):
        mean, covariance = kalman.predict(mean, covariance, 20_000)
        mean, covariance = kalman.update(mean, covariance, mean[:, :4] + step)
    return mean, covariance


def test_a_new_track_is_at_rest_with_bytetracks_uncertainty() -> None:
    mean, covariance = kalman.initiate(MEASURED)
    assert mean.tolist() == [[100, 50, 40, 20, 0, 0, 0, 0]]
    # position 2/20 of the side: 4, 2 px; velocity 10/160 of the side per frame: 2.5, 1.25 px per frame
    position = [16, 4, 16, 4]
    velocity = np.array([6.25, 1.5625, 6.25, 1.5625]) / FRAME_S**2
    assert covariance[0] == pytest.approx(np.diag([*position, *velocity]), rel=1e-12)


def test_one_frame_equals_the_per_frame_filter_by_hand() -> None:
    mean, covariance = kalman.initiate(MEASURED)
    mean[0, 4:] = np.array([3, -1, 0.5, 0]) / FRAME_S  # per frame 3, -1, 0.5, 0 px
    mean, covariance = kalman.predict(mean, covariance, FRAME_US)
    assert mean[0, :4] == pytest.approx([103, 49, 40.5, 20], rel=1e-12)
    # per frame, along x: variance 16 + 6.25 + (40/20)^2 = 26.25, velocity 6.25 + (40/160)^2 = 6.3125, between 6.25
    assert covariance[0, 0, 0] == pytest.approx(26.25, rel=1e-12)
    assert covariance[0, 4, 4] * FRAME_S**2 == pytest.approx(6.3125, rel=1e-12)
    assert covariance[0, 0, 4] * FRAME_S == pytest.approx(6.25, rel=1e-12)
    # along y, side 20: 4 + 1.5625 + 1
    assert covariance[0, 1, 1] == pytest.approx(6.5625, rel=1e-12)

    mean, covariance = kalman.update(mean, covariance, np.array([[104.0, 49.0, 40.5, 20.0]]))
    # the predicted side is 40.5: R = (40.5/20)^2 = 4.100625, gain 26.25 / 30.350625
    gain = 26.25 / 30.350625
    assert mean[0, 0] == pytest.approx(103 + gain, rel=1e-12)
    assert mean[0, 4] * FRAME_S == pytest.approx(3 + 6.25 / 30.350625, rel=1e-12)
    assert covariance[0, 0, 0] == pytest.approx(26.25 * (1 - gain), rel=1e-12)


def test_two_half_steps_move_the_mean_like_one_and_the_variance_as_documented() -> None:
    mean, covariance = moving()
    whole = kalman.predict(mean, covariance, 60_000)
    halves = kalman.predict(*kalman.predict(mean, covariance, 30_000), 30_000)
    assert halves[0] == pytest.approx(whole[0], rel=1e-12)

    # noise follows the size at the start of each step: hold the size to compare
    mean[:, 6:] = 0
    whole = kalman.predict(mean, covariance, 60_000)
    halves = kalman.predict(*kalman.predict(mean, covariance, 30_000), 30_000)
    more = halves[1] - whole[1]
    dt = 0.06
    side = mean[:, [2, 3, 2, 3]]
    q = (side / 160 / FRAME_S) ** 2 / FRAME_S  # px^2 / s^3
    axes = np.arange(4)
    assert more[:, axes, axes] == pytest.approx(q * dt**3 / 8, rel=1e-6)
    assert more[:, axes, axes + 4] == pytest.approx(q * dt**2 / 4, rel=1e-6)
    assert more[:, axes + 4, axes + 4] == pytest.approx(np.zeros((2, 4)), abs=1e-9)


def test_standing_still_in_time_changes_nothing_and_time_does_not_run_back() -> None:
    mean, covariance = moving()
    same = kalman.predict(mean, covariance, 0)
    assert np.array_equal(same[0], mean)
    assert np.array_equal(same[1], covariance)
    with pytest.raises(ValueError, match="time must not run backwards, got -1 us"):
        kalman.predict(mean, covariance, -1)


def test_batch_equals_the_textbook_matrices_track_by_track() -> None:
    mean, covariance = moving()
    measured = mean[:, :4] + [[1.0, -2.0, 0.5, 3.0], [0.0, 4.0, -1.0, 2.0]]
    dt_us = 47_000
    dt = dt_us * 1e-6
    transition = np.block([[np.eye(4), dt * np.eye(4)], [np.zeros((4, 4)), np.eye(4)]])
    seen = np.eye(4, 8)
    after = kalman.update(*kalman.predict(mean, covariance, dt_us), measured)
    for i in range(2):
        w, h = mean[i, 2:4]
        noise = np.array([w / 20, h / 20, w / 20, h / 20]) ** 2 * dt / FRAME_S
        drift = np.array([w / 160, h / 160, w / 160, h / 160]) ** 2 / FRAME_S**2 * dt / FRAME_S
        predicted = transition @ mean[i]
        spread = transition @ covariance[i] @ transition.T + np.diag([*noise, *drift])
        w, h = predicted[2:4]
        innovation = seen @ spread @ seen.T + np.diag(np.array([w, h, w, h]) / 20) ** 2
        gain = spread @ seen.T @ np.linalg.inv(innovation)
        assert after[0][i] == pytest.approx(predicted + gain @ (measured[i] - seen @ predicted), rel=1e-9)
        assert after[1][i] == pytest.approx((np.eye(8) - gain @ seen) @ spread, rel=1e-9, abs=1e-9)


def test_arguments_are_not_changed_and_no_tracks_stay_no_tracks() -> None:
    mean, covariance = moving()
    kept = mean.copy(), covariance.copy()
    kalman.update(*kalman.predict(mean, covariance, 10_000), mean[:, :4])
    assert np.array_equal(mean, kept[0])
    assert np.array_equal(covariance, kept[1])
    none = kalman.update(*kalman.predict(*kalman.initiate(np.empty((0, 4))), 10_000), np.empty((0, 4)))
    assert (none[0].shape, none[1].shape) == ((0, 8), (0, 8, 8))


def test_covariance_stays_symmetric_and_positive_over_a_long_run() -> None:
    rng = np.random.default_rng(0)
    mean, covariance = kalman.initiate(np.array([[10.0, 10.0, 0.0, 0.0], [300.0, 200.0, 500.0, 30.0]]))
    for _ in range(2000):
        mean, covariance = kalman.predict(mean, covariance, int(rng.integers(1, 100_000)))
        mean, covariance = kalman.update(mean, covariance, mean[:, :4] + rng.normal(0, 1, (2, 4)))
    assert np.allclose(covariance, covariance.swapaxes(1, 2), rtol=1e-9, atol=1e-9)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_corners_and_centre_are_inverse_and_a_negative_side_becomes_none() -> None:
    xyxy = np.array([[10.0, 20.0, 50.0, 30.0]])
    assert kalman.xyxy_to_cxcywh(xyxy).tolist() == [[30, 25, 40, 10]]
    assert kalman.cxcywh_to_xyxy(kalman.xyxy_to_cxcywh(xyxy)).tolist() == xyxy.tolist()
    assert kalman.cxcywh_to_xyxy(np.array([[30.0, 25.0, -4.0, 10.0]])).tolist() == [[30, 20, 30, 30]]
