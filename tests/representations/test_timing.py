import math

import numpy as np
import pytest
from event_samples import HEIGHT, WIDTH, frames, make_events, random_events, surfaces, voxels, windows
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.events import Events
from spiketrack.representations import TimeSurface, grid, kernels, time_surface, voxel_grid

STEPS = st.integers(1, 6)


@pytest.fixture(autouse=True, scope="module")
def even_little_work_is_shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MIN_SHARED_WORK", 0)
        yield


def test_hand_worked_voxel_grid():
    # [0, 100) on 3 planes: t* = 2 t / 100, so 25 -> 0.5, 50 -> 1, 90 -> 1.8
    events = make_events([0, 25, 50, 90], [0, 1, 2, 3], [0, 0, 0, 0], [1, 0, 1, 0])
    grid = voxel_grid(events, 0, 100, 3)
    assert grid.shape == (3, 1, HEIGHT, WIDTH)
    np.testing.assert_allclose(grid[:, 0, 0, :4], [[1, -0.5, 0, 0], [0, -0.5, 1, -0.2], [0, 0, 0, -0.8]], atol=1e-7)
    assert voxel_grid(events, 0, 100, 1)[0, 0, 0, :4].tolist() == [1, -1, 1, -1]


@given(random_events(), windows, STEPS, frames(), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_voxel_grid_equals_the_definition(events, window, steps, frame, threads):
    expected = voxels(events, *window, steps, **frame)
    result = voxel_grid(events, *window, steps, threads=threads, **frame)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-4)
    half = voxel_grid(events, *window, steps, threads=threads, dtype=np.float16, **frame)
    np.testing.assert_array_equal(half, result.astype(np.float16))


def test_shares_of_an_event_sum_to_one_and_events_may_be_far_from_zero():
    start = 1_700_000_000_000_000  # microseconds of an absolute clock
    events = make_events(start + np.arange(50), np.arange(50) % WIDTH, np.zeros(50, int), np.ones(50, int))
    grid = voxel_grid(events, start, start + 50, 5)
    assert grid.sum() == pytest.approx(50, abs=1e-4)
    np.testing.assert_allclose(grid, voxels(events, start, start + 50, 5), atol=1e-5)


def test_half_precision_saturates_and_rounds_as_numpy_does():
    n = 70_000
    events = make_events(np.zeros(n, int), np.zeros(n, int), np.zeros(n, int), np.ones(n, int))
    assert voxel_grid(events, 0, 1, 1, dtype=np.float16)[0, 0, 0, 0] == 65_504
    events = make_events(np.zeros(n, int), np.zeros(n, int), np.zeros(n, int), np.zeros(n, int))
    assert voxel_grid(events, 0, 1, 1, dtype=np.float16)[0, 0, 0, 0] == -65_504
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].astype(np.float32)
    rng = np.random.default_rng(0)
    values = np.concatenate([halves, (halves[1:] + halves[:-1]) / 2, rng.normal(0, 1e-5, 9999).astype(np.float32)])
    bits = np.empty(len(values), np.uint16)
    kernels.convert(values, bits)
    np.testing.assert_array_equal(bits, np.clip(values, -65_504, 65_504).astype(np.float16).view(np.uint16))


