"""How far a network of few bits is from the one it was made of: only rounded, and trained with its integers.

    python benchmarks/quantised_training.py RECORDING [RECORDING ...] --bits 8 4 3 2 --steps 30

The shipped network teaches its rounded copy (deploy.distill) on the part of each recording with most events, in windows
of four time steps; the distance is the distillation loss on the last third of each recording, which training has not
seen, from a fresh state. No labels are read.
"""

import argparse
import time

import numpy as np
import torch

from spiketrack.compression import first_planes
from spiketrack.deploy.distill import DistillationSettings, distillation_loss
from spiketrack.deploy.exact import largest_count
from spiketrack.deploy.integers import in_integers
from spiketrack.pipeline import Detector
from spiketrack.recordings import open_recording

SIDE, WINDOW, BATCH = 128, 4, 4


def busiest(planes):
    """The part of planes (T, 1, C, H, W) of SIDE x SIDE with most events, at multiples of 32."""
    seen = planes.sum((0, 1, 2))
    places = [(y, x) for y in range(0, seen.shape[0] - SIDE, 32) for x in range(0, seen.shape[1] - SIDE, 32)]
    y, x = max(places, key=lambda place: seen[place[0] : place[0] + SIDE, place[1] : place[1] + SIDE].sum())
    return torch.from_numpy(np.ascontiguousarray(planes[..., y : y + SIDE, x : x + SIDE]))


def distance(learner, teacher, parts):
    """The mean distillation loss over parts (T, 1, C, H, W)."""
    with torch.no_grad():
        pairs = [(learner(x)[0], teacher(x)[0]) for x in parts]
        return float(np.mean([distillation_loss(*pair, DistillationSettings()) for pair in pairs]))


def train(learner, teacher, windows, steps, rate):
    """Adam for so many steps, the rate falling to 0; the windows (T, 1, C, H, W) are drawn from a fixed seed."""
    optimizer = torch.optim.Adam(learner.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    learner.train()
    for _ in range(steps):
        chosen = torch.randperm(len(windows), generator=generator)[:BATCH].tolist()
        x = torch.cat([windows[i] for i in chosen], dim=1)
        with torch.no_grad():
            wanted = teacher(x)[0]
        optimizer.zero_grad()
        distillation_loss(learner(x)[0], wanted, DistillationSettings()).backward()
        optimizer.step()
        schedule.step()
    learner.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--bits", nargs="+", type=int, default=[8, 4, 3, 2])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=5e-4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    detector = Detector.shipped()
    teacher = detector.fused().model
    recordings = [busiest(first_planes(detector, open_recording(path), 36)) for path in arguments.recordings]
    known, held_out = [x[:24] for x in recordings], [x[24:] for x in recordings]
    windows = [part for x in known for part in x.split(WINDOW)]
    print("bits  rounded  trained  CPU s")
    for bits in arguments.bits:
        learner = in_integers(detector.model, bits, largest_count(detector.input), known)
        rounded, began = distance(learner, teacher, held_out), time.process_time()
        train(learner, teacher, windows, arguments.steps, arguments.rate)
        spent = time.process_time() - began
        print(f"{bits:4}  {rounded:7.3f}  {distance(learner, teacher, held_out):7.3f}  {spent:5.1f}", flush=True)


if __name__ == "__main__":
    main()
