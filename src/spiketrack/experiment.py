"""Experiment: one typed tree of settings, one YAML file.

Station: in comes a YAML file, out goes a frozen tree of the settings that stand beside the things they configure.
What `dump_experiment` writes reproduces the run. Reading files and overrides is in settings.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.datasets.etram import find_sequences, read_class_names
from spiketrack.datasets.sequences import DataSettings, TrainingSamples
from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.spikeyolo import ModelSettings
from spiketrack.errors import SettingsError
from spiketrack.evaluation import EvaluationResult, EvaluationSettings, evaluate
from spiketrack.pipeline import Detector
from spiketrack.representations import InputSettings
from spiketrack.settings import load_settings
from spiketrack.tracking import ByteTrackSettings
from spiketrack.training import Trainer, TrainingSettings


class Experiment(BaseModel):
    """Everything that a repeatable result needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    seed: int = Field(0, ge=0, description="of the weights, the order of samples and the augmentation")
    data: DataSettings = Field(description="the data set and its splits")
    input: InputSettings = Field(InputSettings(), description="what the network sees")
    model: ModelSettings = Field(ModelSettings(), description="which network")
    decoding: DecodeSettings = Field(DecodeSettings(), description="from predictions to detections")
    training: TrainingSettings = Field(TrainingSettings(), description="how to train")
    evaluation: EvaluationSettings = Field(EvaluationSettings(), description="by which rules to count")
    tracking: ByteTrackSettings = Field(ByteTrackSettings(), description="from detections to tracks")


def load_experiment(path: Path | str, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file; see `spiketrack.settings.load_settings`."""
    return load_settings(Experiment, Path(path), overrides)


def trainer_of(experiment: Experiment, run_dir: Path) -> Trainer:
    """The training run of an experiment, at its beginning. Seeds torch, then builds the network."""
    data, training = experiment.data, experiment.training
    class_names = read_class_names(data.root)
    sequences = find_sequences(data.root, data.train_split, class_names, data.filters)
    validation = find_sequences(data.root, data.val_split, class_names, data.filters)
    torch.manual_seed(experiment.seed)
    detector = Detector.build(experiment.model, experiment.input, experiment.decoding, class_names)
    samples = TrainingSamples(
        sequences,
        experiment.input,
        data.augment,
        steps=training.steps,
        batch_size=training.batch_size,
        seed=experiment.seed,
        cache_mb=data.cache_mb,
        balance=data.balance,
    )
    return Trainer(detector, samples, validation, training, experiment.evaluation, run_dir)


def evaluate_split(
    experiment: Experiment,
    weights: Path,
    split: str,
    on_sequence: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> EvaluationResult:
    """Scores of a checkpoint on one split of the experiment's data, by the experiment's rules.

    Raises SettingsError where the checkpoint was trained on other classes.
    """
    detector = Detector.load(weights, experiment.training.device)
    class_names = read_class_names(experiment.data.root)
    if detector.class_names != class_names:
        raise SettingsError(
            f"{weights}: trained on the classes {', '.join(detector.class_names)}; "
            f"{experiment.data.root} has {', '.join(class_names)}"
        )
    sequences = find_sequences(experiment.data.root, split, class_names, experiment.data.filters)
    return evaluate(detector, sequences, experiment.evaluation, experiment.tracking, on_sequence)


def dump_experiment(experiment: Experiment) -> str:
    """The whole tree as YAML, defaults included."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)
