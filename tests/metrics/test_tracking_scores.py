"""HOTA, CLEAR MOT and IDF1: by hand, laws, and the numbers of TrackEval."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from dataclasses import fields
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from spiketrack.boxes import Boxes, iou
from spiketrack.errors import LabelError, SpiketrackError
from spiketrack.metrics import Overlaps, TrackingScore, clear_mot, hota, identity_f1, tracking_scores

STEP_US = 33_333
NAMES = ["pedestrian", "car", "tram", "bicycle"]


def line(identity: int, times: list[int], x: float, class_id: int = 0, dx: float = 0.0) -> Boxes:
    """A 10 x 10 box at x, y = 0 at each of the times (in steps), displaced by dx."""
    n = len(times)
    return Boxes.of(
        np.array(times) * STEP_US,
        np.tile([x + dx, 0, x + dx + 10, 10], (n, 1)),
        class_id,
        track_id=np.full(n, identity),
    )


def one(labels: list[Boxes], tracks: list[Boxes], names: list[str] | None = None) -> TrackingScore:
    pair = ("one", Boxes.concatenate(labels), Boxes.concatenate(tracks))
    return tracking_scores([pair], names or ["car"]).detection_average


def test_perfect_tracks() -> None:
    labels = [line(7, [0, 1, 2, 3], 0), line(9, [1, 2], 50)]
    row = one(labels, [line(1, [0, 1, 2, 3], 0), line(2, [1, 2], 50)])
    assert (row.hota, row.deta, row.assa, row.loca, row.mota, row.motp, row.idf1) == (1, 1, 1, 1, 1, 1, 1)
    assert (row.idsw, row.frag, row.fp, row.fn, row.mt, row.ml) == (0, 0, 0, 0, 2, 0)
    assert (row.labels, row.label_identities) == (6, 2)


def test_identity_switch_by_hand() -> None:
    # one label of 4 times; track 1 covers the first three, track 2 the last
    row = one([line(5, [0, 1, 2, 3], 0)], [line(1, [0, 1, 2], 0), line(2, [3], 0)])
    assert (row.tp, row.fp, row.fn, row.idsw, row.frag) == (4, 0, 0, 1, 0)
    assert row.mota == 3 / 4
    # best identity is track 1: IDTP 3, IDFN 1, IDFP 1
    assert (row.idf1, row.idp, row.idr) == (3 / 4, 3 / 4, 3 / 4)
    # AssA: three TP with 3 / (3 + 1 + 0), one with 1 / (1 + 3 + 0)
    assert row.deta == 1
    assert row.assa == pytest.approx((3 * 3 / 4 + 1 / 4) / 4, abs=1e-12)
    assert row.hota == pytest.approx(np.sqrt(10 / 16), abs=1e-12)


def test_gap_is_a_fragment_and_no_switch() -> None:
    # two labels; track 1 leaves label 5 out at time 1 and 2 and comes back
    row = one([line(5, [0, 1, 2, 3], 0), line(6, [0, 1, 2, 3], 100)], [line(1, [0, 3], 0), line(2, [0, 1, 2, 3], 100)])
    assert (row.idsw, row.frag, row.fn, row.mt, row.ml) == (0, 1, 2, 1, 0)


def test_switch_after_a_gap_compares_with_the_last_match() -> None:
    labels = [line(5, [0, 1, 2], 0), line(6, [0, 1, 2], 100)]
    other = line(2, [0, 1, 2], 100)
    assert one(labels, [line(1, [0, 2], 0), other]).idsw == 0
    assert one(labels, [line(1, [0], 0), line(3, [2], 0), other]).idsw == 1


def test_clear_keeps_a_pair_although_another_overlaps_better() -> None:
    # at time 1 track 2 lies better on the label (IoU 9/11) than track 1 (8/12), which had it before
    labels = [line(5, [0, 1], 0)]
    tracks = [line(1, [0], 0), line(1, [1], 0, dx=2), line(2, [1], 0, dx=1)]
    row = one(labels, tracks)
    assert (row.idsw, row.fp, row.tp) == (0, 1, 2)
    assert row.motp == pytest.approx((1 + 8 / 12) / 2, abs=1e-7)


@pytest.mark.parametrize(("matched", "mostly", "lost"), [(0, 0, 1), (1, 0, 0), (4, 0, 0), (5, 1, 0)])
def test_one_fifth_is_not_lost_and_four_fifths_are_not_mostly(matched: int, mostly: int, lost: int) -> None:
    row = one([line(5, [0, 1, 2, 3, 4], 0)], [line(1, list(range(matched)), 0), line(2, [0, 1, 2, 3, 4], 100)])
    assert (row.mt, row.ml, row.fn) == (mostly, lost, 5 - matched)


def test_overlap_of_one_half_matches_and_less_does_not() -> None:
    label = Boxes.of(0, [(0, 0, 10, 10)], 0, track_id=[1])
    half = Boxes.of(0, [(0, 0, 10, 20)], 0, track_id=[1])
    less = Boxes.of(0, [(0, 0, 10, 20.1)], 0, track_id=[1])
    assert (one([label], [half]).tp, one([label], [less]).tp) == (1, 0)
    assert (one([label], [half]).idr, one([label], [less]).idr) == (1, 0)
    # HOTA counts IoU 0.5 at the thresholds 0.05 .. 0.50, ten of nineteen
    assert one([label], [half]).hota == pytest.approx(10 / 19, abs=1e-12)


def test_exact_overlap_reaches_its_threshold_in_double_precision() -> None:
    # IoU is 19/20 = 0.95, which rounds below 0.95 in single precision
    row = one([Boxes.of(0, [(0, 0, 20, 10)], 0, track_id=[1])], [Boxes.of(0, [(0, 0, 19, 10)], 0, track_id=[1])])
    assert row.hota_by_alpha[-1] == 1


def test_tracks_at_other_times_are_ignored_but_counted() -> None:
    labels, tracks = line(5, [0, 2], 0), line(1, [0, 1, 2, 3], 0)
    scores = tracking_scores([("one", labels, tracks)], ["car"])
    assert (scores.detection_average.fp, scores.label_times, scores.tracks_elsewhere) == (0, 2, 2)
    assert scores.detection_average.hota == 1


def test_classes_do_not_match_each_other() -> None:
    labels = Boxes.concatenate([line(5, [0, 1], 0, class_id=0), line(6, [0, 1], 50, class_id=1)])
    tracks = Boxes.concatenate([line(1, [0, 1], 0, class_id=1), line(2, [0, 1], 50, class_id=1)])
    scores = tracking_scores([("one", labels, tracks)], NAMES)
    pedestrian, car = scores.per_class["pedestrian"], scores.per_class["car"]
    assert pedestrian is not None
    assert car is not None
    assert (pedestrian.fn, pedestrian.fp, pedestrian.mota) == (2, 0, 0)
    assert (car.tp, car.fp, car.mota) == (2, 2, 0)
    assert scores.per_class["tram"] is None
    # IDF1: pedestrian 0, car 2*2 / (2*2 + 2); of all boxes 2*2 / (2*2 + 2 + 2)
    assert scores.class_average.idf1 == pytest.approx((0 + 2 / 3) / 2)
    assert scores.detection_average.idf1 == pytest.approx(1 / 2)
    assert scores.class_average.fn == scores.detection_average.fn == 2


def test_no_tracks_and_no_labels_of_a_sequence() -> None:
    labels = line(5, [0, 1], 0)
    scores = tracking_scores([("missed", labels, Boxes.empty()), ("unlabelled", Boxes.empty(), labels)], ["car"])
    assert scores.per_sequence["missed"].fn == 2
    assert scores.per_sequence["missed"].ml == 1
    assert scores.per_sequence["unlabelled"].fp == 0
    assert scores.tracks_elsewhere == 2
    assert (scores.detection_average.hota, scores.detection_average.mota) == (0, 0)


def test_bad_input_is_named() -> None:
    good = line(1, [0, 1], 0)
    twice = Boxes.concatenate([good, line(1, [1], 3)])
    nameless = line(-1, [0], 0)
    with pytest.raises(LabelError, match="nothing to evaluate: no label in any of 1 sequences"):
        tracking_scores([("one", Boxes.empty(), good)], ["car"])
    with pytest.raises(LabelError, match="sequence 'one', class 'car': labels: identity 1 stands twice at 33333 us"):
        tracking_scores([("one", twice, good)], ["car"])
    with pytest.raises(SpiketrackError, match="tracks: identity 1 stands twice"):
        tracking_scores([("one", good, twice)], ["car"])
    with pytest.raises(LabelError, match="labels: a box at 0 us has no identity"):
        tracking_scores([("one", nameless, good)], ["car"])
    with pytest.raises(SpiketrackError, match="tracks: a box at 0 us has no identity"):
        tracking_scores([("one", good, nameless)], ["car"])
    with pytest.raises(SpiketrackError, match="tracks of sequence 'one': class 3"):
        tracking_scores([("one", good, line(1, [0], 0, class_id=3))], ["car"])


def test_no_single_metric_changes_under_renaming_of_identities() -> None:
    name, labels, tracks = random_sequence(3)
    renamed = Boxes.of(tracks.t, tracks.xyxy, tracks.class_id, tracks.score, 1000 - 3 * tracks.track_id)
    before = tracking_scores([(name, labels, tracks)], NAMES).detection_average
    after = tracking_scores([(name, labels, renamed)], NAMES).detection_average
    assert values(before) == pytest.approx(values(after), abs=1e-12)


def values(row: TrackingScore) -> dict[str, float]:
    return {part.name: getattr(row, part.name) for part in fields(row) if part.name != "hota_by_alpha"}


def random_sequence(seed: int, times: int = 40, objects: int = 9) -> tuple[str, Boxes, Boxes]:
    """Moving boxes of classes 0 .. 2; tracks with misses, jitter, switched identities, inventions, empty times."""
    rng = np.random.default_rng(seed)
    corner, velocity = rng.uniform(0, 120, (objects, 2)), rng.normal(0, 2, (objects, 2))
    class_id, track_id = rng.integers(0, 3, objects), np.arange(objects)
    labels, tracks = [], []
    for time in range(times):
        corner = corner + velocity
        boxes = np.c_[corner, corner + 30]
        present, found = rng.random(objects) < 0.8, rng.random(objects) < 0.8
        if time % 9 == 4:
            present[:] = False
        if time % 7 == 3:
            found[:] = False
        if time % 5 == 1:
            i, j = rng.choice(objects, 2, replace=False)
            track_id[[i, j]] = track_id[[j, i]]
        jittered = boxes + rng.normal(0, 2.5, (objects, 2))[:, [0, 1, 0, 1]]
        labels.append(Boxes.of(time * STEP_US, boxes[present], class_id[present], track_id=np.flatnonzero(present)))
        invented = rng.uniform(0, 120, (2, 2))
        tracks.append(
            Boxes.of(
                time * STEP_US,
                np.r_[jittered[found], np.c_[invented, invented + 30]],
                np.r_[class_id[found], rng.integers(0, 4, 2)],
                track_id=np.r_[track_id[found], 100 + rng.integers(0, 4), 200 + rng.integers(0, 4)],
            )
        )
    return f"sequence {seed}", Boxes.concatenate(labels), Boxes.concatenate(tracks)


@pytest.fixture(scope="module")
def trackeval_metrics() -> ModuleType:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("trackeval.metrics")
        except ImportError as error:
            pytest.skip(f"the reference TrackEval is not installed (pip install trackeval): {error}")


def trackeval_data(labels: Boxes, tracks: Boxes, times: np.ndarray) -> dict[str, Any]:
    tracks = tracks[np.isin(tracks.t, times)]
    label_ids, label_index = np.unique(labels.track_id, return_inverse=True)
    track_ids, track_index = np.unique(tracks.track_id, return_inverse=True)
    return {
        "num_timesteps": len(times),
        "num_gt_ids": len(label_ids),
        "num_tracker_ids": len(track_ids),
        "num_gt_dets": len(labels),
        "num_tracker_dets": len(tracks),
        "gt_ids": [label_index[labels.t == time] for time in times],
        "tracker_ids": [track_index[tracks.t == time] for time in times],
        "similarity_scores": [
            iou(labels.xyxy[labels.t == time], tracks.xyxy[tracks.t == time], np.float64) for time in times
        ],
    }


def trackeval_rows(
    metrics: ModuleType, sequences: list[tuple[str, Boxes, Boxes]], classes: int
) -> dict[str, dict[str, Any]]:
    """TrackEval's results per class number, "class average", "detection average" and per sequence name."""
    found = {}
    with contextlib.redirect_stdout(io.StringIO()):
        engines = [
            metrics.HOTA(),
            metrics.CLEAR({"PRINT_CONFIG": False}),
            metrics.Identity({"PRINT_CONFIG": False}),
        ]
    for engine in engines:
        single = {
            (name, class_id): engine.eval_sequence(
                trackeval_data(
                    labels[labels.class_id == class_id],
                    tracks[tracks.class_id == class_id],
                    np.unique(labels.t),
                )
            )
            for name, labels, tracks in sequences
            for class_id in range(classes)
        }
        per_class = {
            str(class_id): engine.combine_sequences({name: single[name, class_id] for name, _, _ in sequences})
            for class_id in range(classes)
        }
        rows = dict(per_class)
        rows["class average"] = engine.combine_classes_class_averaged(per_class, ignore_empty_classes=True)
        rows["detection average"] = engine.combine_classes_det_averaged(per_class)
        for name, _, _ in sequences:
            rows[name] = engine.combine_classes_det_averaged(
                {str(class_id): single[name, class_id] for class_id in range(classes)}
            )
        for name, row in rows.items():
            found.setdefault(name, {}).update(row)
    return found


