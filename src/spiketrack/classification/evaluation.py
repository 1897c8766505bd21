"""Evaluation of a classifier: its answers on samples, and what the answers are worth.

Station: in come a classifier and samples, out go probabilities per sample and scores (metrics/classification.py).
Samples come in a fixed random order: where membranes go on from sample to sample, samples sorted by class would tell a
network what comes next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spiketrack.classification.classifier import Classifier, continued, probabilities
from spiketrack.datasets.classified import Classified, SampleBatches, SampleEvents
from spiketrack.spiking.lif import LIF

ORDER_SEED = 0


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier said of samples, in the order of `samples`.

    class_ids: (N,) int64, the truth. probabilities: (N, K) float32. loss: mean cross-entropy. spiking: share of
    neuron-steps with a spike. repairs: events that were dropped or moved, by kind; empty: samples without events.
    """

    samples: list[Classified]
    class_ids: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    loss: float
    spiking: float
    repairs: Counter[str]
    empty: int

    @property
    def accuracy(self) -> float:
        """Share of the samples whose likeliest class is theirs."""
        return float((self.probabilities.argmax(1) == self.class_ids).mean())


def classify(
    classifier: Classifier,
    found: Sequence[Classified],
    events: SampleEvents,
    batch_size: int = 32,
    on_batch: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Answers:
    """Run a classifier over samples; membranes go on or start anew as in its training. At least one sample."""
    batches = SampleBatches(found, classifier.input, None, batch_size=batch_size, seed=ORDER_SEED, events=events)
    order = batches.order(0)
    rows: list[Tensor] = []
    model, state = classifier.model, None
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(), _Spikes(model) as spikes:
            for batch in batches.epoch(0):
                carried = continued(state, len(batch.names)) if classifier.carry else None
                logits, state = classifier.logits(batch.events, carried)
                rows.append(probabilities(logits).cpu())
                on_batch(min(len(rows) * batch_size, len(found)), len(found), "")
    finally:
        model.train(training)
    answers = np.empty((len(found), len(classifier.class_names)), np.float32)
    answers[order] = torch.cat(rows).numpy()
    class_ids = np.array([sample.class_id for sample in found], np.int64)
    likelihood = answers[np.arange(len(found)), class_ids].astype(np.float64)
    loss = float(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)).mean())
    return Answers(list(found), class_ids, answers, loss, spikes.share, Counter(events.repairs), events.empty)


class _Spikes:
    """Counts, while entered, the spikes and the neuron-steps of every layer of a network."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, LIF)]
        self._spikes, self._steps = 0.0, 0

    def __enter__(self) -> _Spikes:
        self._hooks = [layer.register_forward_hook(self._count) for layer in self._layers]
        return self

    def _count(self, module: nn.Module, args: tuple, spikes: Tensor) -> None:
        self._spikes += float(spikes.sum())
        self._steps += spikes.numel()

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    @property
    def share(self) -> float:
        return self._spikes / max(self._steps, 1)
