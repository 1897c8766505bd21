"""The street that is looked at: where things are seen, what light falls on them, what the wind moves."""

import numpy as np
import pytest

from spiketrack.traffic.camera import Camera
from spiketrack.traffic.layout import Lane, Layout, Road
from spiketrack.traffic.light import Light
from spiketrack.traffic.surroundings import Surroundings, _rectangles

LANES = (Lane(-4.8, 1), Lane(-1.6, 1), Lane(1.6, -1), Lane(4.8, -1))
ROAD = Road((-80.0, 0.0), 0.0, 160.0, 6.9, LANES, 3.0, crossings=(90.0,), stop_lines=((86.0, 1),))
LAYOUT = Layout((ROAD,))
DAY = Light("day", 0.4, 0.6, (0.5, 0.3, 0.8124038))
NIGHT = Light("night", 0.002, lamps=True, flicker_depth=0.2)
CAMERA = Camera(320, 240, 300.0, (-20.0, -8.0, 7.0), 0.25, 0.3)
SEED = (5,)


def pictures(camera):
    return tuple(np.full((camera.height, camera.width), np.nan, np.float32) for _ in range(3))


def drawn(street, camera=CAMERA, quick=False):
    result = pictures(camera)
    street.draw(camera, *result, quick=quick)
    return result


def pixel(camera, point):
    (x, y), depth = camera.project(point)
    assert depth > 0
    assert 0 <= x < camera.width
    assert 0 <= y < camera.height
    return int(y), int(x)


@pytest.fixture(scope="module")
def day():
    return Surroundings(LAYOUT, DAY, CAMERA, SEED)


@pytest.fixture(scope="module")
def night():
    return Surroundings(LAYOUT, NIGHT, CAMERA, SEED)


def test_markings_lie_where_the_layout_says(day):
    # straight down from 12 m, 2.5 cm a pixel: nothing hides the road
    above = Camera(640, 880, 480.0, (10.0, 0.0, 12.0), 0.0, np.pi / 2)
    _, albedo, depth = drawn(day, above)
    paint, asphalt = day.marking, day.asphalt

    def at(s, left):
        place = pixel(above, (*ROAD.place(s, left), 0.0))
        assert np.isinf(depth[place])  # nothing stands on the carriageway
        return albedo[place]

    # stripes of 0.5 m from the edge at -6.65 on: painted around -1.40, bare around -0.90
    assert 0.6 * paint < at(90.0, -1.40) < 1.05 * paint
    assert at(90.0, -0.90) < 1.6 * asphalt
    # the stop line of the lanes on the right, not of those on the left
    assert at(86.0, -3.2) > 0.6 * paint
    assert at(86.0, 3.2 + 0.3) < 1.6 * asphalt
    # dashes between the lanes -4.8 and -1.6: 3 m of every 9 m, from s = 0 on: 81 .. 84
    dashes = np.array([at(s, -3.2) for s in (82.0, 83.5)])
    gaps = np.array([at(s, -3.2) for s in (84.8, 85.5, 96.0)])
    assert (dashes > 0.6 * paint).all()
    assert (gaps < 1.6 * asphalt).all()


def test_carriageway_wins_where_roads_cross():
    roads = (Road((-80.0, 0.0), 0.0, 160.0, 5.0, (Lane(-2.5, 1, 4.0), Lane(2.5, -1, 4.0))),)
    roads += (Road((0.0, -80.0), np.pi / 2, 160.0, 5.0, (Lane(-2.5, 1, 4.0), Lane(2.5, -1, 4.0))),)
    above = Camera(400, 400, 300.0, (0.0, 0.0, 12.0), 0.0, np.pi / 2)
    street = Surroundings(Layout(roads), DAY, above, SEED)
    _, albedo, _ = drawn(street, above)
    rows, columns = slice(100, 300), slice(100, 300)  # 8 m x 8 m around the middle: no paint, no kerb
    assert albedo[rows, columns].max() < 2 * street.asphalt
    assert albedo.max() > 0.6 * street.marking


