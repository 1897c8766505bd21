"""Depthwise convolution, with a weight gradient that does not dominate the training step.

On the CPU the library computes the weight gradient of a depthwise 7x7 convolution 5 to 30 times slower than its forward
pass; in SpikeYOLO-p that was a fifth of a training step (docs/journal.md). Here it is one pass over the maps in
channels-last order, C multiply-adds at a time. Forward pass and input gradient stay the library's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray
from torch import Tensor

from spiketrack.spiking.bfloat16 import read


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve every channel with its own odd, square kernel, stride 1, zero padding to the same size.

    x: (N, C, H, W), weight: (C, 1, k, k), bias: (C,). Returns (N, C, H, W). Equal to F.conv2d(groups=C), gradients
    included; on a device other than the CPU, or where no gradient is asked for, it is that.
    """
    if x.device.type != "cpu" or not (torch.is_grad_enabled() and weight.requires_grad):
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    return _Depthwise.apply(x, weight, bias)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (grad,) = grads
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            flipped = weight.flip(2, 3).to(grad.dtype)
            grad_x = F.conv2d(grad, flipped, padding=weight.shape[-1] // 2, groups=weight.shape[0]).to(x.dtype)
        if ctx.needs_input_grad[1]:
            sums = np.zeros(
                (*weight.shape[2:], weight.shape[0]), np.float64 if x.dtype == torch.float64 else np.float32
            )
            _weight_gradient(_rows(x), _rows(grad.to(x.dtype)), sums)
            grad_weight = torch.from_numpy(sums).permute(2, 0, 1)[:, None].to(weight.dtype)  # (C, 1, k, k)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3), dtype=weight.dtype)
        return grad_x, grad_weight, grad_bias


def _rows(x: Tensor) -> NDArray:
    """(N, H, W, C) contiguous view or copy of float32 or float64, or bits of bfloat16."""
    x = x.detach().permute(0, 2, 3, 1).contiguous()
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy()
    return (x if x.dtype == torch.float64 else x.float()).numpy()


def _load(maps, image, row, room):
    """Read a row (W, C) of bits of bfloat16 into `room`; of floats nothing needs to be read."""
    raise NotImplementedError("compiled code only")


def _row(maps, image, row, room):
    """A row (W, C) of floats: `room`, where `_load` has read it, or the row itself."""
    raise NotImplementedError("compiled code only")


@overload(_load)
def _overload_load(maps, image, row, room):
    def widen(maps, image, row, room):
        bits = maps[image, row]
        for w in range(bits.shape[0]):
            for c in range(bits.shape[1]):
                room[w, c] = read(bits[w, c])

    return widen if maps.dtype == types.uint16 else lambda maps, image, row, room: None


@overload(_row)
def _overload_row(maps, image, row, room):
    if maps.dtype == types.uint16:
        return lambda maps, image, row, room: room
    return lambda maps, image, row, room: maps[image, row]


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _weight_gradient(x, grad, sums):
    # dW[i, j, c] = sum over n, h, w of x[n, h + i - k // 2, w + j - k // 2, c] * grad[n, h, w, c]
    images, height, width, channels = x.shape
    kernel = sums.shape[0]
    half = kernel // 2
    rooms = np.empty((kernel, width, channels), sums.dtype)  # for the last rows of x, each at its number modulo kernel
    room = np.empty((width, channels), sums.dtype)
    for n in range(images):
        partial = np.zeros_like(sums)  # sums of sums lose less
        for row in range(min(half, height)):
            _load(x, n, row, rooms[row % kernel])
        for h in range(height):
            if h + half < height:
                _load(x, n, h + half, rooms[(h + half) % kernel])
            _load(grad, n, h, room)
            given = _row(grad, n, h, room)
            for i in range(kernel):
                row = h + i - half
                if row < 0 or row >= height:
                    continue
                seen = _row(x, n, row, rooms[row % kernel])
                for j in range(kernel):
                    shift = j - half
                    for w in range(max(0, -shift), min(width, width - shift)):
                        for c in range(channels):
                            partial[i, j, c] += seen[w + shift, c] * given[w, c]
        sums += partial
