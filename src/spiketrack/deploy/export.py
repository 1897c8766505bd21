"""Export: a detector as an ONNX file, or as a program of torch.export, with the state as inputs and outputs.

Station: after fusing. In comes a network and what its checkpoint says of it, out goes one time step as a graph of plain
operations: events and the membranes of every neuron layer go in, maps and the next membranes come out. Whole recordings
are that graph run step after step, so any number of steps needs no other file (`onnx_runtime` does so).

Batch and size of the ONNX graph are open. A state input of one value per channel, (1, C, 1, 1), is spread over the map:
zeros of that shape are the state of rest at every size.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from spiketrack.deploy.exact import exact, largest_count
from spiketrack.deploy.fusing import fuse, replace_modules
from spiketrack.deploy.integers import integer_convs, without_integers
from spiketrack.deploy.onnx_runtime import DETAILS, INPUT, MAP, NEXT, STATE
from spiketrack.detector.spikeyolo import ModelSettings, SpikeYOLO
from spiketrack.detector.ssd import SSD
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.replacing import write_whole
from spiketrack.representations import InputSettings
from spiketrack.spiking import ILIF, LIF, StateFlow
from spiketrack.spiking.neurons import Neuron, State

if TYPE_CHECKING:
    import onnx

EXAMPLE_SIDE = 64


class Step(nn.Module):
    """One time step of a network in plain operations: `maps, state = step(x, state)`, for tracing.

    x: (B, C, H, W). state: of every neuron layer (B, C', H', W'), or (1, C', 1, 1) of one value a channel. maps: the
    raw results of the heads, (B, values, h, w) level by level; what `onnx_runtime` makes predictions of.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if type(network) is not SpikeYOLO and type(network) is not SSD:
            raise SettingsError(f"export: expected a SpikeYOLO or an SSD, got {type(network).__name__}")
        if isinstance(network.settings, ModelSettings):
            time, activation = network.settings.time, network.settings.neuron.activation
            if (time, activation) != ("step", "spikes"):
                raise SettingsError(
                    f"export: expected model.time step and model.neuron.activation spikes, got {time} and {activation}"
                )
        self.network = fuse(network).requires_grad_(False)
        replace_modules(self.network, _plain)

    def forward(self, x: Tensor, state: State) -> tuple[tuple[Tensor, ...], State]:
        flow = _StepFlow(state)
        return tuple(self._maps(x, flow)), flow.finish()

    def _maps(self, x: Tensor, flow: StateFlow) -> list[Tensor]:
        network = self.network
        if isinstance(network, SSD):
            maps = network.backbone.taps_of(x[None], flow)  # (1, B, C, H, W): one time step
            for extra in network.extras:
                maps.append(extra(maps[-1], flow))
            heads = zip(network.head.boxes, network.head.classes, maps, strict=True)
            return [torch.cat([boxes(y), classes(y)], dim=1) for boxes, classes, y in heads]
        assert isinstance(network, SpikeYOLO)
        maps = network._neck(*network._backbone(x, flow), flow)
        heads = zip(network.head.box, network.head.classes, maps, strict=True)
        return [torch.cat([box(y, flow), classes(y, flow)], dim=1) for box, classes, y in heads]


class _StepFlow(StateFlow):
    """The flow of states through one time step, whose currents are (B, C, H, W)."""

    def __init__(self, state: State) -> None:
        super().__init__(1, state)
        self._rest = iter(state)

    def through(self, x: Tensor, neuron: Neuron) -> Tensor:
        spikes, rest = neuron(x, next(self._rest))
        self._left.append(rest)
        return spikes


class _PlainILIF(nn.Module):
    """`spiking.ilif` of one time step, its equations as they stand."""

    def __init__(self, neuron: ILIF) -> None:
        super().__init__()
        self.settings = neuron.settings

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        return flow.through(x, self._step)

    def _step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        assert state is not None
        settings = self.settings
        membrane = (x * settings.gain if settings.gain != 1 else x) + state * settings.decay
        spikes = membrane.clamp(0, settings.levels).round()  # half to even, in ONNX too
        return spikes, membrane - spikes


class _PlainLIF(nn.Module):
    """`spiking.lif` of one time step, its equations as they stand, the rate a number."""

    def __init__(self, neuron: LIF) -> None:
        super().__init__()
        self.settings, self.rate = neuron.settings, float(neuron.rate())

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        return flow.through(x, self._step)

    def _step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        assert state is not None
        settings = self.settings
        membrane = state + (x - state) * self.rate if settings.decay_input else state - state * self.rate + x
        spikes = (membrane - settings.threshold >= 0).to(x.dtype)
        if settings.reset == "hard":
            return spikes, (1 - spikes) * membrane
        return spikes, membrane - settings.threshold * spikes


def _plain(module: nn.Module) -> nn.Module | None:
    if isinstance(module, ILIF):
        return _PlainILIF(module)
    return _PlainLIF(module) if isinstance(module, LIF) else None


