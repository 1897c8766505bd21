"""Masks of pixels as files: .npy arrays (H, W) of bool, which every tool of the field can write and look at."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import SettingsError
from spiketrack.replacing import write_whole


def save_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write a mask (H, W) bool; SettingsError naming the file where that fails."""
    content = io.BytesIO()
    np.save(content, np.asarray(mask, np.bool_), allow_pickle=False)
    write_whole(path, content.getvalue(), SettingsError)


def load_mask(path: Path, width: int, height: int) -> NDArray[np.bool_]:
    """The mask (H, W) bool of a sensor; SettingsError naming the file where it is none."""
    try:
        # mapped: a header that claims more than the file holds is refused before memory is asked for
        mask = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SettingsError(f"{path}: not a readable .npy mask ({' '.join(str(error).split())})") from error
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (height, width):
        found = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else "an archive of arrays"
        raise SettingsError(f"{path}: expected a mask of bool, shape {(height, width)} (rows, columns), got {found}")
    return np.array(mask)
