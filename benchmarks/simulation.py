"""How long the traffic simulator takes for a second of scene, and what for; and its memory for 2 and for 8 seconds.

python benchmarks/simulation.py [--preset evk4] [--seconds 3] [--seeds 0 1 2 3 4 5]

Each seed is a scene of its own by day, dusk or night before a static camera. The first 0.5 s is not counted (numba
compiles or loads its kernels, the street is painted). Shares are wall time within the named step; the sensor uses two
threads beside the one that draws the next frame, so that shares may add up to more than 1. On a machine that others
use too, the seconds of CPU time tell more than the wall's.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import Counter
from typing import Any

from spiketrack.simulation.sensor import Sensor
from spiketrack.traffic import scene
from spiketrack.traffic.annotating import Annotator
from spiketrack.traffic.casting import Casting
from spiketrack.traffic.scene import TrafficSettings, simulate_traffic

DAYTIMES = ("day", "dusk", "night")
STEPS = {
    "actors": (Casting, "place"),
    "background": (scene._Stage, "_renew"),
    "shadows and pools": (scene._Stage, "_draw_lights"),
    "bodies": (scene._Stage, "_draw_bodies"),
    "annotations": (Annotator, "rows"),
    "pixels and read-out": (Sensor, "expose"),
}


def watch(spent: Counter[str]) -> None:
    """Count the wall time of each step into `spent`."""
    for name, (owner, method) in STEPS.items():
        inner = getattr(owner, method)

        def timed(*args: Any, _inner: Any = inner, _name: str = name, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return _inner(*args, **options)
            finally:
                spent[_name] += time.perf_counter() - begin

        setattr(owner, method, timed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="evk4")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    arguments = parser.parse_args()
    spent: Counter[str] = Counter()
    watch(spent)
    for seed in arguments.seeds:
        settings = TrafficSettings(preset=arguments.preset, daytime=DAYTIMES[seed % 3], rain=False)
        chunks = simulate_traffic(settings, round((arguments.seconds + 0.5) * 1e6), (seed,))
        for _ in range(5):
            next(chunks)
        spent.clear()
        begin, busy = time.perf_counter(), time.process_time()
        events = sum(len(chunk.events) for chunk in chunks)
        wall, busy = time.perf_counter() - begin, time.process_time() - busy
        shares = {name: round(spent[name] / wall, 2) for name in STEPS}
        print(
            json.dumps(
                {
                    "seed": seed,
                    "daytime": settings.daytime,
                    "mev_s": round(events / arguments.seconds * 1e-6, 2),
                    "seconds_per_second": round(wall / arguments.seconds, 2),
                    "cpu_per_second": round(busy / arguments.seconds, 2),
                    **shares,
                    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
