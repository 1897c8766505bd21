"""A short slice of the fuzz run (`make fuzz` is the long one), and that it would see what it looks for."""

import json
import subprocess
import sys
from pathlib import Path

RUN = Path(__file__).parent / "run.py"
INPUTS = 1_200
PLANTED = """
import ctypes, sys, time
sys.path[:0] = [{fuzz!r}, {encoders!r}]
import numpy as np
import fuzz_worker, run
from spiketrack.recordings import recording

read, unpack = fuzz_worker.read_input, recording.FileRecording._runs

def mistaken(path, made):
    number = made.parents[0] if made.parents else None
    if number == 3:
        ctypes.string_at(0)
    if number == 5:
        time.sleep(60)
    if number == 7:
        raise KeyError("not ours")
    if number == 9:
        np.ones(25 << 20)
    recording.FileRecording._runs = off_sensor if number and number >= 40 else unpack
    return read(path, made)

def off_sensor(self, handed_out, *rest):
    for columns in handed_out:
        columns.x[-1:] = self.width
    return unpack(self, handed_out, *rest)

fuzz_worker.read_input = mistaken
sys.exit(run.main(sys.argv[1:]))
"""


def fuzz(tmp_path, *arguments, program=(str(RUN),)):
    """(exit code, figures)"""
    out = tmp_path / "figures.json"
    command = [sys.executable, *program, *arguments, "--out", str(out), "--findings", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert out.exists(), done.stderr
    return done.returncode, json.loads(out.read_text())


def test_a_slice_over_every_decoder_finds_nothing(tmp_path):
    code, figures = fuzz(tmp_path, "--inputs", str(INPUTS), "--seed", "3", "--processes", "2")
    assert (code, figures["examples"]) == (0, [])
    assert figures["inputs"] == sum(kind["inputs"] for kind in figures["kinds"].values()) == INPUTS
    least = {name: kind["inputs"] - kind["refused"] for name, kind in figures["kinds"].items()}
    assert len(least) >= 14
    assert min(least.values()) >= 3, least
    assert set(figures["formats"]) >= {"evt2", "evt2.1", "evt3", "dat", "dat1", "text", "npy", "npz", "nmnist", "hdf5"}


def test_it_sees_what_it_looks_for(tmp_path):
    planted = PLANTED.format(fuzz=str(RUN.parent), encoders=str(RUN.parents[1] / "recordings"))
    arguments = ("--inputs", "60", "--timeout", "1", "--memory-mb", "100", "--kinds", "dat,evt2")
    code, figures = fuzz(tmp_path, *arguments, program=("-c", planted))
    assert code == 1
    seen = {example["number"]: example["what"] for example in figures["examples"]}
    assert {number for number in seen if number < 40} == {3, 5, 7, 9}
    assert seen[3] == "SIGSEGV of the process; alone: SIGSEGV"
    assert seen[5] == "hang of the process; alone: hang"
    assert seen[7] == "KeyError: 'not ours'"
    assert seen[9].endswith("MiB of resident memory for one input")
    assert any(what.startswith("BrokenLaw: events: x = ") for number, what in seen.items() if number >= 40)
    assert figures["inputs"] == 60
