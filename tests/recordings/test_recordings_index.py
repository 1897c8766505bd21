"""The sidecar index: written by a first pass, used by later ones, never believed blindly."""

import json
import os
from itertools import pairwise
from zlib import crc32

import numpy as np
import pytest
from recording_encoders import as_tuples, encode_evt3, raw_header

from spiketrack.events import Events
from spiketrack.recordings import ReadOptions, open_recording, windows

PIECE = 256


@pytest.fixture
def path(tmp_path, monkeypatch):
    """12,000 events over 60 s: across three wraps of the clock, in many pieces."""
    monkeypatch.setattr("spiketrack.recordings.index.SPACING_EVENTS", 500)
    monkeypatch.setattr("spiketrack.recordings.words.PIECE_BYTES", 2 * PIECE)
    rng = np.random.default_rng(1)
    t = np.sort(rng.integers(0, 60_000_000, 12_000))
    path = tmp_path / "a.raw"
    events = encode_evt3(t, rng.integers(0, 64, 12_000), rng.integers(0, 48, 12_000), rng.integers(0, 2, 12_000))
    middle = len(events) // 4 * 2
    # one word of an unknown type in the middle: what was counted before a place is counted after it, too
    path.write_bytes(raw_header("3.0") + events[:middle] + b"\x00\x90" + events[middle:])
    return path


def sidecar(path):
    return path.with_name("a.raw.spikeindex")


def places(recording, monkeypatch):
    """Where the readers of later passes begin, as a list that grows."""
    asked, original = [], recording._reader
    monkeypatch.setattr(recording, "_reader", lambda tally, place: asked.append(place) or original(tally, place))
    return asked


def test_a_first_pass_writes_what_a_later_one_starts_from(path, monkeypatch):
    whole = Events.concatenate(list(open_recording(path).chunks()))
    assert sidecar(path).exists()
    recording = open_recording(path)
    asked = places(recording, monkeypatch)
    found = list(windows(recording, 1_000_000, start_us=40_000_000, end_us=45_000_000))
    assert as_tuples(found) == as_tuples([whole.between(40_000_000, 45_000_000)])
    (place,) = asked
    assert place[0] > 0.6 * path.stat().st_size  # 40 of 60 s, less a few pieces
    assert recording.invalid == {"unknown_word": 1}
    assert as_tuples(list(recording.chunks())) == as_tuples([whole])
    assert asked[1] is None


def test_every_start_gives_the_same_events(path):
    whole = Events.concatenate(list(open_recording(path).chunks()))
    for start_us in range(0, 61_000_000, 3_700_000):
        for threads in (1, 2):
            found = as_tuples(list(open_recording(path, options=ReadOptions(threads=threads)).chunks(start_us)))
            assert found == as_tuples([whole.between(start_us, 1 << 40)])


@pytest.mark.parametrize("change", ["longer", "touched", "other size", "other policy"])
def test_an_index_of_something_else_is_not_used(path, change, monkeypatch):
    list(open_recording(path).chunks())
    stale = sidecar(path).read_text()
    options, width = ReadOptions(), None
    if change == "longer":
        path.write_bytes(path.read_bytes() + b"\x00\x00")
    elif change == "touched":
        os.utime(path, ns=(1, 1))
    elif change == "other size":
        width = 60
    else:
        options = ReadOptions(on_invalid="keep")
    recording = open_recording(path, width, options=options)
    asked = places(recording, monkeypatch)
    assert next(recording.chunks(50_000_000)).t[0] >= 50_000_000
    assert asked == [None]
    list(recording.chunks())
    assert sidecar(path).read_text() != stale


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"{}", b"[1, 2]", b'{"key": 1, "checkpoints": []}', b"[" * 100_000, b"null"]
)
def test_a_broken_index_is_made_anew(path, content, caplog):
    sidecar(path).write_bytes(content)
    assert len(list(open_recording(path).chunks(59_000_000))) > 0
    assert "will be made anew" in caplog.text or json.loads(content)["key"] == 1
    list(open_recording(path).chunks())
    assert len(json.loads(sidecar(path).read_text())["checkpoints"]) > 10


def test_a_changed_index_is_refused(path, caplog):
    list(open_recording(path).chunks())
    content = json.loads(sidecar(path).read_text())
    content["checkpoints"][-1][0][0] += 2
    sidecar(path).write_text(json.dumps(content))
    list(open_recording(path).chunks(59_000_000))
    assert "check sum is wrong" in caplog.text


def lies(content):
    """Indexes with a right check sum that no pass has written."""
    entry, *_ = content["checkpoints"]
    (byte, state), (latest, floor, seen), *counts = entry
    for place in (None, byte, [byte], [byte, state[:-1]], [byte, [*state, 0]], [byte + 1, state], [-2, state],
                  [byte, [1 << 70, *state[1:]]], [byte, [0.5, *state[1:]]], ["a", state], [[byte], state]):  # fmt: skip
        yield [[place, entry[1], *counts]]
    for order in ([None, floor, seen], [latest, None, seen], [latest, floor, -1], [1 << 80, floor, seen], [latest], {}):
        yield [[entry[0], order, *counts]]
    for wrong in (({"off_sensor": "x"}, {}, {}), ({"off_sensor": 1}, {}, {}), ([], {}, {}), ({}, {}, 5), ({}, {})):
        yield [[*entry[:2], *wrong]]
    yield [entry, entry]
    yield {"a": entry}
    yield 7


def test_an_index_that_lies_about_itself_is_made_anew(path, caplog):
    events = as_tuples(list(open_recording(path).chunks(59_000_000)))
    list(open_recording(path).chunks())
    content = json.loads(sidecar(path).read_text())
    for checkpoints in lies(content):
        caplog.clear()
        said = {**content, "checkpoints": checkpoints, "crc32": crc32(json.dumps(checkpoints).encode())}
        sidecar(path).write_text(json.dumps(said))
        assert as_tuples(list(open_recording(path).chunks(59_000_000))) == events
        assert "is not a readable index" in caplog.text, checkpoints


def test_without_room_for_an_index_reading_goes_on(path):
    sidecar(path).mkdir()  # a name that cannot be written
    assert sum(map(len, open_recording(path).chunks())) == 12_000


def test_an_index_can_be_declined(path):
    assert sum(map(len, open_recording(path, options=ReadOptions(index=False)).chunks())) == 12_000
    assert not sidecar(path).exists()


def test_the_number_of_checkpoints_is_bounded(path, monkeypatch):
    monkeypatch.setattr("spiketrack.recordings.index.MOST_CHECKPOINTS", 8)
    recording = open_recording(path)
    list(recording.chunks())
    assert len(recording._index._checkpoints) <= 8
    times = [checkpoint.order.latest for checkpoint in recording._index._checkpoints]
    assert times == sorted(times)
    assert max(after - before for before, after in pairwise(times)) < 30_000_000
