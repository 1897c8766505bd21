"""Classification experiment: one typed tree of settings, one YAML file.

Station: in comes a YAML file (read by settings.py), out go a training run or the answers on a split.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.classification.classifier import Classifier, ClassifierSettings
from spiketrack.classification.evaluation import Answers, classify
from spiketrack.classification.training import ClassifierTrainer, ClassifierTrainingSettings
from spiketrack.datasets.classified import (
    SampleAugmentSettings,
    SampleBatches,
    SampleEvents,
    SampleInput,
)
from spiketrack.datasets.splits import find_classified, find_training, find_validation
from spiketrack.errors import SettingsError
from spiketrack.settings import load_settings


class ClassifiedDataSettings(BaseModel):
    """Where the samples are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path = Field(
        description="folder of N-MNIST (Train/<digit>/*.bin) or N-CARS (n-cars_train/cars/*_td.dat), or of a data set "
        "with boxes (GEN1, eTraM), whose boxes are the samples"
    )
    validation: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of each class of the train split that is held out for validation; with boxes, anything but "
        "0 takes the split val",
    )
    keep: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        {}, description="share of the train samples that is used, by class name, as {car: 0.24}; all of the others"
    )
    cache_mb: int = Field(2000, ge=0, description="memory for events, kept once read; 0 reads files each time")
    augment: SampleAugmentSettings = Field(SampleAugmentSettings(), description="augmentation of training samples")


class ClassificationExperiment(BaseModel):
    """Everything that a repeatable result needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    seed: int = Field(0, ge=0, description="of the weights, the order of samples and the augmentation")
    data: ClassifiedDataSettings = Field(description="the data set")
    input: SampleInput = Field(SampleInput(), description="what the network sees")
    model: ClassifierSettings = Field(ClassifierSettings(), description="which network")
    training: ClassifierTrainingSettings = Field(ClassifierTrainingSettings(), description="how to train")


def load_classification(path: Path | None, overrides: list[str] | None = None) -> ClassificationExperiment:
    """Read an experiment file; see `spiketrack.settings.load_settings`."""
    return load_settings(ClassificationExperiment, path, overrides)


def dump_classification(experiment: ClassificationExperiment) -> str:
    """The whole tree as YAML, defaults included."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)


def classifier_trainer(experiment: ClassificationExperiment, run_dir: Path) -> ClassifierTrainer:
    """The training run of an experiment, at its beginning. Seeds torch, then builds the network."""
    data, training = experiment.data, experiment.training
    train, class_names = find_training(data.root, data.validation, data.keep)
    validation = find_validation(data.root, data.validation)
    torch.manual_seed(experiment.seed)
    classifier = Classifier.build(experiment.model, experiment.input, class_names, training.reset == "never")
    batches = SampleBatches(
        train,
        experiment.input,
        data.augment,
        batch_size=training.batch_size,
        seed=experiment.seed,
        events=SampleEvents(data.cache_mb),
    )
    return ClassifierTrainer(classifier, batches, validation, training, run_dir)


def classify_split(
    experiment: ClassificationExperiment,
    weights: Path,
    split: str,
    on_batch: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> tuple[Classifier, Answers]:
    """A checkpoint and its answers on "train", "test", or the held-out "validation" samples of train.

    Raises SettingsError where the checkpoint was trained on other classes.
    """
    classifier = Classifier.load(weights, experiment.training.device)
    data = experiment.data
    found, class_names = find_classified(data.root, "train" if split == "validation" else split)
    if split == "validation":
        found = find_validation(data.root, data.validation)
        if not found:
            raise SettingsError("data.validation is 0: no samples were held out; evaluate --split test")
    if classifier.class_names != class_names:
        raise SettingsError(
            f"{weights}: trained on the classes {', '.join(classifier.class_names)}; "
            f"{experiment.data.root} has {', '.join(class_names)}"
        )
    events = SampleEvents(0)
    return classifier, classify(classifier, found, events, experiment.training.batch_size, on_batch)
