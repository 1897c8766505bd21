"""SpikeYOLOTracker: SpikeYOLO with a second head, an embedding of every location, for association.

Station: in comes the representation (T, B, C, H, W), out go the predictions and the embeddings of every time step, and
the state; then from predictions to detections, each with the embedding of the location that it came from.
Source: the promises of SpikeYoloV8-Tracker's guides (facts/models.md, C.1): input steps are real slices of the event
stream, two outputs from one network. Unlike its published code no step is averaged away, and the head spikes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from spiketrack.boxes import Boxes
from spiketrack.detector.decode import DecodeSettings, find
from spiketrack.detector.spikeyolo import Maps, ModelSettings, Predictions, SpikeYOLO, by_location
from spiketrack.spiking import ILIFSettings, StateFlow
from spiketrack.spiking.layers import SpikeConv, SpikeConvBias
from spiketrack.spiking.neurons import State

LEAST_NORM = 1e-2
"""An embedding shorter than this is scaled by 1 / LEAST_NORM instead, so that its gradient stays bounded."""


class TrackerModelSettings(ModelSettings):
    """Which SpikeYOLOTracker to build."""

    family: Literal["SpikeYOLOTracker"] = Field("SpikeYOLOTracker", description="which kind of network this is")
    time: Literal["step"] = Field("step", description="every time step has its own predictions and embeddings")
    embedding_dim: int = Field(128, ge=2, le=1024, description="D, numbers that stand for the look of an object")


class SpikeYOLOTracker(SpikeYOLO):
    """SpikeYOLO whose predictions carry an embedding of every location, time step by time step.

    `predictions, state = model(x, state)` as SpikeYOLO; predictions.embeddings is (T, B, A, D), in the order of
    predictions.points, not normalised (see `unit`). The weights are those of SpikeYOLO and `embedding`; the state is
    that of SpikeYOLO followed by the one of the second head.
    """

    settings: TrackerModelSettings

    def __init__(self, settings: TrackerModelSettings, in_channels: int, num_classes: int) -> None:
        super().__init__(settings, in_channels, num_classes)
        self.embedding = EmbeddingHead(self.out_channels, settings.embedding_dim, settings.neuron)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Predictions, State]:
        """x: (T, B, C, H, W). Raises ValueError for another number of dimensions or channels, or a foreign state."""
        maps, flow = self._maps(x, state)
        predictions = self._predictions(maps, flow)
        embeddings = self.embedding(maps, flow).unflatten(0, (flow.steps, -1))  # (T, B, A, D)
        return predictions._replace(embeddings=embeddings), flow.finish()


class EmbeddingHead(nn.Module):
    """Per level of c channels three spiking convolutions: depthwise 3x3, 1x1 to D, 1x1 with bias.

    Its parameters, norms included: 11 c + (c + 2) D + D^2 + D per level, (11 + D) sum(c) + 3 (D^2 + 3 D) in all. With
    D = 128 that is 74,768 in scale p, 174,848 in scale s.
    """

    def __init__(self, channels: tuple[int, int, int], dim: int, neuron: ILIFSettings) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_Branch(c, dim, neuron) for c in channels)

    def forward(self, maps: Maps, flow: StateFlow) -> Tensor:
        """maps: (N, c, h, w) per level; returns (N, A, D), levels and rows concatenated."""
        return by_location(level(x, flow) for x, level in zip(maps, self.levels, strict=True))


class _Branch(nn.Module):
    def __init__(self, cin: int, dim: int, neuron: ILIFSettings) -> None:
        super().__init__()
        self.around = SpikeConv(cin, cin, 3, neuron, depthwise=True)
        self.expand = SpikeConv(cin, dim, 1, neuron)
        self.last = SpikeConvBias(dim, dim, neuron)

    def forward(self, x: Tensor, flow: StateFlow) -> Tensor:
        return self.last(self.expand(self.around(x, flow), flow), flow)


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings (..., D) as float32 of length 1, so that a scalar product is the cosine of their angle."""
    return F.normalize(embeddings.float(), dim=-1, eps=LEAST_NORM)


class EmbeddedDetections(NamedTuple):
    """Detections of one time step, best score first, and embeddings (N, D) float32 of length 1, row by row."""

    boxes: Boxes
    embeddings: NDArray[np.float32]


@torch.no_grad()
def decode_with_embeddings(
    predictions: Predictions,
    times_us: NDArray[np.int64],
    settings: DecodeSettings,
    *,
    scale: tuple[float, float],
    sensor: tuple[int, int],
) -> list[list[EmbeddedDetections]]:
    """`decode`, each detection with the embedding of its location: result[t][b].

    times_us: (T, B), the end of each step's slice. scale: sensor pixels per input pixel in x and y. sensor: (width,
    height). Raises ValueError for predictions without embeddings, or where anything is not finite.
    """
    embeddings = predictions.embeddings
    if embeddings is None:
        raise ValueError("decode: the predictions carry no embeddings; they are not of a SpikeYOLOTracker")
    if not torch.isfinite(embeddings).all():
        raise ValueError("decode: the network's predictions are not finite; its weights or its input are broken")
    found = find(predictions, settings, scale=scale, sensor=sensor)
    result: list[list[EmbeddedDetections]] = [[] for _ in found]
    for t, b in np.ndindex(*embeddings.shape[:2]):
        own = found[t][b]
        boxes = Boxes.of(int(times_us[t, b]), own.xyxy, own.class_id, own.score)
        result[t].append(EmbeddedDetections(boxes, unit(embeddings[t, b, own.location]).cpu().numpy()))
    return result
