"""Classified samples: short recordings of one object each become batches for a network that names the object.

Station: the border between NumPy and torch before a classifier. In come the files of N-MNIST or N-CARS
(recordings/folders.py), or what the boxes of GEN1 or eTraM hold (cutouts.py), out come time steps (T, B, C, H, W) with
a class each. The order of samples and every
augmentation follow from (seed, epoch, place), so that a run can be resumed anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spiketrack.datasets.augment import AugmentSettings, disturb
from spiketrack.datasets.cache import EVENT_BYTES
from spiketrack.datasets.cutouts import Cutout
from spiketrack.events import Events, Window
from spiketrack.recordings import Sample, open_recording
from spiketrack.representations import stacked_histogram

Classified = Sample | Cutout


class SampleAugmentSettings(BaseModel):
    """How far training samples may be changed; the defaults change nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shift: float = Field(0.0, ge=0, le=1, description="largest shift, as a share of the input's sides")
    rotate: float = Field(0.0, ge=0, le=180, description="largest rotation, degrees either way")
    zoom: float = Field(0.0, ge=0, le=3, description="zoom by a factor within 1 / (1 + zoom) .. 1 + zoom")
    shear: float = Field(0.0, ge=0, le=1, description="largest shear, pixels to the side per pixel of height")
    flip: float = Field(0.0, ge=0, le=1, description="probability of a left-right mirror image; not for digits")
    drop: float = Field(0.0, ge=0, lt=1, description="largest share of events dropped at random")
    drop_time: float = Field(0.0, ge=0, lt=1, description="largest share of a sample's time without any event")
    drop_area: float = Field(0.0, ge=0, lt=1, description="largest share of the sensor without any event, a rectangle")


