"""Text: any order of columns and any separator, exact times, every bad line counted, blocks that may end anywhere."""

import contextlib
from decimal import ROUND_HALF_EVEN, Context, Decimal
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recording_encoders import columns as event_columns

from spiketrack.errors import RecordingError
from spiketrack.recordings import open_recording
from spiketrack.recordings.fields import deduce_columns, deduce_unit, field_of
from spiketrack.recordings.recording import ReadOptions, Tally
from spiketrack.recordings.text import BLOCK_BYTES, TextReader, open_text
from spiketrack.recordings.text_layout import looks_like_text, read_layout
from spiketrack.recordings.text_lines import FAULTS, ROLES, parse_lines

OPTIONS = ReadOptions(index=False)
ORDERS = ["".join(order) for order in permutations("txyp")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def parse(text: bytes, columns="txyp", shift=0, sensor=(64, 48)):
    """Events as tuples and faults by kind with the index of their first line."""
    out = (np.empty(99, np.int64), np.empty(99, np.uint16), np.empty(99, np.uint16), np.empty(99, np.uint8))
    faults = np.zeros((len(FAULTS), 2), np.int64)
    roles = np.array([ROLES.index(name) for name in columns], np.int64)
    n, _, _ = parse_lines(np.frombuffer(text, np.uint8), out, roles, shift, sensor, faults)
    events = list(zip(*(column[:n].tolist() for column in out), strict=True))
    return events, {kind: tuple(fault) for kind, fault in zip(FAULTS, faults.tolist(), strict=True) if fault[0]}


def read(path, content: bytes, *, block_bytes=BLOCK_BYTES, width=None, height=None, **layout):
    """(recording, events in the order of the file, tally, places)"""
    path.write_bytes(content)
    recording = open_text(path, width, height, OPTIONS, **layout)
    recording._block_bytes = block_bytes
    tally, events, places = Tally(), [], []
    with recording._reader(tally, None) as reader:
        for block in reader.blocks():
            new = list(zip(*(column.tolist() for column in block.columns), strict=True))
            assert not block.rises or new == sorted(new, key=lambda event: event[0])
            events += new
            places.append((block.place, len(events), tally.invalid.copy()))
    return recording, events, tally, places


def test_lines_by_hand():
    text = b"5,1,2,1\n6 3 4 0\r\n\n# note\n 7\t5 ;6,  -1 \n8,63,47,+1,\n% 1,2,3,0\n9,0,0,true\n10,0,0,OFF\n"
    events, faults = parse(text)
    assert events == [(5, 1, 2, 1), (6, 3, 4, 0), (7, 5, 6, 0), (8, 63, 47, 1), (9, 0, 0, 1), (10, 0, 0, 0)]
    assert faults == {}


@pytest.mark.parametrize(
    "line",
    [
        b"5,1,2", b"5,1,2,1,7", b"5,1,2,1 7", b"5,,2,1", b",1,2,1", b"5,1,2,,", b"5,1,2,1,,", b"5,1.5,2,1", b"5,1,2,x",
        b"5,1,2,truth", b"5,1,2,onn", b"nan,1,2,1", b"inf,1,2,1", b"1e400,1,2,1", b"5,1e400,2,1", b"0x5,1,2,1",
        b"5e,1,2,1", b"1" * 30 + b",1,2,1", b"5," + b"1" * 30 + b",2,1", b"5,1,2,1\x00", b"\x005,1,2,1", b"5,1\x00,2,1",
        b"5,\xff1,2,1",
        b"5,1,2,1 # no", b"--5,1,2,1", b"5-,1,2,1", b".,1,2,1", b"5..1,1,2,1", b"5,1,2,0.5", b"t,x,y,p", b"a",
        b"-", b"5;",
        b"5,1,2,1" + b" " * 5000, b"#" * 5000, b"5,1,2,\xe3\x83\xbc",
    ],
)  # fmt: skip
def test_lines_that_are_no_events_are_counted_with_their_number(line):
    events, faults = parse(b"1,1,1,1\n" + line + b"\n2,2,2,0\n" + line + b"\n")
    assert events == [(1, 1, 1, 1), (2, 2, 2, 0)]
    assert faults == {"bad_line": (2, 1)}


def test_events_that_cannot_be_are_counted_under_one_kind():
    lines = [b"5,64,2,1", b"5,1,48,1", b"5,-1,2,7", b"5,1,2,2", b"5,1,2,-2", b"4611686018427387905,1,2,1"]
    events, faults = parse(b"\n".join([*lines, b"-4611686018427387904,1.0,2e0,1.000\n"]))
    assert events == [(-(1 << 62), 1, 2, 1)]
    assert faults == {"bad_time": (1, 5), "off_sensor": (3, 0), "bad_polarity": (2, 3)}


decimals = st.from_regex(r"[+-]?([0-9]{1,25}(\.[0-9]{0,25})?|\.[0-9]{1,25})([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@given(decimals.filter(str.isascii), st.sampled_from([6, 3, 0, -3]))
@settings(max_examples=300, deadline=None)
@example("0.0000005", 6)
@example("0.0000015", 6)
@example("1468939993.0674165000000000000000001", 6)
@example("9223372036854775807", 0)
@example("1499", -3)
@example("-1500", -3)
def test_times_are_exact(text, shift):
    events, faults = parse(f"{text},1,2,1\n".encode(), shift=shift)
    value = Decimal(text).scaleb(shift, Context(prec=99, Emin=-9999, Emax=9999))
    if faults:
        assert abs(value) > 10**18
        assert faults.keys() <= {"bad_line", "bad_time"}
        assert abs(value) > 1 << 62 or len(text) > 19
    else:
        assert events == [(int(value.to_integral_value(ROUND_HALF_EVEN)), 1, 2, 1)]


@given(
    st.from_regex(r"-?[0-9]{0,20}\.?[0-9]{0,8}", fullmatch=True).filter(str.isascii),
    st.sampled_from("-0.,; \t1\r"),
    st.integers(0, 30),
    st.sampled_from([6, 3, 0, -3]),
)
@settings(max_examples=300, deadline=None)
def test_the_short_way_of_plain_lines_gives_the_same(time, byte, at, shift):
    line = f"{time},63,47,-1"
    line = (line[:at] + byte + line[at:]).encode() + b"\n"
    assert parse(line, shift=shift) == parse(b" " + line, shift=shift)


def test_what_numpy_writes_is_read_as_numpy_reads_it(tmp_path):
    rng = np.random.default_rng(2)
    n = 500
    rows = np.stack(
        [np.cumsum(rng.integers(0, 900, n)), rng.integers(0, 64, n), rng.integers(0, 48, n), rng.integers(0, 2, n)],
        axis=1,
    )
    for kwargs in (
        {},
        {"fmt": "%d", "delimiter": ","},
        {"fmt": "%.3f", "header": "t x y p"},
        {"fmt": "%d", "newline": "\r\n"},
    ):
        np.savetxt(tmp_path / "a.txt", rows, **kwargs)
        _, events, tally, _ = read(tmp_path / "a.txt", (tmp_path / "a.txt").read_bytes(), width=64, height=48)
        read_by_numpy = np.loadtxt(tmp_path / "a.txt", delimiter=kwargs.get("delimiter")).astype(int)
        assert events == list(map(tuple, read_by_numpy.tolist()))
        assert tally.invalid == {}


SEPARATORS = [b",", b" ", b"\t", b";", b", ", b" ; ", b"   "]
HEADS = [b"", b"# recorded today\n\n", b"\xef\xbb\xbf% a\r\n"]


def written(events, order, separator, end, header):
    rows = [dict(zip("txyp", row, strict=True)) for row in zip(*events, strict=True)]
    lines = [separator.join(header[name] for name in order)] if header else []
    lines += [separator.join(b"%d" % row[name] for name in order) for row in rows]
    return b"".join(line + end for line in lines)


@given(
    event_columns(),
    st.sampled_from(ORDERS),
    st.sampled_from(SEPARATORS),
    st.sampled_from([b"\n", b"\r\n"]),
    st.sampled_from(HEADS),
    st.sampled_from([7, 64, BLOCK_BYTES]),
)
@settings(max_examples=150, deadline=None)
def test_any_order_and_separator_with_a_header_round_trips(folder, events, order, separator, end, head, block_bytes):
    names = {"t": b"Timestamp", "x": b'"x"', "y": b"y", "p": b"polarity"}
    content = head + written(events, order, separator, end, names)
    assert looks_like_text(content)
    _, found, tally, _ = read(folder / "a.csv", content, block_bytes=block_bytes, width=64, height=48)
    assert found == list(zip(*events, strict=True))
    assert not tally.invalid


@given(event_columns(start=1 << 30), st.sampled_from(ORDERS), st.sampled_from(SEPARATORS))
@settings(max_examples=150, deadline=None)
def test_without_a_header_the_order_is_found_or_asked_for(folder, events, order, separator):
    """x before y, as the rule is; never a wrong order."""
    content = written(events, order, separator, b"\n", None)
    expected = list(zip(*events, strict=True))
    if order.index("y") < order.index("x"):
        expected = [(t, y, x, p) for t, x, y, p in expected]
    found = expected
    with contextlib.suppress(RecordingError):
        _, found, _, _ = read(folder / "b.csv", content, width=64, height=64)
    assert found == expected


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_a_real_recording_is_found(order):
    rng = np.random.default_rng(5)
    n = 2000
    values = {"t": np.cumsum(rng.integers(0, 9, n)), "x": rng.integers(0, 640, n), "y": rng.integers(0, 480, n)}
    values["p"] = rng.integers(0, 2, n)
    values["t"][100] = 0  # a step back
    values["x"][7] = values["y"][8] = 70_000  # corrupt
    found = deduce_columns(np.stack([values[name] for name in order], axis=1), "a.csv")
    assert found == (order if order.index("x") < order.index("y") else order.translate(str.maketrans("xy", "yx")))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[5, 1, 1, 1]], "3 columns hold only 0, 1 and -1"),
        ([[5, 7, 8, 3], [6, 8, 9, 4]], "no columns hold only 0, 1 and -1"),
        ([[5, 7, 8, 1], [6, 8, 9, 0]], "3 columns could be the time"),
        ([[9, 7, 8, 1], [6, 6, 7, 0]], "no columns could be the time"),
        ([[70000, 80000, 8, 1], [70001, 80001, 7, 0]], "2 columns could be the time"),
    ],
)
def test_an_unclear_order_is_an_error_that_says_how_to_mend_it(rows, says):
    with pytest.raises(RecordingError, match=says) as error:
        deduce_columns(np.array(rows), "a.csv")
    assert "`t,x,y,p`" in str(error.value)
    assert "columns='txyp'" in str(error.value)
    assert "a.csv" in str(error.value)


