"""windows: a recording cut into half-open time windows, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spiketrack.errors import RecordingError
from spiketrack.events import Events, Window
from spiketrack.recordings.opening import open_recording
from spiketrack.recordings.recording import TIME_LIMIT_US, Recording


def windows(
    source: str | Path | Recording,
    window_us: int,
    *,
    stride_us: int | None = None,
    start_us: int | None = None,
    end_us: int | None = None,
) -> Iterator[Window]:
    """The windows [start_us + k * stride_us, start_us + k * stride_us + window_us) for k = 0, 1, 2, ...

    source: a path or a Recording. stride_us: window_us where None; smaller strides overlap, larger ones leave
    gaps. Windows without events are yielded too.
    start_us: the time of the first event where None (no event: no window).
    end_us given: exactly the windows that end by then, start + k * stride_us + window_us <= end_us, also past the
    last event; with stride_us == window_us each event of these windows comes once, and events after the last
    complete window do not come. end_us None: windows go on up to the first that reaches past the last event
    (it keeps its full length); none starts after the last event.

    Memory is that of the window and a few runs of events. The arrays of a window are views of such a run where the
    window lies within one: copy them to keep a few of many windows.
    Raises RecordingError for a source that cannot be read and for arguments that cannot mean anything, at the call.
    """
    stride_us = window_us if stride_us is None else stride_us
    for name, value in (("window_us", window_us), ("stride_us", stride_us)):
        if not 0 < value <= TIME_LIMIT_US:
            raise RecordingError(f"windows: {name} must be a positive time in microseconds, got {value}")
    for name, value in (("start_us", start_us), ("end_us", end_us)):
        if value is not None and abs(value) > TIME_LIMIT_US:
            raise RecordingError(f"windows: {name} = {value} is no time in microseconds")
    if start_us is not None and end_us is not None and end_us <= start_us:
        raise RecordingError(f"windows: end_us must be after start_us, got [{start_us}, {end_us})")
    recording = source if isinstance(source, Recording) else open_recording(source)
    return _cut(recording, int(window_us), int(stride_us), start_us, end_us)


def _cut(
    recording: Recording, window_us: int, stride_us: int, start_us: int | None, end_us: int | None
) -> Iterator[Window]:
    runs = recording.chunks(start_us)
    buffer: list[Events] = []  # what the next window may need, in order of time
    last_us: int | None = None
    if start_us is None:
        first = next(runs, None)
        if first is None:
            return
        buffer, start_us, last_us = [first], int(first.t[0]), int(first.t[-1])
    start = int(start_us)
    exhausted = False
    while end_us is None or start + window_us <= end_us:
        end = start + window_us
        buffer = [run for run in buffer if run.t[-1] >= start]
        while not exhausted and (last_us is None or last_us < end):
            run = next(runs, None)
            if run is None:
                exhausted = True
            else:
                last_us = int(run.t[-1])
                if last_us >= start:
                    buffer.append(run)
        if end_us is None and (last_us is None or start > last_us):
            return
        parts = [run.between(start, end) for run in buffer] or [Events.empty(recording.width, recording.height)]
        yield Window.of(Events.concatenate(parts), start, end)
        if end_us is None and exhausted and last_us is not None and end > last_us:
            return
        start += stride_us
