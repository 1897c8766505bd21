"""Scene: events and annotations of simulated traffic."""

from itertools import pairwise

import numpy as np
import pytest

from spiketrack.events import Events
from spiketrack.simulation.sensor import TILE, PixelSettings
from spiketrack.traffic.actors import PEDESTRIAN
from spiketrack.traffic.annotations import ANNOTATION_DTYPE, LabellingSettings, is_labelled, labels_of
from spiketrack.traffic.flicker import flicker_swing
from spiketrack.traffic.light import Light
from spiketrack.traffic.plans import plan_light
from spiketrack.traffic.scene import TrafficSettings, _Stage, simulate_traffic

DURATION_US = 250_000
DAY = TrafficSettings(preset="gen1", daytime="day", rain=False)


@pytest.fixture(scope="module")
def day():
    return list(simulate_traffic(DAY, DURATION_US, (4,)))


def joined(chunks):
    chunks = list(chunks)
    return Events.concatenate([chunk.events for chunk in chunks]), np.concatenate([c.annotations for c in chunks])


def test_events_and_annotations_lie_in_their_chunk(day):
    assert [(c.start_us, c.end_us) for c in day] == [(0, 100_000), (100_000, 200_000), (200_000, 250_000)]
    for chunk in day:
        for t in (chunk.events.t, chunk.annotations["t"]):
            assert ((t >= chunk.start_us) & (t < chunk.end_us)).all()
        assert (chunk.image.shape, chunk.image.dtype) == ((240, 304), np.uint8)
        assert chunk.image.std() > 10
    events, annotations = joined(day)
    assert len(events) > 1000
    assert set(np.unique(annotations["t"])) == set(range(33_333, DURATION_US, 33_333))


def test_the_length_of_chunks_changes_nothing(day):
    whole = list(simulate_traffic(DAY, DURATION_US, (4,), chunk_us=DURATION_US))
    events, annotations = joined(day)
    assert len(whole) == 1
    for name in "txyp":
        np.testing.assert_array_equal(getattr(events, name), getattr(whole[0].events, name))
    assert annotations.tobytes() == whole[0].annotations.tobytes()


def test_another_seed_is_another_scene(day):
    other, _ = joined(simulate_traffic(DAY, 100_000, (5,)))
    assert len(other) != len(day[0].events)


def test_annotations_agree_with_themselves(day):
    _, rows = joined(day)
    assert rows.dtype == ANNOTATION_DTYPE
    seen = rows[rows["occlusion"] < 1]
    assert len(seen)
    visible, whole = seen["visible"], seen["whole"]
    assert (visible[:, :2] >= whole[:, :2] - 1e-3).all()
    assert (visible[:, 2:] <= whole[:, 2:] + 1e-3).all()
    assert (visible >= 0).all()
    assert (visible[:, 2] <= 304).all()
    assert (visible[:, 3] <= 240).all()
    assert (visible[:, 2:] > visible[:, :2]).all()
    for name in ("occlusion", "truncation"):
        assert ((rows[name] >= 0) & (rows[name] <= 1)).all()
    walkers = rows["class_id"] == PEDESTRIAN
    assert np.isnan(rows["keypoints"][~walkers]).all()
    assert np.isfinite(rows["keypoints"][walkers]).any()
    # joints of a walker lie in its box
    joints, boxes = rows["keypoints"][walkers][:, :, :2], rows["whole"][walkers]
    inside = (joints >= boxes[:, None, :2] - 2) & (joints <= boxes[:, None, 2:] + 2)
    assert inside[np.isfinite(joints)].all()


def test_labels_are_what_a_person_would_label(day):
    for chunk in day:
        rows = chunk.annotations[chunk.annotations["labelled"]]
        np.testing.assert_array_equal(chunk.labels.xyxy, rows["visible"])
        np.testing.assert_array_equal(chunk.labels.track_id, rows["track_id"])
    assert len(labels_of(day[0].annotations)) == len(day[0].labels)


def test_most_events_are_on_objects_or_their_shadows_by_day(day):
    """The street stands still before a static camera: events far from every actor are wind and noise."""
    chunk = day[1]
    boxes = chunk.annotations["whole"]
    near = np.zeros(len(chunk.events), np.bool_)
    for left, top, right, bottom in boxes:
        x, y = chunk.events.x, chunk.events.y
        near |= (x >= left - 8) & (x <= right + 8) & (y >= top - 8) & (y <= bottom + 8)
    area = np.zeros((240, 304), np.bool_)
    for left, top, right, bottom in boxes.astype(int):
        area[max(top - 8, 0) : max(bottom + 9, 0), max(left - 8, 0) : max(right + 9, 0)] = True
    inside, outside = near.mean() / area.mean(), (1 - near.mean()) / (1 - area.mean())
    assert inside > 2 * outside


