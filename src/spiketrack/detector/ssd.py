"""SSD: the single-shot detector on a spiking backbone.

Station: in comes the representation (T, B, C, H, W), out go offsets from prior boxes and class logits for every time
step, and the state. Source: Cordone's thesis, chapter 5 (facts/models.md, A.4): backbone, three more spiking layers of
stride 2, and on each of the six maps two convolutions without neuron. No class stands for the background.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn

from spiketrack.detector.rescat import RESCAT_CFGS, ResCatSNN
from spiketrack.detector.spiking_backbone import check_input
from spiketrack.detector.ssd_match import AspectRatios, prior_boxes, priors_per_cell
from spiketrack.detector.st_vgg import STVGG
from spiketrack.spiking.lif import PLIF_NEURON, LIFSettings
from spiketrack.spiking.neurons import State, StateFlow
from spiketrack.spiking.norm_first import NormConv, NormConvSpike, both


class SSDSettings(BaseModel):
    """Which SSD to build; the classes and the input channels come from the experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["SSD"] = Field("SSD", description="which kind of network this is")
    backbone: str = Field("32-ST-VGG", description="16-, 32- or 64-ST-VGG or -ResCat-SNN, or a cfg string")
    extras: tuple[int, ...] = Field((128, 128, 128), description="channels of the maps behind the backbone's three")
    one_by_one_extras: bool = Field(False, description="halve the channels by a 1x1 layer before each of them")
    aspect_ratios: tuple[tuple[float, ...], ...] = Field(
        ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)), description="ratios of the prior boxes of every map"
    )
    least_scale: float = Field(0.05, gt=0, lt=1, description="side of the first map's priors, as share of the image")
    most_scale: float = Field(0.80, gt=0, lt=1, description="side of the last map's priors, as share of the image")
    neuron: LIFSettings = Field(PLIF_NEURON, description="constants of the neurons")

    @field_validator("neuron", mode="before")
    @classmethod
    def _plif_where_nothing_is_said(cls, given: Any) -> Any:
        """Some keys of a neuron leave the others at this section's defaults, not at those of a plain LIF."""
        return {**PLIF_NEURON.model_dump(), **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _levels_agree(self) -> SSDSettings:
        if len(self.aspect_ratios) != 3 + len(self.extras):
            raise ValueError(
                f"{len(self.aspect_ratios)} lists of aspect ratios for {3 + len(self.extras)} maps (3 of the backbone, "
                f"{len(self.extras)} extras)"
            )
        return self


class SSDPredictions(NamedTuple):
    """Raw predictions of every time step.

    offsets: (T, B, A, 4) as `ssd_match.encode_boxes` writes them. logits: (T, B, A, K). priors: (A, 4) xyxy in input
    pixels.
    """

    offsets: Tensor
    logits: Tensor
    priors: Tensor


def build_backbone(design: str, in_channels: int, num_classes: int, neuron: LIFSettings) -> STVGG | ResCatSNN:
    """The backbone of a name or a cfg string; strings with strides (s2) are ST-VGG's. Raises SettingsError."""
    is_vgg = design not in RESCAT_CFGS and ("s2" in design or "VGG" in design)
    return (STVGG if is_vgg else ResCatSNN)(design, in_channels, num_classes, neuron)


class SSD(nn.Module):
    """SSD with predictions per time step.

    `predictions, state = model(x, state)`: x (T, B, C, H, W) float, any H, W >= 32; state None is a fresh start. Where
    only some steps have labels, `maps` runs all of them and `predict` the heads, which have no state, on some.
    """

    def __init__(self, settings: SSDSettings, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.settings, self.in_channels, self.num_classes = settings, in_channels, num_classes
        self.backbone = build_backbone(settings.backbone, in_channels, num_classes, settings.neuron)
        self.extras = nn.ModuleList()
        channels = [*self.backbone.map_channels]
        for cout in settings.extras:
            self.extras.append(ExtraLayer(channels[-1], cout, settings.one_by_one_extras, settings.neuron))
            channels.append(cout)
        self.head = SSDHead(channels, priors_per_cell(settings.aspect_ratios), num_classes)

    @property
    def recompute(self) -> bool:
        """Whether the backbone computes its activations again in the backward pass, instead of keeping them."""
        return self.backbone.recompute

    @recompute.setter
    def recompute(self, value: bool) -> None:
        self.backbone.recompute = value

    def forward(self, x: Tensor, state: State | None = None) -> tuple[SSDPredictions, State]:
        """x: (T, B, C, H, W). Raises ValueError for another number of dimensions or channels, or a foreign state."""
        maps, state = self.maps(x, state)
        return self.predict(maps, (x.shape[3], x.shape[4])), state

    def maps(self, x: Tensor, state: State | None = None) -> tuple[list[Tensor], State]:
        """Spikes (T, B, c, h, w) of every map, and the state. x: (T, B, C, H, W)."""
        check_input(x, self.in_channels, "SSD")
        flow = StateFlow(x.shape[0], state)
        maps = self.backbone.taps_of(x, flow)
        for extra in self.extras:
            maps.append(extra(maps[-1], flow))
        return [spikes.unflatten(0, x.shape[:2]) for spikes in maps], flow.finish()

    def predict(self, maps: list[Tensor], image: tuple[int, int]) -> SSDPredictions:
        """Predictions from maps (T, B, c, h, w) of an input of image (height, width); any T and B of them."""
        steps, batch = maps[0].shape[:2]
        offsets, logits = self.head([spikes.flatten(0, 1) for spikes in maps])
        settings = self.settings
        priors = _priors(
            tuple((spikes.shape[3], spikes.shape[4]) for spikes in maps),
            image,
            settings.aspect_ratios,
            (settings.least_scale, settings.most_scale),
            offsets.device,
        )
        return SSDPredictions(offsets.unflatten(0, (steps, batch)), logits.unflatten(0, (steps, batch)), priors)


@lru_cache(maxsize=8)
def _priors(
    shapes: tuple[tuple[int, int], ...],
    image: tuple[int, int],
    aspect_ratios: AspectRatios,
    scale_range: tuple[float, float],
    device: torch.device,
) -> Tensor:
    with torch.inference_mode(False):  # kept for training too
        return prior_boxes(shapes, image, aspect_ratios, scale_range, device)


class ExtraLayer(nn.Module):
    """[1x1 to half the channels ->] 3x3 of stride 2."""

    def __init__(self, cin: int, cout: int, one_by_one: bool, neuron: LIFSettings) -> None:
        super().__init__()
        self.reduce = NormConvSpike(cin, cin // 2, 1, neuron) if one_by_one else None
        self.down = NormConvSpike(cin // 2 if one_by_one else cin, cout, 3, neuron, stride=2, padding=1)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        return self.down(self.reduce(x, flow) if self.reduce else x, flow)


class SSDHead(nn.Module):
    """Per map a box and a class convolution, each with its own norm; without neurons and so without state."""

    def __init__(self, channels: list[int], priors: list[int], num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        levels = list(zip(channels, priors, strict=True))
        self.boxes = nn.ModuleList(NormConv(c, count * 4, 3, padding=1) for c, count in levels)
        self.classes = nn.ModuleList(NormConv(c, count * num_classes, 3, padding=1) for c, count in levels)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """maps: (N, c, h, w) per level. Returns offsets (N, A, 4) and logits (N, A, K); level, row, column, prior."""
        offsets, logits = [], []
        for boxes, classes, x in zip(self.boxes, self.classes, maps, strict=True):
            y, z = both(boxes, classes, x)
            offsets.append(_per_prior(y, 4))
            logits.append(_per_prior(z, self.num_classes))
        return torch.cat(offsets, dim=1), torch.cat(logits, dim=1)


def _per_prior(x: Tensor, values: int) -> Tensor:
    """(N, priors * values, h, w) to (N, h * w * priors, values)."""
    return x.permute(0, 2, 3, 1).unflatten(3, (x.shape[1] // values, values)).flatten(1, 3)
