"""Samples counted by the device that trains: to the bit what the loader makes of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_device import devices

from spiketrack.errors import SettingsError
from spiketrack.events import Events, Window
from spiketrack.representations import InputSettings
from spiketrack.representations.flat import COUNTED, FlatEvents, Uncounted, check_countable

SENSOR = (37, 26)  # width, height


def window_of(rng, sensor, start_us, end_us, n):
    """Events beyond the window on both sides of what is counted, some of them many times the same pixel."""
    t = np.sort(rng.integers(start_us, end_us, n))
    pixels = [rng.integers(0, side, n) // 3 * 3 for side in sensor]
    return Window.of(Events.repaired(t, *pixels, rng.integers(0, 2, n), *sensor)[0], start_us, end_us)


def assert_counted_alike(samples, steps, name):
    expected = np.stack([s.encode(w, w.end_us, steps) for w, s in samples], axis=1).astype(np.float32)
    planes = FlatEvents.of([Uncounted(*sample) for sample in samples], steps).planes(lambda tensor: tensor.to(name))
    assert planes.dtype == torch.float32
    np.testing.assert_array_equal(planes.cpu().numpy(), expected)


inputs = st.fixed_dictionaries(
    {
        "representation": st.sampled_from(COUNTED),
        "slice_us": st.integers(1, 40),
        "bins": st.integers(1, 4),
        "limit": st.sampled_from([1, 2, 127]),
        "overlap": st.integers(0, 90),
        "size": st.sampled_from(
            [{}, {"height": 13, "width": 20}, {"height": 1, "width": 1}, {"height": 52, "width": 74}]
        ),
        "crop": st.sampled_from([None, (3, 2, 30, 20)]),
    }
)


@devices
@given(inputs, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1), st.integers(-(10**12), 10**15))
@settings(max_examples=60, deadline=None)
def test_planes_are_those_of_the_loader(name, given, steps, batch, seed, end_us):
    given = dict(given)
    overlap, size = given.pop("overlap"), given.pop("size")
    if given["crop"] and size.get("height", 0) > 20:
        size = {"height": 40, "width": 60}
    if given["representation"] == "polarity_histogram":
        given["bins"] = 1
    window_us = given["slice_us"] + overlap if overlap else None
    how = InputSettings.model_validate({**given, **size, "window_us": window_us})
    rng = np.random.default_rng(seed)
    start_us = end_us - (steps - 1) * how.slice_us - how.seen_us
    counts = rng.integers(0, 400, batch).tolist()
    samples = [(window_of(rng, SENSOR, start_us - 3, end_us, n), how) for n in counts]
    assert_counted_alike(samples, steps, name)


@devices
def test_sensors_of_different_size_in_one_batch(name):
    """Binned and enlarged to one size, as data.augment.crop does it."""
    rng = np.random.default_rng(0)
    how = InputSettings(slice_us=20, bins=2, width=32, height=24)
    samples = [(window_of(rng, sensor, 0, 60, 500), how) for sensor in ((16, 12), (64, 48), (32, 24), (8, 6))]
    assert_counted_alike(samples, 3, name)


@devices
def test_the_largest_sensor_and_the_longest_sample(name):
    corners = np.array([0, 65_535, 65_535]), np.array([65_535, 0, 65_535])
    how = InputSettings(slice_us=1 << 29, width=3, height=2)
    check_countable(how, 1)
    t = np.array([-(1 << 29), -1, -1]) + 10**15
    events = Events.repaired(t, *corners, np.array([1, 0, 1]), 65_536, 65_536)[0]
    window = Window.of(events, int(t[0]), int(t[2]) + 1)
    assert_counted_alike([(window, how)], 1, name)


def test_no_samples():
    rng = np.random.default_rng(0)
    how = InputSettings(slice_us=20)
    flat = FlatEvents.of([Uncounted(window_of(rng, SENSOR, 0, 40, 50), how)], 2)
    assert flat.without_samples().planes().shape == (2, 0, 2, 26, 37)


def test_counts_of_before_and_after_are_left_out():
    """By hand: a step sees [20, 40), and the history of a window of 30 the 10 before."""
    events = Events.repaired(np.array([9, 10, 19, 20, 39, 40]), *np.zeros((2, 6), int), np.ones(6, int), 2, 2)[0]
    flat = FlatEvents.of([Uncounted(Window.of(events, 0, 40), InputSettings(slice_us=20, window_us=30, bins=3))], 1)
    assert flat.planes()[0, 0, :, 0, 0].tolist() == [0, 2, 0, 1, 0, 1]


def test_samples_of_different_size_are_refused():
    rng = np.random.default_rng(0)
    samples = [Uncounted(window_of(rng, (side, side), 0, 40, 9), InputSettings(slice_us=20)) for side in (8, 9)]
    with pytest.raises(ValueError, match="sizes"):
        FlatEvents.of(samples, 2)


@pytest.mark.parametrize("representation", ["voxel_grid", "time_surface"])
def test_sums_of_fractions_are_refused(representation):
    with pytest.raises(
        SettingsError, match=rf"encode_on device: input\.representation {representation} .*stacked_hist"
    ):
        check_countable(InputSettings(representation=representation), 2)


def test_samples_that_are_too_long_are_refused():
    check_countable(InputSettings(slice_us=1 << 28), 3)
    with pytest.raises(SettingsError, match="longer than"):
        check_countable(InputSettings(slice_us=1 << 28), 4)
