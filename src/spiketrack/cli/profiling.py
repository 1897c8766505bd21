"""The command that finds what bounds a run: profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spiketrack.cli.app import Json, Set, app, progress_line
from spiketrack.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from spiketrack.pipeline import Detector
    from spiketrack.profiling import Diagnosis, Plan
    from spiketrack.recordings import Recording
    from spiketrack.tracking import TrackerSettings


@app.command()
def profile(
    subject: Annotated[Path, typer.Argument(help="experiment file (YAML), or a checkpoint with --infer and --data")],
    train: Annotated[
        bool | None,
        typer.Option("--train/--infer", help="steps of training, or of inference; default by what the file is"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="of --infer: a recording; default the first of the experiment's test split"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps to measure")] = 20,
    warm_up: Annotated[int, typer.Option(min=1, help="steps before, which do not count")] = 5,
    try_remedies: Annotated[bool, typer.Option("--apply", help="try the remedies that are settings, measure")] = False,
    out: Annotated[Path | None, typer.Option(help="folder for report and trace; default profile_<name>")] = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Find what bounds a training or inference run and what would make it faster (docs/profiling.md)."""
    from spiketrack.errors import RecordingError
    from spiketrack.profiling import Plan
    from spiketrack.replacing import make_folder
    from spiketrack.report.profile import profile_values, write_profile
    from spiketrack.spiking.allocation import keep_freed_memory

    keep_freed_memory()
    checkpoint = subject.suffix == ".pt"
    training = not checkpoint if train is None else train
    if training and (checkpoint or data is not None):
        raise SettingsError(
            "--train needs an experiment file, and no --data; a checkpoint or a recording is for --infer"
        )
    folder = out or Path(f"profile_{subject.stem}")
    make_folder(folder)
    plan, trace = Plan(warm_up, steps), folder / "trace.json.gz"
    if training:
        found = _training(subject, overrides, plan, trace, try_remedies)
    else:
        found = _inference(subject, data, overrides, plan, trace, try_remedies)
    kind = "training" if training else "inference"
    facts = {"of": subject, "overrides": ", ".join(overrides or []) or "-"}
    report = write_profile(folder, found, title=f"Profile of {kind}: {subject.name}", facts=facts)
    if not trace.exists():
        raise RecordingError(f"{trace}: the trace could not be written; is there space left?")
    if as_json:
        print(json.dumps(profile_values(found)))
        return
    _print(found)
    print(f"\nreport   {report}\nnumbers  {report.with_name('profile.json')}\ntrace    {trace} (ui.perfetto.dev)")


def _training(config: Path, overrides: list[str] | None, plan: Plan, trace: Path, try_remedies: bool) -> Diagnosis:
    from tempfile import TemporaryDirectory

    from spiketrack.experiment import load_experiment, trainer_of
    from spiketrack.profiling import diagnose_training
    from spiketrack.training import Trainer

    # an epoch has a step at least: the run is long enough, and no validation falls into it
    long = plan.warm_up + plan.steps + plan.traced + 1
    bounded = [f"training.epochs={long}", f"training.validate_every={long}", "training.patience=null"]
    with TemporaryDirectory(prefix="spiketrack-profile-") as run_dir, progress_line("profiling", "steps") as update:

        def make_trainer(changes: dict[str, Any]) -> Trainer:
            changed = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
            experiment = load_experiment(config, [*(overrides or []), *changed, *bounded])
            return trainer_of(
                experiment,
                Path(run_dir),
                on_build=lambda done, total, name: update(done, total, f"begins when recordings are decoded: {name}"),
            )

        return diagnose_training(
            make_trainer,
            plan,
            trace,
            on_step=lambda progress: update(progress.step, None, "training"),
            apply=try_remedies,
        )


def _inference(
    subject: Path, data: Path | None, overrides: list[str] | None, plan: Plan, trace: Path, apply: bool
) -> Diagnosis:
    from spiketrack.pipeline import SHIPPED_TRACKING, Detector
    from spiketrack.profiling import diagnose_inference
    from spiketrack.recordings import open_recording

    if subject.suffix != ".pt":
        detector, tracking, opened = _of_experiment(subject, data, overrides)
        return diagnose_inference(detector, opened, tracking, plan, trace, apply=apply)
    if data is None:
        raise SettingsError(f"{subject}: a checkpoint knows no recording; name one with --data")
    if overrides:
        raise SettingsError("--set changes an experiment file; a checkpoint holds its own settings")
    recording, detector = data, Detector.load(subject)
    return diagnose_inference(detector, lambda: open_recording(recording), SHIPPED_TRACKING, plan, trace, apply=apply)


def _of_experiment(
    config: Path, data: Path | None, overrides: list[str] | None
) -> tuple[Detector, TrackerSettings, Callable[[], Recording]]:
    """The best network of the run, or a fresh one, which costs the same; the recording of the test split, or the one
    named, after the experiment's filters."""
    import torch

    from spiketrack.experiment import load_experiment, split_of
    from spiketrack.filters import filtered_recording
    from spiketrack.pipeline import Detector
    from spiketrack.recordings import open_recording

    experiment = load_experiment(config, overrides)
    names, sequences = split_of(experiment.data, experiment.data.test_split)
    best = Path("runs") / experiment.name / "best.pt"
    if best.exists():
        detector = Detector.load(best, experiment.training.device)
    else:
        torch.manual_seed(experiment.seed)
        detector = Detector.build(experiment.model, experiment.input, experiment.decoding, names)
        detector.model.to(experiment.training.device).eval()
    if data is None:
        return detector, experiment.tracking, sequences[0].open
    return detector, experiment.tracking, lambda: filtered_recording(open_recording(data), experiment.data.filters)


def _print(found: Diagnosis) -> None:
    from rich.console import Console
    from rich.table import Table

    from spiketrack.report.profile import latency, part_rows, remedy_rows, trial_rows, usage_facts

    console = Console()
    times = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in latency(found).items())
    console.print(f"{found.measured.rate:.2f} {found.unit}/s; a step: {times}\n", highlight=False)
    tables = [
        (("part", "bound by", "ms", "share"), [row[:4] for row in part_rows(found)]),
        (("remedy", "setting", "expected", "effect"), [row[:4] for row in remedy_rows(found)]),
        (("tried", f"{found.unit}/s", "rate", "losses", ""), trial_rows(found)),
    ]
    for head, rows in tables:
        if not rows:
            continue
        grid = Table(box=None, header_style="bold")
        for name in head:
            grid.add_column(name, overflow="fold")
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
        console.print()
    for name, value in usage_facts(found).items():
        console.print(f"{name}: {value}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"\n{found.verdict.sentence}", soft_wrap=True, highlight=False, markup=False)
