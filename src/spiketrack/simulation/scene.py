"""Scene: moving shapes before an event camera, for a machine without any data.

Station: the built-in simulator's first scene. In come settings and a seed, out go chunks of events with their exact
labels, as from `compose`. Discs, squares and triangles, brighter or darker than a faintly textured mid-grey wall, plain
or textured, turning as they move, are rendered with blended edges every `frame_us` and go through the pixel model of
`sensor`, which puts the events at their exact times between two renderings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.boxes import Boxes
from spiketrack.events import MAX_SENSOR_SIDE, Events
from spiketrack.simulation.labels import LabelSettings, Sighting, labels_between
from spiketrack.simulation.motion import (
    BACKGROUND_STREAM,
    CLASS_STREAM,
    CONTENT_STREAM,
    PIXEL_STREAM,
    Canvas,
    MotionSettings,
    PositiveRange,
    Track,
    plan_tracks,
)
from spiketrack.simulation.noise import NoiseSettings, noise_events
from spiketrack.simulation.sensor import TILE, PixelSettings, Sensor, SensorSettings

Region = tuple[int, int, int, int]

SHAPE_CLASSES = ("disc", "square", "triangle")  # class ids and kinds of shape_kernels.py
CHUNK_US = 100_000

# Radius of the circle around a shape of size 1 (the side of the square, the diameter of the disc and of the circle
# through the triangle's corners).
_RADII = (0.5, float(np.sqrt(0.5)), 0.5)
_MID_GREY = 0.5


class SceneSettings(BaseModel):
    """A scene of moving shapes and the camera that sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(240, ge=32, le=MAX_SENSOR_SIDE, description="width of the sensor in pixels")
    height: int = Field(180, ge=32, le=MAX_SENSOR_SIDE, description="height of the sensor in pixels")
    size_px: PositiveRange = Field((26.0, 60.0), description="range of the shapes' size in pixels")
    contrast: PositiveRange = Field(
        (0.4, 1.2), description="range of the log intensity between shape and background, brighter or darker"
    )
    spin_deg_s: float = Field(60.0, ge=0, le=3600, description="fastest turning in degrees/s, either way")
    texture_share: float = Field(0.5, ge=0, le=1, description="share of the shapes that carry a texture")
    background_texture: float = Field(0.05, ge=0, lt=0.9, description="relative amplitude of the background's texture")
    frame_us: int = Field(
        3_000, ge=100, le=20_000, description="time between renderings in microseconds; events lie between them"
    )
    motion: MotionSettings = Field(
        MotionSettings(objects=(3, 5)), description="how many shapes there are and how they move"
    )
    labels: LabelSettings = Field(LabelSettings(), description="when labels are written and for which shapes")
    pixel: PixelSettings = Field(PixelSettings(), description="the event pixel")
    noise: NoiseSettings = Field(NoiseSettings(), description="background events")


@dataclass(frozen=True, slots=True)
class Shape:
    """One object: its kind, way and look. Angles in radians, wave in radians/pixel, luminance 0 .. (grey is 0.5)."""

    track: Track
    class_id: int
    angle: float
    spin: float
    luminance: float
    texture: float
    wave: float
    offset: float

    def row(self, t_us: int) -> tuple[float, ...]:
        """The columns that shape_kernels.py draws at a time."""
        x, y = self.track.position(t_us)
        angle = self.angle + self.spin * t_us * 1e-6
        return (
            self.class_id,
            x,
            y,
            np.cos(angle),
            np.sin(angle),
            self.track.size / 2,
            self.luminance,
            self.texture,
            self.wave,
            self.offset,
        )

    def box(self, t_us: int) -> tuple[float, float, float, float]:
        """The exact box at a time: left, top, right, bottom in pixels, not clipped."""
        x, y = self.track.position(t_us)
        angle, half = self.angle + self.spin * t_us * 1e-6, self.track.size / 2
        if SHAPE_CLASSES[self.class_id] == "disc":
            return x - half, y - half, x + half, y + half
        corners = {
            "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half,
            "triangle": np.array([(0, -1), (np.sqrt(0.75), 0.5), (-np.sqrt(0.75), 0.5)]) * half,
        }[SHAPE_CLASSES[self.class_id]]
        across = x + corners[:, 0] * np.cos(angle) - corners[:, 1] * np.sin(angle)
        down = y + corners[:, 0] * np.sin(angle) + corners[:, 1] * np.cos(angle)
        return float(across.min()), float(down.min()), float(across.max()), float(down.max())


