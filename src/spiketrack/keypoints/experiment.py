"""Keypoint experiment: one typed tree of settings, one YAML file.

Station: in comes a YAML file (read by settings.py), out go a training run or the scores on a split.
"""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.datasets.classified import SampleAugmentSettings
from spiketrack.detector.shipped import shipped_weights
from spiketrack.keypoints.crops import Crops, CropSettings, Progress, find_crops
from spiketrack.keypoints.estimator import KeypointEstimator
from spiketrack.keypoints.evaluation import mean_pose_of
from spiketrack.keypoints.loss import KeypointLossSettings
from spiketrack.keypoints.network import KeypointModelSettings
from spiketrack.keypoints.samples import CropBatches, CropInput
from spiketrack.keypoints.training import KeypointTrainer, KeypointTrainingSettings
from spiketrack.settings import load_settings


class KeypointDataSettings(BaseModel):
    """Where the pedestrians are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path = Field(description="data set of `spiketrack simulate`, with its annotations")
    validation: str | None = Field("val", description="split that chooses the best epoch; null: none")
    every: int = Field(2, ge=1, description="every so manieth label time of a training recording; they are much alike")
    crops: CropSettings = Field(CropSettings(), description="which pedestrians, and how much around them")
    cache: Path | None = Field(None, description="folder that keeps the crops; null: beside the run, in `crops`")
    augment: SampleAugmentSettings = Field(
        SampleAugmentSettings(shift=0.05, rotate=8, zoom=0.12, flip=0.5, drop=0.2),
        description="augmentation of training crops; a mirror image swaps left and right",
    )


class KeypointExperiment(BaseModel):
    """Everything that a repeatable result needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    seed: int = Field(0, ge=0, description="of the weights, the order of crops and the augmentation")
    data: KeypointDataSettings = Field(description="the data set")
    input: CropInput = Field(CropInput(), description="what the network sees")
    model: KeypointModelSettings = Field(KeypointModelSettings(), description="which network")
    loss: KeypointLossSettings = Field(KeypointLossSettings(), description="targets and weights of the loss")
    training: KeypointTrainingSettings = Field(KeypointTrainingSettings(), description="how to train")


def load_keypoints(path: Path | None, overrides: list[str] | None = None) -> KeypointExperiment:
    """Read an experiment file; see `spiketrack.settings.load_settings`."""
    return load_settings(KeypointExperiment, path, overrides)


def dump_keypoints(experiment: KeypointExperiment) -> str:
    """The whole tree as YAML, defaults included."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)


def keypoint_trainer(
    experiment: KeypointExperiment, run_dir: Path, progress: Progress = lambda done, total, name: None
) -> KeypointTrainer:
    """The training run of an experiment, at its beginning. Cuts the crops, seeds torch, then builds the network.

    progress: recordings that were cut.
    """
    data = experiment.data
    train = _crops(experiment, "train", run_dir, progress, data.every)
    validation = _crops(experiment, data.validation, run_dir, progress) if data.validation else None
    torch.manual_seed(experiment.seed)
    estimator = KeypointEstimator.build(
        experiment.model, experiment.input, data.crops, experiment.loss, mean_pose_of(train)
    )
    if start := experiment.training.start:
        estimator.model.start_from(shipped_weights() if start == "shipped" else Path(start))
    batches = CropBatches(
        train,
        experiment.input,
        data.augment,
        batch_size=experiment.training.batch_size,
        seed=experiment.seed,
    )
    return KeypointTrainer(estimator, batches, validation, experiment.training, run_dir)


def keypoint_split(
    experiment: KeypointExperiment,
    weights: Path,
    split: str,
    progress: Progress = lambda done, total, name: None,
) -> tuple[KeypointEstimator, Crops]:
    """A checkpoint, and the crops of a split in the way that it was trained on."""
    estimator = KeypointEstimator.load(weights, experiment.training.device)
    data = experiment.data.model_copy(update={"crops": estimator.crops})
    as_trained = experiment.model_copy(update={"input": estimator.input, "data": data})
    return estimator, _crops(as_trained, split, weights.parent, progress)


def _crops(experiment: KeypointExperiment, split: str, run_dir: Path, progress: Progress, every: int = 1) -> Crops:
    data = experiment.data
    return find_crops(
        data.root,
        split,
        data.crops,
        duration_us=experiment.input.duration_us,
        aspect=experiment.input.aspect,
        every=every,
        cache=data.cache or run_dir / "crops",
        progress=progress,
    )
