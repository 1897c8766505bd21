"""COCO's evaluation of images by faster-coco-eval, whose numbers are those of pycocotools."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.metrics.greedy import MAX_DETECTIONS
from spiketrack.metrics.label_times import LabelTime

EVERY_AREA = ((0.0, 1e10),)

_log = logging.getLogger(__name__)


class CocoArrays(NamedTuple):
    """precision: (10, 101, C, A) at IoU .50:.05:.95 and 101 recalls; recall: (10, C, A), the highest.

    C labelled classes, A ranges of area; -1 where a class has no label of that area.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def coco_arrays(
    images: Sequence[LabelTime],
    labelled: NDArray[np.int64],
    areas: Sequence[tuple[float, float]] = EVERY_AREA,
) -> CocoArrays:
    """Interpolated precision and recall of the classes `labelled`, for objects within each range of area (pixels^2)."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(
        {
            "images": [{"id": i} for i in range(1, len(images) + 1)],
            "categories": [{"id": int(class_id) + 1, "name": str(class_id)} for class_id in labelled],
            "annotations": _annotations([image.labels for image in images], labelled),
        },
        print_function=_log.debug,
    )
    found = truth.loadRes(_annotations([image.detections for image in images], labelled))
    evaluator = COCOeval_faster(truth, found, iouType="bbox", print_function=_log.debug)
    evaluator.params.maxDets = [1, 10, MAX_DETECTIONS]
    evaluator.params.areaRng = [list(area) for area in areas]
    evaluator.params.areaRngLbl = [str(i) for i in range(len(areas))]
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = (np.asarray(evaluator.eval[key], np.float64) for key in ("precision", "recall"))
    return CocoArrays(precision[..., -1], recall[..., -1])


def _annotations(images: list[Boxes], labelled: NDArray[np.int64]) -> list[dict[str, Any]]:
    """COCO annotations of the labelled classes; ids count from 1, since COCO's matcher takes id 0 for no match."""
    annotations = []
    for image_id, boxes in enumerate(images, start=1):
        corners = boxes.xyxy.astype(np.float64)
        xywh = np.c_[corners[:, :2], corners[:, 2:] - corners[:, :2]]
        for i in np.flatnonzero(np.isin(boxes.class_id, labelled)):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(boxes.class_id[i]) + 1,
                    "bbox": xywh[i].tolist(),
                    "area": float(xywh[i, 2] * xywh[i, 3]),
                    "iscrowd": 0,
                    "score": float(boxes.score[i]),
                }
            )
    return annotations
