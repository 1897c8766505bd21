"""Efficiency: from counted activity to sparsity, synaptic operations and energy, by named definitions.

Station: after `spiking.activity`. Every number is per time step of one image unless it is a share. Definitions:

    activation sparsity    1 - nonzero / outputs, over all neurons and steps              (NeuroBench, Yik et al., 2025)
    effective operations   taps with input and weight not zero; bias and padding left out (NeuroBench)
                           AC where a layer's inputs are all in {-1, 0, 1}, else MAC
    membrane updates       membranes that a step changed, all at a stream's first step    (NeuroBench)
    connection sparsity    weights that are zero, of all; footprint: bytes of parameters and buffers (NeuroBench)
    energy, NeuroBench     e_AC * AC + e_MAC * MAC of the effective operations; NeuroBench itself stops at the counts
    energy, SpikeYOLO      e_MAC * macs of the first layer + e_AC * macs * mean input of each other one that reads
                           spikes; e_MAC * macs of one that reads real numbers, all of an artificial network
                           (Luo et al., ECCV 2024; dense taps with padding, integers as that many binary spikes)
    sparsity, Cordone      share of outputs that are NOT zero, over the layers that the thesis's code looks at

Energies of an operation are those of 45 nm at 32 bit that both use (Horowitz, ISSCC 2014): 0.9 pJ an addition, 4.6 pJ a
multiply-accumulate. Reading and writing memory, which costs more on most hardware, is in none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from spiketrack.spiking.activity import Activity, ConvActivity, NeuronActivity

AC_PJ, MAC_PJ = 0.9, 4.6
"""Picojoules of an addition and of a multiply-accumulate."""


@dataclass(frozen=True)
class Operations:
    """Operations per time step of one image. dense: as if no input and no weight were zero."""

    ac: float
    mac: float
    dense: float

    @property
    def energy_mj(self) -> float:
        """Millijoules."""
        return (AC_PJ * self.ac + MAC_PJ * self.mac) * 1e-9


@dataclass(frozen=True)
class ConvLayer:
    """One convolution. kind: what it reads, "binary", "integer" or "real". operations: NeuroBench's, as it runs; macs:
    all taps; unrolled: integers sent as binary spikes, None where the input is no integer; mean: of the input, active:
    share not zero; energy_mj: by SpikeYOLO's rule."""

    name: str
    kind: str
    operations: Operations
    unrolled: Operations | None
    macs: float
    mean: float
    active: float
    energy_mj: float


@dataclass(frozen=True)
class NeuronLayer:
    """One layer of neurons. neurons: per image. rate: mean of an output; active: share not zero; binary_rate: share of
    the D substeps that carry a spike, None of rectifiers (levels 0); updated: share of membranes a step changes."""

    name: str
    levels: int
    neurons: float
    rate: float
    active: float
    binary_rate: float | None
    updated: float


@dataclass(frozen=True)
class Subset:
    """What the authors of a network report, by their own choice of layers. active: share of outputs not zero."""

    rule: str
    layers: tuple[str, ...]
    active: float


@dataclass(frozen=True)
class Footprint:
    """Bytes of parameters and buffers; weights: of the convolutions, and the share of them that is zero."""

    bytes: int
    weights: int
    connection_sparsity: float


@dataclass(frozen=True)
class Efficiency:
    """Everything above of one network on one set of steps. unrolled: with integers sent as binary spikes;
    unrolled_sparsity: None of an artificial network, which has no integers."""

    steps: int
    operations: Operations
    unrolled: Operations
    macs: float
    activation_sparsity: float
    unrolled_sparsity: float | None
    rate: float
    neurons: float
    membrane_updates: float
    energy_mj: float
    dense_energy_mj: float
    footprint: Footprint
    subset: Subset | None
    convs: tuple[ConvLayer, ...]
    neuron_layers: tuple[NeuronLayer, ...]


