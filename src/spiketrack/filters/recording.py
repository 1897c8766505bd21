"""FilteredRecording: a recording as it is after its filters, for everything that takes a recording."""

from __future__ import annotations

from collections.abc import Iterator

from spiketrack.events import Events, Triggers
from spiketrack.filters.chain import FilterChain
from spiketrack.filters.settings import NO_FILTERS, FilterSettings
from spiketrack.recordings import Recording


class FilteredRecording(Recording):
    """The events of `source` that the filters leave.

    A pass that starts late begins to read `FilterChain.warm_up_us` earlier, so that the filters have their memories.
    removed: events taken out by the latest pass so far, by filter, those read to warm up included. Raises
    SettingsError where the settings do not fit the sensor.
    """

    def __init__(self, source: Recording, settings: FilterSettings) -> None:
        super().__init__(source.path, source.format, source.width, source.height)
        self.source, self.settings = source, settings
        self._chain = FilterChain(settings, source.width, source.height)

    @property
    def removed(self) -> dict[str, int]:
        return self._chain.counts

    def chunks_with_triggers(self, start_us: int | None = None) -> Iterator[tuple[Events, Triggers]]:
        """See Recording."""
        chain = self._chain = FilterChain(self.settings, self.width, self.height)
        runs = self.source.chunks_with_triggers(None if start_us is None else start_us - chain.warm_up_us)
        for events, triggers in runs:
            self.invalid, self.repaired = self.source.invalid, self.source.repaired
            self.first_invalid = self.source.first_invalid
            kept = chain.apply(events)
            if start_us is not None and len(kept) and kept.t[0] < start_us:
                kept = kept.between(start_us, int(kept.t[-1]) + 1)
            if start_us is not None and len(triggers):
                triggers = triggers.between(start_us, int(triggers.t.max()) + 1)
            if len(kept) or len(triggers):
                yield kept, triggers
        self.invalid, self.repaired = self.source.invalid, self.source.repaired
        self.first_invalid = self.source.first_invalid


def filtered_recording(source: Recording, settings: FilterSettings) -> Recording:
    """The recording with the filters before it; itself where the settings take out nothing."""
    return source if settings == NO_FILTERS else FilteredRecording(source, settings)
