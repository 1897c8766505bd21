"""Filters: what stays by hand, the same for every way of cutting a recording, and counted."""

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spiketrack.errors import SettingsError
from spiketrack.events import Events, Window
from spiketrack.filters import FilterChain, FilterSettings, filtered, load_mask, save_mask
from spiketrack.filters.hot_pixels import HotPixelFilter, find_hot_pixels
from spiketrack.filters.region import rasterize
from spiketrack.filters.settings import HotPixelSettings
from spiketrack.recordings import open_recording

WIDTH, HEIGHT = 12, 9


def events_of(rows, width=WIDTH, height=HEIGHT):
    """Events of rows (t, x, y, p)."""
    t, x, y, p = np.array(rows, np.int64).reshape(-1, 4).T
    return Events(t.copy(), x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), width, height)


def random_events(n=3_000, mean_us=20, seed=0, start_us=0, width=WIDTH, height=HEIGHT):
    rng = np.random.default_rng(seed)
    t = start_us + np.cumsum(rng.exponential(mean_us, n)).astype(np.int64)
    x, y, p = (rng.integers(0, side, n) for side in (width, height, 2))
    return events_of(np.stack([t, x, y, p], axis=1), width, height)


def chain_of(width=WIDTH, height=HEIGHT, **sections):
    return FilterChain(FilterSettings.model_validate(sections), width, height)


def rows_of(events):
    return list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))


def kept_indices(rows, **sections):
    """Which of the rows stay; rows must differ from each other."""
    kept = set(rows_of(chain_of(**sections).apply(events_of(rows))))
    return [i for i, row in enumerate(rows) if row in kept]


def test_no_filter_is_the_identity():
    events, chain = random_events(), chain_of()
    assert chain.apply(events) is events
    assert (chain.counts, chain.warm_up_us, chain.filters) == ({}, 0, {})


def test_background_by_hand():
    rows = [
        (0, 5, 5, 1),  # alone
        (10, 5, 5, 1),  # the pixel itself is no support
        (20, 6, 6, 0),  # corner of 5, 5; 10 us ago
        (120, 7, 6, 0),  # 100 us after its neighbour: no longer less than 100
        (219, 6, 6, 1),  # 99 us after it
        (219, 9, 6, 1),  # two pixels away
        (230, 0, 0, 1),
        (231, 11, 1, 1),  # not a neighbour around the edge of the sensor
        (231, 0, 8, 1),
        (240, 1, 0, 1),
    ]
    assert kept_indices(rows, background={"dt_us": 100}) == [2, 4, 9]
    assert kept_indices(rows, background={"dt_us": 101}) == [2, 3, 4, 9]
    assert kept_indices(rows, background={"dt_us": 100, "radius": 2}) == [2, 4, 5, 9]


def supported(events, dt_us, radius, support):
    """Brute force: what stays by the definition."""
    last, keep = {}, []
    for t, x, y, _ in rows_of(events):
        near = [(x + dx, y + dy) for dx in range(-radius, radius + 1) for dy in range(-radius, radius + 1) if dx or dy]
        keep.append(sum(t - last[pixel] < dt_us for pixel in near if pixel in last) >= support)
        last[x, y] = t
    return keep


@pytest.mark.parametrize(("radius", "support"), [(1, 1), (2, 1), (3, 1), (1, 2), (1, 8), (2, 5)])
def test_background_is_its_definition(radius, support):
    events = random_events(1_500, start_us=-10_000)
    dt_us = {1: 400, 2: 100, 3: 50}[radius] * support
    keep = supported(events, dt_us, radius, support)
    assert 100 < sum(keep) < 1_400
    kept = chain_of(background={"dt_us": dt_us, "radius": radius, "support": support}).apply(events)
    assert rows_of(kept) == [row for row, stays in zip(rows_of(events), keep, strict=True) if stays]


def test_refractory_by_hand():
    rows = [
        (0, 3, 3, 1),
        (99, 3, 3, 1),  # too early
        (100, 3, 3, 1),  # counted from the one that stayed
        (101, 3, 3, 0),
        (101, 3, 4, 0),
        (199, 3, 3, 1),
        (201, 3, 3, 0),
    ]
    assert kept_indices(rows, refractory={"period_us": 100}) == [0, 2, 4, 6]
    assert kept_indices(rows, refractory={"period_us": 100, "per_polarity": True}) == [0, 2, 3, 4, 6]


