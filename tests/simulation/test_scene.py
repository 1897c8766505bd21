"""Moving shapes: exact boxes, events of known contrast, and independence of the chunks."""

import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.events import Events
from spiketrack.simulation import scene as scene_module
from spiketrack.simulation.labels import LabelSettings
from spiketrack.simulation.motion import MotionSettings, Track
from spiketrack.simulation.noise import NoiseSettings
from spiketrack.simulation.scene import SHAPE_CLASSES, SceneSettings, Shape, plan_shapes, simulate_scene
from spiketrack.simulation.sensor import PixelSettings

NO_NOISE = NoiseSettings(rate_hz=0, hot_pixels=0)
DISC, SQUARE, TRIANGLE = range(3)


def a_shape(class_id=DISC, start=(50.0, 40.0), size=20.0, angle=0.0, speed=0.0, depth=0.5, track_id=1, contrast=1.0):
    track = Track(track_id, 0, 10_000_000, start, (1.0, 0.0), speed, 0.0, 0.0, size, depth)
    return Shape(track, class_id, angle, 0.0, 0.5 * float(np.exp(contrast)), 0.0, 1.0, 0.0)


def joined(stream):
    events, boxes = zip(*stream, strict=True)
    return Events.concatenate(list(events)), Boxes.concatenate(list(boxes))


def run(monkeypatch, shapes, duration_us=1_000_000, **settings):
    """Simulate given shapes on a canvas of 160x120, plain background, no noise, equal pixels."""
    monkeypatch.setattr(scene_module, "plan_shapes", lambda *_: tuple(shapes))
    pixel = PixelSettings(on_threshold=0.3, off_threshold=0.3, mismatch=0, refractory_us=0)
    labels = LabelSettings(min_visible=0.3, min_side_px=1)
    settings = {"background_texture": 0.0, "noise": NO_NOISE, "pixel": pixel, "labels": labels, **settings}
    return joined(simulate_scene(SceneSettings(width=160, height=120, **settings), duration_us, (0,)))


@pytest.mark.parametrize(
    ("class_id", "angle", "box"),
    [
        (DISC, 0.3, (40, 30, 60, 50)),
        (SQUARE, 0.0, (40, 30, 60, 50)),
        (SQUARE, np.pi / 4, (50 - 200**0.5, 40 - 200**0.5, 50 + 200**0.5, 40 + 200**0.5)),
        (TRIANGLE, 0.0, (50 - 75**0.5, 30, 50 + 75**0.5, 45)),
        (TRIANGLE, np.pi, (50 - 75**0.5, 35, 50 + 75**0.5, 50)),
    ],
)
def test_boxes_by_hand(class_id, angle, box):
    assert a_shape(class_id, angle=angle).box(0) == pytest.approx(box)


@pytest.mark.parametrize("class_id", [DISC, SQUARE, TRIANGLE])
@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0])
def test_the_rendered_shape_fills_its_box(class_id, angle):
    from spiketrack.simulation.shape_kernels import render_region

    shape = a_shape(class_id, size=40.0, angle=angle, start=(60.3, 50.8))
    frame = np.ones((100, 120), np.float32)
    render_region(np.ones((100, 120)), np.array([shape.row(0)], float), (0, 0, 120, 100), frame)
    rows, columns = np.nonzero(frame != 1)
    left, top, right, bottom = shape.box(0)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(found - (left, top, right, bottom)).max() <= 1.5


def test_every_pixel_that_a_disc_crosses_fires_by_its_contrast(monkeypatch):
    # contrast 1.0 and threshold 0.3: 3 ON as it covers a pixel; the reference is then 0.9, and 3 OFF as it leaves
    events, _ = run(monkeypatch, [a_shape(start=(30.0, 60.0), speed=100.0)])
    row = events.y == 60
    for column in (70, 80, 90):  # covered from 0.3 s on, free again by 0.8 s
        here = row & (events.x == column)
        assert events.p[here].tolist() == [1, 1, 1, 0, 0, 0]
        # the front edge passes the pixel [x, x + 1) between (x - 40) / 100 and (x - 39) / 100 s
        front_us = events.t[here][:3]
        assert front_us.min() >= (column - 40) * 10_000 - 3_000
        assert front_us.max() <= (column - 39) * 10_000 + 3_000


