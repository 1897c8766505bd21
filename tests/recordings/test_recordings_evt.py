"""EVT2 and EVT3: words worked out by hand, round trips, wraps, faults, chunk equivalence."""

import struct
import tempfile
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from recording_encoders import (
    as_tuples,
    columns,
    encode_evt2,
    encode_evt3,
    evt2_high,
    evt2_word,
    evt3,
    evt21_high,
    in_order,
    raw_header,
)

from spiketrack.errors import RecordingError
from spiketrack.recordings import ReadOptions, open_recording
from spiketrack.recordings.recording import Tally

OFF, ON, HIGH = 0x0, 0x1, 0x8
ADDR_Y, ADDR_X, BASE, VECT_12, VECT_8, TIME_LOW, TIME_HIGH, TRIGGER = 0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x8, 0xA


def decode(version: str, body: bytes, width=64, height=48, **options):
    """The events as tuples and the recording after one pass."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.raw"
        path.write_bytes(raw_header(version, width, height) + body)
        recording = open_recording(path, options=ReadOptions(**options))
        return as_tuples(list(recording.chunks())), recording


def in_file_order(version: str, body: bytes, piece_words: int, threads: int = 1):
    """The events as the reader gives them, not yet sorted, the triggers, and what was counted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.raw"
        path.write_bytes(raw_header(version) + body)
        recording = open_recording(path, options=ReadOptions(threads=threads))
        recording._piece_words = piece_words
        tally = Tally(path)
        events, triggers = [], []
        with recording._reader(tally, None) as reader:
            for block in reader.blocks():
                rises = not (block.columns.t[1:] < block.columns.t[:-1]).any()
                assert block.rises == rises
                events += zip(*(column.tolist() for column in block.columns), strict=True)
                triggers += zip(*(getattr(block.triggers, c).tolist() for c in ("t", "channel", "value")), strict=True)
        return events, triggers, tally.invalid, tally.first_invalid


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
@example(([16777216, 16777216, 16777215], [0] * 3, [0] * 3, [0] * 3))
def test_small_steps_back_are_reordered_and_counted(events):
    t = np.array(events[0], np.int64)
    late = int(np.count_nonzero(t < np.maximum.accumulate(t))) if len(t) else 0
    for version, encode, bits in (("2.0", encode_evt2, 34), ("3.0", encode_evt3, 24)):
        # before the first turn of the clock there is nothing to step back to
        assume(not len(t) or t.min() >= t[0] >> bits << bits)
        decoded, recording = decode(version, encode(*events))
        assert decoded == in_order(*events, clock_bits=bits)
        assert dict(recording.repaired) == ({"reordered": late} if late else {})
        assert not recording.invalid


START = {"2.0": evt2_high(1), "2.1": evt21_high(1), "3.0": evt3((TIME_HIGH, 1), (ADDR_Y, 3), (BASE, 4))}


