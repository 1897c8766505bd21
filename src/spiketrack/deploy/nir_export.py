"""NIR: a network of binary neurons as a graph of the Neuromorphic Intermediate Representation, an HDF5 file.

Station: after fusing; what simulators and neuromorphic chips read. In comes an SSD, ST-VGG or ResCat-SNN, out goes a
graph of Conv2d and LIF nodes for inputs of one size. Source: Pedersen et al., "Neuromorphic intermediate
representation" (Nature Communications 2024). Its LIF is tau dv/dt = v_leak - v + r I, spikes where v > v_threshold,
then v = v_reset. A step of dt by Euler's rule is v + (dt / tau) (v_leak - v + r I), a step of `spiking.lif` where

    tau = dt / rate, v_leak = 0, v_reset = 0        rate: our 1 / tau, in time steps
    r = 1                                           with input decay; without: 1 / rate
    v_threshold = the float32 below our threshold   we fire at the threshold too

dt is the length of a time step, so that tau is in seconds. Where several edges meet their values are added: a
concatenation is said without a node of its own, each part has a convolution with its share of the kernel.

NIR has no word for neurons that send integers (I-LIF), for rectifiers, a soft reset or a border that is not 0.
"""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spiketrack.deploy.fusing import ConvNeuron, PaddedConv, fuse
from spiketrack.deploy.integers import integer_convs
from spiketrack.detector.rescat import ResCatBlock, ResCatSNN
from spiketrack.detector.ssd import SSD
from spiketrack.detector.st_vgg import STVGG
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.replacing import write_whole
from spiketrack.spiking import ILIF, LIF, Rectifier

Wires = list[str]
"""Names of the nodes whose results, side by side, are a map."""


def export_nir(network: nn.Module, height: int, width: int, step_us: int, path: Path | str) -> int:
    """Write a network for inputs of that size as a NIR file; returns bytes. See `nir_graph` for what it raises.

    Raises CheckpointError where the file cannot be written.
    """
    graph = nir_graph(network, height, width, step_us)
    buffer = io.BytesIO()
    _nir().write(buffer, graph)
    write_whole(Path(path), buffer.getbuffer(), CheckpointError)
    return buffer.getbuffer().nbytes


def nir_graph(network: nn.Module, height: int, width: int, step_us: int) -> Any:
    """The graph of a network, a nir.NIRGraph. Node `input` takes (C, height, width) every step_us microseconds.

    Nodes are named as the layers. Outputs of an SSD: `boxes_0`, `classes_0`, ..., maps of raw predictions as
    `SSDHead` makes them; of a backbone alone: `logits`, (K,). Raises SettingsError that names the layer and the reason
    where NIR cannot say something, or the package nir is not installed.
    """
    _check(network)
    fused = fuse(network).float().requires_grad_(False)
    assert isinstance(fused, SSD | STVGG | ResCatSNN)
    graph = _Graph(fused, height, width, step_us * 1e-6)
    backbone = fused.backbone if isinstance(fused, SSD) else fused
    maps = graph.backbone(backbone, "backbone." if isinstance(fused, SSD) else "")
    if isinstance(fused, SSD):
        graph.detector(fused, maps)
    else:
        graph.classifier(fused, maps[-1])
    return graph.made()


def _nir() -> Any:
    """The package, which not everybody has. Raises SettingsError."""
    try:
        return import_module("nir")
    except ImportError as error:
        raise SettingsError('export to NIR needs nir: pip install "spiketrack[export]"') from error


def _check(network: nn.Module) -> None:
    """Raise SettingsError for what NIR has no word for."""
    if integer_convs(network):
        raise SettingsError("NIR: the network rounds its currents, which NIR cannot say; export it as trained")
    for name, module in network.named_modules():
        if isinstance(module, ILIF | Rectifier):
            what = f"integers 0 .. {module.settings.levels}" if isinstance(module, ILIF) else "real numbers"
            raise SettingsError(
                f"NIR: {name} sends {what}; its LIF sends single spikes. Networks of binary neurons can be exported: "
                "SSD on ST-VGG or ResCat-SNN, and their classifiers; for this one take --format onnx"
            )
        if isinstance(module, LIF) and module.settings.reset != "hard":
            raise SettingsError(f"NIR: {name} takes the threshold from the membrane; a LIF of NIR is set to a value")
    if not isinstance(network, SSD | STVGG | ResCatSNN):
        raise SettingsError(f"NIR: expected an SSD, ST-VGG or ResCat-SNN, got {type(network).__name__}")


