"""windows and summarize: laws of cutting, values by hand, memory that does not grow with the recording."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import as_tuples, dat_header, encode_dat, encode_nmnist

from spiketrack.errors import RecordingError
from spiketrack.events import Events
from spiketrack.recordings import EventWriter, open_recording, summarize, windows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("windows")


@pytest.fixture(scope="module")
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spiketrack.recordings.words.PIECE_BYTES", 8 * 32)
        yield


def dat(path, t):
    x = [i % 64 for i in range(len(t))]
    path.write_bytes(dat_header() + encode_dat(t, x, [0] * len(t), [i % 2 for i in range(len(t))]))
    return path


def times(found):
    return [(w.start_us, w.end_us, w.t.tolist()) for w in found]


def test_windows_by_hand(tmp_path):
    path = dat(tmp_path / "a.dat", [10, 19, 20, 45])
    assert times(windows(path, 10)) == [(10, 20, [10, 19]), (20, 30, [20]), (30, 40, []), (40, 50, [45])]
    assert times(windows(path, 10, start_us=15)) == [(15, 25, [19, 20]), (25, 35, []), (35, 45, []), (45, 55, [45])]
    assert times(windows(path, 10, end_us=40)) == [(10, 20, [10, 19]), (20, 30, [20]), (30, 40, [])]
    assert times(windows(path, 10, end_us=39)) == [(10, 20, [10, 19]), (20, 30, [20])]
    assert times(windows(path, 20, stride_us=10)) == [(10, 30, [10, 19, 20]), (20, 40, [20]), (30, 50, [45])]
    assert times(windows(path, 5, stride_us=20)) == [(10, 15, [10]), (30, 35, [])]
    assert times(windows(path, 5, start_us=0, stride_us=15)) == [
        (0, 5, []),
        (15, 20, [19]),
        (30, 35, []),
        (45, 50, [45]),
    ]
    assert times(windows(path, 10, start_us=40, end_us=70)) == [(40, 50, [45]), (50, 60, []), (60, 70, [])]
    assert times(windows(path, 100, start_us=10, end_us=50)) == []
    assert times(windows(path, 10, start_us=46)) == []
    assert times(windows(path, 10, start_us=-5, end_us=5)) == [(-5, 5, [])]


def test_a_recording_without_events(tmp_path):
    path = dat(tmp_path / "a.dat", [])
    assert times(windows(path, 10)) == []
    assert times(windows(path, 10, end_us=50)) == []
    assert times(windows(path, 10, start_us=0)) == []
    (window,) = windows(path, 10, start_us=0, end_us=10)
    assert (window.width, window.height, window.x.dtype, len(window)) == (64, 48, np.uint16, 0)


gaps = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 40), st.integers(0, 900)), min_size=1, max_size=150)


@given(
    gaps, st.integers(1, 700), st.one_of(st.none(), st.integers(1, 900)), st.one_of(st.none(), st.integers(-50, 3000))
)
@settings(max_examples=80, deadline=None)
def test_every_window_is_a_slice_of_the_whole(small_chunks, folder, gaps, window_us, stride_us, start_us):
    t = np.cumsum(gaps).tolist()
    recording = open_recording(dat(folder / "law.dat", t))
    whole = Events.concatenate(list(recording.chunks()))
    found = list(windows(recording, window_us, stride_us=stride_us, start_us=start_us))
    start, stride = t[0] if start_us is None else start_us, stride_us or window_us
    assert [w.start_us for w in found] == [start + k * stride for k in range(len(found))]
    for window in found:
        assert window.end_us - window.start_us == window_us
        assert as_tuples([window]) == as_tuples([whole.between(window.start_us, window.end_us)])
    if t[-1] >= start:  # through the last event, and not beyond it
        assert all(w.start_us <= t[-1] for w in found)
        assert found[-1].end_us > t[-1] or found[-1].start_us + stride > t[-1]
        assert all(w.end_us <= t[-1] for w in found[:-1])
    else:
        assert found == []
    if stride == window_us:
        assert [e for w in found for e in as_tuples([w])] == as_tuples([whole.between(start, t[-1] + 1)])


@given(gaps, st.integers(1, 300), st.integers(1, 300), st.integers(0, 200), st.integers(1, 4000))
@settings(max_examples=50, deadline=None)
def test_an_end_gives_exactly_the_complete_windows(small_chunks, folder, gaps, window_us, stride_us, start_us, length):
    path = dat(folder / "end.dat", np.cumsum(gaps).tolist())
    end_us = start_us + length
    found = list(windows(path, window_us, stride_us=stride_us, start_us=start_us, end_us=end_us))
    assert len(found) == max(0, (length - window_us) // stride_us + 1)
    whole = Events.concatenate(list(open_recording(path).chunks()))
    for window in found:
        assert as_tuples([window]) == as_tuples([whole.between(window.start_us, window.end_us)])


def test_a_window_within_one_run_is_a_view(tmp_path):
    first, second = windows(dat(tmp_path / "a.dat", [10, 11, 20, 21]), 10)
    assert first.t.base is not None
    assert first.t.base is second.t.base


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"window_us": 0}, "window_us must be a positive time"),
        ({"window_us": -5}, "window_us must be a positive time"),
        ({"window_us": 5, "stride_us": 0}, "stride_us must be a positive time"),
        ({"window_us": 1 << 63}, "window_us must be a positive time"),
        ({"window_us": 5, "start_us": 7, "end_us": 7}, "end_us must be after start_us"),
        ({"window_us": 5, "start_us": -(1 << 63)}, "is no time"),
    ],
)
def test_arguments_are_checked_at_the_call(tmp_path, arguments, says):
    path = dat(tmp_path / "a.dat", [1])
    with pytest.raises(RecordingError, match=says):
        windows(path, **arguments)
    with pytest.raises(RecordingError, match="cannot be opened"):
        windows(tmp_path / "none.dat", 5)


def test_memory_does_not_grow_with_the_recording(tmp_path, monkeypatch):
    monkeypatch.setattr("spiketrack.recordings.words.PIECE_BYTES", 8 << 14)
    peaks = []
    for n in (100_000, 800_000):
        words = np.zeros((n, 2), np.uint32)
        words[:, 0] = np.arange(n)
        path = tmp_path / f"{n}.dat"
        path.write_bytes(dat_header() + words.tobytes())
        del words
        recording = open_recording(path)
        next(recording.chunks())  # the decoder is compiled and its types are known
        tracemalloc.start()
        assert sum(len(window) for window in windows(recording, 5_000, stride_us=5_000)) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 4_000_000  # of 6.4 MB: the piece of 1 MiB and a few runs of 13 bytes an event


def test_summary_by_hand(tmp_path):
    path = tmp_path / "a.dat"
    path.write_bytes(dat_header() + encode_dat([100, 90, 1100, 5], [1, 2, 3, 4], [1, 2, 99, 4], [1, 0, 1, 1]))
    summary = summarize(open_recording(path))
    assert (summary.format, summary.width, summary.height) == ("dat", 64, 48)
    assert (summary.events, summary.t_first_us, summary.t_last_us, summary.sum_t) == (3, 5, 100, 195)
    assert (summary.on, summary.off) == (2, 1)
    assert summary.rate == pytest.approx(3 / 95e-6)
    assert (summary.invalid, summary.repaired) == ({"off_sensor": 1}, {"reordered": 2})
    assert summary.first_invalid == {"off_sensor": f"byte {len(dat_header()) + 16}"}


def test_summary_of_nothing_and_of_one_event(tmp_path):
    summary = summarize(open_recording(dat(tmp_path / "a.dat", [])))
    assert (summary.events, summary.t_first_us, summary.t_last_us, summary.sum_t, summary.rate) == (
        0,
        None,
        None,
        0,
        0.0,
    )
    (tmp_path / "one").write_bytes(encode_nmnist([7], [1], [1], [1]))
    summary = summarize(open_recording(tmp_path / "one"))
    assert (summary.events, summary.t_first_us, summary.t_last_us, summary.rate) == (1, 7, 7, 0.0)


def test_the_sum_of_times_is_exact_beyond_int64(tmp_path):
    large = (1 << 62) - 3
    with EventWriter(tmp_path / "a.h5", 64, 48) as writer:
        t = np.array([-large, large, large, large, large], np.int64)
        writer.append(Events(t, *(np.zeros(5, np.uint16),) * 2, np.zeros(5, np.uint8), 64, 48))
    assert summarize(open_recording(tmp_path / "a.h5")).sum_t == 3 * large
