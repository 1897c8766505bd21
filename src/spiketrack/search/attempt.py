"""Attempt: one run of one trial, and the objective that trains a detector with its values.

Station: in come the values that a trial has drawn, out goes its score; the score of every epoch tells whether it is
worth going on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.trial import Trial

from spiketrack.errors import SettingsError, TrainingError
from spiketrack.experiment import dump_experiment, trainer_of
from spiketrack.guide.logs import TrainingLog, log_to, out_of_memory
from spiketrack.history import EpochRecord
from spiketrack.replacing import write_whole
from spiketrack.search.space import experiment_with
from spiketrack.search.study import Beating, SearchSettings

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The trial was asked to stop, and can go on from what is in its folder."""


@dataclass(frozen=True)
class Attempt:
    """What an objective gets: a trial to run, or to go on with.

    number: of the trial in the study, from 0. values: the settings drawn, by key. folder: of the trial. stopping: tells
    whether to raise Stopped.
    """

    number: int
    values: dict[str, Any]
    settings: SearchSettings
    trial: Trial
    beating: Beating
    stopping: Callable[[], bool]

    @property
    def folder(self) -> Path:
        return trial_folder(self.settings, self.number)

    @property
    def log_file(self) -> Path:
        """Where the guides of SpikeYoloV8-Tracker promise it."""
        return self.settings.logs_dir / "hyperparameter_search" / f"hyperparameter_search_{self.number:04d}.log"

    def report(self, epoch: int, score: float | None, judge: bool = True) -> None:
        """Tell the study the score of an epoch (from 1). judge: end the trial where it compares badly.

        Raises TrialPruned for that, TrainingError for a score that is no number, UpdateFinishedTrialError where others
        took this trial for dead.
        """
        if score is None or not math.isfinite(score):
            raise TrainingError(f"the validation mAP of epoch {epoch} is {score}; are there labels in the split?")
        if self.beating.disowned:
            raise UpdateFinishedTrialError(f"trial {self.number}")
        self.trial.report(score, epoch)
        if not judge:
            return
        log.info("trial %d, epoch %d of %d: validation mAP %.4f", self.number, epoch, self.settings.epochs, score)
        # after the last epoch nothing is left to save
        if epoch < self.settings.epochs and self.trial.should_prune():
            raise TrialPruned


Objective = Callable[[Attempt], float]


def trial_folder(settings: SearchSettings, number: int) -> Path:
    return settings.out / f"trial_{number:04d}"


def train_trial(attempt: Attempt) -> float:
    """Train with the values of a trial from where its folder stands; returns the best validation mAP."""
    settings, folder = attempt.settings, attempt.folder
    fixed = (f"training.epochs={settings.epochs}", "training.validate_every=1")
    experiment = experiment_with(settings.base, attempt.values, *fixed)
    with log_to(attempt.log_file, "INFO", "%(levelname)s: %(message)s"):
        trainer = trainer_of(experiment, folder)
        if (folder / "last.pt").exists():
            trainer.resume()
        write_whole(folder / "experiment.yaml", dump_experiment(experiment), SettingsError)
        for record in trainer.history:
            attempt.report(record.epoch, record.val_map, judge=False)
        if attempt.stopping():
            raise Stopped
        lines = TrainingLog(100, trainer.settings.device)

        def on_epoch(record: EpochRecord) -> None:
            lines.on_epoch(record)
            attempt.report(record.epoch, record.val_map)

        try:
            finished = trainer.run(lines.on_step, on_epoch)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise TrainingError(out_of_memory(experiment.training.batch_size)) from error
    if not finished:
        raise Stopped
    return trainer.best_map
