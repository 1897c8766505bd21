"""eTraM: finding the sequences of a data set in eTraM's folder layout, or in GEN1's.

Station: in comes the root of a data set, out go its labelled sequences. Layout: `ROOT/HDF5/<split folder>/
<name>_td.h5`, labels `<name>_bbox.npy` beside it or under `ROOT/class annotations/eight_class_annotations_<split>/`,
class names in `ROOT/classes.txt`, one a line. A split folder is `train`, or begins with `train_` (eTraM: train_h5_1).
GEN1 has `<split folder>/<name>_td.dat` instead, with labels beside it; its class names are known (gen1.py).

Recordings may be named by several splits, and labels may lie in a folder of their own; the classes of the files may be
learnt in groups, such as eTraM's eight fine ones as three.

A time without labels says nothing, as the scene need not be empty. Where it is known to be, as in simulated data,
`<name>_times.npy` (int64 microseconds) beside the recording lists every time that was annotated, the empty ones too.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.datasets.disk_cache import DiskCache
from spiketrack.datasets.gen1 import DAT_SUFFIX, GEN1_CLASSES, GEN1_FOLDER, dat_size, is_gen1
from spiketrack.errors import LabelError, SettingsError
from spiketrack.filters import NO_FILTERS, FilterSettings, filtered_recording
from spiketrack.recordings import Recording, load_labels, open_recording

EVENTS_SUFFIX, LABELS_SUFFIX, TIMES_SUFFIX = "_td.h5", "_bbox.npy", "_times.npy"
_SUFFIXES = (EVENTS_SUFFIX, DAT_SUFFIX)

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelledSequence:
    """One recording with its labels, already repaired to fit its sensor.

    annotated: (N,) int64 microseconds, times at which every object has a label, so that one without labels is empty.
    cache: where the events are read from, decoded and filtered; None: from the file itself.
    """

    name: str
    path: Path
    width: int
    height: int
    labels: Boxes
    repairs: Counter[str]
    filters: FilterSettings = NO_FILTERS
    annotated: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    cache: DiskCache | None = None

    def steps(self, slice_us: int, reach_us: int = 0) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """The grid of time steps and the labelled ones, those known to be empty included (see `label_steps`)."""
        return label_steps(self.labels, slice_us, self.annotated, reach_us)

    def open(self) -> Recording:
        """The events, after the filters; a new object at each call."""
        recording = self.source()
        return recording if self.cache is None else self.cache.open(recording)

    def source(self) -> Recording:
        """As `open`, never from the cache."""
        return filtered_recording(open_recording(self.path, self.width, self.height), self.filters)


def read_class_names(root: Path) -> tuple[str, ...]:
    """The class list of a data set, in the order of the class ids: of its classes.txt, or those of GEN1."""
    path = Path(root) / "classes.txt"
    if not path.is_file():
        if is_gen1(_folders(_base(Path(root)))):
            return GEN1_CLASSES
        raise SettingsError(f"{path}: no class list; write one class name a line, in the order of the class ids")
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"{path}: expected distinct class names, one a line, got {list(names)}")
    return names


def has_boxes(root: Path) -> bool:
    """Whether a folder is a data set of labelled sequences: with a list of classes, or GEN1."""
    return (Path(root) / "classes.txt").is_file() or is_gen1(_folders(_base(Path(root))))


def find_sequences(
    root: Path,
    split: str,
    class_names: tuple[str, ...],
    filters: FilterSettings = NO_FILTERS,
    labels_dir: Path | None = None,
) -> list[LabelledSequence]:
    """All labelled sequences of a split, sorted by name; their events go through the filters.

    split: a folder or a prefix of folders, or several, with commas between. labels_dir: where to look for labels first,
    in it and in its folders `eight_class_annotations_<split>`.

    A recording without a label file, or whose labels are all unusable, is left out and counted in the log; a split
    without any labelled sequence raises LabelError, a missing folder SettingsError. Where a split has several folders
    the folder is part of a sequence's name.
    """
    root = Path(root)
    folders = _split_folders(root, split)
    sequences, bare = [], []
    for path in _recordings(folders):
        labels = _label_path(root, path, labels_dir)
        if labels is None:
            bare.append(path.name)
            continue
        sequence = load_sequence(path, labels, class_names, filters)
        if len(folders) > 1:
            sequence = replace(sequence, name=f"{path.parent.name}/{sequence.name}")
        if len(sequence.labels) or len(sequence.annotated):
            sequences.append(sequence)
        else:
            bare.append(path.name)
    if bare:
        log.warning("%s: %d recordings have no usable labels and are left out: %s", split, len(bare), _some(bare))
    if not sequences:
        expected = f"<name>{EVENTS_SUFFIX} or <name>{DAT_SUFFIX} with <name>{LABELS_SUFFIX} beside it"
        raise LabelError(
            f"{', '.join(map(str, folders))}: no labelled sequence; expected {expected} "
            f"({len(bare)} recordings without usable labels)"
        )
    repairs = sum((sequence.repairs for sequence in sequences), Counter())
    if repairs:
        log.warning("%s: labels were repaired: %s", split, ", ".join(f"{n} {kind}" for kind, n in repairs.items()))
    return sequences


def grouped_classes(class_names: tuple[str, ...], groups: dict[str, tuple[str, ...]]) -> NDArray[np.int64]:
    """(K,) the group of every class. Raises SettingsError where a class is of none or several, or is not there."""
    members = [name for group in groups.values() for name in group]
    wrong = sorted({*class_names} ^ {*members} | {name for name in members if members.count(name) > 1})
    if wrong:
        raise SettingsError(
            f"data.groups: every class must be in exactly one group, and be there: {', '.join(wrong)} (the classes are "
            f"{', '.join(class_names)})"
        )
    group_of = {name: index for index, group in enumerate(groups.values()) for name in group}
    return np.array([group_of[name] for name in class_names])


def in_groups(sequence: LabelledSequence, group_of: NDArray[np.int64]) -> LabelledSequence:
    """The sequence with the groups of its labels' classes for their classes. group_of: (K,), the group of a class."""
    labels = sequence.labels
    return replace(sequence, labels=replace(labels, class_id=group_of[labels.class_id].astype(labels.class_id.dtype)))


