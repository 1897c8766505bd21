"""Evaluation of keypoints: the joints that a network finds in crops, and what they are worth.

Station: in come an estimator and crops, out go scores (scores.py) of all joints, by joint and by size, beside those of
the mean pose: what a box alone tells, without looking at the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketrack.keypoints.crops import Crops, heights
from spiketrack.keypoints.estimator import KeypointEstimator
from spiketrack.keypoints.joints import JOINTS, SIGMAS
from spiketrack.keypoints.scores import (
    BOX_SHARE,
    Poses,
    distances,
    oks_average_precision,
    pck,
    pck_interval,
    pck_of_either_side,
)

HEIGHTS = (48, 64, 96)
"""Pixels: bounds of the sizes that are told apart, by the height of a label's box."""

PCK_SHARES = (0.1, 0.2, 0.5)


@dataclass(frozen=True, eq=False)
class KeypointScores:
    """What joints of N people are worth.

    pck: by share of the torso; pck_interval: 95 % of PCK@0.2, had other people been met. pck_of_height: PCK@0.1 of the
    height of the whole box. pck_either_side: PCK@0.2 where left and right of a person may be exchanged. oks_ap: mean
    over thresholds; oks_ap50, oks_ap75. mean_pose: as pck, of the mean pose in the label's box. by_joint, by_height:
    PCK@0.2 and the number of joints, or people. people, joints: how many were scored, tracks: different people.
    """

    pck: dict[float, float]
    pck_interval: tuple[float, float]
    pck_of_height: float
    pck_either_side: float
    oks_ap: float
    oks_ap50: float
    oks_ap75: float
    mean_pose: dict[float, float]
    mean_pose_oks_ap: float
    by_joint: dict[str, tuple[float | None, int]]
    by_height: dict[str, tuple[float | None, int]]
    people: int
    joints: int
    tracks: int

    def as_json(self) -> dict[str, Any]:
        """For metrics.json, with the rules of the scores."""
        return {
            "pck_torso": {f"{share:g}": value for share, value in self.pck.items()},
            "pck_torso_0.2_interval": list(self.pck_interval),
            "pck_0.1_height": self.pck_of_height,
            "pck_torso_0.2_either_side": self.pck_either_side,
            "oks_ap": self.oks_ap,
            "oks_ap50": self.oks_ap50,
            "oks_ap75": self.oks_ap75,
            "mean_pose": {
                "pck_torso": {f"{share:g}": value for share, value in self.mean_pose.items()},
                "oks_ap": self.mean_pose_oks_ap,
            },
            "by_joint": {k: {"pck_torso_0.2": value, "joints": count} for k, (value, count) in self.by_joint.items()},
            "by_height": {k: {"pck_torso_0.2": value, "people": count} for k, (value, count) in self.by_height.items()},
            "people": self.people,
            "joints": self.joints,
            "tracks": self.tracks,
            "rules": {
                "torso": "pixels from neck to pelvis",
                "joints": "in sight",
                "boxes": "labels",
                "sigmas": dict(zip(JOINTS, SIGMAS.tolist(), strict=True)),
                "squared_size": f"{BOX_SHARE} * area of the whole box",
            },
        }


def poses_of(crops: Crops) -> Poses:
    """The true joints of crops."""
    rows = crops.rows
    moments = np.stack([rows["recording"].astype(np.int64), rows["t"]], axis=1)
    image = np.unique(moments, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return Poses(rows["keypoints"], rows["whole"], image)


def mean_pose_of(crops: Crops) -> NDArray[np.float32]:
    """(15, 2) the mean place of each joint in sight in the boxes of labels, 0 .. 1 from their corner; 0.5 of none."""
    box, joints = crops.rows["box"].astype(np.float64), crops.rows["keypoints"]
    place = (joints[..., :2] - box[:, None, :2]) / (box[:, None, 2:] - box[:, None, :2])
    seen = joints[..., 2:] > 0
    total, count = (place * seen).sum(0), seen.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), 0.5).astype(np.float32)


def in_boxes(pose: NDArray[np.floating], boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """A pose (15, 2) from 0 to 1 laid into boxes (N, 4): (N, 15, 2)."""
    corner, sides = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    return (corner + pose * sides).astype(np.float32)


def score_keypoints(
    found: NDArray[np.floating], score: NDArray[np.floating], crops: Crops, mean_pose: NDArray[np.floating]
) -> KeypointScores:
    """Scores of joints found (N, 15, 2) with scores (N, 15) in crops, at least one."""
    poses = poses_of(crops)
    away, seen, torso = distances(found, poses), poses.seen, poses.torso
    plain = in_boxes(mean_pose, crops.rows["box"])
    precision = oks_average_precision(found, score.mean(1), poses)
    # the mean pose has no opinion of its own: larger people first
    plain_precision = oks_average_precision(plain, heights(crops), poses)
    bounds = [0, *HEIGHTS, np.inf]
    person = np.unique(crops.rows[["recording", "track_id"]], return_inverse=True)[1].astype(np.int64)
    sizes = {}
    for low, high in pairwise(bounds):
        some = (heights(crops) >= low) & (heights(crops) < high)
        name = f"{low:g} px and more" if np.isinf(high) else f"{low:g} - {high:g} px"
        sizes[name] = (pck(away[some], seen[some], torso[some], 0.2), int(some.sum()))
    return KeypointScores(
        {share: pck(away, seen, torso, share) or 0.0 for share in PCK_SHARES},
        pck_interval(away, seen, torso, 0.2, person),
        pck(away, seen, poses.height, 0.1) or 0.0,
        pck_of_either_side(found, poses, 0.2) or 0.0,
        float(precision.mean()),
        float(precision[0]),
        float(precision[5]),
        {share: pck(distances(plain, poses), seen, torso, share) or 0.0 for share in PCK_SHARES},
        float(plain_precision.mean()),
        {name: (pck(away[:, [k]], seen[:, [k]], torso, 0.2), int(seen[:, k].sum())) for k, name in enumerate(JOINTS)},
        sizes,
        len(crops),
        int(seen.sum()),
        int(person.max()) + 1,
    )


def evaluate_crops(estimator: KeypointEstimator, crops: Crops) -> tuple[KeypointScores, NDArray, NDArray]:
    """Scores, joints (N, 15, 2) in sensor pixels and their scores (N, 15) of an estimator on crops."""
    found, score = estimator.joints(crops)
    return score_keypoints(found, score, crops, estimator.mean_pose), found, score
