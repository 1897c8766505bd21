"""summarize: what a recording holds, exactly, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spiketrack.events import Events
from spiketrack.recordings.recording import Recording


@dataclass(frozen=True)
class RecordingSummary:
    """The contents of a recording.

    events: how many valid events it has; t_first_us, t_last_us: their first and last time, None without events;
    sum_t: the exact sum of their times, us; on, off: events per polarity; rate: events/s from the first to the
    last event, 0 where they span no time. triggers: external triggers. duplicated: events that are the same as the
    one before them, which are kept: a pixel cannot fire twice at a time. invalid, repaired: dropped and mended events
    by kind, first_invalid: where each kind was first dropped, as in `Recording`.
    """

    format: str
    width: int
    height: int
    events: int
    t_first_us: int | None
    t_last_us: int | None
    sum_t: int
    on: int
    off: int
    rate: float
    triggers: int
    duplicated: int
    invalid: dict[str, int]
    repaired: dict[str, int]
    first_invalid: dict[str, str]


def summarize(recording: Recording) -> RecordingSummary:
    """Read the recording once, in bounded memory. Raises RecordingError where it cannot be read."""
    events = on = sum_t = triggers = duplicated = 0
    first_us = last_us = None
    for run, signals in recording.chunks_with_triggers():
        triggers += len(signals)
        if not len(run):
            continue
        events += len(run)
        duplicated += _repeats(run)
        on += int(np.count_nonzero(run.p))
        sum_t += _exact_sum(run.t)
        first_us = int(run.t[0]) if first_us is None else first_us
        last_us = int(run.t[-1])
    span_us = last_us - first_us if first_us is not None and last_us is not None else 0
    return RecordingSummary(
        format=recording.format,
        width=recording.width,
        height=recording.height,
        events=events,
        t_first_us=first_us,
        t_last_us=last_us,
        sum_t=sum_t,
        on=on,
        off=events - on,
        rate=events / span_us * 1e6 if span_us else 0.0,
        triggers=triggers,
        duplicated=duplicated,
        invalid=dict(recording.invalid),
        repaired=dict(recording.repaired),
        first_invalid=dict(recording.first_invalid),
    )


def _repeats(run: Events) -> int:
    same = run.t[1:] == run.t[:-1]
    for column in (run.x, run.y, run.p):
        same &= column[1:] == column[:-1]
    return int(np.count_nonzero(same))


def _exact_sum(t: NDArray[np.int64]) -> int:
    """The sum of sorted times as a Python int, which does not overflow."""
    if max(abs(int(t[0])), abs(int(t[-1]))) * len(t) < 1 << 63:
        return int(t.sum())
    return (int((t >> 32).sum()) << 32) + int((t & 0xFFFFFFFF).sum())  # t = (t >> 32) 2^32 + (t mod 2^32)
