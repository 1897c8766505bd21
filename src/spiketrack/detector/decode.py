"""Decoding: from raw predictions to Boxes, and non-maximum suppression.

Station: the border between torch and NumPy after the network. In come Predictions in input pixels, out go Boxes in
sensor pixels, one record per time step and stream.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
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


class Found(NamedTuple):
    """The D detections of one time step of one stream, best first.

    location: (D,) int64, of the A locations, on the device of the predictions. xyxy: (D, 4) float32 sensor pixels.
    class_id: (D,) int64. score: (D,) float32.
    """

    location: Tensor
    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int64]
    score: NDArray[np.float32]


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
    found = find(predictions, settings, scale=scale, sensor=sensor)
    return [
        [Boxes.of(int(time), own.xyxy, own.class_id, own.score) for own, time in zip(row, times, strict=True)]
        for row, times in zip(found, times_us, strict=True)
    ]


@torch.no_grad()
def find(
    predictions: Predictions, settings: DecodeSettings, *, scale: tuple[float, float], sensor: tuple[int, int]
) -> list[list[Found]]:
    """As `decode`, with the location that each detection came from."""
    features = predictions.features
    if not torch.isfinite(features).all():
        raise ValueError("decode: the network's predictions are not finite; its weights or its input are broken")
    return [[_find_in_one(image, predictions, settings, scale, sensor) for image in step] for step in features]


def _find_in_one(
    features: Tensor,
    predictions: Predictions,
    settings: DecodeSettings,
    scale: tuple[float, float],
    sensor: tuple[int, int],
) -> Found:
    """One time step of one stream. features: (A, 4 * 16 + K)."""
    scores = features[:, 4 * REG_MAX :].sigmoid()  # (A, K)
    flat = scores.flatten()
    candidates = torch.nonzero(flat >= settings.score).squeeze(1)
    best = flat[candidates].topk(min(len(candidates), settings.max_candidates))  # sorted, best first
    candidates = candidates[best.indices]
    place, class_id = candidates // scores.shape[1], (candidates % scores.shape[1]).cpu().numpy()
    sides = expected_sides(features[place, : 4 * REG_MAX])
    xyxy = sides_to_boxes(sides, predictions.points[place], predictions.strides[place]).float().cpu().numpy()
    xyxy, score = to_sensor(xyxy, scale, sensor), best.values.float().cpu().numpy()
    keep = non_maximum_suppression(xyxy, score, class_id, settings.nms_iou, settings.max_boxes)
    return Found(place[torch.from_numpy(keep).to(place.device)], xyxy[keep], class_id[keep], score[keep])


def to_sensor(xyxy: NDArray[np.float32], scale: tuple[float, float], sensor: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes (..., 4) in input pixels as sensor pixels, clipped to the sensor; see `decode` for scale and sensor."""
    return np.clip(xyxy * np.array([*scale, *scale], np.float32), 0, np.array([*sensor, *sensor], np.float32))


def non_maximum_suppression(
    xyxy: NDArray[np.float32],
    score: NDArray[np.float32],
    class_id: NDArray[np.integer],
    max_iou: float,
    most: int | None = None,
) -> NDArray[np.int64]:
    """Indices of the boxes that survive, best score first (ties in input order), at most `most`.

    xyxy: (N, 4), score: (N,), class_id: (N,). Greedy: a box is dropped where a kept one of the same class overlaps
    it with an IoU above max_iou. Boxes without area never survive. Raises ValueError for a box that is not finite.
    """
    from spiketrack.detector.nms import suppress  # compiled

    xyxy = np.ascontiguousarray(xyxy, np.float32)
    if not np.isfinite(xyxy).all():
        raise ValueError("non-maximum suppression: expected finite boxes, got NaN or infinity among them")
    order = np.argsort(-np.asarray(score), kind="stable")
    most = len(order) if most is None else most
    return suppress(xyxy, order, np.ascontiguousarray(class_id, np.int64), float(max_iou), most)
