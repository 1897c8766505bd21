"""GEN1: what its files do not say, and how a folder of it is recognised.

Station: beside etram.py, which finds the sequences of either layout. GEN1 is published as folders `train`, `val` and
`test` (or `train_a` ... `train_f`) of `<name>_td.dat` with `<name>_bbox.npy` beside it, 60 s each, 304 x 240 pixels,
without a list of classes. Source: de Tournemire et al., "A large scale event-based detection dataset for automotive",
2020.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spiketrack.errors import RecordingError
from spiketrack.recordings.header import MAX_HEADER_BYTES, read_header, sensor_size

GEN1_CLASSES = ("car", "pedestrian")
GEN1_SIZE = (304, 240)  # width, height
GEN1_FOLDER = "detection_dataset_duration_60s_ratio_1.0"  # in which its archives unpack
DAT_SUFFIX = "_td.dat"

_MAX_SIDE = 1 << 14  # 14 bits of a DAT word


def dat_size(path: Path) -> tuple[int, int]:
    """Width and height that the header of a DAT file gives; those of GEN1 where it gives none, as old files do.

    Raises RecordingError where the file cannot be read or its header is broken.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be opened: {error.strerror}") from error
    width, height = sensor_size(read_header(head, path), path, _MAX_SIDE)
    return width or GEN1_SIZE[0], height or GEN1_SIZE[1]


def is_gen1(folders: Iterable[Path]) -> bool:
    """Whether folders hold GEN1: the first DAT recording of any is of its sensor."""
    first = min((path for folder in folders for path in folder.glob(f"*{DAT_SUFFIX}")), default=None)
    return first is not None and dat_size(first) == GEN1_SIZE
