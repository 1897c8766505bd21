"""The command line: the only place that prints and exits.

Results go to stdout, logs and progress to stderr. Heavy modules are imported inside the commands, so that `--help`
and `info` answer at once. A mistake of the user ends in one line and exit code 1, an interrupted run in 130.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from spiketrack.errors import SettingsError, SpiketrackError

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


@contextmanager
def options_as_settings() -> Generator[None]:
    """Options that become settings of the same name; one out of range raises SettingsError naming it."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        # a value of a list is at (option, number), one within a setting at (setting, option)
        named = [([part for part in f["loc"] if isinstance(part, str)][-1], f) for f in error.errors()]
        faults = [f"--{name.replace('_', '-')}: {f['msg']}, got {f['input']!r}" for name, f in named]
        raise SettingsError("; ".join(faults)) from error


def counted(counts: dict[str, int], first: dict[str, str]) -> str:
    if not counts:
        return "0"
    parts = [
        f"{count:,} {kind}" + (f" (first at {first[kind]})" if kind in first else "") for kind, count in counts.items()
    ]
    return f"{sum(counts.values()):,}: {', '.join(parts)}"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


@contextmanager
def progress_line(what: str, unit: str = "scenes") -> Generator[Callable[[int, int | None, str], None]]:
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
    bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
    task = bar.add_task(what, total=None, rate="")

    def update(done: int, total: int | None, name: str) -> None:
        bar.start()  # only now: a mistake found before there is progress is said in one line
        rate = done / max(time.monotonic() - started, 1e-9)
        said = f"{rate:,.0f}" if rate >= 100 else f"{rate:.2f}"
        bar.update(task, completed=done, total=total, description=f"{what} {name}", rate=f"{said} {unit}/s")

    try:
        yield update
    finally:
        if bar.live.is_started:
            bar.stop()
