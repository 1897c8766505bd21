"""The command line: the only place that prints and exits.

Results go to stdout, logs and progress to stderr. Heavy modules are imported inside the commands, so that `--help`
and `info` answer at once. A mistake of the user ends in one line and exit code 1, an interrupted run in 130.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketrack.errors import SettingsError, SpiketrackError
from spiketrack.replacing import write_whole

if TYPE_CHECKING:
    from spiketrack.training import EpochRecord, Progress

app = typer.Typer(
    help="Detect and track objects in event-camera recordings with spiking neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Set = Annotated[list[str] | None, typer.Option("--set", help="override a setting: section.key=value; repeatable")]
Config = Annotated[Path, typer.Argument(help="experiment file (YAML); `spiketrack settings` lists the keys")]
Json = Annotated[bool, typer.Option("--json", help="print JSON to stdout")]


def main() -> None:
    """Run the command line; a SpiketrackError becomes one line on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except SpiketrackError as error:
        sys.exit(f"spiketrack: {error}")


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="a recording: RAW EVT2 or EVT3, DAT, HDF5, AEDAT4, N-MNIST .bin")],
    as_json: Json = False,
    width: Annotated[int | None, typer.Option(help="sensor width, where the file does not say or is wrong")] = None,
    height: Annotated[int | None, typer.Option(help="sensor height, likewise")] = None,
) -> None:
    """Say what a recording holds: format, sensor, events, times, polarities, invalid events."""
    from spiketrack.recordings import open_recording, summarize

    summary = summarize(open_recording(file, width, height))
    if as_json:
        keys = ("format", "width", "height", "events", "t_first_us", "t_last_us", "sum_t", "on", "off", "invalid")
        print(json.dumps({key: getattr(summary, key) for key in keys}))
        return
    rows = {
        "format": summary.format,
        "sensor": f"{summary.width} x {summary.height}",
        "events": f"{summary.events:,}",
        "t_first_us": summary.t_first_us,
        "t_last_us": summary.t_last_us,
        "sum_t": summary.sum_t,
        "on": f"{summary.on:,}",
        "off": f"{summary.off:,}",
        "rate": "-" if summary.rate is None else f"{summary.rate:,.0f} events/s",
        "invalid": _counts(summary.invalid, summary.first_invalid),
        "repaired": _counts(summary.repaired, {}),
    }
    for name, value in rows.items():
        print(f"{name:<12}{value if value is not None else '-'}")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="folder of the data set to write")],
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
    train_scenes: Annotated[int, typer.Option(help="scenes to train on")] = 24,
    val_scenes: Annotated[int, typer.Option(help="scenes to choose the checkpoint on")] = 3,
    test_scenes: Annotated[int, typer.Option(help="scenes to evaluate on")] = 6,
    train_objects: Annotated[
        tuple[int, int] | None, typer.Option(help="fewest and most shapes at a time in train scenes; default 3 5")
    ] = None,
) -> None:
    """Simulate a data set of moving shapes through an event pixel model (needs no data)."""
    from spiketrack.datasets.synthetic import SimulateDatasetSettings, simulate_dataset

    with _options_as_settings():
        settings = SimulateDatasetSettings(
            seed=seed,
            train_scenes=train_scenes,
            val_scenes=val_scenes,
            test_scenes=test_scenes,
            train_objects=train_objects,
        )
    with _progress("simulating") as update:
        summary = simulate_dataset(out, settings, update)
    _print_dataset(out, summary)


@app.command()
def compose(
    nmnist: Annotated[Path, typer.Argument(help="folder of N-MNIST with Train/ and Test/")],
    out: Annotated[Path, typer.Argument(help="folder of the data set to write")],
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
    train_scenes: Annotated[int, typer.Option(help="scenes of digits from Train/")] = 150,
    val_scenes: Annotated[int, typer.Option(help="scenes of other digits from Train/")] = 4,
    test_scenes: Annotated[int, typer.Option(help="scenes of digits from Test/")] = 20,
    train_objects: Annotated[
        tuple[int, int] | None, typer.Option(help="fewest and most digits at a time in train scenes; default 5 8")
    ] = None,
) -> None:
    """Compose detection and tracking recordings from real N-MNIST events."""
    from spiketrack.datasets.synthetic import ComposeDatasetSettings, compose_dataset

    with _options_as_settings():
        settings = ComposeDatasetSettings(
            seed=seed,
            train_scenes=train_scenes,
            val_scenes=val_scenes,
            test_scenes=test_scenes,
            train_objects=train_objects,
        )
    with _progress("composing") as update:
        summary = compose_dataset(nmnist, out, settings, update)
    _print_dataset(out, summary)


