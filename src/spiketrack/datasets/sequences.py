"""Sequences: labelled recordings become batches for the network.

Station: the border between NumPy and torch before the network. A training sample is a run of consecutive time steps
of one sequence, every step with the labels of its end; a step without labels says nothing (it is no proof of an empty
scene) and costs nothing, unless the sequence knows it to be empty: then it is background. The order of samples and
every augmentation follow from (seed, epoch, place), so that a run can be resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spiketrack.boxes import Boxes
from spiketrack.datasets.augment import (
    AugmentSettings,
    crop_anywhere,
    crop_around,
    disturb,
    draw,
    move_boxes,
    move_window,
)
from spiketrack.datasets.cache import EventCache
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.detector.spikeyolo import STRIDES
from spiketrack.detector.targets import LabelBatch
from spiketrack.errors import SettingsError
from spiketrack.events import Window
from spiketrack.filters import NO_FILTERS, FilterSettings
from spiketrack.recordings import Recording
from spiketrack.representations import InputSettings


class DataSettings(BaseModel):
    """Where the data are and which folders serve for what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    root: Path = Field(description="data set in eTraM layout")
    train_split: str = Field("train", description="folder (or prefix of folders) to train on")
    val_split: str = Field("val", description="folder to choose the best checkpoint on")
    test_split: str = Field("test", description="folder that `evaluate` reports on")
    filters: FilterSettings = Field(NO_FILTERS, description="what to take out of every recording first")
    cache_mb: int = Field(
        2000, ge=0, description="memory for events of train recordings, kept once read; 0 reads files each time"
    )
    augment: AugmentSettings = Field(AugmentSettings(), description="augmentation of training samples")
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="samples and crops with a class of n labels are drawn n^-balance as often: "
        "0 as they come, 1 until every class is seen alike",
    )


class Batch(NamedTuple):
    """B samples of T time steps.

    events: (T, B, C, H, W) uint8, int8 or float32. labelled: (T, B) bool. labels: those of the labelled steps,
    time-major, in input pixels. names: where each sample comes from, for messages.
    """

    events: Tensor
    labelled: Tensor
    labels: LabelBatch
    names: list[str]


class Sample(NamedTuple):
    """One training sample: `steps` time steps of sequence `sequence` from step `first` on."""

    sequence: int
    first: int


