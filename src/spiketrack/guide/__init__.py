"""Guide: the configuration, log lines and files that the guides of SpikeYoloV8-Tracker promise (docs/guide.md).

Station: above experiments. In comes `config/config.yaml`, out go training and evaluation runs of this package.
"""

from spiketrack.guide.loading import DEFAULT_CONFIG, ConfigLoader, load_guide
from spiketrack.guide.settings import GuideSettings

__all__ = ["DEFAULT_CONFIG", "ConfigLoader", "GuideSettings", "load_guide"]
