"""Simulation: recordings with exact labels, made from real digits or from nothing.

`compose` moves the real events of N-MNIST digits over a larger canvas; `scene` renders moving shapes and sends them
through the pixel model of `sensor` (read-out: `readout`, cameras: `presets`). Both yield chunks of (Events, Boxes).
`motion`, `labels` and `noise` are what they share; `datasets.synthetic` writes whole data sets of such scenes.
"""

from spiketrack.simulation.compose import (
    NMNIST_CLASSES,
    NMNIST_SIDE,
    ComposeSettings,
    Digit,
    compose_scene,
    digit_of,
    plan_scene,
)
from spiketrack.simulation.labels import LabelSettings
from spiketrack.simulation.motion import Canvas, CountRange, MotionSettings, Track
from spiketrack.simulation.noise import NoiseSettings, noise_events
from spiketrack.simulation.presets import PRESETS
from spiketrack.simulation.readout import ReadoutSettings
from spiketrack.simulation.scene import SHAPE_CLASSES, SceneSettings, simulate_scene
from spiketrack.simulation.sensor import Exposure, PixelSettings, Sensor, SensorSettings

__all__ = [
    "NMNIST_CLASSES",
    "NMNIST_SIDE",
    "PRESETS",
    "SHAPE_CLASSES",
    "Canvas",
    "ComposeSettings",
    "CountRange",
    "Digit",
    "Exposure",
    "LabelSettings",
    "MotionSettings",
    "NoiseSettings",
    "PixelSettings",
    "ReadoutSettings",
    "SceneSettings",
    "Sensor",
    "SensorSettings",
    "Track",
    "compose_scene",
    "digit_of",
    "noise_events",
    "plan_scene",
    "simulate_scene",
]
