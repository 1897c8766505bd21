"""A training step of SpikeYOLO, part by part: ours beside the blocks written down plainly (`plain_spikeyolo.py`).

    python benchmarks/step_parts.py [--scale n] [--size 640x360] [--steps 4] [--batch 4] [--repeats 2] [--only NAME ...]

Each contender runs in a fresh process of its own, one after the other, on one thread: one step that does not count,
then REPEATS that do. Every step trains on the same samples (seed 0): events of 1 Mev/s on a sensor of twice the input's
sides, 30 boxes at each step of each sample, all steps labelled. CPU time; of each contender the step that took least,
all of its parts from that step. Memory: the peak of the process over what it held before the first step.

    data      events to counts: three bins of 100 ms a step, two polarities, 2 x 2 pixels in one, at most 10
    forward   the network, all time steps
    targets   boxes of the locations that count, and which of them are to predict which label
    loss      the terms
    backward  of all
    update    norm of the gradients, AdamW, moving average of the weights

plain: a mask over all events for each bin, the plain network, targets and loss that compare every label with every
location (`dense_targets`, `dense_loss` of targets.py). ours: what `spiketrack train` runs. bfloat16: either of them
with training.precision bfloat16, as all experiments have it. All begin with the same weights; losses are printed. They
differ as rounding does: a current beside the border of two integers makes another spike.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import plain_spikeyolo
import targets
import torch
from torch import Tensor, nn

from spiketrack.detector import loss as loss_module
from spiketrack.detector.loss import DetectionLoss, LossSettings, LossTerms
from spiketrack.detector.spikeyolo import ModelSettings, Predictions, SpikeYOLO
from spiketrack.detector.targets import LabelBatch
from spiketrack.events import Window
from spiketrack.optimizing import OptimizerSettings, make_optimizer, update_average
from spiketrack.representations import InputSettings
from spiketrack.spiking.allocation import keep_freed_memory

PARTS = ("data", "forward", "targets", "loss", "backward", "update")
CONTENDERS = ("plain", "ours", "plain, bfloat16", "ours, bfloat16")
CLASSES, LABELS, RATE = 8, 30, 1e6
SLICE_US, WINDOW_US, BINS, LIMIT = 33_333, 100_000, 3, 10
BAR = 2


class Clock:
    """CPU seconds of the parts of a step; where a part calls another, the inner one alone counts."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._part, self._since = "data", time.process_time()

    def enter(self, part: str) -> str:
        """The part before ends here; it is returned."""
        now = time.process_time()
        self.seconds[self._part] += now - self._since
        before, self._part, self._since = self._part, part, now
        return before

    def within(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            before = self.enter(part)
            result = call(*arguments, **named)
            self.enter(before)
            return result

        return timed


def samples(batch: int, steps: int, width: int, height: int) -> list[Window]:
    rng = np.random.default_rng(0)
    end = (steps - 1) * SLICE_US + WINDOW_US
    n = int(RATE * end * 1e-6)

    def sides(side: int) -> np.ndarray:
        return rng.integers(0, 2 * side, n).astype(np.uint16)

    return [
        Window(
            np.sort(rng.integers(0, end, n)),
            sides(width),
            sides(height),
            rng.integers(0, 2, n).astype(np.uint8),
            2 * width,
            2 * height,
            0,
            end,
        )
        for _ in range(batch)
    ]


def labels_of(images: int, width: int, height: int) -> LabelBatch:
    generator = torch.Generator().manual_seed(0)
    size = 8 + torch.rand(images, LABELS, 2, generator=generator) * 100
    corner = torch.rand(images, LABELS, 2, generator=generator) * (torch.tensor([width, height]) - size)
    classes = torch.randint(CLASSES, (images, LABELS), generator=generator)
    return LabelBatch(torch.cat([corner, corner + size], -1), classes, torch.ones(images, LABELS, dtype=torch.bool))


def plain_planes(window: Window, steps: int) -> np.ndarray:
    """(T, C, H, W) counts: bin by bin, polarity by polarity, a mask and a sum."""
    planes = []
    for step in range(steps):
        end = window.end_us - (steps - 1 - step) * SLICE_US
        start = end - WINDOW_US
        for b in range(BINS):
            for polarity in (0, 1):
                mask = ((window.t - start) * BINS // WINDOW_US == b) & (window.p == polarity)
                plane = np.zeros((window.height // 2, window.width // 2), np.int64)
                np.add.at(plane, (window.y[mask] // 2, window.x[mask] // 2), 1)
                planes.append(np.minimum(plane, LIMIT).astype(np.uint8))
    return np.stack(planes).reshape(steps, 2 * BINS, window.height // 2, window.width // 2)


class Plain:
    """The plain network, counts and loss."""

    def __init__(self, arguments: argparse.Namespace, clock: Clock, precision: torch.dtype) -> None:
        self.precision = precision
        settings = ModelSettings(scale=arguments.scale)
        self.steps, self.clock = arguments.steps, clock
        weights = SpikeYOLO(settings, 2 * BINS, CLASSES).state_dict()
        self.model: nn.Module = plain_spikeyolo.PlainSpikeYOLO(settings, 2 * BINS, CLASSES)
        self.model.load_state_dict(weights)
        targets.dense_targets = clock.within("targets", targets.dense_targets)

    def counts(self, windows: list[Window]) -> Tensor:
        return torch.from_numpy(np.stack([plain_planes(window, self.steps) for window in windows], axis=1))

    def forward(self, events: Tensor) -> Predictions:
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            return self.model(events.float())

    def loss(self, predictions: Predictions, labels: LabelBatch, labelled: Tensor) -> LossTerms:
        return targets.dense_loss(LossSettings(), predictions, labels, labelled)


class Ours:
    """What a trainer runs."""

    def __init__(self, arguments: argparse.Namespace, clock: Clock, precision: torch.dtype) -> None:
        self.steps, self.precision = arguments.steps, precision
        self.input = InputSettings(
            slice_us=SLICE_US, window_us=WINDOW_US, bins=BINS, limit=LIMIT, shortest_side=min(arguments.size)
        )
        self.model: nn.Module = SpikeYOLO(ModelSettings(scale=arguments.scale), 2 * BINS, CLASSES)
        self.loss = DetectionLoss(LossSettings())
        self.loss.assign = clock.within("targets", self.loss.assign)
        loss_module.boxes_inside = clock.within("targets", loss_module.boxes_inside)
        keep_freed_memory()

    def counts(self, windows: list[Window]) -> Tensor:
        return torch.from_numpy(
            np.stack([self.input.encode(window, window.end_us, self.steps) for window in windows], axis=1)
        )

    def forward(self, events: Tensor) -> Predictions:
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            return self.model(events.float())[0]


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps of one contender: seconds by part, losses, peak memory."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clock, (width, height) = Clock(), arguments.size
    windows = samples(arguments.batch, arguments.steps, width, height)
    labels = labels_of(arguments.steps * arguments.batch, width, height)
    labelled = torch.ones(arguments.steps, arguments.batch, dtype=torch.bool)
    precision = torch.bfloat16 if "bfloat16" in name else torch.float32
    contender = (Plain if name.startswith("plain") else Ours)(arguments, clock, precision)
    model = contender.model.train()
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerSettings(learning_rate=1e-3))
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, losses = [], []
    for step in range(arguments.repeats + 1):
        clock.enter("data")
        clock.seconds = dict.fromkeys(PARTS, 0.0)
        events = contender.counts(windows)
        clock.enter("forward")
        predictions = contender.forward(events)
        clock.enter("loss")
        total = contender.loss(predictions, labels, labelled).total
        clock.enter("backward")
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        clock.enter("update")
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        update_average(average, model, 0.995, step)
        clock.enter("data")
        rows.append(clock.seconds)
        losses.append(float(total.detach()))
        del predictions, total
    best = min(rows[1:], key=lambda row: sum(row.values()))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) / 1024
    return {"parts": best, "losses": losses, "peak_mb": peak, "events": int(events.long().sum())}


def report(found: dict[str, dict[str, Any]]) -> None:
    names = list(found)
    print(f"{'CPU seconds':<14}" + "".join(f"{name:>18}" for name in names))
    for part in PARTS:
        print(f"{part:<14}" + "".join(f"{found[name]['parts'][part]:>18.3f}" for name in names))
    totals = {name: sum(found[name]["parts"].values()) for name in names}
    print(f"{'step':<14}" + "".join(f"{totals[name]:>18.3f}" for name in names))
    if "plain" in totals:
        ratios = "".join(f"{totals['plain'] / totals[name]:>16.2f} x" for name in names)
        print(f"{'faster':<14}{ratios}   (bar {BAR} x)")
    print(f"{'peak, MB':<14}" + "".join(f"{found[name]['peak_mb']:>18.0f}" for name in names))
    print(f"{'counts':<14}" + "".join(f"{found[name]['events']:>18}" for name in names))
    for name in names:
        print(f"losses of {name}: {', '.join(f'{value:.4f}' for value in found[name]['losses'])}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", default="n")
    parser.add_argument("--size", default="640x360", type=lambda size: tuple(map(int, size.split("x"))))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--one", help="used by this script: measure this contender here, print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments)))
        return
    found = {}
    for name in arguments.only:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        found[name] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)  # should memory not suffice for the next
    report(found)


if __name__ == "__main__":
    main()
