"""The Triton kernels, where that package is there: computed in triton_checks.py, compiled in compile_for_cuda.py.

In processes of their own: whether Triton interprets is settled when kernels are defined.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spiketrack.spiking.dispatch import _has_triton

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(
    not _has_triton(),
    reason="no triton 3.3 or newer (torch's CUDA builds and make test bring it), or SPIKETRACK_TRITON=0",
)


def run(*command, **variables):
    found = subprocess.run(
        [sys.executable, *command], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, f"{found.stdout[-4000:]}\n{found.stderr[-4000:]}"
    return found.stdout


def test_kernels_equal_the_loops():
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    said = run("-m", "pytest", str(HERE / "triton_checks.py"), "-p", "no:cacheprovider", **interpret)
    assert " passed" in said
    assert "skipped" not in said


def test_kernels_compile_for_gpus_without_one(tmp_path):
    found = json.loads(run(str(HERE / "compile_for_cuda.py"), "80", TRITON_CACHE_DIR=str(tmp_path)))
    kernels = ["lif_forward", "lif_backward", "ilif_forward", "ilif_backward"]
    assert [(made["kernel"], made["type"]) for made in found] == [
        (kernel, f"torch.{kind}") for kind in ("float32", "bfloat16", "float64") for kernel in kernels
    ]
    assert all(made["bytes"] for made in found)
    single = {made["kernel"]: made for made in found[:4]}
    # no product and sum of LIF is contracted, of I-LIF the one that is asked for; lanes move 4 numbers at a time
    assert [single[kernel]["fma.rn.f32"] > 0 for kernel in kernels] == [False, False, True, True]
    # three steps and the state each: what a kernel reads (currents, state, gradients) and writes
    assert [single[kernel]["ld.global.v4.b32"] for kernel in kernels] == [4, 8, 3, 6]
    assert [single[kernel]["st.global.v4.b32"] for kernel in kernels] == [4, 4, 4, 3]
