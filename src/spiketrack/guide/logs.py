"""Logs: the files and lines that the guides promise, and the messages of their table of troubles.

Station: in come the progress of a training run and its epochs, out go lines of the logger `spiketrack.guide`; `log_to`
puts what all of the package logs into a file. The guides' four terms add up to the total: "Box Loss" is CIoU and the
distribution of the sides, "Class Loss" what class logits cost that an object is the reason of, "Obj Loss" what the
logits of no object cost (there is no objectness output), "Track Loss" the contrastive term of the embeddings.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from spiketrack.errors import SettingsError
from spiketrack.history import EpochRecord
from spiketrack.training import Progress

log = logging.getLogger(__name__)

_LONG_RUN_S = 3600.0
_WAITING = 0.5  # share of an epoch's time that says that reading is the brake
_SHORT_EPOCH_S = 5.0  # of such an epoch no share of time says anything
_NO_GAIN_EPOCHS = 5
_FILES_SHOWN = 3


@contextmanager
def log_to(path: Path, level: str, line_format: str) -> Generator[None]:
    """Everything that the package logs from `level` on goes to a file, too. Raises SettingsError where it cannot."""
    package = logging.getLogger("spiketrack")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: the log file cannot be written ({error.strerror})") from error
    try:
        handler.setFormatter(logging.Formatter(line_format))
    except ValueError as error:
        handler.close()
        raise SettingsError(f"logging.format: {line_format!r} is no format of Python's logging ({error})") from error
    before = package.level
    package.setLevel(level)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)
        handler.close()


@contextmanager
def samples_logged(always: bool) -> Generator[None]:
    """Where wanted, a line for each sample that is read, whatever the level of the other lines."""
    reader = logging.getLogger("spiketrack.datasets.samples")
    before = reader.level
    if always:
        reader.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        reader.setLevel(before)


class TrainingLog:
    """Writes the lines of one run; pass its methods to `Trainer.run`."""

    def __init__(self, print_every: int, device: str) -> None:
        self.print_every, self.device = print_every, device
        self._files: dict[str, int] = {}
        self._terms: dict[str, float] = {}
        self._epoch_began = (0.0, 0.0, 0)  # seconds, seconds waited, steps
        self._last: Progress | None = None
        self._losses: list[float] = []

    def on_step(self, progress: Progress) -> None:
        """A line every `print_every` batches and for the last of an epoch."""
        self._last = progress
        for name in progress.samples:
            file = re.sub(r" step -?\d+$", "", name)
            self._files[file] = self._files.get(file, 0) + 1
        for name, value in progress.terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value
        if progress.batch % self.print_every == 0 or progress.batch == progress.batches:
            log.info(
                "Epoch %d, Batch %d/%d: %s", progress.epoch, progress.batch, progress.batches, losses(progress.terms)
            )
            log.info(
                "Learning rate: %.3e, %s | Files: %s",
                progress.learning_rate,
                _matches(progress.terms, 1),
                _some(list(dict.fromkeys(re.sub(r" step -?\d+$", "", name) for name in progress.samples))),
            )

    def on_epoch(self, record: EpochRecord) -> None:
        """The summary of an epoch, and what there is to say against its course."""
        progress = self._last
        if progress is None:
            return
        seconds, waited, steps = (
            now - before
            for now, before in zip(
                (progress.seconds, progress.waited, progress.steps_done), self._epoch_began, strict=True
            )
        )
        steps = max(int(steps), 1)
        log.info("EPOCH %d SUMMARY: %.1f s, %.0f %% of them waiting for samples", record.epoch, seconds,
                 100 * waited / max(seconds, 1e-9))  # fmt: skip
        log.info(
            "Train Loss: %.4f, Validation mAP: %s, mAP50: %s",
            record.loss,
            _score(record.val_map),
            _score(record.val_ap50),
        )
        log.info("Matching: %s a step", _matches(self._terms, steps))
        log.info("Files processed: %d, samples: %d", len(self._files), sum(self._files.values()))
        log.info("Learning rate updated to: %.3e", progress.learning_rate)
        if self.device.startswith("cuda"):
            log.info("%s", gpu_use(torch.device(self.device)))
        self._losses.append(record.loss)
        for message in (
            slow_training(seconds, waited, steps, progress.total_steps, self.device),
            poor_convergence(self._losses),
        ):
            if message:
                log.warning("epoch %d: %s", record.epoch, message)
        self._files.clear()
        self._terms.clear()
        self._epoch_began = (progress.seconds, progress.waited, progress.steps_done)


def losses(terms: Mapping[str, float]) -> str:
    """The guides' loss terms, which add up to the total; those that the network has not are left out."""
    background = terms.get("background")
    named = {
        "Total": terms["total"],
        "Box": terms["box"] + terms.get("dfl", 0.0),
        "Class": terms["classes"] - (background or 0.0),
        "Obj": background,
        "Track": terms.get("track"),
    }
    return ", ".join(f"{name} Loss = {value:.4f}" for name, value in named.items() if value is not None)


