"""Motion: which objects cross the canvas when, and where each one is at any time.

Station: plans the tracks of one scene for `compose` (real digits) and `scene` (rendered shapes). In come the
canvas, the settings and a seed, out go tracks whose position is an exact function of time.

Every track runs on a straight chord from border to border of the canvas, with the speed
    v(t) = v (1 + a cos(w t + phi)),  0 <= a <= 1,  w = 2 pi / life,
so its way is s(t) = v (t + a (sin(w t + phi) - sin(phi)) / w): mild variation for small a, a short halt for a = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from spiketrack.errors import SettingsError

# Independent random streams of one scene; np.random.default_rng([*seed, stream, ...]).
PLAN_STREAM, CONTENT_STREAM, CLASS_STREAM, PIXEL_STREAM, BACKGROUND_STREAM, NOISE_STREAM, HOT_STREAM = range(1, 8)

_CANDIDATES = 64
_DRAWS = 50


def ordered(bounds: tuple) -> tuple:
    """Pass (lowest, highest) through; ValueError where they are the other way round."""
    if not bounds[0] <= bounds[1]:
        raise ValueError(f"a range is (lowest, highest), got {bounds}")
    return bounds


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(ordered)]
CountRange = Annotated[
    tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1, le=1000)]], AfterValidator(ordered)
]


class MotionSettings(BaseModel):
    """How many objects there are at a time and how they move."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objects: CountRange = Field(
        (5, 8),
        description="fewest and most objects under way at a time, of whom about one in five is just out of sight",
    )
    speed_px_s: PositiveRange = Field((20.0, 120.0), description="range of the mean speed in pixels/s")
    life_s: PositiveRange = Field((1.0, 2.8), description="range of a track's life from border to border in seconds")
    sway: float = Field(0.35, ge=0, lt=1, description="largest relative variation of the speed of a track")
    halt_share: float = Field(
        0.15,
        ge=0,
        le=1,
        description="share of tracks that slow down to a halt once in their life (peak: twice the mean)",
    )


class Canvas(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Track:
    """One object's life and way.

    birth_us may be negative: the object is under way when the scene starts. start: (x, y) pixels of the centre
    at birth; direction: unit vector; speed: mean, pixels/s; size: as drawn from the range given to `plan_tracks`;
    depth: smaller is nearer to the viewer.
    """

    track_id: int
    birth_us: int
    life_us: int
    start: tuple[float, float]
    direction: tuple[float, float]
    speed: float
    sway: float
    phase: float
    size: float
    depth: float

    @property
    def end_us(self) -> int:
        return self.birth_us + self.life_us

    def alive(self, start_us: int, end_us: int) -> bool:
        """Whether the track exists anywhere in [start_us, end_us)."""
        return self.birth_us < end_us and self.end_us > start_us

    def position(self, t_us: ArrayLike) -> NDArray[np.float64]:
        """The centre at times t_us (...,) in microseconds: (..., 2) pixels; continues beyond the life's ends."""
        seconds = (np.asarray(t_us, np.int64) - self.birth_us) * 1e-6
        omega = 2 * np.pi / (self.life_us * 1e-6)  # rad/s
        way = self.speed * (seconds + self.sway * (np.sin(omega * seconds + self.phase) - np.sin(self.phase)) / omega)
        return np.asarray(self.start) + way[..., None] * np.asarray(self.direction)


def plan_tracks(
    settings: MotionSettings,
    canvas: Canvas,
    duration_us: int,
    sizes: tuple[float, float],
    margin: float,
    seed: Sequence[int],
) -> tuple[Track, ...]:
    """All tracks of a scene of duration_us, in the order of birth, ids counted from 1.

    sizes: range of Track.size; margin: pixels per unit of size by which a centre must be off the canvas for the
    object to be out of sight. The tracks of a longer scene with the same seed begin with these. Raises
    SettingsError where no way of the wanted speed and life fits the canvas.
    """
    least, most = settings.objects
    born: list[Track] = []
    for slot in range(most):
        rng = np.random.default_rng([*seed, PLAN_STREAM, slot])
        for track in _slot_tracks(settings, canvas, sizes, margin, rng, resting=slot >= least):
            if track.birth_us >= duration_us:
                break
            if track.end_us > 0:
                born.append(track)
    born.sort(key=lambda track: track.birth_us)
    return tuple(replace(track, track_id=number) for number, track in enumerate(born, start=1))


def _slot_tracks(
    settings: MotionSettings,
    canvas: Canvas,
    sizes: tuple[float, float],
    margin: float,
    rng: np.random.Generator,
    resting: bool,
) -> Iterator[Track]:
    """One track after the other without end; a resting slot pauses about as long as a track lives."""
    mean_life = float(np.mean(settings.life_s)) * 1e6
    clock = None
    while True:
        rest = int(rng.exponential(mean_life)) if resting else 0
        size = float(rng.uniform(*sizes))
        start, direction, speed, sway, life_us = _draw_way(settings, canvas, margin * size, rng)
        if clock is None:
            clock = -int(rng.uniform(0, rest + life_us))  # the scene starts somewhere within the first turn
        birth_us = clock + rest
        phase, depth = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform())
        yield Track(0, birth_us, life_us, start, direction, speed, sway, phase, size, depth)
        clock = birth_us + life_us


