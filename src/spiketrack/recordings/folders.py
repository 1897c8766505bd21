"""Folders of samples: N-MNIST and N-CARS, where the folder of a file is its class.

In comes the root of a data set as its authors publish it, out goes a list of files with class, split and sensor size.
Sources: Orchard et al., "Converting static image datasets to spiking neuromorphic datasets using saccades", 2015;
Sironi et al., "HATS: Histograms of averaged time surfaces", 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spiketrack.errors import RecordingError
from spiketrack.recordings.nmnist import SIDE

SPLITS = ("train", "test")
NCARS_SIZE = (120, 100)  # pixels; the crops are at most as large, and their files do not say it


@dataclass(frozen=True, slots=True)
class Sample:
    """One file of a data set of samples; `open_recording(path, width, height)` reads it.

    class_id: the place of class_name in the list of classes, from 0 (N-CARS: 0 background, 1 cars). split: "train" or
    "test". width, height: the sensor in pixels.
    """

    path: Path
    class_name: str
    class_id: int
    split: str
    width: int
    height: int


@dataclass(frozen=True)
class _Kind:
    """A data set: the names that its folders of a split and of the classes have, and its files."""

    name: str
    split_prefixes: tuple[str, ...]
    classes: tuple[str, ...]
    suffix: str
    size: tuple[int, int]


_KINDS = (
    _Kind("N-MNIST", ("",), tuple("0123456789"), ".bin", (SIDE, SIDE)),
    _Kind("N-CARS", ("n-cars_", "ncars_", ""), ("background", "cars"), "_td.dat", NCARS_SIZE),
)
_EXPECTED = (
    "expected N-MNIST (Train/<digit>/*.bin, Test/<digit>/*.bin) or N-CARS (n-cars_train/cars/*_td.dat, "
    "n-cars_train/background/*_td.dat, n-cars_test/...)"
)


def samples(root: str | Path) -> list[Sample]:
    """All samples below the root of N-MNIST or N-CARS, sorted by split (train first), class and name.

    The names of the folders tell which of the two it is, in upper or lower case. One of the splits may be missing.
    Raises RecordingError naming what is missing: the folder itself, every split, a class of a split, or its files.
    """
    root = Path(root)
    splits = {split: _split_folders(root, split) for split in SPLITS}
    folders = [folder for found in splits.values() for folder in found]
    if not folders:
        inside = ", ".join(sorted(_folders(root))[:8]) or "no folder"
        raise RecordingError(f"{root}: no folder of a split; {_EXPECTED}, found {inside}")
    kind = max(_KINDS, key=lambda kind: sum(len(_classes(folder, kind)) for folder in folders))
    if not any(_classes(folder, kind) for folder in folders):
        raise RecordingError(f"{folders[0]}: no folder of a class; {_EXPECTED}")
    found = []
    for split, candidates in splits.items():
        if len(candidates) > 1:
            raise RecordingError(f"{root}: two folders of the split {split}: {', '.join(f.name for f in candidates)}")
        for folder in candidates:
            found += _of_split(folder, split, kind)
    return found


def _of_split(folder: Path, split: str, kind: _Kind) -> list[Sample]:
    classes = _classes(folder, kind)
    missing = [name for name in kind.classes if name not in classes]
    if missing:
        raise RecordingError(f"{folder}: no folder {', '.join(missing)}; {kind.name} has one for each class")
    found = []
    for class_id, name in enumerate(kind.classes):
        paths = sorted(
            path
            for path in classes[name].iterdir()
            if path.name.lower().endswith(kind.suffix) and not path.name.startswith(".")
        )
        if not paths:
            raise RecordingError(f"{classes[name]}: no file *{kind.suffix}; expected the samples of class {name}")
        found += [Sample(path, name, class_id, split, *kind.size) for path in paths]
    return found


def _split_folders(root: Path, split: str) -> list[Path]:
    names = {prefix + split for kind in _KINDS for prefix in kind.split_prefixes}
    return [folder for name, folder in sorted(_folders(root).items()) if name.lower() in names]


def _classes(folder: Path, kind: _Kind) -> dict[str, Path]:
    return {name.lower(): path for name, path in _folders(folder).items() if name.lower() in kind.classes}


def _folders(folder: Path) -> dict[str, Path]:
    try:
        return {path.name: path for path in folder.iterdir() if path.is_dir()}
    except OSError as error:
        raise RecordingError(f"{folder}: cannot be read: {error.strerror}; {_EXPECTED}") from error
