"""Pruning: channels are taken out of a trained SpikeYOLO, so that it needs fewer weights and fewer operations.

Station: after training, before fine-tuning, fusing and export. In comes a network, out goes a new one with narrower
layers. Cut are the inner channels of every block, those that neither a residual addition nor a concatenation of other
layers sees: of the separable convolutions (2C), of the second half of both blocks (ratio C), of SPPF (C / 2) and of the
branches of the head. Single weights set to zero, which leave every width as it is, are `masks`'.

A channel that never fires is taken out without changing a prediction; norms that give zeros a value keep that value in
their mean. How much one matters is the greatest current that it can cause, as far as weights tell: Li et al., "Pruning
filters for efficient ConvNets" (ICLR 2017), or the scale of its norm: Liu et al., "Learning efficient convolutional
networks through network slimming" (ICCV 2017). `effects` asks the labels instead, Molchanov et al., "Importance
estimation for neural network pruning" (CVPR 2019), and compares the channels of all blocks, by what they cost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from spiketrack.deploy.fusing import fuse
from spiketrack.deploy.integers import integer_convs
from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.errors import SettingsError
from spiketrack.spiking.layers import AllConvBlock, ConvBlock, DownSampling, RepConv, SepConv, SepRepConv, SpikeSPPF

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


def prune_to(network: Model, share: float, scores: Sequence[Tensor]) -> Model:
    """The network without that share of the weights of the whole, unpruned one, both counted fused.

    scores: how much every channel matters, (C,) of each of `inner_channels`, comparable between them (`effects`).
    Channels go by eights, those first that matter least for the weights that they cost; eight stay everywhere. The
    argument stays as it is; where nothing is left to do it is only copied. Raises SettingsError for a share outside
    [0, 1) or that cannot be reached.
    """
    if not 0 <= share < 1:
        raise SettingsError(f"prune: expected a share of weights in [0, 1), got {share}")
    pruned = copy.deepcopy(network).eval()
    inner = inner_channels(pruned)
    orders = [score.argsort(stable=True) for score in scores]
    costs = _weights_of_eight(network)
    groups = [
        (float(score[order[first : first + MULTIPLE]].sum()) / cost, i)
        for i, (score, order, cost) in enumerate(zip(scores, orders, costs, strict=True))
        for first in range(0, len(order) - MULTIPLE, MULTIPLE)
    ]
    weights = fused_weights(network)
    goal = (1 - share) * fused_weights(_whole(network))
    gone = [0] * len(inner)
    for _, i in sorted(groups):
        if weights <= goal:
            break
        gone[i] += MULTIPLE
        weights -= costs[i]
    for channels, order, count in zip(inner, orders, gone, strict=True):
        if count:
            cut(channels, order[count:].sort().values)
    if fused_weights(pruned) > 1.03 * goal:
        raise SettingsError(f"prune: a share of {share} cannot be reached; {MULTIPLE} channels stay in every layer")
    return pruned


def _weights_of_eight(network: SpikeYOLO) -> list[int]:
    """Weights of the fused network that eight channels of each block cost; 1 where there are no more than eight."""
    shape = copy.deepcopy(network).to("meta")
    weights, costs = fused_weights(shape), []
    for inner in inner_channels(shape):  # one after the other: only within a branch of the head do they meet
        left = inner.made_by.out_channels - MULTIPLE
        if left > 0:
            cut(inner, torch.arange(left, device="meta"))
        before, weights = weights, fused_weights(shape)
        costs.append(max(1, before - weights))
    return costs


def fused_weights(network: SpikeYOLO) -> int:
    """How many weights and biases the network has when it is fused; every convolution has a bias then."""
    total, inside = 0, set()
    for module in network.modules():  # those outside come first
        if isinstance(module, RepConv | SepRepConv):
            first, last = (module.first, module.second) if isinstance(module, RepConv) else (module.pointwise,) * 2
            total += first.in_channels * last.out_channels * module.depthwise.weight[0].numel() + last.out_channels
            inside |= {id(part) for part in module.modules()}
        elif isinstance(module, nn.Conv2d) and id(module) not in inside:
            total += module.weight.numel() + module.out_channels
    return total


def effects(network: SpikeYOLO, losses: Iterable[Tensor]) -> list[Tensor]:
    """How much the loss would change without each channel, to first order: (C,) of each of `inner_channels`.

    losses: one 0-d loss of this network after the other, with their graphs. With y = gamma x + beta the last norm
    before the neurons that send a channel, this is the mean square of gamma dL/dgamma + beta dL/dbeta.
    """
    gates = [inner.norms[min(1, len(inner.norms) - 1)] for inner in inner_channels(network)]
    sums = [torch.zeros_like(gate.weight) for gate in gates]
    for loss in losses:
        pairs = [tensor for gate in gates for tensor in (gate.weight, gate.bias)]
        slopes = torch.autograd.grad(loss, pairs)
        for i, gate in enumerate(gates):
            sums[i] += (slopes[2 * i] * gate.weight.detach() + slopes[2 * i + 1] * gate.bias.detach()).square()
    return sums


def fit_widths(network: SpikeYOLO, weights: dict[str, Tensor]) -> None:
    """Make a freshly built network as narrow as the pruned one whose weights these are, before they are loaded.

    Only inner channels are cut, so that weights of another network still do not fit.
    """
    for inner in inner_channels(network):
        stored = weights.get(f"{inner.name}.weight")
        if stored is not None and stored.ndim == 4 and 0 < len(stored) < inner.made_by.out_channels:
            cut(inner, torch.arange(len(stored)))


def is_pruned(network: nn.Module) -> bool:
    """Whether a network as trained, or in integers, has fewer inner channels than its settings say."""
    if not isinstance(network, SpikeYOLO):
        return False
    if not isinstance(network.stem, DownSampling):
        full = fuse(_whole(network))
        convs = integer_convs(network)
        return any(conv.out_channels < full.get_submodule(name).out_channels for name, conv in convs.items())
    pairs = zip(inner_channels(network), inner_channels(_whole(network)), strict=True)
    return any(ours.made_by.out_channels < full.made_by.out_channels for ours, full in pairs)


def _whole(network: Model) -> Model:
    """An unpruned network of the same settings, without values."""
    with torch.device("meta"):
        return type(network)(network.settings, network.in_channels, network.num_classes)


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
