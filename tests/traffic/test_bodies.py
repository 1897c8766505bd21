"""Bodies: their size, their parts that move, and how they are drawn."""

import numpy as np
import pytest

from spiketrack.traffic import (
    annotation_kernels,
    body_kernels,
    body_parts,
    light_kernels,
    placing_kernels,
    primitive_kernels,
    tile_kernels,
)
from spiketrack.traffic.actors import BICYCLE, BUS, CAR, PEDESTRIAN, TRAFFIC_CLASSES, TRUCK, WHEELCHAIR, Actor
from spiketrack.traffic.bodies import body_of
from spiketrack.traffic.body_parts import JOINTS
from spiketrack.traffic.camera import Camera
from spiketrack.traffic.layers import Layers

SIZES = (
    (0.5, 0.5, 1.75),
    (4.4, 1.8, 1.5),
    (1.75, 0.6, 1.75),
    (12.0, 2.55, 3.1),
    (2.1, 0.8, 1.5),
    (8.0, 2.4, 3.2),
    (28.0, 2.4, 3.4),
    (1.1, 0.65, 1.35),
)
WIDTH, HEIGHT = 320, 240


def actor(class_id: int, x: float = 0.0, heading: float = 0.0, travelled: float = 0.0, look: int = 7) -> Actor:
    return Actor(1, class_id, x, 0.0, heading, 1.0, travelled, *SIZES[class_id], look)


def placed(it: Actor, camera: Camera | None = None) -> np.ndarray:
    """Vertices in camera coordinates; without a camera in the world's."""
    body = body_of(it)
    out = np.empty(body.vertices.shape)
    pose = np.array((it.x, it.y, 0.0, it.heading, it.travelled, 1.0))
    rotation = np.eye(3) if camera is None else camera.rotation()
    position = np.zeros(3) if camera is None else np.array(camera.position)
    placing_kernels.place(body, pose, rotation, position, out)
    return out


def canvas():
    return Layers(
        np.full((HEIGHT, WIDTH), 0.5, np.float32),
        np.zeros((HEIGHT, WIDTH), np.int32),
        np.full((HEIGHT, WIDTH), np.inf, np.float32),
        np.zeros((15, 20), np.bool_),
    )


LIGHT = np.array((0.4, 0.6, 0.0, -1.0, 0.0, 0.0, 1.0))  # the sun straight above a level camera


@pytest.mark.parametrize("class_id", range(8), ids=TRAFFIC_CLASSES)
def test_a_body_has_the_size_of_its_actor(class_id):
    body = body_of(actor(class_id))
    lamps = [body.first[p] + 1 for p in np.flatnonzero(body.kind == body_parts.GLOW)]  # where a lamp points to
    points = np.delete(placed(actor(class_id)), lamps, axis=0)
    low, high = points.min(axis=0), points.max(axis=0)
    length, width, height = SIZES[class_id]
    assert -0.02 <= low[2] <= 0.35
    # heads and roofs have a radius above their last vertex, strides reach beyond a standing person
    assert height - 0.25 <= high[2] <= height + 0.05
    assert abs(high[0] + low[0]) < 0.6
    assert high[0] - low[0] <= max(length, 1.3) + 0.2
    assert high[1] - low[1] <= width + 0.25


@pytest.mark.parametrize("class_id", [PEDESTRIAN, CAR, BICYCLE, BUS, TRUCK, WHEELCHAIR])
def test_parts_move_with_the_way_and_nothing_else_does(class_id):
    still, gone = placed(actor(class_id)), placed(actor(class_id, travelled=0.31))
    moved = np.abs(still - gone).max(axis=1) > 1e-3
    assert moved.any()
    assert not moved.all()
    again = placed(actor(class_id, travelled=0.0))
    np.testing.assert_array_equal(still, again)


def test_a_wheel_turns_by_the_way_over_its_radius():
    body = body_of(actor(CAR))
    joint = int(np.flatnonzero(body.turn)[0])
    radius, pivot = 1 / body.turn[joint], body.pivot[joint]
    vertex = int(np.flatnonzero(body.joint == joint)[0])
    angle = 0.4
    before, after = placed(actor(CAR))[vertex] - pivot, placed(actor(CAR, travelled=angle * radius))[vertex] - pivot
    # the top of a rolling wheel goes forward
    expected = (
        before[0] * np.cos(angle) + before[2] * np.sin(angle),
        -before[0] * np.sin(angle) + before[2] * np.cos(angle),
    )
    np.testing.assert_allclose((after[0], after[2]), expected, atol=1e-12)


