"""eTraM HDF5: round trips through EventWriter, corrupt columns, broken structure, writing that fails."""

import resource
from contextlib import contextmanager, suppress
from itertools import pairwise

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import as_events, as_tuples, columns, in_order

import spiketrack.recordings.recording as recording_module
from spiketrack.errors import RecordingError
from spiketrack.events import Events
from spiketrack.recordings import EventWriter, open_recording, summarize


def write_hdf5(path, t, x, y, p, size=(64, 48), dtypes=("i8", "u2", "u2", "i2")):
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        for name, values, dtype in zip("txyp", (t, x, y, p), dtypes, strict=True):
            group[name] = np.array(values, dtype)
        if size:
            group["width"], group["height"] = size
    return path


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


@given(columns(), st.lists(st.integers(0, 80), max_size=4))
@settings(max_examples=30, deadline=None)
def test_writer_round_trip(folder, events, cuts):
    whole = as_events(*events)
    borders = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    path = folder / "round_td.h5"
    with EventWriter(path, 64, 48) as writer:
        for first, last in pairwise(borders):
            writer.append(whole[first:last])
    recording = open_recording(path)
    assert as_tuples(list(recording.chunks())) == in_order(*events)
    assert (recording.format, recording.width, recording.height) == ("hdf5", 64, 48)
    assert not recording.invalid
    for start_us in {0, *events[0]}:
        expected = [event for event in in_order(*events) if event[0] >= start_us]
        assert as_tuples(list(recording.chunks(start_us))) == expected


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


def test_many_small_and_large_appends_keep_every_event(tmp_path):
    rng = np.random.default_rng(1)
    n = 200_000
    events = as_events(
        np.sort(rng.integers(0, 10**6, n)), rng.integers(0, 64, n), rng.integers(0, 48, n), rng.integers(0, 2, n)
    )
    with EventWriter(tmp_path / "a.h5", 64, 48) as writer:
        first = 0
        for length in (1, 70_000, 65_536, 65_535, 10, n):
            writer.append(events[first : first + length])
            first += length
    back = Events.concatenate(list(open_recording(tmp_path / "a.h5").chunks()))
    for name in "txyp":
        assert np.array_equal(getattr(back, name), getattr(events, name))


def test_corrupt_events_are_dropped_and_counted(tmp_path):
    path = write_hdf5(
        tmp_path / "a.h5",
        t=[10, 11, 12, 13, 14, 15, 9, -(1 << 63), 16],
        x=[1, 2, 1280, 4, 5, 6, 7, 8, 9],
        y=[1, 33014, 3, 4, 5, 6, 7, 8, 9],
        p=[0, 1, 1, -1, 2, 1, 1, 1, 1],
        size=(1280, 720),
    )
    recording = open_recording(path)
    events = as_tuples(list(recording.chunks()))
    assert events == [(9, 7, 7, 1), (10, 1, 1, 0), (13, 4, 4, 0), (15, 6, 6, 1), (16, 9, 9, 1)]
    assert recording.invalid == {"off_sensor": 2, "bad_polarity": 1, "bad_time": 1}
    assert recording.repaired == {"reordered": 1}
    assert recording.first_invalid["off_sensor"] == "event 1: t 11, x 2, y 33014, p 1"
    assert recording.first_invalid["bad_polarity"] == "event 4: t 14, x 5, y 5, p 2"


def test_columns_of_other_integer_types_are_never_wrapped(tmp_path):
    path = write_hdf5(
        tmp_path / "a.h5",
        t=[1, 2, 3, 1 << 63],
        x=[-1, 65536 + 5, 7, 8],
        y=[1, 2, 3, 4],
        p=[True, False, True, True],
        dtypes=("u8", "i4", "i8", "?"),
    )
    recording = open_recording(path)
    assert as_tuples(list(recording.chunks())) == [(3, 7, 3, 1)]
    assert recording.invalid == {"off_sensor": 2, "bad_time": 1}


def test_time_far_backwards_is_dropped_also_across_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(recording_module, "CHUNK_EVENTS", 32)
    t = [*range(0, 100_000, 1000), 5, *range(100_000, 150_000, 1000), 40_000]
    path = write_hdf5(tmp_path / "a.h5", t, [1] * len(t), [1] * len(t), [1] * len(t))
    recording = open_recording(path)
    assert [t for t, *_ in as_tuples(list(recording.chunks()))] == list(range(0, 150_000, 1000))
    assert recording.invalid == {"time_backwards": 2}
    assert recording.first_invalid["time_backwards"] == "decoded event 100: 5 us after 99000 us"
    # a file that EventWriter did not write is not bisected: its clock may have been set back
    assert [t for t, *_ in as_tuples(list(open_recording(path).chunks(40_000)))] == list(range(40_000, 150_000, 1000))


def test_sizes_come_from_the_file_or_the_caller(tmp_path):
    path = write_hdf5(tmp_path / "a.h5", [1], [60], [40], [1], size=None)
    with pytest.raises(RecordingError, match="no events/width and events/height in the file; give width and height"):
        open_recording(path)
    assert summarize(open_recording(path, width=64, height=48)).events == 1
    path = write_hdf5(tmp_path / "b.h5", [1], [60], [40], [1], size=([64], [48]))
    assert open_recording(path).width == 64
    path = write_hdf5(tmp_path / "c.h5", [1], [60], [40], [1], size=(0, 48))
    with pytest.raises(RecordingError, match=r"events/width is 0; expected 1 \.\. 65536"):
        open_recording(path)


