"""Experiment: one typed tree of settings, one YAML file.

Station: in comes a YAML file, out goes a frozen tree of the settings that stand beside the things they configure.
There are no includes, no interpolation and no hidden defaults at run time: what `dump_experiment` writes reproduces
the run. A key that is not known is an error that names the nearest one.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spiketrack.datasets.etram import find_sequences, read_class_names
from spiketrack.datasets.sequences import DataSettings, TrainingSamples
from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.spikeyolo import ModelSettings
from spiketrack.errors import SettingsError
from spiketrack.evaluation import EvaluationResult, EvaluationSettings, evaluate
from spiketrack.pipeline import Detector
from spiketrack.representations import InputSettings
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
    """Read an experiment file; overrides are `section.key=value` with the value in YAML.

    Raises SettingsError that names the file, the key and, for an unknown key, the nearest known one.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: not a readable YAML file ({_one_line(error)})") from error
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: expected keys such as `name:` and `data:`, got {type(tree).__name__}")
    for override in overrides or []:
        _apply(tree, override)
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(f"{path}: {'; '.join(_fault(fault) for fault in error.errors())}") from error


def trainer_of(experiment: Experiment, run_dir: Path) -> Trainer:
    """The training run of an experiment, at its beginning. Seeds torch, then builds the network."""
    data, training = experiment.data, experiment.training
    class_names = read_class_names(data.root)
    sequences = find_sequences(data.root, data.train_split, class_names)
    validation = find_sequences(data.root, data.val_split, class_names)
    torch.manual_seed(experiment.seed)
    detector = Detector.build(experiment.model, experiment.input, experiment.decoding, class_names)
    samples = TrainingSamples(
        sequences,
        experiment.input,
        data.augment,
        steps=training.steps,
        batch_size=training.batch_size,
        seed=experiment.seed,
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
    sequences = find_sequences(experiment.data.root, split, class_names)
    return evaluate(detector, sequences, experiment.evaluation, experiment.tracking, on_sequence)


def dump_experiment(experiment: Experiment) -> str:
    """The whole tree as YAML, defaults included."""
    return yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False)


def describe_settings() -> str:
    """Every key with its default and meaning, as commented YAML."""
    lines: list[str] = []
    _describe(Experiment, 0, lines)
    return "\n".join(lines) + "\n"


def _describe(model: type[BaseModel], depth: int, lines: list[str]) -> None:
    indent = "  " * depth
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines.append(f"{indent}{key}:  # {field.description}")
            _describe(field.annotation, depth + 1, lines)
            continue
        default = field.get_default()
        value = "REQUIRED" if field.is_required() else yaml.safe_dump(default, explicit_end=False).split("\n")[0]
        lines.append(f"{indent}{key}: {value}  # {field.description}")


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise SettingsError(f"--set {override}: expected section.key=value, such as training.epochs=3")
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise SettingsError(f"--set {override}: {section} is a value, not a section")
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {override}: the value is not YAML ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _fault(fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _keys(fault["loc"][:-1])
        nearest = get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0)
        return f"unknown key {place}; the nearest known is {nearest[0]} (known here: {', '.join(known)})"
    if fault["type"] == "missing":
        return f"key {place} is missing"
    return f"{place}: {fault['msg']}, got {fault['input']!r}"


def _keys(sections: tuple[int | str, ...]) -> list[str]:
    model: Any = Experiment
    for section in sections:
        model = model.model_fields[section].annotation
    return list(model.model_fields)
