"""Neurons: integer leaky integrate-and-fire (I-LIF), with the state going in and coming out.

Station: in comes a membrane current over T time steps, out go integer spikes 0 .. D. An integer s stands for s
binary spikes, so a network trained on integers runs on binary spikes (SpikeYOLO, Luo et al., ECCV 2024, section 3).

    m[t] = decay * r[t-1] + gain * x[t]        membrane before firing, r[-1] = 0
    s[t] = round(clip(m[t], 0, D))             half to even: 0.5 -> 0, 1.5 -> 2
    r[t] = m[t] - s[t]                         soft reset by the integer itself; s detached

The gradient passes straight through the rounding inside the closed window 0 <= m <= D and is 0 outside. On the CPU
all steps are one pass over memory each way (lif_kernels.py), and on CUDA where triton can be imported (lif_triton.py);
elsewhere, in float16 on the CPU, and while torch compiles or exports, they are torch operations one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from spiketrack.spiking.allocation import empty_strided
from spiketrack.spiking.dispatch import way_of
from spiketrack.spiking.slabs import as_slabs, flat, in_pieces, ordered_as, rows


class ILIFSettings(BaseModel):
    """Every constant of the I-LIF neuron. The defaults are those of SpikeYOLO's COCO model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    activation: Literal["spikes", "relu"] = Field(
        "spikes",
        description="spikes: I-LIF; relu: max(x, 0) without spikes or memory, an artificial network of the same shape "
        "to compare with, for which the other constants have no effect",
    )
    levels: int = Field(4, ge=1, le=255, description="D, the largest integer that a neuron emits")
    decay: float = Field(0.25, ge=0, lt=1, description="share of the membrane that is left after one time step")
    gain: float = Field(1.0, gt=0, description="factor of the input current")


COCO_NEURON = ILIFSettings(levels=4, decay=0.25, gain=1.0)
GEN1_NEURON = ILIFSettings(levels=4, decay=0.5, gain=0.5)


def ilif(x: Tensor, state: Tensor | None, settings: ILIFSettings) -> tuple[Tensor, Tensor]:
    """Run I-LIF neurons over all time steps.

    x: (T, ...) current. state: (...) membrane left by the step before, or None for rest (0).
    Returns spikes (T, ...) of the dtype of x holding integers 0 .. D, and the state after the last step (...). Of
    bfloat16 on the CPU the membranes and the state are float32. Raises ValueError where the state does not fit x.
    """
    if state is not None and state.shape != x.shape[1:]:
        raise ValueError(
            f"I-LIF: the state has shape {tuple(state.shape)}, the input needs {tuple(x.shape[1:])}; "
            "pass None for a fresh start"
        )
    way = way_of(x)
    if way == "triton":
        from spiketrack.spiking import lif_triton

        return lif_triton.ilif(x, state, settings)
    function = _ILIF if way == "loops" and x.dtype in _DTYPES else _StepwiseILIF
    return function.apply(x, state, settings.levels, settings.decay, settings.gain)


_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


class _ILIF(torch.autograd.Function):
    """One pass over memory each way. Only the input is kept; the backward pass computes the membranes again."""

    @staticmethod
    def forward(ctx, x: Tensor, state: Tensor | None, levels: int, decay: float, gain: float):
        from spiketrack.spiking import lif_kernels

        x, dtype = as_slabs(x), torch.promote_types(x.dtype, torch.float32)
        state = None if state is None else ordered_as(state.to(dtype), x.stride()[1:])
        spikes = empty_strided(x.shape, x.stride(), x.dtype)
        rest = empty_strided(x.shape[1:], x.stride()[1:], dtype)
        ctx.save_for_backward(x, state)
        ctx.set_materialize_grads(False)  # the last state is rarely used
        current, before, out, after = rows(x), flat(state, rest), rows(spikes), flat(rest)
        number = after.dtype.type
        ctx.dtype, ctx.constants = dtype, (number(levels), number(decay), number(gain))
        in_pieces(x, lambda a, b: lif_kernels.integer_forward(current, before, *ctx.constants, out, after, a, b))
        return spikes, rest

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        from spiketrack.spiking import lif_kernels

        grad_spikes, grad_rest = grads
        x, state = ctx.saved_tensors
        grad_x = empty_strided(x.shape, x.stride(), x.dtype)
        grad_state = torch.empty_like(state) if state is not None and ctx.needs_input_grad[1] else None
        none = x.new_empty(0, dtype=ctx.dtype)
        arrays = (
            *(rows(x), flat(state, none), *ctx.constants),
            rows(x)[:0] if grad_spikes is None else rows(ordered_as(grad_spikes, x.stride())),
            flat(None if grad_rest is None else ordered_as(grad_rest, x.stride()[1:]), none),
            *(rows(grad_x), flat(grad_state, none)),
        )
        in_pieces(x, lambda a, b: lif_kernels.integer_backward(*arrays, a, b))
        return grad_x, grad_state, None, None, None