def test_the_same_look_is_the_same_body_and_looks_differ():
    one, two, other = (body_of(actor(CAR, look=look)) for look in (3, 3, 4))
    np.testing.assert_array_equal(one.vertices, two.vertices)
    np.testing.assert_array_equal(one.shade, two.shade)
    assert one.shade.shape != other.shade.shape or not np.array_equal(one.shade, other.shade)


def test_a_pedestrian_has_fifteen_joints_in_their_places():
    it = actor(PEDESTRIAN)
    body = body_of(it)
    joints = dict(zip(JOINTS, placed(it)[body.keypoints], strict=True))
    assert len(JOINTS) == 15
    assert joints["left shoulder"][1] > 0 > joints["right shoulder"][1]
    assert joints["head"][2] > joints["neck"][2] > joints["pelvis"][2] > joints["left knee"][2]
    assert joints["left knee"][2] > joints["left ankle"][2]
    assert not len(body_of(actor(CAR)).keypoints)


@pytest.mark.parametrize("class_id", range(8), ids=TRAFFIC_CLASSES)
def test_lamps_behind_a_body_are_hidden_as_the_picture_is(class_id):
    camera = Camera(WIDTH, HEIGHT, 300.0, (-8.0, 3.0, 2.5), -0.3, 0.15, 0.0)
    it, swing = actor(class_id), np.float32(0.3)
    lamps = np.random.default_rng(1).uniform(0, 0.5, (HEIGHT, WIDTH)).astype(np.float32)
    view = np.array((300.0, WIDTH / 2, HEIGHT / 2, 8.0))
    mean, bright = (canvas()._replace(lamps=lamps.copy(), flickers=np.ones((15, 20), np.bool_)) for _ in range(2))
    bright.picture[:] += swing * lamps
    for layers in (mean, bright):
        body_kernels.draw_body(body_of(it), placed(it, camera), view, LIGHT, layers, 0)
    assert (mean.lamps == 0).sum() > 50
    np.testing.assert_allclose(mean.picture + swing * mean.lamps, bright.picture, atol=1e-6)
    np.testing.assert_array_equal(mean.lamps, bright.lamps)


def test_outer_faces_of_a_bus_look_outwards():
    body, points = body_of(actor(BUS)), placed(actor(BUS))
    for p in np.flatnonzero(body.closed & (body.kind == body_parts.POLYGON)):
        a, b, c = points[body.first[p] : body.first[p] + 3]
        middle = points[body.first[p] : body.first[p] + body.corners[p]].mean(axis=0)
        if abs(middle[1]) > 1.2:  # on a side
            assert np.cross(b - a, c - a)[1] * middle[1] > 0


@pytest.mark.parametrize("class_id", range(8), ids=TRAFFIC_CLASSES)
def test_what_is_drawn_fills_the_extent(class_id):
    camera = Camera(WIDTH, HEIGHT, 250.0, (0.0, 0.0, 1.6), 0.0, 0.1)
    distance = 6.0 if class_id in (0, 2, 4, 7) else 40.0
    it = actor(class_id, distance, heading=0.9)
    body, points = body_of(it), placed(it, camera)
    layers = canvas()
    view = np.array((250.0, WIDTH / 2, HEIGHT / 2, distance))
    body_kernels.draw_body(body, points, view, LIGHT, layers, 5)
    left, top, right, bottom = body_kernels.extent(body, points, view)
    rows, columns = np.nonzero(layers.mask == 5)
    found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(found, (left, top, right, bottom), atol=1.6)
    assert not layers.touched.any()  # naming leaves the picture alone
    assert (layers.picture == 0.5).all()
    body_kernels.draw_body(body, points, view, LIGHT, layers, 0)
    changed = layers.picture != 0.5
    assert changed[layers.mask == 5].mean() > 0.9
    assert np.kron(layers.touched, np.ones((16, 16), bool))[:HEIGHT, :WIDTH][changed].all()


