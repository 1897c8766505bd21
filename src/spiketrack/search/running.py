"""Running: trials one after the other in each of several processes.

Station: in come search settings, a study and an objective (here: training and its validation mAP), out go finished
trials in the storage, and a folder with a log for each. Ctrl-C and SIGTERM give the running trials back.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess

import torch
import yaml
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from spiketrack.errors import SettingsError, SpiketrackError, TrainingError
from spiketrack.experiment import Experiment, dump_experiment
from spiketrack.replacing import write_whole
from spiketrack.search.attempt import Attempt, Objective, Stopped, train_trial, trial_folder
from spiketrack.search.space import Space, fitted
from spiketrack.search.study import Beating, SearchSettings, Watch, agree, claim, give_back, number_of, open_study
from spiketrack.stopping import stop_requested

log = logging.getLogger(__name__)

WAIT_S = 0.5


def prepare(settings: SearchSettings, experiment: Experiment, space: Space, source: str) -> Study:
    """Write the experiment that is searched, and see that the study is of this search.

    Raises SettingsError for a space that does not fit, a storage that cannot be used, or a study of something else.
    """
    owner = settings.out / "study.yaml"
    mark = yaml.safe_dump({"study": settings.study, "storage": settings.storage})
    if owner.exists() and owner.read_text(encoding="utf-8") != mark:
        raise SettingsError(f"{settings.out} holds trials of another study ({owner}); name another folder with --out")
    text = dump_experiment(experiment)
    tree = yaml.safe_load(text)
    write_whole(settings.out / ".base.yaml", text, SettingsError)
    space = fitted(space, settings.out / ".base.yaml", tree, source)
    study = open_study(settings)
    agree(study, settings, tree, space)
    write_whole(owner, mark, SettingsError)
    (settings.out / ".base.yaml").replace(settings.base)
    return study


def run_search(settings: SearchSettings, jobs: int = 1, objective: Objective = train_trial) -> bool:
    """Run what is left of a study that was prepared. jobs: processes; they import the objective by its name.

    Returns False where SIGINT or SIGTERM asked to stop. Raises what an objective raises, but for TrainingError and
    SettingsError, which fail their trial; TrainingError where one of several processes failed.
    """
    if jobs < 1:
        raise SettingsError(f"--jobs {jobs}: expected one process at least")
    if jobs == 1:
        return work(settings, objective)
    context = multiprocessing.get_context("spawn")
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)

    def start() -> SpawnProcess:
        process = context.Process(target=_process, args=(settings, objective, threads))
        process.start()
        return process

    workers: list[SpawnProcess] = []
    with stop_requested() as stop:
        try:
            workers += [start() for _ in range(jobs)]
            codes = _watch(workers, start, stop)
        finally:  # a second Ctrl-C, or a mistake of ours: no process stays behind
            for worker in workers:
                worker.kill()
                worker.join()
        if stop():
            return False
    if any(code not in (0, 130) for code in codes):
        raise TrainingError("a process of the search failed, see above; the same command goes on")
    return not any(codes)


def _watch(workers: list[SpawnProcess], start: Callable[[], SpawnProcess], stop: Callable[[], bool]) -> list[int]:
    """Wait for processes to end, and replace those that are killed, as often as there are; their exit codes."""
    codes, spare, told = [], len(workers), False
    while workers:
        if stop() and not told:
            told = True
            for worker in workers:
                worker.terminate()
        time.sleep(0.1)
        for worker in [worker for worker in workers if not worker.is_alive()]:
            workers.remove(worker)
            code = worker.exitcode or 0
            if code < 0 and spare and not told:
                log.warning("a process was killed by signal %d; another takes its place", -code)
                workers.append(start())
                spare -= 1
            else:
                codes.append(code)
    return codes


def _process(settings: SearchSettings, objective: Objective, threads: int) -> None:
    """One process of several. Ctrl-C in a terminal reaches the first one only, which passes it on once."""
    os.setpgrp()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    torch.set_num_threads(threads)
    try:
        finished = work(settings, objective)
    except SpiketrackError as error:
        log.error("%s", error)
        sys.exit(1)
    sys.exit(0 if finished else 130)


def work(settings: SearchSettings, objective: Objective) -> bool:
    """Run trials of a study in this process until all are done, also those of other processes; False if stopped."""
    study, watch, parent = open_study(settings), Watch(settings.beat_s), multiprocessing.parent_process()
    with _stop_signals() as signalled, _only_the_search():

        def stop() -> bool:
            return signalled() or (parent is not None and not parent.is_alive())

        worker = Worker(settings, study, objective, stop)
        while not stop():
            for lost in watch.dead(study.get_trials(deepcopy=False)):
                if give_back(study, lost, killed=True):
                    log.warning("the process of trial %d is gone; the trial is run again", number_of(study, lost))
            trial = claim(study, settings.trials)
            if trial is not None:
                worker.run(trial)
            elif any(not other.state.is_finished() for other in study.get_trials(deepcopy=False)):
                time.sleep(min(WAIT_S, settings.beat_s))
            else:
                return True
    return False


@dataclass(frozen=True)
class Worker:
    """Runs trials of a study, one at a time."""

    settings: SearchSettings
    study: Study
    objective: Objective
    stop: Callable[[], bool]

    def run(self, trial: Trial) -> None:
        """One trial to its end, whatever that is."""
        number = number_of(self.study, trial)
        try:
            with Beating(trial, self.settings.beat_s) as beating:
                self._run(trial, number, beating)
        except UpdateFinishedTrialError:
            log.warning("trial %d was taken for dead and is run by another process", number)

    def _run(self, trial: Trial, number: int, beating: Beating) -> None:
        try:
            score = self._score(trial, number, beating)
        except TrialPruned:
            self._end(trial, number, TrialState.PRUNED)
        except (TrainingError, SettingsError) as error:
            trial.set_user_attr("failure", str(error))
            log.warning("trial %d failed: %s", number, error)
            self._end(trial, number, TrialState.FAIL)
        except Stopped:
            self._give_back(trial, killed=False)
            log.info("trial %d stopped; it goes on when the search does", number)
        except UpdateFinishedTrialError:
            raise
        except BaseException as error:
            self._give_back(trial, killed=not isinstance(error, KeyboardInterrupt | SpiketrackError))
            raise
        else:
            self._end(trial, number, TrialState.COMPLETE, score)

    def _score(self, trial: Trial, number: int, beating: Beating) -> float:
        # the space and the tree that were agreed on, so that all processes draw from the same
        agreed = self.study.user_attrs["search"]
        values = Space.model_validate(agreed["space"]).draw(trial, agreed["experiment"])
        log.info("trial %d: %s", number, ", ".join(f"{key}={_short(value)}" for key, value in values.items()))
        return self.objective(Attempt(number, values, self.settings, trial, beating, self.stop))

    def _end(self, trial: Trial, number: int, state: TrialState, score: float | None = None) -> None:
        if self._frozen(trial).state.is_finished():
            raise UpdateFinishedTrialError(f"trial {number}")
        self.study.tell(trial, score, state=state)
        if state != TrialState.FAIL:  # nothing is left to go on with
            (trial_folder(self.settings, number) / "last.pt").unlink(missing_ok=True)
        done = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        best = max(done, key=lambda other: other.value or 0.0, default=None)
        log.info(
            "trial %d %s%s",
            number,
            state.name.lower() if score is None else f"has validation mAP {score:.4f}",
            "" if best is None else f"; the best is {best.value:.4f} of trial {number_of(self.study, best)}",
        )

    def _give_back(self, trial: Trial, killed: bool) -> None:
        give_back(self.study, self._frozen(trial), killed)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return next(t for t in self.study.get_trials(deepcopy=False) if t.number == trial.number)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@contextmanager
def _stop_signals() -> Generator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM arrived at any time in the block.

    A training run that ends by itself while a signal arrives takes no notice of it, and has the handlers meanwhile; the
    interpreter's wake-up pipe gets the number all the same.
    """
    seen: list[int] = []
    with stop_requested() as asked:
        try:
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            os.set_blocking(writer, False)
            before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        except ValueError:  # outside the main thread, where no signals arrive
            os.close(reader)
            os.close(writer)
            yield asked
            return

        def stop() -> bool:
            with suppress(BlockingIOError):
                seen.extend(number for number in os.read(reader, 64) if number in (signal.SIGINT, signal.SIGTERM))
            return bool(seen) or asked()

        try:
            yield stop
        finally:
            signal.set_wakeup_fd(before)
            os.close(reader)
            os.close(writer)


@contextmanager
def _only_the_search() -> Generator[None]:
    """On the console, lines of training below a warning are left out; the log file of the trial has them."""

    def wanted(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.startswith(f"{__package__}.")

    handlers = logging.getLogger().handlers[:]
    for handler in handlers:
        handler.addFilter(wanted)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(wanted)