def test_an_empty_recording(tmp_path):
    with EventWriter(tmp_path / "a.h5", 64, 48):
        pass
    assert list(open_recording(tmp_path / "a.h5").chunks()) == []
    assert list(open_recording(tmp_path / "a.h5").chunks(5)) == []


def test_broken_structures_are_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(RecordingError, match=r"no dataset events/x; expected eTraM HDF5, the file holds images"):
        open_recording(path)
    with h5py.File(path, "w") as file:
        for name, n in zip("xypt", (3, 3, 3, 4), strict=True):
            file[f"events/{name}"] = np.zeros(n, int)
    with pytest.raises(RecordingError, match=r"differ in length: .*'t': 4"):
        open_recording(path, 64, 48)
    with h5py.File(path, "w") as file:
        for name in "xypt":
            file[f"events/{name}"] = np.zeros(3, float if name == "t" else int)
    with pytest.raises(RecordingError, match="events/t must be one-dimensional integers, got float64"):
        open_recording(path, 64, 48)
    with h5py.File(path, "w") as file:
        file["CD/events"] = np.zeros(3)
    with pytest.raises(RecordingError, match="Prophesee HDF5"):
        open_recording(path)
    with h5py.File(path, "w") as file:
        file["events/x"], file["t_offset"] = np.zeros(3), 5
    with pytest.raises(RecordingError, match="DSEC HDF5"):
        open_recording(path)


def test_a_cut_or_damaged_file_ends_in_an_error_naming_it(tmp_path):
    whole = tmp_path / "whole.h5"
    n = 20_000
    with h5py.File(whole, "w") as file:
        for name in "xypt":
            file.create_dataset(f"events/{name}", data=np.arange(n) // 5000 % 2, chunks=(4096,), compression="gzip")
        file["events/width"], file["events/height"] = 64, 48
    content = whole.read_bytes()
    path = tmp_path / "broken.h5"
    for keep in (9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:keep])
        with pytest.raises(RecordingError, match=r"broken\.h5: cannot be opened as HDF5, perhaps cut short"):
            open_recording(path)
    with h5py.File(whole) as file:
        place = file["events/y"].id.get_chunk_info(2).byte_offset
    path.write_bytes(content[:place] + bytes(40) + content[place + 40 :])
    with pytest.raises(RecordingError, match=r"broken\.h5: reading failed in events 0 \.\. 19999"):
        list(open_recording(path).chunks())


def test_a_declared_length_allocates_nothing(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in "xypt":
            file.create_dataset(f"events/{name}", (1 << 40,), "i8", chunks=(1 << 16,))
        file["events/width"], file["events/height"] = 64, 48
    runs = open_recording(path).chunks()
    assert len(next(runs)) <= 1 << 20
    runs.close()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_damaged_bytes_never_end_in_another_exception(folder, data):
    path = folder / "fuzz.h5"
    with EventWriter(path, 64, 48) as writer:
        writer.append(as_events([1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 0, 1]))
    content = bytearray(path.read_bytes())
    for place in data.draw(st.lists(st.integers(8, min(4000, len(content)) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    with suppress(RecordingError):
        for run in open_recording(path).chunks():
            assert (run.x < run.width).all()


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


@pytest.mark.parametrize("events_written", [1000, 300_000])
def test_a_full_disk_is_an_error_naming_the_file_and_keeps_the_older_one(tmp_path, events_written):
    path = tmp_path / "a.h5"
    path.write_bytes(b"older")
    zeros = [0] * events_written
    with (
        small_disk(8192),
        pytest.raises(RecordingError, match=r"a\.h5: cannot be written"),
        EventWriter(path, 64, 48) as writer,
    ):
        writer.append(as_events(zeros, zeros, zeros, zeros))
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("in_order", [True, False])
def test_random_access_equals_cutting_the_whole(tmp_path, in_order):
    rng = np.random.default_rng(0)
    n = 70_000  # several stored chunks
    t = np.sort(rng.integers(0, 50_000, n))
    columns = (t, rng.integers(0, 30, n), rng.integers(0, 20, n), rng.integers(0, 2, n))
    events, _ = Events.repaired(*columns, 30, 20)
    path = tmp_path / "events.h5"
    with EventWriter(path, 30, 20) as writer:
        writer.append(events)
    if not in_order:  # a file that nobody vouches for
        with h5py.File(path, "a") as file:
            del file["events"].attrs["spiketrack_sorted"]
    recording = open_recording(path)
    for start, end in [
        (0, 1),
        (100, 900),
        (25_000, 26_000),
        (40_000, 60_000),
        (-50, 0),
        (-9, 70_000),
        (70_000, 80_000),
    ]:
        window = recording.read(start, end)
        cut = events.between(start, end)
        assert (window.start_us, window.end_us) == (start, end)
        for name in "txyp":
            np.testing.assert_array_equal(getattr(window, name), getattr(cut, name))
