"""Tracks: the records of a tracker, and the course of an update that all trackers share.

Station: `ByteTrack` and `OCSort` are this object with their own way to match and to correct. A track is one record
of a NumPy array, which the compiled loops of `kernels` read and write; no Python object stands for a track.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes

if TYPE_CHECKING:
    from spiketrack.events import Events
    from spiketrack.tracking.settings import ByteTrackSettings, OCSortSettings

UNCONFIRMED, TRACKED, LOST = range(3)
_PAST = 8  # detections kept for the direction

TRACK = np.dtype(
    [
        ("mean", np.float64, (8,)),  # kalman
        ("covariance", np.float64, (3, 4)),
        ("box", np.float64, (4,)),  # xyxy of mean
        ("xyxy", np.float64, (4,)),  # last detection
        ("score", np.float64),
        ("class_id", np.int64),
        ("state", np.int64),
        ("track_id", np.int64),  # 0 until confirmed
        ("hits", np.int64),
        ("start_us", np.int64),
        ("last_us", np.int64),
        # of OC-SORT
        ("missed", np.int64),  # updates since the last detection
        ("kept_mean", np.float64, (8,)),  # filter after the last detection
        ("kept_covariance", np.float64, (3, 4)),
        ("before", np.float64, (2,)),  # centre of a detection about momentum_us before the last one
        ("past_centre", np.float64, (_PAST, 2)),
        ("past_us", np.int64, (_PAST,)),
        ("past", np.int64),  # detections put into past_* so far
    ],
    align=True,
)
Records = NDArray[Any]  # of TRACK or FOUND
FOUND = np.dtype([("xyxy", np.float64, (4,)), ("score", np.float64), ("class_id", np.int64)], align=True)


class Tracker:
    """A tracker of one recording; make a new one for the next recording.

    Identities count from 1 per instance, in the order of confirmation, and are never used twice.
    """

    _name: ClassVar[str]

    def __init__(self, settings: ByteTrackSettings | OCSortSettings) -> None:
        self._settings = settings
        self._tracks: Records = np.zeros(0, TRACK)
        self._look = np.zeros((0, 0))  # (N, D)
        self._time_us: int | None = None
        self._next_id = 1
        self._updates = 0

    def update(
        self,
        detections: Boxes,
        t_us: int,
        *,
        embeddings: NDArray[np.floating] | None = None,
        events: Events | None = None,
    ) -> Boxes:
        """The confirmed tracks that a detection of time t_us continues or starts, sorted by track_id.

        detections: all of time t_us, none is legal; their track_id is not looked at. embeddings: (N, D), how each
        detection looks, of any length; a row of zeros is unknown. events: those since the last update; others are not
        looked at. The result carries the score and class of the detection. Neither the order of detections nor
        anything but their values matters. Raises ValueError if t_us is not after the last update, a detection is of
        another time, or embeddings do not fit; the tracker is then as before.
        """
        from spiketrack.tracking import kernels  # compiled

        self._check_times(detections, t_us)
        found, found_look = self._in_fixed_order(detections, embeddings)
        tracks, look = self._tracks, self._look
        current = t_us - tracks["last_us"] <= self._settings.lost_us
        if not current.all():
            tracks, look = tracks[current], look[current]
        if self._time_us is not None and len(tracks):
            kernels.advance(tracks, (t_us - self._time_us) * 1e-6, *self._motion(tracks, t_us, events))
        partner, taken = self._match(tracks, found, look, found_look)
        stays = self._correct(tracks, found, partner, t_us)
        kernels.remember(look, found_look, partner, self._settings.embedding.memory)
        chosen = kernels.open_found(found, taken, self._new_score, 2.0)
        new = np.zeros(len(chosen), TRACK)
        kernels.start(new, found, chosen, t_us, TRACKED if self._confirms_at_once() else UNCONFIRMED)
        self._begin(new)
        self._adopt(tracks, look, stays, new, found_look[chosen])
        self._next_id = kernels.name(self._tracks, self._next_id)
        self._finish()
        self._time_us = t_us
        self._updates += 1
        return Boxes(*kernels.seen(self._tracks, self._settings.filtered_boxes, t_us))

    @property
    def _new_score(self) -> float:
        """Detections from this score on may start a track."""
        raise NotImplementedError

    def _match(
        self, tracks: Records, found: Records, look: NDArray, found_look: NDArray
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The detection of each track or ALONE, (N,), and which detections must not start a track, (M,)."""
        raise NotImplementedError

    def _correct(self, tracks: Records, found: Records, partner: NDArray[np.int64], t_us: int) -> NDArray[np.bool_]:
        """Change the tracks by their detections; returns which stay, (N,)."""
        raise NotImplementedError

    def _confirms_at_once(self) -> bool:
        """Whether a track that starts in this update counts from it on."""
        raise NotImplementedError

    def _begin(self, new: Records) -> None:
        """Complete the records of tracks that have just started."""

    def _finish(self) -> None:
        """What is left to do once all tracks are numbered."""

    def _check_times(self, detections: Boxes, t_us: int) -> None:
        if self._time_us is not None and t_us <= self._time_us:
            raise ValueError(f"{self._name}: time must increase, got {t_us} us after {self._time_us} us")
        if len(detections) and (detections.t[0] != t_us or detections.t[-1] != t_us):
            raise ValueError(
                f"{self._name}: detections of {detections.t[0]} .. {detections.t[-1]} us in an update at {t_us} us; "
                "give those of one time, or move them with Boxes.at_time"
            )

    def _looks(self, embeddings: NDArray[np.floating] | None, n: int) -> NDArray[np.float64]:
        """(N, D) embeddings of length 1; D is that of the first given ones, 0 before."""
        if embeddings is None:
            return np.zeros((n, self._look.shape[1]))
        look = np.array(embeddings, np.float64)
        known = self._look.shape[1]
        if look.ndim != 2 or len(look) != n or not look.shape[1] or known not in (0, look.shape[1]):
            raise ValueError(
                f"{self._name}: embeddings must be ({n}, {known or 'D'}), a row for each detection and of one length "
                f"for all updates, got {look.shape}"
            )
        if not np.isfinite(look).all():
            raise ValueError(f"{self._name}: an embedding is not finite; leave it out with a row of zeros")
        length = np.linalg.norm(look, axis=1, keepdims=True)
        return np.divide(look, length, out=look, where=length > 0)

    def _in_fixed_order(
        self, detections: Boxes, embeddings: NDArray[np.floating] | None
    ) -> tuple[Records, NDArray[np.float64]]:
        """Best score first, then by class and place: the order in the input must not decide identities."""
        look = self._looks(embeddings, len(detections))
        if look.shape[1] != self._look.shape[1]:
            self._look = np.zeros((len(self._tracks), look.shape[1]))
        order = np.lexsort((*detections.xyxy.T, detections.class_id, -detections.score))
        found: Records = np.empty(len(detections), FOUND)
        found["xyxy"], found["score"] = detections.xyxy[order], detections.score[order]
        found["class_id"] = detections.class_id[order]
        return found, look[order]

    def _motion(
        self, tracks: Records, t_us: int, events: Events | None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Velocities that the events since the last update show, (N, 2) px/s, and their variances, inf for none."""
        settings = self._settings.events
        if events is None or self._time_us is None or not settings.enabled or not len(tracks):
            return np.zeros((len(tracks), 2)), np.full((len(tracks), 2), np.inf)
        from spiketrack.tracking.event_motion import observed_motion  # compiled

        return observed_motion(tracks, events, self._time_us, t_us, settings)

    def _adopt(
        self,
        tracks: Records,
        look: NDArray[np.float64],
        stays: NDArray[np.bool_],
        new: Records,
        new_look: NDArray[np.float64],
    ) -> None:
        """Take the tracks that stay and the new ones as the tracker's own."""
        if not stays.all():
            tracks, look = tracks[stays], look[stays]
        if len(new):
            both: Records = np.empty(len(tracks) + len(new), TRACK)
            both[: len(tracks)], both[len(tracks) :] = tracks, new
            tracks, look = both, np.concatenate([look, new_look])
        self._tracks, self._look = tracks, look
