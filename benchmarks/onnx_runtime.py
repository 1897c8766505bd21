"""Latency of one time step: the fused network in torch, on onnxruntime in float32, and with 8-bit convolutions.

python benchmarks/onnx_runtime.py [--repeats 30]

Least CPU milliseconds of one thread, batch 1, state carried on; counts of which a tenth are not 0. The 8-bit ranges are
taken from the same counts, which says nothing about accuracy (`spiketrack compress` does).
"""

import argparse

import torch

from spiketrack.compression import step_ms
from spiketrack.deploy import fuse
from spiketrack.deploy.export import onnx_model, set_details
from spiketrack.deploy.onnx_runtime import OnnxNetwork
from spiketrack.deploy.quantize import quantize
from spiketrack.detector.ssd import SSD, SSDSettings
from spiketrack.pipeline import Detector

SIZES = ((346, 260), (640, 360))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ssd = SSD(SSDSettings(), 2, 2).eval()
    print(f"{'network':<28}{'input':>10}{'torch':>9}{'onnxruntime':>13}{'int8':>8}   CPU ms")
    for name, network in (("SpikeYOLO-p, shipped", Detector.shipped().model), ("32-ST-VGG+SSD, random", ssd)):
        model = onnx_model(network)
        set_details(model, {"model": network.settings.model_dump(), "class_names": ["?"] * network.num_classes})
        x = torch.poisson(torch.full((4, 1, network.in_channels, 96, 128), 0.1))
        forms = (fuse(network), *(OnnxNetwork(m.SerializeToString()) for m in (model, quantize(model, [x.numpy()]))))
        for size in SIZES:
            torch_ms, float_ms, int8_ms = (step_ms(form, size, repeats) for form in forms)
            print(f"{name:<28}{f'{size[0]}x{size[1]}':>10}{torch_ms:>9.1f}{float_ms:>13.1f}{int8_ms:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
