"""HDF5 in columns: corrupt values, broken and missing chunks, broken structure, random access."""

from contextlib import suppress

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import as_events, as_tuples

import spiketrack.recordings.hdf5 as hdf5_module
from spiketrack.errors import RecordingError
from spiketrack.events import Events
from spiketrack.recordings import EventWriter, ReadOptions, open_recording, summarize


def write_hdf5(path, t, x, y, p, size=(64, 48), dtypes=("i8", "u2", "u2", "i2")):
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        for name, values, dtype in zip("txyp", (t, x, y, p), dtypes, strict=True):
            group[name] = np.array(values, dtype)
        if size:
            group["width"], group["height"] = size
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hdf5")


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


def test_time_far_backwards_is_dropped_also_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5_module, "BLOCK_ROWS", 32)
    t = [*range(0, 100_000, 1000), 5, *range(100_000, 150_000, 1000), 40_000]
    path = write_hdf5(tmp_path / "a.h5", t, [1] * len(t), [1] * len(t), [1] * len(t))
    recording = open_recording(path)
    assert [t for t, *_ in as_tuples(list(recording.chunks()))] == list(range(0, 150_000, 1000))
    assert recording.invalid == {"time_backwards": 2}
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
    with pytest.raises(RecordingError, match=r"expected events/\{x, y, p, t\} or CD/events; the file holds images"):
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
        file["events"] = np.zeros(3)
    with pytest.raises(RecordingError, match="events must be one-dimensional records of integers x, y, p and t"):
        open_recording(path)
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros((3, 20, 4, 4))
    with pytest.raises(RecordingError, match="it holds frames of `data`, as RVT's event representations"):
        open_recording(path)
    with h5py.File(path, "w") as file:
        for name in "xypt":
            file.create_dataset(f"events/{name}", (9,), int, external=[(str(tmp_path / "raw"), 0, 72)])
    with pytest.raises(RecordingError, match="/events/x lies in other files"):
        open_recording(path)
    with h5py.File(path, "w") as file:
        for name in "xypt":
            file.create_dataset(f"events/{name}", (1 << 30,), int, chunks=(1 << 26,))
    with pytest.raises(RecordingError, match="stored in chunks of 67,108,864, too large to read"):
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
    recording = open_recording(path)
    assert sum(map(len, recording.chunks())) == n - 4096
    assert recording.invalid == {"broken_chunk": 4096}
    assert recording.first_invalid["broken_chunk"].startswith("event 8192: events/y: ")
    with pytest.raises(RecordingError, match=r"broken\.h5: invalid: broken_chunk, first at event 8192"):
        list(open_recording(path, options=ReadOptions(on_invalid="fail")).chunks())


def test_a_declared_length_costs_nothing_and_is_counted(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in "xypt":
            column = file.create_dataset(f"events/{name}", (1 << 40,), "i8", chunks=(1 << 10,))
            for row in (1 << 20, 1 << 39):
                column[row : row + 3] = [1, 2, 3]
            if name == "y":
                column[1 << 30] = 1  # a chunk of one column alone
        file["events/p"][1 << 20 : (1 << 20) + 3] = 1
        file["events/p"][1 << 39 : (1 << 39) + 3] = 0
        file["events/width"], file["events/height"] = 64, 48
    recording = open_recording(path)
    # the rest of a chunk that was written is zeros: far back in time where the sensor's clock has moved on
    events = [event for event in as_tuples(list(recording.chunks())) if event[0]]
    assert events == [(1, 1, 1, 1), (1, 1, 1, 0), (2, 2, 2, 1), (2, 2, 2, 0), (3, 3, 3, 1), (3, 3, 3, 0)]
    assert recording.invalid == {"missing_chunk": (1 << 40) - 2 * (1 << 10)}
    assert recording.first_invalid["missing_chunk"] == f"event 0: the rows up to {(1 << 20) - 1} were never written"


def test_columns_that_were_never_written_are_missing(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "xypt":
            file.create_dataset(f"events/{name}", (1 << 40,), "i8")  # contiguous, and allocated only when written
        file["events/width"], file["events/height"] = 64, 48
    recording = open_recording(tmp_path / "a.h5")
    assert list(recording.chunks()) == []
    assert recording.invalid == {"missing_chunk": 1 << 40}


def test_an_unknown_filter_is_named(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((16,))
        settings.set_filter(64_999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((16,))
        group = file.create_group("events")
        for name in (b"x", b"y", b"p", b"t"):
            h5py.h5d.create(group.id, name, h5py.h5t.NATIVE_INT64, space, settings)
    with pytest.raises(RecordingError, match=r"/events/x is stored with an unknown filter \(HDF5 filter 64999\)"):
        open_recording(path, 64, 48)


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