def test_standing_things_hide_a_body_and_the_camera_clips_it():
    camera = Camera(WIDTH, HEIGHT, 250.0, (0.0, 0.0, 1.6), 0.0, 0.0)
    it = actor(BUS, 20.0)
    body, points = body_of(it), placed(it, camera)
    layers = canvas()
    layers.depth[:, : WIDTH // 2] = 10.0
    view = np.array((250.0, WIDTH / 2, HEIGHT / 2, 20.0))
    body_kernels.draw_body(body, points, view, LIGHT, layers, 1)
    assert not layers.mask[:, : WIDTH // 2].any()
    assert layers.mask[:, WIDTH // 2 :].any()
    inside = actor(BUS, 2.0)  # the camera stands in the bus: nothing may fail, and what is behind is cut off
    body_kernels.draw_body(body_of(inside), placed(inside, camera), view, LIGHT, layers, 0)
    assert np.isfinite(layers.picture).all()


def test_a_lamp_shines_ahead_only():
    camera = Camera(WIDTH, HEIGHT, 250.0, (0.0, 0.0, 0.8), 0.0, 0.0)
    dark = np.array((0.001, 0.0, 0.0, -1.0, 0.0, 1.0, 1.0))
    view = np.array((250.0, WIDTH / 2, HEIGHT / 2, 30.0))
    brightest = []
    for heading in (np.pi, 0.0):  # towards the camera: headlights; away: tail lights
        it = actor(CAR, 30.0, heading)
        layers = canvas()
        layers.picture[:] = 0
        body_kernels.draw_body(body_of(it), placed(it, camera), view, dark, layers, 0)
        brightest.append(layers.picture.max())
    assert brightest[0] > 0.3
    assert 0.01 < brightest[1] < 0.3


def square(low: float, high: float):
    scratch = np.empty((6, 4))
    scratch[0], scratch[1] = (low, high, high, low), (low, low, high, high)
    return scratch


def test_a_polygon_on_whole_pixels():
    layers = canvas()
    primitive_kernels.fill_polygon(square(20.0, 30.0), 4, 1.0, 0.0, 1.0, layers, 0)
    assert (layers.picture[20:30, 20:30] == 1).all()
    # edges lie a quarter of a pixel outside
    np.testing.assert_allclose(layers.picture[19, 20:30], 0.5 + 0.25 * 0.5)
    np.testing.assert_allclose(layers.picture[18, 20:30], 0.5)
    assert layers.touched.sum() == 1
    primitive_kernels.fill_polygon(square(20.0, 30.0), 4, 0.0, 0.5, 1.0, layers, 0)
    np.testing.assert_allclose(layers.picture[20:30, 20:30], 0.5)
    primitive_kernels.fill_polygon(square(20.0, 30.0), 4, 1.0, 0.0, 1.0, layers, 9)
    assert (layers.mask == 9).sum() == 100
    assert annotation_kernels.mask_extent(layers.mask, 9, 0, 0, WIDTH, HEIGHT) == (100, 20, 20, 30, 30)


def test_the_hull_of_a_shadow():
    points = np.array([(0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (0.0, 1.0), (1.0, 0.5), (4.0, 0.5)])
    hull = light_kernels._hull(points, 6)
    assert {tuple(p) for p in hull} == {(0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (0.0, 1.0), (4.0, 0.5)}


def test_restore_touches_marked_tiles_only():
    picture, background = np.zeros((40, 40), np.float32), np.ones((40, 40), np.float32)
    tiles = np.zeros((3, 3), np.bool_)
    tiles[2, 1] = True
    tile_kernels.restore(picture, background, tiles)
    assert picture.sum() == 8 * 16
    assert (picture[32:, 16:32] == 1).all()


def test_events_of_an_object_are_those_on_it_or_on_nothing():
    mask = np.zeros((10, 10), np.int32)
    mask[2, 2], mask[2, 3] = 1, 2
    x, y = np.array((2, 3, 4, 9), np.uint16), np.array((2, 2, 2, 9), np.uint16)
    lit = np.ones(4, np.bool_)
    assert annotation_kernels.count_events(x, y, lit, mask, 1, 0.0, 0.0, 8.0, 8.0) == (2, 0)
    lit[0] = False
    assert annotation_kernels.count_events(x, y, lit, mask, 1, 0.0, 0.0, 8.0, 8.0) == (1, 1)


def box_on_ground(x: float, y: float, length: float, width: float):
    a, b = length / 2, width / 2
    return [(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)]


def test_a_car_beside_a_long_tram_is_painted_on_the_right_side_of_it():
    eye = np.array((0.0, -5.0))
    tram = box_on_ground(40.0, 0.0, 60.0, 2.4)  # from x = 10 on
    near_side, far_side = box_on_ground(45.0, -3.0, 4.0, 1.8), box_on_ground(12.0, 3.0, 4.0, 1.8)
    order = placing_kernels.far_to_near(np.array([tram, near_side, far_side]), eye).tolist()
    # by distance the far side's car would come last
    assert order == [2, 0, 1]


def test_a_pool_of_light_is_that_of_the_ground_it_falls_on():
    camera = Camera(WIDTH, HEIGHT, 250.0, (0.0, 0.0, 5.0), 0.2, 0.35, 0.1)
    middle, along, aside = np.array((14.0, 1.0, 0.0)), np.array((5.0, 1.0, 0.0)), np.array((-0.4, 2.0, 0.0))
    layers, albedo = canvas(), np.full((HEIGHT, WIDTH), 0.3, np.float32)
    layers.picture[:] = 0
    corners = camera.to_camera(np.array([middle, middle + along, middle + aside]))
    light_kernels.add_pool(corners, np.array((250.0, WIDTH / 2, HEIGHT / 2, 0.0)), 2.0, 0.0, albedo, layers)
    # the same by casting a ray through every pixel to the ground, in the world
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    rays = camera.rays(columns, rows)
    with np.errstate(divide="ignore"):
        ground = rays[..., :2] * (5.0 / -rays[..., 2:])
    u, v = np.moveaxis((ground - middle[:2]) @ np.linalg.inv(np.array([along[:2], aside[:2]])), -1, 0)
    fall = np.clip(1 - (u**2 + v**2) / 1.6**2, 0, None) * (rays[..., 2] < 0)
    np.testing.assert_allclose(layers.picture, 2.0 * 0.3 * fall**2, atol=1e-5)
    assert (layers.picture > 0.1).sum() > 500


def test_light_too_faint_to_notice_is_not_drawn():
    view = np.array((250.0, WIDTH / 2, HEIGHT / 2, 0.0))
    camera = Camera(WIDTH, HEIGHT, 250.0, (0.0, 0.0, 5.0), 0.2, 0.35, 0.1)
    pools, albedo = np.array([[2.0, -1.0, 0.3, 12.0, 5.0, 2.0, 2.0]]), np.full((HEIGHT, WIDTH), 0.3, np.float32)
    eye = camera.rotation(), np.array(camera.position)
    whole, part = canvas(), canvas()
    for layers, faint in ((whole, 0.0), (part, 0.02)):
        layers.picture[:] = 0
        light_kernels.add_pools(pools, *eye, view, faint, albedo, layers)
    drawn = part.picture > 0
    np.testing.assert_array_equal(part.picture[drawn], whole.picture[drawn])
    assert whole.picture[~drawn].max() < 1.01 * 0.3 * 0.02
    assert 1.01 * part.picture[drawn].min() > 0.3 * 0.02
    assert (part.touched <= whole.touched).all()


def test_a_spot_is_nearly_gaussian_and_ends():
    layers = canvas()
    layers.picture[:] = 0
    light_kernels.add_spot(40.5, 30.5, 5.0, 2.0, 1.0, layers)
    picture = layers.picture
    assert picture[30, 40] == pytest.approx(2.0)
    assert picture[30, 45] == pytest.approx(2.0 * (1 - 25 / 200) ** 4, rel=1e-5)  # 2 exp(-1/2) would be 1.21
    assert picture[34, 43] == pytest.approx(picture[30, 45], rel=1e-5)  # round: 3, 4, 5
    assert picture[30, 54] > 0  # 14 < 2.83 sigma
    assert picture[30, 55] == 0


def test_flow_is_the_motion_of_the_fastest_point_in_sight():
    view, size = np.array((100.0, 50.0, 40.0, 0.0)), np.array((100.0, 80.0))
    placed = np.array([[0.0, 0.0, 10.0], [1.0, 0.0, 20.0]])
    assert placing_kernels.flow(placed, np.array((3.0, 4.0, 0.0)), 0.0, view, size) == pytest.approx(100 * 5 / 10)
    # straight ahead: the point on the axis stands still, the other moves 100 * 8 * (1 / 20) / 20
    assert placing_kernels.flow(placed, np.array((0.0, 0.0, 8.0)), 0.0, view, size) == pytest.approx(2.0)
    assert placing_kernels.flow(placed, np.array((0.0, 0.0, 8.0)), 0.5, view, size) == pytest.approx(5.0)
    assert placing_kernels.flow(placed + np.array((100.0, 0.0, 0.0)), np.array((3.0, 4.0, 0.0)), 0.0, view, size) == 0
