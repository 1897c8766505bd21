"""When labels are written and which objects get one."""

import numpy as np
import pytest

from spiketrack.simulation.labels import LabelSettings, label_times, labels_between
from spiketrack.simulation.motion import Canvas, Track

TRACK = Track(7, 0, 10**9, (0.0, 0.0), (1.0, 0.0), 0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("start_us", "end_us", "times"),
    [
        (0, 100_000, [33_333, 66_666, 99_999]),
        (33_333, 66_666, [33_333]),
        (33_334, 66_667, [66_666]),
        (0, 33_333, []),
        (0, 1, []),
    ],
)
def test_label_times_by_hand(start_us, end_us, times):
    assert label_times(33_333, start_us, end_us).tolist() == times


def one_label(box, visible=1.0, **settings):
    settings = LabelSettings(period_us=1000, **settings)
    return labels_between(settings, Canvas(100, 80), 1000, 1001, lambda _: [(TRACK, 2, box, visible)])


def test_a_box_is_clipped_to_the_canvas_and_keeps_its_identity():
    labels = one_label((-4.5, 70.0, 12.0, 95.0))
    np.testing.assert_array_equal(labels.xyxy, np.float32([[0, 70, 12, 80]]))
    assert (labels.t[0], labels.class_id[0], labels.track_id[0], labels.score[0]) == (1000, 2, 7, 1)


@pytest.mark.parametrize(
    ("box", "visible", "count"),
    [
        ((10, 10, 20, 20), 0.3, 1),
        ((10, 10, 20, 20), 0.29, 0),
        ((-14, 10, 6, 20), 1.0, 1),  # 6 px left, the least
        ((-14, 10, 5.9, 20), 1.0, 0),
        ((-30, 10, -10, 20), 1.0, 0),  # off the canvas
    ],
)
def test_what_deserves_a_label(box, visible, count):
    assert len(one_label(box, visible, min_visible=0.3, min_side_px=6)) == count


def test_nothing_off_the_canvas_is_labelled_even_without_limits():
    assert len(one_label((-30, 10, -10, 20), 0.0, min_visible=0, min_side_px=0)) == 0
