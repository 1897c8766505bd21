"""Profiling: what bounds a training or inference run, and what would make it faster (docs/profiling.md).

Station: beside the way of the data. `watching` times the stations from outside, `sampling` sees which functions run and
which wait, `tracing` is torch.profiler, `probing` tries the network in other ways, `verdict` and `remedies` conclude,
`doctor` does all of it.
"""

from spiketrack.profiling.doctor import Diagnosis, Trial, diagnose_inference, diagnose_training
from spiketrack.profiling.measuring import Measurement, Plan
from spiketrack.profiling.remedies import Remedy
from spiketrack.profiling.verdict import MEANING, Part, Verdict

__all__ = [
    "MEANING",
    "Diagnosis",
    "Measurement",
    "Part",
    "Plan",
    "Remedy",
    "Trial",
    "Verdict",
    "diagnose_inference",
    "diagnose_training",
]
