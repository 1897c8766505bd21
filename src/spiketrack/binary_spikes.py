"""Binary spikes: an evaluation with the unrolled network, beside that of the integer one.

Station: of `spiketrack evaluate --spikes binary`. In comes an evaluation of a SpikeYOLO as trained, out comes one of
the same sequences in which only 0 and 1 travel between layers, and how many detections are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from spiketrack.deploy import fuse, unroll
from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.errors import SettingsError
from spiketrack.evaluation import EvaluationResult, EvaluationSettings, evaluate
from spiketrack.pipeline import Detector
from spiketrack.tracking import TrackerSettings

OnSequence = Callable[[str, int, int, str], None]


def with_binary_spikes(
    detector: Detector,
    trained: EvaluationResult,
    settings: EvaluationSettings,
    tracking: TrackerSettings,
    on_sequence: OnSequence = lambda what, done, total, name: None,
) -> tuple[EvaluationResult, dict[str, str]]:
    """Scores of the unrolled network on the sequences of `trained`, and in words how the integer networks compare.

    on_sequence(network, done, total, name) is called after each sequence. Raises SettingsError for a network of other
    neurons than I-LIF.
    """
    if not isinstance(detector.model, SpikeYOLO):
        raise SettingsError(f"{detector.name}: its neurons send binary spikes already; leave out --spikes binary")
    if detector.model.settings.neuron.activation != "spikes":
        raise SettingsError(f"{detector.name}: its activation is relu, there are no spikes; leave out --spikes binary")
    sequences = [found.sequence for found in trained.sequences]

    def scores_of(what: str, model: SpikeYOLO) -> EvaluationResult:
        changed = replace(detector, model=model)
        return evaluate(changed, sequences, settings, tracking, lambda *done: on_sequence(what, *done))

    integer = scores_of("integer spikes", fuse(detector.model, torch.float64))
    binary = scores_of("binary spikes", unroll(detector.model))
    return binary, {
        "mAP": f"binary spikes {binary.detection.map:.3f}, integer spikes {integer.detection.map:.3f}; "
        f"as trained, in float32, {trained.detection.map:.3f}",
        "equal detections": f"{equal_share(binary, integer)} with integer spikes; "
        f"{equal_share(binary, trained)} as trained, in float32",
    }


def equal_share(ours: EvaluationResult, expected: EvaluationResult) -> str:
    """How many detections agree in time, class, and to 1e-5 in score and corners, of how many."""
    equal = total = 0
    for a, b in zip(ours.sequences, expected.sequences, strict=True):
        for t in np.union1d(a.detections.t, b.detections.t).tolist():
            one, other = a.detections.at(t), b.detections.at(t)
            total += max(len(one), len(other))
            if len(one) == len(other):
                corners = np.isclose(one.xyxy, other.xyxy, rtol=1e-5, atol=1e-5).all(axis=1)
                scores = np.isclose(one.score, other.score, rtol=1e-5, atol=1e-7)
                equal += int(np.sum(corners & scores & (one.class_id == other.class_id)))
    return f"{equal:,} of {total:,}"
