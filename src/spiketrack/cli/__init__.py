"""The command line; each module adds its commands to `app`, in the order of the way of the data."""

from spiketrack.cli import recordings  # isort: skip
from spiketrack.cli import data  # isort: skip
from spiketrack.cli import networks  # isort: skip
from spiketrack.cli import search  # isort: skip
from spiketrack.cli import efficiency  # isort: skip
from spiketrack.cli import profiling  # isort: skip
from spiketrack.cli import classification  # isort: skip
from spiketrack.cli import keypoints  # isort: skip
from spiketrack.cli import deploying  # isort: skip
from spiketrack.cli.app import app, main

__all__ = [
    "app",
    "classification",
    "data",
    "deploying",
    "efficiency",
    "keypoints",
    "main",
    "networks",
    "profiling",
    "recordings",
    "search",
]
