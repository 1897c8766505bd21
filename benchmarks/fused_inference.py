"""Fused inference of 32-ST-VGG+SSD at 240 x 304: one window of 50 ms, batch 1, from events in memory to boxes.

    python benchmarks/fused_inference.py [--threads 2] [--repeats 60] [--rate 2e6]

Random events (seed 0, RATE a second, on a square that moves), random weights whose norms come from twelve passes, so
that neurons fire. Parts: encode (binary occupancy), network (carried state), decode. Predictions and spikes of both,
fused and not, are compared first, in float64. Then the levers, one by one, on the network alone. Least and median of
the repeats, wall and CPU, all in this process; with other work on the machine take the CPU time of one thread.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from spiketrack.deploy import fuse
from spiketrack.detector.ssd import SSD, SSDSettings
from spiketrack.detector.ssd_decode import SSDDecodeSettings, decode_ssd
from spiketrack.events import Window
from spiketrack.representations import InputSettings
from spiketrack.spiking import sparse_conv
from spiketrack.spiking.allocation import keep_freed_memory

WIDTH, HEIGHT, SLICE_US = 304, 240, 50_000
BAR_MS = 15


def window_of(rate: float, step: int, rng: np.random.Generator) -> Window:
    """A slice of events, half of them noise, half on the edges of a moving square."""
    count = int(rate * SLICE_US * 1e-6)
    t = np.sort(rng.integers(step * SLICE_US, (step + 1) * SLICE_US, count))
    x, y = rng.integers(0, WIDTH, count), rng.integers(0, HEIGHT, count)
    edge = rng.random(count) < 0.5
    x[edge] = (60 + 4 * step + 80 * rng.integers(0, 2, edge.sum()) + rng.integers(0, 4, edge.sum())) % WIDTH
    p = rng.integers(0, 2, count).astype(np.uint8)
    start = step * SLICE_US
    return Window(t, x.astype(np.uint16), y.astype(np.uint16), p, WIDTH, HEIGHT, start, start + SLICE_US)


def settled(network: SSD, x: Tensor) -> SSD:
    """The network with norms of the input's own statistics, in evaluation mode."""
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        for _ in range(12):
            network(x)
    return network.eval()


def timed(work: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Least wall, median wall and least CPU seconds."""
    for _ in range(5):
        work()
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return min(wall), statistics.median(wall), min(cpu)


def show(name: str, seconds: tuple[float, float, float], whole: float | None = None) -> None:
    share = "" if whole is None else f"{seconds[2] / whole:>9.0%}"
    print(f"{name:<44}" + "".join(f"{s * 1e3:>10.2f}" for s in seconds) + share, flush=True)


def compare(network: SSD, fused: SSD, x: Tensor) -> None:
    """Predictions and spikes of all windows, from rest, in float64, where no rounding makes a neuron fire."""
    plain, own = copy.deepcopy(network).double(), copy.deepcopy(fused).double()
    (found, _), (expected, _) = own(x.double()), plain(x.double())
    for ours, theirs in ((found.offsets, expected.offsets), (found.logits, expected.logits)):
        assert (ours - theirs).abs().max() < 1e-5, float((ours - theirs).abs().max())
    maps = zip(own.maps(x.double())[0], plain.maps(x.double())[0], strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in maps)
    maps = fused.maps(x)[0]
    print("fire, by map: " + ", ".join(f"{float(spikes.mean()):.1%}" for spikes in maps))


def in_planes(network: nn.Module) -> nn.Module:
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        conv.weight.data = conv.weight.data.contiguous()
    return network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--rate", type=float, default=2e6, help="events per second")
    parser.add_argument("--compile", action="store_true", help="torch.compile too; takes a minute to start")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    settings = InputSettings(representation="binary_occupancy", slice_us=SLICE_US)
    rng = np.random.default_rng(0)
    windows = [window_of(options.rate, step, rng) for step in range(4)]
    x = torch.from_numpy(np.concatenate([settings.encode(w, w.end_us) for w in windows])).float()[:, None]
    network = settled(SSD(SSDSettings(backbone="32-ST-VGG"), 2, 2), x)
    with torch.inference_mode():
        measure(network, settings, windows[-1], x, options)


def measure(network: SSD, settings: InputSettings, window: Window, x: Tensor, options: argparse.Namespace) -> None:
    repeats, decoding, times = options.repeats, SSDDecodeSettings(), np.array([[window.end_us]])
    fused = fuse(network)
    _, state = fused(x[:3])
    one, plain_state = x[3:], network(x[:3])[1]
    predictions, _ = fused(one, state)
    compare(network, fused, x)

    def encode() -> Tensor:
        return torch.from_numpy(settings.encode(window, window.end_us)).float()[:, None]

    def decode() -> object:
        return decode_ssd(predictions, times, decoding, scale=(1, 1), sensor=(WIDTH, HEIGHT))

    def whole() -> object:
        found, _ = fused(encode(), state)
        return decode_ssd(found, times, decoding, scale=(1, 1), sensor=(WIDTH, HEIGHT))

    print(f"{len(window):,} events, {float(one.mean()):.1%} of the input not zero, {options.threads} threads")
    print(f"{'':<44}{'least ms':>10}{'median':>10}{'CPU ms':>10}{'of CPU':>9}")
    parts = {"encode": encode, "network": lambda: fused(one, state), "decode": decode}
    seconds = {name: timed(work, repeats) for name, work in parts.items()}
    total = timed(whole, repeats)
    for name, part in seconds.items():
        show(name, part, sum(part[2] for part in seconds.values()))
    show(f"events to boxes, fused (bar {BAR_MS} ms)", total)
    show("network, not fused", timed(lambda: network(one, plain_state), repeats))
    print("levers, on the network:")
    few, sparse_conv.MOST_ONES = sparse_conv.MOST_ONES, -1.0
    show("dense convolutions", timed(lambda: fused(one, state), repeats))
    sparse_conv.MOST_ONES = few
    planar = in_planes(fuse(network))
    show("weights not in channels-last order", timed(lambda: planar(one, state), repeats))
    half = fuse(network, torch.bfloat16)
    half_state = half(x[:3])[1]
    show("bfloat16 weights (other spikes)", timed(lambda: half(one, half_state), repeats))
    with torch.backends.mkldnn.flags(enabled=False):
        show("without oneDNN", timed(lambda: fused(one, state), max(3, repeats // 10)))
    empty, full = torch.zeros_like(one), torch.ones_like(one)
    show("no event at all", timed(lambda: fused(empty, state), repeats))
    show("every pixel", timed(lambda: fused(full, state), repeats))
    if options.compile:
        compiled = torch.compile(fused)
        show("torch.compile", timed(lambda: compiled(one, state), repeats))
    assert keep_freed_memory()
    show("freed memory kept", timed(lambda: fused(one, state), repeats))
    show("events to boxes, freed memory kept", timed(whole, repeats))


if __name__ == "__main__":
    main()
