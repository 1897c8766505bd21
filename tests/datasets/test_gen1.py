"""GEN1's layout: DAT recordings with labels beside them become the same sequences as eTraM's."""

import shutil

import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import find_sequences, read_class_names
from spiketrack.datasets.gen1 import GEN1_CLASSES, GEN1_FOLDER, dat_size, is_gen1
from spiketrack.datasets.sequences import TrainingSamples
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.events import Events
from spiketrack.recordings import EventWriter, save_labels

# GEN1's own label rows: ts instead of t, another order of the fields
GEN1_DTYPE = np.dtype(
    [
        ("ts", "<u8"),
        ("x", "<f4"),
        ("y", "<f4"),
        ("w", "<f4"),
        ("h", "<f4"),
        ("class_id", "u1"),
        ("confidence", "<f4"),
        ("track_id", "<u4"),
    ]
)
STEP_US = 50_000


def dat_header(width, height=None):
    """As GEN1's files begin; without a size, as older ones do."""
    size = f"% Height {height}\n% Width {width}\n" if width else ""
    return f"% Data file\n% Version 2\n{size}".encode() + b"\x0c\x08"


def encode_dat(t, x, y, p):
    words = np.array([t, np.array(p, "u4") << 28 | np.array(y, "u4") << 14 | np.array(x, "u4")], "<u4")
    return words.T.tobytes()


def columns(n=4000, seed=0):
    """Events over 0.2 s anywhere on 304 x 240."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 4 * STEP_US, n))
    return t, rng.integers(0, 304, n), rng.integers(0, 240, n), rng.integers(0, 2, n)


def add(folder, name, header=None, rows=None, seed=0):
    """One recording with labels at 0.1 and 0.2 s: a car, then the car and a pedestrian."""
    folder.mkdir(parents=True, exist_ok=True)
    header = dat_header(304, 240) if header is None else header
    path = folder / f"{name}_td.dat"
    path.write_bytes(header + encode_dat(*columns(seed=seed)))
    rows = rows or [
        (2 * STEP_US, 50, 60, 80, 40, 0, 1.0, 7),
        (4 * STEP_US, 55, 60, 80, 40, 0, 1.0, 7),
        (4 * STEP_US, 200, 90, 30, 70, 1, 1.0, 8),
    ]
    np.save(folder / f"{name}_bbox.npy", np.array(rows, GEN1_DTYPE))
    return path


@pytest.mark.parametrize("folder", ["train", "train_a", f"{GEN1_FOLDER}/train"])
def test_what_is_found(tmp_path, folder):
    path = add(tmp_path / folder, "17-03-30_12-53-58_1037500000_1098500000")
    assert read_class_names(tmp_path) == GEN1_CLASSES == ("car", "pedestrian")
    (sequence,) = find_sequences(tmp_path, "train", GEN1_CLASSES)
    assert (sequence.name, sequence.path) == ("17-03-30_12-53-58_1037500000_1098500000", path)
    assert (sequence.width, sequence.height, sequence.repairs) == (304, 240, {})
    assert sequence.labels.t.tolist() == [100_000, 200_000, 200_000]
    assert sequence.labels.xyxy.tolist() == [[50, 60, 130, 100], [55, 60, 135, 100], [200, 90, 230, 160]]
    assert sequence.labels.class_id.tolist() == [0, 0, 1]
    assert sequence.labels.track_id.tolist() == [7, 7, 8]


def test_the_same_batches_as_from_etrams_layout(tmp_path):
    from spiketrack.datasets.augment import AugmentSettings
    from spiketrack.representations import InputSettings

    add(tmp_path / "gen1" / "train", "one")
    t, x, y, p = columns()
    other = tmp_path / "etram" / "HDF5" / "train"
    other.mkdir(parents=True)
    with EventWriter(other / "one_td.h5", 304, 240) as writer:
        writer.append(Events.repaired(t, x, y, p, 304, 240)[0])
    boxes = [[50, 60, 130, 100], [55, 60, 135, 100], [200, 90, 230, 160]]
    save_labels(other / "one_bbox.npy", Boxes.of([100_000, 200_000, 200_000], boxes, [0, 0, 1], track_id=[7, 7, 8]))
    one, two = (
        next(
            TrainingSamples(
                find_sequences(tmp_path / layout, "train", GEN1_CLASSES),
                InputSettings(slice_us=STEP_US),
                AugmentSettings(flip=0.5, drop=0.1),
                steps=4,
                batch_size=1,
                seed=0,
            ).epoch(0)
        )
        for layout in ("gen1", "etram")
    )
    assert int(one.events.sum()) > 2000  # of 4,000, less what the phase of the sample leaves out
    assert (one.events == two.events).all()
    assert (one.labelled == two.labelled).all()
    assert all((a == b).all() for a, b in zip(one.labels, two.labels, strict=True))


def test_a_header_without_a_size_means_gen1s(tmp_path):
    # no event reaches the right or the lower edge, so that the largest pixel would be too small a sensor
    folder = tmp_path / "train"
    add(folder, "old")
    (folder / "old_td.dat").write_bytes(dat_header(None) + encode_dat([1, 2], [10, 20], [30, 40], [1, 0]))
    (sequence,) = find_sequences(tmp_path, "train", GEN1_CLASSES)
    recording = sequence.open()
    assert (sequence.width, sequence.height) == (recording.width, recording.height) == (304, 240)
    assert [events.x.tolist() for events in recording.chunks()] == [[10, 20]]


def test_another_sensor_is_no_gen1(tmp_path):
    path = add(tmp_path / "train", "mpx", dat_header(1280, 720))
    assert dat_size(path) == (1280, 720)
    assert not is_gen1([tmp_path / "train"])
    with pytest.raises(SettingsError, match=r"classes\.txt: no class list"):
        read_class_names(tmp_path)
    (sequence,) = find_sequences(
        tmp_path, "train", GEN1_CLASSES
    )  # with a list of classes it is a data set all the same
    assert (sequence.width, sequence.height) == (1280, 720)


def test_a_list_of_classes_wins(tmp_path):
    add(tmp_path / "train", "one")
    (tmp_path / "classes.txt").write_text("vehicle\nperson\n")
    assert read_class_names(tmp_path) == ("vehicle", "person")


def test_one_recording_in_two_formats_is_refused(tmp_path):
    path = add(tmp_path / "train", "one")
    shutil.copy(path, path.with_suffix(".h5"))
    with pytest.raises(
        SettingsError, match=r"one_td\.h5: the same recording as one_td\.dat|one_td\.dat: the same .*h5"
    ):
        find_sequences(tmp_path, "train", GEN1_CLASSES)


def test_a_truncated_recording_keeps_its_whole_events_and_a_broken_one_is_named(tmp_path):
    path = add(tmp_path / "train", "cut")
    path.write_bytes(path.read_bytes()[:-3])
    (sequence,) = find_sequences(tmp_path, "train", GEN1_CLASSES)
    recording = sequence.open()
    assert sum(len(events) for events in recording.chunks()) == 3999
    assert sum(recording.invalid.values()) == 1
    path.write_bytes(b"")
    with pytest.raises(RecordingError, match=r"cut_td\.dat: the file is empty"):
        find_sequences(tmp_path, "train", GEN1_CLASSES)
    path.write_bytes(b"% Width 304\n% Width 240\n\x0c\x08")
    with pytest.raises(RecordingError, match=r"cut_td\.dat: .*contradict"):
        find_sequences(tmp_path, "train", GEN1_CLASSES)
