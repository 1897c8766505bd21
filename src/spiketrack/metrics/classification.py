"""Classification scores: accuracy, per class, confusion, receiver operating characteristic.

Station: true classes and probabilities go in, numbers come out. The likeliest class is the answer, the first one of
equals. A ROC curve follows Fawcett, "An introduction to ROC analysis", 2006: samples of equal score are one step, so
the area counts ties by half (Mann-Whitney).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spiketrack.errors import SettingsError, SpiketrackError

_Z95 = 1.959963984540054  # of the normal distribution, 95 % two-sided


@dataclass(frozen=True, eq=False)
class Roc:
    """False and true positive rates, (M,) each, from (0, 0) to (1, 1); area: under the curve."""

    false_positive: NDArray[np.float64]
    true_positive: NDArray[np.float64]
    area: float


@dataclass(frozen=True, eq=False)
class ClassResult:
    """One class against the rest; None where it is not defined. samples: of the class; answers: that named it."""

    samples: int
    answers: int
    precision: float | None
    recall: float | None
    f1: float | None
    roc: Roc | None


@dataclass(frozen=True, eq=False)
class ClassificationScores:
    """Scores of N samples and K classes.

    interval: of 95 % for the accuracy (Wilson). balanced_accuracy: mean recall over the classes that have samples.
    area: under the ROC curve; for two classes that of class 1, else the mean over classes (one against the rest);
    None where no class has it. confusion: (K, K) int64, row the truth, column the answer.
    """

    samples: int
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    area: float | None
    per_class: dict[str, ClassResult]
    confusion: NDArray[np.int64]


def score_classification(
    class_ids: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str]
) -> ClassificationScores:
    """Scores of class_ids (N,), the truth, against probabilities (N, K).

    Raises SpiketrackError where there is no sample, shapes do not fit, a class id is not in the list or a probability
    is no number.
    """
    truth, chances = _checked(class_ids, probabilities, class_names)
    k = len(class_names)
    answers = chances.argmax(1)
    confusion = np.bincount(truth * k + answers, minlength=k * k).reshape(k, k).astype(np.int64)
    per_class = {}
    for i, name in enumerate(class_names):
        right, samples, named = int(confusion[i, i]), int(confusion[i].sum()), int(confusion[:, i].sum())
        per_class[name] = ClassResult(
            samples,
            named,
            right / named if named else None,
            right / samples if samples else None,
            2 * right / (samples + named) if samples + named else None,
            roc(truth == i, chances[:, i]),
        )
    recalls = [result.recall for result in per_class.values() if result.recall is not None]
    chosen = list(per_class.values())[1:] if k == 2 else per_class.values()
    areas = [result.roc.area for result in chosen if result.roc is not None]
    right = int(np.trace(confusion))
    return ClassificationScores(
        samples=len(truth),
        accuracy=right / len(truth),
        interval=wilson(right, len(truth)),
        balanced_accuracy=math.fsum(recalls) / len(recalls),
        area=math.fsum(areas) / len(areas) if areas else None,
        per_class=per_class,
        confusion=confusion,
    )


def roc(positive: ArrayLike, scores: ArrayLike) -> Roc | None:
    """The curve over all thresholds, highest score first. None without a positive or without a negative sample.

    positive: (N,) bool. scores: (N,), higher is likelier positive.
    """
    positive, scores = np.asarray(positive, bool), np.asarray(scores, np.float64)
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of each run of equal scores
    hits = np.concatenate([[0], np.cumsum(positive[order])[last]])
    false = np.concatenate([[0], np.cumsum(~positive[order])[last]])
    # in whole numbers, so that a perfect order has exactly 1: trapezoids of twice the area
    twice = int(np.sum(np.diff(false) * (hits[1:] + hits[:-1])))
    return Roc(false / negatives, hits / positives, twice / (2 * positives * negatives))


def wilson(right: int, total: int) -> tuple[float, float]:
    """The interval of 95 % for a share, after Wilson (1927): it never leaves 0 .. 1, also for few samples."""
    share, z2 = right / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _checked(
    class_ids: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth, chances = np.asarray(class_ids, np.int64), np.asarray(probabilities, np.float64)
    if not class_names or len(set(class_names)) < len(class_names):
        raise SettingsError(f"class names must be distinct and at least one, got {list(class_names)}")
    if not len(truth):
        raise SpiketrackError("classification: no sample to score; give at least one")
    if chances.shape != (len(truth), len(class_names)):
        raise SpiketrackError(
            f"classification: expected probabilities of shape ({len(truth)}, {len(class_names)}), got {chances.shape}"
        )
    if truth.min() < 0 or truth.max() >= len(class_names):
        i = int(np.argmax((truth < 0) | (truth >= len(class_names))))
        raise SpiketrackError(f"classification: sample {i} has class id {truth[i]}, the list has {len(class_names)}")
    if not np.isfinite(chances).all():
        i = int(np.argmax(~np.isfinite(chances).all(1)))
        raise SpiketrackError(f"classification: the probabilities of sample {i} are no numbers: {chances[i]}")
    return truth, chances
