"""Boxes as samples: the events before a label and within its box, by hand; splits that repeat."""

from collections import Counter

import numpy as np
import pytest
from moving_squares import CLASS_NAMES, SLICE_US, write_sequence, write_squares

from spiketrack.boxes import Boxes
from spiketrack.datasets.classified import SampleEvents, name_of
from spiketrack.datasets.cutouts import find_cutouts
from spiketrack.datasets.splits import find_classified, find_training, find_validation, thinned_classes
from spiketrack.errors import LabelError, SettingsError
from spiketrack.events import Events
from spiketrack.recordings import Sample


@pytest.fixture
def one(tmp_path):
    """Five events and two boxes of one time, 1000 us; the second box hangs over the lower right corner."""
    t, x, y = [399, 400, 500, 999, 1000], [10, 10, 12, 13, 10], [20, 20, 29, 30, 20]
    events = Events(
        *(np.array(t), np.array(x, np.uint16), np.array(y, np.uint16), np.array([1, 0, 1, 1, 0], np.uint8)), 64, 48
    )  # fmt: skip
    labels = Boxes.of([1000, 1000], [[10, 20, 12.5, 29.2], [60, 40, 80, 50]], [1, 0], track_id=[1, 2])
    write_sequence(tmp_path / "HDF5" / "train", "one", events, labels)
    (tmp_path / "classes.txt").write_text("small\nlarge\n")
    return tmp_path


def test_a_box_by_hand(one):
    first, second = find_cutouts(one, "train", CLASS_NAMES)
    assert (first.class_name, first.class_id, first.end_us) == ("large", 1, 1000)
    assert (first.left, first.top, first.width, first.height, first.sensor) == (10, 20, 3, 10, (64, 48))
    assert (second.left, second.top, second.width, second.height) == (60, 40, 4, 8)  # clipped to the sensor
    events = SampleEvents(1)
    window = events.read(first, 600)
    # 400 <= t < 1000; (13, 30) lies right of and below the box
    assert (window.start_us, window.end_us, window.width, window.height) == (400, 1000, 3, 10)
    assert (window.t.tolist(), window.x.tolist(), window.y.tolist(), window.p.tolist()) == (
        [400, 500],
        [0, 2],
        [0, 9],
        [0, 1],
    )
    assert len(events.read(second, 600)) == 0
    assert (events.empty, dict(events.repairs)) == (1, {})
    assert name_of(first).endswith("one_td.h5 at 1000 us, x 10, y 20")


def test_a_data_set_with_boxes_brings_its_own_splits(tmp_path):
    root = write_squares(tmp_path, train=2, val=1, test=1, slices=3)
    train, names = find_training(root, 0.1, {})
    assert (len(train), names) == (6, CLASS_NAMES)  # two sequences of three labels; no share of them is held out
    assert [sample.end_us for sample in find_validation(root, 0.1)] == [SLICE_US, 2 * SLICE_US, 3 * SLICE_US]
    assert find_validation(root, 0) == []
    assert len(find_classified(root, "test")[0]) == 3
    with pytest.raises(SettingsError, match="no folder for split 'other'"):
        find_classified(root, "other")


def test_no_label_at_all_is_said(one):
    (one / "HDF5" / "train" / "one_bbox.npy").unlink()
    with pytest.raises(LabelError, match="no labelled sequence"):
        find_classified(one, "train")


def test_a_share_of_a_class(tmp_path):
    found = [Sample(tmp_path / str(i), "ab"[i % 2], i % 2, "train", 9, 9) for i in range(20)]
    kept = thinned_classes(found, {"a": 0.24}, ("a", "b"))
    assert Counter(sample.class_name for sample in kept) == {"a": 2, "b": 10}
    assert kept == sorted(kept, key=found.index) == thinned_classes(found, {"a": 0.24}, ("a", "b"))
    assert thinned_classes(found, {}, ("a", "b")) == found
    with pytest.raises(SettingsError, match="c is no class; they are a, b"):
        thinned_classes(found, {"c": 0.5}, ("a", "b"))
    with pytest.raises(SettingsError, match=r"0\.01 of the 10 samples of a is none"):
        thinned_classes(found, {"a": 0.01}, ("a", "b"))
