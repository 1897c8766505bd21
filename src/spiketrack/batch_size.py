"""Batch size: the largest batch whose training steps fit into the memory that is free.

Station: before a training run. In come a function that builds a run with batches of a given size, and how much of the
free memory it may take; out go the number and what was measured. Peak memory of a step is very nearly a line,
peak(B) = a + b B (weights, gradients and their averages; activations of every sample), so that a few small batches tell
what large ones take; the batch that the line allows is then tried, and where it fails one between it and the largest
that fitted.

On the CPU each size runs in a process of its own, so that a peak holds nothing of the size before, and a process that
the system kills for want of memory is an answer, not the end. With CUDA the allocator counts. The number depends on
the machine and on what else runs there: a run keeps the one that it began with.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch

from spiketrack.errors import SettingsError
from spiketrack.experiment import Experiment, load_experiment, trainer_of
from spiketrack.pipeline import usable_device
from spiketrack.training import Progress, Trainer

FIRST_SIZES = (2, 4, 8)
MOST = 256
"""No larger batch is looked for: it would leave too few updates."""

_STEPS = 2  # of each size: the second has the optimizer's state, and the next batch beside it
_CORRECTIONS = 4
_ROUNDING = 1e-6

MakeTrainer = Callable[[int], Trainer]
"""A batch size to a run at its beginning, with at least three epochs and no validation in the first two."""


@dataclass(frozen=True)
class BatchSize:
    """What was found. measured: peak bytes by batch size, None where memory did not suffice. fixed, per_sample: bytes
    of the line through them. budget: bytes that were allowed."""

    size: int
    measured: Mapping[int, int | None]
    fixed: float
    per_sample: float
    budget: int

    @property
    def sentence(self) -> str:
        """For the log."""
        tried = ", ".join(f"{n}: {_megabytes(peak)}" for n, peak in sorted(self.measured.items()))
        return (
            f"batches of {self.size}: a step takes {self.fixed / 1e6:.0f} MB and {self.per_sample / 1e6:.1f} MB a "
            f"sample, {self.budget / 1e6:.0f} MB may be used (measured {tried})"
        )


def with_found_batch_size(experiment: Experiment, run_dir: Path, resume: bool) -> tuple[Experiment, BatchSize | None]:
    """The experiment with the batch size that its `training.batch_memory` allows, and what was measured.

    One that asks for nothing comes back as it is. resume: the number of the run that stands in run_dir is taken; it has
    been found before.
    """
    share = experiment.training.batch_memory
    if share is None:
        return experiment, None
    if experiment.training.multi_scale:
        raise SettingsError(
            "training.batch_memory measures the first steps of a run, with training.multi_scale later ones may need "
            "more; give training.batch_size and leave batch_memory null"
        )
    if resume:
        return _of_size(experiment, load_experiment(run_dir / "experiment.yaml").training.batch_size), None
    device, cache = usable_device(experiment.training.device), experiment.data.cache_bytes
    with TemporaryDirectory(prefix="spiketrack-batch-") as folder:
        found = find_batch_size(partial(_short_run, experiment, Path(folder)), device, share, cache)
    return _of_size(experiment, found.size), found


def _of_size(experiment: Experiment, size: int, **changes: int) -> Experiment:
    training = experiment.training.model_copy(update={"batch_size": size, "batch_memory": None, **changes})
    return experiment.model_copy(update={"training": training})


def _short_run(experiment: Experiment, folder: Path, size: int) -> Trainer:
    """A run of batches of that size which validates and caches nothing."""
    data = experiment.data.model_copy(update={"cache_mb": 0})
    long = _of_size(experiment, size, epochs=_STEPS + 2, validate_every=_STEPS + 2)
    return trainer_of(long.model_copy(update={"data": data}), folder)


def find_batch_size(make_trainer: MakeTrainer, device: torch.device, share: float, reserved: int = 0) -> BatchSize:
    """The largest batch whose steps fit into a share of the memory that is free now, on the device they run on.

    make_trainer: on the CPU it is sent to other processes, so that it has to be a function of a module, or a
    functools.partial of one. reserved: bytes of main memory that something else will take, such as a cache of events.
    Raises SettingsError where not even one sample fits.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return largest_batch(lambda size: _peak_on_cuda(make_trainer, size, device), int(share * free))
    budget = int(share * max(free_memory() - reserved, 0))
    return largest_batch(lambda size: _peak_of_process(make_trainer, size), budget)


