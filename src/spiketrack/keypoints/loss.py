"""Loss and decoding of keypoint maps: what the maps should say, and what they say.

Station: in come `KeypointMaps` and joints in input pixels, out go loss terms; or from maps alone joints with scores.
The targets are those of `detector/heatmaps`. As a crop holds one of each joint, a map is read as a distribution over
its cells: the loss is the cross-entropy to the normalised Gaussian, which weighs the few cells of a joint as much as
all others together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from spiketrack.detector.heatmaps import HeatmapSettings, heatmap_targets, locref_cells
from spiketrack.keypoints.network import STRIDE, KeypointMaps

_REACH = 3  # cells a side, whose probabilities together are the score of a joint


class KeypointLossSettings(BaseModel):
    """What joints should look like on the maps, and how much each term weighs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    radius: float = Field(
        6.0,
        gt=0,
        allow_inf_nan=False,
        description="input pixels; the Gaussian's standard deviation is two thirds of it, offsets count within it",
    )
    locref_std: float = Field(7.2801, gt=0, allow_inf_nan=False, description="input pixels that make an offset of 1")
    locref: float = Field(1.0, ge=0, description="weight of the offsets")

    @property
    def heatmap(self) -> HeatmapSettings:
        """The targets: a Gaussian for each joint."""
        return HeatmapSettings(pos_dist_thresh=self.radius, locref_std=self.locref_std, arithmetic="float32")


class KeypointLoss(NamedTuple):
    """total: the sum with its weights. heatmap: mean cross-entropy of the maps of joints in sight, at least the entropy
    of the Gaussian. locref: mean smooth L1 distance of the offsets in cells near those joints."""

    total: Tensor
    heatmap: Tensor
    locref: Tensor


def keypoint_loss(maps: KeypointMaps, keypoints: Tensor, settings: KeypointLossSettings) -> KeypointLoss:
    """keypoints: (B, K, 3), x, y in input pixels, visibility 1 or -1, on the device of the maps.

    Terms are 0 where no joint is in sight.
    """
    size = (maps.logits.shape[2], maps.logits.shape[3])
    wanted = settings.heatmap.model_copy(update={"generate_locref": False})
    targets = heatmap_targets(keypoints, size, STRIDE, wanted)
    bells = targets.heatmap.flatten(2)  # (B, K, h * w)
    aim = bells / bells.sum(2, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    costs = -(aim * F.log_softmax(maps.logits.float().flatten(2), dim=2)).sum(2)  # (B, K)
    weights = targets.heatmap_weights[:, :, 0, 0]
    heatmap = (costs * weights).sum() / weights.sum().clamp_min(1)

    cells = locref_cells(keypoints, size, STRIDE, settings.heatmap)
    said = maps.locref.float().unflatten(1, (-1, 2)).flatten(3)  # (B, K, 2, h * w)
    said = said.gather(3, cells.cell[:, :, None].expand_as(cells.offsets))  # (B, K, 2, P)
    distance = F.smooth_l1_loss(said, cells.offsets, reduction="none").sum(2) * cells.valid
    locref = distance.sum() / cells.valid.sum().clamp_min(1)
    return KeypointLoss(heatmap + settings.locref * locref, heatmap, locref)


@torch.no_grad()
def decode_keypoints(maps: KeypointMaps, locref_std: float) -> tuple[Tensor, Tensor]:
    """Joints (B, K, 2), x and y in input pixels, and their scores (B, K) in 0 .. 1.

    A joint lies where three by three cells have the largest probability together, which is its score, at the offset
    that their middle cell names.
    """
    chance = torch.softmax(maps.logits.float().flatten(2), dim=2).view_as(maps.logits)
    nearby = F.avg_pool2d(chance, _REACH, 1, _REACH // 2) * _REACH**2  # off the map is no chance
    score, cell = nearby.flatten(2).max(2)  # (B, K)
    width = maps.logits.shape[3]
    index = cell[:, :, None, None].expand(-1, -1, 2, 1)
    offset = maps.locref.float().unflatten(1, (-1, 2)).flatten(3).gather(3, index)[..., 0]  # (B, K, 2)
    centre = torch.stack([cell % width, cell // width], dim=2) * STRIDE + STRIDE // 2
    return centre + offset * locref_std, score.clamp(max=1)
