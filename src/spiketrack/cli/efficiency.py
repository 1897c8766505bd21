"""The command that counts what a network costs: efficiency."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketrack.cli.app import Json, app, progress_line
from spiketrack.errors import SettingsError

if TYPE_CHECKING:
    from spiketrack.metrics.efficiency import Efficiency
    from spiketrack.recordings import Recording


@app.command()
def efficiency(
    weights: Annotated[Path, typer.Argument(help="checkpoint of a detector")],
    data: Annotated[Path, typer.Argument(help="a data set in eTraM's layout, or one recording")],
    split: Annotated[str, typer.Option(help="which split of the data set")] = "test",
    max_seconds: Annotated[float | None, typer.Option(help="look at so much of each recording; default all")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for efficiency.json and efficiency.html")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N")] = "cpu",
    as_json: Json = False,
) -> None:
    """Count spikes, synaptic operations and energy of a network, layer by layer (docs/efficiency.md)."""
    from spiketrack.pipeline import Detector
    from spiketrack.report.efficiency import efficiency_values, measure_efficiency, write_efficiency
    from spiketrack.spiking.allocation import keep_freed_memory

    if max_seconds is not None and not max_seconds > 0:
        raise SettingsError(f"--max-seconds: expected more than 0, got {max_seconds}")
    keep_freed_memory()
    detector = Detector.load(weights, device)
    max_us = None if max_seconds is None else round(max_seconds * 1e6)
    with progress_line("counting", unit="steps") as update:
        result = measure_efficiency(detector, _recordings(data, split), max_us=max_us, on_step=update)
    facts = {
        "weights": weights,
        "data": data,
        "split": split if data.is_dir() else "-",
        "looked at": "all" if max_seconds is None else f"{max_seconds:g} s of each recording",
        "slice": f"{detector.input.slice_us / 1000:g} ms",
    }
    if as_json:
        print(json.dumps(efficiency_values(result)))
    else:
        _print_tables(result)
    if out is not None:
        report = write_efficiency(out, result, title=f"Efficiency of {weights.name}", facts=facts)
        if not as_json:
            print(f"\nnumbers  {report.with_name('efficiency.json')}\nreport   {report}")


def _recordings(data: Path, split: str) -> Iterator[tuple[str, Recording]]:
    """The recordings of a split, one after the other, or the one that the path names."""
    from spiketrack.datasets.etram import find_sequences, read_class_names
    from spiketrack.recordings import open_recording

    if (data / "classes.txt").is_file():
        for sequence in find_sequences(data, split, read_class_names(data)):
            yield sequence.name, sequence.open()
    else:
        yield data.name, open_recording(data)


def _print_tables(result: Efficiency) -> None:
    from rich.console import Console
    from rich.table import Table

    from spiketrack.report.efficiency import NEURONS, SYNAPSES, conv_row, neuron_row, summary

    console = Console()
    rows = [conv_row(layer) for layer in result.convs], [neuron_row(layer) for layer in result.neuron_layers]
    for head, lines in zip((SYNAPSES, NEURONS), rows, strict=True):
        table = Table(box=None, header_style="bold")
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line)
        console.print(table)
        console.print()
    for name, value in summary(result).items():
        console.print(f"{name}: {value}", soft_wrap=True, highlight=False, markup=False)
