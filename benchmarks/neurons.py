"""Multi-step neurons, forward and backward: ours against spikingjelly, snntorch, norse and compiled loops.

    python benchmarks/neurons.py [--peers PYTHON] [--threads 2] [--repeats 15] [--keep-memory] [--only ours loop]
        [--device cuda]

PYTHON: an interpreter that has torch, this package, spikingjelly, snntorch and norse; without it only ours and loops.
Every contender runs in a fresh process on the same input (seed 0), T first, float32; a fixed random gradient
goes back. Times are the least of the repeats after two warm-ups, wall and CPU. Memory is the growth of the
process's peak over what it held with input and gradient in place and all libraries loaded, by a step on a small input.
--keep-memory: freed memory stays with the process, for all (spiking/allocation.py).
--device cuda: the same on a GPU, where every step ends with a synchronisation, memory is what torch's allocator counts
there, and spikingjelly 2 takes CUDA or Triton kernels of its own. Not run yet: no GPU was lent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

SHAPES = {"small": (4, 8, 64, 64, 64), "large": (8, 2, 128, 90, 160)}

ONE = """
import json, resource, sys, time, warnings
warnings.simplefilter("ignore")
import torch
contender, shape, threads, repeats, keep, device = json.loads(sys.argv[1])
torch.set_num_threads(threads)
torch.manual_seed(0)
if keep:
    from spiketrack.spiking.allocation import keep_freed_memory
    assert keep_freed_memory()
x = torch.randn(shape).add_(0.5).to(device).requires_grad_()
gradient = torch.randn(shape).to(device)
small = torch.randn(shape[0], 1, 1, 1, 1, device=device, requires_grad=True)


def sigmoid_spike():
    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, v):
            ctx.save_for_backward(v)
            return (v >= 0).to(v.dtype)

        @staticmethod
        def backward(ctx, grad):
            s = torch.sigmoid(4 * ctx.saved_tensors[0])
            return grad * 4 * s * (1 - s)
    return Spike.apply


def lif_loop(rate):
    spike = sigmoid_spike()
    def run(x):
        v, spikes = torch.zeros_like(x[0]), []
        for current in x:
            v = v + (current - v) * rate
            s = spike(v - 1)
            v = v * (1 - s.detach())
            spikes.append(s)
        return torch.stack(spikes)
    return run


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, m):
        ctx.save_for_backward(m)
        return m.clamp(0, 4).round()

    @staticmethod
    def backward(ctx, grad):
        (m,) = ctx.saved_tensors
        return grad * ((m >= 0) & (m <= 4))


def ilif_loop(x):
    rest, spikes = torch.zeros_like(x[0]), []
    for current in x:
        m = 0.25 * rest + current
        s = Round.apply(m)
        rest = m - s.detach()
        spikes.append(s)
    return torch.stack(spikes)


def ours(name):
    from spiketrack.spiking.lif import LIFSettings, lif
    from spiketrack.spiking.neurons import COCO_NEURON, ilif
    if name == "I-LIF":
        return lambda x: ilif(x, None, COCO_NEURON)[0]
    rate = torch.tensor(0.5, device=device, requires_grad=True) if name == "PLIF" else 0.5
    return lambda x: lif(x, None, rate, LIFSettings())[0]


def peer(package, name):
    if package == "spikingjelly":
        from spikingjelly.activation_based import functional, neuron
        layer = {
            "LIF": lambda: neuron.LIFNode(tau=2.0, detach_reset=True, step_mode="m"),
            "PLIF": lambda: neuron.ParametricLIFNode(init_tau=2.0, detach_reset=True, step_mode="m"),
            "I-LIF": lambda: neuron.ILIFNode(step_mode="m"),
        }[name]().to(device)
        def run(x):
            functional.reset_net(layer)
            return layer(x)
        return run
    if package == "snntorch":
        import snntorch
        layer = snntorch.Leaky(beta=0.5, learn_beta=name == "PLIF", reset_mechanism="zero").to(device)
        def run(x):
            mem, spikes = layer.init_leaky(), []
            for current in x:
                s, mem = layer(current, mem)
                spikes.append(s)
            return torch.stack(spikes)
        return run
    import norse.torch as norse
    layer = norse.LIFBoxCell().to(device)
    def run(x):
        state, spikes = None, []
        for current in x:
            s, state = layer(current, state)
            spikes.append(s)
        return torch.stack(spikes)
    return run


package, name = contender
if package == "ours":
    run = ours(name)
elif package.endswith("loop"):
    rate = torch.tensor(0.5, device=device, requires_grad=True) if name == "PLIF" else 0.5
    run = ilif_loop if name == "I-LIF" else lif_loop(rate)
else:
    run = peer(package.removeprefix("compiled "), name)
if package.startswith("compiled "):
    run = torch.compile(run, dynamic=False)


def step():
    x.grad = None
    run(x).backward(gradient)
    if device == "cuda":
        torch.cuda.synchronize()


def peak():
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

run(small).sum().backward()
held = peak()
step()
step()
wall, cpu = [], []
for _ in range(repeats):
    started, used = time.perf_counter(), time.process_time()
    step()
    wall.append(time.perf_counter() - started)
    cpu.append(time.process_time() - used)
print(json.dumps([min(wall), min(cpu), (peak() - held) / 1024]))
"""

CONTENDERS = {
    "LIF": ("ours", "spikingjelly", "snntorch", "norse", "loop", "compiled loop", "compiled spikingjelly"),
    "PLIF": ("ours", "spikingjelly", "snntorch", "loop", "compiled loop", "compiled spikingjelly"),
    "I-LIF": ("ours", "spikingjelly", "loop", "compiled loop", "compiled spikingjelly"),
}
PEERS = ("spikingjelly", "snntorch", "norse", "compiled spikingjelly")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--keep-memory", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", default=None, metavar="CONTENDER")
    options = parser.parse_args()
    columns = ("ms", "CPU ms", "peak MB", "slower", "more CPU")
    print(f"{'neuron':<8}{'shape':<8}{'':<15}" + "".join(f"{name:>10}" for name in columns))
    for shape, sizes in SHAPES.items():
        for neuron, packages in CONTENDERS.items():
            ours = None
            for package in packages:
                if (package in PEERS and options.peers is None) or package not in (options.only or packages):
                    continue
                settings = [
                    [package, neuron],
                    sizes,
                    options.threads,
                    options.repeats,
                    options.keep_memory,
                    options.device,
                ]
                command = [options.peers or sys.executable, "-c", ONE, json.dumps(settings)]
                found = subprocess.run(command, capture_output=True, text=True, check=False)
                if found.returncode:
                    print(f"{neuron:<8}{shape:<8}{package:<15} failed: {found.stderr.strip().splitlines()[-1]}")
                    continue
                wall, cpu, memory = json.loads(found.stdout.splitlines()[-1])
                ours = ours or (wall, cpu)
                line = (wall * 1e3, cpu * 1e3, memory, wall / ours[0], cpu / ours[1])
                print(f"{neuron:<8}{shape:<8}{package:<15}" + "".join(f"{v:>10.1f}" for v in line), flush=True)


if __name__ == "__main__":
    main()
