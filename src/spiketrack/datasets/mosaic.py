"""Mosaic: four samples as one, each in a quarter of the picture.

Station: after the encoding of single samples, in training only. In come four samples of the same shape, out goes one:
around a random centre the picture is cut into four quadrants, and each shows a part of one sample, the counts and the
labels moved alike. Source: mosaic of YOLOv4 (Bochkovskiy et al., 2020), section 3.4, which scales and joins images.

What makes it sound for events: nothing is scaled, so rates and edges stay as the sensor gave them; a seam has no events
of its own, it only hides what lies behind it, as the border of a sensor does; and step k of the mosaic holds step k of
all four, so that every part moves on in its own scene at the same pace, its camera's own motion included. A step is
labelled where it is labelled in all four: elsewhere an object could be there that no label speaks of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import NO_TRACK, Boxes
from spiketrack.datasets.augment import Affine, crop_around, move_boxes

_IDENTITY = Affine(1.0, 0.0, 1.0, 0.0)
_RANGE_OF_CENTRE = 0.25, 0.75
_RECORDING = 1 << 32  # above any identity of a file


class Part(NamedTuple):
    """A sample as it goes into a mosaic.

    planes: (T, C, H, W). labels: of each of T steps, in input pixels, None where there are none. sequence: whose.
    end_us: of its last step, on the clock of its recording.
    """

    planes: NDArray
    labels: list[Boxes | None]
    sequence: int
    end_us: int


def mosaic(
    parts: Sequence[Part],
    least_visible: float,
    rng: np.random.Generator,
    class_weights: NDArray[np.float64] | None = None,
) -> Part | None:
    """Four samples as one, which keeps the sequence and the clock of the first; None where no step is labelled in all.

    A quadrant shows that part of its sample that has its size and lies around the centre of a random label of it,
    anywhere where there is none. least_visible: a label is kept if this share of it is in the quadrant. class_weights:
    as of `crop_around`. Identities of other recordings are kept apart from those of the first. Raises ValueError where
    the samples differ in shape.
    """
    first = parts[0]
    if len(parts) != 4 or any(part.planes.shape != first.planes.shape for part in parts):
        raise ValueError(f"mosaic: expected four samples of one shape, got {[part.planes.shape for part in parts]}")
    labelled = [all(boxes is not None for boxes in step) for step in zip(*(p.labels for p in parts), strict=True)]
    if not any(labelled):
        return None
    height, width = first.planes.shape[2:]
    planes = np.empty_like(first.planes)
    labels: list[list[Boxes]] = [[] for _ in labelled]
    for part, quadrant in zip(parts, _quadrants(width, height, rng), strict=True):
        left, top, right, bottom = quadrant
        size = (right - left, bottom - top)
        known = Boxes.concatenate([boxes for boxes in part.labels if boxes is not None])
        cut = crop_around(_IDENTITY, known, size, width, height, rng, class_weights)
        x0, y0 = -int(cut.shift_x), -int(cut.shift_y)
        planes[:, :, top:bottom, left:right] = part.planes[:, :, y0 : y0 + size[1], x0 : x0 + size[0]]
        for step, boxes in zip(labels, part.labels, strict=True):
            if boxes is not None:
                step.append(_placed(move_boxes(boxes, cut, *size, least_visible), (left, top), part, first))
    joined = [Boxes.concatenate(step) if known else None for step, known in zip(labels, labelled, strict=True)]
    return first._replace(planes=planes, labels=joined)


def _quadrants(width: int, height: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the four around a random centre, in random order."""
    x, y = (
        int(rng.integers(max(1, round(low * side)), max(1, round(high * side)), endpoint=True))
        for side in (width, height)
        for low, high in [_RANGE_OF_CENTRE]
    )
    corners = [(0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)]
    return [corners[i] for i in rng.permutation(4)]


def _placed(boxes: Boxes, corner: tuple[int, int], part: Part, first: Part) -> Boxes:
    """Boxes of a quadrant in the mosaic: where its corner puts them, on the clock and with identities of the first."""
    xyxy = boxes.xyxy + np.array([*corner, *corner], np.float32)
    track_id = boxes.track_id
    if part.sequence != first.sequence:
        track_id = np.where(track_id == NO_TRACK, NO_TRACK, track_id + (part.sequence + 1) * _RECORDING)
    return Boxes(boxes.t + (first.end_us - part.end_us), xyxy, boxes.class_id, boxes.score, track_id)
