import numpy as np
import pytest
from event_samples import HEIGHT, WIDTH, counts, frames, make_events, random_events, windows
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.events import Events
from spiketrack.representations import binary_occupancy, grid, polarity_histogram, signed_difference, stacked_histogram

STEPS = st.integers(1, 7)


@pytest.fixture(autouse=True, scope="module")
def even_little_work_is_shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MIN_SHARED_WORK", 0)
        yield


def hand_worked():
    # window [10, 20) in 3 bins of 10/3 us: bounds 10, 14, 17, 20
    events = make_events(
        [9, 10, 13, 14, 16, 16, 17, 19, 20], [0, 1, 1, 2, 3, 3, 0, 5, 0], [0] * 9, [1, 1, 1, 0, 1, 1, 0, 1, 1]
    )
    expected = np.zeros((3, 2, HEIGHT, WIDTH), np.uint8)
    expected[0, 1, 0, 1] = 2
    expected[1, 0, 0, 2] = 1
    expected[1, 1, 0, 3] = 2
    expected[2, 0, 0, 0] = 1
    expected[2, 1, 0, 5] = 1
    return events, expected


def test_hand_worked_counts():
    events, expected = hand_worked()
    np.testing.assert_array_equal(stacked_histogram(events, 10, 20, 3), expected)
    np.testing.assert_array_equal(binary_occupancy(events, 10, 20, 3), np.minimum(expected, 1))
    np.testing.assert_array_equal(polarity_histogram(events, 10, 20), expected.sum(0, keepdims=True))
    difference = expected[:, 1:].astype(np.int8) - expected[:, :1].astype(np.int8)
    np.testing.assert_array_equal(signed_difference(events, 10, 20, 3), difference)


def test_hand_worked_crop_and_size():
    events = make_events([0] * 6, [0, 2, 3, 5, 6, 7], [0, 1, 1, 2, 3, 3], [1] * 6)
    # crop: columns 2 .. 6 (5 of them), rows 1 .. 3; 5 -> 2 columns: 0 0 0 1 1; 3 -> 1 row
    reduced = stacked_histogram(events, 0, 1, 1, crop=(2, 1, 5, 3), size=(1, 2))
    assert reduced.tolist() == [[[[0, 0]], [[2, 2]]]]
    # 8 -> 4 columns and 4 -> 2 rows: a shift
    assert stacked_histogram(events, 0, 1, 1, size=(2, 4))[0, 1].tolist() == [[1, 2, 0, 0], [0, 0, 1, 2]]


@given(random_events(), windows, STEPS, frames(), st.sampled_from([1, 3, 255]))
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(events, window, steps, frame, limit):
    expected = counts(events, *window, steps, **frame)
    np.testing.assert_array_equal(
        stacked_histogram(events, *window, steps, limit=limit, **frame), np.minimum(expected, limit)
    )
    np.testing.assert_array_equal(binary_occupancy(events, *window, steps, **frame), np.minimum(expected, 1))
    limit = min(limit, 127)
    difference = np.clip(expected[:, 1:] - expected[:, :1], -limit, limit)
    result = signed_difference(events, *window, steps, limit=limit, **frame)
    assert result.dtype == np.int8
    np.testing.assert_array_equal(result, difference)


@given(random_events(), windows, STEPS, frames(), st.sampled_from([2, 200, 1000]))
@settings(max_examples=40, deadline=None)
def test_floats_are_the_plain_counts(events, window, steps, frame, limit):
    expected = counts(events, *window, steps, **frame)
    for dtype in (np.float16, np.float32):
        histogram = stacked_histogram(events, *window, steps, limit=limit, dtype=dtype, **frame)
        assert histogram.dtype == dtype
        np.testing.assert_array_equal(histogram, np.minimum(expected, limit))
        difference = signed_difference(events, *window, steps, limit=limit, dtype=dtype, **frame)
        assert difference.dtype == dtype
        np.testing.assert_array_equal(difference, np.clip(expected[:, 1:] - expected[:, :1], -limit, limit))


