"""Scene: traffic before an event camera, drawn frame by frame and seen through the pixel model.

Station: in come settings and a seed, out go chunks of events with exact annotations. `world` says where actors are,
`bodies` what they look like, `surroundings` paints what stands still, `simulation.sensor` turns light into events.
Frames follow the fastest actor in the picture (about a pixel a frame); between them the sensor interpolates. One frame
is drawn while the sensor works on the one before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.boxes import Boxes
from spiketrack.events import Events
from spiketrack.simulation.presets import PRESETS
from spiketrack.simulation.sensor import TILE, Exposure, Flicker, Sensor, SensorSettings
from spiketrack.traffic.actors import BICYCLE, PEDESTRIAN, WHEELCHAIR, Actor
from spiketrack.traffic.annotating import Annotator
from spiketrack.traffic.annotations import ANNOTATION_DTYPE, LabellingSettings, labels_of
from spiketrack.traffic.camera import Camera
from spiketrack.traffic.casting import Casting, Shown, footprints
from spiketrack.traffic.flicker import flicker_swing, most_by_tile
from spiketrack.traffic.layers import Layers
from spiketrack.traffic.light import Daytime
from spiketrack.traffic.plans import plan_camera, plan_light, plan_sensor, plan_world
from spiketrack.traffic.rain import Rain
from spiketrack.traffic.surroundings import Surroundings
from spiketrack.traffic.world import World, WorldSettings, plan_layout

CHUNK_US = 100_000
_VIEW_STREAM, _LIGHT_STREAM, _WORLD_STREAM, _SURROUNDINGS_STREAM, _SENSOR_STREAM, _SPREAD_STREAM, _RAIN_STREAM = range(
    1, 8
)
_STIR_US = 8_000
_FLICKER_SEEN = (
    0.5  # share of the lower threshold: tiles where the flicker behind the low pass swings less are lit evenly
)
_FLICKER_PX = 1.5  # pixels of the fastest motion from frame to frame where frames lie on steps of the flicker
_FAINT = 0.005  # log units: light of a pool that changes the ground by less is not drawn

Preset = Literal["evk4", "gen3", "gen1", "davis346"]


class TrafficSettings(BaseModel):
    """A scene of traffic and the camera that sees it; what is null is drawn from the seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset = Field("evk4", description="the sensor")
    camera: Literal["static", "moving"] = Field("static", description="on a pole, or in a car")
    daytime: Daytime = Field("day", description="light")
    rain: bool | None = Field(None, description="whether it rains; null: one scene in six")
    spread: float = Field(
        0.0, ge=0, le=1, description="how far a scene's sensor may stray from its preset (thresholds, noise, bandwidth)"
    )
    frame_us: tuple[int, int] = Field(
        (2_000, 4_000), description="shortest and longest time between drawings in microseconds; events lie between"
    )
    world: WorldSettings | None = Field(None, description="roads and traffic; null: drawn from the seed")
    light_traffic: float = Field(
        1.0, ge=0, description="factor on the shares of bicycles, motorbikes and wheelchairs in a drawn world"
    )
    labels: LabellingSettings = Field(LabellingSettings(), description="when labels are made and for what")

    @property
    def sensor(self) -> SensorSettings:
        """The preset's sensor."""
        return PRESETS[self.preset]

    @property
    def label_period_us(self) -> int:
        return self.labels.period_us


class TrafficChunk(NamedTuple):
    """Events and annotations of [start_us, end_us), and the picture at its end, (H, W) uint8."""

    start_us: int
    end_us: int
    events: Events
    labels: Boxes
    annotations: NDArray[Any]
    image: NDArray[np.uint8]


