"""Track loss: embeddings of one object come together, those of different objects apart.

Station: in come the predictions of a SpikeYOLOTracker for all time steps and the labels with their track ids, out go
the terms of the detection loss and one of the embeddings.
Source: supervised contrastive learning (Khosla et al., NeurIPS 2020, the loss "out" of equation 2), on the locations
that the task-aligned assignment gives to a label. A sample is a location of a time step of a stream; it is compared
with every other sample of the batch, over time steps and streams, and never with itself:

    cost(i) = log sum over a != i of exp(z_i z_a / temperature)
              - mean over p of one object with i, p != i, of z_i z_p / temperature
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from spiketrack.boxes import NO_TRACK
from spiketrack.detector.loss import DetectionLoss, LossSettings, Total, of_one_process
from spiketrack.detector.spikeyolo import Predictions
from spiketrack.detector.spikeyolo_tracker import unit
from spiketrack.detector.targets import Assignment, LabelBatch


class TrackLossSettings(LossSettings):
    """The detection loss, and the term of the embeddings."""

    track_gain: float = Field(1.0, ge=0, description="factor of the contrastive term of the embeddings")
    temperature: float = Field(
        0.07, ge=0.01, le=10, description="divisor of the cosines; a small one weighs look-alikes more"
    )
    max_samples: int = Field(
        1024, ge=2, description="most locations of a batch that are compared, memory grows with its square"
    )


class TrackLabels(NamedTuple):
    """Labels of N images (labelled time steps) with identities, padded to the M of the fullest.

    boxes: (N, M, 4) float32 xyxy in input pixels. classes: (N, M) int64. valid: (N, M) bool, False for padding.
    track_ids: (N, M) int64, NO_TRACK (-1) where unknown. recordings: (N,) int64, what the ids of an image are counted
    in: two labels are of one object if track id and recording are equal.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor
    track_ids: Tensor
    recordings: Tensor

    @classmethod
    def of_streams(cls, labels: LabelBatch, track_ids: Tensor, labelled: Tensor) -> TrackLabels:
        """Labels of a batch whose B streams are of different recordings. labelled: (T, B) bool, of N places."""
        streams = labelled.nonzero()[:, 1]  # (N,)
        return cls(labels.boxes, labels.classes, labels.valid, track_ids, streams)

    @property
    def detection(self) -> LabelBatch:
        """The labels without identities."""
        return LabelBatch(self.boxes, self.classes, self.valid)


class TrackLossTerms(NamedTuple):
    """The weighted terms (0-d tensors), their sum, how many locations were positive, how many of these had a partner
    (another one of the same object), and the background's part of `classes`."""

    total: Tensor
    box: Tensor
    classes: Tensor
    dfl: Tensor
    track: Tensor
    positives: Tensor
    partnered: Tensor
    background: Tensor


class TrackLoss:
    """Loss of SpikeYOLOTracker's predictions; holds settings only.

    total: as of DetectionLoss. Samples are compared within a process's share of the batch.
    """

    def __init__(self, settings: TrackLossSettings, total: Total = of_one_process) -> None:
        self.settings, self.total = settings, total
        self.detection = DetectionLoss(settings, total)

    def __call__(self, predictions: Predictions, labels: TrackLabels, labelled: Tensor) -> TrackLossTerms:
        """labelled: (T, B) bool, the time steps that labels speak of; labels: N = labelled.sum() images in the
        order of `labelled` (time-major). Raises ValueError where these do not agree, or there are no embeddings."""
        if predictions.embeddings is None:
            raise ValueError("track loss: the predictions carry no embeddings; they are not of a SpikeYOLOTracker")
        if labels.track_ids.shape != labels.valid.shape or labels.recordings.shape != labels.valid.shape[:1]:
            raise ValueError(
                f"track loss: labels {tuple(labels.valid.shape)} need track ids of that shape and one recording each, "
                f"got {tuple(labels.track_ids.shape)} and {tuple(labels.recordings.shape)}"
            )
        terms, assignment = self.detection.with_assignment(predictions, labels.detection, labelled)
        samples = identified_samples(assignment, labels, self.settings.max_samples)
        steps, streams = labelled.nonzero()[samples.image].unbind(1)
        embeddings = predictions.embeddings[steps, streams, samples.location]  # (S, D)
        track, partnered = contrastive_loss(unit(embeddings), samples.objects, self.settings.temperature, self.total)
        track = track * self.settings.track_gain
        return TrackLossTerms(
            terms.total + track,
            terms.box,
            terms.classes,
            terms.dfl,
            track,
            terms.positives,
            partnered,
            terms.background,
        )


class Samples(NamedTuple):
    """S locations with a known object, each (S,) int64: image (of N), location (of A), object (any numbers)."""

    image: Tensor
    location: Tensor
    objects: Tensor


@torch.no_grad()
def identified_samples(assignment: Assignment, labels: TrackLabels, most: int) -> Samples:
    """The positive locations whose label has a track id, at most `most`.

    Of more, the best location of every label goes first, then the second of every label, and so on; equals in the
    order of the batch. So the choice is repeatable, and no label is left out for another one's many locations.
    """
    known = labels.track_ids[assignment.image, assignment.label] != NO_TRACK
    image, location, label, strength = (column[known] for column in assignment)  # (S,) each
    if len(image) > most:
        chosen = _in_turns(image * labels.valid.shape[1] + label, strength)[:most].sort().values
        image, location, label = image[chosen], location[chosen], label[chosen]
    identity = torch.stack([labels.recordings[image], labels.track_ids[image, label]], dim=1)  # (S, 2)
    return Samples(image, location, torch.unique(identity, dim=0, return_inverse=True)[1])


def _in_turns(group: Tensor, strength: Tensor) -> Tensor:
    """Indices (P,): the strongest of every group, then the second of every group, and so on."""
    order = strength.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]  # by group, strongest first
    _, sizes = torch.unique_consecutive(group[order], return_counts=True)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    turn = torch.arange(len(order), device=order.device) - starts
    return order[turn.argsort(stable=True)]


def contrastive_loss(
    embeddings: Tensor, objects: Tensor, temperature: float, total: Total = of_one_process
) -> tuple[Tensor, Tensor]:
    """Mean cost over the samples that have a partner, and their number (both 0-d).

    embeddings: (S, D) of length 1. objects: (S,) int64, equal for samples of one object. Without any partner the cost
    is exactly 0 with a gradient of 0.
    """
    itself = torch.eye(len(objects), dtype=torch.bool, device=objects.device)
    partners = (objects[:, None] == objects) & ~itself  # (S, S)
    partnered = partners.any(1)
    itself, partners = itself[partnered], partners[partnered]
    similarity = embeddings[partnered] @ embeddings.T / temperature  # (S', S)
    pull = (similarity * partners).sum(1) / partners.sum(1)
    push = similarity.masked_fill(itself, -torch.inf).logsumexp(1)  # never empty: there is a partner
    return (push - pull).sum() / total(partnered.sum()).clamp_min(1), partnered.sum()
