"""Annotations: what is known of every actor at a label time, and which of them a person would label.

Station: in come the drawn masks and the bodies of `scene`, out go rows of ANNOTATION_DTYPE (the sidecar of a
recording) and Boxes (its labels). The whole box is that of the body, on and off the picture; the visible box is that of
the part in sight.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.boxes import Boxes

# xyxy and keypoints in pixels; a keypoint is x, y and whether it is in sight; NaN for what has none.
ANNOTATION_DTYPE = np.dtype(
    [
        ("t", "<i8"),
        ("track_id", "<u4"),
        ("class_id", "<u4"),
        ("whole", "<f4", (4,)),
        ("visible", "<f4", (4,)),
        ("occlusion", "<f4"),
        ("truncation", "<f4"),
        ("speed_px_s", "<f4"),
        ("events", "<u4"),
        ("labelled", "?"),
        ("keypoints", "<f4", (15, 3)),
    ]
)


class LabellingSettings(BaseModel):
    """When labels are made, and what a person who looks at the events would leave out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    period_us: int = Field(33_333, ge=1000, description="time between labels in microseconds (33333: 30 Hz, as eTraM)")
    min_visible: float = Field(0.3, ge=0, le=1, description="least share of the object in sight")
    large_part: float = Field(
        0.125,
        gt=0,
        le=1,
        description="an object that leaves the picture counts as its part on the picture where its visible box is at "
        "least this share of the sensor's height wide and high",
    )
    min_side: float = Field(
        0.025, gt=0, le=1, description="least width and height of the visible box, as a share of the sensor's height"
    )
    min_events: int = Field(
        20, ge=0, description="least number of events of the object within three periods; still objects have none"
    )
    min_density: float = Field(
        0.1, ge=0, description="least number of events within three periods per pixel of the object in sight"
    )
    min_over_noise: float = Field(
        1.0, ge=0, description="least number of events of the object for each noise event on its pixels"
    )


def is_labelled(
    settings: LabellingSettings,
    areas: tuple[int, int, int],
    box: NDArray[np.float64],
    events: tuple[int, int],
    height: int,
) -> bool:
    """Whether a person would label an object.

    areas: its pixels in sight, those on the picture were it alone, and all of them, on the picture or not. box: its
    visible box, xyxy in pixels. events: of the light and of noise on its pixels within three label periods. height: of
    the sensor, in pixels.
    """
    pixels, on_picture, whole = areas
    signal, noise = events
    side = min(box[2] - box[0], box[3] - box[1])
    seen = pixels >= settings.min_visible * (on_picture if side >= settings.large_part * height else whole)
    enough = signal >= max(settings.min_events, settings.min_density * pixels, settings.min_over_noise * noise)
    return bool(seen and pixels > 0 and side >= settings.min_side * height and enough)


def labels_of(annotations: NDArray[Any]) -> Boxes:
    """The labels among annotations: visible boxes of what a person would label, in the eight classes."""
    rows = annotations[annotations["labelled"]]
    return Boxes.of(rows["t"], rows["visible"], rows["class_id"], track_id=rows["track_id"])
