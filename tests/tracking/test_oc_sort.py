"""OC-SORT: momentum, re-update and recovery by hand, and what both trackers promise alike."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from spiketrack.boxes import Boxes
from spiketrack.tracking import (
    AnyTrackerSettings,
    ByteTrack,
    ByteTrackSettings,
    OCSort,
    OCSortSettings,
    Tracker,
    build_tracker,
)

STEP_US = 33_333
TRACKERS = pytest.mark.parametrize("make", [ByteTrack, OCSort])


def boxes(t_us: int, centres: list[tuple[float, float]], score: float | list[float] = 0.9, class_id=0) -> Boxes:
    """Boxes of 20 x 20 px around the centres."""
    centre = np.array(centres, float).reshape(-1, 2)
    return Boxes.of(t_us, np.c_[centre - 10, centre + 10], class_id, np.broadcast_to(score, len(centre)))


def test_the_first_updates_count_at_once_and_later_ones_after_three_in_a_row() -> None:
    tracker = OCSort()
    counts = [len(tracker.update(boxes(t, [(50, 50)] if t else []), t)) for t in range(3)]
    assert counts == [0, 1, 1]
    ids = [tracker.update(boxes(t, [(50, 50), (200, 50)]), t).track_id.tolist() for t in range(3, 7)]
    assert ids == [[1], [1], [1, 2], [1, 2]]


def test_a_track_goes_on_in_its_direction() -> None:
    def which(momentum: float) -> float:
        tracker = OCSort(OCSortSettings(momentum=momentum, momentum_us=STEP_US))
        for step in range(20):
            tracker.update(boxes(step * STEP_US, [(100 + step, 50)]), step * STEP_US)
        # one detection on its way but 6 px ahead (IoU 0.54), one behind it but nearer (IoU 0.67)
        out = tracker.update(boxes(20 * STEP_US, [(126, 50), (116, 50)]), 20 * STEP_US)
        return float(out.xyxy[out.track_id == 1][0, 0]) + 10

    assert which(0.0) == 116
    assert which(0.5) == 126


def test_re_update_is_as_if_the_way_between_had_been_seen() -> None:
    way = [(100 + 3 * min(step, 20), 50 + 1.5 * max(step - 20, 0)) for step in range(31)]

    def after(hidden: range) -> tuple[np.ndarray, np.ndarray]:
        tracker = OCSort(OCSortSettings(match_limit=0.95))
        for step, place in enumerate(way):
            found = Boxes.empty() if step in hidden else boxes(step * STEP_US, [place])
            out = tracker.update(found, step * STEP_US)
        assert out.track_id.tolist() == [1]
        return tracker._tracks["mean"][0], tracker._tracks["covariance"][0]

    seen, hidden, turned = after(range(0)), after(range(21, 30)), after(range(18, 30))
    assert hidden[0] == pytest.approx(seen[0], abs=1e-9)
    assert hidden[1] == pytest.approx(seen[1], rel=1e-9)
    # where the hidden way was not straight the filter knows the straight one
    assert abs(turned[0][4] - seen[0][4]) > 1


def test_recovery_by_the_last_detection() -> None:
    tracker = OCSort()
    for step in range(10):
        tracker.update(boxes(step * STEP_US, [(100 + 4 * step, 50)]), step * STEP_US)
    for step in range(10, 18):  # it stops unseen; the filter goes on for 36 px, away from every overlap
        tracker.update(Boxes.empty(), step * STEP_US)
    assert tracker.update(boxes(18 * STEP_US, [(136, 50)]), 18 * STEP_US).track_id.tolist() == [1]
    byte = ByteTrack()
    for step in range(10):
        byte.update(boxes(step * STEP_US, [(100 + 4 * step, 50)]), step * STEP_US)
    for step in range(10, 18):
        byte.update(Boxes.empty(), step * STEP_US)
    assert len(byte.update(boxes(18 * STEP_US, [(136, 50)]), 18 * STEP_US)) == 0


def test_weak_detections_only_on_request() -> None:
    for use_weak, expected in ((False, []), (True, [1])):
        tracker = OCSort(OCSortSettings(use_weak=use_weak))
        tracker.update(boxes(0, [(50, 50)]), 0)
        assert tracker.update(boxes(1, [(50, 50)], 0.3), 1).track_id.tolist() == expected


@TRACKERS
def test_crossing_objects_keep_their_identities(make: type[Tracker]) -> None:
    tracker = make()
    for step in range(41):
        x = 40 + 4 * step  # meets the other in the middle, 5 px below it
        out = tracker.update(boxes(step * STEP_US, [(x, 50), (240 - x, 55)], [0.9, 0.8]), step * STEP_US)
        assert out.track_id.tolist() == [1, 2]
        assert out.score == pytest.approx([0.9, 0.8])


@TRACKERS
def test_a_miss_is_bridged_and_a_gap_longer_than_lost_us_is_not(make: type[Tracker]) -> None:
    def ids(gap_us: int) -> list[int]:
        tracker = make()  # 30 px/s
        for t in range(0, 500_000, 50_000):
            tracker.update(boxes(t, [(100 + 30e-6 * t, 50)]), t)
        t = 450_000 + gap_us
        tracker.update(boxes(t, [(100 + 30e-6 * t, 50)]), t)
        t += 1
        out = tracker.update(boxes(t, [(100 + 30e-6 * t, 50)]), t)
        return out.track_id.tolist() or tracker.update(boxes(t + 1, [(100 + 30e-6 * t, 50)]), t + 1).track_id.tolist()

    assert ids(1_000_000) == [1]
    assert ids(1_000_001) == [2]


@TRACKERS
def test_a_class_change_ends_a_track_unless_told_otherwise(make: type[Tracker]) -> None:
    for aware, expected in ((True, []), (False, [1])):
        settings = make().settings.model_copy(update={"class_aware": aware, "confirm_hits": 2})
        tracker = make(settings)
        for t in range(4):
            tracker.update(boxes(t, [(50, 50)], class_id=0), t)
        out = tracker.update(boxes(4, [(50, 50)], class_id=1), 4)
        assert out.track_id.tolist() == expected


def scene(seed: int, steps: int = 40) -> list[Boxes]:
    rng = np.random.default_rng(seed)
    corner, velocity = rng.integers(0, 300, (12, 2)).astype(float), rng.normal(0, 3, (12, 2))
    classes = rng.integers(0, 2, 12)
    found = []
    for step in range(steps):
        corner = corner + velocity
        seen = rng.random(12) < 0.85
        xyxy = np.c_[corner, corner + 40][seen] + rng.normal(0, 1, (seen.sum(), 4))
        xyxy = np.round(xyxy * 8) / 8  # exact in float32, so that shifting loses nothing
        found.append(Boxes.of(step * STEP_US, xyxy, classes[seen], rng.uniform(0.05, 1, seen.sum())))
    return found


def run(tracker: Tracker, found: list[Boxes]) -> Boxes:
    return Boxes.concatenate([tracker.update(part, step * STEP_US) for step, part in enumerate(found)])


@TRACKERS
def test_order_does_not_matter_and_a_shift_only_shifts(make: type[Tracker]) -> None:
    found, rng = scene(1), np.random.default_rng(2)
    first = run(make(), found)
    assert len(first) > 120
    shuffled = run(make(), [part[rng.permutation(len(part))] for part in found])
    assert np.array_equal(first.track_id, shuffled.track_id)
    assert np.array_equal(first.xyxy, shuffled.xyxy)
    moved = [Boxes.of(part.t, part.xyxy + np.float32([64, 32, 64, 32]), part.class_id, part.score) for part in found]
    shifted = run(make(), moved)
    assert np.array_equal(first.track_id, shifted.track_id)
    assert shifted.xyxy - [64, 32, 64, 32] == pytest.approx(first.xyxy, abs=1e-3)


@TRACKERS
def test_time_is_real_a_later_clock_changes_nothing(make: type[Tracker]) -> None:
    found = scene(3)
    later = make()
    out = [
        later.update(part.at_time(step * STEP_US + 10**12), step * STEP_US + 10**12) for step, part in enumerate(found)
    ]
    assert np.array_equal(run(make(), found).track_id, Boxes.concatenate(out).track_id)


@TRACKERS
def test_errors_name_the_tracker_and_leave_it_as_it_was(make: type[Tracker]) -> None:
    tracker = make()
    tracker.update(boxes(1000, [(50, 50)]), 1000)
    with pytest.raises(ValueError, match="time must increase, got 1000 us after 1000 us"):
        tracker.update(Boxes.empty(), 1000)
    with pytest.raises(ValueError, match=r"detections of 1500 .. 1500 us in an update at 2000 us"):
        tracker.update(boxes(1500, [(50, 50)]), 2000)
    with pytest.raises(ValueError, match=r"embeddings must be \(1, D\)"):
        tracker.update(boxes(2000, [(50, 50)]), 2000, embeddings=np.ones((2, 4)))
    with pytest.raises(ValueError, match="not finite"):
        tracker.update(boxes(2000, [(50, 50)]), 2000, embeddings=np.full((1, 4), np.nan))
    assert tracker.update(boxes(2000, [(50, 50)]), 2000).track_id.tolist() == [1]


@TRACKERS
def test_embeddings_hold_where_places_deceive(make: type[Tracker]) -> None:
    look = np.array([[1.0, 0.1, 0.0], [0.0, 0.1, 1.0]])

    def ids(with_looks: bool) -> list[int]:
        tracker = make()
        for t in range(3):
            at = boxes(t * STEP_US, [(50, 50), (56, 50)], [0.9, 0.8])
            tracker.update(at, t * STEP_US, embeddings=look if with_looks else None)
        # they change places within one update
        at = boxes(3 * STEP_US, [(56, 50), (50, 50)], [0.9, 0.8])
        out = tracker.update(at, 3 * STEP_US, embeddings=look if with_looks else None)
        return out.track_id[np.argsort(-out.score)].tolist()

    assert ids(False) == [2, 1]
    assert ids(True) == [1, 2]


@TRACKERS
def test_a_look_recovers_a_track_without_overlap_within_its_reach(make: type[Tracker]) -> None:
    for aside, cosine, expected in ((35, 1.0, [1]), (45, 1.0, []), (35, 0.7, [])):
        tracker = make()
        for t in range(4):
            tracker.update(boxes(t, [(50, 50)]), t, embeddings=np.array([[1.0, 0.0]]))
        other = np.array([[cosine, np.sqrt(1 - cosine**2)]])
        # sides of 20 px: it reaches 2 x 20 px
        out = tracker.update(boxes(4, [(50 + aside, 50)]), 4, embeddings=other)
        assert out.track_id.tolist() == expected


def test_the_memory_of_a_look_by_hand() -> None:
    tracker = ByteTrack(ByteTrackSettings(embedding={"memory": 0.5, "minimum": -1.0}))  # ty: ignore[invalid-argument-type]
    tracker.update(boxes(0, [(50, 50)]), 0, embeddings=np.array([[2.0, 0.0]]))
    tracker.update(boxes(1, [(50, 50)]), 1, embeddings=np.array([[0.0, 3.0]]))
    assert tracker._look[0] == pytest.approx([np.sqrt(0.5), np.sqrt(0.5)])
    tracker.update(boxes(2, [(50, 50)]), 2)  # unknown: stays
    tracker.update(boxes(3, [(50, 50)]), 3, embeddings=np.array([[0.0, 0.0]]))
    assert tracker._look[0] == pytest.approx([np.sqrt(0.5), np.sqrt(0.5)])


def test_settings_choose_the_tracker() -> None:
    adapter = TypeAdapter(AnyTrackerSettings)
    old = adapter.validate_python({"high_score": 0.4})
    assert isinstance(old, ByteTrackSettings)
    assert isinstance(build_tracker(old), ByteTrack)
    new = adapter.validate_python({"method": "oc_sort", "momentum": 0.1})
    assert isinstance(new, OCSortSettings)
    assert isinstance(build_tracker(new), OCSort)
    assert adapter.validate_python(new.model_dump()) == new
    with pytest.raises(ValidationError, match=r"bytetrack\.momentum\s+Extra inputs are not permitted"):
        adapter.validate_python({"momentum": 0.1})
    with pytest.raises(ValidationError, match=r"low_score 0\.7 must not exceed high_score 0\.6"):
        OCSortSettings(low_score=0.7)
