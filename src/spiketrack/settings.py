"""Settings trees: a YAML file and overrides become a frozen pydantic model, and errors that a person can act on.

There are no includes, no interpolation and no hidden defaults at run time. A key that is not known is an error that
names the nearest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from spiketrack.errors import SettingsError

Model = TypeVar("Model", bound=BaseModel)


def load_settings(
    model: type[Model],
    path: Path | None,
    overrides: list[str] | None = None,
    choose: Callable[[dict[str, Any]], type[Model]] | None = None,
) -> Model:
    """Read a YAML file (none: all defaults); overrides are `section.key=value` with the value in YAML.

    choose: picks the subclass of `model` that fits the keys and values. Raises SettingsError that names the file, the
    key and, for an unknown key, the nearest known one.
    """
    tree: Any = {}
    if path is not None:
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise SettingsError(f"{path}: not a readable YAML file ({_one_line(error)})") from error
        if not isinstance(tree, dict):
            keys = " and ".join(f"`{key}:`" for key in list(model.model_fields)[:2])
            raise SettingsError(f"{path}: expected keys such as {keys}, got {type(tree).__name__}")
    for override in overrides or []:
        _apply(tree, override)
    chosen = choose(tree) if choose else model
    try:
        return chosen.model_validate(tree)
    except ValidationError as error:
        where = "settings" if path is None else path
        raise SettingsError(f"{where}: {'; '.join(_fault(chosen, fault) for fault in error.errors())}") from error


def describe_settings(model: type[BaseModel]) -> str:
    """Every key with its default and meaning, as commented YAML."""
    lines: list[str] = []
    _describe(model, None, 0, lines)
    return "\n".join(lines) + "\n"


def _describe(model: type[BaseModel], values: BaseModel | None, depth: int, lines: list[str]) -> None:
    """values: the defaults where the section that holds the model has its own."""
    indent = "  " * depth
    for key, field in model.model_fields.items():
        default = field.get_default() if values is None else getattr(values, key)
        of_union = type(default) if isinstance(default, BaseModel) else field.annotation
        if isinstance(of_union, type) and issubclass(of_union, BaseModel):
            lines.append(f"{indent}{key}:  # {field.description}")
            _describe(of_union, default if isinstance(default, BaseModel) else None, depth + 1, lines)
            continue
        value = "REQUIRED" if values is None and field.is_required() else _on_one_line(default)
        lines.append(f"{indent}{key}: {value}  # {field.description}")


class _Spelt(yaml.SafeDumper):
    """Writes what occurs twice twice, instead of a reference to the first."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _on_one_line(value: Any) -> str:
    """A setting as YAML, lists in brackets."""
    return yaml.dump(value, Dumper=_Spelt, default_flow_style=True, width=math.inf).split("\n")[0]


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


def _fault(root: type[BaseModel], fault: Any) -> str:
    place = ".".join(str(part) for part in _walk(root, fault["loc"])[1])
    if fault["type"] == "extra_forbidden":
        known = list(_walk(root, fault["loc"][:-1])[0].model_fields)
        nearest = get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0)
        return f"unknown key {place}; the nearest known is {nearest[0]} (known here: {', '.join(known)})"
    if fault["type"] == "missing":
        return f"key {place} is missing"
    return f"{place}: {fault['msg']}, got {fault['input']!r}"


def _walk(root: type[BaseModel], sections: tuple[int | str, ...]) -> tuple[Any, list[int | str]]:
    """The model at a place of the tree, and the keys that lead there: what chooses one of several models is none."""
    model: Any = root
    keys: list[int | str] = []
    for section in sections:
        fields = getattr(model, "model_fields", {})
        if section in fields:
            model = fields[section].annotation
            if type(None) in get_args(model) and len(_models(model)) == 1:
                model = _models(model)[0]
            keys.append(section)
        elif members := [part for part in _models(model) if section in _choices(part)]:
            model = members[0]
        else:  # a place in a list, or an unknown key
            if isinstance(section, int) and len(_models(model)) == 1:
                model = _models(model)[0]
            keys.append(section)
    return model, keys


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models of a union."""
    parts = [get_args(part)[0] if get_origin(part) is Annotated else part for part in get_args(annotation)]
    return [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]


def _choices(model: type[BaseModel]) -> list[Any]:
    """The values by which a union knows a model: those of its fields that can have one value only."""
    return [get_args(f.annotation)[0] for f in model.model_fields.values() if get_origin(f.annotation) is Literal]
