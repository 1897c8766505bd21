"""A training step of 32-ST-VGG+SSD at 240 x 304: ours against a direct transcription with plain torch modules.

    python benchmarks/train_step_ssd.py [--threads 2] [--repeats 7] [--batch 8] [--rounds 1] [--only-kept]

One time step from a carried state: forward, mean square of the predictions as loss, backward, AdamW. Binary input, a
third of it 1 (seed 0). The transcription is the published layer list as one would write it down: F.pad, BatchNorm2d,
Conv2d, a PLIF of torch operations, maps in torch's default order. Both have the same weights; where their predictions
in float64 differ by more than 1e-6 of their spread the run ends (gradients: tests/spiking/test_folded_norm.py). How
many neurons fire matters: ours adds rows of a kernel for spikes and skips the others (spiking/sparse_conv.py). Each
contender runs in a fresh process, with freed memory kept (spiking/allocation.py; our commands do) and, but for
--only-kept, without; least of the repeats after two warm-ups, wall and CPU. Where its memory lies makes a process up to
a third slower than another of the same code: with --rounds all take turns, the table has the least of all, and each
round's ratio follows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

STEP = """
import json, sys, time
import torch
import torch.nn.functional as F
from torch import nn
from spiketrack.detector.ssd import SSD, SSDSettings
from spiketrack.spiking.allocation import keep_freed_memory

contender, keep, threads, repeats, batch = json.loads(sys.argv[1])
torch.set_num_threads(threads)
torch.manual_seed(0)
if keep:
    assert keep_freed_memory()


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        p = torch.sigmoid(4 * ctx.saved_tensors[0])
        return grad * 4 * p * (1 - p)


class PLIF(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x, v):
        v = v + (x - v) * torch.sigmoid(self.w)
        s = Spike.apply(v - 1)
        return s, v * (1 - s.detach())


class Layer(nn.Module):
    def __init__(self, cin, cout, kernel, stride, padding, spiking=True):
        super().__init__()
        self.padding = padding
        self.norm = nn.BatchNorm2d(cin)
        self.conv = nn.Conv2d(cin, cout, kernel, stride, bias=False)
        self.neuron = PLIF() if spiking else None

    def forward(self, x):
        return self.conv(self.norm(F.pad(x, (self.padding,) * 4)))


class Transcription(nn.Module):
    def __init__(self):
        super().__init__()
        cin, self.body = 32, nn.ModuleList([Layer(2, 32, 4, 4, 0)])
        for cout, stride in ((64, 1), (64, 1), (64, 2), (64, 1), (128, 2), (128, 1), (128, 2), *((128, 2),) * 3):
            self.body.append(Layer(cin, cout, 3, stride, 1))
            cin = cout
        levels = ((64, 4), (128, 6), (128, 6), (128, 6), (128, 4), (128, 4))
        self.boxes = nn.ModuleList(Layer(c, n * 4, 3, 1, 1, False) for c, n in levels)
        self.classes = nn.ModuleList(Layer(c, n * 2, 3, 1, 1, False) for c, n in levels)

    def forward(self, x, state):
        rests, maps = [], []
        for number, layer in enumerate(self.body):
            x = layer(x)
            x, v = layer.neuron(x, torch.zeros_like(x) if state is None else state[number])
            rests.append(v)
            if number in (3, 5, 7, 8, 9, 10):
                maps.append(x)
        of = lambda y, n: y.permute(0, 2, 3, 1).reshape(len(y), -1, n)
        offsets = torch.cat([of(layer(m), 4) for layer, m in zip(self.boxes, maps)], 1)
        return offsets, torch.cat([of(layer(m), 2) for layer, m in zip(self.classes, maps)], 1), tuple(rests)


network = SSD(SSDSettings(backbone="32-ST-VGG"), 2, 2)
del network.backbone.classifier
plain = Transcription()
for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
    norm.weight.data.fill_(2.0)  # so that neurons of random weights fire
for mine, own in zip(plain.parameters(), network.parameters(), strict=True):
    mine.data.copy_(own.data) if mine.ndim else None
x = (torch.rand(batch, 2, 240, 304) < 0.33).float()


def ours(state):
    found, state = network(x[None], state)
    return found.offsets[0], found.logits[0], state


def run_plain(state):
    return plain(x, state)


x = x.double()
with torch.no_grad():
    for a, b in zip(network.double() and ours(None)[:2], plain.double() and run_plain(None)[:2]):
        assert (a - b).abs().max() < 1e-6 * b.std(), ((a - b).abs().max(), b.std())
    fired = float(network.maps(x[None])[0][0].mean())
x, network, plain = x.float(), network.float(), plain.float()
run, parameters = (ours, network) if contender == "ours" else (run_plain, plain)
optimizer = torch.optim.AdamW(parameters.parameters(), lr=1e-4)
with torch.no_grad():
    state = run(None)[2]
wall, cpu = [], []
for _ in range(repeats + 2):
    started, used = time.perf_counter(), time.process_time()
    offsets, logits, left = run(state)
    optimizer.zero_grad()
    (offsets.square().mean() + logits.square().mean()).backward()
    optimizer.step()
    state = tuple(rest.detach() for rest in left)
    wall.append(time.perf_counter() - started)
    cpu.append(time.process_time() - used)
print(json.dumps([min(wall[2:]), min(cpu[2:]), fired]))
"""


def measured(settings: list) -> tuple[float, float, float]:
    """Wall and CPU seconds of a step, and the share of neurons that fire, of a process of its own."""
    found = subprocess.run(
        [sys.executable, "-c", STEP, json.dumps(settings)], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise SystemExit(f"{settings}: {found.stderr}")
    wall, cpu, fired = json.loads(found.stdout)
    return wall, cpu, fired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only-kept", action="store_true")
    options = parser.parse_args()
    contenders = [("ours", True), ("ours", False), ("transcription", True), ("transcription", False)]
    contenders = [(name, keep) for name, keep in contenders if keep or not options.only_kept]
    given = options.threads, options.repeats, options.batch
    rounds = [{one: measured([*one, *given]) for one in contenders} for _ in range(options.rounds)]
    least = {one: [min(found[one][part] for found in rounds) for part in range(2)] for one in contenders}
    ours = least["ours", True]
    print(f"{'contender':<36}{'ms':>9}{'CPU ms':>9}{'slower':>9}{'more CPU':>9}")
    for one, (wall, cpu) in least.items():
        name = f"{one[0]}, freed memory kept" if one[1] else one[0]
        print(f"{name:<36}{wall * 1e3:>9.1f}{cpu * 1e3:>9.1f}{wall / ours[0]:>9.2f}{cpu / ours[1]:>9.2f}")
    by_round = (found["transcription", True][0] / found["ours", True][0] for found in rounds)
    print("transcription / ours, freed memory kept, by round:", *(f"{ratio:.2f}" for ratio in by_round))
    print(f"{rounds[0]['ours', True][2]:.1%} of the neurons of the first map fire")


if __name__ == "__main__":
    main()
