"""Presets: four event cameras as settings of the sensor.

Station: chosen by name for a simulated scene. Sizes, read-out rates and mismatch are those of papers and data sheets
where a line says so. What depends on bias currents, lens and light, so that no paper fixes it, is "tuned": chosen so
that rates look like recordings of traffic, on the scale of the traffic renderer (1 is white in full sun, asphalt at
night 0.0005 to 0.005).

Sources: [L] Lichtsteiner et al., JSSC 2008. [P] Posch et al., JSSC 2011 (ATIS). [B] Brandli et al., JSSC 2014 (DAVIS).
[F] Finateu et al., ISSCC 2020 (IMX636's sensor). [G] Gallego et al., TPAMI 2022, table 1. [V] Hu et al., v2e, CVPRW
2021. [D] de Tournemire et al., "A large scale event-based detection dataset for automotive" (GEN1), 2020.
"""

from __future__ import annotations

from spiketrack.simulation.readout import ReadoutSettings
from spiketrack.simulation.sensor import PixelSettings, SensorSettings

PRESETS: dict[str, SensorSettings] = {
    # Prophesee EVK4 with Sony IMX636, the camera of eTraM
    "evk4": SensorSettings(
        width=1280,  # [F]
        height=720,  # [F]
        pixel=PixelSettings(
            on_threshold=0.22,  # tuned; [F] gives 11 % as the least, default biases lie higher
            off_threshold=0.22,  # tuned
            mismatch=0.025,  # tuned
            bandwidth_hz=1500.0,  # tuned
            least_bandwidth_hz=40.0,  # tuned
            bandwidth_intensity=0.1,  # tuned
            dark_intensity=0.0008,  # tuned
            refractory_us=200.0,  # tuned
            leak_hz=0.03,  # tuned; below the 0.1 Hz of [V], a DAVIS
            leak_light_hz=0.05,  # tuned
            shot_hz=0.4,  # tuned
            shot_intensity=0.01,  # tuned
            hot_pixels=2e-5,  # tuned
            hot_rate_hz=60.0,  # tuned
        ),
        readout=ReadoutSettings(
            jitter_us=20.0,  # tuned
            row_us=0.1,  # tuned
            max_rate=1.066e9,  # [F] 1.066 G events/s
            longest_wait_us=5_000.0,  # tuned
        ),
    ),
    # Prophesee Gen3 CD
    "gen3": SensorSettings(
        width=640,  # [G]
        height=480,  # [G]
        pixel=PixelSettings(
            on_threshold=0.25,  # tuned; [G] gives 12 % as the least
            off_threshold=0.25,  # tuned
            mismatch=0.03,  # tuned
            bandwidth_hz=1000.0,  # tuned
            least_bandwidth_hz=25.0,  # tuned
            bandwidth_intensity=0.1,  # tuned
            dark_intensity=0.001,  # tuned
            refractory_us=300.0,  # tuned
            leak_hz=0.05,  # tuned
            leak_light_hz=0.1,  # tuned
            shot_hz=0.8,  # tuned
            shot_intensity=0.015,  # tuned
            hot_pixels=5e-5,  # tuned
            hot_rate_hz=60.0,  # tuned
        ),
        readout=ReadoutSettings(
            jitter_us=30.0,  # tuned; [G] gives a latency of 40 to 200 us
            row_us=0.2,  # tuned
            max_rate=66e6,  # [G] 66 M events/s
            longest_wait_us=5_000.0,  # tuned
        ),
    ),
    # ATIS, the camera of GEN1
    "gen1": SensorSettings(
        width=304,  # [P], [D]
        height=240,  # [P], [D]
        pixel=PixelSettings(
            on_threshold=0.25,  # tuned; [P] gives 13 % as the least
            off_threshold=0.25,  # tuned
            mismatch=0.035,  # tuned
            bandwidth_hz=600.0,  # tuned
            least_bandwidth_hz=15.0,  # tuned
            bandwidth_intensity=0.15,  # tuned
            dark_intensity=0.002,  # tuned
            refractory_us=400.0,  # tuned
            leak_hz=0.1,  # as in [V]
            leak_light_hz=0.1,  # tuned
            shot_hz=2.0,  # tuned: noisy in low light
            shot_intensity=0.02,  # tuned
            hot_pixels=1e-4,  # tuned
            hot_rate_hz=50.0,  # tuned
        ),
        readout=ReadoutSettings(
            jitter_us=50.0,  # tuned
            row_us=0.0,  # [P] asynchronous read-out, events one by one
            max_rate=30e6,  # tuned
            longest_wait_us=10_000.0,  # tuned
        ),
    ),
    # iniVation DAVIS346
    "davis346": SensorSettings(
        width=346,  # [G]
        height=260,  # [G]
        pixel=PixelSettings(
            on_threshold=0.25,  # tuned; [G] gives 14 to 23 % as the least
            off_threshold=0.25,  # tuned
            mismatch=0.035,  # [B] 3.5 % from pixel to pixel
            bandwidth_hz=400.0,  # tuned; [V] takes 30 Hz for a noisy and 300 Hz for a fast sensor
            least_bandwidth_hz=10.0,  # tuned
            bandwidth_intensity=0.15,  # tuned
            dark_intensity=0.002,  # tuned
            refractory_us=500.0,  # as in [V]
            leak_hz=0.1,  # [V]
            leak_light_hz=0.1,  # tuned
            shot_hz=1.0,  # [V] up to 5 Hz in the dark for its noisy settings
            shot_intensity=0.03,  # tuned; [V] falls to a quarter at the brightest
            hot_pixels=1e-4,  # tuned
            hot_rate_hz=50.0,  # tuned
        ),
        readout=ReadoutSettings(
            jitter_us=20.0,  # tuned; [B] gives a least latency of 3 us, [L] of 15 us
            row_us=1.0,  # [B] rows are read as a burst that carries one time stamp; the length is tuned
            max_rate=12e6,  # [B], [G] 12 M events/s
            longest_wait_us=10_000.0,  # tuned
        ),
    ),
}