@pytest.mark.parametrize(
    ("areas", "box", "events", "expected"),
    [
        ((200, 220, 220), (0, 0, 20, 20), (50, 0), True),
        ((200, 220, 1000), (0, 0, 20, 20), (50, 0), False),  # most of it is off the picture, the rest is small
        ((200, 220, 1000), (0, 0, 25, 25), (50, 0), True),  # an eighth of 200 rows are 25
        ((200, 220, 1000), (0, 0, 25, 24.9), (50, 0), False),
        ((200, 700, 1000), (0, 0, 25, 25), (50, 0), False),  # something hides it
        ((60, 60, 60), (0, 0, 20, 4.9), (50, 0), False),  # 0.025 of 200 rows are 5
        ((60, 60, 60), (0, 0, 20, 5), (50, 0), True),
        ((150, 160, 160), (0, 0, 20, 20), (19, 0), False),  # hardly an event
        ((8000, 8000, 8000), (0, 0, 90, 90), (799, 0), False),  # a still bus: 0.1 events a pixel are 800
        ((8000, 8000, 8000), (0, 0, 90, 90), (800, 0), True),
        ((200, 220, 220), (0, 0, 20, 20), (50, 51), False),  # lost in the noise
        ((0, 0, 0), (0, 0, 0, 0), (50, 0), False),  # nothing of it is in sight
    ],
)
def test_what_a_person_would_label(areas, box, events, expected):
    assert is_labelled(LabellingSettings(), areas, np.array(box, float), events, 200) is expected


def test_a_moving_camera_sees_the_street_move():
    still, _ = joined(simulate_traffic(DAY, 100_000, (4,)))
    moving, rows = joined(simulate_traffic(DAY.model_copy(update={"camera": "moving"}), 100_000, (4,)))
    assert len(moving) > 3 * len(still)
    assert len(rows)


def test_lights_of_the_day():
    day, dusk, night = (plan_light(daytime, False, (3,)) for daytime in ("day", "dusk", "night"))
    assert day.full > dusk.full > night.full > 0
    assert not day.headlights
    assert night.headlights
    assert not day.rain
    assert plan_light("day", True, (3,)).rain > 0


def test_durations_below_one_are_refused():
    with pytest.raises(ValueError, match="must be positive"):
        next(simulate_traffic(DAY, 0, (1,)))


def test_flicker_behind_a_slow_pixel_is_small():
    light = Light("night", 0.001, lamps=True, flicker_hz=100.0, flicker_depth=0.25)
    pixel = PixelSettings(bandwidth_hz=1000.0, least_bandwidth_hz=10.0, bandwidth_intensity=1.0, dark_intensity=0.05)
    base, lamps = np.full((1, 2), 0.05, np.float32), np.array([[0.1, 0.9]], np.float32)
    swing = flicker_swing(light, pixel, base, lamps)
    # cut-offs 200 and 1000 Hz
    expected = [np.log(0.225 / 0.175) / np.hypot(1, 0.5), np.log(1.225 / 0.775) / np.hypot(1, 0.1)]
    np.testing.assert_allclose(swing[0], expected, rtol=1e-5)


def test_frames_lie_on_whole_steps_of_the_flicker_and_at_labels():
    # lamps that flicker by 0.31
    stage = _Stage(TrafficSettings(preset="davis346", daytime="night", rain=False, frame_us=(2_000, 4_000)), (18,))
    times = []
    for _ in range(20):
        stage.advance()
        times.append(stage.t_us)
    assert stage._flickering.any()
    period = stage._settings.label_period_us
    steps = [(b - a) for a, b in pairwise(times) if b % period]
    assert set(steps) <= {2_000, 4_000}
    assert 4_000 in steps
    assert times[-1] > period
    assert period in times


def test_the_sensor_sees_the_same_whether_or_not_it_is_waited_for():
    stages = [_Stage(DAY, (4,)) for _ in range(2)]
    runs = [[], []]
    for run, stage in zip(runs, stages, strict=True):
        while stage.t_us < 60_000:
            run.append(stage.advance()[0])
            if stage is stages[0]:
                run.append(stage.finish())
        run.append(stage.finish())
    waited, other = map(Events.concatenate, runs)
    assert len(waited) > 200
    for name in "txyp":
        np.testing.assert_array_equal(getattr(waited, name), getattr(other, name))


def test_a_frame_over_the_one_before_the_last_is_as_if_drawn_anew():
    night = TrafficSettings(preset="davis346", daytime="night", rain=False)
    over, anew = (_Stage(night, (2,)) for _ in range(2))
    seen, expose = [], over._sensor.expose

    def watched(frame, t_us, changed, flicker):
        exposure = expose(frame, t_us, changed, flicker)
        seen.append((frame.copy(), changed))  # after the while in which the next frame is begun
        return exposure

    over._sensor.expose = watched
    for _ in range(12):
        anew._stirred[:] = True  # nothing of the frame before the last is left
        over.advance()
        anew.advance()
        np.testing.assert_array_equal(over._layers.picture, anew._layers.picture)
    over.finish()
    assert over._layers.touched.any()
    for (before, _), (after, changed) in pairwise(seen):
        still = ~np.kron(changed, np.ones((TILE, TILE), np.bool_))[: over.height, : over.width]
        np.testing.assert_array_equal(before[still], after[still])
        assert not np.array_equal(before, after)
