"""Unrolling: only 0 and 1 go into convolutions, and nothing changes for it."""

import pytest
import torch
import torch.nn.functional as F
from networks import events, lively_network
from torch import nn

from spiketrack.deploy import fuse, thermometer, unroll
from spiketrack.deploy.fusing import NeuronConv
from spiketrack.deploy.unrolling import BinaryConv
from spiketrack.detector import spikeyolo
from spiketrack.spiking import ILIF, ILIFSettings, StateFlow
from spiketrack.spiking.neurons import COCO_NEURON, GEN1_NEURON

# every scale; time steps, levels, decay, gain
CASES = [
    ("p", 8, 8, 0.25, 1.0),
    ("n", 1, 1, 0.25, 1.0),
    ("n", 3, 4, 0.5, 0.5),
    ("s", 2, 8, 0.25, 1.0),
    ("m", 8, 2, 0.5, 0.5),
    ("l", 4, 4, 0.25, 1.0),
]


@pytest.fixture
def thin(monkeypatch):
    """All scales with their depth and blocks, but as few channels as the pico scale."""
    for name, scale in spikeyolo.SCALES.items():
        monkeypatch.setitem(spikeyolo.SCALES, name, scale._replace(width=spikeyolo.SCALES["p"].width))


def relative_error(ours, expected) -> float:
    return float((ours.double() - expected.double()).abs().max() / expected.double().abs().max())


def count_inputs(network):
    """Hooks that count what goes into every convolution but the stem's: calls, and values that are not 0 or 1."""
    counts = {}

    def look(name):
        def hook(module, args):
            (x,) = args
            calls, ones, others = counts.get(name, (0, 0, 0))
            counts[name] = (calls + 1, ones + int((x == 1).sum()), others + int(((x != 0) & (x != 1)).sum()))

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("stem."):
            module.register_forward_pre_hook(look(name))
    return counts


def check_equality(network, x, levels):
    """In float64 the unrolled network is the integer one, to 1e-9; what travels is counted."""
    unrolled = unroll(network)
    counts = count_inputs(unrolled)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in unrolled.modules())
    network.double()
    with torch.no_grad():
        ours, state = unrolled(x)
        expected, end = network(x.double())
    assert len(counts) == convolutions - 1
    assert {calls for calls, _, _ in counts.values()} == {levels}
    assert sum(ones for _, ones, _ in counts.values()) > 10_000
    assert [name for name, (_, _, others) in counts.items() if others] == []
    assert ours.features.shape == expected.features.shape
    assert relative_error(ours.features, expected.features) < 1e-9
    assert len(state) == len(end)
    assert max(relative_error(a, b) for a, b in zip(state, end, strict=True)) < 1e-9


@pytest.mark.parametrize(("scale", "steps", "levels", "decay", "gain"), CASES)
def test_binary_spikes_predict_what_integers_do(thin, scale, steps, levels, decay, gain):
    network = lively_network(scale, ILIFSettings(levels=levels, decay=decay, gain=gain))
    check_equality(network, events(steps), levels)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["p", "n", "s", "m", "l"])
@pytest.mark.parametrize(("steps", "levels"), [(2, 4), (8, 8)])
def test_binary_spikes_predict_what_integers_do_at_full_width(scale, steps, levels):
    check_equality(lively_network(scale, ILIFSettings(levels=levels)), events(steps), levels)


class Recorder(StateFlow):
    """Writes down what enters and leaves the neurons."""

    def __init__(self, steps, state):
        super().__init__(steps, state)
        self.layers = []
        Recorder.last = self

    def fire(self, x, settings):
        spikes = super().fire(x, settings)
        self.layers.append((x, spikes))
        return spikes


class Replay(Recorder):
    """Neurons that fire as those of the recorder did, whatever enters them."""

    source: Recorder

    def fire(self, x, settings):
        _, spikes = self.source.layers[len(self.layers)]
        self.layers.append((x, spikes))
        return spikes.to(x.dtype)


def membranes(current, spikes, steps, settings):
    """(T, ...) membranes before firing, where the neurons fire as told."""
    current, spikes = (t.double().unflatten(0, (steps, -1)) for t in (current, spikes))
    rest, found = torch.zeros_like(current[0]), []
    for t in range(steps):
        found.append(settings.decay * rest + settings.gain * current[t])
        rest = found[-1] - spikes[t]
    return torch.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scale", "steps", "neuron"), [("p", 8, COCO_NEURON), ("m", 3, GEN1_NEURON)])
