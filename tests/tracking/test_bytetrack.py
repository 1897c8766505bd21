"""ByteTrack: its stages by hand, its laws, and perfect detections of real objects."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from spiketrack.boxes import Boxes
from spiketrack.tracking import ByteTrack, ByteTrackSettings

STEP_US = 33_333


def boxes(t_us: int, centres: list[tuple[float, float]], score: float | list[float] = 0.9, class_id=0) -> Boxes:
    """Boxes of 20 x 20 px around the centres."""
    centre = np.array(centres, float).reshape(-1, 2)
    scores = np.broadcast_to(score, len(centre))
    return Boxes.of(t_us, np.c_[centre - 10, centre + 10], class_id, scores)


def follow(times_us: list[int], speed: float, settings: ByteTrackSettings | None = None) -> list[Boxes]:
    """One object that moves at `speed` px/s along x, detected at each of the times."""
    tracker = ByteTrack(settings)
    return [tracker.update(boxes(t, [(100 + speed * t * 1e-6, 50)]), t) for t in times_us]


def same(a: Boxes, b: Boxes) -> bool:
    columns = ("t", "xyxy", "class_id", "score", "track_id")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in columns)


def test_two_objects_by_hand() -> None:
    tracker = ByteTrack(ByteTrackSettings(filtered_boxes=False))
    # the first update confirms at once, the better score is number 1
    out = tracker.update(boxes(0, [(50, 50), (200, 50)], [0.7, 0.9]), 0)
    assert out.track_id.tolist() == [1, 2]
    assert out.xyxy[:, 0].tolist() == [190, 40]
    assert out.score == pytest.approx([0.9, 0.7])
    # a third object appears: not confirmed before its second update
    out = tracker.update(boxes(STEP_US, [(52, 50), (202, 50), (120, 120)]), STEP_US)
    assert out.track_id.tolist() == [1, 2]
    out = tracker.update(boxes(2 * STEP_US, [(54, 50), (204, 50), (121, 120)]), 2 * STEP_US)
    assert out.track_id.tolist() == [1, 2, 3]
    assert out.t.tolist() == [2 * STEP_US] * 3
    assert out.xyxy.tolist() == [[194, 40, 214, 60], [44, 40, 64, 60], [111, 110, 131, 130]]


def test_what_may_start_a_track() -> None:
    # 0.55 is high enough to match (0.5) but not to start (0.6); 0.6 is
    first = boxes(0, [(50, 50), (200, 50)], [0.55, 0.6])
    assert ByteTrack().update(first, 0).xyxy[:, 0].tolist() == [190]


def test_an_unconfirmed_track_that_misses_once_is_forgotten() -> None:
    tracker = ByteTrack()
    tracker.update(Boxes.empty(), 0)
    for step, seen in enumerate([True, False, True, False, True, True], start=1):
        t = step * STEP_US
        out = tracker.update(boxes(t, [(50, 50)] if seen else []), t)
        assert out.track_id.tolist() == ([1] if step == 6 else [])


def test_confirmation_may_take_longer_or_no_time() -> None:
    for hits, expected in ((1, [1, 1, 1]), (3, [0, 0, 1])):
        tracker = ByteTrack(ByteTrackSettings(confirm_hits=hits))
        tracker.update(Boxes.empty(), 0)
        counts = [len(tracker.update(boxes(i * STEP_US, [(50, 50)]), i * STEP_US)) for i in (1, 2, 3)]
        assert counts == expected


def test_the_filter_predicts_the_first_update_by_hand() -> None:
    tracker = ByteTrack()
    tracker.update(boxes(0, [(100, 50)]), 0)
    out = tracker.update(boxes(STEP_US, [(103, 50)]), STEP_US)
    # side 20, per frame: P = 2^2 + 1.25^2 + 1^2 = 6.5625, R = 1: gain 6.5625 / 7.5625
    centre = 100 + 3 * 6.5625 / 7.5625
    assert out.xyxy[0] == pytest.approx([centre - 10, 40, centre + 10, 60], abs=1e-5)


def test_crossing_objects_keep_their_identities() -> None:
    tracker = ByteTrack()
    for step in range(41):
        t = step * STEP_US
        x = 40 + 4 * step  # meets the other in the middle, 5 px below it: IoU with it reaches 0.6
        out = tracker.update(boxes(t, [(x, 50), (240 - x, 55)], [0.9, 0.8]), t)
        assert out.track_id.tolist() == [1, 2]
        assert out.score == pytest.approx([0.9, 0.8])
    assert out.xyxy[:, 0] == pytest.approx([190, 30], abs=2)


def test_a_miss_of_several_updates_is_bridged_by_the_velocity() -> None:
    tracker = ByteTrack()
    seen = [step for step in range(60) if not 20 <= step < 32]
    ids = []
    for step in range(60):
        t = step * STEP_US
        # 12 missed updates at 5 px each: 65 px, more than three times its width
        out = tracker.update(boxes(t, [(100 + 5 * step, 50)] if step in seen else []), t)
        ids.append(out.track_id.tolist())
    assert ids == [[1] if step in seen else [] for step in range(60)]


def test_a_gap_longer_than_lost_us_ends_the_track() -> None:
    def ids(gap_us: int) -> list[int]:
        tracker = ByteTrack(ByteTrackSettings(lost_us=500_000))
        tracker.update(boxes(0, [(50, 50)]), 0)
        tracker.update(Boxes.empty(), STEP_US)
        tracker.update(boxes(gap_us, [(50, 50)]), gap_us)
        return tracker.update(boxes(gap_us + STEP_US, [(50, 50)]), gap_us + STEP_US).track_id.tolist()

    assert ids(500_000) == [1]
    assert ids(500_001) == [2]  # a new object, whose number was never used


@pytest.mark.parametrize(
    "times_us",
    [
        list(range(0, 2_000_000, 33_333)),
        list(range(0, 2_000_000, 100_000)),
        np.cumsum(np.random.default_rng(0).integers(5_000, 150_000, 30)).tolist(),
        [0, 1000, 2000, 100_000, 101_000, 200_000, 300_000, 301_000, 500_000, 501_000, 700_000],
    ],
    ids=["30 Hz", "10 Hz", "irregular", "bursts"],
)
def test_the_rate_of_updates_does_not_matter_to_a_constant_velocity(times_us: list[int]) -> None:
    out = follow(times_us, speed=60)
    assert [track.track_id.tolist() for track in out] == [[1]] * len(times_us)
    centre = float(out[-1].xyxy[0, [0, 2]].mean())
    assert centre == pytest.approx(100 + 60e-6 * times_us[-1], abs=1.0)


def test_a_fast_object_is_followed_only_because_time_is_real() -> None:
    # 100 Hz, then a pause of 0.5 s in which it moves 100 px, five times its width
    times = [*range(0, 500_000, 10_000), 990_000]
    out = follow(times, speed=200)
    assert out[-1].track_id.tolist() == [1]


def test_a_weak_detection_continues_a_track_but_starts_none() -> None:
    tracker = ByteTrack()
    tracker.update(boxes(0, [(50, 50)]), 0)
    out = tracker.update(boxes(STEP_US, [(51, 50), (200, 50)], 0.2), STEP_US)
    assert out.track_id.tolist() == [1]
    assert out.score == pytest.approx([0.2])
    # below low_score it is as if nothing were there
    assert len(tracker.update(boxes(2 * STEP_US, [(52, 50)], 0.09), 2 * STEP_US)) == 0
    # and a lost track is not brought back by a weak detection
    assert len(tracker.update(boxes(3 * STEP_US, [(52, 50)], 0.2), 3 * STEP_US)) == 0
    # but by one that is just high enough
    assert tracker.update(boxes(4 * STEP_US, [(52, 50)], 0.5), 4 * STEP_US).track_id.tolist() == [1]


def test_first_match_is_fused_with_the_score() -> None:
    # IoU 1/3 (10 px aside) times score 0.55 is 0.183 < 0.2; times 0.9 it is 0.3
    for score, expected in ((0.55, []), (0.9, [1])):
        tracker = ByteTrack()
        tracker.update(boxes(0, [(50, 50)]), 0)
        assert tracker.update(boxes(STEP_US, [(60, 50)], score), STEP_US).track_id.tolist() == expected


def test_the_three_limits_differ() -> None:
    def ids(confirmed: bool, aside: float, score: float) -> int:
        tracker = ByteTrack()
        if not confirmed:
            tracker.update(Boxes.empty(), 0)
        tracker.update(boxes(1, [(50, 50)]), 1)
        return len(tracker.update(boxes(2, [(50 + aside, 50)], score), 2))

    # 10 px aside: IoU 1/3, fused with 0.8 it is 0.27: enough for a confirmed track (0.2), not for a new one (0.3)
    assert (ids(True, 10, 0.8), ids(False, 10, 0.8)) == (1, 0)
    # 9 px aside: IoU 11/29, fused 0.303
    assert ids(False, 9, 0.8) == 1
    # weak detections need an IoU of 0.5: 6 px aside it is 14/26, 7 px aside 13/27
    assert (ids(True, 6, 0.3), ids(True, 7, 0.3)) == (1, 0)


def test_a_lost_track_moves_on_but_keeps_its_size() -> None:
    tracker = ByteTrack()
    for step in range(10):  # grows 4 px a step, moves 2 px a step
        half, x = 10 + 2 * step, 100 + 2 * step
        detected = Boxes.of(step * STEP_US, [(x - half, 50 - half, x + half, 50 + half)], 0)
        tracker.update(detected, step * STEP_US)
    for step in range(10, 25):
        tracker.update(Boxes.empty(), step * STEP_US)
    # 16 steps later: moved 32 px, as large as it was. Had it grown on to 120 px, the IoU with this detection would be
    # (58 / 120)^2 = 0.23, fused 0.16: too little
    detected = Boxes.of(25 * STEP_US, [(150 - 29, 50 - 29, 150 + 29, 50 + 29)], 0, [0.7])
    assert tracker.update(detected, 25 * STEP_US).track_id.tolist() == [1]


def test_classes_match_among_themselves_unless_told_otherwise() -> None:
    for aware, expected in ((True, []), (False, [1])):
        tracker = ByteTrack(ByteTrackSettings(class_aware=aware))
        tracker.update(boxes(0, [(50, 50)], class_id=0), 0)
        out = tracker.update(boxes(STEP_US, [(50, 50)], class_id=1), STEP_US)
        assert out.track_id.tolist() == expected
        assert out.class_id.tolist() == [1] * len(expected)


@pytest.mark.parametrize(("before", "expected"), [(5, [[2], [2], [2]]), (20, [[], [1], [1]])])
def test_of_a_lost_and_a_seen_track_at_one_place_the_older_stays(before: int, expected: list[list[int]]) -> None:
    tracker = ByteTrack()
    for step in range(before):
        tracker.update(boxes(step * STEP_US, [(50, 50)]), step * STEP_US)
    # it jumps 20 px, too far to match, is confirmed as 2, and returns by 3 px a step to where 1 was lost; at 49 the
    # two have an IoU above 0.85, and 2 has lived 7 steps, 1 had lived 4 or 19
    ids = []
    for step, x in enumerate([70, 67, 64, 61, 58, 55, 52, 49, 46, 43], start=before):
        ids.append(tracker.update(boxes(step * STEP_US, [(x, 50)]), step * STEP_US).track_id.tolist())
    assert ids == [[], *[[2]] * 6, *expected]


def random_detections(seed: int, steps: int = 60) -> list[Boxes]:
    rng = np.random.default_rng(seed)
    corner, velocity = rng.uniform(0, 300, (12, 2)), rng.normal(0, 3, (12, 2))
    classes = rng.integers(0, 2, 12)
    found = []
    for step in range(steps):
        corner = corner + velocity
        seen = rng.random(12) < 0.85
        xyxy = np.c_[corner, corner + 40][seen] + rng.normal(0, 1, (seen.sum(), 4))
        found.append(Boxes.of(step * STEP_US, xyxy, classes[seen], rng.uniform(0.05, 1, seen.sum())))
    return found


def run(found: list[Boxes], **settings: bool) -> Boxes:
    tracker = ByteTrack(ByteTrackSettings(**settings))
    return Boxes.concatenate([tracker.update(boxes, step * STEP_US) for step, boxes in enumerate(found)])


@pytest.mark.parametrize("class_aware", [True, False])
def test_reruns_and_permutations_give_the_same_tracks(class_aware: bool) -> None:
    found = random_detections(1)
    rng = np.random.default_rng(2)
    shuffled = [boxes[rng.permutation(len(boxes))] for boxes in found]
    first = run(found, class_aware=class_aware)
    assert len(first) > 300
    assert same(first, run(found, class_aware=class_aware))
    assert same(first, run(shuffled, class_aware=class_aware))


def test_arguments_are_not_changed() -> None:
    found = random_detections(3, steps=10)
    before = [Boxes.concatenate([boxes]) for boxes in found]
    run(found)
    assert all(same(a, b) for a, b in zip(before, found, strict=True))


def test_identities_belong_to_the_instance_and_never_repeat() -> None:
    one, two = ByteTrack(), ByteTrack()
    seen: set[int] = set()
    # every 2 s, longer than a track lives without being seen, a new object at the same place
    for visit in range(4):
        for t in (visit * 2_000_000, visit * 2_000_000 + STEP_US):
            out = one.update(boxes(t, [(50, 50)]), t)
        assert seen.isdisjoint(out.track_id.tolist())
        seen.update(out.track_id.tolist())
    assert seen == {1, 2, 3, 4}
    assert two.update(boxes(0, [(50, 50)]), 0).track_id.tolist() == [1]


def test_empty_updates_are_legal_and_leave_a_full_shape() -> None:
    tracker = ByteTrack()
    for step in range(3):
        assert same(tracker.update(Boxes.empty(), step), Boxes.empty())


def test_time_must_increase_and_be_that_of_the_detections() -> None:
    tracker = ByteTrack()
    tracker.update(boxes(1000, [(50, 50)]), 1000)
    for t_us in (1000, 999):
        with pytest.raises(ValueError, match=f"time must increase, got {t_us} us after 1000 us"):
            tracker.update(Boxes.empty(), t_us)
    with pytest.raises(ValueError, match=r"detections of 1500 .. 1500 us in an update at 2000 us"):
        tracker.update(boxes(1500, [(50, 50)]), 2000)
    # a refused update leaves the tracker as it was
    assert tracker.update(boxes(2000, [(50, 50)]), 2000).track_id.tolist() == [1]


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"high_score": 1.5}, "less than or equal to 1"),
        ({"lost_us": 0}, "greater than or equal to 1"),
        ({"low_score": 0.6}, "low_score 0.6 must not exceed high_score 0.5"),
        ({"track_buffer": 30}, "Extra inputs are not permitted"),
    ],
)
def test_settings_are_checked_and_frozen(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ByteTrackSettings(**settings)
    with pytest.raises(ValidationError, match="frozen"):
        ByteTrackSettings().lost_us = 5  # ty: ignore[invalid-assignment]
    assert all(field.description for field in ByteTrackSettings.model_fields.values())
