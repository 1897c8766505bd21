from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.events import Events, Window


def columns(t, x, y, p):
    return np.array(t, np.int64), np.array(x, np.uint16), np.array(y, np.uint16), np.array(p, np.uint8)


def five_events():
    return Events(*columns([10, 10, 12, 15, 20], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [1, 0, 1, 0, 1]), 5, 5)


raw_events = st.lists(
    st.tuples(st.integers(-100, 100), st.integers(-3, 12), st.integers(-3, 40_000), st.integers(-1, 2)), max_size=60
)


def test_slicing_is_half_open_and_views():
    events = five_events()
    cut = events.between(10, 15)
    assert cut.t.tolist() == [10, 10, 12]
    assert np.shares_memory(cut.x, events.x)
    assert events.between(15, 15).t.tolist() == []
    assert events.between(11, 21).x.tolist() == [2, 3, 4]
    assert events[1:3].y.tolist() == [3, 2]
    assert len(events[::2]) == 3
    for index in (0, slice(None, None, -1), np.array([0, 1])):
        with pytest.raises(TypeError, match="positive step"):
            events[index]


def test_records_are_frozen_and_leave_their_input_alone():
    t, x, y, p = columns([1, 2], [0, 1], [0, 1], [0, 1])
    events = Events(t, x, y, p, 2, 2)
    with pytest.raises(AttributeError):
        events.width = 9
    with pytest.raises(ValueError, match="read-only"):
        events.t[0] = 5
    t[0] = 0  # the caller's array stays the caller's
    assert t.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": [10, 9]}, "time runs backwards at event 1: 9 us after 10 us"),
        ({"x": [0, 5]}, "x = 5 at event 1 is outside a sensor 5 wide"),
        ({"y": [33014, 0]}, "y = 33014 at event 0 is outside a sensor 5 high"),
        ({"p": [0, 2]}, "p = 2 at event 1 is not a polarity"),
        ({"x": [0]}, "columns differ in length"),
        ({"t": [[1, 2]]}, "one-dimensional"),
    ],
)
def test_bad_columns_name_the_first_bad_event(change, message):
    values = {"t": [10, 10], "x": [0, 1], "y": [0, 1], "p": [0, 1]} | change
    with pytest.raises(ValueError, match=message):
        Events(*columns(**values), 5, 5)


def test_bad_dtype_and_sensor_are_refused():
    t, x, y, p = columns([1], [1], [1], [1])
    with pytest.raises(ValueError, match="t must be int64, got float64"):
        Events(t.astype(float), x, y, p, 5, 5)
    with pytest.raises(ValueError, match="sensor of 0 x 5"):
        Events(t, x, y, p, 0, 5)
    with pytest.raises(ValueError, match="must be integers, got float64"):
        Events.repaired(t.astype(float), x, y, p, 5, 5)


def test_repairs_are_counted_by_hand():
    t = np.array([5, 3, 4, 9, 8, 7])
    x = np.array([0, 1, -1, 2, 3, 4])
    y = np.array([0, 33014, 0, 1, 1, 1])
    p = np.array([1, 1, 1, 2, 0, 1])
    events, repairs = Events.repaired(t, x, y, p, 5, 5)
    assert dict(repairs) == {"off_sensor": 2, "bad_polarity": 1, "reordered": 1}
    assert events.t.tolist() == [5, 7, 8]
    assert events.x.tolist() == [0, 4, 3]
    assert t.tolist() == [5, 3, 4, 9, 8, 7]


@given(raw_events)
@settings(deadline=None)
def test_every_event_is_kept_or_counted(rows):
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    events, repairs = Events.repaired(t, x, y, p, 10, 30_000)
    assert len(events) + repairs["off_sensor"] + repairs["bad_polarity"] == len(rows)
    valid = [row for row in rows if 0 <= row[1] < 10 and 0 <= row[2] < 30_000 and row[3] in (0, 1)]
    kept = list(zip(events.t, events.x, events.y, events.p, strict=True))
    assert kept == sorted(valid, key=lambda row: row[0])  # stable, as sorted is
    again, none = Events.repaired(events.t, events.x, events.y, events.p, 10, 30_000)
    assert not none
    assert again.t.tolist() == events.t.tolist()


@given(raw_events, st.lists(st.integers(-120, 120), max_size=5))
@settings(deadline=None)
def test_pieces_join_to_the_whole(rows, cuts):
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    events, _ = Events.repaired(t, x, y, p, 10, 30_000)
    bounds = [-200, *sorted(cuts), 200]
    parts = [events.between(a, b) for a, b in pairwise(bounds)]
    joined = Events.concatenate(parts)
    for name in "txyp":
        np.testing.assert_array_equal(getattr(joined, name), getattr(events, name))


def test_joining_refuses_what_does_not_follow():
    events = five_events()
    with pytest.raises(ValueError, match="a run starts at 10 us, before 20 us"):
        Events.concatenate([events, events])
    with pytest.raises(ValueError, match="different sensors"):
        Events.concatenate([events, Events.empty(6, 5)])
    with pytest.raises(ValueError, match="nothing to concatenate"):
        Events.concatenate([])


def test_empty_events_are_like_full_ones():
    empty, full = Events.empty(5, 5), five_events()
    for name in "txyp":
        assert getattr(empty, name).dtype == getattr(full, name).dtype
        assert getattr(empty, name).shape == (0,)
    assert len(Events.concatenate([empty, empty])) == 0


def test_windows_know_their_bounds():
    window = Window.of(five_events(), 10, 15)
    assert (window.start_us, window.end_us, len(window)) == (10, 15, 3)
    nothing = Window.of(five_events(), 100, 200)
    assert (nothing.start_us, nothing.end_us, len(nothing)) == (100, 200, 0)
    assert type(window[:1]) is Events
    with pytest.raises(ValueError, match="must end after it starts"):
        Window.of(five_events(), 15, 15)
    with pytest.raises(ValueError, match=r"leave \[10, 12\) us"):
        Window(*columns([10, 12], [0, 0], [0, 0], [0, 0]), 5, 5, 10, 12)
