"""Keypoints: a spiking backbone learns the fifteen joints of pedestrians.

Station: beside detection, on simulated data sets with their annotations. Crops around labelled pedestrians (crops.py)
-> `KeypointTrainer` -> checkpoint -> `KeypointEstimator` -> scores (scores.py), pictures (view.py).
"""

from spiketrack.keypoints.crops import Crops, CropSettings, find_crops
from spiketrack.keypoints.estimator import KeypointEstimator
from spiketrack.keypoints.evaluation import KeypointScores, evaluate_crops, poses_of, score_keypoints
from spiketrack.keypoints.experiment import (
    KeypointExperiment,
    dump_keypoints,
    keypoint_split,
    keypoint_trainer,
    load_keypoints,
)
from spiketrack.keypoints.loss import KeypointLossSettings, decode_keypoints, keypoint_loss
from spiketrack.keypoints.network import KeypointMaps, KeypointModelSettings, KeypointNetwork
from spiketrack.keypoints.samples import CropBatches, CropInput
from spiketrack.keypoints.training import (
    KeypointEpoch,
    KeypointProgress,
    KeypointTrainer,
    KeypointTrainingSettings,
)

__all__ = [
    "CropBatches",
    "CropInput",
    "CropSettings",
    "Crops",
    "KeypointEpoch",
    "KeypointEstimator",
    "KeypointExperiment",
    "KeypointLossSettings",
    "KeypointMaps",
    "KeypointModelSettings",
    "KeypointNetwork",
    "KeypointProgress",
    "KeypointScores",
    "KeypointTrainer",
    "KeypointTrainingSettings",
    "decode_keypoints",
    "dump_keypoints",
    "evaluate_crops",
    "find_crops",
    "keypoint_loss",
    "keypoint_split",
    "keypoint_trainer",
    "load_keypoints",
    "poses_of",
    "score_keypoints",
]
