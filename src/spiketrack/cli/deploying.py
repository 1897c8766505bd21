"""Commands that bring a trained network elsewhere: export, fine-tune, compress."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from spiketrack.cli.app import Config, Set, app, number, progress_line
from spiketrack.cli.networks import training_progress
from spiketrack.errors import SettingsError

NOMINAL = "346x260"  # a DAVIS346


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="checkpoint of a detector; for nir also of a classifier")],
    out: Annotated[
        Path | None, typer.Option(help="file to write; default beside the weights, .onnx, .pt2 or .nir")
    ] = None,
    format: Annotated[
        Literal["onnx", "program", "nir"],
        typer.Option(help="onnx; program: of torch.export; nir: a graph of binary neurons; both of one size"),
    ] = "onnx",
    size: Annotated[
        str | None, typer.Option(help="input as WIDTHxHEIGHT; default 346x260, of a classifier its own")
    ] = None,
) -> None:
    """Write one time step of a network, as ONNX with its state as inputs and outputs, or for NIR (docs/deploy.md)."""
    from spiketrack.deploy.export import export_onnx, export_program, save_program
    from spiketrack.pipeline import Detector

    if format == "onnx" and size is not None:
        raise SettingsError("--size: an ONNX file takes inputs of any size; leave it out")
    out = out or weights.with_suffix({"onnx": ".onnx", "program": ".pt2", "nir": ".nir"}[format])
    out.parent.mkdir(parents=True, exist_ok=True)
    if format == "nir":
        name, written = _export_nir(weights, size, out)
    else:
        detector = Detector.load(weights)
        name = detector.name
        if format == "program":
            width, height = _size(size or NOMINAL)
            written = save_program(export_program(detector.model, height, width), out)
        else:
            written = export_onnx(detector.model, detector.content(), out)
    print(f"{out}: {name}, one time step, {written / 1e6:.2f} MB")


def _export_nir(weights: Path, size: str | None, out: Path) -> tuple[str, int]:
    """The network's name and the bytes written."""
    from spiketrack.classification.classifier import TASK, Classifier
    from spiketrack.deploy.nir_export import export_nir
    from spiketrack.detector.checkpoint import load_checkpoint
    from spiketrack.pipeline import Detector

    if load_checkpoint(weights).get("task") != TASK:
        detector = Detector.load(weights)
        width, height = _size(size or NOMINAL)
        return detector.name, export_nir(detector.model, height, width, detector.input.slice_us, out)
    classifier = Classifier.load(weights)
    seen = classifier.input
    width, height = _size(size) if size else (seen.width, seen.height)
    written = export_nir(classifier.model, height, width, seen.duration_us // seen.steps, out)
    return classifier.settings.backbone, written


@app.command("fine-tune")
def fine_tune(
    config: Config,
    out: Annotated[Path, typer.Option(help="folder of the rounds and of the result, best.pt")],
    weights: Annotated[
        Path | None, typer.Option(help="checkpoint to begin with; default random weights, to learn from a teacher")
    ] = None,
    share: Annotated[float, typer.Option(help="share of the weights to take away; of channels: when fused")] = 0.0,
    kind: Annotated[
        Literal["channels", "weights"],
        typer.Option(help="channels: taken out, the network gets smaller; weights: set to zero, and zero they stay"),
    ] = "channels",
    rounds: Annotated[int, typer.Option(help="in so many rounds, each trained for all epochs of the experiment")] = 1,
    growth: Annotated[
        Literal["linear", "cosine", "cubic"], typer.Option(help="how the share grows over the rounds")
    ] = "linear",
    quantize: Annotated[
        Literal["int8", "int6", "int4", "int3", "int2"] | None,
        typer.Option(help="in the last round train with whole weights of so many bits, as they will run"),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="checkpoint of a network whose predictions to learn beside the labels")
    ] = None,
    class_gain: Annotated[float, typer.Option(help="factor of the teacher's classes in the loss")] = 0.5,
    box_gain: Annotated[float, typer.Option(help="factor of the teacher's box sides in the loss")] = 1.5,
    temperature: Annotated[float, typer.Option(help="above 1: softer targets of the teacher")] = 1.0,
    resume: Annotated[bool, typer.Option("--resume", help="continue the rounds in that folder")] = False,
    overrides: Set = None,
) -> None:
    """Train a network on while it is pruned or quantised, or with a teacher beside the labels (docs/deploy.md)."""
    from pydantic import ValidationError

    from spiketrack.deploy.distill import DistillationSettings
    from spiketrack.experiment import dump_experiment, load_experiment, trainer_of
    from spiketrack.fine_tuning import FineTuningSettings, describe, rounds_like
    from spiketrack.fine_tuning import fine_tune as run_rounds
    from spiketrack.history import read_history
    from spiketrack.pipeline import Detector
    from spiketrack.replacing import write_whole

    try:
        distillation = DistillationSettings(class_gain=class_gain, box_gain=box_gain, temperature=temperature)
        settings = FineTuningSettings(
            share=share, kind=kind, rounds=rounds, growth=growth, quantize=quantize, distillation=distillation
        )
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][-1]).replace("_", "-")
        raise SettingsError(f"--{option} {fault['input']}: {fault['msg']}") from error
    if (out / "round_1").exists() != resume:
        raise SettingsError(
            f"{out} holds no rounds to resume" if resume else f"{out} holds rounds; continue them with --resume"
        )
    experiment = load_experiment(config, overrides)
    with progress_line("decoding", "recordings") as update:
        first = trainer_of(experiment, out, on_build=update)
    detector = first.detector if weights is None else Detector.load(weights)
    write_whole(out / "experiment.yaml", dump_experiment(experiment), SettingsError)
    with training_progress() as (on_step, on_epoch):
        finished = run_rounds(
            detector,
            rounds_like(first),
            settings,
            out,
            teacher=None if teacher is None else Detector.load(teacher, experiment.training.device),
            on_step=on_step,
            on_epoch=on_epoch,
        )
    if not finished:
        sys.stderr.write("stopped; continue with --resume\n")
        raise typer.Exit(130)
    last = read_history(out / f"round_{rounds}" / "history.json")[-1]
    print(f"{out / 'best.pt'}: {describe(Detector.load(out / 'best.pt').model)}; mAP50 {number(last.val_ap50)}")


