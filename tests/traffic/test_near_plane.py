"""What lies behind, across and just before the near plane, each kind of primitive against rays through the pixels."""

import numpy as np
import pytest

from spiketrack.traffic import body_kernels, light_kernels
from spiketrack.traffic.body_parts import BodyBuilder
from spiketrack.traffic.camera import NEAREST_M, Camera
from spiketrack.traffic.layers import Layers

WIDTH, HEIGHT, FOCAL = 320, 240, 120.0
VIEW = np.array((FOCAL, WIDTH / 2, HEIGHT / 2, 0.1))
COLUMNS, ROWS = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
RAYS = np.stack([(COLUMNS - WIDTH / 2) / FOCAL, (ROWS - HEIGHT / 2) / FOCAL, np.ones_like(COLUMNS)], axis=-1)
LIGHT = np.array((0.4, 0.6, 0.0, -1.0, 0.0, 1.0, 1.0))
# metres between the near plane and the primitive's middle, whose depth reaches 0.5 to either side
OFFSETS = {"behind": -0.6, "barely across": -0.45, "across": -0.05, "mostly before": 0.3, "before": 0.52, "far": 3.0}


def canvas(value=0.5):
    return Layers(
        np.full((HEIGHT, WIDTH), value, np.float32),
        np.zeros((HEIGHT, WIDTH), np.int32),
        np.full((HEIGHT, WIDTH), np.inf, np.float32),
        np.zeros((15, 20), np.bool_),
    )


def drawn(build, points):
    """The pixels covered by one primitive with its vertices at points (camera coordinates), and its extent."""
    builder = BodyBuilder()
    build(builder)
    body, points, layers = builder.build(), np.asarray(points, np.float64), canvas()
    body_kernels.draw_body(body, points, VIEW, LIGHT, layers, 1)
    return layers.mask == 1, body_kernels.extent(body, points, VIEW)


