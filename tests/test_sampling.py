"""The sampler of stacks beside a run that makes garbage whose finalizers wait."""

import subprocess
import sys

# Without care the looks of the sampler start collections, the waiting finalizers let the run go on meanwhile, and the
# sampler then follows frames that are gone: it ends with an AttributeError, or the process with a crash, in a second.
PROGRAM = """
import gc, threading, time
from spiketrack.profiling.sampling import StackSampler

run, waiting = threading.get_ident(), set()

class Slow:
    def __init__(self):
        self.itself = self
        waiting.add(id(self))
    def __del__(self):
        waiting.discard(id(self))
        if threading.get_ident() != run:
            time.sleep(0.002)

def deep(n):
    return deep(n - 1) if n else 0

gc.set_threshold(5)
sampler = StackSampler(lambda: "", 1e-5)
sampler.start()
end = time.monotonic() + 3
while time.monotonic() < end:
    if len(waiting) < 50:
        Slow()
    deep(20)
assert gc.isenabled()
print(sum(len(stack.frames) > 10 for stack in sampler.stop()))
"""


def test_garbage_with_slow_finalizers_does_not_mislead_the_sampler():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) > 0
