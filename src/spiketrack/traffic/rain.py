"""Rain: drops before the camera.

Station: in come the amount of rain and a seed, out goes a picture with bright streaks, drawn over everything else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spiketrack.traffic.layers import Layers


class Rain:
    """Drops as short bright streaks that fall through the picture."""

    def __init__(self, amount: float, width: int, height: int, seed: Sequence[int]) -> None:
        count = round(amount * width / 1280 * 60)
        rng = np.random.default_rng([*seed, 0])
        self._width, self._height = width, height
        self._speed = rng.uniform(1.2, 4.0, count) * height  # px/s
        self._phase = rng.uniform(0, 10, count)
        self._slant = float(rng.uniform(-0.15, 0.15))
        self._drops = rng.integers(1, 2**31, count)

    def draw(self, t_us: int, layers: Layers, full: float) -> None:
        """Draw the drops at t_us; full: intensity of white ground."""
        from spiketrack.traffic.primitive_kernels import fill_capsule

        for speed, phase, drop in zip(self._speed, self._phase, self._drops, strict=True):
            way = t_us * 1e-6 * speed / (1.3 * self._height) + phase
            turn, share = int(way), way % 1
            x = ((drop * 2654435761 + turn * 40503) % 65521) / 65521 * self._width
            y = (1.3 * share - 0.15) * self._height
            size = 0.006 * speed / 2
            x += self._slant * y
            shine = 0.35 * full + 0.0005
            fill_capsule(x, y, x + self._slant * size, y + size, 0.45, 0.45, shine, 0.3, 0.0, layers, 0)
