"""Batches: samples side by side, as tensors.

Station: the border between NumPy and torch before the network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spiketrack.boxes import NO_TRACK, Boxes
from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.detector.spikeyolo import STRIDES
from spiketrack.detector.track_loss import TrackLabels
from spiketrack.errors import SettingsError
from spiketrack.representations import InputSettings
from spiketrack.representations.flat import FlatEvents, Uncounted, check_countable


class Batch(NamedTuple):
    """B samples of T time steps.

    events: (T, B, C, H, W) uint8, int8 or float32, or events from which the device makes that (`planes`). labelled:
    (T, B) bool. labels: those of the labelled steps, time-major, in input pixels; identities are counted in each
    sequence. names: where each sample comes from, for messages. fresh: (B,) bool, where a sample does not go on where
    that place of the last batch ended.
    """

    events: Tensor | FlatEvents
    labelled: Tensor
    labels: TrackLabels
    names: list[str]
    fresh: Tensor

    def planes(self, move: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """The events as the network sees them, (T, B, C, H, W) float32. move: takes a tensor to its device."""
        return self.events.planes(move) if isinstance(self.events, FlatEvents) else move(self.events).float()


class Share(NamedTuple):
    """The part of every batch that this process takes: of its samples, in their order, part `number` of `parts`."""

    number: int = 0
    parts: int = 1

    def of(self, count: int) -> slice:
        """Of `count` samples. The first parts have one more where they do not go up; late parts may have none."""
        size, more = divmod(count, self.parts)
        first = self.number * size + min(self.number, more)
        return slice(first, first + size + (self.number < more))


WHOLE = Share()


def make_batch(
    encoded: Sequence[tuple[NDArray | Uncounted, list[Boxes | None]]],
    sequences: Sequence[int],
    names: list[str],
    fresh: list[bool],
) -> Batch:
    """Samples, each planes (T, C, H, W) or events, and the labels of its steps, as a batch. sequences: of each."""
    planes = [part for part, _ in encoded if not isinstance(part, Uncounted)]
    events = [part for part, _ in encoded if isinstance(part, Uncounted)]
    labels = [boxes for _, boxes in encoded]
    steps = [(row[t], index) for t in range(len(labels[0])) for row, index in zip(labels, sequences, strict=True)]
    known = [(boxes, index) for boxes, index in steps if boxes is not None]  # time-major, as labelled.T is
    return Batch(
        FlatEvents.of(events, len(labels[0])) if events else torch.from_numpy(np.stack(planes, axis=1)),
        torch.tensor([[boxes is not None for boxes in row] for row in labels]).T.contiguous(),
        pad_labels([boxes for boxes, _ in known], [index for _, index in known]),
        names,
        torch.tensor(fresh),
    )


def without_samples(batch: Batch) -> Batch:
    """A batch like this one with B = 0, for a process whose share is empty."""
    events = batch.events.without_samples() if isinstance(batch.events, FlatEvents) else batch.events[:, :0]
    return Batch(events, batch.labelled[:, :0], pad_labels([], []), [], batch.fresh[:0])


def of_last_step(batch: Batch) -> Batch:
    """The same batch, of whose labels those of the last time step are left; of its events all are."""
    labelled = torch.zeros_like(batch.labelled)
    labelled[-1] = batch.labelled[-1]
    kept = labelled[batch.labelled]  # (N,), which of the labelled steps
    return batch._replace(labelled=labelled, labels=TrackLabels(*(column[kept] for column in batch.labels)))


def pad_labels(boxes: Sequence[Boxes], sequences: Sequence[int]) -> TrackLabels:
    """Labels of N images, given in input pixels, padded to the fullest. sequences: which each image is of."""
    n, m = len(boxes), max((len(b) for b in boxes), default=0)
    corners, classes = np.zeros((n, m, 4), np.float32), np.zeros((n, m), np.int64)
    valid, track_ids = np.zeros((n, m), bool), np.full((n, m), NO_TRACK, np.int64)
    for i, b in enumerate(boxes):
        corners[i, : len(b)], classes[i, : len(b)], valid[i, : len(b)] = b.xyxy, b.class_id, True
        track_ids[i, : len(b)] = b.track_id
    columns = (corners, classes, valid, track_ids, np.array(sequences, np.int64))
    return TrackLabels(*map(torch.from_numpy, columns))


def read_ahead(batches: Iterator[Batch], ahead: int = 1) -> Generator[Batch]:
    """The same batches, the next ones (at most `ahead`) being made by a second thread while the caller works on one."""

    def following() -> Batch | None:
        return next(batches, None)

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
        coming = deque(reader.submit(following) for _ in range(ahead))
        while (batch := coming.popleft().result()) is not None:
            coming.append(reader.submit(following))
            yield batch


def check_uncounted(settings: InputSettings, augment: AugmentSettings, steps: int) -> None:
    """Raise SettingsError where samples cannot leave the loader as events."""
    check_countable(settings, steps)
    if augment.mosaic:
        raise SettingsError(
            f"training.encode_on device: data.augment.mosaic {augment.mosaic} joins samples that are counted; set it "
            "to 0, or encode_on to loader"
        )


def check_sizes(sequences: Sequence[LabelledSequence], settings: InputSettings, augment: AugmentSettings) -> None:
    """Raise SettingsError where the sequences' inputs would not fit into one batch or are too small for the network."""
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
