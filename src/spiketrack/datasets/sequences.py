"""Sequences: labelled recordings become batches of single samples for the network.

Station: between samples and training. A training sample is a run of consecutive time steps of one sequence, every step
with the labels of its end; a step without labels says nothing (it is no proof of an empty scene) and costs nothing,
unless the sequence knows it to be empty: then it is background. The order of samples and every augmentation follow
from (seed, epoch, place), so that a run can be resumed anywhere. Recordings as a whole are in `streams`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.boxes import Boxes
from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.batches import WHOLE, Batch, Share, check_sizes, check_uncounted, make_batch, without_samples
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.datasets.samples import Sample, SampleMaker
from spiketrack.filters import NO_FILTERS, FilterSettings
from spiketrack.representations import InputSettings


class DataSettings(BaseModel):
    """Where the data are and which folders serve for what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path = Field(description="data set in eTraM layout")
    train_split: str = Field("train", description="folder (or prefix of folders) to train on")
    val_split: str = Field("val", description="folder to choose the best checkpoint on")
    test_split: str = Field("test", description="folder that `evaluate` reports on")
    labels_dir: Path | None = Field(
        None, description="folder to look for labels in first; null: beside the recordings, or eTraM's annotations"
    )
    groups: dict[str, tuple[str, ...]] | None = Field(
        None, description="classes to learn, each with those of classes.txt that it stands for; null: as they are"
    )
    filters: FilterSettings = Field(NO_FILTERS, description="what to take out of every recording first")
    cache_mb: int = Field(
        2000, ge=0, description="memory for events of train recordings, kept once read; 0 reads files each time"
    )
    cache_dir: Path | None = Field(
        None,
        description="folder in which training keeps the events of train and validation recordings, decoded and "
        "filtered, 8 bytes an event, for all runs; takes the place of cache_mb; null: none",
    )
    augment: AugmentSettings = Field(AugmentSettings(), description="augmentation of training samples")
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="samples and crops with a class of n labels are drawn n^-balance as often: "
        "0 as they come, 1 until every class is seen alike",
    )
    overlap: float = Field(0.0, ge=0, lt=1, description="share of a sample that the next one of a recording repeats")
    samples_per_recording: int | None = Field(
        None, ge=1, description="most samples of a recording in an epoch, drawn anew for each; null: all"
    )
    label_reach_us: int = Field(
        0, ge=0, description="in training, labels speak for steps without any that end at most so far from their time"
    )

    @property
    def cache_bytes(self) -> int:
        """Memory that events of train recordings may take: those of cache_dir stay on the disk."""
        return 0 if self.cache_dir is not None else self.cache_mb * 1_000_000


class SampleChoice(NamedTuple):
    """Which samples an epoch takes of a recording; the fields are those of DataSettings."""

    overlap: float = 0.0
    samples_per_recording: int | None = None
    label_reach_us: int = 0

    @classmethod
    def of(cls, data: DataSettings) -> SampleChoice:
        """What the settings of a data set say."""
        return cls(*(getattr(data, name) for name in cls._fields))


EVERY_SAMPLE = SampleChoice()


class TrainingSamples:
    """Batches of training samples, shuffled anew for each epoch, reproducible from the seed.

    uncounted: events of batches are yet to be counted (`Batch.planes`).
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
        check_sizes(sequences, settings, augment)
        if uncounted:
            check_uncounted(settings, augment, steps)
        self.settings, self.augment, self.balance, self.choice = settings, augment, balance, choice
        self.share = share
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self._weights = class_weights([sequence.labels for sequence in sequences], balance)
        drawn_by = self._weights if balance else None
        self._maker = SampleMaker(
            sequences,
            settings,
            augment,
            steps=steps,
            cache_mb=cache_mb,
            class_weights=drawn_by,
            label_reach_us=choice.label_reach_us,
            uncounted=uncounted,
        )
        self.sequences = self._maker.sequences

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The share of the batches of an epoch from `start_batch` on; the last batch may be smaller."""
        samples = self.samples(epoch)
        for first in range(start_batch * self.batch_size, len(samples), self.batch_size):
            chosen = samples[first : first + self.batch_size]
            # place 0 is the order of the samples
            rngs = [np.random.default_rng([self.seed, epoch, first + i + 1]) for i in range(len(chosen))]
            own = self.share.of(len(chosen))
            if own.start == own.stop:
                yield without_samples(self._batch(chosen[:1], rngs[:1], samples))
            else:
                yield self._batch(chosen[own], rngs[own], samples)

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches of an epoch; it may differ by a few between epochs, as the windows' phase is random."""
        return -(-len(self.samples(epoch)) // self.batch_size)

    def samples(self, epoch: int) -> list[Sample]:
        """Consecutive windows with a random phase per sequence that hold at least one labelled step, shuffled.

        With overlap they begin closer to each other. With balance some come several times and some not at all; their
        number is the same.
        """
        rng = np.random.default_rng([self.seed, epoch])
        stride = max(1, round(self.steps * (1 - self.choice.overlap)))
        most = self.choice.samples_per_recording
        samples = []
        for index, (_, labelled, _) in enumerate(self._maker.grids):
            phase = int(rng.integers(self.steps))
            start = (int(labelled[0]) - phase) // self.steps * self.steps + phase
            # window w covers [start + w * stride, + steps): the last that begins in time, and those it overlaps with
            last = (labelled - start) // stride
            windows = last[:, None] - np.arange(-(-self.steps // stride))
            holds = start + windows * stride + self.steps > labelled[:, None]
            windows = np.unique(windows[holds])
            if most is not None and len(windows) > most:
                windows = np.sort(rng.choice(windows, most, replace=False))
            samples += [Sample(index, start + int(window) * stride) for window in windows]
        if self.balance:
            worth = np.array([self._worth(sample) for sample in samples])
            turns = np.floor(np.cumsum(worth / worth.sum() * len(samples)) + rng.random())  # systematic resampling
            times = np.diff(turns, prepend=0).astype(np.int64)
            samples = [sample for sample, n in zip(samples, times, strict=True) for _ in range(n)]
        return [samples[i] for i in rng.permutation(len(samples))]

    def _worth(self, sample: Sample) -> float:
        """How often a sample is drawn, relative to others: as its rarest class demands."""
        sequence, (_, labelled, times) = self.sequences[sample.sequence], self._maker.grids[sample.sequence]
        first, last = np.searchsorted(labelled, (sample.first, sample.first + self.steps))
        labels = sequence.labels.between(int(times[first]), int(times[last - 1]) + 1)
        return float(self._weights[labels.class_id].max(initial=self._weights.min()))

    def _batch(self, samples: list[Sample], rngs: list[np.random.Generator], others: list[Sample]) -> Batch:
        """others: of the epoch, for mosaics."""
        encoded = [self._maker.make(sample, rng, others) for sample, rng in zip(samples, rngs, strict=True)]
        names = [f"{self.sequences[sample.sequence].name} step {sample.first}" for sample in samples]
        return make_batch(encoded, [sample.sequence for sample in samples], names, [True] * len(samples))


def class_weights(labels: Sequence[Boxes], balance: float) -> NDArray[np.float64]:
    """(K,) n^-balance of each class, n its labels; a class without any counts one. K: the largest class id + 1."""
    counts = np.bincount(np.concatenate([np.zeros(0, np.int32), *(boxes.class_id for boxes in labels)]), minlength=1)
    return np.maximum(counts, 1.0) ** -balance
