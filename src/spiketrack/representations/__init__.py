"""Representations: dense tensors that a network can read, made from the events of a time window.

Station: in comes an `Events` record and a window [start_us, end_us), out goes an array of shape (T, C, H, W).
Bins come from the window, never from the first and last event: event t falls into bin
k = (t - start_us) * T // (end_us - start_us). Counts saturate, they never wrap. A reduced resolution or a crop is
counted directly, without a full-size image in between (`grid`).

    counting   polarity_histogram, stacked_histogram (Histo3D), binary_occupancy, signed_difference (Diff3D)
    timing     voxel_grid, time_surface, TimeSurface (a stream's)
    slices     microsecond_slices, sparse_slices: the high-frequency mode
    settings   InputSettings: what a network sees, from the experiment file
    device     the same functions for events that are already torch tensors, on any device
    flat       a batch of samples as the training device counts it
"""

from spiketrack.representations.counting import (
    binary_occupancy,
    polarity_histogram,
    signed_difference,
    stacked_histogram,
)
from spiketrack.representations.grid import FrameOptions
from spiketrack.representations.settings import InputSettings
from spiketrack.representations.slices import SparseSlices, microsecond_slices, sparse_slices
from spiketrack.representations.timing import TimeSurface, time_surface, voxel_grid

__all__ = [
    "FrameOptions",
    "InputSettings",
    "SparseSlices",
    "TimeSurface",
    "binary_occupancy",
    "microsecond_slices",
    "polarity_histogram",
    "signed_difference",
    "sparse_slices",
    "stacked_histogram",
    "time_surface",
    "voxel_grid",
]
