import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from spiketrack.boxes import Boxes
from spiketrack.datasets.augment import (
    Affine,
    AugmentSettings,
    crop_anywhere,
    crop_around,
    disturb,
    draw,
    move_boxes,
    move_window,
)
from spiketrack.events import Events, Window

WIDTH, HEIGHT = 60, 40
SENSOR = (WIDTH, HEIGHT)
IDENTITY = Affine(1.0, 0.0, 1.0, 0.0)
# scale_x, shift_x, scale_y, shift_y, drop of seed 7
GOLDEN_DRAW = [1.0466715746932787, -4.697660960911257, 1.0466715746932787, -2.5321012145757695, 0.17471068907925238]


def window_of(x, y):
    n = len(x)
    t = np.arange(n, dtype=np.int64) + 100
    p = (np.arange(n) % 2).astype(np.uint8)
    return Window(t, np.array(x, np.uint16), np.array(y, np.uint16), p, WIDTH, HEIGHT, 100, 100 + max(n, 1))


def random_window(n=2_000, seed=0):
    rng = np.random.default_rng(seed)
    return window_of(rng.integers(0, WIDTH, n), rng.integers(0, HEIGHT, n))


def rng(seed=0):
    return np.random.default_rng(seed)


def same(a: Events, b: Events) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in "txyp")


def test_the_defaults_change_nothing():
    window, boxes = random_window(), Boxes.of(120, [[1.5, 2.5, 30.25, 40], [0, 0, 60, 40]], [3, 1], track_id=[7, 9])
    affine, drop = draw(AugmentSettings(), WIDTH, HEIGHT, rng())
    assert (affine, drop) == (IDENTITY, 0.0)
    moved = move_window(window, affine, SENSOR, drop, rng())
    assert same(moved, window)
    assert (moved.start_us, moved.end_us, moved.width, moved.height) == (100, 2_100, WIDTH, HEIGHT)
    kept = move_boxes(boxes, affine, WIDTH, HEIGHT, 0.3)
    for name in ("t", "xyxy", "class_id", "score", "track_id"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(boxes, name))


def test_mirror_image_by_hand():
    affine, _ = draw(AugmentSettings(flip=1.0), WIDTH, HEIGHT, rng())
    assert affine == Affine(-1.0, WIDTH, 1.0, 0.0)
    moved = move_window(window_of([0, 59, 10], [3, 4, 39]), affine, SENSOR, 0.0, rng())
    assert moved.x.tolist() == [59, 0, 49]
    assert moved.y.tolist() == [3, 4, 39]
    assert move_boxes(Boxes.of(0, [[10, 5, 14, 9]], 0), affine, *SENSOR, 0.3).xyxy.tolist() == [[46, 5, 50, 9]]
    twice = move_window(move_window(random_window(), affine, SENSOR, 0.0, rng()), affine, SENSOR, 0.0, rng())
    assert same(twice, random_window())


def test_upside_down_by_hand():
    affine, _ = draw(AugmentSettings(flip_vertical=1.0), WIDTH, HEIGHT, rng())
    assert affine == Affine(1.0, 0.0, -1.0, HEIGHT)
    moved = move_window(window_of([3, 4, 59], [0, 39, 10]), affine, SENSOR, 0.0, rng())
    assert moved.y.tolist() == [39, 0, 29]
    assert moved.x.tolist() == [3, 4, 59]
    assert move_boxes(Boxes.of(0, [[10, 5, 14, 9]], 0), affine, *SENSOR, 0.3).xyxy.tolist() == [[10, 31, 14, 35]]


def test_samples_that_are_not_turned_upside_down_are_those_of_earlier_versions():
    # drawn before there was flip_vertical
    settings_ = AugmentSettings(flip=0.5, zoom=0.2, translate=0.1, drop=0.2)
    affine, drop = draw(settings_, WIDTH, HEIGHT, rng(7))
    assert affine == pytest.approx(GOLDEN_DRAW[:4], rel=1e-12)
    assert drop == pytest.approx(GOLDEN_DRAW[4], rel=1e-12)