def test_counts_saturate_and_never_wrap():
    n = 70_000
    events = make_events(np.arange(n), np.zeros(n, int), np.zeros(n, int), np.arange(n) < n // 2)
    assert stacked_histogram(events, 0, n, 1)[0, :, 0, 0].tolist() == [255, 255]
    for dtype, most in ((np.float16, 2048), (np.float32, 65_535)):
        histogram = stacked_histogram(events, 0, n, 1, limit=most, dtype=dtype)
        assert histogram[0, :, 0, 0].tolist() == [min(most, n // 2)] * 2
    ones = make_events(np.arange(n), np.zeros(n, int), np.zeros(n, int), np.ones(n, int))
    assert stacked_histogram(ones, 0, n, 1, limit=65_535, dtype=np.float32)[0, 1, 0, 0] == 65_535
    assert signed_difference(ones, 0, n, 1, limit=32_767, dtype=np.float32)[0, 0, 0, 0] == 32_767


@pytest.mark.parametrize("limit", [127, 100])
def test_a_difference_is_clipped_at_the_end_only(limit):
    n = 1000
    events = make_events(np.arange(n), np.zeros(n, int), np.zeros(n, int), np.arange(n) < n // 2)
    # 500 ON, then 500 OFF: the sum is clipped, not the running value
    assert signed_difference(events, 0, n, 1, limit=limit)[0, 0, 0, 0] == 0
    assert signed_difference(events, 0, n, 2, limit=limit)[:, 0, 0, 0].tolist() == [limit, -limit]
    # 128 ON leave the range of int8 by one, 28 OFF bring the sum back to 100
    back = make_events(np.arange(156), np.zeros(156, int), np.zeros(156, int), np.arange(156) < 128)
    assert signed_difference(back, 0, 156, 1, limit=limit)[0, 0, 0, 0] == 100


@given(random_events(), windows, st.integers(1, 5), st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_threads_and_reused_buffers_change_nothing(events, window, steps, threads):
    for function, channels, dtype in (
        (stacked_histogram, 2, np.uint8),
        (stacked_histogram, 2, np.float16),
        (signed_difference, 1, np.int8),
        (signed_difference, 1, np.float32),
    ):
        fresh = function(events, *window, steps, dtype=dtype)
        buffer = np.full((steps, channels, HEIGHT, WIDTH), 99, dtype)
        for _ in range(2):
            result = function(events, *window, steps, dtype=dtype, out=buffer, threads=threads)
            assert result is buffer
            np.testing.assert_array_equal(result, fresh)


def test_events_are_not_changed_and_may_be_strided():
    events, _ = hand_worked()
    before = [getattr(events, name).copy() for name in "txyp"]
    for function in (stacked_histogram, signed_difference, binary_occupancy):
        function(events, 10, 20, 3, crop=(1, 0, 4, 2), size=(1, 3))
    for name, column in zip("txyp", before, strict=True):
        np.testing.assert_array_equal(getattr(events, name), column)
    every_other = events[::2]
    np.testing.assert_array_equal(stacked_histogram(every_other, 10, 20, 3), counts(every_other, 10, 20, 3))


def test_a_buffer_that_does_not_fit_is_refused():
    events = make_events([1], [2], [3], [1])
    for wrong in (
        np.zeros((2, 2, 4, 7), np.uint8),
        np.zeros((2, 2, 4, 8), np.int8),
        np.zeros((2, 2, 8, 4), np.uint8).swapaxes(2, 3),
        np.broadcast_to(np.uint8(0), (2, 2, 4, 8)),
    ):
        with pytest.raises(ValueError, match="out must be"):
            stacked_histogram(events, 0, 2, 2, out=wrong)


def test_empty_window_has_the_same_shape_and_dtype():
    empty = Events.empty(WIDTH, HEIGHT)
    for result, shape, dtype in (
        (stacked_histogram(empty, 0, 10, 3), (3, 2, 4, 8), np.uint8),
        (signed_difference(empty, 0, 10, 3), (3, 1, 4, 8), np.int8),
        (polarity_histogram(empty, 0, 10, dtype=np.float16), (1, 2, 4, 8), np.float16),
    ):
        assert result.shape == shape
        assert result.dtype == dtype
        assert not result.any()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((10, 10, 1), {}, "must end after"),
        ((0, 10, 0), {}, "steps must be"),
        ((0, 10, 1), {"size": (5, 6)}, "within the sensor"),
        ((0, 10, 1), {"size": (0, 6)}, "within the sensor"),
        ((0, 10, 1), {"size": (3, 3), "crop": (0, 0, 2, 4)}, "within the crop"),
        ((0, 10, 1), {"crop": (7, 0, 2, 4)}, "crop .* must lie within"),
        ((0, 10, 1), {"crop": (-1, 0, 2, 4)}, "crop .* must lie within"),
        ((0, 10, 1), {"crop": (0, 0, 0, 4)}, "crop .* must lie within"),
        ((0, 10, 1), {"limit": 256}, "1 .. 255"),
        ((0, 10, 1), {"limit": 0}, "1 .. 255"),
        ((0, 10, 1), {"limit": 2049, "dtype": np.float16}, "1 .. 2048"),
        ((0, 10, 1), {"dtype": np.int8}, "dtype must be one of"),
        ((0, 10, 1), {"threads": 0}, "threads must be"),
    ],
)
def test_impossible_requests_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        stacked_histogram(Events.empty(WIDTH, HEIGHT), *arguments, **options)


@given(random_events(0, 100), st.sampled_from([1, 2, 5, 10]))
@settings(max_examples=20, deadline=None)
def test_two_pieces_equal_the_whole(events, steps):
    parts = [stacked_histogram(events.between(a, a + 50), a, a + 50, steps) for a in (0, 50)]
    np.testing.assert_array_equal(stacked_histogram(events, 0, 100, 2 * steps), np.concatenate(parts))
