"""The command that searches good settings: search; and the door of the guides' hyperparameter_search.py."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spiketrack.cli.app import Config, Set, app, number, options_as_settings
from spiketrack.errors import SettingsError, SpiketrackError

if TYPE_CHECKING:
    from spiketrack.experiment import Experiment


@app.command()
def search(
    config: Config,
    space: Annotated[
        Path | None, typer.Option(help="file with the settings to search; default the published space (docs/search.md)")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="trials of the whole study, earlier ones included")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="epochs of a trial")] = 3,
    study: Annotated[str | None, typer.Option(help="name of the study; default that of the experiment")] = None,
    storage: Annotated[
        str | None,
        typer.Option(help="sqlite:///FILE or another database, or a journal file; default OUT/study.journal"),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="processes on this machine")] = 1,
    out: Annotated[Path | None, typer.Option(help="folder of trials and results; default searches/<study>")] = None,
    mode: Annotated[Literal["tpe", "random"], typer.Option(help="how values are drawn")] = "tpe",
    pruner: Annotated[Literal["median", "hyperband", "none"], typer.Option(help="which trials end early")] = "median",
    seed: Annotated[int, typer.Option(min=0, help="of the values that are drawn")] = 0,
    overrides: Set = None,
) -> None:
    """Search settings with the best validation mAP; stop with Ctrl-C, go on with the same command."""
    from spiketrack.experiment import load_experiment

    experiment = load_experiment(config, overrides)
    options = {
        "study": study or experiment.name,
        "storage": storage,
        "out": out,
        "trials": trials,
        "epochs": epochs,
        "mode": mode,
        "pruner": pruner,
        "seed": seed,
    }
    if not _search(experiment, space, jobs, options):
        raise typer.Exit(130)


def main(arguments: Sequence[str]) -> None:
    """hyperparameter_search.py: the flags of the guides; exit code 130 where it was asked to stop."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level or "INFO", format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        finished = _search_of_guide(options)
    except SpiketrackError as error:
        sys.exit(f"hyperparameter_search.py: {error}")
    if not finished:
        sys.exit(130)


def _search_of_guide(options: argparse.Namespace) -> bool:
    import torch

    from spiketrack.cli.guide import guide_of
    from spiketrack.datasets.etram import read_class_names
    from spiketrack.guide.mapping import experiment_of

    guide = guide_of(options)
    if guide.training.device.startswith("cuda") and not (guide.device.force_cpu or torch.cuda.is_available()):
        logging.getLogger(__name__).warning("device %s: no GPU here, running on the CPU", guide.training.device)
        guide = guide.model_copy(update={"training": guide.training.model_copy(update={"device": "cpu"})})
    if guide.pruning.enabled:
        raise SettingsError("pruning.enabled: trials are not pruned of weights; leave it false for a search")
    if guide.yolo_loss.use_class_weights and guide.yolo_loss.class_weights is None:
        raise SettingsError(
            "yolo_loss.class_weights: give those that scripts/utils/calculate_class_weights.py prints, or leave "
            "use_class_weights false"
        )
    weights = (guide.yolo_loss.class_weights or ()) if guide.yolo_loss.use_class_weights else ()
    experiment = experiment_of(guide, read_class_names(guide.data.data_root), weights)
    chosen = {
        "study": options.study or experiment.name,
        "storage": options.storage,
        "out": guide.model.results_dir / "hyperparameter_search" / (options.study or experiment.name),
        "logs_dir": guide.model.logs_dir,
        "trials": options.n_trials,
        "epochs": options.epochs,
        "mode": {"optuna": "tpe"}.get(options.mode, options.mode),
        "seed": guide.training.seed,
    }
    return _search(experiment, options.space, options.jobs, chosen)


def _search(experiment: Experiment, space_file: Path | None, jobs: int, options: dict[str, Any]) -> bool:
    """Search and tell the best; returns False where the search was asked to stop."""
    from spiketrack.search import SearchSettings, default_space, load_space, prepare, run_search, write_results

    out = options["out"] or Path("searches") / options["study"]
    own = {"out": out, "storage": options["storage"] or str(out / "study.journal")}
    with options_as_settings():
        settings = SearchSettings.model_validate({"logs_dir": out / "logs", **options, **own})
    if space_file is None:
        space, source = default_space(experiment.model_dump(mode="json")), "the published space"
    else:
        space, source = load_space(space_file), str(space_file)
    study = prepare(settings, experiment, space, source)
    try:
        finished = run_search(settings, jobs)
    finally:
        found, best = write_results(study, settings)
    for trial in sorted(found.of_state("complete"), key=lambda trial: -(trial.score or 0.0))[:5]:
        values = ", ".join(f"{k.removeprefix('training.')} {_short(v)}" for k, v in trial.values.items())
        print(f"trial {trial.number}: validation mAP {number(trial.score)}; {values}")
    counts = ", ".join(f"{len(rows)} {state}" for state in ("pruned", "failed") if (rows := found.of_state(state)))
    print(f"\n{len(found.trials)} trials{', ' + counts if counts else ''}")
    print(f"report   {out / 'report.html'}\ntrials   {out / 'trials.csv'}")
    if best is not None:
        print(f"best     {best} (spiketrack train {best})")
    if not finished:
        sys.stderr.write("stopped; the same command goes on\n")
    elif best is None:
        raise SettingsError(f"no trial ran to its end; {out / 'trials.csv'} says why")
    return finished


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hyperparameter_search.py", description="Search the settings of a SpikeYOLOTracker with Optuna."
    )
    parser.add_argument("--config", type=Path, help="configuration; default config/config.yaml")
    parser.add_argument("--n_trials", type=int, default=20, help="trials of the study, earlier ones included (20)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of a trial (3)")
    parser.add_argument(
        "--mode", choices=("random", "optuna", "tpe"), default="optuna", help="how values are drawn (optuna: by TPE)"
    )
    parser.add_argument("--study", help="name of the study; default the model's")
    parser.add_argument("--storage", help="sqlite:///FILE or another database, or a journal file")
    parser.add_argument("--jobs", type=int, default=1, help="processes on this machine (1)")
    parser.add_argument("--space", type=Path, help="file with the settings to search (ours)")
    parser.add_argument("--device", help="cuda, cuda:N or cpu; the CPU where there is no GPU")
    parser.add_argument("--data_root", type=Path, help="data set, for data.data_root (ours)")
    parser.add_argument("--log_level", type=str.upper, choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    parser.add_argument("--set", action="append", dest="overrides", metavar="section.key=value", help="any key (ours)")
    return parser
