"""Small encoders of the byte formats, written from the layouts in the formats' documents, for round trips only."""

import struct

import numpy as np
from hypothesis import strategies as st

from spiketrack.events import Events

HALF_EVT3_HIGHS = 1 << 11


def raw_header(version: str, width: int | None = 64, height: int | None = 48) -> bytes:
    geometry = f"% geometry {width}x{height}\n" if width else ""
    return f"% evt {version}\n{geometry}% end\n".encode()


def evt2_word(kind: int, t_low: int = 0, x: int = 0, y: int = 0) -> bytes:
    return struct.pack("<I", kind << 28 | t_low << 22 | x << 11 | y)


def evt2_high(high: int) -> bytes:
    return struct.pack("<I", 0x8 << 28 | high % (1 << 28))


def evt21_high(high: int) -> bytes:
    return struct.pack("<Q", 0x8 << 60 | high % (1 << 28) << 32)


def encode_evt2(t, x, y, p) -> bytes:
    words, high = [], None
    for i in range(len(t)):
        if t[i] >> 6 != high:
            high = t[i] >> 6
            words.append(evt2_high(high))
        words.append(evt2_word(p[i], t[i] & 63, x[i], y[i]))
    return b"".join(words)


def evt3(*words: tuple[int, int]) -> bytes:
    """Words of (type, the lower 12 bits)."""
    return b"".join(struct.pack("<H", kind << 12 | value) for kind, value in words)


def encode_evt3(t, x, y, p, vectors: bool = True) -> bytes:
    """Runs of one time, row and polarity with rising x become VECT_12 or VECT_8; else single events."""
    words, high, low, row, i = [], None, None, None, 0
    while i < len(t):
        new = t[i] >> 12
        if new != high:
            for step in range(new if high is None else high, new, HALF_EVT3_HIGHS // 2):
                words.append((0x8, step % 4096))  # a silent camera keeps telling the time
            words.append((0x8, new % 4096))
            high, low = new, 0
        if t[i] & 4095 != low:
            low = t[i] & 4095
            words.append((0x6, low))
        if y[i] != row:
            row = y[i]
            words.append((0x0, row))
        last = i + 1
        while vectors and last < len(t) and (t[last], y[last], p[last]) == (t[i], y[i], p[i]) and x[last] > x[last - 1]:
            last += 1
        if last - i > 1:
            words.append((0x3, p[i] << 11 | x[i]))
            base, size = x[i], 12 if (last - i) % 2 else 8
            while i < last:
                mask = 0
                while i < last and x[i] < base + size:
                    mask |= 1 << (x[i] - base)
                    i += 1
                words.append((0x4 if size == 12 else 0x5, mask))
                base += size
        else:
            words.append((0x2, p[i] << 11 | x[i]))
            i += 1
    return evt3(*words)


def dat_header(width: int | None = 64, height: int | None = 48, kind: int = 0x0C) -> bytes:
    size = f"% Height {height}\n% Width {width}\n" if width else ""
    return f"% Data file\n{size}% Version 2\n".encode() + bytes([kind, 8])


def encode_dat(t, x, y, p) -> bytes:
    return b"".join(
        struct.pack("<II", int(a) % (1 << 32), int(d) << 28 | int(c) << 14 | int(b))
        for a, b, c, d in zip(t, x, y, p, strict=True)
    )


def encode_nmnist(t, x, y, p) -> bytes:
    return b"".join(
        bytes([b, c, d << 7 | a >> 16, a >> 8 & 255, a & 255]) for a, b, c, d in zip(t, x, y, p, strict=True)
    )


@st.composite
def columns(draw, width=64, height=48, start=1 << 24, jitter=0, gap=40_000_000, most=80):
    """Python lists t, x, y, p in the order of a file; each event up to `jitter` us before its turn."""
    gaps = st.one_of(st.just(0), st.integers(0, 3), st.integers(0, 5000), st.integers(0, gap))
    coordinates = st.tuples(st.integers(0, width - 1), st.integers(0, height - 1), st.integers(0, 1))
    rows = draw(st.lists(st.tuples(gaps, st.integers(0, jitter), st.booleans(), coordinates), max_size=most))
    now, t, x, y, p = draw(st.integers(0, start - 1)), [], [], [], []
    for step, back, beside, (column, row, polarity) in rows:
        if beside and x and x[-1] + 1 < width:  # a neighbour at the same time: what vectors are for
            step, back, column, row, polarity = 0, 0, x[-1] + 1, y[-1], p[-1]
        now += step
        for values, value in ((t, max(0, now - back)), (x, column), (y, row), (p, polarity)):
            values.append(value)
    return t, x, y, p


def in_order(t, x, y, p, clock_bits: int = 62) -> list[tuple[int, int, int, int]]:
    """The events as tuples, sorted stably by time; the first of the file lies in the first loop of its clock."""
    loops = t[0] >> clock_bits << clock_bits if t else 0
    return sorted(((a - loops, *rest) for a, *rest in zip(t, x, y, p, strict=True)), key=lambda event: event[0])


def as_tuples(runs: list[Events]) -> list[tuple[int, int, int, int]]:
    return [event for e in runs for event in zip(*(getattr(e, c).tolist() for c in "txyp"), strict=True)]


def as_events(t, x, y, p, width=64, height=48) -> Events:
    return Events(
        np.array(t, np.int64), np.array(x, np.uint16), np.array(y, np.uint16), np.array(p, np.uint8), width, height
    )
