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
