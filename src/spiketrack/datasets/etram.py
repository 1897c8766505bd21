"""eTraM: finding the sequences of a data set in eTraM's folder layout.

Station: in comes the root of a data set, out go its labelled sequences. Layout: `ROOT/HDF5/<split folder>/
<name>_td.h5`, labels `<name>_bbox.npy` beside it or under `ROOT/class annotations/eight_class_annotations_<split>/`,
class names in `ROOT/classes.txt`, one a line. A split folder is `train`, or begins with `train_` (eTraM: train_h5_1).

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
from spiketrack.errors import LabelError, SettingsError
from spiketrack.filters import NO_FILTERS, FilterSettings, filtered_recording
from spiketrack.recordings import Recording, load_labels, open_recording

EVENTS_SUFFIX, LABELS_SUFFIX, TIMES_SUFFIX = "_td.h5", "_bbox.npy", "_times.npy"

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelledSequence:
    """One recording with its labels, already repaired to fit its sensor.

    annotated: (N,) int64 microseconds, times at which every object has a label, so that one without labels is empty.
    """

    name: str
    path: Path
    width: int
    height: int
    labels: Boxes
    repairs: Counter[str]
    filters: FilterSettings = NO_FILTERS
    annotated: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def steps(self, slice_us: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        """The grid of time steps and the labelled ones, those known to be empty included (see `label_steps`)."""
        return label_steps(self.labels, slice_us, self.annotated)

    def open(self) -> Recording:
        """The events, after the filters; a new object at each call."""
        return filtered_recording(open_recording(self.path), self.filters)


def read_class_names(root: Path) -> tuple[str, ...]:
    """The class list of a data set, in the order of the class ids."""
    path = Path(root) / "classes.txt"
    if not path.is_file():
        raise SettingsError(f"{path}: no class list; write one class name a line, in the order of the class ids")
    names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    if not names or len(set(names)) < len(names):
        raise SettingsError(f"{path}: expected distinct class names, one a line, got {list(names)}")
    return names


def find_sequences(
    root: Path, split: str, class_names: tuple[str, ...], filters: FilterSettings = NO_FILTERS
) -> list[LabelledSequence]:
    """All labelled sequences of a split, sorted by name; their events go through the filters.

    A recording without a label file, or whose labels are all unusable, is left out and counted in the log; a split
    without any labelled sequence raises LabelError, a missing folder SettingsError. Where a split has several folders
    the folder is part of a sequence's name.
    """
    root = Path(root)
    folders = _split_folders(root, split)
    sequences, bare = [], []
    for path in sorted(path for folder in folders for path in folder.glob(f"*{EVENTS_SUFFIX}")):
        labels = _label_path(root, path, split)
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
        raise LabelError(
            f"{', '.join(map(str, folders))}: no labelled sequence; expected <name>{EVENTS_SUFFIX} with "
            f"<name>{LABELS_SUFFIX} beside it ({len(bare)} recordings without usable labels)"
        )
    repairs = sum((sequence.repairs for sequence in sequences), Counter())
    if repairs:
        log.warning("%s: labels were repaired: %s", split, ", ".join(f"{n} {kind}" for kind, n in repairs.items()))
    return sequences


def load_sequence(
    path: Path, labels_path: Path, class_names: tuple[str, ...], filters: FilterSettings = NO_FILTERS
) -> LabelledSequence:
    """One recording with its labels. Raises RecordingError or LabelError naming the file at fault."""
    recording = open_recording(path)
    labels, repairs = load_labels(labels_path, width=recording.width, height=recording.height, class_names=class_names)
    name = path.name.removesuffix(EVENTS_SUFFIX)
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
    labels: Boxes, slice_us: int, annotated: NDArray[np.int64] | None = None
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Lay a grid of time steps over a sequence so that labels fall on the ends of steps.

    Returns anchor_us, steps, times_us: step k covers [anchor + k * slice, anchor + (k + 1) * slice) and is labelled
    where a label time lies in (start, end]; the latest such time speaks for it. steps (L,) and times_us (L,) list
    the labelled steps in order. The grid is anchored at the first label time. annotated: label times without labels.
    """
    times = np.unique(labels.t if annotated is None else np.concatenate([labels.t, annotated]))
    if not len(times):
        return 0, times, times
    anchor = int(times[0]) % slice_us
    steps = (times - anchor - 1) // slice_us  # a label on the boundary belongs to the step that ends there
    latest = np.append(steps[1:] != steps[:-1], True)
    return anchor, steps[latest], times[latest]


def _split_folders(root: Path, split: str) -> list[Path]:
    base = root / "HDF5" if (root / "HDF5").is_dir() else root
    if not base.is_dir():
        raise SettingsError(f"{root}: no such data set; make one with `spiketrack simulate` or `spiketrack compose`")
    folders = sorted(f for f in base.iterdir() if f.is_dir() and (f.name == split or f.name.startswith(f"{split}_")))
    if not folders:
        present = sorted(f.name for f in base.iterdir() if f.is_dir())
        raise SettingsError(f"{base}: no folder for split {split!r}; there are {present or 'none'}")
    return folders


def _label_path(root: Path, events_path: Path, split: str) -> Path | None:
    name = events_path.name.removesuffix(EVENTS_SUFFIX) + LABELS_SUFFIX
    elsewhere = root / "class annotations" / f"eight_class_annotations_{split}" / name
    return next((path for path in (events_path.with_name(name), elsewhere) if path.is_file()), None)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
