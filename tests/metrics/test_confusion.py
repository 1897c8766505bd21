"""Confusion matrix: by hand, its sums, nothing at all."""

from __future__ import annotations

import numpy as np
import pytest
from test_average_precision import random_sequence

from spiketrack.boxes import Boxes
from spiketrack.metrics.confusion import confusion
from spiketrack.metrics.label_times import LabelTime, label_times
from spiketrack.metrics.protocols import PROTOCOLS

NAMES = ("car", "bus")


def test_by_hand() -> None:
    labels = Boxes.of(0, [(0, 0, 10, 10), (100, 0, 110, 10), (200, 0, 210, 10)], [0, 0, 1])
    detections = Boxes.of(
        0,
        [(0, 0, 10, 10), (1, 0, 11, 10), (101, 0, 111, 10), (206, 0, 216, 10)],
        [0, 0, 1, 1],  # right; the same label again; a car seen as bus; IoU 1/4 with the bus
        [0.5, 0.9, 0.8, 0.7],
    )
    assert confusion([LabelTime(labels, detections)], NAMES).counts.tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    # without the better fitting box, the other one takes the label
    found = confusion([LabelTime(labels, detections)], NAMES, 0.6)
    assert found.counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert found.score_threshold == 0.6


def test_of_equal_overlaps_the_right_class_comes_first() -> None:
    label = Boxes.of(0, [(0, 0, 10, 10)], [1])
    twins = Boxes.of(0, [(0, 0, 10, 10), (0, 0, 10, 10)], [0, 1], [0.9, 0.1])
    assert confusion([LabelTime(label, twins)], NAMES).counts.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_rows_sum_to_labels_and_columns_to_detections(threshold: float | None) -> None:
    name, labels, detections = random_sequence(1)
    counts = confusion(
        label_times([(name, labels, detections)], PROTOCOLS["unfiltered"]).images, ("a", "b", "c"), threshold
    ).counts
    seen = detections if threshold is None else detections[detections.score >= threshold]
    assert counts[:3].sum(axis=1).tolist() == np.bincount(labels.class_id, minlength=3).tolist()
    assert counts[:, :3].sum(axis=0).tolist() == np.bincount(seen.class_id, minlength=3).tolist()
    assert counts[3, 3] == 0
    assert np.trace(counts[:3, :3]) > len(labels) / 3


def test_nothing() -> None:
    assert confusion([], NAMES).counts.tolist() == np.zeros((3, 3)).tolist()
    assert confusion([LabelTime(Boxes.empty(), Boxes.empty())], NAMES, 0.5).counts.sum() == 0
