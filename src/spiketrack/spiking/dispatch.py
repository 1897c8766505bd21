"""Dispatch: which code runs the neurons on a tensor: compiled loops, Triton kernels or torch operations.

Station: at the door of `lif` and `ilif`. The three compute the same; the first two go over memory once each way.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

Way = Literal["loops", "triton", "torch"]

LEAST_TRITON = (3, 3)  # the first one whose kernels may hold tuples; torch 2.7 brings it
SWITCH = "SPIKETRACK_TRITON"


def way_of(x: Tensor) -> Way:
    """loops (numba) on the CPU, triton on CUDA where that package is there, torch elsewhere and where torch compiles.

    SPIKETRACK_TRITON=0 in the environment when a process first asks: torch on CUDA, too.
    """
    if torch.compiler.is_compiling():
        return "torch"
    if x.device.type == "cpu":
        return "loops"
    return "triton" if x.device.type == "cuda" and _has_triton() else "torch"


@cache
def _has_triton() -> bool:
    if os.environ.get(SWITCH) == "0" or find_spec("triton") is None:
        return False
    import triton

    return tuple(int(part) for part in triton.__version__.split(".")[:2]) >= LEAST_TRITON
