"""EventWriter: round trips in every compression, its indexes, triggers, what it refuses, disks that fill up."""

import resource
import sys
from contextlib import contextmanager, suppress
from itertools import pairwise

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import as_events, as_tuples, columns, in_order

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers
from spiketrack.recordings import EventWriter, ReadOptions, open_recording

COMPRESSIONS = [None, "gzip", "blosc", "ecf"]


@contextmanager
def small_disk(n_bytes: int):
    """Files of this process cannot grow beyond n_bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hdf5")


def triggers(t, channel, value) -> Triggers:
    return Triggers(np.array(t, np.int64), np.array(channel, np.uint8), np.array(value, np.uint8))


def trigger_tuples(recording, start_us=None) -> list[tuple[int, int, int]]:
    read = Triggers.concatenate([part for _, part in recording.chunks_with_triggers(start_us)])
    return list(zip(read.t.tolist(), read.channel.tolist(), read.value.tolist(), strict=True))


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(columns(), st.lists(st.integers(0, 80), max_size=4), st.lists(st.tuples(st.integers(0, 10**6)), max_size=9))
@settings(max_examples=15, deadline=None)
def test_writer_round_trip(folder, compression, events, cuts, trigger_times):
    whole = as_events(*events)
    times = sorted(t for (t,) in trigger_times)
    given_triggers = triggers(times, [i % 8 for i in range(len(times))], [i % 2 for i in range(len(times))])
    borders = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    path = folder / f"round_{compression}_td.h5"
    with EventWriter(path, 64, 48, compression) as writer:
        writer.append(whole[:0], given_triggers)
        for first, last in pairwise(borders):
            writer.append(whole[first:last])
    recording = open_recording(path, options=ReadOptions(index=False))
    assert as_tuples(list(recording.chunks())) == in_order(*events)
    assert (recording.format, recording.width, recording.height) == ("hdf5", 64, 48)
    assert not recording.invalid
    assert [t for t, *_ in trigger_tuples(recording)] == times
    for start_us in {0, *events[0]}:
        expected = [event for event in in_order(*events) if event[0] >= start_us]
        assert as_tuples(list(recording.chunks(start_us))) == expected
        assert [t for t, *_ in trigger_tuples(recording, start_us)] == [t for t in times if t >= start_us]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_triggers_come_back_whole_and_more_of_them_than_events(tmp_path, compression):
    n = 150_000  # several stretches of them
    t = np.arange(n) * 3
    given_triggers = triggers(t, np.arange(n) % 32, np.arange(n) % 2)
    with EventWriter(tmp_path / "a.h5", 64, 48, compression) as writer:
        writer.append(as_events([5, 300_000], [1, 2], [3, 4], [1, 0]), given_triggers)
    recording = open_recording(tmp_path / "a.h5")
    back = trigger_tuples(recording)
    assert back == list(zip(t.tolist(), (np.arange(n) % 32).tolist(), (np.arange(n) % 2).tolist(), strict=True))
    assert trigger_tuples(recording, 300_000) == back[100_000:]


def test_the_millisecond_index_holds_each_millisecond_with_an_event_once(tmp_path):
    hour = 3_600_000_000
    t = [-1500, -1000, -1, 0, 0, 999, 1000, 5 * hour, 5 * hour + 999, 5 * hour + 1000, 1 << 61]
    with EventWriter(tmp_path / "a.h5", 64, 48) as writer:
        for event in t:
            writer.append(as_events([event], [1], [1], [1]))
    with h5py.File(tmp_path / "a.h5") as file:
        ms = [-2, -1, 0, 1, 5 * hour // 1000, 5 * hour // 1000 + 1, (1 << 61) // 1000]
        assert file["ms_index/ms"][:].tolist() == ms
        assert file["ms_index/row"][:].tolist() == [0, 1, 3, 6, 7, 9, 10]
    recording = open_recording(tmp_path / "a.h5")
    for start in [*t, 2, 1001, 4 * hour]:
        assert [e[0] for e in as_tuples(list(recording.chunks(start)))] == [value for value in t if value >= start]


def test_ecf_files_have_the_layout_of_prophesee(tmp_path):
    rng = np.random.default_rng(0)
    n = 40_000
    t = np.sort(rng.integers(10**6, 10**6 + 60_000, n))
    t[20_000:] += 1_000_000
    events = as_events(t, rng.integers(0, 64, n), rng.integers(0, 48, n), rng.integers(0, 2, n))
    with EventWriter(tmp_path / "a.hdf5", 64, 48, "ecf") as writer:
        for first in range(0, n, 7_000):
            writer.append(events[first : first + 7_000], triggers([t[first]], [3], [1]))
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert file.attrs["geometry"] == "64x48"
        stored = file["CD/events"]
        assert (stored.shape, stored.chunks, stored._filters) == ((n,), (16384,), {"36559": None})
        assert {name: stored.dtype[name].str for name in stored.dtype.names} == {
            "x": "<u2", "y": "<u2", "p": "<i2", "t": "<i8",
        }  # fmt: skip
        assert file["EXT_TRIGGER/events"].dtype.names == ("p", "t", "id")
        assert file["EXT_TRIGGER/events"]["id"].tolist() == [3] * 6
        assert file["CD/indexes"].attrs["offset"] == str(-t[0])
        index, since = file["CD/indexes"][:], t - t[0]
        periods = since[-1] // 2000 + 1
        assert len(index) == periods + 1
        firsts = np.searchsorted(since, np.arange(periods) * 2000)
        # entry k: the first event of the last 2 ms with events before the first event at 2000 k us or later
        for k in range(1, periods):
            before = since[firsts[k] - 1] // 2000
            assert (index["id"][k], index["ts"][k]) == (firsts[before], since[firsts[before]])
        assert index[0].tolist() == (0, -1)
        assert index[-1].tolist() == (firsts[-1], since[firsts[-1]])


def test_what_ecf_cannot_hold_is_refused(tmp_path):
    with (
        pytest.raises(RecordingError, match=r"a\.h5: ECF holds sensors of at most 2048 x 2048 pixels, not 2049 x 10"),
        EventWriter(tmp_path / "a.h5", 2049, 10, "ecf"),
    ):
        pass
    with (
        pytest.raises(RecordingError, match=r"a\.h5: ECF: 2 rows of /CD span 2500\.0 hours"),
        EventWriter(tmp_path / "a.h5", 64, 48, "ecf") as writer,
    ):
        writer.append(as_events([0, 9_000_000_000_000], [1, 1], [1, 1], [1, 1]))
    assert list(tmp_path.iterdir()) == []


def test_compressions_that_are_not_to_be_had_are_named(tmp_path, monkeypatch):
    with pytest.raises(RecordingError, match="compression must be one of None, 'gzip', 'blosc', 'ecf', got 'zip'"):
        EventWriter(tmp_path / "a.h5", 64, 48, "zip")
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with (
        pytest.raises(RecordingError, match=r"a\.h5: compression 'blosc' needs .* pip install hdf5plugin"),
        EventWriter(tmp_path / "a.h5", 64, 48, "blosc"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_many_small_and_large_appends_keep_every_event(tmp_path, compression):
    rng = np.random.default_rng(1)
    n = 200_000
    events = as_events(
        np.sort(rng.integers(0, 10**6, n)), rng.integers(0, 64, n), rng.integers(0, 48, n), rng.integers(0, 2, n)
    )
    with EventWriter(tmp_path / "a.h5", 64, 48, compression) as writer:
        first = 0
        for length in (1, 70_000, 65_536, 65_535, 10, n):
            writer.append(events[first : first + length])
            first += length
    back = Events.concatenate(list(open_recording(tmp_path / "a.h5").chunks()))
    for name in "txyp":
        assert np.array_equal(getattr(back, name), getattr(events, name))


def test_layout_is_that_of_etram(tmp_path):
    with EventWriter(tmp_path / "a_td.h5", 64, 48) as writer:
        writer.append(as_events([5, 6], [1, 2], [3, 4], [1, 0]))
    with h5py.File(tmp_path / "a_td.h5") as file:
        assert {name: file["events"][name].dtype for name in "xypt"} == {
            "x": np.dtype("<u2"),
            "y": np.dtype("<u2"),
            "p": np.dtype("<i2"),
            "t": np.dtype("<i8"),
        }
        assert (file["events/width"][()], file["events/height"][()]) == (64, 48)
        assert file["events/p"][:].tolist() == [1, 0]


def test_writer_refuses_what_does_not_fit(tmp_path):
    path = tmp_path / "a.h5"
    with EventWriter(path, 64, 48) as writer:
        writer.append(as_events([5], [1], [1], [1]))
        with pytest.raises(RecordingError, match=r"a\.h5: time runs backwards: 4 us after 5 us"):
            writer.append(as_events([4], [1], [1], [1]))
    path.unlink()
    with pytest.raises(RecordingError, match="a sensor of 32 x 48 pixels"), EventWriter(path, 64, 48) as writer:
        writer.append(as_events([5], [1], [1], [1], width=32))
    with pytest.raises(RecordingError, match="outside of"):
        writer.append(as_events([6], [1], [1], [1]))
    with pytest.raises(RecordingError, match="sensor of 0 x 48"):
        EventWriter(path, 0, 48)
    with (
        pytest.raises(RecordingError, match=r"b\.h5: cannot be written"),
        EventWriter(tmp_path / "none" / "b.h5", 64, 48),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_older_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.h5"
    with EventWriter(path, 64, 48) as writer:
        writer.append(as_events([5], [1], [1], [1]))
    before = path.read_bytes()
    with suppress(KeyError), EventWriter(path, 64, 48) as writer:
        writer.append(as_events([7, 8], [1, 1], [1, 1], [1, 1]))
        raise KeyError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("compression", [None, "ecf"])
@pytest.mark.parametrize("events_written", [1000, 300_000])
def test_a_full_disk_is_an_error_naming_the_file_and_keeps_the_older_one(tmp_path, events_written, compression):
    path = tmp_path / "a.h5"
    with EventWriter(path, 64, 48, compression) as writer:  # what must be compiled is: that writes files too
        writer.append(as_events([0], [0], [0], [0]))
    path.write_bytes(b"older")
    zeros = [0] * events_written
    with (
        small_disk(8192),
        pytest.raises(RecordingError, match=r"a\.h5: cannot be written"),
        EventWriter(path, 64, 48, compression) as writer,
    ):
        writer.append(as_events(zeros, zeros, zeros, zeros))
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
