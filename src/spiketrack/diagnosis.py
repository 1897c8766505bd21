"""Diagnosis: why a network finds nothing.

Station: after a validation whose mAP is zero. In come its detections and what training told, out go the likely causes
in words, each with the number that it follows from. Source: the failure that the guides of SpikeYoloV8-Tracker start
from, where all predictions lie at the origin (facts/promises.md).
"""

from __future__ import annotations

import numpy as np

from spiketrack.boxes import Boxes
from spiketrack.evaluation import EvaluationResult

_ZERO = 1e-4
_FEW_POSITIVES = 1.0
_LOW_SCORE = 0.05
_NARROW = 0.05  # share of the sensor's width


def zero_map_causes(result: EvaluationResult, positives: float) -> list[str]:
    """Sentences about a validation whose mAP50 is (next to) zero; none for any other.

    positives: mean number of positive locations in a training step.
    """
    if result.detection.ap50 > _ZERO:
        return []
    found = Boxes.concatenate([sequence.detections for sequence in result.sequences])
    causes = []
    if positives < _FEW_POSITIVES:
        causes.append(
            f"{positives:.2f} positive locations in a training step: labels and input do not meet; are the labels "
            "inside the crop, in pixels of this sensor, and of these times?"
        )
    if not len(found):
        causes.append("nothing is found at all: every score is below decoding.score; train longer, or lower it")
        return [f"mAP50 is zero; {cause}" for cause in causes]
    width = max(sequence.sequence.width for sequence in result.sequences)
    centres = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
    spread = float(np.std(centres, axis=0).max())
    if spread < _NARROW * width:
        x, y = np.mean(centres, axis=0)
        causes.append(
            f"all {len(found):,} detections lie within {spread:.1f} pixels (standard deviation) of ({x:.0f}, {y:.0f}): "
            "the network does not look at its input; is the input empty, or the learning rate too high?"
        )
    best = float(found.score.max())
    if best < _LOW_SCORE:
        causes.append(f"the best score is {best:.3f}: the class term has not been learnt; train longer")
    if not causes:
        causes.append(
            f"{len(found):,} detections, scores up to {best:.2f}, none overlaps a label of its class by half: boxes or "
            "classes are wrong; compare classes.txt with the labels, and look at the report"
        )
    return [f"mAP50 is zero; {cause}" for cause in causes]
