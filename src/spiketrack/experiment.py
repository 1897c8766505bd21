"""Experiment: one typed tree of settings, one YAML file.

Station: in comes a YAML file, out goes a frozen tree of the settings that stand beside the things they configure.
What `dump_experiment` writes reproduces the run. Reading files and overrides is in settings.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.datasets.batches import Share
from spiketrack.datasets.disk_cache import DiskCache, OnBuild
from spiketrack.datasets.etram import (
    LabelledSequence,
    find_sequences,
    grouped_classes,
    in_groups,
    read_class_names,
)
from spiketrack.datasets.sequences import DataSettings, SampleChoice, TrainingSamples
from spiketrack.datasets.streams import StreamSamples
from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.families import DEFAULT_FAMILY, family_named
from spiketrack.detector.spikeyolo import ModelSettings
from spiketrack.detector.spikeyolo_tracker import TrackerModelSettings
from spiketrack.detector.ssd import SSDSettings
from spiketrack.detector.ssd_decode import SSDDecodeSettings
from spiketrack.detector.ssd_loss import SSDLossSettings
from spiketrack.detector.track_loss import TrackLossSettings
from spiketrack.distributed import ALONE, Ranks
from spiketrack.errors import SettingsError
from spiketrack.evaluation import EvaluationResult, EvaluationSettings, evaluate
from spiketrack.pipeline import Detector
from spiketrack.representations import InputSettings
from spiketrack.settings import load_settings
from spiketrack.streaming import evaluate_streaming
from spiketrack.tracking import AnyTrackerSettings, ByteTrackSettings
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
    tracking: AnyTrackerSettings = Field(ByteTrackSettings(), description="from detections to tracks")


class TrackerTrainingSettings(TrainingSettings):
    """How to train a SpikeYOLOTracker."""

    loss: TrackLossSettings = Field(TrackLossSettings(), description="gains and forms of the loss terms")


class TrackerExperiment(Experiment):
    """An experiment with a SpikeYOLOTracker."""

    model: TrackerModelSettings = Field(TrackerModelSettings(), description="which network")
    training: TrackerTrainingSettings = Field(TrackerTrainingSettings(), description="how to train")


class SSDTrainingSettings(TrainingSettings):
    """How to train an SSD."""

    loss: SSDLossSettings = Field(  # ty: ignore[incompatible-attribute-override]: keys of its own
        SSDLossSettings(), description="gains and forms of the loss terms"
    )


class SSDExperiment(Experiment):
    """An experiment with an SSD on ST-VGG or ResCat-SNN."""

    model: SSDSettings = Field(  # ty: ignore[incompatible-attribute-override]: keys of its own
        SSDSettings(), description="which network"
    )
    decoding: SSDDecodeSettings = Field(  # ty: ignore[incompatible-attribute-override]: keys of its own
        SSDDecodeSettings(), description="from predictions to detections"
    )
    training: SSDTrainingSettings = Field(SSDTrainingSettings(), description="how to train")


EXPERIMENTS: dict[str, type[Experiment]] = {
    "SpikeYOLO": Experiment,
    "SpikeYOLOTracker": TrackerExperiment,
    "SSD": SSDExperiment,
}


def load_experiment(path: Path | str, overrides: list[str] | None = None) -> Experiment:
    """Read an experiment file, whose `model.family` says which keys there are; see `settings.load_settings`."""
    return load_settings(Experiment, Path(path), overrides, experiment_class)


def experiment_class(tree: dict[str, Any]) -> type[Experiment]:
    """The kind of experiment that a tree of settings describes. Raises SettingsError for an unknown family."""
    model = tree.get("model")
    name = model.get("family", DEFAULT_FAMILY) if isinstance(model, dict) else DEFAULT_FAMILY
    family_named(name)
    return EXPERIMENTS[name]


def trainer_of(
    experiment: Experiment,
    run_dir: Path,
    ranks: Ranks = ALONE,
    on_build: OnBuild = lambda done, total, name: None,
) -> Trainer:
    """The training run of an experiment, at its beginning. Seeds torch, then builds the network.

    ranks: of several processes this one takes its share of every batch. With data.cache_dir all recordings are decoded
    into it here, and on_build is told how that goes. Raises SettingsError where the batch size is still to be found
    (`batch_size.with_found_batch_size`).
    """
    data, training = experiment.data, experiment.training
    if training.batch_memory is not None:
        raise SettingsError(
            "training.batch_memory is for `spiketrack train`, which finds the batch size once for a whole run; "
            "give training.batch_size here and leave it null"
        )
    class_names, sequences = split_of(data, data.train_split)
    _, validation = split_of(data, data.val_split)
    if data.cache_dir is not None:
        sequences, validation = _cached(data.cache_dir, (sequences, validation), ranks, on_build)
    torch.manual_seed(experiment.seed)
    detector = Detector.build(experiment.model, experiment.input, experiment.decoding, class_names)
    loader = StreamSamples if training.state == "carried" else TrainingSamples
    samples = loader(
        sequences,
        experiment.input,
        data.augment,
        steps=training.steps,
        batch_size=training.batch_size,
        seed=experiment.seed,
        cache_mb=data.cache_bytes // 1_000_000 // ranks.local_world,
        balance=data.balance,
        choice=SampleChoice.of(data),
        share=Share(ranks.rank, ranks.world),
        uncounted=training.encode_on == "device",
    )
    return Trainer(detector, samples, validation, training, experiment.evaluation, run_dir, ranks)


def _cached(
    folder: Path, splits: Sequence[list[LabelledSequence]], ranks: Ranks, on_build: OnBuild
) -> list[list[LabelledSequence]]:
    """The same sequences, whose events are read from a folder, where they are decoded to if need be.

    Processes share that work; each sees to all of it, as machines may have folders of their own.
    """
    cache = DiskCache(folder)
    sources = [sequence.source() for sequences in splits for sequence in sequences]
    cache.fill(sources, len(sources) * ranks.rank // ranks.world, on_build)
    return [[replace(sequence, cache=cache) for sequence in sequences] for sequences in splits]


def split_of(data: DataSettings, split: str) -> tuple[tuple[str, ...], list[LabelledSequence]]:
    """The classes to learn and the labelled sequences of a split of the data."""
    class_names = read_class_names(data.root)
    sequences = find_sequences(data.root, split, class_names, data.filters, data.labels_dir)
    if data.groups is None:
        return class_names, sequences
    group_of = grouped_classes(class_names, data.groups)
    return tuple(data.groups), [in_groups(sequence, group_of) for sequence in sequences]


def evaluate_split(
    experiment: Experiment,
    weights: Path,
    split: str,
    on_sequence: Callable[[int, int, str], None] = lambda done, total, name: None,
    streaming: bool = False,
) -> EvaluationResult:
    """Scores of a checkpoint on one split of the experiment's data, by the experiment's rules.

    streaming: steps come one at a time, latency is measured, and what was known in time is scored.

    Raises SettingsError where the checkpoint was trained on other classes.
    """
    detector = Detector.load(weights, experiment.training.device)
    class_names, sequences = split_of(experiment.data, split)
    if detector.class_names != class_names:
        raise SettingsError(
            f"{weights}: trained on the classes {', '.join(detector.class_names)}; "
            f"{experiment.data.root} has {', '.join(class_names)}"
        )
    run = evaluate_streaming if streaming else evaluate
    return run(detector.fused(), sequences, experiment.evaluation, experiment.tracking, on_sequence)


def dump_experiment(experiment: Experiment) -> str:
    """The whole tree as YAML, defaults included."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)
