"""Settings: what a network sees, the representation of the event slices that are its time steps."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from spiketrack.errors import SettingsError
from spiketrack.events import Events
from spiketrack.representations.counting import count_ranges, difference_ranges
from spiketrack.representations.grid import FrameOptions, bin_bounds, bin_ranges
from spiketrack.representations.timing import MAX_TAU_US, time_surface, voxel_grid

Crop = tuple[NonNegativeInt, NonNegativeInt, PositiveInt, PositiveInt]

# planes of a bin, and what they hold
PLANES: dict[str, tuple[int, type]] = {
    "polarity_histogram": (2, np.uint8),
    "stacked_histogram": (2, np.uint8),
    "binary_occupancy": (2, np.uint8),
    "signed_difference": (1, np.int8),
    "voxel_grid": (1, np.float32),
    "time_surface": (2, np.float32),
}


class InputSettings(BaseModel):
    """What a network sees: the representation of the event slices that are its time steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    representation: Literal[
        "stacked_histogram",
        "signed_difference",
        "binary_occupancy",
        "polarity_histogram",
        "voxel_grid",
        "time_surface",
    ] = Field("stacked_histogram", description="how events become planes")
    slice_us: int = Field(33_333, gt=0, description="length of one time step in microseconds")
    window_us: int | None = Field(
        None, gt=0, description="events that a step sees, ending with it; null takes slice_us, more overlaps"
    )
    bins: int = Field(1, ge=1, le=32, description="bins of the window of a step, stacked as channels, oldest first")
    limit: int = Field(
        10, ge=1, le=127, description="counts saturate here (signed_difference: at both signs); others ignore it"
    )
    tau_us: int = Field(
        50_000, ge=1, le=MAX_TAU_US, description="time constant of time_surface in microseconds; others ignore it"
    )
    crop: Annotated[
        Crop | None,
        Field(description="part of the sensor that is seen, [x0, y0, width, height] in its pixels; null takes all"),
    ] = None
    height: int | None = Field(None, gt=0, description="rows of the input; null takes the sensor's, or the crop's")
    width: int | None = Field(None, gt=0, description="columns of the input; null takes the sensor's, or the crop's")
    shortest_side: int | None = Field(
        None,
        gt=0,
        description="instead of height and width, for sensors of any size: pixels are binned f x f, f the least "
        "whole number that leaves at most this many on the shorter side; what is left over at the end is not seen",
    )
    least_side: int | None = Field(
        None,
        gt=0,
        description="with shortest_side: where the shorter side has fewer pixels, each becomes f x f of the input, f "
        "the least whole number that reaches this many; small sensors then show objects as large as others do",
    )

    @property
    def channels(self) -> int:
        """Channels C of one time step."""
        return self.bins * PLANES[self.representation][0]

    def binning(self, sensor_height: int, sensor_width: int) -> int:
        """f, where an input pixel is f x f pixels of the sensor: 1 without shortest_side, 2 for 1280 x 720 and 384.

        Raises SettingsError where the crop leaves the sensor.
        """
        _, _, width, height = self._whole_area(sensor_height, sensor_width)
        return -(-min(width, height) // self.shortest_side) if self.shortest_side else 1

    def enlargement(self, sensor_height: int, sensor_width: int) -> int:
        """f, where a pixel of the sensor is f x f input pixels: 1 without least_side, 2 for 346 x 260 and 300.

        Raises SettingsError where the crop leaves the sensor.
        """
        _, _, width, height = self._whole_area(sensor_height, sensor_width)
        return max(1, -(-self.least_side // min(width, height))) if self.least_side else 1

    def seen_area(self, sensor_height: int, sensor_width: int) -> tuple[int, int, int, int]:
        """(x0, y0, width, height) of the sensor that the input shows. Raises SettingsError where the crop leaves it.

        With shortest_side, width and height are multiples of f = `binning`, so that pixel x of the sensor is exactly
        pixel (x - x0) // f of the input and boxes scale by exactly f.
        """
        x0, y0, width, height = self._whole_area(sensor_height, sensor_width)
        f = self.binning(sensor_height, sensor_width)
        return x0, y0, width // f * f, height // f * f

    def _whole_area(self, sensor_height: int, sensor_width: int) -> tuple[int, int, int, int]:
        x0, y0, width, height = self.crop or (0, 0, sensor_width, sensor_height)
        if x0 + width > sensor_width or y0 + height > sensor_height:
            raise SettingsError(
                f"input.crop [x0, y0, width, height] = {[x0, y0, width, height]} leaves the sensor, which has "
                f"{sensor_width} x {sensor_height} pixels"
            )
        return x0, y0, width, height

    def size(self, sensor_height: int, sensor_width: int) -> tuple[int, int]:
        """(H, W) of the input for a sensor.

        Raises SettingsError where it would be larger than what is seen of it, and no whole multiple of that.
        """
        _, _, seen_width, seen_height = self.seen_area(sensor_height, sensor_width)
        f, larger = self.binning(sensor_height, sensor_width), self.enlargement(sensor_height, sensor_width)
        height, width = self.height or seen_height // f * larger, self.width or seen_width // f * larger
        if (height > seen_height or width > seen_width) and not _multiple((height, width), (seen_height, seen_width)):
            what = "crop" if self.crop else "sensor"
            raise SettingsError(
                f"an input of {width} x {height} pixels is larger than the {what}, which has "
                f"{seen_width} x {seen_height}; choose a smaller one, or a whole multiple alike in x and y"
            )
        return height, width

    def resized(self, width: int, height: int) -> InputSettings:
        """The same input with another size, in pixels; it takes the place of shortest_side."""
        changed = {"width": width, "height": height, "shortest_side": None, "least_side": None}
        return InputSettings.model_validate({**self.model_dump(), **changed})

    @model_validator(mode="after")
    def _one_way_to_size(self) -> Self:
        if self.least_side is not None and not self.least_side <= (self.shortest_side or 0):
            raise ValueError("least_side goes with shortest_side and is at most as large")
        if self.shortest_side is not None and (self.width is not None or self.height is not None):
            raise ValueError("shortest_side takes the place of width and height; leave those two null")
        return self

    @model_validator(mode="after")
    def _window_covers_slice(self) -> Self:
        if self.window_us is not None and self.window_us < self.slice_us:
            raise ValueError(f"window_us ({self.window_us}) must be at least slice_us ({self.slice_us})")
        return self

    @model_validator(mode="after")
    def _bins_can_be_told_apart(self) -> Self:
        if self.representation == "polarity_histogram" and self.bins > 1:
            raise ValueError(f"polarity_histogram has one bin, got bins = {self.bins}; take stacked_histogram")
        return self

    @property
    def seen_us(self) -> int:
        """Length of the events that one time step sees, microseconds."""
        return self.window_us or self.slice_us

    def encode(self, events: Events, end_us: int, steps: int = 1, *, threads: int = 1) -> NDArray:
        """The last `steps` time steps before end_us: (steps, C, H, W), the bins of a step stacked in time order.

        uint8 counts, int8 differences, float32 voxel grids and time surfaces. events: must reach back to
        end_us - (steps - 1) * slice_us - seen_us; what lies outside is not counted. Many short steps, as in the
        high-frequency mode, are counted in one pass.
        """
        size, (planes, dtype) = self.size(events.height, events.width), PLANES[self.representation]
        area = self.seen_area(events.height, events.width)
        larger = max(1, size[0] // area[3])
        size = (size[0] // larger, size[1] // larger)
        ends = [end_us - (steps - 1 - k) * self.slice_us for k in range(steps)]
        out = np.empty((steps, self.bins, planes, *size), dtype)

        def frame(out: NDArray) -> FrameOptions:
            return {"size": size, "crop": area, "threads": threads, "out": out}

        if dtype == np.float32:
            for end, step in zip(ends, out, strict=True):
                window = (events, end - self.seen_us, end, self.bins)
                if self.representation == "voxel_grid":
                    voxel_grid(*window, **frame(step))
                else:
                    time_surface(*window, tau_us=self.tau_us, **frame(step))
        else:
            ranges = [bin_ranges(events, bin_bounds(end - self.seen_us, end, self.bins)) for end in ends]
            limit = 1 if self.representation == "binary_occupancy" else self.limit
            count = difference_ranges if self.representation == "signed_difference" else count_ranges
            all_bins = frame(out.reshape(steps * self.bins, planes, *size))
            count(events, np.concatenate(ranges), limit=limit, **all_bins)
        out = out.reshape(steps, self.channels, *size)  # (T, bins, C', H, W) -> (T, bins * C', H, W)
        return out if larger == 1 else out.repeat(larger, -2).repeat(larger, -1)


def _multiple(size: tuple[int, int], seen: tuple[int, int]) -> bool:
    """Whether a size is a whole multiple of what is seen, the same in both directions."""
    factor = size[0] // seen[0]
    return size == (factor * seen[0], factor * seen[1])
