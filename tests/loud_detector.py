"""A detector with random weights that sees something everywhere, for tests that need boxes but no skill."""

import torch
from moving_squares import CLASS_NAMES, SLICE_US

from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.spikeyolo import REG_MAX, ModelSettings
from spiketrack.pipeline import Detector
from spiketrack.representations import InputSettings

DECODING = DecodeSettings(score=0.05, max_boxes=20)


def loud_detector(class_names=CLASS_NAMES, input=None, decoding=DECODING, bias=1.0) -> Detector:
    """SpikeYOLO-p whose neurons fire and whose class logits vary around `bias`; the same at every call."""
    torch.manual_seed(0)
    detector = Detector.build(ModelSettings(), input or InputSettings(slice_us=SLICE_US), decoding, tuple(class_names))
    norms = [module for module in detector.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0  # one pass gives the statistics of its batch
        shape = (2, 4, detector.input.channels, 64, 64)
        detector.model(torch.poisson(torch.full(shape, 0.2), generator))
        for norm in norms:
            norm.momentum = 0.1
        for box, classes in zip(detector.model.head.box, detector.model.head.classes, strict=True):
            box.last.conv.bias.copy_(-0.5 * torch.arange(REG_MAX).repeat(4))  # sides of one to two strides
            classes.last.conv.bias.fill_(bias)
    detector.model.eval()
    return detector
