"""Sparse convolution: of binary maps, whose products with 0 are left out and with 1 are sums of rows of the kernel.

Station: inside ST-VGG, ResCat-SNN and the SSD heads, on the CPU. In come spikes as bits (N, H, W, words), 64 channels
in a word, out go convolved maps in channels-last order, and in the backward pass the gradient of the kernel. The cost
follows the share of ones; sums have the order of taps and channels, whatever the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from spiketrack.spiking.allocation import empty_strided
from spiketrack.spiking.team import shared

# least work of a thread; below, giving it away costs more than it saves
LEAST_ROWS = 1 << 18  # sums of a kernel's row, if all were taken
LEAST_NUMBERS = 1 << 18  # numbers of a map that are packed, counted or scaled
LEAST_WEIGHTS = 1 << 16
MOST_ONES = 0.5
"""Share of ones above which the library's dense convolution is about as fast."""
_LANES = 16  # channels come in multiples of it: numbers of one register


class Spikes(NamedTuple):
    """A binary map (N, C, H, W). bits: (N, H, W, words) int64, bit c % 64 of word c // 64 is channel c. counts: how
    many ones every channel has, (C,) int64."""

    bits: Tensor
    counts: Tensor

    @property
    def ones(self) -> int:
        """How many ones the map has."""
        return int(self.counts.sum())


