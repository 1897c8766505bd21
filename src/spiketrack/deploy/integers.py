"""Integers: convolutions with weights of few bits, which compute on torch what the 8-bit file computes.

Station: of fine-tuning with `--quantize`, between `fuse` and export. In comes a network, out goes a fused one whose
convolutions round their weights in every forward pass, and those that read spikes their currents, too. Its numbers
are, to the bit, those of the ONNX file that `quantize` writes of it, so that training sees what will run. Source: Jacob
et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference" (CVPR 2018);
rounding has the gradient of the identity (Bengio et al. 2013). n bits, top = 2^(n-1) - 1, of output channel o:

    s_w[o] = max |W[o]| / top                             weights W[o] / s_w[o], rounded
    s_y[o] = (high[o] - low[o]) / 255                     of currents, low <= 0 <= high
    z[o] = round(-low[o] / s_y[o])                        the byte that stands for a current of 0
    y[o] = s_y[o] (q - z[o]),  q = clip(round((acc + b[o]) s_w[o] / s_y[o]) + 128, 0, 255)

acc is the exact sum of integers; b holds the bias and z - 128, in units of s_w. In training low and high grow with what
comes, so that nothing is clipped. The first layer, which reads counts, and depthwise ones keep their currents as they
are; there s_w is rounded up to so few bits that no sum of theirs rounds (`exact` tells why), whatever adds it up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spiketrack.deploy.fusing import NeuronConv, PaddedConv, fuse, replace_modules
from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.detector.ssd import SSD
from spiketrack.errors import SettingsError
from spiketrack.spiking import ILIF
from spiketrack.spiking.depthwise import depthwise_conv

Network = TypeVar("Network", bound=SpikeYOLO | SSD)

MIDDLE = 128
"""The byte that is added to every current; each channel's own zero is in its bias."""


class Packed(NamedTuple):
    """A convolution in integers, as real numbers. weight: (O, I, k, k). step: (O,) s_w. ratio: (O,) s_w / s_y. bias:
    (O,), in units of s_w. scale: (O,) s_y. zero: (O,), the byte of a current of 0. float64 but ratio and scale."""

    weight: Tensor
    step: Tensor
    ratio: Tensor
    bias: Tensor
    scale: Tensor
    zero: Tensor


def pack(weight: Tensor, bias: Tensor, low: Tensor, high: Tensor, bits: int = 8) -> Packed:
    """The integers of a convolution whose currents lie between low and high, (O,) each; only zeros stay zeros."""
    bias, low, high = bias.double(), low.double(), high.double()
    # tiny beside its bias a weight changes nothing, and the bias must be exact in float32
    other = torch.maximum(bias.abs(), torch.maximum(-low, high))
    step = torch.maximum(weight.abs().amax((1, 2, 3)).double(), 2e-5 * other) / _top(bits)
    step = torch.where(step > 0, step, 1.0)
    span = high - low
    scale = torch.where(span > 0, span, 255.0) / 255
    zero = (-low / scale).round().clamp(0, 255)
    return Packed(
        _whole(weight, step, bits),
        step,
        (step / scale).float(),
        ((bias + (zero - MIDDLE) * scale) / step).round(),
        scale.float(),
        zero,
    )


class SmallWeights(NamedTuple):
    """A convolution with whole weights whose currents are not rounded: weight (O, I, k, k) integers, step (O,), and
    bias (O,), all float64 that float32 holds."""

    weight: Tensor
    step: Tensor
    bias: Tensor


def small_weights(weight: Tensor, bias: Tensor, bits: int = 8, largest: int | None = None) -> SmallWeights:
    """Whole weights of a convolution. largest: of the integers that it reads, so that no sum rounds; None: none are."""
    step = weight.abs().amax((1, 2, 3)).double() / _top(bits)
    step = torch.where(step > 0, step, 1.0).float().double()
    bias = bias.double()
    if largest is not None:
        taps = weight[0].numel()
        bound = (weight.double().abs().sum((1, 2, 3)) / step + taps / 2 + 1) * largest + bias.abs() / step + 1
        digits = torch.floor(24 - torch.log2(bound)).clamp(1, 24)  # that a step may have
        unit = torch.exp2(torch.frexp(step).exponent - digits)
        step = torch.ceil(step / unit) * unit
        bias = (bias / unit).round() * unit
    return SmallWeights(_whole(weight, step, bits), step, bias)


