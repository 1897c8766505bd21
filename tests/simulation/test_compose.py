"""Real digits on a canvas: boxes, identity, occlusion and timing at places worked out by hand."""

import numpy as np
import pytest

from spiketrack.boxes import Boxes
from spiketrack.events import Events
from spiketrack.simulation import compose
from spiketrack.simulation.compose import ComposeSettings, Digit, compose_scene, digit_of, plan_scene
from spiketrack.simulation.labels import LabelSettings
from spiketrack.simulation.motion import MotionSettings, Track
from spiketrack.simulation.noise import NoiseSettings

NO_NOISE = NoiseSettings(rate_hz=0, hot_pixels=0)
EVERY_LABEL = LabelSettings(min_visible=0, min_side_px=0)


def block_events(side=4, left=10, top=20, p=1, extra=()):
    """Two events for each pixel of a square block, 100 us apart, from 500 us on; extra (x, y) events follow."""
    rows, columns = np.divmod(np.tile(np.arange(side * side), 2), side)
    x, y = [*(columns + left), *(e[0] for e in extra)], [*(rows + top), *(e[1] for e in extra)]
    t = 500 + 100 * np.arange(len(x), dtype=np.int64)
    return Events(t, np.uint16(x), np.uint16(y), np.full(len(x), p, np.uint8), 34, 34)


def block(class_id=3, **options) -> Digit:
    return digit_of(block_events(**options), class_id)


def a_track(track_id=1, start=(100.0, 50.0), speed=60.0, depth=0.5, size=1.0, birth_us=0):
    return Track(track_id, birth_us, 2_000_000, start, (1.0, 0.0), speed, 0.0, 0.0, size, depth)


def scene(monkeypatch, digits, tracks, duration_us=1_000_000, labels=EVERY_LABEL, chunk_us=100_000):
    """Compose given tracks on a canvas of 200x100 without noise."""
    monkeypatch.setattr(compose, "plan_scene", lambda *_: tuple(tracks))
    settings = ComposeSettings(width=200, height=100, noise=NO_NOISE, labels=labels)
    return joined(compose_scene(digits, settings, duration_us, (0,), chunk_us))


def joined(stream):
    events, boxes = zip(*stream, strict=True)
    return Events.concatenate(list(events)), Boxes.concatenate(list(boxes))


