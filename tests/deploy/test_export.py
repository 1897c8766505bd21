"""Export: the ONNX file and the program of torch.export compute what the trained network computes."""

import numpy as np
import onnx
import pytest
import torch
from exported import running, spikeyolo, spikeyolo_model, ssd, ssd_model
from networks import events

from spiketrack.deploy import fuse
from spiketrack.deploy.export import Step, export_onnx, export_program, resting_state, save_onnx, save_program
from spiketrack.deploy.onnx_runtime import OnnxNetwork, run_step, start_session
from spiketrack.detector.rescat import ResCatSNN
from spiketrack.detector.spikeyolo import by_location
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.spiking import ILIFSettings, ilif

NETWORKS = [
    pytest.param(lambda: (spikeyolo().exact().model, spikeyolo_model()), id="SpikeYOLO", marks=pytest.mark.slow),
    pytest.param(lambda: (ssd(), ssd_model()), id="SSD"),
]


def assert_close(ours, expected, share=1e-4):
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= share * expected.abs().max()


@pytest.mark.parametrize("made", NETWORKS)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 64), (3, 75, 106)])
def test_every_size_and_batch_gives_what_torch_gives(made, batch, height, width):
    network, model = made()
    x = torch.poisson(torch.full((3, batch, 2, height, width), 0.3), torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, expected_state = network(x)
    predictions, state = running(model)(x)
    assert type(predictions) is type(expected)
    for ours, theirs in zip(predictions, expected, strict=True):
        if theirs is not None:
            assert_close(ours, theirs)
    for ours, theirs in zip(state, expected_state, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("made", NETWORKS)
def test_a_recording_in_pieces_is_the_whole(made):
    network = running(made()[1])
    x = events(5)
    whole, last = network(x)
    _, state = network(x[:2])
    rest, end = network(x[2:], state)
    assert torch.equal(whole[0][2:], rest[0])
    assert all(torch.equal(a, b) for a, b in zip(last, end, strict=True))


def test_the_state_goes_from_torch_to_onnxruntime_and_back():
    x = events(3)
    with torch.no_grad():
        expected, _ = ssd()(x)
        _, state = ssd()(x[:1])
        _, state = running(ssd_model())(x[1:2], state)
        last, _ = ssd()(x[2:], state)
    assert_close(last.logits, expected.logits[2:])


def test_the_traced_form_of_spikeyolo_is_the_network():
    """What is exported, in torch: step by step the very numbers of the fused network."""
    network, x = fuse(spikeyolo().model), events(3, 2)
    step, state = Step(spikeyolo().model), resting_state(network, 64, 64, 2)
    with torch.no_grad():
        expected, expected_state = network(x)
        for t, counts in enumerate(x):
            maps, state = step(counts, state)
            assert torch.equal(by_location(maps), expected.features[t])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(state, expected_state, strict=True))


def test_halves_round_to_even_as_in_torch():
    """The neuron alone, at membranes where half up and half to even differ, and beyond both ends."""
    halves = torch.tensor([-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 7.0])
    x, one = onnx.TensorProto.FLOAT, ["y"]
    nodes = [onnx.helper.make_node("Clip", ["x", "low", "high"], ["c"]), onnx.helper.make_node("Round", ["c"], one)]
    limits = [onnx.numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "low"), (4, "high"))]
    ends = [[onnx.helper.make_tensor_value_info(name, x, [7])] for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "neuron", *ends, limits)
    opset = [onnx.helper.make_opsetid("", 20)]
    session = start_session(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString(), "")
    spikes, _ = ilif(halves[None], None, ILIFSettings(levels=4))
    assert spikes[0].tolist() == [0, 0, 2, 2, 4, 4, 4]
    assert session.run(None, {"x": halves.numpy()})[0].tolist() == [0, 0, 2, 2, 4, 4, 4]


@pytest.mark.slow
def test_the_exported_graph_clips_then_rounds_in_every_neuron_layer():
    kinds = [node.op_type for node in spikeyolo_model().graph.node]
    layers = len(resting_state(spikeyolo().model, 64, 64))
    assert kinds.count("Round") == kinds.count("Clip") == layers == len(spikeyolo_model().graph.input) - 1


def test_a_program_of_torch_export_is_the_network(tmp_path):
    x, state = events(2, 2), resting_state(ssd(), 64, 64, 2)
    save_program(export_program(ssd(), 64, 64, 2), tmp_path / "ssd.pt2")
    step = torch.export.load(tmp_path / "ssd.pt2").module()
    with torch.no_grad():
        _, expected = ssd()(x)
        for counts in x:
            _, state = step(counts, state)
    for ours, theirs in zip(state, expected, strict=True):
        assert_close(ours, theirs)


def test_a_state_of_one_value_a_channel_is_spread_over_the_map():
    session = start_session(ssd_model().SerializeToString(), "")
    counts = events(1)[0].numpy()
    small = [np.zeros((1, rest.shape[1], 1, 1), np.float32) for rest in resting_state(ssd(), 64, 64)]
    full = [rest.numpy() for rest in resting_state(ssd(), 64, 64)]
    (one,), (other,) = (run_step(session, ["map_0"], counts, state)[0] for state in (small, full))
    assert np.array_equal(one, other)


def test_the_file_alone_says_what_it_holds(tmp_path):
    network = ssd()
    content = {"model": network.settings.model_dump(), "class_names": ["a", "b", "c"], "weights": network.state_dict()}
    size = export_onnx(network, content, tmp_path / "ssd.onnx")
    assert size == (tmp_path / "ssd.onnx").stat().st_size
    loaded = OnnxNetwork.load(tmp_path / "ssd.onnx")
    assert (loaded.settings, loaded.details["class_names"]) == (network.settings, ["a", "b", "c"])
    assert (loaded.in_channels, loaded.layers) == (2, 8)
    assert b"site-packages" not in (tmp_path / "ssd.onnx").read_bytes()  # no paths of this machine


def test_the_network_is_left_as_it_was():
    network = ssd()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    Step(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert type(network.backbone.stem.neuron).__name__ == "PLIF"


@pytest.mark.parametrize(
    ("x", "state", "said"),
    [
        (torch.zeros(1, 1, 3, 64, 64), None, r"expected input \(T, B, 2, H, W\)"),
        (torch.zeros(1, 1, 2, 16, 64), None, "H, W >= 32"),
        (torch.zeros(0, 1, 2, 64, 64), None, "expected input"),
        (torch.zeros(1, 1, 2, 64, 64), (torch.zeros(1),), "state of 1 neuron layers given, the network has 8"),
    ],
)
def test_input_that_does_not_fit_is_said(x, state, said):
    with pytest.raises(ValueError, match=said):
        running(ssd_model())(x, state)


def test_other_files_and_networks_are_said(tmp_path):
    with pytest.raises(CheckpointError, match="no such ONNX file"):
        OnnxNetwork.load(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(CheckpointError, match="onnxruntime cannot read it"):
        OnnxNetwork.load(tmp_path / "text.onnx")
    foreign = onnx.ModelProto()
    foreign.CopyFrom(ssd_model())
    del foreign.metadata_props[:]
    save_onnx(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(CheckpointError, match="not one that spiketrack exported"):
        OnnxNetwork.load(tmp_path / "foreign.onnx")
    with pytest.raises(SettingsError, match="expected a SpikeYOLO or an SSD, got ResCatSNN"):
        Step(ResCatSNN("16-ResCat-SNN"))