def plan_shapes(settings: SceneSettings, duration_us: int, seed: Sequence[int]) -> tuple[Shape, ...]:
    """The shapes of a scene in the order of birth; classes take turns in random rounds."""
    canvas = Canvas(settings.width, settings.height)
    tracks = plan_tracks(settings.motion, canvas, duration_us, settings.size_px, max(_RADII), seed)
    return tuple(_shape(settings, track, seed) for track in tracks)


def _shape(settings: SceneSettings, track: Track, seed: Sequence[int]) -> Shape:
    rng = np.random.default_rng([*seed, CONTENT_STREAM, track.track_id])
    turn, place = divmod(track.track_id - 1, len(SHAPE_CLASSES))
    order = np.random.default_rng([*seed, CLASS_STREAM, turn]).permutation(len(SHAPE_CLASSES))
    spin = np.deg2rad(settings.spin_deg_s)
    contrast = rng.uniform(*settings.contrast) * rng.choice((-1, 1))
    return Shape(
        track=track,
        class_id=int(order[place]),
        angle=float(rng.uniform(0, 2 * np.pi)),
        spin=float(rng.uniform(-spin, spin)),
        luminance=float(_MID_GREY * np.exp(contrast)),
        texture=float(rng.uniform(0.2, 0.5)) if rng.uniform() < settings.texture_share else 0.0,
        wave=float(2 * np.pi / rng.uniform(8, 16)),  # a period of 8 .. 16 px
        offset=float(rng.uniform(0, 2 * np.pi)),
    )


def simulate_scene(
    settings: SceneSettings, duration_us: int, seed: Sequence[int], chunk_us: int = CHUNK_US
) -> Iterator[tuple[Events, Boxes]]:
    """Stream one scene as (events, labels) of consecutive chunks [k chunk_us, (k + 1) chunk_us).

    The events and labels depend on the seed (non-negative integers) and not on chunk_us; memory is bounded by a chunk.
    Raises SettingsError where no motion fits the canvas.
    """
    if duration_us < 1 or chunk_us < 1:
        raise ValueError(f"simulate: duration_us and chunk_us must be positive, got {duration_us} and {chunk_us}")
    canvas = Canvas(settings.width, settings.height)
    shapes = plan_shapes(settings, duration_us, seed)
    frames = _frames(settings, canvas, shapes, seed)
    waiting = next(frames)[1]
    reached_us = 0
    for start_us in range(0, duration_us, chunk_us):
        end_us = min(start_us + chunk_us, duration_us)
        parts = [waiting]
        while reached_us < end_us:
            reached_us, events = next(frames)
            parts.append(events)
        ready = Events.concatenate(parts)
        last = int(np.searchsorted(ready.t, end_us))
        waiting = ready[last:]
        present = [shape for shape in shapes if shape.track.alive(start_us, end_us)]
        yield (
            _merge(ready[:last], noise_events(settings.noise, canvas, start_us, end_us, seed)),
            labels_between(
                settings.labels,
                canvas,
                start_us,
                end_us,
                lambda t_us, present=present: _sightings(present, canvas, t_us),
            ),
        )


