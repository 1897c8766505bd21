"""Neurons on CUDA: `lif` and `ilif` as autograd functions, each way one Triton kernel (triton_kernels.py).

Station: behind `lif.lif` and `neurons.ilif`, which send CUDA tensors here where triton can be imported; what comes in
and goes out is theirs. Nothing is kept for the backward pass but input and state: it computes the membranes again.
Half precision is read and written as it is: LIF computes in float32, I-LIF rounds its membranes to it after each
operation, as torch operations do.

Not run on a GPU so far: its results were checked under Triton's interpreter only (docs/efficiency.md).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from spiketrack.spiking import triton_kernels
from spiketrack.spiking.slabs import as_slabs, ordered_as

if TYPE_CHECKING:
    from spiketrack.spiking.lif import LIFSettings
    from spiketrack.spiking.neurons import ILIFSettings, Neuron

MOST_STEPS = 16  # unrolled in one kernel; longer inputs are cut, the state handed on
WARPS = 4  # of 32 lanes, in one program


def lif(x: Tensor, state: Tensor | None, rate: Tensor | float, settings: LIFSettings) -> tuple[Tensor, Tensor]:
    """`lif.lif` of at least one time step."""
    if not isinstance(rate, Tensor):
        rate = torch.full((), rate, dtype=_computed_in(x), device=x.device)
    return _cut(x, state, lambda part, before: _LIF.apply(part, before, rate, settings))


def ilif(x: Tensor, state: Tensor | None, settings: ILIFSettings) -> tuple[Tensor, Tensor]:
    """`neurons.ilif`."""
    return _cut(x, state, lambda part, before: _ILIF.apply(part, before, settings))


def _cut(x: Tensor, state: Tensor | None, run: Neuron) -> tuple[Tensor, Tensor]:
    if len(x) <= MOST_STEPS:
        return run(x, state)
    first, *others = x.split(MOST_STEPS)
    spikes, rest = run(first, state)
    pieces = [spikes]
    for part in others:
        spikes, rest = run(part, rest)
        pieces.append(spikes)
    return torch.cat(pieces), rest


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, state: Tensor | None, rate: Tensor, settings: LIFSettings):
        x, state = _laid_out(x, state)
        own_rate = rate.to(x.device, _computed_in(x))  # stays a tensor: reading it would wait for the device
        spikes, rest = _empty(x), _empty_state(x, _computed_in(x))
        ctx.save_for_backward(x, state, own_rate)
        ctx.set_materialize_grads(False)  # the last state is rarely used
        ctx.rate_like, ctx.settings = rate.new_empty(0), settings
        _launch(triton_kernels.lif_forward, x, state, own_rate, spikes, rest, **_lif_constants(settings))
        return spikes, rest

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        x, state, rate = ctx.saved_tensors
        settings: LIFSettings = ctx.settings
        grad_x = _empty(x)
        grad_state = torch.empty_like(state) if state is not None and ctx.needs_input_grad[1] else None
        grad_rate = rate.new_empty(_programs(x)) if ctx.needs_input_grad[2] else None
        _launch(
            *(triton_kernels.lif_backward, x, state, rate, *_grads_laid_out(x, *grads), grad_x, grad_state, grad_rate),
            **_lif_constants(settings),
            DETACH=settings.detach_reset,
            SIGMOID=settings.surrogate == "sigmoid",
            SLOPE=settings.slope,
            HALF_PI=math.pi / 2,
        )
        if grad_rate is not None:
            grad_rate = grad_rate.sum(dtype=torch.float64).to(ctx.rate_like)
        return grad_x, grad_state, grad_rate, None


class _ILIF(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, state: Tensor | None, settings: ILIFSettings):
        x, state = _laid_out(x, state)
        spikes, rest = _empty(x), _empty_state(x, x.dtype)
        ctx.save_for_backward(x, state)
        ctx.set_materialize_grads(False)
        ctx.constants = {"LEVELS": settings.levels, "DECAY": settings.decay, "GAIN": settings.gain}
        _launch(triton_kernels.ilif_forward, x, state, spikes, rest, **ctx.constants)
        return spikes, rest

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        x, state = ctx.saved_tensors
        grad_x = _empty(x)
        grad_state = torch.empty_like(state) if state is not None and ctx.needs_input_grad[1] else None
        grads = _grads_laid_out(x, *grads)
        _launch(triton_kernels.ilif_backward, x, state, *grads, grad_x, grad_state, **ctx.constants)
        return grad_x, grad_state, None


def _lif_constants(settings: LIFSettings) -> dict[str, float | bool]:
    hard = settings.reset == "hard"
    return {"THRESHOLD": settings.threshold, "HARD": hard, "DECAY_INPUT": settings.decay_input}


def _computed_in(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _laid_out(x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
    x = as_slabs(x)
    return x, None if state is None else ordered_as(state, x.stride()[1:])


def _empty(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


def _empty_state(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(x.shape[1:], x.stride()[1:], dtype=dtype, device=x.device)


def _grads_laid_out(x: Tensor, spikes: Tensor | None, rest: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Gradients in the order of memory of x."""
    return (
        None if spikes is None else ordered_as(spikes, x.stride()),
        None if rest is None else ordered_as(rest, x.stride()[1:]),
    )


def _block(x: Tensor) -> int:
    """Neurons of one program; fewer for a lane where their membranes need more registers."""
    return 32 * WARPS * (4 if len(x) <= 8 else 2)


def _programs(x: Tensor) -> int:
    return triton.cdiv(math.prod(x.shape[1:]), _block(x))


def _launch(kernel, x: Tensor, *tensors: Tensor | None, **constants: float | bool) -> None:
    """Run a kernel on slabs x and tensors in the same order of memory; None where there is none."""
    kind = tl.float64 if x.dtype == torch.float64 else tl.float32
    with torch.cuda.device_of(x):
        kernel[(_programs(x),)](
            *(x, *tensors, math.prod(x.shape[1:])),
            **constants,
            STEPS=len(x),
            KIND=kind,
            BLOCK=_block(x),
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
