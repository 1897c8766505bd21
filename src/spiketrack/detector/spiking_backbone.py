"""Spiking backbone: what ST-VGG and ResCat-SNN have in common.

Station: in comes the representation (T, B, C, H, W), out go class logits per time step, or maps of strides 8, 16 and
32; and the state. Source: Cordone's thesis, chapter 5 (facts/models.md, A.3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spiketrack.spiking.neurons import State, StateFlow
from spiketrack.spiking.norm_first import NormConv

LEAST_SIDE = 32
"""Pixels: the stride of the last map."""


class SpikingBackbone(nn.Module):
    """Layers of spikes with a classifier on the last.

    `logits, state = model(x, state)` classifies, `maps, state = model.maps(x, state)` feeds a detector. A detector has
    no use for the classifier; it is there all the same, so that weights of either form fit the other.

    recompute: activations of the layers after the stem are computed again in the backward pass.

    A subclass sets in_channels, num_classes, classifier and taps (which outputs of `_run` are the maps of strides 8, 16
    and 32), and says with `_run` what its layers give.
    """

    in_channels: int
    num_classes: int
    taps: tuple[int, ...]
    classifier: NormConv
    recompute = False

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x: (T, B, C, H, W). Returns logits (T, B, K) of every time step, summed over the places of the last map."""
        flow = self._flow(x, state)
        last = self._run(x, flow)[-1]
        return self.classifier(last).sum(dim=(2, 3)).unflatten(0, x.shape[:2]), flow.finish()

    def maps(self, x: Tensor, state: State | None = None) -> tuple[list[Tensor], State]:
        """x: (T, B, C, H, W). Returns spikes (T * B, C', H', W') of strides 8, 16 and 32."""
        flow = self._flow(x, state)
        return self.taps_of(x, flow), flow.finish()

    def taps_of(self, x: Tensor, flow: StateFlow) -> list[Tensor]:
        """`maps` as a part of a larger network, whose flow of states it takes part in."""
        outputs = self._run(x, flow)
        return [outputs[i] for i in self.taps]

    def _flow(self, x: Tensor, state: State | None) -> StateFlow:
        check_input(x, self.in_channels, type(self).__name__)
        return StateFlow(x.shape[0], state)

    def _through(self, layer: nn.Module, x: Tensor, flow: StateFlow) -> Tensor:
        """What a layer makes of spikes x; its activations are kept for the backward pass, or not."""
        return flow.recomputed(layer, x) if self.recompute and torch.is_grad_enabled() else layer(x, flow)

    def _run(self, x: Tensor, flow: StateFlow) -> list[Tensor]:
        """The spikes of every layer or block after the stem."""
        raise NotImplementedError


def check_input(x: Tensor, in_channels: int, name: str) -> None:
    """Raise ValueError for another number of dimensions or channels, or a map that would vanish."""
    if x.ndim != 5 or x.shape[2] != in_channels or min(x.shape[3:]) < LEAST_SIDE:
        raise ValueError(
            f"{name}: expected input (T, B, {in_channels}, H, W) with H, W >= {LEAST_SIDE}, got {tuple(x.shape)}"
        )
