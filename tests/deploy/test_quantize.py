"""Quantisation: integers worked out by hand, and an 8-bit network near the one it was made of."""

import numpy as np
import onnx
import pytest
from exported import running, ssd_model
from networks import events
from onnx import TensorProto, helper, numpy_helper

from spiketrack.deploy.onnx_runtime import start_session
from spiketrack.deploy.quantize import Ranges, measure_ranges, pack, quantizable, quantize, sizes
from spiketrack.errors import SettingsError


def ranges_of(low, high):
    return Ranges(np.float32(low), np.float32(high))


def test_a_convolution_in_integers_by_hand():
    # s_w = 1.27 / 127 = 0.01; s_y = (4 - -1.1) / 255 = 0.02; z = 1.1 / 0.02 = 55
    weight = np.float32([1.27, -0.5]).reshape(1, 2, 1, 1)
    packed = pack(weight, np.float32([0.1]), ranges_of([-1.1], [4.0]))
    assert packed.weight.ravel().tolist() == [127, -50]
    assert packed.ratio == pytest.approx([0.5])
    assert packed.scale == pytest.approx([0.02])
    assert packed.zero.tolist() == [55]
    assert packed.bias.tolist() == [round((0.1 + (55 - 128) * 0.02) / 0.01)] == [-136]
    # spikes 2 and 1: 2 * 1.27 - 0.5 + 0.1 = 2.14; (204 - 136) / 2 + 128 = 162; 0.02 * (162 - 55) = 2.14
    byte = round((2 * 127 - 50 - 136) * 0.5) + 128
    assert 0.02 * (byte - 55) == pytest.approx(2.14)


def test_channels_of_zeros_and_of_huge_biases_stay_finite():
    weight = np.float32([0, 1e-12, 1]).reshape(3, 1, 1, 1)
    packed = pack(weight, np.float32([0, 100, 0]), ranges_of([0, 0, 0], [0, 100, 4]))
    current = [packed.scale[o] * (packed.bias[o] * packed.ratio[o] + 128.0 - packed.zero[o]) for o in range(3)]
    assert current == pytest.approx([0, 100, 0], abs=1e-2)
    assert packed.weight.ravel().tolist() == [0, 0, 127]


def one_conv(weight, bias):
    """Clip -> Round -> convolution as a model."""
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["c"]),
        helper.make_node("Round", ["c"], ["s"]),
        helper.make_node("Conv", ["s", "w", "b"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
    ]
    constants = {"low": np.float32(0), "high": np.float32(4), "w": weight, "b": bias}
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)] for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(a, n) for n, a in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_spikes_lose_nothing_only_weights_and_currents_are_rounded(monkeypatch):
    """|error| <= s_y / 2 of the current, s_w / 2 times the sum of spikes of the weights, and s_w / 2 of the bias."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(0, 0.1, (8, 6, 3, 3)).astype("f4"), rng.normal(0, 1, 8).astype("f4")
    model = one_conv(weight, bias)
    x = rng.uniform(-1, 5, (1, 6, 20, 17)).astype("f4")
    (expected,) = start_session(model.SerializeToString(), "").run(["y"], {"x": x})
    ranges = Ranges(expected.min((0, 2, 3)).clip(max=0), expected.max((0, 2, 3)).clip(min=0))
    monkeypatch.setattr("spiketrack.deploy.quantize.measure_ranges", lambda *_: {"y": ranges})
    session = start_session(quantize(model, []).SerializeToString(), "")
    (ours,) = session.run(["y"], {"x": x})
    ones = one_conv(np.ones_like(weight), np.zeros_like(bias))
    (spikes,) = start_session(ones.SerializeToString(), "").run(["y"], {"x": x})
    s_w = (np.abs(weight).max((1, 2, 3)) / 127)[:, None, None]
    s_y = ((ranges.high - ranges.low) / 255)[:, None, None]
    assert (np.abs(ours - expected) <= 1.01 * (s_y + s_w / 2 * (spikes + 1)) + 1e-5).all()
    assert np.abs(ours - expected).max() > 0


def test_ranges_are_those_of_every_step():
    model = ssd_model()
    name = quantizable(model)[0].output[0]
    x = events(4).numpy()
    both = measure_ranges(model, [name], [x[:2], x[2:]])[name]
    parts = [measure_ranges(model, [name], [part])[name] for part in (x[:2], x[2:])]
    assert np.array_equal(both.low, np.minimum(parts[0].low, parts[1].low))
    assert np.array_equal(both.high, np.maximum(parts[0].high, parts[1].high))
    assert (both.low <= 0).all()
    assert (both.high > both.low).any()


def test_a_quantised_network_is_smaller_and_its_first_step_is_near():
    model, x = ssd_model(), events(3).numpy()
    before = model.SerializeToString()
    ours = quantize(model, [x])
    assert model.SerializeToString() == before
    kinds = [node.op_type for node in ours.graph.node]
    assert kinds.count("QLinearConv") == len(quantizable(model)) == 19  # 4 layers, 3 extras, 12 heads; not the stem
    assert kinds.count("Conv") == 1
    weights = [numpy_helper.to_array(w) for w in ours.graph.initializer]
    kernels = [w for w in weights if w.ndim == 4 and w[0].size > 1]
    assert all(w.dtype == np.int8 for w in kernels)  # those that compute in float32 too
    before = [numpy_helper.to_array(w) for w in model.graph.initializer]
    assert sum(w.nbytes for w in kernels) == sum(w.size for w in before if w.ndim == 4)
    parts = sizes(ours)
    assert sum(parts.values()) == len(ours.SerializeToString())
    assert parts["weights int8"] > 0.5 * len(ours.SerializeToString()) > parts["constants"] > 0
    expected, _ = running(model)(events(1))
    predictions, state = running(ours)(events(1))
    assert len(state) == 8
    correlation = np.corrcoef(predictions.logits.ravel(), expected.logits.ravel())[0, 1]
    assert correlation > 0.8  # binary neurons of random weights: all that is rounded adds up


def test_weights_that_compute_in_float32_are_within_half_a_step():
    model, ours = ssd_model(), quantize(ssd_model(), [events(2).numpy()])
    name = next(node.input[1] for node in ours.graph.node if node.op_type == "Conv")
    whole, step = ({w.name: w for w in ours.graph.initializer}[f"{name}_{part}"] for part in ("int8", "step"))
    before = numpy_helper.to_array(next(w for w in model.graph.initializer if w.name == name))
    step = numpy_helper.to_array(step)
    assert step.ravel() == pytest.approx(np.abs(before).max((1, 2, 3)) / 127)
    assert (np.abs(numpy_helper.to_array(whole) * step - before) <= 0.5001 * step).all()


def test_nothing_to_calibrate_on_or_to_quantise_is_said():
    with pytest.raises(SettingsError, match="no input to calibrate on"):
        quantize(ssd_model(), [np.zeros((0, 1, 2, 64, 64), np.float32)])
    model = onnx.ModelProto()
    model.CopyFrom(one_conv(np.zeros((1, 1, 3, 3), "f4"), np.zeros(1, "f4")))
    model.graph.node[2].input[0] = "x"
    with pytest.raises(SettingsError, match="no dense convolution of this model reads spikes"):
        quantize(model, [])