def test_sky_above_the_horizon_ground_below(day):
    open_camera = Camera(320, 240, 300.0, (0.0, 0.0, 1.3), 0.0, 0.0)
    intensity, albedo, depth = drawn(day, open_camera)
    sky = (albedo == 0) & np.isinf(depth)
    assert not sky[121:].any()  # level: the horizon is row 120
    assert sky[0, 160]
    assert not (albedo == 0)[121:].any()
    assert intensity[sky].min() > 0.1 * DAY.ambient


def test_depth_of_a_wall_is_its_distance():
    high = Camera(320, 240, 300.0, (0.0, 0.0, 6.0), np.pi / 2, 0.1)
    for seed in range(20):
        street = Surroundings(LAYOUT, DAY, high, (seed,))
        # facades that look to the road from its far side and reach over x = 0
        walls = street._panels[(street._panels[:, 15] == 1) & (street._panels[:, 12] < -0.99)]
        ends = np.sort(np.stack([walls[:, 0], walls[:, 0] + walls[:, 3] * walls[:, 9]]), axis=0)
        walls = walls[(walls[:, 1] > 0) & (ends[0] < -4) & (ends[1] > 4)]
        if len(walls):
            break
    wall = walls[np.argmin(walls[:, 1])]
    _, _, depth = drawn(street, high)
    # forward (0, cos 0.1, -sin 0.1): z of the point (x, Y, Z) is Y cos 0.1 - (Z - 6) sin 0.1
    heights, columns = np.linspace(3.0, 6.0, 7), np.linspace(-3, 3, 7)
    right = 0
    for z in heights:
        for x in columns:
            expected = wall[1] * np.cos(0.1) - (z - 6.0) * np.sin(0.1)
            seen = depth[pixel(high, (x, wall[1], z))]
            assert seen < 1.01 * expected
            right += abs(seen / expected - 1) < 0.01
    assert right > 25  # the others are behind trees and posts


def test_light_is_brightest_under_a_lamp(night):
    bulb = night._bulbs[np.argmin(np.abs(night._bulbs[:, 0]))]
    above = Camera(400, 400, 200.0, (bulb[0], bulb[1], bulb[2] - 0.5), 0.0, np.pi / 2)
    _, albedo, _ = drawn(night, above)
    lamp = night.lamp_light(above)
    with np.errstate(invalid="ignore"):
        falls = lamp / albedo
    assert falls[190:210, 190:210].mean() > 1.3 * falls[190:210, :20].mean()
    # at the foot: its own light, and at most a little of its neighbours'
    foot = bulb[4] / 60
    assert foot < falls[195:205, 195:205].mean() < 1.2 * foot


def test_no_lamps_no_lamp_light(day):
    assert not day.lamp_light(CAMERA).any()


def test_wind_is_a_function_of_time_and_stays_in_its_regions():
    moved = 0
    for seed in range(3):
        street = Surroundings(LAYOUT, DAY, CAMERA, (seed,))
        picture, albedo, depth = drawn(street)
        before = picture.copy()
        regions = street.stir(0, CAMERA, picture)
        np.testing.assert_array_equal(picture, before)
        for t_us in (8_000, 1_700_000, 100_000_000):
            assert street.is_stirred(t_us) <= bool(regions)
            assert street.stir(t_us, CAMERA, picture) == regions
            assert not street.is_stirred(t_us)
            outside = np.ones(picture.shape, bool)
            for left, top, right, bottom in regions:
                outside[top:bottom, left:right] = False
            np.testing.assert_array_equal(picture[outside], before[outside])
            moved += int((picture != before).sum())
            # nothing that moves comes to the rim of its region, but where the picture ends
            again, other = picture.copy(), picture.copy()
            street.stir(5_000_000, CAMERA, other)
            street.stir(t_us, CAMERA, other)
            np.testing.assert_array_equal(other, again)
            # the whole crown is drawn again: the same as drawing all leaves on the bare street
            whole = street._bare.copy()
            tiles = np.ones_like(street._stirred_tiles)
            street._draw_leaves(CAMERA, t_us, tiles, street._bare_depth, whole, albedo, albedo, depth, False)
            inside = ~outside
            np.testing.assert_array_equal(whole[inside], picture[inside])
            assert np.abs(np.log(whole[outside] / picture[outside])).max(initial=0) < 0.15  # only what is still
    assert moved > 1000


