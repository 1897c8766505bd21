"""SpikeYOLO: backbone, neck and head, without GetT: the time steps are real slices of the event stream.

Station: in comes the representation (T, B, C, H, W), out go predictions for every time step, and the state.
Source: SpikeYOLO (Luo et al., ECCV 2024), model list of its released configuration (facts/models.md, B.4 and B.5).
Backbone and head are computed on T * B images at once; only the neurons run through time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from spiketrack.spiking import ILIFSettings, StateFlow
from spiketrack.spiking.layers import AllConvBlock, ConvBlock, DownSampling, SpikeConv, SpikeConvBias, SpikeSPPF
from spiketrack.spiking.neurons import State

REG_MAX = 16
"""Bins of the distribution that stands for each side of a box (DFL)."""

STRIDES = (8, 16, 32)

Scale = Literal["p", "n", "s", "m", "l"]


class _Scale(NamedTuple):
    depth: float
    width: float
    deep_ratio: int
    box_channels: int
    max_channels: int


# depth, width, ratio of the deepest neck block, least width of the box branch, most channels before scaling by
# width. p is ours, the rest is published (max_channels has no effect there).
SCALES: dict[str, _Scale] = {
    "p": _Scale(0.15, 0.125, 1, 32, 640),
    "n": _Scale(0.33, 0.375, 1, 64, 1024),
    "s": _Scale(0.33, 0.5, 1, 64, 1024),
    "m": _Scale(0.5, 0.625, 2, 64, 1024),
    "l": _Scale(0.5, 0.75, 2, 64, 1024),
}


class ModelSettings(BaseModel):
    """Which SpikeYOLO to build; the classes and the input channels come from the experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["SpikeYOLO", "SpikeYOLOTracker"] = Field("SpikeYOLO", description="which kind of network this is")
    scale: Scale = Field("p", description="p (pico, ours), n, s, m or l of the paper")
    neuron: ILIFSettings = Field(ILIFSettings(), description="constants of the I-LIF neuron")
    time: Literal["step", "mean"] = Field(
        "step",
        description="step: every time step has its own predictions; mean: those of a step are the mean over all steps "
        "since the state was fresh, the published time mean at the last step of a sample",
    )


Maps = tuple[Tensor, Tensor, Tensor]
"""Currents (T * B, C, H, W), time-major, of strides 8, 16 and 32."""


class Predictions(NamedTuple):
    """Raw predictions of every time step.

    features: (T, B, A, 4 * 16 + K): for each of A locations four distributions over 16 bins (left, top, right,
    bottom, in strides) and K class logits. points: (A, 2) centres of the locations, x and y in input pixels.
    strides: (A,) input pixels per cell. embeddings: (T, B, A, D) of networks that also track, not normalised.
    """

    features: Tensor
    points: Tensor
    strides: Tensor
    embeddings: Tensor | None = None


