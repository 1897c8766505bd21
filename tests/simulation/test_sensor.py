"""The pixel model against cases worked out by hand, without and with the low pass."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from spiketrack.events import Events
from spiketrack.simulation.readout import ReadoutSettings
from spiketrack.simulation.sensor import Flicker, PixelSettings, Sensor, SensorSettings

TAU_US = 10_000.0
SLOW = {"bandwidth_hz": 1e6 / (2 * np.pi * TAU_US), "least_bandwidth_hz": 1.0, "bandwidth_intensity": 1e-6}


def sensor(width=1, height=1, seed=(0,), threads=2, **pixel):
    settings = {"mismatch": 0.0, "refractory_us": 0.0, **pixel}
    return Sensor(SensorSettings(width=width, height=height, pixel=PixelSettings(**settings)), seed, threads)


def flat(log, width=1, height=1):
    return np.full((height, width), np.exp(log), np.float32)


def run(log_of_us, times_us, **pixel):
    """Expose one pixel to exp(log_of_us(t)) at the given times; all events."""
    one = sensor(**pixel)
    return Events.concatenate([one.expose(flat(log_of_us(t)), int(t)).events for t in times_us])


@pytest.mark.parametrize("frame_us", [1_010, 40_400, 1_010_000])
def test_a_log_ramp_fires_at_every_threshold(frame_us):
    # 2 log units/s for 1.01 s and a threshold of 0.25: floor(2.02 / 0.25) = 8 ON events, every 125 ms
    events = run(lambda t: 2e-6 * t, range(0, 1_010_001, frame_us), on_threshold=0.25)
    np.testing.assert_allclose(events.t, [125_000 * k for k in range(1, 9)], atol=1)
    assert events.p.tolist() == [1] * 8


def test_a_falling_ramp_fires_off_by_the_off_threshold():
    # -2 log units/s for 1 s and a threshold of 0.3: floor(6.67) = 6 OFF events, every 150 ms
    events = run(lambda t: -2e-6 * t, range(0, 1_000_001, 8_000), on_threshold=0.1, off_threshold=0.3)
    np.testing.assert_allclose(events.t, [150_000 * k for k in range(1, 7)], atol=1)
    assert events.p.tolist() == [0] * 6


def ramp_time(level, slope):
    """When slope * (t - tau + tau exp(-t / tau)) reaches a level, us: by bisection."""
    low, high = 0.0, 1e7
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if slope * (t - TAU_US + TAU_US * np.exp(-t / TAU_US)) < level else (low, t)
    return low


@pytest.mark.parametrize("frame_us", [500, 20_000, 500_000])
def test_a_ramp_through_the_low_pass_lags_by_its_time_constant(frame_us):
    # 2 log units/s, tau 10 ms: y = 2 (t - tau + tau exp(-t / tau)); late events lag the ramp by tau
    events = run(lambda t: 2e-6 * t, range(0, 500_001, frame_us), on_threshold=0.05, **SLOW)
    expected = [ramp_time(0.05 * k, 2e-6) for k in range(1, 20)]
    np.testing.assert_allclose(events.t, expected, atol=2)
    assert events.t[-1] == pytest.approx(19 * 25_000 + TAU_US, abs=2)


@pytest.mark.parametrize("frame_us", [700, 70_000])
def test_a_step_through_the_low_pass_is_an_exponential(frame_us):
    # a step of 1 within 1 us, then nothing: y = 1 - exp(-t / tau), crossing 0.3 k at -tau log(1 - 0.3 k)
    times = [0, 1000, 1001, *range(1001 + frame_us, 142_000, frame_us)]
    events = run(lambda t: float(t > 1000), times, on_threshold=0.3, **SLOW)
    np.testing.assert_allclose(events.t - 1000.5, -TAU_US * np.log(1 - np.array([0.3, 0.6, 0.9])), atol=2)


def test_a_step_between_two_frames():
    # 0 -> 1 within 1 ms and a threshold of 0.2: at 200, 400, 600, 800, 1000 us
    assert run({0: 0.0, 1000: 1.0}.get, [0, 1000], on_threshold=0.2).t.tolist() == [200, 400, 600, 800, 1000]


def test_the_output_turns_round_between_two_frames():
    # up 1 in 1 ms, down 1 in 100 ms, tau 10 ms: at 1 ms y = 0.0484; it meets the falling input, the peak, where
    # exp(-(t - 1) / tau) = 1 / (1 + (1 - 0.0484) / 0.1), at 24.54 ms: y = 0.7646. Seven thresholds of 0.1 on the way up
    events = run({0: 0.0, 1000: 1.0, 101_000: 0.0}.get, [0, 1000, 101_000], on_threshold=0.1, off_threshold=0.6, **SLOW)
    at_1 = 1 - 10 * (1 - np.exp(-0.1))
    peak = 10 * np.log(1 + (1 - at_1) / 0.1)
    assert 0.7 < 1 - peak / 100 < 0.8
    t = np.linspace(0, 100, 1_000_001)  # ms after the first frame
    y = 1 - t / 100 + 0.1 + (at_1 - 1.1) * np.exp(-t / 10)
    up = [1 + t[np.argmax(y >= 0.1 * k)] for k in range(1, 8)]
    falling = t > peak
    down = 1 + t[falling][np.argmax(y[falling] <= 0.1)]
    np.testing.assert_allclose(events.t, 1000 * np.array([*up, down]), atol=2)
    assert events.p.tolist() == [1] * 7 + [0]


def test_the_cut_off_grows_with_intensity():
    # a step of 0.4 and a threshold of 0.3: a quarter is left after tau log 4; full speed from 0.1, a tenth at 0.01,
    # at least 20 Hz
    for light, cut_off in ((1.0, 500.0), (0.01, 50.0), (0.0001, 20.0)):
        pixel = {"bandwidth_hz": 500.0, "least_bandwidth_hz": 20.0, "bandwidth_intensity": 0.1}
        one = sensor(on_threshold=0.3, **pixel)
        frames = {0: light * np.exp(-0.4), 1: light, 1_000_000: light}
        events = [one.expose(np.full((1, 1), value, np.float32), t).events for t, value in frames.items()]
        assert events[-1].t.tolist() == pytest.approx([1e6 * np.log(4) / (2 * np.pi * cut_off)], abs=2)


def test_dark_intensity_takes_contrast_away():
    # from 0.01 to 0.03 the log rises by 1.1, with 0.01 added by log(0.04 / 0.02) = 0.69: 3 events instead of 5
    for dark, count in ((0.0, 5), (0.01, 3)):
        one = sensor(on_threshold=0.2, dark_intensity=dark)
        one.expose(np.full((1, 1), 0.01, np.float32), 0)
        assert len(one.expose(np.full((1, 1), 0.03, np.float32), 1000).events) == count


@pytest.mark.parametrize("frame_us", [10_000, 1_000_000])
def test_a_pixel_is_held_in_reset_for_the_refractory_period(frame_us):
    # after each event 25 ms of reset, then 125 ms to the next threshold
    events = run(lambda t: 2e-6 * t, range(0, 1_000_001, frame_us), on_threshold=0.25, refractory_us=25_000)
    np.testing.assert_allclose(events.t, [125_000, 275_000, 425_000, 575_000, 725_000, 875_000], atol=1)


def test_a_change_within_the_reset_is_lost():
    # 0 -> 0.3 in 1 ms crosses 0.25 at 833 us; the reset lasts over the second rise, and then nothing changes
    steps = {0: 0.0, 1000: 0.3, 2000: 0.9, 50_000: 0.9, 60_000: 0.9}
    assert run(steps.get, steps, on_threshold=0.25, refractory_us=10_000).t.tolist() == [833]


def test_the_way_back_is_measured_from_the_last_event():
    # up 0.3 in 3 ms: ON at 2 ms, reference 0.2. Down 0.4 in 4 ms: OFF where the log is 0.0, 3 ms later
    steps = {0: 0.0, 3000: 0.3, 7000: -0.1}
    events = run(steps.get, steps, on_threshold=0.2, off_threshold=0.2)
    assert list(zip(events.t.tolist(), events.p.tolist(), strict=True)) == [(2000, 1), (6000, 0)]


def test_a_sine_crosses_at_the_arcsine():
    # log = sin(2 pi t / 1 s), threshold 0.3: first quarter at asin(0.3 k) / (2 pi), k = 1, 2, 3
    events = run(lambda t: np.sin(2e-6 * np.pi * t), range(0, 250_001, 500), on_threshold=0.3)
    np.testing.assert_allclose(events.t, np.arcsin([0.3, 0.6, 0.9]) / (2 * np.pi) * 1e6, atol=2)


def test_a_sine_through_the_low_pass_is_damped_and_late():
    # cos(w t) - 1 from t = 0 on, 100 Hz, tau 10 ms: y = -1 + A cos(w t - phi) + (1 - A cos(phi)) exp(-t / tau) with
    # A = 1 / sqrt(1 + (w tau)^2) = 0.157, phi = atan(w tau); its events on a grid of 1 us
    w, t = 2e-4 * np.pi, np.arange(100_001)
    size, phi = 1 / np.sqrt(1 + (w * TAU_US) ** 2), np.arctan(w * TAU_US)
    reference, expected = 0.0, []
    for now, y in enumerate(-1 + size * np.cos(w * t - phi) + (1 - size * np.cos(phi)) * np.exp(-t / TAU_US)):
        if abs(y - reference) >= 0.1:
            reference += np.sign(y - reference) * 0.1
            expected.append(now)
    polarity = {"on_threshold": 0.1, "off_threshold": 0.1}
    events = run(lambda t: np.cos(w * t) - 1, range(0, 100_001, 50), **polarity, **SLOW)
    assert len(expected) > 40
    np.testing.assert_allclose(events.t, expected, atol=5)


def test_a_moving_edge_fires_by_its_contrast_as_it_passes():
    # an edge of contrast 1 at 100 px/s, drawn by coverage, from dark to bright: floor(1 / 0.3) = 3 ON in each pixel it
    # passes, within the 10 ms of its passage
    width, line = 40, sensor(40, 3, on_threshold=0.3)
    events = []
    for t in range(0, 300_001, 500):
        covered = np.clip(t * 1e-4 - np.arange(width), 0, 1)
        frame = np.tile(0.2 * (1 + (np.e - 1) * covered), (3, 1)).astype(np.float32)
        events.append(line.expose(frame, t).events)
    events = Events.concatenate(events)
    counts = np.bincount(events.y.astype(int) * width + events.x, minlength=3 * width).reshape(3, width)
    np.testing.assert_array_equal(counts, np.tile([3] * 30 + [0] * 10, (3, 1)))
    passage = events.t - events.x * 10_000.0
    # coverage c gives log(1 + 1.718 c): 0.3, 0.6, 0.9 at c = 0.2036, 0.4785, 0.8495
    expected = (np.exp([0.3, 0.6, 0.9]) - 1) / (np.e - 1) * 10_000
    np.testing.assert_allclose(np.sort(passage.reshape(30, 9), axis=1)[:, ::3], np.tile(expected, (30, 1)), atol=8)


def test_nothing_changes_nothing_fires():
    quiet = sensor(20, 18)
    assert sum(len(quiet.expose(flat(0.7, 20, 18), t).events) for t in range(0, 100_000, 5_000)) == 0


def test_mismatch_gives_every_pixel_its_own_count():
    pixels = sensor(50, 40, seed=(4,), on_threshold=0.2, mismatch=0.03)
    on, off = pixels.thresholds
    assert on.mean() == pytest.approx(0.2, abs=5 * 0.03 / np.sqrt(2000))
    assert on.std() == pytest.approx(0.03, rel=0.1)
    assert abs(np.corrcoef(on.ravel(), off.ravel())[0, 1]) < 5 / np.sqrt(2000)
    pixels.expose(flat(0, 50, 40), 0)
    events = pixels.expose(flat(3, 50, 40), 10_000).events
    counts = np.bincount(events.y.astype(int) * 50 + events.x, minlength=2000).reshape(40, 50)
    np.testing.assert_array_equal(counts, np.floor((3.0 + 1e-6) / on))


def noise_counts(light, seconds=20, **pixel):
    """Events of 50x40 pixels at a constant intensity: all, and those that are ON."""
    pixels = sensor(50, 40, on_threshold=1, off_threshold=1, dark_intensity=0.001, **pixel)
    frame = np.full((40, 50), light, np.float32)
    pixels.expose(frame, 0)
    every = [pixels.expose(frame, 100_000 * k) for k in range(1, 10 * seconds + 1)]
    assert not np.concatenate([exposure.signal for exposure in every]).any()
    p = np.concatenate([exposure.events.p for exposure in every])
    return len(p), int(p.sum())


@pytest.mark.parametrize(("light", "rate"), [(0.0, 2.0), (0.02, 1.0), (0.18, 0.2)])
def test_shot_noise_falls_with_brightness(light, rate):
    # 2 Hz in the dark / (1 + I / 0.02)
    count, on = noise_counts(light, shot_hz=2.0, shot_intensity=0.02)
    expected = rate * 2000 * 20
    assert abs(count - expected) < 5 * np.sqrt(expected)
    assert abs(on - count / 2) < 5 * np.sqrt(count / 4)


@pytest.mark.parametrize(("light", "rate"), [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (7.0, 1.5)])
def test_leak_grows_with_brightness_and_is_on(light, rate):
    count, on = noise_counts(light, leak_hz=0.5, leak_light_hz=1.0)
    expected = rate * 2000 * 20
    assert abs(count - expected) < 5 * np.sqrt(expected)
    assert on == count


def test_hot_pixels_stay_where_they_are():
    pixels = sensor(50, 40, hot_pixels=0.002, hot_rate_hz=100.0)
    pixels.expose(flat(0, 50, 40), 0)
    events = pixels.expose(flat(0, 50, 40), 20_000_000).events
    _, counts = np.unique(events.y.astype(int) * 50 + events.x, return_counts=True)
    assert len(counts) == 4
    assert (np.abs(counts - 2000) < 1000 + 5 * np.sqrt(3000)).all()


def test_noise_resets_the_reference():
    # 0.9 log units in 9 ms and a threshold of 1 never fire; a pixel with noise at T measures from there. Then up by
    # 0.15 more: pixels without noise fire at 1.0, which is 1/3 of the last step
    pixels = sensor(60, 60, on_threshold=1.0, off_threshold=1.0, shot_hz=30.0, shot_intensity=1e6)
    pixels.expose(flat(0, 60, 60), 0)
    first = pixels.expose(flat(0.9, 60, 60), 9_000)
    assert not first.signal.any()
    second = pixels.expose(flat(1.2, 60, 60), 12_000)
    events, light = second.events, second.signal
    disturbed = np.zeros((60, 60), bool)
    disturbed[first.events.y, first.events.x] = True
    early = events.t < 10_000
    disturbed[events.y[~light & early], events.x[~light & early]] = True
    fired = np.zeros((60, 60), bool)
    fired[events.y[light], events.x[light]] = True
    assert 500 < disturbed.sum() < 1500
    lucky = first.events.t < 2_000  # 0.2 at the noise: 1.2 is reached at the very end
    allowed = np.zeros((60, 60), bool)
    allowed[first.events.y[lucky], first.events.x[lucky]] = True
    np.testing.assert_array_equal(fired & ~allowed, ~disturbed & ~allowed)
    plain = light & (~disturbed[events.y, events.x])
    np.testing.assert_array_equal(events.t[plain], 10_000)


def busy(threads=2, masked=True, readout=None, dtype=np.float32):
    """A patch that changes on a sensor whose sides are no multiples of 16; all events as rows."""
    rng = np.random.default_rng(1)
    pixel = PixelSettings(
        bandwidth_hz=100.0, least_bandwidth_hz=20.0, shot_hz=20.0, leak_hz=5.0, dark_intensity=0.01, refractory_us=700.0
    )
    settings = SensorSettings(width=330, height=150, pixel=pixel, readout=readout or ReadoutSettings())
    pixels = Sensor(settings, (3,), threads)
    frame = rng.uniform(0.1, 0.5, (150, 330)).astype(dtype)
    out = []
    for k in range(30):
        changed = np.zeros((10, 21), bool)
        if k % 3 == 0 and k < 20:
            frame = frame.copy()
            frame[20:90, 5:300] *= rng.uniform(0.5, 2, (70, 295)).astype(dtype)
            changed[20 // 16 : -(-90 // 16), : -(-300 // 16)] = True
        out.append(pixels.expose(frame, 2000 * k, changed if masked and k else None))
    out.append(pixels.flush())
    return np.array([np.concatenate([getattr(e.events, n).astype(np.int64) for e in out]) for n in "txyp"])


def test_threads_change_nothing():
    readout = ReadoutSettings(jitter_us=100.0, row_us=1.0, max_rate=5e6)
    one, two = busy(1, readout=readout), busy(2, readout=readout)
    assert one.shape[1] > 20_000
    np.testing.assert_array_equal(one, two)


def test_a_mask_of_changed_tiles_equals_the_whole_frame():
    # tiles rest once their pixels are within 0.002 of their target: a handful of events may differ by then
    masked, whole = ({tuple(row) for row in busy(masked=m).T.tolist()} for m in (True, False))
    assert len(masked ^ whole) <= 0.002 * len(whole)


def test_events_are_in_order_over_calls_and_on_the_sensor():
    t, x, y, _ = busy(readout=ReadoutSettings(jitter_us=500.0, row_us=2.0, max_rate=3e6))
    assert (np.diff(t) >= 0).all()
    assert x.max() == 329
    assert y.max() == 149


def test_nothing_changed_lets_only_time_pass():
    pixels = sensor(on_threshold=0.2)
    pixels.expose(flat(0), 0)
    assert len(pixels.expose(flat(0), 1000, np.zeros((1, 1), bool)).events) == 0
    assert pixels.expose(flat(0.201), 2000).events.t.tolist() == [1995]
    assert len(pixels.flush().events) == 0


def test_bad_frames_are_refused():
    def fresh():
        pixels = sensor(4, 3)
        pixels.expose(flat(0, 4, 3), 0)
        return pixels

    for value in (np.nan, np.inf, -1.0, 0.0):
        frame = flat(0, 4, 3)
        frame[1, 2] = value
        with pytest.raises(ValueError, match="must be finite and not negative"):
            sensor(4, 3).expose(frame, 0)
        with pytest.raises(ValueError, match="must be finite and not negative"):
            fresh().expose(frame, 1000)
    with pytest.raises(ValueError, match="must be float32"):
        fresh().expose(flat(0, 3, 4), 1000)
    with pytest.raises(ValueError, match="must be float32"):
        fresh().expose(np.ones((3, 4)), 1000)
    with pytest.raises(ValueError, match="must increase"):
        fresh().expose(flat(0, 4, 3), 0)
    with pytest.raises(ValueError, match="changed tiles must be bool"):
        fresh().expose(flat(0, 4, 3), 1000, np.ones((3, 4), bool))


def flickering(stepwise, hz=100.0, depth=0.3, until_us=80_000, **settings):
    """Events of lamps over half of 32 x 16 pixels, ever fainter to the right, and of a change at 48 ms; the tile on the
    right hardly swings. stepwise: drawn at each step instead of told.
    """
    pixels = sensor(32, 16, dark_intensity=0.01, mismatch=0.02, **settings)
    base, lamps = np.full((16, 32), 0.2, np.float32), np.zeros((16, 32), np.float32)
    lamps[:, :16], lamps[:, 16:] = np.linspace(0.6, 0.1, 16), 0.04
    told, tiles = Flicker(lamps, np.ones((1, 2), bool), hz, depth), np.ones((1, 2), bool)
    swing = depth / np.sinc(0.2) ** 1.5
    out = []
    old, new = base + lamps, base + lamps
    new[4:8, 10:20] += np.float32(0.4)
    for t in range(0, until_us + 1, 2_000 if stepwise else 4_000):
        frame = old if t < 48_000 else new
        if stepwise:
            add = np.float32(swing * np.sin(2e-6 * np.pi * hz * t)) * lamps
            half_way = np.sqrt((old + add + 0.01) * (new + add + 0.01)) - np.float32(0.01)  # of the log
            out.append(pixels.expose(half_way if t == 46_000 else frame + add, t).events)
        else:
            out.append(pixels.expose(frame, t, tiles if t in (0, 48_000) else ~tiles, told).events)
    return Events.concatenate(out), pixels


@pytest.mark.parametrize("settings", [{}, {"bandwidth_hz": 300.0, "bandwidth_intensity": 0.5, "refractory_us": 400.0}])
def test_light_that_flickers_is_as_if_every_step_of_it_were_drawn(settings):
    drawn, _ = flickering(True, until_us=44_000, **settings)
    told, pixels = flickering(False, until_us=44_000, **settings)
    assert len(drawn) > 800
    assert pixels._asleep.tolist() == [False, True]  # on the right the log swings by +- 0.05
    for name in "txyp":
        np.testing.assert_array_equal(getattr(told, name), getattr(drawn, name))


@pytest.mark.parametrize("settings", [{}, {"bandwidth_hz": 300.0, "bandwidth_intensity": 0.5, "refractory_us": 400.0}])
def test_a_change_of_light_wakes_pixels_that_only_flicker(settings):
    drawn, _ = flickering(True, **settings)
    told, _ = flickering(False, **settings)
    rows = []
    for events in (drawn, told):
        columns = np.array([events.x, events.y, events.t, events.p], np.int64)
        rows.append(columns[:, np.lexsort(columns[2::-1])])
    one, other = rows
    left = one[0] < 16
    assert 40 < (~left).sum() < 100
    np.testing.assert_array_equal(one[[0, 1, 3]], other[[0, 1, 3]])
    np.testing.assert_array_equal(one[2, left], other[2, left])
    np.testing.assert_allclose(one[2], other[2], atol=60)  # what slept takes its phase from the formula


def test_flicker_by_the_formula():
    # without a low pass: from log(1 - s) to log(1 + s) and back every 10 ms
    hz, depth = 100.0, 0.4
    swing = depth / np.sinc(0.2) ** 1.5
    pixels = sensor(on_threshold=0.21, off_threshold=0.19)
    told = Flicker(np.ones((1, 1), np.float32), np.ones((1, 1), bool), hz, depth)
    nothing = np.zeros((1, 1), bool)
    events = [pixels.expose(flat(0), t, nothing if t else None, told).events for t in range(0, 10_001, 10_000)][1]
    level, reference, expected = 0.0, 0.0, []
    for k in range(5):  # five straight lines of the log
        after = np.log1p(swing * np.sin(0.4 * np.pi * (k + 1)))
        while not -0.19 < after - reference < 0.21:
            reference += 0.21 if after > reference else -0.19
            expected.append((2_000 * (k + (reference - level) / (after - level)), int(after > level)))
        level = after
    assert [p for _, p in expected] == [1, 0, 0, 0, 1]
    np.testing.assert_allclose(events.t, [t for t, _ in expected], atol=1)
    assert events.p.tolist() == [p for _, p in expected]


def test_tiles_that_flicker_stay_the_same():
    pixels, lit = sensor(20, 16), np.array([[True, False]])
    pixels.expose(flat(0, 20, 16), 0, None, Flicker(flat(0, 20, 16), lit, 100.0, 0.1))
    with pytest.raises(ValueError, match="those of the first frame"):
        pixels.expose(flat(0, 20, 16), 1000, None, Flicker(flat(0, 20, 16), ~lit, 100.0, 0.1))
    with pytest.raises(ValueError, match="light must be float32"):
        sensor(20, 16).expose(flat(0, 20, 16), 0, None, Flicker(flat(0, 16, 20), lit, 100.0, 0.1))


def test_a_thread_that_has_time_helps():
    pixels = Sensor(SensorSettings(width=640, height=320, pixel=PixelSettings()), (3,), threads=1)
    pixels.expose(flat(0, 640, 320), 0)
    with ThreadPoolExecutor(1) as pool:
        exposing = pool.submit(pixels.expose, flat(0.5, 640, 320), 10_000)
        while not exposing.done():
            pixels.help()
    alone = Sensor(SensorSettings(width=640, height=320, pixel=PixelSettings()), (3,), threads=1)
    alone.expose(flat(0, 640, 320), 0)
    expected = alone.expose(flat(0.5, 640, 320), 10_000).events
    for name in "txyp":
        np.testing.assert_array_equal(getattr(exposing.result().events, name), getattr(expected, name))


def test_a_floor_above_the_highest_cut_off_is_refused():
    with pytest.raises(ValueError, match="below least_bandwidth_hz"):
        PixelSettings(bandwidth_hz=5.0, least_bandwidth_hz=10.0)


def test_light_that_hardly_changes_adds_up_until_its_tile_is_run():
    # a tenth of the mismatch is tolerated: 0.006; log(light + dark) rises by 0.0025 a frame
    pixels = sensor(32, 16, dark_intensity=0.1, mismatch=0.06)
    frame, seen = np.full((16, 32), 0.3, np.float32), []
    for step in range(5):
        frame[3, 20] = 0.4 * np.exp(0.0025 * step) - 0.1
        pixels.expose(frame, 1000 * (step + 1))
        seen.append(pixels._state[1, :2, 3 * 16 + 4].copy())  # light, log
    moved = 0.4 * np.exp(0.0075) - 0.1
    np.testing.assert_allclose([light for light, _ in seen], [0.3, 0.3, 0.3, moved, moved], rtol=1e-6)
    np.testing.assert_allclose([log for _, log in seen], np.log(0.4) + np.array((0, 0, 0, 0.0075, 0.0075)), rtol=1e-5)
    assert (pixels._state[0, 0] == np.float32(0.3)).all()
    frame[0, 0] = np.nan  # what is unfit is not still
    with pytest.raises(ValueError, match="must be finite"):
        pixels.expose(frame, 10_000)
