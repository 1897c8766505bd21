import csv
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import quick_objectives
import yaml
from optuna.trial import TrialState, create_trial

from spiketrack.cli.search import main
from spiketrack.detector.checkpoint import load_checkpoint
from spiketrack.errors import SettingsError
from spiketrack.experiment import Experiment, load_experiment
from spiketrack.guide.logs import TrainingLog
from spiketrack.report.search import Scale
from spiketrack.search import (
    Parameter,
    SearchSettings,
    Space,
    default_space,
    load_space,
    prepare,
    run_search,
    write_results,
)
from spiketrack.search.study import Watch, claim, give_back, open_study

RATE = Parameter(key="training.learning_rate", low=1e-4, high=1e-2, log=True)
BATCH = Parameter(key="training.batch_size", low=4, high=32, step=4)
SPACE = Space(parameters=(RATE, BATCH))
EXPERIMENT = Experiment.model_validate({"name": "tiny", "data": {"root": "data"}})


@pytest.fixture
def begin(tmp_path):
    """A function that prepares a search in a folder: (study, settings)."""

    def begin(name="out", space=SPACE, experiment=EXPERIMENT, storage=None, **changes):
        out = tmp_path / name
        storage = storage or str(out / "study.journal")
        given = {"study": "s", "storage": storage, "out": out, "logs_dir": out / "logs", "trials": 8, "beat_s": 0.2}
        settings = SearchSettings(**{**given, **changes})
        return prepare(settings, experiment, space, "space.yaml"), settings

    return begin


def drawn(study):
    """The values of all trials that were asked for, in their order."""
    trials = {
        t.user_attrs.get("retry_of", t.number): t for t in study.get_trials(False) if "surplus" not in t.user_attrs
    }
    return [tuple(trials[number].params.values()) for number in sorted(trials)]


def states(found):
    return [trial.state for trial in found.trials]


def test_the_same_seed_draws_the_same_trials_and_another_one_others(begin):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        study, settings = begin(name, seed=seed, trials=14)  # 10 by chance, then TPE learns
        assert run_search(settings, objective=quick_objectives.bowl)
        runs.append(drawn(study))
    assert runs[0] == runs[1]
    assert len(runs[0]) == len(set(runs[0])) == 14
    assert not set(runs[0]) & set(runs[2])
    for rate, batch in runs[0]:
        assert 1e-4 <= rate <= 1e-2
        assert batch in range(4, 33, 4)


@pytest.mark.parametrize(("storage", "pruner"), [("journal", "hyperband"), ("sqlite", "median")])
def test_a_search_in_two_parts_is_the_whole_one(begin, tmp_path, storage, pruner):
    how = {"pruner": pruner, "epochs": 4}
    whole, settings = begin("whole", trials=14, **how)
    assert run_search(settings, objective=quick_objectives.bowl)
    url = f"sqlite:///{tmp_path}/parts/study.db" if storage == "sqlite" else None
    _, settings = begin("parts", storage=url, trials=6, **how)
    assert run_search(settings, objective=quick_objectives.bowl)
    study, settings = begin("parts", storage=url, trials=14, **how)
    assert run_search(settings, objective=quick_objectives.bowl)
    assert drawn(study) == drawn(whole)
    assert [t.value for t in study.get_trials(False)] == [t.value for t in whole.get_trials(False)]
    assert {t.state for t in study.get_trials(False)} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_an_interrupted_trial_goes_on_and_the_rest_is_as_without(begin):
    whole, whole_settings = begin("whole")
    assert run_search(whole_settings, objective=quick_objectives.bowl)
    study, settings = begin()
    assert not run_search(settings, objective=quick_objectives.bowl_with_a_stop)
    found, _ = write_results(study, settings)
    assert states(found) == ["complete"] * 3 + ["waiting"]
    assert run_search(settings, objective=quick_objectives.bowl_with_a_stop)
    found, _ = write_results(study, settings)
    assert states(found) == states(write_results(whole, whole_settings)[0])
    assert [trial.attempts for trial in found.trials] == [1, 1, 1, 2, 1, 1, 1, 1]
    assert drawn(study) == drawn(whole)


def test_the_median_ends_what_is_worse(begin):
    study, settings = begin(epochs=4)
    assert run_search(settings, objective=quick_objectives.ever_worse)
    found, _ = write_results(study, settings)
    # five trials run to their end before the median counts; those after it are below it in their first epoch
    assert states(found) == ["complete"] * 5 + ["pruned"] * 3
    assert found.trials[6].epochs == {1: pytest.approx(1 / 7 + 0.01)}
    assert found.best.number == 0


