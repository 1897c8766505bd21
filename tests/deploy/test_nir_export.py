"""NIR: a file that is read back and run by the definitions of its nodes gives the spikes of our network."""

from graphlib import TopologicalSorter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exported import CFG, spikeyolo, ssd
from networks import events, settled

from spiketrack.deploy import fuse
from spiketrack.deploy.nir_export import export_nir, nir_graph
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.detector.ssd import SSD, SSDSettings, build_backbone
from spiketrack.detector.ssd_decode import SSDDecodeSettings
from spiketrack.errors import SettingsError
from spiketrack.pipeline import Detector
from spiketrack.spiking.lif import LIFSettings

nir = pytest.importorskip("nir", reason="needs the extra export")
STEP_US = 20_000


class Interpreter:
    """A NIR graph, one Euler step of dt after the other, in float64."""

    def __init__(self, graph):
        self.graph, self.dt = graph, float(graph.metadata["dt"])
        self.before = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
        self.order = list(TopologicalSorter(self.before).static_order())
        self.membranes = {}

    def step(self, x):
        """x: (C, H, W). Returns the results of all nodes."""
        made = {}
        for name in self.order:
            node = self.graph.nodes[name]
            given = sum(made[other] for other in self.before[name]) if self.before[name] else x
            made[name] = self.run(name, node, given)
        return made

    def run(self, name, node, x):
        if isinstance(node, nir.Conv2d):
            weight, bias = (torch.tensor(array).double() for array in (node.weight, node.bias))
            stride, padding = ([int(side) for side in pair] for pair in (node.stride, node.padding))
            return F.conv2d(x[None], weight, bias, stride, padding, groups=int(node.groups))[0]
        if isinstance(node, nir.LIF):
            tau, r, leak, threshold, reset = (
                torch.tensor(array) for array in (node.tau, node.r, node.v_leak, node.v_threshold, node.v_reset)
            )
            v = self.membranes.get(name, torch.zeros_like(x))
            v = v + self.dt / tau * (leak - v + r * x)
            spikes = v > threshold
            self.membranes[name] = torch.where(spikes, reset, v)
            return spikes.double()
        if isinstance(node, nir.SumPool2d):
            return F.avg_pool2d(x[None], [int(side) for side in node.kernel_size], divisor_override=1)[0]
        return x.flatten() if isinstance(node, nir.Flatten) else x


def written_and_read(network, tmp_path, side=64):
    path = tmp_path / "network.nir"
    assert export_nir(network, side, side, STEP_US, path) == path.stat().st_size
    return Interpreter(nir.read(path))


def in_float64(network):
    return fuse(network).double()


@pytest.mark.parametrize(
    ("neuron", "one_by_one"),
    [(LIFSettings(learn_tau=True, tau=3.0), False), (LIFSettings(decay_input=False, threshold=1.5, tau=2.5), True)],
)
def test_a_detector_of_binary_neurons_is_said_whole(tmp_path, neuron, one_by_one):
    torch.manual_seed(0)
    settings = SSDSettings(backbone=CFG, extras=(8, 8, 8), neuron=neuron, one_by_one_extras=one_by_one)
    network = settled(SSD(settings, 2, 3), events(2, 2))
    simulator, ours, state = written_and_read(network, tmp_path), in_float64(network), None
    fired = 0
    with torch.no_grad():
        for x in events(6).double():
            made = simulator.step(x[0])
            found, state = ours.maps(x[None], state)
            names = [*(f"backbone.layers.{i}.neuron" for i in ours.backbone.taps)]
            names += [f"extras.{i}.down.neuron" for i in range(3)]
            for name, spikes in zip(names, found, strict=True):
                assert torch.equal(made[name], spikes[0, 0])
                fired += int(spikes.sum())
            maps = [y[0] for y in found]
            for i, y in enumerate(maps):
                for kind, convs in (("boxes", ours.head.boxes), ("classes", ours.head.classes)):
                    torch.testing.assert_close(made[f"{kind}_{i}"], convs[i](y)[0])
    assert fired > 100


@pytest.mark.parametrize("design", [CFG, "8,8,8,16,16"])
def test_a_classifier_is_said_whole_its_concatenations_as_sums(tmp_path, design):
    torch.manual_seed(0)
    network = settled(build_backbone(design, 2, 5, LIFSettings(learn_tau=True)), events(2, 2))
    simulator, ours, state = written_and_read(network, tmp_path), in_float64(network), None
    seen = []
    with torch.no_grad():
        for x in events(6).double():
            made = simulator.step(x[0])
            logits, state = ours(x[None], state)
            torch.testing.assert_close(made["logits"], logits[0, 0])
            seen.append(logits)
    assert torch.stack(seen).std() > 0.1


def test_constants_of_a_neuron_by_hand():
    """tau 4 steps of 20 ms are 80 ms; a membrane at 1 fires, one just below does not."""
    network = build_backbone(CFG, 2, 2, LIFSettings(tau=4.0)).eval()
    graph = nir_graph(network, 32, 32, STEP_US)
    neuron = graph.nodes["stem.neuron"]
    assert neuron.tau.shape == (8, 8, 8)
    assert np.unique(neuron.tau) == pytest.approx([0.08])
    assert (np.float32(1) > neuron.v_threshold).all()
    assert (np.float32(1 - 2**-24) <= neuron.v_threshold).all()
    graph = nir_graph(build_backbone(CFG, 2, 2, LIFSettings(tau=4.0, decay_input=False)).eval(), 32, 32, STEP_US)
    assert np.unique(graph.nodes["stem.neuron"].r) == pytest.approx([4])  # dt / tau r = 1


def test_what_cannot_be_said_is_said_with_its_place():
    with pytest.raises(SettingsError, match=r"NIR: stage1\.0\.token\.expand\.neuron sends integers 0 \.\. 4"):
        nir_graph(spikeyolo().model, 64, 64, STEP_US)
    soft = build_backbone(CFG, 2, 2, LIFSettings(reset="soft")).eval()
    with pytest.raises(SettingsError, match=r"NIR: stem\.neuron takes the threshold from the membrane"):
        nir_graph(soft, 64, 64, STEP_US)


def test_the_command_writes_a_graph(run, tmp_path):
    detector = spikeyolo()
    network = Detector(ssd(), detector.input, SSDDecodeSettings(), ("a", "b", "c"))
    save_checkpoint(tmp_path / "ssd.pt", network.content())
    code, out, _ = run("export", "ssd.pt", "--format", "nir", "--size", "96x64")
    assert (code, "ssd.nir: 8,8,8s2,16s2,16s2+SSD, one time step" in out) == (0, True)
    graph = nir.read(tmp_path / "ssd.nir")
    assert list(graph.nodes["input"].input_type["input"]) == [2, 64, 96]
    assert sorted(graph.outputs) == [*(f"boxes_{i}" for i in range(6)), *(f"classes_{i}" for i in range(6))]
    save_checkpoint(tmp_path / "yolo.pt", detector.content())
    code, _, err = run("export", "yolo.pt", "--format", "nir")
    assert (code, "sends integers 0 .. 4; its LIF sends single spikes" in err) == (1, True)
