"""Commands that bring a trained network elsewhere: export, compress."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketrack.cli.app import app, progress_line
from spiketrack.errors import SettingsError


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="checkpoint of a detector")],
    out: Annotated[Path | None, typer.Option(help="file to write; default beside the weights, .onnx or .pt2")] = None,
    program: Annotated[
        bool, typer.Option("--program", help="a program of torch.export instead of ONNX; of a fixed --size")
    ] = False,
    size: Annotated[str, typer.Option(help="input of the program as WIDTHxHEIGHT")] = "346x260",
) -> None:
    """Write one time step of a network, its state as inputs and outputs, as ONNX (docs/deploy.md)."""
    from spiketrack.deploy.export import export_onnx, export_program, save_program
    from spiketrack.pipeline import Detector

    detector = Detector.load(weights)
    out = out or weights.with_suffix(".pt2" if program else ".onnx")
    out.parent.mkdir(parents=True, exist_ok=True)
    if program:
        width, height = _size(size)
        written = save_program(export_program(detector.model, height, width), out)
    else:
        written = export_onnx(detector.model, detector.content(), out)
    print(f"{out}: {detector.name}, one time step, {written / 1e6:.2f} MB")


@app.command()
def compress(
    weights: Annotated[Path, typer.Argument(help="checkpoint of a detector")],
    data: Annotated[Path, typer.Argument(help="a labelled data set in eTraM's layout")],
    out: Annotated[Path, typer.Option(help="folder for the files of all forms and the table")],
    split: Annotated[str, typer.Option(help="split to score")] = "test",
    calibration_split: Annotated[str, typer.Option(help="split whose recordings set the 8-bit ranges")] = "val",
    prune: Annotated[float, typer.Option(help="share of inner channels to take out; 0: no pruned forms")] = 0.0,
    size: Annotated[str, typer.Option(help="input at which latency is measured, WIDTHxHEIGHT")] = "346x260",
    steps: Annotated[int, typer.Option(help="time steps of each recording to calibrate on")] = 40,
    config: Annotated[Path | None, typer.Option(help="experiment file whose evaluation and tracking to use")] = None,
) -> None:
    """Export, quantise and prune a network; compare all forms in size, speed and accuracy."""
    from rich.console import Console
    from rich.table import Table

    from spiketrack.compression import CompressionSettings, compress, compression_values
    from spiketrack.datasets.etram import find_sequences, read_class_names
    from spiketrack.evaluation import EvaluationSettings
    from spiketrack.experiment import load_experiment
    from spiketrack.pipeline import SHIPPED_TRACKING, Detector
    from spiketrack.replacing import make_folder
    from spiketrack.report.compression import HEAD, compression_row, write_compression

    if not 0 <= prune < 1 or steps < 1:
        raise SettingsError(f"expected --prune in [0, 1) and --steps of at least 1, got {prune} and {steps}")
    settings = CompressionSettings(_size(size), prune, steps)
    detector = Detector.load(weights)
    experiment = load_experiment(config) if config else None
    rules = (experiment.evaluation, experiment.tracking) if experiment else (EvaluationSettings(), SHIPPED_TRACKING)
    names = read_class_names(data)
    if names != detector.class_names:
        raise SettingsError(f"{weights}: trained on {', '.join(detector.class_names)}; {data} has {', '.join(names)}")
    sequences = find_sequences(data, split, names)
    calibration = find_sequences(data, calibration_split, names)
    make_folder(out)
    with progress_line("comparing", unit="forms") as update:
        opened = [sequence.open() for sequence in calibration]
        values = compression_values(compress(detector, sequences, opened, settings, rules, out, update))
    table = Table(box=None, header_style="bold")
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=True)
    for row in values:
        table.add_row(*compression_row(row))
    Console(width=140).print(table)
    facts = {
        "weights": weights,
        "data": data,
        "split": f"{split}, {len(sequences)} sequences",
        "calibration": f"{calibration_split}, {len(calibration)} recordings, {steps} steps of each",
        "latency": f"least CPU time of one step, one thread, {size}",
        "HOTA": "class average",
    }
    report = write_compression(out, values, title=f"Forms of {weights.name}", facts=facts)
    print(f"\nnumbers  {report.with_name('compression.json')}\nreport   {report}")


def _size(text: str) -> tuple[int, int]:
    width, separator, height = text.partition("x")
    if not separator or not width.isdecimal() or not height.isdecimal() or min(int(width), int(height)) < 32:
        raise SettingsError(f"--size {text}: expected WIDTHxHEIGHT of at least 32 pixels each, such as 640x360")
    return int(width), int(height)
