"""A training step of SpikeYOLO-p, with the levers switched on one after the other.

    python benchmarks/train_step.py [STEPS]      default 7 steps, of which the median is printed

Forward and backward pass on random counts (seed 0), T 2, batch 8, 6 channels, 304 x 240, two threads, each variant in a
fresh process of its own, one after the other in this run. The first variant is torch as it comes; each following one
adds a lever to the one before. Ratios are to the first.
"""

from __future__ import annotations

import subprocess
import sys

STEP = """
import statistics, sys, time
import torch
import torch.nn.functional as F
from spiketrack.detector.spikeyolo import ModelSettings, SpikeYOLO
from spiketrack.spiking import layers
from spiketrack.spiking.allocation import keep_freed_memory

allocation, depthwise, bfloat16, steps = (int(argument) for argument in sys.argv[1:])
torch.set_num_threads(2)
torch.manual_seed(0)
if allocation:
    assert keep_freed_memory()
if not depthwise:
    layers.depthwise_conv = lambda x, w, b=None: F.conv2d(x, w, b, padding=w.shape[-1] // 2, groups=w.shape[0])
model = SpikeYOLO(ModelSettings(scale="p"), in_channels=6, num_classes=10)
x = torch.randint(0, 3, (2, 8, 6, 240, 304)).float()
seconds = []
for _ in range(steps + 2):
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(bfloat16)):
        predictions, _ = model(x)
    predictions.features.float().square().mean().backward()
    seconds.append(time.perf_counter() - started)
print(statistics.median(seconds[2:]))
"""

VARIANTS = {
    "torch as it comes": (0, 0, 0),
    "+ malloc keeps freed memory": (1, 0, 0),
    "+ depthwise weight gradient of ours": (1, 1, 0),
    "+ bfloat16": (1, 1, 1),
}


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    first = None
    print(f"{'variant':<40}{'s/step':>8}{'ratio':>8}")
    for name, levers in VARIANTS.items():
        command = [sys.executable, "-c", STEP, *(str(lever) for lever in levers), str(steps)]
        seconds = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        first = first or seconds
        print(f"{name:<40}{seconds:>8.3f}{first / seconds:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