def on_plane(middle, along, aside):
    """u, v and depth at which the pixels' rays meet a plane."""
    u, v, w = np.moveaxis(RAYS @ np.linalg.inv(np.stack([along, aside, middle], axis=1)).T, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return u / w, v / w, 1 / w


def within(points, radius):
    """Pixels on which a ball around any of the points before the near plane is seen."""
    seen = np.zeros((HEIGHT, WIDTH), np.bool_)
    for x, y, z in points[points[:, 2] >= NEAREST_M]:
        px, py, r = WIDTH / 2 + FOCAL * x / z, HEIGHT / 2 + FOCAL * y / z, max(FOCAL * radius / z, 0.5)
        seen |= (COLUMNS - px) ** 2 + (ROWS - py) ** 2 < r * r
    return seen


def grown(mask, by):
    wide, reach = np.pad(mask, by), range(2 * by + 1)
    return np.logical_or.reduce([wide[i : i + HEIGHT, j : j + WIDTH] for i in reach for j in reach])


def assert_covers(found, box, expected, rim=1):
    """The same pixels but for a rim of so many pixels, and a box around them."""
    assert not (found & ~grown(expected, rim)).any()
    assert not (~found & ~grown(~expected, rim)).any()
    rows, columns = np.nonzero(found)
    if len(rows):
        left, top, right, bottom = box
        assert (columns.min() >= left - rim, columns.max() < right + rim) == (True, True)
        assert (rows.min() >= top - rim, rows.max() < bottom + rim) == (True, True)


@pytest.fixture(params=OFFSETS.values(), ids=OFFSETS)
def middle(request):
    return np.array((0.35, 0.1, NEAREST_M + request.param))


AXES = {  # half axes of 0.5 m: a wheel along the way, one that is turned, one across
    "along": ((0.0, 0.0, 0.5), (0.0, -0.5, 0.0)),
    "turned": ((0.3, 0.0, 0.4), (0.0, -0.5, 0.0)),
    "tipped": ((0.4, 0.0, 0.3), (0.18, -0.4, -0.24)),
}


@pytest.fixture(params=AXES.values(), ids=AXES)
def axes(request):
    return np.array(request.param)


def test_a_polygon(middle, axes):
    along, aside = axes
    corners = [middle + i * along + j * aside for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    found, box = drawn(lambda b: b.sheet([(0, 0, 0)] * 4, 1.0), corners)
    u, v, depth = on_plane(middle, along, aside)
    assert_covers(found, box, (np.abs(u) <= 1) & (np.abs(v) <= 1) & (depth >= NEAREST_M))


@pytest.mark.parametrize("flipped", [False, True])
def test_a_disc(middle, axes, flipped):
    along, aside = axes
    points = np.stack([middle, middle + along, middle + aside])
    if flipped:
        points = points[[0, 2, 1]]
    found, box = drawn(lambda b: b.disc((0, 0, 0), 0.5, 1.0, 1), points)
    u, v, depth = on_plane(middle, along, aside)
    looks = np.cross(points[1] - points[0], points[2] - points[0]) @ middle < 0  # a disc is seen from one side
    assert_covers(found, box, looks & (u * u + v * v <= 1) & (depth >= NEAREST_M))


def test_a_ring(middle, axes):
    along, aside = axes
    found, box = drawn(lambda b: b.ring((0, 0, 0), 0.5, 0.06, 1.0), [middle, middle + along, middle + aside])
    angles = np.linspace(0, 2 * np.pi, 3000)[:, None]
    assert_covers(found, box, within(middle + np.cos(angles) * along + np.sin(angles) * aside, 0.03), rim=2)


def test_a_capsule(middle, axes):
    ends = middle - axes[0], middle + axes[0]
    found, box = drawn(lambda b: b.limb((0, 0, 0), (0, 0, 0), 0.04, 1.0), ends)
    share = np.linspace(0, 1, 1500)[:, None]
    assert_covers(found, box, within(ends[0] + share * (ends[1] - ends[0]), 0.04))


def test_a_lamp(middle):
    builder, layers = BodyBuilder(), canvas(0.0)
    builder.lamp((0, 0, 0), 1, 0.02, 1.0)
    body_kernels.draw_body(builder.build(), np.stack([middle, middle - (0, 0, 1)]), VIEW, LIGHT, layers, 0)
    if middle[2] < NEAREST_M:
        assert not layers.picture.any()
        return
    x, y = np.array((WIDTH, HEIGHT)) / 2 + FOCAL * middle[:2] / middle[2]
    away = np.hypot(COLUMNS - x, ROWS - y)
    halo = min(4 * max(0.6, FOCAL * 0.02 / middle[2]), 40.0)
    assert layers.picture[away >= np.sqrt(8) * halo].max() == 0
    assert away[np.unravel_index(layers.picture.argmax(), away.shape)] < 1


@pytest.mark.parametrize("ahead", [-30.0, -6.0, -1.0, 3.0, 12.0])
def test_light_and_shadow_on_the_ground(ahead):
    camera = Camera(WIDTH, HEIGHT, FOCAL, (0.0, 0.0, 2.0), 0.2, 0.3, 0.05)
    eye, rays = (camera.rotation(), np.array(camera.position)), camera.rays(COLUMNS, ROWS)
    with np.errstate(divide="ignore"):
        x, y = np.moveaxis(rays[..., :2] * (2.0 / -rays[..., 2:]), -1, 0)
    down = rays[..., 2] < 0
    layers, albedo = canvas(0.0), np.full((HEIGHT, WIDTH), 0.3, np.float32)
    pools = np.array([[ahead, 0.0, 0.0, 0.0, 6.5, 1.8, 1.0]])  # reaches 10 m to either side
    light_kernels.add_pools(pools, *eye, VIEW, 0.0, albedo, layers)
    raised = 1.99 / 2  # light hangs 1 cm above the ground
    fall = np.clip(1 - (((raised * x - ahead) / 6.5) ** 2 + (raised * y / 1.8) ** 2) / 1.6**2, 0, None) * down
    np.testing.assert_allclose(layers.picture, 0.3 * fall**2, atol=1e-4)
    layers = canvas(1.0)
    light_kernels.draw_shadows(
        np.array([[(ahead - 4, -1.0), (ahead + 4, -1.0), (ahead + 4, 1.0), (ahead - 4, 1.0)]]),
        np.array((2.0,)), np.array((1.0,)), np.array((0.0, 0.0, 1.0)), 0.5, 1.0, VIEW, *eye, layers,
    )  # fmt: skip
    expected = down & (np.abs(x - ahead) <= 4) & (np.abs(y) <= 1) & ((np.stack([x, y], -1) @ eye[0][2, :2]) > 0)
    assert_covers(layers.picture < 0.75, (0, 0, WIDTH, HEIGHT), expected)
