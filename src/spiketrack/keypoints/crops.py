"""Crops: the events around labelled pedestrians of a simulated data set, with their joints.

Station: in come recordings with annotations (datasets/simulated.py), out come `Crops`: for each pedestrian and label
time the events of the time before it in a window around the box of the label, and the fifteen joints. Cutting reads
every recording once; a folder keeps the result, so that later runs start at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.datasets.etram import LabelledSequence, find_sequences, read_class_names
from spiketrack.errors import LabelError, SettingsError
from spiketrack.events import Events, Window
from spiketrack.keypoints.joints import JOINTS
from spiketrack.replacing import Replacement, write_whole
from spiketrack.traffic.annotations import ANNOTATION_DTYPE

# t: microseconds before the label, 1 for the last one; x, y: pixels from the corner of the crop
CROP_EVENT_DTYPE = np.dtype([("before_us", "<u4"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])

# box, whole: xyxy of the label and of the body, left, top, width, height: the crop, keypoints: x, y, in sight; all in
# sensor pixels. first, count: its events.
CROP_DTYPE = np.dtype(
    [
        ("recording", "<u4"),
        ("t", "<i8"),
        ("track_id", "<u4"),
        ("box", "<f4", (4,)),
        ("whole", "<f4", (4,)),
        ("left", "<i4"),
        ("top", "<i4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("keypoints", "<f4", (len(JOINTS), 3)),
        ("first", "<i8"),
        ("count", "<i8"),
    ]
)

Progress = Callable[[int, int, str], None]


class CropSettings(BaseModel):
    """Which pedestrians, and how much of the picture around them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enlarge: float = Field(1.3, ge=1, le=4, description="height of a crop, in heights of the label's box")
    min_height: float = Field(32.0, ge=1, description="least height of a label's box, sensor pixels")
    class_name: str = Field("pedestrian", description="the class, of classes.txt, that has joints")

    def region(self, box: NDArray[np.floating], aspect: float) -> tuple[int, int, int, int]:
        """Left, top, width and height of the crop around a box xyxy, whole pixels; aspect: its width over its height.

        A box that is wide for its height is held whole.
        """
        x0, y0, x1, y1 = (float(value) for value in box)
        height = max(1, round(self.enlarge * max(y1 - y0, (x1 - x0) / aspect)))
        width = max(1, round(height * aspect))
        return round((x0 + x1 - width) / 2), round((y0 + y1 - height) / 2), width, height


@dataclass(frozen=True, eq=False)
class Crops:
    """Crops of one split. rows: (N,) CROP_DTYPE. events: CROP_EVENT_DTYPE of all. recordings: names, by number."""

    rows: NDArray[Any]
    events: NDArray[Any]
    recordings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """Where a crop comes from, for messages."""
        row = self.rows[index]
        return f"{self.recordings[row['recording']]} at {row['t']} us, track {row['track_id']}"

    def window(self, index: int, duration_us: int) -> Window:
        """The events of a crop: the crop is the sensor, the label stands at time 0, the end of the window."""
        row = self.rows[index]
        found = self.events[int(row["first"]) : int(row["first"] + row["count"])]
        t = -found["before_us"].astype(np.int64)
        columns = (np.ascontiguousarray(found[name]) for name in "xyp")
        return Window.of(Events.trusted(t, *columns, int(row["width"]), int(row["height"])), -duration_us, 0)


def cut(window: Window, region: tuple[int, int, int, int]) -> NDArray[Any]:
    """The events of a window within left, top, width, height, as CROP_EVENT_DTYPE; what is off the sensor is empty."""
    left, top, width, height = region
    x, y = window.x.astype(np.int32) - left, window.y.astype(np.int32) - top
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    events: NDArray[Any] = np.empty(int(inside.sum()), CROP_EVENT_DTYPE)
    events["before_us"] = window.end_us - window.t[inside]
    events["x"], events["y"], events["p"] = x[inside], y[inside], window.p[inside]
    return events


def find_crops(
    root: Path,
    split: str,
    settings: CropSettings,
    *,
    duration_us: int,
    aspect: float,
    every: int = 1,
    cache: Path | None = None,
    progress: Progress = lambda done, total, name: None,
) -> Crops:
    """The crops of a split, read from `cache` where the same were cut before, else cut and kept there.

    duration_us: time before a label that a crop covers; labels earlier than that in a recording are left out. every:
    takes every so manieth label time of a recording. Raises SettingsError or LabelError where the data set has no such
    class, no annotations or no pedestrian that is large enough.
    """
    identity = {
        "root": str(Path(root).resolve()),
        "split": split,
        "crops": settings.model_dump(),
        "duration_us": duration_us,
        "aspect": aspect,
        "every": every,
    }
    folder = None if cache is None else Path(cache) / f"{split}-{_digest(identity)}"
    if folder is not None and (kept := _read_kept(folder, identity)) is not None:
        return kept
    names = read_class_names(root)
    if settings.class_name not in names:
        raise SettingsError(f"data.crops.class_name: {settings.class_name!r} is no class of {root}: {', '.join(names)}")
    sequences = find_sequences(root, split, names)
    class_id, rows, events, count = names.index(settings.class_name), [], [], 0
    for number, sequence in enumerate(sequences):
        progress(number, len(sequences), sequence.name)
        chosen = _chosen(sequence, class_id, settings, duration_us, every)
        if not len(chosen):
            continue
        cut_rows, cut_events = _cut_all(sequence, chosen, settings, duration_us, aspect)
        cut_rows["recording"] = number
        cut_rows["first"] += count
        count += len(cut_events)
        rows.append(cut_rows)
        events.append(cut_events)
    if not rows:
        raise LabelError(
            f"{root}: no {settings.class_name} of split {split} is {settings.min_height:g} pixels high or more; lower "
            "data.crops.min_height or simulate larger ones"
        )
    crops = Crops(np.concatenate(rows), np.concatenate(events), tuple(sequence.name for sequence in sequences))
    if folder is not None:
        _keep(folder, crops, identity)
    return crops


