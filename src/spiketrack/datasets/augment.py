"""Augmentation: changes of the events of a sample, with the boxes changed alike.

Station: between the recording and the representation, in training only. Events and labels are moved by the same
affine map x -> scale_x * x + shift_x (likewise y), which may also mirror and cut out a part of the sensor; single
events are dropped at random. `disturb` then changes the events of the moved window in ways that leave every box where
it is: parts missing in time or area (EventDrop: Gu et al., IJCAI 2021), polarities, times, and noise.

A label holds at the end of its time step, so there is no reversal of time: it would turn the ends of steps into their
beginnings, and show the objects a step away from their labels.
"""

from __future__ import annotations

import math
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
    flip_vertical: float = Field(0.0, ge=0, le=1, description="probability of an upside-down mirror image")
    zoom: float = Field(0.0, ge=0, le=3, description="zoom by a factor within 1 / (1 + zoom) .. 1 + zoom")
    stretch: float = Field(0.0, ge=0, lt=1, description="change of the aspect ratio, range as for zoom")
    translate: float = Field(0.0, ge=0, le=1, description="largest shift, as a share of the sensor's sides")
    drop: float = Field(0.0, ge=0, lt=1, description="largest share of events dropped at random")
    drop_time: float = Field(
        0.0, ge=0, lt=1, description="largest share of a sample's time without any event, in one piece"
    )
    drop_area: float = Field(
        0.0, ge=0, lt=1, description="largest share of the area without any event, one rectangle; labels in it stay"
    )
    drop_polarity: float = Field(
        0.0, ge=0, lt=1, description="largest share of the events of one polarity, either at random, that is dropped"
    )
    swap_polarity: float = Field(0.0, ge=0, le=1, description="probability that ON and OFF change places")
    polarity_noise: float = Field(0.0, ge=0, le=0.5, description="largest share of events with the wrong polarity")
    jitter_us: float = Field(
        0.0, ge=0, le=1e6, description="standard deviation of an error added to each event's time (microseconds)"
    )
    noise_hz: float = Field(0.0, ge=0, le=20, description="largest rate of background events, per pixel and second")
    crop: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="train on parts of the input, [width, height] in its pixels; null takes all of it"
    )
    crop_on_label: float = Field(
        1.0, ge=0, le=1, description="share of the crops that hold a label, where there is one; the others lie anywhere"
    )
    mosaic: float = Field(
        0.0, ge=0, le=1, description="probability that a sample shares its picture with three others, a quadrant each"
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
    # drawn only where it can happen, so that samples without it are those of earlier versions
    if settings.flip_vertical and rng.random() < settings.flip_vertical:
        scale_y = -scale_y
    shift_x = width / 2 * (1 - scale_x) + rng.uniform(-1, 1) * settings.translate * width
    shift_y = height / 2 * (1 - scale_y) + rng.uniform(-1, 1) * settings.translate * height
    return Affine(scale_x, shift_x, scale_y, shift_y), rng.uniform(0, settings.drop)


def crop_around(
    affine: Affine,
    boxes: Boxes,
    crop: tuple[int, int],
    width: int,
    height: int,
    rng: np.random.Generator,
    class_weights: NDArray[np.float64] | None = None,
) -> Affine:
    """The map followed by a cut: a random part of the sensor that holds the centre of a random box, if there is one.

    crop: (width, height), in sensor pixels. Where it is larger than the sensor it holds all of that. class_weights:
    how likely a box of each class is the one, relative to others; default all alike.
    """
    inside = move_boxes(boxes, affine, width, height, 0.0)
    box = np.array([0, 0, width, height], np.float32)
    if len(inside) and class_weights is not None:
        weights = class_weights[inside.class_id]
        box = inside.xyxy[rng.choice(len(inside), p=weights / weights.sum())]
    elif len(inside):
        box = inside.xyxy[rng.integers(len(inside))]
    left, top = (
        int(np.clip(np.floor((low + high) / 2 - rng.random() * (side - 1)), min(0, whole - side), max(0, whole - side)))
        for low, high, side, whole in zip(box[:2], box[2:], crop, (width, height), strict=True)
    )
    return affine._replace(shift_x=affine.shift_x - left, shift_y=affine.shift_y - top)


def crop_anywhere(affine: Affine, crop: tuple[int, int], width: int, height: int, rng: np.random.Generator) -> Affine:
    """The map followed by a cut anywhere: on the picture of the sensor, or around all of it where the crop is larger.

    crop: (width, height), in sensor pixels. The picture is where the map puts the sensor of width x height pixels.
    """
    left, top = (
        int(rng.integers(low, high, endpoint=True))
        for low, high in (
            sorted((math.floor(min(shift, shift + scale * whole)), math.ceil(max(shift, shift + scale * whole)) - side))
            for scale, shift, side, whole in zip(affine[::2], affine[1::2], crop, (width, height), strict=True)
        )
    )
    return affine._replace(shift_x=affine.shift_x - left, shift_y=affine.shift_y - top)


def move_window(window: Window, affine: Affine, size: tuple[int, int], drop: float, rng: np.random.Generator) -> Window:
    """The window with every event moved onto a sensor of size (width, height); what leaves it or is dropped is gone.

    An enlarged event is an event of every pixel that its own has become.
    """
    chances = rng.random(len(window), np.float32) if drop > 0 else np.empty(0, np.float32)
    columns = _move(window.t, window.x, window.y, window.p, affine, size, chances, drop)
    return Window(*columns, *size, window.start_us, window.end_us)


def disturb(window: Window, settings: AugmentSettings, rng: np.random.Generator) -> Window:
    """The window with parts missing, polarities changed, times blurred and noise added, as the settings allow.

    Amounts are drawn uniformly up to their largest. Times stay within the window, and are in order again. What is off
    draws no random number; where all is off the very argument comes back.
    """
    t, x, y, p = window.t, window.x, window.y, window.p
    if settings.drop_time or settings.drop_area:
        piece, part = _piece_of_time(window, settings.drop_time, rng), _part(window, settings.drop_area, rng)
        t, x, y, p = _outside(t, x, y, p, piece, part)
    if settings.drop_polarity:
        thinned, share = rng.integers(2), rng.uniform(0, settings.drop_polarity)
        keep = (p != thinned) | (rng.random(len(p), np.float32) >= share)
        t, x, y, p = t[keep], x[keep], y[keep], p[keep]
    if settings.swap_polarity and rng.random() < settings.swap_polarity:
        p = p ^ np.uint8(1)
    if settings.polarity_noise:
        p = p ^ (rng.random(len(p), np.float32) < rng.uniform(0, settings.polarity_noise))
    if settings.jitter_us:
        error_us = np.rint(rng.standard_normal(len(t), np.float32) * settings.jitter_us).astype(np.int64)
        t = np.clip(t + error_us, window.start_us, window.end_us - 1)
    if settings.noise_hz:
        noise = _background(window, rng.uniform(0, settings.noise_hz), rng)
        t, x, y, p = (np.concatenate(pair) for pair in zip((t, x, y, p), noise, strict=True))
    if settings.jitter_us or settings.noise_hz:
        order = _order(t, window.start_us, (window.end_us - window.start_us - 1).bit_length())
        t, x, y, p = t[order], x[order], y[order], p[order]
    if t is window.t and p is window.p:
        return window
    return Window(t, x, y, p, window.width, window.height, window.start_us, window.end_us)


def _piece_of_time(window: Window, largest: float, rng: np.random.Generator) -> tuple[int, int]:
    """A random piece [start, end) of the window, us; nothing where the largest share is 0."""
    if not largest:
        return window.end_us, window.end_us
    whole = window.end_us - window.start_us
    length = round(rng.uniform(0, largest) * whole)
    start = window.start_us + int(rng.integers(whole - length + 1))
    return start, start + length


def _part(window: Window, largest: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random rectangle of the sensor's shape: left, top, right, bottom, the last two outside; nothing for 0."""
    if not largest:
        return 0, 0, 0, 0
    side = np.sqrt(rng.uniform(0, largest))
    width, height = round(side * window.width), round(side * window.height)
    left, top = int(rng.integers(window.width - width + 1)), int(rng.integers(window.height - height + 1))
    return left, top, left + width, top + height


def _background(window: Window, rate_hz: float, rng: np.random.Generator) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Columns t, x, y, p of Poisson noise over all pixels of the window, in no order."""
    n = rng.poisson(rate_hz * window.width * window.height * (window.end_us - window.start_us) * 1e-6)
    return (
        rng.integers(window.start_us, window.end_us, n),
        rng.integers(0, window.width, n, np.uint16),
        rng.integers(0, window.height, n, np.uint16),
        rng.integers(0, 2, n, np.uint8),
    )


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
def _covered(scale, shift, place, size):
    """The pixels [first, last) on a sensor of `size` pixels that pixel `place` is mapped to, along one axis.

    Where the map shrinks, that is the one that holds the pixel's centre; where it enlarges, all whose centres come from
    within the pixel: an enlarged edge passes every pixel on its way, it leaves no holes.
    """
    if abs(scale) < 1:
        # the centre of a pixel is half a pixel right of and below its index
        first = int(np.floor(scale * (place + 0.5) + shift))
        last = first + 1
    else:
        low, high = scale * place + shift, scale * (place + 1) + shift
        first, last = int(np.ceil(min(low, high) - 0.5)), int(np.ceil(max(low, high) - 0.5))
    return max(first, 0), min(last, size)


@njit(cache=True, nogil=True)
def _move(t, x, y, p, affine, size, chances, drop):
    scale_x, shift_x, scale_y, shift_y = affine
    columns, rows = np.empty((65536, 2), np.int64), np.empty((65536, 2), np.int64)
    for i in range(int(x.max()) + 1 if len(x) else 0):
        columns[i] = _covered(scale_x, shift_x, i, size[0])
    for i in range(int(y.max()) + 1 if len(y) else 0):
        rows[i] = _covered(scale_y, shift_y, i, size[1])
    n = 0
    for i in range(len(t)):
        if len(chances) == 0 or chances[i] >= drop:
            n += max(columns[x[i], 1] - columns[x[i], 0], 0) * max(rows[y[i], 1] - rows[y[i], 0], 0)
    moved_t, moved_p = np.empty(n, np.int64), np.empty(n, np.uint8)
    moved_x, moved_y = np.empty(n, np.uint16), np.empty(n, np.uint16)
    count = 0
    for i in range(len(t)):
        if len(chances) and chances[i] < drop:
            continue
        for new_y in range(rows[y[i], 0], rows[y[i], 1]):
            for new_x in range(columns[x[i], 0], columns[x[i], 1]):
                moved_t[count], moved_x[count], moved_y[count], moved_p[count] = t[i], new_x, new_y, p[i]
                count += 1
    return moved_t, moved_x, moved_y, moved_p


@njit(cache=True, nogil=True)
def _outside(t, x, y, p, piece, part):
    n = len(t)
    kept_t, kept_p = np.empty(n, np.int64), np.empty(n, np.uint8)
    kept_x, kept_y = np.empty(n, np.uint16), np.empty(n, np.uint16)
    start, end = piece
    left, top, right, bottom = part
    count = 0
    for i in range(n):
        if (start <= t[i] < end) or (left <= x[i] < right and top <= y[i] < bottom):
            continue
        kept_t[count], kept_x[count], kept_y[count], kept_p[count] = t[i], x[i], y[i], p[i]
        count += 1
    return kept_t[:count], kept_x[:count], kept_y[:count], kept_p[:count]


@njit(cache=True, nogil=True)
def _order(t, start_us, bits):
    """The stable order of times within 2^bits us from start_us on: radix sort by digits of 11 bits."""
    order, target = np.arange(len(t)), np.empty(len(t), np.int64)
    for shift in range(0, bits, 11):
        place = np.zeros(2049, np.int64)
        for time in t:
            place[((time - start_us) >> shift & 2047) + 1] += 1
        place = np.cumsum(place)
        for i in order:
            digit = (t[i] - start_us) >> shift & 2047
            target[place[digit]] = i
            place[digit] += 1
        order, target = target, order
    return order
