"""convert: a part of a recording into a file of any format that can be written, in bounded memory.

In comes a `Recording` of any format, out goes a new file; times stay as they are, pixels are cropped and merged in
one pass over the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spiketrack.errors import RecordingError, SettingsError
from spiketrack.events import Events, Triggers
from spiketrack.recordings.recording import Recording
from spiketrack.recordings.writing import create_recording


@dataclass(frozen=True)
class Part:
    """What of a recording to convert, and how.

    start_us, end_us: the half-open window [start_us, end_us) of the recording's own time, us; None: from its start, to
    its end. crop: (x, y, width, height) in pixels, the part of the sensor that becomes the new sensor. downsample: k
    merges k x k pixels into one: x // k and y // k after the crop, every event kept, the new sensor rounded up.
    keep_triggers: external triggers too; RecordingError where the new format has no place for those that there are.
    """

    start_us: int | None = None
    end_us: int | None = None
    crop: tuple[int, int, int, int] | None = None
    downsample: int = 1
    keep_triggers: bool = False

    def __post_init__(self) -> None:
        if self.start_us is not None and self.end_us is not None and self.end_us <= self.start_us:
            raise SettingsError(f"convert: end_us = {self.end_us} must come after start_us = {self.start_us}")
        if self.crop is not None and (len(self.crop) != 4 or min(self.crop) < 0 or min(self.crop[2:]) < 1):
            raise SettingsError(f"convert: crop {self.crop} must be x, y >= 0 and a width and height >= 1, in pixels")
        if self.downsample < 1:
            raise SettingsError(f"convert: downsample = {self.downsample} must be at least 1")


@dataclass(frozen=True)
class ConvertSummary:
    """What was written to `path`: its sensor, its events and triggers, and its first and last event, us (None: no
    event). events_read: events of the window before the crop. invalid, repaired, first_invalid: of the source, as far
    as it was read, as in `Recording`."""

    path: Path
    width: int
    height: int
    events: int
    events_read: int
    triggers: int
    t_first_us: int | None
    t_last_us: int | None
    invalid: dict[str, int]
    repaired: dict[str, int]
    first_invalid: dict[str, str]


def convert(
    source: Recording,
    out: str | Path,
    part: Part | None = None,
    *,
    format: str | None = None,
    compression: str | None = None,
    on_progress: Callable[[int, int | None, str], None] | None = None,
) -> ConvertSummary:
    """Write the events of a recording, or of a part of it, to a new file; see `create_recording` for the formats.

    on_progress(events read, None, name of the new file) is called after each run. The new file appears under its name
    only when it is complete. Raises SettingsError where the part does not fit the sensor, RecordingError where a file
    cannot be read or written.
    """
    from spiketrack.recordings.pixels import Pixels

    out, part = Path(out), part or Part()
    if out.exists() and source.path.exists() and out.samefile(source.path):
        raise RecordingError(f"{out}: this is the recording to convert; choose another name")
    _check_crop(part.crop, source)
    pixels = Pixels((source.width, source.height), part.crop, part.downsample)
    events_read = n_events = n_triggers = 0
    first_us = last_us = None
    held = Events.empty(pixels.width, pixels.height)  # one run behind: a trigger may be a little earlier than its run
    with create_recording(out, pixels.width, pixels.height, format=format, compression=compression) as writer:
        for events, triggers in _stretches(source, part):
            events_read += len(events)
            writer.append(held, triggers)
            held = pixels.select(events)
            n_events, n_triggers = n_events + len(held), n_triggers + len(triggers)
            if len(held):
                first_us, last_us = int(held.t[0]) if first_us is None else first_us, int(held.t[-1])
            if on_progress is not None:
                on_progress(events_read, None, out.name)
        writer.append(held)
    return ConvertSummary(
        path=out,
        width=pixels.width,
        height=pixels.height,
        events=n_events,
        events_read=events_read,
        triggers=n_triggers,
        t_first_us=first_us,
        t_last_us=last_us,
        invalid=dict(source.invalid),
        repaired=dict(source.repaired),
        first_invalid=dict(source.first_invalid),
    )


def _check_crop(crop: tuple[int, int, int, int] | None, source: Recording) -> None:
    if crop is None:
        return
    x, y, width, height = crop
    if x + width > source.width or y + height > source.height:
        raise SettingsError(
            f"convert: crop x {x} .. {x + width - 1}, y {y} .. {y + height - 1} leaves the sensor of "
            f"{source.path}, {source.width} x {source.height} pixels"
        )


def _stretches(source: Recording, part: Part) -> Iterator[tuple[Events, Triggers]]:
    """The events and, where wanted, the triggers of the window."""
    start_us, end_us = part.start_us, part.end_us
    if part.keep_triggers:
        stretches = source.chunks_with_triggers(start_us)
    else:
        stretches = ((events, Triggers.empty()) for events in source.chunks(start_us))
    for events, triggers in stretches:
        ended = end_us is not None and len(events) > 0 and events.t[-1] >= end_us
        if ended:
            events = events[: int(np.searchsorted(events.t, end_us))]
        if len(triggers):
            times = triggers.t
            triggers = triggers.between(
                int(times.min()) if start_us is None else start_us, int(times.max()) + 1 if end_us is None else end_us
            )
        yield events, triggers
        if ended:
            return
