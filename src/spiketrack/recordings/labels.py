"""Labels: boxes in structured `.npy` files, as GEN1, 1Mpx, eTraM and Prophesee's tools store them.

In comes a file with the fields t or ts, x, y, w, h (top-left corner, pixels), class_id and perhaps track_id and
class_confidence or confidence, in any order and of any width; out go `Boxes` and the counted repairs. And the way back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib.format import dtype_to_descr
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.errors import LabelError
from spiketrack.recordings.array_source import read_npy_header
from spiketrack.replacing import Replacement

# 36 bytes of fields, 40 with the alignment of Prophesee's tools; files of both lengths exist, fields decide
LABEL_DTYPE = np.dtype(
    [
        ("t", "<i8"),
        ("x", "<f4"),
        ("y", "<f4"),
        ("w", "<f4"),
        ("h", "<f4"),
        ("class_id", "<u4"),
        ("track_id", "<u4"),
        ("class_confidence", "<f4"),
    ],
    align=True,
)
_HEADER_BYTES = 384  # room for the header with a row count of any length; a multiple of 64
_LARGEST = {"class_id": np.iinfo(np.int32).max, "track_id": np.iinfo(np.int64).max, "t": 1 << 62}


def load_labels(
    path: str | Path,
    *,
    width: int | None = None,
    height: int | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[Boxes, Counter[str]]:
    """Read a label file by its field names and repair what can be repaired, counting it.

    width, height: the sensor, in pixels; where given, boxes are clipped to it. class_names: the classes, by id.
    track_id is -1 and score 1 where the file has no such field.

    Counts: "not_finite" (a coordinate or a confidence that is no number), "empty" (w or h not above 0) and
    "outside_sensor" (no overlap) were dropped; "clipped" boxes reached over the sensor's edge; "score_clamped"
    confidences were outside 0 .. 1; "reordered" boxes were earlier than the one before them in the file.
    Raises LabelError where the file cannot be read, is pickled, lacks a field or has a class id that is not in
    class_names.
    """
    path = Path(path)
    rows = _read(path)
    t, class_id = _integers(rows, "t" if "t" in rows else "ts", path), _integers(rows, "class_id", path)
    if class_names is not None and (class_id >= len(class_names)).any():
        row = int(np.argmax(class_id >= len(class_names)))
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(class_names))
        raise LabelError(f"{path}: row {row} has class id {class_id[row]}, the list of classes is: {listed}")
    track_id = _integers(rows, "track_id", path) if "track_id" in rows else None
    confidence = next((name for name in ("class_confidence", "confidence") if name in rows), None)
    score = _floats(rows, confidence, path) if confidence else np.ones(len(t))
    x, y, w, h = (_floats(rows, name, path) for name in "xywh")
    xyxy, keep, repairs = _geometry(x, y, w, h, score, width, height)
    repairs["reordered"] = int(np.count_nonzero(t[1:] < t[:-1]))
    repairs["score_clamped"] = int(np.count_nonzero(keep & ((score < 0) | (score > 1))))
    boxes = Boxes.of(
        t[keep],
        xyxy[keep],
        class_id[keep],
        np.clip(score[keep], 0, 1),
        None if track_id is None else track_id[keep],
    )
    return boxes, +repairs


def save_labels(path: str | Path, boxes: Boxes) -> None:
    """Write boxes as LABEL_DTYPE rows, atomically. Raises LabelError as `LabelWriter` does."""
    with LabelWriter(path) as writer:
        writer.append(boxes)


class LabelWriter:
    """Stream boxes into a `.npy` file of LABEL_DTYPE rows, in bounded memory.

    The file appears under its name when the block is left without an exception; otherwise an older one stays.
    A track_id is stored in 32 unsigned bits, so that boxes without identity (-1) cannot be written as labels.
    Raises LabelError naming the file where it cannot be written, boxes have no identity, or time runs backwards
    against what was appended before.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: BinaryIO | None = None
        self._rows = 0
        self._last_us: int | None = None

    def __enter__(self) -> Self:
        self._replacement = Replacement(self.path)
        try:
            self._file = open(self._replacement.temporary, "xb")
            self._file.write(_header(0))
        except OSError as error:
            self._abandon()
            raise self._failed(error) from error
        return self

    def append(self, boxes: Boxes) -> None:
        """Add boxes, none earlier than the last one written."""
        if self._file is None:
            raise LabelError(f"{self.path}: append outside of `with LabelWriter(...)`")
        if not len(boxes):
            return
        unfit = (boxes.track_id < 0) | (boxes.track_id > np.iinfo(np.uint32).max)
        if unfit.any():
            i = int(np.argmax(unfit))
            raise LabelError(
                f"{self.path}: box {self._rows + i} has track id {boxes.track_id[i]}; a label file holds "
                "identities of 0 .. 4294967295 only, give every box one"
            )
        if self._last_us is not None and boxes.t[0] < self._last_us:
            raise LabelError(f"{self.path}: time runs backwards: {boxes.t[0]} us after {self._last_us} us")
        rows: Any = np.zeros(len(boxes), LABEL_DTYPE)
        rows["t"], rows["class_id"], rows["track_id"] = boxes.t, boxes.class_id, boxes.track_id
        rows["x"], rows["y"] = boxes.xyxy[:, 0], boxes.xyxy[:, 1]
        rows["w"], rows["h"] = boxes.size.T
        rows["class_confidence"] = boxes.score
        try:
            self._file.write(rows.tobytes())
        except OSError as error:
            raise self._failed(error) from error
        self._rows += len(boxes)
        self._last_us = int(boxes.t[-1])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._file is not None:
                self._file.seek(0)
                self._file.write(_header(self._rows))
                self._file.close()
                self._replacement.commit()
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Close and remove the temporary file where it still is; after a commit there is nothing to remove."""
        file, self._file = self._file, None
        with suppress(OSError):
            if file is not None:
                file.close()
        with suppress(OSError):
            self._replacement.discard()

    def _failed(self, error: OSError) -> LabelError:
        return LabelError(f"{self.path}: labels cannot be written: {error.strerror or error}")


def _header(rows: int) -> bytes:
    """A `.npy` header, version 1.0, of _HEADER_BYTES for any number of rows."""
    text = repr({"descr": dtype_to_descr(LABEL_DTYPE), "fortran_order": False, "shape": (rows,)})
    length = _HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode("ascii") + b"\n"


def _read(path: Path) -> dict[str, NDArray]:
    """The fields of the file as read-only maps; raises LabelError where it holds no plain structured rows."""
    try:
        with open(path, "rb") as file:
            dtype, shape, _, start = read_npy_header(file)
            size = file.seek(0, 2) - start
        if prod(shape) * dtype.itemsize > size:
            raise ValueError(f"it claims {prod(shape):,} rows of {dtype.itemsize} bytes, {size:,} bytes are left")
        rows = np.memmap(path, dtype, "r", start, shape)
    except OSError as error:
        raise LabelError(f"{path}: labels cannot be read: {error.strerror or error}") from error
    except (ValueError, OverflowError) as error:
        raise LabelError(f"{path}: not a whole structured .npy file (pickles are never read): {error}") from error
    if rows.dtype.names is None or rows.ndim != 1:
        raise LabelError(f"{path}: expected one-dimensional structured rows, got {rows.dtype} of shape {rows.shape}")
    fields = {name: rows[name] for name in rows.dtype.names}
    missing = {"x", "y", "w", "h", "class_id"} - set(fields)
    if not {"t", "ts"} & set(fields):
        missing.add("t or ts")
    if missing:
        raise LabelError(f"{path}: no field {', '.join(sorted(missing))}; the file has {', '.join(fields)}")
    return fields


def _integers(rows: dict[str, NDArray], name: str, path: Path) -> NDArray[np.int64]:
    values = rows[name]
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise LabelError(f"{path}: the field {name} must hold integers, got {values.dtype}")
    largest = _LARGEST.get(name, 1 << 62)
    unfit = values > largest
    if name == "class_id":
        unfit |= values < 0
    if unfit.any():
        row = int(np.argmax(unfit))
        raise LabelError(f"{path}: row {row} has {name} {values[row]}; expected at most {largest}, ids from 0")
    return values.astype(np.int64)


def _floats(rows: dict[str, NDArray], name: str, path: Path) -> NDArray[np.float64]:
    values = rows[name]
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise LabelError(f"{path}: the field {name} must hold numbers, got {values.dtype}")
    # a signalling NaN; a wider float that becomes infinite here, and is no coordinate
    with np.errstate(invalid="ignore", over="ignore"):
        return values.astype(np.float64)


def _geometry(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    w: NDArray[np.float64],
    h: NDArray[np.float64],
    score: NDArray[np.float64],
    width: int | None,
    height: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Counter[str]]:
    """xyxy (N, 4) on the sensor, which rows to keep (N,), and what was dropped or clipped."""
    repairs: Counter[str] = Counter()
    with np.errstate(over="ignore", invalid="ignore"):
        xyxy = np.stack([x, y, x + w, y + h], axis=1).astype(np.float32)  # the sum is rounded once
    finite = np.isfinite(xyxy).all(axis=1) & np.isfinite(score)
    filled = (w > 0) & (h > 0)
    right, bottom = width or np.inf, height or np.inf
    low = np.array([0 if width else -np.inf, 0 if height else -np.inf] * 2, np.float32)
    inside = (xyxy[:, 0] < right) & (xyxy[:, 1] < bottom) & (xyxy[:, 2] > low[2]) & (xyxy[:, 3] > low[3])
    repairs["not_finite"] = int(np.count_nonzero(~finite))
    repairs["empty"] = int(np.count_nonzero(finite & ~filled))
    repairs["outside_sensor"] = int(np.count_nonzero(finite & filled & ~inside))
    keep = finite & filled & inside
    clipped = np.clip(xyxy, low, np.array([right, bottom] * 2, np.float32))
    repairs["clipped"] = int(np.count_nonzero(keep & (clipped != xyxy).any(axis=1)))
    return clipped, keep, repairs
