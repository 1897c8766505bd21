"""Sparse convolution: of binary maps, whose products with 0 are left out and with 1 are sums of rows of the kernel.

Station: inside ST-VGG, ResCat-SNN and the SSD heads, on the CPU. In come spikes as bits (N, H, W, words), 64 channels
in a word, out go convolved maps in channels-last order, and in the backward pass the gradient of the kernel. The cost
follows the share of ones; sums have the order of taps and channels, whatever the number of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spiketrack.spiking.allocation import empty_strided
from spiketrack.spiking.slabs import shared

LEAST_PER_THREAD = 1 << 20  # sums of a kernel's row; below, starting a thread costs more than it saves
_LANES = 16  # channels come in multiples of it: numbers of one register


def pack(x: Tensor) -> Tensor | None:
    """Which elements of x (N, C, H, W) are 1: (N, H, W, words) int64; None where some are neither 0 nor 1.

    Bit c % 64 of word c // 64 is channel c. None also for channels that are no multiple of 16.
    """
    from spiketrack.spiking import sparse_kernels

    n, channels, height, width = x.shape
    if channels % _LANES or x.dtype not in (torch.float32, torch.float64):
        return None
    words = -(-channels // sparse_kernels.WORD)
    pixels = x.detach().permute(0, 2, 3, 1).contiguous().view(-1, channels).numpy()
    bits = torch.empty(n, height, width, words, dtype=torch.int64)
    out = bits.numpy().view("uint64").reshape(-1, words)
    binary = shared(len(pixels), x.numel() // LEAST_PER_THREAD, lambda a, b: sparse_kernels.pack(pixels, out, a, b))
    return bits if all(binary) else None


def count(bits: Tensor, channels: int) -> Tensor:
    """How many ones every channel has: (C,) int64."""
    from spiketrack.spiking import sparse_kernels

    counts = torch.zeros(channels, dtype=torch.int64)
    sparse_kernels.count(_flat(bits), counts.numpy())
    return counts


def kernel_rows(weight: Tensor) -> Tensor:
    """A kernel (O, C, k, k) in the order in which it is read: (blocks, k, k, C, lanes), its outputs filled up with 0.

    lanes: outputs that are summed at once, 16, 32 or 64.
    """
    outputs = len(weight)
    lanes = next(lanes for lanes in (64, 32, 16) if -outputs % lanes == -outputs % _LANES)
    rows = weight.detach().permute(2, 3, 1, 0)
    rows = torch.nn.functional.pad(rows, (0, -outputs % _LANES))
    return rows.unflatten(3, (-1, lanes)).permute(3, 0, 1, 2, 4).contiguous()


def sparse_conv(bits: Tensor, rows: Tensor, bias: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution with zero padding. rows: as of `kernel_rows`, bias: (O,). Returns (N, O, H', W')."""
    from spiketrack.spiking import sparse_kernels

    n, height, width, _ = bits.shape
    blocks, size, _, channels, lanes = rows.shape
    high, wide = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
    outputs = blocks * lanes
    shape = (n, high, wide, outputs)
    y = empty_strided(shape, (high * wide * outputs, wide * outputs, outputs, 1), rows.dtype)
    start = torch.nn.functional.pad(bias.detach().to(rows.dtype), (0, outputs - len(bias))).numpy()
    spikes, kernel, out = bits.numpy().view("uint64"), rows.numpy(), y.numpy()
    most = n * high * wide * size * size * channels * blocks // LEAST_PER_THREAD
    shared(
        n * high, most, lambda a, b: sparse_kernels.forward(spikes, kernel, start, stride, padding, out, a, b)
    )
    return y.permute(0, 3, 1, 2)[:, : len(bias)]


def kernel_gradient(bits: Tensor, grad: Tensor, like: Tensor, stride: int, padding: int) -> Tensor:
    """Gradient of the kernel `like` (O, C, k, k), given that of the output, (N, O, H', W')."""
    from spiketrack.spiking import sparse_kernels

    n, height, width, words = bits.shape
    outputs, channels = like.shape[:2]
    rows = torch.empty_like(kernel_rows(like))
    turned = torch.empty(n * height, channels, stride, -(-width // stride // sparse_kernels.WORD), dtype=torch.int64)
    turned_out = turned.numpy().view("uint64")
    spikes = bits.numpy().view("uint64").reshape(n * height, width, words)
    shared(n * height, bits.numel() * 64 // LEAST_PER_THREAD, lambda a, b: sparse_kernels.turn(spikes, turned_out, a, b))
    turned_out = turned_out.reshape(n, height, *turned.shape[1:])
    given = torch.nn.functional.pad(grad.permute(0, 2, 3, 1), (0, -outputs % _LANES)).contiguous().numpy()
    out = rows.numpy()
    most = grad.numel() // len(like) * like.numel() // LEAST_PER_THREAD
    shared(
        channels, most, lambda a, b: sparse_kernels.kernel_gradient(turned_out, given, padding, out, a, b)
    )
    return rows.permute(0, 4, 3, 1, 2).flatten(0, 1)[:outputs]


def add_affine(bits: Tensor, factor: Tensor, offset: Tensor, y: Tensor) -> None:
    """y (N, C, H, W), channels-last, += factor (C,) where a bit is set, and offset (C,) everywhere."""
    from spiketrack.spiking import sparse_kernels

    out = y.permute(0, 2, 3, 1).view(-1, y.shape[1]).numpy()
    spikes, by, everywhere = _flat(bits), factor.to(y.dtype).numpy(), offset.to(y.dtype).numpy()
    shared(
        len(out), y.numel() // LEAST_PER_THREAD, lambda a, b: sparse_kernels.add_affine(spikes, by, everywhere, out, a, b)
    )


def _flat(bits: Tensor):
    return bits.numpy().view("uint64").reshape(-1, bits.shape[3])