class _Graph:
    """A graph in the making; maps are sets of wires."""

    def __init__(self, network: SSD | STVGG | ResCatSNN, height: int, width: int, dt: float) -> None:
        self.nir, self.dt = _nir(), dt
        self.shapes: dict[str, tuple[int, ...]] = {"input": (network.in_channels, height, width)}
        self.nodes: dict[str, Any] = {"input": self.nir.Input({"input": np.array(self.shapes["input"])})}
        self.edges: list[tuple[str, str]] = []

    def made(self) -> Any:
        """The graph, its types checked."""
        return self.nir.NIRGraph(self.nodes, self.edges, metadata={"dt": self.dt, "made_by": "spiketrack"})

    def backbone(self, network: STVGG | ResCatSNN, prefix: str) -> list[Wires]:
        """The maps of strides 8, 16 and 32."""
        wires = self.layer(f"{prefix}stem", network.stem, ["input"])
        made: list[Wires] = []
        if isinstance(network, STVGG):
            for i, layer in enumerate(network.layers):
                wires = self.layer(f"{prefix}layers.{i}", layer, wires)
                made.append(wires)
        else:
            wires = self.layer(f"{prefix}widen", network.widen, wires)
            for i, block in enumerate(network.blocks):
                assert isinstance(block, ResCatBlock)
                name = f"{prefix}blocks.{i}"
                first = self.layer(f"{name}.first", block.first, wires)
                second = self.layer(f"{name}.second", block.second, first)
                wires = [*second, *self.layer(f"{name}.skip", block.skip, wires)]
                made.append(wires)
        return [made[i] for i in network.taps]

    def detector(self, network: SSD, maps: list[Wires]) -> None:
        """The layers behind the backbone, and both heads of every map."""
        for i, extra in enumerate(network.extras):
            wires = maps[-1]
            for part in ("reduce", "down"):
                layer = getattr(extra, part)
                wires = wires if layer is None else self.layer(f"extras.{i}.{part}", layer, wires)
            maps.append(wires)
        for kind in ("boxes", "classes"):
            for i, wires in enumerate(maps):
                conv = network.head.get_submodule(f"{kind}.{i}")
                self.output(f"{kind}_{i}", self.conv(f"head.{kind}.{i}", conv, wires))

    def classifier(self, network: STVGG | ResCatSNN, wires: Wires) -> None:
        """Logits: a convolution, summed over the places of the map."""
        made = self.conv("classifier", network.classifier, wires)
        classes, *size = self.shapes[made[0]]
        pool = self.nir.SumPool2d(np.array(size), np.array(size), np.zeros(2, int))
        self.add("classifier.sum", pool, made, (classes, 1, 1))
        flat = self.nir.Flatten({"input": np.array((classes, 1, 1))}, start_dim=0, end_dim=-1)
        self.add("classifier.flat", flat, ["classifier.sum"], (classes,))
        self.output("logits", ["classifier.flat"])

    def layer(self, name: str, layer: nn.Module, wires: Wires) -> Wires:
        """A convolution and its neurons."""
        assert isinstance(layer, ConvNeuron)
        made = self.conv(f"{name}.conv", layer.conv, wires)
        shape, settings, rate = self.shapes[made[0]], layer.neuron.settings, float(layer.neuron.rate())
        threshold = np.nextafter(np.float32(settings.threshold), np.float32(-np.inf))
        # tau, r, v_leak, v_threshold, v_reset
        constants = self.dt / rate, 1.0 if settings.decay_input else 1 / rate, 0.0, threshold, 0.0
        neuron = self.nir.LIF(*(np.full(shape, value, np.float64) for value in constants))
        return self.add(f"{name}.neuron", neuron, made, shape)

    def conv(self, name: str, conv: nn.Module, wires: Wires) -> Wires:
        """A convolution; of a map in several parts one of each, the first with the bias. Their results add up."""
        if isinstance(conv, PaddedConv):
            raise SettingsError(f"NIR: {name} pads its input with values of its own; NIR's Conv2d pads with 0")
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        weight, bias = _array(conv.weight), _array(conv.bias)
        made: Wires = []
        first = 0
        for part, wire in enumerate(wires):
            channels, *size = self.shapes[wire]
            kernel = np.ascontiguousarray(weight[:, first : first + channels])
            first += channels
            node = self.nir.Conv2d(
                (size[0], size[1]),
                kernel,
                _pair(conv.stride),
                _pair(conv.padding),
                _pair(conv.dilation),
                conv.groups,
                bias if part == 0 else np.zeros_like(bias),
            )
            shape = tuple(int(side) for side in node.output_type["output"])
            made += self.add(name if part == 0 else f"{name}.part_{part}", node, [wire], shape)
        return made

    def output(self, name: str, wires: Wires) -> None:
        self.add(name, self.nir.Output({"output": np.array(self.shapes[wires[0]])}), wires, self.shapes[wires[0]])

    def add(self, name: str, node: Any, wires: Wires, shape: tuple[int, ...]) -> Wires:
        """A node that reads all wires."""
        self.nodes[name], self.shapes[name] = node, shape
        self.edges += [(wire, name) for wire in wires]
        return [name]


def _pair(sides: tuple[int, ...] | str) -> tuple[int, int]:
    assert not isinstance(sides, str)
    return sides[0], sides[1]


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()
