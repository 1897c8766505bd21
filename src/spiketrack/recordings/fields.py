"""The columns of events in files that hold bare numbers (text, NumPy arrays): their names, order, unit and validity."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE
from spiketrack.recordings.recording import TIME_LIMIT_US, Columns, Tally

UNITS = {"s": 6, "ms": 3, "us": 0, "ns": -3}  # a time in this unit times 10 ** value is in us
_SPELLINGS = {
    "s": "s|secs?|seconds?",
    "ms": "ms|msecs?|milliseconds?",
    "us": "us|µs|μs|usecs?|microseconds?",
    "ns": "ns|nsecs?|nanoseconds?",
}
_NAMES = {
    "t": "t|ts|times?|timestamps?|time_stamps?",
    "x": "x|xs|cols?|columns?|x_?(?:pos|addr|coord)",
    "y": "y|ys|rows?|y_?(?:pos|addr|coord)",
    "p": "p|ps|pol|polarity|polarities|on",
}
_NAME = re.compile("|".join(f"(?P<{name}>{spellings})" for name, spellings in _NAMES.items()))
_UNIT = re.compile("|".join(f"(?P<{unit}>{spellings})" for unit, spellings in _SPELLINGS.items()))
_TIME = re.compile(rf"({_NAMES['t']})(?:[ _.]|(?=[(\[]))+[(\[]?({'|'.join(_SPELLINGS.values())})[)\]]?")
_ORDER = "txyp"
_MOSTLY = 0.99  # a share of a sample that corrupt lines leave
_LATE = 0.02  # a share of events earlier than the one before them that a file in order of time may have
_SLOW = 0.1  # s an event: fewer than 10 events a second are no recording in seconds
_FEW = 100


def field_of(name: str) -> tuple[str, str | None] | None:
    """What a column or field of this name holds ("t", "x", "y" or "p"), and the unit of time where the name says it.

    field_of("Polarity") == ("p", None); field_of("timestamp [ns]") == ("t", "ns"); None for an unknown name.
    """
    text = name.strip().lower()
    plain = _NAME.fullmatch(text)
    if plain:
        return str(plain.lastgroup), None
    timed = _TIME.fullmatch(text)
    unit = _UNIT.fullmatch(timed.group(2)) if timed else None
    return ("t", str(unit.lastgroup)) if unit else None


def check_columns(columns: str, path: Path, what: str = "columns has") -> str:
    """`columns` itself, where it names each of t, x, y and p once, others being "_". Raises RecordingError."""
    unknown = sorted(set(columns) - set(_ORDER) - {"_"})
    wrong = [
        f"no {name}" if not columns.count(name) else f"{name} twice" for name in _ORDER if columns.count(name) != 1
    ]
    wrong += [f"{name!r}" for name in unknown]
    if wrong:
        raise RecordingError(f"{path}: {what} {', '.join(wrong)}; expected t, x, y and p, each once ('_' is not read)")
    return columns


@np.errstate(over="ignore", invalid="ignore")
def deduce_columns(values: NDArray, path: Path, polarity: int | None = None) -> str:
    """Which of four unnamed columns is what, such as "xypt". values: (N, 4), the first N events, of any real dtype.

    The polarity is the one column of 0, 1 and -1; the time the one that (nearly) never falls, of several the one that
    holds what no pixel has; of the other two the first is x. polarity: its column, where it is known. Without events
    "txyp". Raises RecordingError where more than one column, or none, fits.
    """
    if not len(values):
        return _ORDER
    share = np.isin(values, (-1, 0, 1)).mean(axis=0) >= _MOSTLY
    polar = np.flatnonzero(share) if polarity is None else np.array([polarity])
    if len(polar) > 1:
        signed = [i for i in polar if (values[:, i] == -1).any()]
        polar = np.array(signed) if len(signed) == 1 else polar
    if len(polar) != 1:
        raise _unclear(values, path, f"{len(polar) or 'no'} columns hold only 0, 1 and -1, as a polarity does")
    others = [i for i in range(4) if i != polar[0]]
    pixel = (values >= 0) & (values < MAX_SENSOR_SIDE) & (values == np.rint(values))
    late = (values[1:] < values[:-1]).sum(axis=0)
    no_pixels = [i for i in others if pixel[:, i].mean() < _MOSTLY]
    times = [i for i in no_pixels or others if late[i] <= _LATE * len(values)]
    if len(times) != 1:
        raise _unclear(values, path, f"{len(times) or 'no'} columns could be the time")
    x, y = (i for i in others if i != times[0])
    order = {int(polar[0]): "p", times[0]: "t", x: "x", y: "y"}
    return "".join(order[i] for i in range(4))


@np.errstate(over="ignore", invalid="ignore")
def deduce_unit(times: NDArray, path: Path, decimal: bool = True) -> int:
    """The power of ten that turns times without a named unit into us. times: (N,), the first N events.

    Whole numbers are us, numbers with fractions are s. decimal: whether the file writes them with a fraction, which
    may be zero. Raises RecordingError where that is not clear.
    """
    times = np.asarray(times, np.float64)
    times = times[np.isfinite(times)]
    hint = "name the column t_s, t_us or t_ns, or give time_unit"
    if not decimal or not len(times):
        return UNITS["us"]
    if (times == np.rint(times)).all():
        if len(np.unique(times)) > 1:
            return UNITS["us"]
        raise RecordingError(f"{path}: every time is {times[0]}, which may be in s or us; {hint}")
    if len(times) >= _FEW and np.ptp(times) > _SLOW * len(times):
        raise RecordingError(
            f"{path}: the times have fractions, but {len(times)} events in {np.ptp(times):.6g} s are too few for "
            f"seconds; {hint}"
        )
    return UNITS["s"]


def valid_columns(raw: Sequence[NDArray], sensor: tuple[int, int], tally: Tally, first: int, shift: int = 0) -> Columns:
    """The valid ones of N events as fresh columns; the others are counted, each under one kind.

    raw: t, x, y, p of any real dtype, as the file holds them. shift: t times 10 ** shift is in us. first: the index of
    the first event in the file. Kinds: "bad_time" (no number, or beyond any time), "bad_coordinate" (no whole number),
    "off_sensor", "bad_polarity" (not 0, 1 or -1; -1 is OFF).
    """
    t, x, y, p = raw
    with np.errstate(over="ignore", invalid="ignore"):
        if shift > 0 and t.dtype.kind != "f":
            bad_time = (t > TIME_LIMIT_US // 10**shift) | (t < -(TIME_LIMIT_US // 10**shift))
            t_us = np.where(bad_time, 0, t).astype(np.int64) * 10**shift
        elif shift < 0 and t.dtype.kind != "f":
            bad_time = np.zeros(len(t), np.bool_)
            t_us = _rounded_quotient(t, 10**-shift)
        else:
            t_us = t if t.dtype.kind != "f" else np.rint(t.astype(np.float64) * 10.0**shift)
            bad_time = ~((t_us >= -TIME_LIMIT_US) & (t_us <= TIME_LIMIT_US))
        fraction = np.zeros(len(t), np.bool_)
        for column in (x, y):
            if column.dtype.kind == "f":
                fraction |= ~(column == np.rint(column)) | np.isinf(column)
        off = (x < 0) | (x >= sensor[0]) | (y < 0) | (y >= sensor[1])
    polar = (p == 0) | (p == 1) | (p == -1) if p.dtype.kind != "b" else np.ones(len(p), np.bool_)
    checks = {"bad_time": bad_time, "bad_coordinate": fraction, "off_sensor": off, "bad_polarity": ~polar}
    keep = ~(bad_time | fraction | off | ~polar)
    if not keep.all():
        judged = np.zeros(len(t), np.bool_)
        for kind, bad in checks.items():
            bad = bad & ~judged
            judged |= bad
            if bad.any():
                i = int(np.argmax(bad))
                where = f"event {first + i}: t {t[i]}, x {x[i]}, y {y[i]}, p {p[i]}"
                tally.drop(kind, int(np.count_nonzero(bad)), where)
        t_us, x, y, p = t_us[keep], x[keep], y[keep], p[keep]
    return Columns(t_us.astype(np.int64), x.astype(np.uint16), y.astype(np.uint16), (p == 1).astype(np.uint8))


def _rounded_quotient(t: NDArray, divisor: int) -> NDArray[np.int64]:
    """t / divisor, to the nearest whole number, ties to the even one; t: (N,) of an integer dtype."""
    t = t.astype(np.uint64 if t.dtype.kind == "u" else np.int64)
    quotient, rest = np.divmod(t, np.asarray(divisor, t.dtype))
    up = (2 * rest > divisor) | ((2 * rest == divisor) & (quotient % 2 == 1))
    return (quotient + up.astype(t.dtype)).astype(np.int64)


def _unclear(values: NDArray, path: Path, why: str) -> RecordingError:
    seen = ", ".join(
        f"{low:.10g} .. {high:.10g}" for low, high in zip(values.min(axis=0), values.max(axis=0), strict=True)
    )
    return RecordingError(
        f"{path}: it is not clear which column is what: in the first {len(values)} events they span {seen}, and {why}; "
        "name the columns (text: a first line such as `t,x,y,p`), or give columns, such as columns='txyp'"
    )
