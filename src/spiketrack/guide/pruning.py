"""Pruning: weights that are set to zero, and stay there, in the course of one training run, as the guides have it.

Station: beside a training run, called after every step and epoch. Which weights go is `deploy.masks`'; pruning a
trained network in rounds, channels too, is `fine_tuning`'s.
"""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor

from spiketrack.deploy.masks import apply_masks, grown, prunable, smallest_channels, smallest_weights, sparsity
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
                apply_masks(model, self.masks)

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
    return grown(settings.max_sparsity, time / times, settings.schedule)