@pytest.mark.parametrize("signed", [0, 1])
def test_a_sign_or_a_word_makes_a_polarity(signed):
    rows = [[1000, 0, 1, 1], [1010, 1, 0, -1 if signed else 0], [1030, 0, 1, 1]]
    assert deduce_columns(np.array(rows), "a.csv", None if signed else 3) == "txyp"


LINES = b"0.5 1 2 1\n0.6 3 4 0\n0.7 2 9 1\n"


@pytest.mark.parametrize(
    ("content", "size", "start", "shift"),
    [
        (b"240 180\n" + LINES, (240, 180), (8, 2), 6),
        (b"# width=1280 height=720\nt,x,y,p\n" + LINES, (1280, 720), (32, 3), 6),
        (b"%geometry:640,480\n%t x y p\n" + LINES, (640, 480), (27, 3), 6),
        (b"# geometry 640x480\n# t (us), x, y, p\n" + LINES, (640, 480), (37, 3), 0),
        (b"# Width: 64, Height: 48\n" + LINES, (64, 48), (24, 2), 6),
        (b"t_ns,x,y,p\n" + LINES, (None, None), (11, 2), -3),
        (b"timestamp [ms];x;y;polarity\n" + LINES, (None, None), (28, 2), 3),
        (b"# Format: time x y pol\n" + LINES, (None, None), (23, 2), 6),
        (LINES, (None, None), (0, 1), 6),
        (LINES.replace(b"0.", b"2000."), (None, None), (0, 1), 6),
        (b"t,x,y,p\n5,1,2,1\n", (None, None), (8, 2), 0),
        (b"t,x,y,p\n1.00e+00,1,2,1\n2.00e+00,1,2,1\n", (None, None), (8, 2), 0),
        (b"240 180\n", (240, 180), (8, 2), 0),
        (b"# width=64 height=48\nt,x,y,p\n", (64, 48), (29, 3), 0),
    ],
)
def test_what_the_first_lines_say(content, size, start, shift):
    layout = read_layout(content, "a.txt")
    assert (layout.width, layout.height) == size
    assert (layout.data_start, layout.first_line) == start
    assert (layout.columns, layout.shift) == ("txyp", shift)