def largest_batch(peak: Callable[[int], int | None], budget: int, most: int = MOST) -> BatchSize:
    """The largest batch with peak(batch) <= budget, from a few measurements; 1 .. most.

    peak: bytes of a batch, None where memory does not suffice. Raises SettingsError where a batch of 1 does not fit.
    """
    measured: dict[int, int | None] = {}

    def fits(size: int) -> bool:
        if size not in measured:
            measured[size] = peak(size)
        found = measured[size]
        return found is not None and found <= budget

    for size in FIRST_SIZES:
        if size > most or not fits(size):
            break
    if not any(fits(size) for size in [*measured]) and not fits(1):
        raise SettingsError(
            f"not even a batch of 1 fits: it takes {_megabytes(measured[1])}, {budget / 1e6:.0f} MB may be used; "
            "allow more memory, make training.steps or the input smaller, or set training.recompute"
        )
    for _ in range(_CORRECTIONS):
        guess = _allowed(measured, budget, most)
        if fits(guess):
            return BatchSize(guess, measured, *line_above(measured), budget)
    best = max(size for size in measured if fits(size))
    return BatchSize(best, measured, *line_above(measured), budget)


def line_above(measured: Mapping[int, int | None]) -> tuple[float, float]:
    """(a, b) of the line a + b B through the peaks, by least squares, raised so that none lies above it; b >= 0."""
    points = [(size, peak) for size, peak in measured.items() if peak is not None]
    mean_size = sum(size for size, _ in points) / len(points)
    mean_peak = sum(peak for _, peak in points) / len(points)
    spread = sum((size - mean_size) ** 2 for size, _ in points)
    along = sum((size - mean_size) * (peak - mean_peak) for size, peak in points)
    slope = max(along / spread, 0.0) if spread else 0.0
    return max(peak - slope * size for size, peak in points), slope


def _allowed(measured: Mapping[int, int | None], budget: int, most: int) -> int:
    """What to try next: what the line allows, or where that failed what lies between it and the largest that fitted."""
    fitted = max((n for n, peak in measured.items() if peak is not None and peak <= budget), default=1)
    failed = min((n for n, peak in measured.items() if peak is None or peak > budget), default=None)
    if failed is None:
        fixed, slope = line_above(measured)
        allowed = int((budget - fixed) / slope + _ROUNDING) if slope else most
        return min(max(fitted, allowed), most)
    low, high = measured[fitted], measured[failed]
    if low is None or high is None:  # killed: nothing tells by how much it was too large
        return math.isqrt(fitted * failed)
    return min(fitted + int((budget - low) / (high - low) * (failed - fitted) + _ROUNDING), failed - 1)


def free_memory() -> int:
    """Bytes that this process could still take: of the machine, or of the control group it runs in."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max", or no such group
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        free = min(free, max(limit - used, 0))
    return free


class _Enough(Exception):
    """The steps are done."""


def _run(trainer: Trainer) -> None:
    def told(progress: Progress) -> None:
        if progress.steps_done == _STEPS:
            raise _Enough

    with suppress(_Enough):
        trainer.run(told)


def _peak_of_process(make_trainer: MakeTrainer, size: int) -> int | None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_peak_here, make_trainer, size).result()
        except BrokenProcessPool:  # killed
            return None


def _peak_here(make_trainer: MakeTrainer, size: int) -> int | None:
    try:
        _run(make_trainer(size))
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            return None
        raise
    return _peak_bytes()


def _peak_bytes() -> int:
    """Most memory that this process ever had. Linux's own counter begins anew with a program, rusage's does not."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peak_on_cuda(make_trainer: MakeTrainer, size: int, device: torch.device) -> int | None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    try:
        _run(make_trainer(size))
        return torch.cuda.max_memory_reserved(device)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            return None
        raise
    finally:
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says so; on the CPU it has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)


def _megabytes(peak: int | None) -> str:
    return "too much" if peak is None else f"{peak / 1e6:.0f} MB"
