"""Objectives that take no training, for the tests of the search; worker processes import them by name."""

import os
import signal
import time

from spiketrack.errors import TrainingError
from spiketrack.search.attempt import Attempt, Stopped


def bowl(attempt: Attempt) -> float:
    """Best at learning rate 1e-3 and 12 samples; three epochs lead up to the score."""
    values = attempt.values
    score = 1 - abs(values["training.batch_size"] - 12) / 40 - abs(values["training.learning_rate"] - 1e-3)
    for epoch in range(1, attempt.settings.epochs + 1):
        attempt.report(epoch, score * epoch / attempt.settings.epochs)
    return score


def slow_bowl(attempt: Attempt) -> float:
    """The same, slow enough that other processes get their turn; the process is named in the trial's folder."""
    attempt.folder.mkdir(parents=True, exist_ok=True)
    (attempt.folder / f"pid_{os.getpid()}").touch()
    time.sleep(0.15)
    return bowl(attempt)


def bowl_with_a_stop(attempt: Attempt) -> float:
    """Trial 3 is interrupted the first time."""
    mark = attempt.settings.out / "interrupted"
    if attempt.number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGINT)
        assert attempt.stopping()
        raise Stopped
    return bowl(attempt)


def bowl_with_a_kill(attempt: Attempt) -> float:
    """The process of trial 2 is killed the first time, in the midst of it."""
    mark = attempt.settings.out / "killed"
    if attempt.number == 2 and not mark.exists():
        mark.touch()
        attempt.report(1, 0.25)
        os.kill(os.getpid(), signal.SIGKILL)
    return slow_bowl(attempt)


def killed_in_its_second(attempt: Attempt) -> float:
    """The process is killed in its second trial, while others go on."""
    mark = attempt.settings.out / "first_is_done"
    if mark.exists():
        attempt.report(1, 0.25)
        (attempt.settings.out / "second_has_begun").touch()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    mark.touch()
    return slow_bowl(attempt)


def half_diverge(attempt: Attempt) -> float:
    """Trials with an odd number end as a loss does that is not finite."""
    if attempt.number % 2:
        raise TrainingError(f"the loss is nan in trial {attempt.number}")
    return bowl(attempt)


def ever_worse(attempt: Attempt) -> float:
    """Each trial is worse than the one before, in each epoch."""
    for epoch in range(1, attempt.settings.epochs + 1):
        attempt.report(epoch, 1 / (1 + attempt.number) + epoch / 100)
    return 1 / (1 + attempt.number) + attempt.settings.epochs / 100