def test_hand_worked_time_surface():
    events = make_events([0, 40, 60, 99], [0, 0, 1, 2], [0, 0, 0, 0], [1, 1, 0, 1])
    surface = time_surface(events, 0, 100, 2, tau_us=50)
    assert surface.shape == (2, 2, HEIGHT, WIDTH)
    # ends 50 and 100: pixel 0 ON saw 40 last, pixel 1 OFF 60, pixel 2 ON 99
    on, off = math.exp(-10 / 50), math.exp(-40 / 50)
    np.testing.assert_allclose(surface[0, 1, 0, :3], [on, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(surface[1, 1, 0, :3], [math.exp(-60 / 50), 0, math.exp(-1 / 50)], rtol=1e-6)
    np.testing.assert_allclose(surface[1, 0, 0, :3], [0, off, 0], rtol=1e-6)
    whole = time_surface(events, 0, 100, 2, tau_us=50, dtype=np.uint8)
    assert whole[1, 1, 0, :3].tolist() == [round(255 * math.exp(-1.2)), 0, round(255 * math.exp(-0.02))]
    half = time_surface(events, 0, 100, 2, tau_us=50, dtype=np.float16)
    np.testing.assert_array_equal(half, surface.astype(np.float16))


@given(random_events(), windows, STEPS, frames(), st.sampled_from([1, 30, 20_000_000]), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_time_surface_equals_the_definition(events, window, steps, frame, tau, threads):
    expected = surfaces(events, *window, steps, tau, window[0], **frame)
    result = time_surface(events, *window, steps, tau_us=tau, threads=threads, **frame)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-37)


@given(random_events(0, 120), frames(), st.sampled_from([np.float32, np.uint8, np.float16]))
@settings(max_examples=30, deadline=None)
def test_a_stream_of_windows_equals_one_long_window(events, frame, dtype):
    whole = time_surface(events, 0, 120, 6, tau_us=30, dtype=dtype, **frame)
    stream = TimeSurface(WIDTH, HEIGHT, tau_us=30, **frame)
    parts = [stream.update(events.between(a, a + 40), a, a + 40, 2, dtype=dtype) for a in (0, 40, 80)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_stream_looks_further_back_than_its_window_and_forgets_in_the_end():
    stream = TimeSurface(WIDTH, HEIGHT, tau_us=100)
    stream.update(make_events([5], [3], [2], [1]), 0, 10)
    empty = Events.empty(WIDTH, HEIGHT)
    later = stream.update(empty, 10, 205)
    assert later[0, 1, 2, 3] == np.float32(math.exp(-2))
    assert np.count_nonzero(later) == 1
    assert not stream.update(empty, 205, 10_000_000).any()


def test_a_stream_refuses_what_does_not_follow():
    stream = TimeSurface(WIDTH, HEIGHT)
    stream.update(Events.empty(WIDTH, HEIGHT), 0, 10)
    with pytest.raises(ValueError, match="last one ended at 10"):
        stream.update(Events.empty(WIDTH, HEIGHT), 9, 20)
    with pytest.raises(ValueError, match="expected events of a"):
        stream.update(Events.empty(WIDTH + 1, HEIGHT), 10, 20)
    for tau in (0, 20_000_001):
        with pytest.raises(ValueError, match="tau_us must be"):
            TimeSurface(WIDTH, HEIGHT, tau_us=tau)


@pytest.mark.parametrize("function", [voxel_grid, time_surface])
def test_impossible_requests_are_refused(function):
    empty = Events.empty(WIDTH, HEIGHT)
    for arguments, options, message in (
        ((10, 10, 1), {}, "must end after"),
        ((0, 10, 0), {}, "steps must be"),
        ((0, 10, 1), {"size": (5, 6)}, "within the sensor"),
        ((0, 10, 1), {"crop": (0, 0, 9, 1)}, "crop"),
        ((0, 10, 1), {"dtype": np.int8}, "dtype must be one of"),
        ((0, 10, 1), {"out": np.zeros((1, 2, 4, 4), np.float32)}, "out must be"),
        ((0, 10, 2), {"threads": 0}, "threads must be"),
    ):
        with pytest.raises(ValueError, match=message):
            function(empty, *arguments, **options)


@given(random_events(), windows, STEPS)
@settings(max_examples=20, deadline=None)
def test_reused_buffers_and_events_stay_as_they_should(events, window, steps):
    before = [getattr(events, name).copy() for name in "txyp"]
    for function, channels in ((voxel_grid, 1), (time_surface, 2)):
        fresh = function(events, *window, steps)
        out = np.full((steps, channels, HEIGHT, WIDTH), np.nan, np.float32)
        assert function(events, *window, steps, out=out) is out
        np.testing.assert_array_equal(out, fresh)
    for name, column in zip("txyp", before, strict=True):
        np.testing.assert_array_equal(getattr(events, name), column)
