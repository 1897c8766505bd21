"""Synthetic data sets in the eTraM layout: scenes of real digits, or of simulated shapes.

Station: writes what training reads. In come settings (and an N-MNIST folder), out goes
    OUT/HDF5/<split>/<split>_<number>_td.h5      events
    OUT/HDF5/<split>/<split>_<number>_bbox.npy   labels with track ids
    OUT/classes.txt                              one class name per line
    OUT/dataset.json                             settings, version, and which digits each split may use
for the splits train, val and test. Run again, it goes on where it was interrupted: a scene's labels are in place before
its events take their final name, so a scene whose events are there is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.boxes import Boxes
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.events import Events
from spiketrack.recordings import EventWriter, LabelWriter, open_recording
from spiketrack.replacing import make_folder, write_whole
from spiketrack.simulation import (
    NMNIST_CLASSES,
    NMNIST_SIDE,
    SHAPE_CLASSES,
    ComposeSettings,
    CountRange,
    Digit,
    SceneSettings,
    compose_scene,
    digit_of,
    plan_scene,
    simulate_scene,
)

SPLITS = ("train", "val", "test")
# Raised when the same settings and seed begin to yield other scenes; part of what dataset.json must agree on.
GENERATOR = 1

_DEAL_STREAM, _HOLD_OUT_STREAM = 1, 2

Progress = Callable[[int, int, str], None]
Scene = Iterator[tuple[Events, Boxes]]
Scenery = TypeVar("Scenery", ComposeSettings, SceneSettings)


class _DatasetSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0, le=2**32 - 1, description="seed; the same settings and seed give the same files")
    train_scenes: int = Field(150, ge=0, le=100_000, description="number of train scenes")
    train_s: float = Field(3.0, gt=0, le=86_400, description="seconds of a train scene")
    val_scenes: int = Field(4, ge=0, le=100_000, description="number of val scenes")
    val_s: float = Field(3.0, gt=0, le=86_400, description="seconds of a val scene")
    test_scenes: int = Field(20, ge=0, le=100_000, description="number of test scenes")
    test_s: float = Field(5.0, gt=0, le=86_400, description="seconds of a test scene")

    train_objects: CountRange | None = Field(
        None, description="fewest and most objects at a time in train scenes; null takes scene.motion.objects"
    )

    def scenes(self, split: str) -> tuple[int, int]:
        """How many scenes of a split, and the duration of each in microseconds."""
        return getattr(self, f"{split}_scenes"), round(getattr(self, f"{split}_s") * 1e6)


class ComposeDatasetSettings(_DatasetSettings):
    """A data set of real N-MNIST digits on a larger canvas."""

    val_share: float = Field(
        0.07, gt=0, lt=1, description="share of the Train/ digits of each class that only val scenes use, at least one"
    )
    scene: ComposeSettings = Field(ComposeSettings(), description="every scene, but for train_objects")


class SimulateDatasetSettings(_DatasetSettings):
    """A data set of simulated shapes."""

    train_scenes: int = Field(24, ge=0, le=100_000, description="number of train scenes")
    val_scenes: int = Field(3, ge=0, le=100_000, description="number of val scenes")
    test_scenes: int = Field(6, ge=0, le=100_000, description="number of test scenes")
    test_s: float = Field(4.0, gt=0, le=86_400, description="seconds of a test scene")
    scene: SceneSettings = Field(SceneSettings(), description="every scene, but for train_objects")


def _scene_of(scene: Scenery, settings: _DatasetSettings, split: str) -> Scenery:
    """The settings of the scenes of a split."""
    if split != "train" or settings.train_objects is None:
        return scene
    motion = scene.motion.model_copy(update={"objects": settings.train_objects})
    return scene.model_copy(update={"motion": motion})


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """What one call wrote: scenes written and found complete; events, labels and tracks of those written."""

    folder: Path
    written: int
    skipped: int
    events: int
    labels: int
    tracks: int


def compose_dataset(
    nmnist_dir: str | Path,
    out_dir: str | Path,
    settings: ComposeDatasetSettings | None = None,
    progress: Progress | None = None,
) -> DatasetSummary:
    """Write a data set of real digits; train and val draw from disjoint parts of Train/, test from Test/ only.

    nmnist_dir holds {Train,Test}/<digit>/<index>.bin. Over a split every digit of a class is used about equally often,
    and classes take turns. progress(done, total, name) is called after each scene. Raises SettingsError where out_dir
    holds another data set, RecordingError where digits are missing or broken or the disk is full.
    """
    settings = settings or ComposeDatasetSettings()
    pools = _digit_pools(Path(nmnist_dir), settings)
    digits = {
        split: {name: [path.stem for path in paths] for name, paths in zip(NMNIST_CLASSES, pool, strict=True)}
        for split, pool in pools.items()
    }

    def scenes(split: str) -> Iterator[Callable[[], Scene]]:
        count, duration_us = settings.scenes(split)
        scene = _scene_of(settings.scene, settings, split)
        deal = _deal(pools[split], np.random.default_rng([settings.seed, split_seed(split), _DEAL_STREAM]))
        for index in range(count):
            seed = (settings.seed, split_seed(split), index)
            wanted = len(plan_scene(scene, duration_us, seed))
            hand = [next(deal) for _ in range(max(1, wanted))]
            yield lambda hand=hand, seed=seed: compose_scene(
                [_load_digit(path, class_id) for class_id, path in hand], scene, duration_us, seed
            )

    size = (settings.scene.width, settings.scene.height)
    return _write_dataset(Path(out_dir), "compose", settings, digits, NMNIST_CLASSES, size, scenes, progress)


def simulate_dataset(
    out_dir: str | Path, settings: SimulateDatasetSettings | None = None, progress: Progress | None = None
) -> DatasetSummary:
    """Write a data set of simulated shapes; as `compose_dataset`, but it needs no data."""
    settings = settings or SimulateDatasetSettings()

    def scenes(split: str) -> Iterator[Callable[[], Scene]]:
        count, duration_us = settings.scenes(split)
        scene = _scene_of(settings.scene, settings, split)
        for index in range(count):
            seed = (settings.seed, split_seed(split), index)
            yield lambda seed=seed: simulate_scene(scene, duration_us, seed)

    size = (settings.scene.width, settings.scene.height)
    return _write_dataset(Path(out_dir), "simulate", settings, {}, SHAPE_CLASSES, size, scenes, progress)


def share_scenes(scenes: int) -> dict[str, int]:
    """70 / 15 / 15 % train, val and test scenes; at least one of each from three scenes on, before that train alone."""
    if scenes < 3:
        return {"train": scenes, "val": 0, "test": 0}
    held = max(1, round(0.15 * scenes))
    return {"train": scenes - 2 * held, "val": held, "test": held}


def split_seed(split: str) -> int:
    """The part of a scene's seed that tells the splits apart."""
    return SPLITS.index(split) + 1


