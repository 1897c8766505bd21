"""Protocols: which labels and detections count, and which detections belong to a label time.

Station: boxes go in before any matching, the boxes that count come out. Published numbers differ by these rules
alone, so every score names the protocol it was computed under. Source: the Prophesee evaluation toolbox, RVT, and
Cordone et al.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np

from spiketrack.boxes import Boxes
from spiketrack.errors import LabelError, SettingsError, SpiketrackError

NamedPair = tuple[str, Boxes, Boxes]

_GRID_START_US, _GRID_JITTER_US = 100_000, 2_000


@dataclass(frozen=True, slots=True)
class Protocol:
    """Rules that choose the boxes of an evaluation; applied alike to labels and to detections.

    A box counts if w*w + h*h >= min_diagonal**2, w >= min_side and h >= min_side (sensor pixels), and t > skip_us
    (microseconds from the start of the recording; None keeps every time). Detections of a label time ts are those
    with ts - tolerance_us <= t <= ts + tolerance_us; None means exactly at ts. grid_us: the grid of times on which
    labels count, see `counted_labels`; None takes all.
    """

    name: str
    min_diagonal: float = 0.0
    min_side: float = 0.0
    skip_us: int | None = None
    tolerance_us: int | None = None
    grid_us: int | None = None

    def __post_init__(self) -> None:
        for field in ("min_diagonal", "min_side", "skip_us", "tolerance_us", "grid_us"):
            value = getattr(self, field)
            if value is not None and not value >= 0:
                raise SettingsError(f"protocol {self.name!r}: {field} must not be negative, got {value}")

    def __str__(self) -> str:
        skip = "no skip" if self.skip_us is None else f"t > {self.skip_us} us"
        return (
            f"{self.name} (diagonal >= {self.min_diagonal:g} px, sides >= {self.min_side:g} px, {skip}, "
            f"detections within {self.tolerance_us or 0} us of a label time"
            + (f", labels every {self.grid_us} us)" if self.grid_us else ")")
        )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("prophesee-gen1", min_diagonal=30, min_side=10, skip_us=500_000),
        Protocol("rvt-gen1", min_diagonal=30, min_side=10, skip_us=500_000, grid_us=250_000),
        Protocol("prophesee-1mpx", min_diagonal=60, min_side=20, skip_us=500_000),
        # labels of 1Mpx and eTraM halved to 640 x 360
        Protocol("prophesee-etram", min_diagonal=30, min_side=10, skip_us=500_000),
        Protocol("cordone", min_diagonal=30, min_side=20),
        Protocol("unfiltered"),
    )
}


def protocol_named(name: str, tolerance_us: int | None = None) -> Protocol:
    """The protocol of that name, with the given tolerance; an unknown name raises SettingsError."""
    if name not in PROTOCOLS:
        nearest = get_close_matches(name, PROTOCOLS, n=1, cutoff=0)[0]
        raise SettingsError(f"protocol {name!r} is unknown; did you mean {nearest!r}? Known are {', '.join(PROTOCOLS)}")
    return replace(PROTOCOLS[name], tolerance_us=tolerance_us)


def counted(boxes: Boxes, protocol: Protocol) -> Boxes:
    """The boxes that count under the protocol."""
    width, height = boxes.size.astype(np.float64).T
    keep = (width**2 + height**2 >= protocol.min_diagonal**2) & (np.minimum(width, height) >= protocol.min_side)
    if protocol.skip_us is not None:
        keep &= boxes.t > protocol.skip_us
    return boxes[keep]


def counted_labels(labels: Boxes, protocol: Protocol) -> Boxes:
    """The labels that count: `counted`, of times on the protocol's grid.

    The grid begins at the first time from 100 ms on that has a label of sufficient size, and each further time is kept
    that lies within 2 ms of a whole number of grid_us after the last one kept, as RVT prepares its data.
    """
    if protocol.grid_us is None:
        return counted(labels, protocol)
    times = np.unique(counted(labels, replace(protocol, skip_us=None)).t)
    kept: list[int] = []
    for time in times[times >= _GRID_START_US].tolist():
        steps = round((time - kept[-1]) / protocol.grid_us) if kept else 0
        if not kept or (steps and abs(time - kept[-1] - steps * protocol.grid_us) <= _GRID_JITTER_US):
            kept.append(time)
    return counted(labels[np.isin(labels.t, kept)], protocol)


def label_period_us(labels: Boxes) -> int | None:
    """The usual time between neighbouring label times (their median), None where there are fewer than two."""
    steps = np.diff(np.unique(labels.t))
    return int(np.median(steps)) if len(steps) else None


def check_sequences(sequences: Sequence[NamedPair], class_names: Sequence[str], what: str) -> None:
    """Refuse a name used twice and a class id outside the class list, in labels or in `what` (the other boxes)."""
    if len(set(class_names)) < len(class_names) or not class_names:
        raise SettingsError(f"class names must be distinct and at least one, got {list(class_names)}")
    seen: set[str] = set()
    for name, labels, others in sequences:
        if name in seen:
            raise SpiketrackError(f"sequence {name!r} is given twice; each recording is evaluated once")
        seen.add(name)
        for kind, boxes, error in (("labels", labels, LabelError), (what, others, SpiketrackError)):
            beyond = np.flatnonzero(boxes.class_id >= len(class_names))
            if len(beyond):
                i = beyond[0]
                raise error(
                    f"{kind} of sequence {name!r}: class {boxes.class_id[i]} at {boxes.t[i]} us, but the class list "
                    f"has {len(class_names)} names ({', '.join(class_names)}); give the list these boxes belong to"
                )