def test_zoom_and_shift_by_hand():
    # x -> 2 x - 10, y -> y / 2 + 3; pixel (10, 9) becomes columns 10 and 11 of row 7 (its centre 9.5 -> 7.75)
    affine = Affine(2.0, -10.0, 0.5, 3.0)
    moved = move_window(window_of([10, 4, 35, 34], [9, 0, 0, 0]), affine, SENSOR, 0.0, rng())
    assert moved.x.tolist() == [10, 11, 58, 59]  # 4 -> -2 .. -1 and 35 -> 60 .. 61 are off the sensor
    assert moved.y.tolist() == [7, 7, 3, 3]
    assert moved.t.tolist() == [100, 100, 103, 103]
    assert moved.p.tolist() == [0, 0, 1, 1]
    # 30 wide, 10 of it left of the sensor: 2/3 stay
    box = Boxes.of(0, [[0, 10, 15, 20]], 4, [0.5], [8])
    kept = move_boxes(box, affine, *SENSOR, 0.6)
    assert kept.xyxy.tolist() == [[0, 8, 20, 13]]
    assert (kept.class_id[0], kept.score[0], kept.track_id[0]) == (4, 0.5, 8)
    assert len(move_boxes(box, affine, *SENSOR, 0.7)) == 0


def test_a_box_off_the_sensor_is_gone_even_if_nothing_must_be_visible():
    boxes = Boxes.of(0, [[10, 10, 20, 20], [0, 0, 5, 5]], [0, 1])
    kept = move_boxes(boxes, Affine(1.0, -30.0, 1.0, 0.0), *SENSOR, 0.0)
    assert len(kept) == 0
    assert kept.xyxy.shape == (0, 4)


amounts = st.floats(0, 0.9)


@st.composite
def augmentations(draw_):
    return AugmentSettings(
        flip=draw_(st.sampled_from([0.0, 0.5, 1.0])),
        flip_vertical=draw_(st.sampled_from([0.0, 0.5, 1.0])),
        zoom=draw_(amounts),
        stretch=draw_(amounts),
        translate=draw_(amounts),
    )


