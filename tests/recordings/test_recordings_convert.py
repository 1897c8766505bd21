"""convert: windows, crops and merged pixels worked out by hand and against NumPy; triggers; what goes wrong."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import as_events, as_tuples, columns

from spiketrack.errors import RecordingError, SettingsError
from spiketrack.events import Events, Triggers
from spiketrack.recordings import Recording, open_recording
from spiketrack.recordings.converting import Part, convert
from spiketrack.recordings.writing import create_recording

ROWS = [(10, 0, 0, 1), (20, 5, 7, 0), (20, 6, 7, 1), (35, 63, 47, 1), (50, 8, 9, 0)]


def write(path, events: Events, triggers: Triggers | None = None) -> Recording:
    with create_recording(path, events.width, events.height) as writer:
        writer.append(events, triggers)
    return open_recording(path)


def read(path) -> list[tuple[int, int, int, int]]:
    return as_tuples(list(open_recording(path).chunks()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def source(tmp_path) -> Recording:
    (tmp_path / "in").mkdir()
    triggers = Triggers(np.array([15, 20, 49, 90]), np.array([1, 2, 3, 4], np.uint8), np.array([1, 0, 1, 0], np.uint8))
    return write(tmp_path / "in" / "a.raw", as_events(*zip(*ROWS, strict=True)), triggers)


def test_all_of_it_with_its_summary(tmp_path, source):
    steps = []
    summary = convert(source, tmp_path / "b.dat", on_progress=lambda *step: steps.append(step))
    assert read(tmp_path / "b.dat") == ROWS
    assert steps == [(5, None, "b.dat")]
    assert (summary.path, summary.width, summary.height) == (tmp_path / "b.dat", 64, 48)
    assert (summary.events, summary.events_read, summary.triggers) == (5, 5, 0)
    assert (summary.t_first_us, summary.t_last_us) == (10, 50)
    assert (summary.invalid, summary.repaired, summary.first_invalid) == ({}, {}, {})


@pytest.mark.parametrize(
    ("start_us", "end_us", "kept"),
    [(None, None, slice(0, 5)), (20, 50, slice(1, 4)), (None, 20, slice(0, 1)), (21, None, slice(3, 5)), (60, 70, [])],
)
def test_windows_are_half_open_and_keep_their_times(tmp_path, source, start_us, end_us, kept):
    summary = convert(source, tmp_path / "b.raw", Part(start_us, end_us))
    expected = ROWS[kept] if isinstance(kept, slice) else []
    assert read(tmp_path / "b.raw") == expected
    assert summary.events == summary.events_read == len(expected)
    assert summary.t_first_us == (expected[0][0] if expected else None)


def test_crop_shifts_and_the_sensor_becomes_the_crop(tmp_path, source):
    summary = convert(source, tmp_path / "b.raw", Part(crop=(5, 7, 4, 3)))
    assert read(tmp_path / "b.raw") == [(20, 0, 0, 0), (20, 1, 0, 1), (50, 3, 2, 0)]
    assert (summary.width, summary.height, summary.events, summary.events_read) == (4, 3, 3, 5)
    assert (open_recording(tmp_path / "b.raw").width, open_recording(tmp_path / "b.raw").height) == (4, 3)


def test_downsampling_merges_pixels_after_the_crop_and_keeps_every_event(tmp_path, source):
    summary = convert(source, tmp_path / "b.raw", Part(downsample=10))
    assert read(tmp_path / "b.raw") == [(10, 0, 0, 1), (20, 0, 0, 0), (20, 0, 0, 1), (35, 6, 4, 1), (50, 0, 0, 0)]
    assert (summary.width, summary.height) == (7, 5)  # 64 / 10 and 48 / 10, rounded up
    convert(source, tmp_path / "b.raw", Part(crop=(5, 6, 5, 5), downsample=2))
    assert read(tmp_path / "b.raw") == [(20, 0, 0, 0), (20, 0, 0, 1), (50, 1, 1, 0)]
    assert (open_recording(tmp_path / "b.raw").width, open_recording(tmp_path / "b.raw").height) == (3, 3)


@given(
    columns(gap=3000),
    st.tuples(st.integers(0, 63), st.integers(0, 47)),
    st.tuples(st.integers(1, 64), st.integers(1, 48)),
    st.integers(1, 70),
)
@settings(max_examples=40, deadline=None)
def test_any_crop_and_downsampling_equals_numpy(folder, events, corner, size, downsample):
    crop = (*corner, min(size[0], 64 - corner[0]), min(size[1], 48 - corner[1]))
    recording = write(folder / "a.raw", as_events(*events))
    convert(recording, folder / "b.raw", Part(crop=crop, downsample=downsample))
    t, x, y, p = np.array(events, np.int64).reshape(4, -1)
    x, y = x - crop[0], y - crop[1]
    inside = (x >= 0) & (y >= 0) & (x < crop[2]) & (y < crop[3])
    rows = zip(*(v[inside].tolist() for v in (t, x // downsample, y // downsample, p)), strict=True)
    assert read(folder / "b.raw") == [(now, *rest) for now, *rest in rows]


def test_triggers_are_kept_where_wanted(tmp_path, source):
    def triggers(path):
        kept = [triggers for _, triggers in open_recording(path).chunks_with_triggers()]
        return [
            row for part in kept for row in zip(*(v.tolist() for v in (part.t, part.channel, part.value)), strict=True)
        ]

    assert convert(source, tmp_path / "b.raw").triggers == 0
    assert triggers(tmp_path / "b.raw") == []
    assert convert(source, tmp_path / "b.raw", Part(keep_triggers=True)).triggers == 4
    assert triggers(tmp_path / "b.raw") == [(15, 1, 1), (20, 2, 0), (49, 3, 1), (90, 4, 0)]
    convert(source, tmp_path / "b.h5", Part(keep_triggers=True))
    assert triggers(tmp_path / "b.h5") == [(15, 1, 1), (20, 2, 0), (49, 3, 1), (90, 4, 0)]
    convert(open_recording(tmp_path / "b.h5"), tmp_path / "c.raw", Part(keep_triggers=True), format="evt2.1")
    assert triggers(tmp_path / "c.raw") == [(15, 1, 1), (20, 2, 0), (49, 3, 1), (90, 4, 0)]
    summary = convert(source, tmp_path / "b.raw", Part(20, 50, keep_triggers=True), format="evt2")
    assert triggers(tmp_path / "b.raw") == [(20, 2, 0), (49, 3, 1)]
    assert (summary.events, summary.triggers) == (3, 2)
    with pytest.raises(RecordingError, match=r"b\.dat: 4 external triggers have no place"):
        convert(source, tmp_path / "b.dat", Part(keep_triggers=True))
    assert not (tmp_path / "b.dat").exists()


def test_a_trigger_a_little_earlier_than_the_events_before_it_is_kept(tmp_path, source, monkeypatch):
    def runs(start_us=None):
        yield as_events([10, 20], [1, 2], [1, 2], [1, 1]), Triggers.empty()
        yield as_events([30], [3], [3], [1]), Triggers(np.array([19]), np.array([2], np.uint8), np.array([1], np.uint8))

    monkeypatch.setattr(source, "chunks_with_triggers", runs)
    assert convert(source, tmp_path / "b.raw", Part(keep_triggers=True)).triggers == 1
    words = np.frombuffer((tmp_path / "b.raw").read_bytes().partition(b"% end\n")[2], "<u2")
    low = [int(word & 0xFFF) for word in words if word >> 12 == 0x6]
    assert low == [10, 19, 20, 30]


def test_what_was_invalid_in_the_source_is_told(tmp_path, source):
    narrow = open_recording(source.path, width=60)
    summary = convert(narrow, tmp_path / "b.raw")
    assert (summary.events, summary.invalid) == (4, {"off_sensor": 1})
    assert summary.first_invalid["off_sensor"].startswith("byte ")


def test_parts_that_mean_nothing_are_refused(tmp_path, source):
    for part, what in (
        ({"crop": (60, 0, 5, 5)}, r"crop x 60 \.\. 64, y 0 \.\. 4 leaves the sensor of .*a\.raw, 64 x 48 pixels"),
        ({"crop": (0, 0, 0, 5)}, "width and height >= 1"),
        ({"crop": (-1, 0, 5, 5)}, "x, y >= 0"),
        ({"downsample": 0}, "downsample = 0 must be at least 1"),
        ({"start_us": 5, "end_us": 5}, "end_us = 5 must come after start_us = 5"),
    ):
        with pytest.raises(SettingsError, match=what):
            convert(source, tmp_path / "b.raw", Part(**part))
    with pytest.raises(RecordingError, match=r"b\.xyz: the suffix '\.xyz' is no format"):
        convert(source, tmp_path / "b.xyz")
    with pytest.raises(RecordingError, match="this is the recording to convert; choose another name"):
        convert(source, source.path)
    assert read(source.path) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["b.raw", "b.dat", "b.csv", "b.h5"])
def test_an_interrupted_conversion_leaves_nothing(tmp_path, source, name):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / name).write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / name, on_progress=interrupt)
    assert (tmp_path / name).read_bytes() == b"older"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "in"])


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "out"), [("evk4_evt3.raw", "b.h5"), ("gen3_evt2.raw", "b.raw")])
def test_real_recordings_convert(tmp_path, real_data, name, out):
    source = open_recording(real_data / "recordings" / name)
    summary = convert(source, tmp_path / out)
    before, after = (
        [np.concatenate([getattr(run, column) for run in recording.chunks()]) for column in "txyp"]
        for recording in (source, open_recording(tmp_path / out))
    )
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first, second)
    assert summary.events == len(before[0]) == {"evk4_evt3.raw": 1_218_618, "gen3_evt2.raw": 521_252}[name]