def simulate_traffic(
    settings: TrafficSettings, duration_us: int, seed: Sequence[int], chunk_us: int = CHUNK_US
) -> Iterator[TrafficChunk]:
    """Stream one scene as consecutive chunks [k chunk_us, (k + 1) chunk_us).

    Events and annotations follow from settings and seed (non-negative integers), not from chunk_us; memory is bounded
    by a chunk. Raises ValueError for a duration or chunk below 1.
    """
    if duration_us < 1 or chunk_us < 1:
        raise ValueError(f"traffic: duration_us and chunk_us must be positive, got {duration_us} and {chunk_us}")
    stage = _Stage(settings, seed)
    waiting = stage.advance()[0]  # the first frame fires nothing
    rows: list[NDArray[Any]] = []
    for start_us in range(0, duration_us, chunk_us):
        end_us = min(start_us + chunk_us, duration_us)
        parts = [waiting]
        while stage.t_us < end_us:
            events, annotations = stage.advance()
            parts.append(events)
            rows.append(annotations)
        parts.append(stage.finish())
        known = np.concatenate([*rows, np.empty(0, ANNOTATION_DTYPE)])
        ready = Events.concatenate(parts)
        last = int(np.searchsorted(ready.t, end_us))
        waiting, now = ready[last:], known["t"] < end_us
        rows = [known[~now]]
        yield TrafficChunk(start_us, end_us, ready[:last], labels_of(known[now]), known[now], stage.image())


