"""From detections to tracks.

Station: the tracker takes the Boxes detected at one time and returns those that belong to known objects, with
identities. `ByteTrack` is the tracker; `kalman` and `association` are the pure functions it stands on.
"""

from spiketrack.tracking.association import Assignment, assign, overlap_similarity
from spiketrack.tracking.bytetrack import ByteTrack, ByteTrackSettings

__all__ = ["Assignment", "ByteTrack", "ByteTrackSettings", "assign", "overlap_similarity"]