def test_every_layer_equals_that_of_the_trained_network_in_float32(thin, monkeypatch, scale, steps, neuron, dtype):
    """Given the same spikes, all membranes agree to 1e-5, and so do the spikes but for those that lie that near a half.

    Layer by layer, because in float32 rounding decides a few spikes in a million, in any order of summation.
    """
    network = lively_network(scale, neuron)
    monkeypatch.setattr(spikeyolo, "StateFlow", Recorder)
    with torch.no_grad():
        expected, _ = network(events(steps))
        source = Replay.source = Recorder.last
        monkeypatch.setattr(spikeyolo, "StateFlow", Replay)
        unrolled = unroll(network, dtype)
        flow = Replay(steps, None)
        monkeypatch.setattr(Replay, "finish", lambda self: ())
        ours, _ = unrolled(events(steps))
        flow = Recorder.last
    assert relative_error(ours.features, expected.features) < 1e-5
    assert len(flow.layers) == len(source.layers) > 50
    for (x, spikes), (x_expected, _) in zip(flow.layers, source.layers, strict=True):
        m, m_expected = (membranes(v, spikes, steps, neuron) for v in (x, x_expected))
        tolerance = 1e-5 * max(1.0, float(m_expected.abs().max()))
        assert (m - m_expected).abs().max() < tolerance
        decided = m.clamp(0, neuron.levels).round() != m_expected.clamp(0, neuron.levels).round()
        assert ((m_expected[decided] % 1 - 0.5).abs() < tolerance).all()


def test_a_sequence_equals_its_pieces_and_states_go_both_ways(thin):
    network = lively_network("p", COCO_NEURON)
    unrolled, x = unroll(network), events(5, batch=2)
    network.double()
    with torch.no_grad():
        whole, end = network(x.double())
        first, state = network(x[:2].double())
        second, state = unrolled(x[2:4], state)
        third, state = network(x[4:].double(), state)
    joined = torch.cat([first.features, second.features, third.features])
    torch.testing.assert_close(joined, whole.features, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state, end, rtol=1e-9, atol=1e-9)


def test_a_thermometer_by_hand():
    spikes = thermometer(torch.tensor([0.0, 1.0, 3.0]), 3)
    assert spikes.dtype == torch.bool
    assert spikes.int().tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 1]]


@pytest.mark.parametrize("levels", [1, 4, 8])
def test_pooling_and_upsampling_of_spikes_commute_with_the_thermometer(levels):
    counts = torch.randint(0, levels + 1, (2, 3, 8, 9), generator=torch.Generator().manual_seed(levels)).float()
    spikes = thermometer(counts, levels).float()  # (D, N, C, H, W)
    assert torch.equal(spikes.sum(0), counts)
    pooled = torch.stack([F.max_pool2d(substep, 5, 1, 2) for substep in spikes])
    assert torch.equal(pooled.bool(), thermometer(F.max_pool2d(counts, 5, 1, 2), levels))
    larger = torch.stack([F.interpolate(substep, size=(15, 17), mode="nearest") for substep in spikes])
    assert torch.equal(larger.sum(0), F.interpolate(counts, size=(15, 17), mode="nearest"))


def test_pooling_of_other_trains_does_not_commute():
    """Two neighbours that send one spike each, in different substeps: pooled they seem to have sent two."""
    spikes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, None, None]  # (D, 1, 1, 2 pixels)
    assert F.max_pool2d(spikes, (1, 2)).sum() == 2
    assert F.max_pool2d(spikes.sum(0), (1, 2)).item() == 1


def test_a_layer_by_hand():
    """Two neurons, D = 3, a 1x1 convolution with weights 2 and -1 and bias 10: 2 s1 - s2 + 10 once a time step."""
    conv = nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([2.0, -1.0])[None, :, None, None])
        conv.bias.fill_(10.0)
    layer = BinaryConv(NeuronConv(ILIF(ILIFSettings(levels=3, decay=0.5)), conv))
    x = torch.tensor([[1.2, 9.0], [0.9, -1.0]])[:, :, None, None]  # two time steps
    flow = StateFlow(2, None)
    with torch.no_grad():
        y = layer(x, flow)
    # s = (1, 3); left are 0.2 and 6; then m = (0.1 + 0.9, 3 - 1), s = (1, 2), left (0, 0)
    assert y.flatten().tolist() == [2 - 3 + 10, 2 - 2 + 10]
    torch.testing.assert_close(flow.finish()[0].flatten(), torch.tensor([0.0, 0.0]))


def test_the_network_given_stays_as_it_is_and_no_gradient_is_asked_for(thin):
    network = lively_network("p", COCO_NEURON)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    unrolled = unroll(network)
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in unrolled.parameters())
    with torch.no_grad():
        assert torch.equal(unroll(unrolled)(events(2))[0].features, unrolled(events(2))[0].features)
    fused = fuse(network)
    biased = [module for module in fused.modules() if isinstance(module, NeuronConv)]
    unroll(fused)
    assert all(module.conv.bias is not None for module in biased)


def test_neurons_of_no_known_layer_are_named():
    net = nn.Module()
    net.own = nn.ModuleList([ILIF(COCO_NEURON)])
    with pytest.raises(ValueError, match=r"unroll: own\.0 are neurons of no known layer"):
        unroll(net)