def _draw_way(
    settings: MotionSettings, canvas: Canvas, margin: float, rng: np.random.Generator
) -> tuple[tuple[float, float], tuple[float, float], float, float, int]:
    """A chord of the canvas grown by margin: start, direction, mean speed, sway, life in us."""
    low, high = settings.speed_px_s
    for _ in range(_DRAWS):
        halts = rng.uniform() < settings.halt_share
        speed = rng.uniform(low, max(low, 0.7 * high) if halts else high)
        swing = rng.uniform(0, settings.sway)
        sway = 1.0 if halts else max(0.0, min(swing, high / speed - 1, 1 - low / speed))
        ends = _border_points(canvas, margin, 2 * _CANDIDATES, rng).reshape(-1, 2, 2)  # (chord, end, xy)
        vectors = ends[:, 1] - ends[:, 0]
        lengths = np.hypot(vectors[:, 0], vectors[:, 1])
        middle = ends.mean(axis=1)
        # the middle of the way must show the object well inside, at most half of the canvas deep
        inset = np.minimum(margin, np.array(canvas) / 2)
        inside = ((middle >= inset) & (middle <= np.array(canvas) - inset)).all(axis=1)
        life = lengths / speed  # s
        fits = np.flatnonzero(inside & (life >= settings.life_s[0]) & (life <= settings.life_s[1]))
        if len(fits):
            chosen = fits[0]
            unit = vectors[chosen] / lengths[chosen]
            start = ends[chosen, 0]
            return (
                (float(start[0]), float(start[1])),
                (float(unit[0]), float(unit[1])),
                float(speed),
                float(sway),
                round(float(life[chosen]) * 1e6),
            )
    raise SettingsError(
        f"motion: no straight way across {canvas.width}x{canvas.height} px takes {settings.life_s} s at "
        f"{settings.speed_px_s} px/s (object radius {margin:.0f} px); widen life_s or speed_px_s, or change the canvas"
    )


def _border_points(canvas: Canvas, margin: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 2) points uniform on the border of the canvas grown by margin."""
    width, height = canvas.width + 2 * margin, canvas.height + 2 * margin
    along = rng.uniform(0, 2 * (width + height), count)
    side = np.digitize(along, np.cumsum([width, height, width]))  # 0 top, 1 right, 2 bottom, 3 left
    along = along - np.array([0, width, width + height, 2 * width + height])[side]
    x = np.choose(side, [along, np.full(count, width), along, np.zeros(count)])
    y = np.choose(side, [np.zeros(count), along, np.full(count, height), along])
    return np.stack([x, y], axis=1) - margin
