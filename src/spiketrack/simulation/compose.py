"""Compose: the real events of N-MNIST digits, moving over a larger canvas.

Station: training data from real events. In come digits (the events of one N-MNIST recording each), settings and a
seed, out go chunks of events with their exact labels, ready for a recording in the eTraM layout.

A digit keeps its sensor's timing: its recording of about 300 ms (three saccades) runs in a loop of its own period
from a random phase, and each event is shifted by the digit's position at that event's time, rounded to pixels.
Nearer digits hide what is behind their footprint. N-MNIST: Orchard et al., "Converting static image datasets to
spiking neuromorphic datasets using saccades", Frontiers in Neuroscience 2015.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from spiketrack.boxes import Boxes
from spiketrack.events import MAX_SENSOR_SIDE, Events
from spiketrack.simulation.labels import LabelSettings, Sighting, labels_between
from spiketrack.simulation.motion import (
    CONTENT_STREAM,
    Canvas,
    MotionSettings,
    Track,
    ordered,
    plan_tracks,
)
from spiketrack.simulation.noise import NoiseSettings, noise_events

NMNIST_SIDE = 34
NMNIST_CLASSES = tuple("0123456789")
CHUNK_US = 100_000

Magnification = Annotated[float, Field(ge=0.5, le=20)]


class ComposeSettings(BaseModel):
    """A scene of real digits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(304, ge=32, le=MAX_SENSOR_SIDE, description="width of the canvas in pixels")
    height: int = Field(240, ge=32, le=MAX_SENSOR_SIDE, description="height of the canvas in pixels")
    scale: Annotated[tuple[Magnification, Magnification], AfterValidator(ordered)] = Field(
        (1.0, 1.0), description="range of the digits' magnification (nearest pixel; 1 keeps every event as it was)"
    )
    motion: MotionSettings = Field(
        MotionSettings(speed_px_s=(15.0, 80.0), life_s=(2.0, 6.0)),
        description="how many digits there are and how they move",
    )
    labels: LabelSettings = Field(LabelSettings(), description="when labels are written and for which digits")
    noise: NoiseSettings = Field(NoiseSettings(), description="background events")


@dataclass(frozen=True, slots=True, eq=False)
class Digit:
    """One digit's real events with the place of the digit among them.

    events: the recording, on its own small sensor. box: left, top, right, bottom of the digit in pixels, right
    and bottom exclusive. footprint: (box height, box width) bool, the digit's pixels within the box.
    """

    events: Events
    class_id: int
    box: tuple[int, int, int, int]
    footprint: NDArray[np.bool_]


def digit_of(events: Events, class_id: int) -> Digit:
    """Find the digit in an N-MNIST recording.

    A pixel is the digit's where it has at least 2 events and at least 3 of its 8 neighbours do too; groups of such
    pixels with less than a tenth of them all are left out. The box is the tight box of what remains: sparse sensor
    noise and single hot pixels do not widen it (on 1,100 N-MNIST recordings 97 % of the events are of such pixels).
    Raises ValueError where no pixel qualifies.
    """
    from scipy import ndimage

    counts = np.bincount(
        events.y.astype(np.int64) * events.width + events.x, minlength=events.width * events.height
    ).reshape(events.height, events.width)
    busy = counts >= 2
    around = ndimage.convolve(busy.astype(np.int64), np.ones((3, 3), np.int64), mode="constant") - busy
    groups, _ = ndimage.label(busy & (around >= 3), np.ones((3, 3)))
    sizes = np.bincount(groups.ravel())
    sizes[0] = 0
    pixels = np.isin(groups, np.flatnonzero((sizes > 0) & (10 * sizes >= sizes.sum())))
    if not pixels.any():
        raise ValueError(f"no digit among {len(events)} events: no group of neighbouring pixels with 2 events each")
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return Digit(events, class_id, (left, top, right, bottom), pixels[top:bottom, left:right])


def plan_scene(settings: ComposeSettings, duration_us: int, seed: Sequence[int]) -> tuple[Track, ...]:
    """The tracks of a scene; their number says how many digits `compose_scene` wants. Track.size is the scale."""
    canvas = Canvas(settings.width, settings.height)
    return plan_tracks(settings.motion, canvas, duration_us, settings.scale, NMNIST_SIDE / 2, seed)


