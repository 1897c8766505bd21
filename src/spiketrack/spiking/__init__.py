"""Spiking: neurons with explicit state and the convolutions between them."""

from spiketrack.spiking.lif import LIF, PLIF, LIFSettings
from spiketrack.spiking.neurons import ILIF, ILIFSettings, Neurons, Rectifier, StateFlow, ilif

__all__ = ["ILIF", "LIF", "PLIF", "ILIFSettings", "LIFSettings", "Neurons", "Rectifier", "StateFlow", "ilif"]
