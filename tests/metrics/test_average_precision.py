"""Average precision: by hand, against pycocotools, and the acceptance test of the Prophesee protocol."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.errors import LabelError, SettingsError, SpiketrackError
from spiketrack.metrics import (
    PROTOCOLS,
    DetectionScores,
    Protocol,
    average_precision,
    counted,
    label_period_us,
    protocol_named,
)

SQUARE = (10, 10, 60, 60)
FAR = (200, 10, 250, 60)


def random_sequence(
    seed: int, classes: int = 3, times: int = 12, per_time: int = 6, grid: bool = False
) -> tuple[str, Boxes, Boxes]:
    """Labels, and detections that miss some, shift the others, confuse classes and invent a few."""
    rng = np.random.default_rng(seed)
    n = times * per_time
    t = np.repeat(np.arange(times) * 33_333, per_time)
    corner, side = rng.uniform(0, 200, (n, 2)), rng.uniform(15, 80, (n, 2))
    if grid:  # whole pixels make exact IoU such as 1/2 and equal IoU
        corner, side = corner.round(-1), side.round(-1)
    xyxy = np.c_[corner, corner + side]
    class_id = rng.integers(0, classes, n)
    keep = rng.random(n) < 0.8
    shift = rng.normal(0, 4, (n, 4)).round() if grid else rng.normal(0, 4, (n, 4))
    moved = np.sort((xyxy + shift).reshape(n, 2, 2), axis=1).reshape(n, 4)
    confused = np.where(rng.random(n) < 0.9, class_id, rng.integers(0, classes, n))
    found = [
        Boxes.of(t[keep], moved[keep], confused[keep], rng.random(keep.sum())),
        Boxes.of(t, xyxy[rng.permutation(n)], rng.integers(0, classes, n), rng.random(n)),
    ]
    return f"sequence {seed}", Boxes.of(t, xyxy, class_id), Boxes.concatenate(found)


def score(labels: Boxes, detections: Boxes, names: list[str], tolerance_us: int | None = None) -> DetectionScores:
    return average_precision([("one", labels, detections)], names, Protocol("by hand", tolerance_us=tolerance_us))


def test_one_hit_one_miss_one_false_alarm_by_hand() -> None:
    labels = Boxes.of(0, [SQUARE, FAR], 0)
    # score 0.9 hits (IoU 1), 0.8 is nowhere, 0.7 covers half of the second label: IoU exactly 0.5
    detections = Boxes.of(0, [SQUARE, (0, 200, 40, 240), (200, 10, 225, 60)], 0, [0.9, 0.8, 0.7])
    scores = score(labels, detections, ["car"])
    # recall 0.5 at precision 1, recall 1 at precision 2/3: 51 recall points (0 .. 0.50) at 1 and 50 at 2/3
    assert scores.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)
    assert scores.ap75 == pytest.approx(51 / 101, abs=1e-12)
    assert scores.map == pytest.approx((scores.ap50 + 9 * 51 / 101) / 10, abs=1e-12)
    car = scores.per_class["car"]
    assert car is not None
    assert car.curve.score == pytest.approx([0.9, 0.8, 0.7], abs=1e-7)
    assert car.curve.precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert car.curve.recall == pytest.approx([1 / 2, 1 / 2, 1])
    # F1 at the three thresholds: 2/3, 1/2, 4/5
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((2 / 3, 1, 4 / 5))
    assert scores.score_threshold == pytest.approx(0.7, abs=1e-7)
    assert (scores.label_times, scores.labels, scores.detections, scores.detections_elsewhere) == (1, 2, 3, 0)
    assert scores.warnings == ()


def test_detections_with_equal_scores_enter_the_curve_together() -> None:
    detections = Boxes.of(0, [SQUARE, FAR, (0, 200, 40, 240)], 0, [0.5, 0.5, 0.5])
    car = score(Boxes.of(0, [SQUARE, FAR], 0), detections, ["car"]).per_class["car"]
    assert car is not None
    assert (car.curve.score.tolist(), car.curve.recall.tolist()) == ([0.5], [1.0])
    assert car.curve.precision == pytest.approx([2 / 3])


def test_of_two_equally_good_labels_the_last_is_taken_as_coco_does() -> None:
    labels = Boxes.of(0, [(5, 0, 25, 10), (15, 0, 35, 10)], 0)
    # the first detection has IoU 15/25 with both; the second could only have had the last label
    detections = Boxes.of(0, [(10, 0, 30, 10), (20, 0, 40, 10)], 0, [0.9, 0.8])
    scores = score(labels, detections, ["car"])
    car = scores.per_class["car"]
    assert car is not None
    assert scores.ap50 == pytest.approx(51 / 101, abs=1e-12)
    assert car.curve.recall.tolist() == [0.5, 0.5]


def test_classes_without_labels_are_none_and_enter_no_mean() -> None:
    labels = Boxes.of(0, [SQUARE], 1)
    detections = Boxes.of(0, [SQUARE, SQUARE], [0, 1], [0.9, 0.9])
    scores = score(labels, detections, ["pedestrian", "car", "tram"])
    assert scores.per_class["pedestrian"] is None
    assert scores.per_class["tram"] is None
    assert scores.map == 1
    assert scores.f1 == 1
    assert any("'pedestrian'" in warning and "1 detections" in warning for warning in scores.warnings)


def test_time_matters_and_times_without_labels_count_nowhere() -> None:
    labels = Boxes.of(100_000, [SQUARE], 0)
    near = Boxes.of([99_990, 100_010, 100_011], np.tile(SQUARE, (3, 1)), 0, [0.9, 0.8, 0.7])
    exact = score(labels, near, ["car"])
    assert (exact.map, exact.detections, exact.detections_elsewhere) == (0, 0, 3)
    assert exact.score_threshold is None
    assert "no detection at any of the 1 label times (3 detections at other times)" in exact.warnings[-1]
    within = score(labels, near, ["car"], tolerance_us=10)  # both ends inclusive
    assert (within.map, within.detections, within.detections_elsewhere) == (1, 2, 1)


def test_no_detections_at_all_score_zero_and_say_so() -> None:
    scores = score(Boxes.of(0, [SQUARE], 0), Boxes.empty(), ["car"])
    assert (scores.map, scores.ap50, scores.precision, scores.recall, scores.f1) == (0, 0, 0, 0, 0)
    assert "all scores are 0" in scores.warnings[0]


def test_nothing_left_to_evaluate_is_an_error_that_says_why() -> None:
    small = Boxes.of(600_000, [(0, 0, 12, 12)], 0)
    with pytest.raises(LabelError, match=r"of 1 labels in 1 sequences none is left under protocol prophesee-gen1"):
        average_precision([("one", small, small)], ["car"], "prophesee-gen1")
    with pytest.raises(LabelError, match="of 0 labels in 0 sequences"):
        average_precision([], ["car"], "unfiltered")


def test_filter_holds_for_detections_too() -> None:
    labels = Boxes.of(600_000, [SQUARE], 0)
    detections = Boxes.of(600_000, [SQUARE, (0, 0, 9, 90)], 0, [0.5, 0.9])
    scores = average_precision([("one", labels, detections)], ["car"], "prophesee-gen1")
    assert (scores.map, scores.detections) == (1, 1)


def test_bad_input_is_named() -> None:
    boxes = Boxes.of(7, [SQUARE], 2)
    fits = Boxes.of(7, [SQUARE], 0)
    with pytest.raises(LabelError, match=r"labels of sequence 'a': class 2 at 7 us, but the class list has 1 names"):
        average_precision([("a", boxes, fits)], ["car"], "unfiltered")
    with pytest.raises(SpiketrackError, match="detections of sequence 'a': class 2"):
        average_precision([("a", fits, boxes)], ["car"], "unfiltered")
    with pytest.raises(SpiketrackError, match="sequence 'a' is given twice"):
        average_precision([("a", fits, fits), ("a", fits, fits)], ["car"], "unfiltered")
    with pytest.raises(SettingsError, match="class names must be distinct"):
        average_precision([("a", fits, fits)], ["car", "car"], "unfiltered")


def test_library_is_silent_and_leaves_its_input_alone(capfd: pytest.CaptureFixture[str]) -> None:
    name, labels, detections = random_sequence(1)
    before = [column.copy() for column in (labels.t, labels.xyxy, detections.xyxy, detections.score)]
    average_precision([(name, labels, detections)], ["a", "b", "c"], "unfiltered")
    assert capfd.readouterr() == ("", "")
    for old, new in zip(before, (labels.t, labels.xyxy, detections.xyxy, detections.score), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize(
    ("seed", "grid", "protocol"),
    [
        (1, False, protocol_named("unfiltered")),
        (2, True, protocol_named("unfiltered")),
        (3, False, Protocol("filtered", min_diagonal=50, min_side=20, skip_us=0)),
        (4, True, protocol_named("unfiltered", tolerance_us=40_000)),
    ],
)
def test_parity_with_pycocotools(seed: int, grid: bool, protocol: Protocol) -> None:
    sequences = [random_sequence(10 * seed + i, grid=grid, per_time=6 + 10 * i) for i in range(3)]
    scores = average_precision(sequences, ["a", "b", "c"], protocol)
    theirs = pycocotools_precision(sequences, 3, protocol)  # (10, 101, 3)
    assert scores.map == pytest.approx(theirs.mean(), abs=1e-12)
    assert scores.ap50 == pytest.approx(theirs[0].mean(), abs=1e-12)
    assert scores.ap75 == pytest.approx(theirs[5].mean(), abs=1e-12)
    assert 0.05 < scores.map < 0.95
    for i, name in enumerate("abc"):
        of_class = scores.per_class[name]
        assert of_class is not None
        assert of_class.map == pytest.approx(theirs[:, :, i].mean(), abs=1e-12)
        assert of_class.ap50 == pytest.approx(theirs[0, :, i].mean(), abs=1e-12)
        if protocol.tolerance_us:
            continue  # one detection in several images: equal scores, which COCO takes one after the other
        # our own matching must give the very curve that average precision is the area of
        assert interpolated(of_class.curve.recall, of_class.curve.precision) == pytest.approx(
            theirs[0, :, i], abs=1e-12
        )


def test_only_the_best_hundred_detections_of_an_image_count() -> None:
    labels = Boxes.of(0, [SQUARE, FAR], 0)
    # FAR is found by detection 101: too late
    boxes = [SQUARE, *[(0, 300, 30, 330)] * 99, FAR]
    detections = Boxes.of(0, boxes, 0, np.linspace(1, 0.1, 101))
    scores = score(labels, detections, ["car"])
    car = scores.per_class["car"]
    assert car is not None
    assert scores.ap50 == pytest.approx(51 / 101, abs=1e-12)
    assert car.curve.recall[-1] == 0.5
    assert len(car.curve.score) == 100


def test_threshold_of_best_mean_f1_against_brute_force() -> None:
    scores = average_precision([random_sequence(5)], ["a", "b", "c"], "unfiltered")
    curves = [row.curve for row in scores.per_class.values() if row is not None]

    def mean_f1(threshold: float) -> float:
        f1 = []
        for curve in curves:
            entered = np.flatnonzero(curve.score >= threshold)
            p, r = (curve.precision[entered[-1]], curve.recall[entered[-1]]) if len(entered) else (0.0, 0.0)
            f1.append(2 * p * r / (p + r) if p + r else 0.0)
        return float(np.mean(f1))

    every = np.concatenate([curve.score for curve in curves])
    assert scores.f1 == pytest.approx(max(map(mean_f1, every)), abs=1e-12)
    assert scores.score_threshold is not None
    assert mean_f1(scores.score_threshold) == pytest.approx(scores.f1, abs=1e-12)


@pytest.mark.real_data
@pytest.mark.parametrize(("tolerance_us", "warned"), [(None, False), (16_000, False), (25_000, True)])
def test_acceptance_labels_as_their_own_detections_are_perfect(
    real_data: Path, tolerance_us: int | None, warned: bool
) -> None:
    scores = acceptance(real_data, tolerance_us, seed=0)
    assert (scores.map, scores.ap50, scores.labels, scores.label_times) == (1.0, 1.0, 1095, 739)
    assert bool(scores.warnings) == warned


@pytest.mark.real_data
def test_acceptance_a_wide_tolerance_lets_neighbouring_label_times_in(real_data: Path) -> None:
    scores = acceptance(real_data, 50_000, seed=0)
    # published with this very generator: 0.738 and 0.796; seeds 0 .. 3 give map 0.714 to 0.772
    assert scores.map == pytest.approx(0.738, abs=5e-4)
    assert scores.ap50 == pytest.approx(0.796, abs=5e-4)
    assert "half the label period of 33333 us" in scores.warnings[0]
    assert acceptance(real_data, 50_000, seed=1).map == pytest.approx(0.738, abs=0.03)


def acceptance(real_data: Path, tolerance_us: int | None, seed: int) -> DetectionScores:
    rows = np.load(real_data / "labels" / "etram_val_day_014_bbox.npy")
    xyxy = np.c_[rows["x"], rows["y"], rows["x"] + rows["w"], rows["y"] + rows["h"]]
    labels = Boxes.of(rows["t"], xyxy, rows["class_id"])
    random = np.random.default_rng(seed).random(len(rows))
    detections = Boxes.of(rows["t"], xyxy, rows["class_id"], random)
    assert label_period_us(labels) == 33_333
    protocol = protocol_named("prophesee-1mpx", tolerance_us)
    return average_precision([("val_day_014", labels, detections)], ["pedestrian", "car"], protocol)


def interpolated(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """Best precision at or beyond each of the 101 recalls, 0 where the curve does not reach."""
    best = np.r_[np.maximum.accumulate(precision[::-1])[::-1], 0.0]
    return best[np.searchsorted(recall, np.linspace(0, 1, 101), side="left")]


def pycocotools_precision(sequences: list[tuple[str, Boxes, Boxes]], classes: int, protocol: Protocol) -> np.ndarray:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    tolerance = protocol.tolerance_us or 0
    truth, found, images = [], [], 0
    for _, labels, detections in sequences:
        labels, detections = counted(labels, protocol), counted(detections, protocol)
        for time in np.unique(labels.t):
            images += 1
            then = np.abs(detections.t - time) <= tolerance
            for boxes, rows in ((labels[labels.t == time], truth), (detections[then], found)):
                for xyxy, class_id, box_score in zip(boxes.xyxy, boxes.class_id, boxes.score, strict=True):
                    x, y, right, bottom = map(float, xyxy)
                    rows.append(
                        {
                            "id": len(rows) + 1,
                            "image_id": images,
                            "category_id": int(class_id) + 1,
                            "bbox": [x, y, right - x, bottom - y],
                            "area": (right - x) * (bottom - y),
                            "iscrowd": 0,
                            "score": float(box_score),
                        }
                    )
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco.COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": i + 1} for i in range(images)],
            "categories": [{"id": i + 1, "name": str(i)} for i in range(classes)],
            "annotations": truth,
        }
        reference.createIndex()
        evaluator = cocoeval.COCOeval(reference, reference.loadRes(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0, -1]


def test_protocol_names_are_those_documented() -> None:
    assert list(PROTOCOLS) == [
        "prophesee-gen1",
        "rvt-gen1",
        "prophesee-1mpx",
        "prophesee-etram",
        "cordone",
        "unfiltered",
    ]