@pytest.mark.parametrize("version", ["2.0", "2.1", "3.0"])
@given(body=st.binary(max_size=400), piece_words=st.integers(1, 23), threads=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_any_bytes_in_pieces_equal_the_whole(version, body, piece_words, threads):
    # times and addresses are known early, so that random words become events
    body = START[version] + body
    whole = in_file_order(version, body, 1 << 18)
    assert in_file_order(version, body, piece_words, threads) == whole
    assert all(0 <= x < 64 and 0 <= y < 48 for _, x, y, _ in whole[0])
    events, recording = decode(version, body)
    assert [t for t, *_ in events] == sorted(t for t, *_ in events)
    lost = recording.invalid["time_backwards"] + recording.invalid["time_ahead"]
    assert len(events) + lost == len(whole[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_empty_vectors_move_on_in_pieces_too(threads):
    """An empty word of a vector moves its column, also at the start of a piece, where that column is not known."""
    time = evt3((TIME_HIGH, 1), (TIME_LOW, 0), (ADDR_Y, 3), (BASE, 5))
    others = evt3((0xE, 0)) * 9
    body = time + others + evt3((VECT_12, 0)) + others + evt3((VECT_8, 1)) + others + evt3((VECT_12, 2)) + others
    for piece_words in range(1, 12):
        events, _, invalid, _ = in_file_order("3.0", body, piece_words, threads)
        assert (events, invalid) == ([(4096, 17, 3, 0), (4096, 26, 3, 0)], {})


@pytest.mark.parametrize("column", [2030, 2035, 2036, 2037, 2047])
@pytest.mark.parametrize("other", [evt3((0xE, 0)), evt3((0x1, 0))])
def test_vectors_end_at_the_last_column(column, other):
    """Whether a block is decoded word by word (there is an unknown one) or not, no column comes round again."""
    body = evt3((TIME_HIGH, 1), (TIME_LOW, 0), (ADDR_Y, 3), (ADDR_X, 1), (BASE, column)) + other
    body += evt3((VECT_12, 0), (VECT_12, 0), (VECT_8, 0), (VECT_8, 1), (VECT_12, 0x800))
    for piece_words in (3, 1 << 18):
        events, _, invalid, _ = in_file_order("3.0", body, piece_words)
        assert events == [(4096, 1, 3, 0)]
        assert invalid["off_sensor"] == 2


@pytest.mark.parametrize("threads", [2, 3])
def test_a_guessed_clock_does_not_go_back_before_the_start(threads):
    """A step back before the first turn of the clock: with a turn too many it would be one across the wrap."""
    tick = evt2_high(100) + evt2_word(ON, 1, 2, 3)
    back = evt2_high(50) + evt2_word(ON, 2, 2, 3)
    far = evt2_high((1 << 28) - 1) + evt2_word(0xA, 0, 1, 1)
    for n in range(1, 9):
        body = tick * 40 + back * n + far * 6 + tick * 20
        whole = in_file_order("2.0", body, 1 << 18)
        assert in_file_order("2.0", body, 1, threads) == whole
        assert min(t for t, *_ in whole[1]) > 0


@given(columns(most=200), st.integers(2, 40), st.integers(2, 3))
@settings(max_examples=40, deadline=None)
def test_threads_do_not_change_a_proper_file(events, piece_words, threads):
    for version, encode in (("2.0", encode_evt2), ("3.0", encode_evt3)):
        body = encode(*events)
        assert in_file_order(version, body, piece_words, threads) == in_file_order(version, body, 1 << 18)


words_of_a_camera = st.lists(
    st.one_of(
        st.tuples(st.just(ADDR_Y), st.integers(0, 47)),
        st.tuples(st.just(ADDR_X), st.integers(0, 63).flatmap(lambda x: st.sampled_from([x, x | 1 << 11]))),
        st.tuples(st.just(TIME_LOW), st.integers(0, 4095)),
        st.tuples(st.just(TIME_HIGH), st.integers(5, 7)),
        st.tuples(st.just(BASE), st.integers(0, 40)),
        st.tuples(st.sampled_from([VECT_12, VECT_8]), st.integers(0, 4095)),
        st.tuples(st.sampled_from([0x7, 0xE, 0xF, TRIGGER]), st.integers(0, 4095)),
    ),
    max_size=600,
)


@given(words_of_a_camera)
@settings(max_examples=60, deadline=None)
def test_evt3_fast_path_equals_the_careful_one(words):
    whole = in_file_order("3.0", START["3.0"] + evt3((TIME_HIGH, 5), *words), 1 << 18)
    # an unknown word in its block, at the end, sends all of it down the careful path
    events, triggers, invalid, _ = in_file_order("3.0", START["3.0"] + evt3((TIME_HIGH, 5), *words, (0x9, 0)), 1 << 18)
    assert (events, triggers) == whole[:2]
    assert invalid - whole[2] == {"unknown_word": 1}


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 63), st.integers(0, 47)), max_size=100))
def test_evt2_fast_path_equals_the_careful_one(addresses):
    body = evt2_high(7) + b"".join(evt2_word(p, i % 64, x, y) for i, (p, x, y) in enumerate(addresses))
    fast, careful = in_file_order("2.0", body, 1 << 18), in_file_order("2.0", body + evt2_word(0x5), 1 << 18)
    assert fast[:2] == careful[:2]
    assert (fast[2], careful[2]) == ({}, {"unknown_word": 1})


