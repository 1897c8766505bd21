import numpy as np
import pytest
from moving_squares import write_sequence

from spiketrack.boxes import Boxes
from spiketrack.datasets.cache import EVENT_BYTES, EventCache
from spiketrack.events import Events
from spiketrack.recordings import Recording, open_recording

COUNT = 3_000


class Counting(Recording):
    """A recording that counts how often its events are asked for."""

    def __init__(self, source):
        super().__init__(source.path, source.format, source.width, source.height)
        self.source, self.passes, self.reads = source, 0, 0

    def chunks_with_triggers(self, start_us=None):
        self.passes += 1
        return self.source.chunks_with_triggers(start_us)

    def read(self, start_us, end_us):
        self.reads += 1
        return self.source.read(start_us, end_us)


@pytest.fixture
def recording(tmp_path):
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 100_000, COUNT))
    events = Events.repaired(t, rng.integers(0, 64, COUNT), rng.integers(0, 64, COUNT), t % 2, 64, 64)[0]
    labels = Boxes.of([50_000], [[0, 0, 9, 9]], 0, track_id=[1])
    return Counting(open_recording(write_sequence(tmp_path, "one", events, labels)))


def columns(window):
    return [column.tolist() for column in (window.t, window.x, window.y, window.p)]


def test_windows_of_the_cache_are_those_of_the_file_which_is_read_once(recording):
    cache = EventCache(1_000_000)
    for start, end in ((0, 50_000), (-10, 1), (99_000, 200_000), (300_000, 300_001)):
        window, expected = cache.read(recording, start, end), recording.source.read(start, end)
        assert columns(window) == columns(expected)
        assert (window.start_us, window.end_us, window.width, window.height) == (start, end, 64, 64)
    assert (recording.passes, recording.reads) == (1, 0)


def test_what_does_not_fit_is_read_from_its_file(recording, tmp_path):
    cache = EventCache(EVENT_BYTES * COUNT - 1)
    recording.path = tmp_path / "compressed"  # a file that is smaller than its events
    recording.path.touch()
    windows = [cache.read(recording, 0, 50_000) for _ in range(2)]
    assert (recording.passes, recording.reads) == (1, 2)
    assert columns(windows[1]) == columns(recording.source.read(0, 50_000))


def test_a_file_larger_than_the_budget_is_not_even_tried(recording):
    EventCache(recording.path.stat().st_size - 1).read(recording, 0, 50_000)
    assert (recording.passes, recording.reads) == (0, 1)


def test_the_budget_is_shared_by_all_recordings(recording, tmp_path):
    budget = max(recording.path.stat().st_size, EVENT_BYTES * COUNT)
    cache = EventCache(budget)
    cache.read(recording, 0, 1)
    other = Counting(open_recording(recording.path.rename(tmp_path / "two_td.h5")))
    cache.read(other, 0, 1)
    assert (recording.passes, other.passes, other.reads) == (1, 0, 1)
