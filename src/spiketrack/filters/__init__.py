"""Filters: events that no object caused go before detection.

Station: beside the recordings. In come runs of `Events` that follow each other, out come the events that stay, and a
count of what each filter took out. State is carried from run to run, one `FilterChain` per recording: filtering run by
run is filtering the whole. `FilterSettings` switches filters on; none is on by default. A single filter without a chain
is found in `noise`, `hot_pixels`, `region` and `rate`.
"""

from spiketrack.filters.chain import FilterChain, filtered
from spiketrack.filters.masks import load_mask, save_mask
from spiketrack.filters.recording import FilteredRecording, filtered_recording
from spiketrack.filters.settings import NO_FILTERS, FilterSettings

__all__ = [
    "NO_FILTERS",
    "FilterChain",
    "FilterSettings",
    "FilteredRecording",
    "filtered",
    "filtered_recording",
    "load_mask",
    "save_mask",
]
