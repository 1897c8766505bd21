"""Classified samples: what the network sees of them, by hand; the same from the same seed; what is broken is named."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_cars import EVENTS, NAMES, bar, dat_bytes, write_cars

from spiketrack.datasets.classified import (
    Placement,
    SampleAugmentSettings,
    SampleBatches,
    SampleEvents,
    SampleInput,
    thinned,
)
from spiketrack.datasets.splits import find_classified, hold_out
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.events import Window
from spiketrack.recordings import Sample

SIDE = 32
STRONG = SampleAugmentSettings(shift=0.1, rotate=15, zoom=0.2, shear=0.1, flip=0.5, drop=0.3, drop_area=0.1)


def window(*rows, width=SIDE, height=SIDE, duration_us=1000):
    t, x, y, p = np.array(rows).T if rows else np.empty((4, 0))
    columns = t.astype(np.int64), x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8)
    return Window(*columns, width, height, 0, duration_us)


def seen(settings, window, placement=None):
    """The (step, channel, row, column, value) of everything that is not zero."""
    planes = settings.encode(window, placement)
    return [(*place, int(planes[tuple(place)])) for place in np.argwhere(planes).tolist()]


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    return write_cars(tmp_path_factory.mktemp("cars"))


def test_time_becomes_steps_and_bins_and_polarities_channels():
    # 1000 us in 2 steps of 2 bins: bounds 0, 250, 500, 750, 1000; channels OFF and ON of the older bin, of the newer
    events = window((0, 1, 2, 0), (249, 3, 4, 1), (250, 5, 6, 1), (500, 7, 8, 0), (999, 9, 10, 1))
    settings = SampleInput(duration_us=1000, steps=2, bins=2, height=SIDE, width=SIDE)
    assert settings.encode(events).shape == (2, 4, SIDE, SIDE)
    assert seen(settings, events) == [
        (0, 0, 2, 1, 1),
        (0, 1, 4, 3, 1),
        (0, 3, 6, 5, 1),
        (1, 0, 8, 7, 1),
        (1, 3, 10, 9, 1),
    ]


@pytest.mark.parametrize(("representation", "value"), [("binary_occupancy", 1), ("stacked_histogram", 2)])
def test_occupancy_is_never_more_than_one_and_counts_saturate(representation, value):
    events = window((1, 1, 2, 0), (2, 1, 2, 0), (3, 1, 2, 0))
    settings = SampleInput(representation=representation, duration_us=1000, steps=1, height=SIDE, width=SIDE, limit=2)
    assert seen(settings, events) == [(0, 0, 2, 1, value)]


def test_a_larger_input_repeats_pixels_without_holes():
    settings = SampleInput(duration_us=1000, steps=1, height=2 * SIDE, width=2 * SIDE)
    assert seen(settings, window((1, 3, 5, 1))) == [(0, 1, y, x, 1) for y in (10, 11) for x in (6, 7)]


def test_a_smaller_input_loses_no_pixel():
    settings = SampleInput(duration_us=1000, steps=1, height=32, width=32, representation="stacked_histogram")
    # 96 x 64 pixels: an input pixel covers 3 columns and 2 rows, and takes the largest of their counts
    events = window((1, 3, 2, 0), (2, 5, 3, 0), (3, 5, 3, 0), (4, 95, 63, 0), width=96, height=64)
    assert seen(settings, events) == [(0, 0, 1, 1, 2), (0, 0, 31, 31, 1)]
    everywhere = window(*((0, x, y, 0) for x in range(96) for y in range(64)), width=96, height=64)
    assert settings.encode(everywhere)[0, 0].all()


def test_what_fills_the_input():
    events = window((1, 0, 0, 0), (2, 39, 19, 1), width=120, height=100)
    assert seen(SampleInput(duration_us=1000, steps=1, height=100, width=120), events)[-1] == (0, 1, 19, 39, 1)
    # 40 x 20 pixels up to the last event, on 80 x 40: twice as large
    fitted = SampleInput(duration_us=1000, steps=1, height=40, width=80, fit="events")
    assert seen(fitted, events) == [(0, 0, y, x, 1) for y in (0, 1) for x in (0, 1)] + [
        (0, 1, y, x, 1) for y in (38, 39) for x in (78, 79)
    ]
    assert not fitted.encode(window(width=120, height=100)).any()


@pytest.mark.parametrize(
    ("placement", "column", "row"),
    [
        (Placement(), 20, 12),
        (Placement(mirrored=True), SIDE - 1 - 20, 12),
        (Placement(degrees=90), SIDE - 1 - 12, 20),  # clockwise: the right goes down
        (Placement(degrees=180), SIDE - 1 - 20, SIDE - 1 - 12),
        (Placement(shift_x=0.25, shift_y=-0.125), 28, 8),
        (Placement(shift_x=0.5), None, None),  # off the input
    ],
)
def test_placement_of_one_pixel(placement, column, row):
    settings = SampleInput(duration_us=1000, steps=1, height=SIDE, width=SIDE)
    expected = [] if column is None else [(0, 1, row, column, 1)]
    assert seen(settings, window((1, 20, 12, 1)), placement) == expected


def test_zoom_and_shear_about_the_centre():
    settings = SampleInput(duration_us=1000, steps=1, height=SIDE, width=SIDE)
    # the pixel right of and below the centre, twice as large, begins at the centre still
    assert seen(settings, window((1, 16, 16, 1)), Placement(zoom=2)) == [
        (0, 1, y, x, 1) for y in (16, 17) for x in (16, 17)
    ]
    # 8.5 pixels below the centre, half a pixel to the side per pixel of height: 4.25 to the right
    ((_, _, row, column, _),) = seen(settings, window((1, 16, 24, 1)), Placement(shear=0.5))
    assert (row, column) == (24, 20)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_augmentation_keeps_what_it_may_and_changes_no_argument(seed):
    rng = np.random.default_rng(seed)
    t, x, y, p = bar(1, seed)
    before = Window(
        *(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8)), width=120, height=100, start_us=0,
        end_us=100_000,
    )  # fmt: skip
    copies = [column.copy() for column in (before.t, before.x, before.y, before.p)]
    after = thinned(before, STRONG, rng)
    rows = Counter(zip(after.t.tolist(), after.x.tolist(), after.y.tolist(), after.p.tolist(), strict=True))
    assert rows <= Counter(zip(t.tolist(), x.tolist(), y.tolist(), p.tolist(), strict=True))
    planes = SampleInput().encode(after, Placement.draw(STRONG, rng))
    assert (planes.shape, planes.dtype, planes.max(initial=0) <= 1) == ((5, 2, 64, 64), np.uint8, True)
    for column, copy in zip((before.t, before.x, before.y, before.p), copies, strict=True):
        assert (column == copy).all()


def batches_of(cars, augment=STRONG, seed=3, cache_mb=10, batch_size=5):
    found, _ = find_classified(cars, "train")
    return SampleBatches(
        found,
        SampleInput(height=32, width=32),
        augment,
        batch_size=batch_size,
        seed=seed,
        events=SampleEvents(cache_mb),
    )


def same(a, b):
    return a.names == b.names and bool((a.events == b.events).all() and (a.class_ids == b.class_ids).all())


def test_batches_repeat_from_the_seed_whatever_the_cache_and_from_any_place(cars):
    batches = batches_of(cars)
    epoch = list(batches.epoch(1))
    assert [batch.events.shape for batch in epoch] == [(5, 5, 2, 32, 32)] * 2 + [(5, 2, 2, 32, 32)]
    assert len(batches) == len(epoch) == 3
    assert all(same(a, b) for a, b in zip(epoch, batches_of(cars, cache_mb=0).epoch(1), strict=True))
    assert all(same(a, b) for a, b in zip(epoch[2:], batches.epoch(1, 2), strict=True))
    assert not same(epoch[0], next(batches.epoch(2)))
    assert not same(epoch[0], next(batches_of(cars, seed=4).epoch(1)))
    names = sorted(name for batch in epoch for name in batch.names)
    assert names == sorted(str(path) for path in cars.glob("n-cars_train/*/*"))
    for batch in epoch:
        assert [NAMES[i] for i in batch.class_ids.tolist()] == [Path(name).parent.name for name in batch.names]


def test_without_augmentation_a_sample_is_the_encoding_of_its_file(cars):
    batch = next(batches_of(cars, augment=None, batch_size=1).epoch(0))
    (name,) = batch.names
    t, x, y, p = bar(NAMES.index(Path(name).parent.name), int(Path(name).stem.split("_")[1]))
    start = t[0]
    events = Window(
        *(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8)), 120, 100, start, start + 100_000
    )  # fmt: skip
    assert (batch.events[:, 0].numpy() == SampleInput(height=32, width=32).encode(events)).all()


def test_hold_out_takes_the_same_share_of_each_class(cars):
    found, names = find_classified(cars, "train")
    assert names == NAMES
    train, held = hold_out(found, 1 / 3)
    assert Counter(sample.class_name for sample in held) == {"background": 2, "cars": 2}
    assert sorted([*train, *held], key=found.index) == found
    assert hold_out(found, 1 / 3) == (train, held)
    assert hold_out(found, 0.0) == (found, [])
    assert len(hold_out(found, 0.01)[1]) == 2  # at least one of each
    with pytest.raises(SettingsError, match=r"class background: its 6 train samples cannot be shared"):
        hold_out(found, 0.95)


def test_repairs_are_counted_once_and_empty_samples_too(tmp_path):
    root = write_cars(tmp_path, train=1, test=1)
    good, empty, cut, off = (
        root / "n-cars_train" / "cars" / f"{name}_td.dat" for name in ("obj_000000", "e", "c", "o")
    )
    empty.write_bytes(dat_bytes([], [], [], []))
    cut.write_bytes(good.read_bytes()[:-3])
    off.write_bytes(dat_bytes([1, 2, 3], [10, 130, 11], [5, 5, 99], [0, 1, 1]))
    events = SampleEvents(0)
    lengths = {}
    for path in (good, empty, cut, off) * 2:
        lengths[path] = len(events.read(Sample(path, "cars", 1, "train", 120, 100), 100_000))
    assert list(lengths.values()) == [EVENTS, 0, EVENTS - 1, 2]
    assert sum(events.repairs.values()) == 2
    assert events.repairs["off_sensor"] == events.empty == 1
    assert "1 events off_sensor" in events.report()
    assert "1 samples without events" in events.report()


def test_what_is_missing_or_broken_is_named(cars, tmp_path):
    half = write_cars(tmp_path / "half", train=1, test=1)
    (half / "n-cars_test").rename(half / "elsewhere")
    with pytest.raises(RecordingError, match="no samples of the split 'test'; there are those of train"):
        find_classified(half, "test")
    broken = tmp_path / "broken_td.dat"
    broken.write_bytes(b"")
    with pytest.raises(RecordingError, match=r"broken_td\.dat: the file is empty"):
        SampleEvents(1).read(Sample(broken, "cars", 1, "train", 120, 100), 1000)


@pytest.mark.real_data
def test_a_real_digit(real_data):
    found, names = find_classified(real_data / "nmnist", "test")
    assert names == tuple("0123456789")
    read = SampleEvents(0).read(found[0], 300_000)
    planes = SampleInput(
        duration_us=300_000, height=34, width=34, representation="stacked_histogram", limit=255
    ).encode(read)
    assert int(planes.sum()) == len(read)  # no pixel of it had more than 255 events of a polarity in 60 ms
