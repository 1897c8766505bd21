"""Deploy: a trained network in the forms that inference and hardware want: fused, and with binary spikes."""

from spiketrack.deploy.fusing import fuse
from spiketrack.deploy.unrolling import thermometer, unroll

__all__ = ["fuse", "thermometer", "unroll"]
