"""Depthwise convolution, with a weight gradient that does not dominate the training step.

On the CPU the library computes the weight gradient of a depthwise 7x7 convolution 5 to 30 times slower than its forward
pass; in SpikeYOLO-p that was a fifth of a training step (docs/journal.md). Here it is one pass over the maps in
channels-last order, C multiply-adds at a time. Forward pass and input gradient stay the library's.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from numpy.typing import NDArray
from torch import Tensor


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
            _weight_gradient(_rows(x, sums.dtype), _rows(grad, sums.dtype), sums)
            grad_weight = torch.from_numpy(sums).permute(2, 0, 1)[:, None].to(weight.dtype)  # (C, 1, k, k)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3), dtype=weight.dtype)
        return grad_x, grad_weight, grad_bias


def _rows(x: Tensor, dtype: np.dtype) -> NDArray:
    """(N, H, W, C) contiguous view or copy, as float32 or float64."""
    wanted = torch.float64 if dtype == np.float64 else torch.float32
    return x.detach().to(wanted).permute(0, 2, 3, 1).contiguous().numpy()


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _weight_gradient(x, grad, sums):
    # dW[i, j, c] = sum over n, h, w of x[n, h + i - k // 2, w + j - k // 2, c] * grad[n, h, w, c]
    images, height, width, channels = x.shape
    kernel = sums.shape[0]
    half = kernel // 2
    for n in range(images):
        partial = np.zeros_like(sums)  # sums of sums lose less
        for h in range(height):
            for i in range(kernel):
                row = h + i - half
                if row < 0 or row >= height:
                    continue
                for j in range(kernel):
                    shift = j - half
                    for w in range(max(0, -shift), min(width, width - shift)):
                        for c in range(channels):
                            partial[i, j, c] += x[n, row, w + shift, c] * grad[n, h, w, c]
        sums += partial
