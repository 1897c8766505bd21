"""open_recording: recognise a file by its content and return the Recording that reads it."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np

from spiketrack.errors import RecordingError
from spiketrack.events import MAX_SENSOR_SIDE
from spiketrack.recordings.array_source import NPY_MAGIC, ZIP_MAGIC
from spiketrack.recordings.header import MAX_HEADER_BYTES, Header, read_header, sensor_size, time_offset
from spiketrack.recordings.nmnist import MAX_BYTES, SIDE, NmnistRecording, why_not_nmnist
from spiketrack.recordings.recording import DEFAULT_OPTIONS, ReadOptions, Recording, largest_pixel
from spiketrack.recordings.text_layout import looks_like_text

READABLE = "RAW EVT2, EVT2.1 or EVT3, DAT, HDF5, AEDAT4, text, .npy, .npz or N-MNIST .bin"
AEDAT4_MAGIC = b"#!AER-DAT4.0\r\n"
_LAST_LEGACY_SYSTEM = 0x36
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_REFUSED = {
    b"#!AER-DAT": "an AEDAT recording of version 1 to 3",
    b"#ROSBAG": "a ROS bag",
    b"\x1f\x8b": "a gzip file; unpack it first",
}


def open_recording(
    path: str | Path,
    width: int | None = None,
    height: int | None = None,
    *,
    options: ReadOptions = DEFAULT_OPTIONS,
    columns: str | None = None,
    time_unit: str | None = None,
    endianness: str | None = None,
) -> Recording:
    """Recognise the format of a recording by its content, never by its name, and make it ready to read.

    width, height: the sensor in pixels; where given they win over what the file says. A RAW, DAT or text file that
    does not say its size (old DAT such as N-CARS, old RAW) is read once here, in bounded memory, and gets the
    largest x and y of its events, plus one: a bound from below of the true size. HDF5 without
    `events/width` and `events/height` is not guessed at, since known files hold corrupt coordinates: give both.
    options: what to do with invalid events, threads, index. columns: the order of the columns of a text file or of
    an array without names, such as "xytp"; time_unit: that of their times, "us", "ms", "s" or "ns". endianness: the
    order of the halves of an EVT2.1 word, "little" or "legacy", where the header is wrong.

    Raises RecordingError naming the file, and the place in it, where it is missing, empty, not a regular file, of
    an unknown format or one this version does not read, or where its header or structure is broken.
    """
    path = Path(path)
    for name, side in (("width", width), ("height", height)):
        if side is not None and not 1 <= side <= MAX_SENSOR_SIDE:
            raise RecordingError(f"{path}: {name} must be 1 .. {MAX_SENSOR_SIDE} pixels, got {side}")
    head = _read_head(path)
    if head.startswith(HDF5_MAGIC):
        from spiketrack.recordings.hdf5 import open_hdf5

        return open_hdf5(path, width, height, options)
    if head.startswith(AEDAT4_MAGIC):
        from spiketrack.recordings.aedat4 import open_aedat4

        return open_aedat4(path, width, height, options)
    if head.startswith((NPY_MAGIC, ZIP_MAGIC)):
        from spiketrack.recordings.arrays import open_array

        return open_array(path, width, height, options, columns, time_unit)
    for magic, what in _REFUSED.items():
        if head.startswith(magic):
            raise RecordingError(f"{path}: this is {what}, which cannot be read as a recording; expected {READABLE}")
    if looks_like_text(head):
        from spiketrack.recordings.text import open_text

        return open_text(path, width, height, options, columns, time_unit)
    if head.startswith(b"% "):
        return _open_words(path, head, (width, height), options, endianness)
    return _open_nmnist(path, width, height, options)


def _read_head(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise RecordingError(f"{path}: this is a folder; expected a recording ({READABLE})")
        if not stat.S_ISREG(mode):
            raise RecordingError(f"{path}: this is not a regular file; expected a recording ({READABLE})")
        with open(path, "rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be opened: {error.strerror}") from error
    if not head:
        raise RecordingError(f"{path}: the file is empty (0 bytes); expected a recording ({READABLE})")
    return head


def _open_words(
    path: Path, head: bytes, size: tuple[int | None, int | None], options: ReadOptions, endianness: str | None
) -> Recording:
    from spiketrack.recordings.dat import DAT, DAT1
    from spiketrack.recordings.evt2 import EVT2, EVT21, EVT21_SWAPPED
    from spiketrack.recordings.evt3 import EVT3
    from spiketrack.recordings.words import WordRecording

    header = read_header(head, path)
    version = _raw_version(header, path)
    start = header.data_start
    if version is None:
        start = _check_dat(header, head, path)
        words = DAT if header.values("version") == ["2"] else DAT1
    elif version == "2.1":
        words = EVT21_SWAPPED if _halves_swapped(header, path, endianness) else EVT21
    elif version in ("2.0", "3.0"):
        words = EVT2 if version == "2.0" else EVT3
    else:
        raise RecordingError(f"{path}: this is RAW EVT{version}, which cannot be read; expected {READABLE}")
    offset_us = time_offset(header, path)
    width, height = size
    said_width, said_height = (None, None) if width and height else sensor_size(header, path, words.max_side)
    width, height = width or said_width, height or said_height
    if width is None or height is None:
        most = (width or words.max_side, height or words.max_side)
        probe = WordRecording(path, words, start, most, ReadOptions(threads=options.threads, index=False))
        largest = largest_pixel(probe.chunks())
        if largest is None:
            raise RecordingError(
                f"{path}: neither the header nor any event tells the size of the sensor; give width and height"
            )
        width, height = width or largest[0] + 1, height or largest[1] + 1
    return WordRecording(path, words, start, (width, height), options, offset_us)


def _raw_version(header: Header, path: Path) -> str | None:
    """The EVT version that the header names, such as "3.0"; None where the file is no RAW file."""
    named = {value.split()[0] for value in header.values("evt") if value}
    for value in header.values("format"):
        name = value.split(";")[0].strip().upper()
        digits = name.removeprefix("EVT")
        if not name.startswith("EVT") or not digits.isdecimal():
            raise RecordingError(f"{path}: the header names the format {name!r}; expected EVT2 or EVT3")
        named.add(f"{digits[0]}.{digits[1:] or 0}")
    if len(named) > 1:
        raise RecordingError(f"{path}: the header names two formats, EVT{' and EVT'.join(sorted(named))}")
    if not named and (header.values("plugin_name") or header.values("integrator_name")):
        raise RecordingError(f"{path}: a RAW header without `% evt` or `% format`: the coding of the events is unknown")
    if named and "big" in header.values("endianness"):
        raise RecordingError(f"{path}: a RAW file in big-endian order cannot be read; expected little-endian")
    return named.pop() if named else None


def _check_dat(header: Header, head: bytes, path: Path) -> int:
    """Raises RecordingError where this is not DAT version 1 or 2 of 8-byte CD events; returns where they start."""
    versions = header.values("version")
    if versions not in (["1"], ["2"]):
        said = f"`% Version {versions[0]}`" if versions else "neither `% evt`, `% format` nor `% Version`"
        raise RecordingError(f"{path}: the header says {said}; expected {READABLE}")
    start = header.data_start
    kind = head[start : start + 2]
    if len(kind) < 2:
        raise RecordingError(f"{path}: ends at byte {len(head)}, before the event type and size of a DAT file")
    if kind[0] not in (0x00, 0x0C) or kind[1] != 8:
        raise RecordingError(
            f"{path}: at byte {start} a DAT file of event type 0x{kind[0]:02X} and size {kind[1]}; "
            "expected type 0x00 or 0x0C and size 8"
        )
    return start + 2


def _halves_swapped(header: Header, path: Path, endianness: str | None) -> bool:
    """Whether the upper half of an EVT2.1 word comes first in the file, as IMX636 sends it and GenX320 does not.

    Without a word about it, files of Prophesee's own cameras up to the last that knew no other order are taken for
    such (the rule of OpenEB).
    """
    said = endianness or next(iter(header.values("endianness") + header.options("endianness")), None)
    if said is None:
        makers = header.values("integrator_name") + header.values("plugin_integrator_name")
        systems = [int(number) for number in header.values("system_id") if number.isdecimal()]
        return set(makers) <= {"Prophesee"} and any(0 < system <= _LAST_LEGACY_SYSTEM for system in systems)
    if said not in ("little", "legacy"):
        raise RecordingError(f"{path}: endianness {said!r} of EVT2.1 is not known; expected little or legacy")
    return said == "legacy"


def _open_nmnist(path: Path, width: int | None, height: int | None, options: ReadOptions) -> Recording:
    size = path.stat().st_size
    why_not = f"its {size:,} bytes are more than any sample has"
    if size <= MAX_BYTES:
        why_not = why_not_nmnist(np.frombuffer(path.read_bytes(), np.uint8))
    if why_not:
        raise RecordingError(
            f"{path}: not a known recording: at byte 0 there is no known magic or header, and as N-MNIST it cannot be "
            f"read because {why_not}; expected {READABLE}"
        )
    return NmnistRecording(path, width or SIDE, height or SIDE, options)
