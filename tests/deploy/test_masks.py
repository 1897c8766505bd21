"""Masks: shares of a run, and zeros that stay."""

import pytest
import torch
from torch import nn

from spiketrack.deploy.masks import apply_masks, grown, prunable, smallest_weights, sparsity


def test_how_a_share_grows():
    assert [grown(0.8, done / 4, "linear") for done in range(5)] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert [grown(0.8, done / 4, "cubic") for done in range(5)] == pytest.approx([0, 0.4625, 0.7, 0.7875, 0.8])
    assert grown(0.8, 0.5, "cosine") == pytest.approx(0.4)
    assert {growth: grown(0.8, 2, growth) for growth in ("linear", "cosine", "cubic")} == pytest.approx(
        {"linear": 0.8, "cosine": 0.8, "cubic": 0.8}
    )


def test_masked_weights_are_zero_and_the_others_stay():
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.Conv2d(4, 1, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.3, -0.1, 0.2, -4.0]).reshape(4, 1, 1, 1))
    masks = smallest_weights(prunable(model), 0.5)
    apply_masks(model, masks)
    assert model[0].weight.flatten().tolist() == pytest.approx([0.3, 0, 0, -4])
    assert sparsity(prunable(model)) == 0.5