class SpikeYOLO(nn.Module):
    """SpikeYOLO with predictions per time step.

    `predictions, state = model(x, state)`: x (T, B, C, H, W) float, any H, W >= 32; state None is a fresh start.
    A sequence cut into pieces, with the state handed on, gives the predictions of the whole (in eval mode; in
    training batch statistics differ). recompute: the backbone's activations are computed again in the backward pass.
    """

    def __init__(self, settings: ModelSettings, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.settings, self.in_channels, self.num_classes = settings, in_channels, num_classes
        self.recompute = False
        depth, width, deep_ratio, _, most = SCALES[settings.scale]
        neuron = settings.neuron
        c1, c2, c3, c4 = (int(min(channels, most) * width) for channels in (128, 256, 512, 1024))
        h3, h4 = int(256 * width), int(512 * width)

        def repeat(count: int, block: type[nn.Module], channels: int, ratio: int) -> nn.ModuleList:
            return nn.ModuleList(block(channels, ratio, neuron) for _ in range(max(round(count * depth), 1)))

        self.stem = DownSampling(in_channels, c1, 7, 4, 2, None)
        self.stage1 = repeat(3, AllConvBlock, c1, 4)  # stride 4
        self.down2 = DownSampling(c1, c2, 3, 2, 1, neuron)
        self.stage2 = repeat(6, AllConvBlock, c2, 4)  # stride 8
        self.down3 = DownSampling(c2, c3, 3, 2, 1, neuron)
        self.stage3 = repeat(9, ConvBlock, c3, 3)  # stride 16
        self.down4 = DownSampling(c3, c4, 3, 2, 1, neuron)
        self.stage4 = repeat(3, ConvBlock, c4, 2)  # stride 32
        self.sppf = SpikeSPPF(c4, c4, neuron)

        self.reduce5 = SpikeConv(c4, h4, 1, neuron)
        self.merge4 = ConvBlock(h4, 3, neuron)
        self.reduce4 = SpikeConv(h4 + c3, h3, 1, neuron)
        self.merge3 = AllConvBlock(h3, 4, neuron)
        self.reduce3 = SpikeConv(h3 + c2, h3, 1, neuron)
        self.out3 = AllConvBlock(h3, 4, neuron)
        self.down_to4 = SpikeConv(h3, h3, 3, neuron, stride=2)
        self.out4 = ConvBlock(2 * h3, 3, neuron)
        self.down_to5 = SpikeConv(2 * h3, c4 - h4, 3, neuron, stride=2)
        self.out5 = ConvBlock(c4, deep_ratio, neuron)
        self.out_channels = (h3, 2 * h3, c4)
        self.head = DetectionHead(self.out_channels, num_classes, settings)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Predictions, State]:
        """x: (T, B, C, H, W). Raises ValueError for another number of dimensions or channels, or a foreign state."""
        maps, flow = self._maps(x, state)
        return self._predictions(maps, flow), flow.finish()

    def _maps(self, x: Tensor, state: State | None) -> tuple[Maps, StateFlow]:
        """The maps that the heads read, and the flow of states that goes on through them."""
        if x.ndim != 5 or x.shape[2] != self.in_channels or min(x.shape[3:]) < STRIDES[-1]:
            raise ValueError(
                f"SpikeYOLO: expected input (T, B, {self.in_channels}, H, W) with H, W >= {STRIDES[-1]}, "
                f"got {tuple(x.shape)}"
            )
        flow = StateFlow(x.shape[0], state)
        return self._neck(*self._backbone(x.flatten(0, 1), flow), flow), flow

    def _predictions(self, maps: Maps, flow: StateFlow) -> Predictions:
        features = self.head(maps, flow)  # (T * B, A, 4 * 16 + K)
        if self.settings.time == "mean":
            features = flow.through(features, mean_so_far)
        features = features.unflatten(0, (flow.steps, -1))  # (T, B, A, 4 * 16 + K)
        points, strides = locations([m.shape[2:] for m in maps], features.device)
        return Predictions(features, points, strides)

    def _backbone(self, x: Tensor, flow: StateFlow) -> Maps:
        again = self.recompute and torch.is_grad_enabled()
        x = run(self.stage1, self.stem(x.contiguous(memory_format=torch.channels_last), flow), flow, again)
        p3 = run(self.stage2, self.down2(x, flow), flow, again)
        p4 = run(self.stage3, self.down3(p3, flow), flow, again)
        p5 = self.sppf(run(self.stage4, self.down4(p4, flow), flow, again), flow)
        return p3, p4, p5

    def _neck(self, p3: Tensor, p4: Tensor, p5: Tensor, flow: StateFlow) -> Maps:
        top5 = self.reduce5(p5, flow)
        top4 = torch.cat([self.merge4(upsample(top5, p4), flow), p4], dim=1)
        top4 = self.reduce4(top4, flow)
        top3 = torch.cat([self.merge3(upsample(top4, p3), flow), p3], dim=1)
        out3 = self.out3(self.reduce3(top3, flow), flow)
        out4 = self.out4(torch.cat([self.down_to4(out3, flow), top4], dim=1), flow)
        out5 = self.out5(torch.cat([self.down_to5(out4, flow), top5], dim=1), flow)
        return out3, out4, out5


