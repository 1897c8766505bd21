"""`spiketrack track DIR`: many recordings, one work list."""

import shutil

import numpy as np
import pytest
from loud_detector import loud_detector

from spiketrack.detector.checkpoint import save_checkpoint

NAMES = ["day/test_0_td.h5", "night/test_1_td.h5"]


@pytest.fixture
def recordings(squares, tmp_path):
    """Two recordings in folders of their own, and a network."""
    for name in NAMES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True)
        shutil.copy(squares / "HDF5" / "test" / path.name, path)
    (tmp_path / "in" / "day" / "notes.txt").write_text("no recording")
    save_checkpoint(tmp_path / "loud.pt", loud_detector().content())
    return tmp_path / "in"


def test_processes_share_the_recordings_of_a_folder(run, recordings, tmp_path):
    """The results are those of one recording at a time."""
    options = ["--weights", "loud.pt", "--no-video"]
    code, out, _ = run("track", recordings, *options, "--jobs", 2)
    assert (code, out) == (0, "done      2 of 2 recordings, in in_tracks\n")
    for name in NAMES:
        assert run("track", recordings / name, *options, "--out", "one")[0] == 0
        folder = tmp_path / "in_tracks" / f"{name}_tracks"
        assert sorted(path.name for path in folder.iterdir()) == ["report.html", "tracks.txt", "tracks_bbox.npy"]
        assert len(np.load(folder / "tracks_bbox.npy")) > 8
        for file in ("tracks.txt", "tracks_bbox.npy"):
            assert (folder / file).read_bytes() == (tmp_path / "one" / file).read_bytes()


def test_a_broken_recording_is_named_and_tried_again_by_the_next_run(run, recordings, tmp_path):
    whole = (recordings / NAMES[1]).read_bytes()
    (recordings / NAMES[1]).write_bytes(b"% end\n")
    options = ["--weights", "loud.pt", "--no-video", "--out", "out"]
    code, out, err = run("track", recordings, *options)
    assert code == 1
    done, failed = out.splitlines()
    assert done == "done      1 of 2 recordings, in out"
    assert failed.startswith(f"failed    {NAMES[1]}: ")
    assert f"{NAMES[0]}: " in err
    made = (tmp_path / "out" / f"{NAMES[0]}_tracks" / "report.html").stat().st_mtime_ns
    (recordings / NAMES[1]).write_bytes(whole)
    code, out, err = run("track", recordings, *options)
    assert (code, out) == (0, "done      2 of 2 recordings, in out\n")
    assert NAMES[0] not in err
    assert (tmp_path / "out" / f"{NAMES[0]}_tracks" / "report.html").stat().st_mtime_ns == made
    code, out, err = run("track", recordings, *options, "--start-us", 20_000)
    assert (code, out) == (1, "")
    assert "out holds results of other settings (start_us None instead of 20000); take another --out" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in/day/test_0_td.h5", "--jobs", 2], "--jobs and --pattern are for a folder of recordings"),
        (["in", "--pattern", "**/*.raw"], "in: no file matches **/*.raw"),
        (["empty"], "empty: no recording (.raw, .dat, .h5, .hdf5, .aedat4); see --pattern"),
    ],
)
def test_folders_that_cannot_be_tracked(run, recordings, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    code, out, err = run("track", *arguments, "--weights", "loud.pt")
    assert (code, out) == (1, "")
    assert message in err.splitlines()[-1]
