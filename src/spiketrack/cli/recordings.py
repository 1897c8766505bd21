"""Commands about recordings: info, convert, filter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spiketrack.cli.app import Json, Set, app, counted, progress_line
from spiketrack.errors import SettingsError

if TYPE_CHECKING:
    from spiketrack.recordings import ConvertSummary, ReadOptions, Recording

Source = Annotated[
    Path, typer.Argument(help="a recording: RAW EVT2, 2.1 or 3, DAT, HDF5, AEDAT4, text, npy, npz, N-MNIST")
]
Width = Annotated[int | None, typer.Option(help="sensor width, where the file does not say or is wrong")]
Height = Annotated[int | None, typer.Option(help="sensor height, likewise")]
OnInvalid = Annotated[
    str, typer.Option(help="events that cannot be right: drop, keep (what still has a pixel and a polarity) or fail")
]
Threads = Annotated[int, typer.Option(help="pieces of the file decoded at a time")]
IndexOption = Annotated[bool, typer.Option(help="use and write the index <file>.spikeindex of a long recording")]
ColumnOrder = Annotated[str | None, typer.Option(help="columns of a text file without header, such as txyp")]
TimeUnit = Annotated[str | None, typer.Option(help="unit of the times of a text file or an array: us, ms, s or ns")]
Endianness = Annotated[str | None, typer.Option(help="order of the halves of EVT2.1 words: little or legacy")]

Start = Annotated[float | None, typer.Option(help="begin here, seconds of the recording's own time")]
End = Annotated[float | None, typer.Option(help="end here, seconds; this time itself is left out")]
KeepTriggers = Annotated[bool, typer.Option("--keep-triggers", help="external triggers too")]
Format = Annotated[str | None, typer.Option(help="hdf5, evt2, evt2.1, evt2.1-legacy, evt3, dat or csv")]
Compression = Annotated[str | None, typer.Option(help="of HDF5: gzip, blosc (extra `blosc`) or ecf")]


def _start_numba_without_blas() -> None:
    """Import numba with scipy.linalg out of its reach, which it would load for products of matrices only (0.2 s)."""
    if "scipy.linalg" not in sys.modules and "numba.np.arraymath" not in sys.modules:
        sys.modules["scipy.linalg"] = None  # ty: ignore[invalid-assignment]  # an import of it fails
        try:
            import numba.np.arraymath  # noqa: F401
        finally:
            del sys.modules["scipy.linalg"]


def read_options(on_invalid: str, threads: int, index: bool = True) -> ReadOptions:
    """The options as ReadOptions, which checks them."""
    from spiketrack.recordings import ReadOptions

    return ReadOptions(on_invalid, threads, index)  # ty: ignore[invalid-argument-type]


def _opened(
    file: Path,
    size: tuple[int | None, int | None],
    on_invalid: str,
    threads: int,
    index: bool,
    layout: tuple[str | None, str | None, str | None],
) -> Recording:
    from spiketrack.recordings import open_recording

    _start_numba_without_blas()
    columns, time_unit, endianness = layout
    options = read_options(on_invalid, threads, index)
    return open_recording(file, *size, options=options, columns=columns, time_unit=time_unit, endianness=endianness)


@app.command()
def info(
    file: Source,
    as_json: Json = False,
    width: Width = None,
    height: Height = None,
    on_invalid: OnInvalid = "drop",
    threads: Threads = 2,
    index: IndexOption = True,
    columns: ColumnOrder = None,
    time_unit: TimeUnit = None,
    endianness: Endianness = None,
) -> None:
    """Say what a recording holds: format, sensor, events, times, polarities, invalid events."""
    from spiketrack.recordings import summarize

    summary = summarize(_opened(file, (width, height), on_invalid, threads, index, (columns, time_unit, endianness)))
    if as_json:
        keys = ("format", "width", "height", "events", "t_first_us", "t_last_us", "sum_t", "on", "off", "invalid")
        print(json.dumps({key: getattr(summary, key) for key in (*keys, "repaired", "first_invalid", "triggers")}))
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
        "rate": f"{summary.rate:,.0f} events/s",
        "triggers": f"{summary.triggers:,}",
        "duplicated": f"{summary.duplicated:,}",
        "invalid": counted(summary.invalid, summary.first_invalid),
        "repaired": counted(summary.repaired, {}),
    }
    for name, value in rows.items():
        print(f"{name:<12}{value if value is not None else '-'}")


@app.command()
def convert(
    file: Source,
    out: Annotated[Path, typer.Argument(help="file to write; its suffix tells the format: .h5, .raw, .dat, .csv")],
    start: Start = None,
    end: End = None,
    crop: Annotated[str | None, typer.Option(help="part of the sensor, X,Y,WIDTH,HEIGHT in pixels")] = None,
    downsample: Annotated[int, typer.Option(help="merge K x K pixels into one, keeping every event")] = 1,
    keep_triggers: KeepTriggers = False,
    format: Format = None,
    compression: Compression = None,
    width: Width = None,
    height: Height = None,
    on_invalid: OnInvalid = "drop",
    threads: Threads = 2,
    index: IndexOption = True,
    columns: ColumnOrder = None,
    time_unit: TimeUnit = None,
    endianness: Endianness = None,
) -> None:
    """Write a recording, or a part of it, in another format."""
    from spiketrack.recordings import Part, convert

    source = _opened(file, (width, height), on_invalid, threads, index, (columns, time_unit, endianness))
    part = Part(_microseconds(start), _microseconds(end), _crop(crop), downsample, keep_triggers)
    with progress_line("converting", unit="events") as update:
        summary = convert(source, out, part, format=format, compression=compression, on_progress=update)
    _print_converted(summary)


@app.command("filter")
def filter_(
    file: Source,
    out: Annotated[Path, typer.Argument(help="file to write; its suffix tells the format: .h5, .raw, .dat, .csv")],
    settings: Annotated[Path | None, typer.Option(help="YAML file of filter settings")] = None,
    overrides: Set = None,
    start: Start = None,
    end: End = None,
    keep_triggers: KeepTriggers = False,
    format: Format = None,
    compression: Compression = None,
    width: Width = None,
    height: Height = None,
    on_invalid: OnInvalid = "drop",
    threads: Threads = 2,
    index: IndexOption = True,
    columns: ColumnOrder = None,
    time_unit: TimeUnit = None,
    endianness: Endianness = None,
) -> None:
    """Take noise out of a recording: background activity, hot pixels, flicker, dead time, regions, rate.

    The filters are those that `spiketrack settings` lists under data.filters, without that prefix.
    """
    from spiketrack.filters import NO_FILTERS, FilteredRecording, FilterSettings
    from spiketrack.recordings import Part, convert
    from spiketrack.settings import load_settings

    chosen = load_settings(FilterSettings, settings, overrides)
    if chosen == NO_FILTERS:
        raise SettingsError(
            "no filter is on: try --set background.dt_us=5000; `spiketrack settings` lists them under data.filters"
        )
    opened = _opened(file, (width, height), on_invalid, threads, index, (columns, time_unit, endianness))
    source = FilteredRecording(opened, chosen)
    part = Part(_microseconds(start), _microseconds(end), keep_triggers=keep_triggers)
    with progress_line("filtering", unit="events") as update:
        summary = convert(source, out, part, format=format, compression=compression, on_progress=update)
    _print_converted(summary)
    for name, count in source.removed.items():
        print(f"{name:<12}{count:,} taken out")


def _microseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e6)


def _crop(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) != 4 or not all(number.strip().isdecimal() for number in numbers):
        raise SettingsError(f"--crop {text}: expected X,Y,WIDTH,HEIGHT in pixels, such as 320,180,640,360")
    x, y, width, height = (int(number) for number in numbers)
    return x, y, width, height


def _print_converted(summary: ConvertSummary) -> None:
    span = "" if summary.t_first_us is None else f", {summary.t_first_us} .. {summary.t_last_us} us"
    size = f"{summary.width} x {summary.height}"
    print(f"{summary.path}: {summary.events:,} events, {size}{span}")
    if summary.triggers:
        print(f"triggers    {summary.triggers:,}")
    print(f"invalid     {counted(summary.invalid, summary.first_invalid)}")
    print(f"repaired    {counted(summary.repaired, {})}")
