"""Flicker: where the light of street lamps swings so far that pixels notice.

Station: inside `scene`, once for a camera that stands still.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spiketrack.simulation.sensor import TILE, PixelSettings
from spiketrack.traffic.light import Light


def flicker_swing(
    light: Light, pixel: PixelSettings, base: NDArray[np.float32], lamps: NDArray[np.float32]
) -> NDArray[np.float32]:
    """How far the log intensity swings from trough to crest behind the pixels' low pass, (H, W)."""
    even = base + pixel.dark_intensity + 1e-9
    up, down = 1 + light.flicker_depth, 1 - light.flicker_depth
    swing = np.log((even + up * lamps) / (even + down * lamps))
    if pixel.bandwidth_hz is not None:
        cut_off = pixel.bandwidth_hz * np.minimum((even + lamps) / pixel.bandwidth_intensity, 1)
        swing /= np.hypot(1, light.flicker_hz / np.maximum(cut_off, pixel.least_bandwidth_hz))
    return swing


def most_by_tile(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest value of each tile."""
    height, width = values.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = np.zeros((rows * TILE, columns * TILE), values.dtype)
    padded[:height, :width] = values
    return padded.reshape(rows, TILE, columns, TILE).max(axis=(1, 3))
