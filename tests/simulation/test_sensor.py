"""The pixel model against cases worked out by hand."""

import numpy as np
import pytest

from spiketrack.events import Events
from spiketrack.simulation.motion import Canvas
from spiketrack.simulation.sensor import PixelArray, PixelSettings

ONE = Canvas(1, 1)


def run(log_of_us, times_us, canvas=ONE, **settings):
    """Expose frames of uniform log intensity log_of_us(t) at the given times; all events."""
    settings = {"mismatch": 0.0, "refractory_us": 0.0, **settings}
    pixels = PixelArray(PixelSettings(**settings), canvas, [0])
    shape = (canvas.height, canvas.width)
    return Events.concatenate([pixels.expose(np.full(shape, float(log_of_us(t))), int(t)) for t in times_us])


@pytest.mark.parametrize("frame_us", [1_000, 40_000, 1_000_000])
def test_a_log_ramp_fires_at_every_threshold(frame_us):
    # 2 log units/s for 1 s and a threshold of 0.25: floor(2 / 0.25) = 8 ON events, every 125 ms
    events = run(lambda t: 2e-6 * t, range(0, 1_000_001, frame_us), on_threshold=0.25)
    assert events.t.tolist() == [125_000 * k for k in range(1, 9)]
    assert events.p.tolist() == [1] * 8


def test_a_falling_ramp_fires_off_by_the_off_threshold():
    # -2 log units/s for 1 s and a threshold of 0.3: floor(6.67) = 6 OFF events, every 150 ms
    events = run(lambda t: -2e-6 * t, range(0, 1_000_001, 8_000), on_threshold=0.1, off_threshold=0.3)
    assert events.t.tolist() == [150_000 * k for k in range(1, 7)]
    assert events.p.tolist() == [0] * 6


@pytest.mark.parametrize("frame_us", [10_000, 1_000_000])
def test_a_pixel_is_held_in_reset_for_the_refractory_period(frame_us):
    # after each event 25 ms of reset, then 125 ms to the next threshold
    events = run(lambda t: 2e-6 * t, range(0, 1_000_001, frame_us), on_threshold=0.25, refractory_us=25_000)
    assert events.t.tolist() == [125_000, 275_000, 425_000, 575_000, 725_000, 875_000]


def test_a_change_within_the_reset_is_lost():
    # 0 -> 0.3 in 1 ms crosses 0.25 at 833 us; the reset lasts over the second rise, and then nothing changes
    steps = {0: 0.0, 1000: 0.3, 2000: 0.9, 50_000: 0.9, 60_000: 0.9}
    events = run(steps.get, steps, on_threshold=0.25, refractory_us=10_000)
    assert events.t.tolist() == [833]


def test_several_crossings_within_one_frame_interval():
    # 0 -> 1 within 1 ms and a threshold of 0.2: at 200, 400, 600, 800, 1000 us
    assert run({0: 0.0, 1000: 1.0}.get, [0, 1000], on_threshold=0.2).t.tolist() == [200, 400, 600, 800, 1000]


def test_the_way_back_is_measured_from_the_last_event():
    # up 0.3 in 3 ms: ON at 2 ms, reference 0.2. Down 0.4 in 4 ms: OFF where the log is 0.0, 3 ms later
    steps = {0: 0.0, 3000: 0.3, 7000: -0.1}
    events = run(steps.get, steps, on_threshold=0.2, off_threshold=0.2)
    assert list(zip(events.t.tolist(), events.p.tolist(), strict=True)) == [(2000, 1), (6000, 0)]


def test_a_sine_crosses_at_the_arcsine():
    # log = sin(2 pi t / 1 s), threshold 0.3: first quarter at asin(0.3 k) / (2 pi), k = 1, 2, 3
    events = run(lambda t: np.sin(2e-6 * np.pi * t), range(0, 250_001, 500), on_threshold=0.3)
    expected = np.arcsin([0.3, 0.6, 0.9]) / (2 * np.pi) * 1e6
    np.testing.assert_allclose(events.t, expected, atol=2)


def test_nothing_changes_nothing_fires():
    assert len(run(lambda t: 0.7, range(0, 100_000, 5_000), canvas=Canvas(8, 5))) == 0


def test_mismatch_gives_every_pixel_its_own_count():
    canvas = Canvas(50, 40)
    pixels = PixelArray(PixelSettings(on_threshold=0.2, mismatch=0.03, refractory_us=0), canvas, [4])
    assert pixels.on.mean() == pytest.approx(0.2, abs=5 * 0.03 / np.sqrt(2000))
    assert pixels.on.std() == pytest.approx(0.03, rel=0.1)
    pixels.expose(np.zeros((40, 50)), 0)
    events = pixels.expose(np.full((40, 50), 3.0), 10_000)
    counts = np.bincount(events.y.astype(int) * 50 + events.x, minlength=2000).reshape(40, 50)
    np.testing.assert_array_equal(counts, np.floor(3.0 / pixels.on))


def test_overlapping_regions_equal_the_whole_frame():
    canvas, rng = Canvas(12, 9), np.random.default_rng(1)
    frames = [np.zeros((9, 12))]
    for _ in range(20):
        frame = frames[-1].copy()
        frame[2:7, 3:10] += rng.normal(0, 0.3, (5, 7))
        frames.append(frame)
    runs = []
    for regions in (None, [(3, 2, 8, 7), (5, 2, 10, 7)]):
        pixels = PixelArray(PixelSettings(), canvas, [0])
        events = [pixels.expose(frame, 1000 * k, regions) for k, frame in enumerate(frames)]
        runs.append(
            sorted(zip(*(np.concatenate([getattr(e, n) for e in events]).tolist() for n in "txyp"), strict=True))
        )
    assert runs[0] == runs[1]
    assert len(runs[0]) > 100


def test_an_empty_list_of_regions_lets_only_time_pass():
    pixels = PixelArray(PixelSettings(mismatch=0, on_threshold=0.2), ONE, [0])
    pixels.expose(np.zeros((1, 1)), 0)
    assert len(pixels.expose(np.zeros((1, 1)), 1000, [])) == 0
    assert pixels.expose(np.full((1, 1), 0.2), 2000).t.tolist() == [2000]


def test_bad_frames_are_refused():
    pixels = PixelArray(PixelSettings(), Canvas(4, 3), [0])
    with pytest.raises(ValueError, match="not finite"):
        pixels.expose(np.full((3, 4), -np.inf), 0)
    pixels.expose(np.zeros((3, 4)), 0)
    with pytest.raises(ValueError, match="must be float64"):
        pixels.expose(np.zeros((4, 3)), 1000)
    with pytest.raises(ValueError, match="must increase"):
        pixels.expose(np.zeros((3, 4)), 0)
    with pytest.raises(ValueError, match="leaves the canvas"):
        pixels.expose(np.zeros((3, 4)), 1000, [(0, 0, 5, 3)])
    with pytest.raises(ValueError, match="not finite"):
        pixels.expose(np.full((3, 4), np.nan), 1000)
