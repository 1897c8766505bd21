"""Association: tracking updates per second and the quality of the tracks, and the time of the tracking metrics.

    python benchmarks/association.py [--objects 50 200] [--frames 1000] [--peers PYTHON] [--trackeval]
                                     [--recordings FOLDER]

Simulated objects (seed 1; the wide settings were chosen on seed 0) cross a sensor of 1280 x 720 at 30 Hz. Of their
boxes 10 % are missed, the others are moved by 4 % of their side, and one detection in twenty is false. Scores of true
boxes are mostly high, those of false ones mostly low. One core; an update is one call with the boxes of one time, from
record to record; the least CPU time of several runs, each with a fresh tracker. HOTA, IDF1 and MOTA by spiketrack's own
metrics.

--peers names the interpreter of an environment with ioutrack, visiontrack-cpp and trackers; each runs there on the
same detections, in its own structures, with its published settings, made beforehand; what is missing is named.
Then the same objects at 30 and 10 Hz with and without embeddings: a unit vector of 32 numbers for each object, with as
much noise as signal, a random one for false boxes. --recordings names a folder of *_td.h5 with *_bbox.npy beside them
(`spiketrack simulate`): their labels at 10 and 5 Hz, of which 20 % are missed and the others moved by 6 % of their side
(three seeds), are tracked with and without the events in between.
--trackeval compares the metrics with TrackEval's, which takes minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes, iou
from spiketrack.events import Events
from spiketrack.metrics import TrackingScore, tracking_scores
from spiketrack.recordings import open_recording
from spiketrack.tracking import (
    ByteTrack,
    ByteTrackSettings,
    EventMotionSettings,
    OCSort,
    OCSortSettings,
    Tracker,
    build_tracker,
)

WIDE_BYTETRACK = ByteTrackSettings(
    high_score=0.4, match_limit=0.98, second_match_limit=0.8, unconfirmed_match_limit=0.95
)
WIDE_OC_SORT = OCSortSettings(high_score=0.4, match_limit=0.9, use_weak=True)
TRACKERS: dict[str, Callable[[], Tracker]] = {
    "ByteTrack": ByteTrack,
    "ByteTrack, wide": lambda: ByteTrack(WIDE_BYTETRACK),
    "OC-SORT": OCSort,
    "OC-SORT, wide": lambda: OCSort(WIDE_OC_SORT),
}
WIDTH, HEIGHT, STEP_US = 1280, 720, 33_333
REPEATS = 5

PEERS = """
import sys, time
import numpy as np
source, out, repeats = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = np.load(source)
frames = int(data["frames"])
cut = np.searchsorted(data["frame"], np.arange(frames + 1))
parts = [slice(a, b) for a, b in zip(cut[:-1], cut[1:])]
boxes, scores = data["xyxy"].astype(np.float64), data["score"].astype(np.float64)

def measure(name, inputs, fresh, update, read):
    least = None
    for _ in range(repeats):
        tracker, results = fresh(), []
        started = time.process_time()
        for item in inputs:
            results.append(update(tracker, item))
        seconds = time.process_time() - started
        least = seconds if least is None else min(least, seconds)
    rows = [(np.full(len(i), f), x, i) for f, (x, i) in enumerate(map(read, results))]
    frame, xyxy, number = (np.concatenate([row[k] for row in rows]) for k in range(3))
    np.savez(f"{out}/{name}.npz", frame=frame, xyxy=xyxy, number=number, seconds=least)

def attempt(name, run):
    try:
        run()
    except Exception as error:
        print(f"{name}  missing: {type(error).__name__}: {error}", flush=True)

def ioutrack_run():
    import ioutrack
    rows = [np.c_[boxes[p], scores[p]] for p in parts]
    settings = dict(max_age=30, min_hits=2, init_tracker_min_score=0.6, high_score_threshold=0.5)
    measure("ioutrack ByteTrack", rows, lambda: ioutrack.ByteTrack(**settings),
            lambda tracker, item: tracker.update(item, return_all=False), lambda r: (r[:, :4], r[:, 4].astype(int)))

def visiontrack_run():
    import visiontrack_cpp
    rows = [(boxes[p], scores[p], np.zeros(p.stop - p.start, np.int64)) for p in parts]
    measure("visiontrack-cpp ByteTracker", rows, visiontrack_cpp.ByteTracker,
            lambda tracker, item: tracker.update(*item), lambda r: (r[1].reshape(-1, 4), r[0]))

def roboflow_run(kind):
    import supervision, trackers
    rows = [supervision.Detections(xyxy=boxes[p], confidence=scores[p], class_id=np.zeros(p.stop - p.start, int))
            for p in parts]
    read = lambda r: (r.xyxy[r.tracker_id >= 0], r.tracker_id[r.tracker_id >= 0])
    measure("roboflow " + kind, rows, lambda: getattr(trackers, kind + "Tracker")(),
            lambda tracker, item: tracker.update(item), read)

