"""Splits of classified samples: which ones train, which ones choose, which ones tell.

Station: before classified.py. In comes the root of N-MNIST or N-CARS, or of a data set with boxes (GEN1, eTraM), whose
boxes are then the samples; out come lists of samples. What is drawn at random here is the same in every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spiketrack.datasets.classified import Classified
from spiketrack.datasets.cutouts import find_cutouts
from spiketrack.datasets.etram import has_boxes, read_class_names
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.recordings import samples

SPLIT_SEED = 0


def find_classified(root: Path, split: str) -> tuple[list[Classified], tuple[str, ...]]:
    """The samples of a split ("train", "test"; with boxes any of its splits), and the class names by id.

    Raises RecordingError, LabelError or SettingsError naming what is missing.
    """
    if has_boxes(root):
        names = read_class_names(root)
        return [*find_cutouts(root, split, names)], names
    everything = samples(root)
    by_id = dict(sorted({sample.class_id: sample.class_name for sample in everything}.items()))
    found: list[Classified] = [sample for sample in everything if sample.split == split]
    if not found:
        there = ", ".join(sorted({sample.split for sample in everything}))
        raise RecordingError(f"{root}: no samples of the split {split!r}; there are those of {there}")
    return found, tuple(by_id.values())


def find_validation(root: Path, share: float) -> list[Classified]:
    """The samples to validate on: a share of each class of train, or the split val of a data set with boxes.

    The boxes of one recording are too much alike to be shared between the two. None where the share is 0.
    """
    if not share:
        return []
    if has_boxes(root):
        return find_classified(root, "val")[0]
    return hold_out(find_classified(root, "train")[0], share)[1]


def find_training(root: Path, share: float, keep: Mapping[str, float]) -> tuple[list[Classified], tuple[str, ...]]:
    """The samples to train on, those held out left out, and the class names. keep: see `thinned_classes`."""
    found, names = find_classified(root, "train")
    if not has_boxes(root):
        found = hold_out(found, share)[0]
    return thinned_classes(found, keep, names), names


def hold_out(found: Sequence[Classified], share: float) -> tuple[list[Classified], list[Classified]]:
    """Samples to train on, and a share of each class to validate on.

    Raises SettingsError where a class is too small to give one to each.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    held: set[int] = set()
    for class_id in sorted({sample.class_id for sample in found}):
        members = [i for i, sample in enumerate(found) if sample.class_id == class_id]
        count = max(1, round(share * len(members))) if share else 0
        if count >= len(members):
            raise SettingsError(
                f"class {found[members[0]].class_name}: its {len(members)} train samples cannot be shared between "
                f"training and validation (data.validation = {share}); expected at least 2, and a smaller share"
            )
        held.update(rng.permutation(members)[:count].tolist())
    return [s for i, s in enumerate(found) if i not in held], [s for i, s in enumerate(found) if i in held]


def thinned_classes(
    found: Sequence[Classified], keep: Mapping[str, float], class_names: Sequence[str]
) -> list[Classified]:
    """A share of the samples of each class that `keep` names, all of the others, in the same order.

    Raises SettingsError where it names no class of the list, or leaves nothing of one.
    """
    if unknown := [name for name in keep if name not in class_names]:
        raise SettingsError(f"data.keep: {', '.join(unknown)} is no class; they are {', '.join(class_names)}")
    rng = np.random.default_rng(SPLIT_SEED)
    kept = set(range(len(found)))
    for name in sorted(keep):
        members = [i for i, sample in enumerate(found) if sample.class_name == name]
        count = round(keep[name] * len(members))
        if members and not count:
            raise SettingsError(f"data.keep: {keep[name]} of the {len(members)} samples of {name} is none")
        kept -= set(rng.permutation(members)[count:].tolist())
    return [sample for i, sample in enumerate(found) if i in kept]
