"""Timelines: by hand, and the same matches as CLEAR MOT counts."""

from __future__ import annotations

import numpy as np
import pytest

from spiketrack.boxes import NO_TRACK, Boxes
from spiketrack.metrics import tracking_scores
from spiketrack.metrics.timelines import Span, StrayTrack, track_timelines

HERE, THERE = (0, 0, 10, 10), (100, 0, 110, 10)


def test_a_lost_and_a_switched_object_by_hand() -> None:
    labels = Boxes.of([0, 10, 20, 30, 40], 5 * [HERE], 0, None, 5 * [7])
    tracks = Boxes.of([0, 10, 30, 30, 40], [HERE, HERE, HERE, THERE, HERE], 0, None, [1, 1, 2, 3, 2])
    (line,), strays = track_timelines(labels, tracks, 1)
    assert (line.label_id, line.class_id, line.switches, line.times, line.tracked) == (7, 0, 1, 5, 4)
    assert line.spans == (Span(1, 0, 10, 2), Span(NO_TRACK, 20, 20, 1), Span(2, 30, 40, 2))
    assert strays == [StrayTrack(3, 0, 30, 30, 1)]


def test_boxes_of_another_class_or_time_and_empty_times() -> None:
    labels = Boxes.of([0, 10], [HERE, HERE], [0, 0], None, [1, 1])
    tracks = Boxes.of([0, 5, 20], 3 * [HERE], [1, 0, 0], None, [4, 5, 6])
    (line,), strays = track_timelines(labels, tracks, 2)
    assert (line.tracked, [stray.track_id for stray in strays]) == (0, [4])  # 20 is no label time
    _, strays = track_timelines(labels, tracks, 2, np.array([20]))
    assert [stray.track_id for stray in strays] == [6, 4]
    assert track_timelines(Boxes.empty(), Boxes.empty(), 2) == ([], [])


@pytest.mark.parametrize("seed", range(5))
def test_the_matches_are_those_of_clear(seed: int) -> None:
    rng = np.random.default_rng(seed)
    t, identity = (part.ravel() for part in np.meshgrid(10 * np.arange(20), np.arange(6), indexing="ij"))
    corner = rng.uniform(0, 25, (len(t), 2))
    labels = Boxes.of(t, np.c_[corner, corner + 20], identity % 2, None, identity)
    kept = rng.random(len(t)) < 0.7
    shifted = labels.xyxy[kept] + rng.normal(0, 3, (kept.sum(), 1)).astype(np.float32)
    lives = identity[kept] + 6 * (t[kept] > 90) * rng.integers(0, 2, kept.sum())
    tracks = Boxes.of(t[kept], shifted, identity[kept] % 2, None, lives)
    timelines, strays = track_timelines(labels, tracks, 2)
    score = tracking_scores([("one", labels, tracks)], ("a", "b")).detection_average
    assert sum(line.tracked for line in timelines) == score.tp
    assert sum(line.times - line.tracked for line in timelines) == score.fn
    assert sum(stray.boxes for stray in strays) == score.fp
    assert sum(line.switches for line in timelines) == score.idsw > 0
    assert len(timelines) == score.label_identities == 6
