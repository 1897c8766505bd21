"""Training keypoints: crops with joints become a checkpoint and a history.

Station: in come settings and crops, out come files of a run: `last.pt` (the averaged network, and the state of the
run), `best.pt` (the averaged network with the best PCK on validation crops) and `history.json` (one record per epoch).
A run that was stopped and resumed gives the weights of the uninterrupted one (same machine, same number of threads).
"""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from spiketrack.detector.checkpoint import load_checkpoint, load_weights, save_checkpoint
from spiketrack.errors import CheckpointError, TrainingError
from spiketrack.keypoints.crops import Crops
from spiketrack.keypoints.estimator import KeypointEstimator
from spiketrack.keypoints.evaluation import poses_of
from spiketrack.keypoints.loss import keypoint_loss
from spiketrack.keypoints.samples import CropBatches, KeypointBatch
from spiketrack.keypoints.scores import distances, pck
from spiketrack.optimizing import OptimizerSettings, learning_rate, make_optimizer, native_bfloat16, update_average
from spiketrack.pipeline import usable_device
from spiketrack.replacing import write_whole
from spiketrack.spiking.allocation import keep_freed_memory
from spiketrack.stopping import stop_requested

log = logging.getLogger(__name__)

PCK_SHARE = 0.2


class KeypointTrainingSettings(OptimizerSettings):
    """How to train a keypoint network."""

    epochs: int = Field(8, ge=1, description="passes over the training crops")
    batch_size: int = Field(16, ge=1, description="crops per step")
    learning_rate: float = Field(3e-3, gt=0, description="largest learning rate; of cyclic the one it rises from")
    clip_norm: float = Field(5.0, gt=0, description="gradients are scaled down to this norm")
    ema: float = Field(0.99, ge=0, lt=1, description="decay of the moving average of the weights, per step")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32", description="of the forward and backward pass; auto is bfloat16 where the processor has it natively"
    )
    start: Literal["shipped"] | Path | None = Field(
        None,
        description="detector whose backbone the run starts from: shipped, or a checkpoint; null: from random weights",
    )
    device: str = Field("cpu", description="cpu, cuda or cuda:N")


@dataclass(frozen=True)
class KeypointProgress:
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
class KeypointEpoch:
    """Mean loss and its terms; val_pck: PCK@0.2 of the torso on validation crops, None where there are none."""

    epoch: int
    loss: float
    heatmap: float
    locref: float
    learning_rate: float
    val_pck: float | None


class KeypointTrainer:
    """One training run: the network, its average, the optimizer and the place in the schedule."""

    def __init__(
        self,
        estimator: KeypointEstimator,
        batches: CropBatches,
        validation: Crops | None,
        settings: KeypointTrainingSettings,
        run_dir: Path,
    ) -> None:
        self.estimator, self.batches, self.validation = estimator, batches, validation
        self.settings, self.run_dir = settings, run_dir
        self.device = usable_device(settings.device)
        self.model = estimator.model.to(self.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = make_optimizer(self.model, settings)
        self.bfloat16 = settings.precision == "bfloat16" or (
            settings.precision == "auto" and native_bfloat16(self.device)
        )
        log.info("training in %s on %s", "bfloat16" if self.bfloat16 else "float32", settings.device)
        self.epoch, self.batch, self.step = 0, 0, 0
        self.best = -1.0
        self.history: list[KeypointEpoch] = []
        self._sums = torch.zeros(4, dtype=torch.float64)  # of total, heatmap, locref, crops
        keep_freed_memory()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.batches) * self.settings.epochs

    def run(
        self,
        on_step: Callable[[KeypointProgress], None] = lambda progress: None,
        on_epoch: Callable[[KeypointEpoch], None] = lambda record: None,
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
                    on_step(KeypointProgress(*place, time.monotonic() - started, loss))
                    if stop():
                        self.save()
                        return False
                on_epoch(self._end_epoch())
        return True

    def _step(self, batch: KeypointBatch) -> float:
        """One optimizer step; returns the loss."""
        rate = learning_rate(self.settings, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            maps = self.estimator.maps(batch.events)
        terms = keypoint_loss(maps, batch.keypoints.to(self.device), self.estimator.loss)
        if not torch.isfinite(terms.total.detach()):
            raise TrainingError(
                f"the loss is {float(terms.total.detach())} at epoch {self.epoch + 1}, step {self.step + 1} (crops: "
                f"{', '.join(batch.names[:3])}, ...); lower training.learning_rate or look at these crops"
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms.total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        update_average(self.average, self.model, self.settings.ema, self.step)
        values, count = [float(term.detach()) for term in terms], len(batch.names)
        self._sums += torch.tensor([*(value * count for value in values), count], dtype=torch.float64)
        return values[0]

    def _end_epoch(self) -> KeypointEpoch:
        val_pck = None
        if self.validation is not None:
            poses = poses_of(self.validation)
            found, _ = self.averaged().joints(self.validation)
            val_pck = pck(distances(found, poses), poses.seen, poses.torso, PCK_SHARE)
            if val_pck is not None and val_pck > self.best:
                self.best = val_pck
                save_checkpoint(self.run_dir / "best.pt", self.averaged().content())
        *sums, count = self._sums.tolist()
        rate = learning_rate(self.settings, max(self.step - 1, 0), self.total_steps)
        record = KeypointEpoch(self.epoch + 1, *(value / count for value in sums), rate, val_pck)
        self.history.append(record)
        self.epoch, self.batch = self.epoch + 1, 0
        self._sums.zero_()
        self.save()
        write_whole(
            self.run_dir / "history.json", json.dumps([asdict(r) for r in self.history], indent=1), CheckpointError
        )
        return record

    def averaged(self) -> KeypointEstimator:
        """The estimator with the averaged weights."""
        whole = self.estimator
        return KeypointEstimator(self.average, whole.settings, whole.input, whole.crops, whole.loss, whole.mean_pose)

    def save(self) -> None:
        """Write `last.pt`: the averaged estimator, and all that `resume` needs."""
        run = {
            "settings": self._settings(),
            "place": [self.epoch, self.batch, self.step],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "sums": self._sums,
            "history": [asdict(record) for record in self.history],
        }
        save_checkpoint(self.run_dir / "last.pt", {**self.averaged().content(), "run": run})

    def _settings(self) -> dict[str, Any]:
        """Everything that the result of the run follows from."""
        described = {k: value for k, value in self.estimator.content().items() if k not in ("weights", "mean_pose")}
        augment = self.batches.augment
        return {
            **described,
            "seed": self.batches.seed,
            "augment": None if augment is None else augment.model_dump(),
            "training": self.settings.model_dump(exclude={"device"}, mode="json"),
            "samples": [len(self.batches.crops), 0 if self.validation is None else len(self.validation)],
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
        self.history = [KeypointEpoch(**record) for record in run["history"]]