def test_a_darker_shape_fires_off_first(monkeypatch):
    events, _ = run(monkeypatch, [a_shape(start=(30.0, 60.0), speed=100.0, contrast=-1.0)])
    here = (events.y == 60) & (events.x == 80)
    assert events.p[here].tolist() == [0, 0, 0, 1, 1, 1]


def test_nothing_moves_nothing_fires(monkeypatch):
    events, labels = run(monkeypatch, [a_shape(speed=0.0)], background_texture=0.05)
    assert len(events) == 0
    np.testing.assert_allclose(labels.xyxy, np.tile(np.float32([40, 30, 60, 50]), (30, 1)))


@pytest.mark.parametrize(("start", "labelled"), [((0.0, 40.0), True), ((-4.0, 40.0), False)])
def test_a_disc_at_the_edge(monkeypatch, start, labelled):
    # half of the disc is in sight at x = 0; at x = -4 the segment beyond 0.4 r is 25 % of it
    _, labels = run(monkeypatch, [a_shape(start=start)], duration_us=50_000)
    assert len(labels) == labelled
    if labelled:
        np.testing.assert_allclose(labels.xyxy, [[0, 30, 10, 50]])


def test_a_nearer_shape_hides_a_farther_one(monkeypatch):
    small, large = a_shape(DISC, size=16.0, depth=0.9), a_shape(SQUARE, size=40.0, depth=0.1, track_id=2)
    _, labels = run(monkeypatch, [small, large], duration_us=50_000)
    assert labels.track_id.tolist() == [2]


def test_events_lie_where_the_labels_are():
    settings = SceneSettings(noise=NO_NOISE, labels=LabelSettings(min_visible=0, min_side_px=0))
    events, labels = joined(simulate_scene(settings, 2_000_000, (4,)))
    missed = total = 0
    for t_us, boxes in labels.by_time():
        near = events.between(t_us - 1500, t_us + 1500)  # moves by less than 1 px; edges blend over 1 px
        inside = np.zeros(len(near), bool)
        for left, top, right, bottom in boxes.xyxy:
            inside |= (near.x >= left - 2) & (near.x < right + 2) & (near.y >= top - 2) & (near.y < bottom + 2)
        missed, total = missed + int((~inside).sum()), total + len(near)
    assert total > 5_000
    assert missed <= 0.001 * total


@pytest.mark.parametrize("chunk_us", [7_001, 33_333, 600_000])
def test_chunks_do_not_matter(chunk_us):
    whole = joined(simulate_scene(SceneSettings(), 600_000, (1,)))
    pieces = joined(simulate_scene(SceneSettings(), 600_000, (1,), chunk_us))
    for name in "txyp":
        np.testing.assert_array_equal(getattr(whole[0], name), getattr(pieces[0], name))
    np.testing.assert_array_equal(whole[1].xyxy, pieces[1].xyxy)
    np.testing.assert_array_equal(whole[1].track_id, pieces[1].track_id)


def test_chunks_are_half_open_and_follow_each_other():
    for k, (events, labels) in enumerate(simulate_scene(SceneSettings(), 500_000, (2,), 100_000)):
        for t in (events.t, labels.t):
            assert ((t >= 100_000 * k) & (t < 100_000 * (k + 1))).all()


def test_the_rendering_rate_hardly_changes_the_events(monkeypatch):
    # the crossing times are interpolated: 1 ms and 5 ms between renderings give the same number within 5 %
    counts = [
        len(run(monkeypatch, [a_shape(start=(30.0, 60.0), speed=80.0)], frame_us=frame_us)[0])
        for frame_us in (1_000, 5_000)
    ]
    assert counts[0] == pytest.approx(counts[1], rel=0.05)


def test_classes_take_turns():
    settings = SceneSettings(motion=MotionSettings(objects=(3, 5)))
    classes = [shape.class_id for shape in plan_shapes(settings, 20_000_000, (0,))]
    rounds = [set(classes[i : i + 3]) for i in range(0, len(classes) - 2, 3)]
    assert all(members == {0, 1, 2} for members in rounds)
    assert len(rounds) > 10
    assert SHAPE_CLASSES == ("disc", "square", "triangle")


def test_no_time_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        next(simulate_scene(SceneSettings(), 0, (0,)))
