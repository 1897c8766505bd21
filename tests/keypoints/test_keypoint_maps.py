"""From sensor to input and back; what the maps should say is what decoding reads; the network and its state."""

import numpy as np
import pytest
import torch

from spiketrack.datasets.classified import Placement
from spiketrack.detector.shipped import shipped_weights
from spiketrack.errors import CheckpointError
from spiketrack.events import Window
from spiketrack.keypoints import (
    CropInput,
    CropSettings,
    KeypointLossSettings,
    KeypointMaps,
    KeypointModelSettings,
    KeypointNetwork,
    decode_keypoints,
    keypoint_loss,
)
from spiketrack.keypoints.crops import cut
from spiketrack.keypoints.samples import to_input, to_sensor

SETTINGS = KeypointLossSettings()


def test_the_region_of_a_box_by_hand():
    """Twice as high as a box of 20 x 30 about its centre (60, 65), two thirds as wide; a wide box is held whole."""
    settings = CropSettings(enlarge=2)
    assert settings.region(np.array([50, 50, 70, 80.0]), 2 / 3) == (40, 35, 40, 60)
    left, _, width, height = settings.region(np.array([0, 0, 60, 30.0]), 2 / 3)
    assert (left, width, height) == (-30, 120, 180)


def test_cut_counts_pixels_from_the_corner_and_time_from_the_label():
    t, x, y = np.array([5, 10, 99]), np.array([3, 0, 9], np.uint16), np.array([2, 0, 9], np.uint16)
    window = Window(t, x, y, np.array([1, 0, 1], np.uint8), 10, 10, 0, 100)
    part = cut(window, (-2, 1, 6, 4))  # x from -2 to 3, y from 1 to 4
    assert part.tolist() == [(95, 5, 1, 1)]


@pytest.mark.parametrize(
    "placement", [Placement(), Placement(20, 1.2, 0.1, False, 0.05, -0.1), Placement(mirrored=True)]
)
def test_points_move_as_the_picture_does(placement):
    """A block of events, encoded; its middle in the input is where `to_input` puts its middle."""
    x, y = (side.ravel().astype(np.uint16) for side in np.meshgrid(np.arange(30, 36), np.arange(50, 56)))
    t, p = np.zeros(len(x), np.int64), np.ones(len(x), np.uint8)
    window = Window(t, x, y, p, 60, 90, 0, 100)
    planes = CropInput(steps=1, bins=1, height=96, width=64).encode(window, placement)
    row, column = np.nonzero(planes[0, 1])
    middle = np.array([column.mean(), row.mean()]) + 0.5
    moved = to_input(np.array([[33.0, 53.0]]), (0, 0, 60, 90), (64, 96), placement)
    assert moved[0] == pytest.approx(middle, abs=0.5)


def test_to_sensor_undoes_to_input():
    rng = np.random.default_rng(0)
    points, region = rng.uniform(0, 300, (2, 15, 2)), np.array([[10, 20, 40, 60], [-7, 3, 91, 137]])
    there = np.stack([to_input(p, tuple(r), (64, 96)) for p, r in zip(points, region.tolist(), strict=True)])
    assert to_sensor(there, region, (64, 96)) == pytest.approx(points, abs=1e-3)


def perfect_maps(keypoints, size=(24, 16)):
    """Logits that peak in the cell of a joint, offsets that lead from every cell to it."""
    rows, columns = torch.arange(size[0]) * 4 + 2.0, torch.arange(size[1]) * 4 + 2.0
    dx = keypoints[:, :, 0, None, None] - columns  # (B, K, 1, w)
    dy = keypoints[:, :, 1, None, None] - rows[:, None]
    squared = (dx**2 + dy**2).expand(-1, -1, *size)
    offsets = torch.stack([dx.expand_as(squared), dy.expand_as(squared)], dim=2) / SETTINGS.locref_std
    return KeypointMaps(-squared / (2 * SETTINGS.heatmap.std**2), offsets.flatten(1, 2))


def test_decoding_reads_joints_between_the_cells_and_the_loss_is_least_there():
    keypoints = torch.cat([torch.rand(2, 15, 2, generator=torch.manual_seed(0)) * 40 + 10, torch.ones(2, 15, 1)], 2)
    maps = perfect_maps(keypoints)
    found, score = decode_keypoints(maps, SETTINGS.locref_std)
    torch.testing.assert_close(found, keypoints[..., :2], atol=1e-3, rtol=0)
    assert bool(((score > 0.5) & (score <= 1)).all())

    terms = keypoint_loss(maps, keypoints, SETTINGS)
    chance = torch.softmax(maps.logits.flatten(2), 2)
    entropy = -(chance * chance.clamp_min(1e-30).log()).sum(2).mean()
    torch.testing.assert_close(terms.heatmap, entropy, atol=1e-3, rtol=0)  # the cross-entropy of a target with itself
    assert float(terms.locref) < 1e-8
    blurred = keypoint_loss(KeypointMaps(maps.logits / 2, maps.locref), keypoints, SETTINGS)
    assert float(blurred.heatmap) > float(entropy) + 0.05


def test_joints_out_of_sight_have_no_part_in_the_loss():
    keypoints = torch.cat([torch.full((1, 15, 2), 30.0), torch.ones(1, 15, 1)], 2)
    keypoints[0, 3:, 2] = -1
    maps = KeypointMaps(torch.zeros(1, 15, 24, 16).requires_grad_(), torch.ones(1, 30, 24, 16).requires_grad_())
    keypoint_loss(maps, keypoints, SETTINGS).total.backward()
    assert bool((maps.logits.grad[0, :3] != 0).any())
    assert not bool(maps.logits.grad[0, 3:].any())
    assert bool((maps.locref.grad[0, :6] != 0).any())
    assert not bool(maps.locref.grad[0, 6:].any())
    assert float(keypoint_loss(maps, torch.where(keypoints == 1, -1, keypoints), SETTINGS).total.detach()) == 0


def test_a_sequence_equals_its_pieces():
    torch.manual_seed(0)
    network = KeypointNetwork(KeypointModelSettings(), 2, 15).eval()
    x = torch.randint(0, 4, (3, 1, 2, 64, 32)).float()
    with torch.inference_mode():
        whole, left = network(x)
        _, state = network(x[:2])
        piece, left_by_pieces = network(x[2:], state)
    assert whole.logits.shape == (1, 15, 16, 8)
    assert whole.locref.shape == (1, 30, 16, 8)
    torch.testing.assert_close(piece, whole)
    torch.testing.assert_close(left_by_pieces, left)


def test_the_backbone_of_the_shipped_detector():
    network = KeypointNetwork(KeypointModelSettings(), 6, 15)
    head = network.last.conv.weight.clone()
    network.start_from(shipped_weights())
    saved = torch.load(shipped_weights(), weights_only=True)["weights"]
    assert torch.equal(network.backbone.stem.conv.weight, saved["stem.conv.weight"].float())
    assert torch.equal(network.last.conv.weight, head)
    with pytest.raises(CheckpointError, match=r"stem\.conv\.weight"):
        KeypointNetwork(KeypointModelSettings(), 2, 15).start_from(shipped_weights())
    with pytest.raises(CheckpointError, match=r"model\.scale"):
        KeypointNetwork(KeypointModelSettings(scale="n"), 6, 15).start_from(shipped_weights())
