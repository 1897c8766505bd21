"""Flat: events of a batch as they are, to be counted on the device that trains.

Station: between samples and the network, in place of `InputSettings.encode`. In come windows of events, which leave
the loader as two words of 32 bits an event; out come the planes of a batch, made by one scatter on whatever device the
words were moved to. They equal those that the loader would have made, to the bit: counts are whole numbers, and exact
in float32. Representations that add up fractions round in an order of their own and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spiketrack.errors import SettingsError
from spiketrack.events import Window
from spiketrack.representations.settings import PLANES, InputSettings

COUNTED = ("stacked_histogram", "signed_difference", "binary_occupancy", "polarity_histogram")
MOST_US = 1 << 30  # of a sample


class Uncounted(NamedTuple):
    """Events of a sample, which ends where they do, and how they are to be counted."""

    window: Window
    settings: InputSettings


class FlatEvents(NamedTuple):
    """Events of B samples of `steps` time steps, one sample after the other.

    clock: (N,) int32, 2 (t - end of the sample) + p, t in microseconds. place: (N,) int32, the bits of x + 65536 y.
    counts: (B,) int64, events of each. areas: (B, 6) int64, x0, y0, width and height of what is seen of the sensor, and
    the rows and columns in which it is counted, each of which becomes f x f pixels, f as in `enlarged`. settings: of
    all, but for sizes. size: (H, W) of the planes.
    """

    clock: Tensor
    place: Tensor
    counts: Tensor
    areas: Tensor
    enlarged: tuple[int, ...]
    settings: InputSettings
    steps: int
    size: tuple[int, int]

    @classmethod
    def of(cls, samples: Sequence[Uncounted], steps: int) -> FlatEvents:
        """At least one sample; all have planes of one size."""
        areas, enlarged, sizes = [], [], []
        for window, settings in samples:
            height, width = settings.size(window.height, window.width)
            area = settings.seen_area(window.height, window.width)
            f = max(1, height // area[3])
            areas.append((*area, height // f, width // f))
            enlarged.append(f)
            sizes.append((height, width))
        if len(set(sizes)) > 1:
            raise ValueError(f"flat: samples of sizes {sorted(set(sizes))} do not fit into one batch")
        windows = [window for window, _ in samples]
        return cls(
            torch.from_numpy(np.concatenate([((w.t - w.end_us) * 2 + w.p).astype(np.int32) for w in windows])),
            torch.from_numpy(np.concatenate([(w.x | w.y.astype(np.uint32) << 16).view(np.int32) for w in windows])),
            torch.tensor([len(window) for window in windows]),
            torch.tensor(areas),
            tuple(enlarged),
            samples[0].settings,
            steps,
            sizes[0],
        )

    def without_samples(self) -> FlatEvents:
        """The same with B = 0."""
        none = (tensor[:0] for tensor in (self.clock, self.place, self.counts, self.areas))
        return FlatEvents(*none, (), self.settings, self.steps, self.size)

    def planes(self, move: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """The batch as the network sees it, (T, B, C, H, W) float32. move: takes a tensor to the device."""
        settings, n = self.settings, len(self.clock)
        clock, place, counts, areas = map(move, (self.clock, self.place, self.counts, self.areas))
        sample = torch.repeat_interleave(torch.arange(len(counts), device=clock.device), counts, output_size=n)
        x0, y0, width, height, rows, columns = (area[sample] for area in areas.unbind(1))
        x, y = (place & 0xFFFF) - x0, (place >> 16 & 0xFFFF) - y0
        t, p = clock.long() >> 1, clock & 1
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (t < 0)
        pixel = y * rows // height * self.size[1] + x * columns // width
        kinds, _ = PLANES[settings.representation]
        shape = (self.steps, len(counts), settings.channels, *self.size)
        sums = torch.zeros(int(np.prod(shape)) + 1, device=clock.device)  # the last cell takes what counts nowhere
        value = torch.ones(n, device=clock.device) if kinds == 2 else 2.0 * p - 1.0
        since = t + self.steps * settings.slice_us  # the beginning of the first step
        first = since.div(settings.slice_us, rounding_mode="floor")
        for later in range(-(-settings.seen_us // settings.slice_us)):
            step = first + later
            age = since - (step + 1) * settings.slice_us + settings.seen_us  # in what that step sees
            counted = inside & (step >= 0) & (step < self.steps) & (age >= 0)
            bin = age * settings.bins // settings.seen_us
            plane = (step * shape[1] + sample) * shape[2] + (bin * 2 + p if kinds == 2 else bin)
            index = torch.where(counted, plane * (shape[3] * shape[4]) + pixel, len(sums) - 1)
            sums.index_add_(0, index, value)
        planes = sums[:-1].view(shape)
        limit = 1 if settings.representation == "binary_occupancy" else settings.limit
        planes.clamp_(-limit, limit)
        for b, f in enumerate(self.enlarged):
            if f > 1:
                small = planes[:, b, :, : self.size[0] // f, : self.size[1] // f].clone()
                planes[:, b] = small.repeat_interleave(f, -2).repeat_interleave(f, -1)
        return planes


def check_countable(settings: InputSettings, steps: int) -> None:
    """Raise SettingsError where samples cannot be counted on a device to the same bits."""
    if settings.representation not in COUNTED:
        raise SettingsError(
            f"training.encode_on device: input.representation {settings.representation} adds up fractions, whose sums "
            f"depend on the device; take {', '.join(COUNTED)}, or encode_on loader"
        )
    if steps * settings.slice_us + settings.seen_us > MOST_US:
        raise SettingsError(
            f"training.encode_on device: {steps} steps of {settings.slice_us} us are longer than {MOST_US} us; take "
            "encode_on loader"
        )