def efficiency(activity: Activity, network: nn.Module) -> Efficiency:
    """The numbers of the network whose activity was counted. Raises ValueError where nothing was."""
    steps = activity.steps
    if not steps or not activity.neurons or not activity.convs:
        raise ValueError("efficiency: no time step of a network with neurons and convolutions was counted")
    convs = tuple(_conv_layer(counts, steps, first=i == 0) for i, counts in enumerate(activity.convs.values()))
    counted = [*activity.neurons.values()]
    outputs = sum(counts.neuron_steps for counts in counted)
    substeps = sum(counts.neuron_steps * counts.levels for counts in counted)
    spikes = sum(counts.spikes for counts in counted)
    macs = math.fsum(layer.macs for layer in convs)
    return Efficiency(
        steps=steps,
        operations=_sum([layer.operations for layer in convs]),
        unrolled=_sum([layer.unrolled or layer.operations for layer in convs]),
        macs=macs,
        activation_sparsity=1 - sum(counts.nonzero for counts in counted) / outputs,
        unrolled_sparsity=1 - spikes / substeps if substeps else None,
        rate=spikes / outputs,
        neurons=outputs / steps,
        membrane_updates=sum(counts.updates for counts in counted) / steps,
        energy_mj=math.fsum(layer.energy_mj for layer in convs),
        dense_energy_mj=MAC_PJ * macs * 1e-9,
        footprint=footprint(network),
        subset=authors_subset(counted),
        convs=convs,
        neuron_layers=tuple(_neuron_layer(counts, steps) for counts in counted),
    )


def footprint(network: nn.Module) -> Footprint:
    """Memory of a network, and how many of its weights are zero."""
    tensors = [*network.parameters(), *network.buffers()]
    kernels = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    weights = sum(kernel.numel() for kernel in kernels)
    zeros = weights - sum(int(kernel.count_nonzero()) for kernel in kernels)
    return Footprint(sum(t.numel() * t.element_size() for t in tensors), weights, zeros / weights if weights else 0.0)


def authors_subset(neurons: Sequence[NeuronActivity]) -> Subset | None:
    """The sparsity that the code of Cordone's thesis reports; None for a network of another make.

    ResCat-SNN: every neuron layer but the first and the SSD extras. ST-VGG: every layer of the backbone twice and each
    SSD extra once, because their code hooks both the neurons and the surrogate that all of them share
    (facts/models.md, A.7).
    """
    inside = {counts.name.removeprefix("backbone."): counts for counts in neurons if "extras." not in counts.name}
    extras = [counts for counts in neurons if "extras." in counts.name]
    if "stem.neuron" not in inside:
        return None
    if "widen.neuron" in inside:
        rule, chosen = "ResCat-SNN: all but the first layer and the extras", [*inside.values()][1:]
    elif "layers.0.neuron" in inside:
        rule, chosen = "ST-VGG: the backbone twice, the extras once", [*inside.values()] * 2 + extras
    else:
        return None
    active = sum(counts.nonzero for counts in chosen) / sum(counts.neuron_steps for counts in chosen)
    return Subset(f"Cordone's thesis, {rule}", tuple(dict.fromkeys(counts.name for counts in chosen)), active)


def _conv_layer(counts: ConvActivity, steps: int, *, first: bool) -> ConvLayer:
    mean = counts.total / counts.inputs
    macs, dense, effective = counts.macs / steps, counts.dense / steps, counts.effective / steps
    integer = counts.whole and not first
    kind = "binary" if counts.binary else "integer" if integer else "real"
    spikes = (counts.whole or counts.binary) and not first
    energy = AC_PJ * macs * mean if spikes else MAC_PJ * macs
    return ConvLayer(
        name=counts.name,
        kind=kind,
        operations=Operations(effective, 0, dense) if counts.binary else Operations(0, effective, dense),
        unrolled=Operations(counts.weighted / steps, 0, dense) if integer else None,
        macs=macs,
        mean=mean,
        active=counts.nonzero / counts.inputs,
        energy_mj=energy * 1e-9,
    )


def _neuron_layer(counts: NeuronActivity, steps: int) -> NeuronLayer:
    outputs = counts.neuron_steps
    return NeuronLayer(
        name=counts.name,
        levels=counts.levels,
        neurons=outputs / steps,
        rate=counts.spikes / outputs,
        active=counts.nonzero / outputs,
        binary_rate=counts.spikes / (outputs * counts.levels) if counts.levels else None,
        updated=counts.updates / outputs,
    )


def _sum(parts: Sequence[Operations]) -> Operations:
    return Operations(*(math.fsum(column) for column in zip(*((p.ac, p.mac, p.dense) for p in parts), strict=True)))
