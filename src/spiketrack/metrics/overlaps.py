"""Overlaps: how the labels and tracks of one class in one sequence overlap, computed once for every tracking metric.

Station: labels and tracks with identities go in, the boxes of each label time with the IoU of every pair that
touches come out. Only touching pairs are kept, so the memory grows with them and not with labels times tracks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes, iou
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
        labels = labels[np.isin(labels.t, times)]
        tracks = tracks[np.isin(tracks.t, times)]
        _check_identities(labels, "labels", LabelError)
        _check_identities(tracks, "tracks", SpiketrackError)
        label_first = np.r_[np.searchsorted(labels.t, times), len(labels)]
        track_first = np.r_[np.searchsorted(tracks.t, times), len(tracks)]
        pairs: list[tuple[NDArray, NDArray, NDArray]] = []
        for frame in range(len(times)):
            first_label, first_track = label_first[frame], track_first[frame]
            overlap = iou(
                labels.xyxy[first_label : label_first[frame + 1]],
                tracks.xyxy[first_track : track_first[frame + 1]],
                np.float64,
            )
            rows, columns = np.nonzero(overlap)
            pairs.append((rows + first_label, columns + first_track, overlap[rows, columns]))
        return cls(
            label_first,
            track_first,
            np.cumsum([0, *(len(pair[0]) for pair in pairs)]),
            np.unique(labels.track_id, return_inverse=True)[1],
            np.unique(tracks.track_id, return_inverse=True)[1],
            *(
                np.concatenate([np.empty(0, dtype), *(pair[i] for pair in pairs)])
                for i, dtype in enumerate((np.int64, np.int64, np.float64))
            ),
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

    def matrix(self, frame: int, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """One value per pair as a (labels, tracks) matrix of the frame, 0 elsewhere, and the pair at each entry or -1.

        values: (p,) of the p pairs of this frame.
        """
        pairs = np.arange(self.pair_first[frame], self.pair_first[frame + 1])
        rows = self.pair_label[pairs] - self.label_first[frame]
        columns = self.pair_track[pairs] - self.track_first[frame]
        shape = (
            self.label_first[frame + 1] - self.label_first[frame],
            self.track_first[frame + 1] - self.track_first[frame],
        )
        value, pair = np.zeros(shape), np.full(shape, -1, np.int64)
        value[rows, columns] = values
        pair[rows, columns] = pairs
        return value, pair


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


def best_assignment(value: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the one-to-one assignment with the largest sum of `value`, (N, M)."""
    from scipy.optimize import linear_sum_assignment  # 0.4 s to import

    return linear_sum_assignment(value, maximize=True)