def test_rectangles_cover_the_tiles_once():
    tiles = np.random.default_rng(1).random((7, 9)) < 0.5
    width, height = 9 * 16 - 5, 7 * 16 - 3
    count = np.zeros((height, width), int)
    for left, top, right, bottom in _rectangles(tiles, width, height):
        assert right <= width
        assert bottom <= height
        count[top:bottom, left:right] += 1
    np.testing.assert_array_equal(count, np.kron(tiles, np.ones((16, 16), int))[:height, :width])


def test_two_cameras_see_the_same_ground(day):
    other = Camera(320, 240, 300.0, (-18.0, -6.0, 7.0), 0.2, 0.35)
    (_, first, depth), (_, second, depth_2) = drawn(day), drawn(day, other)
    rng = np.random.default_rng(0)
    pairs = []
    for x, y in zip(rng.uniform(-12, 5, 400), rng.uniform(-6, 4, 400), strict=True):
        (u, v), _ = CAMERA.project((x, y, 0.0))
        (p, q), _ = other.project((x, y, 0.0))
        if 0 <= u < 320 and 0 <= v < 240 and 0 <= p < 320 and 0 <= q < 240:
            one, two = (int(v), int(u)), (int(q), int(p))
            if np.isinf(depth[one]) and np.isinf(depth_2[two]):
                pairs.append((first[one], second[two]))
    one, two = np.log(np.array(pairs).T)
    assert len(one) > 100
    assert np.median(np.abs(one - two)) < 0.08
    assert np.corrcoef(one, two)[0, 1] > 0.6


def test_quick_agrees_with_supersampled(day):
    (full, albedo, _), (quick, quick_albedo, _) = drawn(day), drawn(day, quick=True)
    assert quick.mean() == pytest.approx(full.mean(), rel=0.01)
    assert quick_albedo.mean() == pytest.approx(albedo.mean(), rel=0.01)
    assert np.median(np.abs(np.log(quick / full))) < 0.05


def test_same_seed_same_street(day):
    again = Surroundings(LAYOUT, DAY, CAMERA, SEED)
    for one, two in zip(drawn(day), drawn(again), strict=True):
        np.testing.assert_array_equal(one, two)
    other = Surroundings(LAYOUT, DAY, CAMERA, (6,))
    assert not np.array_equal(drawn(day)[0], drawn(other)[0])


@pytest.mark.parametrize("light", [DAY, NIGHT, Light("dusk", 0.05)])
def test_any_camera_is_served(light):
    street = Surroundings(LAYOUT, light, CAMERA, (3,))
    rng = np.random.default_rng(2)
    for _ in range(12):
        place = (float(rng.uniform(-90, 90)), float(rng.uniform(-20, 20)), float(rng.uniform(0.3, 14)))
        camera = Camera(65, 49, 50.0, place, rng.uniform(-7, 7), rng.uniform(-1.6, 1.6), rng.uniform(-0.5, 0.5))
        intensity, albedo, depth = drawn(street, camera, quick=True)
        assert np.isfinite(intensity).all()
        assert (intensity > 0).all()
        assert ((albedo >= 0) & (albedo < 0.95)).all()
        assert (depth > 0).all()
        assert np.isfinite(street.lamp_light(camera)).all()


def test_wrong_shape_is_refused(day):
    with pytest.raises(ValueError, match=r"\(240, 320\)"):
        day.draw(CAMERA, *(np.zeros((10, 10), np.float32) for _ in range(3)))
