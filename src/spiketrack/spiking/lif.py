"""LIF and PLIF: binary leaky integrate-and-fire neurons, with the state going in and coming out.

Station: in comes a membrane current over T time steps, out go spikes 0 or 1. PLIF (Fang et al., ICCV 2021) learns the
rate 1 / tau = 1 / (1 + exp(-w)), one w per layer; LIF has it fixed.

    m[t] = r[t-1] + (x[t] - r[t-1]) / tau      with input decay; without: r[t-1] - r[t-1] / tau + x[t]; r[-1] = 0
    s[t] = 1 if m[t] >= threshold else 0       a membrane at the threshold fires; gradient: surrogate.py
    r[t] = (1 - s[t]) m[t]                     hard reset to 0; soft: m[t] - threshold s[t]; s detached if asked for

On the CPU (lif_kernels.py), and on CUDA where triton can be imported (lif_triton.py), all steps are one autograd
function whose passes go over memory once; elsewhere, and while torch compiles or exports, the equations run as a plain
loop.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiketrack.spiking.allocation import empty_strided
from spiketrack.spiking.dispatch import way_of
from spiketrack.spiking.neurons import StateFlow
from spiketrack.spiking.slabs import as_slabs, flat, in_pieces, ordered_as, rows
from spiketrack.spiking.surrogate import Surrogate, spike


class LIFSettings(BaseModel):
    """Every constant of a LIF or PLIF neuron. The defaults are those of ST-VGG and ResCat-SNN, but for learn_tau."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tau: float = Field(2.0, gt=1, description="membrane time constant in time steps; the first one where it is learnt")
    learn_tau: bool = Field(False, description="learn the time constant, one per layer (PLIF)")
    threshold: float = Field(1.0, gt=0, description="membrane at which a neuron fires, inclusive")
    reset: Literal["hard", "soft"] = Field("hard", description="a spike sets the membrane to 0, or takes the threshold")
    decay_input: bool = Field(True, description="divide the input by tau too")
    detach_reset: bool = Field(True, description="no gradient through the reset")
    surrogate: Surrogate = Field("sigmoid", description="sigmoid or atan: what is differentiated instead of the step")
    slope: float = Field(4.0, gt=0, description="slope a of the surrogate")


PLIF_NEURON = LIFSettings(learn_tau=True)


def lif(x: Tensor, state: Tensor | None, rate: Tensor | float, settings: LIFSettings) -> tuple[Tensor, Tensor]:
    """Run LIF neurons over all time steps.

    x: (T, ...) current. state: (...) membrane left by the step before, or None for rest (0). rate: 1 / tau in (0, 1), a
    number or a 0-d tensor, which gets a gradient; the tau of the settings is not looked at.
    Returns spikes (T, ...), 0 or 1 of the dtype of x, and the state after the last step (...); half precision is
    computed in float32, which is then the state's dtype. Raises ValueError where the state does not fit x.
    """
    if state is not None and state.shape != x.shape[1:]:
        raise ValueError(
            f"LIF: the state has shape {tuple(state.shape)}, the input needs {tuple(x.shape[1:])}; "
            "pass None for a fresh start"
        )
    if len(x) == 0:
        return x.clone(), x.new_zeros(x.shape[1:]) if state is None else state
    way = way_of(x)
    if way == "triton":
        from spiketrack.spiking import lif_triton

        return lif_triton.lif(x, state, rate, settings)
    dtype = torch.promote_types(x.dtype, torch.float32)
    current = x.to(dtype)
    state = None if state is None else state.to(dtype)
    if way == "torch":
        spikes, rest = lif_loop(current, state, rate, settings)
    elif torch.is_grad_enabled():
        spikes, rest = _LIF.apply(current, state, rate, settings)
    else:
        current = as_slabs(current)
        before = None if state is None else ordered_as(state, current.stride()[1:])
        number = float(rate.detach() if isinstance(rate, Tensor) else rate)
        spikes, rest = _in_kernel(current, before, number, settings)
    return spikes.to(x.dtype), rest


def lif_loop(x: Tensor, state: Tensor | None, rate: Tensor | float, settings: LIFSettings) -> tuple[Tensor, Tensor]:
    """`lif` as its equations, one torch operation after the other; for devices and compilers without the kernel."""
    rest = torch.zeros_like(x[0]) if state is None else state
    spikes = []
    for current in x:
        membrane = rest + (current - rest) * rate if settings.decay_input else rest - rest * rate + current
        fired = spike(membrane - settings.threshold, settings.surrogate, settings.slope)
        reset = fired.detach() if settings.detach_reset else fired
        rest = (1 - reset) * membrane if settings.reset == "hard" else membrane - settings.threshold * reset
        spikes.append(fired)
    return torch.stack(spikes), rest