class _StepwiseILIF(torch.autograd.Function):
    """One torch operation after the other; the membranes before firing are kept for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, state: Tensor | None, levels: int, decay: float, gain: float):
        membranes = x * gain if gain != 1 else x.clone()
        spikes = torch.empty_like(x)
        rest = state
        for t in range(x.shape[0]):
            membrane = membranes[t]
            if rest is not None:
                membrane.add_(rest, alpha=decay)
            torch.clamp(membrane, 0, levels, out=spikes[t]).round_()
            rest = membrane - spikes[t]
        ctx.save_for_backward(membranes)
        ctx.set_materialize_grads(False)  # the last state is rarely used: no zeros, in a foreign layout, for it
        ctx.constants = levels, decay, gain, state is not None
        return spikes, rest

    @staticmethod
    def backward(ctx, *grads: Tensor):
        # dm[t] = ds[t] * (0 <= m[t] <= D) + decay * dm[t+1];  dx[t] = gain * dm[t]
        grad_spikes, grad_rest = grads
        (membranes,) = ctx.saved_tensors
        levels, decay, gain, had_state = ctx.constants
        if grad_spikes is None:
            grad_spikes = torch.zeros_like(membranes)
        # hardtanh's window is open; widened by less than any float step around 0 and D it is the closed one
        low, high = -torch.finfo(membranes.dtype).tiny, levels * (1 + torch.finfo(membranes.dtype).eps)
        grad_x = torch.ops.aten.hardtanh_backward(grad_spikes, membranes, low, high)
        if grad_rest is not None:
            grad_x[-1].add_(grad_rest)
        for t in range(grad_x.shape[0] - 2, -1, -1):
            grad_x[t].add_(grad_x[t + 1], alpha=decay)
        grad_state = grad_x[0] * decay if had_state else None
        if gain != 1:
            grad_x *= gain
        return grad_x, grad_state, None, None, None


State = tuple[Tensor, ...]

Neuron = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""Currents (T, ...) and the state (...) to spikes (T, ...) and the next state, as `ilif` with its settings."""


class StateFlow:
    """The state of all neurons of a network on its way through one forward pass.

    A network calls `next` once per neuron, in the order of its forward pass, and `finish` at the end. It makes
    the state an argument and a result of the network without any module keeping it.
    """

    def __init__(self, steps: int, state: State | None) -> None:
        self.steps = steps
        self._given = state
        self._left: list[Tensor] = []

    def fire(self, x: Tensor, settings: ILIFSettings) -> Tensor:
        """Spikes of the next layer, of I-LIF neurons. x: (T * B, C, H, W), time-major; returns the same shape."""
        return self.through(x, lambda current, state: ilif(current, state, settings))

    def through(self, x: Tensor, neuron: Neuron) -> Tensor:
        """Spikes of the next neuron layer. x: (T * B, C, H, W), time-major; returns the same shape."""
        position = len(self._left)
        if self._given is not None and position >= len(self._given):
            raise ValueError(f"state of {len(self._given)} neuron layers given, the network has more")
        state = None if self._given is None else self._given[position]
        spikes, rest = neuron(x.unflatten(0, (self.steps, -1)), state)
        self._left.append(rest)
        return spikes.flatten(0, 1)

    def recomputed(self, block: nn.Module, x: Tensor) -> Tensor:
        """`block(x, flow)` whose activations are not kept but computed again in the backward pass.

        Norms are left as one pass leaves them. Source: Chen et al., "Training deep nets with sublinear memory cost",
        2016.
        """
        given = () if self._given is None else self._given[len(self._left) :]

        def run(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
            flow = StateFlow(self.steps, given or None)
            return block(x, flow), *flow._left

        y, *left = checkpoint(
            run, x, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), _norms_kept(block))
        )
        self._left += left
        return y

    def finish(self) -> State:
        """The state to hand to the next call; raises ValueError where the given one was of another network."""
        if self._given is not None and len(self._given) != len(self._left):
            raise ValueError(f"state of {len(self._given)} neuron layers given, the network has {len(self._left)}")
        return tuple(self._left)


@contextmanager
def _norms_kept(block: nn.Module) -> Generator[None]:
    """Batch norms that use the statistics of the batch, but do not count it a second time."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # with a momentum of 0 the running statistics stay as they are
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked


class ILIF(nn.Module):
    """A layer of I-LIF neurons; holds the constants, never the state."""

    def __init__(self, settings: ILIFSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        """x: (T * B, C, H, W) current; returns spikes of the same shape."""
        return flow.fire(x, self.settings)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings)


class Rectifier(nn.Module):
    """A layer of rectified linear units in the place of neurons: real outputs, nothing remembered."""

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        """x: (T * B, C, H, W) current; returns max(x, 0). The flow of states passes it by."""
        return x.relu()


Neurons = ILIF | Rectifier


def neurons_of(settings: ILIFSettings) -> Neurons:
    """A layer of the neurons that the settings describe."""
    return ILIF(settings) if settings.activation == "spikes" else Rectifier()