def test_a_trial_that_diverges_fails_alone_and_counts(begin, caplog):
    study, settings = begin(trials=4)
    with caplog.at_level(logging.INFO, logger="spiketrack.search"):
        assert run_search(settings, objective=quick_objectives.half_diverge)
    found, best = write_results(study, settings)
    assert states(found) == ["complete", "failed", "complete", "failed"]
    assert found.trials[1].note == "the loss is nan in trial 1"
    assert "trial 3 failed: the loss is nan in trial 3" in caplog.text
    assert best is not None


def test_a_killed_process_is_replaced_and_its_trial_run_again(begin):
    study, settings = begin(trials=6)
    assert run_search(settings, 2, quick_objectives.bowl_with_a_kill)
    found, _ = write_results(study, settings)
    assert [trial.attempts for trial in found.trials] == [1, 1, 2, 1, 1, 1]
    assert {*states(found)} <= {"complete", "pruned"}
    assert len(set(drawn(study))) == 6
    assert not [trial for trial in study.get_trials(False) if not trial.state.is_finished()]


def test_two_searches_share_a_database_and_one_takes_over_what_the_killed_one_left(begin, tmp_path):
    study, settings = begin(storage=f"sqlite:///{tmp_path}/study.db", pruner="none")
    code = f"""
from quick_objectives import killed_in_its_second
from spiketrack.search import SearchSettings, run_search
run_search(SearchSettings.model_validate_json({settings.model_dump_json()!r}), objective=killed_in_its_second)
"""
    folder = Path(__file__).parent
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder, stderr=subprocess.PIPE) as other:
        while not (settings.out / "second_has_begun").exists():
            assert other.poll() is None, other.stderr.read().decode()
            time.sleep(0.01)
        assert run_search(settings, objective=quick_objectives.slow_bowl)
        assert other.wait() == -signal.SIGKILL
    found, _ = write_results(study, settings)
    assert states(found) == ["complete"] * 8
    assert [trial.attempts for trial in found.trials] == [1, 2, 1, 1, 1, 1, 1, 1]
    assert len(set(drawn(study))) == 8


def test_a_trial_whose_process_is_killed_each_time_is_given_up(begin):
    study, settings = begin(trials=2)
    for _ in range(3):
        claim(study, 2)
        assert give_back(study, study.get_trials()[-1], killed=True)
    assert run_search(settings, objective=quick_objectives.bowl)
    found, _ = write_results(study, settings)
    assert states(found) == ["failed", "complete"]
    assert found.trials[0].note == "its process ended 3 times"


def test_a_silent_process_of_another_machine_is_dead_after_some_beats(begin):
    study, _ = begin()
    trial = claim(study, 8)
    trial.set_user_attr("worker", {"host": "elsewhere", "machine": "elsewhere", "pid": 1, "started": 0.0})
    watch = Watch(0.02)
    assert watch.dead(study.get_trials(False)) == []
    time.sleep(0.15)
    trial.set_user_attr("beat", 1)
    assert watch.dead(study.get_trials(False)) == []
    time.sleep(0.15)
    assert [dead.number for dead in watch.dead(study.get_trials(False))] == [0]


def test_a_process_that_was_taken_for_dead_leaves_the_trial_to_others(begin, caplog):
    study, settings = begin(trials=2)
    scores = []

    def objective(attempt):
        if not scores:
            other = open_study(settings)
            assert give_back(other, other.get_trials()[-1], killed=True)
        scores.append(attempt.number)
        attempt.report(1, 0.5)
        return 0.5

    with caplog.at_level(logging.INFO, logger="spiketrack.search"):
        assert run_search(settings, objective=objective)
    assert scores == [0, 0, 1]
    assert "trial 0 was taken for dead and is run by another process" in caplog.text
    found, _ = write_results(study, settings)
    assert [(trial.state, trial.attempts) for trial in found.trials] == [("complete", 2), ("complete", 1)]


def test_only_one_of_two_gives_a_trial_back(begin):
    study, _ = begin()
    claim(study, 8)
    seen = study.get_trials()[0]
    assert give_back(study, seen, killed=True)
    assert not give_back(study, seen, killed=True)
    assert [t.state for t in study.get_trials(False)] == [TrialState.FAIL, TrialState.WAITING]
    again = claim(study, 8)
    assert (again.number, again.user_attrs["retry_of"], again.user_attrs["kills"]) == (1, 0, 1)


