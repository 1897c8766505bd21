"""DAT version 2 and N-MNIST: bytes worked out by hand, round trips, wraps, recognition."""

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from recording_encoders import as_tuples, columns, dat_header, encode_dat, encode_nmnist, in_order

from spiketrack.errors import RecordingError
from spiketrack.recordings import open_recording


def open_bytes(content: bytes, piece_words: int | None = None, **size):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.bin"
        path.write_bytes(content)
        recording = open_recording(path, **size)
        if piece_words:
            recording._piece_words = piece_words
        return as_tuples(list(recording.chunks())), recording


def test_dat_bytes_by_hand():
    # 0x10008003: polarity bit 28, y = 2 (2 << 14), x = 3
    events, recording = open_bytes(dat_header() + struct.pack("<II", 1000, 0x10008003))
    assert events == [(1000, 3, 2, 1)]
    assert (recording.format, recording.width, recording.height) == ("dat", 64, 48)


@given(columns(start=1 << 32, gap=1 << 30), st.sampled_from([0x00, 0x0C]), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_dat_round_trip_in_pieces_of_any_size(events, kind, piece_words):
    decoded, recording = open_bytes(dat_header(kind=kind) + encode_dat(*events), piece_words)
    assert decoded == in_order(*events, clock_bits=32)
    assert not recording.invalid


def test_dat_without_a_size_takes_the_largest_coordinates():
    body = encode_dat([1, 2, 3], [5, 53, 7], [60, 2, 3], [0, 1, 1])
    assert (open_bytes(dat_header(None) + body)[1].width, open_bytes(dat_header(None) + body)[1].height) == (54, 61)
    recording = open_bytes(dat_header(None) + body, width=100)[1]
    assert (recording.width, recording.height) == (100, 61)
    with pytest.raises(RecordingError, match="neither the header nor any event tells the size"):
        open_bytes(dat_header(None))


def test_dat_size_given_by_the_caller_wins_over_the_header():
    events, recording = open_bytes(dat_header() + encode_dat([1, 2], [5, 63], [6, 2], [0, 1]), width=10, height=10)
    assert events == [(1, 5, 6, 0)]
    assert recording.invalid == {"off_sensor": 1}


def test_dat_cut_inside_a_word_delivers_the_rest():
    content = dat_header() + encode_dat([1, 2, 3], [5, 6, 7], [6, 2, 0], [0, 1, 0])
    events, recording = open_bytes(content[:-3])
    assert events == [(1, 5, 6, 0), (2, 6, 2, 1)]
    assert recording.invalid == {"truncated_word": 1}
    assert recording.first_invalid == {"truncated_word": f"byte {len(dat_header()) + 16}"}


def test_dat_a_corrupt_time_off_the_sensor_does_not_move_the_clock():
    body = encode_dat([100, (1 << 32) - 5, 200], [1, 9999, 2], [1, 1, 1], [0, 0, 0])
    events, recording = open_bytes(dat_header() + body)
    assert [t for t, *_ in events] == [100, 200]
    assert recording.invalid == {"off_sensor": 1}


def test_nmnist_bytes_by_hand():
    # 0x81 0x02 0x03: ON, t = 1 * 65536 + 2 * 256 + 3
    events, recording = open_bytes(bytes([10, 20, 0x01, 0x00, 0x00, 33, 0, 0x81, 0x02, 0x03]))
    assert events == [(65536, 10, 20, 0), (66051, 33, 0, 1)]
    assert (recording.format, recording.width, recording.height) == ("nmnist", 34, 34)


@given(columns(34, 34, start=1 << 20, gap=50_000))
@settings(max_examples=60, deadline=None)
def test_nmnist_round_trip(events):
    assume(events[0] and (len(events[0]) == 1 or len(set(zip(*events, strict=True))) > 1))
    decoded, recording = open_bytes(encode_nmnist(*events))
    assert decoded == list(zip(*events, strict=True))
    assert not recording.invalid


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (bytes(11), "11 bytes are no multiple of 5"),
        (encode_nmnist([1, 2], [3, 34], [4, 4], [0, 0]), r"event 1 \(byte 5\) would be at \(34, 4\)"),
        (encode_nmnist([9, 2], [3, 3], [4, 4], [0, 0]), r"run backwards at event 1 \(byte 5\)"),
        (bytes(50), "all its events would be the same"),
        (b"\n" * 50, "all its events would be the same"),
        (b"hello world, this is a text!!\n", "would be at"),
    ],
)
def test_what_is_no_nmnist_is_refused(content, why):
    with pytest.raises(RecordingError, match=why):
        open_bytes(content)


def test_nmnist_on_a_smaller_sensor_counts_what_is_outside():
    events, recording = open_bytes(encode_nmnist([1, 2], [3, 30], [4, 4], [0, 1]), width=20)
    assert events == [(1, 3, 4, 0)]
    assert recording.invalid == {"off_sensor": 1}
    assert recording.first_invalid == {"off_sensor": "byte 5"}


def test_events_are_read_only_and_of_the_right_types():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.dat"
        path.write_bytes(dat_header() + encode_dat([1], [2], [3], [1]))
        (run,) = open_recording(path).chunks()
    assert [getattr(run, name).dtype for name in "txyp"] == [np.int64, np.uint16, np.uint16, np.uint8]
    with pytest.raises(ValueError, match="read-only"):
        run.t[0] = 5