class SampleInput(BaseModel):
    """What a classifier sees of a sample."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    representation: Literal["binary_occupancy", "stacked_histogram"] = Field(
        "binary_occupancy", description="whether a pixel had an event in a bin, or how many; per polarity"
    )
    duration_us: int = Field(
        100_000, gt=0, description="from the first event on, microseconds; what comes later is not seen"
    )
    steps: int = Field(5, ge=1, le=1000, description="T, time steps into which the duration is divided")
    bins: int = Field(1, ge=1, le=32, description="bins of a step, stacked as channels, oldest first")
    limit: int = Field(10, ge=1, le=255, description="counts of stacked_histogram saturate here")
    height: int = Field(64, ge=32, le=1024, description="rows of the input")
    width: int = Field(64, ge=32, le=1024, description="columns of the input")
    fit: Literal["sensor", "events"] = Field(
        "sensor",
        description="what fills the input: the sensor, or its part up to the last row and column with an event (for "
        "N-CARS, whose cut-outs differ in size)",
    )

    @property
    def channels(self) -> int:
        """Channels C of one time step."""
        return 2 * self.bins

    def encode(self, window: Window, placement: Placement | None = None) -> NDArray[np.uint8]:
        """The time steps of a window: (steps, C, H, W), the bins of a step stacked in time order.

        An input pixel takes the value of the sensor pixel that it comes from (nearest); where the input is smaller
        than what is seen, the largest value of those that it covers.
        """
        limit = 1 if self.representation == "binary_occupancy" else self.limit
        n = self.steps * self.bins
        planes = stacked_histogram(window, window.start_us, window.end_us, n, limit=limit)  # (n, 2, h, w)
        seen = (window.height, window.width) if self.fit == "sensor" else _extent(window)
        finer = max(-(-seen[0] // self.height), -(-seen[1] // self.width))
        place = placement or Placement()
        index, inside = place.sources(seen, (self.height, self.width), finer, window.width)
        out = planes.reshape(2 * n, -1)[:, index] * inside  # (2n, H * finer * W * finer)
        if finer > 1:
            out = out.reshape(2 * n, self.height, finer, self.width, finer).max(axis=(2, 4))
        return out.reshape(self.steps, self.channels, self.height, self.width)


class Placement(NamedTuple):
    """How a sample lies in the input: turned, sheared, zoomed and mirrored about its centre, then shifted.

    degrees: clockwise on a screen. shift_x, shift_y: as a share of the input's sides.
    """

    degrees: float = 0.0
    zoom: float = 1.0
    shear: float = 0.0
    mirrored: bool = False
    shift_x: float = 0.0
    shift_y: float = 0.0

    @classmethod
    def draw(cls, settings: SampleAugmentSettings, rng: np.random.Generator) -> Placement:
        return cls(
            rng.uniform(-1, 1) * settings.rotate,
            (1 + settings.zoom) ** rng.uniform(-1, 1),
            rng.uniform(-1, 1) * settings.shear,
            bool(rng.random() < settings.flip),
            rng.uniform(-1, 1) * settings.shift,
            rng.uniform(-1, 1) * settings.shift,
        )

    def sources(
        self, seen: tuple[int, int], size: tuple[int, int], finer: int, row: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """For each pixel of the input, `finer` x `finer` times as fine, the pixel of the sensor that it shows.

        seen, size: (height, width) of the part of the sensor and of the input. row: pixels in a row of the sensor.
        Returns the places in the flat sensor (H * W * finer^2,), and whether there is one at all (else place 0).
        """
        angle = np.deg2rad(self.degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        forward = turn @ np.array([[-1.0 if self.mirrored else 1.0, self.shear], [0.0, 1.0]]) * self.zoom
        x, y = ((np.arange(side * finer) + 0.5) / finer for side in (size[1], size[0]))
        # of the centre of the input, in its pixels: inverse of p -> forward p + shift
        ahead = np.stack(np.broadcast_arrays(
            x[None, :] - size[1] * (0.5 + self.shift_x), y[:, None] - size[0] * (0.5 + self.shift_y)
        ))  # fmt: skip
        x, y = np.tensordot(np.linalg.inv(forward), ahead, 1)
        column = np.floor((x / size[1] + 0.5) * seen[1] + 1e-9).astype(np.int64).ravel()
        line = np.floor((y / size[0] + 0.5) * seen[0] + 1e-9).astype(np.int64).ravel()
        inside = (column >= 0) & (column < seen[1]) & (line >= 0) & (line < seen[0])
        return np.where(inside, line * row + column, 0), inside


class SampleBatch(NamedTuple):
    """B samples. events: (T, B, C, H, W) uint8. class_ids: (B,) int64. names: where each comes from, for messages."""

    events: Tensor
    class_ids: Tensor
    names: list[str]


class SampleEvents:
    """The events of files of samples, kept in memory once read, up to a budget.

    repairs: how many events were dropped or moved, by kind; in samples read so far. empty: samples without any event.
    """

    def __init__(self, cache_mb: int) -> None:
        self._free = cache_mb * 1_000_000
        self._kept: dict[Classified, Events] = {}
        self._seen: set[Classified] = set()
        self.repairs: Counter[str] = Counter()
        self.empty = 0

    def read(self, sample: Classified, duration_us: int) -> Window:
        """The events of a sample over duration_us: from its first one, of a cut-out up to the time of its box.

        Raises RecordingError naming the file.
        """
        events = self._kept.get(sample)
        if events is None:
            events = self._load(sample) if isinstance(sample, Sample) else self._cut(sample, duration_us)
            size = EVENT_BYTES * len(events)
            if size <= self._free:
                self._kept[sample], self._free = events, self._free - size
        if isinstance(sample, Cutout):
            return Window.of(events, sample.end_us - duration_us, sample.end_us)
        start = int(events.t[0]) if len(events) else 0
        return Window.of(events, start, start + duration_us)

    def _cut(self, sample: Cutout, duration_us: int) -> Events:
        recording = open_recording(sample.path, *sample.sensor)
        events = sample.cut(recording.read(sample.end_us - duration_us, sample.end_us))
        self._count(sample, events, recording.invalid)
        return events

    def _load(self, sample: Sample) -> Events:
        recording = open_recording(sample.path, sample.width, sample.height)
        parts = [Events.empty(sample.width, sample.height)]
        for run in recording.chunks():
            columns = map(np.array, (run.t, run.x, run.y, run.p))
            parts.append(Events.trusted(*columns, sample.width, sample.height))
        events = Events.concatenate(parts)
        self._count(sample, events, recording.invalid)
        return events

    def _count(self, sample: Classified, events: Events, invalid: Mapping[str, int]) -> None:
        if sample not in self._seen:
            self._seen.add(sample)
            self.repairs.update(invalid)
            self.empty += not len(events)

    def report(self) -> str:
        """What was repaired, in words; empty where nothing was."""
        said = [f"{count:,} events {kind}" for kind, count in self.repairs.items()]
        said += [f"{self.empty:,} samples without events"] if self.empty else []
        return ", ".join(said)


class SampleBatches:
    """Batches of samples, shuffled anew for each epoch, reproducible from the seed."""

    def __init__(
        self,
        found: Sequence[Classified],
        settings: SampleInput,
        augment: SampleAugmentSettings | None,
        *,
        batch_size: int,
        seed: int,
        events: SampleEvents,
    ) -> None:
        self.samples, self.settings, self.augment = list(found), settings, augment
        self.batch_size, self.seed, self.events = batch_size, seed, events

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.samples) // self.batch_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The samples in the order of an epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[SampleBatch]:
        """The batches of an epoch from `start_batch` on; the last one may be smaller."""
        order = self.order(epoch)
        for first in range(start_batch * self.batch_size, len(order), self.batch_size):
            chosen = [self.samples[i] for i in order[first : first + self.batch_size]]
            planes = [
                self._encode(sample, np.random.default_rng([self.seed, epoch, first + i + 1]))
                for i, sample in enumerate(chosen)
            ]
            yield SampleBatch(
                torch.from_numpy(np.stack(planes, axis=1)),  # (T, B, C, H, W)
                torch.tensor([sample.class_id for sample in chosen]),
                [name_of(sample) for sample in chosen],
            )

    def _encode(self, sample: Classified, rng: np.random.Generator) -> NDArray[np.uint8]:
        window = self.events.read(sample, self.settings.duration_us)
        if self.augment is None:
            return self.settings.encode(window)
        placement = Placement.draw(self.augment, rng)
        return self.settings.encode(thinned(window, self.augment, rng), placement)


def name_of(sample: Classified) -> str:
    """Where a sample comes from, for messages."""
    return sample.name if isinstance(sample, Cutout) else str(sample.path)


def thinned(window: Window, augment: SampleAugmentSettings, rng: np.random.Generator) -> Window:
    """The window with events missing: at random, in a piece of its time, in a part of its area."""
    if augment.drop:
        keep = rng.random(len(window), np.float32) >= rng.uniform(0, augment.drop)
        t, x, y, p = window.t[keep], window.x[keep], window.y[keep], window.p[keep]
        window = Window(t, x, y, p, window.width, window.height, window.start_us, window.end_us)
    return disturb(window, AugmentSettings(drop_time=augment.drop_time, drop_area=augment.drop_area), rng)


def _extent(window: Window) -> tuple[int, int]:
    """Rows and columns up to the last one with an event; all of them where there is none."""
    if not len(window):
        return window.height, window.width
    return int(window.y.max()) + 1, int(window.x.max()) + 1
