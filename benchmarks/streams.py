"""Streams that the benchmarks share: events as a sensor reads them out, and real words repeated."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spiketrack.events import Events
from spiketrack.recordings.header import MAX_HEADER_BYTES, read_header


def sensor_events(n: int, rate: float, width: int = 1280, height: int = 720, seed: int = 0) -> Events:
    """n events at `rate` Mev/s in groups of one row, time and polarity: 2.5 events on average, 2 columns apart."""
    rng = np.random.default_rng(seed)
    lengths = rng.geometric(1 / 2.5, n // 2 + 1000)
    groups = int(np.searchsorted(np.cumsum(lengths), n)) + 1
    lengths = lengths[:groups]
    group = np.repeat(np.arange(groups), lengths)[:n]
    t = np.cumsum(rng.poisson(lengths / rate))[group]
    walk = np.cumsum(rng.geometric(0.5, n))
    first = np.minimum(np.cumsum(lengths) - lengths, n - 1)
    x = np.minimum(rng.integers(0, width - 40, groups)[group] + walk - walk[first][group], width - 1)
    y, p = rng.integers(0, height, groups)[group], rng.integers(0, 2, groups)[group]
    return Events(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), width, height)


def repeated_words(source: Path, target: Path, coding: str, turns: int) -> None:
    """The words of a recording, `turns` times in a row, with the clock going on."""
    head = source.read_bytes()
    start = read_header(head[:MAX_HEADER_BYTES], source).data_start + (2 if coding == "dat" else 0)
    dtype, kind_bits, value_bits = {
        "evt3": (np.uint16, 12, 12), "evt2": (np.uint32, 28, 28), "dat": (np.uint64, 64, 32)
    }[coding]  # fmt: skip
    words = np.frombuffer(head, dtype, (len(head) - start) // np.dtype(dtype).itemsize, start)
    clock = np.arange(len(words)) if coding == "dat" else np.flatnonzero(words >> kind_bits == 0x8)
    mask = dtype((1 << value_bits) - 1)
    readings = (words[clock] & mask).astype(np.int64)
    steps = np.diff(readings)
    span = int(np.where(steps < 0, steps + (1 << value_bits), steps).sum()) + 1
    body = words[clock[0] :]  # the first reading comes first, so that what follows the last turn's end has a time
    with open(target, "wb") as file:
        file.write(head[:start])
        for turn in range(turns):
            again = body.copy()
            moved = ((readings + turn * span) & int(mask)).astype(dtype)
            again[clock - clock[0]] = (again[clock - clock[0]] & ~mask) | moved
            file.write(again.tobytes())
