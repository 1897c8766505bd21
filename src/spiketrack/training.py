"""Training: a detector learns from labelled sequences.

Station: in come settings and sequences, out come checkpoints and a history. Everything random follows from the seed
and the place in the run, and the checkpoint holds the rest, so a run that was killed and resumed gives the losses and
the weights of the uninterrupted one (same machine, same number of threads).

Files of a run: `last.pt` (network, and the state of the run), `best.pt` (the averaged network with the best validation
mAP), `history.json` (one record per epoch).
"""

from __future__ import annotations

import copy
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from spiketrack.datasets.etram import LabelledSequence
from spiketrack.datasets.sequences import Batch, TrainingSamples, read_ahead
from spiketrack.detector.checkpoint import load_checkpoint, load_weights, save_checkpoint
from spiketrack.detector.loss import DetectionLoss, LossSettings, LossTerms
from spiketrack.errors import CheckpointError, TrainingError
from spiketrack.evaluation import EvaluationSettings, evaluate
from spiketrack.pipeline import Detector, usable_device
from spiketrack.replacing import write_whole
from spiketrack.spiking.allocation import keep_freed_memory
from spiketrack.tracking import ByteTrackSettings

log = logging.getLogger(__name__)


class TrainingSettings(BaseModel):
    """How to train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(10, ge=1, description="passes over the training sequences")
    batch_size: int = Field(8, ge=1, description="samples per step")
    steps: int = Field(4, ge=1, description="T, consecutive time steps of a sample; the loss is taken at each")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="update rule")
    learning_rate: float = Field(2e-3, gt=0, description="largest learning rate")
    final_rate: float = Field(0.02, gt=0, le=1, description="last learning rate, as a share of the largest (cosine)")
    warm_up: float = Field(0.05, ge=0, lt=1, description="share of the run in which the rate rises linearly")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd, first beta of adamw")
    weight_decay: float = Field(0.01, ge=0, description="decay of convolution weights; biases and norms have none")
    clip_norm: float = Field(10.0, gt=0, description="gradients are scaled down to this norm")
    ema: float = Field(0.995, ge=0, lt=1, description="decay of the moving average of the weights, per step")
    validate_every: int = Field(1, ge=1, description="epochs between validations; the last epoch always has one")
    checkpoint_every: int = Field(100, ge=1, description="optimizer steps between checkpoints")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="of the network's forward and backward pass (weights, loss and inference stay float32); auto is "
        "bfloat16 where the processor computes it natively",
    )
    device: str = Field("cpu", description="cpu, cuda or cuda:N")
    loss: LossSettings = Field(LossSettings(), description="gains and forms of the loss terms")


@dataclass(frozen=True)
class Progress:
    """Where a run stands, after an optimizer step. seconds: spent in this process; steps_done of them in it."""

    epoch: int
    epochs: int
    step: int
    total_steps: int
    steps_done: int
    seconds: float
    loss: float
    learning_rate: float

    @property
    def seconds_left(self) -> float:
        """At the rate so far in this process."""
        return (self.total_steps - self.step) * self.seconds / self.steps_done


@dataclass(frozen=True)
class EpochRecord:
    """Mean loss terms of an epoch; val_* are None in epochs without validation."""

    epoch: int
    loss: float
    box: float
    classes: float
    dfl: float
    positives: float
    learning_rate: float
    val_map: float | None
    val_ap50: float | None


class Trainer:
    """One training run: the network, its average, the optimizer and the place in the schedule."""

    def __init__(
        self,
        detector: Detector,
        samples: TrainingSamples,
        validation: Sequence[LabelledSequence],
        settings: TrainingSettings,
        evaluation: EvaluationSettings,
        run_dir: Path,
    ) -> None:
        self.detector, self.samples, self.validation = detector, samples, validation
        self.settings, self.evaluation, self.run_dir = settings, evaluation, run_dir
        self.model = detector.model.to(usable_device(settings.device))
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = make_optimizer(self.model, settings)
        native = settings.precision == "auto" and native_bfloat16(torch.device(settings.device))
        self.bfloat16 = settings.precision == "bfloat16" or native
        log.info("training in %s on %s", "bfloat16" if self.bfloat16 else "float32", settings.device)
        self.loss = DetectionLoss(settings.loss)
        self.batches = [samples.batches_per_epoch(epoch) for epoch in range(settings.epochs)]
        self.epoch, self.batch, self.step = 0, 0, 0
        self.best_map = -1.0
        self.history: list[EpochRecord] = []
        self._sums = torch.zeros(5, dtype=torch.float64)
        keep_freed_memory()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return sum(self.batches)

    def run(
        self,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    ) -> bool:
        """Train from where the run stands to its end. Returns False if SIGINT or SIGTERM asked to stop.

        A stop waits for the step in progress and writes `last.pt`; `resume` continues from it.
        """
        started, first_step = time.monotonic(), self.step
        with stop_requested() as stop:
            while self.epoch < self.settings.epochs:
                for batch in read_ahead(self.samples.epoch(self.epoch, self.batch)):
                    terms, rate = self._step(batch)
                    self._sums += torch.stack(terms).detach().double().cpu()
                    self.batch, self.step = self.batch + 1, self.step + 1
                    stopping = stop()  # asked once a step: a signal that comes later waits for the next one
                    if stopping or self.step % self.settings.checkpoint_every == 0:
                        self.save()
                    seconds, done = time.monotonic() - started, self.step - first_step
                    on_step(
                        Progress(
                            self.epoch + 1,
                            self.settings.epochs,
                            self.step,
                            self.total_steps,
                            done,
                            seconds,
                            float(terms.total.detach()),
                            rate,
                        )
                    )
                    if stopping:
                        return False
                on_epoch(self._end_epoch())
        return True

    def _step(self, batch: Batch) -> tuple[LossTerms, float]:
        """One optimizer step; returns the loss terms and the learning rate."""
        settings = self.settings
        rate = learning_rate(settings, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        device = settings.device
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.bfloat16):
            predictions, _ = self.model(batch.events.to(device).float())
        labels = type(batch.labels)(*(tensor.to(device) for tensor in batch.labels))
        terms = self.loss(predictions, labels, batch.labelled.to(device))
        self._raise_unless_finite("loss", terms.total.detach(), batch)
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self._raise_unless_finite("norm of the gradient", norm, batch)
        self.optimizer.step()
        update_average(self.average, self.model, settings.ema, self.step)
        return terms, rate

    def _raise_unless_finite(self, what: str, value: Tensor, batch: Batch) -> None:
        if not torch.isfinite(value):
            raise TrainingError(
                f"the {what} is {float(value)} at epoch {self.epoch + 1}, step {self.step + 1} (samples: "
                f"{', '.join(batch.names)}); lower training.learning_rate or look at these samples. "
                f"{self.run_dir / 'last.pt'} holds the state of the last checkpoint"
            )

    def _end_epoch(self) -> EpochRecord:
        loss, box, classes, dfl, positives = (self._sums / max(self.batch, 1)).tolist()
        val_map = val_ap50 = None
        last = self.epoch + 1 == self.settings.epochs
        if last or (self.epoch + 1) % self.settings.validate_every == 0:
            averaged = self.averaged()
            scores = evaluate(averaged, self.validation, self.evaluation, ByteTrackSettings()).detection
            val_map, val_ap50 = scores.map, scores.ap50
            if val_map > self.best_map:
                self.best_map = val_map
                save_checkpoint(self.run_dir / "best.pt", averaged.content())
        rate = learning_rate(self.settings, max(self.step - 1, 0), self.total_steps)
        record = EpochRecord(self.epoch + 1, loss, box, classes, dfl, positives, rate, val_map, val_ap50)
        self.history.append(record)
        self.epoch, self.batch = self.epoch + 1, 0
        self._sums.zero_()
        self.save()
        write_history(self.run_dir / "history.json", self.history)
        return record

    def averaged(self) -> Detector:
        """The detector with the averaged weights."""
        detector = self.detector
        return Detector(self.average, detector.input, detector.decoding, detector.class_names)

    def save(self) -> None:
        """Write `last.pt`: the averaged detector, and all that `resume` needs."""
        run = {
            "settings": self._settings(),
            "batches": self.batches,
            "place": [self.epoch, self.batch, self.step],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_map": self.best_map,
            "sums": self._sums,
            "history": [asdict(record) for record in self.history],
        }
        save_checkpoint(self.run_dir / "last.pt", {**self.averaged().content(), "run": run})

    def _settings(self) -> dict[str, Any]:
        """Every setting that the result of the run follows from, under the keys of an experiment file."""
        described = {key: value for key, value in self.averaged().content().items() if key != "weights"}
        return {
            **described,
            "seed": self.samples.seed,
            "data": {"augment": self.samples.augment.model_dump()},
            "training": self.settings.model_dump(exclude={"device"}),
            "evaluation": self.evaluation.model_dump(),
        }

    def resume(self) -> None:
        """Continue from `last.pt`. Raises CheckpointError where it is of another run."""
        path = self.run_dir / "last.pt"
        content = load_checkpoint(path)
        run: dict[str, Any] | None = content.get("run")
        if run is None:
            raise CheckpointError(f"{path}: holds a network but no training run to resume")
        differing = _differing(run["settings"], self._settings())
        if differing or run["batches"] != self.batches:
            what = f"settings ({', '.join(differing)})" if differing else "training data"
            raise CheckpointError(f"{path}: of a run with other {what}; give them back or start a new run")
        load_weights(self.model, run["model"], path)
        load_weights(self.average, content["weights"], path)
        self.optimizer.load_state_dict(run["optimizer"])
        self.epoch, self.batch, self.step = run["place"]
        self.best_map, self._sums = run["best_map"], run["sums"]
        self.history = [EpochRecord(**record) for record in run["history"]]


def _differing(found: Any, wanted: Any, key: str = "") -> list[str]:
    """The keys, joined by dots, at which two trees of settings differ."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [] if found == wanted else [key]
    keys = [*wanted, *(name for name in found if name not in wanted)]
    return [
        where
        for name in keys
        for where in _differing(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    ]


def make_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW or SGD (Nesterov); tensors of one dimension (biases, norms) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999))


def learning_rate(settings: TrainingSettings, step: int, total_steps: int) -> float:
    """Rate of optimizer step `step` (from 0): linear warm-up, then half a cosine down to the final rate."""
    warm_up = round(settings.warm_up * total_steps)
    if step < warm_up:
        return settings.learning_rate * (step + 1) / warm_up
    share = (step - warm_up) / max(total_steps - warm_up, 1)  # 0 .. 1
    floor = settings.final_rate
    return settings.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model; early on it follows faster: decay_t = min(decay, (1 + t) / (10 + t))."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(_floats(average), _floats(model), strict=True):
        mean.lerp_(value, 1 - decay)


def _floats(module: nn.Module) -> Iterator[Tensor]:
    return (tensor for tensor in module.state_dict().values() if tensor.is_floating_point())


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


def native_bfloat16(device: torch.device) -> bool:
    """Whether the processor of a device multiplies bfloat16 itself; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False  # not Linux: nothing tells
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


@contextmanager
def stop_requested() -> Generator[Callable[[], bool]]:
    """A function that tells whether SIGINT or SIGTERM arrived; a second one interrupts at once.

    Outside the main thread Python delivers no signals, and the function stays False.
    """
    received: list[int] = []

    def remember(number: int, _frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