THEIR_NAMES = {
    "hota": "HOTA",
    "deta": "DetA",
    "assa": "AssA",
    "loca": "LocA",
    "mota": "MOTA",
    "motp": "MOTP",
    "idf1": "IDF1",
    "idp": "IDP",
    "idr": "IDR",
    "idsw": "IDSW",
    "frag": "Frag",
    "mt": "MT",
    "ml": "ML",
    "tp": "CLR_TP",
    "fp": "CLR_FP",
    "fn": "CLR_FN",
}


@pytest.mark.parametrize("seed", range(4))
def test_parity_with_trackeval(trackeval_metrics: ModuleType, seed: int) -> None:
    sequences = [random_sequence(10 * seed + i, objects=6 + 5 * i) for i in range(3)]
    name, labels, _ = random_sequence(100 + seed)
    sequences.append((name, labels, Boxes.empty()))
    _, labels, tracks = random_sequence(200 + seed)
    sequences.append(("no pedestrian", labels[labels.class_id > 0], tracks[tracks.class_id != 1]))
    theirs = trackeval_rows(trackeval_metrics, sequences, len(NAMES))
    scores = tracking_scores(sequences, NAMES)
    rows = {
        "class average": scores.class_average,
        "detection average": scores.detection_average,
        **{str(i): scores.per_class[class_name] for i, class_name in enumerate(NAMES)},
        **scores.per_sequence,
    }
    assert set(rows) == set(theirs)
    for place, row in rows.items():
        assert row is not None  # class 3 has no labels, but invented tracks
        for ours, name in THEIR_NAMES.items():
            expected = float(np.mean(theirs[place][name]))
            assert getattr(row, ours) == pytest.approx(expected, abs=1e-9), (place, ours)
        assert row.hota_by_alpha == pytest.approx(theirs[place]["HOTA"], abs=1e-9)
    assert scores.class_average.idsw > 20
    assert 0.1 < scores.detection_average.hota < 0.9


def test_the_three_metrics_stand_alone(trackeval_metrics: ModuleType) -> None:
    _, labels, tracks = random_sequence(42)
    times = np.unique(labels.t)
    overlaps = Overlaps.of(labels, tracks, times)
    data = trackeval_data(labels, tracks, times)
    quiet = {"PRINT_CONFIG": False}
    assert clear_mot(overlaps).mota == pytest.approx(
        trackeval_metrics.CLEAR(quiet).eval_sequence(data)["MOTA"], abs=1e-9
    )
    assert identity_f1(overlaps).idf1 == pytest.approx(
        trackeval_metrics.Identity(quiet).eval_sequence(data)["IDF1"], abs=1e-9
    )
    assert hota(overlaps).hota == pytest.approx(trackeval_metrics.HOTA().eval_sequence(data)["HOTA"], abs=1e-9)