def test_polarity_by_hand():
    rows = [(0, 1, 1, 1), (1, 1, 1, 0), (2, 1, 1, 1)]
    assert kept_indices(rows, polarity="on") == [0, 2]
    assert kept_indices(rows, polarity="off") == [1]
    assert kept_indices(rows, polarity="both") == [0, 1, 2]


def test_rectangles_by_hand():
    rows = [(x, x, 4, 1) for x in range(WIDTH)]
    assert kept_indices(rows, region={"include": [[2, 0, 5, 9]]}) == [2, 3, 4]
    assert kept_indices(rows, region={"include": [[-3, 4, 1, 99], [9, 4, 10, 5]]}) == [0, 9]
    assert kept_indices(rows, region={"exclude": [[2, 0, 11, 5]]}) == [0, 1, 11]
    assert kept_indices(rows, region={"include": [[2, 0, 5, 9]], "exclude": [[3, 4, 4, 5]]}) == [2, 4]


def test_polygons_by_hand():
    # the triangle (0, 0), (6, 0), (0, 6): centres with x + y < 6
    triangle = rasterize((0, 0, 6, 0, 0, 6), WIDTH, HEIGHT)
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    assert np.array_equal(triangle, x + y < 6)
    # a bow tie: even-odd, partly off the sensor
    bow = rasterize((-3.75, -4, 8.25, 8, 8.25, -4, -3.75, 8), WIDTH, HEIGHT)
    assert np.array_equal(bow, (np.abs(x - 2.25) > np.abs(y - 2)) & (x < 8.25) & (y < 8))
    # a square with a hole, drawn in one stroke
    ring = rasterize((1, 1, 8, 1, 8, 8, 1, 8, 1, 1, 3, 3, 3, 6, 6, 6, 6, 3, 3, 3), WIDTH, HEIGHT)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:8, 1:8] = True
    expected[3:6, 3:6] = False
    assert np.array_equal(ring, expected)


