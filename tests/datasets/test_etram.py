import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moving_squares import CLASS_NAMES, SLICE_US, square_sequence, write_sequence

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import find_sequences, grouped_classes, in_groups, label_steps, read_class_names
from spiketrack.errors import LabelError, RecordingError, SettingsError
from spiketrack.recordings import LABEL_DTYPE, save_labels


def labels_at(times):
    return Boxes.of(times, np.tile([1.0, 1.0, 5.0, 5.0], (len(times), 1)), 0)


def write_rows(path, rows):
    """Labels as (t, x, y, w, h, class_id, track_id), without the checks of our own writer."""
    np.save(path, np.array([(*row, 1.0) for row in rows], LABEL_DTYPE))


@pytest.fixture
def folder(tmp_path):
    """An empty train split and a function that adds a recording to it."""
    (tmp_path / "HDF5" / "train").mkdir(parents=True)
    return tmp_path


def add(folder, name, labels=None, seed=0):
    events, boxes = square_sequence(seed, 0, 2)
    return write_sequence(folder, name, events, boxes if labels is None else labels)


def test_sequences_carry_what_was_written(squares):
    assert read_class_names(squares) == CLASS_NAMES
    sequences = find_sequences(squares, "train", CLASS_NAMES)
    assert [s.name for s in sequences] == ["train_0", "train_1", "train_2", "train_3"]
    _, labels = square_sequence(1, 1, 8)
    second = sequences[1]
    assert (second.width, second.height, second.repairs) == (64, 64, {})
    assert second.path == squares / "HDF5" / "train" / "train_1_td.h5"
    assert second.labels.t.tolist() == labels.t.tolist()
    np.testing.assert_allclose(second.labels.xyxy, labels.xyxy, atol=1e-4)
    assert set(second.labels.class_id.tolist()) == {1}


@pytest.mark.parametrize(
    ("events_folder", "labels_folder"),
    [
        ("HDF5/train", "HDF5/train"),
        ("HDF5/train_h5_1", "HDF5/train_h5_1"),
        ("HDF5/train_h5_2", "class annotations/eight_class_annotations_train"),
        ("train", "train"),
    ],
)
def test_folder_layouts(tmp_path, events_folder, labels_folder):
    add(tmp_path / events_folder, "train_day_001")
    (tmp_path / labels_folder).mkdir(parents=True, exist_ok=True)
    shutil.move(
        tmp_path / events_folder / "train_day_001_bbox.npy", tmp_path / labels_folder / "train_day_001_bbox.npy"
    )
    (sequence,) = find_sequences(tmp_path, "train", CLASS_NAMES)
    assert sequence.name == "train_day_001"
    assert len(sequence.labels) == 2


def test_parts_of_a_split_are_joined_and_other_splits_left_alone(tmp_path):
    for folder, name in (("train_h5_2", "b"), ("train_h5_1", "c"), ("train", "a"), ("trainee", "x"), ("test", "y")):
        add(tmp_path / "HDF5" / folder, name)
    found = find_sequences(tmp_path, "train", CLASS_NAMES)
    assert sorted(s.name for s in found) == ["train/a", "train_h5_1/c", "train_h5_2/b"]
    assert [s.name for s in find_sequences(tmp_path, "train_h5_1", CLASS_NAMES)] == ["c"]


def test_labels_beside_the_events_win(tmp_path):
    add(tmp_path / "HDF5" / "train", "one")
    elsewhere = tmp_path / "class annotations" / "eight_class_annotations_train"
    elsewhere.mkdir(parents=True)
    write_rows(elsewhere / "one_bbox.npy", [(5, 1, 1, 8, 8, 0, 1)])
    (sequence,) = find_sequences(tmp_path, "train", CLASS_NAMES)
    assert sequence.labels.t.tolist() == [SLICE_US, 2 * SLICE_US]