def test_columns_that_are_not_read_and_those_that_the_caller_names():
    assert read_layout(b",t,x,y,p,note\n0,5,1,2,1,a\n", "a.csv").columns == "_txyp_"
    assert parse(b"0,5,1,2,1,a b\n1,6,1,2,0,c\n", "_txyp_") == ([(6, 1, 2, 0)], {"bad_line": (1, 0)})
    given_by_caller = read_layout(b"t,x,y,p\n1,2,5,0\n", "a.csv", columns="xytp", time_unit="s")
    assert (given_by_caller.columns, given_by_caller.shift, given_by_caller.data_start) == ("xytp", 6, 8)


@pytest.mark.parametrize(
    ("content", "layout", "says"),
    [
        (b"1 2 3\n4 5 6\n", {}, "lines have 3 columns and no line names them"),
        (b"t,x,y\n1,2,3\n", {}, "names the columns, but has no p"),
        (b"t,x,x,p\n1,2,3,0\n", {}, "names the columns, but has x twice, no y"),
        (b"t,x,y,p\n1,2,3\n", {}, r"4 columns are named \(txyp\), but from line 2 on the lines have 3"),
        (b"1,2,3,0\n", {"columns": "txy"}, "columns has no p"),
        (b"1,2,3,0\n", {"columns": "txypq"}, "columns has 'q'"),
        (b"1,2,3,0\n", {"columns": "txyp", "time_unit": "h"}, "no unit of time 'h'"),
        (b"# width=0\n1,2,3,0\n", {}, "width of 0"),
        (b"# width=99999999999\n1,2,3,0\n", {}, "width of 99999999999"),
        (b"# width=64\n# width=65\n1,2,3,0\n", {}, "contradict each other on the width: 64 and 65"),
        (b"hello\nworld\n", {}, "line 1 and what follows are no events"),
        (b"t,x,y,p\n5.0,1,2,1\n5.0,1,2,1\n", {}, "every time is 5.0, which may be in s or us"),
        (b"#\n" * 600_000, {}, "no event within its first"),
        (b"t,x,y,p\n" + b"".join(b"%d.5,1,2,1\n" % i for i in range(200)), {}, "too few for seconds"),
    ],
)
def test_layouts_that_cannot_be_are_refused(folder, content, layout, says):
    path = folder / "c.csv"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=says) as error:
        open_text(path, 64, 48, OPTIONS, **layout)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("head", "is_text"),
    [
        (b"1,2,3,0\n", True), (b"1 2", True), (b"# x\n1 2 3 0\n", True), (b"t x y p\n", True), (b"# t x y p\n", True),
        (b"junk\n1,2,3,0\n4,5,6,1\n", True), (b"1,2,3,0\n\x00\n4,5,6,1\n5,6,7,1\n", True),
        (b"", False), (b"\x00" * 100, False), (b"hello world\n", False), (b"% evt 3.0\n% end\n", False),
        (b"% hello\n", False), (b"%PDF-1.4 a b c\n", False), (b"RIFF....WAVEfmt ", False), (b'{"t": 1}\n', False),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<i8'}\n", False), (bytes(range(256)) * 20, False), (b"5\n6\n7\n", False),
        (b"the x and y of t and p\nare here\n", False),
    ],
)  # fmt: skip
def test_text_is_known_by_its_content(head, is_text):
    assert looks_like_text(head) == is_text


