"""Families: what belongs together, a network, its loss and its decoding.

Station: experiments, checkpoints, training and inference ask here which three objects go with `model.family`. All
networks are called alike, `predictions, state = model(x, state)` with x (T, B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from spiketrack.boxes import Boxes
from spiketrack.detector.decode import DecodeSettings, decode
from spiketrack.detector.loss import DetectionLoss, LossSettings, LossTerms, Total
from spiketrack.detector.spikeyolo import STRIDES, ModelSettings, SpikeYOLO
from spiketrack.detector.spikeyolo_tracker import SpikeYOLOTracker, TrackerModelSettings, decode_with_embeddings
from spiketrack.detector.spiking_backbone import LEAST_SIDE
from spiketrack.detector.ssd import SSD, SSDSettings
from spiketrack.detector.ssd_decode import SSDDecodeSettings, decode_ssd
from spiketrack.detector.ssd_loss import SSDLoss, SSDLossSettings, SSDLossTerms
from spiketrack.detector.track_loss import TrackLabels, TrackLoss, TrackLossSettings, TrackLossTerms
from spiketrack.errors import SettingsError

DEFAULT_FAMILY = "SpikeYOLO"
Network = SpikeYOLO | SSD
Criterion = Callable[[Any, TrackLabels, Tensor], Any]
"""Predictions, labels and (T, B) labelled steps to named loss terms, `total` and `positives` among them."""


class Found(NamedTuple):
    """Detections of one time step of one stream, and their embeddings (N, D) where the network makes some."""

    boxes: Boxes
    embeddings: NDArray | None


class Family(NamedTuple):
    """One kind of detector.

    model, decoding, loss: classes of its settings. network(model settings, input channels, classes) builds it.
    criterion(loss settings, total) is its loss, which returns `terms`. decode(predictions, times_us, decoding settings,
    scale=, sensor=) gives what was found: result[t][b]. least_side: pixels that an input needs in both directions.
    title(model settings) names a network in words.
    """

    model: type[BaseModel]
    decoding: type[BaseModel]
    loss: type[BaseModel]
    terms: type[Any]
    network: Callable[[Any, int, int], Network]
    criterion: Callable[[Any, Total], Criterion]
    decode: Callable[..., list[list[Found]]]
    least_side: int
    title: Callable[[Any], str]


def _of_labels_alone(loss: DetectionLoss | SSDLoss) -> Criterion:
    """A loss that knows no identities, on labels that have some."""
    return lambda predictions, labels, labelled: loss(predictions, labels.detection, labelled)


def _found(decoder: Callable[..., list[list[Boxes]]]) -> Callable[..., list[list[Found]]]:
    """A decoder of a network without embeddings."""
    return lambda *args, **options: [[Found(boxes, None) for boxes in step] for step in decoder(*args, **options)]


def _family_and_scale(settings: ModelSettings) -> str:
    return f"{settings.family}-{settings.scale}"


def _found_with_embeddings(*args: Any, **options: Any) -> list[list[Found]]:
    return [[Found(*detections) for detections in step] for step in decode_with_embeddings(*args, **options)]


FAMILIES = {
    "SpikeYOLO": Family(
        ModelSettings,
        DecodeSettings,
        LossSettings,
        LossTerms,
        SpikeYOLO,
        lambda settings, total: _of_labels_alone(DetectionLoss(settings, total)),
        _found(decode),
        STRIDES[-1],
        _family_and_scale,
    ),
    "SpikeYOLOTracker": Family(
        TrackerModelSettings,
        DecodeSettings,
        TrackLossSettings,
        TrackLossTerms,
        SpikeYOLOTracker,
        TrackLoss,
        _found_with_embeddings,
        STRIDES[-1],
        _family_and_scale,
    ),
    "SSD": Family(
        SSDSettings,
        SSDDecodeSettings,
        SSDLossSettings,
        SSDLossTerms,
        SSD,
        lambda settings, total: _of_labels_alone(SSDLoss(settings, total)),
        _found(decode_ssd),
        LEAST_SIDE,
        lambda settings: f"{settings.backbone}+{settings.family}",
    ),
}


def family_named(name: object) -> Family:
    """The family of `model.family`. Raises SettingsError that lists the known ones."""
    if name not in FAMILIES:
        raise SettingsError(f"model.family: {name!r} is not known; there are {', '.join(FAMILIES)}")
    return FAMILIES[str(name)]
