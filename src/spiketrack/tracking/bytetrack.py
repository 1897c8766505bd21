"""ByteTrack: every detection counts, the weak ones too, to continue tracks.

Station: the detections of one time go in, the tracks seen at that time come out. Motion is predicted in microseconds,
so updates may come at any rate. Source: Zhang et al., ECCV 2022, with its published constants.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from spiketrack.boxes import Boxes
from spiketrack.tracking import kalman
from spiketrack.tracking.association import assign, overlap_similarity

UNCONFIRMED, TRACKED, LOST = range(3)


class ByteTrackSettings(BaseModel):
    """Settings of ByteTrack. An IoU distance is 1 - IoU; "fused" means 1 - IoU x score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    lost_us: int = Field(
        1_000_000,
        ge=1,
        description="a track not seen for longer is dropped (microseconds); must exceed the time between updates",
    )
    confirm_hits: int = Field(
        2, ge=1, description="updates in a row, the first included, until a track counts; at the first update 1"
    )
    class_aware: bool = Field(True, description="match only tracks and detections of one class")
    filtered_boxes: bool = Field(True, description="return the Kalman-filtered box instead of the detection's own")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low_score > self.high_score:
            raise ValueError(f"low_score {self.low_score} must not exceed high_score {self.high_score}")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class _Tracks:
    """N tracks as columns; xyxy and score are those of the last detection, times are microseconds."""

    mean: kalman.Means
    covariance: kalman.Covariances
    state: NDArray[np.int64]
    track_id: NDArray[np.int64]  # 0 until confirmed
    class_id: NDArray[np.int32]
    hits: NDArray[np.int64]
    start_us: NDArray[np.int64]
    last_us: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    score: NDArray[np.float32]

    @classmethod
    def started(cls, detections: Boxes, state: int) -> Self:
        n = len(detections)
        return cls(
            *kalman.initiate(kalman.xyxy_to_cxcywh(detections.xyxy)),
            np.full(n, state),
            np.zeros(n, np.int64),
            detections.class_id.copy(),
            np.ones(n, np.int64),
            detections.t.copy(),
            detections.t.copy(),
            detections.xyxy.copy(),
            detections.score.copy(),
        )

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, chosen: NDArray) -> _Tracks:
        return _Tracks(*(getattr(self, column.name)[chosen] for column in fields(self)))

    def followed_by(self, others: _Tracks) -> _Tracks:
        return _Tracks(*(np.concatenate([getattr(self, c.name), getattr(others, c.name)]) for c in fields(self)))

    def predicted(self, dt_us: int) -> _Tracks:
        """Moved dt_us on; a lost track keeps its size, since an unseen change of size soon swallows the frame."""
        mean = self.mean.copy()
        mean[self.state == LOST, 6:] = 0
        return self._with_motion(*kalman.predict(mean, self.covariance, dt_us))

    def _with_motion(self, mean: kalman.Means, covariance: kalman.Covariances) -> _Tracks:
        return _Tracks(mean, covariance, *(getattr(self, column.name) for column in fields(self)[2:]))

    @property
    def boxes(self) -> NDArray[np.float64]:
        """(N, 4) xyxy of the filter."""
        return kalman.cxcywh_to_xyxy(self.mean)


