"""Training a classifier: samples with a class each become a checkpoint and a history.

Station: in come settings and samples, out come files of a run: `last.pt` (the averaged network, and the state of the
run), `best.pt` (the averaged network with the best validation accuracy) and `history.json` (one record per epoch).

Membranes start at rest with every sample, or are never reset: then each place of the batch is a stream of samples, and
the membranes that one leaves are where the next begins, without a gradient between them (truncated back-propagation
through time; Cordone's thesis, chapter 5; facts/models.md, A.6). A run that was stopped and resumed gives the weights
of the uninterrupted one (same machine, same number of threads).
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from spiketrack.classification.classifier import Classifier, continued
from spiketrack.classification.evaluation import classify
from spiketrack.datasets.classified import Classified, SampleBatch, SampleBatches
from spiketrack.detector.checkpoint import load_checkpoint, load_weights, save_checkpoint
from spiketrack.errors import CheckpointError, TrainingError
from spiketrack.optimizing import OptimizerSettings, learning_rate, make_optimizer, native_bfloat16, update_average
from spiketrack.pipeline import usable_device
from spiketrack.replacing import write_whole
from spiketrack.spiking.allocation import keep_freed_memory
from spiketrack.spiking.neurons import State
from spiketrack.stopping import stop_requested

log = logging.getLogger(__name__)


class ClassifierTrainingSettings(OptimizerSettings):
    """How to train a classifier."""

    epochs: int = Field(30, ge=1, description="passes over the training samples")
    batch_size: int = Field(32, ge=1, description="samples per step")
    reset: Literal["sample", "never"] = Field(
        "never", description="membranes start at rest with every sample, or go on from sample to sample"
    )
    learning_rate: float = Field(5e-3, gt=0, description="largest learning rate; of cyclic the one it rises from")
    final_rate: float = Field(
        0.01, gt=0, le=1, description="last learning rate of cosine and cyclic, as a share of learning_rate"
    )
    clip_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="share of the target that goes to all classes alike")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the moving average of the weights, per step")
    validate_every: int = Field(5, ge=1, description="epochs between validations; the last epoch always has one")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "auto", description="of the forward and backward pass; auto is bfloat16 where the processor has it natively"
    )
    device: str = Field("cpu", description="cpu, cuda or cuda:N")


@dataclass(frozen=True)
class ClassifierProgress:
    """Where a run stands, after a step. seconds: spent in this process; steps_done of the steps in it."""

    epoch: int
    epochs: int
    step: int
    total_steps: int
    steps_done: int
    seconds: float
    loss: float

    @property
    def seconds_left(self) -> float:
        """At the rate so far in this process."""
        return (self.total_steps - self.step) * self.seconds / self.steps_done


@dataclass(frozen=True)
class ClassifierEpoch:
    """Mean loss and accuracy on the augmented training samples; val_* are None where there was no validation."""

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    val_loss: float | None
    val_accuracy: float | None


class ClassifierTrainer:
    """One training run: the network, its average, the optimizer and the place in the schedule."""

    def __init__(
        self,
        classifier: Classifier,
        batches: SampleBatches,
        validation: Sequence[Classified],
        settings: ClassifierTrainingSettings,
        run_dir: Path,
    ) -> None:
        self.classifier, self.batches, self.validation = classifier, batches, list(validation)
        self.settings, self.run_dir = settings, run_dir
        self.device = usable_device(settings.device)
        self.model = classifier.model.to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = make_optimizer(self.model, settings)
        self.bfloat16 = settings.precision == "bfloat16" or (
            settings.precision == "auto" and native_bfloat16(self.device)
        )
        log.info("training in %s on %s", "bfloat16" if self.bfloat16 else "float32", settings.device)
        self.epoch, self.batch, self.step = 0, 0, 0
        self.best = -1.0
        self.history: list[ClassifierEpoch] = []
        self._state: State | None = None
        self._sums = torch.zeros(3, dtype=torch.float64)  # of losses, right answers, samples
        keep_freed_memory()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.batches) * self.settings.epochs

    def run(
        self,
        on_step: Callable[[ClassifierProgress], None] = lambda progress: None,
        on_epoch: Callable[[ClassifierEpoch], None] = lambda record: None,
    ) -> bool:
        """Train from where the run stands to its end. Returns False if SIGINT or SIGTERM asked to stop.

        A stop waits for the step in progress and writes `last.pt`; `resume` continues from it.
        """
        started, first_step = time.monotonic(), self.step
        with stop_requested() as stop:
            while self.epoch < self.settings.epochs:
                for batch in self.batches.epoch(self.epoch, self.batch):
                    loss = self._step(batch)
                    self.batch, self.step = self.batch + 1, self.step + 1
                    place = (self.epoch + 1, self.settings.epochs, self.step, self.total_steps, self.step - first_step)
                    on_step(ClassifierProgress(*place, time.monotonic() - started, loss))
                    if stop():
                        self.save()
                        return False
                on_epoch(self._end_epoch())
        return True

    def _step(self, batch: SampleBatch) -> float:
        """One optimizer step; returns the loss."""
        rate = learning_rate(self.settings, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        carried = continued(self._state, len(batch.names)) if self.settings.reset == "never" else None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits, self._state = self.classifier.logits(batch.events, carried)
        classes = batch.class_ids.to(self.device)
        loss = F.cross_entropy(logits.float(), classes, label_smoothing=self.settings.label_smoothing)
        self._raise_unless_finite(loss.detach(), batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        update_average(self.average, self.model, self.settings.ema, self.step)
        value, right = float(loss.detach()), int((logits.argmax(1) == classes).sum())
        self._sums += torch.tensor([value * len(classes), right, len(classes)], dtype=torch.float64)
        return value

    def _raise_unless_finite(self, loss: torch.Tensor, batch: SampleBatch) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {float(loss)} at epoch {self.epoch + 1}, step {self.step + 1} (samples: "
                f"{', '.join(batch.names[:3])}, ...); lower training.learning_rate or look at these samples"
            )

    def _end_epoch(self) -> ClassifierEpoch:
        val_loss = val_accuracy = None
        last = self.epoch + 1 == self.settings.epochs
        if self.validation and (last or (self.epoch + 1) % self.settings.validate_every == 0):
            answers = classify(self.averaged(), self.validation, self.batches.events, self.settings.batch_size)
            val_loss, val_accuracy = answers.loss, answers.accuracy
            if val_accuracy > self.best:
                self.best = val_accuracy
                save_checkpoint(self.run_dir / "best.pt", self.averaged().content())
        loss, right, count = self._sums.tolist()
        rate = learning_rate(self.settings, max(self.step - 1, 0), self.total_steps)
        record = ClassifierEpoch(self.epoch + 1, loss / count, right / count, rate, val_loss, val_accuracy)
        self.history.append(record)
        if repairs := self.batches.events.report() if self.epoch == 0 else "":
            log.warning("samples were repaired: %s", repairs)
        self.epoch, self.batch, self._state = self.epoch + 1, 0, None
        self._sums.zero_()
        self.save()
        write_whole(
            self.run_dir / "history.json", json.dumps([asdict(r) for r in self.history], indent=1), CheckpointError
        )
        return record

    def averaged(self) -> Classifier:
        """The classifier with the averaged weights."""
        whole = self.classifier
        return Classifier(self.average, whole.settings, whole.input, whole.class_names, whole.carry)

    def save(self) -> None:
        """Write `last.pt`: the averaged classifier, and all that `resume` needs."""
        run = {
            "settings": self._settings(),
            "place": [self.epoch, self.batch, self.step],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": None if self._state is None else [membrane.detach() for membrane in self._state],
            "best": self.best,
            "sums": self._sums,
            "history": [asdict(record) for record in self.history],
        }
        save_checkpoint(self.run_dir / "last.pt", {**self.averaged().content(), "run": run})

    def _settings(self) -> dict[str, Any]:
        """Everything that the result of the run follows from."""
        described = {key: value for key, value in self.classifier.content().items() if key != "weights"}
        augment = self.batches.augment
        return {
            **described,
            "seed": self.batches.seed,
            "augment": None if augment is None else augment.model_dump(),
            "training": self.settings.model_dump(exclude={"device"}),
            "samples": [len(self.batches.samples), len(self.validation)],
        }

    def resume(self) -> None:
        """Continue from `last.pt`. Raises CheckpointError where it is of another run."""
        path = self.run_dir / "last.pt"
        content = load_checkpoint(path)
        run: dict[str, Any] | None = content.get("run")
        if run is None:
            raise CheckpointError(f"{path}: holds a network but no training run to resume")
        wanted = self._settings()
        if differing := [key for key in wanted if run["settings"].get(key) != wanted[key]]:
            raise CheckpointError(
                f"{path}: of a run with other settings ({', '.join(differing)}); give them back or start a new run"
            )
        load_weights(self.model, run["model"], path)
        load_weights(self.average, content["weights"], path)
        self.optimizer.load_state_dict(run["optimizer"])
        self.epoch, self.batch, self.step = run["place"]
        self.best, self._sums = run["best"], run["sums"]
        self._state = None if run["state"] is None else tuple(m.to(self.device) for m in run["state"])
        self.history = [ClassifierEpoch(**record) for record in run["history"]]


def read_classifier_history(path: Path) -> list[ClassifierEpoch]:
    """The records of a run's `history.json`. Raises CheckpointError where the file is no such list."""
    try:
        return [ClassifierEpoch(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
    except OSError as error:
        raise CheckpointError(f"{path}: the history cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a history of a classifier's training ({error})") from error
