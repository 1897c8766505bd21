"""LIF and PLIF: binary leaky integrate-and-fire neurons, with the state going in and coming out.

Station: in comes a membrane current over T time steps, out go spikes 0 or 1. PLIF (Fang et al., ICCV 2021) learns the
rate 1 / tau = 1 / (1 + exp(-w)), one w per layer; LIF has it fixed.

    m[t] = r[t-1] + (x[t] - r[t-1]) / tau      with input decay; without: r[t-1] - r[t-1] / tau + x[t]; r[-1] = 0
    s[t] = 1 if m[t] >= threshold else 0       a membrane at the threshold fires; gradient: surrogate.py
    r[t] = (1 - s[t]) m[t]                     hard reset to 0; soft: m[t] - threshold s[t]; s detached if asked for

On the CPU all steps are one autograd function whose passes go over memory once; elsewhere, and while torch compiles or
exports, the equations run as a plain loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spiketrack.spiking.neurons import StateFlow
from spiketrack.spiking.surrogate import Surrogate, spike

Piece = TypeVar("Piece")

LEAST_PER_THREAD = 1 << 18  # neuron-steps; below, starting a thread costs more than it saves


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
    dtype = torch.promote_types(x.dtype, torch.float32)
    current = x.to(dtype)
    state = None if state is None else state.to(dtype)
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        spikes, rest = lif_loop(current, state, rate, settings)
    else:
        spikes, rest = _LIF.apply(current, state, rate, settings)
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
        from spiketrack.spiking import lif_kernels

        x = x if _is_slabs(x) else x.contiguous()
        state = None if state is None else _ordered_as(state, x.stride()[1:])
        spikes = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
        rest = torch.empty_strided(x.shape[1:], x.stride()[1:], dtype=x.dtype)
        ctx.save_for_backward(x, state)
        ctx.set_materialize_grads(False)  # the last state is rarely used
        ctx.rate, ctx.settings = float(rate), settings
        ctx.rate_like = rate.new_empty(0) if isinstance(rate, Tensor) else None
        number = _flat(x).dtype.type
        constants = number(ctx.rate), number(settings.threshold), settings.reset == "hard", settings.decay_input
        rows, before, out, after = _rows(x), _flat(state, x), _rows(spikes), _flat(rest)
        _in_pieces(x, lambda a, b: lif_kernels.forward(rows, before, *constants, out, after, a, b))
        return spikes, rest

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        from spiketrack.spiking import lif_kernels

        grad_spikes, grad_rest = grads
        x, state = ctx.saved_tensors
        settings: LIFSettings = ctx.settings
        grad_x = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
        grad_state = torch.empty_like(state) if state is not None and ctx.needs_input_grad[1] else None
        number = _flat(x).dtype.type
        constants = (
            *(number(ctx.rate), number(settings.threshold), settings.reset == "hard", settings.decay_input),
            *(settings.detach_reset, settings.surrogate == "sigmoid", number(settings.slope)),
        )
        arrays = (
            _rows(x)[:0] if grad_spikes is None else _rows(_ordered_as(grad_spikes, x.stride())),
            _flat(None if grad_rest is None else _ordered_as(grad_rest, x.stride()[1:]), x),
            _rows(grad_x),
            _flat(grad_state, x),
        )
        rows, before = _rows(x), _flat(state, x)
        parts = _in_pieces(x, lambda a, b: lif_kernels.backward(rows, before, *constants, *arrays, a, b))
        grad_rate = ctx.rate_like.new_tensor(math.fsum(parts)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_state, grad_rate, None


def _is_slabs(x: Tensor) -> bool:
    """Whether the x[t] lie one after the other, each dense, in any order of the other dimensions."""
    expected = 1
    for stride, size in sorted(zip(x.stride()[1:], x.shape[1:], strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return x.shape[0] <= 1 or x.stride(0) == expected


def _ordered_as(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The tensor with its elements in the order of memory that the strides of a dense one give; itself if they are."""
    if tensor.stride() == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)


def _flat(tensor: Tensor | None, like: Tensor | None = None) -> NDArray:
    """(n,) view of a dense tensor in the order of its memory; (0,) of the dtype of `like` for None."""
    if tensor is None:
        assert like is not None
        tensor = like.new_empty(0)
    return torch.as_strided(tensor.detach(), (tensor.numel(),), (1,)).numpy()


def _rows(x: Tensor) -> NDArray:
    """(T, n) view of slabs (T, ...)."""
    return _flat(x).reshape(x.shape[0], math.prod(x.shape[1:]))


def _in_pieces(x: Tensor, work: Callable[[int, int], Piece]) -> list[Piece]:
    """work(start, stop) over all neurons of x (T, ...), on as many threads as torch may use and the size is worth."""
    neurons = math.prod(x.shape[1:])
    threads = max(1, min(torch.get_num_threads(), x.numel() // LEAST_PER_THREAD))
    if threads == 1:
        return [work(0, neurons)]
    pieces = list(pairwise(neurons * i // threads for i in range(threads + 1)))
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work, *piece) for piece in pieces[1:]]
        return [work(*pieces[0]), *(other.result() for other in others)]


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