def slow_training(seconds: float, waited: float, steps: int, total_steps: int, device: str) -> str | None:
    """A sentence where an epoch waited mostly for samples, or the run will take long on a CPU."""
    if seconds > _SHORT_EPOCH_S and waited > _WAITING * seconds:
        return (
            f"slow training: {waited / seconds:.0%} of the time went into waiting for samples; set "
            "data_processing.cache_samples or preload_all_samples, lower max_samples_per_file, or move the data to a "
            "faster disk"
        )
    whole = seconds / steps * total_steps
    if device == "cpu" and whole > _LONG_RUN_S:
        return (
            f"slow training: {seconds / steps:.2f} s a step on the CPU, {whole / 3600:.1f} h for the run; take a GPU "
            "(--device cuda), a smaller architecture.scale, or smaller data_processing.image_width and image_height"
        )
    return None


def poor_convergence(losses_of_epochs: list[float]) -> str | None:
    """A sentence where the loss of an epoch is not below that of some epochs ago."""
    if len(losses_of_epochs) <= _NO_GAIN_EPOCHS:
        return None
    before, now = losses_of_epochs[-1 - _NO_GAIN_EPOCHS], losses_of_epochs[-1]
    if now < before:
        return None
    return (
        f"poor convergence: the mean loss is {now:.3f}, {_NO_GAIN_EPOCHS} epochs ago it was {before:.3f}; lower "
        "--learning_rate or lengthen training.warmup_epochs, raise --batch_size or gradient_accumulation_steps, and "
        "compare labels and detections in the pictures of an evaluation"
    )


def out_of_memory(batch_size: int) -> str:
    """What to do where the memory does not suffice."""
    return (
        f"out of memory with batches of {batch_size}: lower --batch_size, --time_steps or data_processing.image_width "
        "and image_height, set training.use_gradient_checkpointing or use_amp, or take a smaller architecture.scale"
    )


def gpu_use(device: torch.device) -> str:
    """Memory of this process on a GPU and, where the driver tells, how busy the GPU is."""
    used, peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    total = torch.cuda.get_device_properties(device).total_memory
    line = f"GPU memory: {used / 2**20:.0f} MiB, at most {peak / 2**20:.0f} of {total / 2**20:.0f} MiB"
    try:
        return f"{line}, GPU utilization: {torch.cuda.utilization(device)} %"
    except (ImportError, RuntimeError):  # the driver's interface is not installed
        return f"{line}, GPU utilization: unknown (pip install nvidia-ml-py)"


def _matches(terms: Mapping[str, float], steps: int) -> str:
    text = f"{terms['positives'] / steps:.1f} positive locations"
    return f"{text}, {terms['partnered'] / steps:.1f} with a partner" if "partnered" in terms else text


def _score(value: float | None) -> str:
    return "not validated" if value is None else f"{value:.4f}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:_FILES_SHOWN]) + (
        f" (+{len(names) - _FILES_SHOWN} more)" if len(names) > _FILES_SHOWN else ""
    )