def _top(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def _whole(weight: Tensor, step: Tensor, bits: int) -> Tensor:
    return (weight.double() / step[:, None, None, None]).round().clamp(-_top(bits), _top(bits))


class IntegerConv(nn.Conv2d):
    """A convolution with a bias that rounds its weights, and its currents where `rounds`, in every forward pass.

    weight and bias are real numbers and get gradients. low, high: (O,) buffers, the range of currents. largest: of the
    integers that it reads; None: it reads real numbers, and equals the file's to rounding only.
    """

    low: Tensor
    high: Tensor

    def __init__(self, conv: nn.Conv2d, bits: int, largest: int | None, rounds: bool) -> None:
        assert conv.bias is not None
        super().__init__(conv.in_channels, conv.out_channels, 1, groups=conv.groups, device="meta")
        _take_shape(self, conv)
        self.bits, self.largest, self.rounds = bits, largest, rounds
        if rounds:
            for name in ("low", "high"):
                self.register_buffer(name, torch.zeros_like(conv.bias, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:  # ty: ignore[lost-keyword-for-regular-parameter]
        """x: (N, C, H, W); returns currents (N, cout, H', W') of the type of the weights."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight.dtype)
            return self._rounded(x) if self.rounds else self._plain(x)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}"

    def _plain(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        with torch.no_grad():
            small = small_weights(self.weight, self.bias, self.bits, self.largest)
        total = self._sum(x, small.weight, small.step)
        return total * _map(small.step, total) + _map(_straight(self.bias, small.bias.to(total.dtype)), total)

    def _rounded(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        with torch.no_grad():
            packed = pack(self.weight, self.bias, self.low, self.high, self.bits)
        total = self._sum(x, packed.weight, packed.step)
        current = total * _map(packed.step, total) + _map(self.bias, total)
        with torch.no_grad():
            if self.training and current.numel():
                low, high = current.detach().amin((0, 2, 3)), current.detach().amax((0, 2, 3))
                torch.minimum(self.low, low, out=self.low)
                torch.maximum(self.high, high, out=self.high)
                packed = pack(self.weight, self.bias, self.low, self.high, self.bits)
            byte = (total.detach() + _map(packed.bias, total)).mul_(_map(packed.ratio, total)).round_()
            byte = byte.clamp_(-MIDDLE, 255 - MIDDLE)
            value = byte.add_(_map(MIDDLE - packed.zero, total)).mul_(_map(packed.scale, total))
        return _straight(current, value)

    def _sum(self, x: Tensor, whole: Tensor, step: Tensor) -> Tensor:
        """The sums of integers; gradients are those of the real weights."""
        whole = whole.to(self.weight.dtype, memory_format=torch.channels_last)
        weight = _straight(self.weight / step.to(self.weight.dtype)[:, None, None, None], whole)
        if self.groups > 1 and self.stride == (1, 1) and self.padding == (self.kernel_size[0] // 2,) * 2:
            total = depthwise_conv(x, weight)
        else:
            total = self._conv_forward(x, weight, None)
        if self.largest is None:
            return total
        return _straight(total, total.detach().round())  # some ways to convolve are not exact


class _Straight(torch.autograd.Function):
    """A value in the place of another one, whose gradient it gets."""

    @staticmethod
    def forward(ctx, soft: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        return grads[0], None


def _straight(soft: Tensor, value: Tensor) -> Tensor:
    return _Straight.apply(soft, value) if soft.requires_grad and torch.is_grad_enabled() else value


def _map(channels: Tensor, like: Tensor) -> Tensor:
    """(C,) as (C, 1, 1) of the type of a map."""
    return channels.to(like.dtype)[:, None, None]


class _Layer(NamedTuple):
    """What IntegerConv must know of a convolution."""

    largest: int | None
    rounds: bool


def in_integers(
    network: Network, bits: int, counts: int | None, inputs: Iterable[Tensor] | Iterable[NDArray]
) -> Network:
    """The network, fused, with whole weights of 2 to 8 bits and 8-bit currents; the argument stays as it is.

    counts: the largest integer in the input (`exact.largest_count`), None where it holds other numbers. inputs:
    representations (T, B, C, H, W), each run from a fresh state, that show what currents there are. Raises
    SettingsError where there are none, and for a network without spikes.
    """
    fused = fuse(network)
    ranges = measure_ranges(fused, [name for name, layer in _layers(fused, counts).items() if layer.rounds], inputs)
    whole = _with_integers(fused, bits, counts)
    with torch.no_grad():
        for name, (low, high) in ranges.items():
            conv = whole.get_submodule(name)
            assert isinstance(conv, IntegerConv)
            conv.low.copy_(low)
            conv.high.copy_(high)
    return whole


def bare_integers(network: Network, bits: int, counts: int | None, weights: Mapping[str, Tensor] | None) -> Network:
    """What `in_integers` makes of a network, without values, for a checkpoint's to be loaded into.

    weights: of a pruned network, whose layers are narrower than the settings say; else None.
    """
    whole = _with_integers(fuse(network), bits, counts)
    for name, conv in integer_convs(whole).items():
        stored = None if weights is None else weights.get(f"{name}.weight")
        if stored is not None and stored.ndim == 4 and stored.shape[2:] == conv.weight.shape[2:]:
            if conv.groups > 1:
                conv.groups = len(stored)
            conv.out_channels, conv.in_channels = len(stored), stored.shape[1] * conv.groups
            conv.weight = nn.Parameter(torch.zeros_like(stored, dtype=conv.weight.dtype))
            conv.bias = nn.Parameter(conv.weight.new_zeros(len(stored)))
            if conv.rounds:
                conv.low, conv.high = torch.zeros_like(conv.bias), torch.zeros_like(conv.bias)
                conv.low.requires_grad_(False)
                conv.high.requires_grad_(False)
    return whole


def integer_convs(network: nn.Module) -> dict[str, IntegerConv]:
    """The convolutions in integers, by name; none where the network is not quantised."""
    return {name: module for name, module in network.named_modules() if isinstance(module, IntegerConv)}


def bits_of(network: Any) -> int | None:
    """Bits of the weights of a quantised network; None of any other."""
    convs = integer_convs(network) if isinstance(network, nn.Module) else {}
    return next((conv.bits for conv in convs.values()), None)


def without_integers(network: Network) -> Network:
    """A quantised network with plain convolutions of its real weights, in place."""

    def plain(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, IntegerConv):
            return None
        conv = nn.Conv2d(module.in_channels, module.out_channels, 1, groups=module.groups, device="meta")
        _take_shape(conv, module)
        return conv

    replace_modules(network, plain)
    return network


def _take_shape(conv: nn.Conv2d, like: nn.Conv2d) -> None:
    """Give a convolution without values the kernel, weights and bias of another one."""
    conv.kernel_size, conv.stride, conv.padding = like.kernel_size, like.stride, like.padding
    conv.weight, conv.bias = like.weight, like.bias


def _with_integers(fused: Network, bits: int, counts: int | None) -> Network:
    layers = _layers(fused, counts)
    places = {id(fused.get_submodule(name)): layer for name, layer in layers.items()}

    def whole(module: nn.Module) -> nn.Module | None:
        layer = places.get(id(module))
        return IntegerConv(module, bits, *layer) if layer and isinstance(module, nn.Conv2d) else None

    replace_modules(fused, whole)
    return fused.eval()


def _layers(fused: SpikeYOLO | SSD, counts: int | None) -> dict[str, _Layer]:
    """The convolutions that a detection needs, by name."""
    if isinstance(fused, SSD):
        return _ssd_layers(fused, counts)
    if fused.settings.neuron.activation != "spikes":
        raise SettingsError("quantize: expected neurons with activation spikes, got relu, which sends real numbers")
    layers = {}
    for name, module in fused.named_modules():
        if isinstance(module, NeuronConv):
            neuron = module.neuron
            spikes = isinstance(neuron, ILIF)
            largest = neuron.settings.levels if isinstance(neuron, ILIF) else counts
            layers[f"{name}.conv"] = _Layer(largest, spikes and module.conv.groups == 1)
    return layers


def _ssd_layers(fused: SSD, counts: int | None) -> dict[str, _Layer]:
    layers = {}
    for name, module in fused.named_modules():
        if name.startswith("backbone.classifier"):
            continue
        if isinstance(module, PaddedConv):  # its border holds real numbers
            layers[f"{name}.conv"] = _Layer(None, False)
        elif isinstance(module, nn.Conv2d) and name not in layers:
            first = name == "backbone.stem.conv"
            layers[name] = _Layer(counts, False) if first else _Layer(1, True)
    return layers


@torch.inference_mode()
def measure_ranges(
    fused: nn.Module, names: list[str], inputs: Iterable[Tensor] | Iterable[NDArray]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Least and largest current (O,) of every channel of the named convolutions over all inputs; 0 is always within."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def seen(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, args: Any, y: Tensor) -> None:
            low, high = found.get(name, (y.new_zeros(y.shape[1]),) * 2)
            found[name] = torch.minimum(low, y.amin((0, 2, 3))), torch.maximum(high, y.amax((0, 2, 3)))

        return hook

    hooks = [fused.get_submodule(name).register_forward_hook(seen(name)) for name in names]
    like = next(fused.parameters())
    try:
        for planes in inputs:
            state = None
            for x in torch.as_tensor(planes).to(like):  # (B, C, H, W)
                _, state = fused(x[None], state)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise SettingsError("quantize: no input to calibrate on; give a recording with events")
    if not all(math.isfinite(float(end.abs().max())) for pair in found.values() for end in pair):
        raise SettingsError("quantize: some currents are not finite; look at the weights")
    return found
