"""Carried state: what neurons remember from one window of a recording to the next, and how far gradients follow it.

Station: of training without reset, between two windows. In comes the state that a window left, out goes the one that
the next begins with. Truncated back-propagation through time: a state is detached from the graph of its window, unless
gradients of a later loss are to reach back into it (Cordone's thesis, chapter 5; facts/models.md, A.6).
"""

from __future__ import annotations

from torch import Tensor

from spiketrack.spiking.neurons import State


class CarriedState:
    """The state of B streams. detach_after: most windows without labels that stay in the graph; 0: none."""

    def __init__(self, detach_after: int) -> None:
        self.detach_after = detach_after
        self.state: State | None = None
        self.in_graph = 0  # windows without labels that gradients of the next loss reach

    @property
    def may_reach(self) -> bool:
        """Whether one more window without labels may stay in the graph."""
        return self.in_graph < self.detach_after

    def begin(self, fresh: Tensor) -> State | None:
        """The state for the next window; fresh: (B,) bool, the streams that remember nothing, as a recording begins."""
        if self.state is None:
            return None
        return tuple(membrane.masked_fill(fresh.view(-1, *(1,) * (membrane.ndim - 1)), 0) for membrane in self.state)

    def hand_on(self, state: State, *, reached: bool) -> None:
        """Take the state that a window left. reached: gradients of a later loss reach into that window."""
        self.state = state if reached else _detached(state)
        self.in_graph = self.in_graph + 1 if reached else 0

    def content(self) -> list[Tensor] | None:
        """The state for a checkpoint, all of it where no window is in the graph."""
        return None if self.state is None else list(_detached(self.state))


def _detached(state: State) -> State:
    return tuple(membrane.detach() for membrane in state)
