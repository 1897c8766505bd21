"""Scores: how near estimated joints come to the true ones.

Station: in come joints of the same people, estimated and true, out go PCK and OKS average precision. Only joints in
sight count. PCK@a is the share of them within a times the length of the torso (neck to pelvis), or of another length.
OKS is COCO's object keypoint similarity,

    OKS = mean over the joints in sight of exp(-d^2 / (2 s^2 k^2)), k = 2 sigma, s^2 = 0.53 * area of the whole box

0.53 being the share of a box that COCO's people fill on average, where only a box is known. Average precision is that
of COCO's evaluation (thresholds 0.50, 0.55, .. 0.95; 101 recalls), images being recordings at label times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.keypoints.joints import MIRRORED, NECK, PELVIS, SIGMAS
from spiketrack.metrics.greedy import greedy_labels, interpolated_precision

BOX_SHARE = 0.53
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, eq=False)
class Poses:
    """People with their true joints.

    keypoints: (N, 15, 3) sensor pixels and whether in sight. whole: (N, 4) xyxy of the body, the part out of sight too.
    image: (N,) number of the recording and time that a person stands in.
    """

    keypoints: NDArray[np.floating]
    whole: NDArray[np.floating]
    image: NDArray[np.int64]

    @property
    def seen(self) -> NDArray[np.bool_]:
        """(N, 15) whether a joint is in sight."""
        return self.keypoints[..., 2] > 0

    @property
    def torso(self) -> NDArray[np.float64]:
        """(N,) pixels from neck to pelvis."""
        way = self.keypoints[:, NECK, :2].astype(np.float64) - self.keypoints[:, PELVIS, :2]
        return np.hypot(way[:, 0], way[:, 1])

    @property
    def height(self) -> NDArray[np.float64]:
        """(N,) height of the whole box in pixels."""
        return self.whole[:, 3].astype(np.float64) - self.whole[:, 1]


def distances(estimated: NDArray[np.floating], poses: Poses) -> NDArray[np.float64]:
    """(N, 15) pixels between estimated joints (N, 15, 2) and true ones."""
    way = estimated.astype(np.float64) - poses.keypoints[..., :2]
    return np.hypot(way[..., 0], way[..., 1])


def pck(
    away: NDArray[np.floating], seen: NDArray[np.bool_], length: NDArray[np.floating], share: float
) -> float | None:
    """The share of joints in sight (N, K) that are at most `share` of their person's length (N,) away; None of none."""
    right = away <= share * length[:, None]
    return float(right[seen].mean()) if seen.any() else None


def pck_of_either_side(estimated: NDArray[np.floating], poses: Poses, share: float) -> float | None:
    """`pck` of the torso where left and right of a whole person count as exchanged if more joints are right then.

    It tells how much of what is missing is taking a back for a front.
    """
    reach = share * poses.torso[:, None]
    right = [(distances(pose, poses) <= reach) & poses.seen for pose in (estimated, estimated[:, list(MIRRORED)])]
    best = np.maximum(*(hits.sum(1) for hits in right)).sum()
    return float(best / poses.seen.sum()) if poses.seen.any() else None


def pck_interval(
    away: NDArray[np.floating],
    seen: NDArray[np.bool_],
    length: NDArray[np.floating],
    share: float,
    person: NDArray[np.int64],
) -> tuple[float, float]:
    """A 95 % interval of `pck` where other people had been met: percentiles over 1,000 draws of people (bootstrap).

    person: (N,) who is on a crop, 0 .. P - 1; crops of one person are alike and count as one.
    """
    right = ((away <= share * length[:, None]) & seen).sum(1)
    people = int(person.max()) + 1
    counts = np.stack([np.bincount(person, right, people), np.bincount(person, seen.sum(1), people)])  # (2, P)
    drawn = np.random.default_rng(0).integers(people, size=(1000, people))
    rights, all_of_them = counts[:, drawn].sum(2)  # (1000,)
    low, high = np.percentile(rights / np.maximum(all_of_them, 1), [2.5, 97.5])
    return float(low), float(high)


def object_keypoint_similarity(
    estimated: NDArray[np.floating], keypoints: NDArray[np.floating], whole: NDArray[np.floating]
) -> NDArray[np.float64]:
    """OKS of each estimated pose (D, K, 2) with each true one (L, K, 3) in boxes (L, 4): (D, L); 0 without joints."""
    way = estimated[:, None].astype(np.float64) - keypoints[None, :, :, :2]  # (D, L, K, 2)
    sides = whole[:, 2:].astype(np.float64) - whole[:, :2]
    squared_size = np.maximum(BOX_SHARE * sides.prod(axis=1), np.finfo(np.float64).tiny)
    alike = np.exp(-(way**2).sum(3) / (2 * squared_size[None, :, None] * (2 * SIGMAS) ** 2))
    seen = keypoints[..., 2] > 0
    return (alike * seen).sum(2) / np.maximum(seen.sum(1), 1)


def oks_average_precision(
    estimated: NDArray[np.floating], score: NDArray[np.floating], poses: Poses
) -> NDArray[np.float64]:
    """(10,) average precision at each of THRESHOLDS; one estimate (N, K, 2) with a score (N,) stands for each person,
    yet may be matched to another of the same image, as a detection would. At least one person."""
    hits = np.zeros((len(THRESHOLDS), len(estimated)), bool)
    for members in _by_image(poses.image):
        order = members[np.argsort(-score[members], kind="stable")]
        alike = object_keypoint_similarity(estimated[order], poses.keypoints[members], poses.whole[members])
        for row, threshold in zip(hits, THRESHOLDS, strict=True):
            row[order] = greedy_labels(alike, float(threshold)) >= 0
    return np.array([interpolated_precision(score, hit, len(estimated)) for hit in hits])


def _by_image(image: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
    """The people of each image."""
    order = np.argsort(image, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(image[order])) + 1)
