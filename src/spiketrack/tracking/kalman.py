"""A constant-velocity Kalman filter for boxes, in real time. Compiled; import inside functions.

Station: a tracker predicts its tracks to the time of the next detections and corrects the matched ones. Every function
works in place on one track; the loops over tracks stand in `kernels`. Noise follows ByteTrack's constants, turned from
frames into seconds.

State: centre x, centre y, width, height (px) and their velocities (px/s). With s the box's side along each axis (at
least 1 px) and T = 1/30 s, ByteTrack's frame:

    measurement noise     (s / 20)^2                      each of the four
    process noise over dt (s / 20)^2 dt/T                 added to the position variances
                          (s / 160 / T)^2 dt/T            added to the velocity variances

None of it ties one axis to another, so the 8 x 8 covariance falls into four 2 x 2 ones and nothing needs solving:

    mean        (8,)    the four positions, then the four velocities
    covariance  (3, 4)  rows: variance of the position, covariance of both, variance of the velocity

Variances grow in proportion to dt, so that dt = T gives exactly the per-frame filter. Means do not depend on how an
interval is divided. Variances do, slightly: two halves of dt add q dt^3/8 to the position variance and q dt^2/4 to
the covariance with the velocity over one whole, with q = (s / 160 / T)^2 / T; at dt = T that is 0.2 % of the
position noise.
"""

from __future__ import annotations

from numba import njit

FRAME_US = 33_333
POSITION_STD = 1 / 20  # of the box side, per frame
VELOCITY_STD = 1 / 160  # of the box side per frame, per frame
_FRAME_S = FRAME_US * 1e-6
_POSITION, _BOTH, _VELOCITY = range(3)


@njit(cache=True, nogil=True)
def side(mean, axis):
    """The box's side along each of the four components, at least 1 px."""
    return max(mean[2 + axis % 2], 1.0)


@njit(cache=True, nogil=True)
def initiate(mean, covariance, xyxy):
    """A track that starts at the measured box, at rest, unsure of it."""
    measure(mean, xyxy)
    for axis in range(4):
        mean[4 + axis] = 0
        covariance[_POSITION, axis] = (2 * POSITION_STD * side(mean, axis)) ** 2
        covariance[_BOTH, axis] = 0
        covariance[_VELOCITY, axis] = (10 * VELOCITY_STD * side(mean, axis) / _FRAME_S) ** 2


@njit(cache=True, nogil=True)
def predict(mean, covariance, dt):
    """The track dt >= 0 seconds later: P = F P F^T + Q with F = [[1, dt], [0, 1]] for each axis."""
    # both axes take their noise from the sides before any of them moves
    width, height = side(mean, 0), side(mean, 1)
    for axis in range(4):
        noise = (height if axis % 2 else width) ** 2 * (dt / _FRAME_S)
        mean[axis] += dt * mean[4 + axis]
        covariance[_POSITION, axis] += dt * (2 * covariance[_BOTH, axis] + dt * covariance[_VELOCITY, axis])
        covariance[_BOTH, axis] += dt * covariance[_VELOCITY, axis]
        covariance[_POSITION, axis] += POSITION_STD**2 * noise
        covariance[_VELOCITY, axis] += (VELOCITY_STD / _FRAME_S) ** 2 * noise


@njit(cache=True, nogil=True)
def correct(mean, covariance, measured):
    """The track corrected by a measured centre x, centre y, width, height: K = P_:p / (P_pp + R), P -= K P_p:."""
    width, height = side(mean, 0), side(mean, 1)
    for axis in range(4):
        noise = (POSITION_STD * (height if axis % 2 else width)) ** 2
        position, both = covariance[_POSITION, axis], covariance[_BOTH, axis]
        spread = position + noise
        residual = (measured[axis] - mean[axis]) / spread
        mean[axis] += position * residual
        mean[4 + axis] += both * residual
        covariance[_POSITION, axis] = position * noise / spread  # P - P^2 / (P + R), without the difference
        covariance[_BOTH, axis] = both * noise / spread
        covariance[_VELOCITY, axis] -= both * both / spread


@njit(cache=True, nogil=True)
def observe_velocity(mean, covariance, axis, velocity, variance):
    """The track corrected by a measured velocity (px/s) along one axis, with its variance (px^2/s^2)."""
    both, speed = covariance[_BOTH, axis], covariance[_VELOCITY, axis]
    spread = speed + variance
    residual = (velocity - mean[4 + axis]) / spread
    mean[axis] += both * residual
    mean[4 + axis] += speed * residual
    covariance[_POSITION, axis] -= both * both / spread
    covariance[_BOTH, axis] -= both * speed / spread
    covariance[_VELOCITY, axis] -= speed * speed / spread


@njit(cache=True, nogil=True)
def measure(measured, xyxy):
    """Write centre x, centre y, width, height of corners into the first four of `measured`."""
    measured[0], measured[1] = (xyxy[0] + xyxy[2]) / 2, (xyxy[1] + xyxy[3]) / 2
    measured[2], measured[3] = xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]


@njit(cache=True, nogil=True)
def corners(xyxy, mean):
    """Write the corners of the first four of `mean` into `xyxy`; a negative side becomes 0."""
    for axis in range(2):
        half = max(mean[2 + axis], 0.0) / 2
        xyxy[axis], xyxy[2 + axis] = mean[axis] - half, mean[axis] + half