def pack(x: Tensor) -> Spikes | None:
    """The bits of x (N, C, H, W), C a multiple of 16; None where it is not that, or holds others than 0 and 1."""
    from spiketrack.spiking import sparse_kernels

    n, channels, height, width = x.shape
    if channels % _LANES or x.dtype not in (torch.float32, torch.float64):
        return None
    words = -(-channels // sparse_kernels.WORD)
    pixels = x.detach().permute(0, 2, 3, 1).contiguous().view(-1, channels).numpy()
    bits = torch.empty(n, height, width, words, dtype=torch.int64)
    out = _words(bits).reshape(-1, words)
    counts = shared(len(pixels), x.numel() // LEAST_NUMBERS, lambda a, b: sparse_kernels.pack(pixels, out, a, b))
    return Spikes(bits, torch.from_numpy(np.sum(counts, axis=0))) if all(len(part) for part in counts) else None


def sums_and_squares(x: Tensor) -> Tensor:
    """Sum and sum of squares of every channel of any x (N, C, H, W): (2, C) float64."""
    from spiketrack.spiking import sparse_kernels

    planes = x.detach().contiguous().view(-1, x.shape[2] * x.shape[3]).numpy()
    sums = torch.empty(x.shape[0], x.shape[1], 2, dtype=torch.float64)
    out = sums.view(-1, 2).numpy()
    shared(len(planes), x.numel() // LEAST_NUMBERS, lambda a, b: sparse_kernels.moments(planes, out, a, b))
    return sums.sum(0).T


class BinaryConv2d(nn.Conv2d):
    """A convolution with bias, of spikes: on the CPU, without gradients and where few fire, it adds rows of its kernel.

    These are made at the first call, and again where the weights are others or changed in place; a change by way of
    `weight.data` after that is not seen.
    """

    _kept: tuple[Tensor, int, Tensor] | None = None  # weights, their version, and the rows made of them

    def forward(self, input: Tensor) -> Tensor:
        """input: (N, C, H, W)."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or input.device.type != "cpu":
            return super().forward(input)
        spikes = pack(input) if input.dtype == self.weight.dtype else None
        if spikes is None or spikes.ones > MOST_ONES * input.numel():
            return super().forward(input)
        assert self.bias is not None
        assert not isinstance(self.padding, str)
        kernel = Folded(self._rows(), _filled_up(self.bias.detach()), len(self.weight))
        return sparse_conv(spikes.bits, kernel, self.stride[0], self.padding[0])

    def _rows(self) -> Tensor:
        weight, version = self.weight.detach(), 0 if self.weight.is_inference() else self.weight._version
        kept = self._kept
        if kept is None or kept[0].data_ptr() != weight.data_ptr() or kept[1] != version:
            kept = self._kept = weight, version, kernel_rows(weight)
        return kept[2]


class Folded(NamedTuple):
    """A kernel in the order in which it is read, its outputs filled up with 0 to whole registers, and its bias.

    rows: (O' / lanes, k, k, C, lanes), lanes (16, 32 or 64) outputs are summed at once. bias: (O',). outputs: O.
    """

    rows: Tensor
    bias: Tensor
    outputs: int


class Scales(NamedTuple):
    """What norms before a convolution make of its kernel. norms: (O,) int64, the norm that output o reads. scale,
    offset: (norms, C) float64."""

    norms: Tensor
    scale: Tensor
    offset: Tensor


def fold(weight: Tensor, scales: Scales) -> Folded:
    """weight (O, C, k, k) scale, and as bias the sum of weight offset."""
    from spiketrack.spiking import sparse_kernels

    weight = weight.detach().contiguous()
    filled = -(-len(weight) // _LANES) * _LANES
    rows, bias = _empty_rows(weight), weight.new_zeros(filled)
    sparse_kernels.fold(weight.numpy(), *(part.numpy() for part in scales), rows.numpy(), bias.numpy())
    return Folded(rows, bias, len(weight))


def unfold(grad: Folded, weight: Tensor, scales: Scales) -> tuple[Tensor, Tensor, Tensor]:
    """The way back through `fold`: gradients of weight, and, in float64, of scale and offset."""
    from spiketrack.spiking import sparse_kernels

    weight = weight.detach().contiguous()
    grad_weight, sums = torch.empty_like(weight), torch.zeros(2, *scales.scale.shape, dtype=torch.float64)
    given = grad.rows.numpy(), grad.bias.numpy(), weight.numpy(), *(part.numpy() for part in scales)
    arrays = *given, grad_weight.numpy(), *sums.numpy()
    most = weight.numel() // LEAST_WEIGHTS
    shared(weight.shape[1], most, lambda a, b: sparse_kernels.unfold(*arrays, a, b))
    return grad_weight, sums[0], sums[1]


def kernel_rows(weight: Tensor) -> Tensor:
    """A kernel (O, C, k, k) as the rows of `Folded`."""
    rows = _empty_rows(weight)
    filled = _filled_up(weight.detach().permute(2, 3, 1, 0))
    return rows.copy_(filled.unflatten(3, (-1, rows.shape[4])).permute(3, 0, 1, 2, 4))


def _empty_rows(weight: Tensor) -> Tensor:
    """Room for the rows of a kernel (O, C, k, k)."""
    filled = -(-len(weight) // _LANES) * _LANES
    lanes = next(lanes for lanes in (64, 32, 16) if filled % lanes == 0)
    return weight.new_empty(filled // lanes, *weight.shape[2:], weight.shape[1], lanes)


def sparse_conv(bits: Tensor, kernel: Folded, stride: int, padding: int) -> Tensor:
    """Convolution with zero padding. Returns (N, O, H', W'), channels-last."""
    from spiketrack.spiking import sparse_kernels

    n, height, width, _ = bits.shape
    rows, bias, wanted = kernel
    blocks, size, _, channels, lanes = rows.shape
    high, wide = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
    outputs = blocks * lanes
    shape = (n, high, wide, outputs)
    y = empty_strided(shape, (high * wide * outputs, wide * outputs, outputs, 1), rows.dtype)
    arrays = _words(bits), rows.numpy(), bias.numpy(), stride, padding, y.numpy()
    most = n * high * wide * size * size * channels * blocks // LEAST_ROWS
    shared(n * high, most, lambda a, b: sparse_kernels.forward(*arrays, a, b))
    return y.permute(0, 3, 1, 2)[:, :wanted]


def kernel_gradient(bits: Tensor, grad: Tensor, like: Tensor, stride: int, padding: int) -> Folded:
    """Gradients of the kernel `like` (O, C, k, k) and of the bias (O,), given that of the output (N, O, H', W')."""
    from spiketrack.spiking import sparse_kernels

    n, height, width, words = bits.shape
    channels = like.shape[1]
    turned = torch.empty(n * height, channels, stride, -(-width // stride // sparse_kernels.WORD), dtype=torch.int64)
    places, spikes = _words(turned), _words(bits).reshape(n * height, width, words)
    shared(
        n * height,
        bits.numel() * sparse_kernels.WORD // LEAST_NUMBERS,
        lambda a, b: sparse_kernels.turn(spikes, places, a, b),
    )
    places = places.reshape(n, height, *turned.shape[1:])
    rows = _empty_rows(like)
    grad_bias = torch.zeros(rows.shape[0] * rows.shape[4], dtype=torch.float64)
    arrays = _filled_up(grad.permute(0, 2, 3, 1)).contiguous().numpy(), padding, rows.numpy(), grad_bias.numpy()
    # every piece reads all of the gradient: no more of them than threads
    most = min(grad.numel() // len(like) * like.numel() // LEAST_ROWS, torch.get_num_threads())
    shared(channels, most, lambda a, b: sparse_kernels.kernel_gradient(places, *arrays, a, b))
    return Folded(rows, grad_bias, len(like))


def add_either(bits: Tensor, where_set: Tensor, elsewhere: Tensor, y: Tensor) -> None:
    """Add to y (N, C, H, W), channels-last, where_set (C,) where a bit is set and elsewhere (C,) where it is not."""
    from spiketrack.spiking import sparse_kernels

    out, spikes = y.permute(0, 2, 3, 1).view(-1, y.shape[1]).numpy(), _words(bits).reshape(-1, bits.shape[3])
    arrays = spikes, *(part.to(y.dtype).numpy() for part in (where_set, elsewhere)), out
    shared(len(out), y.numel() // LEAST_NUMBERS, lambda a, b: sparse_kernels.add_either(*arrays, a, b))


def _words(bits: Tensor) -> NDArray[np.uint64]:
    return bits.numpy().view(np.uint64)


def _filled_up(x: Tensor) -> Tensor:
    """Zeros behind the last dimension, up to a whole number of registers."""
    missing = -x.shape[-1] % _LANES
    return F.pad(x, (0, missing)) if missing else x