def _digit_pools(folder: Path, settings: ComposeDatasetSettings) -> dict[str, list[list[Path]]]:
    """For each split and class the digit files that it may use, in a fixed order."""
    if not folder.is_dir():
        raise RecordingError(
            f"{folder}: no such folder; expected N-MNIST with Train/<digit>/*.bin and Test/<digit>/*.bin"
        )
    rng = np.random.default_rng([settings.seed, 0, _HOLD_OUT_STREAM])
    train, val = [], []
    for files in _class_files(folder / "Train", least=2):
        held = min(len(files) - 1, max(1, round(settings.val_share * len(files))))
        order = rng.permutation(len(files))
        val.append([files[i] for i in sorted(order[:held])])
        train.append([files[i] for i in sorted(order[held:])])
    return {"train": train, "val": val, "test": _class_files(folder / "Test", least=1)}


def _class_files(folder: Path, least: int) -> list[list[Path]]:
    classes = []
    for name in NMNIST_CLASSES:
        files = sorted((folder / name).glob("*.bin"))
        if len(files) < least:
            raise RecordingError(f"{folder / name}: expected at least {least} N-MNIST files *.bin, found {len(files)}")
        classes.append(files)
    return classes


def _deal(pool: Sequence[Sequence[Path]], rng: np.random.Generator) -> Iterator[tuple[int, Path]]:
    """(class_id, file) without end: classes take turns in random rounds, each class goes through all its files in a
    random order before any comes again."""
    queues: list[list[Path]] = [[] for _ in pool]
    while True:
        for class_id in rng.permutation(len(pool)).tolist():
            if not queues[class_id]:
                queues[class_id] = [pool[class_id][i] for i in rng.permutation(len(pool[class_id]))]
            yield class_id, queues[class_id].pop()


