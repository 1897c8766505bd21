"""Background events: their number, their polarity, and that cutting the time changes nothing."""

from itertools import pairwise

import numpy as np
import pytest

from spiketrack.simulation.motion import Canvas
from spiketrack.simulation.noise import NoiseSettings, noise_events

CANVAS = Canvas(100, 50)


def test_rate_and_polarity_are_the_expected_ones():
    events = noise_events(NoiseSettings(rate_hz=2.0, hot_pixels=0), CANVAS, 0, 10_000_000, (0,))
    expected = 2.0 * 100 * 50 * 10  # Poisson: standard deviation sqrt(100,000) = 316
    assert abs(len(events) - expected) < 5 * np.sqrt(expected)
    assert abs(events.p.mean() - 0.5) < 5 * 0.5 / np.sqrt(expected)
    per_second = np.bincount(events.t // 1_000_000, minlength=10)
    assert (np.abs(per_second - expected / 10) < 5 * np.sqrt(expected / 10)).all()
    per_pixel = np.bincount(events.y.astype(int) * 100 + events.x, minlength=5000)
    assert per_pixel.var() == pytest.approx(20, rel=0.1), "Poisson: the variance is the mean, 20"


def test_hot_pixels_stay_where_they_are():
    settings = NoiseSettings(rate_hz=0.0, hot_pixels=3, hot_rate_hz=(50, 50))
    events = noise_events(settings, CANVAS, 0, 20_000_000, (0,))
    pixels, counts = np.unique(events.y.astype(int) * 100 + events.x, return_counts=True)
    assert len(pixels) == 3
    assert (np.abs(counts - 1000) < 5 * np.sqrt(1000)).all()


@pytest.mark.parametrize("cuts", [[0, 1, 99_999, 100_000, 250_001, 700_000], [0, 350_000, 700_000]])
def test_pieces_equal_the_whole(cuts):
    whole = noise_events(NoiseSettings(), CANVAS, 0, 700_000, (5,))
    pieces = [noise_events(NoiseSettings(), CANVAS, a, b, (5,)) for a, b in pairwise(cuts)]
    for name in "txyp":
        np.testing.assert_array_equal(np.concatenate([getattr(piece, name) for piece in pieces]), getattr(whole, name))


def test_no_noise_and_no_time_give_no_events():
    assert len(noise_events(NoiseSettings(rate_hz=0, hot_pixels=0), CANVAS, 0, 1_000_000, (0,))) == 0
    assert len(noise_events(NoiseSettings(), CANVAS, 500, 500, (0,))) == 0
