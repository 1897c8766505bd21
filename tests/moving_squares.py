"""A tiny data set in eTraM's layout, written by hand: in every sequence one square drifts over a 64 x 64 sensor.

Sequence i shows class i mod 2, whose squares differ in size. Labels stand at the ends of slices of SLICE_US.
"""

from pathlib import Path

import numpy as np

from spiketrack.boxes import Boxes
from spiketrack.events import Events
from spiketrack.recordings import EventWriter, save_labels

SLICE_US = 20_000
CLASS_NAMES = ("small", "large")
SIDES_PX = (16, 30)
EVENTS_PER_SLICE = 200


def square_at(class_id: int, t_us: int, rng_start: tuple[float, float]) -> tuple[float, float, float, float]:
    """left, top, right, bottom: 40 px/s to the right, 20 px/s down."""
    x, y = rng_start[0] + 40e-6 * t_us, rng_start[1] + 20e-6 * t_us
    half = SIDES_PX[class_id] / 2
    return x - half, y - half, x + half, y + half


def square_sequence(seed: int, class_id: int, slices: int, side: int = 64) -> tuple[Events, Boxes]:
    """Events on the border of the square (ON ahead, OFF behind), and its box at the end of every slice."""
    rng = np.random.default_rng(seed)
    start = tuple(rng.uniform(18, 34, 2).tolist())
    n = slices * EVENTS_PER_SLICE
    t = np.sort(rng.integers(0, slices * SLICE_US, n))
    along, edge = rng.uniform(0, 1, n), rng.integers(0, 4, n)  # left, top, right, bottom
    left, top, right, bottom = np.array([square_at(class_id, int(time), start) for time in t]).T
    x = np.select([edge == 0, edge == 2], [left, right], left + along * (right - left))
    y = np.select([edge == 1, edge == 3], [top, bottom], top + along * (bottom - top))
    columns = np.clip(np.floor([x, y]), 0, side - 1).astype(np.uint16)
    events = Events(t, *columns, (edge >= 2).astype(np.uint8), side, side)
    times = SLICE_US * np.arange(1, slices + 1)
    boxes = np.clip([square_at(class_id, int(time), start) for time in times], 0, side)
    return events, Boxes.of(times, boxes, class_id, track_id=np.ones(slices))


def write_sequence(folder: Path, name: str, events: Events, labels: Boxes | None) -> Path:
    """Write <name>_td.h5 and, unless None, <name>_bbox.npy; returns the path of the events."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_td.h5"
    with EventWriter(path, events.width, events.height) as writer:
        writer.append(events)
    if labels is not None:
        save_labels(folder / f"{name}_bbox.npy", labels)
    return path


def write_squares(root: Path, *, train: int = 4, val: int = 2, test: int = 2, slices: int = 8) -> Path:
    """A whole data set with class list; returns root."""
    for number, (split, count) in enumerate({"train": train, "val": val, "test": test}.items()):
        for i in range(count):
            events, labels = square_sequence(100 * number + i, i % 2, slices)
            write_sequence(root / "HDF5" / split, f"{split}_{i}", events, labels)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASS_NAMES))
    return root
