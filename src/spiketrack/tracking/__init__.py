"""From detections to tracks.

Station: the tracker takes the Boxes detected at one time and returns those that belong to known objects, with
identities. `ByteTrack` and `OCSort` are the trackers, `build_tracker` makes the one that settings name; both take the
look of the detections and the events in between where they are given. docs/tracking.md says which to choose.
"""

from spiketrack.tracking.association import Assignment, assign, overlap_similarity
from spiketrack.tracking.bytetrack import ByteTrack
from spiketrack.tracking.oc_sort import OCSort
from spiketrack.tracking.settings import (
    AnyTrackerSettings,
    ByteTrackSettings,
    EmbeddingSettings,
    EventMotionSettings,
    OCSortSettings,
    TrackerSettings,
)
from spiketrack.tracking.tracks import Tracker


def build_tracker(settings: TrackerSettings) -> Tracker:
    """A fresh tracker after its settings."""
    return OCSort(settings) if isinstance(settings, OCSortSettings) else ByteTrack(settings)


__all__ = [
    "AnyTrackerSettings",
    "Assignment",
    "ByteTrack",
    "ByteTrackSettings",
    "EmbeddingSettings",
    "EventMotionSettings",
    "OCSort",
    "OCSortSettings",
    "Tracker",
    "TrackerSettings",
    "assign",
    "build_tracker",
    "overlap_similarity",
]
