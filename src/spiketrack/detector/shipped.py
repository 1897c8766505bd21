"""Shipped: the network that comes with the package, and how its file is made from a training run.

Station: in comes the checkpoint of a training run, out goes a small one with the detector alone, its weights as
float16. `Detector.load` reads both. What is in the file is told in docs/model_card.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiketrack.detector.checkpoint import load_checkpoint, save_checkpoint
from spiketrack.errors import CheckpointError

SHIPPED = Path(__file__).parents[1] / "weights" / "traffic.pt"
MAX_BYTES = 4_000_000
DETECTOR_KEYS = ("model", "input", "decoding", "class_names")
OPTIONAL_KEYS = ("pruned",)


def shipped_weights() -> Path:
    """The checkpoint of the network that comes with the package. Raises CheckpointError where it is missing."""
    if not SHIPPED.is_file():
        raise CheckpointError(
            f"{SHIPPED}: this installation has no shipped network; install spiketrack anew, or give --weights"
        )
    return SHIPPED


def write_shipped(checkpoint_path: Path | str, out_path: Path | str, about: dict[str, Any]) -> int:
    """Write the detector of a checkpoint with weights of half the size, without the state of the run; returns bytes.

    about: what a reader should know of the network (data, date, version): strings and numbers, kept under "about".
    Raises CheckpointError where there is no detector to write, a weight does not fit into float16, or the file would
    be larger than MAX_BYTES; nothing is written then.
    """
    source, out_path = Path(checkpoint_path), Path(out_path)
    content = load_checkpoint(source)
    missing = [key for key in (*DETECTOR_KEYS, "weights") if key not in content]
    if missing:
        raise CheckpointError(f"{source}: the checkpoint does not describe a detector (no {', '.join(missing)})")
    weights = {name: _halved(name, tensor, source) for name, tensor in content["weights"].items()}
    detector = {key: content[key] for key in (*DETECTOR_KEYS, *OPTIONAL_KEYS) if key in content}
    save_checkpoint(out_path, {**detector, "weights": weights, "about": dict(about)}, MAX_BYTES)
    return out_path.stat().st_size


def _halved(name: str, tensor: Tensor, path: Path) -> Tensor:
    """The tensor as float16 where it holds real numbers. Raises CheckpointError where one is lost to infinity."""
    if not tensor.is_floating_point():
        return tensor.clone()
    if not torch.isfinite(half := tensor.half()).all():
        raise CheckpointError(
            f"{path}: {name} has a value of {float(tensor.abs().max()):g}, float16 holds up to 65504; it cannot ship"
        )
    return half
