"""Augmentation: changes of the events of a sample, with the boxes changed alike.

Station: between the recording and the representation, in training only. Events and labels are moved by the same
affine map x -> scale_x * x + shift_x (likewise y), which may also mirror; single events are dropped at random.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.boxes import Boxes
from spiketrack.events import Window


class AugmentSettings(BaseModel):
    """How far training samples may be changed; the defaults change nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flip: float = Field(0.0, ge=0, le=1, description="probability of a left-right mirror image")
    zoom: float = Field(0.0, ge=0, lt=1, description="zoom by a factor within 1 / (1 + zoom) .. 1 + zoom")
    stretch: float = Field(0.0, ge=0, lt=1, description="change of the aspect ratio, range as for zoom")
    translate: float = Field(0.0, ge=0, le=1, description="largest shift, as a share of the sensor's sides")
    drop: float = Field(0.0, ge=0, lt=1, description="largest share of events dropped at random")
    least_visible: float = Field(0.3, ge=0, le=1, description="a label is kept if this share of it stays on the sensor")


class Affine(NamedTuple):
    """x -> scale_x * x + shift_x, y -> scale_y * y + shift_y, in sensor pixels."""

    scale_x: float
    shift_x: float
    scale_y: float
    shift_y: float


def draw(settings: AugmentSettings, width: int, height: int, rng: np.random.Generator) -> tuple[Affine, float]:
    """A random map about the centre of the sensor, and the share of events to drop."""
    zoom = (1 + settings.zoom) ** rng.uniform(-1, 1)
    stretch = (1 + settings.stretch) ** rng.uniform(-0.5, 0.5)
    scale_x, scale_y = zoom * stretch, zoom / stretch
    if rng.random() < settings.flip:
        scale_x = -scale_x
    shift_x = width / 2 * (1 - scale_x) + rng.uniform(-1, 1) * settings.translate * width
    shift_y = height / 2 * (1 - scale_y) + rng.uniform(-1, 1) * settings.translate * height
    return Affine(scale_x, shift_x, scale_y, shift_y), rng.uniform(0, settings.drop)


def move_window(window: Window, affine: Affine, drop: float, rng: np.random.Generator) -> Window:
    """The window with every event moved; what leaves the sensor, or is dropped, is gone."""
    # the centre of a pixel is half a pixel right of and below its index
    x = np.floor(affine.scale_x * (window.x + 0.5) + affine.shift_x)
    y = np.floor(affine.scale_y * (window.y + 0.5) + affine.shift_y)
    keep = (x >= 0) & (x < window.width) & (y >= 0) & (y < window.height)
    if drop > 0:
        keep &= rng.random(len(window)) >= drop
    return Window(
        window.t[keep],
        x[keep].astype(np.uint16),
        y[keep].astype(np.uint16),
        window.p[keep],
        window.width,
        window.height,
        window.start_us,
        window.end_us,
    )


def move_boxes(boxes: Boxes, affine: Affine, width: int, height: int, least_visible: float) -> Boxes:
    """The boxes moved by the same map, clipped to the sensor; those that mostly left it are gone."""
    x = affine.scale_x * boxes.xyxy[:, 0::2] + affine.shift_x
    y = affine.scale_y * boxes.xyxy[:, 1::2] + affine.shift_y
    whole = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)
    clipped = np.clip(whole, 0, [width, height, width, height])
    keep = _area(clipped) > least_visible * np.maximum(_area(whole), 1e-9)
    return Boxes.of(boxes.t[keep], clipped[keep], boxes.class_id[keep], boxes.score[keep], boxes.track_id[keep])


def _area(xyxy: NDArray) -> NDArray:
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
