"""The time mean: predictions averaged over the steps since the state was fresh."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from loud_detector import loud_detector
from pydantic import ValidationError

from spiketrack.deploy.export import Step
from spiketrack.detector.spikeyolo import ModelSettings, SpikeYOLO, mean_so_far
from spiketrack.detector.spikeyolo_tracker import TrackerModelSettings
from spiketrack.errors import SettingsError
from spiketrack.spiking.activity import recorded


def test_the_mean_so_far_by_hand():
    x = torch.tensor([1.0, 5.0, 0.0]).view(3, 1, 1, 1)
    means, state = mean_so_far(x, None)
    assert means.flatten().tolist() == [1, 3, 2]
    assert state.flatten().tolist() == [6, 3]  # the sum, and of how many
    means, state = mean_so_far(torch.full((1, 1, 1, 1), 10.0), state)
    assert (means.item(), state.flatten().tolist()) == (4, [16, 4])


def test_a_stream_whose_state_is_zero_begins_anew():
    _, state = mean_so_far(torch.tensor([4.0, 6.0]).view(1, 2, 1, 1), None)
    state[1] = 0
    means, _ = mean_so_far(torch.tensor([2.0, 2.0]).view(1, 2, 1, 1), state)
    assert means.flatten().tolist() == [3, 2]


def test_sums_of_low_precision_are_float32():
    x = torch.full((300, 1, 1, 1), 1.0, dtype=torch.bfloat16)  # bfloat16 counts to 256
    means, state = mean_so_far(x, None)
    assert means.dtype == state.dtype == torch.float32
    assert means[-1].item() == 1


def test_a_mean_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"time mean: the state has shape \(1, 2, 4\), the predictions need \(1, 2, 3\)"
    ):
        mean_so_far(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 4))


@pytest.fixture(scope="module")
def networks():
    """The same weights with predictions of every step, and with their mean; and input of four steps."""
    step = loud_detector().model
    mean = SpikeYOLO(ModelSettings(time="mean"), step.in_channels, step.num_classes).eval()
    mean.load_state_dict(step.state_dict())
    x = torch.poisson(torch.full((4, 2, step.in_channels, 64, 64), 0.3), torch.Generator().manual_seed(0))
    return step, mean, x


@torch.no_grad()
def test_a_network_with_the_time_mean_averages_that_with_predictions_of_every_step(networks):
    step, mean, x = networks
    every, averaged = step(x)[0].features, mean(x)[0].features
    assert not torch.allclose(every[0], every[3], atol=1e-3)
    for t in range(4):
        torch.testing.assert_close(averaged[t], every[: t + 1].mean(0))


@torch.no_grad()
def test_a_sample_equals_its_pieces(networks):
    _, mean, x = networks
    whole, end = mean(x)
    first, state = mean(x[:1])
    others, state = mean(x[1:], state)
    torch.testing.assert_close(torch.cat([first.features, others.features]), whole.features)
    torch.testing.assert_close(state, end)


def test_the_mean_is_no_membrane(networks):
    step, mean, x = networks
    counted = []
    for network in (step, mean):
        fused = replace(loud_detector(), model=network).fused().model
        with recorded(fused) as activity:
            _, state = fused(x[:1])
            fused(x[1:2], state)
        counted.append([counts.updates for counts in activity.neurons.values()])
    assert counted[0] == counted[1]
    assert np.sum(counted[0]) > 0


def test_where_there_is_no_time_mean(networks):
    with pytest.raises(SettingsError, match=r"expected model.time step and .* got mean and spikes"):
        Step(networks[1])
    with pytest.raises(ValidationError, match="time"):
        TrackerModelSettings(time="mean")
