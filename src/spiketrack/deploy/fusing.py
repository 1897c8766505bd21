"""Fusing: batch norms and re-parameterised convolutions become plain convolutions with a bias.

Station: after training. In comes any network of this package, out goes a new one in evaluation mode without norms.
SpikeYOLO's layers become neurons -> one convolution (Luo et al., ECCV 2024, section 3.2: RepConv and SepRepConv pad
with norm(0), which makes each equal to one dense 3x3 convolution with zero padding). The layers of ST-VGG, ResCat-SNN
and SSD, norm -> convolution, become one convolution each (Cordone's thesis, chapter 5; spiking/norm_first.py).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spiketrack.spiking import LIF, Neurons, StateFlow
from spiketrack.spiking.layers import (
    AllConvBlock,
    ConvBlock,
    DownSampling,
    RepConv,
    SepConv,
    SepRepConv,
    SpikeConv,
    SpikeConvBias,
)
from spiketrack.spiking.norm_first import NormConv, NormConvSpike
from spiketrack.spiking.sparse_conv import BinaryConv2d

Network = TypeVar("Network", bound=nn.Module)


class NeuronConv(nn.Module):
    """Neurons, if any, -> one convolution with bias: what every layer of a fused network is."""

    def __init__(self, neuron: Neurons | None, conv: nn.Conv2d) -> None:
        super().__init__()
        self.neuron, self.conv = neuron, conv

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        """x: (T * B, C, H, W) current; returns the current of the layer after it, of the type of the weights."""
        x = x.to(self.conv.weight.dtype)
        return self.conv(self.neuron(x, flow) if self.neuron else x)


class ConvNeuron(nn.Module):
    """One convolution with bias -> binary neurons: what every layer of a fused ST-VGG or ResCat-SNN is."""

    def __init__(self, conv: nn.Conv2d | PaddedConv, neuron: LIF) -> None:
        super().__init__()
        self.conv, self.neuron = conv, neuron

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        """x: (T * B, C, H, W), time-major; returns spikes (T * B, cout, H', W') of the type of the weights."""
        return self.neuron(self.conv(x.to(self.conv.weight.dtype)), flow)


class PaddedConv(nn.Module):
    """Pads every channel with a value of its own, then convolves without padding."""

    def __init__(self, conv: nn.Conv2d, border: Tensor, width: int) -> None:
        super().__init__()
        self.conv, self.width = conv, width
        self.register_buffer("border", border)

    @property
    def weight(self) -> Tensor:
        """The kernel (O, I, k, k)."""
        return self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns (N, cout, H', W')."""
        assert isinstance(self.border, Tensor)
        n, c, height, width = x.shape
        size = (n, c, height + 2 * self.width, width + 2 * self.width)
        padded = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        padded.copy_(self.border[:, None, None])
        padded[..., self.width : self.width + height, self.width : self.width + width] = x
        return self.conv(padded)


class Chain(nn.Sequential):
    """Layers one after the other."""

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:  # ty: ignore[incompatible-method-override]
        for layer in self:
            x = layer(x, flow)
        return x


class FusedBlock(nn.Module):
    """x + token(x), then x + channels(x): both blocks of SpikeYOLO. Currents are added, never spikes."""

    def __init__(self, token: nn.Module, channels: nn.Module) -> None:
        super().__init__()
        self.token, self.channels = token, channels

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        x = x + self.token(x, flow)
        return x + self.channels(x, flow)


