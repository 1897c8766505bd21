"""The statistics of benchmarks/realism.py, on events whose values are worked out by hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from spiketrack.events import Events
from spiketrack.simulation.sensor import PixelSettings, SensorSettings


@pytest.fixture(scope="module")
def realism():
    path = Path(__file__).parents[1] / "benchmarks" / "realism.py"
    spec = importlib.util.spec_from_file_location("realism_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def events_of(rows, width=64, height=64):
    t, x, y, p = np.array(sorted(rows), np.int64).reshape(-1, 4).T
    return Events(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), width, height)


def measured(realism, rows, windows=10):
    events = events_of(rows)
    starts = range(0, windows * realism.WINDOW_US, realism.WINDOW_US)
    return realism.measure((events.between(s, s + realism.WINDOW_US) for s in starts), 64, 64)


def test_an_event_is_alone_where_none_is_beside_it_before_or_after(realism):
    # the second is beside the first, within 5 ms; the third is beside nothing, the fourth comes 21 ms after the fifth
    rows = [(0, 5, 5, 1), (1_000, 6, 6, 1), (50_000, 30, 30, 0), (71_001, 41, 40, 1), (50_000, 40, 40, 1)]
    result = measured(realism, rows)
    assert result["near_share"] == pytest.approx(1 / 5)
    assert result["alone_hz"] == pytest.approx(3 / (64 * 64 * 0.1))
    assert result["on_share"] == pytest.approx(4 / 5)


def test_gaps_go_by_polarity(realism):
    result = measured(realism, [(0, 5, 5, 1), (1_100, 5, 5, 1), (1_250, 5, 5, 0)])
    same, opposite = np.array(result["gaps"])
    assert same.sum() == opposite.sum() == 1
    assert same[24] == 1  # 8 log10(1100) = 24.3
    assert opposite[17] == 1  # 8 log10(150) = 17.4
    assert result["same_polarity_next"] == 0.5


def test_rows_and_stamps(realism):
    # two rows at one time, then one of them again
    result = measured(realism, [(100, 1, 1, 1), (100, 3, 1, 1), (100, 9, 2, 1), (200, 9, 2, 1)])
    assert result["events_a_row"] == pytest.approx(4 / 3)
    assert result["events_a_stamp"] == pytest.approx(4 / 2)


def test_the_speed_of_an_edge_comes_from_the_plane(realism):
    # 1000 px/s: a column each ms, two events a pixel 100 us apart
    rows = [(1_000 * x + extra, x, y, 1) for x in range(64) for y in range(64) for extra in (0, 100)]
    result = measured(realism, rows)
    count, events = np.array(result["by_speed"]).T
    assert count[6] > 3_000  # 512 to 1024 px/s
    assert count.sum() == count[6]
    assert events[6] == 2 * count[6]
    assert np.flatnonzero(result["bursts"]).tolist() == [2]


def test_hot_pixels_are_those_far_above_the_rest(realism):
    rows = [(9_000 * k, 20, 20, k % 2) for k in range(11)] + [(1_000 * k, 60, k, 1) for k in range(0, 60, 10)]
    result = measured(realism, rows)
    assert result["hot_share"] == pytest.approx(1 / 64**2)
    assert result["hot_hz"] == pytest.approx(110)
    assert result["noise_hz"] == pytest.approx(6 / (64**2 - 1) / 0.1)


def test_nothing_is_no_error(realism):
    result = realism.measure([Events.empty(64, 64)] * 3, 64, 64)
    assert result["events"] == 0
    assert result["noise_hz"] == 0
    assert result["shortest_same_us"] is None


def test_an_ideal_pixel_fires_as_often_as_its_threshold_fits_into_the_edge(realism):
    pixel = PixelSettings(on_threshold=0.3, off_threshold=0.3, mismatch=0, refractory_us=0)
    counts = realism.edges(SensorSettings(width=64, height=32, pixel=pixel), 0)
    assert [count for _, count in counts] == [pytest.approx(3)] * len(realism.EDGE_SPEEDS)
