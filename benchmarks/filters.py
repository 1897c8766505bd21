"""Filters: millions of events per second of each filter, beside copying the columns and beside other packages.

    python benchmarks/filters.py [EVENTS] [--recording FILE] [--peers PYTHON]      default 4,000,000 random events

Random events (1280 x 720, 10 M events/s, seed 0) are the worst case: no two fall near each other in memory. With
--recording, the first EVENTS of a recording. --peers names the interpreter of an environment with tonic, eventcv and
evlib; each runs there on the same events, in memory, in its own structure; what is missing is named. One thread, least
time of several passes, each with a fresh filter, whose tables are made within the time as those of the others are.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spiketrack.events import Events
from spiketrack.filters import FilterChain, FilterSettings
from spiketrack.recordings import open_recording

WIDTH, HEIGHT, RATE = 1280, 720, 10_000_000
DT_US, REFRACTORY_US = 2_000, 1_000

FILTERS = {
    "region": {"region": {"include": [[160, 90, 1120, 630]]}},
    "hot pixels": {"hot_pixels": {"rate_hz": 100, "period_us": 100_000}},
    "flicker": {"flicker": {"band_hz": [50, 520]}},
    "polarity": {"polarity": "on"},
    "refractory": {"refractory": {"period_us": REFRACTORY_US}},
    "background, 3 x 3": {"background": {"dt_us": DT_US}},
    "background, 5 x 5": {"background": {"dt_us": DT_US, "radius": 2}},
    "background, 2 of 3 x 3": {"background": {"dt_us": DT_US, "support": 2}},
    "rate, even": {"rate": {"limit": 1_000_000}},
    "rate, tail": {"rate": {"limit": 1_000_000, "policy": "tail"}},
    "hot + refractory + background + rate": {
        "hot_pixels": {"rate_hz": 100, "period_us": 100_000},
        "refractory": {"period_us": REFRACTORY_US},
        "background": {"dt_us": DT_US},
        "rate": {"limit": 1_000_000},
    },
}

PEERS = """
import json, sys, time
import numpy as np
path, dt_us, refractory_us = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
data = np.load(path)
t, x, y, p = (data[name] for name in "txyp")
width, height = (int(side) for side in data["size"])
t = t - t[0]
SLOW = 200_000  # events for what loops in Python

def measure(name, kept_of, n, repeats):
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        kept = kept_of()
        seconds.append(time.perf_counter() - started)
    print(json.dumps([name, n, min(seconds), kept]), flush=True)

try:
    import eventcv
    rows = np.stack([x, y, t, p], axis=1).astype(np.int64)
    stream = eventcv.from_numpy(rows, sensor_size=(width, height), time_unit="us")
    measure("eventcv background, 3 x 3", lambda: len(stream.background_activity_filter(dt_us - 1)), len(t), 5)
    measure("eventcv refractory", lambda: len(stream.refractory_filter(refractory_us)), len(t), 5)
    measure("eventcv hot pixels", lambda: len(stream.hot_pixel_filter()), len(t), 5)
except ImportError as error:
    print(json.dumps(["eventcv", str(error)]), flush=True)
try:
    import evlib.filtering, polars
    duration = polars.Series("t", t).cast(polars.Duration("us"))
    frame = polars.DataFrame({"t": duration, "x": x, "y": y, "polarity": p.astype(np.int8)})
    measure("evlib refractory", lambda: len(
        evlib.filtering.filter_noise(frame, method="refractory", refractory_period_us=refractory_us).collect()
    ), len(t), 2)
    measure("evlib hot pixels", lambda: len(evlib.filtering.filter_hot_pixels(frame).collect()), len(t), 2)
except ImportError as error:
    print(json.dumps(["evlib", str(error)]), flush=True)
try:
    import tonic.functional
    n = min(len(t), SLOW)
    events = np.zeros(n, [("x", np.int16), ("y", np.int16), ("t", np.int64), ("p", np.int8)])
    for name, column in (("x", x), ("y", y), ("t", t), ("p", p)):
        events[name] = column[:n]
    measure("tonic background, cross", lambda: len(tonic.functional.denoise_numpy(events, dt_us)), n, 1)
    measure("tonic refractory", lambda: len(
        tonic.functional.refractory_period_numpy(events, refractory_us)
    ), n, 1)
except ImportError as error:
    print(json.dumps(["tonic", str(error)]), flush=True)
"""


def random_events(n: int) -> Events:
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, n * 1_000_000 // RATE, n))
    x, y = rng.integers(0, WIDTH, n, np.uint16), rng.integers(0, HEIGHT, n, np.uint16)
    return Events(t, x, y, rng.integers(0, 2, n, np.uint8), WIDTH, HEIGHT)


def recorded_events(path: Path, n: int) -> Events:
    parts: list[Events] = []
    for run in open_recording(path).chunks():
        parts.append(run)
        if sum(len(part) for part in parts) >= n:
            break
    return Events.concatenate(parts)[:n]


def least_seconds(work: Callable[[], object], repeats: int = 7) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def fresh(settings: FilterSettings, events: Events) -> Events:
    return FilterChain(settings, events.width, events.height).apply(events)


def report(name: str, n: int, seconds: float, kept: float, copying: float) -> None:
    rate = n / seconds / 1e6
    print(f"{name:<40}{rate:>10.2f}{rate / copying:>10.4f}{kept:>8.1%}", flush=True)


def measure_peers(python: Path, events: Events) -> list[str]:
    """The lines that the peers' environment prints; one thread there, too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.npz"
        columns = {name: getattr(events, name) for name in "txyp"}
        np.savez(path, size=(events.width, events.height), **columns)
        command = [str(python), "-c", PEERS, str(path), str(DT_US), str(REFRACTORY_US)]
        alone = os.environ | {"POLARS_MAX_THREADS": "1", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=alone).stdout.splitlines()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("events", nargs="?", type=int, default=4_000_000)
    parser.add_argument("--recording", type=Path)
    parser.add_argument("--peers", type=Path)
    arguments = parser.parse_args()
    n = arguments.events
    events = recorded_events(arguments.recording, n) if arguments.recording else random_events(n)
    n, sensor = len(events), (events.width, events.height)
    copy = least_seconds(lambda: [getattr(events, name).copy() for name in "txyp"])
    copying = n / copy / 1e6
    print(f"{n:,} events of {sensor[0]} x {sensor[1]}")
    print(f"{'filter':<40}{'Mev/s':>10}{'of copy':>10}{'kept':>8}")
    report("copying the columns", n, copy, 1.0, copying)
    for name, sections in FILTERS.items():
        settings = FilterSettings.model_validate(sections)
        kept = len(FilterChain(settings, *sensor).apply(events)) / n
        seconds = least_seconds(functools.partial(fresh, settings, events))
        report(name, n, seconds, kept, copying)
    if arguments.peers:
        for line in measure_peers(arguments.peers, events):
            match json.loads(line):
                case [name, peer_n, seconds, kept]:
                    report(name, peer_n, seconds, kept / peer_n, copying)
                case [name, why]:
                    print(f"{name:<40}  missing: {why}")
    else:
        print("peers: not measured; name an interpreter with --peers", file=sys.stderr)


if __name__ == "__main__":
    main()