def fuse(network: Network, dtype: torch.dtype | None = None) -> Network:
    """The same network, in evaluation mode, with every batch norm and re-parameterised convolution fused.

    dtype: of the weights and so of currents, state and predictions; default the network's own. Kernels are
    multiplied out in float64 and rounded once. The argument stays as it is, and states may go from one network to
    the other. What is fused already is only copied. Raises ValueError for a batch norm of no layer known here, and
    where a map is padded after a norm that maps every input of a channel to one value other than 0.
    """
    fused = copy.deepcopy(network).eval()
    if dtype is not None:
        fused = fused.to(dtype)
    replace_modules(fused, lambda module: _FUSERS[type(module)](module) if type(module) in _FUSERS else None)
    for name, module in fused.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            known = ", ".join(sorted(kind.__name__ for kind in _FUSERS))
            raise ValueError(f"fuse: {name} is a batch norm of no known layer; known are {known}")
    return fused


def replace_modules(network: nn.Module, replace: Callable[[nn.Module], nn.Module | None]) -> None:
    """Put `replace(module)` where it is not None, outermost modules first, into the network given."""
    for name, child in list(network.named_children()):
        new = replace(child)
        if new is None:
            replace_modules(child, replace)
        else:
            setattr(network, name, new)


Affine = tuple[Tensor, Tensor]
"""Scale and offset per channel, (C,) each, float64: y = scale * x + offset."""


