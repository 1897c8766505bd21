"""Background activity of a sensor: events that no object caused.

Station: added to the events of `compose` and `scene`. Uniform Poisson noise of random polarity over all pixels
(shot noise and leak as a first approximation), and a few hot pixels that fire much faster.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.events import Events
from spiketrack.simulation.motion import HOT_STREAM, NOISE_STREAM, Canvas, PositiveRange

# Noise is drawn in blocks on a fixed grid, so that it does not depend on how a scene is cut into chunks.
_BLOCK_US = 100_000


class NoiseSettings(BaseModel):
    """Background events of the sensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_hz: float = Field(0.3, ge=0, le=1000, description="noise events per pixel and second, Poisson")
    hot_pixels: int = Field(3, ge=0, le=10_000, description="number of hot pixels")
    hot_rate_hz: PositiveRange = Field((20.0, 100.0), description="range of a hot pixel's events per second")


def noise_events(settings: NoiseSettings, canvas: Canvas, start_us: int, end_us: int, seed: Sequence[int]) -> Events:
    """The background events of [start_us, end_us), microseconds; the same for any way of cutting the time."""
    if start_us >= end_us:
        return Events.empty(*canvas)
    blocks = range(start_us // _BLOCK_US, -(-end_us // _BLOCK_US))
    parts = [_block(settings, canvas, block, seed) for block in blocks]
    return Events.concatenate(parts).between(start_us, end_us)


def _block(settings: NoiseSettings, canvas: Canvas, block: int, seed: Sequence[int]) -> Events:
    rng = np.random.default_rng([*seed, NOISE_STREAM, block])
    width, height = canvas
    seconds = _BLOCK_US * 1e-6
    count = rng.poisson(settings.rate_hz * width * height * seconds)
    pixel = rng.integers(0, width * height, count)
    if settings.hot_pixels:
        places = np.random.default_rng([*seed, HOT_STREAM])
        hot = places.integers(0, width * height, settings.hot_pixels)
        rates = places.uniform(*settings.hot_rate_hz, settings.hot_pixels)
        pixel = np.concatenate([pixel, np.repeat(hot, rng.poisson(rates * seconds))])
    t = rng.integers(0, _BLOCK_US, len(pixel)) + block * _BLOCK_US
    p = rng.integers(0, 2, len(pixel), dtype=np.uint8)
    order = np.argsort(t, kind="stable")
    y, x = np.divmod(pixel[order], width)
    return Events(t[order], x.astype(np.uint16), y.astype(np.uint16), p[order], width, height)
