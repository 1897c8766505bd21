"""Slabs: tensors over time, seen as flat rows of memory by the kernels of the neurons.

Station: between the neurons and their kernels. In comes a tensor (T, ...) whose x[t] are dense and lie one after the
other, in any order of the other dimensions; out go NumPy views (T, n) of the same memory, and pieces of the n neurons
for several threads. Nothing is copied but what does not lie like that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from spiketrack.spiking.team import shared

Piece = TypeVar("Piece")

LEAST_PER_THREAD = 1 << 17  # neuron-steps; below, giving work away costs more than it saves


def as_slabs(x: Tensor) -> Tensor:
    """The tensor itself where its x[t] lie one after the other, each dense; else a contiguous copy."""
    expected = 1
    for stride, size in sorted(zip(x.stride()[1:], x.shape[1:], strict=True)):
        if size != 1 and stride != expected:
            return x.contiguous()
        expected *= size
    return x if x.shape[0] <= 1 or x.stride(0) == expected else x.contiguous()


def ordered_as(tensor: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The tensor with its elements in the order of memory that the strides of a dense one give; itself if they are.

    Strides of dimensions of one element say nothing and are not compared.
    """
    if all(own == wanted or size == 1 for size, own, wanted in zip(tensor.shape, tensor.stride(), stride, strict=True)):
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def flat(tensor: Tensor | None, like: Tensor | None = None) -> NDArray:
    """(n,) view of a dense tensor in the order of its memory; (0,) of the dtype of `like` for None.

    NumPy has no bfloat16: its bits come as uint16 (bfloat16.py has kernels read and write them).
    """
    if tensor is None:
        assert like is not None
        tensor = like.new_empty(0)
    row = torch.as_strided(tensor.detach(), (tensor.numel(),), (1,))
    return (row.view(torch.uint16) if row.dtype == torch.bfloat16 else row).numpy()


def rows(x: Tensor) -> NDArray:
    """(T, n) view of slabs (T, ...)."""
    return flat(x).reshape(x.shape[0], math.prod(x.shape[1:]))


def in_pieces(x: Tensor, work: Callable[[int, int], Piece]) -> list[Piece]:
    """work(start, stop) over all neurons of x (T, ...), on as many threads as torch may use and the size is worth."""
    return shared(math.prod(x.shape[1:]), x.numel() // LEAST_PER_THREAD, work)
