"""spiketrack: detect and track objects in event-camera recordings with spiking neural networks.

The way of the data:

    recording file -> Events -> representation -> detector -> Boxes (detections) -> tracker -> Boxes (tracks)
                                                     -> metrics -> report
    labels: Boxes -> targets -> loss -> training

Names are imported when first used, so that `import spiketrack` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spiketrack.boxes import Boxes
    from spiketrack.errors import SpiketrackError
    from spiketrack.evaluation import evaluate
    from spiketrack.events import Events, Window
    from spiketrack.experiment import load_experiment
    from spiketrack.pipeline import Detector, track
    from spiketrack.recordings import load_labels, open_recording, windows
    from spiketrack.representations import binary_occupancy, signed_difference, stacked_histogram
    from spiketrack.tracking import ByteTrack

_HOMES = {
    "Boxes": "boxes",
    "ByteTrack": "tracking",
    "Detector": "pipeline",
    "Events": "events",
    "SpiketrackError": "errors",
    "Window": "events",
    "binary_occupancy": "representations",
    "evaluate": "evaluation",
    "load_experiment": "experiment",
    "load_labels": "recordings",
    "open_recording": "recordings",
    "signed_difference": "representations",
    "stacked_histogram": "representations",
    "track": "pipeline",
    "windows": "recordings",
}

__all__ = [
    "Boxes",
    "ByteTrack",
    "Detector",
    "Events",
    "SpiketrackError",
    "Window",
    "binary_occupancy",
    "evaluate",
    "load_experiment",
    "load_labels",
    "open_recording",
    "signed_difference",
    "stacked_histogram",
    "track",
    "windows",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spiketrack' has no attribute {name!r}")
    return getattr(import_module(f"spiketrack.{_HOMES[name]}"), name)
