"""Labels of simulated objects: when, and which objects deserve one.

Station: shared by `compose` and `scene`. In come the objects' exact boxes and visible shares at a label time, out
go Boxes as a careful person would draw them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.boxes import Boxes
from spiketrack.simulation.motion import Canvas, Track

# At one time: (track, class_id, xyxy unclipped, share of the object in sight).
Sighting = tuple[Track, int, tuple[float, float, float, float], float]


class LabelSettings(BaseModel):
    """When labels are written and for which objects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    period_us: int = Field(33_333, ge=1, description="time between labels in microseconds (33333: 30 Hz, as eTraM)")
    min_visible: float = Field(
        0.3, ge=0, le=1, description="least share of the object on the canvas and not hidden by nearer objects"
    )
    min_side_px: float = Field(6.0, ge=0, description="least width and height of the box inside the canvas in pixels")


def label_times(period_us: int, start_us: int, end_us: int) -> NDArray[np.int64]:
    """The times k * period_us with k >= 1 in [start_us, end_us), microseconds."""
    first = max(1, -(-start_us // period_us))
    return np.arange(first, -(-end_us // period_us), dtype=np.int64) * period_us


def labels_between(
    settings: LabelSettings,
    canvas: Canvas,
    start_us: int,
    end_us: int,
    sightings_at: Callable[[int], Sequence[Sighting]],
) -> Boxes:
    """The labels of [start_us, end_us): boxes clipped to the canvas, by time and then by track id.

    An object gets one where at least min_visible of it is in sight and the clipped box keeps min_side_px.
    """
    rows: list[tuple[int, list[float], int, int]] = []
    for t_us in label_times(settings.period_us, start_us, end_us).tolist():
        for track, class_id, (left, top, right, bottom), visible in sightings_at(t_us):
            box = [max(left, 0), max(top, 0), min(right, canvas.width), min(bottom, canvas.height)]
            sides = (box[2] - box[0], box[3] - box[1])
            if visible > 0 and visible >= settings.min_visible and min(sides) >= max(settings.min_side_px, 1e-3):
                rows.append((t_us, box, class_id, track.track_id))
    if not rows:
        return Boxes.empty()
    t, xyxy, class_id, track_id = zip(*rows, strict=True)
    return Boxes.of(t, xyxy, class_id, track_id=track_id)
