import struct
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from aedat4_encoder import LZ4, NONE, ZSTD, encode_aedat4
from recording_encoders import as_tuples

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers
from spiketrack.recordings import open_recording, summarize, windows
from spiketrack.recordings.recording import Tally


@pytest.fixture(scope="module")
def board(real_data):
    return real_data / "recordings" / "davis346_board.aedat4"


def test_truth(board):
    summary = summarize(open_recording(board))
    assert (summary.format, summary.width, summary.height) == ("aedat4", 346, 260)
    assert (summary.events, summary.on, summary.off) == (117_667, 72_363, 45_304)
    assert summary.t_last_us - summary.t_first_us == 129_999
    assert not summary.invalid


def test_the_signals_of_the_file_are_kept(board):
    triggers = Triggers.concatenate([met for _, met in open_recording(board).chunks_with_triggers()])
    first = 1_633_953_690_976_518
    assert (triggers.t - first)[:5].tolist() == [0, 4773, 14225, 30573, 40000]
    assert triggers.channel.tolist() == [3, 3, 2, 2] * 3 + [3, 3, 2]
    assert triggers.value.tolist() == [1, 0, 0, 1] * 3 + [1, 0, 0]  # exposure begins and ends, frame ends and begins


class Packets:
    """Stands in for the package: packets of events on stream 1, of other streams, and of triggers."""

    packets: ClassVar[list] = []

    def __init__(self, path):
        self._left = iter(self.packets)

    def id_to_stream(self):
        return {0: {"type": "imus"}, 1: {"type": "events", "width": 8, "height": 4}, 2: {"type": "triggers"}}

    def __iter__(self):
        return self._left


