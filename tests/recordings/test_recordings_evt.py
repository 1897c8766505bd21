"""EVT2 and EVT3: words worked out by hand, round trips, wraps, faults, chunk equivalence."""

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import (
    as_tuples,
    columns,
    encode_evt2,
    encode_evt3,
    evt2_high,
    evt2_word,
    evt3,
    in_order,
    raw_header,
)

from spiketrack.recordings import open_recording

OFF, ON, HIGH = 0x0, 0x1, 0x8
ADDR_Y, ADDR_X, BASE, VECT_12, VECT_8, TIME_LOW, TIME_HIGH, TRIGGER = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8, 0xA


def decode(version: str, body: bytes, piece_bytes: int = 1 << 20, width=64, height=48):
    """The events as tuples and the recording after one pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.raw"
        path.write_bytes(raw_header(version, width, height) + body)
        recording = open_recording(path)
        recording._piece_bytes = piece_bytes
        return as_tuples(list(recording.chunks())), recording


def test_evt2_words_by_hand():
    # TIME_HIGH 3 = 192 us; the word 0x1 at low 5, x 10, y 20 = 1<<28 | 5<<22 | 10<<11 | 20
    body = (
        struct.pack("<III", 0x80000003, 0x11405014, 0x0140581E) + evt2_word(0xA) + evt2_high(4) + evt2_word(ON, 0, 1, 2)
    )
    events, recording = decode("2.0", body)
    assert events == [(197, 10, 20, 1), (197, 11, 30, 0), (256, 1, 2, 1)]
    assert not recording.invalid
    assert not recording.repaired


def test_evt3_words_by_hand():
    body = evt3(
        (TIME_HIGH, 2),  # 8192 us
        (ADDR_Y, 7),
        (ADDR_X, 1 << 11 | 9),  # before any TIME_LOW the low part is 0
        (TIME_LOW, 100),
        (BASE, 1 << 11 | 20),
        (VECT_12, 0b100000000001),
        (VECT_8, 0b00000010),  # base has advanced by 12
        (ADDR_X, 5),
        (TRIGGER, 1),
        (TIME_HIGH, 2),  # repeated: the low part stands
        (ADDR_X, 6),
        (TIME_HIGH, 3),  # changed: the low part is 0 again
        (ADDR_X, 7),
    )
    events, recording = decode("3.0", body)
    assert events == [
        (8192, 9, 7, 1),
        (8292, 20, 7, 1),
        (8292, 31, 7, 1),
        (8292, 33, 7, 1),
        (8292, 5, 7, 0),
        (8292, 6, 7, 0),
        (12288, 7, 7, 0),
    ]
    assert not recording.invalid


def test_evt3_vector_words_advance_by_their_size():
    body = evt3((TIME_HIGH, 0), (ADDR_Y, 1), (BASE, 2), (VECT_8, 0b1), (VECT_12, 0b1), (VECT_8, 0b10000001))
    assert [x for _, x, _, _ in decode("3.0", body)[0]] == [2, 10, 22, 29]


@given(columns(start=1 << 34, gap=1 << 30))
@settings(max_examples=60, deadline=None)
def test_evt2_round_trip(events):
    decoded, recording = decode("2.0", encode_evt2(*events))
    assert decoded == in_order(*events, clock_bits=34)
    assert not recording.invalid


@given(columns(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_evt3_round_trip(events, vectors):
    decoded, recording = decode("3.0", encode_evt3(*events, vectors=vectors))
    assert decoded == in_order(*events, clock_bits=24)
    assert not recording.invalid


@given(columns(jitter=11, gap=300))
@settings(max_examples=60, deadline=None)
def test_small_steps_back_are_reordered_and_counted(events):
    t = np.array(events[0], np.int64)
    late = int(np.count_nonzero(t < np.maximum.accumulate(t))) if len(t) else 0
    for version, encode, bits in (("2.0", encode_evt2, 34), ("3.0", encode_evt3, 24)):
        decoded, recording = decode(version, encode(*events))
        assert decoded == in_order(*events, clock_bits=bits)
        assert dict(recording.repaired) == ({"reordered": late} if late else {})
        assert not recording.invalid


@pytest.mark.parametrize("version", ["2.0", "3.0"])
@given(body=st.binary(max_size=400), piece_bytes=st.integers(1, 23))
@settings(max_examples=60, deadline=None)
def test_any_bytes_in_pieces_equal_the_whole(version, body, piece_bytes):
    # times and addresses are known early, so that random words become events
    body = {"2.0": evt2_high(1), "3.0": evt3((TIME_HIGH, 1), (ADDR_Y, 3), (BASE, 4))}[version] + body
    whole, first = decode(version, body)
    pieces, second = decode(version, body, piece_bytes)
    assert pieces == whole
    assert second.invalid == first.invalid
    assert second.first_invalid == first.first_invalid
    assert second.repaired == first.repaired
    assert all(0 <= x < 64 and 0 <= y < 48 for _, x, y, _ in whole)
    assert [t for t, *_ in whole] == sorted(t for t, *_ in whole)


def test_evt3_clock_wraps_and_steps_back_across_the_wrap():
    body = evt3(
        (ADDR_Y, 0),
        (TIME_HIGH, 4095),
        (TIME_LOW, 4095),
        (ADDR_X, 1),  # 2^24 - 1
        (TIME_HIGH, 0),
        (ADDR_X, 2),  # 2^24
        (TIME_HIGH, 4095),
        (TIME_LOW, 4094),
        (ADDR_X, 3),  # back across the wrap: 2^24 - 2
        (TIME_HIGH, 0),
        (TIME_LOW, 1),
        (ADDR_X, 4),  # 2^24 + 1, still the same loop
    )
    events, recording = decode("3.0", body)
    assert [(t - (1 << 24), x) for t, x, *_ in events] == [(-2, 3), (-1, 1), (0, 2), (1, 4)]
    assert recording.repaired == {"reordered": 1}


def test_evt2_clock_wraps():
    body = evt2_high((1 << 28) - 1) + evt2_word(ON, 63) + evt2_high(0) + evt2_word(ON, 1)
    assert [t for t, *_ in decode("2.0", body)[0]] == [(1 << 34) - 1, (1 << 34) + 1]


def test_a_small_drop_of_time_high_is_time_running_backwards_not_a_wrap():
    body = evt3(
        (ADDR_Y, 0), (TIME_HIGH, 1000), (ADDR_X, 1), (TIME_HIGH, 900), (ADDR_X, 2), (TIME_HIGH, 1001), (ADDR_X, 3)
    )
    events, recording = decode("3.0", body)
    assert [(t, x) for t, x, *_ in events] == [(1000 << 12, 1), (1001 << 12, 3)]
    assert recording.invalid == {"time_backwards": 1}
    assert "3686400 us after 4096000 us" in recording.first_invalid["time_backwards"]


def test_evt2_faults_are_counted_with_their_first_byte():
    body = b"".join(
        [
            evt2_word(ON, 0, 1, 1),  # before any time
            evt2_high(1),
            evt2_word(ON, 0, 64, 0),
            evt2_word(OFF, 0, 0, 48),
            evt2_word(0x5),
            evt2_word(0xE),  # OTHERS and CONTINUED are documented
            evt2_word(0xF),
            evt2_word(ON, 0, 63, 47),
            b"\x01\x02\x03",
        ]
    )
    events, recording = decode("2.0", body)
    start = len(raw_header("2.0"))
    assert events == [(64, 63, 47, 1)]
    assert recording.invalid == {"before_time": 1, "off_sensor": 2, "unknown_word": 1, "truncated_word": 1}
    assert recording.first_invalid == {
        "before_time": f"byte {start}",
        "off_sensor": f"byte {start + 8}",
        "unknown_word": f"byte {start + 16}",
        "truncated_word": f"byte {start + 32}",
    }


def test_evt3_faults_are_counted_with_their_first_byte():
    body = evt3(
        (ADDR_Y, 1),
        (BASE, 2),
        (TIME_LOW, 5),
        (ADDR_X, 3),  # before_time
        (VECT_12, 0b111),  # before_time, three events
    )
    body += evt3((TIME_HIGH, 0), (ADDR_X, 64), (VECT_8, 1), (BASE, 62), (VECT_8, 0b1111), (ADDR_Y, 48), (ADDR_X, 0))
    body += evt3((0x1, 0), (0x9, 0), (0x7, 0), (0xE, 0), (0xF, 0)) + b"\x00"
    events, recording = decode("3.0", body)
    start = len(raw_header("3.0"))
    assert events == [(0, 14, 1, 0), (0, 62, 1, 0), (0, 63, 1, 0)]
    assert recording.invalid == {"before_time": 4, "off_sensor": 1 + 2 + 1, "unknown_word": 2, "truncated_word": 1}
    assert recording.first_invalid["off_sensor"] == f"byte {start + 12}"
    assert recording.first_invalid["truncated_word"] == f"byte {start + len(body) - 1}"


def test_evt3_events_before_a_row_or_a_base_are_counted():
    body = evt3((TIME_HIGH, 0), (ADDR_X, 3), (ADDR_Y, 1), (VECT_8, 0b11), (ADDR_X, 4))
    events, recording = decode("3.0", body)
    assert events == [(0, 4, 1, 0)]
    assert recording.invalid == {"before_address": 3}


def test_no_events_at_all():
    for version in ("2.0", "3.0"):
        events, recording = decode(version, b"")
        assert events == []
        assert not recording.invalid
