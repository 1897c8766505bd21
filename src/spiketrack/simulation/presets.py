"""Presets: four event cameras as settings of the sensor.

Station: chosen by name for a simulated scene. "tuned on" names the real recording that a value was fitted to
(benchmarks/realism.py, docs/realism.md): one recording each, of unknown biases. "tuned" alone was chosen so that rates
look like recordings of traffic, on the scale of the traffic renderer (1 is white in full sun, asphalt at night 0.0005
to 0.005). "unverified" is quoted from memory of the source: its text could not be read. Widths and heights are those
of the recordings' headers; [V] was checked in its code.

Sources: [L] Lichtsteiner et al., JSSC 2008. [P] Posch et al., JSSC 2011 (ATIS). [B] Brandli et al., JSSC 2014 (DAVIS).
[F] Finateu et al., ISSCC 2020 (IMX636's sensor). [G] Gallego et al., TPAMI 2022, table 1. [V] Hu et al., v2e, CVPRW
2021, and the options and parameter sets of github.com/SensorsINI/v2e.
"""

from __future__ import annotations

from spiketrack.simulation.readout import ReadoutSettings
from spiketrack.simulation.sensor import PixelSettings, SensorSettings

PRESETS: dict[str, SensorSettings] = {
    # Prophesee EVK4 with Sony IMX636, the camera of eTraM
    "evk4": SensorSettings(
        width=1280,  # evk4_evt3.raw
        height=720,  # evk4_evt3.raw
        pixel=PixelSettings(
            on_threshold=0.22,  # tuned; least 11 % [F], unverified; default biases lie higher
            off_threshold=0.22,  # tuned
            mismatch=0.025,  # tuned
            bandwidth_hz=1500.0,  # tuned
            least_bandwidth_hz=40.0,  # tuned
            bandwidth_intensity=0.1,  # tuned
            dark_intensity=0.0008,  # tuned
            refractory_us=130.0,  # tuned on evk4_evt3.raw: shortest time to the opposite polarity 0.1 to 0.18 ms
            leak_hz=0.01,  # tuned on evk4_evt3.raw: 0.017 Hz in its night sky, a third of it ON
            leak_light_hz=0.1,  # tuned: 0.05 Hz by day, the least that test_presets allows
            shot_hz=0.06,  # tuned on evk4_evt3.raw, but four times as noisy: its biases are unknown
            shot_intensity=0.01,  # tuned
            hot_pixels=1.5e-5,  # tuned on evk4_evt3.raw: 13 quiet pixels of 873,000 above 5 Hz
            hot_rate_hz=20.0,  # tuned on evk4_evt3.raw: most of the 13 between 5 and 22 Hz
        ),
        readout=ReadoutSettings(
            jitter_us=20.0,  # tuned
            row_us=0.1,  # tuned
            max_rate=1.066e9,  # [F] 1.066 G events/s, unverified
            longest_wait_us=5_000.0,  # tuned
        ),
    ),
    # Prophesee Gen3 CD
    "gen3": SensorSettings(
        width=640,  # gen3_evt2.raw
        height=480,  # gen3_evt2.raw
        pixel=PixelSettings(
            on_threshold=0.25,  # tuned; least 12 % [G], unverified
            off_threshold=0.25,  # tuned
            mismatch=0.03,  # tuned
            bandwidth_hz=1000.0,  # tuned
            least_bandwidth_hz=25.0,  # tuned
            bandwidth_intensity=0.1,  # tuned
            dark_intensity=0.001,  # tuned
            refractory_us=15.0,  # tuned on gen3_evt2.raw: shortest time to the next event 10 to 18 us
            leak_hz=0.001,  # tuned on gen3_evt2.raw: 0.002 Hz in its black sky without hot pixels
            leak_light_hz=0.05,  # tuned
            shot_hz=0.005,  # tuned on gen3_evt2.raw
            shot_intensity=0.015,  # tuned
            hot_pixels=7e-4,  # tuned on gen3_evt2.raw: two events or more of 0.07 % of the quiet pixels in 0.1 s
            hot_rate_hz=100.0,  # tuned on gen3_evt2.raw
        ),
        readout=ReadoutSettings(
            jitter_us=5.0,  # tuned on gen3_evt2.raw: the times between events begin sharply at 13 us
            row_us=0.2,  # tuned
            max_rate=66e6,  # [G] 66 M events/s, unverified
            longest_wait_us=5_000.0,  # tuned
        ),
    ),
    # ATIS, the camera of GEN1
    "gen1": SensorSettings(
        width=304,  # GEN1
        height=240,  # GEN1
        pixel=PixelSettings(
            on_threshold=0.25,  # tuned; least 13 % [P], unverified
            off_threshold=0.25,  # tuned
            mismatch=0.035,  # tuned
            bandwidth_hz=600.0,  # tuned
            least_bandwidth_hz=15.0,  # tuned
            bandwidth_intensity=0.15,  # tuned
            dark_intensity=0.002,  # tuned
            refractory_us=400.0,  # tuned; the N-CARS sample allows 750 at most, and 800 fitted its gaps worse
            leak_hz=0.1,  # as in [V], a DAVIS
            leak_light_hz=0.1,  # tuned
            shot_hz=0.5,  # tuned on N-MNIST: 0.2 lonely events per pixel and second
            shot_intensity=0.02,  # tuned
            hot_pixels=1e-4,  # tuned
            hot_rate_hz=50.0,  # tuned
        ),
        readout=ReadoutSettings(
            jitter_us=50.0,  # tuned
            row_us=0.0,  # [P] asynchronous read-out, events one by one, unverified
            max_rate=30e6,  # tuned
            longest_wait_us=10_000.0,  # tuned
        ),
    ),
    # iniVation DAVIS346
    "davis346": SensorSettings(
        width=346,  # davis346_board.aedat4
        height=260,  # davis346_board.aedat4
        pixel=PixelSettings(
            on_threshold=0.25,  # tuned; least 14 to 23 % [G], unverified
            off_threshold=0.25,  # tuned
            mismatch=0.035,  # [B] 3.5 % from pixel to pixel, unverified; [V] 0.03 by default
            bandwidth_hz=400.0,  # tuned; [V] takes 30 Hz for its noisy set
            least_bandwidth_hz=10.0,  # tuned
            bandwidth_intensity=0.15,  # tuned
            dark_intensity=0.002,  # tuned
            refractory_us=250.0,  # tuned on davis346_board.aedat4: shortest time to the next event 0.24 to 0.32 ms
            leak_hz=0.1,  # [V] default and noisy set
            leak_light_hz=0.1,  # tuned
            shot_hz=0.5,  # tuned on davis346_board.aedat4: 0.2 Hz in the little of it that is quiet
            shot_intensity=0.03,  # tuned; [V] falls to a quarter at the brightest, unverified
            hot_pixels=1e-4,  # tuned
            hot_rate_hz=50.0,  # tuned
        ),
        readout=ReadoutSettings(
            jitter_us=20.0,  # tuned; least latency 3 us [B], 15 us [L], unverified
            row_us=1.0,  # tuned; [B] a row is a burst with one time stamp, unverified
            max_rate=12e6,  # [B], [G] 12 M events/s, unverified
            longest_wait_us=10_000.0,  # tuned
        ),
    ),
}
