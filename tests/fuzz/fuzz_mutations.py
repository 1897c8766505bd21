"""Mutations of files: seeded, so that a number of the run always gives the same bytes from the same parents."""

from __future__ import annotations

import re
from random import Random

import numpy as np

_INTERESTING = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    1 << 53,
    1 << 62,
    (1 << 62) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)
_NUMBERS = (
    b"0",
    b"-1",
    b"1",
    b"2",
    b"63",
    b"64",
    b"65535",
    b"65536",
    b"65537",
    b"2147483648",
    b"4294967296",
    b"4611686018427387904",
    b"4611686018427387905",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551616",
    b"99999999999999999999999999",
    b"1e5",
    b"1e-5",
    b"1e400",
    b"-1e308",
    b"0.5",
    b"1.0000005",
    b".5",
    b"5.",
    b"nan",
    b"inf",
    b"0x10",
    b"1_0",
    b"+7",
    b"--1",
    b"",
    b" ",
    b"9" * 300,
    b"true",
    b"OFF",
)
_LINES = (
    b"% evt 2.0",
    b"% evt 2.1",
    b"% evt 3.0",
    b"% evt 4.0",
    b"% evt",
    b"% format EVT3;height=0;width=0",
    b"% format EVT2;height=48;width=64",
    b"% format EVT21;endianness=legacy",
    b"% geometry 64x48",
    b"% geometry 0x0",
    b"% geometry 65536x1",
    b"% geometry x",
    b"% Width 1",
    b"% Height 16384",
    b"% Width 99999999999",
    b"% Version 1",
    b"% Version 2",
    b"% Version 3",
    b"% end",
    b"%",
    b"% ",
    b"%%",
    b"% endianness big",
    b"% endianness legacy",
    b"% endianness little",
    b"% time_offset_us 999999999999999999",
    b"% time_offset_us -999999999999999999",
    b"% system_id 49",
    b"% integrator_name Prophesee",
    b"% \xff\xfe",
    b"t,x,y,p",
    b"x y p t",
    b"t_s,x,y,p",
    b"timestamp [ns],x,y,polarity",
    b"t,t,x,y,p",
    b"# width 64",
    b"# height 0",
    b"# sensor size 64 x 48",
    b"64 48",
    b"1 2 3",
    b"1,2,3,4,5",
    b"\x00\x08",
    b"\x0c\x08",
    b"1" * 5000,
    b"#" * 5000,
)
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?")
_MOST_BYTES = 1 << 17


def mutate(
    random: Random, content: bytes, other: bytes, aims: tuple[tuple[int, int], ...], most: int = 8, in_place: float = 0
) -> bytes:
    """One to `most` changes of bytes, most of them within the aims; `other` is what a splice takes from.

    in_place: the share of inputs in which no byte changes its place, for formats full of references to places.
    """
    data = bytearray(content)
    changes = _IN_PLACE if random.random() < in_place else _CHANGES
    for _ in range(min(most, 1 + int(random.expovariate(0.5)))):
        first, last = random.choice(aims) if aims and random.random() < 0.8 else (0, len(data))
        first, last = min(first, len(data)), min(last, len(data))
        if first >= last:
            first, last = 0, len(data)
        random.choice(changes)(random, data, first, last, other)
    return bytes(data[:_MOST_BYTES])


def mutate_text(random: Random, content: bytes, first: int, last: int) -> bytes:
    """Changes of numbers and lines between two bytes, of a header or of a whole text file."""
    head, text, tail = content[:first], content[first:last], content[last:]
    for _ in range(1 + int(random.expovariate(0.7))):
        lines = text.splitlines(keepends=True) or [b""]
        i = random.randrange(len(lines))
        choice = random.randrange(8)
        if choice < 3:
            numbers = list(_NUMBER.finditer(lines[i]))
            if numbers:
                found = random.choice(numbers)
                lines[i] = lines[i][: found.start()] + random.choice(_NUMBERS) + lines[i][found.end() :]
        elif choice == 3:
            lines.insert(i, random.choice(_LINES) + random.choice((b"\n", b"\n", b"\r\n", b"")))
        elif choice == 4:
            lines[i] = random.choice(_LINES) + b"\n"
        elif choice == 5:
            del lines[i]
        elif choice == 6:
            lines.insert(random.randrange(len(lines) + 1), lines[i])
        else:
            lines[i] = lines[i].replace(*random.choice(((b",", b" "), (b" ", b";"), (b"\n", b""), (b"0", b"-"))))
        text = b"".join(lines)
    return (head + text + tail)[:_MOST_BYTES]