class _Stage:
    """The state of a running scene: one call of `advance` a frame."""

    def __init__(self, settings: TrafficSettings, seed: Sequence[int]) -> None:
        self._settings = settings
        sensor = plan_sensor(settings.sensor, settings.spread, [*seed, _SPREAD_STREAM])
        self._sensor = Sensor(sensor, [*seed, _SENSOR_STREAM], threads=1)
        self._pixel = sensor.pixel
        self.width, self.height = sensor.width, sensor.height
        moving = settings.camera == "moving"
        world = settings.world or plan_world([*seed, _WORLD_STREAM, 0], moving, settings.light_traffic)
        self._layout = plan_layout(world, [*seed, _WORLD_STREAM, 1])
        self._world = World(world, self._layout, [*seed, _WORLD_STREAM, 2], ego=moving)
        self._light = plan_light(settings.daytime, settings.rain, [*seed, _LIGHT_STREAM])
        rng = np.random.default_rng([*seed, _VIEW_STREAM])
        self._focal = self.width * float(rng.uniform(0.55, 0.9) if moving else rng.uniform(0.6, 1.5))
        self._shake = rng.uniform(0, 2 * np.pi, 4)
        self._static = None if moving else plan_camera(self._layout, self.width, self.height, self._focal, rng)
        self._moving_pitch = float(rng.uniform(-0.03, 0.1))
        self._moving_height = float(rng.uniform(1.2, 2.0))
        self.t_us = -1
        camera = self._camera(0)
        self._surroundings = Surroundings(self._layout, self._light, camera, [*seed, _SURROUNDINGS_STREAM])
        self._rain = Rain(self._light.rain, self.width, self.height, [*seed, _RAIN_STREAM])
        shape, tiles = (self.height, self.width), (-(-self.height // TILE), -(-self.width // TILE))
        self._base = np.zeros(shape, np.float32)  # without lamps
        self._background = np.zeros(shape, np.float32)  # with lamps, without their flicker
        self._albedo = np.zeros(shape, np.float32)
        self._lamps = np.zeros(shape, np.float32)
        self._flickering = np.zeros(tiles, np.bool_)
        # drawn in turn: the sensor sees one while the next frame is drawn on the other
        mask, depth = np.zeros(shape, np.int32), np.full(shape, np.inf, np.float32)
        self._layers, self._before = (
            Layers(np.zeros(shape, np.float32), mask, depth, np.zeros(tiles, np.bool_)) for _ in range(2)
        )
        self._stirred_us = 0
        self._stirred = np.zeros(tiles, np.bool_)  # of the frame before
        self._casting = Casting()
        self._annotator = Annotator(settings.labels)
        self._next_us = 0
        self._pool = ThreadPoolExecutor(1)
        self._exposing: Future[Exposure] | None = None

    def advance(self) -> tuple[Events, NDArray[Any]]:
        """Draw the next frame and begin to expose it: the events of the frame before, and annotations if it was time.

        The sensor works on a frame while the next one is drawn; `finish` gives the events that are still to come.
        """
        period = self._settings.labels.period_us
        first = self.t_us < 0
        self.t_us = t_us = self._next_us
        actors = self._world.at(t_us)
        camera = self._camera(t_us)
        shown = self._casting.place(actors, camera)
        changed = self._draw(t_us, camera, shown, first)
        events = self.finish()
        self._exposing = self._pool.submit(self._sensor.expose, self._layers.picture, t_us, changed, self._flicker())
        annotations = self._annotator.rows()
        if t_us % period == 0:
            self._annotator.begin(t_us, camera, self._layers, shown)
        self._next_us = min(t_us + self._frame_us(camera, shown), (t_us // period + 1) * period)
        return events, annotations

    def finish(self) -> Events:
        """Wait for the sensor, and help it: the events of the frame that it works on."""
        if self._exposing is None:
            return Events.empty(self.width, self.height)
        self._sensor.help()
        exposure, self._exposing = self._exposing.result(), None
        self._annotator.note(exposure)
        return exposure.events

    def image(self) -> NDArray[np.uint8]:
        """The picture as an eye would see it, (H, W)."""
        level = np.percentile(self._layers.picture, 99.0)
        return (255 * np.clip(self._layers.picture / max(level, 1e-6), 0, 1) ** 0.45).astype(np.uint8)

    def _camera(self, t_us: int) -> Camera:
        if self._static is not None:
            return self._static
        x, y, heading, speed = self._world.ego_pose(t_us)
        t, phase = t_us * 1e-6, self._shake
        shake = min(1.0, speed / 10) * 0.003
        pitch = self._moving_pitch + shake * (np.sin(9.0 * t + phase[0]) + 0.4 * np.sin(31.0 * t + phase[1]))
        roll = 0.5 * shake * np.sin(7.0 * t + phase[2])
        return Camera(
            self.width, self.height, self._focal, (x, y, self._moving_height), heading, float(pitch), float(roll)
        )

    def _draw(self, t_us: int, camera: Camera, shown: list[Shown], first: bool) -> NDArray[np.bool_] | None:
        """Bring the picture to t_us; returns the tiles that may have changed, None for all."""
        from spiketrack.traffic.tile_kernels import restore

        self._layers, self._before = self._before, self._layers
        changed, light, layers = None, self._light, self._layers
        if self._static is None:
            self._surroundings.draw(camera, self._base, self._albedo, layers.depth, quick=True)
            layers.picture[:] = self._base
            if light.lamps:
                layers.picture[:] += self._surroundings.lamp_light(camera)
        else:
            stirred = self._renew(t_us, camera, first)
            changed = stirred | self._before.touched
            restore(layers.picture, self._background, stirred | self._stirred | layers.touched)
            if layers.lamps.size:
                restore(layers.lamps, self._lamps, layers.touched & self._flickering)
            self._stirred = stirred
        layers.touched[:] = False
        self._draw_lights(camera, shown)
        self._draw_bodies(camera, shown)
        self._rain.draw(t_us, self._layers, self._light.full)
        if changed is None or first:
            return None
        return changed | layers.touched

    def _renew(self, t_us: int, camera: Camera, first: bool) -> NDArray[np.bool_]:
        """Bring the background of a static camera, evenly lit, to t_us; returns the tiles that the wind changed."""
        from spiketrack.traffic.tile_kernels import light_up, touch

        tiles = np.zeros_like(self._layers.touched)
        light = self._light
        if first:
            self._surroundings.draw(camera, self._base, self._albedo, self._layers.depth)
            if light.lamps:
                self._lamps = self._surroundings.lamp_light(camera)
                if light.flicker_depth > 0:
                    swing = flicker_swing(light, self._pixel, self._base, self._lamps)
                    least = _FLICKER_SEEN * min(self._pixel.on_threshold, self._pixel.off_threshold)
                    self._flickering = most_by_tile(swing) > least
                    if self._flickering.any():
                        self._layers, self._before = (
                            layers._replace(lamps=self._lamps.copy(), flickers=self._flickering)
                            for layers in (self._layers, self._before)
                        )
            tiles[:] = True
        if t_us - self._stirred_us >= _STIR_US and self._surroundings.is_stirred(t_us):
            self._stirred_us = t_us
            for region in self._surroundings.stir(t_us, camera, self._base):
                touch(tiles, *region)
        light_up(self._background, self._base, self._lamps, 1.0, tiles)
        return tiles

    def _flicker(self) -> Flicker | None:
        """What the street lamps do to the picture, if it is noticed."""
        if not self._layers.lamps.size:
            return None
        return Flicker(self._layers.lamps, self._flickering, self._light.flicker_hz, self._light.flicker_depth)

    def _draw_lights(self, camera: Camera, shown: list[Shown]) -> None:
        """Shadows and the pools of headlights, on the ground below everything."""
        from spiketrack.traffic.light_kernels import add_pools, draw_shadows

        light = self._light
        if shown and light.daytime != "night":
            ground = footprints([it.actor for it in shown], 0.92)
            heights, depths = np.array([(it.actor.height, it.depth) for it in shown]).T
            shade = light.ambient / light.full
            draw_shadows(
                ground, heights, depths, np.array(light.sun_direction), 0.55, shade, camera.view(0.0),
                camera.rotation(), np.array(camera.position), self._layers,
            )  # fmt: skip
        if not light.headlights:
            return
        strength = 0.02 if light.daytime == "dusk" else 0.06
        pools = []
        for it in shown:
            if it.actor.class_id not in (PEDESTRIAN, BICYCLE, WHEELCHAIR):
                nose = 0.5 * it.actor.length + 7.5
                pools.append((it.actor.x, it.actor.y, it.actor.heading, nose, 6.5, 1.8, strength))
        if self._static is None:
            pools.append((*camera.position[:2], camera.heading, 14.0, 11.0, 3.5, 2 * strength))
        if pools:
            faint = _FAINT * (light.ambient + 2 * self._pixel.dark_intensity)
            eye = camera.rotation(), np.array(camera.position)
            add_pools(np.array(pools), *eye, camera.view(0.0), faint, self._albedo, self._layers)

    def _draw_bodies(self, camera: Camera, shown: list[Shown]) -> None:
        from spiketrack.traffic.body_kernels import draw_body

        light = self._light
        sun = camera.rotation() @ light.sun_direction
        gain = {"day": 0.0, "dusk": 0.5, "night": 1.0}[light.daytime] if light.headlights else 0.0
        lamps = self._lamps_at(camera, [it.actor for it in shown])
        for (actor, cast, depth, _, placed), lamp in zip(shown, lamps, strict=True):
            ambient = light.ambient + lamp
            seen = np.array((ambient, light.sun, *sun, gain, 3.0 if actor.braking else 1.0))
            draw_body(cast.body, placed, camera.view(depth), seen, self._layers, 0)

    def _lamps_at(self, camera: Camera, actors: Sequence[Actor]) -> list[float]:
        """The light of street lamps on the ground where the actors are."""
        if not actors or not self._light.lamps or self._static is None:
            return [0.0] * len(actors)
        pixels, depth = camera.project([(actor.x, actor.y, 0.0) for actor in actors])
        seen = (depth > 0) & ((pixels >= 0) & (pixels < (self.width, self.height))).all(1)
        column, row = np.where(seen[:, None], pixels, 0).astype(np.int64).T
        light = self._lamps[row, column] / np.maximum(self._albedo[row, column], 0.05)
        return np.where(seen, np.minimum(light, 0.5), 0.0).tolist()

    def _frame_us(self, camera: Camera, shown: list[Shown]) -> int:
        """Time to the next frame: about a pixel of the fastest motion, within the limits."""
        shortest, longest = self._settings.frame_us
        fastest = max((it.flow for it in shown), default=0.0)  # px/s
        if self._static is None:  # the whole picture is drawn anew: about two pixels of its lower half
            shortest, fastest = min(2 * shortest, longest), self._world.ego_pose(self.t_us)[3] * self._focal / 20
        step = int(np.clip(1e6 / max(fastest, 1.0), shortest, longest))
        flicker = self._flicker()
        if flicker is not None:
            step_us, most = flicker.step_us, longest // flicker.step_us
            step = min(max(int(_FLICKER_PX * step / step_us), 1), most) * step_us
        if self._light.rain > 0:
            step = min(step, 2000)
        return max(step, shortest)
