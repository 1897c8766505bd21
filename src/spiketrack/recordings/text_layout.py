"""Text files of events: recognising them, and finding out which column is what, in which unit, on which sensor.

In comes the start of a file, out goes a `TextLayout` that text.py parses the lines by. What a file says (a line that
names the columns, a comment or a line with the size) is believed; what it does not say is deduced from its first
lines where they leave no doubt, and is an error otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE
from spiketrack.recordings.fields import UNITS, check_columns, deduce_columns, deduce_unit, field_of

SAMPLE_LINES = 10_000
SAMPLE_BYTES = 1 << 20
_NAMED_SAMPLE_LINES = 1000
MAX_LINE_BYTES = 4096  # a longer line is no event
_MOST_LINES = 2 * SAMPLE_LINES
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # but tabs and what ends a line
_GLANCE_LINES = 20
_BOM = b"\xef\xbb\xbf"
_BETWEEN = rb"(?:[ \t\r]*[,;][ \t\r]*|[ \t\r]+)"
_FIELD = rb"(?:[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:true|false|on|off))"
_SPLIT = re.compile(_BETWEEN)
_ONE_FIELD = re.compile(_FIELD)
_WORDS = {b"true": 1, b"on": 1, b"false": 0, b"off": 0}
_SIZES = (
    ("width", re.compile(r"\bwidth\b\W*([0-9]+)", re.I)),
    ("height", re.compile(r"\bheight\b\W*([0-9]+)", re.I)),
    ("width", re.compile(r"\b(?:geometry|resolution|sensor[ _]?size)\b\W*([0-9]+)\s*[x, ]\s*[0-9]+", re.I)),
    ("height", re.compile(r"\b(?:geometry|resolution|sensor[ _]?size)\b\W*[0-9]+\s*[x, ]\s*([0-9]+)", re.I)),
)


@dataclass(frozen=True)
class TextLayout:
    """data_start, first_line: byte and number of the first line of events. columns: what each column holds, one of
    "t", "x", "y", "p", or "_" for what is not read. shift: a time in the file times 10 ** shift is in us. width,
    height: the sensor in pixels as the file says it, None where it does not."""

    data_start: int
    first_line: int
    columns: str
    shift: int
    width: int | None
    height: int | None


def looks_like_text(head: bytes) -> bool:
    """Whether a file that begins with `head` holds events as text: lines of numbers, or a line that names columns."""
    rows = others = 0
    lines = list(_lines(head))
    if len(lines) > 1 and not head.endswith(b"\n"):
        lines.pop()  # perhaps cut
    for _, _, line in lines:
        if not line or line[:1] in b"#%":
            if _named_columns(line):
                return True
            continue
        if _is_row(line):
            rows += 1
        elif not rows and _named_columns(line):
            return True
        else:
            others += 1
        if rows + others == _GLANCE_LINES:
            break
    return rows > others


def read_layout(sample: bytes, path: Path, columns: str | None = None, time_unit: str | None = None) -> TextLayout:
    """The layout of a file that begins with `sample`, its first SAMPLE_BYTES bytes (or all of it, if shorter).

    columns: what each column holds, such as "txyp" or "xyp_t" ("_" is not read); time_unit: "s", "ms", "us" or "ns".
    Where given they win over what the file says. Raises RecordingError where the layout is neither said nor clear.
    """
    start = _Start(sample, path)
    named = "".join(start.names) if columns is None else check_columns(columns, path)
    if time_unit is not None and time_unit not in UNITS:
        raise RecordingError(f"{path}: no unit of time {time_unit!r}; expected one of {', '.join(UNITS)}")
    rows = start.rows(_NAMED_SAMPLE_LINES if named else SAMPLE_LINES)
    counts = Counter(map(len, rows))
    if named and rows and len(named) not in counts:
        raise RecordingError(
            f"{path}: {len(named)} columns are named ({named}), but from line {start.line} on the lines have "
            f"{counts.most_common(1)[0][0]}"
        )
    if not named and not rows and start.at_end and start.size["width"]:
        named = "txyp"  # a size and no events
    if not named:
        if not rows:
            raise RecordingError(
                f"{path}: line {start.line} and what follows are no events, and no line names the columns; expected "
                "lines such as `1234,56,78,1` (t, x, y, p)"
            )
        width = counts.most_common(1)[0][0]
        if width != 4:
            raise RecordingError(
                f"{path}: from line {start.line} on the lines have {width} columns and no line names them; expected "
                "t, x, y and p: name them in the first line, or give columns, such as columns='txyp_'"
            )
        values, words = _values([row for row in rows if len(row) == 4])
        named = deduce_columns(values, path, words)
    if time_unit is not None:
        shift = UNITS[time_unit]
    elif start.unit is not None:
        shift = UNITS[start.unit]
    else:
        times = [row[named.index("t")] for row in rows if len(row) == len(named)]
        decimal = any(b"." in time or b"e" in time.lower() for time in times)
        shift = deduce_unit(np.array([float(time) for time in times if not time.isalpha()]), path, decimal)
    return TextLayout(start.byte, start.line, named, shift, start.size["width"], start.size["height"])


class _Start:
    """The lines before the first event: comments, a line with the size, a line that names the columns."""

    def __init__(self, sample: bytes, path: Path) -> None:
        self._path = path
        whole = len(sample) < SAMPLE_BYTES
        self._left = list(_lines(sample if whole else sample[: sample.rfind(b"\n") + 1]))
        self.names: list[str] = []
        self.unit: str | None = None
        self.size: dict[str, int | None] = {"width": None, "height": None}
        self.byte, self.line = len(sample), len(self._left) + 1
        count = 0
        for byte, number, line in self._left:
            if not self._belongs(line, count):
                self.byte, self.line = byte, number
                break
            count += 1
        else:
            if not whole:
                raise RecordingError(f"{path}: no event within its first {SAMPLE_BYTES:,} bytes")
        self._left = self._left[count:]
        self.at_end = not self._left

    def rows(self, most: int) -> list[list[bytes]]:
        """The fields of those of the next `most` lines that hold numbers."""
        return [_fields(line) for _, _, line in self._left[:most] if _is_row(line)]

    def _belongs(self, line: bytes, index: int) -> bool:
        """Whether the line belongs to the start; takes from it what it says."""
        if not line or line[:1] in b"#%":
            text = line.decode("utf-8", "replace")
            for name, pattern in _SIZES:
                for found in pattern.findall(text):
                    self._say(name, found, text)
            self._name(_named_columns(line), text)
            return True
        if not _is_row(line):
            named = _named_columns(line)
            if named is None:
                return False
            self._name(named, line.decode("utf-8", "replace"))
            return True
        fields = _fields(line)
        after = next((_fields(other) for _, _, other in self._left[index + 1 :] if other), None)
        if len(fields) == 2 and all(field.isdigit() for field in fields) and (after is None or len(after) != 2):
            for name, field in zip(("width", "height"), fields, strict=True):
                self._say(name, field.decode(), line.decode("ascii"))
            return True
        return False

    def _say(self, name: str, digits: str, line: str) -> None:
        side = int(digits[:9])
        if not 1 <= side <= MAX_SENSOR_SIDE:
            raise RecordingError(
                f"{self._path}: the line {line[:80]!r} gives a {name} of {digits[:20]}; expected 1 .. {MAX_SENSOR_SIDE}"
            )
        if self.size[name] not in (None, side):
            raise RecordingError(
                f"{self._path}: two lines contradict each other on the {name}: {self.size[name]} and {side}"
            )
        self.size[name] = side

    def _name(self, named: list[tuple[str, str | None]] | None, line: str) -> None:
        if named is None:
            return
        names = [name for name, _ in named]
        check_columns("".join(names), self._path, f"the line {line[:80]!r} names the columns, but has")
        self.names, self.unit = names, next(unit for name, unit in named if name == "t")


def _lines(text: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(byte, number, line without blanks around it) of the first lines, the byte-order mark left out."""
    byte = len(_BOM) if text.startswith(_BOM) else 0
    for number in range(1, _MOST_LINES + 1):
        if byte >= len(text):
            return
        end = text.find(b"\n", byte)
        end = len(text) if end < 0 else end
        yield byte, number, text[byte:end].strip(b" \t\r")
        byte = end + 1


