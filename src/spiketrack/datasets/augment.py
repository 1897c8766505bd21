"""Augmentation: changes of the events of a sample, with the boxes changed alike.

Station: between the recording and the representation, in training only. Events and labels are moved by the same
affine map x -> scale_x * x + shift_x (likewise y), which may also mirror and cut out a part of the sensor; single
events are dropped at random.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

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
    crop: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="train on parts of the sensor, [width, height], each holding a label; null takes all of it"
    )
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


def crop_around(
    affine: Affine, boxes: Boxes, crop: tuple[int, int], width: int, height: int, rng: np.random.Generator
) -> Affine:
    """The map followed by a cut: a random part of the sensor that holds the centre of a random box, if there is one."""
    moved = move_boxes(boxes, affine, width, height, 0.0).xyxy
    box = moved[rng.integers(len(moved))] if len(moved) else np.array([0, 0, width, height], np.float32)
    left, top = (
        int(np.clip(np.floor((low + high) / 2 - rng.random() * (side - 1)), 0, max(whole - side, 0)))
        for low, high, side, whole in zip(box[:2], box[2:], crop, (width, height), strict=True)
    )
    return affine._replace(shift_x=affine.shift_x - left, shift_y=affine.shift_y - top)


def move_window(window: Window, affine: Affine, size: tuple[int, int], drop: float, rng: np.random.Generator) -> Window:
    """The window with every event moved onto a sensor of size (width, height); what leaves it or is dropped is gone."""
    chances = rng.random(len(window), np.float32) if drop > 0 else np.empty(0, np.float32)
    columns = _move(window.t, window.x, window.y, window.p, affine, size, chances, drop)
    return Window(*columns, *size, window.start_us, window.end_us)


def move_boxes(boxes: Boxes, affine: Affine, width: int, height: int, least_visible: float) -> Boxes:
    """The boxes moved by the same map, clipped to a sensor of that size; those that mostly left it are gone."""
    x = affine.scale_x * boxes.xyxy[:, 0::2] + affine.shift_x
    y = affine.scale_y * boxes.xyxy[:, 1::2] + affine.shift_y
    whole = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)
    clipped = np.clip(whole, 0, [width, height, width, height])
    keep = _area(clipped) > least_visible * np.maximum(_area(whole), 1e-9)
    return Boxes.of(boxes.t[keep], clipped[keep], boxes.class_id[keep], boxes.score[keep], boxes.track_id[keep])


def _area(xyxy: NDArray) -> NDArray:
    return (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])


@njit(cache=True, nogil=True)
def _move(t, x, y, p, affine, size, chances, drop):
    n = len(t)
    moved_t, moved_p = np.empty(n, np.int64), np.empty(n, np.uint8)
    moved_x, moved_y = np.empty(n, np.uint16), np.empty(n, np.uint16)
    scale_x, shift_x, scale_y, shift_y = affine
    count = 0
    for i in range(n):
        # the centre of a pixel is half a pixel right of and below its index
        new_x = np.floor(scale_x * (x[i] + 0.5) + shift_x)
        new_y = np.floor(scale_y * (y[i] + 0.5) + shift_y)
        if new_x < 0 or new_x >= size[0] or new_y < 0 or new_y >= size[1]:
            continue
        if len(chances) and chances[i] < drop:
            continue
        moved_t[count], moved_x[count], moved_y[count], moved_p[count] = t[i], new_x, new_y, p[i]
        count += 1
    return moved_t[:count], moved_x[:count], moved_y[:count], moved_p[:count]
