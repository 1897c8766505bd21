"""Rectifiers in the place of neurons: an artificial network of the same shape, counted by the rules of one."""

import pytest
import torch
from networks import events, settled

from spiketrack.binary_spikes import with_binary_spikes
from spiketrack.deploy import fuse, unroll
from spiketrack.deploy.export import Step
from spiketrack.detector.spikeyolo import ModelSettings, SpikeYOLO
from spiketrack.errors import SettingsError
from spiketrack.evaluation import EvaluationSettings
from spiketrack.metrics.efficiency import AC_PJ, MAC_PJ, efficiency
from spiketrack.pipeline import Detector
from spiketrack.report.efficiency import conv_row, neuron_row, summary
from spiketrack.spiking import ILIF, ILIFSettings, Rectifier, StateFlow
from spiketrack.spiking.activity import recorded
from spiketrack.tracking import ByteTrackSettings

RELU = ModelSettings(neuron=ILIFSettings(activation="relu"))


@pytest.fixture(scope="module")
def artificial():
    torch.manual_seed(0)
    return settled(SpikeYOLO(RELU, 2, 3), events(2, 2))


def test_a_rectifier_by_hand():
    flow = StateFlow(2, None)
    x = torch.tensor([-1.5, 0.4, 7.0, -0.0]).view(2, 2, 1, 1)
    assert Rectifier()(x, flow).flatten().tolist() == [0, 0.4000000059604645, 7, 0]
    assert flow.finish() == ()


def test_the_same_network_but_for_its_neurons(artificial):
    spiking = SpikeYOLO(ModelSettings(), 2, 3)
    assert {name: p.shape for name, p in spiking.named_parameters()} == {
        name: p.shape for name, p in artificial.named_parameters()
    }
    neurons = [name for name, module in spiking.named_modules() if isinstance(module, ILIF)]
    assert neurons == [name for name, module in artificial.named_modules() if isinstance(module, Rectifier)]


@torch.no_grad()
def test_it_remembers_nothing_and_is_fused_exactly(artificial):
    x = events(3, 2)
    whole, state = artificial(x)
    assert state == ()
    torch.testing.assert_close(artificial(x[2:], state)[0].features, whole.features[2:])
    fused = fuse(artificial)(x)[0].features
    torch.testing.assert_close(fused, whole.features, rtol=1e-4, atol=1e-4 * float(whole.features.abs().max()))


def test_it_multiplies_everywhere(artificial):
    fused = fuse(artificial)
    x = events(2)
    with recorded(fused) as activity:
        for step in x:
            fused(step[None], ())
    result = efficiency(activity, fused)
    assert [layer.kind for layer in result.convs] == ["real"] * len(result.convs)
    assert result.operations == result.unrolled
    assert result.operations.ac == 0 < result.operations.mac < result.operations.dense
    assert result.energy_mj == pytest.approx(result.dense_energy_mj)
    assert result.membrane_updates == 0
    assert result.unrolled_sparsity is None
    assert 0 < result.activation_sparsity < 1
    assert {layer.binary_rate for layer in result.neuron_layers} == {None}
    assert conv_row(result.convs[1])[-2] == neuron_row(result.neuron_layers[0])[-2] == "-"
    assert "binary" not in summary(result)["activation sparsity"]


def test_only_layers_that_read_spikes_add():
    """Two layers of 8 taps each on a map of one pixel: the first multiplies, the second reads an integer 3."""
    from spiketrack.spiking.activity import Activity, ConvActivity, NeuronActivity

    activity = Activity()
    activity.steps = 1
    counts = {"macs": 8, "dense": 8, "effective": 8, "inputs": 1, "nonzero": 1, "binary": False}
    activity.neurons = {"n": NeuronActivity("n", 4, neuron_steps=1, spikes=3, nonzero=1)}
    for whole, price in ((True, 3 * AC_PJ), (False, MAC_PJ)):
        total = 3.0 if whole else 2.5
        activity.convs = {
            "stem": ConvActivity("stem", **counts, total=1.0),
            "next": ConvActivity("next", **counts, total=total, whole=whole),
        }
        result = efficiency(activity, torch.nn.Conv2d(1, 1, 1))
        assert result.energy_mj == pytest.approx((8 * MAC_PJ + 8 * price) * 1e-9)


def test_there_are_no_spikes_to_unroll_or_export(artificial):
    with pytest.raises(ValueError, match="neuron sends real numbers"):
        unroll(artificial)
    with pytest.raises(SettingsError, match="got step and relu"):
        Step(artificial)
    detector = Detector(artificial, None, None, ("a", "b", "c"))
    with pytest.raises(SettingsError, match="its activation is relu"):
        with_binary_spikes(detector, None, EvaluationSettings(), ByteTrackSettings())
