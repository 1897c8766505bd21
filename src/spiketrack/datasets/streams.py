"""Streams: recordings side by side, cut into windows that follow one another, for training that keeps the state.

Station: as `sequences`, but batch k + 1 goes on where batch k ended. Each of the B streams runs through one recording
after the other; where one begins, `Batch.fresh` says so, and the state of that stream alone is to be reset. All that
is random follows from (seed, round, place) and can be entered at any batch. Source: training without reset, Cordone's
thesis, chapter 5 (facts/models.md, A.6), where all streams are cut to the shortest recording; here nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

import numpy as np

from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.batches import WHOLE, Batch, Share, check_sizes, check_uncounted, make_batch
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.datasets.samples import Sample, SampleMaker
from spiketrack.datasets.sequences import EVERY_SAMPLE, SampleChoice
from spiketrack.errors import SettingsError
from spiketrack.representations import InputSettings

WARM_UP_STEPS = 10  # before the first label, as in evaluation
_ORDER, _PASS, _WINDOW = 1, 2, 3  # what a random generator is for


class Pass(NamedTuple):
    """One way through a recording: `windows` windows from step `first` on, the `number`-th pass of the run."""

    number: int
    sequence: int
    first: int
    windows: int


class StreamSamples:
    """Batches of windows that follow one another in B streams; an epoch is as many as all recordings have, over B.

    uncounted: as of `TrainingSamples`.
    """

    def __init__(
        self,
        sequences: Sequence[LabelledSequence],
        settings: InputSettings,
        augment: AugmentSettings,
        *,
        steps: int,
        batch_size: int,
        seed: int,
        cache_mb: int = 0,
        balance: float = 0.0,
        choice: SampleChoice = EVERY_SAMPLE,
        share: Share = WHOLE,
        uncounted: bool = False,
    ) -> None:
        if balance:
            raise SettingsError("data.balance draws single samples; with training.state carried it must be 0")
        if choice != EVERY_SAMPLE:
            raise SettingsError(
                f"data.{', data.'.join(choice._fields)} choose single samples; with training.state carried all "
                "windows of a recording follow one another, leave them out"
            )
        if augment.mosaic:
            raise SettingsError(
                "data.augment.mosaic joins single samples; with training.state carried every stream is one recording, "
                "it must be 0"
            )
        check_sizes(sequences, settings, augment)
        if uncounted:
            check_uncounted(settings, augment, steps)
        self.settings, self.augment, self.balance, self.choice = settings, augment, balance, choice
        self.steps, self.batch_size, self.seed, self.share = steps, batch_size, seed, share
        self._maker = SampleMaker(sequences, settings, augment, steps=steps, cache_mb=cache_mb, uncounted=uncounted)
        self.sequences = self._maker.sequences
        self._batches = -(-sum(self._span(index, 0)[1] for index in range(len(sequences))) // batch_size)

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches, the same in every epoch."""
        return self._batches

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The share of the batches of an epoch from `start_batch` on; the first goes on where the last epoch ended."""
        first = epoch * self._batches
        for places in islice(self.places(), first + start_batch, first + self._batches):
            yield self._batch(places[self.share.of(len(places))])

    def places(self) -> Iterator[list[tuple[Pass, int]]]:
        """For every batch of the run, without end, the pass and the window in it of every stream."""
        passes = self._passes()
        lanes: list[tuple[Pass, int]] = [(next(passes), 0) for _ in range(self.batch_size)]
        while True:
            yield lanes
            lanes = [(run, window + 1) if window + 1 < run.windows else (next(passes), 0) for run, window in lanes]

    def _passes(self) -> Iterator[Pass]:
        """All recordings in random order, again and again, each with its windows at a random phase."""
        numbers = count()
        for turn in count():
            rng = np.random.default_rng([self.seed, _ORDER, turn])
            for index in rng.permutation(len(self.sequences)).tolist():
                yield Pass(next(numbers), index, *self._span(index, int(rng.integers(self.steps))))

    def _span(self, sequence: int, phase: int) -> tuple[int, int]:
        """First step and number of windows of a pass: from some steps before the first label to the last one."""
        _, labelled, _ = self._maker.grids[sequence]
        earliest = int(labelled[0])
        first = min(earliest, max(0, earliest - WARM_UP_STEPS)) - phase
        return first, -(-(int(labelled[-1]) + 1 - first) // self.steps)

    def _batch(self, places: list[tuple[Pass, int]]) -> Batch:
        samples = [Sample(run.sequence, run.first + window * self.steps) for run, window in places]
        encoded = []
        for sample, (run, window) in zip(samples, places, strict=True):
            events, labels = self._maker.read(sample)
            sequence = self.sequences[run.sequence]
            # the same view in all windows of a pass
            view_rng = np.random.default_rng([self.seed, _PASS, run.number])
            view = self._maker.view((sequence.width, sequence.height), sequence.labels, view_rng)
            rng = np.random.default_rng([self.seed, _WINDOW, run.number, window])
            encoded.append(self._maker.encode(events, labels, view, rng))
        names = [f"{self.sequences[sample.sequence].name} step {sample.first}" for sample in samples]
        return make_batch(encoded, [run.sequence for run, _ in places], names, [window == 0 for _, window in places])
