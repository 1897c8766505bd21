"""The chain: all filters that the settings ask for, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from spiketrack.events import Events
from spiketrack.filters.masks import load_mask
from spiketrack.filters.settings import FilterSettings

if TYPE_CHECKING:
    from spiketrack.filters.filter import Filter

E = TypeVar("E", bound=Events)


class FilterChain:
    """The filters of one recording; make a new chain for the next recording, or to start anew at another time.

    The order: region, hot_pixels, flicker, polarity, refractory, background, rate. What is surely noise goes first, so
    that it supports nothing and uses up no rate. filters: those that the settings switch on, by name.
    """

    def __init__(self, settings: FilterSettings, width: int, height: int) -> None:
        """Raises SettingsError where a mask cannot be read or the region does not fit the sensor."""
        self.settings, self.width, self.height = settings, width, height
        self.filters = _build(settings, width, height)

    @property
    def counts(self) -> dict[str, int]:
        """Events taken out so far, by filter."""
        return {name: filter.removed for name, filter in self.filters.items()}

    @property
    def warm_up_us(self) -> int:
        """How much earlier than the first event of interest reading should begin: the filters' memories in a row.

        Each filter's state then rests on what the one before it lets through in its own settled state. What is kept is
        then the same as in a pass from the start, except for pixels that never rest (refractory) or beat unsteadily
        (flicker).
        """
        return sum(filter.memory_us for filter in self.filters.values())

    def apply(self, events: E) -> E:
        """The events that stay; a Window keeps its bounds, and without filters the very argument comes back.

        Runs must follow each other in time, over the whole recording: overlapping windows must be cut afterwards.
        Raises ValueError for events of another sensor or of an earlier time than those before.
        """
        for filter in self.filters.values():
            events = filter.apply(events)
        return events


def filtered(runs: Iterable[Events], chain: FilterChain) -> Iterator[Events]:
    """What a chain leaves of each run; runs of which nothing is left do not come."""
    for run in runs:
        kept = chain.apply(run)
        if len(kept):
            yield kept


def _build(settings: FilterSettings, width: int, height: int) -> dict[str, Filter]:
    # numba is imported for the filters in use only
    from spiketrack.filters.hot_pixels import HotPixelFilter
    from spiketrack.filters.noise import BackgroundFilter, FlickerFilter, PolarityFilter, RefractoryFilter
    from spiketrack.filters.rate import RateFilter
    from spiketrack.filters.region import RegionFilter, region_mask

    chosen: dict[str, Filter] = {}
    sensor = (width, height)
    if settings.region != type(settings.region)():
        chosen["region"] = RegionFilter(region_mask(settings.region, *sensor))
    if settings.hot_pixels.rate_hz is not None or settings.hot_pixels.mask is not None:
        path = settings.hot_pixels.mask
        known = None if path is None else load_mask(path, *sensor)
        chosen["hot_pixels"] = HotPixelFilter(settings.hot_pixels, *sensor, known)
    if settings.flicker.band_hz is not None:
        chosen["flicker"] = FlickerFilter(settings.flicker, *sensor)
    if settings.polarity != "both":
        chosen["polarity"] = PolarityFilter(settings.polarity, *sensor)
    if settings.refractory.period_us is not None:
        chosen["refractory"] = RefractoryFilter(settings.refractory, *sensor)
    if settings.background.dt_us is not None:
        chosen["background"] = BackgroundFilter(settings.background, *sensor)
    if settings.rate.limit is not None:
        chosen["rate"] = RateFilter(settings.rate, *sensor)
    return chosen
