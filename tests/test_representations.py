import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.events import Events
from spiketrack.representations import InputSettings, binary_occupancy, signed_difference, stacked_histogram


def make_events(t, x, y, p, width=6, height=4):
    return Events.repaired(np.array(t), np.array(x), np.array(y), np.array(p), width, height)[0]


@st.composite
def random_events(draw):
    n = draw(st.integers(0, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    t = np.sort(rng.integers(-50, 150, n))
    return make_events(t, rng.integers(0, 6, n), rng.integers(0, 4, n), rng.integers(0, 2, n))


def test_hand_worked_histogram():
    # window [10, 20) in 3 bins of 10/3 us: bounds 10, 14, 17, 20
    events = make_events(
        [9, 10, 13, 14, 16, 16, 17, 19, 20], [0, 1, 1, 2, 3, 3, 0, 5, 0], [0] * 9, [1, 1, 1, 0, 1, 1, 0, 1, 1]
    )
    histogram = stacked_histogram(events, 10, 20, 3)
    expected = np.zeros((3, 2, 4, 6), np.uint8)
    expected[0, 1, 0, 1] = 2
    expected[1, 0, 0, 2] = 1
    expected[1, 1, 0, 3] = 2
    expected[2, 0, 0, 0] = 1
    expected[2, 1, 0, 5] = 1
    np.testing.assert_array_equal(histogram, expected)
    np.testing.assert_array_equal(binary_occupancy(events, 10, 20, 3), np.minimum(expected, 1))
    difference = expected[:, 1:].astype(np.int8) - expected[:, :1].astype(np.int8)
    np.testing.assert_array_equal(signed_difference(events, 10, 20, 3), difference)


@given(
    random_events(),
    st.integers(1, 7),
    st.integers(-20, 20),
    st.integers(1, 100),
    st.integers(1, 4),
    st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(events, steps, start, span, height, width):
    end = start + span
    expected = np.zeros((steps, 2, height, width), np.int64)
    for t, x, y, p in zip(events.t, events.x, events.y, events.p, strict=True):
        if start <= t < end:
            expected[(t - start) * steps // span, p, int(y) * height // 4, int(x) * width // 6] += 1
    size = (height, width)
    np.testing.assert_array_equal(
        stacked_histogram(events, start, end, steps, size=size, limit=3), np.minimum(expected, 3)
    )
    difference = np.clip(expected[:, 1:] - expected[:, :1], -2, 2)
    np.testing.assert_array_equal(signed_difference(events, start, end, steps, size=size, limit=2), difference)


def test_counts_saturate_and_never_wrap():
    n = 1000
    events = make_events(
        np.arange(n), np.zeros(n, int), np.zeros(n, int), np.r_[np.ones(n // 2, int), np.zeros(n // 2, int)]
    )
    histogram = stacked_histogram(events, 0, n, 1)
    assert histogram[0, :, 0, 0].tolist() == [255, 255]
    # 500 ON, then 500 OFF: the sum is clipped, not the running value
    assert signed_difference(events, 0, n, 1)[0, 0, 0, 0] == 0
    assert signed_difference(events, 0, n, 2)[:, 0, 0, 0].tolist() == [127, -127]


def test_buffer_is_overwritten_and_returned():
    events = make_events([1], [2], [3], [1])
    out = np.full((2, 2, 4, 6), 99, np.uint8)
    result = stacked_histogram(events, 0, 2, 2, out=out)
    assert result is out
    assert out.sum() == 1
    assert out[1, 1, 3, 2] == 1
    for wrong in (
        np.zeros((2, 2, 4, 5), np.uint8),
        np.zeros((2, 2, 4, 6), np.int8),
        np.zeros((2, 2, 6, 4), np.uint8).swapaxes(2, 3),
    ):
        with pytest.raises(ValueError, match="out must be"):
            stacked_histogram(events, 0, 2, 2, out=wrong)


def test_empty_window_has_the_same_shape_and_dtype():
    empty = Events.empty(6, 4)
    assert stacked_histogram(empty, 0, 10, 3).shape == (3, 2, 4, 6)
    assert stacked_histogram(empty, 0, 10, 3).dtype == np.uint8
    assert signed_difference(empty, 0, 10, 3).dtype == np.int8
    assert not signed_difference(empty, 0, 10, 3).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((10, 10, 1), "must end after"), ((0, 10, 0), "steps must be")],
)
def test_impossible_windows_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        stacked_histogram(Events.empty(6, 4), *arguments)
    with pytest.raises(ValueError, match="within the sensor"):
        stacked_histogram(Events.empty(6, 4), 0, 10, 1, size=(5, 6))


@given(random_events(), st.integers(1, 3), st.integers(1, 3), st.sampled_from([None, 20, 45]))
@settings(max_examples=30, deadline=None)
def test_input_settings_stack_the_bins_of_each_step_as_channels(events, steps, bins, window_us):
    chosen = InputSettings(slice_us=20, window_us=window_us, bins=bins, limit=9)
    encoded = chosen.encode(events, 90, steps)
    assert encoded.shape == (steps, chosen.channels, 4, 6) == (steps, 2 * bins, 4, 6)
    for step in range(steps):
        end = 90 - 20 * (steps - 1 - step)
        planes = stacked_histogram(events, end - (window_us or 20), end, bins, limit=9)
        np.testing.assert_array_equal(encoded[step], planes.reshape(2 * bins, 4, 6))


def test_a_window_shorter_than_a_slice_is_refused():
    with pytest.raises(ValueError, match="window_us"):
        InputSettings(slice_us=20, window_us=19)


def test_two_pieces_equal_the_whole():
    rng = np.random.default_rng(0)
    events = make_events(
        np.sort(rng.integers(0, 100, 300)),
        rng.integers(0, 6, 300),
        rng.integers(0, 4, 300),
        rng.integers(0, 2, 300),
    )
    whole = stacked_histogram(events, 0, 100, 4)
    parts = [
        stacked_histogram(events.between(0, 50), 0, 50, 2),
        stacked_histogram(events.between(50, 100), 50, 100, 2),
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
