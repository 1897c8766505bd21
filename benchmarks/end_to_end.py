"""From file to network input: windows of a RAW EVT3 recording into histograms, on one core; memory; seeking.

    python benchmarks/end_to_end.py [MINUTES]      default 10

Writes a recording of 10 s at 3 Mev/s (seed 0, 1280 x 720: groups of one row, time and polarity, see streams.py), and
one in which its words follow each other for MINUTES (9 MB a second), into a temporary folder. Each is streamed in a
fresh process held to one core: 50 ms windows, stacked histogram of 10 bins at 640 x 360, into one buffer. Printed: the
time against that of the recording; the resident memory after the imports and the peak. Then, on the long one, the
time to the first window at two thirds of it: as it is, and once an index lies beside the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from streams import repeated_words, sensor_events

from spiketrack.recordings import create_recording

RATE, SECONDS = 3.0, 10

STREAM = """
import json, os, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
import numpy as np
from spiketrack import open_recording, stacked_histogram, windows
from spiketrack.recordings import ReadOptions, evt3
from spiketrack.representations import kernels
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
recording = open_recording(sys.argv[1], options=ReadOptions(index=False))
buffer = np.empty((10, 2, 360, 640), np.uint8)
first = next(windows(recording, 50_000))  # numba loads its compiled code
stacked_histogram(first, first.start_us, first.end_us, 10, size=(360, 640), out=buffer)
imported, events, steps, started = peak(), 0, 0, time.perf_counter()
for window in windows(recording, 50_000):
    stacked_histogram(window, window.start_us, window.end_us, 10, size=(360, 640), out=buffer)
    events, steps = events + len(window), steps + 1
seconds = time.perf_counter() - started
print(json.dumps([steps * 0.05, seconds, events, imported, peak()]))
"""

SEEK = """
import sys, time
from spiketrack import windows
from spiketrack.recordings import ReadOptions, open_recording, summarize
path, start_us, index = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "index"
next(open_recording(path, options=ReadOptions(index=False)).chunks())  # numba loads its compiled code
if index:
    summarize(open_recording(path))
started = time.perf_counter()
recording = open_recording(path, options=ReadOptions(index=index))
window = next(windows(recording, 50_000, start_us=start_us))
print(time.perf_counter() - started)
"""


def fresh(code: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10
    events = sensor_events(int(RATE * 1e6 * SECONDS), RATE)
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.raw", Path(folder) / "long.raw"
        with create_recording(short, events.width, events.height) as writer:
            for first in range(0, len(events), 1 << 20):
                writer.append(events[first : first + (1 << 20)])
        del events
        repeated_words(short, long, "evt3", round(minutes * 60 / SECONDS))
        print(f"{'recording':>10}{'events':>16}{'file':>10}{'took':>9}{'x real time':>13}{'imported':>11}{'peak':>9}")
        for path in (short, long):
            duration, seconds, counted, imported, peak = json.loads(fresh(STREAM, str(path)))
            size = os.path.getsize(path) / 1e6
            print(
                f"{duration:8.0f} s{counted:16,}{size:7.0f} MB{seconds:7.2f} s{duration / seconds:13.1f}"
                f"{imported:8.0f} MB{peak:6.0f} MB",
                flush=True,
            )
        start_us = round(minutes * 60e6 * 2 / 3)
        print(f"\nfirst window at {start_us / 1e6:.0f} s of {minutes * 60:.0f} s")
        for kind in ("nothing", "index"):
            seconds = float(fresh(SEEK, str(long), str(start_us), kind))
            print(f"  with {kind:<8}{seconds * 1000:10.1f} ms", flush=True)


if __name__ == "__main__":
    main()
