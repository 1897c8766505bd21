"""`spiketrack efficiency`: what it counts is what the unrolled network does, whatever the chunks of data."""

import json
import sys
from pathlib import Path

import pytest
import torch
from loud_detector import loud_detector
from moving_squares import SLICE_US, write_squares
from torch import nn

from spiketrack.cli import main
from spiketrack.deploy import unroll
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.errors import SettingsError
from spiketrack.recordings import open_recording, windows
from spiketrack.report.efficiency import measure_efficiency

RECORDING = Path("HDF5/test/test_0_td.h5")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_squares(folder, train=1, val=1)
    (folder / "classes.txt").write_text("small\nlarge\n")
    return folder


def test_binary_operations_are_those_that_the_unrolled_network_does(root):
    """Each substep's convolution counted for itself: taps whose spike and weight are not zero."""
    detector = loud_detector()
    recording = open_recording(root / RECORDING)
    result = measure_efficiency(detector, [("one", recording)], max_us=3 * SLICE_US)
    model, counted = unroll(detector.model, torch.float32), {"stem": 0, "others": 0}

    def count(name):
        def hook(conv, args):
            x, weight = ((t != 0).double() for t in (args[0], conv.weight.detach()))
            taps = nn.functional.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
            counted["stem" if name.startswith("stem") else "others"] += int(taps.sum())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(count(name))
    window = detector.input
    state, start = None, int(next(recording.chunks()).t[0])
    for step in range(3):
        begin = start + step * SLICE_US
        seen = next(windows(recording, SLICE_US, start_us=begin, end_us=begin + SLICE_US))
        with torch.no_grad():
            _, state = model(torch.from_numpy(window.encode(seen, seen.end_us)).float()[:, None], state)
    assert result.steps == 3
    assert result.convs[0].kind == "real"
    assert result.unrolled.mac * 3 == pytest.approx(counted["stem"])
    # float32 may tip one spike in a million (docs/deploy.md)
    assert result.unrolled.ac * 3 == pytest.approx(counted["others"], rel=1e-4)
    assert 0.5 < result.activation_sparsity < result.unrolled_sparsity < 1


def test_recordings_add_up_and_start_afresh(root):
    detector = loud_detector()
    paths = [root / f"HDF5/test/test_{i}_td.h5" for i in range(2)]
    first, second = (measure_efficiency(detector, [("", open_recording(path))]) for path in paths)
    both = measure_efficiency(detector, [("", open_recording(path)) for path in paths])
    assert both.steps == first.steps + second.steps
    for name in ("rate", "membrane_updates", "energy_mj"):
        total = getattr(first, name) * first.steps + getattr(second, name) * second.steps
        assert getattr(both, name) * both.steps == pytest.approx(total)


def test_no_events_are_an_error():
    with pytest.raises(SettingsError, match="nothing to count"):
        measure_efficiency(loud_detector(), [])


@pytest.fixture
def command(monkeypatch, capsys, tmp_path, root):
    save_checkpoint(tmp_path / "loud.pt", loud_detector().content())

    def run(data, *arguments):
        monkeypatch.setattr(sys, "argv", ["spiketrack", "efficiency", str(tmp_path / "loud.pt"), str(data), *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().out

    return run


def test_the_command_prints_writes_and_limits(command, root, tmp_path):
    code, out = command(root, "--max-seconds", str(2 * SLICE_US * 1e-6), "--out", str(tmp_path / "report"))
    assert not code
    assert "time steps: 4\n" in out  # two of each of two recordings
    values = json.loads((tmp_path / "report" / "efficiency.json").read_text())
    assert values["steps"] == 4
    assert values["energy_mj"]["SpikeYOLO's rule"] > 0
    page = (tmp_path / "report" / "efficiency.html").read_text()
    assert page.count("<svg") == 2
    assert len(values["convs"]) == page.count("not zero, mean") + 1  # every convolution but the first has its neurons
    for layer in values["neuron_layers"]:
        assert layer["name"].removesuffix(".neuron") in out


def test_one_recording_as_json(command, root):
    code, out = command(root / RECORDING, "--json")
    assert not code
    values = json.loads(out)
    assert values["subset"] is None
    assert values["operations"]["mac"] + values["operations"]["ac"] < values["operations"]["dense"]


def test_a_limit_below_nothing_is_refused(command, root):
    assert "--max-seconds" in command(root, "--max-seconds", "0")[0]
