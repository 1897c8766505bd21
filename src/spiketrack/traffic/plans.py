"""Plans: what a scene leaves open is drawn from its seed.

Station: before a scene starts. In come seeds, out go its light and weather, its sensor, its roads and traffic, and
where a camera that stands still looks from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from spiketrack.simulation.sensor import PixelSettings, SensorSettings
from spiketrack.traffic.camera import Camera
from spiketrack.traffic.layout import Layout
from spiketrack.traffic.light import Daytime, Light
from spiketrack.traffic.world import WorldSettings


def plan_light(daytime: Daytime, rain: bool | None, seed: Sequence[int]) -> Light:
    """Sun, lamps and weather of a scene."""
    rng = np.random.default_rng(seed)
    wet = rng.uniform() < 1 / 6 if rain is None else rain
    drops = float(rng.uniform(0.3, 2.0)) if wet else 0.0
    flicker = float(rng.uniform(0.05, 0.35)) if rng.uniform() < 0.5 else 0.0
    azimuth, height = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(20, 65))
    towards = (
        float(np.cos(azimuth) * np.cos(height)),
        float(np.sin(azimuth) * np.cos(height)),
        float(np.sin(height)),
    )
    if daytime == "day":
        sunny = not wet and rng.uniform() < 0.65
        ambient = float(rng.uniform(0.25, 0.5))
        return Light("day", ambient, 0.8 if sunny else 0.0, towards, headlights=False, rain=drops)
    if daytime == "dusk":
        return Light(
            "dusk",
            float(rng.uniform(0.02, 0.08)),
            lamps=bool(rng.uniform() < 0.7),
            flicker_depth=flicker,
            headlights=True,
            rain=drops,
        )
    return Light(
        "night",
        float(np.exp(rng.uniform(np.log(0.001), np.log(0.008)))),
        lamps=bool(rng.uniform() < 0.85),
        flicker_depth=flicker,
        headlights=True,
        rain=drops,
    )


def plan_sensor(sensor: SensorSettings, spread: float, seed: Sequence[int]) -> SensorSettings:
    """The sensor with thresholds, noise and bandwidth changed at random, by factors that grow with spread."""
    if not spread:
        return sensor
    rng = np.random.default_rng(seed)

    def factor(largest: float) -> float:
        return float(np.exp(spread * rng.uniform(-1, 1) * np.log(largest)))

    both = factor(1.7)
    pixel = sensor.pixel.model_dump()
    pixel["on_threshold"] *= both * factor(1.5)
    pixel["off_threshold"] *= both * factor(1.5)
    noise = factor(3.0)
    for name in ("leak_hz", "shot_hz"):
        pixel[name] *= noise * factor(1.5)
    if pixel["bandwidth_hz"] is not None:
        pixel["bandwidth_hz"] *= factor(2.5)
    pixel["refractory_us"] *= factor(2.0)
    return sensor.model_copy(update={"pixel": PixelSettings.model_validate(pixel)})


def plan_world(seed: Sequence[int], moving: bool, light_traffic: float = 1.0) -> WorldSettings:
    """Roads and traffic of one scene. light_traffic: factor on the shares of the classes of micro-mobility."""
    rng = np.random.default_rng(seed)
    kind: Literal["road", "crossing"] = "crossing" if rng.uniform() < 0.5 else "road"
    slow, fast = (30.0, 60.0) if rng.uniform() < 0.7 else (60.0, 90.0)
    return WorldSettings(
        kind=kind,
        length_m=(500.0, 600.0) if moving else (170.0, 260.0),
        speed_kmh=(slow, fast),
        left_hand=bool(rng.uniform() < 0.2),
        flow=float(rng.uniform(3, 12)),
        pedestrians_per_minute=float(rng.uniform(3, 25)),
    ).with_light_traffic(light_traffic)


def plan_camera(layout: Layout, width: int, height: int, focal: float, rng: np.random.Generator) -> Camera:
    """A camera near the first road that looks at a place on it near the origin.

    Half stand on a pole or a facade at the road's edge and look along the road, a fifth hang above it, on a bridge,
    and three tenths look across, from a window or a roof some way off.
    """
    road = layout.roads[0]
    kind = rng.choice(("pole", "bridge", "roof"), p=(0.5, 0.2, 0.3))
    side = float(rng.choice((-1, 1)))
    target = np.array((road.length / 2 + rng.uniform(-10, 10), rng.uniform(-0.4, 0.4) * road.half_width))
    if kind == "roof":
        rise, beyond = float(rng.uniform(4, 18)), float(rng.uniform(6, 32)) * (focal / width) ** 0.7
        lateral = side * (road.half_width + beyond)
        along = abs(lateral - target[1]) * np.tan(rng.uniform(-1, 1) * np.deg2rad(50))
        distance = float(np.hypot(lateral - target[1], along))
    else:
        above = kind == "bridge"
        lateral = (
            rng.uniform(-0.6, 0.6) * road.half_width if above else side * (road.half_width + rng.uniform(0.2, 2.5))
        )
        rise = float(rng.uniform(5, 11) if above else rng.uniform(3, 10))
        across = abs(target[1] - lateral)
        distance = max(float(rng.uniform(14, 45)) * (focal / width) ** 0.7, 1.1 * rise, 1.05 * across)
        along = np.sqrt(distance**2 - across**2)
    x, y = road.place(target[0] - along, lateral)
    at_x, at_y = road.place(*target)
    heading = float(np.arctan2(at_y - y, at_x - x) + rng.normal(0, 0.1))
    pitch = float(np.clip(np.arctan2(rise, distance) + rng.normal(0, 0.06), np.deg2rad(5), np.deg2rad(55)))
    roll = float(rng.normal(0, np.deg2rad(1.5)))
    return Camera(width, height, focal, (float(x), float(y), rise), heading, pitch, roll)