class DetectionHead(nn.Module):
    """Per level a box branch (4 x 16 bins) and a class branch (K logits), each two spiking 3x3 and one 1x1."""

    def __init__(self, channels: tuple[int, int, int], num_classes: int, settings: ModelSettings) -> None:
        super().__init__()
        neuron = settings.neuron
        box_width = max(16, channels[0] // 4, SCALES[settings.scale].box_channels)
        class_width = max(channels[0], min(num_classes, 100))
        # a location starts with boxes of about one stride a side and 5 objects in an image of 640 x 640
        self.box = nn.ModuleList(_Branch(c, box_width, 4 * REG_MAX, neuron, 1.0) for c in channels)
        self.classes = nn.ModuleList(
            _Branch(c, class_width, num_classes, neuron, math.log(5 / num_classes / (640 / stride) ** 2))
            for c, stride in zip(channels, STRIDES, strict=True)
        )

    def forward(self, maps: Maps, flow: StateFlow) -> Tensor:
        """maps: (N, c, h, w) per level; returns (N, A, 4 * 16 + K), levels and rows concatenated."""
        return by_location(
            torch.cat([box(x, flow), classes(x, flow)], dim=1)
            for x, box, classes in zip(maps, self.box, self.classes, strict=True)
        )


class _Branch(nn.Module):
    """Two spiking 3x3 convolutions and a spiking 1x1 whose bias starts at `bias`."""

    def __init__(self, cin: int, inner: int, cout: int, neuron: ILIFSettings, bias: float) -> None:
        super().__init__()
        self.first = SpikeConv(cin, inner, 3, neuron)
        self.second = SpikeConv(inner, inner, 3, neuron)
        self.last = SpikeConvBias(inner, cout, neuron)
        assert self.last.conv.bias is not None
        nn.init.constant_(self.last.conv.bias, bias)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        return self.last(self.second(self.first(x, flow), flow), flow)


def run(blocks: Iterable[nn.Module], x: Tensor, flow: StateFlow, recompute: bool = False) -> Tensor:
    """The blocks one after the other. recompute: without keeping what is inside them for the backward pass."""
    for block in blocks:
        x = flow.recomputed(block, x) if recompute else block(x, flow)
    return x


def mean_so_far(x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """Means (T, B, A, F) of x (T, B, A, F) over all steps since the state was fresh, in float32 at least.

    state: (B, A, F + 1), the sum and the number of the steps before, or None; all zeros is fresh too. Raises ValueError
    where it does not fit x.
    """
    shape = (*x.shape[1:3], x.shape[3] + 1)
    if state is not None and state.shape != shape:
        raise ValueError(f"time mean: the state has shape {tuple(state.shape)}, the predictions need {shape}")
    x = F.pad(x.to(torch.promote_types(x.dtype, torch.float32)), (0, 1), value=1.0)  # the last feature counts
    sums = x.cumsum(0) if state is None else x.cumsum(0) + state
    return sums[..., :-1] / sums[..., -1:], sums[-1]


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Nearest neighbour to the size of `like`, which need not be exactly twice as large."""
    return F.interpolate(x, size=like.shape[2:], mode="nearest")


def by_location(maps: Iterable[Tensor]) -> Tensor:
    """Maps (N, C, h, w) of all levels as (N, A, C), in the order of `locations`."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)


def locations(shapes: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres (A, 2) in input pixels and strides (A,) of all cells, level by level, row by row."""
    points, strides = [], []
    for (height, width), stride in zip(shapes, STRIDES, strict=True):
        y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
        points.append((torch.stack([x, y], dim=-1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(points), torch.cat(strides)


def count_parameters(model: SpikeYOLO) -> int:
    """Parameters by the published rule: all weights, and the 16 fixed bin values of the DFL."""
    return sum(p.numel() for p in model.parameters()) + REG_MAX
