"""Commands about keypoints: keypoints train, keypoints evaluate, keypoints draw, keypoints settings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketrack.cli.app import Set, app, number, progress_line
from spiketrack.errors import SettingsError
from spiketrack.replacing import write_whole

if TYPE_CHECKING:
    from spiketrack.keypoints import KeypointEpoch, KeypointProgress, KeypointScores

keypoints = typer.Typer(no_args_is_help=True, help="Find the joints of pedestrians: simulated data sets.")
app.add_typer(keypoints, name="keypoints")

KeypointConfig = Annotated[
    Path, typer.Argument(help="experiment file (YAML); `spiketrack keypoints settings` lists the keys")
]


@keypoints.command(name="settings")
def keypoints_settings() -> None:
    """Print every key of a keypoint experiment with its default and meaning."""
    from spiketrack.keypoints import KeypointExperiment
    from spiketrack.settings import describe_settings

    print(describe_settings(KeypointExperiment), end="")


@keypoints.command(name="train")
def keypoints_train(
    config: KeypointConfig,
    out: Annotated[Path | None, typer.Option(help="folder of the run; default runs/<name>")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in that folder")] = False,
    overrides: Set = None,
) -> None:
    """Train a keypoint network; interrupt with Ctrl-C, continue with --resume."""
    from spiketrack.keypoints import dump_keypoints, keypoint_trainer, load_keypoints

    experiment = load_keypoints(config, overrides)
    run_dir = out or Path("runs") / experiment.name
    if (run_dir / "last.pt").exists() and not resume:
        raise SettingsError(f"{run_dir} holds a run; continue it with --resume, or name another folder with --out")
    if resume and not (run_dir / "last.pt").exists():
        raise SettingsError(f"{run_dir} holds no run to resume")
    with progress_line("cutting crops", unit="recordings") as update:
        trainer = keypoint_trainer(experiment, run_dir, update)
    if resume:
        trainer.resume()
    write_whole(run_dir / "experiment.yaml", dump_keypoints(experiment), SettingsError)
    if not trainer.run(_on_step(), _on_epoch):
        sys.stderr.write(f"stopped at step {trainer.step} of {trainer.total_steps}; continue with --resume\n")
        raise typer.Exit(130)
    best = f"best validation PCK@0.2 {trainer.best:.3f}" if trainer.validation else "nothing to validate on"
    print(f"{weights_of(run_dir)}: {best}; last training loss {trainer.history[-1].loss:.3f}")


@keypoints.command(name="evaluate")
def keypoints_evaluate(
    config: KeypointConfig,
    weights: Annotated[
        Path | None, typer.Option(help="checkpoint; default runs/<name>/best.pt, or last.pt without validation")
    ] = None,
    split: Annotated[str, typer.Option(help="test, val or train of data.root")] = "test",
    out: Annotated[Path | None, typer.Option(help="folder for metrics and picture; default beside the weights")] = None,
    people: Annotated[int, typer.Option(help="how many crops to draw; 0 for no picture", min=0, max=200)] = 24,
    overrides: Set = None,
) -> None:
    """Evaluate a keypoint network on a split: PCK and OKS-AP; writes metrics.json and poses.png."""
    import json

    from spiketrack.keypoints import evaluate_crops, keypoint_split, load_keypoints

    experiment = load_keypoints(config, overrides)
    weights = weights or weights_of(Path("runs") / experiment.name)
    out = out or weights.parent / f"keypoints_{split}"
    with progress_line("cutting crops", unit="recordings") as update:
        estimator, crops = keypoint_split(experiment, weights, split, update)
    scores, found, score = evaluate_crops(estimator, crops)
    facts = {"weights": str(weights), "data": str(experiment.data.root), "split": split}
    write_whole(out / "metrics.json", json.dumps({**facts, **scores.as_json()}, indent=1), SettingsError)
    _print_scores(scores)
    print(f"\nmetrics  {out / 'metrics.json'}")
    if people:
        from spiketrack.drawing import encode_png
        from spiketrack.keypoints.view import draw_crops

        picture = draw_crops(crops, found, score, people, estimator.input.duration_us)
        write_whole(out / "poses.png", encode_png(picture), SettingsError)
        print(f"picture  {out / 'poses.png'}")


@keypoints.command(name="draw")
def keypoints_draw(
    file: Annotated[Path, typer.Argument(help="a recording")],
    weights: Annotated[Path, typer.Option(help="checkpoint of `spiketrack keypoints train`")],
    boxes: Annotated[Path, typer.Option(help="people to look at: labels, or tracks_bbox.npy of `spiketrack track`")],
    out: Annotated[Path | None, typer.Option(help="video to write; default <file name>_keypoints.mp4")] = None,
    classes: Annotated[
        str, typer.Option(help="class names of the boxes, in the order of their ids")
    ] = "pedestrian,vehicle,micro-mobility",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
) -> None:
    """Draw the joints of the pedestrians in given boxes into a video, a frame for each time with boxes."""
    import numpy as np

    from spiketrack.drawing import VideoWriter, playback_rate, require_drawing
    from spiketrack.keypoints import KeypointEstimator
    from spiketrack.keypoints.view import draw_recording
    from spiketrack.recordings import load_labels, open_recording

    require_drawing(video=True)
    estimator, recording = KeypointEstimator.load(weights, device), open_recording(file)
    class_names = tuple(name.strip() for name in classes.split(","))
    given, _ = load_labels(boxes, width=recording.width, height=recording.height, class_names=class_names)
    if not len(given):
        raise SettingsError(f"{boxes}: no boxes to look at")
    times = np.unique(given.t)
    frame_us = int(np.median(np.diff(times))) if len(times) > 1 else 33_333
    out = out or Path(f"{file.name}_keypoints.mp4")
    with progress_line("drawing", unit="frames") as update, VideoWriter(out, playback_rate(frame_us).fps) as video:
        for frame in draw_recording(estimator, recording, given, class_names, frame_us):
            video.append(frame)
            update(video.frames, len(times), "")
    print(f"video  {out}  ({video.frames} frames)")


def weights_of(run_dir: Path) -> Path:
    """The best checkpoint of a run; the last one where there was no validation to tell."""
    best = run_dir / "best.pt"
    return best if best.exists() else run_dir / "last.pt"


def _print_scores(scores: KeypointScores) -> None:
    print(f"{scores.people} crops of {scores.tracks} pedestrians, {scores.joints} joints in sight\n")
    print(f"{'':24}{'network':>8}{'mean pose':>11}")
    for share, value in scores.pck.items():
        print(f"{f'PCK@{share:g} of the torso':24}{value:8.3f}{scores.mean_pose[share]:11.3f}")
    low, high = scores.pck_interval
    print(f"{'  95 % of PCK@0.2':24}{f'{low:.3f} .. {high:.3f}':>16}")
    print(f"{'  left as right allowed':24}{scores.pck_either_side:8.3f}")
    print(f"{'PCK@0.1 of the height':24}{scores.pck_of_height:8.3f}")
    print(f"{'OKS-AP':24}{scores.oks_ap:8.3f}{scores.mean_pose_oks_ap:11.3f}")
    print(f"{'OKS-AP50, AP75':24}{scores.oks_ap50:8.3f}{scores.oks_ap75:8.3f}\n")
    for name, (value, count) in {**scores.by_joint, **scores.by_height}.items():
        print(f"PCK@0.2 {name:16}{number(value):>8}  of {count}")


def _on_step() -> Callable[[KeypointProgress], None]:
    """A live line where stderr is a terminal, else a line every 20 seconds."""
    live = sys.stderr.isatty()
    last_line = time.monotonic()

    def on_step(progress: KeypointProgress) -> None:
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


def _on_epoch(record: KeypointEpoch) -> None:
    sys.stderr.write("\r\x1b[K" if sys.stderr.isatty() else "")
    validation = "" if record.val_pck is None else f", validation PCK@0.2 {number(record.val_pck)}"
    print(
        f"epoch {record.epoch}: loss {record.loss:.3f} (heatmap {record.heatmap:.3f}, locref {record.locref:.3f})"
        f"{validation}",
        flush=True,
    )
