import pickle
import subprocess
import sys

import pytest
import torch

from spiketrack.detector.checkpoint import load_checkpoint, load_weights, save_checkpoint
from spiketrack.errors import CheckpointError


def test_round_trip_leaves_no_other_file(tmp_path):
    path = tmp_path / "deep" / "model.pt"
    save_checkpoint(path, {"weights": {"w": torch.arange(3)}, "names": ["a"], "n": 2})
    content = load_checkpoint(path)
    assert content["weights"]["w"].tolist() == [0, 1, 2]
    assert content["names"] == ["a"]
    assert [p.name for p in path.parent.iterdir()] == ["model.pt"]


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.errors import CheckpointError
path = Path(sys.argv[1])
save_checkpoint(path, {"n": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the kernel refuses to write more, as a full disk does
try:
    save_checkpoint(path, {"n": 2, "weights": torch.rand(100_000)})
except CheckpointError as error:
    print(error)
"""


def test_a_full_disk_costs_neither_the_old_checkpoint_nor_an_explanation(tmp_path):
    path = tmp_path / "last.pt"
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True, timeout=120
    )
    assert "last.pt: cannot be written (File too large); the older one is unharmed" in result.stdout
    assert load_checkpoint(path)["n"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "last.pt", {})


def test_anything_else_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"% evt 3.0\n" * 100)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(garbage)
    garbage.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(garbage)
    garbage.write_bytes(pickle.dumps({"kind": "spiketrack checkpoint"}))
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(garbage)
    save_checkpoint(tmp_path / "cut.pt", {"w": torch.rand(1000)})
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "cut.pt")
    torch.save({"w": 1}, tmp_path / "foreign.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of spiketrack"):
        load_checkpoint(tmp_path / "foreign.pt")


def test_weights_of_another_model_name_what_differs(tmp_path):
    model = torch.nn.Linear(2, 3)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=r"bias is missing; extra is not in the model; weight is \(4, 2\)"):
        load_weights(model, {"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}, tmp_path / "x.pt")
    torch.testing.assert_close(model.weight, before, rtol=0, atol=0)