def load_sequence(
    path: Path, labels_path: Path, class_names: tuple[str, ...], filters: FilterSettings = NO_FILTERS
) -> LabelledSequence:
    """One recording with its labels. Raises RecordingError or LabelError naming the file at fault."""
    size = dat_size(path) if path.name.endswith(DAT_SUFFIX) else ()
    recording = open_recording(path, *size)
    labels, repairs = load_labels(labels_path, width=recording.width, height=recording.height, class_names=class_names)
    name = _name(path)
    annotated = _annotated_times(path.with_name(name + TIMES_SUFFIX))
    return LabelledSequence(name, path, recording.width, recording.height, labels, repairs, filters, annotated)


def _annotated_times(path: Path) -> NDArray[np.int64]:
    """The times in a file, in order; none without the file. Raises LabelError where it holds something else."""
    if not path.is_file():
        return np.empty(0, np.int64)
    try:
        times = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LabelError(f"{path}: not a readable file of annotated times ({' '.join(str(error).split())})") from error
    if not isinstance(times, np.ndarray) or times.ndim != 1 or times.dtype != np.int64:
        what = f"{times.dtype} of {times.shape}" if isinstance(times, np.ndarray) else "an archive"
        raise LabelError(f"{path}: expected annotated times, one row of int64 microseconds, got {what}")
    return np.unique(times)


