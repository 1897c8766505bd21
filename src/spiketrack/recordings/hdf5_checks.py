"""Checks before the HDF5 library reads: it and its filters trust a file more than a file deserves.

In come datasets and attributes of an open file, out goes a RecordingError where reading them would take unbounded
memory, never end, or end the process. Text of variable length lies in global heaps (HDF5 file format specification,
III.E): the library walks a damaged heap for ever, as an object of size 0 leads it back to itself, and believes any
length of a text. Blosc reads settings that its filter message does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py

from spiketrack.errors import RecordingError
from spiketrack.recordings.ecf import ECF_FILTER
from spiketrack.recordings.hdf5_chunks import OURS, SHUFFLE, THEIRS

_SEARCHED_BYTES = 1 << 20  # at either end of the file, where writers put attributes
_HEAP = b"GCOL\x01\x00\x00\x00"
MAX_STORED_CHUNK_BYTES = 1 << 28
_LONGEST_TEXT = 1 << 16
_MAX_RECORD_BYTES = 256
_FILTERS = {1: "gzip", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32015: "zstd", 32026: "blosc2", ECF_FILTER: "ECF"}
_LEAST_SETTINGS = {32001: 4, 32026: 4}  # numbers that the filter reads without asking how many there are


def filter_codes(dataset: h5py.Dataset) -> list[int]:
    """The HDF5 filters that a dataset is stored with."""
    settings = dataset.id.get_create_plist()
    return [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]


def check_readable(dataset: h5py.Dataset, path: Path) -> None:
    """Raises RecordingError unless rows of a dataset can be read from this file, in bounded memory, with what is
    installed."""
    settings = dataset.id.get_create_plist()
    if settings.get_layout() == h5py.h5d.VIRTUAL or settings.get_external_count():
        raise RecordingError(f"{path}: {dataset.name} lies in other files; expected the events in this one")
    if dataset.dtype.itemsize > _MAX_RECORD_BYTES:
        raise RecordingError(f"{path}: {dataset.name} has records of {dataset.dtype.itemsize:,} bytes")
    rows = dataset.chunks[0] if dataset.chunks else 0
    if rows * dataset.dtype.itemsize > MAX_STORED_CHUNK_BYTES:
        raise RecordingError(f"{path}: {dataset.name} is stored in chunks of {rows:,}, too large to read")
    filters = [settings.get_filter(i) for i in range(settings.get_nfilters())]
    for code, _, values, _ in filters:
        name = f"{_FILTERS.get(code, 'an unknown filter')} (HDF5 filter {code})"
        if len(values) < _LEAST_SETTINGS.get(code, 0):
            raise RecordingError(f"{path}: {dataset.name} is stored with {name}, whose settings are broken")
        if code not in {ECF_FILTER, *OURS, *THEIRS} or (code in THEIRS and not _alone(code, filters)):
            raise RecordingError(
                f"{path}: {dataset.name} is stored with {name}, which is not undone safely; expected none, gzip, "
                "LZF, or one of Blosc and Blosc2 by itself: h5repack -f GZIP=4 IN OUT"
            )
        if code != ECF_FILTER and not h5py.h5z.filter_avail(code) and not _plugin_has(code):
            raise RecordingError(
                f"{path}: {dataset.name} is stored with {name}, which this installation lacks; pip install hdf5plugin"
            )


def _alone(code: int, filters: list[tuple[int, int, tuple[int, ...], bytes]]) -> bool:
    """Whether a filter is the last, with nothing before it but shuffling."""
    return [other for other, *_ in filters if other != SHUFFLE] == [code] and filters[-1][0] == code


def _plugin_has(code: int) -> bool:
    try:
        import hdf5plugin  # noqa: F401 - registers its filters
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(code))


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
            _check_text(name.encode() + b"\0", path)
    elif not isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeEnumID):
        return None
    value = node.attrs[name]
    value = value if stored.shape == () else value[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else int(value)


def _check_text(name: bytes, path: Path) -> None:
    """Raises RecordingError where a heap is damaged, or an attribute `name` claims a long text."""
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        for start in {0, max(0, size - _SEARCHED_BYTES)}:
            file.seek(start)
            part = file.read(_SEARCHED_BYTES)
            for place in _places(part, _HEAP):
                if not _is_sound(part[place:]):
                    raise RecordingError(f"{path}: broken HDF5 structure: the heap at byte {start + place}")
            for place in _places(part, name):
                length = _text_length(part, place, len(name))
                if length > _LONGEST_TEXT:
                    raise RecordingError(
                        f"{path}: broken HDF5 structure: the attribute at byte {start + place} claims {length:,} bytes"
                    )


def _places(part: bytes, sought: bytes) -> Iterator[int]:
    place = part.find(sought)
    while place >= 0:
        yield place
        place = part.find(sought, place + 1)


def _text_length(part: bytes, name: int, name_bytes: int) -> int:
    """What an attribute message of this name says of its text; 0 where there is no such message at byte `name`.

    version, flags, u16 size of name, type and space, in version 3 the encoding; name, type and space, in version 1
    padded to 8; then, for text of variable length, its u32 length.
    """
    for head, versions in ((8, (1, 2)), (9, (3,))):
        version, sizes = part[name - head : name - head + 1], part[name - head + 2 : name - head + 8]
        if name < head or version[0] not in versions or int.from_bytes(sizes[:2], "little") != name_bytes:
            continue
        pad = 8 if version[0] == 1 else 1
        lengths = (int.from_bytes(sizes[i : i + 2], "little") for i in (0, 2, 4))
        data = name + sum(-(-length // pad) * pad for length in lengths)
        return int.from_bytes(part[data : data + 4], "little")
    return 0


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
