import numpy as np
import pytest
from event_samples import HEIGHT, WIDTH, counts, frames, make_events, random_events
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.events import Events
from spiketrack.representations import microsecond_slices, sparse_slices


def hand_worked():
    # slices of 100 us from 1000: [1000, 1100) twice the same pixel, [1100, 1200) none, [1200, 1300) two polarities
    return make_events([1000, 1099, 1200, 1250, 1299], [2, 2, 7, 7, 0], [1, 1, 3, 3, 0], [1, 1, 0, 1, 1])


def test_hand_worked_slices():
    events = hand_worked()
    dense = microsecond_slices(events, 1000, 1300)
    assert dense.shape == (3, 2, HEIGHT, WIDTH)
    assert np.argwhere(dense).tolist() == [[0, 1, 1, 2], [2, 0, 3, 7], [2, 1, 0, 0], [2, 1, 3, 7]]
    assert microsecond_slices(events, 1000, 1300, limit=5).max() == 2
    sparse = sparse_slices(events, 1000, 1300, limit=5)
    assert sparse.first.tolist() == [0, 1, 1, 4]
    assert sparse.count.tolist() == [2, 1, 1, 1]
    # in order of the first event of each pixel
    assert sparse.indices().T.tolist() == [[0, 1, 1, 2], [2, 0, 3, 7], [2, 1, 3, 7], [2, 1, 0, 0]]


@given(random_events(0, 120), st.sampled_from([1, 5, 60]), frames(), st.sampled_from([1, 2, 255]))
@settings(max_examples=40, deadline=None)
def test_both_forms_equal_the_definition(events, slice_us, frame, limit):
    expected = np.minimum(counts(events, 0, 120, 120 // slice_us, **frame), limit)
    np.testing.assert_array_equal(microsecond_slices(events, 0, 120, slice_us, limit=limit, **frame), expected)
    sparse = sparse_slices(events, 0, 120, slice_us, limit=limit, **frame)
    assert sparse.shape == expected.shape
    assert len(sparse.pixel) == np.count_nonzero(expected)
    np.testing.assert_array_equal(sparse.dense(), expected)
    rebuilt = np.zeros_like(expected)
    rebuilt[tuple(sparse.indices())] = sparse.count
    np.testing.assert_array_equal(rebuilt, expected)


@given(random_events(0, 120), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_a_run_of_slices_is_that_run_of_the_dense_form(events, start, stop):
    sparse = sparse_slices(events, 0, 120, 10)
    np.testing.assert_array_equal(sparse[start:stop].dense(), sparse.dense()[start:stop])


def test_a_buffer_is_written_and_cleared_without_passing_over_it():
    first, second = (sparse_slices(hand_worked(), start, start + 300, limit=9) for start in (1000, 900))
    buffer = np.zeros(first.shape, np.uint8)
    assert first.dense(buffer) is buffer
    np.testing.assert_array_equal(buffer, first.dense())
    first.clear(buffer)
    assert not buffer.any()
    np.testing.assert_array_equal(second.dense(buffer), second.dense())
    with pytest.raises(ValueError, match="out must be"):
        first.dense(np.zeros((2, 2, HEIGHT, WIDTH), np.uint8))


def test_empty_and_impossible_slices():
    empty = Events.empty(WIDTH, HEIGHT)
    sparse = sparse_slices(empty, 0, 1000)
    assert sparse.dense().shape == microsecond_slices(empty, 0, 1000).shape == (10, 2, HEIGHT, WIDTH)
    assert sparse.indices().shape == (4, 0)
    for arguments, message in (
        ((0, 1001), "whole number of slices"),
        ((0, 1000, 0), "whole number of slices"),
        ((0, 0), "must end after"),
    ):
        for function in (microsecond_slices, sparse_slices):
            with pytest.raises(ValueError, match=message):
                function(empty, *arguments)
    with pytest.raises(ValueError, match="limit must be"):
        sparse_slices(empty, 0, 100, limit=256)
    with pytest.raises(TypeError, match="step 1"):
        sparse[::2]
