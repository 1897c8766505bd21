"""The disk cache: the events of the source or none, whatever happened to a file and whoever else is at it."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from moving_squares import CLASS_NAMES
from test_sequences import INPUT, PLAIN, STRONG, equal, samples_of
from test_training import assert_same, losses_of, make_trainer

from spiketrack.datasets import disk_cache, event_file
from spiketrack.datasets.disk_cache import DiskCache, key_of
from spiketrack.datasets.etram import find_sequences
from spiketrack.datasets.event_file import EventFile, UnusableError
from spiketrack.datasets.streams import StreamSamples
from spiketrack.errors import RecordingError
from spiketrack.events import Events, Triggers
from spiketrack.filters import FilterSettings, filtered_recording
from spiketrack.recordings import ReadOptions, create_recording, open_recording, windows

COUNT = 5_000
WINDOWS = ((0, 50_000), (-10, 1), (99_000, 200_000), (300_000, 300_001), (25_000, 25_001), (-9, -8), (0, 100_000))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """So that a few thousand events have many check sums, and end within a piece."""
    monkeypatch.setattr(event_file, "PIECE", 64)
    monkeypatch.setattr(disk_cache, "_RUN_EVENTS", 300)


def events_of(seed=0, count=COUNT):
    """Many share a time, so that a window may begin within a piece and among equals."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 100_000, count)) // 25 * 25
    columns = rng.integers(0, 64, count), rng.integers(0, 48, count), rng.integers(0, 2, count)
    return Events.repaired(t, *columns, 64, 48)[0]


def written(path, events, triggers=None):
    with create_recording(path, 64, 48) as writer:
        writer.append(events, triggers or Triggers.empty())
    return open_recording(path, 64, 48)


@pytest.fixture
def source(tmp_path):
    return written(tmp_path / "one.raw", events_of())


@pytest.fixture
def cache(tmp_path):
    return DiskCache(tmp_path / "cache")


def columns(events):
    return [(column.dtype, column.tolist()) for column in (events.t, events.x, events.y, events.p)]


def file_of(cache):
    (path,) = cache.folder.iterdir()
    return path


@pytest.mark.parametrize("name", ["one.raw", "one.h5", "one.dat"])
def test_windows_and_runs_are_those_of_the_source(tmp_path, cache, name):
    triggers = Triggers(np.array([5, 9]), *np.array([[1, 1], [1, 0]], np.uint8))
    source = written(tmp_path / name, events_of(), None if name == "one.dat" else triggers)  # DAT holds none
    cached = cache.open(source)
    assert (cached.path, cached.format, cached.width, cached.height) == (source.path, source.format, 64, 48)
    for start, end in WINDOWS:
        window, expected = cached.read(start, end), source.read(start, end)
        assert columns(window) == columns(expected)
        assert (window.start_us, window.end_us, window.width, window.height) == (start, end, 64, 48)
    for start in (None, -1, 0, 12_345, 99_999, 100_001):
        none = [Events.empty(64, 48)]
        runs = list(cached.chunks(start))
        assert columns(Events.concatenate([*none, *runs])) == columns(
            Events.concatenate([*none, *source.chunks(start)])
        )
        assert all(0 < len(run) <= 300 for run in runs)
    assert [columns(w) for w in windows(cached, 10_000)] == [columns(w) for w in windows(source, 10_000)]
    triggers = [[t.tolist() for _, t_ in r.chunks_with_triggers() for t in (t_.t, t_.value)] for r in (source, cached)]
    assert triggers[0] == triggers[1]


def test_an_empty_recording(tmp_path, cache):
    cached = cache.open(written(tmp_path / "none.h5", Events.empty(64, 48)))
    assert list(cached.chunks()) == []
    assert columns(cached.read(0, 10)) == columns(Events.empty(64, 48))


