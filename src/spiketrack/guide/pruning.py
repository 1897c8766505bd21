"""Pruning: weights that are set to zero, and stay there, in the course of training.

Station: beside a training run, called after every step and epoch. Source: magnitude pruning by a schedule (Zhu and
Gupta, "To prune, or not to prune", 2017). The convolutions that predict (those with a bias) are left whole.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from spiketrack.detector.checkpoint import load_checkpoint, save_checkpoint
from spiketrack.guide.settings import PruningSection
from spiketrack.training import Trainer

log = logging.getLogger(__name__)


class Pruner:
    """Prunes the network of a training run and its average. What is pruned lies in `pruning.pt` for a later resume."""

    def __init__(self, settings: PruningSection, trainer: Trainer) -> None:
        self.settings, self.trainer = settings, trainer
        self.path: Path = trainer.run_dir / "pruning.pt"
        self.masks: dict[str, Tensor] = {}
        self.times = max(1, (trainer.settings.epochs - 1) // settings.frequency)

    def resume(self) -> None:
        """Take what was pruned from the file of the run, or, for an earlier checkpoint, from its zeros."""
        if not self.path.is_file():
            return
        content = load_checkpoint(self.path)
        if content["epoch"] <= self.trainer.epoch:
            self.masks = {name: mask.to(self.trainer.device) for name, mask in content["masks"].items()}
        else:
            self.masks = {name: weight != 0 for name, weight in prunable(self.trainer.model).items()}
        self.on_step()

    def on_step(self) -> None:
        """Set what was pruned back to zero."""
        if self.masks:
            for model in (self.trainer.model, self.trainer.average):
                _apply(model, self.masks)

    def on_epoch(self, epoch: int) -> None:
        """Prune after epoch `epoch` (from 1), never after the last: what is left must learn to do without."""
        if epoch % self.settings.frequency or epoch >= self.trainer.settings.epochs:
            return
        weights = prunable(self.trainer.model)
        share = min(
            share_after(epoch // self.settings.frequency, self.times, self.settings),
            sparsity(weights) + self.settings.amount,
        )
        choose = smallest_weights if self.settings.type == "unstructured" else smallest_channels
        self.masks = choose(weights, share)
        self.on_step()
        save_checkpoint(self.path, {"masks": self.masks, "epoch": epoch})
        self.trainer.save()  # the checkpoint of the epoch has the zeros
        log.info(
            "Pruning: %.1f %% of the weights are zero after epoch %d",
            100 * sparsity(prunable(self.trainer.model)),
            epoch,
        )


def share_after(time: int, times: int, settings: PruningSection) -> float:
    """Share of zeros after the `time`-th of `times` times."""
    if settings.schedule == "step":
        return min(settings.max_sparsity, 1 - (1 - settings.amount) ** time)
    done = min(1.0, time / times)
    return settings.max_sparsity * (done if settings.schedule == "linear" else (1 - math.cos(math.pi * done)) / 2)


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
    """Masks (true: kept) without the share of the weights that are smallest in the whole network."""
    sizes = torch.cat([w.abs().flatten() for w in weights.values()])
    kept = torch.ones_like(sizes, dtype=torch.bool)
    kept[sizes.argsort(stable=True)[: round(share * len(sizes))]] = False
    parts = kept.split([w.numel() for w in weights.values()])
    return {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)}


def smallest_channels(weights: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Masks (true: kept) without the share of every layer's output channels that have the smallest norm."""
    masks = {}
    for name, w in weights.items():
        norms = w.flatten(1).norm(dim=1)
        kept = torch.ones_like(w, dtype=torch.bool)
        kept[norms.argsort(stable=True)[: int(share * len(norms))]] = False
        masks[name] = kept
    return masks


@torch.no_grad()
def _apply(model: nn.Module, masks: dict[str, Tensor]) -> None:
    for name, mask in masks.items():
        model.get_parameter(name).mul_(mask)