class TrainingSamples:
    """Batches of training samples, shuffled anew for each epoch, reproducible from the seed."""

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
    ) -> None:
        sizes = {settings.size(sequence.height, sequence.width) for sequence in sequences}
        if len(sizes) > 1 and not augment.crop:
            raise SettingsError(
                f"the sequences come from sensors of different size, inputs would be {sorted(sizes)} "
                "(height, width); set input.height and input.width, or data.augment.crop"
            )
        if augment.crop:
            _check_crop(augment.crop, settings, sequences)
        elif min(min(size) for size in sizes) < STRIDES[-1]:
            raise SettingsError(
                f"inputs would be {sorted(sizes)} (height, width); the network's cells need {STRIDES[-1]} pixels a side"
            )
        self.sequences, self.settings, self.augment = list(sequences), settings, augment
        self.steps, self.batch_size, self.seed = steps, batch_size, seed
        self._grids = [sequence.steps(settings.slice_us) for sequence in sequences]
        self.balance = balance
        self._weights = class_weights([sequence.labels for sequence in sequences], balance)
        self._recordings: dict[int, Recording] = {}
        self._cache = EventCache(cache_mb * 1_000_000)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `start_batch` on; the last one may be smaller."""
        samples = self.samples(epoch)
        for first in range(start_batch * self.batch_size, len(samples), self.batch_size):
            chosen = samples[first : first + self.batch_size]
            # place 0 is the order of the samples
            rngs = [np.random.default_rng([self.seed, epoch, first + i + 1]) for i in range(len(chosen))]
            yield self._batch(chosen, rngs)

    def batches_per_epoch(self, epoch: int) -> int:
        """Number of batches of an epoch; it may differ by a few between epochs, as the windows' phase is random."""
        return -(-len(self.samples(epoch)) // self.batch_size)

    def samples(self, epoch: int) -> list[Sample]:
        """Consecutive windows with a random phase per sequence that hold at least one labelled step, shuffled.

        With balance some come several times and some not at all; their number is the same.
        """
        rng = np.random.default_rng([self.seed, epoch])
        samples = []
        for index, (_, labelled, _) in enumerate(self._grids):
            phase = int(rng.integers(self.steps))
            start = (int(labelled[0]) - phase) // self.steps * self.steps + phase
            blocks = np.unique((labelled - start) // self.steps)
            samples += [Sample(index, start + int(block) * self.steps) for block in blocks]
        if self.balance:
            worth = np.array([self._worth(sample) for sample in samples])
            turns = np.floor(np.cumsum(worth / worth.sum() * len(samples)) + rng.random())  # systematic resampling
            times = np.diff(turns, prepend=0).astype(np.int64)
            samples = [sample for sample, n in zip(samples, times, strict=True) for _ in range(n)]
        return [samples[i] for i in rng.permutation(len(samples))]

    def _worth(self, sample: Sample) -> float:
        """How often a sample is drawn, relative to others: as its rarest class demands."""
        sequence, (_, labelled, times) = self.sequences[sample.sequence], self._grids[sample.sequence]
        first, last = np.searchsorted(labelled, (sample.first, sample.first + self.steps))
        labels = sequence.labels.between(int(times[first]), int(times[last - 1]) + 1)
        return float(self._weights[labels.class_id].max(initial=self._weights.min()))

    def _batch(self, samples: list[Sample], rngs: list[np.random.Generator]) -> Batch:
        events, labelled, labels = [], [], []
        for sample, rng in zip(samples, rngs, strict=True):
            planes, boxes = self._encode(*self._read(sample), rng)
            events.append(planes)
            labelled.append([b is not None for b in boxes])
            labels.append(boxes)
        in_order = [row[t] for t in range(self.steps) for row in labels]  # time-major, as labelled.T is
        return Batch(
            torch.from_numpy(np.stack(events, axis=1)),
            torch.tensor(labelled).T.contiguous(),
            pad_labels([boxes for boxes in in_order if boxes is not None]),
            [f"{self.sequences[sample.sequence].name} step {sample.first}" for sample in samples],
        )

    def _encode(
        self, window: Window, labels: list[Boxes | None], rng: np.random.Generator
    ) -> tuple[NDArray, list[Boxes | None]]:
        """Augmented events as (T, C, H, W), and the labels of each step in input pixels."""
        augment, settings, sensor = self.augment, self.settings, (window.width, window.height)
        affine, drop = draw(augment, *sensor, rng)
        if augment.crop:
            down = settings.binning(window.height, window.width)
            up = settings.enlargement(window.height, window.width)
            cut = (augment.crop[0] * down // up, augment.crop[1] * down // up)  # in sensor pixels
            # drawn only where it can happen, so that samples without it are those of earlier versions
            if augment.crop_on_label < 1 and rng.random() >= augment.crop_on_label:
                affine = crop_anywhere(affine, cut, *sensor, rng)
            else:
                all_labels = Boxes.concatenate([boxes for boxes in labels if boxes is not None])
                weights = self._weights if self.balance else None
                affine = crop_around(affine, all_labels, cut, *sensor, rng, weights)
            settings, sensor = settings.resized(*augment.crop), cut
        window = disturb(move_window(window, affine, sensor, drop, rng), augment, rng)
        x0, y0, *seen = settings.seen_area(window.height, window.width)  # (x0, y0, width, height)
        height, width = settings.size(window.height, window.width)
        scale = np.array([width / seen[0], height / seen[1]] * 2, np.float32)
        affine = affine._replace(shift_x=affine.shift_x - x0, shift_y=affine.shift_y - y0)
        moved = [
            None if boxes is None else _scaled(move_boxes(boxes, affine, *seen, augment.least_visible), scale)
            for boxes in labels
        ]
        return settings.encode(window, window.end_us, self.steps), moved

    def _read(self, sample: Sample) -> tuple[Window, list[Boxes | None]]:
        """The events of a sample and the labels of each of its steps (None where there are none)."""
        sequence, (anchor, labelled, times) = self.sequences[sample.sequence], self._grids[sample.sequence]
        slice_us = self.settings.slice_us
        end = anchor + (sample.first + self.steps) * slice_us
        start = end - (self.steps - 1) * slice_us - self.settings.seen_us
        if sample.sequence not in self._recordings:
            self._recordings[sample.sequence] = sequence.open()
        window = self._cache.read(self._recordings[sample.sequence], start, end)
        labels: list[Boxes | None] = [None] * self.steps
        first, last = np.searchsorted(labelled, (sample.first, sample.first + self.steps))
        for step, time in zip(labelled[first:last], times[first:last], strict=True):
            labels[int(step) - sample.first] = sequence.labels.at(int(time))
        return window, labels


def read_ahead(batches: Iterator[Batch]) -> Generator[Batch]:
    """The same batches, the next one being made by a second thread while the caller works on one."""

    def following() -> Batch | None:
        return next(batches, None)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        coming = reader.submit(following)
        while (batch := coming.result()) is not None:
            coming = reader.submit(following)
            yield batch


def class_weights(labels: Sequence[Boxes], balance: float) -> NDArray[np.float64]:
    """(K,) n^-balance of each class, n its labels; a class without any counts one. K: the largest class id + 1."""
    counts = np.bincount(np.concatenate([np.zeros(0, np.int32), *(boxes.class_id for boxes in labels)]), minlength=1)
    return np.maximum(counts, 1.0) ** -balance


def pad_labels(boxes: Sequence[Boxes]) -> LabelBatch:
    """Labels of N images, given in input pixels, padded to the fullest."""
    n, m = len(boxes), max((len(b) for b in boxes), default=0)
    corners, classes = np.zeros((n, m, 4), np.float32), np.zeros((n, m), np.int64)
    valid = np.zeros((n, m), bool)
    for i, b in enumerate(boxes):
        corners[i, : len(b)], classes[i, : len(b)], valid[i, : len(b)] = b.xyxy, b.class_id, True
    return LabelBatch(torch.from_numpy(corners), torch.from_numpy(classes), torch.from_numpy(valid))


def _check_crop(crop: tuple[int, int], settings: InputSettings, sequences: Sequence[LabelledSequence]) -> None:
    width, height = min(s.width for s in sequences), min(s.height for s in sequences)
    if settings.width or settings.height or settings.crop:
        raise SettingsError(
            "data.augment.crop sets the size of the input; it needs input.width, input.height and input.crop to be null"
        )
    if settings.shortest_side:  # sensors of any size: what is smaller than the crop is padded
        if min(crop) < STRIDES[-1]:
            raise SettingsError(
                f"data.augment.crop is {crop[0]} x {crop[1]}; the network's cells need {STRIDES[-1]} pixels a side"
            )
        factors = sorted({settings.enlargement(s.height, s.width) for s in sequences})
        if any(side % factor for side in crop for factor in factors):
            raise SettingsError(
                f"data.augment.crop is {crop[0]} x {crop[1]}; input.least_side enlarges the sensors' pixels {factors} "
                "times, which must divide it"
            )
        return
    if not (STRIDES[-1] <= crop[0] <= width and STRIDES[-1] <= crop[1] <= height):
        raise SettingsError(
            f"data.augment.crop is {crop[0]} x {crop[1]}; the network's cells and the sensors allow "
            f"{STRIDES[-1]} .. {width} by {STRIDES[-1]} .. {height}"
        )


def _scaled(boxes: Boxes, scale: NDArray[np.float32]) -> Boxes:
    return Boxes(boxes.t, boxes.xyxy * scale, boxes.class_id, boxes.score, boxes.track_id)