@pytest.mark.parametrize(
    "t",
    [
        [-7, -7, 0, 1 << 31, 1 << 32, (1 << 32) + 1, (1 << 33) + 5, (1 << 33) + 5],  # 71 minutes are 2^32 us
        [-(1 << 62), -(1 << 62) + 1, 0, 1 << 61, 1 << 62],
        [*range(0, 200, 2), *range(1 << 40, (1 << 40) + 3)],
        [5] * 200,
        [*([5] * 63), *([6] * 70), 7],
    ],
)
def test_times_that_are_far_apart_or_alike(tmp_path, cache, t):
    """Pieces are of 64 events here."""
    n = len(t)
    rng = np.random.default_rng(n)
    events = Events.repaired(np.array(t), *rng.integers(0, 48, (2, n)), rng.integers(0, 2, n), 64, 48)[0]
    cached = cache.open(written(tmp_path / "far.h5", events))
    assert columns(Events.concatenate([*cached.chunks()])) == columns(events)
    edges = sorted({time + step for time in [t[0], t[n // 2], t[-1]] for step in (-1, 0, 1)})
    for start in edges:
        assert [len(run) for run in cached.chunks(start)] == [n - sum(time < start for time in t)][: start <= t[-1]]
        for end in edges:
            if start < end:
                assert columns(cached.read(start, end)) == columns(events.between(start, end))


def test_a_sensor_too_high_for_a_row(tmp_path, cache):
    columns_of_one = np.array([1]), np.array([65_535]), np.array([32_767]), np.array([1])
    wide = Events.repaired(*columns_of_one, 65_536, 32_768)[0]
    path = tmp_path / "wide.h5"
    with create_recording(path, 65_536, 32_768) as writer:
        writer.append(wide)
    assert columns(cache.open(open_recording(path)).read(0, 2)) == columns(wide)
    with pytest.raises(RecordingError, match=r"wide.h5: 32,769 rows; .* at most 32,768"):
        cache.open(open_recording(path, 65_536, 32_769))


def test_the_size_is_eight_bytes_an_event_and_twenty_a_piece(cache, source):
    cache.open(source)
    path = file_of(cache)
    with open(path, "rb") as file:
        file.seek(-20, os.SEEK_END)
        text = int.from_bytes(file.read(8), "little")
    assert path.stat().st_size == 8 + 8 * COUNT + 20 * -(-COUNT // 64) + text + 20


def test_it_is_decoded_once_for_all_runs(cache, source):
    cache.open(source)
    for _ in range(2):
        other = DiskCache(cache.folder)
        other.open(open_recording(source.path, 64, 48)).read(0, 10)
        assert (other.built, other.rebuilt) == (0, Counter())
    assert (cache.built, cache.rebuilt) == (1, Counter())


def test_every_way_of_reading_has_a_file_of_its_own(cache, source, tmp_path):
    mask = tmp_path / "mask.npy"
    np.save(mask, np.arange(48 * 64).reshape(48, 64) % 3 > 0)
    filters = FilterSettings.model_validate({"region": {"mask": mask}, "background": {"dt_us": 2_000}})
    ways = [
        source,
        filtered_recording(source, filters),
        filtered_recording(source, FilterSettings(polarity="on")),
        open_recording(source.path, 64, 48, options=ReadOptions(on_invalid="keep")),
        open_recording(source.path, 60, 40),
    ]
    for way in ways:
        cached = cache.open(way)
        for start, end in WINDOWS:
            assert columns(cached.read(start, end)) == columns(way.read(start, end))
        assert dict(cached.invalid) == dict(way.invalid) or way is ways[-1]
    assert cache.open(ways[-1]).invalid["off_sensor"] > 0  # as counted when all of it was decoded
    assert (cache.built, len(list(cache.folder.iterdir()))) == (5, 5)
    np.save(mask, np.arange(48 * 64).reshape(48, 64) % 5 > 0)
    other = filtered_recording(source, filters)
    assert columns(cache.open(other).read(0, 9_999)) == columns(other.read(0, 9_999))


def test_a_changed_source_is_decoded_anew(cache, source):
    before = columns(cache.open(source).read(0, 100_000))
    written(source.path, events_of(seed=1))
    source = open_recording(source.path, 64, 48)
    after = columns(cache.open(source).read(0, 100_000))
    assert before != after == columns(source.read(0, 100_000))
    assert (cache.built, cache.rebuilt) == (2, Counter(other=1))
    assert len(list(cache.folder.iterdir())) == 1
    status = source.path.stat()
    os.utime(source.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    cache.open(source)
    assert cache.rebuilt == Counter(other=2)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def damages(content):
    """Every part of a file, damaged: (kind, content)."""
    yield from (("damaged", content[:size]) for size in (len(content) - 1, len(content) // 2, 8))
    yield from (("other", content) for content in (b"", b"something else altogether", flipped(content, 6)))
    yield "damaged", content + b"\0"
    yield from (("damaged", flipped(content, len(content) - back)) for back in (1, 10, 16, 20, 21, 200))
    yield "damaged", flipped(content, 8 + 8 * COUNT + 7)  # the pieces
    yield "damaged", content[:-20] + bytes(8) + content[-12:]
    yield "damaged", content[:8] + content[8 + 8 :]  # one event is gone
    yield "other", content.replace(b'"decoding": 1', b'"decoding": 0')


def resealed(content):
    """The same with a right check sum of its description."""
    length = int.from_bytes(content[-20:-12], "little")
    text = content[-20 - length : -20]
    return content[:-12] + event_file.crc32(text).to_bytes(4, "little") + content[-8:]


def test_a_file_that_is_damaged_is_made_anew_and_counted(cache, source):
    expected = columns(cache.open(source).read(0, 100_000))
    path = file_of(cache)
    whole = path.read_bytes()
    for kind, content in damages(whole):
        path.write_bytes(resealed(content) if b'"decoding": 0' in content else content)
        again = DiskCache(cache.folder)
        assert columns(again.open(source).read(0, 100_000)) == expected
        assert (again.built, again.rebuilt) == (1, Counter({kind: 1}))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("byte", [0, 3, 4, 7])
def test_no_event_of_a_damaged_piece_is_handed_out(cache, source, byte):
    """Damage within the columns is met where it is read, and the run goes on with the right events."""
    at = 8 + 8 * (COUNT // 2) + byte
    expected = columns(source.read(20_000, 90_000))
    cached = cache.open(source)
    path = file_of(cache)
    whole = path.read_bytes()

    def of_runs():
        return Events.concatenate([*cached.chunks(20_000)]).between(0, 90_000)

    for get in (lambda: cached.read(20_000, 90_000), of_runs):
        path.write_bytes(flipped(whole, at))
        assert columns(get()) == expected
    assert cache.rebuilt == Counter(damaged=2)
    assert path.read_bytes() == whole
    path.write_bytes(flipped(whole, at))
    far = DiskCache(cache.folder)
    assert columns(far.open(source).read(0, 1_000)) == columns(source.read(0, 1_000))
    assert far.rebuilt == Counter()  # a window costs, and checks, its own events


def test_a_time_that_misleads_the_search_is_found_out(cache, source):
    """A time is sought within pieces that were checked."""
    expected = [columns(source.read(start, end)) for start, end in WINDOWS]
    cache.open(source)
    path = file_of(cache)
    whole = path.read_bytes()
    for row in range(1, COUNT, 501):
        path.write_bytes(whole[: 8 + 8 * row] + b"\xff" * 4 + whole[12 + 8 * row :])
        cached = DiskCache(cache.folder).open(source)
        assert [columns(cached.read(start, end)) for start, end in WINDOWS] == expected


def test_what_breaks_at_once_again_is_an_error(cache, source, monkeypatch):
    cached = cache.open(source)

    def broken(*_):
        raise UnusableError("damaged", "worn out")

    monkeypatch.setattr(EventFile, "window", broken)
    with pytest.raises(RecordingError, match=r"worn out.* does not help.*data\.cache_dir"):
        cached.read(0, 10)
    assert cache.rebuilt == Counter(damaged=3)


def test_a_file_made_anew_by_another_process_is_taken(cache, source):
    """Two that met the same damage: one makes the file, the other takes it."""
    one, other = cache.open(source), DiskCache(cache.folder).open(source)
    path = file_of(cache)
    path.write_bytes(flipped(path.read_bytes(), 8 + 8 * 10))
    expected = columns(source.read(0, 5_000))
    assert columns(one.read(0, 5_000)) == columns(other.read(0, 5_000)) == expected
    assert (cache.built, other._cache.built) == (2, 0)


def test_windows_outlive_the_file(cache, source):
    window = cache.open(source).read(0, 50_000)
    shutil.rmtree(cache.folder)
    assert columns(window) == columns(source.read(0, 50_000))


def test_a_file_that_was_deleted_is_made_anew(cache, source):
    cached = cache.open(source)
    shutil.rmtree(cache.folder)
    assert columns(cached.read(0, 5_000)) == columns(source.read(0, 5_000))
    assert (cache.built, cache.rebuilt) == (2, Counter())


def test_a_full_disk_names_the_folder_and_leaves_nothing(cache, source):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(RecordingError, match=r"data\.cache_dir .*cache: .*too large.*8 bytes an event"):
            cache.open(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(cache.folder.iterdir()) == []
    assert len(cache.open(source).read(0, 100_000)) == COUNT


def test_a_folder_that_cannot_be_made(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match=r"file/cache: .*name another folder"):
        DiskCache(tmp_path / "file" / "cache").open(source)


def test_a_source_that_changes_while_it_is_decoded_is_not_kept(cache, source, monkeypatch):
    write = disk_cache.write_events

    def and_touch(*arguments):
        write(*arguments)
        os.utime(source.path, ns=(1, 1))

    monkeypatch.setattr(disk_cache, "write_events", and_touch)
    with pytest.raises(RecordingError, match="changes while it is decoded"):
        cache.open(source)
    assert list(cache.folder.iterdir()) == []


def test_several_at_once_make_each_file_once(tmp_path):
    sources = [written(tmp_path / f"{i}.raw", events_of(seed=i)) for i in range(6)]
    caches = [DiskCache(tmp_path / "cache") for _ in range(4)]
    told = []
    threads = [
        threading.Thread(target=cache.fill, args=(sources, first), kwargs={"on_build": lambda *said: told.append(said)})
        for first, cache in enumerate(caches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(cache.built for cache in caches) == 6
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".events"] * 6
    assert {total for _, total, _ in told} == {6}
    assert max(done for done, _, _ in told) == 6
    assert f"0.raw, {COUNT:,} events" in {name for _, _, name in told}
    late = DiskCache(tmp_path / "cache")
    late.fill(sources, 5)
    assert late.built == 0


def test_what_another_process_is_at_is_left_to_it(tmp_path):
    """Of three recordings the first is taken: the others are made, then the first is waited for."""
    sources = [written(tmp_path / f"{i}.raw", events_of(seed=i)) for i in range(3)]
    cache, other = DiskCache(tmp_path / "cache"), DiskCache(tmp_path / "cache")
    path = other._place(sources[0], key_of(sources[0]))
    done = []
    with other._claimed(path.with_name(f".{path.name}.part"), waits=False) as part:
        assert part is not None
        thread = threading.Thread(
            target=cache.fill, args=(sources,), kwargs={"on_build": lambda n, total, name: done.append(n)}
        )
        thread.start()
        while max(done, default=0) < 2:
            thread.join(0.01)
        assert thread.is_alive()
        other._write(part, path, sources[0], key_of(sources[0]), lambda count: None)
    thread.join()
    assert (cache.built, other.built, max(done)) == (2, 1, 3)


PROGRAM = """
import os, signal, sys
from spiketrack.datasets import disk_cache
from spiketrack.recordings import open_recording
def killed(file, *rest):
    file.write(bytes(1000)); file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
disk_cache.write_events = killed
disk_cache.DiskCache(disk_cache.Path(sys.argv[1])).open(open_recording(sys.argv[2], 64, 48))
"""


def test_what_a_killed_process_leaves_is_used_up(cache, source):
    subprocess.run([sys.executable, "-c", PROGRAM, str(cache.folder), str(source.path)], check=False)
    (left,) = cache.folder.iterdir()
    assert left.suffix == ".part"
    assert columns(cache.open(source).read(0, 9_999)) == columns(source.read(0, 9_999))
    assert file_of(cache).suffix == ".events"


@pytest.mark.parametrize("make", [samples_of, None])
def test_a_disk_cache_changes_no_batch(squares, cache, make):
    filters = FilterSettings(polarity="on")
    plain = find_sequences(squares, "train", CLASS_NAMES, filters)
    kept = [replace(sequence, cache=cache) for sequence in plain]
    if make is None:

        def make(sequences, augment):
            return StreamSamples(sequences, INPUT, augment, steps=3, batch_size=2, seed=0)

    for augment in (PLAIN, STRONG):
        batches = list(zip(make(kept, augment=augment).epoch(1), make(plain, augment=augment).epoch(1), strict=True))
        assert batches
        assert all(equal(one, other) for one, other in batches)
    assert cache.built == len(plain)


def test_a_disk_cache_changes_no_loss_weight_or_score(squares, cache, tmp_path):
    plain, kept = (make_trainer(squares, tmp_path / name, epochs=1) for name in "ab")
    for sequences in (kept.samples.sequences, kept.validation):
        sequences[:] = [replace(sequence, cache=cache) for sequence in sequences]
    assert losses_of(plain) == losses_of(kept)
    assert_same(plain.model.state_dict(), kept.model.state_dict())
    assert_same([record.val_map for record in plain.history], [record.val_map for record in kept.history])
    assert cache.built == 4


CONFIG = """
name: squares
data: {{root: {root}, cache_dir: events}}
input: {{slice_us: 20000}}
training: {{batch_size: 2, steps: 2, epochs: 1, max_steps: 2}}
evaluation: {{warm_up_steps: 2}}
"""


def test_training_by_command_fills_the_folder_first(run, squares, tmp_path):
    (tmp_path / "squares.yaml").write_text(CONFIG.format(root=squares))
    code, _, err = run("train", "squares.yaml")
    assert code == 0, err
    assert "decoding" in err
    assert len(list((tmp_path / "events").iterdir())) == 4 + 2  # train and val, not test
    losses = [json.loads((tmp_path / "runs/squares/history.json").read_text())]
    code, _, err = run("train", "squares.yaml", "--set", "data.cache_dir=null", "--out", "plain")
    assert code == 0, err
    losses.append(json.loads((tmp_path / "plain/history.json").read_text()))
    assert losses[0] == losses[1]
