"""Stored chunks of HDF5: every filter as the library undoes it, and chunks that become less or more than is due."""

import struct
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import as_events, as_tuples

from spiketrack.errors import RecordingError
from spiketrack.recordings import ReadOptions, open_recording
from spiketrack.recordings.hdf5_chunks import Chunks

CHUNK = 64
FILTERS = {
    "none": {},
    "shuffle": {"shuffle": True},
    "gzip": {"compression": "gzip"},
    "gzip shuffle": {"compression": "gzip", "shuffle": True},
    "fletcher32": {"fletcher32": True},
    "gzip fletcher32": {"compression": 1, "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "lzf shuffle fletcher32": {"compression": "lzf", "shuffle": True, "fletcher32": True},
}
RECORD = np.dtype([("x", "<u2"), ("y", "<u2"), ("p", "i1"), ("t", "<i8")], align=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chunks")


@given(
    st.sampled_from(sorted(FILTERS)),
    st.sampled_from(["u1", "<u2", ">u2", "<i4", ">i8", "?", RECORD]),
    st.binary(max_size=40),
    st.integers(1, 300),
    st.integers(1, 100),
)
@settings(max_examples=150, deadline=None)
def test_every_filter_as_the_library_undoes_it(folder, filters, dtype, pattern, rows, chunk):
    size = rows * np.dtype(dtype).itemsize
    pattern = bytes(byte & 1 for byte in pattern) if dtype == "?" else pattern
    values = np.frombuffer((pattern * size + bytes(size))[:size], dtype)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("a", data=values, chunks=(chunk,), maxshape=(None,), **FILTERS[filters])
    with h5py.File(folder / "a.h5") as file:
        chunks = Chunks(file["a"])
        assert chunks.ours
        for first in range(0, rows, chunk):
            for start in (first, min(first + chunk // 2, rows - 1)):
                read = np.zeros(min(first + chunk, rows) - start, dtype)
                chunks.read_into(read, start)
                assert np.array_equal(read, values[start : start + len(read)])


def events_of(n=5 * CHUNK):
    rng = np.random.default_rng(n)
    return as_events(
        np.sort(rng.integers(0, 10**6, n)), rng.integers(0, 64, n), rng.integers(0, 48, n), rng.integers(0, 2, n)
    )


def write(path, events, chunk=CHUNK, **filters):
    with h5py.File(path, "w") as file:
        for name in "txyp":
            file.create_dataset(f"events/{name}", data=getattr(events, name), chunks=(chunk,), **filters)
        file["events/width"], file["events/height"] = 64, 48
    return path


def read(path):
    recording = open_recording(path, options=ReadOptions(index=False))
    return as_tuples(list(recording.chunks())), recording


def change(path, chunk, name="t", first=2 * CHUNK):
    with h5py.File(path, "r+") as file:
        file[f"events/{name}"].id.write_direct_chunk((first,), chunk)


LZF_RUN = bytes([0, 1, 0xE0, 0xFF, 0])  # the byte 1, then 264 times the same
SHORT_AND_LONG = [
    ("gzip", zlib.compress(bytes(8)), "becomes 8 bytes"),
    ("gzip", zlib.compress(bytes(8 * CHUNK + 1)), "becomes 513 bytes"),
    ("gzip", zlib.compress(bytes(10**6)), "becomes 517 bytes"),
    ("gzip", zlib.compress(bytes(8 * CHUNK))[:-9], "becomes"),
    ("gzip", b"\0" * 30, "gzip: "),
    ("gzip", b"\0" * 10_000, "10,000 bytes are more than any coding of its rows takes"),
    ("gzip shuffle", zlib.compress(bytes(15)), "becomes 15 bytes"),
    ("shuffle", bytes(80), "becomes 80 bytes"),
    ("fletcher32", bytes(3), "no room for its check sum"),
    ("fletcher32", bytes(84), "becomes 80 bytes"),
    ("fletcher32", b"abcd" * (2 * CHUNK + 1), "check sum is wrong"),
    ("lzf", LZF_RUN, "becomes 265 bytes"),
    ("lzf", LZF_RUN * 2, "LZF: "),
    ("lzf", b"\x40\x05", "LZF: "),
    ("lzf", b"\x1f", "LZF: "),
    ("lzf", b"\xe0", "LZF: "),
]


@pytest.mark.parametrize(("filters", "chunk", "why"), SHORT_AND_LONG)
def test_a_chunk_that_becomes_less_or_more_costs_its_own_events(tmp_path, filters, chunk, why):
    events = events_of()
    path = write(tmp_path / "a.h5", events, **FILTERS[filters])
    assert read(path)[0] == as_tuples([events])
    change(path, chunk)
    found, recording = read(path)
    assert found == as_tuples([events[: 2 * CHUNK], events[3 * CHUNK :]])
    assert recording.invalid == {"broken_chunk": CHUNK}
    assert recording.first_invalid["broken_chunk"].startswith(f"event {2 * CHUNK}: events/t: ")
    assert why in recording.first_invalid["broken_chunk"]


def test_a_large_chunk_that_becomes_little_does_not_end_the_process(tmp_path):
    n = 1 << 20
    path = write(tmp_path / "a.h5", events_of(n), n, compression="gzip")
    change(path, zlib.compress(bytes(80)), first=0)
    found, recording = read(path)
    assert (found, recording.invalid) == ([], {"broken_chunk": n})


@pytest.mark.parametrize("size", [0, 7, 127, 129, 33_536, 1 << 31])
def test_a_plain_chunk_of_a_size_that_cannot_be(tmp_path, size):
    """The length in the tree of chunks, by which the library reads into whatever it was given."""
    events = events_of()
    path = write(tmp_path / "a.h5", events)
    key = struct.pack("<IIQQ", 2 * CHUNK, 0, 2 * CHUNK, 0)
    content = path.read_bytes()
    place = content.index(key, content.index(key) + 1)  # those of x and y are alike
    path.write_bytes(content[:place] + struct.pack("<I", size) + content[place + 4 :])
    found, recording = read(path)
    assert found == as_tuples([events[: 2 * CHUNK], events[3 * CHUNK :]])
    assert recording.invalid == {"broken_chunk": CHUNK}


def test_a_chunk_written_without_its_filter(tmp_path):
    events = events_of()
    path = write(tmp_path / "a.h5", events, compression="gzip", shuffle=True)
    plain = events.t[2 * CHUNK : 3 * CHUNK].tobytes()
    with h5py.File(path, "r+") as file:
        file["events/t"].id.write_direct_chunk((2 * CHUNK,), plain, filter_mask=3)
    found, recording = read(path)
    assert (found, recording.invalid) == (as_tuples([events]), {})
    assert read(path)[0] == found


@pytest.mark.parametrize("plugin", ["Blosc", "Blosc2"])
def test_what_plugins_undo(tmp_path, plugin):
    hdf5plugin = pytest.importorskip("hdf5plugin")
    events = events_of()
    path = write(tmp_path / "a.h5", events, **getattr(hdf5plugin, plugin)())
    assert read(path)[0] == as_tuples([events])
    with h5py.File(path) as file:
        _, good = file["events/t"].id.read_direct_chunk((2 * CHUNK,))
    size, order = (slice(4, 8), "little") if plugin == "Blosc" else (slice(30, 38), "big")
    for claim in (0, 8 * CHUNK - 1, 8 * CHUNK + 1, 1 << 31):
        lie = bytearray(good)
        lie[size] = claim.to_bytes(size.stop - size.start, order)
        change(path, bytes(lie))
        found, recording = read(path)
        assert found == as_tuples([events[: 2 * CHUNK], events[3 * CHUNK :]])
        assert recording.invalid == {"broken_chunk": CHUNK}
    for lie in (good[:-3], good[:10], good + b"0"):
        change(path, lie)
        assert read(path)[1].invalid == {"broken_chunk": CHUNK}


@pytest.mark.parametrize("filters", [{"scaleoffset": 0}, {"LZ4": ()}, {"Zstd": ()}, {"Blosc": (), "fletcher32": True}])
def test_filters_that_nobody_checks_are_refused(tmp_path, filters):
    how = dict(filters)
    for name in [name for name in filters if name[0].isupper()]:
        how |= dict(getattr(pytest.importorskip("hdf5plugin"), name)(*how.pop(name)))
    path = write(tmp_path / "a.h5", events_of(), **how)
    with pytest.raises(RecordingError, match=r"\), which is not undone safely; expected none, gzip"):
        open_recording(path)


def test_integers_of_unusual_bits_are_not_guessed_at(tmp_path):
    events = events_of()
    path = write(tmp_path / "a.h5", events, compression="gzip")
    with h5py.File(path, "r+") as file:
        kind = h5py.h5t.STD_I32LE.copy()
        kind.set_precision(20)
        del file["events/x"]
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((CHUNK,))
        settings.set_deflate(1)
        x = h5py.h5d.create(file["events"].id, b"x", kind, h5py.h5s.create_simple((len(events),)), settings)
        x.write(h5py.h5s.ALL, h5py.h5s.ALL, events.x.astype("<i4"))
    found, recording = read(path)
    assert (found, recording.invalid) == ([], {"broken_chunk": len(events)})
    assert "of unusual bits" in recording.first_invalid["broken_chunk"]
