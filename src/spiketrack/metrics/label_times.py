"""Label times: the images of a detection score, each with the labels and the detections that count there.

Station: labels and detections of whole sequences go in, what is compared with what comes out. Average precision, the
error breakdown, the confusion matrix and recall by size all stand on the same images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.metrics.protocols import NamedPair, Protocol, counted, counted_labels, label_period_us


class LabelTime(NamedTuple):
    """One image of COCO: the labels of one time, none where it is known to be empty, and its detections."""

    labels: Boxes
    detections: Boxes


@dataclass(frozen=True, slots=True, eq=False)
class LabelTimes:
    """All images of an evaluation, in order.

    given: labels before the protocol's filter. elsewhere: detections that passed the filter but lie at no label time.
    warnings: sentences for a user.
    """

    images: list[LabelTime]
    given: int
    elsewhere: int
    warnings: tuple[str, ...]


def label_times(
    sequences: Sequence[NamedPair], protocol: Protocol, annotated: Mapping[str, NDArray[np.int64]] | None = None
) -> LabelTimes:
    """The label times of all sequences after the protocol's filter; arguments as of `average_precision`."""
    tolerance = protocol.tolerance_us or 0
    images: list[LabelTime] = []
    given = elsewhere = 0
    warnings: list[str] = []
    for name, labels, detections in sequences:
        given += len(labels)
        empty = np.setdiff1d((annotated or {}).get(name, ()), labels.t).astype(np.int64)
        empty = empty if protocol.skip_us is None else empty[empty > protocol.skip_us]
        labels, detections = counted_labels(labels, protocol), counted(detections, protocol)
        inside = np.zeros(len(detections), bool)
        for time, labels_then in [*labels.by_time(), *((int(time), Boxes.empty()) for time in empty)]:
            first, last = np.searchsorted(detections.t, (time - tolerance, time + tolerance + 1))
            inside[first:last] = True
            images.append(LabelTime(labels_then, detections[first:last]))
        elsewhere += int(np.count_nonzero(~inside))
        period = label_period_us(labels)
        if period is not None and 2 * tolerance >= period:
            warnings.append(
                f"sequence {name!r}: a tolerance of {tolerance} us reaches half the label period of {period} us or "
                "more, so detections of one label time also count at its neighbours; use less than "
                f"{(period + 1) // 2} us"
            )
    return LabelTimes(images, given, elsewhere, tuple(warnings))
