"""open_recording: recognition by content, sizes from headers, and every bad input ending in a RecordingError."""

import os
import re
import subprocess
import sys

import pytest
from recording_encoders import dat_header, encode_dat, encode_nmnist, evt2_high, evt2_word, evt3, raw_header

from spiketrack.errors import RecordingError
from spiketrack.recordings import EventWriter, open_recording, summarize

EVT2_BODY = evt2_high(1) + evt2_word(1, 5, 10, 20)
EVT3_BODY = evt3((8, 1), (0, 20), (2, 10))


@pytest.fixture
def at(tmp_path):
    def write(content: bytes, name: str = "a.txt"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def test_content_decides_not_the_name(at, tmp_path):
    with EventWriter(tmp_path / "is_hdf5.raw", 64, 48):
        pass
    found = {
        open_recording(at(content, name)).format: name
        for name, content in {
            "is_evt2.dat": raw_header("2.0") + EVT2_BODY,
            "is_evt3.h5": raw_header("3.0") + EVT3_BODY,
            "is_dat.raw": dat_header() + encode_dat([1], [2], [3], [0]),
            "is_nmnist": encode_nmnist([1], [2], [3], [0]),
        }.items()
    }
    assert found == {"evt2": "is_evt2.dat", "evt3": "is_evt3.h5", "dat": "is_dat.raw", "nmnist": "is_nmnist"}
    assert open_recording(tmp_path / "is_hdf5.raw").format == "hdf5"


@pytest.mark.parametrize(
    "header",
    [
        b"% evt 3.0\n% geometry 1280x720\n",
        b"% format EVT3;height=720;width=1280\n% end\n",
        b"% evt 3.0\n% width 1280\n% height 720\n% end\n",
        b"% Evt 3.0\r\n% Width 1280\r\n% Height 720\r\n",
        b"% date 2023-10-19\n% evt 3.0\n% format EVT3\n% geometry 1280x720\n% serial_number 5\n",
    ],
)
def test_every_spelling_of_the_size(at, header):
    recording = open_recording(at(header + EVT3_BODY))
    assert (recording.format, recording.width, recording.height) == ("evt3", 1280, 720)
    assert summarize(recording).events == 1


def test_words_that_read_as_names_of_columns_are_no_text(at):
    # between two line ends among the words there may be any letters: here `t`, `x` and `y`
    names = b"\n\x02" + b"q,t,x,y,e\x0a"
    recording = open_recording(at(raw_header("3.0", 1280, 720) + EVT3_BODY + names))
    assert (recording.format, recording.width) == ("evt3", 1280)


def test_a_raw_file_without_a_size_takes_the_largest_coordinates(at):
    recording = open_recording(at(raw_header("2.0", None) + EVT2_BODY))
    assert (recording.width, recording.height) == (11, 21)


def test_the_header_ends_where_the_text_ends(at):
    # the first word's bytes are `% \x00\x80`: it begins like a header line, but is not text
    word = b"% \x00\x80"
    recording = open_recording(
        at(raw_header("2.0", 640, 640).removesuffix(b"% end\n") + word + evt2_word(1, 0, 1, 2) + b"\n" * 4)
    )
    (events,) = recording.chunks()
    assert events.t.tolist() == [0x2025 << 6, (0x2025 << 6) + 40]  # "\n\n\n\n" is CD_OFF at low 40, x 321, y 522
    assert events.x.tolist() == [1, 321]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty (0 bytes)"),
        (b"#!AER-DAT2.0\r\n....", "AEDAT recording of version 1 to 3"),
        (b"#ROSBAG V2.0\n", "ROS bag"),
        (b"\x93NUMPY\x01\x00", "npy"),
        (b"PK\x03\x04....", "zip"),
        (b"RIFF....WAVEfmt ", "no known magic or header"),
        (b"%PDF-1.4 a b c\n", "no known magic or header"),
        (os.urandom(4000), "no known magic or header"),
        (b"\x89HDF\r\n\x1a\n", "cannot be opened as HDF5"),
        (b"% evt 3.0", "the header has no end"),
        (b"% evt 3.0\n% serial 5", "the header has no end: its line at byte 10 goes on to byte 20"),
        (b"% evt 3.0\n" + b"% filler\n" * 10_000, "the header has no end"),
        (b"% " + b"a" * 100_000, "the header has no end"),
        (raw_header("4.0"), "RAW EVT4.0"),
        (b"% format HISTO3D\n", "format 'HISTO3D'"),
        (b"% evt 2.0\n% format EVT3\n", "two formats, EVT2.0 and EVT3.0"),
        (b"% plugin_name hal_plugin\n% geometry 4x4\n", "without `% evt` or `% format`"),
        (b"% evt 3.0\n% endianness big\n", "big-endian"),
        (b"% hello\n", "neither `% evt`, `% format` nor `% Version`"),
        (b"% Version 3\n\x0c\x08", "`% Version 3`"),
        (b"% Version 1\n\x0c\x08", "neither the header nor any event tells the size"),
        (b"% Version 2\n\x0c", "ends at byte 13, before the event type"),
        (b"% Version 2\n\x0e\x08", "at byte 12 a DAT file of event type 0x0E and size 8"),
        (b"% Version 2\n\x0c\x10", "size 16"),
        (b"% evt 3.0\n% geometry 0x0\n", "gives a width of '0'; expected 1 .. 2048"),
        (b"% evt 3.0\n% geometry 1000000000x1000000000\n", "gives a width of '1000000000'"),
        (b"% evt 3.0\n% geometry 640\n", "gives a height of ''"),
        (b"% evt 3.0\n% geometry -3x4\n", "gives a width of '-3'"),
        (b"% evt 3.0\n% width 640\n% height 480\n% geometry 320x480\n", "contradict each other on the width"),
        (b"% Version 2\n% Height 720\n% Width 99999\n\x0c\x08", "expected 1 .. 16384"),
    ],
)
def test_bad_content_is_refused_by_name(at, content, says):
    path = at(content)
    with pytest.raises(RecordingError, match=re.escape(says)) as error:
        open_recording(path)
    assert str(error.value).startswith(f"{path}: ")


def test_missing_files_folders_and_pipes_are_refused(tmp_path):
    with pytest.raises(RecordingError, match=r"none\.raw: cannot be opened: No such file"):
        open_recording(tmp_path / "none.raw")
    with pytest.raises(RecordingError, match="this is a folder"):
        open_recording(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RecordingError, match="not a regular file"):
        open_recording(tmp_path / "pipe")


@pytest.mark.parametrize("size", [{"width": 0}, {"height": -1}, {"width": 10**9}])
def test_a_size_given_by_the_caller_is_checked(at, size):
    with pytest.raises(RecordingError, match=r"must be 1 \.\. 65536 pixels"):
        open_recording(at(raw_header("2.0") + EVT2_BODY), **size)


def test_a_file_that_vanishes_after_opening_is_an_error(at):
    for content in (raw_header("2.0") + EVT2_BODY, encode_nmnist([1], [2], [3], [0])):
        path = at(content)
        recording = open_recording(path)
        path.unlink()
        with pytest.raises(RecordingError, match=r"a\.txt: cannot be read"):
            list(recording.chunks())


def test_importing_and_opening_stays_light(at):
    path = at(encode_nmnist([1], [2], [3], [0]))
    code = (
        "import sys; from spiketrack.recordings import open_recording, summarize\n"
        f"assert summarize(open_recording({str(path)!r})).events == 1\n"
        "print(*{'numba', 'h5py', 'scipy', 'torch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