lines = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 10**6), st.integers(0, 80), st.integers(0, 60), st.integers(-1, 2)).map(
            lambda row: b"%d,%d,%d,%d" % row
        ),
        st.sampled_from(
            [b"", b"# note", b"junk", b"1,2,3", b"1,2,3,4,5", b"\xff\x00", b"1" * 4090 + b",2,3,4", b"9" * 9000]
        ),
        st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")),
    ),
    max_size=12,
)


@given(lines, st.sampled_from([1, 7, 4096]), st.booleans())
@settings(max_examples=120, deadline=None)
def test_blocks_may_end_at_every_byte_and_be_continued_anywhere(folder, lines, block_bytes, ended):
    content = b"# width=64 height=48\nt,x,y,p\n1,2,3,0\n" + b"\n".join(lines) + b"\n" * ended
    if block_bytes == 1 and len(content) > 3000:
        block_bytes = 100
    path = folder / "d.csv"
    _, whole, tally, _ = read(path, content)
    recording, events, cut, places = read(path, content, block_bytes=block_bytes)
    assert (events, cut.invalid, cut.first_invalid) == (whole, tally.invalid, tally.first_invalid)
    for place, seen, counted in places[:: max(1, len(places) // 5)]:
        rest = Tally()
        with recording._reader(rest, place) as reader:
            later = [e for b in reader.blocks() for e in zip(*(c.tolist() for c in b.columns), strict=True)]
        assert later == whole[seen:]
        assert counted + rest.invalid == tally.invalid


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_events_or_an_error(folder, content):
    with contextlib.suppress(RecordingError):
        recording, events, _, _ = read(folder / "e.csv", content, width=64, height=48)
        assert all(0 <= x < 64 and 0 <= y < 48 and p < 2 for _, x, y, p in events)
        list(recording.chunks())
    with contextlib.suppress(RecordingError):
        read(folder / "e.csv", b"t,x,y,p\n" + content, columns="txyp")


def test_the_number_of_the_first_bad_line_and_the_size_found_by_a_pass(tmp_path):
    content = b"# hello\nt x y p\n" + b"5 1 2 1\n" * 6 + b"bad\n" + b"6 9 7 0\n" + b"worse\n"
    recording, events, tally, _ = read(tmp_path / "a.txt", content)
    assert (recording.format, recording.width, recording.height) == ("text", 10, 8)
    assert len(events) == 7
    assert (tally.invalid, tally.first_invalid) == ({"bad_line": 2}, {"bad_line": "line 9"})
    assert open_text(tmp_path / "a.txt", 64, None, OPTIONS).width == 64
    with pytest.raises(RecordingError, match="invalid: bad_line, first at line 9"):
        list(open_text(tmp_path / "a.txt", 64, 48, ReadOptions("fail", index=False)).chunks())


def test_a_file_without_events_has_no_size(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"t,x,y,p\n")
    with pytest.raises(RecordingError, match="neither a line nor any event tells the size"):
        open_text(tmp_path / "a.csv", None, None, OPTIONS)
    assert list(open_text(tmp_path / "a.csv", 64, 48, OPTIONS).chunks()) == []


def test_many_megabytes_without_a_line_end_is_one_bad_line_in_little_memory(tmp_path):
    import resource

    path = tmp_path / "a.csv"
    with open(path, "wb") as file:
        file.write(b"t,x,y,p\n1,2,3,0\n2,2,3,0\n")
        file.truncate(1 << 27)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recording = open_text(path, 64, 48, OPTIONS)
    tally = Tally()
    with TextReader(recording, recording.layout, tally, None, BLOCK_BYTES) as reader:
        assert sum(len(block.columns.t) for block in reader.blocks()) == 2
    assert (tally.invalid, tally.first_invalid) == ({"bad_line": 1}, {"bad_line": "line 4"})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


@pytest.mark.parametrize(
    ("name", "means"),
    [("t", ("t", None)), ("TS", ("t", None)), ("t_s", ("t", "s")), ("time (µs)", ("t", "us")),
     ("timestamp_ns", ("t", "ns")),
     ("t[ms]", ("t", "ms")), ("Polarity", ("p", None)), ("col", ("x", None)), ("on", ("p", None)), ("tx", None),
     ("", None),
     ("temperature", None), ("t_k", None)],
)  # fmt: skip
def test_names_of_columns(name, means):
    assert field_of(name) == means


def test_units_of_times():
    assert deduce_unit(np.array([], float), "a") == 0
    assert deduce_unit(np.array([5, 6]), "a", decimal=False) == 0
    assert deduce_unit(np.array([0.5, np.nan]), "a") == 6


def test_a_long_line_that_is_no_row_takes_no_time(tmp_path):
    # found by the fuzz run: a pattern that could split the line in many ways tried them all
    path = tmp_path / "a.csv"
    path.write_bytes(b"t,x,y,p\n1120,28,46,1\n1120,30" + b",20" * 900 + b",?\n1121,1,2,0\n")
    recording = open_recording(path, 64, 48)
    assert [len(run) for run in recording.chunks()] == [2]
    assert recording.invalid == {"bad_line": 1}
