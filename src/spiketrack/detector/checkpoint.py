"""Checkpoints: files that hold a network, everything needed to rebuild it, and the state of a training run.

Station: training writes them, everything that infers reads them. A checkpoint is written beside its final name and
renamed, so a killed process or a full disk never costs the one that is already there. It is read without executing
code (`weights_only`).
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from spiketrack.errors import CheckpointError
from spiketrack.replacing import write_whole

KIND = "spiketrack checkpoint"
VERSION = 1


def save_checkpoint(path: Path, content: dict[str, Any], max_bytes: int | None = None) -> None:
    """Write tensors, numbers, strings, lists and dicts under `path`, atomically.

    Raises CheckpointError where it cannot be written (no space, no permission) or would be larger than max_bytes;
    what lay there before stays.
    """
    buffer = io.BytesIO()
    torch.save({"kind": KIND, "version": VERSION, **content}, buffer)
    if max_bytes is not None and buffer.getbuffer().nbytes > max_bytes:
        raise CheckpointError(f"{path}: would have {buffer.getbuffer().nbytes:,} bytes, at most {max_bytes:,} may be")
    write_whole(Path(path), buffer.getbuffer(), CheckpointError)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, on the CPU. Raises CheckpointError for anything else."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    if not zipfile.is_zipfile(path):  # what torch.save writes; a cut file has lost its directory, which is at the end
        raise CheckpointError(f"{path}: not a readable checkpoint (not a zip file, or cut)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason})") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise CheckpointError(f"{path}: a torch file, but not a checkpoint of spiketrack")
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path}: checkpoint version {content.get('version')}, this spiketrack reads {VERSION}")
    return content


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Fill a model, every tensor of it and nothing else.

    Raises CheckpointError that names the first tensors which are missing, surplus or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = [f"{name} is missing" for name in expected if name not in given]
    faults += [f"{name} is not in the model" for name in given if name not in expected]
    faults += [
        f"{name} is {given[name]}, the model has {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(
            f"{path}: the weights are of another model: {'; '.join(faults[:3])}{more}; "
            "build the model with the settings stored in the checkpoint"
        )
    model.load_state_dict(weights)
