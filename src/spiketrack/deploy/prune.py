"""Pruning: channels are taken out of a trained SpikeYOLO, so that it needs fewer weights and fewer operations.

Station: after training, before fine-tuning, fusing and export. In comes a network, out goes a new one with narrower
layers. Cut are the inner channels of every block, those that neither a residual addition nor a concatenation of other
layers sees: of the separable convolutions (2C), of the second half of both blocks (ratio C), of SPPF (C / 2) and of the
branches of the head. Weights set to zero in the course of training, which leave every width as it is, are
`guide.pruning`'s.

A channel that never fires is taken out without changing a prediction; norms that give zeros a value keep that value in
their mean. How much one matters is the greatest current that it can cause, as far as weights tell: Li et al., "Pruning
filters for efficient ConvNets" (ICLR 2017), or the scale of its norm: Liu et al., "Learning efficient convolutional
networks through network slimming" (ICCV 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.errors import SettingsError
from spiketrack.spiking.layers import AllConvBlock, ConvBlock, DownSampling, SepConv, SpikeSPPF

Model = TypeVar("Model", bound=SpikeYOLO)
Criterion = Literal["weights", "norm_scale"]

MULTIPLE = 8
"""Kept channels come in multiples of this: what one instruction of a CPU takes."""


class Inner(NamedTuple):
    """Channels that only one block knows.

    made_by: the convolution that makes them, by its name in the network, and the norm after it. norms: all norms that
    they pass, the one after made_by first. depthwise: the one they pass, if any. read_by: the convolution that reads
    them, `copies` times one after the other. constant: of SepConv, whose norm gives zeros a value.
    """

    name: str
    made_by: nn.Conv2d
    norms: tuple[nn.BatchNorm2d, ...]
    depthwise: nn.Conv2d | None
    read_by: nn.Conv2d
    copies: int = 1
    constant: SepConv | None = None


def prune(network: Model, share: float, criterion: Criterion = "weights") -> Model:
    """The network without the share of every block's inner channels that matter least, in evaluation mode.

    The argument stays as it is; so does the state's order, but not its widths. share: in [0, 1); what is left is
    rounded up to multiples of 8. Raises SettingsError for another share or a network that is not a SpikeYOLO as
    trained.
    """
    if not 0 <= share < 1:
        raise SettingsError(f"prune: expected a share of channels in [0, 1), got {share}")
    pruned = copy.deepcopy(network).eval()
    for inner in inner_channels(pruned):
        width = inner.made_by.out_channels
        left = min(width, -(-round(width * (1 - share)) // MULTIPLE) * MULTIPLE or MULTIPLE)
        if left < width:
            best = importance(inner, criterion).argsort(descending=True, stable=True)[:left]
            cut(inner, best.sort().values)
    return pruned


def fit_widths(network: SpikeYOLO, weights: dict[str, Tensor]) -> None:
    """Make a freshly built network as narrow as the pruned one whose weights these are, before they are loaded.

    Only inner channels are cut, so that weights of another network still do not fit.
    """
    for inner in inner_channels(network):
        stored = weights.get(f"{inner.name}.weight")
        if stored is not None and stored.ndim == 4 and 0 < len(stored) < inner.made_by.out_channels:
            cut(inner, torch.arange(len(stored)))


def is_pruned(network: nn.Module) -> bool:
    """Whether a network as trained has fewer inner channels than its settings say."""
    if not isinstance(network, SpikeYOLO) or not isinstance(network.stem, DownSampling):
        return False
    with torch.device("meta"):
        whole = type(network)(network.settings, network.in_channels, network.num_classes)
    pairs = zip(inner_channels(network), inner_channels(whole), strict=True)
    return any(ours.made_by.out_channels < full.made_by.out_channels for ours, full in pairs)


def inner_channels(network: SpikeYOLO) -> list[Inner]:
    """All channels that can be cut, block by block. Raises SettingsError for other networks, fused ones too."""
    if not isinstance(network, SpikeYOLO):
        raise SettingsError(f"prune: expected a SpikeYOLO, got {type(network).__name__}")
    if not isinstance(network.stem, DownSampling):
        raise SettingsError("prune: the network is fused already; prune it as trained, then fuse")
    found = []
    for name, module in network.named_modules():
        if type(module) in _INNER:
            found += [inner._replace(name=f"{name}.{inner.name}") for inner in _INNER[type(module)](module)]
    for kind, branches in (("box", network.head.box), ("classes", network.head.classes)):
        for i, branch in enumerate(branches):
            for made_by, read_by in (("first", "second"), ("second", "last")):
                layer, reader = branch.get_submodule(made_by), branch.get_submodule(read_by)
                name = f"head.{kind}.{i}.{made_by}.conv"
                found.append(Inner(name, layer.conv, (layer.norm,), None, reader.conv))  # ty: ignore[invalid-argument-type]
    return found


def _of_separable(block: SepConv) -> list[Inner]:
    norms = (block.expand.norm, block.depthwise.norm, block.contract.centred.norm)
    return [
        Inner("expand.conv", block.expand.conv, norms, block.depthwise.conv, block.contract.pointwise, constant=block)
    ]


def _of_all_conv(block: AllConvBlock) -> list[Inner]:
    return [Inner("expand.conv", block.expand.conv, (block.expand.norm,), None, block.contract.conv)]


def _of_conv_block(block: ConvBlock) -> list[Inner]:
    rep, norm = block.expand
    return [Inner("expand.0.second", rep.second, (rep.norm, norm), None, block.contract[0].first)]  # ty: ignore[invalid-argument-type]


def _of_sppf(block: SpikeSPPF) -> list[Inner]:
    return [Inner("reduce.conv", block.reduce.conv, (block.reduce.norm,), None, block.expand.conv, copies=4)]


_INNER: dict[type[nn.Module], Callable[..., list[Inner]]] = {
    AllConvBlock: _of_all_conv,
    ConvBlock: _of_conv_block,
    SepConv: _of_separable,
    SpikeSPPF: _of_sppf,
}


@torch.no_grad()
def importance(inner: Inner, criterion: Criterion) -> Tensor:
    """How much every channel matters, (C,).

    weights: the norm of the kernels that make it, as the first batch norm scales them, times that of those that read
    it. norm_scale: |gamma| of the last norm before the neurons that send it, times that of a second norm.
    """
    scale = torch.ones(inner.made_by.out_channels, device=inner.made_by.weight.device)
    before = inner.norms[:1] if inner.constant is not None else inner.norms
    for norm in before:
        assert norm.running_var is not None
        deviation = torch.sqrt(norm.running_var + norm.eps) if criterion == "weights" else 1
        scale = scale * norm.weight.abs() / deviation
    if criterion == "norm_scale":
        return scale
    made = inner.made_by.weight.flatten(1).norm(dim=1)
    read = inner.read_by.weight.unflatten(1, (inner.copies, -1)).transpose(0, 2).flatten(1).norm(dim=1)
    return scale * made * read


@torch.no_grad()
def cut(inner: Inner, kept: Tensor) -> None:
    """Leave only the channels of these indices (N,), ascending, in place."""
    if inner.constant is not None:
        _keep_constant(inner.constant, kept)
    _set_weight(inner.made_by, inner.made_by.weight[kept])
    if inner.made_by.bias is not None:
        inner.made_by.bias = nn.Parameter(inner.made_by.bias[kept])
    if inner.depthwise is not None:
        _set_weight(inner.depthwise, inner.depthwise.weight[kept], depthwise=True)
    width = inner.norms[0].num_features
    for norm in inner.norms:
        norm.num_features = len(kept)
        norm.weight, norm.bias = nn.Parameter(norm.weight[kept]), nn.Parameter(norm.bias[kept])
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean, norm.running_var = norm.running_mean[kept].clone(), norm.running_var[kept].clone()
    places = torch.cat([kept + copy * width for copy in range(inner.copies)])
    _set_weight(inner.read_by, inner.read_by.weight[:, places])


def _keep_constant(block: SepConv, kept: Tensor) -> None:
    """Take what the channels that go give where they do not fire out of the mean that the last norm subtracts."""
    contract, norm = block.contract, block.norm
    assert norm.running_mean is not None
    offset = contract.centred.offset().clone()  # (C,)
    offset[kept] = 0
    lost = (contract.pointwise.weight[:, :, 0, 0] @ offset) * contract.depthwise.weight.sum((1, 2, 3))
    norm.running_mean -= lost


def _set_weight(conv: nn.Conv2d, weight: Tensor, depthwise: bool = False) -> None:
    conv.weight = nn.Parameter(weight.contiguous())
    conv.groups = len(weight) if depthwise else 1
    conv.out_channels, conv.in_channels = len(weight), weight.shape[1] * conv.groups


@torch.no_grad()
def settle_norms(network: SpikeYOLO, inputs: Iterable[Tensor]) -> None:
    """Measure the means and variances of all norms anew, over inputs (T, B, C, H, W) from fresh states, in place.

    What cutting has moved comes back into its range without any training. The network is left in evaluation mode.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain mean over all batches
        norm.reset_running_stats()
    network.train()
    for x in inputs:
        network(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
