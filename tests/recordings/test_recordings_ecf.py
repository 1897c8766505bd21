"""ECF: a chunk worked out by hand, round trips of every layout and run length, chunks that lie."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.recordings import ReadOptions, open_recording
from spiketrack.recordings.ecf import decode_ecf, ecf_count
from spiketrack.recordings.ecf_encoding import MAX_EVENTS, encode_ecf
from spiketrack.recordings.recording import Columns

HAND = Columns(
    np.array([1000, 1000, 1003, 1303]),
    np.array([10, 12, 13, 700], np.uint16),
    np.array([5, 5, 5, 7], np.uint16),
    np.array([1, 1, 0, 0], np.uint8),
)
# 2 events at + 0; 1 at + 3; a step of 0x12C in 3 pieces, lowest first, then 1 at + 0
TIMES = struct.pack("<Q", 1000) + bytes([0x02, 0x31, 0xFC, 0xF2, 0xF1, 0x01])
ROWS = struct.pack("<2H", 5 << 5 | 3, 7 << 5 | 1)
COLUMNS = struct.pack("<2H", 10 << 5 | 0b01100, 700 << 5)
POLARITIES = bytes([1 << 7 | 2, 0 << 7 | 2])
# x << 1 | p: 0x015, 0x019, 0x01A, 0x578
X_AND_P = struct.pack("<3H", 0x0159, 0x011A, 0x0578)
# y << 12 | x << 1 | p: 0x005015, 0x005019, 0x00501A, 0x007578
Y_X_AND_P = struct.pack("<3I", 0x00501519, 0x0050501A, 0x00007578)
BY_HAND = {
    0: struct.pack("<I", 4 << 2 | 0) + TIMES + ROWS + COLUMNS + POLARITIES,
    1: struct.pack("<I", 4 << 2 | 1) + TIMES + ROWS + X_AND_P,
    2: struct.pack("<I", 4 << 2 | 2) + TIMES + Y_X_AND_P,
}


def decode(chunk: bytes, junk: int = 0) -> Columns:
    """Decode into the middle of larger columns, from the middle of larger data; neither may be touched."""
    data = np.full(len(chunk) + 64, junk, np.uint8)
    data[32 : 32 + len(chunk)] = np.frombuffer(chunk, np.uint8)
    n = ecf_count(np.frombuffer(chunk, np.uint8))
    whole = Columns.allocate(min(n, 1 << 16) + 32)
    for column in whole:
        column[:] = 77
    inner = whole.cut(16, len(whole.t) - 16)
    try:
        rises = decode_ecf(data[32 : 32 + len(chunk)], *inner)
    finally:
        assert all((column[:16] == 77).all() and (column[-16:] == 77).all() for column in whole)
        assert (data[:32] == junk).all()
        assert (data[32 + len(chunk) :] == junk).all()
    assert not rises or (inner.t[1:] >= inner.t[:-1]).all()
    return inner


def assert_same(one: Columns, other: Columns) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", [0, 1, 2])
def test_a_chunk_worked_out_by_hand(layout):
    assert_same(decode(BY_HAND[layout]), HAND)
    assert encode_ecf(*HAND, layout).tobytes() == BY_HAND[layout]


def test_the_shortest_layout_is_chosen():
    assert encode_ecf(*HAND).tobytes() == min(BY_HAND.values(), key=len)


def test_what_the_last_mask_or_group_says_beyond_the_count_means_nothing():
    chunk = bytearray(BY_HAND[0])
    chunk[-4:-2] = struct.pack("<H", 700 << 5 | 0b11111)
    assert_same(decode(bytes(chunk)), HAND)
    three = HAND.cut(0, 3)
    for layout in (1, 2):
        chunk = bytearray(encode_ecf(*three, layout).tobytes())
        chunk[-1 if layout == 1 else -2] |= 0x0F  # bits of the fourth event
        assert_same(decode(bytes(chunk)), three)


def test_a_run_of_none_and_a_step_backwards():
    times = struct.pack("<Q", 50) + bytes([0x30, 0x01])  # no event at + 3, then one at + 0
    chunk = struct.pack("<I", 1 << 2 | 2) + times + struct.pack("<3I", 0, 0, 0)
    assert decode(chunk).t.tolist() == [53]
    back = Columns(np.array([9, 4, 4, -3]), *HAND[1:])
    coded = encode_ecf(*back).copy()
    out = Columns.allocate(4)
    assert not decode_ecf(coded, *out)
    assert_same(out, back)


LENGTHS = st.sampled_from([1, 2, 3, 4, 5, 14, 15, 16, 30, 31, 32, 126, 127, 128, 300, 70_000])
SIDE = st.one_of(st.integers(0, 2047), st.sampled_from([0, 1, 2042, 2047]))


def repeated(values, cut: int) -> np.ndarray:
    """Runs of (value, length), repeated to `cut` values."""
    column = np.repeat([value for value, _ in values], [length for _, length in values])
    return np.resize(column, cut)


@given(
    st.lists(st.tuples(st.one_of(st.integers(0, 40), st.integers(0, 1 << 50)), LENGTHS), min_size=1, max_size=12),
    st.lists(st.tuples(SIDE, LENGTHS), min_size=1, max_size=12),
    st.lists(st.one_of(st.integers(1, 7), SIDE), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 1), LENGTHS), min_size=1, max_size=12),
    st.one_of(st.integers(1, 70), st.integers(1, MAX_EVENTS), st.just(MAX_EVENTS)),
    st.integers(-(1 << 60), 1 << 60),
)
@settings(max_examples=120, deadline=None)
def test_round_trip_of_every_layout(steps, rows, x_steps, polarities, n, start):
    steps = [step if i == 0 else 0 for step, length in steps for i in range(length)]
    t = start + np.cumsum(np.resize(steps, n)) % (1 << 61)
    events = Columns(
        np.maximum.accumulate(t),
        (np.cumsum(np.resize(x_steps, n)) % 2048).astype(np.uint16),
        repeated(rows, n).astype(np.uint16),
        repeated(polarities, n).astype(np.uint8),
    )
    sizes = []
    for layout in (0, 1, 2, None):
        coded = encode_ecf(*events, layout)
        out = Columns.allocate(n)
        assert decode_ecf(coded, *out)
        assert_same(out, events)
        sizes.append(len(coded))
    assert sizes[3] == min(sizes)


@given(
    st.sampled_from([*BY_HAND.values(), encode_ecf(*(np.resize(column, 333) for column in HAND)).tobytes()]),
    st.lists(st.tuples(st.integers(4, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 400),
)
@settings(max_examples=400, deadline=None)
def test_damaged_chunks_end_in_an_error_or_in_events_and_read_nothing_beyond_them(chunk, changes, keep):
    damaged = bytearray(chunk)
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    damaged = bytes(damaged[: max(keep, 4)])
    results = []
    for junk in (0x00, 0xFF):  # what lies behind the chunk has no say
        try:
            results.append(decode(damaged, junk))
        except ValueError as error:
            results.append(str(error))
    if isinstance(results[0], str) or isinstance(results[1], str):
        assert results[0] == results[1]
    else:
        assert_same(*results)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (b"", "it has only 0 bytes"),
        (BY_HAND[0][:11], "it has only 11 bytes"),
        (BY_HAND[0][:14], "its times are cut short"),
        (BY_HAND[0][:20], "its rows are cut short"),
        (BY_HAND[0][:-4], "its columns are cut short"),
        (BY_HAND[0][:-1], "its polarities are cut short"),
        (BY_HAND[1][:-1], "its packed events are cut short"),
        (BY_HAND[2][:-1], "its packed events are cut short"),
        (BY_HAND[0][:12] + bytes([0xF1] * 17 + [1] * 40), "its times are cut short or do not add up to 4 events"),
        (BY_HAND[0][:12] + bytes([0x05] * 40), "its times are cut short or do not add up to 4 events"),
    ],
)
def test_what_is_wrong_with_a_chunk_is_said(chunk, message):
    with pytest.raises(ValueError, match=message):
        decode_ecf(np.frombuffer(chunk, np.uint8), *Columns.allocate(4))


def test_a_count_that_does_not_fit_the_columns_writes_nothing():
    for count in (3, 5, (1 << 30) - 1):
        chunk = struct.pack("<I", count << 2) + BY_HAND[0][4:]
        with pytest.raises(ValueError, match=f"its header says {count} events, not 4"):
            decode_ecf(np.frombuffer(chunk, np.uint8), *Columns.allocate(4))


@pytest.mark.real_data
def test_a_real_recording_comes_back_in_every_layout(real_data):
    recording = open_recording(real_data / "recordings" / "evk4_evt3.raw", options=ReadOptions(index=False))
    for events in recording.chunks():
        for first in range(0, len(events), MAX_EVENTS):
            part = events[first : first + MAX_EVENTS]
            columns = Columns(part.t, part.x, part.y, part.p)
            for layout in (0, 1, 2):
                out = Columns.allocate(len(part))
                assert decode_ecf(encode_ecf(*columns, layout), *out)
                assert_same(out, columns)


def test_what_a_chunk_cannot_hold_is_refused():
    with pytest.raises(ValueError, match=r"1 \.\. 65535 events, got 0"):
        encode_ecf(*HAND.cut(0, 0))
    with pytest.raises(ValueError, match=r"11 bits, got an event at \(2048, 7\)"):
        encode_ecf(HAND.t, np.full(4, 2048, np.uint16), HAND.y, HAND.p)
