"""Light: what the sky, the lamps and the weather do in a scene.

Station: shared by everything that is drawn. Intensities are relative: 1 is a white surface in full sun.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Daytime = Literal["day", "dusk", "night"]


@dataclass(frozen=True, slots=True)
class Light:
    """ambient: light from everywhere. sun: light of the sun, 0 for none. sun_direction: unit vector from the ground to
    the sun. lamps: whether street lamps burn, with `flicker_depth` (0 .. 1) at `flicker_hz`. headlights: whether
    vehicles have theirs on. rain: drops per second and square metre of picture at 5 m; 0 is dry.
    """

    daytime: Daytime
    ambient: float
    sun: float = 0.0
    sun_direction: tuple[float, float, float] = (0.0, 0.0, 1.0)
    lamps: bool = False
    flicker_hz: float = 100.0
    flicker_depth: float = 0.0
    headlights: bool = False
    rain: float = 0.0

    @property
    def full(self) -> float:
        """Intensity of white ground outside every shadow."""
        return self.ambient + self.sun * self.sun_direction[2]
