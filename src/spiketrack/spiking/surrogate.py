"""Surrogate: the step function of a spike, and what stands for its derivative in the backward pass.

Station: inside the binary neurons. In comes u, the membrane above its threshold, out go spikes: 1 where u >= 0, else 0.
The derivative is that of a smooth step of slope a:

    sigmoid   d = a p (1 - p), p = 1 / (1 + exp(-a u))
    atan      d = a / 2 / (1 + (pi / 2 * a * u)^2)
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Surrogate = Literal["sigmoid", "atan"]


def spike(u: Tensor, kind: Surrogate, slope: float) -> Tensor:
    """1 where u >= 0, else 0, of the dtype and shape of u; differentiated by `surrogate_derivative`."""
    return _Spike.apply(u, kind, slope)


def surrogate_derivative(u: Tensor, kind: Surrogate, slope: float) -> Tensor:
    """What stands for d spike / d u; the shape of u, in (0, slope / 4] for the sigmoid, (0, slope / 2] for the atan."""
    if kind == "sigmoid":
        p = torch.sigmoid(u * slope)
        return slope * p * (1 - p)
    return slope / 2 / (1 + (math.pi / 2 * slope * u) ** 2)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u: Tensor, kind: Surrogate, slope: float) -> Tensor:
        ctx.save_for_backward(u)
        ctx.constants = kind, slope
        return (u >= 0).to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor):
        (u,) = ctx.saved_tensors
        return grads[0] * surrogate_derivative(u, *ctx.constants), None, None