def _flip(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if first < last:
            data[random.randrange(first, last)] ^= 1 << random.randrange(8)


def _set_bytes(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if first < last:
            data[random.randrange(first, last)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))


def _set_number(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    """A number of 1 to 8 bytes, aligned or not, either set or added to."""
    size = random.choice((1, 2, 4, 4, 8, 8))
    place = random.randrange(first, last) if first < last else 0
    if random.random() < 0.6:
        place -= place % size
    order = random.choice(("little", "little", "little", "big"))
    old = int.from_bytes(data[place : place + size], order)
    new = old + random.randrange(-16, 17) if random.random() < 0.3 else random.choice(_INTERESTING)
    data[place : place + size] = (new % (1 << 8 * size)).to_bytes(size, order)


def _truncate(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    del data[random.randrange(first, last + 1) :]


def _stretch(random: Random, first: int, last: int) -> tuple[int, int]:
    """A block within first .. last, short more often than long."""
    most = random.choice((4, 16, 64, 512, max(1, last - first)))
    start = random.randrange(first, last) if first < last else first
    return start, min(last, start + random.randrange(1, most + 1))


def _remove(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    start, end = _stretch(random, first, last)
    del data[start:end]


def _duplicate(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    start, end = _stretch(random, first, last)
    copies = random.choice((1, 1, 2, 9, 200)) if end - start < 600 else 1
    place = end if random.random() < 0.5 else random.randrange(first, last + 1)
    data[place:place] = bytes(data[start:end]) * copies


def _swap(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    start, end = _stretch(random, first, last)
    place = random.randrange(first, max(first + 1, last - (end - start)))
    block, there = bytes(data[start:end]), bytes(data[place : place + end - start])
    data[start:end], data[place : place + end - start] = there, block


def _fill(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    start, end = _stretch(random, first, last)
    data[start:end] = bytes([random.choice((0, 0xFF, random.randrange(256)))]) * (end - start)


def _scatter(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    start, end = _stretch(random, first, last)
    data[start:end] = random.randbytes(end - start)


def _insert(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    place = random.randrange(first, last + 1)
    data[place:place] = random.randbytes(random.choice((1, 2, 3, 4, 8, 100)))


def _splice(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    """A block of another file, put in or put over."""
    start, end = _stretch(random, 0, len(other))
    place = random.randrange(first, last + 1)
    data[place : place + random.choice((0, end - start))] = other[start:end]


def _join(random: Random, data: bytearray, first: int, last: int, other: bytes) -> None:
    """The start of this file and the end of the other."""
    data[random.randrange(first, last + 1) :] = other[random.randrange(len(other) + 1) :]


_IN_PLACE = (_flip, _flip, _set_bytes, _set_bytes, _set_number, _set_number, _set_number, _swap, _fill, _scatter)
_CHANGES = (*_IN_PLACE, _truncate, _remove, _duplicate, _insert, _splice, _join)


def random_words(random: Random, kind: str, count: int, width: int, height: int) -> bytes:
    """Words of an EVT or DAT file: valid types with random content, most of it on the sensor, a few without sense."""
    numbers = np.frombuffer(random.randbytes(8 * count), np.uint64)
    share = random.choice((0, 0, 0.002, 0.05, 0.5))
    wild = np.frombuffer(random.randbytes(2 * count), np.uint16) < share * 65536
    steps = np.array(random.choice(_STEPS), np.int64)[(numbers >> np.uint64(56)) % np.uint64(8)]
    words = _WORDS[kind](random, numbers, steps, random.choice((width, 2047)), random.choice((height, 2047)))
    return np.where(wild, numbers.astype(words.dtype), words).tobytes()


_STEPS = (
    (0, 0, 0, 0, 0, 0, 0, 1),
    (0, 0, 1, 0, 1, 1, 2, 0),
    (1, 1, 1, 1, 1, 1, 1, 1),
    (0, 1, -1, 0, 2, -1, 1, 0),
    (0, 200, 0, 240, 0, 1, 250, 3),
    (0, 1, 0, -300, 700, 0, 2000, 1),
    (0, 15000, -15000, 1, 0, 0, 1 << 20, 3),
)


def _kinds(random: Random, count: int, weights: dict[int, float]) -> np.ndarray:
    chosen = {kind: weight * random.choice((0, 0.3, 1, 1, 3)) for kind, weight in weights.items()}
    chosen[next(iter(weights))] += 1e-3
    return np.array(random.choices(list(chosen), list(chosen.values()), k=count), np.uint64)


def _evt3_words(random: Random, numbers: np.ndarray, steps: np.ndarray, width: int, height: int) -> np.ndarray:
    weights = {
        2: 25,
        0: 10,
        3: 8,
        4: 10,
        5: 8,
        6: 15,
        8: 8,
        0xA: 3,
        7: 1,
        0xE: 1,
        0xF: 1,
        1: random.choice((0, 0, 0.2)),
    }
    kinds = _kinds(random, len(numbers), weights)
    low = numbers & np.uint64(0xFFF)
    other = numbers >> np.uint64(12)
    clock = (random.randrange(4096) + np.cumsum(np.where(kinds == 8, steps, 0))).astype(np.uint64) & np.uint64(0xFFF)
    values = np.select(
        [kinds == 0, (kinds == 2) | (kinds == 3), kinds == 8],
        [low % np.uint64(height), (low & np.uint64(0x800)) | other % np.uint64(width), clock],
        low,
    )
    return (kinds << np.uint64(12) | values).astype(np.uint16)


def _evt2_upper(random: Random, numbers: np.ndarray, steps: np.ndarray, width: int, height: int) -> np.ndarray:
    weights = {1: 40, 0: 40, 8: 10, 0xA: 3, 0xE: 1, 0xF: 1, 5: random.choice((0, 0, 0.2))}
    kinds = _kinds(random, len(numbers), weights)
    clock = random.choice((0, 1 << 27, (1 << 28) - 50)) + np.cumsum(np.where(kinds == 8, steps, 0))
    x, y, low = numbers % np.uint64(width), (numbers >> np.uint64(16)) % np.uint64(height), numbers >> np.uint64(58)
    values = np.where(
        kinds == 8, clock.astype(np.uint64) & np.uint64(0xFFFFFFF), low << np.uint64(22) | x << np.uint64(11) | y
    )
    return kinds << np.uint64(28) | values


def _evt2_words(random: Random, numbers: np.ndarray, *how) -> np.ndarray:
    return _evt2_upper(random, numbers, *how).astype(np.uint32)


def _evt21_words(random: Random, numbers: np.ndarray, *how) -> np.ndarray:
    upper = _evt2_upper(random, numbers, *how)
    masks = numbers & np.uint64(random.choice((1, 0x10001, 0xFF, 0xFFFFFFFF)))
    if random.random() < 0.5:
        return upper << np.uint64(32) | masks
    return masks << np.uint64(32) | upper


def _dat_words(random: Random, numbers: np.ndarray, steps: np.ndarray, width: int, height: int) -> np.ndarray:
    clock = random.choice((0, 1 << 31, (1 << 32) - 50)) + np.cumsum(steps * random.choice((1, 1, 20, 1 << 20)))
    x, y, p = numbers % np.uint64(width), (numbers >> np.uint64(16)) % np.uint64(height), numbers >> np.uint64(63)
    shift = random.choice((14, 14, 9))
    address = x | y << np.uint64(shift) | p << np.uint64(28 if shift == 14 else 17)
    return (address & np.uint64(0xFFFFFFFF)) << np.uint64(32) | clock.astype(np.uint64) & np.uint64(0xFFFFFFFF)


_WORDS = {"evt2": _evt2_words, "evt2.1": _evt21_words, "evt3": _evt3_words, "dat": _dat_words}


def random_nmnist(random: Random, count: int) -> bytes:
    """Events of N-MNIST in order of time."""
    side = random.choice((34, 34, 34, 35))
    times = sorted(random.randrange(1 << 23) for _ in range(count))
    rows = ((random.randrange(side), random.randrange(side), random.getrandbits(1) << 23 | t) for t in times)
    return b"".join(bytes((x, y)) + stamp.to_bytes(3, "big") for x, y, stamp in rows)
