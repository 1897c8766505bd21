"""Decoding of RAW EVT3, RAW EVT2 and DAT to events: spiketrack beside other packages, on one core and on two.

    python benchmarks/decoding.py [MILLION_EVENTS] [ROUNDS]      default 20 and 5

Everything runs in this one process on the same files, which lie in the page cache: first held to one core, then free
on two. Each package reads in chunks as it does fastest (several chunk sizes are tried), and the best of all rounds
counts, the contenders taking turns. A count of events that differs from ours stands in the table. What is not
installed stands there as missing; `make bench` installs everything into an environment of its own.

Files: `rows`, seed 0, as a 1280 x 720 sensor gives them at 10 Mev/s (groups of one row, one time and one polarity with
rising x, which EVT3 packs into vectors); with SPIKETRACK_REAL_DATA also the real recordings, their own words repeated
with the clock going on: evk4_evt3.raw (sparse, hardly a vector), gen3_evt2.raw and evk4_same_as_evt3.dat.
`copy` is what one large copy moves on that many threads; `of copy` is the share of it that spiketrack reaches, counting
bytes of the file read and 13 bytes an event written.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from streams import repeated_words, sensor_events

from spiketrack.recordings import ReadOptions, create_recording, open_recording

EVENT_BYTES = 8 + 2 + 2 + 1
WANTED = {"evt3": (1.9, 3.5), "evt2": (4.0, 4.0), "dat": (4.0, 4.0)}
REAL = (
    ("evt3", "evk4_evt3.raw", 1_218_618),
    ("evt2", "gen3_evt2.raw", 521_252),
    ("dat", "evk4_same_as_evt3.dat", 1_218_618),
)
RIVALS = ("evt3", "faery", "eventcv")  # those that the wanted ratios are to
Reader = Callable[[Path], int]


def ours(threads: int) -> Reader:
    def read(path: Path) -> int:
        recording = open_recording(path, 1280, 720, options=ReadOptions(threads=threads, index=False))
        return sum(len(events) for events in recording.chunks())

    return read


def evt3_batches(size: int, path: Path) -> int:
    evt3 = import_module("evt3")
    return sum(len(batch.timestamp) for batch in evt3.decode_file_batches(str(path), size))


def faery_packets(path: Path) -> int:
    faery = import_module("faery")
    return sum(len(packet) for packet in faery.events_stream_from_file(path))


def eventcv_whole(path: Path) -> int:
    return len(import_module("eventcv").load(str(path), sensor_size=(1280, 720)))


def eventcv_slices(size: int, path: Path) -> int:
    reader = import_module("eventcv").open(str(path), max_events=size, sensor_size=(1280, 720))
    return sum(len(events) for events in reader.windows())


def expelliarmus_chunks(coding: str, size: int, path: Path) -> int:
    wizard = import_module("expelliarmus").Wizard(encoding=coding, chunk_size=size)
    wizard.set_file(str(path))
    return sum(len(chunk) for chunk in wizard.read_chunk())


def evutils_chunks(size: int, path: Path) -> int:
    reader = import_module("evutils.io").EventReader(str(path), n_events=size, width=1280, height=720)
    return sum(len(events) for events in reader)


def contenders(coding: str) -> dict[str, list[Reader] | None]:
    """By package, its ways of reading such a file; None where it is not installed."""
    chunks = (1 << 17, 1 << 19, 1 << 21)
    ways: dict[str, list[Reader]] = {
        "faery": [faery_packets],
        "eventcv": [eventcv_whole, *(partial(eventcv_slices, size) for size in chunks)],
        "evutils": [partial(evutils_chunks, size) for size in chunks],
        "expelliarmus": [partial(expelliarmus_chunks, coding, size) for size in chunks],
    }
    if coding == "evt3":
        ways = {"evt3": [partial(evt3_batches, size) for size in (1 << 18, 1 << 20, 1 << 23)], **ways}
    return {name: readers if find_spec(name) else None for name, readers in ways.items()}


def fastest(readers: list[Reader], path: Path, rounds: int) -> tuple[float, int]:
    """Seconds and events of the fastest way; every way once, then the best of them again."""
    times = {}
    for reader in readers:
        times[reader] = run(reader, path)
    best = min(times, key=lambda reader: times[reader][0])
    return min([times[best], *(run(best, path) for _ in range(rounds - 1))])


def run(reader: Reader, path: Path) -> tuple[float, int]:
    started = time.perf_counter()
    events = reader(path)
    return time.perf_counter() - started, events


def copy_bandwidth(threads: int) -> float:
    """Bytes read plus bytes written per second by copies of 64 MB, all threads together."""
    pairs = [(np.ones(1 << 26, np.uint8), np.empty(1 << 26, np.uint8)) for _ in range(threads)]
    for source, target in pairs:
        target[:] = source
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(10):
            started = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            best = max(best, threads * 2 * (1 << 26) / (time.perf_counter() - started))
    return best


def files(folder: Path, events: int) -> Iterator[tuple[str, str, Path]]:
    """Coding, what it holds, path; one after the other, so that each is in the page cache when it is read."""
    synthetic = sensor_events(events, 10.0)
    for coding, suffix in (("evt3", ".raw"), ("evt2", ".raw"), ("dat", ".dat")):
        path = folder / f"rows_{coding}{suffix}"
        with create_recording(path, synthetic.width, synthetic.height, format=coding) as writer:
            for first in range(0, len(synthetic), 1 << 20):
                writer.append(synthetic[first : first + (1 << 20)])
        yield coding, "rows", path
        path.unlink()
    real = os.environ.get("SPIKETRACK_REAL_DATA")
    if not real:
        print("SPIKETRACK_REAL_DATA is not set: no real recordings\n")
        return
    for coding, name, once in REAL:
        path = folder / f"real_{coding}{Path(name).suffix}"
        repeated_words(Path(real) / "recordings" / name, path, coding, -(-events // once))
        yield coding, "real", path
        path.unlink()


def table(coding: str, what: str, path: Path, rounds: int) -> None:
    for cores in (1, 2):
        available = sorted(os.sched_getaffinity(0))
        if len(available) < cores:
            print(f"{cores} cores are not available\n")
            return
        os.sched_setaffinity(0, available[-cores:])
        try:
            copy = copy_bandwidth(cores)
            ways = {"spiketrack": [ours(cores)], **contenders(coding)}
            found: dict[str, tuple[float, int]] = {}
            for _ in range(2):  # in turns, so that a slow minute of the machine hits all
                for name, readers in ways.items():
                    if readers is not None:
                        result = fastest(readers, path, -(-rounds // 2))
                        found[name] = min(found.get(name, result), result)
        finally:
            os.sched_setaffinity(0, available)
        show(coding, what, path, cores, copy, ways, found)


def show(
    coding: str,
    what: str,
    path: Path,
    cores: int,
    copy: float,
    ways: dict[str, list[Reader] | None],
    found: dict[str, tuple[float, int]],
) -> None:
    seconds, events = found["spiketrack"]
    moved = path.stat().st_size + EVENT_BYTES * events
    print(
        f"{coding} {what}, {events / 1e6:.1f} M events, {path.stat().st_size / events:.2f} bytes each, {cores} core(s)"
    )
    print(f"  {'copy':<13}{copy / 1e9:9.1f} GB/s; spiketrack {moved / seconds / copy:.0%} of copy")
    for name, readers in ways.items():
        if readers is None:
            print(f"  {name:<13}{'missing':>9}")
            continue
        other, count = found[name]
        note = "" if count == events else f"  {count - events:+,} events"
        print(f"  {name:<13}{count / other / 1e6:9.1f} Mev/s{other / seconds:7.2f} x our time{note}")
    rivals = {name: found[name][0] for name in RIVALS if name in found}
    if rivals:
        name = min(rivals, key=rivals.__getitem__)
        print(f"  ratio to {name}: {rivals[name] / seconds:.2f}, wanted {WANTED[coding][cores - 1]}\n", flush=True)


def main() -> None:
    events = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 20_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    warnings.simplefilter("ignore")  # a peer warns a million times
    with tempfile.TemporaryDirectory() as folder:
        for coding, what, path in files(Path(folder), events):
            table(coding, what, path, rounds)


if __name__ == "__main__":
    main()
