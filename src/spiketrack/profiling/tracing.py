"""Tracing: a few steps under torch.profiler, as a tree of stations, layers and operations.

Station: beside `measuring`, whose seconds are the ones to believe: the profiler itself costs, here only shares count.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from spiketrack.spiking.norm_first import NormConv

STATION, LAYER = "station: ", "layer: "
_LARGE = 0.6  # of all weights: such a layer is shown by its parts
_ARITHMETIC = ("conv", "mm", "linear", "matmul")
_READS = ("aten::_local_scalar_dense",)  # a number of the device is awaited


@dataclass
class Node:
    """A bar of a flame view: seconds (of the accelerator where it computes), how often, and what it called."""

    name: str
    seconds: float = 0.0
    count: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    def child(self, name: str) -> Node:
        return self.children.setdefault(name, Node(name))

    @property
    def own(self) -> float:
        """Seconds without those of the children."""
        return max(0.0, self.seconds - sum(node.seconds for node in self.children.values()))

    def walk(self) -> Iterator[Node]:
        """This node and all below."""
        yield self
        for node in self.children.values():
            yield from node.walk()


@dataclass(frozen=True)
class Trace:
    """steps traced; the tree below them; gpu: share of the time that the accelerator was busy, None without one."""

    steps: int
    root: Node
    gpu: float | None

    def station(self, name: str) -> Node:
        return self.root.children.get(STATION + name, Node(name))

    def layers(self, station: str) -> dict[str, float]:
        """Seconds a step of every layer, in the order in which they ran."""
        found: dict[str, float] = {}
        for node in self.station(station).walk():
            if node.name.startswith(LAYER):
                name = node.name.removeprefix(LAYER)
                found[name] = found.get(name, 0.0) + node.seconds / self.steps
        return found

    def arithmetic(self, stations: Iterable[str]) -> float:
        """Share of the operations' time that multiplies and adds (convolutions, matrix products); the rest moves."""
        nodes = [node for station in stations for node in self.station(station).walk() if not _is_range(node)]
        spent = sum(node.own for node in nodes)
        return sum(node.own for node in nodes if any(word in node.name for word in _ARITHMETIC)) / spent if spent else 0

    def reads(self, station: str) -> float:
        """How often a step asks for a number, so that it has to wait for the device."""
        return sum(node.count for node in self.station(station).walk() if node.name in _READS) / self.steps


class Tracer:
    """The profiler between start and finish, with ranges of stations and layers; `enter` is for a stop-watch.

    path: of the Chrome trace; one that ends in .gz is packed. result: the trace, once it is finished.
    """

    def __init__(self, model: nn.Module, device: torch.device, path: Path) -> None:
        self._cuda, self._path = device.type == "cuda", path
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
        self._profiler = profile(activities=activities, acc_events=True)
        self._layers = _layer_ranges(model)
        self._range: Any = None
        self._started = 0.0
        self.result: Trace | None = None

    def start(self, station: str) -> None:
        self._layers.__enter__()
        self._profiler.__enter__()
        self._started = time.perf_counter()
        self.enter(station)

    def enter(self, station: str) -> None:
        self._leave()
        self._range = record_function(STATION + station)
        self._range.__enter__()

    def finish(self, steps: int) -> None:
        self._leave()
        wall = time.perf_counter() - self._started
        self._profiler.__exit__(None, None, None)
        self._layers.__exit__(None, None, None)
        self._profiler.export_chrome_trace(str(self._path))
        root = Node("all")
        for event in self._profiler.events() or []:
            if event.cpu_parent is None and event.name.startswith(STATION):
                _add(root, event, self._cuda)
        root.seconds = sum(node.seconds for node in root.children.values())
        self.result = Trace(steps, root, root.seconds / wall if self._cuda else None)

    def _leave(self) -> None:
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None


def layers_of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of a network: its children, of lists and of very large ones theirs."""
    weights = sum(p.numel() for p in model.parameters())

    def parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
        for name, child in module.named_children():
            size = sum(p.numel() for p in child.parameters())
            container = isinstance(child, nn.ModuleList | nn.Sequential)
            parts_run = any(child.children()) and not isinstance(child, NormConv)  # which folds its own in training
            if container or (size > _LARGE * weights and parts_run):
                yield from parts(child, f"{prefix}{name}.")
            else:
                yield prefix + name, child

    return list(parts(model, ""))


@contextmanager
def _layer_ranges(model: nn.Module) -> Generator[None]:
    open_ranges: list[Any] = []
    hooks = []
    for name, layer in layers_of(model):

        def before(_module: nn.Module, _inputs: Any, name: str = name) -> None:
            open_ranges.append(record_function(LAYER + name))
            open_ranges[-1].__enter__()

        def after(*_: Any) -> None:
            open_ranges.pop().__exit__(None, None, None)

        hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _add(parent: Node, event: Any, cuda: bool) -> None:
    node = parent.child(event.name)
    node.seconds += (event.device_time_total if cuda else event.time_range.elapsed_us()) / 1e6
    node.count += 1
    for child in event.cpu_children:
        _add(node, child, cuda)


def _is_range(node: Node) -> bool:
    return node.name.startswith((STATION, LAYER))