@given(augmentations(), st.integers(0, 2**32), st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.data())
@settings(max_examples=300, deadline=None)
def test_an_event_and_the_box_around_it_move_together(settings_, seed, x, y, data):
    margin = [data.draw(st.floats(0.5, 25)) for _ in range(4)]
    centre = np.array([x, y, x, y]) + 0.5
    corners = np.clip(centre + np.array([-1, -1, 1, 1]) * margin, 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    affine, _ = draw(settings_, WIDTH, HEIGHT, rng(seed))
    event = move_window(window_of([x], [y]), affine, SENSOR, 0.0, rng())
    box = move_boxes(Boxes.of(0, [corners], 0), affine, WIDTH, HEIGHT, 0.0)
    if len(event):
        assert len(box) == 1
        left, top, right, bottom = box.xyxy[0]
        # an index is the position rounded down, so the centre of its pixel may be half a pixel off
        assert left - 0.501 <= event.x[0] + 0.5 <= right + 0.501
        assert top - 0.501 <= event.y[0] + 0.5 <= bottom + 0.501
        assert 0 <= left < right <= WIDTH
        assert 0 <= top < bottom <= HEIGHT


@given(augmentations(), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_drawn_maps_stay_within_the_settings(settings_, seed):
    (sx, dx, sy, dy), _ = draw(settings_, WIDTH, HEIGHT, rng(seed))
    zoom, stretch = np.sqrt(abs(sx * sy)), abs(sx / sy)
    assert 1 / (1 + settings_.zoom) - 1e-9 <= zoom <= 1 + settings_.zoom + 1e-9
    assert 1 / (1 + settings_.stretch) - 1e-9 <= stretch <= 1 + settings_.stretch + 1e-9
    # the centre of the sensor moves by the translation alone
    assert abs(sx * WIDTH / 2 + dx - WIDTH / 2) <= settings_.translate * WIDTH + 1e-9
    assert abs(sy * HEIGHT / 2 + dy - HEIGHT / 2) <= settings_.translate * HEIGHT + 1e-9


@pytest.mark.parametrize(("name", "axis"), [("flip", "scale_x"), ("flip_vertical", "scale_y")])
def test_flips_come_as_often_as_asked(name, axis):
    changing = AugmentSettings(**{name: 0.25})
    flips = [getattr(draw(changing, WIDTH, HEIGHT, rng(seed))[0], axis) < 0 for seed in range(2_000)]
    assert abs(np.mean(flips) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 2_000)


def test_the_share_of_dropped_events():
    shares = [draw(AugmentSettings(drop=0.4), WIDTH, HEIGHT, rng(seed))[1] for seed in range(200)]
    assert 0 <= min(shares) < 0.02
    assert 0.38 < max(shares) <= 0.4
    window = random_window(20_000)
    moved = move_window(window, IDENTITY, SENSOR, 0.3, rng())
    assert abs(len(moved) / 20_000 - 0.7) < 5 * np.sqrt(0.3 * 0.7 / 20_000)
    at = np.searchsorted(window.t, moved.t)  # each time is there once
    assert all(np.array_equal(getattr(moved, name), getattr(window, name)[at]) for name in "txyp")


def test_the_same_generator_gives_the_same_sample():
    changing = AugmentSettings(flip=0.5, zoom=0.3, stretch=0.3, translate=0.2, drop=0.5)
    first, second, other = (draw(changing, WIDTH, HEIGHT, rng(seed)) for seed in (5, 5, 6))
    assert first == second
    assert first != other
    once, again, different = (move_window(random_window(), IDENTITY, SENSOR, 0.5, rng(seed)) for seed in (5, 5, 6))
    assert same(once, again)
    assert not same(once, different)


def test_nothing_given_is_changed():
    window, boxes = random_window(), Boxes.of(0, [[1, 2, 30, 35]], 0)
    move_window(window, Affine(-0.7, 50, 1.2, -3), SENSOR, 0.5, rng())
    move_boxes(boxes, Affine(-0.7, 50, 1.2, -3), *SENSOR, 0.3)
    crop_around(IDENTITY, boxes, (20, 20), WIDTH, HEIGHT, rng())
    assert same(window, random_window())
    assert boxes.xyxy.tolist() == [[1, 2, 30, 35]]


def test_an_empty_window_stays_one():
    moved = move_window(window_of([], []), Affine(1.3, 2, 1.3, 2), (20, 30), 0.5, rng())
    assert (len(moved), moved.width, moved.height, moved.start_us, moved.end_us) == (0, 20, 30, 100, 101)
    assert moved.x.dtype == np.uint16


@given(st.integers(0, 2**32), st.integers(0, WIDTH - 4), st.integers(0, HEIGHT - 4), st.floats(1, 40))
@settings(max_examples=300, deadline=None)
def test_a_crop_lies_on_the_sensor_and_holds_the_centre_of_a_box(seed, left, top, side):
    crop = (32, 33)
    corners = [left, top, min(left + side, WIDTH), min(top + side, HEIGHT)]
    affine = crop_around(IDENTITY, Boxes.of(0, [corners], 0), crop, WIDTH, HEIGHT, rng(seed))
    assert (affine.scale_x, affine.scale_y) == (1, 1)
    assert -(WIDTH - crop[0]) <= affine.shift_x <= 0
    assert -(HEIGHT - crop[1]) <= affine.shift_y <= 0
    assert 0 <= (corners[0] + corners[2]) / 2 + affine.shift_x < crop[0]
    assert 0 <= (corners[1] + corners[3]) / 2 + affine.shift_y < crop[1]


def test_a_crop_cuts_events_and_boxes_alike():
    boxes = Boxes.of(0, [[40, 10, 50, 20]], 0)
    affine = crop_around(IDENTITY, boxes, (32, 32), WIDTH, HEIGHT, rng(1))
    window = random_window()
    cut = move_window(window, affine, (32, 32), 0.0, rng())
    left, top = -int(affine.shift_x), -int(affine.shift_y)
    inside = (window.x >= left) & (window.x < left + 32) & (window.y >= top) & (window.y < top + 32)
    assert cut.t.tolist() == window.t[inside].tolist()
    assert cut.x.tolist() == (window.x[inside] - left).tolist()
    assert (cut.width, cut.height) == (32, 32)
    expected = np.clip(np.array([40 - left, 10 - top, 50 - left, 20 - top]), 0, 32)
    assert move_boxes(boxes, affine, 32, 32, 0.0).xyxy[0].tolist() == expected.tolist()


@given(st.integers(0, 2**32), st.sampled_from([(80, 33), (80, 50), (60, 40)]))
@settings(max_examples=100, deadline=None)
def test_a_crop_larger_than_the_sensor_holds_all_of_it(seed, crop):
    affine = crop_around(IDENTITY, Boxes.of(0, [[5, 6, 20, 12]], 0), crop, WIDTH, HEIGHT, rng(seed))
    assert 0 <= affine.shift_x <= crop[0] - WIDTH
    assert min(0, crop[1] - HEIGHT) <= affine.shift_y <= max(0, crop[1] - HEIGHT)
    assert affine.shift_x == int(affine.shift_x)


@given(augmentations(), st.integers(0, 2**32), st.sampled_from([(20, 10), (60, 40), (90, 50)]))
@settings(max_examples=200, deadline=None)
def test_a_crop_anywhere_lies_on_the_picture_or_around_it(settings_, seed, crop):
    drawn, _ = draw(settings_, WIDTH, HEIGHT, rng(seed))
    cut = crop_anywhere(drawn, crop, WIDTH, HEIGHT, rng(seed + 1))
    assert (cut.scale_x, cut.scale_y) == (drawn.scale_x, drawn.scale_y)
    for scale, shift, side, whole in zip(cut[::2], cut[1::2], crop, SENSOR, strict=True):
        low, high = sorted((shift, shift + scale * whole))  # where the sensor's edges are in the crop
        if high - low >= side:
            assert low <= 1  # a shift of less than a rounding error may count as a pixel
            assert high >= side - 1
        else:
            assert low >= -1
            assert high <= side + 1


def test_crops_anywhere_reach_every_corner():
    shifts = [crop_anywhere(IDENTITY, (58, 39), WIDTH, HEIGHT, rng(seed)) for seed in range(200)]
    assert {(affine.shift_x, affine.shift_y) for affine in shifts} == {(-x, -y) for x in (0, 1, 2) for y in (0, 1)}


def test_a_crop_without_boxes_varies_over_the_sensor():
    shifts = {crop_around(IDENTITY, Boxes.empty(), (32, 32), WIDTH, HEIGHT, rng(seed)) for seed in range(50)}
    assert len(shifts) > 20
    assert all(-28 <= affine.shift_x <= 0 and -8 <= affine.shift_y <= 0 for affine in shifts)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.1},
        {"zoom": 3.1},
        {"crop_on_label": 1.1},
        {"drop": 1.0},
        {"drop_time": 1.0},
        {"jitter_us": -1},
        {"crop": [0, 32]},
        {"flips": 0.5},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        AugmentSettings.model_validate(wrong)


DISTURBED = AugmentSettings(
    drop_time=0.5,
    drop_area=0.5,
    drop_polarity=0.5,
    swap_polarity=0.5,
    polarity_noise=0.4,
    jitter_us=50,
    noise_hz=20,
)


def test_disturbing_nothing_is_free_and_draws_nothing():
    window, generator = random_window(), rng()
    assert disturb(window, AugmentSettings(flip=1.0, drop=0.5, zoom=0.5), generator) is window
    assert generator.bit_generator.state == rng().bit_generator.state


@given(
    st.fixed_dictionaries(
        {
            "drop_time": amounts,
            "drop_area": amounts,
            "drop_polarity": amounts,
            "swap_polarity": st.floats(0, 1),
            "polarity_noise": st.floats(0, 0.5),
            "jitter_us": st.sampled_from([0.0, 1.0, 1e6]),
            "noise_hz": st.floats(0, 20),
        }
    ),
    st.integers(0, 2**32),
    st.integers(0, 300),
)
@settings(max_examples=200, deadline=None)
def test_a_disturbed_window_is_one_and_the_same_for_the_same_generator(changes, seed, n):
    window, changing = random_window(n), AugmentSettings(**changes)
    once, again = (disturb(window, changing, rng(seed)) for _ in range(2))
    # construction checks the order of time, the sensor, the polarities and the bounds
    Window(once.t, once.x, once.y, once.p, WIDTH, HEIGHT, 100, 100 + max(n, 1))
    assert same(once, again)
    assert same(window, random_window(n))


def test_different_generators_disturb_differently():
    assert not same(disturb(random_window(), DISTURBED, rng(1)), disturb(random_window(), DISTURBED, rng(2)))


def test_a_piece_of_time_is_missing():
    window = random_window()  # one event each microsecond of 100 .. 2099
    lengths = set()
    for seed in range(200):
        kept = disturb(window, AugmentSettings(drop_time=0.5), rng(seed))
        missing = np.setdiff1d(window.t, kept.t)
        lengths.add(len(missing))
        assert len(missing) == 0 or missing[-1] - missing[0] == len(missing) - 1
        at = np.searchsorted(window.t, kept.t)
        assert all(np.array_equal(getattr(kept, name), getattr(window, name)[at]) for name in "xyp")
    assert min(lengths) < 50
    assert 950 < max(lengths) <= 1_000


def test_a_rectangle_is_missing():
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    window = window_of(x.ravel(), y.ravel())  # every pixel once
    areas = []
    for seed in range(200):
        kept = disturb(window, AugmentSettings(drop_area=0.4), rng(seed))
        gone = np.ones((HEIGHT, WIDTH), bool)
        gone[kept.y, kept.x] = False
        rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
        areas.append(gone.sum())
        assert gone.sum() == len(rows) * len(columns)
        if gone.any():
            assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            # of the sensor's shape, up to rounding
            assert abs(len(columns) / WIDTH - len(rows) / HEIGHT) < 1 / HEIGHT
    assert max(areas) <= 0.4 * WIDTH * HEIGHT + WIDTH + HEIGHT
    assert max(areas) > 0.35 * WIDTH * HEIGHT


def test_polarities_change_places():
    window = random_window()
    swapped = disturb(window, AugmentSettings(swap_polarity=1.0), rng())
    assert swapped.p.tolist() == [1 - p for p in window.p]
    assert all(np.array_equal(getattr(swapped, name), getattr(window, name)) for name in "txy")
    shares = [np.mean(disturb(window, AugmentSettings(swap_polarity=0.25), rng(i)).p != window.p) for i in range(400)]
    assert set(shares) == {0.0, 1.0}
    assert abs(np.mean(shares) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 400)


def test_one_polarity_is_thinned_and_the_other_is_whole():
    window = random_window(10_000)
    lost = []
    for seed in range(100):
        kept = disturb(window, AugmentSettings(drop_polarity=0.8), rng(seed))
        lost.append([1 - np.sum(kept.p == p) / np.sum(window.p == p) for p in (0, 1)])
        assert np.isin(kept.t, window.t).all()
    lost = np.array(lost)
    assert (lost.min(1) == 0).all()
    assert set(lost.argmax(1)) == {0, 1}
    assert 0.75 < lost.max() < 0.8 + 5 * np.sqrt(0.8 * 0.2 / 4_000)


def test_wrong_polarities_come_up_to_the_share():
    window = random_window(10_000)
    shares = [np.mean(disturb(window, AugmentSettings(polarity_noise=0.3), rng(i)).p != window.p) for i in range(100)]
    assert min(shares) < 0.02
    assert 0.28 < max(shares) < 0.3 + 5 * np.sqrt(0.3 * 0.7 / 10_000)


def test_times_are_blurred_by_the_deviation_asked_for():
    n = 20_000
    # every event has its own pixel (and polarity), so that each is known again
    x, y = np.arange(n) % 200, np.arange(n) // 200
    t = np.arange(n, dtype=np.int64) * 50
    window = Window(t, x.astype(np.uint16), y.astype(np.uint16), (x % 2).astype(np.uint8), 200, 100, 0, n * 50)
    blurred = disturb(window, AugmentSettings(jitter_us=300), rng())
    number = blurred.y.astype(np.int64) * 200 + blurred.x
    assert np.array_equal(np.sort(number), np.arange(n))
    assert np.array_equal(blurred.p, number % 200 % 2)
    error = (blurred.t - t[number])[(number > 100) & (number < n - 100)]  # far from where times are clipped
    assert abs(error.mean()) < 5 * 300 / np.sqrt(n)
    assert abs(error.std() / 300 - 1) < 5 / np.sqrt(2 * n)


def test_noise_comes_on_top_and_everywhere():
    window = Window(*(np.zeros(0, d) for d in (np.int64, np.uint16, np.uint16, np.uint8)), *SENSOR, 0, 1_000_000)
    parts = [disturb(window, AugmentSettings(noise_hz=10), rng(seed)) for seed in range(30)]
    rates = [len(part) / (WIDTH * HEIGHT) for part in parts]  # Hz, as the window is a second long
    assert 8 < max(rates) < 10 + 5 * np.sqrt(10 / (WIDTH * HEIGHT))
    assert min(rates) < 2
    counts = np.zeros((HEIGHT, WIDTH), int)
    for part in parts:
        np.add.at(counts, (part.y, part.x), 1)
    assert abs(counts.var() / counts.mean() - 1) < 0.2  # Poisson
    on_top = disturb(random_window(), AugmentSettings(noise_hz=20), rng(3))
    known = set(zip(*(getattr(on_top, name).tolist() for name in "txyp"), strict=True))
    assert known >= set(zip(*(getattr(random_window(), name).tolist() for name in "txyp"), strict=True))


def test_an_empty_window_is_disturbed_to_one():
    quiet = DISTURBED.model_copy(update={"noise_hz": 0.0})
    assert len(disturb(window_of([], []), quiet, rng())) == 0
