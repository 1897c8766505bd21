"""Folded norm: batch norm before a convolution, in training, as one convolution with a kernel scaled for the batch.

Station: inside the layers that normalise first (norm_first.py), on the CPU. The map is padded with zeros before the
norm, and all N of its values per channel count. With r = 1 / sqrt(var + eps), s = gamma r, h = beta - mean s:

    y = conv(x, W') + b';  W'[o, i] = W[o, i] s[i], b'[o] = sum over i, k of W[o, i, k] h[i]

so the normalised map is never written. Backward, from dW' (the kernel's gradient of the plain convolution) and db':

    dW[o, i] = s[i] dW'[o, i] + h[i] db'[o];  ds[i] = sum over o, k of W dW', dh[i] = sum over o, k of W db'[o]
    dbeta = dh;  dgamma = r (ds - mean dh);  dvar = -gamma r^3 (ds - mean dh) / 2;  dmean = -s dh
    dx = conv^T(dy, W') + dmean / N + 2 dvar (x - mean) / N

Several of these on one map, as the heads of a detector are, have the same statistics: they are one convolution with all
their outputs, and the gradients dmean and dvar of each are added.

Spikes need no second look for their statistics: mean = count / N, var = mean (1 - mean). Where few enough fire, their
convolution is a sum of rows of the kernel, and of the spikes only bits are kept (sparse_conv.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiketrack.spiking.sparse_conv import (
    MOST_ONES,
    Folded,
    Scales,
    add_either,
    fold,
    kernel_gradient,
    kernel_rows,
    pack,
    sparse_conv,
    sums_and_squares,
    unfold,
)


def folds(norm: nn.Module, x: Tensor) -> bool:
    """Whether `folded_norm_convs` stands in for the norm and the convolution after it: training, on the CPU."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and x.device.type == "cpu"
        and x.dtype == norm.weight.dtype
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > x.shape[1]  # the norm refuses one value per channel
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def folded_norm_convs(x: Tensor, norms: Sequence[nn.BatchNorm2d], convs: Sequence[nn.Conv2d], padding: int) -> Tensor:
    """conv(norm(pad(x))) of every pair, with the statistics of the batch; the running ones are moved.

    x: (N, C, H, W). Returns (N, all outputs, H', W'). All have the same eps, size of kernel and stride.
    """
    parameters = (
        part for norm, conv in zip(norms, convs, strict=True) for part in (norm.weight, norm.bias, conv.weight)
    )
    y, mean, var, values = _FoldedNormConvs.apply(x, norms[0].eps, convs[0].stride[0], padding, *parameters)
    with torch.no_grad():
        unbiased = var * (values / max(values - 1, 1))
        for norm in norms:
            assert norm.running_mean is not None, "all norms here track them"
            assert norm.running_var is not None
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            momentum = norm.momentum or 0.0
            norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var), momentum)
    return y


class _Moments(NamedTuple):
    """Mean and variance per channel, (C,) float64, of the padded map, and how many values they are of."""

    mean: Tensor
    var: Tensor
    values: int


def _moments(x: Tensor, counts: Tensor | None, padding: int) -> _Moments:
    """counts: ones per channel where x is binary."""
    n, _, height, width = x.shape
    values = n * (height + 2 * padding) * (width + 2 * padding)
    if counts is not None:
        mean = counts.double() / values
        return _Moments(mean, mean * (1 - mean), values)
    mean, square = sums_and_squares(x) / values
    return _Moments(mean, (square - mean.square()).clamp_min(0), values)


class _FoldedNormConvs(torch.autograd.Function):
    """parameters: gamma, beta, weight of one pair after the other."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, eps: float, stride: int, padding: int, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        gammas, betas, weights = (parameters[part::3] for part in range(3))
        spikes = pack(x)
        mean, var, values = _moments(x, None if spikes is None else spikes.counts, padding)
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        scale = torch.stack(gammas).double() * torch.rsqrt(var + eps)
        norms = torch.repeat_interleave(torch.tensor([len(one) for one in weights]))
        scales = Scales(norms, scale, torch.stack(betas).double() - mean * scale)
        folded = fold(weight, scales)
        if spikes is not None and spikes.ones <= MOST_ONES * x.numel():
            seen, sparse = spikes.bits, True
            y = sparse_conv(seen, folded, stride, padding)
        else:
            seen, sparse = x, False
            y = F.conv2d(x, _scaled(weight, scales), folded.bias[: len(weight)], stride, padding)
        ctx.save_for_backward(seen, weight, mean, torch.rsqrt(var + eps), *scales)
        ctx.constants = x.shape, sparse, values, stride, padding, [len(one) for one in weights]
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var, values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        seen, weight, mean, inverse, *scales = ctx.saved_tensors
        shape, sparse, values, stride, padding, outputs = ctx.constants
        scales = Scales(*scales)
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        needs_x = ctx.needs_input_grad[0]
        like = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last) if sparse else seen
        grad_x, grad_kernel, _ = torch.ops.aten.convolution_backward(
            *(grad, like, _scaled(weight, scales), None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1),
            [needs_x, not sparse, False],
        )
        if sparse:
            grad_folded = kernel_gradient(seen, grad, weight, stride, padding)
        else:
            grad_folded = Folded(kernel_rows(grad_kernel), grad.sum((0, 2, 3)).double(), len(weight))
        grad_weight, by_scale, by_offset = unfold(grad_folded, weight, scales)
        grad_gamma = inverse * (by_scale - mean * by_offset)
        if needs_x:
            slope = -(grad_gamma * scales.scale).sum(0) * inverse / values  # 2 dvar / N
            constant = -(scales.scale * by_offset).sum(0) / values - slope * mean
            if sparse:
                add_either(seen, constant + slope, constant, grad_x)
            else:
                slope, constant = (part.to(grad_x.dtype)[:, None, None] for part in (slope, constant))
                grad_x.add_(constant).addcmul_(seen, slope)
        of_gamma, of_beta = grad_gamma.to(weight.dtype), by_offset.to(weight.dtype)
        pairs = zip(of_gamma, of_beta, grad_weight.split(outputs), strict=True)
        return grad_x, None, None, None, *(part for pair in pairs for part in pair)


def _scaled(weight: Tensor, scales: Scales) -> Tensor:
    """W' of the equations."""
    factor = scales.scale.to(weight.dtype)
    return weight * (factor if len(factor) == 1 else factor[scales.norms])[:, :, None, None]
