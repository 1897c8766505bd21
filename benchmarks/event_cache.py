"""A window of events: decoded from its file, from the disk cache, from memory; and what a layout of the cache costs.

    python benchmarks/event_cache.py [--events 12000000] [--rate 3] [--window-us 33333] [--windows 60] [--folder DIR]

Writes EVENTS events (seed 0) of a 1280 x 720 sensor at RATE Mev/s as RAW EVT3 and as HDF5 (eTraM's layout: gzip;
Blosc; plain), then reads the same random windows of each, one thread, files in the page cache. Columns: bytes of an
event on the disk; CPU milliseconds of a window that is read (each column summed, so that a mapped one is really met),
the same for the first time in a process (check sums of the cache, nothing for the others), and read and counted to
the input of a network (stacked histogram, 640 x 360). Cache: `data.cache_dir`, a word of 8 bytes an event, with times
relative to a piece. Then other layouts, mapped for good and without check sums: 13 bytes in columns, of which a window
is a view, and rows of 16 and of 13 bytes. Ratios are to RAW EVT3 and to HDF5 (gzip), in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import numpy as np
from streams import sensor_events

from spiketrack.datasets.cache import EventCache
from spiketrack.datasets.disk_cache import DiskCache
from spiketrack.events import Events, Window
from spiketrack.recordings import create_recording, open_recording
from spiketrack.representations import InputSettings

Read = Callable[[int, int], Window]
ROW_16 = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<u2", "<u2", "u1"], "itemsize": 16})
ROW_13 = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<u2", "<u2", "u1"], "itemsize": 13})
REPEATS = 3


def rows_reader(path: Path, dtype: np.dtype, events: Events) -> Read:
    """A mapped file of rows; a window's columns are copies."""
    rows = np.empty(len(events), dtype)
    for name in "txyp":
        rows[name] = getattr(events, name)
    rows.tofile(path)
    mapped = np.memmap(path, dtype, "r")

    def read(start_us: int, end_us: int) -> Window:
        first, last = bisect_left(mapped["t"], start_us), bisect_left(mapped["t"], end_us)
        columns = (np.ascontiguousarray(mapped[name][first:last]) for name in "txyp")
        return Window.of(Events.trusted(*columns, events.width, events.height), start_us, end_us)

    return read


def columns_reader(path: Path, events: Events) -> Read:
    """A mapped file of columns; a window's columns are views."""
    with open(path, "wb") as file:
        for name in "txyp":
            file.write(getattr(events, name).data)
    n = len(events)
    places = zip((np.int64, np.uint16, np.uint16, np.uint8), (0, 8 * n, 10 * n, 12 * n), strict=True)
    mapped = Events.trusted(*(np.memmap(path, dtype, "r", at, n) for dtype, at in places), events.width, events.height)
    return lambda start_us, end_us: Window.of(mapped, start_us, end_us)


def met(window: Window) -> int:
    """A number that every byte of the window goes into."""
    return int(window.t.sum() + window.x.sum() + window.y.sum() + window.p.sum())


def milliseconds(read: Read, places: list[tuple[int, int]], use: Callable[[Window], object]) -> float:
    """CPU milliseconds of a window."""
    began = time.process_time()
    for place in places:
        use(read(*place))
    return 1000 * (time.process_time() - began) / len(places)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=12_000_000)
    parser.add_argument("--rate", type=float, default=3.0)
    parser.add_argument("--window-us", type=int, default=33_333)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="where files are written; default the system's")
    arguments = parser.parse_args()
    events = sensor_events(arguments.events, arguments.rate)
    rng = np.random.default_rng(0)
    starts = rng.integers(int(events.t[0]), int(events.t[-1]) - arguments.window_us, arguments.windows)
    places = [(start, start + arguments.window_us) for start in starts.tolist()]
    input = InputSettings(slice_us=arguments.window_us, width=640, height=360)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        cache = DiskCache(folder / "cache")
        readers: dict[str, tuple[Path, Read]] = {}
        for label, file, compression in (
            ("RAW EVT3", "a.raw", None),
            ("HDF5, gzip", "gzip.h5", "gzip"),
            ("HDF5, Blosc", "blosc.h5", "blosc"),
            ("HDF5, plain", "plain.h5", None),
        ):
            path = folder / file
            with create_recording(path, events.width, events.height, compression=compression) as writer:
                writer.append(events)
            recording = open_recording(path)
            met(recording.read(*places[0]))  # compiles
            for _ in recording.chunks():  # makes the index
                pass
            readers[label] = path, recording.read
        raw = open_recording(folder / "a.raw")
        began = time.process_time()
        cache.open(raw)
        built = time.process_time() - began
        (path,) = (folder / "cache").iterdir()
        fresh = {"cache": lambda: DiskCache(cache.folder).open(raw).read}
        readers["cache"] = path, fresh["cache"]()
        readers["13 bytes in columns"] = folder / "columns", columns_reader(folder / "columns", events)
        for label, dtype in (("16 bytes in rows", ROW_16), ("13 bytes in rows", ROW_13)):
            readers[label] = folder / label, rows_reader(folder / label, dtype, events)
        memory = EventCache(14 * len(events))
        readers["in memory"] = path, lambda start, end: memory.read(raw, start, end)
        expected = [met(readers["RAW EVT3"][1](*place)) for place in places]
        for label, (_, read) in readers.items():
            assert [met(read(*place)) for place in places] == expected, label
        print(
            f"{len(events):,} events, {arguments.rate} Mev/s, {arguments.windows} windows of {arguments.window_us} us"
        )
        print(f"{'':<22}{'bytes/event':>12}{'first ms':>10}{'read ms':>10}{'EVT3/':>8}{'HDF5/':>8}{'counted ms':>12}")
        sides: list[float] = []
        for label, (path, read) in readers.items():
            first = milliseconds(fresh[label](), places, met) if label in fresh else float("nan")
            least = min(milliseconds(read, places, met) for _ in range(REPEATS))
            counted = min(milliseconds(read, places, lambda w: input.encode(w, w.end_us)) for _ in range(REPEATS))
            sides.append(least)
            size = path.stat().st_size / len(events) if label != "in memory" else float("nan")
            ratios = f"{sides[0] / least:>8.1f}{sides[min(1, len(sides) - 1)] / least:>8.1f}"
            print(f"{label:<22}{size:>12.2f}{first:>10.2f}{least:>10.3f}{ratios}{counted:>12.2f}", flush=True)
        print(f"decoding RAW EVT3 into the cache: {built:.2f} CPU s, {built / len(events) * 1e9:.0f} ns an event")


if __name__ == "__main__":
    main()
