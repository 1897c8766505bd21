"""A file that appears under its name only when it is complete, and the folder that it lies in."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from spiketrack.errors import RecordingError, SpiketrackError


class Replacement:
    """A temporary name beside `path`, to be renamed to it by `commit` or removed by `discard`.

    Both names lie in the same folder, so the rename is atomic: a reader sees the old file or the whole new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")

    def commit(self) -> None:
        """Bring the closed temporary file to the disk and rename it; raises OSError where that fails."""
        descriptor = os.open(self.temporary, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(self.temporary, self.path)

    def discard(self) -> None:
        self.temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes | memoryview, error: type[SpiketrackError]) -> None:
    """Write a file at once, its folder with it if need be; text as UTF-8.

    Raises `error` naming the file where it cannot be written (no space, no permission); an older one is then unharmed.
    """
    replacement = Replacement(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replacement.temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        replacement.commit()
    except OSError as reason:
        kept = "; the older one is unharmed" if path.is_file() else ""
        raise error(f"{path}: cannot be written ({reason.strerror or reason}){kept}") from reason
    finally:
        with suppress(OSError):
            replacement.discard()


def make_folder(path: Path) -> None:
    """The folder with its parents; RecordingError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"{path}: cannot make this folder ({error.strerror})") from error
