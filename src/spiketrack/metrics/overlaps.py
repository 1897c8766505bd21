"""Overlaps: how the labels and tracks of one class in one sequence overlap, computed once for every tracking metric.

Station: labels and tracks with identities go in, the boxes of each label time with the IoU of every pair that
touches come out. Only touching pairs are kept, so the memory grows with them and not with labels times tracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.errors import LabelError, SpiketrackError

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """L labels and D tracks of one class at F label times, and the P pairs of them with an IoU above 0.

    label_first, track_first, pair_first: (F + 1,) int64, frame f holds the entries first[f] to first[f + 1].
    label_id: (L,) and track_id: (D,) int64, identities renumbered from 0. pair_label, pair_track: (P,) int64,
    indices of a label and a track. pair_iou: (P,) float64.
    """

    label_first: NDArray[np.int64]
    track_first: NDArray[np.int64]
    pair_first: NDArray[np.int64]
    label_id: NDArray[np.int64]
    track_id: NDArray[np.int64]
    pair_label: NDArray[np.int64]
    pair_track: NDArray[np.int64]
    pair_iou: NDArray[np.float64]

    @classmethod
    def of(cls, labels: Boxes, tracks: Boxes, times: NDArray[np.int64]) -> Overlaps:
        """Overlaps of labels and tracks (of one class) at the given sorted times; boxes of other times are left out.

        Two boxes with the same identity at one time raise LabelError (labels) or SpiketrackError (tracks), as does
        a box without identity.
        """
        from spiketrack.metrics.kernels import touching_by_time  # compiled

        labels, tracks = _at_times(labels, times), _at_times(tracks, times)
        _check_identities(labels, "labels", LabelError)
        _check_identities(tracks, "tracks", SpiketrackError)
        label_first = np.r_[np.searchsorted(labels.t, times), len(labels)]
        track_first = np.r_[np.searchsorted(tracks.t, times), len(tracks)]
        pair_first, pair_label, pair_track, pair_iou = touching_by_time(
            labels.xyxy.astype(np.float64), tracks.xyxy.astype(np.float64), label_first, track_first
        )
        return cls(
            label_first,
            track_first,
            pair_first,
            np.unique(labels.track_id, return_inverse=True)[1],
            np.unique(tracks.track_id, return_inverse=True)[1],
            pair_label,
            pair_track,
            pair_iou,
        )

    @property
    def frames(self) -> int:
        return len(self.label_first) - 1

    @property
    def label_ids(self) -> int:
        return int(self.label_id.max()) + 1 if len(self.label_id) else 0

    @property
    def track_ids(self) -> int:
        return int(self.track_id.max()) + 1 if len(self.track_id) else 0

    def identity_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The U distinct (label identity, track identity) among the pairs, and which of them each pair is: (P,)."""
        key = self.label_id[self.pair_label] * max(1, self.track_ids) + self.track_id[self.pair_track]
        distinct, which = np.unique(key, return_inverse=True)
        label_id, track_id = np.divmod(distinct, max(1, self.track_ids))
        return label_id, track_id, which

    @property
    def row_first(self) -> NDArray[np.int64]:
        """(L + 1,) first pair of each label; pairs stand in the order of their labels."""
        return np.searchsorted(self.pair_label, np.arange(len(self.label_id) + 1))

    def best_pairs(self, worth: NDArray[np.float64]) -> NDArray[np.int64]:
        """The pairs, indices into pair_iou, that match one to one at every time with the largest sum of (P,) worth.

        Pairs of different times have no box in common, so that one assignment solves all times.
        """
        from spiketrack.matching import best_pairs  # compiled

        partner = best_pairs(self.row_first, self.pair_track, worth, len(self.track_id))
        return np.flatnonzero(partner[self.pair_label] == self.pair_track)


def _at_times(boxes: Boxes, times: NDArray[np.int64]) -> Boxes:
    """The boxes of the given sorted times."""
    if not len(boxes) or not len(times):
        return boxes[:0]
    found = times[np.minimum(np.searchsorted(times, boxes.t), len(times) - 1)] == boxes.t
    return boxes if found.all() else boxes[found]


def _check_identities(boxes: Boxes, kind: str, error: type[SpiketrackError]) -> None:
    nameless = np.flatnonzero(boxes.track_id < 0)
    if len(nameless):
        raise error(
            f"{kind}: a box at {boxes.t[nameless[0]]} us has no identity (track_id {boxes.track_id[nameless[0]]}); "
            "tracking is scored between boxes with identities only"
        )
    order = np.lexsort((boxes.track_id, boxes.t))
    t, track_id = boxes.t[order], boxes.track_id[order]
    twice = np.flatnonzero((t[1:] == t[:-1]) & (track_id[1:] == track_id[:-1]))
    if len(twice):
        raise error(
            f"{kind}: identity {track_id[twice[0]]} stands twice at {t[twice[0]]} us in one class; "
            "an identity is one box at a time"
        )
