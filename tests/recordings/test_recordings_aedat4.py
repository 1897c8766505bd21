import sys

import numpy as np
import pytest

from spiketrack.errors import RecordingError
from spiketrack.events import Events
from spiketrack.recordings import open_recording, summarize, windows


@pytest.fixture(scope="module")
def board(real_data):
    return real_data / "recordings" / "davis346_board.aedat4"


def test_truth(board):
    summary = summarize(open_recording(board))
    assert (summary.format, summary.width, summary.height) == ("aedat4", 346, 260)
    assert (summary.events, summary.on, summary.off) == (117_667, 72_363, 45_304)
    assert summary.t_last_us - summary.t_first_us == 129_999
    assert not summary.invalid


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