@app.command()
def compress(
    weights: Annotated[Path, typer.Argument(help="checkpoint of a detector")],
    data: Annotated[Path, typer.Argument(help="a labelled data set in eTraM's layout")],
    out: Annotated[Path, typer.Option(help="folder for the files of all forms and the table")],
    split: Annotated[str, typer.Option(help="split to score")] = "test",
    calibration_split: Annotated[str, typer.Option(help="split whose recordings set the 8-bit ranges")] = "val",
    also: Annotated[
        list[str] | None, typer.Option(help="a further checkpoint to compare, as NAME=FILE; may be repeated")
    ] = None,
    prune: Annotated[float, typer.Option(help="share of inner channels to take out untrained; 0: no such forms")] = 0.0,
    forms: Annotated[str, typer.Option(help="which forms, with commas between")] = "as trained,fused,onnxruntime,int8",
    size: Annotated[str, typer.Option(help="input at which latency is measured, WIDTHxHEIGHT")] = "346x260",
    steps: Annotated[int, typer.Option(help="time steps of each recording to calibrate on")] = 40,
    config: Annotated[Path | None, typer.Option(help="experiment file whose evaluation and tracking to use")] = None,
) -> None:
    """Export and quantise a network; compare all forms, pruned ones too, in size, speed, energy and accuracy."""
    from rich.console import Console
    from rich.table import Table

    from spiketrack.compression import FORMS, CompressionSettings, compress, compression_values
    from spiketrack.datasets.etram import find_sequences, read_class_names
    from spiketrack.evaluation import EvaluationSettings
    from spiketrack.experiment import load_experiment
    from spiketrack.pipeline import SHIPPED_TRACKING, Detector
    from spiketrack.replacing import make_folder
    from spiketrack.report.compression import HEAD, compression_row, write_compression

    if not 0 <= prune < 1 or steps < 1:
        raise SettingsError(f"expected --prune in [0, 1) and --steps of at least 1, got {prune} and {steps}")
    chosen = tuple(name.strip() for name in forms.split(","))
    if not set(chosen) <= set(FORMS):
        raise SettingsError(f"--forms {forms}: expected some of {', '.join(FORMS)}")
    settings = CompressionSettings(_size(size), prune, steps, chosen)
    detectors = {"": Detector.load(weights)} | {name: Detector.load(path) for name, path in map(_named, also or [])}
    experiment = load_experiment(config) if config else None
    rules = (experiment.evaluation, experiment.tracking) if experiment else (EvaluationSettings(), SHIPPED_TRACKING)
    names = read_class_names(data)
    for detector in detectors.values():
        if names != detector.class_names or detector.input != detectors[""].input:
            raise SettingsError(
                f"{detector.name}: of the classes {', '.join(detector.class_names)}; {data} has {', '.join(names)}; "
                "classes and input must be those of the first network and the data"
            )
    sequences = find_sequences(data, split, names)
    calibration = find_sequences(data, calibration_split, names)
    make_folder(out)
    with progress_line("comparing", unit="forms") as update:
        opened = [sequence.open() for sequence in calibration]
        values = compression_values(compress(detectors, sequences, opened, settings, rules, out, update))
    table = Table(box=None, header_style="bold")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for row in values:
        table.add_row(*compression_row(row))
    Console(width=150).print(table)
    facts = {
        "weights": weights,
        "data": data,
        "split": f"{split}, {len(sequences)} sequences",
        "calibration": f"{calibration_split}, {len(calibration)} recordings, {steps} steps of each",
        "latency": f"least CPU time of one step, one thread, {size}",
        "mJ": "of one step, SpikeYOLO's rule, from the fused network's activity in 32 bit on the calibration",
        "HOTA": "class average",
    }
    report = write_compression(out, values, title=f"Forms of {weights.name}", facts=facts)
    print(f"\nnumbers  {report.with_name('compression.json')}\nreport   {report}")


def _named(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or "/" in name:
        raise SettingsError(f"--also {text}: expected NAME=FILE, such as pruned=runs/pruned/best.pt")
    return name, Path(path)


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.partition("x")
    if not separator or not width.isdecimal() or not height.isdecimal() or min(int(width), int(height)) < 32:
        raise SettingsError(f"--size {text}: expected WIDTHxHEIGHT of at least 32 pixels each, such as 640x360")
    return int(width), int(height)
