"""A file that appears under its name only when it is complete."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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
