"""Scores by size: COCO's against pycocotools, recall by side by hand and in its sums."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from test_average_precision import random_sequence

from spiketrack.boxes import Boxes
from spiketrack.metrics.detection_errors import JudgedDetections
from spiketrack.metrics.label_times import LabelTime, label_times
from spiketrack.metrics.protocols import PROTOCOLS
from spiketrack.metrics.recall_by_size import SIDE_EDGES, recall_by_side, scores_by_size


def random_images(seed: int) -> list[LabelTime]:
    """Boxes of all three sizes."""
    pairs = []
    for scale in (0.5, 1.0, 3.0):
        name, labels, found = random_sequence(seed)
        scaled = (Boxes.of(b.t, scale * b.xyxy, b.class_id, b.score) for b in (labels, found))
        pairs.append((f"{name} {scale}", *scaled))
    return label_times(pairs, PROTOCOLS["unfiltered"]).images


def pycocotools_by_size(images: list[LabelTime], classes: int) -> tuple[np.ndarray, np.ndarray]:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")

    def rows(kind: str) -> list[dict]:
        found = []
        for image_id, image in enumerate(images, start=1):
            part = getattr(image, kind)
            for box, class_id, score in zip(part.xyxy.astype(float), part.class_id, part.score, strict=True):
                left, top, right, bottom = box.tolist()
                size = (right - left, bottom - top)
                found.append(
                    {
                        "id": len(found) + 1,
                        "image_id": image_id,
                        "category_id": int(class_id) + 1,
                        "bbox": [left, top, *size],
                        "area": size[0] * size[1],
                        "iscrowd": 0,
                        "score": float(score),
                    }
                )
        return found

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(1, len(images) + 1)],
            "categories": [{"id": c + 1} for c in range(classes)],
            "annotations": rows("labels"),
        }
        truth.createIndex()
        evaluator = cocoeval.COCOeval(truth, truth.loadRes(rows("detections")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][..., 1:, 2], evaluator.eval["recall"][..., 1:, 2]  # small, medium, large


@pytest.mark.parametrize("seed", range(3))
def test_as_pycocotools_has_them(seed: int) -> None:
    images = random_images(seed)
    precision, recall = pycocotools_by_size(images, 3)
    for i, scores in enumerate(scores_by_size(images, 3).values()):
        assert scores.labels > 0
        expected = [values[values > -1].mean() for values in (precision[..., i], precision[0, ..., i])]
        expected += [values[values > -1].mean() for values in (recall[..., i], recall[0, ..., i])]
        assert [scores.ap, scores.ap50, scores.recall, scores.recall50] == pytest.approx(expected, abs=1e-9)


def test_recall_by_side_by_hand() -> None:
    # sides 4, 8 and 20 px; the first and the last are found, the last by a low score
    labels = Boxes.of(0, [(0, 0, 4, 4), (50, 0, 66, 4), (100, 0, 120, 20)], [0, 0, 1])
    images = [LabelTime(labels, Boxes.of(0, labels.xyxy[[0, 2]], [0, 1], [0.9, 0.2]))]
    judged = JudgedDetections.of(images, 2)
    every, high = recall_by_side(judged, 2, None), recall_by_side(judged, 2, 0.5)
    assert every.labels.tolist() == high.labels.tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    assert every.found.tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]]
    assert high.found.tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_every_label_has_one_side() -> None:
    images = random_images(5)
    judged = JudgedDetections.of(images, 3)
    found = recall_by_side(judged, 3, 0.3)
    assert found.labels.sum() == sum(len(image.labels) for image in images)
    assert found.found.sum() == judged.above(0.3).label_found.sum()
    assert (found.found <= found.labels).all()
    assert found.labels.shape == (3, len(SIDE_EDGES) - 1)


def test_sizes_without_labels_are_undefined() -> None:
    label = Boxes.of(0, [(0, 0, 10, 10)], [0])
    scores = scores_by_size([LabelTime(label, label)], 2)
    assert (scores["small"].labels, scores["small"].ap, scores["small"].recall) == pytest.approx((1, 1, 1))
    assert (scores["large"].labels, math.isnan(scores["large"].ap), math.isnan(scores["large"].recall50)) == (
        0,
        True,
        True,
    )
    assert all(math.isnan(row.ap) and row.labels == 0 for row in scores_by_size([], 2).values())
    silent = scores_by_size([LabelTime(label, Boxes.empty())], 2)["small"]
    assert (silent.labels, silent.ap, silent.recall) == (1, 0, 0)
