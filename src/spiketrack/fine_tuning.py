"""Fine-tuning: a trained network learns on while it is pruned or quantised, or with a teacher beside it.

Station: above training. In come a detector and what makes a training run of one, out comes a folder with one run per
round, `round_1`, `round_2`, ..., and the result, `best.pt`. A round begins by taking a growing share away
(`start.pt`), then trains as `training` does, so that a run which was stopped goes on where it was.

channels   really taken out: those of which the labels say that the loss needs them least for what they cost
           (deploy.prune); the network gets smaller and quicker
weights    set to zero and kept there through the rounds, the smallest ones (deploy.masks); every width stays

The last round may begin by quantising, too (deploy.integers): it trains with the very integers that will run.

With a teacher the loss of the labels is joined by how far its predictions are (deploy.distill).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from spiketrack.compression import first_planes
from spiketrack.datasets.batches import Batch
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.deploy.distill import DistillationSettings, distillation_loss
from spiketrack.deploy.exact import largest_count
from spiketrack.deploy.integers import bits_of, in_integers
from spiketrack.deploy.masks import Growth, apply_masks, grown, prunable, smallest_weights, sparsity
from spiketrack.deploy.prune import effects, fused_weights, prune_to
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.detector.families import Criterion
from spiketrack.detector.spikeyolo import Predictions, SpikeYOLO
from spiketrack.errors import SettingsError
from spiketrack.history import EpochRecord
from spiketrack.pipeline import Detector
from spiketrack.progress import Progress
from spiketrack.training import Trainer

log = logging.getLogger(__name__)

Precision = Literal["int8", "int6", "int4", "int3", "int2"]

CALIBRATED = 8, 40  # recordings, and steps of each, whose currents say what range they need; training widens it


class FineTuningSettings(BaseModel):
    """What is taken from the network, and what a teacher counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(0.0, ge=0, lt=1, description="share of the weights to take away in the end; 0: none")
    kind: Literal["channels", "weights"] = Field(
        "channels", description="channels: taken out, the network gets smaller; weights: set to zero"
    )
    rounds: int = Field(1, ge=1, description="in how many rounds, each with a run of all epochs behind it")
    growth: Growth = Field("linear", description="how the share grows over the rounds; cubic takes most of it early")
    batches: int = Field(8, ge=1, description="batches whose labels say which channels matter")
    quantize: Precision | None = Field(
        None, description="bits of the weights in the last round, of currents 8: int8, int6, int4, int3 or int2"
    )
    distillation: DistillationSettings = Field(DistillationSettings(), description="what a teacher counts")


class FineTuner(Trainer):
    """A training run of a network whose zeros stay, and that may have a teacher."""

    def __init__(self, plain: Trainer, settings: FineTuningSettings, teacher: Detector | None = None) -> None:
        """plain: a run of the same detector at its beginning. teacher: None: the labels alone.

        Raises SettingsError for a teacher that reads another input or knows other classes, for a family without
        distillation, and for a teacher of carried states.
        """
        super().__init__(
            plain.detector, plain.samples, plain.validation, plain.settings, plain.evaluation, plain.run_dir
        )
        self.fine_tuning, self.taught_by = settings, None if teacher is None else _digest(teacher)
        weights = prunable(self.model)
        masks = {name: weight != 0 for name, weight in weights.items()} if settings.kind == "weights" else {}
        self.masks = {name: mask for name, mask in masks.items() if not mask.all()}
        if settings.quantize is not None and settings.kind == "weights" and settings.share:
            raise SettingsError(
                "quantisation fuses layers, where zeros of re-parameterised convolutions are lost; take channels"
            )
        if teacher is not None:
            _check_teacher(teacher, self.detector, self.settings.state)
            self.loss = _Taught(self.loss, teacher, self.model, settings.distillation)

    def _update(self, batch: Batch) -> None:
        super()._update(batch)
        for model in (self.model, self.average):
            apply_masks(model, self.masks)

    def _settings(self) -> dict[str, Any]:
        chosen = self.fine_tuning.model_dump(exclude=set() if self.taught_by else {"distillation"})
        return {**super()._settings(), "fine_tuning": {**chosen, "teacher": self.taught_by}}


