"""Commands about networks: models, settings, train, evaluate, track."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spiketrack.cli.app import Config, Json, Set, app, number, progress_line
from spiketrack.cli.recordings import OnInvalid, Threads, read_options
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.replacing import write_whole

if TYPE_CHECKING:
    from spiketrack.distributed import Ranks
    from spiketrack.evaluation import EvaluationResult
    from spiketrack.experiment import Experiment
    from spiketrack.history import EpochRecord
    from spiketrack.training import Progress

log = logging.getLogger(__name__)

OnStep = Callable[[int, int | None, str], None]  # done, total where it is known, name


@app.command()
def models(as_json: Json = False) -> None:
    """List every model with its parameters and dense operations at its nominal input."""
    from spiketrack.detector.catalogue import catalogue

    rows = [asdict(row) for row in catalogue()]
    if as_json:
        print(json.dumps(rows))
        return
    print(f"{'model':<18}{'input':>14}{'classes':>9}{'parameters':>14}{'dense GMAC/step':>17}")
    for row in rows:
        size = f"{row['channels']}x{row['height']}x{row['width']}"
        print(f"{row['name']:<18}{size:>14}{row['classes']:>9}{row['parameters']:>14,}{row['macs'] / 1e9:>17.3f}")
    print("parameters: all weights; of SpikeYOLO with the 16 constants of the DFL. operations: multiply-accumulates of")
    print("one time step of one image, as if no activation were zero. --json has the other published counting rules.")


@app.command()
def settings(
    family: Annotated[str, typer.Option(help="kind of network: SpikeYOLO, SpikeYOLOTracker or SSD")] = "SpikeYOLO",
) -> None:
    """Print every key of an experiment file with its default and meaning."""
    from spiketrack.experiment import experiment_class
    from spiketrack.settings import describe_settings

    print(describe_settings(experiment_class({"model": {"family": family}})), end="")


@app.command()
def train(
    config: Config,
    out: Annotated[Path | None, typer.Option(help="folder of the run; default runs/<name>")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in that folder")] = False,
    start_from: Annotated[
        Path | None,
        typer.Option(help="begin with the weights of a checkpoint of the same network, maybe pruned"),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="processes that share every batch; default 1 (docs/distributed.md)")
    ] = None,
    restarts: Annotated[
        int, typer.Option(min=0, help="of --processes: how often a run whose process was killed may start again")
    ] = 3,
    overrides: Set = None,
) -> None:
    """Train a detector; interrupt with Ctrl-C, continue with --resume."""
    from spiketrack.distributed import joined, restarted, started_as_rank
    from spiketrack.experiment import load_experiment
    from spiketrack.launching import launch, leave_with_launcher

    experiment = load_experiment(config, overrides)
    run_dir = out or Path("runs") / experiment.name
    if experiment.training.batch_memory is not None and (started_as_rank() or (processes or 1) > 1):
        raise SettingsError(
            "training.batch_memory measures one process; of several give training.batch_size, of all together"
        )
    if processes is not None and processes > 1 and not started_as_rank():
        _claim(run_dir, resume)
        code = launch([sys.executable, "-m", "spiketrack.cli", *sys.argv[1:]], processes, restarts)
        raise typer.Exit(code)
    leave_with_launcher()
    with joined(experiment.training.device) as ranks:
        if processes is not None and processes != ranks.world:
            raise SettingsError(f"--processes {processes}, but torchrun has started {ranks.world}; leave it out")
        resume = ranks.from_first(lambda: resume or (restarted() and (run_dir / "last.pt").exists()))
        if ranks.first:
            _claim(run_dir, resume)
        _train(experiment, run_dir, ranks, resume, start_from)


def _claim(run_dir: Path, resume: bool) -> None:
    """See that a run is begun or continued as asked."""
    if (run_dir / "last.pt").exists() and not resume:
        raise SettingsError(f"{run_dir} holds a run; continue it with --resume, or name another folder with --out")
    if resume and not (run_dir / "last.pt").exists():
        raise SettingsError(f"{run_dir} holds no run to resume")


def _train(experiment: Experiment, run_dir: Path, ranks: Ranks, resume: bool, start_from: Path | None) -> None:
    """The run of this process; the first one says how it goes."""
    from spiketrack.batch_size import with_found_batch_size
    from spiketrack.experiment import dump_experiment, trainer_of

    if not ranks.first:
        logging.getLogger("spiketrack").setLevel(logging.WARNING)
    if ranks.world == 1:
        experiment, found = with_found_batch_size(experiment, run_dir, resume)
        if found is not None:
            sys.stderr.write(f"{found.sentence}\n")
    with progress_line("decoding", "recordings") as update:
        trainer = trainer_of(experiment, run_dir, ranks, update if ranks.first else lambda done, total, name: None)
    if resume:
        trainer.resume()
    elif start_from is not None:
        trainer.start_from(start_from)
    if not ranks.first:
        if not trainer.run():
            raise typer.Exit(130)
        return
    write_whole(run_dir / "experiment.yaml", dump_experiment(experiment), SettingsError)
    with training_progress() as (on_step, on_epoch):
        finished = trainer.run(on_step, on_epoch)
    if ranks.world > 1:
        log.info("each of %d processes gave %s bytes in the last step", ranks.world, f"{trainer.exchanged:,}")
    if not finished:
        sys.stderr.write(f"stopped at step {trainer.step} of {trainer.total_steps}; continue with --resume\n")
        raise typer.Exit(130)
    last = trainer.history[-1]
    print(f"{run_dir / 'best.pt'}: best validation mAP {trainer.best_map:.3f}; last mAP50 {number(last.val_ap50)}")


@app.command()
def evaluate(
    config: Config,
    weights: Annotated[
        Path | None,
        typer.Option(help="checkpoint; default runs/<name>/best.pt, or the shipped network where there is no such run"),
    ] = None,
    split: Annotated[str | None, typer.Option(help="split to evaluate; default data.test_split")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="folder for metrics and report; default beside the weights (shipped ones: in runs/<name>)"),
    ] = None,
    spikes: Annotated[
        Literal["integer", "binary"],
        typer.Option(
            help="what neurons send: integers, as trained, or binary spikes in D substeps; binary also runs integers "
            "and says whether the detections are the same (docs/deploy.md)"
        ),
    ] = "integer",
    reset_per_sample: Annotated[
        bool,
        typer.Option("--reset-per-sample", help="forget the state after every training.steps time steps, to compare"),
    ] = False,
    streaming: Annotated[
        bool,
        typer.Option("--streaming", help="feed one step at a time, measure the latency, score what was known in time"),
    ] = False,
    overrides: Set = None,
) -> None:
    """Evaluate detections and tracks on labelled sequences; writes metrics.json and report.html."""
    from spiketrack.experiment import evaluate_split, load_experiment
    from spiketrack.history import read_history
    from spiketrack.report import format_scores, write_evaluation
    from spiketrack.spiking.allocation import keep_freed_memory

    keep_freed_memory()
    experiment = load_experiment(config, overrides)
    if streaming and (spikes == "binary" or reset_per_sample):
        raise SettingsError("--streaming goes neither with --spikes binary nor with --reset-per-sample")
    if reset_per_sample:
        reset = experiment.evaluation.model_copy(update={"reset_every": experiment.training.steps})
        experiment = experiment.model_copy(update={"evaluation": reset})
    split = split or experiment.data.test_split
    run_dir = Path("runs") / experiment.name
    if weights is None:
        weights = _run_weights(run_dir / "best.pt")
    else:
        run_dir = weights.parent
    out = out or run_dir / f"evaluation_{split}"
    with progress_line("evaluating") as update:
        result = evaluate_split(experiment, weights, split, update, streaming)
    comparison: dict[str, str] = {}
    if spikes == "binary":
        result, comparison = _with_binary_spikes(experiment, weights, result)
    history = weights.with_name("history.json")
    reset_every = experiment.evaluation.reset_every
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
            "spikes": spikes,
            "state": f"reset every {reset_every} steps" if reset_every else "carried",
            **comparison,
            "spiketrack": version("spiketrack"),
        },
    )
    print(format_scores(result))
    for name, value in comparison.items():
        print(f"{name}: {value}")
    print(f"\nmetrics  {report.with_name('metrics.json')}\nreport   {report}")


@app.command()
def track(
    file: Annotated[Path, typer.Argument(help="a recording, or a folder of recordings")],
    weights: Annotated[
        Path | None, typer.Option(help="checkpoint or exported .onnx file of a detector; default the shipped network")
    ] = None,
    runtime: Annotated[
        Literal["torch", "onnx"] | None,
        typer.Option(help="what runs the network, with the same results; default torch, of an .onnx file onnxruntime"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the results; default <file name>_tracks")] = None,
    config: Annotated[
        Path | None, typer.Option(help="experiment file whose `tracking:` and `data.filters:` settings to use")
    ] = None,
    start_us: Annotated[int | None, typer.Option(help="begin here; default the first event")] = None,
    end_us: Annotated[int | None, typer.Option(help="end here; default the last event")] = None,
    size: Annotated[str | None, typer.Option(help="input of the network as WIDTHxHEIGHT; default as trained")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
    video: Annotated[bool, typer.Option(help="draw video.mp4")] = True,
    on_invalid: OnInvalid = "drop",
    threads: Threads = 1,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="of a folder: processes that share its recordings; default 1")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="of a folder: which files are recordings, such as **/*.csv; default by suffix")
    ] = None,
) -> None:
    """Detect and track objects; writes tracks.txt, tracks_bbox.npy, video.mp4 and report.html.

    Of a folder every recording in it, each into a folder of its own; --jobs, and the same command on other machines
    that see the folder of results, share the work.
    """
    from spiketrack.cli.folders import track_folder
    from spiketrack.experiment import load_experiment
    from spiketrack.filters import NO_FILTERS, filtered_recording
    from spiketrack.pipeline import SHIPPED_TRACKING, Detector
    from spiketrack.recordings import open_recording
    from spiketrack.report import track_recording
    from spiketrack.spiking.allocation import keep_freed_memory
    from spiketrack.tracking import ByteTrackSettings

    if not file.is_dir() and (jobs is not None or pattern is not None):
        raise SettingsError(f"--jobs and --pattern are for a folder of recordings, and {file} is none")
    keep_freed_memory()
    own_tracking = ByteTrackSettings() if weights else SHIPPED_TRACKING
    weights = weights or _shipped_weights()
    if runtime == "torch" and weights.suffix == ".onnx":
        raise SettingsError(f"{weights}: torch does not run an .onnx file; leave out --runtime, or give a checkpoint")
    if runtime == "onnx" and device != "cpu":
        raise SettingsError(f"--runtime onnx runs on the CPU here; leave out --device {device}")
    detector = Detector.load(weights, device)
    if runtime is not None:
        detector = detector.on_onnx() if runtime == "onnx" else detector.exact()
    if size is not None:
        detector = detector.resized(*_parse_size(size))
    experiment = load_experiment(config) if config else None
    tracking = experiment.tracking if experiment else own_tracking
    filters = experiment.data.filters if experiment else NO_FILTERS
    fused = detector.fused()

    def track_one(path: Path, folder: Path, on_step: OnStep = lambda done, total, name: None) -> dict[str, str]:
        recording = filtered_recording(open_recording(path, options=read_options(on_invalid, threads)), filters)
        return track_recording(
            recording,
            fused,
            tracking,
            folder,
            weights=str(weights),
            start_us=start_us,
            end_us=end_us,
            video=video,
            on_step=on_step,
        )

    if file.is_dir():
        settings = {
            "weights": hashlib.sha256(weights.read_bytes()).hexdigest()[:16],
            "tracking": tracking.model_dump(mode="json"),
            "filters": filters.model_dump(mode="json"),
            **{"runtime": runtime, "size": size, "start_us": start_us, "end_us": end_us},
            **{"video": video, "on_invalid": on_invalid},
        }
        raise typer.Exit(track_folder(file, out, pattern, jobs or 1, settings, track_one))
    with progress_line("tracking", unit="steps") as update:
        facts = track_one(file, out or Path(f"{file.name}_tracks"), update)
    for name, value in facts.items():
        print(f"{name:<10}{value}")


def _with_binary_spikes(
    experiment: Experiment, weights: Path, trained: EvaluationResult
) -> tuple[EvaluationResult, dict[str, str]]:
    from spiketrack.binary_spikes import with_binary_spikes
    from spiketrack.pipeline import Detector

    detector = Detector.load(weights, experiment.training.device)
    with progress_line("evaluating") as update:
        return with_binary_spikes(
            detector,
            trained,
            experiment.evaluation,
            experiment.tracking,
            lambda what, done, total, name: update(done, total, f"{what} {name}"),
        )


def _shipped_weights() -> Path:
    """The network that comes with the package, named on stderr. Raises CheckpointError where it is missing."""
    from spiketrack.detector.shipped import shipped_weights

    weights = shipped_weights()
    sys.stderr.write(f"no --weights given: using the shipped network {weights} (see docs/model_card.md)\n")
    return weights


def _run_weights(best: Path) -> Path:
    """The best checkpoint of a run, or the shipped network where there is no such run."""
    if best.exists():
        return best
    try:
        return _shipped_weights()
    except CheckpointError as error:
        raise CheckpointError(f"{best}: no such checkpoint, and {error}") from error


def _parse_size(size: str) -> tuple[int, int]:
    width, separator, height = size.partition("x")
    if not separator or not width.isdecimal() or not height.isdecimal():
        raise SettingsError(f"--size {size}: expected WIDTHxHEIGHT, such as 640x360")
    return int(width), int(height)


@contextmanager
def training_progress() -> Generator[tuple[Callable[[Progress], None], Callable[[EpochRecord], None]]]:
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
            f"epoch {record.epoch}: loss {record.loss:.3f} (box {record.box:.3f}, class {record.classes:.3f}"
            f"{_term('dfl', record.dfl)}{_term('track', record.track)}), "
            f"{record.positives:.0f} positive locations a step, "
            f"validation mAP {number(record.val_map)}, mAP50 {number(record.val_ap50)}",
            flush=True,
        )

    yield on_step, on_epoch


def _term(name: str, value: float | None) -> str:
    """A loss term that not every network has."""
    return "" if value is None else f", {name} {value:.3f}"
