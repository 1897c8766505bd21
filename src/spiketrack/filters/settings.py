"""Settings of the filters, one section per filter; each section is off unless it says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator


def _shape(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if len(numbers) == 4:
        left, top, right, bottom = numbers
        if left >= right or top >= bottom:
            raise ValueError("a rectangle is left, top, right, bottom with left < right and top < bottom")
    elif len(numbers) < 6 or len(numbers) % 2:
        raise ValueError("a shape is left, top, right, bottom of a rectangle, or x, y of three or more corners")
    return numbers


Shape = Annotated[tuple[FiniteFloat, ...], AfterValidator(_shape)]


class RegionSettings(BaseModel):
    """Where on the sensor events count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    include: tuple[Shape, ...] = Field(
        (),
        description="shapes outside which events go: [left, top, right, bottom] or [x, y, x, y, x, y, ...]",
    )
    exclude: tuple[Shape, ...] = Field((), description="shapes inside which events go, also where included")
    mask: Path | None = Field(None, description=".npy file, (height, width) bool, false where events go; null: none")


class HotPixelSettings(BaseModel):
    """Single pixels that fire all the time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_hz: float | None = Field(
        None, gt=0, description="a pixel with fewer events per second is never hot; null looks for none"
    )
    factor: float = Field(
        5.0, gt=1, description="a hot pixel is faster than all but one of its 5 x 5 neighbours by more than this"
    )
    period_us: int = Field(
        1_000_000,
        ge=10_000,
        le=10**9,
        description="what is hot is found anew each period, and masked in the next (microseconds)",
    )
    mask: Path | None = Field(None, description=".npy file, (height, width) bool, true at known hot pixels; null: none")


class FlickerSettings(BaseModel):
    """Pixels that go on and off periodically."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    band_hz: tuple[float, float] | None = Field(
        None, description="[lowest, highest] frequency to take out, such as [50, 520]; null takes out nothing"
    )
    cycles: int = Field(6, ge=2, le=100, description="like cycles in a row until a pixel counts as flickering")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.band_hz is not None and not 0.1 <= self.band_hz[0] < self.band_hz[1] <= 10_000:
            raise ValueError(f"band_hz must rise and lie within 0.1 .. 10000 Hz, got {list(self.band_hz)}")
        return self


class RefractorySettings(BaseModel):
    """The dead time of a pixel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    period_us: int | None = Field(
        None, gt=0, le=10**12, description="least time between two events of a pixel (microseconds); null: any"
    )
    per_polarity: bool = Field(False, description="ON and OFF events each have their own dead time")


class BackgroundSettings(BaseModel):
    """Events that no other event supports."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dt_us: int | None = Field(
        None,
        gt=0,
        le=10**12,
        description="an event needs one of a pixel nearby, less than this long ago (microseconds); null: none",
    )
    radius: int = Field(1, ge=1, le=16, description="how far pixels are nearby, in both axes; 1 is 3 x 3")
    support: int = Field(1, ge=1, description="how many pixels nearby must have fired; at most (2 radius + 1)^2 - 1")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.support > (most := (2 * self.radius + 1) ** 2 - 1):
            raise ValueError(f"support {self.support} cannot be: radius {self.radius} has {most} pixels nearby")
        return self


class RateSettings(BaseModel):
    """Most events per second of the whole sensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    limit: int | None = Field(None, gt=0, le=10**12, description="most events per second; null: any number")
    period_us: int = Field(1_000, gt=0, le=10**9, description="the limit holds in every such period (microseconds)")
    policy: Literal["even", "tail"] = Field(
        "even", description="events to drop: spread evenly by the rate of the period before, or the end of the period"
    )

    @property
    def budget(self) -> int:
        """Events that may pass in one period; 0 where there is no limit."""
        return (self.limit or 0) * self.period_us // 1_000_000

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.limit is not None and self.budget < 1:
            raise ValueError(f"limit {self.limit} lets less than one event pass in {self.period_us} us; lengthen it")
        return self


class FilterSettings(BaseModel):
    """What to take out of a recording, in this order; the defaults take out nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: RegionSettings = Field(RegionSettings(), description="parts of the sensor")
    hot_pixels: HotPixelSettings = Field(HotPixelSettings(), description="pixels that fire all the time")
    flicker: FlickerSettings = Field(FlickerSettings(), description="pixels that go on and off periodically")
    polarity: Literal["both", "on", "off"] = Field("both", description="events of which polarity stay")
    refractory: RefractorySettings = Field(RefractorySettings(), description="dead time of each pixel")
    background: BackgroundSettings = Field(BackgroundSettings(), description="events without others nearby")
    rate: RateSettings = Field(RateSettings(), description="most events per second")


NO_FILTERS = FilterSettings()
