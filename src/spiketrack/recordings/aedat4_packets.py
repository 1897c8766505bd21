"""What an AEDAT4 file claims about its sizes, looked at before the package `aedat` allocates as much.

In comes a path, out goes a refusal of packets that are larger than the file, or become larger than any packet is when
they are unpacked. Layouts: AEDAT4 (iniVation), FlatBuffers, LZ4 frame format 1.6.4, Zstandard (RFC 8878).
"""

from __future__ import annotations

import struct
from contextlib import AbstractContextManager
from pathlib import Path

from spiketrack.errors import RecordingError

MAX_PACKET_BYTES = 1 << 27  # unpacked; cameras send a few MB at most
_MAX_HEADER_BYTES = 1 << 22
_MAGIC_BYTES = 14
_LZ4, _ZSTD = (1, 2), (3, 4)
_LZ4_MAGIC, _ZSTD_MAGIC = b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK_BYTES = 1 << 17


class PacketSizes(AbstractContextManager["PacketSizes"]):
    """One pass over the sizes of the packets, in step with the package's own pass.

    Raises RecordingError naming the file where its header is larger than the file or says nothing that makes sense.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise RecordingError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            self._size = self._file.seek(0, 2)
            self._compression, self._table, self._next = self._header()
        except (OSError, struct.error, UnicodeDecodeError, ValueError) as error:
            self._file.close()
            raise RecordingError(f"{path}: not a readable AEDAT4 file: its header is broken: {error}") from error

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def why_not(self) -> str | None:
        """What speaks against unpacking the next packet; None where nothing does, or there is none."""
        head = self._at(self._next, 8)
        if len(head) < 8 or 0 <= self._table <= self._next:
            return None
        claimed = int.from_bytes(head[4:], "little")
        first, self._next = self._next + 8, self._next + 8 + claimed
        if self._next > self._size:
            return f"a packet at byte {first - 8} claims {claimed:,} bytes, {self._size - first:,} are left"
        unpacked = self._unpacked(first, claimed)
        if unpacked > MAX_PACKET_BYTES:
            return (
                f"a packet at byte {first - 8} may take {unpacked:,} bytes of memory; at most {MAX_PACKET_BYTES:,} do"
            )
        return None

    def _at(self, byte: int, count: int) -> bytes:
        self._file.seek(byte)
        return self._file.read(count)

    def _header(self) -> tuple[int, int, int]:
        """The compression, the byte of the table behind the packets (-1: none), and that of the first packet."""
        first = _MAGIC_BYTES + 4
        size, left = int.from_bytes(self._at(_MAGIC_BYTES, 4), "little"), max(0, self._size - first)
        if size > min(_MAX_HEADER_BYTES, left):
            raise ValueError(f"it claims {size:,} bytes, {left:,} are left")
        content = self._at(first, size)
        (root,) = struct.unpack_from("<I", content)
        fields = root - struct.unpack_from("<i", content, root)[0]
        if not 0 <= fields < size:
            raise ValueError(f"its table lies at byte {fields} of {size}")
        count = struct.unpack_from("<H", content, fields)[0] // 2
        if not 5 <= count <= 64:
            raise ValueError(f"its table has {count} entries")
        compression, table, text = struct.unpack_from("<3H", content, fields + 4)
        start = root + text
        start += struct.unpack_from("<I", content, start)[0]
        length = struct.unpack_from("<I", content, start)[0]
        if not text or start + 4 + length > size:
            raise ValueError(f"its text of {length:,} bytes reaches beyond it")
        content[start + 4 : start + 4 + length].decode()
        return (
            struct.unpack_from("<i", content, root + compression)[0] if compression else 0,
            struct.unpack_from("<q", content, root + table)[0] if table else -1,
            first + size,
        )

    def _unpacked(self, first: int, count: int) -> int:
        """At most so many bytes does a packet become, as its frames and their blocks claim."""
        frame = self._lz4 if self._compression in _LZ4 else self._zstd if self._compression in _ZSTD else None
        if frame is None:
            return count
        byte, end, total = first, first + count, 0
        while byte < end and total <= MAX_PACKET_BYTES:
            byte, more = frame(byte, end)
            total += more
        return total

    def _lz4(self, byte: int, end: int) -> tuple[int, int]:
        """The end of a frame and how many bytes it becomes; (end, 0) for what is none, which the package refuses."""
        head = self._at(byte, 6)
        if head[:4] != _LZ4_MAGIC or len(head) < 6:
            return end, 0
        flags, most = head[4], 1 << (2 * (head[5] >> 4 & 7) + 8)
        byte += 7 + 8 * (flags >> 3 & 1) + 4 * (flags & 1)
        total = 0
        while byte < end and total <= MAX_PACKET_BYTES:
            size = int.from_bytes(self._at(byte, 4), "little")
            byte += 4
            if not size:
                return byte + 4 * (flags >> 2 & 1), total
            stored = size & 0x7FFFFFFF
            total += stored if size >> 31 else min(most, 255 * stored)
            byte += stored + 4 * (flags >> 4 & 1)
        return byte, total

    def _zstd(self, byte: int, end: int) -> tuple[int, int]:
        """As _lz4."""
        head = self._at(byte, 5)
        if head[:4] != _ZSTD_MAGIC or len(head) < 5:
            return end, 0
        single, content = head[4] >> 5 & 1, head[4] >> 6
        byte += 6 - single + (0, 1, 2, 4)[head[4] & 3] + (single, 2, 4, 8)[content]
        total, last = 0, False
        while byte < end and not last and total <= MAX_PACKET_BYTES:
            block = int.from_bytes(self._at(byte, 3), "little")
            last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
            total += size if kind < 2 else _ZSTD_BLOCK_BYTES  # raw or one byte repeated; else compressed
            byte += 3 + (1 if kind == 1 else size)
        return byte + 4 * (head[4] >> 2 & 1), total
