"""Passes: time order across runs against a plain oracle, starting at a time, hold-back that stays bounded."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from recording_encoders import as_tuples, dat_header, encode_dat

from spiketrack.recordings import REORDER_US, ReadOptions, open_recording

PIECE = 64  # events of a piece in these tests


def opened(path, **options):
    """A recording in small pieces, so that a few events make many blocks."""
    recording = open_recording(path, options=ReadOptions(**options))
    recording._piece_words = PIECE
    return recording


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("order")


small_steps = st.lists(st.one_of(st.integers(-30, 200), st.integers(-300, 400)), max_size=400)
any_steps = st.lists(
    st.one_of(
        small_steps.map(lambda s: s[0] if s else 0), st.sampled_from([-REORDER_US, -REORDER_US - 1, 5000, -5000])
    ),
    max_size=400,
)


def write(folder, steps):
    now, rows = 100_000, []
    for i, step in enumerate(steps):
        now = max(0, now + step + 60)  # on average forward, so that few events share one millisecond
        rows.append((now, i % 64, i // 64 % 48, i % 2))
    path = folder / "a.dat"
    path.write_bytes(dat_header() + encode_dat(*(zip(*rows, strict=True) if rows else ([], [], [], []))))
    return path, rows


@given(small_steps)
@settings(max_examples=60, deadline=None)
def test_small_disorder_is_sorted_and_counted(folder, steps):
    path, rows = write(folder, [max(-960, step) for step in steps])
    latest, late = 0, 0
    for row in rows:
        late += row[0] < latest
        latest = max(latest, row[0])
    assume(all(row[0] >= max([r[0] for r in rows[: i + 1]]) - REORDER_US for i, row in enumerate(rows)))
    recording = opened(path)
    assert as_tuples(list(recording.chunks())) == sorted(rows, key=lambda row: row[0])
    assert recording.repaired == ({"reordered": late} if late else {})
    assert not recording.invalid


@given(any_steps, st.integers(95_000, 160_000), st.sampled_from(["drop", "keep"]))
@settings(max_examples=80, deadline=None)
def test_any_disorder_ends_sorted_and_accounted_for(folder, steps, start_us, policy):
    path, rows = write(folder, steps)
    recording = opened(path, on_invalid=policy)
    late_start = as_tuples(list(recording.chunks(start_us)))
    counts = recording.invalid, recording.repaired, recording.first_invalid
    found = as_tuples(list(recording.chunks()))
    assert [t for t, *_ in found] == sorted(t for t, *_ in found)
    assert len(found) == len(rows) - (sum(recording.invalid.values()) if policy == "drop" else 0)
    assert set(recording.invalid) <= {"time_backwards", "time_ahead"}
    if policy == "drop":
        assert not set(found) - set(rows)
    else:
        assert sorted(event[1:] for event in found) == sorted(row[1:] for row in rows)
    assert late_start == [row for row in found if row[0] >= start_us]
    # the second time, the pass continues from a place that an earlier pass remembered
    recording._index._spacing = PIECE
    list(recording.chunks())
    assert as_tuples(list(recording.chunks(start_us))) == late_start
    assert (recording.invalid, recording.repaired, recording.first_invalid) == counts


def test_an_event_far_ahead_of_all_others_goes_not_those_after_it(folder):
    path = folder / "d.dat"
    t = [*range(1000, 1050), 9_000_000, *range(1050, 1200)]
    n = len(t)
    path.write_bytes(dat_header() + encode_dat(t, [i % 64 for i in range(n)], [0] * n, [0] * n))
    recording = opened(path)
    assert [time for time, *_ in as_tuples(list(recording.chunks()))] == list(range(1000, 1200))
    assert recording.invalid == {"time_ahead": 1, "bad_clock": 1}
    assert recording.first_invalid["time_ahead"] == "decoded event 50: 9000000 us after 1049 us"


def test_a_repeated_part_of_a_file_goes(folder):
    path = folder / "e.dat"
    t = [*range(10_000, 30_000, 100), *range(20_000, 30_000, 100), *range(30_000, 60_000, 100)]
    path.write_bytes(dat_header() + encode_dat(t, [0] * len(t), [0] * len(t), [0] * len(t)))
    recording = opened(path)
    kept = [time for time, *_ in as_tuples(list(recording.chunks()))]
    assert set(kept) == set(t)
    assert len(t) - len(kept) == sum(recording.invalid.values()) == 89  # of 100, those over 1 ms back


def test_a_late_start_skips_what_an_earlier_pass_saw(folder, monkeypatch):
    path, _ = write(folder, [1000] * 1000)
    recording = opened(path)
    list(recording.chunks())
    recording._index._spacing = PIECE
    last = list(recording.chunks())[-1]
    asked = []
    original = recording._reader
    monkeypatch.setattr(recording, "_reader", lambda tally, place: asked.append(place[0]) or original(tally, place))
    assert as_tuples(list(recording.chunks(int(last.t[-1])))) == as_tuples([last[-1:]])
    assert asked[0] > path.stat().st_size - 8 * 3 * PIECE


@given(any_steps, st.floats(0, 1), st.sampled_from(["drop", "keep"]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_late_start_counts_what_the_whole_pass_counts(folder, steps, share, policy, on_disk):
    """Also where blocks reach back behind the one before: there a later pass must not begin."""
    path, _ = write(folder, steps * 3)
    (folder / "a.dat.spikeindex").unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spiketrack.recordings.index.SPACING_EVENTS", 1)
        patch.setattr("spiketrack.recordings.index._LEAST_WRITTEN", 1)
        recording = opened(path, on_invalid=policy, index=on_disk)
        recording._piece_words = 8
        whole = as_tuples(list(recording.chunks()))
        counts = recording.invalid, recording.repaired, recording.first_invalid
        assume(whole)
        start_us = whole[int(share * (len(whole) - 1))][0]
        if on_disk:
            recording = opened(path, on_invalid=policy)
            recording._piece_words = 8
        assert as_tuples(list(recording.chunks(start_us))) == [event for event in whole if event[0] >= start_us]
        assert (recording.invalid, recording.repaired, recording.first_invalid) == counts


def test_each_pass_starts_anew(folder):
    path = folder / "b.dat"
    path.write_bytes(dat_header() + encode_dat([10, 5, 20], [1, 2, 99], [1, 1, 1], [0, 0, 0]))
    recording = open_recording(path)
    for _ in range(2):
        assert [t for t, *_ in as_tuples(list(recording.chunks()))] == [5, 10]
        assert recording.invalid == {"off_sensor": 1}
        assert recording.repaired == {"reordered": 1}
    older = recording.invalid
    next(recording.chunks())
    assert recording.invalid is not older


def test_hold_back_is_bounded_where_all_events_share_one_time(folder, monkeypatch):
    monkeypatch.setattr("spiketrack.recordings.ordering._MOST_PENDING", 2 * PIECE)
    path = folder / "c.dat"
    n = 1000
    # each pair is the wrong way round, all within the tolerance: no block can be handed out whole
    t = [2000 - i % 2 for i in range(n)]
    path.write_bytes(dat_header() + encode_dat(t, [i % 64 for i in range(n)], [0] * n, [0] * n))
    recording = opened(path)
    runs = list(recording.chunks())
    assert max(map(len, runs)) <= 4 * PIECE
    assert sum(map(len, runs)) + recording.invalid["time_backwards"] == n
