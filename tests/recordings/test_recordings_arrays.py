"""NumPy files: fields by name, any order and dtype, columns by order; hostile headers and broken archives are counted
or refused, in bounded memory."""

import contextlib
import io
import pickle
import resource
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import columns as event_columns

from spiketrack.errors import RecordingError
from spiketrack.recordings import LABEL_DTYPE
from spiketrack.recordings.array_source import read_npy_header
from spiketrack.recordings.arrays import open_array
from spiketrack.recordings.fields import valid_columns
from spiketrack.recordings.recording import ReadOptions, Tally

OPTIONS = ReadOptions(index=False)
EVENTS = ([5, 6, 6, 70_000], [1, 63, 0, 5], [2, 47, 9, 0], [1, 0, 0, 1])
ROWS = list(zip(*EVENTS, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


def structured(events=EVENTS, *, order="txyp", names=None, **dtypes):
    """Rows with the fields in this order; `dtypes` by column, integers that fit where not named."""
    names = names or {}
    fields = [(names.get(name, name), dtypes.get(name, "<i8" if name == "t" else "<u2")) for name in order]
    rows = np.zeros(len(events[0]), fields)
    for name, values in zip("txyp", events, strict=True):
        rows[names.get(name, name)] = values
    return rows


def saved(path, array):
    np.save(path, array, allow_pickle=True)
    return path


def read(path, *, width=64, height=48, block_rows=1 << 17, place=None, **how):
    """(recording, events in the order of the file, tally, places)"""
    recording = open_array(path, width, height, OPTIONS, **how)
    recording._block_rows = block_rows
    tally, events, places = Tally(), [], []
    with recording._reader(tally, place) as reader:
        for block in reader.blocks():
            events += zip(*(column.tolist() for column in block.columns), strict=True)
            assert [column.dtype for column in block.columns] == [np.int64, np.uint16, np.uint16, np.uint8]
            assert all(column.flags.writeable for column in block.columns)
            places.append((block.place, len(events)))
    return recording, events, tally, places


NAMES = [
    {}, {"t": "ts", "p": "pol"}, {"t": "timestamp", "p": "polarity"}, {"t": "t", "p": "on"},
    {"t": "time", "x": "X", "y": "Y"},
]  # fmt: skip


@given(
    event_columns(start=1 << 20),
    st.permutations("txyp").map("".join),
    st.sampled_from(NAMES),
    st.sampled_from(["<i8", ">i8", "<u8", "<f8"]),
    st.sampled_from(["<u2", "<i2", ">u4", "u1", "<f4"]),
    st.sampled_from(["?", "u1", "i1", "<i2", "<f4"]),
    st.sampled_from([1, 7, 1 << 17]),
)
@settings(max_examples=100, deadline=None)
def test_fields_of_any_order_and_dtype_round_trip(folder, events, order, names, t, xy, p, block_rows):
    rows = structured(events, order=order, names=names, t=t, x=xy, y=xy, p=p)
    unit = {"time_unit": "us"} if t == "<f8" else {}
    recording, found, tally, places = read(saved(folder / "a.npy", rows), block_rows=block_rows, **unit)
    assert found == list(zip(*events, strict=True))
    assert (recording.format, tally.invalid) == ("npy", {})
    for place, seen in places:
        assert read(folder / "a.npy", place=place, **unit)[1] == found[seen:]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("keys", ["txyp", ("timestamps", "x", "y", "polarity"), None])
def test_archives_round_trip_and_continue(tmp_path, save, keys):
    path, n = tmp_path / "a.npz", 1000
    events = (np.arange(n) * 3, np.arange(n) % 64, np.arange(n) % 48, np.arange(n) % 2)
    if keys is None:
        save(path, events=structured(events), width=64, height=np.array([48], np.uint16))
    else:
        save(path, **dict(zip(keys, events, strict=True)), other=np.zeros((3, 3)))
    recording, found, tally, places = read(path, width=None, height=None, block_rows=300)
    assert found == list(zip(*(column.tolist() for column in events), strict=True))
    assert (recording.format, recording.width, recording.height, tally.invalid) == ("npz", 64, 48, {})
    assert places == [(300, 300), (600, 600), (900, 900), (1000, 1000)]
    assert read(path, place=600)[1] == found[600:]


@pytest.mark.parametrize("layout", ["rows", "columns", "transposed"])
@pytest.mark.parametrize("dtype", ["<i8", "<f8", ">i4"])
def test_plain_arrays_by_the_order_of_their_columns(tmp_path, layout, dtype):
    rows = np.array(ROWS, dtype)
    array = {"rows": rows, "columns": np.asfortranarray(rows[:3]), "transposed": rows[:3].T.copy()}[layout]
    path = saved(tmp_path / "a.npy", array)
    events = ROWS if layout == "rows" else ROWS[:3]
    assert read(path, columns="txyp", time_unit="us", block_rows=2)[1] == events
    swapped = [(t, y, x, p) for t, x, y, p in events if x < 48]
    assert read(path, columns="tyxp", time_unit="us")[1] == swapped


def test_a_deduced_order_and_unit(tmp_path):
    rng = np.random.default_rng(3)
    t = np.sort(rng.random(500)) / 100
    x, y, p = rng.integers(0, 64, 500), rng.integers(0, 48, 500), rng.choice([-1, 1], 500)
    path = saved(tmp_path / "a.npy", np.stack([x, y, t, p], axis=1))
    _, found, tally, _ = read(path)
    assert tally.invalid == {}
    assert [event[0] for event in found] == np.rint(t * 1e6).astype(int).tolist()
    assert [event[1:] for event in found] == list(
        zip(x.tolist(), y.tolist(), (p == 1).astype(int).tolist(), strict=True)
    )
    with pytest.raises(RecordingError, match="it is not clear which column is what"):
        read(saved(path, np.array(ROWS[:1])))
    assert read(saved(path, np.zeros((0, 4))))[1] == []


@pytest.mark.parametrize(
    ("name", "dtype", "times", "us"),
    [
        ("t_ns", "<i8", [1499, 1500, 2500, -1500], [1, 2, 2, -2]),
        ("t_ns", "<u8", [1499, 1500, 2500, 2**64 - 1], [1, 2, 2, 18_446_744_073_709_552]),
        ("t_s", "<f8", [0.5, 1e-6, 2.5e-6, 1468939993.067416], [500_000, 1, 2, 1468939993067416]),
        ("t_s", "<i4", [1, 2, 3, -4], [1_000_000, 2_000_000, 3_000_000, -4_000_000]),
        ("timestamp_ms", "<u2", [1, 2, 3, 65535], [1000, 2000, 3000, 65_535_000]),
        ("t", "<f8", [0.5, 1.5, 2.0, 3.0], [500_000, 1_500_000, 2_000_000, 3_000_000]),
        ("t", "<f8", [1.0, 2.0, 3.0, 4.0], [1, 2, 3, 4]),
    ],
)
def test_units_by_hand(tmp_path, name, dtype, times, us):
    rows = structured((times, *EVENTS[1:]), names={"t": name}, t=dtype)
    assert [event[0] for event in read(saved(tmp_path / "a.npy", rows))[1]] == us


def test_what_cannot_be_an_event_is_counted_under_one_kind():
    nan, inf = np.nan, np.inf
    t = np.array([1, nan, 3, 4, 5, 6, 7, 1e300, inf, 10])
    x = np.array([1, 1, 1.5, 64, 1, nan, inf, 1, 1, 0])
    y = np.array([1, 1, 1, 1, -1, 1, 1, 1, 1, 0.0])
    p = np.array([1, 1, 1, 7, 1, 1, 1, 1, 1, 2])
    tally = Tally()
    columns = valid_columns((t, x, y, p), (64, 48), tally, first=100, shift=0)
    assert [column.tolist() for column in columns] == [[1], [1], [1], [1]]
    assert tally.invalid == {"bad_time": 3, "bad_coordinate": 3, "off_sensor": 2, "bad_polarity": 1}
    assert tally.first_invalid["off_sensor"] == "event 103: t 4.0, x 64.0, y 1.0, p 7"
    wide = (np.array([2**63, 5], np.uint64), np.array([33014, 1], np.uint16), np.array([1, 1]), np.array([True, False]))
    assert [column.tolist() for column in valid_columns(wide, (64, 48), Tally(), 0)] == [[5], [1], [1], [0]]
    whole = (np.array([2**60, -(2**60), 4]), np.ones(3, int), np.ones(3, int), np.array([0, 1, -1]))
    tally = Tally()
    assert valid_columns(whole, (64, 48), tally, 0, shift=6).t.tolist() == [4_000_000]
    assert tally.invalid == {"bad_time": 2}


@given(st.lists(st.integers(-(1 << 63), (1 << 64) - 1), max_size=9), st.sampled_from(["<i8", "<u8"]))
@settings(max_examples=80, deadline=None)
def test_no_integer_wraps(values, dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    raw = np.array([value for value in values if low <= value <= high], dtype)
    ones = np.ones(len(raw), int)
    columns = valid_columns((ones, raw, raw, ones), (64, 48), Tally(), 0)
    assert columns.x.tolist() == [value for value in raw.tolist() if 0 <= value < 48]
    for shift in (6, 0):
        times = valid_columns((raw, ones, ones, ones), (64, 48), Tally(), 0, shift).t.tolist()
        assert times == [value * 10**shift for value in raw.tolist() if abs(value) <= (1 << 62) // 10**shift]
    times = valid_columns((raw, ones, ones, ones), (64, 48), Tally(), 0, -3).t.tolist()
    assert times == [
        round(value / 1000) if abs(value) < 1 << 40 else pytest.approx(value / 1000) for value in raw.tolist()
    ]


def header_claiming(content: bytes, old: bytes, new: bytes) -> bytes:
    """The same `.npy` with another text in its header, of the same length."""
    spaces = len(new) - len(old)
    return content.replace(old, new, 1).replace(b" " * spaces + b"\n", b"\n", 1)


def test_a_cut_file_and_one_that_claims_more_than_it_holds(tmp_path):
    path = saved(tmp_path / "a.npy", structured())
    whole = path.read_bytes()
    for content in (whole[:-1], header_claiming(whole, b"(4,)", b"(2000000000000,)")[:-1]):
        path.write_bytes(content)
        _, found, tally, _ = read(path, block_rows=3)
        assert found == ROWS[:3]
        assert tally.invalid == {"truncated_array": 1}
        assert tally.first_invalid["truncated_array"].startswith("event 3 of ")
    columns = saved(path, np.asfortranarray(np.array(ROWS))).read_bytes()
    path.write_bytes(columns[:-8])
    assert read(path, columns="txyp")[1] == ROWS[:3]
    path.write_bytes(header_claiming(columns, b"(4, 4)", b"(999999999999999999999999, 4)"))
    with pytest.raises(RecordingError, match="reading failed before row 0"):
        read(path, columns="txyp")


def test_a_broken_member_is_counted_and_what_came_before_is_kept(tmp_path):
    path, n = tmp_path / "a.npz", 200_000
    rng = np.random.default_rng(1)
    events = (np.arange(n), rng.integers(0, 64, n), rng.integers(0, 48, n), rng.integers(0, 2, n))
    np.savez_compressed(path, events=structured(events))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 200] = b"\xff" * 200
    path.write_bytes(content)
    _, found, tally, _ = read(path, block_rows=1000)
    assert tally.invalid == {"truncated_array": 1}
    assert 1000 < len(found) < n
    assert found[:900] == list(zip(*(column[:900].tolist() for column in events), strict=True))


@pytest.mark.parametrize("dtype", ["<f2", "<f16"])
def test_numbers_too_large_for_other_types_are_no_events(tmp_path, dtype):
    """float16 does not reach the largest sensor, and a long double may be more than any float64."""
    table = np.array([(i, i % 3, i % 5, i % 2) for i in range(200)], dtype)
    table[5, 0] = np.inf if dtype == "<f2" else np.finfo(dtype).max
    np.save(tmp_path / "a.npy", table)
    recording, events, tally, _ = read(tmp_path / "a.npy", width=None, height=None)
    assert (recording.width, recording.height, len(events)) == (3, 5, 199)
    assert tally.invalid == {"bad_time": 1}


def test_labels_and_pickles_are_refused_by_name(tmp_path):
    with pytest.raises(RecordingError, match=r"these are labels \(fields t, x, y, w, .*; read them with load_labels"):
        read(saved(tmp_path / "a.npy", np.zeros(3, LABEL_DTYPE)))
    for array in (np.array([{}, None]), np.zeros(2, [("t", "i8"), ("x", "O"), ("y", "i4"), ("p", "i4")])):
        with pytest.raises(RecordingError, match="pickles are never read"):
            read(saved(tmp_path / "a.npy", array))


@pytest.mark.parametrize(
    ("array", "how", "says"),
    [
        (np.zeros(3), {}, r"float64 of shape \(3,\); expected events"),
        (np.zeros((3, 5)), {}, r"float64 of shape \(3, 5\)"),
        (np.zeros((3, 4, 2)), {}, r"shape \(3, 4, 2\)"),
        (np.zeros((3, 4), complex), {}, "complex128"),
        (np.zeros((3, 5)), {"columns": "txyp"}, r"shape \(3, 5\); expected \(N, 4\)"),
        (np.zeros((3, 4)), {"columns": "txy_"}, "columns has no p"),
        (np.zeros((3, 4)), {"time_unit": "h"}, "no unit of time 'h'"),
        (structured()[:, None], {}, "one-dimensional rows"),
        (structured(names={"p": "q"}), {}, "no fields for p; expected one each for t, x, y and p, got t, x, y, q"),
        (structured(names={"p": "ts"}), {}, "2 fields for t"),
        (structured(x="U4"), {}, "x must hold numbers, got <U4"),
        (np.zeros(3, [("t", "i8"), ("x", "u2", 2), ("y", "u2"), ("p", "u1")]), {}, "x must hold numbers"),
        (structured(t="?"), {}, "t must hold numbers, got bool"),
        (
            np.zeros(3, [("t", "i8"), ("x", "i4"), ("y", "i4"), ("p", "i4"), ("rest", "S5000")]),
            {},
            "is no table of numbers",
        ),
        (np.zeros(0, [("t", "i8"), ("x", "i4"), ("y", "i4"), ("p", "i4")]), {"width": None}, "no event tells the size"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, how, says):
    with pytest.raises(RecordingError, match=says) as error:
        read(saved(tmp_path / "a.npy", array), **how)
    assert str(tmp_path / "a.npy") in str(error.value)


def test_archives_that_hold_no_events_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    one = np.arange(4)
    for arrays, says in (
        ({"t": one, "x": one, "y": one}, "no or no single array p; expected the arrays t, x, y and p, got t.npy"),
        ({"t": one, "x": one, "y": one, "p": one, "pol": one}, "no or no single array p"),
        ({"t": one, "x": one, "y": one, "p": one[:3]}, "differ in length"),
        ({"t": one, "x": one, "y": one, "p": np.zeros((4, 2))}, "p.npy must be one-dimensional"),
        ({"events": structured(), "width": 0, "height": 5}, "width.npy holds"),
        ({f"a{i}": one for i in range(70)}, "with 70 members"),
        ({"width": 5}, "got no array"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(RecordingError, match=says):
            read(path, width=None)
    for compression in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("t.npy", bytes(1000))
        with pytest.raises(RecordingError, match="stored or deflated"):
            read(path)
    path.write_bytes(b"PK\x03\x04....")
    with pytest.raises(RecordingError, match="not a whole zip or npz archive"):
        read(path)
    with pytest.raises(RecordingError, match="cannot be read: No such file"):
        read(tmp_path / "none.npz")


def test_a_compressed_bomb_stays_bounded(tmp_path):
    path = tmp_path / "a.npz"
    rows = 40_000_000
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (rows,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in "txyp":
            with archive.open(f"{name}.npy", "w") as member:
                member.write(header.getvalue())
                for _ in range(40):
                    member.write(bytes(1_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recording = open_array(path, 64, 48, OPTIONS)
    with recording._reader(Tally(), None) as reader:
        assert sum(len(block.columns.t) for block in reader.blocks()) == rows
    assert path.stat().st_size < 2_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 << 10


@pytest.mark.parametrize(
    "content",
    [
        b"\x93NUMPY", b"\x93NUMPY\x09\x00\x10\x00" + b" " * 16, b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, b"\x93NUMPY\x01\x00\xff\x3f" + b"(" * 0x3FFF,
        b"\x93NUMPY\x01\x00\xff\x3f" + b"-" * 0x3FFE + b"1", b"\x93NUMPY\x01\x00\x02\x00{}", pickle.dumps([1]),
    ],
)  # fmt: skip
def test_hostile_headers_are_refused(content):
    with pytest.raises(ValueError, match=r"npy"):
        read_npy_header(io.BytesIO(content))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes_end_in_events_or_an_error(folder, data):
    path = folder / "b.npz"
    if data.draw(st.booleans()):
        np.savez(path, **dict(zip("txyp", map(np.array, EVENTS), strict=True)))
    else:
        np.save(folder / "b.npy", structured())
        path.write_bytes((folder / "b.npy").read_bytes())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, 2 * len(content)))])
    with contextlib.suppress(RecordingError):
        _, events, _, _ = read(path)
        assert all(0 <= x < 64 and 0 <= y < 48 and p < 2 for _, x, y, p in events)