def _fields(line: bytes) -> list[bytes]:
    fields = _SPLIT.split(line[:MAX_LINE_BYTES])
    return fields[:-1] if len(fields) > 1 and not fields[-1] else fields


def _is_row(line: bytes) -> bool:
    fields = _fields(
        line
    )  # field by field: one pattern for the line takes for ever to see that a long one does not fit
    return len(line) <= MAX_LINE_BYTES and len(fields) > 1 and all(map(_ONE_FIELD.fullmatch, fields))


def _values(rows: list[list[bytes]]) -> tuple[np.ndarray, int | None]:
    """(N, columns) float64, and the column that holds words such as `true`, which only a polarity does."""
    words = next((i for row in rows for i, field in enumerate(row) if field.isalpha()), None)
    values = [[_WORDS[field.lower()] if field.isalpha() else float(field) for field in row] for row in rows]
    return np.array(values, np.float64), words


def _named_columns(line: bytes) -> list[tuple[str, str | None]] | None:
    """(column, unit) of each name in the line; None where it does not name columns (at least three known ones).

    In a comment, and where blanks separate them, all names must be known, so that prose is no header. A line with
    control characters is none: words of a RAW file may lie between two that read as line ends, and hold any letters.
    """
    if _CONTROL.search(line):
        return None
    comment = line[:1] in (b"#", b"%")
    text = line.decode("utf-8", "replace").strip("#% \t").replace('"', "").replace("'", "")
    text = re.sub(r"\s*([(\[][^)\]]*[)\]])", r"\1", text)  # `t [us]` is one name
    if comment and ":" in text:
        text = text.rpartition(":")[2]
    blanks = re.search("[,;]", text) is None
    names = text.split() if blanks else [name.strip() for name in re.split("[,;]", text)]
    known = [field_of(name) or ("_", None) for name in names]
    unknown = sum(name == "_" for name, _ in known)
    if len(known) - unknown < 3 or ((comment or blanks) and unknown):
        return None
    return known