@app.command()
def models(as_json: Json = False) -> None:
    """List every model with its parameters and dense operations at its nominal input."""
    from spiketrack.detector.catalogue import catalogue

    rows = [asdict(row) for row in catalogue()]
    if as_json:
        print(json.dumps(rows))
        return
    print(f"{'model':<16}{'input':>14}{'classes':>9}{'parameters':>14}{'dense GMAC/step':>17}")
    for row in rows:
        size = f"{row['channels']}x{row['height']}x{row['width']}"
        print(f"{row['name']:<16}{size:>14}{row['classes']:>9}{row['parameters']:>14,}{row['macs'] / 1e9:>17.3f}")
    print("parameters: all weights and the 16 constants of the DFL. operations: multiply-accumulates of the")
    print("convolutions of one time step of one image, as if no activation were zero.")


@app.command()
def settings() -> None:
    """Print every key of an experiment file with its default and meaning."""
    from spiketrack.experiment import describe_settings

    print(describe_settings(), end="")


@app.command()
def train(
    config: Config,
    out: Annotated[Path | None, typer.Option(help="folder of the run; default runs/<name>")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in that folder")] = False,
    overrides: Set = None,
) -> None:
    """Train a detector; interrupt with Ctrl-C, continue with --resume."""
    from spiketrack.experiment import dump_experiment, load_experiment, trainer_of

    experiment = load_experiment(config, overrides)
    run_dir = out or Path("runs") / experiment.name
    if (run_dir / "last.pt").exists() and not resume:
        raise SettingsError(f"{run_dir} holds a run; continue it with --resume, or name another folder with --out")
    if resume and not (run_dir / "last.pt").exists():
        raise SettingsError(f"{run_dir} holds no run to resume")
    trainer = trainer_of(experiment, run_dir)
    if resume:
        trainer.resume()
    write_whole(run_dir / "experiment.yaml", dump_experiment(experiment), SettingsError)
    with _training_progress() as (on_step, on_epoch):
        finished = trainer.run(on_step, on_epoch)
    if not finished:
        sys.stderr.write(f"stopped at step {trainer.step} of {trainer.total_steps}; continue with --resume\n")
        raise typer.Exit(130)
    last = trainer.history[-1]
    print(f"{run_dir / 'best.pt'}: best validation mAP {trainer.best_map:.3f}; last mAP50 {_number(last.val_ap50)}")


@app.command()
def evaluate(
    config: Config,
    weights: Annotated[Path | None, typer.Option(help="checkpoint; default runs/<name>/best.pt")] = None,
    split: Annotated[str | None, typer.Option(help="split to evaluate; default data.test_split")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for metrics and report; default beside the weights")] = None,
    overrides: Set = None,
) -> None:
    """Evaluate detections and tracks on labelled sequences; writes metrics.json and report.html."""
    from spiketrack.experiment import evaluate_split, load_experiment
    from spiketrack.report import format_scores, write_evaluation
    from spiketrack.spiking.allocation import keep_freed_memory
    from spiketrack.training import read_history

    keep_freed_memory()
    experiment = load_experiment(config, overrides)
    weights = weights or Path("runs") / experiment.name / "best.pt"
    split = split or experiment.data.test_split
    out = out or weights.parent / f"evaluation_{split}"
    with _progress("evaluating") as update:
        result = evaluate_split(experiment, weights, split, update)
    history = weights.with_name("history.json")
    report = write_evaluation(
        out,
        result,
        tuple(result.detection.per_class),
        title=f"{experiment.name}: {split}",
        history=read_history(history) if history.exists() else None,
        facts={
            "weights": str(weights),
            "data": str(experiment.data.root),
            "split": split,
            "sequences": len(result.sequences),
            "spiketrack": version("spiketrack"),
        },
    )
    print(format_scores(result))
    print(f"\nmetrics  {report.with_name('metrics.json')}\nreport   {report}")


@app.command()
def track(
    file: Annotated[Path, typer.Argument(help="a recording")],
    weights: Annotated[Path, typer.Option(help="checkpoint of a detector")],
    out: Annotated[Path | None, typer.Option(help="folder for the results; default <file name>_tracks")] = None,
    config: Annotated[Path | None, typer.Option(help="experiment file whose `tracking:` settings to use")] = None,
    start_us: Annotated[int | None, typer.Option(help="begin here; default the first event")] = None,
    end_us: Annotated[int | None, typer.Option(help="end here; default the last event")] = None,
    size: Annotated[str | None, typer.Option(help="input of the network as WIDTHxHEIGHT; default as trained")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
    video: Annotated[bool, typer.Option(help="draw video.mp4")] = True,
) -> None:
    """Detect and track objects; writes tracks.txt, tracks_bbox.npy, video.mp4 and report.html."""
    from spiketrack.experiment import load_experiment
    from spiketrack.pipeline import Detector
    from spiketrack.recordings import open_recording
    from spiketrack.report import track_recording
    from spiketrack.spiking.allocation import keep_freed_memory
    from spiketrack.tracking import ByteTrackSettings

    keep_freed_memory()
    detector = Detector.load(weights, device)
    if size is not None:
        detector = detector.resized(*_parse_size(size))
    tracking = load_experiment(config).tracking if config else ByteTrackSettings()
    out = out or Path(f"{file.name}_tracks")
    recording = open_recording(file)
    with _progress("tracking", unit="steps") as update:
        facts = track_recording(
            recording,
            detector,
            tracking,
            out,
            weights=str(weights),
            start_us=start_us,
            end_us=end_us,
            video=video,
            on_step=update,
        )
    for name, value in facts.items():
        print(f"{name:<10}{value}")


@contextmanager
def _options_as_settings() -> Generator[None]:
    """Options that become settings of the same name; one out of range raises SettingsError naming it."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        faults = [f"--{str(f['loc'][0]).replace('_', '-')}: {f['msg']}, got {f['input']!r}" for f in error.errors()]
        raise SettingsError("; ".join(faults)) from error


def _parse_size(size: str) -> tuple[int, int]:
    width, separator, height = size.partition("x")
    if not separator or not width.isdecimal() or not height.isdecimal():
        raise SettingsError(f"--size {size}: expected WIDTHxHEIGHT, such as 640x360")
    return int(width), int(height)


def _counts(counts: dict[str, int], first: dict[str, str]) -> str:
    if not counts:
        return "0"
    parts = [
        f"{count:,} {kind}" + (f" (first at {first[kind]})" if kind in first else "") for kind, count in counts.items()
    ]
    return f"{sum(counts.values()):,}: {', '.join(parts)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _print_dataset(out: Path, summary: object) -> None:
    print(f"{out}: {summary}")


@contextmanager
def _progress(what: str, unit: str = "scenes") -> Generator[Callable[[int, int | None, str], None]]:
    """A progress line on stderr: done, rate and time left; call it with (done, total or None, name)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    started = time.monotonic()
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, rate="")

        def update(done: int, total: int | None, name: str) -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=total, description=f"{what} {name}", rate=f"{rate:.2f} {unit}/s")

        yield update


@contextmanager
def _training_progress() -> Generator[tuple[Callable[[Progress], None], Callable[[EpochRecord], None]]]:
    """Progress of a run: a live line where stderr is a terminal, else a line every 20 seconds; a line per epoch."""
    live = sys.stderr.isatty()
    last_line = time.monotonic()

    def on_step(progress: Progress) -> None:
        nonlocal last_line
        now = time.monotonic()
        if now - last_line < (0.2 if live else 20) and progress.step < progress.total_steps:
            return
        last_line = now
        rate = progress.steps_done / progress.seconds
        left = time.strftime("%H:%M:%S", time.gmtime(progress.seconds_left))
        line = (
            f"epoch {progress.epoch}/{progress.epochs}  step {progress.step}/{progress.total_steps}  "
            f"loss {progress.loss:.3f}  rate {progress.learning_rate:.2e}  {rate:.2f} steps/s  {left} left"
        )
        sys.stderr.write(f"\r{line}\x1b[K" if live else f"{line}\n")
        sys.stderr.flush()

    def on_epoch(record: EpochRecord) -> None:
        sys.stderr.write("\r\x1b[K" if live else "")
        print(
            f"epoch {record.epoch}: loss {record.loss:.3f} (box {record.box:.3f}, class {record.classes:.3f}, "
            f"dfl {record.dfl:.3f}), {record.positives:.0f} positive locations a step, "
            f"validation mAP {_number(record.val_map)}, mAP50 {_number(record.val_ap50)}",
            flush=True,
        )

    yield on_step, on_epoch


if __name__ == "__main__":
    main()
