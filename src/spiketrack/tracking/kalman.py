"""A constant-velocity Kalman filter for boxes, in real time.

Station: the tracker predicts all its tracks to the time of the next detections and corrects the matched ones. Pure
functions on batches of N tracks. Noise follows ByteTrack's constants, turned from frames into seconds.

State: centre x, centre y, width, height (px) and their velocities (px/s). With s the box's side along each axis (at
least 1 px) and T = 1/30 s, ByteTrack's frame:

    measurement noise     (s / 20)^2                      each of the four
    process noise over dt (s / 20)^2 dt/T                 added to the position variances
                          (s / 160 / T)^2 dt/T            added to the velocity variances

Variances grow in proportion to dt, so that dt = T gives exactly the per-frame filter. Means do not depend on how an
interval is divided. Variances do, slightly: two halves of dt add q dt^3/8 to the position variance and q dt^2/4 to
the covariance with the velocity over one whole, with q = (s / 160 / T)^2 / T; at dt = T that is 0.2 % of the
position noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAME_US = 33_333
POSITION_STD = 1 / 20  # of the box side, per frame
VELOCITY_STD = 1 / 160  # of the box side per frame, per frame
_FRAME_S = FRAME_US * 1e-6
_AXES = np.arange(4)

Means = NDArray[np.float64]  # (N, 8)
Covariances = NDArray[np.float64]  # (N, 8, 8)


def xyxy_to_cxcywh(xyxy: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 4) corners to (N, 4) centre x, centre y, width, height."""
    low, high = np.asarray(xyxy, np.float64)[:, :2], np.asarray(xyxy, np.float64)[:, 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def cxcywh_to_xyxy(cxcywh: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, 4) centre x, centre y, width, height to (N, 4) corners; a negative side becomes 0."""
    centre, half = cxcywh[:, :2], np.maximum(cxcywh[:, 2:4], 0) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def initiate(measured: NDArray[np.float64]) -> tuple[Means, Covariances]:
    """Tracks that start at the measured (N, 4) cxcywh, at rest, unsure of it."""
    side = _side(measured)
    covariance = np.zeros((len(measured), 8, 8))
    covariance[:, _AXES, _AXES] = (2 * POSITION_STD * side) ** 2
    covariance[:, _AXES + 4, _AXES + 4] = (10 * VELOCITY_STD * side / _FRAME_S) ** 2
    return np.concatenate([measured, np.zeros_like(measured)], axis=1), covariance


def predict(mean: Means, covariance: Covariances, dt_us: int) -> tuple[Means, Covariances]:
    """The tracks dt_us microseconds later: mean (N, 8), covariance (N, 8, 8) to the same shapes.

    mean = F mean, covariance = F covariance F^T + Q with F = [[I, dt I], [0, I]] in 4 x 4 blocks.
    Raises ValueError for a negative dt_us.
    """
    if dt_us < 0:
        raise ValueError(f"kalman: time must not run backwards, got {dt_us} us")
    dt = dt_us * 1e-6
    side = _side(mean)
    later = mean.copy()
    later[:, :4] += dt * mean[:, 4:]
    spread = covariance.copy()
    spread[:, :4] += dt * spread[:, 4:]
    spread[:, :, :4] += dt * spread[:, :, 4:]
    spread[:, _AXES, _AXES] += (POSITION_STD * side) ** 2 * (dt / _FRAME_S)
    spread[:, _AXES + 4, _AXES + 4] += (VELOCITY_STD * side / _FRAME_S) ** 2 * (dt / _FRAME_S)
    return later, spread


def update(mean: Means, covariance: Covariances, measured: NDArray[np.float64]) -> tuple[Means, Covariances]:
    """The tracks corrected by one measured (N, 4) cxcywh each.

    S = P_pp + R, K = P_:p S^-1, mean += K (measured - mean_p), P -= K S K^T, with p the four measured components.
    """
    innovation = covariance[:, :4, :4].copy()  # S, (N, 4, 4)
    innovation[:, _AXES, _AXES] += (POSITION_STD * _side(mean)) ** 2
    gain_t = np.linalg.solve(innovation, covariance[:, :4, :])  # K^T, (N, 4, 8)
    residual = measured - mean[:, :4]
    corrected = mean + np.einsum("nij,ni->nj", gain_t, residual)
    return corrected, covariance - covariance[:, :, :4] @ gain_t


def _side(cxcywh: NDArray[np.float64]) -> NDArray[np.float64]:
    """The box's side along each of the four components, at least 1 px: (N, 4) width, height, width, height."""
    return np.maximum(cxcywh[:, [2, 3, 2, 3]], 1.0)
