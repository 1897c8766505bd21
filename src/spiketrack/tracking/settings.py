"""Settings of the trackers: one union, told apart by `method`.

An IoU distance is 1 - IoU; "fused" means 1 - IoU x score. Times are microseconds, never frames.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class EmbeddingSettings(BaseModel):
    """How the look of an object counts, where `update` is given embeddings. Similarity is the cosine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(0.5, ge=0, description="worth of the cosine beside that of the IoU; 0 leaves it out")
    minimum: float = Field(0.0, ge=-1, le=1, description="an overlapping pair below this cosine is no match")
    recover: float = Field(
        0.8, ge=0, le=1, description="tracks and detections left over match from this cosine on, without overlap"
    )
    reach: float = Field(2.0, ge=0, description="largest distance of such a pair, in sides of the two boxes' mean")
    memory: float = Field(0.9, ge=0, lt=1, description="share of the old embedding when a track takes a new one")


class EventMotionSettings(BaseModel):
    """How a track's own events between two updates correct its velocity, where `update` is given events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(False, description="look at the events; an update then takes 5 to 10 ms instead of 0.2")
    min_events: int = Field(60, ge=8, description="a track with fewer events in its box moves on by itself")
    max_events: int = Field(1500, ge=8, description="events of a track that are looked at, evenly over the gap")
    margin: float = Field(0.0, ge=0, description="the box is this share of its side wider on each side")
    spread: float = Field(3.0, gt=0, description="standard deviations of the filter's velocity that are searched")
    min_gain: float = Field(
        1.3, ge=1, description="contrast of the found motion over that of none at all, below which it is not used"
    )
    noise_px: float = Field(3.0, gt=0, description="standard deviation of a found displacement (pixels)")


class _TrackerSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    lost_us: int = Field(
        1_000_000,
        ge=1,
        description="a track not seen for longer is dropped (microseconds); must exceed the time between updates",
    )
    class_aware: bool = Field(True, description="match only tracks and detections of one class")
    embedding: EmbeddingSettings = Field(EmbeddingSettings(), description="how the look of an object counts")
    events: EventMotionSettings = Field(EventMotionSettings(), description="motion from the events between updates")


class ByteTrackSettings(_TrackerSettings):
    """Settings of ByteTrack."""

    method: Literal["bytetrack"] = Field("bytetrack", description="the tracker that these settings belong to")
    high_score: float = Field(0.5, ge=0, le=1, description="detections from this score on are matched first")
    low_score: float = Field(0.1, ge=0, le=1, description="detections below this score are ignored")
    new_score: float = Field(0.6, ge=0, le=1, description="detections from this score on may start a track")
    match_limit: float = Field(
        0.8, ge=0, le=1, description="largest fused distance of a track to a high-score detection"
    )
    second_match_limit: float = Field(
        0.5, ge=0, le=1, description="largest IoU distance of a track to a low-score detection"
    )
    unconfirmed_match_limit: float = Field(
        0.7, ge=0, le=1, description="largest fused distance of an unconfirmed track to a high-score detection"
    )
    duplicate_limit: float = Field(
        0.15, ge=0, le=1, description="a seen and a lost track closer than this IoU distance are one; the older stays"
    )
    confirm_hits: int = Field(
        2, ge=1, description="updates in a row, the first included, until a track counts; at the first update 1"
    )
    filtered_boxes: bool = Field(True, description="return the Kalman-filtered box instead of the detection's own")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low_score > self.high_score:
            raise ValueError(f"low_score {self.low_score} must not exceed high_score {self.high_score}")
        return self


class OCSortSettings(_TrackerSettings):
    """Settings of OC-SORT."""

    method: Literal["oc_sort"] = Field("oc_sort", description="the tracker that these settings belong to")
    high_score: float = Field(0.6, ge=0, le=1, description="detections from this score on are matched, and start")
    low_score: float = Field(0.1, ge=0, le=1, description="with use_weak: detections below this score are ignored")
    use_weak: bool = Field(False, description="detections below high_score continue tracks left over, as in ByteTrack")
    match_limit: float = Field(0.7, ge=0, le=1, description="largest IoU distance of a track to a detection")
    momentum: float = Field(0.2, ge=0, description="worth of going on in the same direction beside the IoU")
    momentum_us: int = Field(
        100_000, ge=1, description="a track's direction runs over this time before its last detection (microseconds)"
    )
    confirm_hits: int = Field(
        3, ge=1, description="updates in a row, the first included, until a track counts; at the first updates 1"
    )
    filtered_boxes: bool = Field(False, description="return the Kalman-filtered box instead of the detection's own")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low_score > self.high_score:
            raise ValueError(f"low_score {self.low_score} must not exceed high_score {self.high_score}")
        return self


def _method(value: Any) -> str | None:
    return value.get("method", "bytetrack") if isinstance(value, dict) else getattr(value, "method", None)


TrackerSettings = ByteTrackSettings | OCSortSettings

AnyTrackerSettings = Annotated[
    Annotated[ByteTrackSettings, Tag("bytetrack")] | Annotated[OCSortSettings, Tag("oc_sort")],
    Discriminator(_method),
]