attempt("ioutrack ByteTrack", ioutrack_run)
attempt("visiontrack-cpp ByteTracker", visiontrack_run)
repeats = 1
attempt("roboflow ByteTrack", lambda: roboflow_run("ByteTrack"))
attempt("roboflow OCSORT", lambda: roboflow_run("OCSORT"))
"""


def scene(objects: int, frames: int, seed: int = 1) -> tuple[Boxes, list[Boxes], list[NDArray[np.floating]]]:
    """Labels of all frames, and of each the detections and their embeddings."""
    rng = np.random.default_rng(seed)
    side = rng.uniform(24, 72, (objects, 2))
    room = np.array([WIDTH, HEIGHT]) - side
    corner, velocity = rng.uniform(0, 1, (objects, 2)) * room, rng.normal(0, 3, (objects, 2))
    looks = np.random.default_rng(seed + 1)
    own = looks.normal(0, 1, (objects, 32))
    labels, found, embeddings = [], [], []
    for frame in range(frames):
        velocity += rng.normal(0, 0.15, (objects, 2))
        corner = corner + velocity
        velocity = np.where((corner < 0) | (corner > room), -velocity, velocity)
        corner = np.clip(corner, 0, room)
        xyxy = np.c_[corner, corner + side]
        labels.append(Boxes.of(frame * STEP_US, xyxy, 0, track_id=np.arange(objects)))
        there = rng.random(objects) >= 0.1
        moved = xyxy[there] + rng.normal(0, 0.04, (there.sum(), 4)) * np.tile(side[there], 2)
        false = rng.uniform(0, 1, (rng.poisson(objects / 20), 2)) * room.min(axis=0)
        false = np.c_[false, false + rng.uniform(24, 72, false.shape)]
        score = np.r_[rng.beta(6, 2, len(moved)), rng.beta(2, 6, len(false))]
        moved = np.c_[np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])]
        found.append(Boxes.of(frame * STEP_US, np.r_[moved, false], 0, score))
        noise = looks.normal(0, 1, (len(score), 32))
        embeddings.append(np.r_[own[there], np.zeros((len(false), 32))] + noise)
    return Boxes.concatenate(labels), found, embeddings


def crossings() -> None:
    labels, found, embeddings = scene(50, 1000)
    for every in (1, 3):
        kept = labels[labels.t // STEP_US % every == 0]
        for name, make in TRACKERS.items():
            for given in (False, True):
                tracker, tracks, seconds = make(), [], 0.0
                for frame in range(0, 1000, every):
                    look = embeddings[frame] if given else None
                    started = time.process_time()
                    tracks.append(tracker.update(found[frame], frame * STEP_US, embeddings=look))
                    seconds += time.process_time() - started
                title = f"{30 // every} Hz {name}{', embeddings' if given else ''}"
                row(title, len(tracks), seconds, scored(kept, Boxes.concatenate(tracks)))


def degraded(labels: Boxes, seed: int) -> list[tuple[int, Boxes]]:
    rng, found = np.random.default_rng(seed), []
    for t, boxes in labels.by_time():
        boxes = boxes[rng.random(len(boxes)) >= 0.2]
        side = np.maximum(np.tile(boxes.size, 2), 1)
        xyxy = np.sort((boxes.xyxy + rng.normal(0, 0.06, side.shape) * side).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
        found.append((t, Boxes.of(t, xyxy, boxes.class_id, rng.uniform(0.6, 1, len(boxes)))))
    return found


def event_motion(folder: Path) -> None:
    recordings = []
    for path in sorted(folder.glob("*_td.h5")):
        rows = np.load(path.with_name(path.name.replace("_td.h5", "_bbox.npy")))
        xyxy = np.c_[rows["x"], rows["y"], rows["x"] + rows["w"], rows["y"] + rows["h"]]
        labels = Boxes.of(rows["t"], xyxy, rows["class_id"], track_id=rows["track_id"])
        recordings.append((path.name, labels, Events.concatenate(list(open_recording(path).chunks()))))
    names = [str(i) for i in range(max(int(labels.class_id.max()) for _, labels, _ in recordings) + 1)]
    print(f"\n{len(recordings)} recordings, {sum(len(events) for *_, events in recordings):,} events, of {folder}")
    for every in (3, 6):
        for name, make in TRACKERS.items():
            for given in (False, True):
                scenes, updates, seconds = [], 0, 0.0
                for (path, labels, events), seed in itertools.product(recordings, range(3)):
                    kept = labels[np.isin(labels.t, np.unique(labels.t)[::every])]
                    settings = make().settings.model_copy(update={"events": EventMotionSettings(enabled=given)})
                    tracker, tracks = build_tracker(settings), []
                    for t, boxes in degraded(kept, seed):
                        started = time.process_time()
                        tracks.append(tracker.update(boxes, t, events=events if given else None))
                        seconds += time.process_time() - started
                    scenes.append((f"{path} {seed}", kept, Boxes.concatenate(tracks)))
                    updates += len(tracks)
                title = f"{30 // every} Hz {name}{', events' if given else ''}"
                row(title, updates, seconds, tracking_scores(scenes, names).detection_average)


def run(tracker: Tracker, found: list[Boxes]) -> tuple[list[Boxes], float]:
    started = time.process_time()
    tracks = [tracker.update(boxes, frame * STEP_US) for frame, boxes in enumerate(found)]
    return tracks, time.process_time() - started


def row(name: str, frames: int, seconds: float, score: TrackingScore) -> None:
    print(
        f"{name:<40}{frames / seconds:>12,.0f}{100 * score.hota:>8.2f}{100 * score.idf1:>8.2f}{100 * score.mota:>8.2f}"
        f"{score.idsw:>8}",
        flush=True,
    )


def scored(labels: Boxes, tracks: Boxes) -> TrackingScore:
    return tracking_scores([("scene", labels, tracks)], ["object"]).detection_average


def peers(python: Path, labels: Boxes, found: list[Boxes], frames: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "found.npz"
        boxes = Boxes.concatenate(found)
        np.savez(source, frame=boxes.t // STEP_US, xyxy=boxes.xyxy, score=boxes.score, frames=frames)
        command = [str(python), "-W", "ignore", "-c", PEERS, str(source), folder, str(REPEATS)]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=folder)
        for path in sorted(Path(folder).glob("* *.npz")):
            data = np.load(path)
            tracks = Boxes.of(data["frame"] * STEP_US, data["xyxy"], 0, track_id=data["number"])
            row(path.stem, frames, float(data["seconds"]), scored(labels, tracks))


def time_metrics(labels: Boxes, tracks: Boxes, with_trackeval: bool) -> None:
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        ours = scored(labels, tracks)
        seconds.append(time.process_time() - started)
    print(f"HOTA + CLEAR + IDF1 of it: {min(seconds):.2f} s")
    if with_trackeval:
        started = time.process_time()
        theirs = trackeval_scores(labels, tracks)
        print(f"TrackEval, the same: {time.process_time() - started:.1f} s")
        for name, value in theirs.items():
            print(f"  {name:<6}{getattr(ours, name.lower()):.9f}  TrackEval {value:.9f}")


def trackeval_scores(labels: Boxes, tracks: Boxes) -> dict[str, float]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        metrics = importlib.import_module("trackeval.metrics")
        engines = [metrics.HOTA(), metrics.CLEAR({"PRINT_CONFIG": False}), metrics.Identity({"PRINT_CONFIG": False})]
    times = np.unique(labels.t)
    label_id, track_id = (np.unique(boxes.track_id, return_inverse=True)[1] for boxes in (labels, tracks))
    at = [(labels.at(int(t)), tracks.at(int(t))) for t in times]
    data = {
        "num_timesteps": len(times),
        "num_gt_ids": label_id.max() + 1,
        "num_tracker_ids": track_id.max() + 1,
        "num_gt_dets": len(labels),
        "num_tracker_dets": len(tracks),
        "gt_ids": np.split(label_id, np.searchsorted(labels.t, times[1:])),
        "tracker_ids": np.split(track_id, np.searchsorted(tracks.t, times[1:])),
        "similarity_scores": [iou(a.xyxy, b.xyxy, np.float64) for a, b in at],
    }
    found = {}
    for engine in engines:
        found |= engine.eval_sequence(data)
    return {name: float(np.mean(found[name])) for name in ("HOTA", "DetA", "AssA", "LocA", "MOTA", "MOTP", "IDF1")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--objects", nargs="+", type=int, default=[50, 200])
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--trackeval", action="store_true")
    parser.add_argument("--recordings", type=Path)
    arguments = parser.parse_args()
    for objects in arguments.objects:
        labels, found, _ = scene(objects, arguments.frames)
        print(f"\n{objects} objects, {arguments.frames} frames, {sum(map(len, found)):,} detections")
        print(f"{'tracker':<40}{'updates/s':>12}{'HOTA':>8}{'IDF1':>8}{'MOTA':>8}{'IDSW':>8}")
        for name, make in TRACKERS.items():
            run(make(), found[:20])  # compiles
            runs = [run(make(), found) for _ in range(REPEATS)]
            tracks = Boxes.concatenate(runs[0][0])
            row(f"spiketrack {name}", arguments.frames, min(seconds for _, seconds in runs), scored(labels, tracks))
        if arguments.peers:
            peers(arguments.peers, labels, found, arguments.frames)
        else:
            print("peers: not measured; name an interpreter with --peers", file=sys.stderr)
        time_metrics(labels, tracks, arguments.trackeval)
    print("\n50 objects, 1000 frames of 30 Hz")
    crossings()
    if arguments.recordings:
        event_motion(arguments.recordings)
    else:
        print("event motion: not measured; name a folder with --recordings", file=sys.stderr)


if __name__ == "__main__":
    main()
