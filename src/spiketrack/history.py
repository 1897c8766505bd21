"""History: what every epoch of a training run came to, in `history.json` beside its checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from spiketrack.errors import CheckpointError
from spiketrack.replacing import write_whole


@dataclass(frozen=True)
class EpochRecord:
    """Mean loss terms of an epoch; None are terms that the network's loss has not, and val_* without validation."""

    epoch: int
    loss: float
    box: float
    classes: float
    positives: float
    learning_rate: float
    val_map: float | None
    val_ap50: float | None
    dfl: float | None = None
    track: float | None = None
    partnered: float | None = None
    background: float | None = None


def write_history(path: Path, history: list[EpochRecord]) -> None:
    """One JSON list. Raises CheckpointError where it cannot be written."""
    write_whole(path, json.dumps([asdict(record) for record in history], indent=1), CheckpointError)


def read_history(path: str | Path) -> list[EpochRecord]:
    """The records of a run's `history.json`. Raises CheckpointError where the file is no such list."""
    path = Path(path)
    try:
        return [EpochRecord(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
    except OSError as error:
        raise CheckpointError(f"{path}: the history cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a history of a training run ({error})") from error
