"""Doctor: measure a run, find what bounds it, say what would help, and try that.

Station: the door of this package. In comes a function that builds a training run under changed settings, or a detector
with a recording; out goes a `Diagnosis`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spiketrack.datasets.batches import check_uncounted
from spiketrack.errors import SettingsError
from spiketrack.optimizing import native_bfloat16
from spiketrack.pipeline import Detector
from spiketrack.profiling.measuring import Measurement, Plan, measure_inference, measure_training
from spiketrack.profiling.probing import Probes, free_processors, probe, thread_counts, threads_of_torch
from spiketrack.profiling.remedies import Present, Remedy, remedies
from spiketrack.profiling.tracing import Trace
from spiketrack.profiling.verdict import Verdict, judge
from spiketrack.recordings import Recording
from spiketrack.tracking import TrackerSettings
from spiketrack.training import Progress, Trainer

MakeTrainer = Callable[[dict[str, Any]], Trainer]
"""Settings to change, such as {"training.batch_size": 16}, to a run at its beginning."""
_BETTER = 1.03  # times the rate, to keep a remedy that was tried
_MOST_COPIES = 4  # of the network side by side: each needs the memory of a pass


@dataclass(frozen=True)
class Trial:
    """A remedy tried on top of those kept before it. rate: samples a second. losses: of the same steps, in training."""

    remedy: Remedy
    rate: float
    kept: bool
    losses: list[float]

    def same_losses(self, others: list[float]) -> str:
        """In words: how the losses of the same steps compare."""
        if not others or self.remedy.effect == "another run":
            return "-"
        if self.losses == others:
            return "same"
        apart = max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(self.losses, others, strict=True))
        return f"within {apart:.1g}" if math.isfinite(apart) else "not finite"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """kind: train or infer. again: rate of the run as it was, measured once more after the trials."""

    kind: str
    measured: Measurement
    trace: Trace
    probes: Probes
    verdict: Verdict
    remedies: list[Remedy]
    trials: list[Trial]
    again: float | None = None

    @property
    def unit(self) -> str:
        return "samples" if self.kind == "train" else "time steps"


def diagnose_training(
    make_trainer: MakeTrainer,
    plan: Plan,
    trace: Path,
    *,
    on_step: Callable[[Progress], None] = lambda progress: None,
    apply: bool = False,
) -> Diagnosis:
    """Profile a training run. trace: file for the Chrome trace. on_step: what the run does after each step."""
    trainer = make_trainer({})
    measured = measure_training(trainer, plan, on_step, trace)
    others = measured.usage.others
    probes = probe(
        trainer.model,
        measured.events,
        trainer.precision,
        train=True,
        threads=thread_counts(others),
        copies=min(_MOST_COPIES, free_processors(others)) if trainer.device.type == "cpu" else 1,
    )
    verdict = judge(measured, probes)
    advice = remedies(verdict, probes, _present(trainer))
    diagnosis = Diagnosis("train", measured, _traced(measured), probes, verdict, advice, [])

    def attempt(taken: list[Remedy]) -> Measurement:
        changes = {key: value for remedy in taken for key, value in remedy.settings.items()}
        with threads_of_torch(next((r.threads for r in reversed(taken) if r.threads is not None), None)):
            return measure_training(make_trainer(changes), plan, on_step)

    return try_remedies(diagnosis, attempt) if apply else diagnosis


def diagnose_inference(
    detector: Detector,
    open_recording: Callable[[], Recording],
    tracking: TrackerSettings,
    plan: Plan,
    trace: Path,
    *,
    apply: bool = False,
) -> Diagnosis:
    """Profile detection and tracking, one time step at a time. open_recording: the same recording at each call."""
    fused = detector.fused()
    measured = measure_inference(_copied(detector), open_recording(), tracking, plan, trace)
    threads = thread_counts(measured.usage.others)
    with torch.inference_mode():
        probes = probe(detector.model, measured.events, torch.float32, train=False, fused=fused.model, threads=threads)
    verdict = judge(measured, probes)
    advice = remedies(verdict, probes, Present(training=False))
    diagnosis = Diagnosis("infer", measured, _traced(measured), probes, verdict, advice, [])

    def attempt(taken: list[Remedy]) -> Measurement:
        chosen = fused if any(remedy.fused for remedy in taken) else detector
        with threads_of_torch(next((r.threads for r in reversed(taken) if r.threads is not None), None)):
            return measure_inference(_copied(chosen), open_recording(), tracking, plan)

    return try_remedies(diagnosis, attempt) if apply else diagnosis


def try_remedies(diagnosis: Diagnosis, attempt: Callable[[list[Remedy]], Measurement]) -> Diagnosis:
    """Each remedy on top of those that helped; the run as it was once more, as the machine may have changed."""
    kept: list[Remedy] = []
    trials: list[Trial] = []
    best = diagnosis.measured.rate
    for remedy in diagnosis.remedies:
        if not remedy.can_be_tried:
            continue
        measured = attempt([*kept, remedy])
        better = measured.rate > _BETTER * best
        trials.append(Trial(remedy, measured.rate, better, measured.losses))
        if better:
            kept.append(remedy)
            best = measured.rate
    again = attempt([]).rate if trials else None
    return replace(diagnosis, trials=trials, again=again)


def _present(trainer: Trainer) -> Present:
    return Present(
        training=True,
        batch_size=trainer.settings.batch_size,
        precision=trainer.precision,
        native=native_bfloat16(trainer.device),
        checkpoint_every=trainer.settings.checkpoint_every,
        read_ahead=trainer.settings.read_ahead,
        recompute=trainer.settings.recompute,
        pageable=trainer.device.type == "cuda" and not trainer.settings.pin_memory,
        files=tuple(sequence.path for sequence in trainer.samples.sequences),
        countable=_could_count(trainer),
        on_disk=any(sequence.cache is not None for sequence in trainer.samples.sequences),
    )


def _could_count(trainer: Trainer) -> bool:
    """Whether there is an accelerator that could count the events, as the loader does now."""
    samples = trainer.samples
    if trainer.device.type == "cpu" or trainer.settings.encode_on == "device":
        return False
    try:
        check_uncounted(samples.settings, samples.augment, samples.steps)
    except SettingsError:
        return False
    return True


def _traced(measured: Measurement) -> Trace:
    assert measured.trace is not None, "the first run is traced"
    return measured.trace


def _copied(detector: Detector) -> Detector:
    """With a network of its own, as hooks stay in it."""
    return replace(detector, model=copy.deepcopy(detector.model))
