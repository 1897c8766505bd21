"""Whole weights on torch: the numbers of the 8-bit file to the bit, straight-through gradients, what training mends."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exported import running, spikeyolo, spikeyolo_model, ssd
from networks import events, lively_network
from torch import nn

from spiketrack.deploy import unroll
from spiketrack.deploy.exact import exact, largest_count
from spiketrack.deploy.export import described_model
from spiketrack.deploy.integers import IntegerConv, bits_of, in_integers, integer_convs, small_weights
from spiketrack.deploy.prune import prune
from spiketrack.deploy.quantize import quantize
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.pipeline import Detector, replace
from spiketrack.representations import InputSettings
from spiketrack.spiking import ILIFSettings


def quantised(bits=8):
    detector = spikeyolo()
    counts = largest_count(detector.input)
    return in_integers(exact(detector.model, counts), bits, counts, [events(6).numpy()])


def assert_same_steps(network, onnx_network, steps=6):
    """Predictions and all membranes equal to the bit, the state carried on."""
    ours = theirs = None
    with torch.no_grad():
        for x in events(steps, 2).split(1):
            (found, ours), (expected, theirs) = network(x, ours), onnx_network(x, theirs)
            assert all(torch.equal(a, b) for a, b in zip(found[:2], expected[:2], strict=True))
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert found[0].std() > 0


@pytest.mark.parametrize("bits", [8, 4])
def test_integers_on_torch_are_those_of_the_file_to_the_bit(bits):
    network = quantised(bits)
    assert bits_of(network) == bits
    assert_same_steps(network, running(quantize(spikeyolo_model(), [events(6).numpy()], bits)))


def test_what_was_trained_is_what_is_exported():
    """After weights, biases and ranges have moved, and of other neurons: PLIF. (SpikeYOLO: test_fine_tuning.)"""
    settings = spikeyolo().input
    network = in_integers(ssd(), 8, settings.limit, [events(2)])
    with torch.no_grad():
        for conv in integer_convs(network).values():
            conv.weight.add_(torch.randn(conv.weight.shape, generator=torch.Generator().manual_seed(1)), alpha=0.01)
            conv.bias.add_(0.01)
    network.train()
    network(events(4, 1))  # widens ranges
    details = {"model": ssd().settings.model_dump(), "class_names": ["a", "b", "c"]}
    assert_same_steps(network.eval(), running(described_model(network, details)))


def one_conv(bits=8, largest=4, groups=1):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, 3, padding=1, groups=groups)
    return IntegerConv(conv, bits, largest, groups == 1)


@pytest.mark.parametrize("groups", [1, 6])
def test_gradients_pass_the_rounding_as_if_it_were_not_there(groups):
    conv = one_conv(4, groups=groups).train()
    x = torch.randint(0, 5, (2, 6, 9, 8)).float().requires_grad_()
    grad = torch.randn(2, 6, 9, 8)
    conv(x).backward(grad)
    plain = conv.weight.detach().clone().requires_grad_()
    bias = conv.bias.detach().clone().requires_grad_()
    other = x.detach().clone().requires_grad_()
    F.conv2d(other, plain, bias, padding=1, groups=groups).backward(grad)
    torch.testing.assert_close(conv.weight.grad, plain.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv.bias.grad, bias.grad, rtol=1e-4, atol=1e-4)
    error = (x.grad - other.grad).abs().max()  # of x it is that of the rounded weights
    assert 0 < error < 0.2 * other.grad.abs().max()


def test_training_widens_a_range_and_inference_clips_to_it():
    conv = one_conv().train()
    x = torch.full((1, 6, 5, 5), 4.0)
    wide = conv(x).detach()
    assert (conv.low <= wide.amin((0, 2, 3)) + 0.02).all()
    assert (conv.high >= wide.amax((0, 2, 3)) - 0.02).all()
    with torch.no_grad():
        assert torch.equal(conv.eval()(x), wide)
        low, high = conv.low.clone(), conv.high.clone()
        conv.train()(x / 4)
        assert (conv.low <= low).all()  # it never shrinks
        assert (conv.high >= high).all()
        conv.eval().high.mul_(0.5)
        assert (conv(x).amax((0, 2, 3)) <= conv.high + 0.02).all()


def test_precision_of_the_run_does_not_touch_integers():
    conv = one_conv().train()
    x = torch.randint(0, 5, (2, 6, 9, 8)).float()
    expected = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(x.bfloat16()), expected)


def test_no_sum_of_small_weights_rounds_in_whatever_order():
    rng = np.random.default_rng(0)
    weight = torch.tensor(rng.normal(0, 0.3, (4, 2, 7, 7)).astype("f4"))
    small = small_weights(weight, torch.tensor([0.1, -2, 30, 0]), 8, 10)
    terms = (small.weight * small.step[:, None, None, None]).flatten(1) * torch.randint(0, 11, (4, 98))
    for _ in range(5):
        order = torch.randperm(98)
        total = small.bias.float()
        for term in terms[:, order].float().T:
            total = total + term
        assert torch.equal(total.double(), small.bias + terms.sum(1))
    step = weight.abs().amax((1, 2, 3)).double() / 127
    assert (small.step >= step).all()
    assert (small.step <= 1.13 * step).all()


def test_a_few_steps_mend_what_rounding_to_three_bits_broke():
    """Both calibrated alike; the goal are the predictions of the network with real weights."""
    network = lively_network("p", ILIFSettings())
    x = events(2, 2)
    with torch.no_grad():
        wanted = network(x)[0].features
    rounded = in_integers(network, 3, 10, [x])
    error = lambda: F.mse_loss(rounded(x)[0].features, wanted)  # noqa: E731
    with torch.no_grad():
        before = float(error())
    assert before > 0.02 * float(wanted.var())
    optimizer = torch.optim.Adam(rounded.parameters(), 2e-3)
    rounded.train()
    for _ in range(12):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    rounded.eval()
    with torch.no_grad():
        assert float(error()) < 0.75 * before


def test_checkpoints_of_integers_travel_pruned_ones_too(tmp_path):
    detector = spikeyolo()
    counts = largest_count(detector.input)
    for name, model in (("whole", detector.model), ("pruned", prune(detector.model, 0.5))):
        network = in_integers(model, 4, counts, [events(3)])
        content = replace(detector, model=network).content()
        assert (content["quantized"], content.get("pruned", False)) == (4, name == "pruned")
        save_checkpoint(tmp_path / f"{name}.pt", content)
        loaded = Detector.load(tmp_path / f"{name}.pt")
        assert bits_of(loaded.model) == 4
        with torch.no_grad():
            expected, found = (each(events(2))[0].features for each in (network, loaded.fused().model))
        assert torch.equal(found, expected)
    del content["quantized"]
    save_checkpoint(tmp_path / "unsaid.pt", content)
    with pytest.raises(CheckpointError):
        Detector.load(tmp_path / "unsaid.pt")


def test_what_cannot_be_in_integers_is_said():
    relu = lively_network("p", ILIFSettings(activation="relu"))
    with pytest.raises(SettingsError, match="expected neurons with activation spikes, got relu"):
        in_integers(relu, 8, 10, [events(1)])
    with pytest.raises(SettingsError, match="no input to calibrate on"):
        in_integers(spikeyolo().model, 8, InputSettings().limit, [events(1)[:0]])
    with pytest.raises(SettingsError, match="the network is quantised; binary spikes are of networks as trained"):
        unroll(quantised(8))