def compose_scene(
    digits: Sequence[Digit],
    settings: ComposeSettings,
    duration_us: int,
    seed: Sequence[int],
    chunk_us: int = CHUNK_US,
) -> Iterator[tuple[Events, Boxes]]:
    """Stream one scene as (events, labels) of consecutive chunks [k chunk_us, (k + 1) chunk_us).

    Track j of `plan_scene` shows digits[j], counted round where there are fewer digits. The events and labels depend
    on the seed (non-negative integers) and not on chunk_us; memory is bounded by a chunk. Raises ValueError without
    digits, SettingsError where no motion fits the canvas.
    """
    if not digits:
        raise ValueError("compose: at least one digit is needed, got none")
    if duration_us < 1 or chunk_us < 1:
        raise ValueError(f"compose: duration_us and chunk_us must be positive, got {duration_us} and {chunk_us}")
    canvas = Canvas(settings.width, settings.height)
    tracks = plan_scene(settings, duration_us, seed)
    sprites: dict[int, _Sprite] = {}
    for start_us in range(0, duration_us, chunk_us):
        end_us = min(start_us + chunk_us, duration_us)
        present = [track for track in tracks if track.alive(start_us, end_us)]
        sprites = {
            track.track_id: sprites.get(track.track_id)
            or _sprite(digits[(track.track_id - 1) % len(digits)], track, seed)
            for track in present
        }
        cast = [(track, sprites[track.track_id]) for track in present]
        yield (
            _events(cast, settings, canvas, start_us, end_us, seed),
            labels_between(
                settings.labels, canvas, start_us, end_us, lambda t_us, cast=cast: _sightings(cast, canvas, t_us)
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Sprite:
    """A digit made ready for one track: its events in [0, period_us), in pixels from the box's top left corner."""

    class_id: int
    t: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    p: NDArray[np.uint8]
    period_us: int
    phase_us: int
    footprint: NDArray[np.bool_]

    def corner(self, track: Track, t_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """The box's top left pixel at times t_us (N,): (N, 2) x, y."""
        height, width = self.footprint.shape
        return np.floor(track.position(t_us) - (width / 2, height / 2) + 0.5).astype(np.int64)

    def between(self, start_us: int, end_us: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The looped events of [start_us, end_us): their times and their indices into the columns."""
        first = (start_us + self.phase_us) // self.period_us
        last = (end_us - 1 + self.phase_us) // self.period_us
        begins = np.arange(first, last + 1) * self.period_us - self.phase_us
        t = (begins[:, None] + self.t).ravel()
        low, high = np.searchsorted(t, (start_us, end_us))
        return t[low:high], np.arange(low, high) % len(self.t)


def _sprite(digit: Digit, track: Track, seed: Sequence[int]) -> _Sprite:
    """Crop the recording to the digit's box, magnify it, loop it from a random phase."""
    left, top, right, bottom = digit.box
    events = digit.events
    span = int(events.t[-1] - events.t[0])
    # one mean interval separates the last event of a round from the first of the next
    period_us = max(1, span + max(1, round(span / max(1, len(events) - 1))))
    inside = (events.x >= left) & (events.x < right) & (events.y >= top) & (events.y < bottom)
    x, y = events.x[inside].astype(np.int64) - left, events.y[inside].astype(np.int64) - top
    source = np.flatnonzero(inside)
    footprint = digit.footprint
    if track.size != 1:
        columns, rows = _nearest(right - left, track.size), _nearest(bottom - top, track.size)
        footprint = footprint[np.ix_(rows, columns)]
        x, pick = _magnify(x, columns)
        y, source = y[pick], source[pick]
        y, pick = _magnify(y, rows)
        x, source = x[pick], source[pick]
    rng = np.random.default_rng([*seed, CONTENT_STREAM, track.track_id])
    phase_us = int(rng.integers(0, period_us))
    t = events.t[source] - events.t[0]
    return _Sprite(digit.class_id, t, x, y, events.p[source], period_us, phase_us, footprint)


def _nearest(side: int, scale: float) -> NDArray[np.int64]:
    """For each pixel of the magnified side the pixel it shows."""
    target = np.arange(max(1, round(side * scale)))
    return np.minimum((target + 0.5) / scale, side - 1).astype(np.int64)


def _magnify(values: NDArray[np.int64], shown: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Repeat each event for every target pixel that shows its pixel: (target pixels, indices of the events)."""
    low, high = np.searchsorted(shown, values, "left"), np.searchsorted(shown, values, "right")
    copies = high - low
    pick = np.repeat(np.arange(len(values)), copies)
    nth = np.arange(len(pick)) - np.repeat(np.cumsum(copies) - copies, copies)
    return low[pick] + nth, pick


def _events(
    cast: list[tuple[Track, _Sprite]],
    settings: ComposeSettings,
    canvas: Canvas,
    start_us: int,
    end_us: int,
    seed: Sequence[int],
) -> Events:
    """All events of [start_us, end_us): what is seen of each digit, and the noise."""
    noise = noise_events(settings.noise, canvas, start_us, end_us, seed)
    columns = [(noise.t, noise.x, noise.y, noise.p)]
    for track, sprite in cast:
        t, index = sprite.between(max(start_us, track.birth_us), min(end_us, track.end_us))
        corner = sprite.corner(track, t)
        x, y = sprite.x[index] + corner[:, 0], sprite.y[index] + corner[:, 1]
        seen = (x >= 0) & (x < canvas.width) & (y >= 0) & (y < canvas.height)
        for other, front in cast:
            if other.depth < track.depth and len(t):
                seen &= ~_hidden(other, front, t, x, y)
        columns.append((t[seen], x[seen].astype(np.uint16), y[seen].astype(np.uint16), sprite.p[index[seen]]))
    t, x, y, p = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.argsort(t, kind="stable")
    return Events(t[order], x[order], y[order], p[order], canvas.width, canvas.height)


def _hidden(
    track: Track, front: _Sprite, t: NDArray[np.int64], x: NDArray[np.int64], y: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which events (t, x, y) fall on the footprint of the nearer digit while it is there: (N,) bool."""
    height, width = front.footprint.shape
    hidden = np.zeros(len(t), np.bool_)
    reach = front.corner(track, t[[0, -1]])  # the way is monotonic, so its ends bound it
    low, high = reach.min(axis=0), reach.max(axis=0) + np.array((width, height))
    near = np.flatnonzero((x >= low[0]) & (x < high[0]) & (y >= low[1]) & (y < high[1]))
    near = near[(t[near] >= track.birth_us) & (t[near] < track.end_us)]
    if len(near):
        corner = front.corner(track, t[near])
        column, row = x[near] - corner[:, 0], y[near] - corner[:, 1]
        within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        hidden[near[within]] = front.footprint[row[within], column[within]]
    return hidden


def _sightings(cast: list[tuple[Track, _Sprite]], canvas: Canvas, t_us: int) -> list[Sighting]:
    """Every digit alive at t_us with its box and the share of its footprint that is in sight."""
    placed = []
    for track, sprite in cast:
        if track.alive(t_us, t_us + 1):
            x, y = sprite.corner(track, np.array([t_us]))[0].tolist()
            placed.append((track, sprite, x, y))
    sightings: list[Sighting] = []
    for track, sprite, x, y in placed:
        height, width = sprite.footprint.shape
        visible = np.zeros_like(sprite.footprint)
        on_canvas = (slice(max(0, -y), max(0, canvas.height - y)), slice(max(0, -x), max(0, canvas.width - x)))
        visible[on_canvas] = sprite.footprint[on_canvas]
        for other, front, other_x, other_y in placed:
            if other.depth < track.depth:
                _cover(visible, front.footprint, other_x - x, other_y - y)
        share = float(visible.sum() / max(1, sprite.footprint.sum()))
        sightings.append((track, sprite.class_id, (x, y, x + width, y + height), share))
    return sightings


def _cover(visible: NDArray[np.bool_], front: NDArray[np.bool_], dx: int, dy: int) -> None:
    """Clear in place what the front's footprint, shifted by (dx, dy), hides."""
    top, left = max(0, dy), max(0, dx)
    bottom = min(visible.shape[0], dy + front.shape[0])
    right = min(visible.shape[1], dx + front.shape[1])
    if top < bottom and left < right:
        visible[top:bottom, left:right] &= ~front[top - dy : bottom - dy, left - dx : right - dx]
