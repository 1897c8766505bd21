"""Quantisation: int8 convolutions in an exported network.

Station: after `export`. In come an ONNX model and recordings to calibrate on, or a network that was trained with whole
weights; out goes a model whose dense convolutions that read spikes compute in 8 bit. Spikes are integers 0 .. D already
and lose nothing; rounded are the weights, to int8 with a scale per output channel, and the currents, to 8 bit within
the range of every channel in the calibration. Membranes stay float32. The first layer, which reads counts, and
depthwise ones, which onnxruntime computes slower in 8 bit than in float32, compute in float32; their weights lie in the
file as int8 all the same, and become s_w[o] times the integer once, when a session begins.

The equations stand in `integers`, which computes the same on torch. onnxruntime's QLinearConv knows one output scale a
tensor: here it is 1, and s_w[o] / s_y[o] stands in the place of the weights' scales.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spiketrack.deploy import integers
from spiketrack.deploy.exact import largest_count
from spiketrack.deploy.integers import MIDDLE, IntegerConv
from spiketrack.deploy.onnx_runtime import DETAILS, INPUT, resting_inputs, run_step, start_session
from spiketrack.errors import SettingsError
from spiketrack.representations import InputSettings

if TYPE_CHECKING:
    import onnx


class Ranges(NamedTuple):
    """Least and largest current of every channel, (C,) each."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


class Rounding(NamedTuple):
    """How one convolution becomes integers. ranges: of its currents; None: they stay float32. largest: of the integers
    that it reads, None where they are none."""

    bits: int
    ranges: Ranges | None
    largest: int | None


def quantize(model: onnx.ModelProto, inputs: Iterable[NDArray[np.float32]], bits: int = 8) -> onnx.ModelProto:
    """A model with 8-bit convolutions; the argument stays as it is.

    inputs: representations (T, B, C, H, W), each run from a fresh state, that show what currents there are. bits: of
    the weights, 2 to 8, in a file of bytes in any case. Raises SettingsError where there are no inputs, or no
    convolution of the model reads spikes.
    """
    convs = quantizable(model)
    if not convs:
        raise SettingsError("quantize: no dense convolution of this model reads spikes, so nothing would change")
    ranges = measure_ranges(model, [conv.output[0] for conv in convs], inputs)
    spikes, counts = _largest(model)
    chosen = {}
    for conv in _convolutions(model):
        largest = counts if conv.input[0] == INPUT else spikes if _reads_spikes(model, conv) else None
        chosen[conv.input[1]] = Rounding(bits, ranges.get(conv.output[0]), largest)
    return _rounded(model, chosen)


def quantize_as(model: onnx.ModelProto, layers: Mapping[str, IntegerConv]) -> onnx.ModelProto:
    """A model that computes, to the bit, what the quantised network does whose real weights it was made of.

    layers: of `integers.integer_convs`, by name in the network.
    """
    chosen = {}
    for conv in _convolutions(model):
        layer = layers[conv.input[1].removeprefix("network.").removesuffix(".weight")]
        ranges = Ranges(layer.low.cpu().numpy(), layer.high.cpu().numpy()) if layer.rounds else None
        chosen[conv.input[1]] = Rounding(layer.bits, ranges, layer.largest)
    return _rounded(model, chosen)


def _rounded(model: onnx.ModelProto, chosen: Mapping[str, Rounding]) -> onnx.ModelProto:
    """A model whose convolutions are rounded; chosen: by the names of their weights."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    added: dict[str, NDArray] = {}
    bytes_of: dict[str, str] = {}  # spikes to their bytes, which several convolutions may read
    for node in model.graph.node:
        rounding = chosen.get(node.input[1]) if node.op_type == "Conv" else None
        if rounding is None:
            nodes.append(node)
        elif rounding.ranges is None:
            own, constants = _small_weights(node, weights, rounding)
            nodes += own
            added |= constants
        else:
            own, constants = _integer_conv(node, weights, rounding, bytes_of)
            nodes += own
            added |= constants
    _rebuild(result, nodes, added)
    onnx.checker.check_model(result)
    return result


def _largest(model: onnx.ModelProto) -> tuple[int | None, int | None]:
    """The largest integers that neurons send, and that the input holds, as far as the file says."""
    said = next((prop.value for prop in model.metadata_props if prop.key == DETAILS), "{}")
    details = json.loads(said)
    if "model" not in details:
        return None, None
    spikes = details["model"]["neuron"].get("levels", 1)
    return spikes, largest_count(InputSettings.model_validate(details["input"])) if "input" in details else None


def sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Where the bytes of a model's file go: `weights` by their type, `constants` of one dimension or none, `graph`."""
    parts = {"weights int8": 0, "weights float32": 0, "constants": 0}
    for tensor in model.graph.initializer:
        kind = "int8" if tensor.data_type == tensor.INT8 else "float32"
        parts[f"weights {kind}" if len(tensor.dims) == 4 else "constants"] += tensor.ByteSize()
    return {**parts, "graph": model.ByteSize() - sum(parts.values())}


