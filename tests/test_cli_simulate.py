"""The command `simulate`: its options, what it refuses before any work, and how it ends."""

import functools
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from spiketrack.cli.data import parse_duration
from spiketrack.errors import SettingsError

sys.path.insert(0, str(Path(__file__).parent / "datasets"))

from fake_traffic import drive

QUICK = ["--preset", "gen1", "--duration", "100ms"]


@pytest.fixture
def run(run, monkeypatch):
    """A function that runs `simulate` in an empty folder, with a quick stand-in for traffic: (code, stdout, stderr)."""
    from spiketrack.datasets import simulated

    quick = functools.partial(simulated.simulate_traffic_dataset, source=drive)
    monkeypatch.setattr(simulated, "simulate_traffic_dataset", quick)
    return functools.partial(run, "simulate")


@pytest.mark.parametrize(
    ("text", "duration_us"),
    [
        ("10s", 10_000_000), ("500ms", 500_000), ("2min", 120_000_000), ("3", 3_000_000), ("1.5", 1_500_000),
        (".25 s", 250_000), ("33333us", 33_333), ("24.0s", 24_000_000),
    ],
)  # fmt: skip
def test_durations(text, duration_us):
    assert parse_duration(text) == duration_us


@pytest.mark.parametrize("text", ["", "s", "10 h", "-1s", "1e3", "nan", "inf", "1,5s", "0", "0.5ms", "25000min", "٣s"])
def test_what_is_no_duration_is_said(text):
    with pytest.raises(SettingsError, match="--duration: "):
        parse_duration(text)


def test_a_data_set_of_traffic_with_views(run, tmp_path):
    code, out, err = run("--out", "data", *QUICK, "--scenes", 4, "--classes", 3, "--view")
    assert (code, out.splitlines()[0]) == (0, "data/view/contact_sheet.png")
    assert "written=4, skipped=0" in out
    assert " ms/s" in err
    events = sorted(path.name for path in (tmp_path / "data" / "HDF5").rglob("*_td.h5"))
    assert events == ["test_0000_td.h5", "train_0000_td.h5", "train_0001_td.h5", "val_0000_td.h5"]
    assert (tmp_path / "data" / "classes.txt").read_text().split() == ["pedestrian", "vehicle", "micro-mobility"]
    assert (tmp_path / "data" / "view" / "train_0000.mp4").stat().st_size > 1000
    again = run("data", *QUICK, "--scenes", 4, "--classes", 3)
    assert "written=0, skipped=4" in again[1], "the folder as an argument, and nothing to do"


def test_numbers_of_scenes_override_the_shares(run, tmp_path):
    run("data", *QUICK, "--scenes", 3, "--train-scenes", 0, "--test-scenes", 2, "--format", "raw")
    assert sorted(path.name for path in (tmp_path / "data" / "RAW").rglob("*_td.raw")) == [
        "test_0000_td.raw",
        "test_0001_td.raw",
        "val_0000_td.raw",
    ]


def test_shapes(run, tmp_path):
    counts = ["--train-scenes", 1, "--val-scenes", 0, "--test-scenes", 0, "--train-objects", 2, 2]
    code, out, _ = run("data", "--scene", "shapes", "--duration", "200ms", *counts)
    assert code == 0
    assert "written=1" in out
    assert (tmp_path / "data" / "classes.txt").read_text().split() == ["disc", "square", "triangle"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name one folder to write, as OUT or with --out OUT"),
        (["a", "--out", "b"], "name one folder to write"),
        (["data", "--preset", "evk5"], "'evk4', 'gen3', 'gen1' or 'davis346', got 'evk5'"),
        (["data", "--classes", "5"], "--classes: "),
        (["data", "--camera", "flying"], "--camera: Input should be 'static', 'moving' or 'mixed', got 'flying'"),
        (["data", "--daytime", "noon"], "--daytime: "),
        (["data", "--format", "csv"], "--format: Input should be 'hdf5' or 'raw', got 'csv'"),
        (["data", "--label-hz", "0"], "--label-hz: "),
        (["data", "--spread", "2"], "--spread: "),
        (["data", "--duration", "soon"], "--duration: expected such as 10s, 500ms, 2min"),
        (["data", "--jobs", "0"], "--jobs: expected 1 to 256 processes, got 0"),
        (["data", "--scenes", "0"], "--scenes: expected 1 to 100000, got 0"),
        (["data", "--train-scenes", "0", "--val-scenes", "0", "--test-scenes", "0"], "no scene to make"),
        (["data", "--train-objects", "1", "2"], "--train-objects: only of --scene shapes"),
        (["data", "--scene", "shapes", "--preset", "evk4", "--view"], "--preset, --view: not of --scene shapes"),
    ],
)
def test_mistakes_are_said_in_one_line_before_any_work(run, tmp_path, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_view_without_pyav_is_refused_before_any_work(run, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = run("data", *QUICK, "--view")
    assert code == 1
    assert 'a video needs PyAV, which is not installed: pip install "spiketrack[video]"' in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_all_processes_with_130(tmp_path):
    script = (
        "import functools\n"
        "from fake_traffic import dawdle\n"
        "from spiketrack.cli import main\n"
        "from spiketrack.datasets import simulated\n"
        "if __name__ == '__main__':\n"
        "    quick = functools.partial(simulated.simulate_traffic_dataset, source=dawdle)\n"
        "    simulated.simulate_traffic_dataset = quick\n"
        "    main()\n"
    )
    (tmp_path / "run.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "datasets")}
    command = [sys.executable, tmp_path / "run.py", "simulate", "data", "--preset", "gen1", "--jobs", "2"]
    process = subprocess.Popen(
        command, env=environment, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 30
    while len([*tmp_path.rglob("*_td.h5.*.tmp")]) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not [*tmp_path.rglob("*.tmp")]
    end = time.monotonic() + 5  # multiprocessing's own helper notices a moment later
    while alive := _alive(process.pid):
        assert time.monotonic() < end, alive
        time.sleep(0.05)


def _alive(group):
    """The processes of a group, without those that only wait for their end to be noticed."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, number = path.read_text().rpartition(") ")[2].split()[:3]
            if int(number) == group and state != "Z":
                found.append(path.parent.name)
    return found