@given(st.lists(st.floats(-20, 30), min_size=3, max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_a_polygon_may_start_at_any_corner_and_run_either_way(xs, data):
    corners = [(x, data.draw(st.floats(-20, 30))) for x in xs]
    turned = corners[1:] + corners[:1]
    shapes = [tuple(np.ravel(corners)), tuple(np.ravel(turned)), tuple(np.ravel(corners[::-1]))]
    first, *others = (rasterize(shape, WIDTH, HEIGHT) for shape in shapes)
    assert all(np.array_equal(first, other) for other in others)


def test_a_mask_is_a_region(tmp_path):
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    save_mask(tmp_path / "mask.npy", mask)
    events = random_events()
    kept = chain_of(region={"mask": str(tmp_path / "mask.npy")}).apply(events)
    assert rows_of(kept) == [row for row in rows_of(events) if mask[row[2], row[1]]]


def test_rate_by_hand():
    # limit 3 events in 10 us; the period [0, 10) has 6, [10, 20) has 6, [20, 30) has 2, [30, 40) has 4
    times = [0, 1, 2, 3, 4, 5, 10, 10, 11, 12, 13, 19, 20, 29, 30, 31, 32, 33, -7]
    rows = [(t, i % WIDTH, i // WIDTH, 0) for i, t in enumerate(sorted(times))]
    limit = {"limit": 300_000, "period_us": 10}
    # number 0 is the event at -7 us, in the period [-10, 0)
    assert kept_indices(rows, rate=limit | {"policy": "tail"}) == [0, 1, 2, 3, 7, 8, 9, 13, 14, 15, 16, 17]
    # nothing is known of [-10, 0) that would ask for thinning; after 6 events, every second stays; after 2, all
    assert kept_indices(rows, rate=limit | {"policy": "even"}) == [0, 1, 2, 3, 8, 10, 12, 14, 15, 16, 17]


def test_an_empty_period_thins_nothing_after_it():
    rows = [(k, k % WIDTH, 0, 1) for k in range(9)] + [(20 + k, k % WIDTH, 1, 1) for k in range(3)]
    assert kept_indices(rows, rate={"limit": 300_000, "period_us": 10}) == [0, 1, 2, 9, 10, 11]


@given(st.lists(st.integers(0, 40), max_size=400), st.integers(1, 6), st.sampled_from(["even", "tail"]))
@settings(max_examples=100, deadline=None)
def test_the_rate_is_never_exceeded(steps, budget, policy):
    t = np.cumsum([0, *steps]) - 100
    events = events_of([(time, 0, 0, 1) for time in t])
    kept = chain_of(rate={"limit": budget * 10_000, "period_us": 100, "policy": policy}).apply(events)
    periods, before = np.unique(t // 100, return_counts=True)
    after = np.array([np.sum(kept.t // 100 == period) for period in periods])
    assert (after <= budget).all()
    if policy == "tail":
        assert np.array_equal(after, np.minimum(before, budget))


def test_flicker_goes_and_motion_stays():
    cycle = 10_000  # 100 Hz: ON events in the first half, OFF events in the second
    lamp = [(k * cycle + part, 4, 4, int(part < 5_000)) for k in range(50) for part in (0, 300, 5_000, 5_400)]
    edges = [(k * 37_000 + part, 8, 4, int(part < 500)) for k in range(13) for part in (0, 200, 1_000, 1_200)]  # 27 Hz
    rng = np.random.default_rng(0)
    noise = [(int(t), 1, 1, int(rng.integers(2))) for t in rng.integers(0, 500_000, 150)]
    events = events_of(sorted(lamp + edges + noise))
    kept = chain_of(flicker={"band_hz": [50, 520], "cycles": 6}).apply(events)
    assert [row for row in rows_of(kept) if row[1] == 8] == edges
    # the first event is a rise from nothing known, so 7 intervals pass until 6 are known
    assert [row for row in rows_of(kept) if row[1] == 4] == [row for row in lamp if row[0] < 7 * cycle]
    assert sum(row[1] == 1 for row in rows_of(kept)) > 140


def test_an_uneven_beat_is_no_flicker_and_a_stray_event_does_not_hide_one():
    # rises in turn 5 ms and 12 ms apart, both in the band
    uneven = [(k // 2 * 17_000 + k % 2 * 5_000 + part, 2, 2, int(part == 0)) for k in range(60) for part in (0, 900)]
    # an OFF event and a second rise within each flash of a lamp of 100 Hz
    lamp = [(k * 10_000 + part, 4, 4, p) for k in range(50) for part, p in ((0, 1), (500, 0), (900, 1), (5_000, 0))]
    kept = rows_of(chain_of(flicker={"band_hz": [50, 520]}).apply(events_of(sorted(uneven + lamp))))
    assert [row for row in kept if row[1] == 2] == uneven
    # rises at 0.9 (the one at 0 follows nothing known), 10, 20, ..., 60 ms: 6 intervals
    assert [row for row in kept if row[1] == 4] == [row for row in lamp if row[0] < 60_000]


def test_a_lamp_that_is_switched_off_flickers_no_more():
    lamp = [(k * 10_000 + part, 4, 4, int(part == 0)) for k in range(20) for part in (0, 5_000)]
    later = [(200_000 + k, 4, 4, 0) for k in (11_000, 12_000)]  # 20 ms after the last rise at the latest
    kept = chain_of(flicker={"band_hz": [50, 520]}).apply(events_of(lamp + later))
    assert rows_of(kept)[-2:] == later


def busy_sensor(seconds=3, hot=((7, 3), (8, 3), (2, 6))):
    """An edge that runs over the sensor at 5 columns a second; hot pixels of 200 Hz, two of them neighbours."""
    edge = [(int(c * 200_000 + y), c % WIDTH, y, c % 2) for c in range(seconds * 5) for y in range(HEIGHT)]
    fast = [(k * 5_000 + i, *pixel, k % 2) for i, pixel in enumerate(hot) for k in range(seconds * 200)]
    return events_of(sorted(edge + fast))


def test_hot_pixels_are_found_while_reading():
    events, hot = busy_sensor(), [(7, 3), (8, 3), (2, 6)]
    chain = chain_of(hot_pixels={"rate_hz": 50, "period_us": 500_000})
    kept = chain.apply(events)
    fast = [row for row in rows_of(events) if row[1:3] in hot]
    # learnt in the first half second, then gone
    gone = [row for row in fast if row[0] >= 500_000]
    assert rows_of(kept) == [row for row in rows_of(events) if row not in set(gone)]
    assert chain.counts == {"hot_pixels": len(gone)}
    found = chain.filters["hot_pixels"]
    assert isinstance(found, HotPixelFilter)
    assert found.pixels.tolist() == [[7, 3], [8, 3], [2, 6]]
    assert np.array_equal(np.argwhere(found.hot)[:, ::-1], found.pixels)


def test_a_hot_pixel_that_calms_down_comes_back():
    fast = [(k * 1_000, 4, 4, 1) for k in range(100)]
    slow = [(100_000 + k * 50_000, 4, 4, 1) for k in range(10)]
    kept = chain_of(hot_pixels={"rate_hz": 200, "period_us": 100_000}).apply(events_of(fast + slow))
    # masked in [100, 200) ms only
    assert rows_of(kept) == fast + slow[2:]


def test_an_edge_is_not_hot_however_fast():
    line = [(k * 1_000 + y, 4, y, k % 2) for k in range(1_000) for y in range(HEIGHT)]
    chain = chain_of(hot_pixels={"rate_hz": 50, "period_us": 100_000})
    assert len(chain.apply(events_of(line))) == len(line)


def test_hot_pixels_of_a_calibration_are_saved_and_masked(tmp_path):
    events = busy_sensor()
    runs = [events[:0], events[:1_000], events[1_000:]]
    hot = find_hot_pixels(runs, HotPixelSettings(rate_hz=50))
    assert np.argwhere(hot)[:, ::-1].tolist() == [[7, 3], [8, 3], [2, 6]]
    save_mask(tmp_path / "hot.npy", hot)
    assert np.array_equal(load_mask(tmp_path / "hot.npy", WIDTH, HEIGHT), hot)
    chain = chain_of(hot_pixels={"mask": str(tmp_path / "hot.npy")})
    assert rows_of(chain.apply(events)) == [row for row in rows_of(events) if not hot[row[2], row[1]]]
    assert chain.warm_up_us == 0
    for stretch, rate_hz, said in [(runs[:1], 5.0, "holds no event"), (runs, None, "rate_hz")]:
        with pytest.raises(SettingsError, match=said):
            find_hot_pixels(stretch, HotPixelSettings(rate_hz=rate_hz))


def test_too_few_events_are_no_rate():
    # 9 events in 9 ms are 1,000 Hz, and nothing
    rows = [(k * 1_000, 4, 4, 1) for k in range(10)]
    assert find_hot_pixels([events_of(rows[:9])], HotPixelSettings(rate_hz=100)).sum() == 0
    assert find_hot_pixels([events_of(rows)], HotPixelSettings(rate_hz=100)).sum() == 1
    # 10 events in 9,001 us
    assert find_hot_pixels([events_of(rows)], HotPixelSettings(rate_hz=1_200)).sum() == 0


REMEMBERING = {
    "region": {"exclude": [[0, 0, 3, 2]]},
    "hot_pixels": {"rate_hz": 500, "factor": 1.5, "period_us": 10_000},
    "background": {"dt_us": 300},
    "rate": {"limit": 15_000, "period_us": 1_000},
}
ALL = REMEMBERING | {
    "flicker": {"band_hz": [20, 2_000], "cycles": 2},
    "polarity": "on",
    "refractory": {"period_us": 1_500, "per_polarity": True},
    "rate": {"limit": 1_000, "period_us": 1_000},
}
EVERY = [{name: section} for name, section in ALL.items()] + [
    ALL,
    {"background": {"dt_us": 300, "radius": 2}},
    {"background": {"dt_us": 900, "support": 3}},
    {"rate": REMEMBERING["rate"]},
    {"rate": {"limit": 15_000, "policy": "tail"}},
]


@given(st.lists(st.integers(0, 3_000), max_size=12), st.sampled_from(EVERY), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_run_by_run_is_the_whole(cuts, sections, seed):
    events = random_events(seed=seed, start_us=-20_000)
    whole, pieces = chain_of(**sections), chain_of(**sections)
    kept = whole.apply(events)
    bounds = [0, *sorted(cuts), len(events)]
    runs = [events[first:last] for first, last in pairwise(bounds)]
    parts = list(filtered(runs, pieces))
    assert all(len(part) for part in parts)
    assert [row for part in parts for row in rows_of(part)] == rows_of(kept)
    assert whole.counts == pieces.counts
    assert sum(whole.counts.values()) == len(events) - len(kept)
    assert rows_of(events) == rows_of(random_events(seed=seed, start_us=-20_000))
    Events(kept.t, kept.x, kept.y, kept.p, WIDTH, HEIGHT)  # in order, on the sensor
    assert not any(getattr(kept, name).flags.writeable for name in "txyp")


@pytest.mark.parametrize("sections", EVERY, ids=lambda sections: "+".join(sections))
def test_every_filter_takes_out_some_and_leaves_some(sections):
    chain = chain_of(**sections)
    kept = chain.apply(random_events(start_us=-20_000))
    assert all(chain.counts.values())
    assert list(chain.counts) == [name for name in FilterSettings.model_fields if name in sections]
    assert len(kept)


@given(st.integers(-30_000, 60_000), st.sampled_from([*REMEMBERING, "all"]), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_a_late_start_with_warm_up_is_the_whole(start_us, name, seed):
    sections = REMEMBERING if name == "all" else {name: REMEMBERING[name]}
    events = random_events(6_000, seed=seed, start_us=-40_000)
    late = chain_of(**sections)
    runs = filtered([events.between(start_us - late.warm_up_us, 10**9)], late)
    parts = [part.between(start_us, 10**9) for part in runs]
    expected = chain_of(**sections).apply(events).between(start_us, 10**9)
    assert [row for part in parts for row in rows_of(part)] == rows_of(expected)


def test_warm_up_adds_up():
    chain = chain_of(**ALL)
    assert {name: filter.memory_us for name, filter in chain.filters.items()} == {
        "region": 0,
        "hot_pixels": 20_000,
        "flicker": 4 * 50_000,
        "polarity": 0,
        "refractory": 1_500,
        "background": 300,
        "rate": 2_000,
    }
    assert chain.warm_up_us == 223_800


def test_a_window_keeps_its_bounds():
    window = Window.of(random_events(100), 0, 1_000_000)
    kept = chain_of(background={"dt_us": 300}).apply(window)
    assert isinstance(kept, Window)
    assert (kept.start_us, kept.end_us) == (0, 1_000_000)
    assert 0 < len(kept) < 100
    empty = Window.of(window, 900_000, 950_000)
    assert chain_of(background={"dt_us": 300}).apply(empty) is empty
    nothing = chain_of(polarity="on").apply(Window.of(events_of([(5, 1, 1, 0)]), 0, 10))
    assert (len(nothing), nothing.start_us, nothing.end_us) == (0, 0, 10)


def test_noise_goes_and_an_object_stays():
    # a bar of 5 x 2 pixels moves a pixel per ms over 160 x 120; noise of 1 Hz per pixel
    rng = np.random.default_rng(0)
    bar = [(k * 1_000 + i * 50, k + i % 2, 60 + i // 2, 1) for k in range(150) for i in range(10)]
    n = rng.poisson(160 * 120 * 0.15)
    noise = zip(*(rng.integers(0, top, n).tolist() for top in (150_000, 160, 50, 2)), strict=True)
    noise = [row for row in noise]
    kept = rows_of(chain_of(160, 120, background={"dt_us": 3_000}).apply(events_of(sorted(bar + noise), 160, 120)))
    assert sum(row[2] >= 60 for row in kept) >= 0.99 * len(bar)
    # expected share with another of 8 neighbours within 3 ms at 2.4 Hz (all noise is on 50 of 120 rows): 1 - e^-0.058
    assert sum(row[2] < 60 for row in kept) < 0.08 * len(noise)


def test_runs_of_another_sensor_or_time_are_refused():
    chain = chain_of(polarity="on")
    chain.apply(events_of([(5, 1, 1, 1), (8, 1, 1, 1)]))
    chain.apply(events_of([(8, 1, 1, 1)]))
    with pytest.raises(ValueError, match="starts at 7 us, after events of 8 us"):
        chain.apply(events_of([(7, 1, 1, 1)]))
    with pytest.raises(ValueError, match="a sensor of 12 x 9, got events of 13 x 9"):
        chain.apply(events_of([(9, 1, 1, 1)], WIDTH + 1))


def test_regions_that_cannot_be_are_refused():
    for region, said in [
        ({"include": [[20, 0, 30, 5]]}, r"shape \[20.0, 0.0, 30.0, 5.0\] covers no pixel of the 12 x 9"),
        ({"exclude": [[0, 0, 12, 9]]}, "no pixel of the 12 x 9 sensor is left"),
    ]:
        with pytest.raises(SettingsError, match=said):
            chain_of(region=region)


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": {"include": [[0, 0, 5]]}},
        {"region": {"include": [[5, 0, 5, 9]]}},
        {"region": {"exclude": [[0, 0, 5, 5, float("nan"), 9]]}},
        {"region": {"exclude": [[0, 0, 5, 5, 5, 9, 9]]}},
        {"background": {"dt_us": 0}},
        {"background": {"support": 9}},
        {"flicker": {"band_hz": [520, 50]}},
        {"flicker": {"band_hz": [float("nan"), 50]}},
        {"rate": {"limit": 999}},
        {"polarity": "ON"},
        {"noise": {}},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        FilterSettings.model_validate(wrong)


def archive():
    content = io.BytesIO()
    np.savez(content, mask=np.ones((HEIGHT, WIDTH), bool))
    return content.getvalue()


def npy(array):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a readable .npy mask"),
        (b"\x89PNG", "not a readable .npy mask"),
        (npy(np.ones((HEIGHT, WIDTH), bool))[:-1], "not a readable .npy mask"),
        (npy(np.ones((HEIGHT, WIDTH), bool)).replace(b"(9, 12)", b"(1<<40,)"), "not a readable .npy mask"),
        (
            npy(np.ones((HEIGHT, WIDTH), bool)).replace(b"(9, 12), ", b"(99999999, 99999999), "),
            "not a readable .npy mask",
        ),
        (npy(np.array([None])), "not a readable .npy mask"),
        (npy(np.ones((HEIGHT, WIDTH), np.uint8)), r"expected a mask of bool, shape \(9, 12\).*got uint8"),
        (npy(np.ones((WIDTH, HEIGHT), bool)), r"got bool of shape \(12, 9\)"),
        (archive(), "got an archive"),
    ],
)
def test_files_that_are_no_mask_are_refused(tmp_path, content, said):
    path = tmp_path / "mask.npy"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"mask.npy: .*{said}"):
        load_mask(path, WIDTH, HEIGHT)


def test_masks_that_are_not_there_and_cannot_be_written(tmp_path):
    with pytest.raises(SettingsError, match=r"absent.npy: not a readable"):
        chain_of(hot_pixels={"mask": str(tmp_path / "absent.npy")})
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError, match="folder: cannot be written"):
        save_mask(tmp_path / "folder", np.ones((2, 2), bool))


def test_the_same_as_eventcv():
    """Of the filters of eventcv 1.0.8, background_activity_filter counts a neighbour exactly dt ago in."""
    peer = pytest.importorskip("eventcv")
    events = random_events(5_000, width=40, height=30)
    rows = np.stack([events.x, events.y, events.t, events.p], axis=1).astype(np.int64)
    stream = peer.from_numpy(rows, sensor_size=(40, 30), time_unit="us")
    for theirs, sections in [
        (stream.background_activity_filter(500), {"background": {"dt_us": 501}}),
        (stream.refractory_filter(5_000), {"refractory": {"period_us": 5_000}}),
    ]:
        kept = chain_of(40, 30, **sections).apply(events)
        assert np.array_equal(np.stack([kept.x, kept.y, kept.t, kept.p], axis=1), theirs.numpy()[:, :4])
        assert 500 < len(kept) < 4_500


@pytest.mark.real_data
def test_a_real_hot_pixel_goes_and_the_bright_object_stays(real_data):
    recording = open_recording(real_data / "recordings" / "evk4_evt3.raw")
    chain = chain_of(1280, 720, hot_pixels={"rate_hz": 20}, background={"dt_us": 5_000})
    before, after = np.zeros((720, 1280), int), np.zeros((720, 1280), int)
    for run in recording.chunks():
        np.add.at(before, (run.y, run.x), 1)
        kept = chain.apply(run)
        np.add.at(after, (kept.y, kept.x), 1)
    # pixel (187, 261) fires 1,447 times while none around it fires at all
    assert before[259:264, 185:190].sum() == before[261, 187] == 1_447
    found = chain.filters["hot_pixels"]
    assert isinstance(found, HotPixelFilter)
    assert [187, 261] in found.pixels.tolist()
    assert after[261, 187] < 10
    # four fifths of the events of the lamp stay, of pixels that fired five times or less in 10 s 2 %
    assert after[before > 100].sum() > 0.75 * before[before > 100].sum()
    assert after[before <= 5].sum() < 0.05 * before[before <= 5].sum()
    assert before.sum() - after.sum() == sum(chain.counts.values())