def _load_digit(path: Path, class_id: int) -> Digit:
    recording = open_recording(path)
    if (recording.width, recording.height) != (NMNIST_SIDE, NMNIST_SIDE):
        raise RecordingError(
            f"{path}: expected an N-MNIST recording of 34x34 pixels, got one of {recording.width}x{recording.height}"
        )
    events = Events.concatenate([*recording.chunks()] or [Events.empty(NMNIST_SIDE, NMNIST_SIDE)])
    try:
        return digit_of(events, class_id)
    except ValueError as error:
        raise RecordingError(f"{path}: {error}; is this an N-MNIST recording?") from error


def _write_dataset(
    folder: Path,
    kind: str,
    settings: _DatasetSettings,
    digits: dict[str, Any],
    class_names: Sequence[str],
    size: tuple[int, int],
    scenes: Callable[[str], Iterator[Callable[[], Scene]]],
    progress: Progress | None,
) -> DatasetSummary:
    """Write what is missing of a data set, scene by scene."""
    identity = {
        "kind": kind,
        "generator": GENERATOR,
        "settings": settings.model_dump(mode="json"),
        "class_names": list(class_names),
        "digits": digits,
    }
    claim_folder(folder, identity)
    write_whole(folder / "classes.txt", "".join(f"{name}\n" for name in class_names), RecordingError)
    total = sum(settings.scenes(split)[0] for split in SPLITS)
    done = skipped = events = labels = tracks = 0
    for split in SPLITS:
        for index, scene in enumerate(scenes(split)):
            name = f"{split}_{index:04d}"
            stem = folder / "HDF5" / split / name
            if all(Path(f"{stem}{ending}").is_file() for ending in ("_td.h5", "_bbox.npy")):
                skipped += 1
            else:
                counts = _write_scene(stem, scene(), size)
                events, labels, tracks = events + counts[0], labels + counts[1], tracks + counts[2]
            done += 1
            if progress:
                progress(done, total, name)
    return DatasetSummary(folder, done - skipped, skipped, events, labels, tracks)


def _write_scene(stem: Path, scene: Scene, size: tuple[int, int]) -> tuple[int, int, int]:
    """Write one scene; returns its numbers of events, labels and tracks."""
    make_folder(stem.parent)
    event_count = label_count = 0
    tracks: set[int] = set()
    # the inner block ends first: events under their final name imply complete labels
    with (
        EventWriter(Path(f"{stem}_td.h5"), *size) as event_writer,
        LabelWriter(Path(f"{stem}_bbox.npy")) as label_writer,
    ):
        for events, labels in scene:
            event_writer.append(events)
            label_writer.append(labels)
            event_count, label_count = event_count + len(events), label_count + len(labels)
            tracks.update(labels.track_id.tolist())
    return event_count, label_count, len(tracks)


def claim_folder(folder: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Make the folder ours: write dataset.json, or check that the one there says the same; returns what it says.

    Keys beside those of the identity do not count. Raises SettingsError where the folder holds anything else.
    """
    path = folder / "dataset.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SettingsError(f"{path}: cannot be read ({error}); delete {folder} or write elsewhere") from error
        differing = list(_differences(found, identity)) if isinstance(found, dict) else ["everything"]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise SettingsError(
                f"{folder}: holds a data set made with other settings ({'; '.join(differing[:3])}{more}); "
                "write elsewhere, delete it, or use its settings to finish it"
            )
        return found
    for name in ("HDF5", "RAW"):
        if (folder / name).exists():
            raise SettingsError(
                f"{folder}: has a folder {name} but no dataset.json, so it is no data set of ours; write elsewhere"
            )
    make_folder(folder)
    record = {**identity, "spiketrack": version("spiketrack")}
    write_record(folder, record)
    return record


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write dataset.json at once."""
    write_whole(folder / "dataset.json", json.dumps(record, indent=1) + "\n", RecordingError)


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Where two nested settings differ, as text; keys only in `found` count within `settings`."""
    keys = list(wanted) + ([key for key in found if key not in wanted] if prefix else [])
    for key in keys:
        one, other = found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            shown = f"{one!r}, now {other!r}"
            yield f"{prefix}{key}: there {shown}" if len(shown) < 80 else f"{prefix}{key} differs"
