"""SpikeYOLO against benchmarks/plain_spikeyolo.py, the blocks as their description reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from spiketrack.detector.spikeyolo import ModelSettings, SpikeYOLO
from spiketrack.spiking.neurons import COCO_NEURON, GEN1_NEURON

_PATH = Path(__file__).parents[2] / "benchmarks" / "plain_spikeyolo.py"


def _plain():
    spec = importlib.util.spec_from_file_location("plain_spikeyolo", _PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("neuron", [COCO_NEURON, GEN1_NEURON])
def test_training_as_the_plain_blocks(neuron):
    """float64, so that no current that lies on a rounding border falls to another side; norms have seen nothing yet."""
    torch.manual_seed(0)
    settings = ModelSettings(scale="p", neuron=neuron)
    ours = SpikeYOLO(settings, 2, 3).double()
    plain = _plain().PlainSpikeYOLO(settings, 2, 3).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randint(0, 4, (3, 2, 2, 64, 96)).double()

    expected, (found, _) = plain(x), ours(x)
    torch.testing.assert_close(found.features, expected.features)
    assert torch.equal(found.points, expected.points)
    assert torch.equal(found.strides, expected.strides)

    gradient = torch.randn_like(expected.features)
    expected.features.backward(gradient)
    found.features.backward(gradient)
    parameters, buffers = dict(ours.named_parameters()), dict(ours.named_buffers())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameters[name].grad, parameter.grad, msg=name)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, msg=name)
