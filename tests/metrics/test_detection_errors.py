"""Error breakdown: one of each kind by hand, the sums, the gains."""

from __future__ import annotations

import numpy as np
import pytest
from test_average_precision import random_sequence

from spiketrack.boxes import Boxes
from spiketrack.metrics import average_precision
from spiketrack.metrics.detection_errors import KINDS, DetectionErrors, JudgedDetections, detection_errors
from spiketrack.metrics.greedy import NO_LABEL
from spiketrack.metrics.label_times import LabelTime, label_times
from spiketrack.metrics.protocols import PROTOCOLS

CAR, BUS = 0, 1
NAMES = ("car", "bus")
A, B, C = (0, 0, 10, 10), (100, 0, 110, 10), (200, 0, 210, 10)


def boxes(*rows: tuple[tuple[float, float, float, float], int, float]) -> Boxes:
    return Boxes.of(0, [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def judge(labels: Boxes, detections: Boxes) -> JudgedDetections:
    return JudgedDetections.of([LabelTime(labels, detections)], len(NAMES))


def kinds(judged: JudgedDetections) -> dict[float, str]:
    words = [*KINDS, "right"]  # RIGHT is -1
    return {round(float(score), 2): words[kind] for score, kind in zip(judged.score, judged.kind, strict=True)}


def one_of_each() -> tuple[Boxes, Boxes]:
    """Labels A and B are cars, C is a bus; the overlaps with a box shifted by s of 10 px are (10 - s) / (10 + s)."""
    labels = boxes((A, CAR, 1), (B, CAR, 1), (C, BUS, 1), ((300, 0, 310, 10), CAR, 1))
    detections = boxes(
        (A, CAR, 0.9),  # right
        ((1, 0, 11, 10), CAR, 0.8),  # IoU 9/11 with A, which is taken
        ((106, 0, 116, 10), CAR, 0.7),  # IoU 1/4 with B
        ((201, 0, 211, 10), CAR, 0.6),  # IoU 9/11 with C, a bus
        ((206, 0, 216, 10), CAR, 0.5),  # IoU 1/4 with C only
        ((209, 0, 219, 10), BUS, 0.4),  # IoU 1/19 with C
        ((500, 0, 510, 10), BUS, 0.3),  # nothing
    )
    return labels, detections


def test_one_error_of_each_kind() -> None:
    judged = judge(*one_of_each())
    assert kinds(judged) == {
        0.9: "right",
        0.8: "duplicate",
        0.7: "localisation",
        0.6: "classification",
        0.5: "both",
        0.4: "background",
        0.3: "background",
    }
    about = dict(zip(judged.score.round(2).tolist(), judged.label.tolist(), strict=True))
    assert about == {0.9: 0, 0.8: NO_LABEL, 0.7: 1, 0.6: 2, 0.5: NO_LABEL, 0.4: NO_LABEL, 0.3: NO_LABEL}
    assert judged.label_found.tolist() == [True, False, False, False]
    assert judged.label_near.tolist() == [False, True, True, False]
    assert judged.label_side.tolist() == [10, 10, 10, 10]


def test_counts_of_each_class_and_at_a_threshold() -> None:
    judged = judge(*one_of_each())
    errors = detection_errors(judged, NAMES, None)
    car, bus, total = errors.per_class["car"], errors.per_class["bus"], errors.total
    assert (car.detections, car.right, list(car.kinds.values())) == (5, 1, [1, 1, 1, 0, 1])
    assert (bus.detections, bus.right, list(bus.kinds.values())) == (2, 0, [0, 0, 0, 2, 0])
    assert (car.labels, car.found, car.near, car.missed) == (3, 1, 1, 1)
    assert (bus.labels, bus.found, bus.near, bus.missed) == (1, 0, 1, 0)
    assert (total.labels, total.found, total.near, total.missed) == (4, 1, 2, 1)
    above = detection_errors(judged, NAMES, 0.65).total
    assert (above.detections, above.right, list(above.kinds.values())) == (3, 1, [1, 0, 1, 0, 0])
    assert (above.found, above.near, above.missed) == (1, 1, 2)


def test_a_gain_is_the_ap_without_the_errors() -> None:
    # car: hits at rank 1 of 5, 1 of 3 labels found: recall 1/3, 34 of 101 recall points. bus: none
    errors = detection_errors(judge(*one_of_each()), NAMES, None)
    before = 34 / 101 / 2
    assert errors.ap50 == pytest.approx(before)
    # localisation: 0.7 is right too, rank 3: precision 2/3 up to recall 2/3, the 67th of 101 points
    assert errors.ap50_gain["localisation"] == pytest.approx((34 + 33 * 2 / 3) / 101 / 2 - before)
    # classification: 0.6 becomes the bus it is, first of the three detections of a bus: AP 1
    assert errors.ap50_gain["classification"] == pytest.approx((34 / 101 + 1) / 2 - before)
    # duplicates, others: what stands behind the only hit does not matter
    assert [errors.ap50_gain[name] for name in ("duplicate", "background", "both")] == [0, 0, 0]
    # missed: one car fewer to find: recall 1/2, 51 of 101 points
    assert errors.ap50_gain["missed"] == pytest.approx(51 / 101 / 2 - before)


def test_false_alarms_above_a_hit_cost_precision() -> None:
    labels = boxes((A, CAR, 1))
    detections = boxes(((50, 50, 60, 60), CAR, 0.9), (A, CAR, 0.8))
    errors = detection_errors(judge(labels, detections), NAMES, None)
    assert (errors.ap50, errors.ap50_gain["background"]) == pytest.approx((0.5, 0.5))


def test_two_errors_about_one_label_repair_it_once() -> None:
    detections = boxes(((5, 0, 15, 10), CAR, 0.9), ((6, 0, 16, 10), CAR, 0.8))
    errors = detection_errors(judge(boxes((A, CAR, 1)), detections), NAMES, None)
    assert (errors.total.kinds["localisation"], errors.total.near) == (2, 1)
    assert (errors.ap50, errors.ap50_gain["localisation"]) == pytest.approx((0, 1))


def test_the_edges_of_the_ranges() -> None:
    half, tenth = (0, 0, 10, 5), (0, 0, 10, 1)  # IoU exactly 1/2 and 1/10 with A
    assert kinds(judge(boxes((A, CAR, 1)), boxes((half, CAR, 0.9)))) == {0.9: "right"}
    assert kinds(judge(boxes((A, CAR, 1)), boxes((half, BUS, 0.9)))) == {0.9: "classification"}
    assert kinds(judge(boxes((A, CAR, 1)), boxes((tenth, CAR, 0.9)))) == {0.9: "localisation"}
    assert kinds(judge(boxes((A, CAR, 1)), boxes((tenth, BUS, 0.9)))) == {0.9: "both"}


def check_sums(errors: DetectionErrors) -> None:
    for row in (errors.total, *errors.per_class.values()):
        assert row.right + sum(row.kinds.values()) == row.detections
        assert row.found + row.near + row.missed == row.labels
        assert row.right == row.found
    for field in ("detections", "right", "labels", "found", "near", "missed"):
        assert sum(getattr(row, field) for row in errors.per_class.values()) == getattr(errors.total, field)


@pytest.mark.parametrize("seed", range(4))
def test_everything_is_accounted_for_and_ap50_is_cocos(seed: int) -> None:
    names = ("a", "b", "c")
    pairs = [random_sequence(seed), random_sequence(seed + 10, grid=True)]
    scores = average_precision(pairs, names, "unfiltered")
    images = label_times(pairs, PROTOCOLS["unfiltered"]).images
    judged = JudgedDetections.of(images, 3)
    for threshold in (None, scores.score_threshold, 0.9, 2.0):
        check_sums(detection_errors(judged, names, threshold))
    errors = detection_errors(judged, names, scores.score_threshold)
    assert errors.ap50 == pytest.approx(scores.ap50, abs=1e-9)
    assert min(errors.ap50_gain.values()) >= -1e-9
    for name, row in errors.per_class.items():
        scored = scores.per_class[name]
        assert scored is not None
        assert row.found / row.labels == pytest.approx(scored.recall)
        assert row.right / row.detections == pytest.approx(scored.precision)


@pytest.mark.parametrize(
    ("seed", "kinds", "missed", "gains"),
    [
        (0, (16, 8, 3, 35, 16), 13, (0.07931, 0.00782, 0.10802, 0.04154)),
        (1, (8, 5, 1, 40, 21), 13, (0.02398, 0.00065, 0.14928, 0.04762)),
        (2, (14, 7, 3, 39, 13), 15, (None, 0.00490, 0.11120, 0.03968)),
        (3, (12, 11, 3, 33, 18), 11, (0.08865, 0.00721, 0.09905, 0.04281)),
    ],
)
def test_as_tidecv_has_them(seed: int, kinds: tuple, missed: int, gains: tuple) -> None:
    """Figures of tidecv 1.0.1. None: there it repairs a label once for both kinds of error, here once for each."""
    images = label_times([random_sequence(seed)], PROTOCOLS["unfiltered"]).images
    errors = detection_errors(JudgedDetections.of(images, 3), ("a", "b", "c"), None)
    assert (tuple(errors.total.kinds.values()), errors.total.missed) == (kinds, missed)
    for name, gain in zip(KINDS[1:], gains, strict=True):
        if gain is not None:
            assert errors.ap50_gain[name] == pytest.approx(gain, abs=6e-6)


def test_nothing_to_judge() -> None:
    none = detection_errors(JudgedDetections.of([], 2), NAMES, None)
    check_sums(none)
    assert (none.total.detections, none.total.labels, none.ap50) == (0, 0, 0)
    silent = detection_errors(judge(boxes((A, CAR, 1)), Boxes.empty()), NAMES, None)
    check_sums(silent)
    assert (silent.total.missed, silent.ap50, silent.ap50_gain["missed"]) == (1, 0, 1)
    empty_scene = judge(Boxes.empty(), boxes((A, CAR, 0.5)))
    assert kinds(empty_scene) == {0.5: "background"}
    assert np.array_equal(empty_scene.above(0.6).score, [])
