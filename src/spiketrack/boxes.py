"""Boxes: one record for labels, detections and tracks.

Station: labels come from files as Boxes, the detector's decoding yields Boxes without identity, the tracker
returns Boxes with identity, and the metrics compare Boxes with Boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

NO_TRACK = -1


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Boxes:
    """Boxes sorted by time.

    t: (N,) int64, microseconds, never decreasing. xyxy: (N, 4) float32, sensor pixels, left, top, right,
    bottom with right >= left and bottom >= top. class_id: (N,) int32, >= 0. score: (N,) float32 in [0, 1];
    1 for labels. track_id: (N,) int64; -1 (NO_TRACK) where there is no identity.

    Construction checks all of this and raises ValueError naming the first box that breaks it. Labels of files
    are repaired and counted by `spiketrack.recordings.load_labels`.
    """

    t: NDArray[np.int64]
    xyxy: NDArray[np.float32]
    class_id: NDArray[np.int32]
    score: NDArray[np.float32]
    track_id: NDArray[np.int64]

    def __post_init__(self) -> None:
        dtypes = {"t": np.int64, "xyxy": np.float32, "class_id": np.int32, "score": np.float32, "track_id": np.int64}
        n = len(np.asarray(self.t))
        for name, dtype in dtypes.items():
            column = np.asarray(getattr(self, name))
            shape = (n, 4) if name == "xyxy" else (n,)
            if column.shape != shape or column.dtype != dtype:
                raise ValueError(
                    f"boxes: {name} must be {np.dtype(dtype)} of shape {shape}, got {column.dtype} of {column.shape}; "
                    "Boxes.of converts"
                )
            view = column.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)
        self._raise_at_first(~np.isfinite(self.xyxy).all(axis=1), "xyxy", "not finite")
        self._raise_at_first((self.xyxy[:, 2:] < self.xyxy[:, :2]).any(axis=1), "xyxy", "turned inside out")
        self._raise_at_first(self.class_id < 0, "class_id", "negative")
        self._raise_at_first(~((self.score >= 0) & (self.score <= 1)), "score", "not within 0 .. 1")
        self._raise_at_first(np.r_[False, self.t[1:] < self.t[:-1]][:n], "t", "earlier than the box before it")

    def _raise_at_first(self, bad: ArrayLike, name: str, what: str) -> None:
        if np.any(bad):
            i = int(np.argmax(bad))
            raise ValueError(f"boxes: {name} = {getattr(self, name)[i]} of box {i} is {what}")

    @classmethod
    def of(
        cls,
        t: ArrayLike,
        xyxy: ArrayLike,
        class_id: ArrayLike,
        score: ArrayLike | None = None,
        track_id: ArrayLike | None = None,
    ) -> Self:
        """Build from anything array-like: converts dtypes, sorts stably by time, fills score 1 and track -1.

        `t` may be one time for all boxes.
        """
        xyxy = np.asarray(xyxy, np.float32).reshape(-1, 4)
        n = len(xyxy)
        t = np.broadcast_to(np.asarray(t, np.int64), (n,))
        class_id = np.broadcast_to(np.asarray(class_id, np.int32), (n,))
        score = np.ones(n, np.float32) if score is None else np.asarray(score, np.float32)
        track_id = np.full(n, NO_TRACK, np.int64) if track_id is None else np.asarray(track_id, np.int64)
        order = np.argsort(t, kind="stable")
        return cls(t[order], xyxy[order], class_id[order], score[order], track_id[order])

    @classmethod
    def empty(cls) -> Self:
        """No boxes; same dtypes and shapes as a full record."""
        return cls.of(np.empty(0, np.int64), np.empty((0, 4)), np.empty(0, np.int32))

    @staticmethod
    def concatenate(parts: list[Boxes]) -> Boxes:
        """All boxes of all parts, sorted by time (stable)."""
        if not parts:
            return Boxes.empty()
        columns = ("t", "xyxy", "class_id", "score", "track_id")
        return Boxes.of(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))

    def __len__(self) -> int:
        return len(self.t)

    def __repr__(self) -> str:
        span = f", {self.t[0]} .. {self.t[-1]} us" if len(self) else ""
        return f"Boxes({len(self)} boxes{span})"

    def __getitem__(self, index: slice | NDArray) -> Boxes:
        """Boxes chosen by a slice (views), a mask or sorted indices; raises ValueError if time order is lost."""
        if isinstance(index, int | np.integer):
            raise TypeError("boxes: index with a slice, a mask or an index array; one box is boxes[i:i + 1]")
        return Boxes(self.t[index], self.xyxy[index], self.class_id[index], self.score[index], self.track_id[index])

    def between(self, start_us: int, end_us: int) -> Boxes:
        """The boxes with start_us <= t < end_us, as views."""
        first, last = np.searchsorted(self.t, (start_us, end_us))
        return self[first:last]

    def at(self, t_us: int) -> Boxes:
        """The boxes of exactly this time, as views."""
        return self.between(t_us, t_us + 1)

    def by_time(self) -> Iterator[tuple[int, Boxes]]:
        """Each distinct time with its boxes, in order."""
        times, firsts = np.unique(self.t, return_index=True)
        for time, first, last in zip(times, firsts, [*firsts, len(self)][1:], strict=True):
            yield int(time), self[first:last]

    @property
    def size(self) -> NDArray[np.float32]:
        """(N, 2) float32: width and height in pixels."""
        return self.xyxy[:, 2:] - self.xyxy[:, :2]

    def at_time(self, t_us: int) -> Boxes:
        """The same boxes, all moved to one time."""
        return Boxes(np.full(len(self), t_us, np.int64), self.xyxy, self.class_id, self.score, self.track_id)


def iou(
    a: NDArray[np.floating], b: NDArray[np.floating], dtype: type[np.floating] = np.float32
) -> NDArray[np.floating]:
    """Intersection over union of every box of a with every box of b.

    a: (N, 4), b: (M, 4) xyxy. Returns (N, M) of `dtype` in [0, 1]; 0 where the union has no area. Metrics ask for
    float64, in which an overlap of exactly 19/20 reaches a threshold of 0.95.
    """
    left_a, top_a, right_a, bottom_a = np.asarray(a, dtype).T[:, :, None]  # (N, 1) each
    left_b, top_b, right_b, bottom_b = np.asarray(b, dtype).T[:, None, :]  # (1, M) each
    width = np.minimum(right_a, right_b) - np.maximum(left_a, left_b)  # (N, M)
    height = np.minimum(bottom_a, bottom_b) - np.maximum(top_a, top_b)
    intersection = np.clip(width, 0, None) * np.clip(height, 0, None)
    areas = (right_a - left_a) * (bottom_a - top_a) + (right_b - left_b) * (bottom_b - top_b)
    union = areas - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
