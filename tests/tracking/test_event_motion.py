"""Event motion: the velocity of moving dots, found in their events."""

import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.events import Events
from spiketrack.tracking import ByteTrack, EventMotionSettings, OCSort, Tracker
from spiketrack.tracking.event_motion import observed_motion
from spiketrack.tracking.tracks import TRACK

GAP_US = 100_000


def dots(place: tuple[float, float], velocity: tuple[float, float], seed: int = 0, rate: int = 400) -> np.ndarray:
    """(N, 4) t, x, y, p of 20 dots in a square of 24 px that moves for 0.3 s from `place`, its upper left corner."""
    rng = np.random.default_rng(seed)
    offset, polarity = rng.uniform(0, 24, (20, 2)), rng.integers(0, 2, 20)
    which, t = rng.integers(0, 20, 3 * rate), np.sort(rng.integers(0, 3 * GAP_US, 3 * rate))
    at = offset[which] + place + t[:, None] * 1e-6 * velocity
    return np.c_[t, np.round(at), polarity[which]].astype(int)


def events(*parts: np.ndarray) -> Events:
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    return Events.repaired(*rows.T, 240, 180)[0]


def track(place: tuple[float, float], velocity: tuple[float, float] = (0, 0), std: float = 100.0) -> np.ndarray:
    one = np.zeros(1, TRACK)
    x, y = place
    one["box"] = [x, y, x + 24, y + 24]
    one["mean"][0, 4:6] = velocity
    one["covariance"][0, 2, :2] = std**2
    return one


@pytest.mark.parametrize("velocity", [(120.0, 0.0), (-60.0, 90.0), (0.0, 0.0)])
def test_the_velocity_of_dots_is_found_within_half_a_pixel_over_the_gap(velocity: tuple[float, float]) -> None:
    moving = events(dots((100, 80), velocity))
    motion, variance = observed_motion(track((100, 80)), moving, 0, GAP_US, EventMotionSettings())
    assert motion[0] == pytest.approx(velocity, abs=5)  # px/s: 0.5 px in 0.1 s
    assert variance[0].tolist() == pytest.approx([30**2, 30**2])  # 3 px in 0.1 s


def test_of_two_objects_in_one_place_each_track_keeps_to_its_own() -> None:
    both = events(dots((100, 80), (150, 0), 1), dots((110, 80), (-150, 0), 2))
    for place, speed in (((100, 80), 150), ((110, 80), -150)):
        one = track(place, (speed * 0.9, 0), 20.0)
        motion, _ = observed_motion(one, both, 0, GAP_US, EventMotionSettings())
        assert motion[0, 0] == pytest.approx(speed, abs=10)


def test_too_few_events_and_noise_say_nothing() -> None:
    rng = np.random.default_rng(0)
    noise = np.c_[
        np.sort(rng.integers(0, GAP_US, 4000)), rng.integers(0, (240, 180), (4000, 2)), rng.integers(0, 2, 4000)
    ]
    few = dots((100, 80), (50, 0), rate=10)
    for some in (events(noise), events(few), Events.empty(240, 180)):
        motion, variance = observed_motion(track((100, 80)), some, 0, GAP_US, EventMotionSettings())
        assert np.isinf(variance).all()
        assert not motion.any()


def test_a_track_beyond_the_sensor_is_harmless_and_nothing_is_changed() -> None:
    some = events(dots((100, 80), (50, 0)))
    away = np.concatenate([track((-400, 80)), track((5000, -900), (1e6, 1e6)), track((100, 80))])
    before = away.copy()
    _, variance = observed_motion(away, some, 0, GAP_US, EventMotionSettings())
    assert np.isfinite(variance).all(axis=1).tolist() == [False, False, True]
    assert away.tobytes() == before.tobytes()


@pytest.mark.parametrize("make", [ByteTrack, OCSort])
def test_a_new_fast_object_is_followed_by_its_events_only(make: type[Tracker]) -> None:
    # 24 px wide, 20 px per update: seen once it has no velocity, and the overlap (IoU 1/11) is too little
    seen = events(dots((60, 80), (200, 0)))

    def ids(given: Events | None) -> list[int]:
        tracker = make(make().settings.model_copy(update={"events": EventMotionSettings(enabled=True)}))
        for t in (0, GAP_US):
            x = 60 + 200e-6 * t
            out = tracker.update(Boxes.of(t, [(x, 80, x + 24, 104)], 0), t, events=given)
        return out.track_id.tolist()

    assert ids(seen) == [1]
    assert ids(None) != [1]
    off = make()  # they are looked at only where they are asked for
    for t in (0, GAP_US):
        x = 60 + 200e-6 * t
        out = off.update(Boxes.of(t, [(x, 80, x + 24, 104)], 0), t, events=seen)
    assert out.track_id.tolist() != [1]
