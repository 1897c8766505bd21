"""Camera: world to pixels and back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spiketrack.traffic.camera import Camera


def test_a_level_camera_looks_along_x():
    camera = Camera(640, 480, 500.0, (0.0, 0.0, 2.0), heading=0.0, pitch=0.0)
    pixels, depth = camera.project([(10.0, 0.0, 2.0), (10.0, 1.0, 2.0), (10.0, 0.0, 0.0)])
    # straight ahead is the middle; a metre to the left is 500 / 10 px to the left; two metres down are 100 px down
    np.testing.assert_allclose(pixels, [(320, 240), (270, 240), (320, 340)], atol=1e-9)
    np.testing.assert_allclose(depth, 10)


def test_pitch_looks_down_and_roll_turns_the_picture_the_other_way():
    down = Camera(640, 480, 500.0, (0.0, 0.0, 5.0), heading=0.0, pitch=np.pi / 4)
    pixels, depth = down.project((5.0, 0.0, 0.0))
    np.testing.assert_allclose(pixels, (320, 240), atol=1e-9)
    np.testing.assert_allclose(depth, np.sqrt(50))
    rolled = Camera(640, 480, 500.0, (0.0, 0.0, 2.0), heading=0.0, pitch=0.0, roll=np.pi / 2)
    pixels, _ = rolled.project((10.0, 0.0, 3.0))
    # the camera's right side hangs down, so what is above lies to the left of its picture
    np.testing.assert_allclose(pixels, (270, 240), atol=1e-9)


@given(
    st.floats(-3, 3), st.floats(-0.2, 1.2), st.floats(-0.5, 0.5), st.floats(1, 639), st.floats(1, 479), st.floats(1, 80)
)
def test_rays_undo_projection(heading, pitch, roll, x, y, depth):
    camera = Camera(640, 480, 450.0, (3.0, -2.0, 6.0), heading, pitch, roll)
    point = np.asarray(camera.position) + depth * camera.rays(np.array(x), np.array(y))
    pixels, found = camera.project(point)
    np.testing.assert_allclose(pixels, (x, y), atol=1e-6)
    np.testing.assert_allclose(found, depth)
    assert abs(np.linalg.det(camera.rotation()) - 1) < 1e-12