def test_of_processes_that_ask_at_the_same_time_none_gets_one_too_many(begin, monkeypatch):
    study, settings = begin(trials=1)
    other = open_study(settings)
    ask = study.ask
    # between the look at the number of trials and the question, another process takes the last one
    monkeypatch.setattr(study, "ask", lambda: (claim(other, 1), ask())[1])
    assert claim(study, 1) is None
    assert [("surplus" in t.user_attrs, t.state.name) for t in study.get_trials(False)] == [
        (False, "RUNNING"),
        (True, "FAIL"),
    ]
    assert claim(open_study(settings), 1) is None


def test_a_study_of_something_else_is_not_joined(begin):
    begin()
    with pytest.raises(SettingsError, match=r"searches something else \(epochs differ\); .* --study"):
        begin(epochs=5)
    changed = EXPERIMENT.model_copy(update={"seed": 3})
    with pytest.raises(SettingsError, match=r"\(experiment.seed differ\)"):
        begin(experiment=changed)
    with pytest.raises(SettingsError, match=r"\(space differ\)"):
        begin(space=Space(parameters=(RATE,)))
    assert load_experiment(begin()[1].base).seed == 0
    moved = EXPERIMENT.model_copy(update={"data": EXPERIMENT.data.model_copy(update={"root": Path("elsewhere")})})
    begin(experiment=moved)  # another machine has its data where it likes
    with pytest.raises(SettingsError, match=r"holds trials of another study"):
        begin(study="t")


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"key": "training.lerning_rate", "low": 1, "high": 2}, r"unknown key training.lerning_rate; .* nearest"),
        ({"key": "training.learning_rate", "low": 0.0, "high": 1.0}, r"training.learning_rate: .*greater than 0"),
        ({"key": "training.batch_size", "low": 1.0, "high": 8.0}, r"space.yaml: training.batch_size: .*integer"),
        ({"key": "training.optimizer", "choices": ["adam"]}, r"space.yaml: training.optimizer: .*'adamw' or 'sgd'"),
        ({"key": "evaluation.protocol", "choices": ["coco"]}, r"evaluation.protocol cannot be searched: .*same rules"),
        ({"key": "training.epochs", "low": 1, "high": 8}, r"training.epochs cannot be searched: say --epochs"),
    ],
)  # fmt: skip
def test_a_space_that_does_not_fit_is_refused(begin, parameter, said):
    with pytest.raises(SettingsError, match=said):
        begin(space=Space.model_validate({"parameters": [parameter]}))


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("{key: a, low: 2, high: 1}", "low 2 must be below high 1"),
        ("{key: a, low: 0, high: 1, log: true}", "begins above 0"),
        ("{key: a, low: 1}", "expected low and high, or choices"),
        ("{key: a, choices: [1], low: 1}", "choices have no low"),
        ("{key: a, choises: [1]}", r"unknown key parameters.0.choises; the nearest known is choices"),
        ("{key: a, low: 1, high: 2, when: {b: 1}}, {key: b, choices: [1]}", "its condition b must stand before it"),
        ("{key: a, choices: [1]}, {key: a, choices: [2]}", "a is there twice"),
    ],
)
def test_a_space_that_means_nothing_is_refused(tmp_path, parameter, said):
    path = tmp_path / "space.yaml"
    path.write_text(f"parameters: [{parameter}]")
    with pytest.raises(SettingsError, match=said):
        load_space(path)


def test_conditions_hold_for_drawn_values_and_for_those_of_the_experiment():
    momentum = Parameter(key="training.momentum", low=0.8, high=0.9, when={"training.optimizer": "sgd"})
    optimizer = Parameter(key="training.optimizer", choices=("sgd", "adamw"))
    both, alone = Space(parameters=(optimizer, momentum)), Space(parameters=(momentum,))
    fixed = optuna.trial.FixedTrial
    adamw = {"training": {"optimizer": "adamw"}}
    assert both.draw(fixed({"training.optimizer": "adamw"}), adamw) == {"training.optimizer": "adamw"}
    drawn = {"training.optimizer": "sgd", "training.momentum": 0.85}
    assert both.draw(fixed(drawn), adamw) == drawn
    assert alone.draw(fixed({}), adamw) == {}
    assert alone.draw(fixed({"training.momentum": 0.85}), {"training": {"optimizer": "sgd"}}) == {
        "training.momentum": 0.85
    }


