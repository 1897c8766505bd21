"""Decoding of ECF: a Prophesee HDF5 file into columns, on one thread and on two, beside the copy of the same columns.

    python benchmarks/ecf.py [EVENTS]      default 20,000,000

Writes 20 M events (seed 0) as a 1280 x 720 sensor gives them at 0.5, 3 and 20 Mev/s (groups of one row, one time and
one polarity with rising x), and the real recording `evk4_evt3.raw` repeated to the same length where
SPIKETRACK_REAL_DATA names its folder. Prints, the best of several runs each: chunks to reused columns (the codec
alone), file to fresh columns (a reader's blocks), both in Mev/s; bytes an event; what the codec moves (bytes read and
written) as a share of what a copy of the columns moves; and h5py on a plain file of the same events.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from streams import sensor_events

from spiketrack.events import Events
from spiketrack.recordings import EventWriter, ReadOptions, open_recording
from spiketrack.recordings.ecf import decode_ecf
from spiketrack.recordings.recording import Columns, Tally

WIDTH, HEIGHT, RUNS = 1280, 720, 7
EVENT_BYTES = 8 + 2 + 2 + 1


def real_events(n: int) -> Events | None:
    folder = os.environ.get("SPIKETRACK_REAL_DATA")
    if not folder:
        return None
    source = open_recording(Path(folder) / "recordings" / "evk4_evt3.raw", options=ReadOptions(index=False))
    once = Events.concatenate(list(source.chunks()))
    span, times = int(once.t[-1] - once.t[0] + 1), n // len(once) + 1
    t = (once.t + span * np.arange(times)[:, None]).ravel()[:n]
    x, y, p = (np.tile(column, times)[:n] for column in (once.x, once.y, once.p))
    return Events(t, x, y, p, once.width, once.height)


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs, after one that warms up."""
    run()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def codec(path: Path) -> float:
    """Seconds to decode all chunks into columns that are used again."""
    with h5py.File(path) as file:
        stored, rows = file["CD/events"], len(file["CD/events"])
        starts = range(0, rows, stored.chunks[0])
        chunks = [np.frombuffer(stored.id.read_direct_chunk((start,))[1], np.uint8) for start in starts]
        size = stored.chunks[0]
    columns = Columns.allocate(size)
    targets = [columns.cut(0, min(size, rows - start)) for start in starts]

    def run() -> None:
        for chunk, target in zip(chunks, targets, strict=True):
            decode_ecf(chunk, *target)

    return best(run)


def blocks(path: Path, threads: int) -> float:
    recording = open_recording(path, options=ReadOptions(threads=threads, index=False))

    def run() -> None:
        with recording._reader(Tally(), None) as reader:
            for _ in reader.blocks():
                pass

    return best(run)


def copy(n: int) -> float:
    """Seconds to copy the columns of n events, in pieces of 2^18."""
    source, target = Columns.allocate(n), Columns.allocate(1 << 18)
    for column in source:
        column[:] = 1

    def run() -> None:
        for first in range(0, n, 1 << 18):
            piece = source.cut(first, min(first + (1 << 18), n))
            for to, column in zip(target, piece, strict=True):
                to[: len(column)] = column

    return best(run)


def measure(name: str, events: Events, folder: Path) -> None:
    n = len(events)
    for compression in ("ecf", None):
        with EventWriter(folder / f"{compression}.h5", events.width, events.height, compression) as writer:
            for first in range(0, n, 1 << 20):
                writer.append(events[first : first + (1 << 20)])
    with h5py.File(folder / "ecf.h5") as file:
        stored_bytes = file["CD/events"].id.get_storage_size() / n
    alone, one, two = codec(folder / "ecf.h5"), blocks(folder / "ecf.h5", 1), blocks(folder / "ecf.h5", 2)
    plain, copied = blocks(folder / "None.h5", 1), copy(n)
    moved = (stored_bytes + EVENT_BYTES) / alone / (2 * EVENT_BYTES / copied)
    rates = "".join(f"{n / seconds / 1e6:>12.0f}" for seconds in (alone, one, two, plain, copied))
    print(f"{name:<20}{stored_bytes:>12.2f}{rates}{moved:>12.0%}")


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000_000
    heads = ("bytes/event", "codec", "1 thread", "2 threads", "plain HDF5", "copy", "of copy")
    print(f"{n:,} events, Mev/s".ljust(20) + "".join(head.rjust(12) for head in heads))
    with tempfile.TemporaryDirectory() as folder:
        for rate in (0.5, 3.0, 20.0):
            measure(f"{rate:g} Mev/s", sensor_events(n, rate), Path(folder))
        real = real_events(n)
        if real is not None:
            measure("evk4_evt3.raw", real, Path(folder))


if __name__ == "__main__":
    main()
