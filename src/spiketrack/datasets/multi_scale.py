"""Multi-scale training: the input of a step, and its labels, at another size.

Station: between a batch on the device and the network. One size is drawn for a whole step, as all samples of a batch
share it. Source: Redmon and Farhadi, "YOLO9000", CVPR 2017, section 2 (there a new size every ten batches).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spiketrack.detector.spikeyolo import STRIDES
from spiketrack.detector.track_loss import TrackLabels

_OF_SIZES = 32749  # keeps these draws apart from those of samples, which follow from (seed, epoch, place), too


def drawn_size(size: tuple[int, int], most: float, seed: int, step: int) -> tuple[int, int]:
    """Height and width times one factor from 1 - most .. 1 + most, each rounded to multiples of 32, 32 at least.

    The factor follows from the seed and the step alone.
    """
    factor = np.random.default_rng([seed, step, _OF_SIZES]).uniform(1 - most, 1 + most)
    height, width = (max(round(side * factor / STRIDES[-1]), 1) * STRIDES[-1] for side in size)
    return height, width


def rescaled(events: Tensor, size: tuple[int, int]) -> Tensor:
    """Planes (..., H, W) of floats at another size: every new pixel is the mean over the area that it covers.

    So the mean count of a pixel stays, that of the whole plane exactly; a larger plane repeats pixels, as the zoom of
    training samples does. Of the same size it is the same tensor.
    """
    height, width = events.shape[-2:]
    if (height, width) == size:
        return events
    return _coverage(height, size[0], events) @ events @ _coverage(width, size[1], events).T


def _coverage(old: int, new: int, like: Tensor) -> Tensor:
    """(new, old) share of every new pixel that lies on each old one, along one side; rows add up to 1."""
    ends = torch.arange(new + 1, device=like.device, dtype=torch.float64) * (old / new)
    starts = torch.arange(old, device=like.device, dtype=torch.float64)
    reached = (ends[:, None] - starts).clamp(0, 1)  # (new + 1, old), of every old pixel what lies before each end
    return ((reached[1:] - reached[:-1]) * (new / old)).to(like.dtype)


def rescaled_labels(labels: TrackLabels, old: tuple[int, int], new: tuple[int, int]) -> TrackLabels:
    """Labels of inputs of the old (height, width), in pixels of the new one."""
    y, x = new[0] / old[0], new[1] / old[1]
    return labels._replace(boxes=labels.boxes * labels.boxes.new_tensor([x, y, x, y]))