def label_steps(
    labels: Boxes, slice_us: int, annotated: NDArray[np.int64] | None = None, reach_us: int = 0
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Lay a grid of time steps over a sequence so that labels fall on the ends of steps.

    Returns anchor_us, steps, times_us: step k covers [anchor + k * slice, anchor + (k + 1) * slice) and is labelled
    where a label time lies in (start, end]; the latest such time speaks for it. steps (L,) and times_us (L,) list
    the labelled steps in order. The grid is anchored at the first label time. annotated: label times without labels.
    reach_us: a step that no label time lies in is labelled, too, if one is at most this far from its end; the nearest.
    """
    times = np.unique(labels.t if annotated is None else np.concatenate([labels.t, annotated]))
    if not len(times):
        return 0, times, times
    anchor = int(times[0]) % slice_us
    steps = (times - anchor - 1) // slice_us  # a label on the boundary belongs to the step that ends there
    latest = np.append(steps[1:] != steps[:-1], True)
    steps, times = steps[latest], times[latest]
    return (anchor, *_reached(anchor, steps, times, slice_us, reach_us)) if reach_us else (anchor, steps, times)


def _reached(
    anchor: int, steps: NDArray[np.int64], times: NDArray[np.int64], slice_us: int, reach_us: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The labelled steps and their times, with the steps whose end a label time is at most reach_us away from."""
    offsets = np.arange(-(reach_us // slice_us) - 1, reach_us // slice_us + 1)
    near = (steps[:, None] + offsets).ravel()  # (L * offsets,)
    near_times = np.repeat(times, len(offsets))
    distance = np.where(np.tile(offsets == 0, len(steps)), 0, np.abs(anchor + (near + 1) * slice_us - near_times))
    near, near_times, distance = (column[distance <= reach_us] for column in (near, near_times, distance))
    order = np.lexsort((distance, near))  # by step, the nearest time first
    near, first = np.unique(near[order], return_index=True)
    return near, near_times[order][first]


def _base(root: Path) -> Path:
    """Where the folders of the splits are."""
    return next((folder for folder in (root / "HDF5", root / GEN1_FOLDER) if folder.is_dir()), root)


def _folders(base: Path) -> list[Path]:
    return sorted(folder for folder in base.iterdir() if folder.is_dir()) if base.is_dir() else []


def _split_folders(root: Path, split: str) -> list[Path]:
    base = _base(root)
    if not base.is_dir():
        raise SettingsError(f"{root}: no such data set; make one with `spiketrack simulate` or `spiketrack compose`")
    folders: list[Path] = []
    for part in split.split(","):
        found = [f for f in _folders(base) if f.name == part.strip() or f.name.startswith(f"{part.strip()}_")]
        if not found:
            present = [folder.name for folder in _folders(base)]
            raise SettingsError(f"{base}: no folder for split {part.strip()!r}; there are {present or 'none'}")
        folders += found
    return sorted(set(folders))


def _recordings(folders: list[Path]) -> list[Path]:
    """The recordings of either suffix, sorted. Raises SettingsError where one lies there twice."""
    found: dict[Path, Path] = {}
    for path in sorted(path for folder in folders for suffix in _SUFFIXES for path in folder.glob(f"*{suffix}")):
        other = found.setdefault(path.with_name(_name(path)), path)
        if other != path:
            raise SettingsError(f"{path}: the same recording as {other.name}; keep one of the two")
    return list(found.values())


def _name(path: Path) -> str:
    """The name of a recording without what says that it is one."""
    return path.name.removesuffix(EVENTS_SUFFIX).removesuffix(DAT_SUFFIX)


def _label_path(root: Path, events_path: Path, labels_dir: Path | None) -> Path | None:
    name, folder = _name(events_path) + LABELS_SUFFIX, events_path.parent.name
    # of the folder train_h5_1 the annotations are of the split train
    annotations = [f"eight_class_annotations_{split}" for split in dict.fromkeys((folder, folder.split("_")[0]))]
    places = [events_path.parent, *(root / "class annotations" / part for part in annotations)]
    if labels_dir is not None:
        places = [labels_dir, *(labels_dir / part for part in annotations), *places]
    return next((place / name for place in places if (place / name).is_file()), None)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
