"""Timelines: when each labelled object was tracked, by which track, and when its identity changed.

Station: labels and tracks of one sequence go in, spans of time come out, for a chart and for looking up what the counts
of CLEAR MOT are made of. Boxes are paired by the same rules as MOTA's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import NO_TRACK, Boxes
from spiketrack.metrics.clear import MATCH_IOU
from spiketrack.metrics.overlaps import EPSILON, Overlaps

_KEEP = 1000.0  # worth of going on with the track of the last matched time, against an IoU of at most 1


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive label times of one object, first_us to last_us, on which one track, or none (NO_TRACK), is."""

    track_id: int
    first_us: int
    last_us: int
    times: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """One labelled object. spans: in order of time, together all its label times. switches: changes of its track."""

    label_id: int
    class_id: int
    spans: tuple[Span, ...]
    switches: int

    @property
    def times(self) -> int:
        return sum(span.times for span in self.spans)

    @property
    def tracked(self) -> int:
        """At how many of its label times a track is on it."""
        return sum(span.times for span in self.spans if span.track_id != NO_TRACK)


@dataclass(frozen=True, slots=True)
class StrayTrack:
    """A track's boxes that lie on no label of its class, at label times."""

    track_id: int
    class_id: int
    first_us: int
    last_us: int
    boxes: int


def track_timelines(
    labels: Boxes, tracks: Boxes, classes: int, annotated: NDArray[np.int64] | None = None
) -> tuple[list[Timeline], list[StrayTrack]]:
    """The timeline of every labelled object of a sequence, and what its tracks had beside them.

    annotated: label times without labels, as of `tracking_scores`. Objects stand in the order of class and first time.
    Raises LabelError or SpiketrackError for a box without identity or one identity twice at a time.
    """
    times = np.union1d(labels.t, labels.t if annotated is None else annotated)
    timelines, strays = [], []
    for class_id in range(classes):
        of_class = labels[labels.class_id == class_id]
        tracks_of_class = tracks[(tracks.class_id == class_id) & np.isin(tracks.t, times)]
        partner = _partners(Overlaps.of(of_class, tracks_of_class, times))
        timelines += sorted(_timelines(of_class, tracks_of_class, partner), key=lambda item: item.spans[0].first_us)
        strays += _strays(tracks_of_class, partner)
    return timelines, strays


def _partners(overlaps: Overlaps) -> NDArray[np.int64]:
    """The index of the track box on each label, -1 for none: (L,)."""
    from spiketrack.matching import best_pairs  # compiled

    partner = np.full(len(overlaps.label_id), -1, np.int64)
    row_first = overlaps.row_first
    before = np.full(overlaps.label_ids, -1, np.int64)  # at the previous time with labels and tracks
    for frame in range(overlaps.frames):
        first, end = overlaps.label_first[frame : frame + 2]
        first_track, end_track = overlaps.track_first[frame : frame + 2]
        if first == end or first_track == end_track:
            continue
        label_id = overlaps.label_id[first:end]
        pairs = slice(row_first[first], row_first[end])
        columns = overlaps.pair_track[pairs] - first_track
        worth = np.where(overlaps.pair_iou[pairs] >= MATCH_IOU - EPSILON, overlaps.pair_iou[pairs], 0.0)
        same = overlaps.track_id[overlaps.pair_track[pairs]] == before[overlaps.label_id[overlaps.pair_label[pairs]]]
        worth += _KEEP * (same & (worth > 0))
        found = best_pairs(row_first[first : end + 1] - row_first[first], columns, worth, int(end_track - first_track))
        matched = found >= 0
        partner[first:end][matched] = found[matched] + first_track
        before = np.full(overlaps.label_ids, -1, np.int64)
        before[label_id[matched]] = overlaps.track_id[found[matched] + first_track]
    return partner


def _timelines(labels: Boxes, tracks: Boxes, partner: NDArray[np.int64]) -> list[Timeline]:
    track_of = np.full(len(labels), NO_TRACK, np.int64)
    track_of[partner >= 0] = tracks.track_id[partner[partner >= 0]]
    found = []
    for label_id in np.unique(labels.track_id):
        own = np.flatnonzero(labels.track_id == label_id)
        track, t = track_of[own], labels.t[own]
        starts = np.flatnonzero(np.r_[True, track[1:] != track[:-1]])
        spans = tuple(
            Span(int(track[first]), int(t[first]), int(t[end - 1]), int(end - first))
            for first, end in zip(starts, [*starts[1:], len(own)], strict=True)
        )
        tracked = track[track != NO_TRACK]
        switches = int(np.count_nonzero(tracked[1:] != tracked[:-1]))
        found.append(Timeline(int(label_id), int(labels.class_id[own[0]]), spans, switches))
    return found


def _strays(tracks: Boxes, partner: NDArray[np.int64]) -> list[StrayTrack]:
    alone = np.ones(len(tracks), bool)
    alone[partner[partner >= 0]] = False
    rest = tracks[alone]
    found = []
    for track_id in np.unique(rest.track_id).tolist():
        own = rest[rest.track_id == track_id]
        found.append(StrayTrack(track_id, int(own.class_id[0]), int(own.t[0]), int(own.t[-1]), len(own)))
    return found
