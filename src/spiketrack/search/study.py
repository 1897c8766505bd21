"""Study: the trials that several processes and machines share, in a database or a journal file.

Station: in come settings and what others have written to the storage, out goes the next trial to run, once; one whose
process is gone goes back to be run again. A trial that is run again is a new one to Optuna (`retry_of` names the
first), with the same values and the same folder.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import optuna
import psutil
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.errors import SettingsError
from spiketrack.search.space import Space, value_at

STARTUP_TRIALS = 5  # before the median counts
MOST_KILLS = 3
SILENT_BEATS = 5
CLOCK_S = 2.0  # by which the system's word on when a process began may shift
OF_THE_MACHINE = ("data.root", "data.labels_dir", "data.cache_mb", "data.cache_dir", "training.device",
                  "training.read_ahead", "training.encode_on", "training.pin_memory", "training.recompute")  # fmt: skip


class SearchSettings(BaseModel):
    """How to search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str = Field(min_length=1, description="name of the study; processes with the same name and storage share it")
    storage: str = Field(min_length=1, description="database URL such as sqlite:///FILE, or the path of a journal file")
    out: Path = Field(description="folder of trials and results")
    logs_dir: Path = Field(description="folder that hyperparameter_search/hyperparameter_search_TRIAL.log lies in")
    trials: int = Field(20, ge=1, description="trials of the whole study, those of earlier runs included")
    epochs: int = Field(3, ge=1, description="epochs of a trial")
    mode: Literal["tpe", "random"] = Field("tpe", description="tpe learns from the trials before")
    pruner: Literal["median", "hyperband", "none"] = Field("median", description="which trials to end early")
    seed: int = Field(0, ge=0, description="of the values that are drawn")
    beat_s: float = Field(30.0, gt=0, description="seconds between the signs of life of a trial")

    @property
    def base(self) -> Path:
        """The experiment that trials are variants of."""
        return self.out / "base.yaml"


def open_study(settings: SearchSettings) -> Study:
    """The study of the settings, made where there is none. Raises SettingsError where the storage cannot be used."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = PlaceSampler(settings.mode, settings.seed)
    study = optuna.create_study(
        storage=open_storage(settings.storage),
        study_name=settings.study,
        sampler=sampler,
        pruner=make_pruner(settings),
        direction="maximize",
        load_if_exists=True,
    )
    sampler.study = study
    return study


def open_storage(where: str) -> BaseStorage:
    """A database for a URL, else a journal file. Raises SettingsError where it cannot be opened."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if "://" in where:
            if where.startswith("sqlite:///"):
                Path(where.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            # SQLite lets one process write at a time; the others wait
            patience = {"connect_args": {"timeout": 100}} if where.startswith("sqlite") else {}
            return RDBStorage(where, engine_kwargs=patience)
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(where))
    except (OSError, ImportError, ValueError, RuntimeError, SQLAlchemyError) as error:
        raise SettingsError(f"--storage {where}: cannot be opened ({' '.join(str(error).split())})") from error


def agree(study: Study, settings: SearchSettings, tree: dict[str, Any], space: Space) -> None:
    """Note in the study what is searched, or see that it is the same. Raises SettingsError naming what differs."""
    same = {key: getattr(settings, key) for key in ("epochs", "mode", "pruner", "seed")}
    wanted = {**same, "space": space.model_dump(mode="json"), "experiment": tree}
    found = study.user_attrs.get("search")
    if found is None:
        study.set_user_attr("search", wanted)
        return
    keys = ["space", *same, *(f"experiment.{key}" for key in _leaves({**found["experiment"], **tree}))]
    skipped = {f"experiment.{key}" for key in OF_THE_MACHINE}
    differing = [key for key in keys if key not in skipped and value_at(found, key) != value_at(wanted, key)]
    if differing:
        raise SettingsError(
            f"the study {settings.study} in {settings.storage} searches something else ({', '.join(differing)} "
            "differ); give it the same settings, or name another study with --study"
        )


