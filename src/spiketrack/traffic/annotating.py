"""Annotating: what is known of every actor in the picture at the times of labels.

Station: inside `scene`. In come who is shown and the events meanwhile, out go rows of `annotations.ANNOTATION_DTYPE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketrack.simulation.sensor import Exposure
from spiketrack.traffic.annotations import ANNOTATION_DTYPE, LabellingSettings, is_labelled
from spiketrack.traffic.camera import NEAREST_M, Camera
from spiketrack.traffic.casting import Shown
from spiketrack.traffic.layers import Layers

_LARGEST_BODY_PX = 3_000
_NO_LIGHT = np.zeros(7)


class Annotator:
    """Rows for the times of labels: `begin` at such a time, `rows` once the events up to it were noted."""

    def __init__(self, labels: LabellingSettings) -> None:
        self._labels = labels
        self._recent: list[Exposure] = []  # since the labels before
        self._waiting: tuple[int, Camera, Layers, list[Shown]] | None = None

    def note(self, exposure: Exposure) -> None:
        """Count these events among those before the next label."""
        self._recent.append(exposure)

    def begin(self, t_us: int, camera: Camera, layers: Layers, shown: Sequence[Shown]) -> None:
        """Write who is seen where into the mask, and keep where they are at t_us."""
        from spiketrack.traffic.body_kernels import draw_body

        layers.mask[:] = 0
        for actor, cast, depth, _, placed in shown:
            draw_body(cast.body, placed, camera.view(depth), _NO_LIGHT, layers, actor.track_id)
        self._waiting = t_us, camera, layers, [it._replace(placed=it.placed.copy()) for it in shown]

    def rows(self) -> NDArray[Any]:
        """Rows of all actors of which a part may be on the mask that was drawn last, by track id, if that waits for it.

        Done once the events up to that time are known.
        """
        if self._waiting is None:
            return np.empty(0, ANNOTATION_DTYPE)
        (t_us, camera, layers, shown), self._waiting = self._waiting, None
        parts, signals = zip(*self._recent, strict=True)
        self._recent.clear()
        if t_us == 0:
            return np.empty(0, ANNOTATION_DTYPE)
        recent = np.concatenate([e.x for e in parts]), np.concatenate([e.y for e in parts]), np.concatenate(signals)
        rows = [self._row(t_us, camera, layers, it, recent) for it in sorted(shown, key=lambda it: it.actor.track_id)]
        return np.array([row for row in rows if row is not None], ANNOTATION_DTYPE)

    def _row(
        self, t_us: int, camera: Camera, layers: Layers, it: Shown, recent: tuple[NDArray, NDArray, NDArray]
    ) -> np.void | None:
        """What is known of an actor, None where all of it is off the picture.

        recent: x, y and whether light caused it, of the events since the labels before.
        """
        from spiketrack.traffic.annotation_kernels import count_events, mask_extent
        from spiketrack.traffic.body_kernels import extent

        actor, cast, depth, _, placed = it
        whole = np.array(extent(cast.body, placed, camera.view(depth)))
        previous, cast.middle = cast.middle, None
        if not (whole[0] < camera.width and whole[1] < camera.height and whole[2] > 0 and whole[3] > 0):
            return None
        row = np.zeros(1, ANNOTATION_DTYPE)[0]
        area, inside, bounds = _areas(camera, layers, it, whole)
        pixels, *tight = mask_extent(layers.mask, actor.track_id, *bounds)
        visible = np.zeros(4)
        if pixels:
            visible[:2], visible[2:] = np.maximum(tight[:2], whole[:2]), np.minimum(tight[2:], whole[2:])
        around = visible + np.array((-2, -2, 2, 2))
        events, noise = count_events(*recent, layers.mask, actor.track_id, *around)
        cast.events.append((events, noise))
        cast.middle = (float(whole[0] + whole[2]) / 2, float(whole[1] + whole[3]) / 2)
        if previous is not None:
            way = np.hypot(cast.middle[0] - previous[0], cast.middle[1] - previous[1])
            row["speed_px_s"] = way / (self._labels.period_us * 1e-6)
        row["t"], row["track_id"], row["class_id"] = t_us, actor.track_id, actor.class_id
        row["whole"], row["visible"], row["events"] = whole, visible, events
        row["occlusion"] = 1 - pixels / inside if inside else 1.0
        row["truncation"] = 1 - inside / area if area else 1.0
        lately = sum(of for of, _ in cast.events), sum(of for _, of in cast.events)
        row["labelled"] = is_labelled(self._labels, (pixels, inside, area), visible, lately, camera.height)
        row["keypoints"] = _keypoints(camera, layers, it)
        return row


def _areas(
    camera: Camera, layers: Layers, it: Shown, whole: NDArray[np.float64]
) -> tuple[int, int, tuple[int, int, int, int]]:
    """Pixels of the body alone, those on the picture, and its bounds on the picture.

    A body larger than _LARGEST_BODY_PX a side is before the lens: its area is given as that square.
    """
    from spiketrack.traffic.body_kernels import draw_body

    left, top = int(np.floor(whole[0])) - 1, int(np.floor(whole[1])) - 1
    rows, columns = int(np.ceil(whole[3])) + 1 - top, int(np.ceil(whole[2])) + 1 - left
    bounds = (max(left, 0), max(top, 0), min(left + columns, camera.width), min(top + rows, camera.height))
    if max(rows, columns) > _LARGEST_BODY_PX:
        return _LARGEST_BODY_PX**2, (bounds[2] - bounds[0]) * (bounds[3] - bounds[1]), bounds
    open_air = np.full((rows, columns), np.inf, np.float32)
    alone = Layers(open_air, np.zeros((rows, columns), np.int32), open_air, layers.touched)
    draw_body(it.cast.body, it.placed, camera.view(it.depth) - (0, left, top, 0), _NO_LIGHT, alone, 1)
    part = alone.mask[bounds[1] - top : bounds[3] - top, bounds[0] - left : bounds[2] - left]
    return int(alone.mask.sum()), int(part.sum()), bounds


def _keypoints(camera: Camera, layers: Layers, it: Shown) -> NDArray[np.float32]:
    """(15, 3): x, y, in sight; NaN without joints."""
    if not len(it.cast.body.keypoints):
        return np.full((15, 3), np.nan, np.float32)
    points = it.placed[it.cast.body.keypoints]
    if (points[:, 2] < NEAREST_M).any():
        return np.full((15, 3), np.nan, np.float32)
    xy = points[:, :2] * (camera.focal_px / points[:, 2:]) + (camera.width / 2, camera.height / 2)
    column, row = np.floor(xy).astype(np.int64).T
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    seen = np.zeros(15)
    seen[inside] = layers.mask[row[inside], column[inside]] == it.actor.track_id
    return np.column_stack([xy, seen]).astype(np.float32)
