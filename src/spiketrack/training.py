"""Training: a detector learns from labelled sequences.

Station: in come settings and sequences, out come checkpoints and a history. Everything random follows from the seed
and the place in the run, and the checkpoint holds the rest, so a run that was killed and resumed gives the losses and
the weights of the uninterrupted one (same machine, same number of threads). Several processes (`distributed`) share
every batch; what they compute together is what one process computes with the whole batch, norms apart, which need
`sync_batch_norm` for that. The first process writes the files.

Files of a run: `last.pt` (network, and the state of the run), `best.pt` (the averaged network with the best validation
mAP), `history.json` (one record per epoch).
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from spiketrack.datasets.batches import Batch, of_last_step, read_ahead
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.datasets.multi_scale import drawn_size, rescaled, rescaled_labels
from spiketrack.datasets.sequences import TrainingSamples
from spiketrack.datasets.streams import StreamSamples
from spiketrack.deploy.prune import fit_widths
from spiketrack.detector.checkpoint import load_checkpoint, load_weights, save_checkpoint
from spiketrack.detector.loss import LossSettings
from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.diagnosis import zero_map_causes
from spiketrack.distributed import ALONE, Ranks
from spiketrack.errors import CheckpointError, SettingsError, TrainingError
from spiketrack.evaluation import EvaluationResult, EvaluationSettings, evaluate_together
from spiketrack.history import EpochRecord, write_history
from spiketrack.optimizing import (
    OptimizerSettings,
    learning_rate,
    make_optimizer,
    precision_of,
    update_average,
)
from spiketrack.pipeline import Detector, usable_device
from spiketrack.progress import Progress
from spiketrack.spiking.allocation import keep_freed_memory
from spiketrack.spiking.carried import CarriedState
from spiketrack.spiking.joint_norm import with_joint_norms
from spiketrack.stopping import stop_requested
from spiketrack.tracking import ByteTrackSettings

log = logging.getLogger(__name__)


class TrainingSettings(OptimizerSettings):
    """How to train."""

    batch_size: int = Field(
        8, ge=1, description="samples per step, of all processes; with carried state the number of streams"
    )
    batch_memory: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the free memory that a step may take: before a run `spiketrack train` measures some "
        "batches, takes the largest that fits instead of batch_size, and writes it into the run's experiment.yaml",
    )
    steps: int = Field(4, ge=1, description="T, consecutive time steps of a sample")
    loss_at: Literal["each", "last"] = Field(
        "each", description="each: the loss is taken at every labelled time step of a sample; last: at its last one"
    )
    max_steps: int | None = Field(
        None, ge=1, description="end the run after so many steps, the schedule with it; null: after the epochs"
    )
    state: Literal["reset", "carried"] = Field(
        "reset",
        description="reset: single samples, each from a fresh state; carried: recordings as streams, the state is "
        "handed from window to window and reset only where a recording begins",
    )
    multi_scale: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="m: the input of every step is scaled by a factor from 1 - m .. 1 + m, its sides rounded to "
        "multiples of 32 pixels, with state: reset only; 0: off",
    )
    detach: Literal["window", "label"] = Field(
        "window",
        description="how far carried gradients reach back: to the beginning of the window, or to the last window with "
        "labels, at most detach_after windows ago; never over the end of an epoch",
    )
    detach_after: int = Field(10, ge=1, description="of detach label: most windows without labels in the graph")
    accumulate: int = Field(1, ge=1, description="steps with labels whose gradients are averaged before an update")
    clip_norm: float = Field(10.0, gt=0, description="gradients are scaled down to this norm")
    ema: float = Field(0.995, ge=0, lt=1, description="decay of the moving average of the weights, per step")
    validate_every: int = Field(1, ge=1, description="epochs between validations; the last epoch always has one")
    patience: int | None = Field(
        None, ge=1, description="end the run after so many validations without a better mAP; null: never"
    )
    checkpoint_every: int = Field(100, ge=1, description="optimizer steps between checkpoints")
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32",
        description="of the network's forward and backward pass (weights, loss and inference stay float32); float16 "
        "scales the loss; auto is bfloat16 where the processor computes it natively",
    )
    read_ahead: int = Field(1, ge=1, description="batches that are made while the network works on one")
    pin_memory: bool = Field(False, description="with a GPU: batches in page-locked memory, which it copies faster")
    encode_on: Literal["loader", "device"] = Field(
        "loader",
        description="where events are counted: by the thread that makes batches, or on `device`, to which they then go "
        "as 8 bytes an event; the same inputs, of representations that count",
    )
    recompute: bool = Field(
        False, description="compute activations a second time instead of keeping them: less memory, the same gradients"
    )
    device: str = Field("cpu", description="cpu, cuda or cuda:N; of several processes with cuda each takes a GPU")
    sync_batch_norm: bool = Field(
        False, description="of several processes: norms by the statistics of the whole batch, not of each share"
    )
    loss: LossSettings = Field(LossSettings(), description="gains and forms of the loss terms")


_OF_NO_CONSEQUENCE = {"device", "read_ahead", "pin_memory", "encode_on", "recompute", "batch_memory"}
"""For losses and weights."""


class Trainer:
    """One training run: the network, its average, the optimizer and the place in the schedule."""

    def __init__(
        self,
        detector: Detector,
        samples: TrainingSamples | StreamSamples,
        validation: Sequence[LabelledSequence],
        settings: TrainingSettings,
        evaluation: EvaluationSettings,
        run_dir: Path,
        ranks: Ranks = ALONE,
    ) -> None:
        if settings.batch_size < ranks.world:
            raise SettingsError(f"training.batch_size is {settings.batch_size}, too few for {ranks.world} processes")
        if settings.multi_scale and settings.state == "carried":
            raise SettingsError(
                f"training.multi_scale is {settings.multi_scale} with training.state carried: the state that neurons "
                "hand on has the size of the input; set multi_scale to 0 or state to reset"
            )
        self.detector, self.samples, self.validation = detector, samples, validation
        self.settings, self.evaluation, self.run_dir, self.ranks = settings, evaluation, run_dir, ranks
        self.device = usable_device(ranks.device(settings.device))
        self.model = detector.model.to(self.device)
        self.model.recompute = settings.recompute
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.joint_norms = settings.sync_batch_norm and ranks.world > 1
        if self.joint_norms:
            with_joint_norms(self.model, ranks)
        self.optimizer = make_optimizer(self.model, settings)
        self.precision = precision_of(settings.precision, self.device)
        log.info("training in %s on %s", str(self.precision).removeprefix("torch."), settings.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.loss = detector.family.criterion(settings.loss, ranks.total)
        epochs = [samples.batches_per_epoch(epoch) for epoch in range(settings.epochs)]
        self.batches = epochs if settings.max_steps is None else _first(epochs, settings.max_steps)
        self.epoch, self.batch, self.step = 0, 0, 0
        self.carried: CarriedState | None = None
        if settings.state == "carried":
            self.carried = CarriedState(settings.detach_after if settings.detach == "label" else 0)
        self.losses, self.summed = 0, 0  # of the epoch so far; of these, whose gradients wait for an update
        self._saved_at = 0
        self.best_map, self.waited = -1.0, 0
        self.exchanged = 0  # bytes of gradients and statistics that this process gave in the last step
        self.history: list[EpochRecord] = []
        self._term_names = detector.family.terms._fields
        self._total_term = self._term_names.index("total")
        self._sums = torch.zeros(len(self._term_names), dtype=torch.float64)
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
        waited, waiting_since = 0.0, started
        with stop_requested() as stop:
            while not self.finished:
                coming = self.samples.epoch(self.epoch, self.batch)
                coming = itertools.islice(coming, self.batches[self.epoch] - self.batch)
                for batch in read_ahead(coming, self.settings.read_ahead):
                    waited += time.monotonic() - waiting_since
                    terms, rate = self._step(batch)
                    values = terms.double().cpu()
                    self._sums += values
                    self.batch, self.step = self.batch + 1, self.step + 1
                    # asked where a checkpoint can stand: a signal that comes later waits for the next such place
                    stopping = self._at_rest and self.ranks.any(stop())
                    if stopping or (self._at_rest and self._checkpoint_due):
                        self.save()
                    seconds, done = time.monotonic() - started, self.step - first_step
                    on_step(
                        Progress(
                            self.epoch + 1,
                            len(self.batches),
                            self.step,
                            self.total_steps,
                            done,
                            seconds,
                            float(terms[self._total_term]),
                            rate,
                            self.batch,
                            self.batches[self.epoch],
                            dict(zip(self._term_names, values.tolist(), strict=True)),
                            batch.names,
                            waited,
                        )
                    )
                    if stopping:
                        return False
                    waiting_since = time.monotonic()
                on_epoch(self._end_epoch())
                waiting_since = time.monotonic()
        return True

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or validation has not improved for `patience` times."""
        patience = self.settings.patience
        return self.epoch >= len(self.batches) or (patience is not None and self.waited >= patience)

    @property
    def _at_rest(self) -> bool:
        """Whether a checkpoint holds everything: no gradients wait for an update, none will reach back from here."""
        return self.summed == 0 and (self.carried is None or self.carried.in_graph == 0)

    @property
    def _checkpoint_due(self) -> bool:
        every = self.settings.checkpoint_every
        return self.step // every > self._saved_at // every

    def _step(self, batch: Batch) -> tuple[Tensor, float]:
        """One forward and backward pass, and the update where it is due; returns the loss terms and the rate.

        Of several processes each calls it with its share; the terms are those of the whole batch.
        """
        settings = self.settings
        self.exchanged = 0
        batch = of_last_step(batch) if settings.loss_at == "last" else batch
        rate = learning_rate(settings, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # alone, an empty share has no statistics; it costs nothing, and its gradients are 0
        self.model.train(len(batch.names) > 0 or self.joint_norms)
        labelled = self.ranks.any(bool(batch.labelled.any()))
        last = self.batch + 1 == self.batches[self.epoch]
        reached = self.carried is not None and self.carried.may_reach and not labelled and not last
        events, labels = batch.planes(self._on_device), batch.labels
        if settings.multi_scale:
            old = (events.shape[3], events.shape[4])
            new = drawn_size(old, settings.multi_scale, self.samples.seed, self.step)
            events, labels = rescaled(events, new), rescaled_labels(labels, old, new)
        with (
            torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32),
            torch.set_grad_enabled(labelled or reached),
        ):
            before = None if self.carried is None else self.carried.begin(batch.fresh.to(self.device))
            predictions, state = self.model(events, before)
        if labelled:
            labels = type(labels)(*(tensor.to(self.device) for tensor in labels))
            parts = self.loss(predictions, labels, batch.labelled.to(self.device))
            terms = self.ranks.total(torch.stack(parts).detach())
            self._raise_unless_finite("loss", terms[self._total_term], batch)
            self._backward(parts.total)
        else:
            terms = torch.zeros(len(self._term_names), device=self.device)
        if not self.joint_norms:
            self.exchanged += self.ranks.average_norms(self.model)
        if self.summed == settings.accumulate or (last and self.summed):
            self._update(batch)
        if self.carried is not None:
            self.carried.hand_on(state, reached=reached)
        return terms, rate

    def _on_device(self, tensor: Tensor) -> Tensor:
        if self.settings.pin_memory and self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def _backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those that wait for an update."""
        accumulate = self.settings.accumulate
        if self.summed == 0:
            self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss / accumulate if accumulate > 1 else loss).backward()
        self.losses, self.summed = self.losses + 1, self.summed + 1

    def _update(self, batch: Batch) -> None:
        """Move the weights along the gradients, and the average along with them."""
        settings = self.settings
        self.exchanged += self.ranks.add_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        if not self.scaler.is_enabled():  # with a scale that is too large a step is left out, and the scale halved
            self._raise_unless_finite("norm of the gradient", norm, batch)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1e-3:
            raise TrainingError(f"float16 fails at any scale (step {self.step + 1}); take training.precision bfloat16")
        update_average(self.average, self.model, settings.ema, self.step)
        self.summed = 0

    def _raise_unless_finite(self, what: str, value: Tensor, batch: Batch) -> None:
        if not torch.isfinite(value):
            raise TrainingError(
                f"the {what} is {float(value)} at epoch {self.epoch + 1}, step {self.step + 1} (samples: "
                f"{', '.join(batch.names)}); lower training.learning_rate or look at these samples. "
                f"{self.run_dir / 'last.pt'} holds the state of the last checkpoint"
            )

    def _end_epoch(self) -> EpochRecord:
        means = dict(zip(self._term_names, (self._sums / max(self.losses, 1)).tolist(), strict=True))
        val_map = val_ap50 = None
        last = self.epoch + 1 == len(self.batches)
        if last or (self.epoch + 1) % self.settings.validate_every == 0:
            fused, tracking = self.averaged().fused(), ByteTrackSettings()
            result = evaluate_together(fused, self.validation, self.evaluation, tracking, self.ranks)
            val_map, val_ap50 = self.ranks.from_first(lambda: _maps(result))
            self.waited = 0 if val_map > self.best_map else self.waited + 1
            if result is not None:
                if val_map > self.best_map:
                    save_checkpoint(self.run_dir / "best.pt", self.averaged().content())
                for cause in zero_map_causes(result, means["positives"]):
                    log.warning("epoch %d: %s", self.epoch + 1, cause)
            self.best_map = max(val_map, self.best_map)
        rate = learning_rate(self.settings, max(self.step - 1, 0), self.total_steps)
        total = means.pop("total")
        record = EpochRecord(self.epoch + 1, total, learning_rate=rate, val_map=val_map, val_ap50=val_ap50, **means)
        self.history.append(record)
        self.epoch, self.batch, self.losses = self.epoch + 1, 0, 0
        self._sums.zero_()
        self.save()
        if self.ranks.first:
            write_history(self.run_dir / "history.json", self.history)
        return record

    def averaged(self) -> Detector:
        """The detector with the averaged weights."""
        return replace(self.detector, model=self.average)

    def save(self) -> None:
        """Write `last.pt`: the averaged detector, and all that `resume` needs.

        The first process writes it, and the others wait; it holds the state of the whole batch, in its order.
        """
        own = None if self.carried is None else self.carried.content()
        states = self.ranks.gather(None if own is None else [membrane.cpu() for membrane in own])
        if states is not None:
            self._write_last(_side_by_side(states))
        self.ranks.any(False)  # nobody goes on before it is written
        self._saved_at = self.step

    def _write_last(self, state: list[Tensor] | None) -> None:
        run = {
            "settings": self._settings(),
            "batches": self.batches,
            "place": [self.epoch, self.batch, self.step],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "state": state,
            "losses": self.losses,
            "best_map": self.best_map,
            "waited": self.waited,
            "sums": self._sums,
            "history": [asdict(record) for record in self.history],
        }
        save_checkpoint(self.run_dir / "last.pt", {**self.averaged().content(), "run": run})

    def _settings(self) -> dict[str, Any]:
        """Every setting that the result of the run follows from, under the keys of an experiment file."""
        # what is off changes nothing, and runs of before there was such a key go on
        off = {key for key in ("sync_batch_norm", "multi_scale") if not getattr(self.settings, key)}
        described = {key: value for key, value in self.averaged().content().items() if key != "weights"}
        return {
            **described,
            "seed": self.samples.seed,
            "data": {
                "augment": self.samples.augment.model_dump(),
                "balance": self.samples.balance,
                **self.samples.choice._asdict(),
            },
            "training": self.settings.model_dump(exclude=_OF_NO_CONSEQUENCE | off),
            "evaluation": self.evaluation.model_dump(),
        }

    def start_from(self, path: Path) -> None:
        """Begin with the weights of a checkpoint instead of random ones; the rest of the run is a new one.

        Those of a pruned network make this one as narrow. Raises CheckpointError where they are of another network.
        """
        content = self.ranks.from_first(lambda: load_checkpoint(path))
        if "weights" not in content:
            raise CheckpointError(f"{path}: holds no network")
        if "quantized" in content:
            raise CheckpointError(f"{path}: a quantised network; `spiketrack fine-tune --weights` trains it on")
        self._fit_widths(content)
        saved: dict[str, Tensor] = content["weights"]
        weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in saved.items()}
        load_weights(self.model, weights, path)
        load_weights(self.average, weights, path)

    def _fit_widths(self, content: dict[str, Any]) -> None:
        """Make the network as narrow as the pruned one of a checkpoint, and forget what the optimizer knew."""
        if not content.get("pruned") or "quantized" in content:
            return
        for model in (self.model, self.average):
            if isinstance(model, SpikeYOLO):
                fit_widths(model, content["weights"])
                model.to(self.device)
        self.average.requires_grad_(False)
        self.optimizer = make_optimizer(self.model, self.settings)

    def resume(self) -> None:
        """Continue from `last.pt`, with any number of processes; only with the same number to the bit.

        Raises CheckpointError where it is of another run.
        """
        path = self.run_dir / "last.pt"
        content = self.ranks.from_first(lambda: load_checkpoint(path))
        run: dict[str, Any] | None = content.get("run")
        if run is None:
            raise CheckpointError(f"{path}: holds a network but no training run to resume")
        self._fit_widths(content)
        differing = _differing(run["settings"], self._settings())
        if differing or run["batches"] != self.batches:
            what = f"settings ({', '.join(differing)})" if differing else "training data"
            raise CheckpointError(f"{path}: of a run with other {what}; give them back or start a new run")
        load_weights(self.model, run["model"], path)
        load_weights(self.average, content["weights"], path)
        self.optimizer.load_state_dict(run["optimizer"])
        self.epoch, self.batch, self.step = run["place"]
        self._saved_at, self.losses = self.step, run.get("losses", self.batch)  # older runs had one in every step
        self.scaler.load_state_dict(run["scaler"])
        if self.carried is not None and run["state"] is not None:
            share = self.samples.share.of(self.settings.batch_size)  # with carried state no batch is smaller
            self.carried.state = tuple(membrane[share].to(self.device) for membrane in run["state"])
        self.waited = run["waited"]
        self.best_map, self._sums = run["best_map"], run["sums"]
        self.history = [EpochRecord(**record) for record in run["history"]]


def _maps(result: EvaluationResult | None) -> tuple[float, float]:
    assert result is not None, "asked of the first process only"
    return result.detection.map, result.detection.ap50


def _side_by_side(states: list[list[Tensor] | None]) -> list[Tensor] | None:
    """The state of a whole batch from those of its shares, in their order."""
    parts = [state for state in states if state is not None]
    return [torch.cat(membranes) for membranes in zip(*parts, strict=True)] if parts else None


def _first(epochs: Sequence[int], steps: int) -> list[int]:
    """The epochs, given by their steps, that the first `steps` steps reach into, the last one cut short."""
    ends = list(itertools.accumulate(epochs))
    return [min(count, steps - (end - count)) for count, end in zip(epochs, ends, strict=True) if end - count < steps]


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
