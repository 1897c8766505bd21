"""What the files of the fuzz run's corpus have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketrack.events import Events, Triggers
from spiketrack.recordings import create_recording

WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Seed:
    """One valid file. kind: a key of fuzz_corpus.WEIGHTS. suffix: of its name. aims: (first, last) byte ranges that are
    worth more mutations than the rest. body: where the words, rows or lines begin. sidecar: the index beside it."""

    kind: str
    suffix: str
    content: bytes
    aims: tuple[tuple[int, int], ...] = ()
    body: int = 0
    sidecar: bytes | None = None


def make_events(n: int, number: int = 0, span_us: int = 300_000, start_us: int = 0) -> Events:
    """Random events of the generator `number`, some of them in rows of neighbours, as vectors are made for."""
    rng = np.random.default_rng(number)
    t = np.sort(rng.integers(0, span_us, n)) + start_us
    x, y, p = rng.integers(0, WIDTH, n), rng.integers(0, HEIGHT, n), rng.integers(0, 2, n)
    for first in range(0, n - 8, 24):
        run = slice(first, first + int(rng.integers(2, 8)))
        t[run], y[run], p[run] = t[first], y[first], p[first]
        x[run] = x[first] % (WIDTH - 8) + np.arange(run.stop - first)
    return Events(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), WIDTH, HEIGHT)


def make_triggers(events: Events) -> Triggers:
    """A trigger at the time of every sixth part of the events."""
    t = events.t[:: max(1, len(events) // 6)]
    return Triggers(t, np.arange(len(t), dtype=np.uint8) % 4, np.arange(len(t), dtype=np.uint8) % 2)


def rows_of(events: Events, order: str = "txyp") -> list[tuple[int, ...]]:
    return list(zip(*(getattr(events, name).tolist() for name in order), strict=True))


def structured(events: Events, fields: list[tuple[str, str]]) -> np.ndarray:
    """Rows whose fields are named after the columns, at least by their first letter."""
    rows = np.zeros(len(events), fields)
    for name, _ in fields:
        rows[name] = getattr(events, name[0])
    return rows


def written(path: Path, events: Events, triggers: Triggers | None = None, **how: str) -> bytes:
    """The bytes that our own writer makes of them."""
    with create_recording(path, WIDTH, HEIGHT, **how) as writer:
        writer.append(events, triggers)
    return path.read_bytes()


def array_aims(start: int, size: int) -> tuple[tuple[int, int], ...]:
    """Where to change a `.npy` file whose rows begin at `start`: mostly there, less often in its header."""
    return (start, size), (start, size), (start, size), (0, start)