def test_evt21_words_by_hand():
    # EVT_POS at low 5, x 32, y 20, mask of x 32, 33 and 63; then the same off the right edge of 64 pixels
    words = [0x8 << 60 | 3 << 32, 0x1 << 60 | 5 << 54 | 32 << 43 | 20 << 32 | 1 << 31 | 0b11]
    words += [0x0 << 60 | 6 << 54 | 40 << 43 | 1 << 32 | 1 << 24 | 1, 0xA << 60 | 7 << 54 | 3 << 40 | 1 << 32]
    expected = [(197, 32, 20, 1), (197, 33, 20, 1), (197, 63, 20, 1), (198, 40, 1, 0)]
    body = b"".join(struct.pack("<Q", word) for word in words)
    assert in_file_order("2.1", body, 100) == (expected, [(199, 3, 1)], {"off_sensor": 1}, {"off_sensor": ANY})
    swapped = np.frombuffer(body, np.uint32).reshape(-1, 2)[:, ::-1].tobytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.raw"
        for header in (
            "% evt 2.1\n% endianness legacy\n",
            "% format EVT21;endianness=legacy;width=64;height=48\n",
            "% evt 2.1\n% integrator_name Prophesee\n% system_ID 49\n",
        ):
            path.write_bytes(header.encode() + b"% geometry 64x48\n% end\n" + swapped)
            assert as_tuples(list(open_recording(path).chunks())) == expected
            assert as_tuples(list(open_recording(path, endianness="little").chunks())) != expected
        path.write_bytes(raw_header("2.1") + swapped)
        assert as_tuples(list(open_recording(path, endianness="legacy").chunks())) == expected
        with pytest.raises(RecordingError, match=r"endianness .big. of EVT2\.1 is not known"):
            open_recording(path, endianness="big")


def test_triggers_come_with_their_time_channel_and_edge():
    body = evt3((TIME_HIGH, 1), (TIME_LOW, 5), (TRIGGER, 3 << 8 | 1), (ADDR_Y, 2), (ADDR_X, 9), (TRIGGER, 3 << 8))
    assert in_file_order("3.0", body, 100)[:2] == ([(4101, 9, 2, 0)], [(4101, 3, 1), (4101, 3, 0)])
    body = evt2_high(1) + evt2_word(0xA, 5, 1, 1) + evt2_word(ON, 6, 1, 2)  # channel in bits 8-12: x 1 is bit 11
    assert in_file_order("2.0", body, 100)[:2] == ([(70, 1, 2, 1)], [(69, 8, 1)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.raw"
        path.write_bytes(raw_header("2.0") + body)
        runs = list(open_recording(path).chunks_with_triggers())
        assert [(as_tuples([events]), triggers.t.tolist()) for events, triggers in runs] == [([(70, 1, 2, 1)], [69])]
        assert [len(triggers) for _, triggers in open_recording(path).chunks_with_triggers(70)] == [0]


def test_one_corrupt_reading_of_the_clock_is_undone():
    words = [(ADDR_Y, 0), (TIME_HIGH, 100), (ADDR_X, 1), (ADDR_X, 2), (TIME_HIGH, 3000), (ADDR_X, 3), (TIME_HIGH, 101)]
    events, recording = decode("3.0", evt3(*words, (ADDR_X, 4), (ADDR_X, 5), (TIME_HIGH, 102), (ADDR_X, 6)))
    assert [(t >> 12, x) for t, x, *_ in events] == [(100, 1), (100, 2), (101, 4), (101, 5), (102, 6)]
    assert recording.invalid == {"bad_clock": 1, "time_ahead": 1}
    assert recording.first_invalid["bad_clock"] == f"byte {len(raw_header('3.0')) + 12}"


def test_what_becomes_of_invalid_events_is_a_choice():
    body = evt2_high(1000) + evt2_word(ON, 0, 1, 1) + evt2_word(ON, 0, 64, 1) + evt2_word(ON, 1, 2, 1)
    body += evt2_high(900) + evt2_word(ON, 0, 3, 1) + evt2_high(1000) + evt2_word(ON, 2, 4, 1)
    expected = [(64000, 1), (64001, 2), (64002, 4)]
    for policy in ("drop", "keep"):
        events, recording = decode("2.0", body, on_invalid=policy)
        kept = [(64001, 3)] if policy == "keep" else []  # with the latest time before it; nothing keeps x = 64
        assert [event[:2] for event in events] == expected[:2] + kept + expected[2:]
        assert recording.invalid == {"off_sensor": 1, "time_backwards": 1}
    with pytest.raises(RecordingError, match=r"a\.raw: invalid: off_sensor, first at byte"):
        decode("2.0", body, on_invalid="fail")
    with pytest.raises(RecordingError, match=r"on_invalid must be one of drop, keep, fail, got 'ignore'"):
        decode("2.0", body, on_invalid="ignore")


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
    assert recording.invalid == {"time_backwards": 1, "bad_clock": 1}
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
