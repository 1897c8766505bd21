"""Cut-outs: what a box of a labelled recording holds, as a sample to classify.

Station: between labelled sequences (etram.py, GEN1's layout too) and classified samples. The events of the time before
a label that lie within its box are a sample of the box's class; the box becomes its sensor. GEN1 Automotive
Classification is made so (Cordone et al., IJCNN 2022), there with each object left at its place in the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketrack.datasets.etram import find_sequences
from spiketrack.events import Events


@dataclass(frozen=True, slots=True)
class Cutout:
    """One box of a recording, in the shape of a `Sample`.

    sensor: (width, height) of the recording; left, top, width, height: the box, in whole pixels of it. end_us: the
    time of its label.
    """

    path: Path
    class_name: str
    class_id: int
    split: str
    sensor: tuple[int, int]
    left: int
    top: int
    width: int
    height: int
    end_us: int

    @property
    def name(self) -> str:
        """Where the sample comes from, for messages."""
        return f"{self.path} at {self.end_us} us, x {self.left}, y {self.top}"

    def cut(self, events: Events) -> Events:
        """The events within the box, their pixels counted from its corner; copies."""
        inside = (events.x >= self.left) & (events.x < self.left + self.width)
        inside &= (events.y >= self.top) & (events.y < self.top + self.height)
        t, x, y, p = events.t[inside], events.x[inside], events.y[inside], events.p[inside]
        return Events(t, x - np.uint16(self.left), y - np.uint16(self.top), p, self.width, self.height)


def find_cutouts(root: Path, split: str, class_names: tuple[str, ...]) -> list[Cutout]:
    """Every box of a split, in order of sequence and time. Raises as `find_sequences` does."""
    found = []
    for sequence in find_sequences(root, split, class_names):
        labels = sequence.labels
        corners = np.concatenate([np.floor(labels.xyxy[:, :2]), np.ceil(labels.xyxy[:, 2:])], axis=1).astype(int)
        for (left, top, right, bottom), class_id, t in zip(
            corners.tolist(), labels.class_id.tolist(), labels.t.tolist(), strict=True
        ):
            box = (left, top, right - left, bottom - top)
            sensor = (sequence.width, sequence.height)
            found.append(Cutout(sequence.path, class_names[class_id], class_id, split, sensor, *box, t))
    return found
