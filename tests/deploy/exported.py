"""Networks for the tests of export and quantisation; exporting one takes seconds, so each is made once."""

from functools import cache

import onnx
import torch
from loud_detector import loud_detector
from networks import events, settled

from spiketrack.deploy.export import described_model, onnx_model, set_details
from spiketrack.deploy.onnx_runtime import OnnxNetwork
from spiketrack.detector.ssd import SSD, SSDSettings
from spiketrack.pipeline import Detector

CFG = "8,8,8s2,16s2,16s2"


@cache
def spikeyolo() -> Detector:
    return loud_detector()


@cache
def ssd() -> SSD:
    """A small SSD of PLIF neurons that fire, in evaluation mode."""
    torch.manual_seed(0)
    return settled(SSD(SSDSettings(backbone=CFG, extras=(8, 8, 8)), 2, 3), events(2, 2)).requires_grad_(False)


@cache
def spikeyolo_model() -> onnx.ModelProto:
    return described_model(spikeyolo().model, spikeyolo().content())


@cache
def ssd_model() -> onnx.ModelProto:
    model = onnx_model(ssd())
    set_details(model, {"model": ssd().settings.model_dump(), "class_names": ["a", "b", "c"]})
    return model


def running(model: onnx.ModelProto) -> OnnxNetwork:
    return OnnxNetwork(model.SerializeToString())
