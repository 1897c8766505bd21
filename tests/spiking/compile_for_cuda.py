"""Compile the Triton kernels for a GPU that is not there; what was made, as JSON: `compile_for_cuda.py 80`.

Everything up to the launch runs as it would: the autograd functions, the binding of arguments, Triton's compiler and
ptxas. The number is the GPU's compute capability times ten.
"""

import json
import re
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from spiketrack.spiking import LIFSettings, lif_triton
from spiketrack.spiking.neurons import COCO_NEURON

found = []


class NoDevice:
    """A driver of a GPU of which only the kind is known."""

    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def compile_only(self, *args, grid, warmup, **options):
    kernel = launch(self, *args, grid=grid, warmup=True, **options)
    listing = kernel.asm["ptx"]
    counts = {name: len(re.findall(name, listing)) for name in ("fma.rn.f32", "ld.global.v4.b32", "st.global.v4.b32")}
    found.append({"kernel": self.__name__, "type": str(args[0].dtype), "bytes": len(kernel.asm["cubin"])} | counts)


driver.set_active(NoDevice())
launch, JITFunction.run = JITFunction.run, compile_only
for dtype in (torch.float32, torch.bfloat16, torch.float64):
    x = torch.zeros(3, 1024, dtype=dtype, requires_grad=True)
    state = torch.zeros(1024, dtype=dtype, requires_grad=True)
    rate = torch.tensor(0.5, requires_grad=True)
    spikes, rest = lif_triton.lif(x, state, rate, LIFSettings())
    (spikes.sum() + rest.sum()).backward()
    spikes, rest = lif_triton.ilif(x, None, COCO_NEURON)
    spikes.sum().backward()
print(json.dumps(found))
