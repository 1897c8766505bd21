"""AEDAT4 files by hand, from the FlatBuffers schemas of iniVation: packets of events and of triggers, few and small."""

import struct

_EVENTS, _TRIGGERS = 0, 1  # streams
NONE, LZ4, ZSTD = 0, 1, 3  # compressions


def encode_aedat4(events, triggers, width: int = 64, height: int = 48, compression: int = NONE) -> bytes:
    """events: packets, each rows of (t, x, y, p); triggers: packets of rows of (t, source)."""
    packets = [(_EVENTS, _event_packet(rows)) for rows in events] + [(_TRIGGERS, _trigger_packet(r)) for r in triggers]
    frame = {NONE: bytes, LZ4: _lz4, ZSTD: _zstd}[compression]
    framed = ((stream, frame(packet)) for stream, packet in packets)
    return _header(compression, width, height) + b"".join(struct.pack("<II", s, len(f)) + f for s, f in framed)


def _header(compression: int, width: int, height: int) -> bytes:
    sides = f'<attr key="sizeX" type="int">{width}</attr><attr key="sizeY" type="int">{height}</attr>'
    streams = "".join(
        f'<node name="{i}" path="/o/{i}/"><attr key="typeIdentifier" type="string">{kind}</attr>'
        f'<node name="info" path="/o/{i}/info/">{info}</node></node>'
        for i, (kind, info) in enumerate((("EVTS", sides), ("TRIG", "")))
    )
    text = f'<dv version="2.0"><node name="outInfo" path="/o/">{streams}</node></dv>'.encode()
    fields = struct.pack("<HHHHHH", 10, 20, 4, 8, 16, 0)  # compression, place of the packet table, text
    table = struct.pack("<iiqI", len(fields), compression, -1, 4)
    string = struct.pack("<I", len(text)) + text + bytes(4 - len(text) % 4)
    return b"#!AER-DAT4.0\r\n" + _sized(b"IOHE", fields, table + string)


def _sized(identifier: bytes, fields: bytes, table: bytes) -> bytes:
    content = struct.pack("<I4s", 8 + len(fields), identifier) + fields + table
    return struct.pack("<I", len(content)) + content


def _vector_packet(identifier: bytes, vector: bytes) -> bytes:
    """A table whose only field is a vector."""
    fields = struct.pack("<HHHH", 6, 8, 4, 0)
    return _sized(identifier, fields, struct.pack("<iI", len(fields), 4) + vector)


def _event_packet(rows) -> bytes:
    return _vector_packet(b"EVTS", struct.pack("<I", len(rows)) + b"".join(struct.pack("<qhhB3x", *r) for r in rows))


def _trigger_packet(rows) -> bytes:
    fields = bytes(4 * (len(rows) % 2)) + struct.pack("<HHHH", 8, 16, 8, 4)  # time, source; times lie at multiples of 8
    first, offsets, tables = 4 + 4 * len(rows) + len(fields), b"", b""
    for i, (t, source) in enumerate(rows):
        place = first + 16 * i
        offsets += struct.pack("<I", place - 4 - 4 * i)
        tables += struct.pack("<ib3xq", place - first + 8, source, t)
    return _vector_packet(b"TRIG", struct.pack("<I", len(rows)) + offsets + fields + tables)


def _lz4(content: bytes) -> bytes:
    """A frame of one block that is not compressed; the header's check byte is that of its two flags."""
    return bytes.fromhex("04224d18604082") + struct.pack("<I", len(content) | 1 << 31) + content + bytes(4)


def _zstd(content: bytes) -> bytes:
    """A frame of one raw block, which is the last."""
    return bytes.fromhex("28b52ffd0058") + (len(content) << 3 | 1).to_bytes(3, "little") + content
