"""Memory of streaming: windows of a recording into stacked histograms, for recordings of growing length.

    python benchmarks/stream_memory.py [EVENTS ...]      default 10,000,000 and 100,000,000

Writes DAT recordings (1280 x 720, 10 M events/s, seed 0) into a temporary folder, 8 bytes an event, streams each in
a fresh process as 50 ms windows with 10 bins, and prints the resident memory of that process after the first window,
its peak, and the rate from the second window on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, RATE, WINDOW_US, BINS = 1280, 720, 10_000_000, 50_000, 10

STREAM = """
import json, resource, sys, time
import numpy as np
from spiketrack import stacked_histogram, windows
path, window_us, bins = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
buffer = np.empty((bins, 2, 720, 1280), np.uint8)
counted, baseline, started = 0, None, 0.0
for window in windows(path, window_us):
    stacked_histogram(window, window.start_us, window.end_us, bins, out=buffer)
    counted += len(window)
    if baseline is None:
        baseline, started, first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), counted
seconds = time.perf_counter() - started
print(json.dumps({
    "events": counted,
    "after_first_window_mb": baseline / 1024,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "mev_per_s": (counted - first) / seconds / 1e6,
}))
"""


def write_dat(path: Path, events: int) -> None:
    """A DAT file with random pixels and a steady rate, written in pieces."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.write(f"% Version 2\n% Width {WIDTH}\n% Height {HEIGHT}\n".encode() + bytes([0x0C, 8]))
        for first in range(0, events, 1 << 20):
            n = min(1 << 20, events - first)
            words = np.empty((n, 2), "<u4")
            words[:, 0] = np.arange(first, first + n) * 1_000_000 // RATE
            x, y = rng.integers(0, WIDTH, n, np.uint32), rng.integers(0, HEIGHT, n, np.uint32)
            words[:, 1] = x | y << 14 | rng.integers(0, 2, n, np.uint32) << 28
            file.write(words.tobytes())


def main() -> None:
    sizes = [int(argument) for argument in sys.argv[1:]] or [10_000_000, 100_000_000]
    print(f"{'events':>12}{'after 1st window, MB':>22}{'peak, MB':>10}{'Mev/s':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for events in sizes:
            path = Path(folder) / f"{events}.dat"
            write_dat(path, events)
            command = [sys.executable, "-c", STREAM, str(path), str(WINDOW_US), str(BINS)]
            result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            path.unlink()
            print(
                f"{result['events']:>12,}{result['after_first_window_mb']:>22.0f}{result['peak_mb']:>10.0f}"
                f"{result['mev_per_s']:>8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
