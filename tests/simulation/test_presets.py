"""Presets: the sizes and rates of the cameras, and the noise of a still scene."""

import numpy as np
import pytest

from spiketrack.simulation.presets import PRESETS
from spiketrack.simulation.sensor import Sensor


@pytest.mark.parametrize(
    ("name", "width", "height", "max_rate"),
    [
        ("evk4", 1280, 720, 1.066e9),
        ("gen3", 640, 480, 66e6),
        ("gen1", 304, 240, 30e6),
        ("davis346", 346, 260, 12e6),
    ],
)
def test_sizes_and_rates(name, width, height, max_rate):
    preset = PRESETS[name]
    assert (preset.width, preset.height, preset.readout.max_rate) == (width, height, max_rate)
    assert set(PRESETS) == {"evk4", "gen3", "gen1", "davis346"}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("light", [0.003, 0.3])
def test_the_noise_of_a_still_scene_is_that_of_the_formula(name, light):
    preset = PRESETS[name]
    pixel = preset.pixel
    sensor = Sensor(preset, (0,))
    frame = np.full((preset.height, preset.width), light, np.float32)
    sensor.expose(frame, 0)
    nothing = np.zeros((-(-preset.height // 16), -(-preset.width // 16)), bool)
    exposures = [sensor.expose(frame, 10_000 * k, nothing) for k in range(1, 101)]
    count = sum(len(exposure.events) for exposure in exposures)
    rate = pixel.leak_hz + pixel.leak_light_hz * light + pixel.shot_hz / (1 + light / pixel.shot_intensity)
    hot = round(pixel.hot_pixels * frame.size)
    expected = rate * frame.size + hot * pixel.hot_rate_hz
    # Poisson; hot pixels' own rates are uniform within 0.5 .. 1.5 of the mean
    spread = np.sqrt(expected + hot * pixel.hot_rate_hz**2 / 12)
    assert abs(count - expected) < 5 * spread + 0.001 * expected
    assert sensor.lost == 0
    assert not np.concatenate([exposure.signal for exposure in exposures]).any()


def test_evk4_is_as_noisy_as_the_camera():
    # 0.05 .. 0.5 events per pixel and second, more at night
    pixel = PRESETS["evk4"].pixel
    day, night = (
        pixel.leak_hz + pixel.leak_light_hz * i + pixel.shot_hz / (1 + i / pixel.shot_intensity) for i in (0.4, 0.002)
    )
    assert 0.05 < day < night < 0.5
