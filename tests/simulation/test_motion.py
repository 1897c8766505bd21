"""Where objects are and when they live."""

import numpy as np
import pytest
from pydantic import ValidationError

from spiketrack.errors import SettingsError
from spiketrack.simulation.motion import Canvas, MotionSettings, Track, plan_tracks

CANVAS = Canvas(304, 240)


def a_track(**changes):
    values = dict(
        track_id=1,
        birth_us=1_000_000,
        life_us=2_000_000,
        start=(10.0, 20.0),
        direction=(0.6, 0.8),
        speed=50.0,
        sway=0.0,
        phase=0.0,
        size=1.0,
        depth=0.5,
    )
    return Track(**{**values, **changes})


def plan(seed=(0,), duration_us=20_000_000, **settings):
    return plan_tracks(MotionSettings(**settings), CANVAS, duration_us, (1.0, 1.0), 17.0, seed)


def test_steady_motion_by_hand():
    # 50 px/s along (0.6, 0.8) for 0, 1 and 2 s
    positions = a_track().position([1_000_000, 2_000_000, 3_000_000])
    np.testing.assert_allclose(positions, [(10, 20), (40, 60), (70, 100)])


def test_speed_varies_about_its_mean_and_the_way_stays_the_same():
    # w = pi rad/s; after half the life s = v (1 + (a / pi) (sin(pi) - sin(0))) = v, at a quarter v (0.5 + a / pi)
    swaying = a_track(sway=0.35)
    way = np.linalg.norm(swaying.position([1_500_000, 2_000_000, 3_000_000]) - (10, 20), axis=1)
    np.testing.assert_allclose(way, [50 * (0.5 + 0.35 / np.pi), 50, 100])


def test_a_halting_track_stands_still_once_and_never_turns_back():
    track = a_track(sway=1.0, phase=np.pi)  # v(t) = v (1 - cos(w t)): at rest at birth and after one period
    way = np.linalg.norm(track.position(np.arange(1_000_000, 3_000_001, 1000)) - (10, 20), axis=1)
    speed = np.diff(way) / 1e-3  # px/s
    assert speed.min() >= 0
    assert speed[0] < 1e-2
    assert speed.max() == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize("seed", [(0,), (3, 1, 4)])
def test_plan_keeps_its_settings(seed):
    tracks = plan(seed, objects=(3, 6))
    assert [track.track_id for track in tracks] == list(range(1, len(tracks) + 1))
    assert all(1.0 <= track.life_us / 1e6 <= 2.8 for track in tracks)
    assert all(20 <= track.speed <= 120 for track in tracks)
    for t_us in range(0, 20_000_000, 50_000):
        alive = [track for track in tracks if track.alive(t_us, t_us + 1)]
        assert 3 <= len(alive) <= 6
    for track in tracks:
        ends = track.position([track.birth_us, track.end_us])
        outside = (ends <= -17 + 0.01) | (ends >= np.array(CANVAS) + 17 - 0.01)
        assert outside.any(axis=1).all(), "a centre starts and ends 17 px off the canvas"


def test_speed_stays_in_range_unless_the_track_halts():
    for track in plan(halt_share=0.0):
        times = np.linspace(track.birth_us, track.end_us, 500).astype(np.int64)
        steps = np.linalg.norm(np.diff(track.position(times), axis=0), axis=1) / (np.diff(times) * 1e-6)
        assert steps.min() >= 20 * 0.99
        assert steps.max() <= 120 * 1.01


def test_a_longer_plan_begins_with_the_shorter_one():
    short, long = plan(duration_us=3_000_000), plan(duration_us=9_000_000)
    assert long[: len(short)] == short
    assert len(long) > len(short)


def test_seeds_differ_and_repeat():
    assert plan((1,)) == plan((1,))
    assert plan((1,)) != plan((2,))


def test_impossible_motion_is_refused_with_what_to_change():
    with pytest.raises(SettingsError, match=r"304x240.*widen life_s or speed_px_s"):
        plan(speed_px_s=(1.0, 2.0))


@pytest.mark.parametrize(
    "settings",
    [{"objects": (5, 3)}, {"objects": (0, 0)}, {"speed_px_s": (0, 10)}, {"life_s": (2, 1)}, {"unknown": 1}],
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValidationError):
        MotionSettings(**settings)
