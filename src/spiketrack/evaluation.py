"""Evaluation: a detector and a tracker against the labels of whole sequences.

Station: in come a detector and labelled sequences, out come detection and tracking scores. Every sequence runs as a
stream, with the state carried on; a label time is compared with the step that ends at it (see `label_steps`). A time
that is known to be empty is a label time too: what is found there is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.distributed import Ranks
from spiketrack.metrics import DetectionScores, TrackingScores, average_precision, protocol_named, tracking_scores
from spiketrack.pipeline import Detector, Step, track
from spiketrack.tracking import TrackerSettings, build_tracker


class EvaluationSettings(BaseModel):
    """By which rules results are counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str = Field("unfiltered", description="which boxes count: see docs/evaluation.md for the names")
    warm_up_steps: int = Field(10, ge=0, description="time steps before the first label that set the state")
    reset_every: int | None = Field(
        None, ge=1, description="time steps after which the state is forgotten; null carries it over the recording"
    )
    chunk_steps: int | None = Field(
        None, ge=1, description="time steps that the network sees at once; the result does not depend on it; null: 8"
    )
    labelled_only: bool = Field(
        False,
        description="with reset_every: run only so many time steps before each label time, from a fresh state; for "
        "slices much shorter than the time between labels",
    )

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.labelled_only and self.reset_every is None:
            raise ValueError("labelled_only needs reset_every, the number of time steps before a label time")
        return self

    @field_validator("protocol")
    @classmethod
    def _known(cls, name: str) -> str:
        return protocol_named(name).name


@dataclass(frozen=True, eq=False)
class SequenceResult:
    """What was found in one sequence, at its label times."""

    sequence: LabelledSequence
    detections: Boxes
    tracks: Boxes


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Scores over all sequences, and the boxes that they were computed from."""

    detection: DetectionScores
    tracking: TrackingScores
    sequences: list[SequenceResult]


def evaluate(
    detector: Detector,
    sequences: Sequence[LabelledSequence],
    settings: EvaluationSettings,
    tracking: TrackerSettings,
    on_sequence: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> EvaluationResult:
    """Run detector and tracker over all sequences and score them.

    on_sequence(done, total, name) is called after each. The network is left in evaluation mode.
    """
    detector.model.eval()
    results = []
    for done, sequence in enumerate(sequences, start=1):
        results.append(run_sequence(detector, sequence, tracking, settings))
        on_sequence(done, len(sequences), sequence.name)
    return _scores(results, detector.class_names, settings)


def evaluate_together(
    detector: Detector,
    sequences: Sequence[LabelledSequence],
    settings: EvaluationSettings,
    tracking: TrackerSettings,
    ranks: Ranks,
) -> EvaluationResult | None:
    """`evaluate` by several processes: each runs its part of the sequences, and what all found is scored together.

    The first process gets the result, the others None.
    """
    detector.model.eval()
    own = range(ranks.rank, len(sequences), ranks.world)
    found = [run_sequence(detector, sequences[i], tracking, settings) for i in own]
    gathered = ranks.gather([(i, r.detections, r.tracks) for i, r in zip(own, found, strict=True)])
    if gathered is None:
        return None
    boxes = sorted((part for parts in gathered for part in parts), key=lambda part: part[0])
    results = [SequenceResult(sequences[i], detections, tracks) for i, detections, tracks in boxes]
    return _scores(results, detector.class_names, settings)


def _scores(results: list[SequenceResult], names: Sequence[str], settings: EvaluationSettings) -> EvaluationResult:
    """Detection and tracking scores over all sequences together."""
    found = [(r.sequence.name, r.sequence.labels, r.detections) for r in results]
    tracked = [(r.sequence.name, r.sequence.labels, r.tracks) for r in results]
    annotated = {r.sequence.name: r.sequence.annotated for r in results}
    detection = average_precision(found, names, settings.protocol, annotated)
    scores = tracking_scores(tracked, names, annotated)
    return EvaluationResult(detection, scores, results)


def run_sequence(
    detector: Detector, sequence: LabelledSequence, tracking: TrackerSettings, settings: EvaluationSettings
) -> SequenceResult:
    """Detections and tracks of one sequence at its label times."""
    _, labelled, times = sequence.steps(detector.input.slice_us)
    time_of_step = dict(zip(labelled.tolist(), times.tolist(), strict=True))
    detections, tracks = [], []
    if settings.labelled_only:
        numbered = zip(
            time_of_step, track(_steps_at_labels(detector, sequence, settings), build_tracker(tracking)), strict=True
        )
    else:
        first, steps = steps_of(detector, sequence, settings)
        numbered = enumerate(track(steps, build_tracker(tracking)), start=first)
    for step, result in numbered:
        if step in time_of_step:
            detections.append(result.detections.at_time(time_of_step[step]))
            tracks.append(result.tracks.at_time(time_of_step[step]))
    return SequenceResult(sequence, Boxes.concatenate(detections), Boxes.concatenate(tracks))


def steps_of(
    detector: Detector, sequence: LabelledSequence, settings: EvaluationSettings, **options: int
) -> tuple[int, Iterator[Step]]:
    """The steps that an evaluation runs, from the warm-up to the last label time, and the number of the first.

    options: more of `Detector.detect`.
    """
    slice_us = detector.input.slice_us
    anchor, labelled, _ = sequence.steps(slice_us)
    earliest = int(labelled[0])  # -1 where the first label is earlier than one slice
    first = min(earliest, max(0, earliest - settings.warm_up_steps))
    start, end = anchor + first * slice_us, anchor + (int(labelled[-1]) + 1) * slice_us
    given = {name: getattr(settings, name) for name in ("reset_every", "chunk_steps")}
    options = {**{name: value for name, value in given.items() if value is not None}, **options}
    return first, detector.detect(sequence.open(), start_us=start, end_us=end, **options)


def _steps_at_labels(detector: Detector, sequence: LabelledSequence, settings: EvaluationSettings) -> Iterator[Step]:
    """The time steps that label times end, each the last of `reset_every` steps from a fresh state."""
    recording, slice_us = sequence.open(), detector.input.slice_us
    anchor, labelled, _ = sequence.steps(slice_us)
    span = (settings.reset_every or 1) * slice_us
    for step in labelled.tolist():
        end = anchor + (step + 1) * slice_us
        *_, last = detector.detect(recording, start_us=end - span, end_us=end, reset_every=settings.reset_every)
        yield last
