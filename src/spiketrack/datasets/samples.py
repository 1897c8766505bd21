"""Samples: a run of consecutive time steps of one recording, read, augmented and counted.

Station: between labelled recordings and the batches of `sequences` and `streams`. In come a place in a recording and a
random generator, out go planes of counts and the labels of each step in input pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.datasets.augment import (
    Affine,
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
from spiketrack.datasets.mosaic import Part, mosaic
from spiketrack.events import Window
from spiketrack.recordings import Recording
from spiketrack.representations import InputSettings
from spiketrack.representations.flat import Uncounted

log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One training sample: `steps` time steps of sequence `sequence` from step `first` on."""

    sequence: int
    first: int


class View(NamedTuple):
    """What is seen of a sensor: where the map puts its pixels, and how the picture of (width, height) is counted.

    drop: share of the events that are left out at random.
    """

    affine: Affine
    drop: float
    settings: InputSettings
    picture: tuple[int, int]


class SampleMaker:
    """Reads and encodes samples of labelled sequences; keeps events in memory up to a budget.

    uncounted: samples stay events, which the device that trains is to count; not with mosaics.
    """

    def __init__(
        self,
        sequences: Sequence[LabelledSequence],
        settings: InputSettings,
        augment: AugmentSettings,
        *,
        steps: int,
        cache_mb: int,
        class_weights: NDArray[np.float64] | None = None,
        label_reach_us: int = 0,
        uncounted: bool = False,
    ) -> None:
        self.sequences, self.settings, self.augment, self.steps = list(sequences), settings, augment, steps
        self.grids = [sequence.steps(settings.slice_us, label_reach_us) for sequence in sequences]
        self._class_weights, self._uncounted = class_weights, uncounted
        self._recordings: dict[int, Recording] = {}
        self._cache = EventCache(cache_mb * 1_000_000)

    def make(
        self, sample: Sample, rng: np.random.Generator, others: Sequence[Sample] = ()
    ) -> tuple[NDArray | Uncounted, list[Boxes | None]]:
        """A sample in a random view: (T, C, H, W) or its events, and the labels of each step in input pixels.

        others: samples that a mosaic may take its other three parts from, any of them, the sample itself too. Where
        the four that are drawn have no labelled step in common, the sample stays alone.
        """
        planes, labels, end_us = self._alone(sample, rng)
        # drawn only where it can happen, so that samples without it are those of earlier versions
        if len(others) and self.augment.mosaic and rng.random() < self.augment.mosaic:
            drawn = [others[i] for i in rng.integers(len(others), size=3).tolist()]
            parts = [_part(planes, labels, end_us, sample.sequence)]
            parts += [_part(*self._alone(other, rng), other.sequence) for other in drawn]
            joined = mosaic(parts, self.augment.least_visible, rng, self._class_weights)
            if joined is not None:
                return joined.planes, joined.labels
        return planes, labels

    def _alone(self, sample: Sample, rng: np.random.Generator) -> tuple[NDArray | Uncounted, list[Boxes | None], int]:
        """What `make` gives, of this sample only, and where it ends (microseconds)."""
        window, labels = self.read(sample)
        known = Boxes.concatenate([boxes for boxes in labels if boxes is not None])
        planes, moved = self.encode(window, labels, self.view((window.width, window.height), known, rng), rng)
        return planes, moved, window.end_us

    def read(self, sample: Sample) -> tuple[Window, list[Boxes | None]]:
        """The events of a sample and the labels of each of its steps (None where there are none)."""
        sequence, (anchor, labelled, times) = self.sequences[sample.sequence], self.grids[sample.sequence]
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
        log.debug(
            "Temporal matching: %d events [%d-%dus] -> %d annotations",
            len(window),
            start,
            end - 1,
            sum(len(boxes) for boxes in labels if boxes is not None),
        )
        return window, labels

    def view(self, sensor: tuple[int, int], labels: Boxes, rng: np.random.Generator) -> View:
        """A random view of a sensor of (width, height) pixels; a crop may lie around one of the labels."""
        augment, settings = self.augment, self.settings
        affine, drop = draw(augment, *sensor, rng)
        if not augment.crop:
            return View(affine, drop, settings, sensor)
        width, height = sensor
        down, up = settings.binning(height, width), settings.enlargement(height, width)
        cut = (augment.crop[0] * down // up, augment.crop[1] * down // up)  # in sensor pixels
        # drawn only where it can happen, so that samples without it are those of earlier versions
        if augment.crop_on_label < 1 and rng.random() >= augment.crop_on_label:
            affine = crop_anywhere(affine, cut, *sensor, rng)
        else:
            affine = crop_around(affine, labels, cut, *sensor, rng, self._class_weights)
        return View(affine, drop, settings.resized(*augment.crop), cut)

    def encode(
        self, window: Window, labels: Sequence[Boxes | None], view: View, rng: np.random.Generator
    ) -> tuple[NDArray | Uncounted, list[Boxes | None]]:
        """Augmented events, as (T, C, H, W) where they are counted here, and labels of each step in input pixels."""
        affine, drop, settings, picture = view
        window = disturb(move_window(window, affine, picture, drop, rng), self.augment, rng)
        x0, y0, *seen = settings.seen_area(window.height, window.width)  # (x0, y0, width, height)
        height, width = settings.size(window.height, window.width)
        scale = np.array([width / seen[0], height / seen[1]] * 2, np.float32)
        affine = affine._replace(shift_x=affine.shift_x - x0, shift_y=affine.shift_y - y0)
        moved = [
            None if boxes is None else _scaled(move_boxes(boxes, affine, *seen, self.augment.least_visible), scale)
            for boxes in labels
        ]
        if self._uncounted:
            return Uncounted(window, settings), moved
        return settings.encode(window, window.end_us, self.steps), moved


def _part(planes: NDArray | Uncounted, labels: list[Boxes | None], end_us: int, sequence: int) -> Part:
    assert not isinstance(planes, Uncounted), "loaders refuse mosaics of events"
    return Part(planes, labels, sequence, end_us)


def _scaled(boxes: Boxes, scale: NDArray[np.float32]) -> Boxes:
    return Boxes(boxes.t, boxes.xyxy * scale, boxes.class_id, boxes.score, boxes.track_id)
