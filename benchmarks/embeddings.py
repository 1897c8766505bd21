"""Embeddings of a trained tracker network: what do they bring to association, at 30, 10 and 5 Hz?

    python benchmarks/embeddings.py EXPERIMENT WEIGHTS [--set data.root=DIR] [--scenes 8] [--split test]

The network runs once over each scene, every step; trackers then get every step's detections with their embeddings, or
every third, or every sixth, and are scored at the label times that are left. Each tracker runs without embeddings and
with each `weight` of theirs; the settings were chosen on the validation split, the rest is for the other splits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.evaluation import EvaluationSettings, steps_of
from spiketrack.experiment import load_experiment, split_of
from spiketrack.metrics.tracking_scores import TrackingScore, tracking_scores
from spiketrack.pipeline import Detector
from spiketrack.tracking import ByteTrackSettings, OCSortSettings, TrackerSettings, build_tracker

EVERY = {"30 Hz": 1, "10 Hz": 3, "5 Hz": 6}
WEIGHTS = (0.25, 0.5, 1.0, 2.0)


class Found(NamedTuple):
    """One label time: when, its labels, and what the network found there."""

    time_us: int
    labels: Boxes
    detections: Boxes
    embeddings: NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--split", default="test")
    parser.add_argument("--scenes", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment = load_experiment(options.experiment, options.overrides)
    names, sequences = split_of(experiment.data, options.split)
    detector = Detector.load(options.weights).fused()
    scenes = {s.name: found_in(detector, s, experiment.evaluation) for s in sequences[: options.scenes]}
    print("| | HOTA | AssA | IDF1 | IDSW |\n|---|---|---|---|---|")
    for rate, every in EVERY.items():
        for name, settings in trackers(experiment.tracking).items():
            score = scored([(name, found[::every]) for name, found in scenes.items()], settings, names)
            values = (f"{100 * value:.2f}" for value in (score.hota, score.assa, score.idf1))
            print(f"| {rate} {name} | {' | '.join(values)} | {score.idsw} |", flush=True)


def found_in(detector: Detector, sequence: LabelledSequence, rules: EvaluationSettings) -> list[Found]:
    """What the network finds at the label times of a sequence, in order."""
    _, labelled, times = sequence.steps(detector.input.slice_us)
    time_of_step = dict(zip(labelled.tolist(), times.tolist(), strict=True))
    first, steps = steps_of(detector, sequence, rules)
    found = []
    for number, step in enumerate(steps, start=first):
        if number in time_of_step:
            time_us = time_of_step[number]
            assert step.embeddings is not None, f"{detector.name} makes no embeddings"
            detections = step.detections.at_time(time_us)
            found.append(Found(time_us, sequence.labels.at(time_us), detections, step.embeddings))
    return found


def trackers(base: TrackerSettings) -> dict[str, TrackerSettings]:
    """ByteTrack as the experiment has it, with wide gates, and OC-SORT; each without and with embeddings."""
    scores = base.model_dump(include={"high_score", "low_score", "new_score"})
    wide = {"match_limit": 0.98, "second_match_limit": 0.8, "unconfirmed_match_limit": 0.95}
    found: dict[str, TrackerSettings] = {}
    for name, settings in {
        "ByteTrack": base,
        "ByteTrack, wide": ByteTrackSettings(**{**scores, **wide}),
        "OC-SORT, wide": OCSortSettings(high_score=scores["high_score"], match_limit=0.9, use_weak=True),
    }.items():
        for weight in (0.0, *WEIGHTS):
            looks = settings.embedding.model_copy(update={"weight": weight})
            found[f"{name}, {weight or 'without'}"] = settings.model_copy(update={"embedding": looks})
    return found


def scored(scenes: Sequence[tuple[str, list[Found]]], settings: TrackerSettings, names: Sequence[str]) -> TrackingScore:
    """Over all scenes together; without embeddings where their weight is 0."""
    pairs = []
    for scene, found in scenes:
        tracker, tracks = build_tracker(settings), []
        for time in found:
            looks = time.embeddings if settings.embedding.weight else None
            tracks.append(tracker.update(time.detections, time.time_us, embeddings=looks))
        pairs.append((scene, Boxes.concatenate([time.labels for time in found]), Boxes.concatenate(tracks)))
    return tracking_scores(pairs, names).class_average


if __name__ == "__main__":
    main()