def make_pruner(settings: SearchSettings) -> optuna.pruners.BasePruner:
    """Median: ends a trial that is below the median of the others at its epoch. Hyperband: Li et al., JMLR 2018."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=settings.epochs)
    return optuna.pruners.NopPruner()


class PlaceSampler(BaseSampler):
    """Draws the values of the n-th trial from a seed and n, so that a study that goes on draws what it would have."""

    def __init__(self, mode: str, seed: int) -> None:
        self.mode, self.seed = mode, seed
        self.study: Study | None = None
        self._inner: BaseSampler = RandomSampler(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        # study may hold a part of the trials only (Hyperband)
        place = number_of(self.study or study, trial)
        seed = int(np.random.SeedSequence([self.seed, place]).generate_state(1)[0])
        if self.mode == "random":
            self._inner = RandomSampler(seed)
        else:
            self._inner = TPESampler(seed=seed)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


def is_first(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those that were asked for: no second attempt, and none too many."""
    return "retry_of" not in trial.user_attrs and "surplus" not in trial.user_attrs


def number_of(study: Study, trial: FrozenTrial | Trial) -> int:
    """The number by which people know a trial: how many that were asked for came before its first attempt."""
    return _place(study.get_trials(deepcopy=False), trial.user_attrs.get("retry_of", trial.number))


def _place(trials: Sequence[FrozenTrial], number: int) -> int:
    return sum(is_first(trial) for trial in trials if trial.number < number)


def claim(study: Study, most: int) -> Trial | None:
    """The next trial to run: one that has to be run again, or a new one; None where `most` were begun.

    Numbers are given out by the storage, one after the other: of processes that ask at the same time those with the
    largest numbers find that theirs is one too many, and mark it.
    """
    trials = study.get_trials(deepcopy=False)
    waiting = any(trial.state == TrialState.WAITING for trial in trials)
    if not waiting and sum(map(is_first, trials)) >= most:
        return None
    trial = study.ask()
    if "retry_of" not in trial.user_attrs and number_of(study, trial) >= most:
        trial.set_user_attr("surplus", True)
        study.tell(trial, state=TrialState.FAIL)
        return None
    trial.set_user_attr("worker", _this_process())
    return trial


def give_back(study: Study, trial: FrozenTrial, killed: bool) -> bool:
    """End a trial so that it is run again, by anybody. killed: its process was, which may happen so many times.

    Returns False where another process ended it before.
    """
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError, StorageInternalError):
        return False
    kills = trial.user_attrs.get("kills", 0) + killed
    if kills < MOST_KILLS:
        first = trial.user_attrs.get("retry_of", trial.number)
        study.enqueue_trial(trial.params, user_attrs={"retry_of": first, "kills": kills})
    return True


class Watch:
    """Finds running trials whose process is gone.

    On this machine the system tells. Of another machine the sign of life must stand still for some beats as seen from
    here: clocks are not compared.
    """

    def __init__(self, beat_s: float) -> None:
        self.grace_s = SILENT_BEATS * beat_s
        self._seen: dict[int, tuple[Any, float]] = {}

    def dead(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the running ones, as far as it is known by now."""
        return [trial for trial in trials if trial.state == TrialState.RUNNING and self._gone(trial)]

    def _gone(self, trial: FrozenTrial) -> bool:
        worker, here = trial.user_attrs.get("worker"), _this_process()
        if worker and here["machine"] and worker["machine"] == here["machine"]:
            began = _started(worker["pid"])
            return began is None or abs(began - worker["started"]) > CLOCK_S
        now, beat = time.monotonic(), trial.user_attrs.get("beat")
        before, since = self._seen.get(trial.number, (None, now))
        if trial.number not in self._seen or beat != before:
            since = now
        self._seen[trial.number] = (beat, since)
        return now - since > self.grace_s


class Beating:
    """Signs of life of a trial, from a thread, while the block runs; `disowned` where others took it for dead."""

    def __init__(self, trial: Trial, beat_s: float) -> None:
        self.trial, self.beat_s = trial, beat_s
        self.disowned = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)

    def __enter__(self) -> Beating:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _beat(self) -> None:
        count = 0
        while not self._end.wait(self.beat_s):
            count += 1
            try:
                with suppress(StorageInternalError):  # busy: the next beat comes
                    self.trial.set_user_attr("beat", count)
            except UpdateFinishedTrialError:
                self.disowned = True
                return


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> str:
    """What tells machines and their boots apart, as far as process ids go; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> float | None:
    """When a process began, which tells it from a later one with its id; None where there is none, or a dead one."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys of a tree that hold values, joined by dots."""
    keys = []
    for name, value in tree.items():
        key = f"{prefix}{name}"
        keys += _leaves(value, f"{key}.") if isinstance(value, dict) and value else [key]
    return keys