class _Taught:
    """A loss of labels and a teacher: what the network reads, its teacher reads too."""

    def __init__(self, loss: Criterion, teacher: Detector, learner: nn.Module, settings: DistillationSettings) -> None:
        self.loss, self.settings = loss, settings
        self.teacher = teacher.fused().model.to(next(learner.parameters()).device).requires_grad_(False)
        self.seen: Tensor | None = None
        learner.register_forward_pre_hook(self._see)

    def _see(self, learner: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.seen = inputs[0] if learner.training else None

    def __call__(self, predictions: Predictions, labels: Any, labelled: Tensor) -> Any:
        terms = self.loss(predictions, labels, labelled)
        assert self.seen is not None
        with torch.no_grad():
            wanted, _ = self.teacher(self.seen)
        return terms._replace(total=terms.total + distillation_loss(predictions, wanted, self.settings))


def fine_tune(
    detector: Detector,
    run_of: Callable[[Detector, Path], Trainer],
    settings: FineTuningSettings,
    out: Path,
    *,
    teacher: Detector | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
) -> bool:
    """All rounds from where they stand; False where SIGINT or SIGTERM asked to stop, the next call goes on.

    run_of(detector, folder) is a training run at its beginning. The argument stays as it is. Raises SettingsError where
    the share cannot be taken, CheckpointError where the folder holds a run of other settings.
    """
    for number in range(1, settings.rounds + 1):
        folder = out / f"round_{number}"
        start = folder / "start.pt"
        if not start.exists():
            share = grown(settings.share, number / settings.rounds, settings.growth)
            before = detector if number == 1 else Detector.load(out / f"round_{number - 1}" / "best.pt")
            plain = run_of(before, folder)
            thin = thinned(plain, share, settings)
            if settings.quantize is not None and number == settings.rounds:
                thin = quantized(thin, settings.quantize, plain.samples.sequences)
            save_checkpoint(start, thin.content())
        run = FineTuner(run_of(Detector.load(start), folder), settings, teacher)
        if (folder / "last.pt").exists():
            run.resume()
        if not run.finished:
            log.info("round %d of %d: %s", number, settings.rounds, describe(run.model))
            if not run.run(on_step, on_epoch):
                return False
    save_checkpoint(out / "best.pt", Detector.load(out / f"round_{settings.rounds}" / "best.pt").content())
    return True


def rounds_like(plain: Trainer) -> Callable[[Detector, Path], Trainer]:
    """What `fine_tune` begins its rounds with: runs like a plain one, of other detectors.

    They raise SettingsError for a detector of another experiment: other settings of the network, input or classes.
    """

    def run_of(detector: Detector, folder: Path) -> Trainer:
        wanted, given = _described(plain.detector), _described(detector)
        differing = [key for key in wanted if wanted[key] != given.get(key)]
        if differing:
            raise SettingsError(f"the weights are of another experiment: other {', '.join(differing)}")
        return Trainer(detector, plain.samples, plain.validation, plain.settings, plain.evaluation, folder)

    return run_of


def _described(detector: Detector) -> dict[str, Any]:
    """What a network must share with others of its experiment."""
    return {key: value for key, value in detector.content().items() if key in ("model", "input", "class_names")}


def thinned(run: Trainer, share: float, settings: FineTuningSettings) -> Detector:
    """The detector of a run at its beginning without that share of its weights, in all, on the CPU."""
    model = run.detector.model.eval()
    if share == 0:
        return replace(run.detector, model=model.cpu())
    if settings.kind == "weights":
        detector = replace(run.averaged(), model=run.average)  # a copy
        apply_masks(detector.model, smallest_weights(prunable(detector.model), share))
        return replace(detector, model=detector.model.cpu())
    if not isinstance(model, SpikeYOLO):
        raise SettingsError(f"{run.detector.name}: only channels of a SpikeYOLO can be taken out; take weights")
    scores = effects(model, _losses(run, islice(run.samples.epoch(0, 0), settings.batches)))
    return replace(run.detector, model=prune_to(model, share, scores).cpu())


def quantized(detector: Detector, precision: Precision, sequences: Sequence[LabelledSequence]) -> Detector:
    """The detector with whole weights, its currents calibrated on the first steps of some of the sequences.

    Raises SettingsError where it is quantised already, but to another precision, and for networks without spikes.
    """
    bits, found = int(precision.removeprefix("int")), bits_of(detector.model)
    if found is not None:
        if found != bits:
            raise SettingsError(f"{detector.name} is quantised to int{found} already; begin with it as trained")
        return detector
    recordings, steps = CALIBRATED
    chosen = sequences[:: max(1, len(sequences) // recordings)][:recordings]
    planes = [first_planes(detector, sequence.open(), steps) for sequence in chosen]
    return replace(detector, model=in_integers(detector.model, bits, largest_count(detector.input), planes))


def _losses(run: Trainer, batches: Iterator[Batch]) -> Iterator[Tensor]:
    """The loss of every batch with labels, with its graph, norms by their running statistics."""
    for batch in batches:
        if batch.labelled.any():
            predictions, _ = run.model(batch.planes(lambda tensor: tensor.to(run.device)))
            labels = type(batch.labels)(*(tensor.to(run.device) for tensor in batch.labels))
            yield run.loss(predictions, labels, batch.labelled.to(run.device)).total


def describe(model: nn.Module) -> str:
    """How much of a network is left, in words."""
    zeros = sparsity(prunable(model))
    bits = bits_of(model)
    if bits is not None:
        return f"{fused_weights(model) if isinstance(model, SpikeYOLO) else _count(model):,} weights of {bits} bits"
    if isinstance(model, SpikeYOLO):
        return f"{fused_weights(model):,} weights when fused, {zeros:.1%} of those as trained are zero"
    return f"{_count(model):,} weights, {zeros:.1%} of those to prune are zero"


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _check_teacher(teacher: Detector, learner: Detector, state: str) -> None:
    if not isinstance(teacher.model, SpikeYOLO) or not isinstance(learner.model, SpikeYOLO):
        raise SettingsError(f"distillation is between SpikeYOLOs, got {learner.name} taught by {teacher.name}")
    if teacher.input != learner.input or teacher.class_names != learner.class_names:
        raise SettingsError(
            f"the teacher {teacher.name} reads another input or knows other classes than {learner.name}: "
            f"{_differences(teacher, learner)}"
        )
    if state != "reset":
        raise SettingsError("a teacher needs training.state reset: its state is not carried along")


def _differences(teacher: Detector, learner: Detector) -> str:
    ours = {**learner.input.model_dump(), "class_names": learner.class_names}
    other = {**teacher.input.model_dump(), "class_names": teacher.class_names}
    return ", ".join(f"{key} {other[key]} for {ours[key]}" for key in ours if ours[key] != other[key])


def _digest(detector: Detector) -> str:
    """A name for the weights of a detector, for a resume to compare."""
    digest = hashlib.sha256()
    tensors: Sequence[Tensor] = list(detector.model.state_dict().values())
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
