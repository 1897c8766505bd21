"""Pruning: what never fires goes without a trace, and a pruned network is built again from its weights."""

import pytest
import torch
from networks import events, lively_network

from spiketrack.deploy import fuse
from spiketrack.deploy.prune import (
    cut,
    effects,
    fit_widths,
    fused_weights,
    importance,
    inner_channels,
    is_pruned,
    prune,
    prune_to,
    settle_norms,
)
from spiketrack.detector.catalogue import dense_macs
from spiketrack.detector.spikeyolo import ModelSettings, SpikeYOLO
from spiketrack.detector.ssd import SSD, SSDSettings
from spiketrack.errors import SettingsError
from spiketrack.spiking import ILIFSettings


@pytest.fixture(scope="module")
def network():
    return lively_network("p", ILIFSettings())


@torch.no_grad()
def silence(network, every):
    """Let every so many-th inner channel never fire, by the norm before each of the neurons it meets."""
    for inner in inner_channels(network):
        before = inner.norms[:2] if inner.constant is not None else inner.norms
        for norm in before:
            norm.weight[::every] = 0
            norm.bias[::every] = -1


@torch.no_grad()
def test_channels_that_never_fire_go_without_a_trace(network):
    quiet = lively_network("p", ILIFSettings()).double()
    silence(quiet, 3)
    x = events(3).double()
    expected, _ = quiet(x)
    for inner in inner_channels(quiet):
        assert importance(inner, "norm_scale")[::3].max() == 0
        kept = torch.arange(inner.made_by.out_channels)
        cut(inner, kept[kept % 3 != 0])
    predictions, _ = quiet(x)
    torch.testing.assert_close(predictions.features, expected.features, rtol=0, atol=1e-9)
    fused, _ = fuse(quiet)(x)
    torch.testing.assert_close(fused.features, expected.features, rtol=0, atol=1e-9)
    assert expected.features.std() > 0.1


@pytest.mark.parametrize("criterion", ["weights", "norm_scale"])
def test_the_least_channels_go_and_the_argument_stays(network, criterion):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pruned = prune(network, 0.5, criterion)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    for old, new in zip(inner_channels(network), inner_channels(pruned), strict=True):
        assert new.made_by.out_channels == -(-round(old.made_by.out_channels / 2) // 8) * 8
        scores = importance(old, criterion)
        best = scores.topk(new.made_by.out_channels).indices.sort().values
        if criterion == "norm_scale" or not old.name.endswith(
            "second.conv"
        ):  # of which the first cut changed the score
            assert torch.equal(new.norms[0].weight, old.norms[0].weight[best])


def test_fewer_weights_and_operations(network):
    whole, half = fuse(network), fuse(prune(network, 0.5))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (whole, half)]
    macs = [dense_macs(net, 2, 64, 64) for net in (whole, half)]
    assert sizes == [fused_weights(network), fused_weights(prune(network, 0.5))]
    assert sizes[1] < 0.6 * sizes[0]
    assert macs[1] < 0.6 * macs[0]


@torch.no_grad()
def test_a_pruned_network_is_built_again_from_its_weights(network):
    pruned = prune(network, 0.4)
    again = SpikeYOLO(ModelSettings(), 2, 3).eval()
    fit_widths(again, pruned.state_dict())
    again.load_state_dict(pruned.state_dict())
    x = events(2)
    assert torch.equal(again(x)[0].features, pruned(x)[0].features)
    assert (is_pruned(network), is_pruned(pruned), is_pruned(again)) == (False, True, True)
    assert not is_pruned(fuse(pruned))
    untouched = SpikeYOLO(ModelSettings(), 2, 3)
    fit_widths(untouched, network.state_dict())
    assert not is_pruned(untouched)


def test_a_pruned_network_learns(network):
    pruned = prune(network, 0.5).train()
    pruned(events(2, 2))[0].features.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in pruned.parameters())


def test_settled_norms_have_the_statistics_of_the_data(network):
    pruned = prune(network, 0.5)
    x = events(2, 2)
    settle_norms(pruned, [x, x])
    with torch.no_grad():
        current = pruned.stem.conv(x.flatten(0, 1))
    torch.testing.assert_close(pruned.stem.norm.running_mean, current.mean((0, 2, 3)))
    assert not pruned.training
    assert pruned.stem.norm.momentum == network.stem.norm.momentum


def test_what_cannot_be_pruned_is_said(network):
    with pytest.raises(SettingsError, match=r"a share of channels in \[0, 1\), got 1"):
        prune(network, 1)
    with pytest.raises(SettingsError, match="fused already"):
        prune(fuse(network), 0.5)
    with pytest.raises(SettingsError, match="expected a SpikeYOLO, got SSD"):
        prune(SSD(SSDSettings(backbone="16-ST-VGG"), 2, 2), 0.5)


def test_channels_go_by_what_they_cost(network):
    """Where all matter alike, the layer whose eight channels hold most weights gives first; and by their scores."""
    scores = [torch.ones(inner.made_by.out_channels) for inner in inner_channels(network)]
    order = torch.arange(len(scores[0])).flip(0).float()
    scores[0] = 1e-9 * order  # nothing would be lost in the first block
    pruned = prune_to(network, 0.2, scores)
    goal = 0.8 * fused_weights(network)
    assert 0.95 * goal < fused_weights(pruned) <= 1.03 * goal
    widths = [inner.made_by.out_channels for inner in inner_channels(pruned)]
    whole = [inner.made_by.out_channels for inner in inner_channels(network)]
    assert widths[0] == 8
    kept = inner_channels(pruned)[0].norms[0].weight
    assert torch.equal(kept, inner_channels(network)[0].norms[0].weight[:8])  # the highest scores
    cut_most = max(range(1, len(widths)), key=lambda i: whole[i] - widths[i])
    assert inner_channels(network)[cut_most].name == "stage4.0.expand.0.second"  # 2 * 8 * 80 * 9 weights
    # a share is of the whole network: a second time nothing is left to do
    again = prune_to(pruned, 0.2, [torch.ones(width) for width in widths])
    assert fused_weights(again) == fused_weights(pruned)
    with pytest.raises(SettingsError, match="cannot be reached"):
        prune_to(network, 0.95, scores)


def test_effects_are_the_loss_s_first_order_change():
    """For a loss that is linear in a gate, the effect is the square of what the loss loses without the channel."""
    network = lively_network("p", ILIFSettings())
    inner = inner_channels(network)
    gates = [channels.norms[min(1, len(channels.norms) - 1)] for channels in inner]
    slopes = [torch.randn(len(gate.weight), generator=torch.Generator().manual_seed(i)) for i, gate in enumerate(gates)]

    def loss():
        return sum((slope * (gate.weight + 2 * gate.bias)).sum() for slope, gate in zip(slopes, gates, strict=True))

    for found, slope, gate in zip(effects(network, [loss(), 2 * loss()]), slopes, gates, strict=True):
        lost = slope * (gate.weight + 2 * gate.bias).detach()
        torch.testing.assert_close(found, lost**2 + (2 * lost) ** 2)
