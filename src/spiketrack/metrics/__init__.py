"""How good detections and tracks are, by the field's definitions.

Station: labels and detections, or labels and tracks, of whole sequences go in; frozen scores come out. Detections
are scored by COCO's average precision under a named protocol, tracks by HOTA, CLEAR MOT and IDF1 at label times.
"""

from spiketrack.metrics.average_precision import ClassScores, Curve, DetectionScores, average_precision
from spiketrack.metrics.clear import Clear, clear_mot
from spiketrack.metrics.hota import ALPHAS, Hota, hota
from spiketrack.metrics.identity import Identity, identity_f1
from spiketrack.metrics.overlaps import Overlaps
from spiketrack.metrics.protocols import PROTOCOLS, Protocol, counted, label_period_us, protocol_named
from spiketrack.metrics.tracking_scores import TrackingScore, TrackingScores, tracking_scores

__all__ = [
    "ALPHAS",
    "PROTOCOLS",
    "ClassScores",
    "Clear",
    "Curve",
    "DetectionScores",
    "Hota",
    "Identity",
    "Overlaps",
    "Protocol",
    "TrackingScore",
    "TrackingScores",
    "average_precision",
    "clear_mot",
    "counted",
    "hota",
    "identity_f1",
    "label_period_us",
    "protocol_named",
    "tracking_scores",
]
