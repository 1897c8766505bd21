"""Writers: words worked out by hand, round trips between all formats, clocks, triggers, failures, other decoders."""

import resource
import struct
import tracemalloc
from contextlib import contextmanager, suppress
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import as_events, as_tuples, columns

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers
from spiketrack.recordings import open_recording, write_words
from spiketrack.recordings.writing import create_recording

FORMATS = {
    "hdf5": "a.h5",
    "evt2": "a.raw",
    "evt2.1": "a.raw",
    "evt2.1-legacy": "a.raw",
    "evt3": "a.raw",
    "dat": "a.dat",
    "csv": "a.csv",
}
ADDR_Y, ADDR_X, BASE, VECT_12, VECT_8, LOW, HIGH, TRIGGER = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8, 0xA
HOUR_US = 3_600_000_000


@contextmanager
def small_disk(n_bytes: int):
    """Files of this process cannot grow beyond n_bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(folder, format, *parts, triggers=None, width=64, height=48):
    """One file from events that follow each other; the triggers go with the first."""
    path = folder / FORMATS[format]
    with create_recording(path, width, height, format=format) as writer:
        for events in parts:
            writer.append(events, triggers)
            triggers = None
    return path


def read(path) -> list[tuple[int, int, int, int]]:
    recording = open_recording(path)
    events = as_tuples(list(recording.chunks()))
    assert not recording.invalid
    assert not recording.repaired
    return events


def body(path) -> tuple[str, bytes]:
    """The header and what follows it."""
    header, end, rest = path.read_bytes().partition(b"% end\n")
    return (header + end).decode(), rest


def evt3_words(path) -> list[tuple[int, int]]:
    return [(word >> 12, word & 0xFFF) for (word,) in struct.iter_unpack("<H", body(path)[1])]


def signals(*rows) -> Triggers:
    t, channel, value = zip(*rows, strict=True)
    return Triggers(np.array(t), np.array(channel, np.uint8), np.array(value, np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("written")


def test_evt3_words_by_hand(tmp_path):
    # 2 * 4096 + 100 us: 32, 33, 35, 44 and 63 of row 7 are a vector, 5 of row 9 is alone; then OFF
    events = as_events([8292] * 7, [32, 33, 35, 44, 63, 5, 5], [7, 7, 7, 7, 7, 9, 9], [1, 1, 1, 1, 1, 1, 0])
    path = write(tmp_path, "evt3", events, as_events([8292, 12288], [6, 7], [9, 9], [0, 0]))
    header, _ = body(path)
    assert header == "% evt 3.0\n% format EVT3;height=48;width=64\n% geometry 64x48\n% end\n"
    on = 1 << 11
    assert evt3_words(path) == [
        (HIGH, 2),
        (LOW, 100),
        (ADDR_Y, 7),
        (BASE, on | 32),
        (VECT_12, 0b1011),
        (VECT_12, 0b1),
        (VECT_8, 0b10000000),
        (ADDR_Y, 9),
        (ADDR_X, on | 5),
        (ADDR_X, 5),
        (ADDR_X, 6),
        (HIGH, 3),
        (LOW, 0),
        (ADDR_X, 7),
    ]


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (range(32), [(BASE, 0), (VECT_12, 0xFFF), (VECT_12, 0xFFF), (VECT_8, 0xFF)]),
        ([3, 4], [(ADDR_X, 3), (ADDR_X, 4)]),
        ([0, 20, 21, 22], [(ADDR_X, 0), (ADDR_X, 20), (ADDR_X, 21), (ADDR_X, 22)]),  # as many words as a vector
        ([0, 20, 21, 22, 31], [(BASE, 0), (VECT_12, 1), (VECT_12, 0b111 << 8), (VECT_8, 1 << 7)]),
        ([0, 30, 31, 32], [(ADDR_X, 0), (ADDR_X, 30), (ADDR_X, 31), (ADDR_X, 32)]),
        ([31, *range(40, 46)], [(ADDR_X, 31), (BASE, 32), (VECT_12, 0xF00), (VECT_12, 0b11), (VECT_8, 0)]),
        ([5, 4, 3], [(ADDR_X, 5), (ADDR_X, 4), (ADDR_X, 3)]),  # a vector would change their order
        ([5, 5, 5], [(ADDR_X, 5)] * 3),
    ],
)
def test_evt3_vectors_where_they_are_shorter(tmp_path, x, words):
    n = len(x)
    path = write(tmp_path, "evt3", as_events([0] * n, x, [1] * n, [0] * n))
    assert evt3_words(path) == [(HIGH, 0), (LOW, 0), (ADDR_Y, 1), *words]
    assert read(path) == [(0, column, 1, 0) for column in x]


@given(st.sets(st.integers(0, 63), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_evt3_rows_are_as_short_as_vectors_of_32_make_them(folder, row):
    x = sorted(row)
    path = write(folder, "evt3", as_events([0] * len(x), x, [0] * len(x), [0] * len(x)))
    assert read(path) == [(0, column, 0, 0) for column in x]
    halves = [sum(column < 32 for column in x), sum(column >= 32 for column in x)]
    assert len(evt3_words(path)) - 3 == sum(min(4, half) for half in halves)


def test_evt2_words_by_hand(tmp_path):
    path = write(tmp_path, "evt2", as_events([197, 197, 256], [10, 11, 1], [20, 30, 2], [1, 0, 1]))
    header, rest = body(path)
    assert header == "% evt 2.0\n% format EVT2;height=48;width=64\n% geometry 64x48\n% end\n"
    # TIME_HIGH 3 = 192 us; 1<<28 | 5<<22 | 10<<11 | 20
    assert list(struct.unpack("<5I", rest)) == [0x80000003, 0x11405014, 0x0140581E, 0x80000004, 0x10000802]


@pytest.mark.parametrize(("format", "order"), [("evt2.1", "little"), ("evt2.1-legacy", "legacy")])
def test_evt21_words_by_hand(tmp_path, format, order):
    # 10, 11 and 31 share the group of x = 0; 32 begins the next; 12 comes after it and needs a word of its own
    events = as_events([197] * 5, [10, 11, 31, 32, 12], [20] * 5, [1] * 5)
    path = write(tmp_path, format, events, triggers=signals((197, 5, 1)))
    header, rest = body(path)
    assert header == (
        f"% endianness {order}\n% evt 2.1\n% format EVT21;endianness={order};height=48;width=64\n"
        "% geometry 64x48\n% end\n"
    )
    words = struct.unpack("<5Q", rest)
    pairs = [(word >> 32, word & 0xFFFFFFFF) for word in words]
    if order == "legacy":
        pairs = [(lower, upper) for upper, lower in pairs]
    assert pairs == [
        (0x80000003, 0),
        (0xA << 28 | 5 << 22 | 5 << 8 | 1, 0),
        (1 << 28 | 5 << 22 | 0 << 11 | 20, 1 << 10 | 1 << 11 | 1 << 31),
        (1 << 28 | 5 << 22 | 32 << 11 | 20, 1),
        (1 << 28 | 5 << 22 | 0 << 11 | 20, 1 << 12),
    ]


def test_dat_words_by_hand(tmp_path):
    path = write(tmp_path, "dat", as_events([70_000, 70_001], [3, 63], [5, 47], [1, 0]))
    header, rest = body(path)
    assert header == "% Data file containing CD events.\n% Version 2\n% Width 64\n% Height 48\n% end\n"
    assert rest[:2] == b"\x0c\x08"
    assert struct.unpack("<4I", rest[2:]) == (70_000, 1 << 28 | 5 << 14 | 3, 70_001, 47 << 14 | 63)


def test_text_by_hand(tmp_path):
    events = as_events([-10, -10, 0, 1_700_000_000_000_000], [3, 63, 0, 1], [5, 47, 0, 10], [1, 0, 1, 1])
    path = write(tmp_path, "csv", events, as_events([1_700_000_000_000_000], [9], [9], [0]))
    assert path.read_text() == (
        "# width=64 height=48\nt,x,y,p\n-10,3,5,1\n-10,63,47,0\n0,0,0,1\n"
        "1700000000000000,1,10,1\n1700000000000000,9,9,0\n"
    )


STARTS = (0, -5, -(1 << 40), 1_700_000_000_000_000, (1 << 34) - 2000)


@pytest.mark.parametrize(("first", "second"), list(product(FORMATS, repeat=2)))
@given(columns(gap=40_000_000), st.sampled_from(STARTS), st.lists(st.integers(0, 80), max_size=3))
@settings(max_examples=8, deadline=None)
def test_round_trip_of_every_pair_of_formats(folder, first, second, events, start, cuts):
    t, *rest = events
    whole = as_events([start + now for now in t], *rest)
    borders = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    path = write(folder, first, *(whole[i:j] for i, j in pairwise(borders)))
    between = open_recording(path)
    assert (between.width, between.height) == (64, 48)
    (folder / "second").mkdir(exist_ok=True)
    path = write(folder / "second", second, *between.chunks())
    assert read(path) == as_tuples([whole])


@pytest.mark.parametrize("format", FORMATS)
def test_many_small_and_large_appends_keep_every_event(tmp_path, format):
    rng = np.random.default_rng(1)
    n = 300_000  # several buffers
    events = Events(
        np.sort(rng.integers(0, 60_000_000, n)),
        rng.integers(0, 64, n).astype(np.uint16),
        rng.integers(0, 48, n).astype(np.uint16),
        rng.integers(0, 2, n).astype(np.uint8),
        64,
        48,
    )
    borders = [0, 1, 2, 70_000, 70_010, 200_000, n]
    path = write(tmp_path, format, *(events[i:j] for i, j in pairwise(borders)))
    back = Events.concatenate(list(open_recording(path).chunks()))
    for name in "txyp":
        np.testing.assert_array_equal(getattr(back, name), getattr(events, name))


@pytest.mark.parametrize("format", FORMATS)
def test_an_empty_recording(tmp_path, format):
    path = write(tmp_path, format, Events.empty(64, 48))
    recording = open_recording(path)
    assert list(recording.chunks()) == []
    assert (recording.width, recording.height) == (64, 48)


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "dat"])
@pytest.mark.parametrize("pause_us", [8_388_608, 16_777_215, 16_777_216, 100_000_000, 3 * HOUR_US, 40 * HOUR_US])
def test_long_pauses(tmp_path, format, pause_us):
    t = [0, 5000, 5000 + pause_us, 5001 + pause_us, 9000 + 2 * pause_us]
    events = as_events(t, [1] * 5, [2] * 5, [1] * 5)
    path = write(tmp_path, format, events[:3], events[3:])
    assert read(path) == as_tuples([events])
    if format == "evt3":
        assert path.stat().st_size < 200 + 2 * 4 * 2 * (1 + (pause_us >> 24))


def test_evt3_clock_wraps_through_its_last_reading_and_zero(tmp_path):
    path = write(tmp_path, "evt3", as_events([4000 << 12, (4096 + 3000) << 12], [1] * 2, [2] * 2, [1] * 2))
    highs = [value for kind, value in evt3_words(path) if kind == HIGH]
    assert highs == [4000, 4095, 0, 2047, 3000]


def test_a_pause_through_many_buffers_of_clock_words(tmp_path):
    pause_us = 200_000 << 24  # 39 days, 800,000 words
    events = as_events([7, 7 + pause_us], [1] * 2, [2] * 2, [1] * 2)
    assert read(write(tmp_path, "evt3", events)) == as_tuples([events])


def test_pauses_that_a_clock_cannot_hold_are_refused(tmp_path):
    most = (1 << 31) - 1
    fits = as_events([0, most, 2 * most, 3 * most], [1] * 4, [2] * 4, [1] * 4)
    assert read(write(tmp_path, "dat", fits)) == as_tuples([fits])
    with pytest.raises(RecordingError, match=r"a\.dat: dat cannot hold the pause of 2147483648 us between 7 us and"):
        write(tmp_path, "dat", as_events([5, 7], [1] * 2, [2] * 2, [1] * 2), as_events([most + 8], [1], [2], [1]))
    with pytest.raises(
        RecordingError, match=r"evt3 cannot hold the pause of 1700000000000000 us .* write \.h5 or \.csv"
    ):
        write(tmp_path, "evt3", as_events([0, 1_700_000_000_000_000], [1] * 2, [2] * 2, [1] * 2))


@pytest.mark.parametrize(
    ("format", "bits"), [("evt2", 34), ("evt2.1", 34), ("evt2.1-legacy", 34), ("evt3", 24), ("dat", 32)]
)
def test_the_loops_before_the_first_reading_stand_in_the_header(tmp_path, format, bits):
    for first, offset in (
        (5, 0),
        ((1 << bits) - 1, 0),
        (1 << bits, 1 << bits),
        (-1, -1 << bits),
        (-1 << bits, -1 << bits),
    ):
        path = write(tmp_path, format, as_events([first], [1], [2], [1]))
        line = f"% time_offset_us {offset}\n"
        assert (line in body(path)[0]) == (offset != 0)
        assert ("time_offset" in body(path)[0]) == (offset != 0)
        assert read(path) == [(first, 1, 2, 1)]


def test_triggers_stand_at_their_time_among_evt3_words(tmp_path):
    path = tmp_path / "a.raw"
    with create_recording(path, 64, 48) as writer:
        # given out of order, the last ones ahead of the events
        writer.append(as_events([100, 100], [1, 2], [3, 3], [0, 0]), signals((100, 6, 0), (40, 1, 1), (4100, 2, 1)))
        writer.append(as_events([5000], [4], [3], [0]), signals((9000, 15, 0)))
    assert evt3_words(path) == [
        (HIGH, 0),
        (LOW, 40),
        (TRIGGER, 1 << 8 | 1),
        (LOW, 100),
        (TRIGGER, 6 << 8),
        (ADDR_Y, 3),
        (ADDR_X, 1),
        (ADDR_X, 2),
        (HIGH, 1),
        (LOW, 4),
        (TRIGGER, 2 << 8 | 1),
        (LOW, 904),
        (ADDR_X, 4),
        (HIGH, 2),
        (LOW, 808),
        (TRIGGER, 15 << 8),
    ]


def test_triggers_among_evt2_words_and_alone(tmp_path):
    path = write(tmp_path, "evt2", as_events([64], [1], [2], [1]), triggers=signals((3, 31, 1)))
    assert struct.unpack("<4I", body(path)[1]) == (0x80000000, 0xA0C01F01, 0x80000001, 0x10000802)
    path = write(tmp_path, "evt2", Events.empty(64, 48), triggers=signals((-1, 0, 0)))
    header, rest = body(path)
    assert f"% time_offset_us {-1 << 34}\n" in header
    assert struct.unpack("<2I", rest) == (0x8FFFFFFF, 0xAFC00000)


def test_triggers_that_do_not_fit_are_refused(tmp_path):
    one = as_events([50], [1], [2], [1])
    for format, what in (("dat", "a dat file"), ("csv", "a text file")):
        with pytest.raises(RecordingError, match=f"1 external triggers have no place in {what}"):
            write(tmp_path, format, one, triggers=signals((5, 0, 1)))
        assert read(write(tmp_path, format, one, triggers=Triggers.empty())) == as_tuples([one])
    with pytest.raises(RecordingError, match=r"a trigger on channel 16, evt3 has 0 \.\. 15"):
        write(tmp_path, "evt3", one, triggers=signals((5, 16, 1)))
    with create_recording(tmp_path / "b.raw", 64, 48) as writer:
        writer.append(one)
        with pytest.raises(RecordingError, match="a trigger at 49 us comes after events of 50 us"):
            writer.append(Events.empty(64, 48), signals((49, 0, 1)))


def test_triggers_without_events_do_not_wait_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(write_words, "MAX_WAITING_TRIGGERS", 3)
    with create_recording(tmp_path / "a.raw", 64, 48, format="evt2") as writer:
        for t in range(0, 10, 2):
            writer.append(Events.empty(64, 48), signals((t, 1, 0), (t + 1, 1, 1)))
        with pytest.raises(RecordingError, match="time runs backwards: 5 us after 6 us"):
            writer.append(as_events([5], [1], [2], [1]))
        writer.append(as_events([7], [1], [2], [1]))
    words = [word for (word,) in struct.iter_unpack("<I", body(tmp_path / "a.raw")[1])]
    kinds = [(word >> 28, word >> 22 & 63) for word in words]
    assert kinds == [(HIGH, 0), *((TRIGGER, t) for t in range(8)), (1, 7), (TRIGGER, 8), (TRIGGER, 9)]


@pytest.mark.parametrize("format", ["evt3", "csv"])
def test_memory_does_not_grow_with_the_recording(tmp_path, format):
    n = 50_000
    columns = [np.arange(n), np.arange(n) % 64, np.arange(n) % 48, np.arange(n) % 2]

    def peak(appends):
        with create_recording(tmp_path / FORMATS[format], 64, 48, format=format) as writer:
            tracemalloc.start()
            for k in range(appends):
                writer.append(as_events(columns[0] + k * n, *columns[1:]))
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most

    assert peak(40) < peak(4) + 200_000


def test_the_name_and_the_format_say_what_to_write(tmp_path):
    with pytest.raises(RecordingError, match=r"a\.bin: the suffix '\.bin' is no format to write; expected HDF5"):
        create_recording(tmp_path / "a.bin", 64, 48)
    with pytest.raises(RecordingError, match=r"'evt4' is no format to write; expected .*RAW \(\.raw: evt3"):
        create_recording(tmp_path / "a.raw", 64, 48, format="evt4")
    with pytest.raises(RecordingError, match=r"evt2 does not belong into a \.h5 file"):
        create_recording(tmp_path / "a.h5", 64, 48, format="evt2")
    with pytest.raises(RecordingError, match="dat has no compression"):
        create_recording(tmp_path / "a.dat", 64, 48, compression="blosc")
    with create_recording(tmp_path / "a.bin", 64, 48, format="evt2"):
        pass
    assert open_recording(tmp_path / "a.bin").format == "evt2"
    for name, width, height, most in (("a.raw", 2049, 48, 2048), ("a.dat", 64, 16385, 16384), ("a.csv", 0, 48, 65536)):
        with pytest.raises(RecordingError, match=rf"cannot hold a sensor of {width} x {height} .* 1 \.\. {most}"):
            create_recording(tmp_path / name, width, height)


@pytest.mark.parametrize("format", ["evt2", "evt2.1", "evt3", "dat", "csv"])
def test_the_largest_sensor_and_its_corners(tmp_path, format):
    side = {"dat": 1 << 14, "csv": 1 << 16}.get(format, 1 << 11)
    corner = side - 1
    events = as_events([1, 1, 1], [0, corner, corner], [corner, 0, corner], [0, 1, 1], width=side, height=side)
    assert read(write(tmp_path, format, events, width=side, height=side)) == as_tuples([events])


@pytest.mark.parametrize("format", ["evt2", "evt2.1", "evt3", "dat", "csv"])
def test_events_that_do_not_fit_are_refused(tmp_path, format):
    path = tmp_path / FORMATS[format]
    with create_recording(path, 64, 48, format=format) as writer:
        writer.append(as_events([5], [1], [1], [1]))
        with pytest.raises(RecordingError, match="time runs backwards: 4 us after 5 us"):
            writer.append(as_events([4], [1], [1], [1]))
        with pytest.raises(RecordingError, match="a sensor of 32 x 48 pixels do not fit"):
            writer.append(as_events([5], [1], [1], [1], width=32))
        with pytest.raises(RecordingError, match="9223372036854775807 is no time"):
            writer.append(as_events([(1 << 63) - 1], [1], [1], [1]))
    assert read(path) == [(5, 1, 1, 1)]
    with pytest.raises(RecordingError, match="outside of"):
        writer.append(as_events([6], [1], [1], [1]))
    with pytest.raises(RecordingError, match="writes one file once"), writer:
        pass
    assert list(tmp_path.iterdir()) == [path]


def test_appended_events_are_not_kept_or_changed(tmp_path):
    events = as_events([5, 6], [1, 2], [1, 2], [1, 0])
    mine = Events.trusted(*(getattr(events, name).copy() for name in "txyp"), 64, 48)
    with create_recording(tmp_path / "a.raw", 64, 48) as writer:
        writer.append(mine)
        assert as_tuples([mine]) == as_tuples([events])
        mine.x[:] = 9
    assert read(tmp_path / "a.raw") == as_tuples([events])


@pytest.mark.parametrize("format", ["evt2", "evt2.1", "evt3", "dat", "csv"])
def test_an_exception_leaves_the_older_file_and_no_temporary_one(tmp_path, format):
    path = write(tmp_path, format, as_events([5], [1], [1], [1]))
    before = path.read_bytes()
    with suppress(KeyError), create_recording(path, 64, 48, format=format) as writer:
        writer.append(as_events([7, 8], [1, 1], [1, 1], [1, 1]))
        raise KeyError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("events_written", [2000, 400_000])
@pytest.mark.parametrize("format", ["evt2", "evt2.1", "evt3", "dat", "csv"])
def test_a_full_disk_is_an_error_naming_the_file_and_keeps_the_older_one(tmp_path, format, events_written):
    path = tmp_path / FORMATS[format]
    path.write_bytes(b"older")
    zeros = [0] * events_written
    with small_disk(1024), pytest.raises(RecordingError, match=rf"{path.name}: cannot be written: File too large"):
        write(tmp_path, format, as_events(range(events_written), zeros, zeros, zeros))
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RecordingError, match="cannot be written: No such file"):
        write(tmp_path / "none", format)


def other_events(name: str, path) -> list[tuple[int, int, int, int]]:
    """The events as an independent package decodes them."""
    package = pytest.importorskip(name)
    if name == "faery":
        rows = np.concatenate(list(package.events_stream_from_file(path)))
        t, x, y, p = (rows[field] for field in ("t", "x", "y", "on"))
    elif name == "evt3":
        rows = package.decode_file(str(path))
        t, x, y, p = rows.timestamp, rows.x, rows.y, rows.polarity
    else:
        x, y, t, p = np.asarray(package.load(str(path)).numpy()).T
        p = p > 0
    return list(zip(t.astype(int).tolist(), x.tolist(), y.tolist(), p.astype(int).tolist(), strict=True))


@pytest.mark.parametrize(
    ("package", "format"),
    [(package, format) for package in ("faery", "eventcv") for format in ("evt3", "evt2", "dat")] + [("evt3", "evt3")],
)
def test_other_packages_decode_the_same_events(tmp_path, package, format):
    rng = np.random.default_rng(3)
    rows = 3000  # bursts of neighbours, single events and pauses over many wraps of the 24-bit clock
    t = np.cumsum(rng.choice([0, 1, 30, 5000, 9_000_000, 40_000_000], rows, p=[0.3, 0.3, 0.2, 0.18, 0.01, 0.01]))
    counts = rng.choice([1, 2, 5, 30], rows)
    x = np.concatenate([start + np.arange(n) * step for start, n, step in zip(
        rng.integers(0, 1200, rows), counts, rng.integers(1, 3, rows), strict=True)])  # fmt: skip
    each = [np.repeat(values, counts) for values in (t, rng.integers(0, 720, rows), rng.integers(0, 2, rows))]
    events = as_events(each[0], x, each[1], each[2], width=1280, height=720)
    path = write(tmp_path, format, events, width=1280, height=720)
    assert other_events(package, path) == as_tuples([events])


@pytest.mark.real_data
def test_a_real_recording_becomes_no_larger_and_stays_the_same(tmp_path, real_data):
    source = real_data / "recordings" / "evk4_evt3.raw"
    runs = list(open_recording(source).chunks())
    for format in ("evt3", "evt2.1"):
        path = write(tmp_path, format, *runs, width=1280, height=720)
        back = list(open_recording(path).chunks())
        for name in "txyp":
            expected = np.concatenate([getattr(run, name) for run in runs])
            np.testing.assert_array_equal(np.concatenate([getattr(run, name) for run in back]), expected)
        if format == "evt3":
            assert path.stat().st_size < source.stat().st_size
