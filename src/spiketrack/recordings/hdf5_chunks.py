"""Stored chunks of an HDF5 dataset, unpacked and checked: each becomes exactly as many bytes as its rows take.

The HDF5 library does not ask for that. Of a chunk that is shorter it hands out memory that nobody filled, and ends the
process where there is none. So the filters that come with h5py (shuffle, gzip, Fletcher-32, LZF) are undone here; of
those of hdf5plugin the chunk's own header is compared with what is due before the library undoes them.
"""

from __future__ import annotations

import os
import zlib

import h5py
import numpy as np
from numba import njit
from numpy.typing import NDArray

GZIP, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
BLOSC, BLOSC2 = 32001, 32026
OURS = {GZIP, SHUFFLE, FLETCHER32, LZF}  # undone here
THEIRS = {BLOSC, BLOSC2}  # by plugins; that of LZ4 reads beyond a chunk, that of Zstandard passes on what is broken
_Bytes = NDArray[np.uint8]


class Chunks:
    """The chunks of a dataset of one dimension that is stored in chunks.

    ours: whether `read_into` undoes the filters; where not, the library may, once `check` has looked at a chunk.
    All methods raise OSError, RuntimeError or ValueError where a chunk cannot be had. `stored` is for several threads.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        settings = dataset.id.get_create_plist()
        filters = [settings.get_filter(i) for i in range(settings.get_nfilters())]
        self._dataset, self._rows = dataset, dataset.chunks[0]
        self._bytes = self._rows * dataset.dtype.itemsize
        self._filters = [(code, values) for code, _, values, _ in filters]
        self.ours = all(code in OURS for code, _ in self._filters) and _is_plain(dataset.id.get_type())
        self._descriptor = dataset.file.id.get_vfd_handle()
        self._buffer: _Bytes | None = None
        self._latest: tuple[int, NDArray] | None = None

    def stored(self, row: int, buffer: _Bytes) -> tuple[_Bytes, int]:
        """The bytes of the chunk that holds a row, in buffer, and which filters it is without.

        The library's own way, `read_direct_chunk`, writes as many bytes as the file says, whatever it was given.
        """
        place = self._dataset.id.get_chunk_info_by_coord((row // self._rows * self._rows,))
        if place.byte_offset is None or place.byte_offset >= 1 << 62:
            raise ValueError("it lies nowhere in the file")
        if place.size > len(buffer):
            raise ValueError(f"its {place.size:,} bytes are more than any coding of its rows takes")
        content = buffer[: place.size]
        if os.preadv(self._descriptor, [content.data], place.byte_offset) < place.size:
            raise ValueError(f"its {place.size:,} bytes at byte {place.byte_offset} reach beyond the file")
        return content, place.filter_mask

    def read_into(self, rows: NDArray, first: int) -> None:
        """Fill rows, of the dataset's type, from row `first` on; they lie in one chunk and hold anything on failure."""
        start = first // self._rows * self._rows
        if not self._filters and len(rows) == self._rows:
            self._check_size(len(self.stored(start, rows.view(np.uint8))[0]))
            return
        if self._latest is None or self._latest[0] != start:
            unpacked = self._unpacked(*self.stored(start, self._room()))
            self._check_size(len(unpacked))
            self._latest = start, unpacked.view(self._dataset.dtype)
        rows[:] = self._latest[1][first - start : first - start + len(rows)]

    def check(self, row: int) -> None:
        """Raises where the chunk of a row says that it becomes less or more than is due."""
        content, mask = self.stored(row, self._room())
        code = self._filters[-1][0] if self._filters else 0
        if code in THEIRS and not mask:
            self._check_size(_claimed(code, content[:64].tobytes(), len(content)))
        elif code in THEIRS or not self._filters:
            self._check_size(len(content))
        else:
            raise ValueError(f"{self._dataset.dtype} of unusual bits, packed: it cannot be read")

    def _room(self) -> _Bytes:
        """For any chunk, one after the other."""
        if self._buffer is None:
            self._buffer = np.empty(self._bytes + self._bytes // 8 + 4096, np.uint8)
        return self._buffer

    def _check_size(self, size: int) -> None:
        if size != self._bytes:
            raise ValueError(f"it becomes {size:,} bytes, its rows take {self._bytes:,}")

    def _unpacked(self, content: _Bytes, mask: int) -> _Bytes:
        for i, (code, values) in reversed(list(enumerate(self._filters))):
            if mask >> i & 1:  # left out when this chunk was written
                continue
            if code == GZIP:
                content = _inflated(content, self._bytes + 4)
            elif code == SHUFFLE:
                content = _unshuffled(content, values[0] if values else 1)
            elif code == FLETCHER32:
                content = _checked(content)
            else:
                content = _without_lzf(content, self._bytes + 4)
        return content.copy() if self._buffer is not None and np.may_share_memory(content, self._buffer) else content


def _is_plain(stored: h5py.h5t.TypeID) -> bool:
    """Whether values of this type are what NumPy takes their bytes for."""
    if isinstance(stored, h5py.h5t.TypeCompoundID):
        return all(_is_plain(stored.get_member_type(i)) for i in range(stored.get_nmembers()))
    if isinstance(stored, h5py.h5t.TypeEnumID):
        return _is_plain(stored.get_super())
    if isinstance(stored, h5py.h5t.TypeIntegerID):
        return stored.get_precision() == 8 * stored.get_size() and stored.get_offset() == 0
    return True


def _inflated(content: _Bytes, most: int) -> _Bytes:
    try:
        return np.frombuffer(zlib.decompressobj().decompress(content.data, most + 1), np.uint8)
    except zlib.error as error:
        raise ValueError(f"gzip: {error}") from error


def _unshuffled(content: _Bytes, size: int) -> _Bytes:
    """First bytes of all values, then all second bytes, ... to value after value; what is left over stays."""
    n = len(content) // size if size else 0
    if size < 2 or n < 2:
        return content
    if size not in (2, 4, 8):
        return np.concatenate([content[: n * size].reshape(size, n).T.ravel(), content[n * size :]])
    out = np.empty(len(content), np.uint8)
    _gather(content, out[: n * size].view(f"u{size}"))
    out[n * size :] = content[n * size :]
    return out


@njit(cache=True, nogil=True)
def _gather(content, values):
    n = len(values)
    for i in range(n):
        value = np.uint64(0)
        for k in range(values.itemsize):
            value |= np.uint64(content[k * n + i]) << np.uint64(8 * k)
        values[i] = value


def _checked(content: _Bytes) -> _Bytes:
    """The content without its check sum, two sums modulo 65535 over big-endian words."""
    if len(content) < 4:
        raise ValueError("it has no room for its check sum")
    content, said = content[:-4], int.from_bytes(content[-4:].tobytes(), "little")
    padded = np.zeros((len(content) + 1) // 2 * 2, np.uint8)
    padded[: len(content)] = content
    words = padded.view(">u2").astype(np.uint64)
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % 65535
    sums = int((words * weights % 65535).sum()) % 65535, int(words.sum()) % 65535
    if sums != ((said >> 16) % 65535, (said & 0xFFFF) % 65535):
        raise ValueError("its check sum is wrong")
    return content


def _without_lzf(content: _Bytes, most: int) -> NDArray[np.uint8]:
    out = np.empty(most, np.uint8)
    n = _decode_lzf(content, out)
    if n < 0:
        raise ValueError("LZF: it is broken, or becomes more than its rows take")
    return out[:n]


@njit(cache=True, nogil=True)
def _decode_lzf(content, out):
    """Returns how many bytes it wrote; -1 where the content is broken or out is too short."""
    i = n = 0
    while i < len(content):
        control = np.int64(content[i])
        i += 1
        if control < 32:  # that many bytes as they are, plus one
            run = control + 1
            if i + run > len(content) or n + run > len(out):
                return -1
            for j in range(run):
                out[n + j] = content[i + j]
            i += run
        else:  # a copy of what came before
            run = control >> 5
            if run == 7 and i < len(content):
                run += np.int64(content[i])
                i += 1
            if i >= len(content):
                return -1
            source = n - ((control & 31) << 8 | np.int64(content[i])) - 1
            i += 1
            run += 2
            if source < 0 or n + run > len(out):
                return -1
            for j in range(run):
                out[n + j] = out[source + j]
        n += run
    return n


def _claimed(code: int, head: bytes, size: int) -> int:
    """How many bytes a chunk of `size` bytes becomes, as the header of its coding says; -1 where that cannot be.

    Blosc, from byte 4 on: u32 bytes unpacked, of a block, and packed. Blosc2: a frame, big-endian u64 bytes packed at
    16, unpacked at 30.
    """
    if code == BLOSC:
        whole = int.from_bytes(head[12:16], "little") == size
        return int.from_bytes(head[4:8], "little") if whole else -1
    whole = head[2:10] == b"b2frame\0" and int.from_bytes(head[16:24], "big") == size
    return int.from_bytes(head[30:38], "big") if whole else -1
