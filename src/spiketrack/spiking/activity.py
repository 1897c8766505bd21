"""Activity: what a fused network's neurons send and its convolutions receive, counted while it runs.

Station: beside a network that infers, one time step after the other. Hooks add integers to counters, so that memory
does not depend on how long it runs; `metrics.efficiency` turns the counts into sparsity, operations and energy. The
terms are NeuroBench's (Yik et al., 2025): a synaptic operation is a tap of a kernel whose input and weight are both not
zero.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spiketrack.spiking.lif import LIF
from spiketrack.spiking.neurons import ILIF, Rectifier, State


@dataclass
class ConvActivity:
    """Counts of one convolution, over all steps and images.

    macs: every tap, zero padding included: cout * cin / groups * k^2 * height * width. dense: taps within the map, all
    weights. effective: of these, where input and weight are not zero. weighted: the same, each as often as its integer
    input says, as long as every input is such. inputs, nonzero, total: input values, those not zero, and their sum.
    binary, whole: whether every input was in {-1, 0, 1}, and whether every one was a whole number of at least 0.
    """

    name: str
    macs: int = 0
    dense: int = 0
    effective: int = 0
    weighted: int = 0
    inputs: int = 0
    nonzero: int = 0
    total: float = 0.0
    binary: bool = True
    whole: bool = True


@dataclass
class NeuronActivity:
    """Counts of one layer of neurons, over all steps and images.

    levels: the largest integer that a neuron sends, 1 of binary neurons, 0 of rectifiers, whose outputs are real and
    which have no membrane. neuron_steps: outputs. spikes: their sum.
    nonzero: those that are not 0. updates: membranes that a step changed; all of them at the first step of a stream.
    """

    name: str
    levels: int
    neuron_steps: int = 0
    spikes: float = 0
    nonzero: int = 0
    updates: int = 0


class Activity:
    """Counters of a network, in the order in which its layers run. steps: images times time steps."""

    def __init__(self) -> None:
        self.steps = 0
        self.convs: dict[str, ConvActivity] = {}
        self.neurons: dict[str, NeuronActivity] = {}
        self._reach: dict[str, tuple[tuple[int, ...], _Reach]] = {}

    def add_conv(self, name: str, conv: nn.Conv2d, x: Tensor) -> None:
        """Count one call of a convolution with input x (N, C, H, W)."""
        counts = self.convs.setdefault(name, ConvActivity(name))
        shape, reach = self._reach.get(name, ((), None))
        if reach is None or shape != tuple(x.shape[1:]):
            reach = _Reach(conv, x)
            self._reach[name] = tuple(x.shape[1:]), reach
        active = x != 0
        effective = reach.taps(active)
        low, high = (float(bound) for bound in torch.aminmax(x))
        whole = bool((x == x.round()).all())
        counts.macs += reach.macs * len(x)
        counts.dense += reach.dense * len(x)
        counts.effective += effective
        counts.inputs += x.numel()
        counts.nonzero += int(torch.count_nonzero(active))
        counts.total += float(x.sum(dtype=torch.float64))
        counts.binary &= whole and low >= -1 and high <= 1
        counts.whole &= whole and low >= 0
        if counts.whole:
            counts.weighted += effective if high <= 1 else reach.taps(x)

    def add_neurons(self, name: str, levels: int, spikes: Tensor) -> None:
        """Count the output of one layer of neurons."""
        counts = self.neurons.setdefault(name, NeuronActivity(name, levels))
        counts.neuron_steps += spikes.numel()
        counts.spikes += float(spikes.sum(dtype=torch.float64))
        counts.nonzero += int(torch.count_nonzero(spikes))

    def add_step(self, x: Tensor, before: State | None, after: State) -> None:
        """Count the membranes that one time step x (1, B, C, H, W) changed. before: None at the start of a stream."""
        if x.shape[0] != 1:
            raise ValueError(f"activity: expected one time step at a time, got {x.shape[0]}; membranes are compared")
        self.steps += x.shape[1]
        holding = [counts for counts in self.neurons.values() if counts.levels]
        # what a network remembers beside its membranes comes after them
        for i, (counts, rest) in enumerate(zip(holding, after[: len(holding)], strict=True)):
            counts.updates += rest.numel() if before is None else int(torch.count_nonzero(before[i] != rest))


@contextmanager
def recorded(network: nn.Module) -> Generator[Activity]:
    """Count what a fused network does while the context lasts; it is called as `network(x, state)`, T = 1.

    Every convolution has to be a module that is called, once a step: `deploy.fuse` makes it so. Raises ValueError for
    a network with batch norms, or with layers that have weights but are no convolutions.
    """
    _check(network)
    activity = Activity()
    hooks = [network.register_forward_hook(_network_hook(activity), with_kwargs=True)]
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_pre_hook(_conv_hook(activity, name)))
        elif isinstance(module, ILIF | LIF | Rectifier):
            hooks.append(module.register_forward_hook(_neuron_hook(activity, name)))
    try:
        with torch.no_grad():
            yield activity
    finally:
        for hook in hooks:
            hook.remove()


class _Reach:
    """How many taps every input value of a convolution takes part in, for one shape of input."""

    def __init__(self, conv: nn.Conv2d, x: Tensor) -> None:
        size = (1, *x.shape[1:])
        with torch.inference_mode(False):  # the gradient is wanted, wherever this is called from
            weight = conv.weight.detach()
            self._taps = self._of(conv, size, (weight != 0).float())
            dense = self._of(conv, size, torch.ones_like(weight, dtype=torch.float32))
        self.dense = int(dense.sum(dtype=torch.float64))
        if x.is_contiguous(memory_format=torch.channels_last):
            self._taps = self._taps[None].contiguous(memory_format=torch.channels_last)  # as x lies in memory
        height, width = self._output
        self.macs = weight.numel() * height * width

    def _of(self, conv: nn.Conv2d, size: tuple[int, ...], weight: Tensor) -> Tensor:
        """(C, H, W): the gradient of the sum of all outputs of a kernel of zeros and ones."""
        x = torch.zeros(size, device=weight.device, requires_grad=True)
        with torch.enable_grad():
            y = nn.functional.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
            (gradient,) = torch.autograd.grad(y.sum(), x)
        self._output = y.shape[2], y.shape[3]
        return gradient[0].round()

    def taps(self, x: Tensor) -> int:
        """The sum over all values of x (N, C, H, W) times their taps; exact below 2^53."""
        return int((x * self._taps).sum(dtype=torch.float64))


def _check(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(f"activity: {name} is a batch norm; fuse the network first (spiketrack.deploy.fuse)")
        others = [p for p in module.parameters(recurse=False) if p.dim() > 1]
        if others and not isinstance(module, nn.Conv2d):
            raise ValueError(f"activity: {name} is a {type(module).__name__}; only Conv2d layers can be counted")


def _conv_hook(activity: Activity, name: str):
    def hook(module: nn.Conv2d, args: tuple[Tensor, ...]) -> None:
        activity.add_conv(name, module, args[0])

    return hook


def _neuron_hook(activity: Activity, name: str):
    def hook(module: ILIF | LIF | Rectifier, args: tuple, spikes: Tensor) -> None:
        levels = module.settings.levels if isinstance(module, ILIF) else int(isinstance(module, LIF))
        activity.add_neurons(name, levels, spikes)

    return hook


def _network_hook(activity: Activity):
    def hook(module: nn.Module, args: tuple, keywords: dict, result: tuple) -> None:
        before = args[1] if len(args) > 1 else keywords.get("state")
        activity.add_step(args[0], before, result[1])

    return hook