class _LIF(torch.autograd.Function):
    """One pass over memory each way. Only the input is kept; the backward pass computes the membranes again."""

    @staticmethod
    def forward(ctx, x: Tensor, state: Tensor | None, rate: Tensor | float, settings: LIFSettings):
        x = as_slabs(x)
        state = None if state is None else ordered_as(state, x.stride()[1:])
        ctx.save_for_backward(x, state)
        ctx.set_materialize_grads(False)  # the last state is rarely used
        ctx.rate, ctx.settings = float(rate), settings
        ctx.rate_like = rate.new_empty(0) if isinstance(rate, Tensor) else None
        return _in_kernel(x, state, ctx.rate, settings)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        from spiketrack.spiking import lif_kernels

        grad_spikes, grad_rest = grads
        x, state = ctx.saved_tensors
        settings: LIFSettings = ctx.settings
        grad_x = empty_strided(x.shape, x.stride(), x.dtype)
        grad_state = torch.empty_like(state) if state is not None and ctx.needs_input_grad[1] else None
        number = flat(x).dtype.type
        constants = (
            *(number(ctx.rate), number(settings.threshold), settings.reset == "hard", settings.decay_input),
            *(settings.detach_reset, settings.surrogate == "sigmoid", number(settings.slope)),
        )
        arrays = (
            rows(x)[:0] if grad_spikes is None else rows(ordered_as(grad_spikes, x.stride())),
            flat(None if grad_rest is None else ordered_as(grad_rest, x.stride()[1:]), x),
            rows(grad_x),
            flat(grad_state, x),
        )
        current, before, learns = rows(x), flat(state, x), ctx.needs_input_grad[2]
        parts = in_pieces(x, lambda a, b: lif_kernels.backward(current, before, *constants, *arrays, learns, a, b))
        grad_rate = ctx.rate_like.new_tensor(math.fsum(parts)) if learns else None
        return grad_x, grad_state, grad_rate, None


def _in_kernel(x: Tensor, state: Tensor | None, rate: float, settings: LIFSettings) -> tuple[Tensor, Tensor]:
    """Spikes and the last state of slabs x and a state in the same order of memory, without gradients."""
    from spiketrack.spiking import lif_kernels

    spikes = empty_strided(x.shape, x.stride(), x.dtype)
    rest = empty_strided(x.shape[1:], x.stride()[1:], x.dtype)
    current, before, out, after = rows(x), flat(state, x), rows(spikes), flat(rest)
    number = current.dtype.type
    constants = number(rate), number(settings.threshold), settings.reset == "hard", settings.decay_input
    in_pieces(x, lambda a, b: lif_kernels.forward(current, before, *constants, out, after, a, b))
    return spikes, rest


class LIF(nn.Module):
    """A layer of LIF neurons: the rate 1 / tau is fixed. Holds the constants, never the state."""

    def __init__(self, settings: LIFSettings) -> None:
        super().__init__()
        self.settings = settings

    def rate(self) -> Tensor | float:
        """1 / tau."""
        return 1 / self.settings.tau

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        """x: (T * B, C, H, W) current; returns spikes of the same shape."""
        return flow.through(x, lambda current, state: lif(current, state, self.rate(), self.settings))

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings)


class PLIF(LIF):
    """A layer of LIF neurons that learns its time constant: 1 / tau = 1 / (1 + exp(-w)), w = -log(tau - 1) at first.

    Cutting the state off the graph, as training on long sequences does, leaves w learnable.
    """

    def __init__(self, settings: LIFSettings) -> None:
        super().__init__(settings)
        self.w = nn.Parameter(torch.tensor(-math.log(settings.tau - 1)))

    def rate(self) -> Tensor:
        """1 / tau, differentiable, 0-d."""
        return torch.sigmoid(self.w)

    @property
    def tau(self) -> float:
        """The time constant as it is now, in time steps."""
        return 1 + math.exp(-float(self.w.detach()))


def neuron_layer(settings: LIFSettings) -> LIF:
    """A layer of the neuron that the settings describe."""
    return PLIF(settings) if settings.learn_tau else LIF(settings)
