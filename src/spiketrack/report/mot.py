"""MOTChallenge text: one line per box, `frame,id,bb_left,bb_top,bb_width,bb_height,conf,x,y,z`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from spiketrack.boxes import Boxes
from spiketrack.errors import RecordingError
from spiketrack.replacing import Replacement


class MotWriter:
    """Write tracks as MOTChallenge text, in bounded memory.

    Frames count from 1, one per time step; boxes are sensor pixels from 0, conf is the score, and x, y, z (for 3D
    challenges) are -1. The format has no place for the class. The file appears under its name when the block is left
    without an exception; otherwise an older one stays. Raises RecordingError naming the file where it cannot be
    written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        self._replacement = Replacement(self.path)
        try:
            self._file = open(self._replacement.temporary, "x", encoding="ascii", newline="\n")
        except OSError as error:
            raise self._failed(error) from error
        return self

    def append(self, frame: int, tracks: Boxes) -> None:
        """The tracks of one frame."""
        if self._file is None:
            raise RecordingError(f"{self.path}: append outside of `with MotWriter(...)`")
        rows = zip(
            tracks.track_id.tolist(), tracks.xyxy.tolist(), tracks.size.tolist(), tracks.score.tolist(), strict=True
        )
        lines = [
            f"{frame},{track_id},{left:.2f},{top:.2f},{width:.2f},{height:.2f},{score:.4f},-1,-1,-1\n"
            for track_id, (left, top, _, _), (width, height), score in rows
        ]
        try:
            self._file.writelines(lines)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        try:
            if kind is None and file is not None:
                file.close()
                self._replacement.commit()
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            with suppress(OSError):
                if file is not None:
                    file.close()
            with suppress(OSError):
                self._replacement.discard()

    def _failed(self, error: OSError) -> RecordingError:
        return RecordingError(f"{self.path}: tracks cannot be written ({error.strerror or error})")