def affine_of(norm: nn.BatchNorm2d) -> Affine:
    """What a batch norm does in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def kernel_of(conv: nn.Conv2d) -> Affine:
    """Kernel (O, I, k, k) and bias (O,) of a convolution, float64."""
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    return weight, bias if conv.bias is None else conv.bias.detach().double()


def normed(kernel: Affine, *norms: nn.BatchNorm2d) -> Affine:
    """Kernel and bias of a convolution that the norms follow."""
    weight, bias = kernel
    for norm in norms:
        scale, offset = affine_of(norm)
        weight, bias = weight * scale[:, None, None, None], bias * scale + offset
    return weight, bias


def kernel_of_rep(block: RepConv) -> Affine:
    """Kernel (O, I, 3, 3) and bias of 1x1 (P1) -> norm (s, h) -> depthwise -> 1x1 (P2) -> norm.

    K[o, i] = sum over m of P2[o, m] DW[m] s[m] P1[m, i]; the padding with h makes h constant everywhere.
    """
    (first, _), (second, _) = kernel_of(block.first), kernel_of(block.second)
    scale, offset = affine_of(block.centred.norm)
    depthwise = block.depthwise.weight.detach().double()[:, 0]  # (m, 3, 3)
    spread = depthwise.permute(1, 2, 0)[:, :, None] * second[:, :, 0, 0] * scale  # (3, 3, o, m)
    weight = (spread @ first[:, :, 0, 0]).permute(2, 3, 0, 1)
    bias = second[:, :, 0, 0] @ (offset * depthwise.sum((1, 2)))
    return normed((weight, bias), block.norm)


def kernel_of_sep_rep(block: SepRepConv) -> Affine:
    """Kernel (O, I, 3, 3) and bias of norm (s, h) -> 1x1 (P) -> depthwise: K[o, i] = DW[o] P[o, i] s[i]."""
    pointwise = kernel_of(block.pointwise)[0][:, :, 0, 0]
    scale, offset = affine_of(block.centred.norm)
    depthwise = block.depthwise.weight.detach().double()  # (o, 1, 3, 3)
    bias = (pointwise @ offset) * depthwise.sum((1, 2, 3))
    return depthwise * (pointwise * scale)[:, :, None, None], bias


def _layer(neuron: Neurons | None, kernel: Affine, like: nn.Conv2d, groups: int = 1) -> NeuronConv:
    """A layer with that kernel; stride, padding, dtype and device are those of `like`."""
    assert not isinstance(like.padding, str)
    return NeuronConv(neuron, _conv(kernel, like, like.padding[0], groups))


def _conv(
    kernel: Affine, like: nn.Conv2d, padding: int, groups: int = 1, kind: type[nn.Conv2d] = nn.Conv2d
) -> nn.Conv2d:
    """A convolution with that kernel; stride, dtype and device are those of `like`."""
    weight, bias = (tensor.to(like.weight.dtype).contiguous() for tensor in kernel)
    weight = weight.contiguous(memory_format=torch.channels_last)  # as the maps are; 5 to 10 % of a forward pass
    cout, cin, size, _ = weight.shape  # all kernels are square
    with torch.device("meta"):  # no weights are drawn
        conv = kind(cin * groups, cout, size, like.stride[0], padding, groups=groups)
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    return conv


def _fuse_normed(layer: SpikeConv | DownSampling) -> NeuronConv:
    return _layer(layer.neuron, normed(kernel_of(layer.conv), layer.norm), layer.conv, layer.conv.groups)


def _fuse_biased(layer: SpikeConvBias) -> NeuronConv:
    return _layer(layer.neuron, kernel_of(layer.conv), layer.conv, layer.conv.groups)


def _fuse_separable(block: SepConv) -> Chain:
    kernel = normed(kernel_of_sep_rep(block.contract), block.norm)
    last = _layer(block.neuron, kernel, block.contract.depthwise)
    return Chain(_fuse_normed(block.expand), _fuse_normed(block.depthwise), last)


def _fuse_rep(neuron: Neurons, rep_and_norm: nn.Sequential) -> NeuronConv:
    rep, norm = rep_and_norm
    assert isinstance(rep, RepConv)
    assert isinstance(norm, nn.BatchNorm2d)
    return _layer(neuron, normed(kernel_of_rep(rep), norm), rep.depthwise)


def _fuse_conv_block(block: ConvBlock) -> FusedBlock:
    channels = Chain(_fuse_rep(block.neuron_in, block.expand), _fuse_rep(block.neuron_out, block.contract))
    return FusedBlock(_fuse_separable(block.token), channels)


def _fuse_all_conv_block(block: AllConvBlock) -> FusedBlock:
    channels = Chain(_fuse_normed(block.expand), _fuse_normed(block.contract))
    return FusedBlock(_fuse_separable(block.token), channels)


def kernel_of_norm_conv(layer: NormConv) -> Affine:
    """Kernel (O, I, k, k) and bias of norm (s, h) -> convolution: W[o, i] s[i], and W[o, i, k] h[i] summed over i, k.

    Exact where every tap sees a normed value: where the map is padded before the norm, or with -h / s after it.
    """
    weight, _ = kernel_of(layer.conv)
    scale, offset = affine_of(layer.norm)
    return weight * scale[:, None, None], (weight.sum((2, 3)) @ offset)


def _fuse_norm_conv(layer: NormConv) -> nn.Conv2d | PaddedConv:
    kernel, after = kernel_of_norm_conv(layer), layer.conv.padding[0]
    assert not isinstance(after, str)
    if not after:
        return _conv(kernel, layer.conv, layer.pad_before, kind=BinaryConv2d)
    scale, offset = affine_of(layer.norm)
    constant = (scale == 0) & (offset != 0)
    if constant.any():
        raise ValueError(
            f"fuse: channel {int(constant.nonzero()[0])} of a map padded after its norm has gamma 0: no border value "
            "gives 0; pad before the norm, or prune that channel"
        )
    border = torch.where(scale == 0, 0, -offset / torch.where(scale == 0, 1, scale))
    return PaddedConv(_conv(kernel, layer.conv, 0), border.to(layer.conv.weight.dtype), after)


def _fuse_norm_conv_spike(layer: NormConvSpike) -> ConvNeuron:
    return ConvNeuron(_fuse_norm_conv(layer.norm_conv), layer.neuron)


_FUSERS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    AllConvBlock: _fuse_all_conv_block,
    ConvBlock: _fuse_conv_block,
    DownSampling: _fuse_normed,
    NormConv: _fuse_norm_conv,
    NormConvSpike: _fuse_norm_conv_spike,
    SepConv: _fuse_separable,
    SpikeConv: _fuse_normed,
    SpikeConvBias: _fuse_biased,
}
