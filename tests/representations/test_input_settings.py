import numpy as np
import pytest
from event_samples import HEIGHT, WIDTH, random_events
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack import representations
from spiketrack.errors import SettingsError
from spiketrack.events import Events
from spiketrack.representations import InputSettings, grid

NAMES = list(InputSettings.model_fields["representation"].annotation.__args__)
CHANNELS = {"signed_difference": 1, "voxel_grid": 1}
OPTIONS = {
    **{name: {"limit": 9} for name in ("stacked_histogram", "polarity_histogram", "signed_difference")},
    "time_surface": {"tau_us": 25},
}


@pytest.fixture(autouse=True, scope="module")
def even_little_work_is_shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MIN_SHARED_WORK", 0)
        yield


@given(
    random_events(),
    st.sampled_from(NAMES),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([None, 20, 45]),
    st.sampled_from([{}, {"crop": (1, 1, 5, 3)}, {"height": 2, "width": 3}, {"crop": (2, 0, 4, 4), "width": 2}]),
)
@settings(max_examples=60, deadline=None)
def test_each_step_is_the_representation_of_its_window(events, name, steps, bins, window_us, frame):
    bins = 1 if name == "polarity_histogram" else bins
    chosen = InputSettings(
        representation=name, slice_us=20, window_us=window_us, bins=bins, limit=9, tau_us=25, **frame
    )
    encoded = chosen.encode(events, 90, steps)
    size = chosen.size(HEIGHT, WIDTH)
    assert encoded.shape == (steps, chosen.channels, *size) == (steps, CHANNELS.get(name, 2) * bins, *size)
    for step in range(steps):
        end = 90 - 20 * (steps - 1 - step)
        several = () if name == "polarity_histogram" else (bins,)
        planes = getattr(representations, name)(
            events, end - (window_us or 20), end, *several, size=size, crop=chosen.crop, **OPTIONS.get(name, {})
        )
        assert encoded.dtype == planes.dtype
        np.testing.assert_array_equal(encoded[step], planes.reshape(-1, *size))
    np.testing.assert_array_equal(chosen.encode(events, 90, steps, threads=2), encoded)


