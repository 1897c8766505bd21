"""Samples: crops become batches for a network that finds joints.

Station: the border between NumPy and torch before the network. In come `Crops`, out come time steps (T, B, C, H, W) and
joints in input pixels. The order of the crops and every augmentation follow from (seed, epoch, place), so that a run
can be resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from spiketrack.datasets.classified import Placement, SampleAugmentSettings, SampleInput, thinned
from spiketrack.keypoints.crops import Crops
from spiketrack.keypoints.joints import MIRRORED

ABSENT = -1.0
"""Visibility of a joint that is out of sight: its map takes no part in the loss."""


class CropInput(SampleInput):
    """What the network sees of a crop."""

    representation: Literal["binary_occupancy", "stacked_histogram"] = Field(
        "stacked_histogram", description="whether a pixel had an event in a bin, or how many; per polarity"
    )
    duration_us: int = Field(100_000, gt=0, description="time before the label that is seen, microseconds")
    steps: int = Field(1, ge=1, le=1000, description="T, time steps into which the duration is divided")
    bins: int = Field(3, ge=1, le=32, description="bins of a step, stacked as channels, oldest first")
    limit: int = Field(10, ge=1, le=255, description="counts of stacked_histogram saturate here")
    height: int = Field(96, ge=32, le=1024, description="rows of the input")
    width: int = Field(64, ge=32, le=1024, description="columns of the input")
    fit: Literal["sensor"] = Field("sensor", description="what fills the input: always the whole crop")

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height


class KeypointBatch(NamedTuple):
    """B crops. events: (T, B, C, H, W) uint8. keypoints: (B, K, 3) float32: x, y in input pixels and 1 where the joint
    is in sight and within the input, else ABSENT. names: where each comes from, for messages."""

    events: Tensor
    keypoints: Tensor
    names: list[str]


class CropBatches:
    """Batches of crops, shuffled anew for each epoch, reproducible from the seed; in order without augment."""

    def __init__(
        self, crops: Crops, settings: CropInput, augment: SampleAugmentSettings | None, *, batch_size: int, seed: int
    ) -> None:
        self.crops, self.settings, self.augment = crops, settings, augment
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.crops) // self.batch_size)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[KeypointBatch]:
        """The batches of an epoch from `start_batch` on; the last one may be smaller."""
        order = np.arange(len(self.crops))
        if self.augment is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.crops))
        for first in range(start_batch * self.batch_size, len(order), self.batch_size):
            chosen = order[first : first + self.batch_size].tolist()
            samples = [
                self._sample(index, np.random.default_rng([self.seed, epoch, first + i + 1]))
                for i, index in enumerate(chosen)
            ]
            yield KeypointBatch(
                torch.from_numpy(np.stack([planes for planes, _ in samples], axis=1)),  # (T, B, C, H, W)
                torch.from_numpy(np.stack([joints for _, joints in samples])),
                [self.crops.name(index) for index in chosen],
            )

    def _sample(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        settings, row = self.settings, self.crops.rows[index]
        window, placement = self.crops.window(index, settings.duration_us), Placement()
        if self.augment is not None:
            placement = Placement.draw(self.augment, rng)
            window = thinned(window, self.augment, rng)
        joints = row["keypoints"].copy()
        region = (int(row["left"]), int(row["top"]), int(row["width"]), int(row["height"]))
        size = (settings.width, settings.height)
        joints[:, :2] = to_input(joints[:, :2], region, size, placement)
        if placement.mirrored:
            joints = joints[list(MIRRORED)]
        within = ((joints[:, :2] >= 0) & (joints[:, :2] < size)).all(1) & (joints[:, 2] > 0)
        joints[:, 2] = np.where(within, 1.0, ABSENT)
        return settings.encode(window, placement), joints


def to_input(
    points: NDArray[np.floating],
    region: tuple[int, int, int, int],
    size: tuple[int, int],
    placement: Placement = Placement(),  # noqa: B008 - immutable
) -> NDArray[np.float32]:
    """Points (N, 2) of the sensor in pixels of an input of size (width, height) that shows a region, placed so."""
    corner, seen, sides = np.array(region[:2]), np.array(region[2:]), np.array(size)
    angle = np.deg2rad(placement.degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.array([[-1.0 if placement.mirrored else 1.0, placement.shear], [0.0, 1.0]]) * placement.zoom
    from_centre = ((np.asarray(points, np.float64) - corner) / seen - 0.5) * sides
    shift = np.array([placement.shift_x, placement.shift_y])
    return (from_centre @ forward.T + sides * (0.5 + shift)).astype(np.float32)


def to_sensor(
    points: NDArray[np.floating], regions: NDArray[np.floating], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Points (B, K, 2) of inputs of size (width, height) in pixels of the sensor; regions: (B, 4) what they show."""
    regions = np.asarray(regions, np.float64)
    scale = regions[:, None, 2:] / np.array(size)
    return (np.asarray(points, np.float64) * scale + regions[:, None, :2]).astype(np.float32)
