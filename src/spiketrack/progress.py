"""Progress: where a training run stands, as it tells after every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands, after a step. seconds: spent in this process; steps_done of them in it.

    batch: of `batches` in the epoch, from 1. terms: what the loss consists of, by the names of its terms; they and the
    loss are 0 for a window without labels. samples: what the batch was made of. waited: of `seconds`, those in which
    the network waited for samples.
    """

    epoch: int
    epochs: int
    step: int
    total_steps: int
    steps_done: int
    seconds: float
    loss: float
    learning_rate: float
    batch: int
    batches: int
    terms: Mapping[str, float]
    samples: Sequence[str]
    waited: float

    @property
    def seconds_left(self) -> float:
        """At the rate so far in this process."""
        return (self.total_steps - self.step) * self.seconds / self.steps_done
