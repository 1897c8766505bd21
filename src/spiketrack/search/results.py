"""Results: the trials of a study as records, and the best settings as an experiment file that can be trained.

Station: the end of a search. In comes a study, out go best.yaml and the files of report/search.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from spiketrack.errors import SettingsError
from spiketrack.experiment import dump_experiment
from spiketrack.replacing import write_whole
from spiketrack.report.search import Scale, SearchSummary, TrialRow, write_search
from spiketrack.search.attempt import trial_folder
from spiketrack.search.space import Parameter, Space, experiment_with
from spiketrack.search.study import SearchSettings, number_of

LEAST_FOR_IMPORTANCE = 10
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def write_results(study: Study, settings: SearchSettings) -> tuple[SearchSummary, Path | None]:
    """Write trials.csv, trials.json, report.html and, once a trial is complete, best.yaml; returns its path.

    best.yaml has the epochs of the experiment that was searched, not those of a trial.
    """
    found = summary(study, settings)
    write_search(settings.out, found)
    best = found.best
    if best is None:
        return found, None
    experiment = experiment_with(settings.base, best.values)
    experiment = experiment.model_copy(update={"name": f"{experiment.name}_best"})
    head = (
        f"# Trial {best.number} of the study {settings.study}: validation mAP {best.score:.4f} after "
        f"{settings.epochs} epochs, the best of {len(found.of_state('complete', 'pruned'))} trials.\n"
        "# spiketrack train best.yaml\n"
    )
    path = settings.out / "best.yaml"
    write_whole(path, head + dump_experiment(experiment), SettingsError)
    return found, path


def summary(study: Study, settings: SearchSettings) -> SearchSummary:
    """The study as records: a trial that was run again counts once, as its last attempt."""
    attempts: dict[int, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if "surplus" not in trial.user_attrs:
            attempts.setdefault(number_of(study, trial), []).append(trial)
    trials = tuple(_row(number, attempts[number], settings) for number in sorted(attempts))
    importances, reason = _importances(study)
    space = Space.model_validate(study.user_attrs["search"]["space"])
    facts = {
        "objective": "best validation mAP of a trial's epochs",
        "epochs of a trial": str(settings.epochs),
        "values drawn by": {"tpe": "TPE", "random": "chance"}[settings.mode],
        "pruner": settings.pruner,
        "seed": str(settings.seed),
        "storage": settings.storage,
        "hosts": ", ".join(sorted({trial.host for trial in trials if trial.host})) or "-",
        "optuna": optuna.__version__,
    }
    scales = tuple(_scale(parameter) for parameter in space.parameters)
    return SearchSummary(settings.study, trials, scales, importances, reason, facts)


def _row(number: int, attempts: Sequence[FrozenTrial], settings: SearchSettings) -> TrialRow:
    last = attempts[-1]
    state = _STATES[last.state]
    epochs = {step: score for trial in attempts for step, score in sorted(trial.intermediate_values.items())}
    failure = last.user_attrs.get("failure", "")
    if state == "failed" and not failure:
        failure = f"its process ended {len(attempts)} times"
    return TrialRow(
        number,
        state,
        last.value if last.state == TrialState.COMPLETE else max(epochs.values(), default=None),
        dict(last.params),
        epochs,
        last.duration.total_seconds() if last.duration else None,
        last.user_attrs.get("worker", {}).get("host", ""),
        len(attempts),
        failure,
        trial_folder(settings, number).name,
    )


def _importances(study: Study) -> tuple[dict[str, float], str]:
    """Shares of the settings in what sets the best trials apart, the largest first, or why there are none."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < LEAST_FOR_IMPORTANCE:
        return {}, f"{len(done)} trials ran to their end; importances take {LEAST_FOR_IMPORTANCE}."
    if len({trial.value for trial in done}) == 1:
        return {}, "All trials have the same score."
    # at least five trials count as the best ones
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / len(done)))
    with warnings.catch_warnings():
        # many equal scores: all settings are equally important, which the chart says too
        warnings.simplefilter("ignore", UserWarning)
        return optuna.importance.get_param_importances(study, evaluator=evaluator), ""


def _scale(parameter: Parameter) -> Scale:
    if parameter.choices is not None:
        return Scale(parameter.key, "choice", 0, len(parameter.choices) - 1, parameter.choices)
    assert parameter.low is not None
    assert parameter.high is not None
    return Scale(parameter.key, "log" if parameter.log else "linear", parameter.low, parameter.high)