def _frames(
    settings: SceneSettings, canvas: Canvas, shapes: Sequence[Shape], seed: Sequence[int]
) -> Iterator[tuple[int, Events]]:
    """Render and expose frame after frame: (time, events since the frame before), from time 0 on without end."""
    from spiketrack.simulation.shape_kernels import render_region

    background = _background(settings, canvas, seed)
    sensor = SensorSettings(width=canvas.width, height=canvas.height, pixel=settings.pixel)
    pixels = Sensor(sensor, [*seed, PIXEL_STREAM])
    frame = np.empty((canvas.height, canvas.width), np.float32)
    regions: list[Region] | None = None
    before: dict[int, Region] = {}
    alive: list[Shape] = []
    born = t_us = 0
    while True:
        while born < len(shapes) and shapes[born].track.birth_us <= t_us:
            alive.append(shapes[born])
            born += 1
        alive = _alive(alive, t_us)
        rows = _rows(alive, t_us)
        now = {shape.track.track_id: _around(shape, t_us, canvas) for shape in alive}
        if regions is None:
            regions = [(0, 0, *canvas)]
        else:
            regions = [_union(before.get(key), now.get(key)) for key in {**before, **now}]
        for region in regions:
            render_region(background, rows, region, frame)
        yield t_us, pixels.expose(frame, t_us, _tiles(regions, canvas)).events
        before, t_us = now, t_us + settings.frame_us


def _alive(shapes: Sequence[Shape], t_us: int) -> list[Shape]:
    """The shapes that exist at a time, far to near."""
    return sorted((s for s in shapes if s.track.alive(t_us, t_us + 1)), key=lambda s: -s.track.depth)


def _rows(shapes: Sequence[Shape], t_us: int) -> NDArray[np.float64]:
    return np.array([shape.row(t_us) for shape in shapes], np.float64).reshape(len(shapes), 10)


def _around(shape: Shape, t_us: int, canvas: Canvas) -> Region:
    """The pixels that a shape may touch at a time, clipped to the canvas."""
    left, top, right, bottom = shape.box(t_us)
    return (
        min(max(int(np.floor(left)) - 1, 0), canvas.width),
        min(max(int(np.floor(top)) - 1, 0), canvas.height),
        max(min(int(np.ceil(right)) + 1, canvas.width), 0),
        max(min(int(np.ceil(bottom)) + 1, canvas.height), 0),
    )


def _union(one: Region | None, other: Region | None) -> Region:
    """The smallest region around both; at least one is given."""
    one, other = one or other, other or one
    assert one is not None
    assert other is not None
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _tiles(regions: Sequence[Region], canvas: Canvas) -> NDArray[np.bool_]:
    """The sensor's tiles that the regions touch."""
    touched = np.zeros((-(-canvas.height // TILE), -(-canvas.width // TILE)), np.bool_)
    for left, top, right, bottom in regions:
        if left < right and top < bottom:
            touched[top // TILE : -(-bottom // TILE), left // TILE : -(-right // TILE)] = True
    return touched


def _background(settings: SceneSettings, canvas: Canvas, seed: Sequence[int]) -> NDArray[np.float64]:
    """A mid-grey wall with a faint smooth texture: (H, W) intensity."""
    from scipy import ndimage

    rng = np.random.default_rng([*seed, BACKGROUND_STREAM])
    grain = ndimage.gaussian_filter(rng.standard_normal((canvas.height, canvas.width)), 2.0, mode="wrap")
    grain = np.clip(grain / (2 * grain.std()), -1, 1)
    return _MID_GREY * (1 + settings.background_texture * grain)


def _merge(events: Events, noise: Events) -> Events:
    """Both in order of time; noise first where times are equal."""
    columns = [np.concatenate([getattr(noise, name), getattr(events, name)]) for name in "txyp"]
    order = np.argsort(columns[0], kind="stable")
    return Events(*(column[order] for column in columns), events.width, events.height)


def _sightings(shapes: Sequence[Shape], canvas: Canvas, t_us: int) -> list[Sighting]:
    """Every shape alive at a time with its box and the share of it that is in sight, in the order of birth."""
    from spiketrack.simulation.shape_kernels import visible_shares

    alive = _alive(shapes, t_us)
    shares = visible_shares(_rows(alive, t_us), canvas.width, canvas.height)
    seen = [(s.track, s.class_id, s.box(t_us), float(share)) for s, share in zip(alive, shares, strict=True)]
    return sorted(seen, key=lambda sighting: sighting[0].track_id)
