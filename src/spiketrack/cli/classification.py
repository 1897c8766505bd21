"""Commands about classification: classify train, classify evaluate, classify settings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketrack.cli.app import Set, app, number, progress_line
from spiketrack.errors import SettingsError
from spiketrack.replacing import write_whole

if TYPE_CHECKING:
    from spiketrack.classification import ClassificationExperiment, ClassifierEpoch, ClassifierProgress

classify = typer.Typer(no_args_is_help=True, help="Name the one object of a short recording: N-MNIST, N-CARS.")
app.add_typer(classify, name="classify")

ClassConfig = Annotated[
    Path, typer.Argument(help="experiment file (YAML); `spiketrack classify settings` lists the keys")
]


@classify.command(name="settings")
def classify_settings() -> None:
    """Print every key of a classification experiment with its default and meaning."""
    from spiketrack.classification import ClassificationExperiment
    from spiketrack.settings import describe_settings

    print(describe_settings(ClassificationExperiment), end="")


@classify.command(name="train")
def classify_train(
    config: ClassConfig,
    out: Annotated[Path | None, typer.Option(help="folder of the run; default runs/<name>")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in that folder")] = False,
    overrides: Set = None,
) -> None:
    """Train a classifier; interrupt with Ctrl-C, continue with --resume."""
    from spiketrack.classification import load_classification

    experiment = load_classification(config, overrides)
    train_classifier(experiment, out or Path("runs") / experiment.name, resume)


@classify.command(name="evaluate")
def classify_evaluate(
    config: ClassConfig,
    weights: Annotated[
        Path | None,
        typer.Option(help="checkpoint; default runs/<name>/best.pt, or last.pt where nothing was held out"),
    ] = None,
    split: Annotated[str, typer.Option(help="test, train, or validation: the held-out part of train")] = "test",
    out: Annotated[Path | None, typer.Option(help="folder for metrics and report; default beside the weights")] = None,
    overrides: Set = None,
) -> None:
    """Evaluate a classifier: accuracy, confusion, ROC; writes metrics.json and report.html."""
    from spiketrack.classification import load_classification

    experiment = load_classification(config, overrides)
    weights = weights or weights_of(Path("runs") / experiment.name)
    evaluate_classifier(experiment, weights, split, out or weights.parent / f"classification_{split}")


def train_classifier(experiment: ClassificationExperiment, run_dir: Path, resume: bool = False) -> None:
    """Train with progress on stderr. Raises SettingsError where a run would be overwritten; exits 130 if stopped."""
    from spiketrack.classification import classifier_trainer, dump_classification

    if (run_dir / "last.pt").exists() and not resume:
        raise SettingsError(f"{run_dir} holds a run; continue it with --resume, or name another folder with --out")
    if resume and not (run_dir / "last.pt").exists():
        raise SettingsError(f"{run_dir} holds no run to resume")
    trainer = classifier_trainer(experiment, run_dir)
    if resume:
        trainer.resume()
    write_whole(run_dir / "experiment.yaml", dump_classification(experiment), SettingsError)
    if not trainer.run(_on_step(), _on_epoch):
        sys.stderr.write(f"stopped at step {trainer.step} of {trainer.total_steps}; continue with --resume\n")
        raise typer.Exit(130)
    last = trainer.history[-1]
    best = f"best validation accuracy {trainer.best:.3f}" if trainer.validation else "nothing held out to validate on"
    print(f"{weights_of(run_dir)}: {best}; last training loss {last.loss:.3f}")


def evaluate_classifier(experiment: ClassificationExperiment, weights: Path, split: str, out: Path) -> None:
    """Scores of a checkpoint on a split, printed and as files."""
    from spiketrack.classification import classify_split, read_classifier_history
    from spiketrack.detector.catalogue import count_operations
    from spiketrack.metrics.classification import score_classification
    from spiketrack.report.classification import format_classification, write_classification

    if split not in ("train", "validation", "test"):
        raise SettingsError(f"--split {split}: expected test, train or validation")
    with progress_line("classifying", unit="samples") as update:
        classifier, answers = classify_split(experiment, weights, split, update)
    scores = score_classification(answers.class_ids, answers.probabilities, classifier.class_names)
    history = weights.with_name("history.json")
    seen = classifier.input
    operations = count_operations(classifier.model, seen.channels, seen.height, seen.width)
    report = write_classification(
        out,
        scores,
        answers,
        title=f"{experiment.name}: {split}",
        history=read_classifier_history(history) if history.exists() else (),
        facts={
            "weights": weights,
            "data": experiment.data.root,
            "split": split,
            "network": f"{classifier.settings.backbone}, "
            f"{sum(p.numel() for p in classifier.model.parameters()):,} parameters, "
            f"{operations.macs:,} multiply-accumulates a time step",
            "membranes": "go on from sample to sample" if classifier.carry else "start at rest with every sample",
            "spiketrack": version("spiketrack"),
        },
    )
    print(format_classification(scores))
    print(f"\nmetrics  {report.with_name('metrics.json')}\nreport   {report}")


def weights_of(run_dir: Path) -> Path:
    """The best checkpoint of a run; the last one where no samples were held out to tell."""
    best = run_dir / "best.pt"
    return best if best.exists() else run_dir / "last.pt"


def _on_step() -> Callable[[ClassifierProgress], None]:
    """A live line where stderr is a terminal, else a line every 20 seconds."""
    live = sys.stderr.isatty()
    last_line = time.monotonic()

    def on_step(progress: ClassifierProgress) -> None:
        nonlocal last_line
        now = time.monotonic()
        if now - last_line < (0.2 if live else 20) and progress.step < progress.total_steps:
            return
        last_line = now
        left = time.strftime("%H:%M:%S", time.gmtime(progress.seconds_left))
        line = (
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.total_steps}  "
            f"loss {progress.loss:.3f}  {progress.steps_done / progress.seconds:.2f} steps/s  {left} left"
        )
        sys.stderr.write(f"\r{line}\x1b[K" if live else f"{line}\n")
        sys.stderr.flush()

    return on_step


def _on_epoch(record: ClassifierEpoch) -> None:
    sys.stderr.write("\r\x1b[K" if sys.stderr.isatty() else "")
    validation = "" if record.val_accuracy is None else f", validation accuracy {number(record.val_accuracy)}"
    print(f"epoch {record.epoch}: loss {record.loss:.3f}, accuracy {record.accuracy:.3f}{validation}", flush=True)
