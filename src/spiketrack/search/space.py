"""Space: which settings a search may change, and between which values.

Station: in come a YAML file (or nothing: the published space of SpikeYoloV8-Tracker) and the experiment, out go
parameters that are known to fit it; a trial draws one value of each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from optuna.trial import Trial
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spiketrack.errors import SettingsError
from spiketrack.experiment import Experiment, load_experiment
from spiketrack.settings import load_settings

Scalar = bool | int | float | str | None
FIXED = {
    "name": "it names the result",
    "seed": "the best of several seeds is luck, no setting",
    "training.epochs": "say --epochs",
    "training.validate_every": "every epoch of a trial is validated",
    "training.device": "set it for each process with --set",
    "data.root": "trials must have the same data",
    "data.train_split": "trials must have the same data",
    "data.val_split": "trials must have the same data",
    "data.test_split": "a search never sees the test split",
    "data.groups": "trials must have the same classes",
    "evaluation": "trials must be scored by the same rules",
    "tracking": "the mAP of detections does not depend on it",
}
"""Keys that a search must not change, and why."""


class Parameter(BaseModel):
    """One setting: choices, or a range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(description="key of the experiment, its sections joined by dots")
    low: int | float | None = Field(None, description="least value; whole numbers stay whole")
    high: int | float | None = Field(None, description="largest value")
    log: bool = Field(False, description="draw the logarithm: as many trials from 0.001 to 0.01 as from 0.01 to 0.1")
    step: int | float | None = Field(None, gt=0, description="distance of the values")
    choices: tuple[Scalar, ...] | None = Field(None, min_length=1, description="the values, instead of a range")
    when: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        {}, description="draw it only where these keys have this value, or one of these"
    )

    @model_validator(mode="after")
    def _range_or_choices(self) -> Parameter:
        bounds = (self.low, self.high)
        if self.choices is not None:
            if bounds != (None, None) or self.log or self.step is not None:
                raise ValueError(f"{self.key}: choices have no low, high, log or step")
            return self
        if self.low is None or self.high is None:
            raise ValueError(f"{self.key}: expected low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"{self.key}: low {self.low} must be below high {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(f"{self.key}: a logarithmic range begins above 0 and has no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether the range is of whole numbers."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step or 1))

    def samples(self) -> tuple[Any, ...]:
        """Values that must all be legal for every value to be."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        assert self.high is not None
        between = () if self.whole or self.step else (self.low + 0.382 * (self.high - self.low),)
        return (self.low, self.high, *between)

    def draw(self, trial: Trial) -> Any:
        """The value of a trial."""
        if self.choices is not None:
            return trial.suggest_categorical(self.key, self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def applies(self, values: Mapping[str, Any], tree: Mapping[str, Any]) -> bool:
        """Whether the conditions hold for the values drawn so far, and the experiment's where none is drawn."""
        for key, wanted in self.when.items():
            value = values[key] if key in values else value_at(tree, key)
            if value not in (wanted if isinstance(wanted, tuple) else (wanted,)):
                return False
        return True


class Space(BaseModel):
    """Everything that a search may change; a parameter stands after those that its `when` names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: tuple[Parameter, ...] = Field(min_length=1, description="the settings to search")

    @model_validator(mode="after")
    def _in_order(self) -> Space:
        keys = [parameter.key for parameter in self.parameters]
        for i, parameter in enumerate(self.parameters):
            if parameter.key in keys[:i]:
                raise ValueError(f"{parameter.key} is there twice")
            if late := [key for key in parameter.when if key in keys[i:]]:
                raise ValueError(f"{parameter.key}: its condition {late[0]} must stand before it")
        return self

    def draw(self, trial: Trial, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a trial by key; tree: the experiment's values."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.applies(values, tree):
                values[parameter.key] = parameter.draw(trial)
        return values


def load_space(path: Path) -> Space:
    """Read a file with the key `parameters`. Raises SettingsError naming file and key."""
    listed = load_settings(_SpaceFile, path).parameters
    known = list(Parameter.model_fields)
    for i, values in enumerate(listed):
        for name in values.keys() - known:
            nearest = get_close_matches(str(name), known, n=1, cutoff=0)[0]
            raise SettingsError(f"{path}: unknown key parameters.{i}.{name}; the nearest known is {nearest}")
    try:
        return Space.model_validate({"parameters": listed})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise SettingsError(f"{path}: {'; '.join(faults)}") from error


class _SpaceFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: tuple[dict[str, Any], ...] = Field(min_length=1, description="the settings to search")


def fitted(space: Space, base: Path, tree: Mapping[str, Any], source: str) -> Space:
    """The space for an experiment: a range of whole numbers for a key with fractions becomes one of fractions.

    base: file of the experiment; tree: its values. Raises SettingsError for a key that is not there, naming the nearest
    one, that must stay, or that refuses a value of its range; `source` says where the space is from.
    """
    parameters = []
    for parameter in space.parameters:
        for part in (parameter.key, *parameter.when):
            if not _is_there(tree, part):
                _raise_unless_legal({part: None}, base, source)
                raise SettingsError(f"{source}: {part} is no single setting")
        for fixed, reason in FIXED.items():
            if parameter.key == fixed or parameter.key.startswith(f"{fixed}."):
                raise SettingsError(f"{source}: {parameter.key} cannot be searched: {reason}")
        if isinstance(value_at(tree, parameter.key), float) and parameter.choices is None:
            assert parameter.low is not None
            assert parameter.high is not None
            bounds = {"low": float(parameter.low), "high": float(parameter.high)}
            parameter = parameter.model_copy(update=bounds)
        if not parameter.when:  # a key with a condition is legal in its company only
            for value in parameter.samples():
                _raise_unless_legal({parameter.key: value}, base, source)
        parameters.append(parameter)
    return space.model_copy(update={"parameters": tuple(parameters)})


def experiment_with(base: Path, values: Mapping[str, Any], *fixed: str) -> Experiment:
    """The experiment of a file with values by key, and overrides. Raises SettingsError where they do not fit."""
    return load_experiment(base, [*fixed, *(f"{key}={json.dumps(value)}" for key, value in values.items())])


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """What stands at a key of a tree; None where nothing does."""
    value: Any = tree
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def default_space(tree: Mapping[str, Any]) -> Space:
    """The published space, as far as the experiment has its keys (docs/search.md has the table)."""
    loss = () if value_at(tree, "model.family") == "SSD" else LOSS
    return Space(parameters=tuple(p for p in (*OPTIMIZER, *loss) if value_at(tree, p.key) is not None))


def _is_there(tree: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.rpartition(".")
    held = value_at(tree, section) if section else tree
    return isinstance(held, Mapping) and name in held


def _raise_unless_legal(values: Mapping[str, Any], base: Path, source: str) -> None:
    try:
        experiment_with(base, values)
    except SettingsError as error:
        raise SettingsError(f"{source}: {str(error).removeprefix(f'{base}: ')}") from error


OPTIMIZER = (
    Parameter(key="training.learning_rate", low=1e-4, high=1e-2, log=True),
    Parameter(key="training.batch_size", low=8, high=32, step=4),
    Parameter(key="training.weight_decay", low=1e-5, high=1e-3, log=True),
    Parameter(key="training.optimizer", choices=("sgd", "adamw")),
    Parameter(key="training.momentum", low=0.8, high=0.95, when={"training.optimizer": "sgd"}),
    Parameter(key="training.schedule", choices=("step", "cosine")),
    Parameter(key="training.decay", low=0.3, high=0.8, when={"training.schedule": "step"}),
)
LOSS = (
    Parameter(key="training.loss.box_gain", low=5.0, high=15.0),
    # published 5 .. 15 for a mean over all locations; ours is normalised by the target scores, its usual gain 0.5
    Parameter(key="training.loss.class_gain", low=0.25, high=1.5),
    Parameter(key="training.loss.track_gain", low=0.05, high=0.5),
)
