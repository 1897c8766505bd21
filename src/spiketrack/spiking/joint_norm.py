"""Joint norm: batch normalisation by the statistics of all processes' shares of a batch.

Station: in training with several processes, `training.sync_batch_norm`. One process with the whole batch and several
with a share each then compute the same. PyTorch's SyncBatchNorm is for GPUs only; this one is for any device.

Each rank has n_r values of a channel with mean m_r and variance v_r. What the ranks add up, in float64, is
(n_r, n_r m_r, n_r (v_r + m_r^2)), and on the way back the sums of g and of g x^ (g the gradient, x^ the normalised x):

    dx = gamma / sqrt(var + eps) * (g - sum(g) / n - x^ sum(g x^) / n)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiketrack.distributed import Ranks


class JointBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all ranks; a rank's batch may be empty. In evaluation the same as BatchNorm2d."""

    def __init__(self, norm: nn.BatchNorm2d, ranks: Ranks) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        # the parameters themselves, not copies
        self._parameters, self._buffers = norm._parameters, norm._buffers
        self.ranks = ranks
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:
        """input: (N, C, H, W), N may differ between ranks. Raises ValueError for another number of dimensions."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        y, mean, var, count = _JointNorm.apply(input, self.weight, self.bias, self.eps, self.ranks)
        assert self.running_mean is not None, "all norms here track them"
        assert self.running_var is not None
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)).to(var), momentum)
        return y


def with_joint_norms(model: nn.Module, ranks: Ranks) -> nn.Module:
    """The same model, its BatchNorm2d replaced by joint ones with the same parameters and names; changed in place."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, JointBatchNorm2d(child, ranks))
        else:
            with_joint_norms(child, ranks)
    return model


class _JointNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks) -> tuple[Tensor, ...]:
        channels, own = x.shape[1], x.numel() // x.shape[1]
        sums = torch.zeros(2 * channels + 1, dtype=torch.float64, device=x.device)
        if own:
            mean, var = (part.double() for part in torch.batch_norm_update_stats(x, None, None, 0.0))
            sums[:channels], sums[channels:-1], sums[-1] = own * mean, own * (var + mean.square()), own
        sums = ranks.total(sums)
        count = sums[-1]
        mean, square = sums[:-1].view(2, channels) / count
        var = (square - mean.square()).clamp_min(0)
        mean, var = mean.to(weight.dtype), var.to(weight.dtype)
        y = F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps, ctx.ranks = eps, ranks
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, count = ctx.saved_tensors
        channels, scale = len(weight), torch.rsqrt(var + ctx.eps)
        # sums of this rank; with given statistics the library's backward pass computes just these
        grad_weight = grad_bias = torch.zeros_like(weight)
        if x.numel():
            grad = grad.to(x.dtype)
            _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
            )
        by_bias, by_weight = (
            ctx.ranks.total(torch.cat([grad_bias, grad_weight]).double()).view(2, channels) / count
        ).to(weight.dtype)
        # in the precision of the weights; centred first, as rounding x b - mean b would cost digits
        a, by_x, mean = (part[:, None, None] for part in (weight * scale, by_weight * scale, mean))
        grad_x = (grad - by_bias[:, None, None] - (x - mean) * by_x) * a
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None
