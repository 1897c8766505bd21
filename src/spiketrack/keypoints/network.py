"""Network: the spiking backbone of SpikeYOLO with a head that draws a map of each joint.

Station: in come time steps (T, B, C, H, W), out go for the last one heatmap logits and offsets to the joints on a map
of stride 4; and the state. The features are those of SpikeYOLO down to stride 32 and up to stride 8 again, joined with
its first ones of stride 4. Heatmaps with offsets ("locref") are DeepLabCut's (docs/targets.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from spiketrack.detector.checkpoint import load_checkpoint, load_weights
from spiketrack.detector.spikeyolo import ModelSettings, Scale, SpikeYOLO, run, upsample
from spiketrack.detector.spiking_backbone import check_input
from spiketrack.errors import CheckpointError
from spiketrack.spiking import ILIFSettings, StateFlow
from spiketrack.spiking.layers import SpikeConv, SpikeConvBias
from spiketrack.spiking.neurons import State

STRIDE = 4
"""Input pixels per cell of the maps."""

_DETECTION_ONLY = ("down_to4", "out4", "down_to5", "out5", "head")


class KeypointModelSettings(BaseModel):
    """Which network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale: Scale = Field("p", description="SpikeYOLO's scale: p (pico, ours), n, s, m or l of the paper")
    head_channels: int = Field(32, ge=1, le=1024, description="channels of the two layers of the head")
    neuron: ILIFSettings = Field(ILIFSettings(), description="constants of the I-LIF neuron")


class KeypointMaps(NamedTuple):
    """Of the last time step of B inputs: logits (B, K, h, w), the softmax of a map is where the joint may be; locref
    (B, 2 K, h, w), channel 2k the x and 2k + 1 the y offset from a cell to joint k over the standard deviation."""

    logits: Tensor
    locref: Tensor


class KeypointNetwork(nn.Module):
    """`maps, state = model(x, state)`: x (T, B, C, H, W) float, H, W >= 32; state None is a fresh start."""

    def __init__(self, settings: KeypointModelSettings, in_channels: int, joints: int) -> None:
        super().__init__()
        self.in_channels, self.joints = in_channels, joints
        self.backbone = SpikeYOLO(ModelSettings(scale=settings.scale, neuron=settings.neuron), in_channels, 1)
        stem_channels = self.backbone.stem.conv.out_channels
        for name in _DETECTION_ONLY:
            delattr(self.backbone, name)
        width, neuron = settings.head_channels, settings.neuron
        self.join = SpikeConv(stem_channels + self.backbone.out_channels[0], width, 3, neuron)
        self.refine = SpikeConv(width, width, 3, neuron)
        self.last = SpikeConvBias(width, 3 * joints, neuron)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[KeypointMaps, State]:
        """Raises ValueError for another number of dimensions or channels, or a foreign state."""
        check_input(x, self.in_channels, type(self).__name__)
        flow = StateFlow(x.shape[0], state)
        fine, coarse = self._features(x.flatten(0, 1), flow)
        y = self.join(torch.cat([upsample(coarse, fine), fine], dim=1), flow)
        y = self.last(self.refine(y, flow), flow).unflatten(0, (flow.steps, -1))[-1]  # (B, 3 K, h, w)
        return KeypointMaps(y[:, : self.joints], y[:, self.joints :]), flow.finish()

    def start_from(self, path: Path) -> None:
        """Take the backbone of a SpikeYOLO detector's checkpoint; the head keeps its weights.

        Raises CheckpointError where that is of another scale, neuron or number of input channels.
        """
        content = load_checkpoint(path)
        try:
            given = ModelSettings.model_validate(content.get("model", {}))
        except ValidationError as error:
            raise CheckpointError(f"{path}: not a checkpoint of a SpikeYOLO") from error
        wanted = self.backbone.settings
        if differing := [key for key in ("scale", "neuron") if getattr(given, key) != getattr(wanted, key)]:
            said = ", ".join(f"model.{key}" for key in differing)
            raise CheckpointError(f"{path}: not a SpikeYOLO like this network's ({said} differ)")
        names = self.backbone.state_dict().keys()
        saved: dict[str, Tensor] = {name: value for name, value in content.get("weights", {}).items() if name in names}
        weights = {name: value.float() if value.is_floating_point() else value for name, value in saved.items()}
        load_weights(self.backbone, weights, path)

    def _features(self, x: Tensor, flow: StateFlow) -> tuple[Tensor, Tensor]:
        """Currents (T * B, c, h, w) of strides 4 and 8, the second with what the deeper layers saw."""
        net = self.backbone
        fine = run(net.stage1, net.stem(x.contiguous(memory_format=torch.channels_last), flow), flow)
        p3 = run(net.stage2, net.down2(fine, flow), flow)
        p4 = run(net.stage3, net.down3(p3, flow), flow)
        p5 = net.sppf(run(net.stage4, net.down4(p4, flow), flow), flow)
        top4 = torch.cat([net.merge4(upsample(net.reduce5(p5, flow), p4), flow), p4], dim=1)
        top4 = net.reduce4(top4, flow)
        top3 = torch.cat([net.merge3(upsample(top4, p3), flow), p3], dim=1)
        return fine, net.out3(net.reduce3(top3, flow), flow)
