"""Quantisation: int8 convolutions in an exported network, after training.

Station: after `export`. In come an ONNX model and recordings to calibrate on, out goes a model whose dense convolutions
that read spikes compute in 8 bit. Spikes are integers 0 .. D already and lose nothing; rounded are the weights, to int8
with a scale per output channel, and the currents, to 8 bit within the range of every channel in the calibration.
Membranes stay float32. The first layer, which reads counts, and depthwise ones, which onnxruntime computes slower in
8 bit than in float32, compute in float32; their weights lie in the file as int8 all the same, and become s_w[o] times
the integer once, when a session begins.

    s_w[o] = max |W[o]| / 127                             weights W[o] / s_w[o], rounded
    s_y[o] = (high[o] - low[o]) / 255                     of currents, low <= 0 <= high
    z[o] = round(-low[o] / s_y[o])                        the byte that stands for a current of 0
    y[o] = s_y[o] (q - z[o]),  q = clip(round((acc + b[o]) s_w[o] / s_y[o]) + 128, 0, 255)

acc is the exact sum of integers; b holds the bias and z - 128, in units of s_w. onnxruntime's QLinearConv knows one
output scale a tensor: here it is 1, and s_w[o] / s_y[o] stands in the place of the weights' scales.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.deploy.onnx_runtime import resting_inputs, run_step, start_session
from spiketrack.errors import SettingsError

if TYPE_CHECKING:
    import onnx

MIDDLE = 128
"""The byte that QLinearConv adds; each channel's own zero is in its bias."""


class Ranges(NamedTuple):
    """Least and largest current of every channel, (C,) each."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


def quantize(model: onnx.ModelProto, inputs: Iterable[NDArray[np.float32]]) -> onnx.ModelProto:
    """A model with 8-bit convolutions; the argument stays as it is.

    inputs: representations (T, B, C, H, W), each run from a fresh state, that show what currents there are. Raises
    SettingsError where there are none, or no convolution of the model reads spikes.
    """
    import onnx

    convs = quantizable(model)
    if not convs:
        raise SettingsError("quantize: no dense convolution of this model reads spikes, so nothing would change")
    ranges = measure_ranges(model, [conv.output[0] for conv in convs], inputs)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    added: dict[str, NDArray] = {}
    bytes_of: dict[str, str] = {}  # spikes to their bytes, which several convolutions may read
    chosen = {conv.output[0] for conv in convs}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.output[0] in chosen:
            own, constants = _integer_conv(node, weights, ranges[node.output[0]], bytes_of)
            nodes += own
            added |= constants
        else:
            if node.op_type == "Conv" and node.input[1] in weights:
                added |= _small_weights(node, weights[node.input[1]], nodes)
            nodes.append(node)
    _rebuild(result, nodes, added)
    onnx.checker.check_model(result)
    return result


def sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Where the bytes of a model's file go: `weights` by their type, `constants` of one dimension or none, `graph`."""
    parts = {"weights int8": 0, "weights float32": 0, "constants": 0}
    for tensor in model.graph.initializer:
        kind = "int8" if tensor.data_type == tensor.INT8 else "float32"
        parts[f"weights {kind}" if len(tensor.dims) == 4 else "constants"] += tensor.ByteSize()
    return {**parts, "graph": model.ByteSize() - sum(parts.values())}


def quantizable(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The dense convolutions whose input are spikes: what rounding or a comparison gives."""
    made_by = {name: node for node in model.graph.node for name in node.output}

    def spikes(name: str) -> bool:
        node = made_by.get(name)
        if node is None:
            return False
        if node.op_type in ("MaxPool", "Reshape"):
            return spikes(node.input[0])
        if node.op_type == "Cast":
            source = made_by.get(node.input[0])
            return source is not None and source.op_type == "GreaterOrEqual"
        return node.op_type == "Round"

    return [
        node for node in model.graph.node if node.op_type == "Conv" and _groups(node) == 1 and spikes(node.input[0])
    ]


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


def _small_weights(conv: onnx.NodeProto, weight: NDArray, nodes: list[onnx.NodeProto]) -> dict[str, NDArray]:
    """Nodes that make a convolution's weights of int8, before it in `nodes`; their constants by name."""
    from onnx import TensorProto, helper

    name = conv.input[1]
    largest = np.abs(weight).max((1, 2, 3), keepdims=True)
    step = np.where(largest > 0, largest, 127).astype(np.float32) / np.float32(127)
    nodes.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_whole"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Mul", [f"{name}_whole", f"{name}_step"], [name]))
    return {f"{name}_int8": np.round(weight / step).astype(np.int8), f"{name}_step": step.reshape(-1, 1, 1, 1)}


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
    conv: onnx.NodeProto, weights: dict[str, NDArray], ranges: Ranges, bytes_of: dict[str, str]
) -> tuple[list[onnx.NodeProto], dict[str, NDArray]]:
    """The nodes in the place of a convolution, and their constants by name."""
    from onnx import TensorProto, helper

    name = conv.output[0]
    weight = weights[conv.input[1]]
    bias = weights[conv.input[2]] if len(conv.input) > 2 else np.zeros(len(weight), np.float32)
    packed = pack(weight, bias, ranges)
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


def pack(weight: NDArray[np.float32], bias: NDArray[np.float32], ranges: Ranges) -> Packed:
    """The integers of a convolution; the module's docstring has the equations. A channel of zeros stays one."""
    largest = np.abs(weight.astype(np.float64)).max((1, 2, 3))
    span = ranges.high.astype(np.float64) - ranges.low
    # tiny beside its bias a weight changes nothing, and the bias must fit 32 bit
    other = np.maximum(np.abs(bias), np.maximum(-ranges.low, ranges.high))
    step = np.maximum(largest, 1e-5 * other) / 127  # s_w
    step = np.where(step > 0, step, 1)
    scale = np.where(span > 0, span, 255) / 255
    zero = np.clip(np.round(-ranges.low / scale), 0, 255)
    return Packed(
        np.round(weight / step[:, None, None, None]).astype(np.int8),
        (step / scale).astype(np.float32),
        np.round((bias + (zero - MIDDLE) * scale) / step).astype(np.int32),
        scale.astype(np.float32),
        zero.astype(np.uint8),
    )


def _groups(conv: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in conv.attribute if attribute.name == "group"), 1)
