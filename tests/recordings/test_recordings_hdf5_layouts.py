"""HDF5 of DSEC, RVT and Prophesee: their offsets, sizes, triggers and indexes, chunks that lie, indexes that lie."""

import logging

import h5py
import numpy as np
import pytest
from recording_encoders import as_events, as_tuples

import spiketrack.recordings.hdf5 as hdf5_module
from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers
from spiketrack.recordings import EventWriter, ReadOptions, open_recording
from spiketrack.recordings.ecf_encoding import encode_ecf

OFFSET_US = 1_620_000_000_000_000
NO_INDEX = ReadOptions(index=False)
CD = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")], align=True)
EXT = np.dtype({"names": ["p", "t", "id"], "formats": ["<i2", "<i8", "<i2"], "offsets": [0, 8, 16], "itemsize": 24})


def some_events(n: int, span_us: int = 200_000, width: int = 64, height: int = 48) -> Events:
    rng = np.random.default_rng(n)
    t = np.sort(rng.integers(0, span_us, n))
    return as_events(
        t, rng.integers(0, width, n), rng.integers(0, height, n), rng.integers(0, 2, n), width=width, height=height
    )


def write_dsec(path, events: Events, offset: object = OFFSET_US, index: object = None):
    with h5py.File(path, "w") as file:
        for name, dtype in zip("txyp", ("u4", "u2", "u2", "u1"), strict=True):
            file.create_dataset(
                f"events/{name}", data=getattr(events, name).astype(dtype), chunks=(512,), maxshape=(None,)
            )
        if offset is not None:
            file["t_offset"] = offset
        ms = np.arange(events.t[-1] // 1000 + 1) * 1000
        file["ms_to_idx"] = np.searchsorted(events.t, ms).astype("u8") if index is None else index
    return path


def write_prophesee(path, events: Events, triggers: list | None = None, geometry="64x48"):
    with h5py.File(path, "w") as file:
        records = np.empty(len(events), CD)
        for name in "txyp":
            records[name] = getattr(events, name)
        file.create_dataset("CD/events", data=records, chunks=(512,), maxshape=(None,), compression="gzip")
        file["EXT_TRIGGER/events"] = np.array(triggers or [], EXT)
        if geometry:
            file.attrs["geometry"] = geometry
    return path


def read_all(recording, start_us=None) -> list[tuple[int, int, int, int]]:
    return as_tuples(list(recording.chunks(start_us)))


def shifted(events: Events, us: int) -> list[tuple[int, int, int, int]]:
    return [(t + us, *rest) for t, *rest in as_tuples([events])]


def test_dsec_adds_its_offset_and_has_its_documented_sensor(tmp_path):
    events = some_events(3_000, width=640, height=480)
    recording = open_recording(write_dsec(tmp_path / "events.h5", events), options=NO_INDEX)
    assert (recording.width, recording.height, recording.layout) == (640, 480, "DSEC")
    assert read_all(recording) == shifted(events, OFFSET_US)
    assert not recording.invalid
    assert open_recording(tmp_path / "events.h5", 100, 200).width == 100
    window = recording.read(OFFSET_US + 50_000, OFFSET_US + 60_000)
    assert as_tuples([window]) == shifted(events.between(50_000, 60_000), OFFSET_US)


@pytest.mark.parametrize("start", [-5, 0, 1, 77_777, 100_000, 199_000, 10**6])
def test_dsec_starts_where_its_index_says(tmp_path, start):
    events = some_events(3_000)
    recording = open_recording(write_dsec(tmp_path / "events.h5", events), options=NO_INDEX)
    row, _ = recording._seek(OFFSET_US + start)
    assert row <= np.searchsorted(events.t, start)
    assert row >= min(np.searchsorted(events.t, start - 3_000), np.searchsorted(events.t, 198_000))
    assert read_all(recording, OFFSET_US + start) == shifted(events.between(start, 1 << 40), OFFSET_US)


@pytest.mark.parametrize("index", [np.arange(200) + 7, np.full(200, 1 << 63, "u8"), np.full(200, 3_000), np.zeros(200)])
def test_an_index_that_lies_is_left_aside(tmp_path, caplog, index):
    events = some_events(3_000)
    recording = open_recording(write_dsec(tmp_path / "events.h5", events, index=index), options=NO_INDEX)
    with caplog.at_level(logging.WARNING):
        assert recording._seek(OFFSET_US + 100_000) is None
    assert "/ms_to_idx" in caplog.text
    assert read_all(recording, OFFSET_US + 100_000) == shifted(events.between(100_000, 1 << 40), OFFSET_US)


def test_offsets_that_cannot_be_are_refused(tmp_path):
    for offset, message in (
        ([1, 2], "t_offset must be one integer"),
        (0.5, "t_offset must be one integer"),
        (1 << 62, "t_offset is 4611686018427387904, which cannot be microseconds"),
    ):
        write_dsec(tmp_path / "a.h5", some_events(10), offset)
        with pytest.raises(RecordingError, match=message):
            open_recording(tmp_path / "a.h5")


def test_an_index_alone_tells_no_sensor(tmp_path):
    write_dsec(tmp_path / "a.h5", some_events(10), offset=None)
    with pytest.raises(RecordingError, match="no events/width and events/height in the file; give width and height"):
        open_recording(tmp_path / "a.h5")
    assert len(read_all(open_recording(tmp_path / "a.h5", 64, 48))) == 10


def test_rvt_files_have_columns_of_their_own_types(tmp_path):
    events = some_events(100)
    with h5py.File(tmp_path / "a_td.dat.h5", "w") as file:
        for name, dtype in zip("xypt", ("<u2", "<u2", "i1", "<i8"), strict=True):
            file[f"events/{name}"] = getattr(events, name).astype(dtype)
        file["events/p"][...] = np.where(events.p, 1, -1)
        file["events/width"], file["events/height"], file["events/divider"] = 64, 48, 1
    recording = open_recording(tmp_path / "a_td.dat.h5")
    assert (recording.layout, read_all(recording)) == ("eTraM", as_tuples([events]))


def test_prophesee_records_without_ecf_and_their_triggers(tmp_path):
    events = some_events(2_000)
    triggers = [(1, 10, 0), (0, 20, 3), (5, 30, 0), (1, 40, -1), (1, (1 << 63) - 1, 0), (1, 300_000, 31)]
    path = write_prophesee(tmp_path / "a.hdf5", events, triggers)
    recording = open_recording(path, options=NO_INDEX)
    assert (recording.width, recording.height, recording.layout) == (64, 48, "Prophesee")
    read = list(recording.chunks_with_triggers())
    assert as_tuples([part for part, _ in read]) == as_tuples([events])
    found = Triggers.concatenate([part for _, part in read])
    assert found.t.tolist() == [10, 20, 300_000]
    assert (found.channel.tolist(), found.value.tolist()) == ([0, 3, 31], [1, 0, 1])
    assert recording.invalid == {"bad_trigger": 3}
    assert recording.first_invalid["bad_trigger"] == "trigger 2: t 30, channel 0, value 5"


def test_the_size_of_a_prophesee_file(tmp_path):
    path = write_prophesee(tmp_path / "a.hdf5", some_events(5), geometry=None)
    with pytest.raises(RecordingError, match="no attribute geometry in the file; give width and height"):
        open_recording(path)
    with h5py.File(path, "a") as file:
        file.attrs["format"] = np.bytes_("ECF;height=48;width=64")
    assert (open_recording(path).width, open_recording(path).height) == (64, 48)
    with h5py.File(path, "a") as file:
        file.attrs["geometry"] = "0x48"
    with pytest.raises(RecordingError, match=r"width is 0; expected 1 \.\. 65536 pixels"):
        open_recording(path)


def ecf_file(path, events: Events):
    with EventWriter(path, events.width, events.height, "ecf") as writer:
        writer.append(events)
    return path


@pytest.mark.parametrize("threads", [1, 2])
def test_a_broken_chunk_costs_its_own_events(tmp_path, threads):
    events = some_events(40_000)  # chunks of 16,384, 16,384 and 7,232
    path = ecf_file(tmp_path / "a.hdf5", events)
    whole = as_tuples([events])
    options = ReadOptions(threads=threads, index=False)
    recording = open_recording(path, options=options)
    assert read_all(recording) == whole
    good = encode_ecf(*(getattr(events, name)[16_384:32_768] for name in "txyp")).tobytes()
    for chunk, why in (
        (good[:40], "its times are cut short"),
        (good[:-1], "are cut short"),
        (b"abc", "it says it holds -1 events, expected 16384 .. 16384"),
        (bytes(4) + good[4:], "it says it holds 0 events, expected 16384 .. 16384"),
        (b"\xff\xff\xff\xff" + good[4:], "it says it holds 1073741823 events, expected 16384 .. 16384"),
        (b"\xff" * 600_000, "are more than any coding of its rows takes"),
    ):
        with h5py.File(path, "a") as file:
            file["CD/events"].id.write_direct_chunk((16_384,), chunk)
        assert read_all(recording) == whole[:16_384] + whole[32_768:]
        assert recording.invalid == {"broken_chunk": 16_384}
        assert recording.first_invalid["broken_chunk"].startswith("event 16384: CD/events: ")
        assert why in recording.first_invalid["broken_chunk"]


def test_chunks_that_other_writers_leave(tmp_path):
    events = some_events(40_000)
    path = ecf_file(tmp_path / "a.hdf5", events)
    columns = [getattr(events, name) for name in "txyp"]
    padded = [np.concatenate([column[32_768:], np.zeros(16_384 - 7_232, column.dtype)]) for column in columns]
    records = np.empty(16_384, CD)
    for name, column in zip("txyp", columns, strict=True):
        records[name] = column[16_384:32_768]
    with h5py.File(path, "a") as file:
        stored = file["CD/events"].id
        stored.write_direct_chunk((32_768,), encode_ecf(*padded).tobytes())  # the last chunk filled up
        stored.write_direct_chunk((16_384,), records.tobytes(), filter_mask=1)  # a writer without the codec
    recording = open_recording(path, options=NO_INDEX)
    assert read_all(recording) == as_tuples([events])
    records["x"][5] = 64
    with h5py.File(path, "a") as file:
        file["CD/events"].id.write_direct_chunk((16_384,), records.tobytes(), filter_mask=1)
        file["CD/events"].resize((60_000,))  # rows 49,152 .. 59,999 were never written
    assert len(read_all(recording)) == 40_000 - 1
    assert recording.invalid["missing_chunk"] == 60_000 - 49_152
    assert recording.invalid["off_sensor"] == 1
    records["p"][5] = -1
    with h5py.File(path, "a") as file:
        file["CD/events"].id.write_direct_chunk((16_384,), records.tobytes(), filter_mask=1)
    read_all(recording)
    assert "stored without ECF and holds p from -1 to 1" in recording.first_invalid["broken_chunk"]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_ecf_file_starts_anywhere_and_blocks_do_not_matter(tmp_path, monkeypatch, threads):
    events = some_events(40_000)
    recording = open_recording(ecf_file(tmp_path / "a.hdf5", events), options=ReadOptions(threads=threads, index=False))
    for block_rows in (1_000, 16_384, 100_000):
        monkeypatch.setattr(hdf5_module, "BLOCK_ROWS", block_rows)
        for start in (0, 3, 99_999, 150_000, 199_990, 10**7):
            assert read_all(recording, start) == as_tuples([events.between(start, 1 << 40)])
    row, _ = recording._seek(150_000)
    assert np.searchsorted(events.t, 144_000) <= row <= np.searchsorted(events.t, 150_000)
    window = recording.read(120_000, 130_000)
    assert as_tuples([window]) == as_tuples([events.between(120_000, 130_000)])


def test_prophesee_indexes_that_lie_are_left_aside(tmp_path, caplog):
    events = some_events(40_000)
    path = ecf_file(tmp_path / "a.hdf5", events)
    whole = as_tuples([events.between(100_000, 1 << 40)])
    for field, lie in (("id", 39_000), ("id", 1 << 63), ("ts", 100_000 - 900)):
        with h5py.File(path, "a") as file:
            index = file["CD/indexes"][:]
            kept = index.copy()
            index[field] = lie
            file["CD/indexes"][:] = index
        recording = open_recording(path, options=NO_INDEX)
        with caplog.at_level(logging.WARNING):
            assert recording._seek(100_000) is None
        assert "/CD/indexes" in caplog.text
        assert read_all(recording, 100_000) == whole
        with h5py.File(path, "a") as file:
            file["CD/indexes"][:] = kept


def test_an_index_of_ours_that_lies_is_left_aside(tmp_path, caplog):
    events = some_events(40_000)
    for name, lie in (("row", 5), ("row", -1), ("row", 1 << 40), ("ms", 7)):
        path = tmp_path / "a.h5"
        with EventWriter(path, 64, 48) as writer:
            writer.append(events)
        with h5py.File(path, "a") as file:
            file[f"ms_index/{name}"][:] = lie
        recording = open_recording(path, options=NO_INDEX)
        caplog.clear()
        for start, end in ((50_000, 60_000), (0, 10**6)):
            assert as_tuples([recording.read(start, end)]) == as_tuples([events.between(start, end)])
        assert "ms_index" in caplog.text


def test_a_file_that_vouches_for_an_order_it_does_not_have(tmp_path):
    path = tmp_path / "a.h5"
    with EventWriter(path, 64, 48) as writer:
        writer.append(as_events([10, 20, 30, 40], [1, 2, 3, 4], [1, 1, 1, 1], [1, 1, 1, 1]))
    with h5py.File(path, "a") as file:
        file["events/t"][:] = [10, 30, 20, 40]
    window = open_recording(path).read(0, 100)
    assert as_tuples([window]) == [(10, 1, 1, 1), (20, 3, 1, 1), (30, 2, 1, 1), (40, 4, 1, 1)]


def test_triggers_that_were_never_written_are_counted(tmp_path):
    events = some_events(1_000)
    path = tmp_path / "a.h5"
    with EventWriter(path, 64, 48) as writer:
        writer.append(events, Triggers(np.array([7]), np.array([1], np.uint8), np.array([1], np.uint8)))
    with h5py.File(path, "a") as file:
        for name in ("t", "channel", "value"):
            file["triggers"][name].resize((1 << 40,))
    recording = open_recording(path, options=NO_INDEX)
    read = list(recording.chunks_with_triggers())
    assert sum(len(part) for part, _ in read) == 1_000
    assert recording.invalid["missing_chunk"] == (1 << 40) - 2048
    assert recording._seek(100_000) is not None


def damaged(path, place: int, value: bytes):
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(bytes(content))
    return path


def test_what_the_library_would_never_return_from_is_an_error(tmp_path):
    path = ecf_file(tmp_path / "a.hdf5", some_events(10))
    content = path.read_bytes()
    heap = content.find(b"GCOL")
    with pytest.raises(RecordingError, match=rf"broken HDF5 structure: the heap at byte {heap}"):
        open_recording(damaged(path, heap + 16, bytes(16)))  # an object of no size: the next one is itself
    path.write_bytes(content)
    place = content.find(b"geometry\0")
    data = place + 16 + 24 + 8  # the padded name, type and space
    assert content[data : data + 4] == (5).to_bytes(4, "little")
    with pytest.raises(RecordingError, match=r"the attribute at byte \d+ claims 4,026,531,845 bytes"):
        open_recording(damaged(path, data + 3, b"\xf0"))


def test_a_filter_without_its_settings_is_an_error(tmp_path):
    with EventWriter(tmp_path / "a.h5", 64, 48, "blosc") as writer:
        writer.append(some_events(10))
    content = (tmp_path / "a.h5").read_bytes()
    place = content.find(b"blosc") - 2  # u16 number of settings, before the name
    assert content[place : place + 2] == (7).to_bytes(2, "little")
    with pytest.raises(RecordingError, match=r"stored with blosc \(HDF5 filter 32001\), whose settings are broken"):
        open_recording(damaged(tmp_path / "a.h5", place, bytes(2)))
