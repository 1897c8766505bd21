"""Deploy: a trained network in the forms that hardware wants: folded, and with binary spikes."""

from spiketrack.deploy.folding import fold
from spiketrack.deploy.unrolling import thermometer, unroll

__all__ = ["fold", "thermometer", "unroll"]