def assert_same_events(one, other):
    for name in "txyp":
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def assert_same_boxes(one, other):
    for name in ("t", "xyxy", "class_id", "track_id"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_box_is_the_block_and_lone_noise_does_not_widen_it():
    noise = [(0, 0), (33, 33), (2, 30)] + [(30, 5)] * 50  # single events and a hot pixel
    digit = digit_of(block_events(extra=noise), 3)
    assert digit.box == (10, 20, 14, 24)
    assert digit.footprint.all()


def test_a_second_group_counts_from_a_tenth_on():
    wide = block_events(side=12, left=2, top=2)
    near = block_events(side=4, left=20, top=25)
    columns = [np.concatenate([getattr(wide, n), getattr(near, n)]) for n in "xyp"]
    t = np.arange(len(columns[0]), dtype=np.int64)
    assert digit_of(Events(t, *columns, 34, 34), 0).box == (2, 2, 24, 29)  # 16 of 160 pixels: a tenth


@pytest.mark.parametrize("events", [Events.empty(34, 34), block_events(side=1)])
def test_no_digit_is_an_error(events):
    with pytest.raises(ValueError, match="no digit among"):
        digit_of(events, 0)


def test_box_and_events_of_a_moving_block_by_hand(monkeypatch):
    # centre (100 + 60 t, 50), a box of 4x4: its corner is floor(98 + 60 t + 0.5), 48
    events, labels = scene(monkeypatch, [block()], [a_track()])
    corner = np.floor(98.5 + 60e-6 * events.t)
    assert (events.x >= corner).all()
    assert (events.x < corner + 4).all()
    assert set(events.y.tolist()) == {48, 49, 50, 51}
    at_half = labels.at(15 * 33_333)  # t = 0.499995 s: floor(98.5 + 29.9997) = 128
    np.testing.assert_array_equal(at_half.xyxy, np.float32([[128, 48, 132, 52]]))
    assert (at_half.class_id[0], at_half.track_id[0]) == (3, 1)
    assert labels.t.tolist() == [33_333 * k for k in range(1, 31)]


def test_the_recording_runs_in_a_loop_with_its_own_timing(monkeypatch):
    # 32 events 100 us apart: a period of 3200 us, so that the loop has no seam
    events, _ = scene(monkeypatch, [block()], [a_track(speed=0.0)])
    assert set(np.diff(events.t).tolist()) == {100}
    assert len(events) == 10_000
    pixel = (events.x - 98) + 4 * (events.y - 48)
    assert set((np.diff(pixel.astype(int)) % 16).tolist()) == {1}, "in the order of the recording"


def test_events_outside_the_box_of_the_digit_do_not_travel_with_it(monkeypatch):
    digit = digit_of(block_events(extra=[(0, 0), (33, 33)] * 10), 3)
    events, _ = scene(monkeypatch, [digit], [a_track(speed=0.0)])
    assert (int(events.x.min()), int(events.x.max())) == (98, 101)


def test_a_nearer_digit_hides_all_behind_it(monkeypatch):
    digits = [block(class_id=1, p=0), block(class_id=2, p=1)]
    tracks = [a_track(1, speed=0.0, depth=0.9), a_track(2, speed=0.0, depth=0.1)]
    events, labels = scene(monkeypatch, digits, tracks)
    assert set(events.p.tolist()) == {1}
    assert set(labels.track_id.tolist()) == {2}


@pytest.mark.parametrize(("min_visible", "labelled"), [(0.5, {1, 2}), (0.51, {2})])
def test_half_hidden(monkeypatch, min_visible, labelled):
    # the nearer block stands 2 px to the right: columns 100 .. 103 are its, 98 and 99 remain of the other
    digits = [block(class_id=1, p=0), block(class_id=2, p=1)]
    tracks = [a_track(1, speed=0.0, depth=0.9), a_track(2, start=(102.0, 50.0), speed=0.0, depth=0.1)]
    labels = LabelSettings(min_visible=min_visible, min_side_px=0)
    events, boxes = scene(monkeypatch, digits, tracks, labels=labels)
    assert set(events.x[events.p == 0].tolist()) == {98, 99}
    assert set(events.x[events.p == 1].tolist()) == {100, 101, 102, 103}
    assert set(boxes.track_id.tolist()) == labelled


def test_a_digit_seen_through_a_hole_in_a_nearer_one(monkeypatch):
    ring = np.ones((4, 4), bool)
    ring[1:3, 1:3] = False
    front = Digit(block_events(p=1), 2, (10, 20, 14, 24), ring)
    tracks = [a_track(1, speed=0.0, depth=0.9), a_track(2, speed=0.0, depth=0.1)]
    events, labels = scene(monkeypatch, [block(class_id=1, p=0), front], tracks)
    behind = events.p == 0
    assert set(zip(events.x[behind].tolist(), events.y[behind].tolist(), strict=True)) == {
        (99, 49), (100, 49), (99, 50), (100, 50)
    }  # fmt: skip
    assert set(labels.track_id.tolist()) == {1, 2}  # 4 of 16 pixels: a share of 0.25


def test_leaving_the_canvas_clips_the_box_and_drops_the_events(monkeypatch):
    # centre at x = 0: the corner is floor(-1.5) = -2, half of the block is outside
    events, labels = scene(monkeypatch, [block()], [a_track(start=(0.0, 50.0), speed=0.0)])
    assert set(events.x.tolist()) == {0, 1}
    np.testing.assert_array_equal(labels.xyxy[0], np.float32([0, 48, 2, 52]))


def test_before_birth_and_after_the_end_there_is_nothing(monkeypatch):
    track = a_track(start=(50.0, 50.0), birth_us=300_000)
    events, labels = scene(monkeypatch, [block()], [track], duration_us=3_000_000)
    assert 300_000 <= events.t[0] < 300_100
    assert 2_299_900 <= events.t[-1] < 2_300_000
    assert labels.t[0] == 333_330
    assert labels.t[-1] == 2_299_977


def test_magnification_repeats_every_event_for_each_pixel(monkeypatch):
    events, labels = scene(monkeypatch, [block()], [a_track(speed=0.0, size=2.0)], duration_us=320_000)
    plain, _ = scene(monkeypatch, [block()], [a_track(speed=0.0)], duration_us=320_000)
    assert len(events) == 4 * len(plain)
    np.testing.assert_array_equal(labels.xyxy[0], np.float32([96, 46, 104, 54]))
    columns, counts = np.unique(events.x, return_counts=True)
    assert columns.tolist() == list(range(96, 104))
    assert len(set(counts.tolist())) == 1


@pytest.fixture(scope="module")
def pool():
    """Ten blobs of random events on a sensor of 34x34."""
    rng = np.random.default_rng(9)
    digits = []
    for class_id in range(10):
        spread = np.clip(rng.normal(17, 4, (2, 3000)), 0, 33).astype(np.uint16)
        t = np.sort(rng.integers(0, 300_000, 3000))
        events = Events(t, spread[0], spread[1], rng.integers(0, 2, 3000, dtype=np.uint8), 34, 34)
        digits.append(digit_of(events, class_id))
    return digits


@pytest.mark.parametrize("chunk_us", [37_001, 1_500_000, 33_333])
def test_chunks_do_not_matter(pool, chunk_us):
    whole = joined(compose_scene(pool, ComposeSettings(), 1_500_000, (1, 2)))
    pieces = joined(compose_scene(pool, ComposeSettings(), 1_500_000, (1, 2), chunk_us))
    assert_same_events(whole[0], pieces[0])
    assert_same_boxes(whole[1], pieces[1])


def test_a_longer_scene_begins_with_the_shorter_one(pool):
    short = joined(compose_scene(pool, ComposeSettings(), 700_000, (1, 2)))
    long = joined(compose_scene(pool, ComposeSettings(), 1_500_000, (1, 2)))
    assert_same_events(short[0], long[0].between(0, 700_000))
    assert_same_boxes(short[1], long[1].between(0, 700_000))


def test_seeds_repeat_and_differ(pool):
    runs = [joined(compose_scene(pool, ComposeSettings(), 300_000, seed))[0] for seed in [(7,), (7,), (8,)]]
    assert_same_events(runs[0], runs[1])
    assert len(runs[0]) != len(runs[2])


def test_a_whole_scene_keeps_its_promises(pool):
    settings = ComposeSettings(noise=NO_NOISE, labels=EVERY_LABEL, motion=MotionSettings(objects=(5, 7)))
    events, labels = joined(compose_scene(pool, settings, 4_000_000, (3,)))
    tracks = plan_scene(settings, 4_000_000, (3,))
    assert (np.diff(events.t) >= 0).all()
    assert (labels.xyxy >= 0).all()
    assert (labels.xyxy <= (304, 240, 304, 240)).all()
    for track in tracks:
        own = labels[labels.track_id == track.track_id]
        assert set(own.class_id.tolist()) <= {pool[(track.track_id - 1) % 10].class_id}
        steps = np.abs(np.diff(own.xyxy, axis=0)).max(axis=1, initial=0)
        # at most twice 120 px/s between two labels, and the rounding of two positions
        assert (steps <= 240 * np.diff(own.t) * 1e-6 + 1).all()
    for t_us, boxes in labels.by_time():
        near = events.between(t_us - 500, t_us + 500)  # within which nothing moves by more than 1 px
        inside = np.zeros(len(near), bool)
        for left, top, right, bottom in boxes.xyxy:
            inside |= (near.x >= left - 1) & (near.x < right + 1) & (near.y >= top - 1) & (near.y < bottom + 1)
        assert inside.all()


def test_inputs_are_left_as_they_were(pool):
    before = [column.copy() for column in (pool[0].events.t, pool[0].events.x, pool[0].footprint)]
    list(compose_scene(pool, ComposeSettings(), 500_000, (0,)))
    for now, then in zip((pool[0].events.t, pool[0].events.x, pool[0].footprint), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_no_digits_and_no_time_are_refused(pool):
    with pytest.raises(ValueError, match="at least one digit"):
        next(compose_scene([], ComposeSettings(), 1_000_000, (0,)))
    with pytest.raises(ValueError, match="must be positive"):
        next(compose_scene(pool, ComposeSettings(), 0, (0,)))
