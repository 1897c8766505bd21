"""Tracking scores: HOTA, CLEAR MOT and identity metrics of tracks at label times.

Station: labels and tracks of whole sequences go in, one table of scores comes out: per class, averaged over classes,
averaged over detections, and per sequence. Combination follows TrackEval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.errors import LabelError, SpiketrackError
from spiketrack.metrics.clear import Clear, clear_mot
from spiketrack.metrics.hota import Hota, hota
from spiketrack.metrics.identity import Identity, identity_f1
from spiketrack.metrics.overlaps import Overlaps
from spiketrack.metrics.protocols import NamedPair, check_sequences


@dataclass(frozen=True, slots=True, eq=False)
class TrackingScore:
    """One row of the table. hota, deta, assa, loca are means over the IoU thresholds 0.05 to 0.95.

    tp, fp, fn: boxes at IoU 0.5. mt, ml: label identities mostly tracked and mostly lost. labels: label boxes.
    hota_by_alpha: (19,) float64.
    """

    hota: float
    deta: float
    assa: float
    loca: float
    mota: float
    motp: float
    idf1: float
    idp: float
    idr: float
    idsw: int
    frag: int
    mt: int
    ml: int
    tp: int
    fp: int
    fn: int
    labels: int
    label_identities: int
    hota_by_alpha: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class TrackingScores:
    """Tracking scores over all sequences.

    class_average: rates are means over the classes that have labels or tracks, counts are sums. detection_average:
    every rate from the counts summed over classes. per_class: a class without labels and tracks is None.
    per_sequence: detection-averaged. tracks_elsewhere: track boxes at no label time, which count nowhere.
    """

    class_average: TrackingScore
    detection_average: TrackingScore
    per_class: dict[str, TrackingScore | None]
    per_sequence: dict[str, TrackingScore]
    label_times: int
    tracks_elsewhere: int


def tracking_scores(
    sequences: Sequence[NamedPair],
    class_names: Sequence[str],
    annotated: Mapping[str, NDArray[np.int64]] | None = None,
) -> TrackingScores:
    """Score tracks against labels at the label times of each sequence.

    sequences: (name, labels, tracks) of each recording, all boxes with identities. A label time is a time with a
    label of any class, or one of `annotated` (per recording, times in us at which every object has a label); a class
    without labels there still counts its tracks as false positives. Raises LabelError
    where there is no label at all, a label without identity or one identity twice at a time; SpiketrackError for
    tracks alike.
    """
    check_sequences(sequences, class_names, "tracks")
    per_class = [_Parts() for _ in class_names]
    per_sequence: dict[str, _Parts] = {}
    label_times = elsewhere = 0
    for name, labels, tracks in sequences:
        times = np.union1d(labels.t, (annotated or {}).get(name, labels.t))
        label_times += len(times)
        elsewhere += int(np.count_nonzero(~np.isin(tracks.t, times)))
        per_sequence[name] = _Parts()
        for class_id, class_name in enumerate(class_names):
            parts = _Parts.of(
                f"sequence {name!r}, class {class_name!r}",
                labels[labels.class_id == class_id],
                tracks[tracks.class_id == class_id],
                times,
            )
            per_class[class_id] += parts
            per_sequence[name] += parts
    if not any(len(labels) for _, labels, _ in sequences):
        raise LabelError(
            f"nothing to evaluate: no label in any of {len(sequences)} sequences; tracks are scored at label times"
        )
    rows = [parts.score() if parts.boxes else None for parts in per_class]
    return TrackingScores(
        _class_average([row for row in rows if row is not None]),
        _total(per_class).score(),
        dict(zip(class_names, rows, strict=True)),
        {name: parts.score() for name, parts in per_sequence.items()},
        label_times,
        elsewhere,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    clear: Clear = field(default_factory=Clear)
    identity: Identity = field(default_factory=Identity)
    hota: Hota = field(default_factory=Hota)

    @classmethod
    def of(cls, place: str, labels: Boxes, tracks: Boxes, times: NDArray[np.int64]) -> Self:
        try:
            overlaps = Overlaps.of(labels, tracks, times)
        except SpiketrackError as error:
            raise type(error)(f"{place}: {error}") from None
        return cls(clear_mot(overlaps), identity_f1(overlaps), hota(overlaps))

    def __add__(self, other: _Parts) -> _Parts:
        return _Parts(self.clear + other.clear, self.identity + other.identity, self.hota + other.hota)

    @property
    def boxes(self) -> int:
        return self.clear.tp + self.clear.fn + self.clear.fp

    def score(self) -> TrackingScore:
        clear, identity, by_alpha = self.clear, self.identity, self.hota
        return TrackingScore(
            hota=float(by_alpha.hota.mean()),
            deta=float(by_alpha.deta.mean()),
            assa=float(by_alpha.assa.mean()),
            loca=float(by_alpha.loca.mean()),
            mota=clear.mota,
            motp=clear.motp,
            idf1=identity.idf1,
            idp=identity.idp,
            idr=identity.idr,
            idsw=clear.idsw,
            frag=clear.frag,
            mt=clear.mt,
            ml=clear.ml,
            tp=clear.tp,
            fp=clear.fp,
            fn=clear.fn,
            labels=clear.tp + clear.fn,
            label_identities=clear.mt + clear.pt + clear.ml,
            hota_by_alpha=by_alpha.hota,
        )


def _total(parts: Iterable[_Parts]) -> _Parts:
    return sum(parts, start=_Parts())


def _class_average(rows: list[TrackingScore]) -> TrackingScore:
    columns = {part.name: [getattr(row, part.name) for row in rows] for part in fields(TrackingScore)}
    by_alpha = np.mean(columns.pop("hota_by_alpha"), axis=0)
    averages: dict[str, Any] = {
        name: sum(values) if isinstance(values[0], int) else float(np.mean(values)) for name, values in columns.items()
    }
    return TrackingScore(**averages, hota_by_alpha=by_alpha)