def test_a_sequence_without_labels_is_left_out_with_one_warning(folder, caplog):
    split = folder / "HDF5" / "train"
    add(split, "good")
    add(split, "bare")
    (split / "bare_bbox.npy").unlink()
    add(split, "outside")
    write_rows(split / "outside_bbox.npy", [(5, 100, 100, 8, 8, 0, 1)])
    add(split, "nothing", Boxes.empty())
    with caplog.at_level(logging.WARNING):
        found = find_sequences(folder, "train", CLASS_NAMES)
    assert [s.name for s in found] == ["good"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "3 recordings have no usable labels and are left out" in message
    for name in ("bare_td.h5", "outside_td.h5", "nothing_td.h5"):
        assert name in message


def test_no_labelled_sequence_at_all(folder):
    with pytest.raises(LabelError, match=r"train: no labelled sequence; expected <name>_td.h5.*\(0 recordings"):
        find_sequences(folder, "train", CLASS_NAMES)
    add(folder / "HDF5" / "train", "bare", Boxes.empty())
    with pytest.raises(LabelError, match="1 recordings without usable labels"):
        find_sequences(folder, "train", CLASS_NAMES)


def test_labels_outside_the_sensor_are_dropped_or_clipped_and_counted(folder, caplog):
    path = add(folder / "HDF5" / "train", "edge")
    rows = [(10, 60, 10, 10, 10, 0, 1), (10, -20, 5, 10, 10, 0, 2), (20, 5, 5, 10, 10, 0, 1), (20, 5, 70, 4, 4, 0, 2)]
    write_rows(path.with_name("edge_bbox.npy"), rows)
    with caplog.at_level(logging.WARNING):
        (sequence,) = find_sequences(folder, "train", CLASS_NAMES)
    assert sequence.repairs == {"clipped": 1, "outside_sensor": 2}
    assert sequence.labels.xyxy.tolist() == [[60, 10, 64, 20], [5, 5, 15, 15]]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "labels were repaired" in message
    assert "2 outside_sensor" in message
    assert "1 clipped" in message


def test_a_class_beyond_the_list_names_the_file(folder):
    path = add(folder / "HDF5" / "train", "odd")
    write_rows(path.with_name("odd_bbox.npy"), [(5, 1, 1, 8, 8, 0, 1), (6, 1, 1, 8, 8, 2, 1)])
    with pytest.raises(LabelError, match=r"odd_bbox.npy: row 1 has class id 2, .*0 small, 1 large"):
        find_sequences(folder, "train", CLASS_NAMES)


def test_a_broken_recording_is_named(folder):
    path = add(folder / "HDF5" / "train", "cut")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(RecordingError, match=r"cut_td\.h5"):
        find_sequences(folder, "train", CLASS_NAMES)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(SettingsError, match=r"classes.txt: no class list"):
        read_class_names(folder)
    with pytest.raises(SettingsError, match=r"no folder for split 'test'; there are \['train'\]"):
        find_sequences(folder, "test", CLASS_NAMES)
    with pytest.raises(SettingsError, match=r"absent: no such data set; make one with `spiketrack simulate`"):
        find_sequences(tmp_path / "absent", "train", CLASS_NAMES)


@pytest.mark.parametrize(("text", "names"), [("car\r\nperson\r\n", ("car", "person")), ("\n a b \n\n", ("a b",))])
def test_class_list(tmp_path, text, names):
    (tmp_path / "classes.txt").write_bytes(text.encode())
    assert read_class_names(tmp_path) == names


@pytest.mark.parametrize("text", ["", "\n \n", "car\ncar\n"])
def test_a_class_list_must_tell_classes_apart(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(SettingsError, match=r"classes.txt: expected distinct class names"):
        read_class_names(tmp_path)


@pytest.mark.parametrize(
    ("times", "anchor", "steps", "speaking"),
    [
        # every label on the end of a step: [0, 100) ends at 100
        ([100, 200, 300], 0, [0, 1, 2], [100, 200, 300]),
        # the grid starts at 50; two labels in (150, 250], of which the later one speaks; nothing in (250, 350]
        ([150, 160, 250, 351, 450], 50, [0, 1, 3], [150, 250, 450]),
        # one us after the end of a step belongs to the next one
        ([100, 201], 0, [0, 2], [100, 201]),
        # a first label earlier than one slice lies at the end of step -1, which starts before time 0
        ([30, 130], 30, [-1, 0], [30, 130]),
        # several boxes at one time are one label time
        ([270, 270, 290], 70, [1, 2], [270, 290]),
        ([0], 0, [-1], [0]),
    ],
)
def test_label_steps_by_hand(times, anchor, steps, speaking):
    found = label_steps(labels_at(times), 100)
    assert found[0] == anchor
    assert found[1].tolist() == steps
    assert found[2].tolist() == speaking


def test_no_labels_no_steps():
    _, steps, times = label_steps(Boxes.empty(), 100)
    assert len(steps) == len(times) == 0


@given(
    st.lists(st.integers(0, 3_000_000), min_size=1, max_size=40),
    st.integers(0, 10**12),
    st.sampled_from([1, 7, 1_000, 33_333, 500_000]),
)
@settings(max_examples=200, deadline=None)
def test_label_steps_hold_their_times(times, offset, slice_us):
    times = np.sort(np.array(times, np.int64) + offset)
    anchor, steps, speaking = label_steps(labels_at(times), slice_us)
    assert 0 <= anchor < slice_us
    start = anchor + steps * slice_us
    assert (start < speaking).all()
    assert (speaking <= start + slice_us).all()
    assert (np.diff(steps) > 0).all()
    assert start[0] + slice_us == times[0]
    # every label time lies in a labelled step, and none in it is later than the one that speaks
    place = np.searchsorted(start, times) - 1
    assert (times <= start[place] + slice_us).all()
    assert (times <= speaking[place]).all()
    assert np.isin(speaking, times).all()


def test_annotated_times_by_hand(folder):
    split = folder / "HDF5" / "train"
    for name, at in (("one", [100, 300]), ("other", [100]), ("empty", [])):
        add(split, name, replace(labels_at(at), track_id=np.ones(len(at), np.int64)))
    np.save(split / "one_times.npy", np.array([200, 100, 450, 300]))
    np.save(split / "empty_times.npy", np.array([100]))
    empty, one, other = find_sequences(folder, "train", CLASS_NAMES)
    assert (empty.name, len(empty.labels), empty.annotated.tolist()) == ("empty", 0, [100])
    anchor, steps, times = one.steps(100)
    assert (anchor, steps.tolist(), times.tolist()) == (0, [0, 1, 2, 4], [100, 200, 300, 450])
    assert len(other.annotated) == 0
    assert [part.tolist() for part in other.steps(100)[1:]] == [[0], [100]]


@pytest.mark.parametrize("wrong", [np.array([0.5]), np.zeros((2, 2), np.int64), np.array([1], np.int32), b"no array"])
def test_annotated_times_of_another_kind_are_refused(folder, wrong):
    split = folder / "HDF5" / "train"
    add(split, "one")
    if isinstance(wrong, bytes):
        (split / "one_times.npy").write_bytes(wrong)
    else:
        np.save(split / "one_times.npy", wrong)
    with pytest.raises(LabelError, match=r"one_times\.npy: .*annotated times"):
        find_sequences(folder, "train", CLASS_NAMES)


def test_labels_reach_steps_that_have_none():
    labels = labels_at([1000, 1650])
    assert [part.tolist() for part in label_steps(labels, 100)[1:]] == [[9, 16], [1000, 1650]]
    # ends of steps: 9 at 1000, 10 at 1100, ...; step 16 ends at 1700 but has 1650, step 12 (1300) has none in reach
    anchor, steps, times = label_steps(labels, 100, reach_us=200)
    assert anchor == 0
    assert steps.tolist() == [7, 8, 9, 10, 11, 14, 15, 16, 17]
    assert times.tolist() == [1000] * 5 + [1650] * 4
    # between two label times the nearer one speaks, and a step with its own keeps it
    _, steps, times = label_steps(labels_at([1000, 1400]), 100, reach_us=300)
    assert dict(zip(steps.tolist(), times.tolist(), strict=True))[12] == 1400  # ends at 1300
    assert dict(zip(steps.tolist(), times.tolist(), strict=True))[10] == 1000
    assert dict(zip(steps.tolist(), times.tolist(), strict=True))[13] == 1400


def test_a_split_of_several_folders_with_labels_elsewhere(tmp_path):
    events, labels = square_sequence(0, 0, 4)
    for folder, name in (("train_h5_1", "a"), ("train_h5_2", "b"), ("other", "c")):
        write_sequence(tmp_path / "HDF5" / folder, name, events, None)
    labels_dir = tmp_path / "labels"
    for folder, name in (("eight_class_annotations_train", "a"), (".", "b"), (".", "c")):
        (labels_dir / folder).mkdir(parents=True, exist_ok=True)
        save_labels(labels_dir / folder / f"{name}_bbox.npy", labels)
    found = find_sequences(tmp_path, "train_h5_1, other", CLASS_NAMES, labels_dir=labels_dir)
    assert [sequence.name for sequence in found] == ["other/c", "train_h5_1/a"]
    assert len(find_sequences(tmp_path, "train", CLASS_NAMES, labels_dir=labels_dir)) == 2
    with pytest.raises(SettingsError, match=r"no folder for split 'none'; there are"):
        find_sequences(tmp_path, "other,none", CLASS_NAMES)


def test_classes_are_learnt_in_groups(squares):
    group_of = grouped_classes(("a", "b", "c"), {"later": ("c",), "both": ("a", "b")})
    assert group_of.tolist() == [1, 1, 0]
    sequence = find_sequences(squares, "train", CLASS_NAMES)[1]
    assert set(sequence.labels.class_id.tolist()) == {1}
    swapped = in_groups(sequence, grouped_classes(CLASS_NAMES, {"L": ("large",), "S": ("small",)}))
    assert set(swapped.labels.class_id.tolist()) == {0}
    assert set(sequence.labels.class_id.tolist()) == {1}  # records are not changed
    for groups in ({"x": ("a", "b")}, {"x": ("a", "b"), "y": ("b", "c")}, {"x": ("a", "b", "c", "d")}):
        with pytest.raises(SettingsError, match="exactly one group"):
            grouped_classes(("a", "b", "c"), groups)
