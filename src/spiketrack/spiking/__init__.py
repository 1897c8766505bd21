"""Spiking: neurons with explicit state and the convolutions between them."""

from spiketrack.spiking.neurons import ILIF, ILIFSettings, StateFlow, ilif

__all__ = ["ILIF", "ILIFSettings", "StateFlow", "ilif"]