@torch.no_grad()
def resting_state(network: SpikeYOLO | SSD, height: int, width: int, batch: int = 1) -> State:
    """Zeros of the shapes that the membranes of every neuron layer have, for inputs of that size."""
    x = next(network.parameters()).new_zeros(1, batch, network.in_channels, height, width)
    return tuple(torch.zeros_like(rest) for rest in network.eval()(x)[1])


def export_program(network: SpikeYOLO | SSD, height: int, width: int, batch: int = 1) -> ExportedProgram:
    """One time step as a program of torch.export, `maps, state = program.module()(x, state)`, of fixed batch and size.

    See `Step` for shapes; raises SettingsError as it does.
    """
    step, state = Step(network), resting_state(network, height, width, batch)
    x = next(network.parameters()).new_zeros(batch, network.in_channels, height, width)
    with _quiet():
        return torch.export.export(step, (x, state), strict=False)


def save_program(program: ExportedProgram, path: Path | str) -> int:
    """Write a program as a .pt2 file for `torch.export.load`; returns bytes. Raises CheckpointError."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer)
    write_whole(Path(path), buffer.getbuffer(), CheckpointError)
    return buffer.getbuffer().nbytes


def export_onnx(network: SpikeYOLO | SSD, details: dict[str, Any], path: Path | str) -> int:
    """Write one time step of a network as ONNX, of any batch and size from 32 pixels a side; returns bytes.

    details: `Detector.content()`; all but the weights goes into the file's metadata, so that the file alone is enough
    to detect. Raises SettingsError for another kind of network or where the extra `export` is not installed,
    CheckpointError where the file cannot be written.
    """
    return save_onnx(described_model(network, details), path)


def described_model(network: SpikeYOLO | SSD, details: dict[str, Any]) -> onnx.ModelProto:
    """`onnx_model` with what the checkpoint says of it, all of `details` but the weights, in its metadata.

    Where the input are integers the weights are rounded to a grid on which onnxruntime's sums are torch's (`exact`).
    A network with whole weights (`integers`) becomes an 8-bit file.
    """
    from spiketrack.deploy.quantize import quantize_as

    layers = integer_convs(network)
    if layers:
        model = quantize_as(onnx_model(without_integers(fuse(network))), layers)
    else:
        counts = largest_count(InputSettings.model_validate(details["input"])) if "input" in details else None
        model = onnx_model(exact(network, counts))
    set_details(model, {key: value for key, value in details.items() if key != "weights"})
    return model


def onnx_model(network: SpikeYOLO | SSD) -> onnx.ModelProto:
    """One time step as an ONNX model with open batch and size, without metadata. See `export_onnx`."""
    _require_onnx()
    step = Step(network)
    channels = [rest.shape[1] for rest in resting_state(network, EXAMPLE_SIDE, EXAMPLE_SIDE)]
    state = tuple(torch.zeros(1, count, 1, 1) for count in channels)  # spread over the map, so its size stays open
    x = torch.zeros(2, network.in_channels, EXAMPLE_SIDE, EXAMPLE_SIDE * 3 // 2)
    sizes = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}, tuple(None for _ in state))
    with _quiet():
        program = torch.export.export(step, (x, state), dynamic_shapes=sizes, strict=False)
        exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None
    model = exported.model_proto
    _name(model, len(state))
    return model


def set_details(model: onnx.ModelProto, details: dict[str, Any]) -> None:
    """Put what a reader must know into the metadata, in place of what was there."""
    del model.metadata_props[:]
    model.metadata_props.add(key=DETAILS, value=json.dumps(details))


def save_onnx(model: onnx.ModelProto, path: Path | str) -> int:
    """Write a model as one file, whole or not at all; returns bytes. Raises CheckpointError."""
    content = model.SerializeToString()
    write_whole(Path(path), content, CheckpointError)
    return len(content)


def _name(model: onnx.ModelProto, layers: int) -> None:
    """Give inputs and outputs their names, and the sizes that follow the input open dimensions."""
    graph = model.graph
    maps = len(graph.output) - layers
    given = [INPUT, *(STATE.format(i) for i in range(layers))]
    made = [*(MAP.format(i) for i in range(maps)), *(NEXT.format(i) for i in range(layers))]
    names = {value.name: name for value, name in zip(graph.input, given, strict=True)}
    names |= {value.name: name for value, name in zip(graph.output, made, strict=True)}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        del node.metadata_props[:]  # stack traces and paths of the machine that exported
        node.doc_string = ""
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
        batch, _, height, width = value.type.tensor_type.shape.dim
        side = "" if value.name == INPUT else f"_{value.name}"
        for dim, name in zip((batch, height, width), ("batch", f"height{side}", f"width{side}"), strict=True):
            dim.Clear()
            dim.dim_param = "batch" + side if name == "batch" else name
    del graph.value_info[:]  # shapes of the example
    del graph.metadata_props[:]


def _require_onnx() -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError('export needs onnx and onnxscript: pip install "spiketrack[export]"') from error
    assert onnx.__version__


@contextmanager
def _quiet() -> Generator[None]:
    """Without what the exporter says of packages that are not needed and of its own outdated calls."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.__trace", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