def test_the_high_frequency_mode_is_binary_slices_as_steps():
    rng = np.random.default_rng(0)
    n = 500
    events = Events.repaired(
        np.sort(rng.integers(0, 800, n)), rng.integers(0, 8, n), rng.integers(0, 4, n), rng.integers(0, 2, n), 8, 4
    )[0]
    chosen = InputSettings(representation="binary_occupancy", slice_us=100)
    np.testing.assert_array_equal(
        chosen.encode(events, 800, 8), representations.microsecond_slices(events, 0, 800, 100)
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"slice_us": 20, "window_us": 19}, "window_us"),
        ({"representation": "polarity_histogram", "bins": 2}, "take stacked_histogram"),
        ({"representation": "voxelgrid"}, "voxel_grid"),
        ({"crop": (0, 0, 0, 4)}, "crop"),
        ({"crop": (-1, 0, 1, 4)}, "crop"),
        ({"tau_us": 0}, "tau_us"),
        ({"shortest_side": 0}, "shortest_side"),
        ({"shortest_side": 4, "width": 8}, "takes the place of width and height"),
        ({"shortest_side": 4, "height": 8}, "takes the place of width and height"),
        ({"least_side": 4}, "goes with shortest_side"),
        ({"shortest_side": 4, "least_side": 5}, "at most as large"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        InputSettings(**wrong)


def test_size_and_area_follow_the_crop():
    assert InputSettings().seen_area(4, 8) == (0, 0, 8, 4)
    cropped = InputSettings(crop=(2, 1, 6, 3), width=3)
    assert cropped.seen_area(4, 8) == (2, 1, 6, 3)
    assert cropped.size(4, 8) == (3, 3)
    with pytest.raises(SettingsError, match="leaves the sensor"):
        cropped.size(4, 7)
    with pytest.raises(SettingsError, match="larger than the crop"):
        InputSettings(crop=(0, 0, 2, 2), height=3).size(4, 8)
    with pytest.raises(SettingsError, match="larger than the sensor"):
        InputSettings(height=5).size(4, 8)


@pytest.mark.parametrize(
    ("sensor", "side", "f", "size"),  # (height, width)
    [
        ((720, 1280), 384, 2, (360, 640)),
        ((480, 640), 384, 2, (240, 320)),
        ((260, 346), 384, 1, (260, 346)),
        ((240, 304), 384, 1, (240, 304)),
        ((384, 400), 384, 1, (384, 400)),
        ((385, 400), 384, 2, (192, 200)),
        ((1280, 720), 240, 3, (426, 240)),
        ((3, 5), 1, 3, (1, 1)),
    ],
)
def test_binning_brings_any_sensor_to_the_networks_scale(sensor, side, f, size):
    scaled = InputSettings(shortest_side=side)
    assert scaled.binning(*sensor) == f
    assert scaled.size(*sensor) == size
    # what is seen is a whole number of bins, and what is left over less than one
    assert scaled.seen_area(*sensor) == (0, 0, size[1] * f, size[0] * f)
    assert all(0 <= whole - pixels * f < f for whole, pixels in zip(sensor, size, strict=True))
    assert InputSettings().binning(*sensor) == 1


def test_the_crop_is_binned_where_there_is_one():
    scaled = InputSettings(shortest_side=100, crop=(10, 20, 301, 200))
    assert scaled.binning(480, 640) == 2
    assert scaled.seen_area(480, 640) == (10, 20, 300, 200)
    assert scaled.size(480, 640) == (100, 150)
    with pytest.raises(SettingsError, match="leaves the sensor"):
        scaled.binning(200, 200)
    other = scaled.resized(60, 50)
    assert (other.shortest_side, other.size(480, 640), other.crop) == (None, (50, 60), (10, 20, 301, 200))


@pytest.mark.parametrize(
    ("sensor", "f", "size"),  # (height, width)
    [
        ((720, 1280), 1, (360, 640)),
        ((480, 640), 1, (480, 640)),
        ((260, 346), 2, (520, 692)),
        ((240, 304), 2, (480, 608)),
        ((100, 99), 4, (400, 396)),
    ],
)
def test_small_sensors_are_enlarged(sensor, f, size):
    scaled = InputSettings(shortest_side=500, least_side=300)
    assert scaled.enlargement(*sensor) == f
    assert scaled.size(*sensor) == size


@given(random_events(), st.sampled_from(NAMES), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_an_enlarged_pixel_is_f_by_f_equal_pixels(events, name, f):
    plain = InputSettings(representation=name, slice_us=20, window_us=45, limit=9)
    side = min(HEIGHT, WIDTH)
    larger = plain.model_copy(update={"shortest_side": f * side, "least_side": f * side})
    assert larger.size(HEIGHT, WIDTH) == (f * HEIGHT, f * WIDTH)
    block = np.ones((f, f), np.uint8)
    expected = np.kron(plain.encode(events, 90, 2), block)
    np.testing.assert_array_equal(larger.encode(events, 90, 2), expected)
    asked = plain.resized(f * WIDTH, f * HEIGHT)  # the same by width and height
    np.testing.assert_array_equal(asked.encode(events, 90, 2), expected)


@given(random_events(), st.sampled_from(NAMES), st.sampled_from([None, (1, 0, 6, 4)]), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_pixel_x_is_pixel_x_over_f_of_the_input(events, name, crop, side):
    scaled = InputSettings(representation=name, slice_us=20, window_us=45, limit=9, crop=crop, shortest_side=side)
    f, (x0, y0, width, height) = scaled.binning(HEIGHT, WIDTH), scaled.seen_area(HEIGHT, WIDTH)
    x, y = events.x.astype(int) - x0, events.y.astype(int) - y0
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    columns = (events.t[seen], x[seen] // f, y[seen] // f, events.p[seen])
    by_hand = Events.repaired(*columns, width // f, height // f)[0]
    plain = scaled.model_copy(update={"shortest_side": None, "crop": None})
    np.testing.assert_array_equal(scaled.encode(events, 90, 2), plain.encode(by_hand, 90, 2))
