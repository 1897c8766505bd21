"""Commands that make data sets: simulate, compose."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from spiketrack.cli.app import app, options_as_settings, progress_line
from spiketrack.errors import SettingsError


@app.command()
def simulate(
    folder: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="folder of the data set to write")] = None,
    out: Annotated[Path | None, typer.Option(help="the same as an option")] = None,
    scene: Annotated[Literal["traffic", "shapes"], typer.Option(help="what is to be seen")] = "traffic",
    scenes: Annotated[int | None, typer.Option(help="70/15/15 % train, val and test; default 20 of traffic")] = None,
    train_scenes: Annotated[int | None, typer.Option(help="scenes to train on, whatever --scenes gives")] = None,
    val_scenes: Annotated[int | None, typer.Option(help="scenes to choose the checkpoint on")] = None,
    test_scenes: Annotated[int | None, typer.Option(help="scenes to evaluate on")] = None,
    duration: Annotated[str | None, typer.Option(help="of a scene: 10s (default of traffic), 500ms, 2min")] = None,
    seed: Annotated[int, typer.Option(help="seed of everything random")] = 0,
    preset: Annotated[
        list[str] | None, typer.Option(help="sensor: evk4, gen3, gen1, davis346 or mixed; repeatable, in turn")
    ] = None,
    camera: Annotated[str | None, typer.Option(help="static (default), moving or mixed")] = None,
    daytime: Annotated[str | None, typer.Option(help="day, dusk, night or mixed (default)")] = None,
    classes: Annotated[int | None, typer.Option(help="8 (default) or 3")] = None,
    label_hz: Annotated[float | None, typer.Option(help="label times per second; default 30")] = None,
    spread: Annotated[
        float | None, typer.Option(help="how far scenes' sensors stray from their preset, 0 (default) to 1")
    ] = None,
    light_traffic: Annotated[
        float | None, typer.Option(help="factor on the shares of bicycles, motorbikes and wheelchairs; default 1")
    ] = None,
    format: Annotated[str | None, typer.Option(help="of the events: hdf5 (default) or raw (EVT3)")] = None,
    jobs: Annotated[int | None, typer.Option(help="scenes at a time, each in a process; default 1")] = None,
    view: Annotated[bool, typer.Option("--view", help="write pictures and a film to OUT/view")] = False,
    train_objects: Annotated[
        tuple[int, int] | None, typer.Option(help="of shapes: fewest and most at a time in train scenes; default 3 5")
    ] = None,
) -> None:
    """Simulate a data set of traffic, or of moving shapes, through an event pixel model (needs no data)."""
    if (folder is None) == (out is None):
        raise SettingsError("simulate: name one folder to write, as OUT or with --out OUT")
    target = folder or out or Path()
    options: dict[str, Any] = {"seed": seed, **_scene_counts(scenes, train_scenes, val_scenes, test_scenes)}
    duration_us = None if duration is None else parse_duration(duration)
    traffic: dict[str, Any] = {
        "preset": preset or None,
        "camera": camera,
        "daytime": daytime,
        "classes": classes,
        "format": format,
        "label_hz": label_hz,
        "spread": spread,
        "light_traffic": light_traffic,
    }
    traffic = {name: value for name, value in traffic.items() if value is not None}
    if scene == "shapes":
        strange = [*traffic, *(["jobs"] if jobs is not None else []), *(["view"] if view else [])]
        if strange:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in strange)
            raise SettingsError(f"{names}: not of --scene shapes, only of traffic")
        _simulate_shapes(target, options, duration_us, train_objects)
        return
    if train_objects is not None:
        raise SettingsError("--train-objects: only of --scene shapes")
    of_scenes = {name: traffic.pop(name) for name in ("spread", "light_traffic") if name in traffic}
    if of_scenes:  # settings of every scene, not of the data set
        traffic["scene"] = of_scenes
    options |= traffic if duration_us is None else {**traffic, "duration_us": duration_us}
    _simulate_traffic(target, options, 1 if jobs is None else jobs, view)


_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "min": 60_000_000, "": 1_000_000}
_LONGEST_US = 86_400_000_000


def parse_duration(text: str) -> int:
    """Microseconds of a duration such as 10s, 500ms, 2min or 1.5 (seconds); SettingsError where it is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s|min|)\s*", text, re.ASCII)
    if found is None:
        raise SettingsError(f"--duration: expected such as 10s, 500ms, 2min or a number of seconds, got {text!r}")
    duration_us = round(Fraction(found[1]) * _UNITS_US[found[2]])
    if not 1_000 <= duration_us <= _LONGEST_US:
        raise SettingsError(f"--duration: a scene lasts 1 ms to 24 h, got {text!r}")
    return duration_us


def _scene_counts(scenes: int | None, train: int | None, val: int | None, test: int | None) -> dict[str, int]:
    """The numbers of scenes that were asked for, as settings."""
    from spiketrack.datasets.synthetic import share_scenes

    if scenes is not None and not 1 <= scenes <= 100_000:
        raise SettingsError(f"--scenes: expected 1 to 100000, got {scenes}")
    counts = {} if scenes is None else {f"{split}_scenes": count for split, count in share_scenes(scenes).items()}
    given = {"train_scenes": train, "val_scenes": val, "test_scenes": test}
    return counts | {name: count for name, count in given.items() if count is not None}


def _simulate_shapes(
    out: Path, options: dict[str, Any], duration_us: int | None, train_objects: tuple[int, int] | None
) -> None:
    from spiketrack.datasets.synthetic import SPLITS, SimulateDatasetSettings, simulate_dataset

    if duration_us is not None:
        options |= {f"{split}_s": duration_us * 1e-6 for split in SPLITS}
    with options_as_settings():
        settings = SimulateDatasetSettings(**options, train_objects=train_objects)
    with progress_line("simulating") as update:
        summary = simulate_dataset(out, settings, update)
    _print_dataset(out, summary)


def _simulate_traffic(out: Path, options: dict[str, Any], jobs: int, view: bool) -> None:
    from spiketrack.datasets.simulated import TrafficDatasetSettings, plan_scenes, simulate_traffic_dataset

    if not 1 <= jobs <= 256:
        raise SettingsError(f"--jobs: expected 1 to 256 processes, got {jobs}")
    with options_as_settings():
        settings = TrafficDatasetSettings.model_validate(options)
    names = [scene.name for scene in plan_scenes(settings)]
    if not names:
        raise SettingsError("simulate: no scene to make; give --scenes")
    audience = None
    if view:
        from spiketrack.drawing import require_drawing
        from spiketrack.drawing.scene_view import view_of

        require_drawing(video=True)
        audience = view_of(out / "view", settings.class_names, names)
    with progress_line("simulating", "ms") as update:
        summary = simulate_traffic_dataset(out, settings, processes=jobs, audience=audience, progress=update)
    if audience is not None:
        print(audience.write_sheet())
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