def _chosen(
    sequence: LabelledSequence, class_id: int, settings: CropSettings, duration_us: int, every: int
) -> NDArray[Any]:
    """The annotations of a recording that become crops: labelled, large enough, with joints and at least one seen."""
    rows = read_annotations(sequence.path)
    times = np.unique(rows["t"])
    rows = rows[np.isin(rows["t"], times[times >= duration_us][::every])]
    rows = rows[(rows["class_id"] == class_id) & rows["labelled"]]
    high = rows["visible"][:, 3] - rows["visible"][:, 1] >= settings.min_height
    joints = rows["keypoints"]
    return rows[high & np.isfinite(joints).all((1, 2)) & (joints[..., 2] > 0).any(1)]


def read_annotations(recording: Path) -> NDArray[Any]:
    """The annotations beside a simulated recording. Raises LabelError where there are none of this version."""
    path = recording.with_name(recording.name.split("_td.")[0] + "_annotations.npy")
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise LabelError(
            f"{path}: no annotations with joints ({reason}); `spiketrack simulate` writes them beside a recording"
        ) from error
    if rows.dtype != ANNOTATION_DTYPE:
        raise LabelError(f"{path}: not the annotations of this version's simulator; simulate the data set again")
    return rows


def _cut_all(
    sequence: LabelledSequence, chosen: NDArray[Any], settings: CropSettings, duration_us: int, aspect: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows and events of the crops of one recording, which is read once."""
    events = sequence.open().read(int(chosen["t"].min()) - duration_us, int(chosen["t"].max()))
    rows, parts, count = np.zeros(len(chosen), CROP_DTYPE), [], 0
    for row, seen in zip(rows, chosen, strict=True):
        region = settings.region(seen["visible"], aspect)
        part = cut(Window.of(events, int(seen["t"]) - duration_us, int(seen["t"])), region)
        row["t"], row["track_id"], row["box"], row["whole"] = (
            seen[name] for name in ("t", "track_id", "visible", "whole")
        )
        row["left"], row["top"], row["width"], row["height"] = region
        row["keypoints"], row["first"], row["count"] = seen["keypoints"], count, len(part)
        count += len(part)
        parts.append(part)
    return rows, np.concatenate(parts)


def _keep(folder: Path, crops: Crops, identity: dict[str, Any]) -> None:
    """Write crops; what they are comes last, so that a folder with it is complete."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "crops.json").unlink(missing_ok=True)
        for name, array in (("rows", crops.rows), ("events", crops.events)):
            replacement = Replacement(folder / f"{name}.npy")
            try:
                with open(replacement.temporary, "xb") as file:
                    np.save(file, array)
                replacement.commit()
            finally:
                replacement.discard()
    except OSError as error:
        raise SettingsError(f"{folder}: crops cannot be kept ({error.strerror}); name another data.cache") from error
    record = {"of": identity, "recordings": list(crops.recordings)}
    write_whole(folder / "crops.json", json.dumps(record, indent=1), SettingsError)


def _read_kept(folder: Path, identity: dict[str, Any]) -> Crops | None:
    """The crops in a folder, their events mapped from the file; None where there are none or others."""
    try:
        record = json.loads((folder / "crops.json").read_text(encoding="utf-8"))
        if record["of"] != identity:
            return None
        rows = np.load(folder / "rows.npy", allow_pickle=False)
        events = np.load(folder / "events.npy", mmap_mode="r", allow_pickle=False)
        return Crops(rows, events, tuple(record["recordings"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{folder}: not readable crops ({error}); delete the folder, it is made again") from error


def _digest(identity: dict[str, Any]) -> str:
    """A short name for what crops are of, so that other crops lie in another folder."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def heights(crops: Crops) -> NDArray[np.float32]:
    """(N,) height of each label's box in sensor pixels."""
    return crops.rows["box"][:, 3] - crops.rows["box"][:, 1]


def region_of(rows: NDArray[Any]) -> NDArray[np.float64]:
    """(N, 4) left, top, width, height of crops."""
    return np.stack([rows[name] for name in ("left", "top", "width", "height")], axis=1).astype(np.float64)
