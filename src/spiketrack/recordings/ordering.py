"""Time order: what becomes of events that a file holds out of order.

Cameras write small backward steps, of 1 to 11 us in real files. They are data and are moved to their place;
an event further back than the tolerance is taken for corrupt, or those before it are, whichever are fewer. In come
blocks in the order of the file, out go blocks sorted by time, and the counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from spiketrack.recordings.recording import Columns, Tally

REORDER_US = 1_000
_MOST_PENDING = 1 << 20


class OrderState(NamedTuple):
    """latest: the latest time seen, us; floor: the latest time handed out; None before. seen: events judged so far."""

    latest: int | None = None
    floor: int | None = None
    seen: int = 0


class TimeOrder:
    """Sorts blocks; the last one stays behind until the next has shown that nothing in it belongs before its end."""

    def __init__(self, tally: Tally, state: OrderState) -> None:
        self._tally, self._state = tally, state
        self._pending: Columns | None = None
        self.orderly = True  # whether no event of the latest block was earlier than those before it

    @property
    def state(self) -> OrderState:
        return self._state

    def push(self, block: Columns, rises: bool | None) -> list[Columns]:
        """The sorted events that no event of the blocks to come can precede.

        rises: whether the block's times are known never to fall; None where that must be looked up. Events more
        than REORDER_US earlier than the latest time before them, or earlier than what was handed out, are
        "time_backwards"; where those that were that much ahead of them are fewer, these are "time_ahead" instead.
        Both are dropped, or get the latest time before them if the policy is to keep. Other late ones are sorted in
        and counted as "reordered".
        """
        t = block.t
        latest, floor, seen = self._state
        if not len(t):
            return []
        if rises is None:
            rises = not (t[1:] < t[:-1]).any()
        self.orderly = bool(rises and (latest is None or t[0] >= latest))
        if self.orderly:
            self._state = OrderState(int(t[-1]), floor, seen + len(t))
            return self._hand_out(self._pending, block)
        self._state = OrderState(latest, floor, seen + len(t))
        before = self._pending
        kept = 0
        if before is not None:
            kept = int(np.searchsorted(before.t, t.min(), side="right"))
            block = before.cut(kept, len(before.t)).followed_by(block)
            before = before.cut(0, kept)
            latest = int(before.t[-1]) if kept else floor
        block = self._arranged(block, latest, seen - (len(block.t) - len(t)))
        last = int(block.t[-1]) if len(block.t) else latest
        self._state = self._state._replace(latest=last)
        out = self._hand_out(before, block)
        if self._pending is not None and len(self._pending.t) > _MOST_PENDING:
            half = len(self._pending.t) - _MOST_PENDING // 2
            out += self._hand_out(self._pending.cut(0, half), self._pending.cut(half, len(self._pending.t)))
        return out

    def rest(self) -> list[Columns]:
        """What stayed behind, at the end of the file."""
        return self._hand_out(self._pending, None)

    def _hand_out(self, columns: Columns | None, pending: Columns | None) -> list[Columns]:
        self._pending = pending if pending is not None and len(pending.t) else None
        if columns is None or not len(columns.t):
            return []
        self._state = self._state._replace(floor=int(columns.t[-1]))
        return [columns]

    def _arranged(self, columns: Columns, latest: int | None, seen: int) -> Columns:
        """Sorted columns without what is out of order; `latest` came before them, `seen` events too."""
        t = columns.t
        running = _running(t, latest)
        lost = t < self._earliest(running)
        ahead = np.zeros(len(t), np.bool_)
        if lost.any():
            ahead = t - REORDER_US > np.minimum.accumulate(t[::-1])[::-1]
            if np.count_nonzero(ahead) < np.count_nonzero(lost):
                running = _running(np.where(ahead, t.min(), t), latest)
                lost = ~ahead & (t < self._earliest(running))
            else:
                ahead[:] = False
        for kind, bad in (("time_ahead", ahead), ("time_backwards", lost)):
            if bad.any():
                i = int(np.argmax(bad))
                where = f"decoded event {seen + i}: {t[i]} us after {running[i]} us"
                self._tally.drop(kind, int(np.count_nonzero(bad)), where)
        bad = ahead | lost
        if bad.any():
            if self._tally.keep:
                columns = columns._replace(t=np.where(bad, running, t))
            else:
                columns, running = columns.select(~bad), running[~bad]
        late = int(np.count_nonzero(columns.t < running))
        if late:
            self._tally.repaired["reordered"] += late
        return columns.select(np.argsort(columns.t, kind="stable"))

    def _earliest(self, running: NDArray[np.int64]) -> NDArray[np.int64]:
        """How early an event may be, given the latest time up to it."""
        earliest = running - REORDER_US
        return earliest if self._state.floor is None else np.maximum(earliest, self._state.floor)


def _running(t: NDArray[np.int64], latest: int | None) -> NDArray[np.int64]:
    running = np.maximum.accumulate(t)
    return running if latest is None else np.maximum(running, latest)