def packet(*events):
    return {"stream_id": 1, "events": np.array(list(events), [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")])}


def signals(*rows):
    return {"stream_id": 2, "triggers": np.array(list(rows), [("t", "<u8"), ("source", "u1")])}


def test_packets_by_hand_and_continued_at_every_place(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aedat", SimpleNamespace(Decoder=Packets))
    Packets.packets = [
        packet((1, 0, 0, True), (2, 7, 3, False), (3, 8, 0, True), (4, 1, 1, True), (5, 2, 2, False)),
        {"stream_id": 0, "imus": None},
        packet(),
        signals(*[(10 + source, source) for source in range(12)], (2**63, 1)),
        packet((2**64 - 1, 0, 0, True), (6, 3, 3, True)),
    ]
    (tmp_path / "a.aedat4").write_bytes(encode_aedat4([], [], 8, 4))
    recording = open_recording(tmp_path / "a.aedat4")
    recording._block_events = 2

    def run(place):
        tally, events, triggers, places = Tally(), [], [], []
        with recording._reader(tally, place) as reader:
            for block in reader.blocks():
                events += block.columns.t.tolist()
                met = block.triggers
                triggers += zip(met.t.tolist(), met.channel.tolist(), met.value.tolist(), strict=True)
                places.append((block.place, len(events), len(triggers), tally.invalid.copy()))
        return events, triggers, places, tally

    events, triggers, places, tally = run(None)
    assert events == [1, 2, 4, 5, 6]
    on_channel = [(4, 1), (0, 1), (0, 0), (0, 1), (1, 1), (1, 0), (2, 1), (2, 0), (3, 1), (3, 0)]
    assert triggers == [(10 + source, *channel) for source, channel in enumerate(on_channel)]
    assert tally.invalid == {"off_sensor": 1, "bad_trigger": 3, "bad_time": 1}
    assert tally.first_invalid["bad_trigger"] == "packet 3: t 20, source 10"
    assert tally.first_invalid["bad_time"].startswith("event 5: ")
    assert len(places) == 5
    for place, seen, met, counted in places:
        later, signalled, _, rest = run(place)
        assert (later, signalled, counted + rest.invalid) == (events[seen:], triggers[met:], tally.invalid)


ROWS = [[(i, i % 64, i % 48, i % 2) for i in range(first, first + 40)] for first in (0, 40, 80)]


@pytest.mark.parametrize("compression", [NONE, LZ4, ZSTD])
def test_packets_of_every_compression(tmp_path, compression):
    pytest.importorskip("aedat")
    path = tmp_path / "a.aedat4"
    path.write_bytes(encode_aedat4(ROWS, [[(7, 1), (9, 2), (11, 5)]], compression=compression))
    recording = open_recording(path)
    runs = list(recording.chunks_with_triggers())
    assert as_tuples([events for events, _ in runs]) == [row for rows in ROWS for row in rows]
    triggers = Triggers.concatenate([met for _, met in runs])
    assert list(zip(triggers.t, triggers.channel, triggers.value, strict=True)) == [(7, 0, 1), (9, 0, 0), (11, 1, 0)]
    assert (recording.width, recording.height, recording.invalid) == (64, 48, {})


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (14, 0xFD0001BC, "its header is broken: it claims 4,244,636,092 bytes"),
        (18, 0xFFFFFF00, "its header is broken"),
        (26, 0xFFFF, "its header is broken: its table has"),
        (38, 0x7FFFFFFF, "its header is broken"),
        (58, 0xFFFFFFF0, "its header is broken"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, place, value, message):
    pytest.importorskip("aedat")
    content = bytearray(encode_aedat4(ROWS, []))
    struct.pack_into("<I", content, place, value)
    (tmp_path / "a.aedat4").write_bytes(content)
    with pytest.raises(RecordingError, match=message):
        open_recording(tmp_path / "a.aedat4")


def first_packet(content):
    return 18 + struct.unpack_from("<I", content, 14)[0]


def read_broken(path, content):
    path.write_bytes(content)
    recording = open_recording(path)
    events = as_tuples(list(recording.chunks()))
    assert recording.invalid == {"broken_packet": 1}
    return events, recording.first_invalid["broken_packet"]


def test_a_packet_larger_than_the_file_is_not_read(tmp_path):
    pytest.importorskip("aedat")
    content = bytearray(encode_aedat4(ROWS, []))
    second = first_packet(content) + 8 + struct.unpack_from("<I", content, first_packet(content) + 4)[0]
    struct.pack_into("<I", content, second + 4, 0xF0000000)
    events, where = read_broken(tmp_path / "a.aedat4", content)
    assert events == ROWS[0]
    assert where.startswith(
        f"event 40, where the file stops being readable: a packet at byte {second} claims 4,026,531,840"
    )


@pytest.mark.parametrize(
    ("compression", "bomb"),
    [
        # 1,100 blocks of one byte 131,071 times; 40 blocks of 64 KiB each 255 times smaller, of a block size of 4 MiB
        (ZSTD, b"\x28\xb5\x2f\xfd\x00\x58" + ((0x1FFFF << 3 | 2).to_bytes(3, "little") + b"a") * 1100),
        (LZ4, b"\x04\x22\x4d\x18\x60\x70\x73" + (struct.pack("<I", 1 << 16) + bytes(1 << 16)) * 40),
    ],
)
def test_a_packet_that_grows_without_bound_is_not_unpacked(tmp_path, compression, bomb):
    pytest.importorskip("aedat")
    content = encode_aedat4(ROWS[:1], [], compression=compression)
    events, where = read_broken(tmp_path / "a.aedat4", content + struct.pack("<II", 0, len(bomb)) + bomb)
    assert events == ROWS[0]
    assert "of memory; at most 134,217,728 do" in where


def test_windows_and_late_starts_give_the_same_events(board):
    recording = open_recording(board)
    whole = Events.concatenate(list(recording.chunks()))
    start = int(whole.t[60_000])
    late = Events.concatenate(list(recording.chunks(start)))
    cut = Events.concatenate(list(windows(board, 10_000, start_us=start)))
    first = int(np.searchsorted(whole.t, start))
    for events in (late, cut):
        np.testing.assert_array_equal(events.t, whole.t[first:])
        np.testing.assert_array_equal(events.x, whole.x[first:])


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_broken_packet_is_counted_and_what_came_before_is_kept(board, tmp_path, damage):
    content = bytearray(board.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[400_000:400_100] = b"\xff" * 100
    path = tmp_path / "broken.aedat4"
    path.write_bytes(content)
    summary = summarize(open_recording(path))
    assert summary.invalid == {"broken_packet": 1}
    assert 30_000 < summary.events < 117_667
    assert f"event {summary.events}" in summary.first_invalid["broken_packet"]


def test_a_smaller_sensor_drops_and_counts(board):
    summary = summarize(open_recording(board, width=300))
    assert summary.events + summary.invalid["off_sensor"] == 117_667
    assert summary.invalid["off_sensor"] > 1000


def test_a_header_alone_is_refused(tmp_path):
    path = tmp_path / "header.aedat4"
    path.write_bytes(b"#!AER-DAT4.0\r\n....")
    with pytest.raises(RecordingError, match="not a readable AEDAT4 file"):
        open_recording(path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "aedat", None)
    path = tmp_path / "x.aedat4"
    path.write_bytes(b"#!AER-DAT4.0\r\n....")
    with pytest.raises(RecordingError, match=r"spiketrack\[aedat\]"):
        open_recording(path)
