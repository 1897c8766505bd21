"""Attributes of an HDF5 file, read only where doing so ends.

Text of variable length lies in global heaps (HDF5 file format specification, III.E), and the HDF5 library walks a
damaged heap for ever: an object of size 0 leads it back to itself. So the heaps are walked here first.
"""

from __future__ import annotations

from pathlib import Path

import h5py

from spiketrack.errors import RecordingError

_SEARCHED_BYTES = 1 << 20  # at either end of the file, where writers put attributes
_MAGIC = b"GCOL\x01\x00\x00\x00"


def attribute(node: h5py.Group | h5py.Dataset, name: str, path: Path) -> int | str | None:
    """One integer or text; None where there is no such attribute, or one of another kind.

    Raises RecordingError where a heap of the file is broken.
    """
    key = name.encode()
    if not h5py.h5a.exists(node.id, key):
        return None
    stored = h5py.h5a.open(node.id, key)
    kind = stored.get_type()
    if stored.shape not in ((), (1,)):
        return None
    if isinstance(kind, h5py.h5t.TypeStringID):
        if kind.is_variable_str():
            _check_heaps(path)
    elif not isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeEnumID):
        return None
    value = node.attrs[name]
    value = value if stored.shape == () else value[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else int(value)


def _check_heaps(path: Path) -> None:
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        for start in {0, max(0, size - _SEARCHED_BYTES)}:
            file.seek(start)
            part = file.read(_SEARCHED_BYTES)
            place = part.find(_MAGIC)
            while place >= 0:
                if not _is_sound(part[place:]):
                    raise RecordingError(f"{path}: broken HDF5 structure: the heap at byte {start + place}")
                place = part.find(_MAGIC, place + 1)


def _is_sound(heap: bytes) -> bool:
    """Objects (u16 index, u16 references, 4 bytes, u64 size, the object, padded to 8) fill a collection; index 0 is
    what is free and counts its own head of 16."""
    end = min(int.from_bytes(heap[8:16], "little"), len(heap))
    place = 16
    while place + 16 <= end:
        free = heap[place : place + 2] == b"\x00\x00"
        length = int.from_bytes(heap[place + 8 : place + 16], "little")
        if free and length < 16:
            return False
        place += length if free else 16 + (length + 7) // 8 * 8
    return place <= end or end == len(heap)
