"""Masks: single weights that are zero and stay zero, and how the share of what goes grows over a run.

Station: of training. In come the weights of a network, out go masks of the same shapes, true where a weight is kept.
Every width stays as it is (`prune` takes channels out). Sources: magnitude pruning by a schedule (Zhu and Gupta, "To
prune, or not to prune", 2017). The convolutions that predict, those with a bias, are left whole.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Growth = Literal["linear", "cosine", "cubic"]


def grown(share: float, done: float, growth: Growth) -> float:
    """The part of a share that is gone when `done`, in [0, 1], of the run is. cubic: most of it early."""
    done = min(1.0, done)
    if growth == "linear":
        return share * done
    return share * ((1 - math.cos(math.pi * done)) / 2 if growth == "cosine" else 1 - (1 - done) ** 3)


def prunable(model: nn.Module) -> dict[str, Tensor]:
    """The weights of convolutions without bias, by name."""
    return {
        f"{name}.weight": module.weight.detach()
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is None
    }


def sparsity(weights: dict[str, Tensor]) -> float:
    """Share of zeros."""
    return sum(int((w == 0).sum()) for w in weights.values()) / max(1, sum(w.numel() for w in weights.values()))


def smallest_weights(weights: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks without the share of the weights that are smallest in the whole network."""
    sizes = torch.cat([w.abs().flatten() for w in weights.values()])
    kept = torch.ones_like(sizes, dtype=torch.bool)
    kept[sizes.argsort(stable=True)[: round(share * len(sizes))]] = False
    parts = kept.split([w.numel() for w in weights.values()])
    return {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)}


def smallest_channels(weights: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks without the share of every layer's output channels that have the smallest norm."""
    masks = {}
    for name, w in weights.items():
        norms = w.flatten(1).norm(dim=1)
        kept = torch.ones_like(w, dtype=torch.bool)
        kept[norms.argsort(stable=True)[: int(share * len(norms))]] = False
        masks[name] = kept
    return masks


@torch.no_grad()
def apply_masks(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Set what is not kept to zero, in place."""
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)
