"""The text header of RAW and DAT files: lines `% key value`, in ASCII."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from spiketrack.errors import RecordingError

MAX_HEADER_BYTES = 1 << 16
TIME_OFFSET_KEY = "time_offset_us"
_BINARY = re.compile(rb"[\x00-\x08\x0a-\x0c\x0e-\x1f\x7f]")  # control characters other than tab and CR


@dataclass(frozen=True)
class Header:
    """fields: (key in lower case, value) in the order of the file; data_start: the first byte after the header."""

    fields: tuple[tuple[str, str], ...]
    data_start: int

    def values(self, key: str) -> list[str]:
        return [value for name, value in self.fields if name == key]

    def options(self, key: str) -> list[str]:
        """Values of `key` among the options of `% format EVT3;key=value;key=value`."""
        pairs = [option.strip().partition("=") for line in self.values("format") for option in line.split(";")[1:]]
        return [value for name, _, value in pairs if name == key]


def read_header(head: bytes, path: Path) -> Header:
    """The header at the start of `head`, the first MAX_HEADER_BYTES of the file.

    It ends after `% end` or before the first line that is not `% ` and text. Raises RecordingError where a line
    has no end.
    """
    fields, start = [], 0
    while head.startswith(b"% ", start):
        end = head.find(b"\n", start)
        line = head[start : end if end >= 0 else len(head)]
        if fields and _BINARY.search(line):
            break
        if end < 0:
            raise RecordingError(
                f"{path}: the header has no end: its line at byte {start} goes on to byte {len(head)}; "
                f"expected lines that end, within {MAX_HEADER_BYTES:,} bytes, and then events"
            )
        start = end + 1
        key, _, value = line[2:].decode("ascii", "replace").strip().partition(" ")
        if key.lower() == "end":
            break
        fields.append((key.lower(), value.strip()))
    if len(head) == MAX_HEADER_BYTES == start:
        raise RecordingError(f"{path}: the header has no end within {MAX_HEADER_BYTES:,} bytes")
    return Header(tuple(fields), start)


def sensor_size(header: Header, path: Path, max_side: int) -> tuple[int | None, int | None]:
    """Width and height in pixels as the header says; None where it does not.

    Raises RecordingError where a size cannot be (not 1 .. max_side) or two lines contradict each other.
    """
    said: dict[str, dict[int, str]] = {"width": {}, "height": {}}

    def say(name: str, text: str, line: str) -> None:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= max_side:
            raise RecordingError(
                f"{path}: the header line `% {line}` gives a {name} of {text!r}; expected 1 .. {max_side} pixels"
            )
        said[name][int(text)] = line

    for key, value in header.fields:
        line = f"{key} {value}"
        if key == "geometry":
            width, _, height = value.partition("x")
            say("width", width, line)
            say("height", height, line)
        elif key == "format":
            for option in value.split(";")[1:]:
                name, _, text = option.strip().partition("=")
                if name in said:
                    say(name, text, line)
        elif key in said:
            say(key, value, line)
    for name, sizes in said.items():
        if len(sizes) > 1:
            lines = " and ".join(f"`% {line}`" for line in sizes.values())
            raise RecordingError(f"{path}: the header lines {lines} contradict each other on the {name}")
    width, height = (next(iter(said[name]), None) for name in ("width", "height"))
    return width, height


def time_offset(header: Header, path: Path) -> int:
    """What must be added to every time, us: our own line, for times that the words have no room for; 0 without it."""
    lines = header.values(TIME_OFFSET_KEY)
    if not lines:
        return 0
    if len(lines) > 1 or not re.fullmatch(r"-?[0-9]{1,18}", lines[0]):
        raise RecordingError(f"{path}: the header line `% {TIME_OFFSET_KEY} {lines[0]}` is no time in microseconds")
    return int(lines[0])
