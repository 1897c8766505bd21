"""A network before other cameras: how much is found where half the events, or one polarity, or the quiet are missing?

    python benchmarks/robustness.py EXPERIMENT [--weights FILE] [--set data.root=DIR] [--split test] [--scenes 8]

Each recording is changed on its way to the network, the labels stay: events thinned, ON or OFF events thinned (the
thresholds of real sensors differ by their biases), polarities swapped, noise added. mAP50 and its parts by class for
each change. Without --weights the shipped network is measured. Seed 0; the changes follow from the scene's number.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from spiketrack.datasets.etram import LabelledSequence
from spiketrack.evaluation import evaluate
from spiketrack.events import Events
from spiketrack.experiment import load_experiment, split_of
from spiketrack.pipeline import Detector
from spiketrack.recordings import Recording

Change = Callable[[Events, np.random.Generator], Events]


def kept(events: Events, keep: np.ndarray) -> Events:
    return Events(events.t[keep], events.x[keep], events.y[keep], events.p[keep], events.width, events.height)


def thinned(share: float, polarities: tuple[int, ...] = (0, 1)) -> Change:
    """Without that share of the events of these polarities."""
    return lambda events, rng: kept(events, ~np.isin(events.p, polarities) | (rng.random(len(events)) >= share))


def swapped(events: Events, rng: np.random.Generator) -> Events:
    return replace(events, p=events.p ^ np.uint8(1))


def noisy(rate_hz: float) -> Change:
    """With so many more events a pixel and second, two thirds of them OFF as in recordings of nothing."""

    def change(events: Events, rng: np.random.Generator) -> Events:
        span_us = int(events.t[-1] - events.t[0]) + 1
        n = rng.poisson(rate_hz * events.width * events.height * span_us * 1e-6)
        t = np.concatenate([events.t, rng.integers(events.t[0], events.t[0] + span_us, n)])
        x = np.concatenate([events.x, rng.integers(0, events.width, n, np.uint16)])
        y = np.concatenate([events.y, rng.integers(0, events.height, n, np.uint16)])
        p = np.concatenate([events.p, (rng.random(n) < 1 / 3).astype(np.uint8)])
        order = np.argsort(t, kind="stable")
        return Events(t[order], x[order], y[order], p[order], events.width, events.height)

    return change


CHANGES: dict[str, Change] = {
    "as recorded": lambda events, rng: events,
    "70 % of the events missing": thinned(0.7),
    "80 % of the ON events missing": thinned(0.8, (1,)),
    "80 % of the OFF events missing": thinned(0.8, (0,)),
    "ON and OFF swapped": swapped,
    "noise of 2 Hz a pixel": noisy(2.0),
}


class ChangedRecording(Recording):
    """The recording of another sensor."""

    def __init__(self, recording: Recording, change: Change, seed: int) -> None:
        super().__init__(recording.path, recording.format, recording.width, recording.height)
        self._recording, self._change, self._seed = recording, change, seed

    def chunks_with_triggers(self, start_us: int | None = None) -> Iterator[tuple[Events, np.ndarray]]:
        rng = np.random.default_rng(self._seed)
        for events, triggers in self._recording.chunks_with_triggers(start_us):
            yield (self._change(events, rng) if len(events) else events), triggers


@dataclass(frozen=True, eq=False)
class ChangedSequence(LabelledSequence):
    """A sequence that opens changed."""

    change: Change = CHANGES["as recorded"]
    seed: int = 0

    def open(self) -> Recording:
        return ChangedRecording(super().open(), self.change, self.seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--split", default="test")
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--names", nargs="*", help="these sequences only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    experiment = load_experiment(options.experiment, options.overrides)
    names, sequences = split_of(experiment.data, options.split)
    sequences = [s for s in sequences if not options.names or s.name in options.names][: options.scenes]
    detector = (Detector.load(options.weights) if options.weights else Detector.shipped()).fused()
    print(f"| | mAP50 | {' | '.join(names)} | HOTA |\n|---|{'---|' * (len(names) + 2)}")
    for name, change in CHANGES.items():
        changed = [
            ChangedSequence(**vars(sequence), change=change, seed=seed) for seed, sequence in enumerate(sequences)
        ]
        result = evaluate(detector, changed, experiment.evaluation, experiment.tracking)
        classes = [result.detection.per_class[name] for name in names]
        values = [result.detection.ap50, *(c and c.ap50 for c in classes), result.tracking.class_average.hota]
        print(f"| {name} | {' | '.join('-' if v is None else f'{v:.3f}' for v in values)} |", flush=True)


if __name__ == "__main__":
    main()
