"""Decoding: from raw predictions to Boxes, and non-maximum suppression.

Station: the border between torch and NumPy after the network. In come Predictions in input pixels, out go Boxes in
sensor pixels, one record per time step and stream.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spiketrack.boxes import Boxes
from spiketrack.detector.spikeyolo import REG_MAX, Predictions


class DecodeSettings(BaseModel):
    """How raw predictions become detections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float = Field(0.01, ge=0, le=1, description="least score of a detection")
    nms_iou: float = Field(0.6, gt=0, le=1, description="a box that overlaps a better one of its class more is dropped")
    max_candidates: int = Field(1000, ge=1, description="highest scores per time step that enter suppression")
    max_boxes: int = Field(100, ge=1, description="most detections per time step")


def expected_sides(logits: Tensor) -> Tensor:
    """Expectation of the four side distributions (DFL): (..., 4 * 16) logits to (..., 4) in strides, range 0 .. 15."""
    bins = torch.arange(REG_MAX, dtype=logits.dtype, device=logits.device)
    return logits.unflatten(-1, (4, REG_MAX)).softmax(-1) @ bins


def sides_to_boxes(sides: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Left, top, right, bottom in strides (..., A, 4) to xyxy in input pixels."""
    sides = sides * strides[:, None]
    return torch.cat([points - sides[..., :2], points + sides[..., 2:]], dim=-1)


@torch.no_grad()
def decode(
    predictions: Predictions,
    times_us: NDArray[np.int64],
    settings: DecodeSettings,
    *,
    scale: tuple[float, float],
    sensor: tuple[int, int],
) -> list[list[Boxes]]:
    """Detections of every time step t and stream b: result[t][b], clipped to the sensor, best score first.

    times_us: (T, B), the time that the detections of a step get, the end of its slice. scale: sensor pixels per
    input pixel in x and y. sensor: (width, height). A prediction that is not finite raises ValueError.
    """
    features = predictions.features
    if not torch.isfinite(features).all():
        raise ValueError("decode: the network's predictions are not finite; its weights or its input are broken")
    steps, batch = features.shape[:2]
    scores = features[..., 4 * REG_MAX :].sigmoid()  # (T, B, A, K)
    return [
        [
            _decode_one(features[t, b], scores[t, b], predictions, int(times_us[t, b]), settings, scale, sensor)
            for b in range(batch)
        ]
        for t in range(steps)
    ]


def _decode_one(
    features: Tensor,
    scores: Tensor,
    predictions: Predictions,
    time_us: int,
    settings: DecodeSettings,
    scale: tuple[float, float],
    sensor: tuple[int, int],
) -> Boxes:
    """One time step of one stream. features: (A, 4 * 16 + K), scores: (A, K)."""
    flat = scores.flatten()
    candidates = torch.nonzero(flat >= settings.score).squeeze(1)
    best = flat[candidates].topk(min(len(candidates), settings.max_candidates))  # sorted, best first
    candidates = candidates[best.indices]
    place, class_id = candidates // scores.shape[1], candidates % scores.shape[1]
    sides = expected_sides(features[place, : 4 * REG_MAX])
    xyxy = sides_to_boxes(sides, predictions.points[place], predictions.strides[place]).float().cpu().numpy()
    xyxy = to_sensor(xyxy, scale, sensor)
    score, class_id = best.values.float().cpu().numpy(), class_id.cpu().numpy()
    keep = non_maximum_suppression(xyxy, score, class_id, settings.nms_iou)[: settings.max_boxes]
    return Boxes.of(time_us, xyxy[keep], class_id[keep], score[keep])


def to_sensor(xyxy: NDArray[np.float32], scale: tuple[float, float], sensor: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes (..., 4) in input pixels as sensor pixels, clipped to the sensor; see `decode` for scale and sensor."""
    return np.clip(xyxy * np.array([*scale, *scale], np.float32), 0, np.array([*sensor, *sensor], np.float32))


def non_maximum_suppression(
    xyxy: NDArray[np.float32], score: NDArray[np.float32], class_id: NDArray[np.integer], max_iou: float
) -> NDArray[np.int64]:
    """Indices of the boxes that survive, best score first (ties in input order).

    xyxy: (N, 4), score: (N,), class_id: (N,). Greedy: a box is dropped where a kept one of the same class overlaps
    it with an IoU above max_iou. Boxes without area never survive.
    """
    order = np.argsort(-score, kind="stable")
    return _suppress(np.ascontiguousarray(xyxy, np.float32), order, np.ascontiguousarray(class_id, np.int64), max_iou)


@njit(cache=True, nogil=True)
def _suppress(xyxy, order, class_id, max_iou):
    kept = np.empty(len(order), np.int64)
    count = 0
    for i in order:
        width, height = xyxy[i, 2] - xyxy[i, 0], xyxy[i, 3] - xyxy[i, 1]
        area = width * height
        keep = area > 0
        for k in range(count):
            j = kept[k]
            if not keep:
                break
            if class_id[j] != class_id[i]:
                continue
            w = min(xyxy[i, 2], xyxy[j, 2]) - max(xyxy[i, 0], xyxy[j, 0])
            h = min(xyxy[i, 3], xyxy[j, 3]) - max(xyxy[i, 1], xyxy[j, 1])
            if w > 0 and h > 0:
                other = (xyxy[j, 2] - xyxy[j, 0]) * (xyxy[j, 3] - xyxy[j, 1])
                keep = w * h <= max_iou * (area + other - w * h)
        if keep:
            kept[count] = i
            count += 1
    return kept[:count]