def test_the_published_space_has_the_keys_that_an_experiment_has():
    def keys(family):
        tree = {"name": "x", "data": {"root": "d"}, "model": {"family": family}}
        from spiketrack.experiment import experiment_class

        found = default_space(experiment_class(tree).model_validate(tree).model_dump(mode="json"))
        return [parameter.key.removeprefix("training.") for parameter in found.parameters]

    optimizer = ["learning_rate", "batch_size", "weight_decay", "optimizer", "momentum", "schedule", "decay"]
    assert keys("SSD") == optimizer
    assert keys("SpikeYOLO") == [*optimizer, "loss.box_gain", "loss.class_gain"]
    assert keys("SpikeYOLOTracker") == [*optimizer, "loss.box_gain", "loss.class_gain", "loss.track_gain"]


def test_whole_numbers_for_a_key_with_fractions_become_fractions(begin):
    study, settings = begin(space=Space(parameters=(Parameter(key="training.loss.box_gain", low=5, high=15),)))
    values = []
    assert run_search(
        settings, objective=lambda attempt: values.append(attempt.values["training.loss.box_gain"]) or 0.5
    )
    assert all(isinstance(value, float) and value % 1 for value in values)
    found, _ = write_results(study, settings)
    assert found.no_importances == "8 trials ran to their end; importances take 10."


def test_importances_name_what_matters_and_the_files_say_the_same(begin):
    idle = Parameter(key="training.weight_decay", low=1e-5, high=1e-3, log=True)
    study, settings = begin(space=Space(parameters=(idle, RATE, BATCH)), trials=30, mode="random", pruner="none")
    assert run_search(settings, objective=quick_objectives.bowl)
    found, best = write_results(study, settings)
    assert next(iter(found.importances)) == "training.batch_size"
    assert sum(found.importances.values()) == pytest.approx(1)
    told = json.loads((settings.out / "trials.json").read_text())
    rows = list(csv.DictReader((settings.out / "trials.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in rows] == list(range(30))
    highest = max(rows, key=lambda row: float(row["score"]))
    assert int(highest["trial"]) == told["best"] == found.best.number
    written = load_experiment(best)
    assert (written.name, written.training.epochs) == ("tiny_best", EXPERIMENT.training.epochs)
    assert written.training.batch_size == int(highest["training.batch_size"]) == 12
    assert f"{written.training.learning_rate:.6g}" == f"{float(highest['training.learning_rate']):.6g}"
    page = (settings.out / "report.html").read_text()
    assert page.count("<svg") == 3 + 3 + 1  # history, curves, importances, a slice for each setting, all together
    assert "nan" not in page.replace("finance", "")


def test_scales_by_hand():
    log = Scale("k", "log", 1e-4, 1e-2)
    assert log.at(1e-3) == pytest.approx(-3)
    assert log.bounds == pytest.approx((-4, -2))
    assert log.word(-3) == "0.001"
    choice = Scale("k", "choice", 0, 1, ("sgd", None))
    assert [choice.at(value) for value in ("sgd", None)] == [0, 1]
    assert choice.bounds == (-0.5, 1.5)
    assert choice.word(1) == "None"


def test_a_page_without_a_trial_is_a_page(begin):
    study, settings = begin()
    found, best = write_results(study, settings)
    assert best is None
    assert found.trials == ()
    assert "No trial has a score yet." in (settings.out / "report.html").read_text()


def test_a_storage_that_cannot_be_is_named(begin):
    with pytest.raises(SettingsError, match=r"--storage nosuch://x: cannot be opened"):
        begin(storage="nosuch://x")


def test_failed_and_foreign_trials_do_not_count_as_best(begin):
    study, settings = begin()
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"failure": "nan"}))
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.25, params={}, distributions={}))
    found, _ = write_results(study, settings)
    assert found.best.number == 1


def test_numbers_have_no_gaps_where_trials_were_run_again(begin):
    study, settings = begin(trials=3)
    claim(study, 3)
    give_back(study, study.get_trials()[-1], killed=False)
    assert run_search(settings, objective=quick_objectives.slow_bowl)
    assert [trial.number for trial in study.get_trials(False)] == [0, 1, 2, 3]
    found, _ = write_results(study, settings)
    assert [(trial.number, trial.attempts, trial.folder) for trial in found.trials] == [
        (0, 2, "trial_0000"),
        (1, 1, "trial_0001"),
        (2, 1, "trial_0002"),
    ]
    assert sorted(path.name for path in settings.out.glob("trial_*")) == ["trial_0000", "trial_0001", "trial_0002"]


