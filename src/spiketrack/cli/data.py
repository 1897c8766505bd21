"""Commands that make data sets: simulate, compose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spiketrack.cli.app import app, options_as_settings, progress_line


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

    with options_as_settings():
        settings = SimulateDatasetSettings(
            seed=seed,
            train_scenes=train_scenes,
            val_scenes=val_scenes,
            test_scenes=test_scenes,
            train_objects=train_objects,
        )
    with progress_line("simulating") as update:
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

    with options_as_settings():
        settings = ComposeDatasetSettings(
            seed=seed,
            train_scenes=train_scenes,
            val_scenes=val_scenes,
            test_scenes=test_scenes,
            train_objects=train_objects,
        )
    with progress_line("composing") as update:
        summary = compose_dataset(nmnist, out, settings, update)
    _print_dataset(out, summary)


def _print_dataset(out: Path, summary: object) -> None:
    print(f"{out}: {summary}")
