"""SSD decoding: from raw predictions to Boxes.

Station: the border between torch and NumPy after the network, as `decode` is for SpikeYOLO. In come SSDPredictions in
input pixels, out go Boxes in sensor pixels, one record per time step and stream. Source: facts/models.md, A.4.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spiketrack.boxes import Boxes
from spiketrack.detector.decode import non_maximum_suppression, to_sensor
from spiketrack.detector.ssd import SSDPredictions
from spiketrack.detector.ssd_match import decode_boxes


class SSDDecodeSettings(BaseModel):
    """How raw predictions become detections."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    score: float = Field(0.01, ge=0, le=1, description="a detection's score is above it")
    candidates: int = Field(200, ge=1, description="highest scores of every class that enter suppression")
    nms_iou: float = Field(0.45, gt=0, le=1, description="a box that overlaps a better one of its class more goes")
    max_boxes: int = Field(100, ge=1, description="most detections per time step")


@torch.no_grad()
def decode_ssd(
    predictions: SSDPredictions,
    times_us: NDArray[np.int64],
    settings: SSDDecodeSettings,
    *,
    scale: tuple[float, float],
    sensor: tuple[int, int],
) -> list[list[Boxes]]:
    """Detections of every time step t and stream b: result[t][b], clipped to the sensor, best score first.

    times_us: (T, B), the time that the detections of a step get, the end of its slice. scale: sensor pixels per
    input pixel in x and y. sensor: (width, height). A prediction that is not finite raises ValueError.
    """
    offsets, logits = predictions.offsets, predictions.logits
    if not (torch.isfinite(offsets).all() and torch.isfinite(logits).all()):
        raise ValueError("decode: the network's predictions are not finite; its weights or its input are broken")
    steps, batch = logits.shape[:2]
    scores, places = _candidates(logits.flatten(0, 1).float(), settings.candidates)  # (N, K, P) each
    n, k, p = places.shape
    chosen = offsets.flatten(0, 1).float().gather(1, places.flatten(1)[..., None].expand(-1, -1, 4))
    xyxy = decode_boxes(chosen, predictions.priors[places.flatten(1)]).cpu().numpy()  # (N, K * P, 4)
    xyxy = to_sensor(xyxy, scale, sensor)
    score = scores.flatten(1).cpu().numpy()
    class_id = np.repeat(np.arange(k), p)
    found = []
    for i in range(n):
        above = score[i] > settings.score
        boxes, own_score, own_class = xyxy[i, above], score[i, above], class_id[above]
        keep = non_maximum_suppression(boxes, own_score, own_class, settings.nms_iou)[: settings.max_boxes]
        found.append(Boxes.of(int(times_us[i // batch, i % batch]), boxes[keep], own_class[keep], own_score[keep]))
    return [found[t * batch : (t + 1) * batch] for t in range(steps)]


def _candidates(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest scores of every class and where they are: (N, A, K) logits to two of (N, K, min(count, A))."""
    best = logits.transpose(1, 2).topk(min(count, logits.shape[1]), dim=2)
    return best.values.sigmoid(), best.indices
