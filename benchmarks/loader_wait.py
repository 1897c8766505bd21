"""How long a training run waits for its samples.

    python benchmarks/loader_wait.py EXPERIMENT.yaml [--set KEY=VALUE ...] [--steps 40] [--rows NAME ...]

The run of the experiment from its first step, in a temporary folder, STEPS steps for each row, after three that do not
count. Rows: a memory for events that is empty at the beginning, as every run has (cold); no such memory, every sample
read from its file (uncached); all recordings in memory (cached); cached with every sample a mosaic of four;
cached with events that the device of the network counts (to device); and read from a disk cache that was filled before
(on disk: `data.cache_dir`, in the folder for temporary files). MB: what a batch takes to the device. Waited: of the
wall time of the steps, the share in which the network had no batch (Progress.waited). Loader: CPU time that a
batch takes where nothing else runs, beside the CPU time of a step less that: what the loader would have to exceed to
hold a second core back. The network works on as many threads as OMP_NUM_THREADS says.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from spiketrack.experiment import load_experiment, trainer_of
from spiketrack.progress import Progress
from spiketrack.representations.flat import FlatEvents
from spiketrack.training import Trainer

WARM_UP = 3
ROWS = {
    "cold": [],
    "uncached": ["data.cache_mb=0"],
    "cached": [],
    "cached, mosaic": ["data.augment.mosaic=1.0"],
    "cached, to device": ["training.encode_on=device"],
    "on disk": [],  # data.cache_dir, a folder of its own
}


class _Enough(Exception):
    """So many steps were seen."""


def loader_seconds(trainer: Trainer, batches: int) -> float:
    """CPU seconds of a batch, of those that the run begins with."""
    made = trainer.samples.epoch(0)
    next(made)
    began = time.process_time()
    count = sum(1 for _ in islice(made, batches))
    return (time.process_time() - began) / max(count, 1)


def megabytes(events: Tensor | FlatEvents) -> float:
    parts = (events,) if isinstance(events, Tensor) else (events.clock, events.place, events.counts, events.areas)
    return sum(part.nbytes for part in parts) / 1e6


def read_all(trainer: Trainer) -> None:
    """Every recording once, so that it stays in memory where it fits."""
    for _ in trainer.samples.epoch(0):
        pass


def waiting(trainer: Trainer, steps: int) -> tuple[float, float, float]:
    """Of the steps: share of wall time waited, wall seconds and CPU seconds a step."""
    begin: dict[str, float] = {}
    end: dict[str, float] = {}

    def told(progress: Progress) -> None:
        if progress.steps_done == WARM_UP:
            begin.update(waited=progress.waited, seconds=progress.seconds, cpu=time.process_time())
        if progress.steps_done == WARM_UP + steps:
            end.update(waited=progress.waited, seconds=progress.seconds, cpu=time.process_time())
            raise _Enough

    try:
        trainer.run(told)
    except _Enough:
        seconds = end["seconds"] - begin["seconds"]
        return (end["waited"] - begin["waited"]) / seconds, seconds / steps, (end["cpu"] - begin["cpu"]) / steps
    raise SystemExit(f"the run has fewer than {WARM_UP + steps} steps")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--set", dest="overrides", nargs="+", default=[])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    arguments = parser.parse_args()
    long = arguments.steps + WARM_UP + 2
    bounded = [f"training.epochs={long}", f"training.validate_every={long}", "training.checkpoint_every=100000"]
    print(f"{arguments.experiment}, {torch.get_num_threads()} threads, {arguments.steps} steps a row")
    print(f"{'':<18}{'waited':>9}{'wall s/step':>13}{'CPU s/step':>12}{'loader CPU s/batch':>20}{'MB':>7}")
    for name in arguments.rows:
        with tempfile.TemporaryDirectory() as folder:
            own = [f"data.cache_dir={folder}/events"] if name == "on disk" else ROWS[name]
            experiment = load_experiment(arguments.experiment, [*arguments.overrides, *bounded, *own])
            trainer = trainer_of(experiment, Path(folder))
            if name.startswith("cached"):
                read_all(trainer)
            loader = loader_seconds(trainer, 10) if name != "cold" else float("nan")
            size = megabytes(next(trainer.samples.epoch(0)).events)
            waited, wall, cpu = waiting(trainer, arguments.steps)
        print(f"{name:<18}{waited:>8.1%}{wall:>13.3f}{cpu:>12.3f}{loader:>20.3f}{size:>7.2f}", flush=True)


if __name__ == "__main__":
    main()