@pytest.fixture
def tiny(squares, tmp_path):
    """An experiment of a second, and a space with one learning rate that diverges."""
    tree = {
        "name": "squares",
        "data": {"root": str(squares)},
        "input": {"slice_us": 20_000},
        "decoding": {"score": 0.0},
        "training": {"batch_size": 2, "steps": 2, "epochs": 9, "validate_every": 4, "ema": 0.5},
    }
    rate = {"key": "training.learning_rate", "choices": [1e-2, 1e30]}
    gain = {"key": "training.loss.box_gain", "low": 5, "high": 10}
    (tmp_path / "squares.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump({"parameters": [rate, gain]}))


def test_a_real_search_from_the_command_line(tiny, run, tmp_path):
    command = ("search", "squares.yaml", "--space", "space.yaml", "--epochs", 2, "--mode", "random", "--seed", 3)
    code, out, err = run(*command, "--trials", 2)
    assert code == 0, err
    folder = tmp_path / "searches" / "squares"
    rows = {row["state"]: row for row in csv.DictReader((folder / "trials.csv").read_text().splitlines())}
    assert rows.keys() == {"complete", "failed"}
    done = rows["complete"]
    assert "lower training.learning_rate" in rows["failed"]["note"]
    number = int(done["trial"])
    trial = folder / f"trial_{number:04d}"
    history = json.loads((trial / "history.json").read_text())
    assert float(done["score"]) == pytest.approx(max(epoch["val_map"] for epoch in history), rel=1e-4)
    assert load_checkpoint(trial / "best.pt")["class_names"] == ["small", "large"]
    assert not (trial / "last.pt").exists()
    lines = (folder / "logs" / "hyperparameter_search" / f"hyperparameter_search_{number:04d}.log").read_text()
    assert "INFO: Epoch 2, Batch 10/10: Total Loss = " in lines
    best, of_trial = load_experiment(folder / "best.yaml"), load_experiment(trial / "experiment.yaml")
    assert (best.training.epochs, best.training.learning_rate, best.training.validate_every) == (9, 1e-2, 4)
    assert (of_trial.training.epochs, of_trial.training.validate_every) == (2, 1)
    assert of_trial.training.loss == best.training.loss
    assert best.training.loss.box_gain == float(done["training.loss.box_gain"])
    assert f"trial {number}: validation mAP" in out
    assert "best.yaml (spiketrack train" in out


def test_a_trial_in_training_goes_on_where_ctrl_c_left_it(tiny, run, tmp_path, monkeypatch):
    command = ("search", "squares.yaml", "--space", "space.yaml", "--epochs", 1, "--trials", 1, "--seed", 3)
    assert run(*command, "--out", "whole")[0] == 0
    on_step = TrainingLog.on_step

    def interrupted(self, progress):
        on_step(self, progress)
        if progress.step == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(TrainingLog, "on_step", interrupted)
    code, _, err = run(*command)
    assert (code, err.splitlines()[-1]) == (130, "stopped; the same command goes on")
    folder = tmp_path / "searches" / "squares" / "trial_0000"
    assert load_checkpoint(folder / "last.pt")["run"]["place"] == [0, 5, 5]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(*command)[0] == 0
    assert (folder / "history.json").read_text() == (tmp_path / "whole" / "trial_0000" / "history.json").read_text()


def test_the_door_of_the_guides(squares, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = {
        "data": {"data_root": str(squares)},
        "model": {"name": "My Model"},
        "training": {"batch_size": 4, "device": "cpu", "use_fp16": False},
        "data_processing": {"slice_duration_us": 20_000, "time_steps": 2, "max_samples_per_file": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "one.yaml").write_text("parameters: [{key: training.loss.track_gain, low: 0.05, high: 0.5}]")
    flags = "--config config.yaml --n_trials 1 --epochs 1 --mode random --study s --jobs 1 --space one.yaml"
    main([*flags.split(), "--storage", "sqlite:///study.db"])
    best = load_experiment(tmp_path / "results" / "hyperparameter_search" / "s" / "best.yaml")
    assert best.name == "My-Model_best"
    assert best.training.epochs == 25
    assert 0.05 <= best.training.loss.track_gain <= 0.5
    assert (tmp_path / "logs" / "hyperparameter_search" / "hyperparameter_search_0000.log").is_file()
    with pytest.raises(SystemExit, match=r"hyperparameter_search.py: --jobs 0: expected one process at least"):
        main([*flags.replace("--jobs 1", "--jobs 0").split(), "--storage", "sqlite:///study.db"])