def quantizable(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The dense convolutions whose input are spikes: what rounding or a comparison gives."""
    return [conv for conv in _convolutions(model) if _groups(conv) == 1 and _reads_spikes(model, conv)]


def _convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def _reads_spikes(model: onnx.ModelProto, conv: onnx.NodeProto) -> bool:
    made_by = {name: node for node in model.graph.node for name in node.output}

    def spikes(name: str) -> bool:
        node = made_by.get(name)
        if node is None:
            return False
        if node.op_type in ("MaxPool", "Reshape"):
            return spikes(node.input[0])
        if node.op_type == "Concat":
            return all(spikes(part) for part in node.input)
        if node.op_type == "Cast":
            source = made_by.get(node.input[0])
            return source is not None and source.op_type == "GreaterOrEqual"
        return node.op_type == "Round"

    return spikes(conv.input[0])


def measure_ranges(
    model: onnx.ModelProto, names: list[str], inputs: Iterable[NDArray[np.float32]]
) -> dict[str, Ranges]:
    """The range of every channel of the named maps over all inputs (T, B, C, H, W), by name; 0 is always within."""
    import onnx

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for name in names:
        watched.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = start_session(watched.SerializeToString(), "calibration")
    low: dict[str, NDArray[np.float32]] = {}
    high: dict[str, NDArray[np.float32]] = {}
    for planes in inputs:
        membranes = resting_inputs(session)
        for counts in planes:  # (B, C, H, W)
            maps, membranes = run_step(session, names, counts, membranes)
            for name, y in zip(names, maps, strict=True):  # (B, C', H', W')
                low[name] = np.minimum(y.min((0, 2, 3)), low.get(name, np.float32(0)))
                high[name] = np.maximum(y.max((0, 2, 3)), high.get(name, np.float32(0)))
    if not low:
        raise SettingsError("quantize: no input to calibrate on; give a recording with events")
    return {name: Ranges(low[name], high[name]) for name in names}


def _small_weights(
    conv: onnx.NodeProto, weights: Mapping[str, NDArray], rounding: Rounding
) -> tuple[list[onnx.NodeProto], dict[str, NDArray]]:
    """A convolution in float32, and the nodes that make its weights of int8; their constants by name."""
    import onnx
    from onnx import TensorProto, helper

    name, weight, bias = conv.input[1], *_kernel(conv, weights)
    small = integers.small_weights(torch.tensor(weight), torch.tensor(bias), rounding.bits, rounding.largest)
    own = onnx.NodeProto()
    own.CopyFrom(conv)
    own.input[:] = [conv.input[0], name, f"{name}_bias"]
    nodes = [
        helper.make_node("Cast", [f"{name}_int8"], [f"{name}_whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_whole", f"{name}_step"], [name]),
        own,
    ]
    return nodes, {
        f"{name}_int8": small.weight.numpy().astype(np.int8),
        f"{name}_step": small.step.numpy().astype(np.float32).reshape(-1, 1, 1, 1),
        f"{name}_bias": small.bias.numpy().astype(np.float32),
    }


def _kernel(conv: onnx.NodeProto, weights: Mapping[str, NDArray]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    weight = weights[conv.input[1]]
    return weight, weights[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight), np.float32)


def _rebuild(model: onnx.ModelProto, nodes: list[onnx.NodeProto], added: dict[str, NDArray]) -> None:
    """Put nodes and constants in the place of a graph's own; of these, what the nodes read and do not make stays."""
    import onnx

    used = {name for node in nodes for name in node.input} - {name for node in nodes for name in node.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in added.items()]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *constants])


def _integer_conv(
    conv: onnx.NodeProto, weights: Mapping[str, NDArray], rounding: Rounding, bytes_of: dict[str, str]
) -> tuple[list[onnx.NodeProto], dict[str, NDArray]]:
    """The nodes in the place of a convolution, and their constants by name."""
    from onnx import TensorProto, helper

    name = conv.output[0]
    assert rounding.ranges is not None
    weight, bias = _kernel(conv, weights)
    packed = pack(weight, bias, rounding.ranges, rounding.bits)
    constants: dict[str, NDArray] = {
        f"{name}_weight": packed.weight,
        f"{name}_ratio": packed.ratio,
        f"{name}_bias": packed.bias,
        f"{name}_scale": packed.scale,
        f"{name}_zero": packed.zero,
        f"no_offsets_{len(weight)}": np.zeros(len(weight), np.int8),
        "one": np.array(1, np.float32),
        "zero_byte": np.array(0, np.uint8),
        "middle_byte": np.array(MIDDLE, np.uint8),
    }
    spikes, nodes = conv.input[0], []
    if spikes not in bytes_of:
        bytes_of[spikes] = f"{spikes}_bytes"
        nodes.append(helper.make_node("Cast", [spikes], [bytes_of[spikes]], to=TensorProto.UINT8))
    own = [f"{name}_weight", f"{name}_ratio", f"no_offsets_{len(weight)}"]
    given = [bytes_of[spikes], "one", "zero_byte", *own, "one", "middle_byte", f"{name}_bias"]
    product = helper.make_node("QLinearConv", given, [f"{name}_byte"])
    product.attribute.extend(conv.attribute)
    read = [f"{name}_byte", f"{name}_scale", f"{name}_zero"]
    return [*nodes, product, helper.make_node("DequantizeLinear", read, [name], axis=1)], constants


class Packed(NamedTuple):
    """A convolution in integers. weight: (O, I, k, k) int8. ratio: (O,) s_w / s_y. bias: (O,) int32, in units of s_w.
    scale: (O,) s_y. zero: (O,) uint8, the byte of a current of 0."""

    weight: NDArray[np.int8]
    ratio: NDArray[np.float32]
    bias: NDArray[np.int32]
    scale: NDArray[np.float32]
    zero: NDArray[np.uint8]


def pack(weight: NDArray[np.float32], bias: NDArray[np.float32], ranges: Ranges, bits: int = 8) -> Packed:
    """The integers of a convolution (`integers.pack`) in the types of the file."""

    def tensor(array: NDArray) -> Tensor:
        return torch.tensor(np.asarray(array))

    found = integers.pack(tensor(weight), tensor(bias), tensor(ranges.low), tensor(ranges.high), bits)
    return Packed(
        found.weight.numpy().astype(np.int8),
        found.ratio.numpy(),
        found.bias.numpy().astype(np.int32),
        found.scale.numpy(),
        found.zero.numpy().astype(np.uint8),
    )


def _groups(conv: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)