class ByteTrack:
    """A tracker of one recording; make a new one for the next recording.

    Identities count from 1 per instance, in the order of confirmation, and are never used twice.
    """

    def __init__(self, settings: ByteTrackSettings | None = None) -> None:
        self.settings = settings or ByteTrackSettings()
        self._tracks = _Tracks.started(Boxes.empty(), UNCONFIRMED)
        self._time_us: int | None = None
        self._next_id = 1

    def update(self, detections: Boxes, t_us: int) -> Boxes:
        """The confirmed tracks that a detection of time t_us continues or starts, sorted by track_id.

        detections: all of time t_us, none is legal; their track_id is not looked at. The result carries the score
        and class of the detection. At the first update tracks are confirmed at once; later ones need
        `confirm_hits` updates in a row. Neither the order of detections nor anything but their values matters.
        Raises ValueError if t_us is not after the last update or a detection is of another time.
        """
        if self._time_us is not None and t_us <= self._time_us:
            raise ValueError(f"bytetrack: time must increase, got {t_us} us after {self._time_us} us")
        if len(detections) and (detections.t[0] != t_us or detections.t[-1] != t_us):
            raise ValueError(
                f"bytetrack: detections of {detections.t[0]} .. {detections.t[-1]} us in an update at {t_us} us; "
                "give those of one time, or move them with Boxes.at_time"
            )
        found = _in_fixed_order(detections)
        tracks = self._tracks[t_us - self._tracks.last_us <= self.settings.lost_us]
        if self._time_us is not None:
            tracks = tracks.predicted(t_us - self._time_us)
        pairs, unmatched_high = self._match(tracks, found)
        tracks = self._corrected(tracks, found, pairs, t_us)
        started = found[unmatched_high][found.score[unmatched_high] >= self.settings.new_score]
        at_once = self._time_us is None or self.settings.confirm_hits == 1
        tracks = tracks.followed_by(_Tracks.started(started, TRACKED if at_once else UNCONFIRMED))
        nameless = np.flatnonzero((tracks.state == TRACKED) & (tracks.track_id == 0))
        tracks.track_id[nameless] = self._next_id + np.arange(len(nameless))
        self._next_id += len(nameless)
        self._tracks = tracks[~self._duplicate(tracks)]
        self._time_us = t_us
        return self._seen()

    def _match(self, tracks: _Tracks, found: Boxes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(K, 2) pairs of a track and a detection, and the high-score detections left over."""
        settings = self.settings
        high = np.flatnonzero(found.score >= settings.high_score)
        low = np.flatnonzero((found.score >= settings.low_score) & (found.score < settings.high_score))

        confirmed = np.flatnonzero(tracks.state != UNCONFIRMED)
        first, rest, rest_high = self._assign(tracks, confirmed, found, high, settings.match_limit, fused=True)
        tracked = rest[tracks.state[rest] == TRACKED]
        second, _, _ = self._assign(tracks, tracked, found, low, settings.second_match_limit, fused=False)
        new = np.flatnonzero(tracks.state == UNCONFIRMED)
        third, _, rest_high = self._assign(tracks, new, found, rest_high, settings.unconfirmed_match_limit, fused=True)
        return np.concatenate([first, second, third]), rest_high

    def _assign(
        self, tracks: _Tracks, rows: NDArray, found: Boxes, columns: NDArray, limit: float, *, fused: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Pairs, left-over rows and left-over columns as indices into tracks and found."""
        similarity = overlap_similarity(
            tracks.boxes[rows],
            found.xyxy[columns],
            classes=(tracks.class_id[rows], found.class_id[columns]) if self.settings.class_aware else None,
            score=found.score[columns] if fused else None,
        )
        pairs, rest_rows, rest_columns = assign(similarity, 1 - limit)
        return (
            np.stack([rows[pairs[:, 0]], columns[pairs[:, 1]]], axis=1),
            rows[rest_rows],
            columns[rest_columns],
        )

    def _corrected(self, tracks: _Tracks, found: Boxes, pairs: NDArray[np.int64], t_us: int) -> _Tracks:
        """Matched tracks take their detection; others are lost, or dropped where they were never confirmed."""
        row, column = pairs.T
        new = tracks[np.arange(len(tracks))]  # a copy: every column is fancy-indexed
        new.mean[row], new.covariance[row] = kalman.update(
            tracks.mean[row], tracks.covariance[row], kalman.xyxy_to_cxcywh(found.xyxy[column])
        )
        new.hits[row] += 1
        new.last_us[row] = t_us
        new.class_id[row], new.score[row], new.xyxy[row] = (
            found.class_id[column],
            found.score[column],
            found.xyxy[column],
        )
        matched = np.zeros(len(tracks), bool)
        matched[row] = True
        unconfirmed = tracks.state == UNCONFIRMED
        confirmed_now = matched & (~unconfirmed | (new.hits >= self.settings.confirm_hits))
        new.state[confirmed_now] = TRACKED
        new.state[~matched] = LOST
        return new[matched | ~unconfirmed]

    def _duplicate(self, tracks: _Tracks) -> NDArray[np.bool_]:
        """Tracks that are one with another: of a seen and a lost track at one place the shorter-lived goes."""
        seen, lost = np.flatnonzero(tracks.state != LOST), np.flatnonzero(tracks.state == LOST)
        boxes, classes = tracks.boxes, tracks.class_id
        close = (
            overlap_similarity(
                boxes[seen],
                boxes[lost],
                classes=(classes[seen], classes[lost]) if self.settings.class_aware else None,
            )
            > 1 - self.settings.duplicate_limit
        )
        life = tracks.last_us - tracks.start_us
        seen_is_older = life[seen][:, None] > life[lost][None, :]
        duplicate = np.zeros(len(tracks), bool)
        duplicate[seen] = (close & ~seen_is_older).any(axis=1)
        duplicate[lost] = (close & seen_is_older).any(axis=0)
        return duplicate

    def _seen(self) -> Boxes:
        tracks = self._tracks[self._tracks.state == TRACKED]
        tracks = tracks[np.argsort(tracks.track_id)]
        boxes = tracks.boxes if self.settings.filtered_boxes else tracks.xyxy
        return Boxes.of(tracks.last_us, boxes, tracks.class_id, tracks.score, tracks.track_id)


def _in_fixed_order(detections: Boxes) -> Boxes:
    """Best score first, then by class and place: the order in the input must not decide identities."""
    return detections[np.lexsort((*detections.xyxy.T, detections.class_id, -detections.score))]
