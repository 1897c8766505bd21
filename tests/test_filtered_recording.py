"""FilteredRecording: a recording like any other, for windows, data sets and late starts."""

import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import find_sequences
from spiketrack.events import Events, Triggers
from spiketrack.filters import NO_FILTERS, FilteredRecording, FilterSettings, filtered_recording
from spiketrack.recordings import EventWriter, create_recording, open_recording, save_labels, windows

BACKGROUND = FilterSettings.model_validate({"background": {"dt_us": 2_000}})


def crowd(n=6_000, seed=0):
    """Events at random on 32 x 24 pixels, one about every 100 us: some have company, most have not."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, n * 100, n))
    return Events.repaired(t, rng.integers(0, 32, n), rng.integers(0, 24, n), rng.integers(0, 2, n), 32, 24)[0]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.raw"
    with create_recording(path, 32, 24) as writer:
        writer.append(crowd(), Triggers(np.array([1_000, 400_000]), *np.array([[1, 1], [0, 1]], np.uint8)))
    return path


def columns(runs):
    events = Events.concatenate([Events.empty(32, 24), *runs])
    return np.stack([getattr(events, name).astype(np.int64) for name in "txyp"])


def test_what_is_left_and_what_is_counted(path):
    source = open_recording(path)
    recording = FilteredRecording(source, BACKGROUND)
    left = columns(recording.chunks())
    assert 0 < left.shape[1] < 6_000
    assert recording.removed == {"background": 6_000 - left.shape[1]}
    assert recording.invalid is source.invalid
    # the filter itself on the events of the file, all at once
    alone = FilteredRecording(source, BACKGROUND)._chain
    assert np.array_equal(left, columns([alone.apply(crowd())]))


def test_a_late_start_is_the_end_of_the_whole(path):
    recording = FilteredRecording(open_recording(path), BACKGROUND)
    whole = columns(recording.chunks())
    for start_us in (1, 50_000, 333_333, 599_000):
        assert np.array_equal(columns(recording.chunks(start_us)), whole[:, whole[0] >= start_us])
    cut = [window for window in windows(recording, 10_000, start_us=200_000, end_us=300_000)]
    assert len(cut) == 10
    assert np.array_equal(columns(cut), whole[:, (whole[0] >= 200_000) & (whole[0] < 300_000)])
    assert np.array_equal(columns([recording.read(200_000, 300_000)]), columns(cut))


def test_triggers_pass(path):
    recording = FilteredRecording(open_recording(path), BACKGROUND)
    assert [t for _, met in recording.chunks_with_triggers() for t in met.t] == [1_000, 400_000]
    assert [t for _, met in recording.chunks_with_triggers(2_000) for t in met.t] == [400_000]


def test_without_filters_the_recording_itself(path):
    source = open_recording(path)
    assert filtered_recording(source, NO_FILTERS) is source


def test_data_sets_are_filtered(tmp_path):
    folder = tmp_path / "HDF5" / "train"
    folder.mkdir(parents=True)
    with EventWriter(folder / "one_td.h5", 32, 24) as writer:
        writer.append(crowd())
    labels = Boxes.of(np.array([100_000]), np.array([[2, 2, 9, 9]]), np.array([0]), track_id=np.array([1]))
    save_labels(folder / "one_bbox.npy", labels)
    (plain,) = find_sequences(tmp_path, "train", ("a",))
    (filtered,) = find_sequences(tmp_path, "train", ("a",), BACKGROUND)
    left = columns(filtered.open().chunks())
    assert np.array_equal(left, columns([FilteredRecording(plain.open(), BACKGROUND)._chain.apply(crowd())]))
    assert columns(plain.open().chunks()).shape[1] == 6_000
