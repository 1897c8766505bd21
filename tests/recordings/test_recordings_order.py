"""Passes: time order across runs against a plain oracle, starting at a time, hold-back that stays bounded."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording_encoders import as_tuples, dat_header, encode_dat

import spiketrack.recordings.recording as recording_module
from spiketrack.recordings import REORDER_US, open_recording


def oracle(rows):
    """What a pass must deliver: drop what is too late, sort the rest stably; and the counts."""
    kept, latest, repaired, invalid = [], None, Counter(), Counter()
    for row in rows:
        if latest is not None and row[0] < latest - REORDER_US:
            invalid["time_backwards"] += 1
            continue
        if latest is not None and row[0] < latest:
            repaired["reordered"] += 1
        latest = row[0] if latest is None else max(latest, row[0])
        kept.append(row)
    return sorted(kept, key=lambda row: row[0]), repaired, invalid


@pytest.fixture(scope="module")
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording_module, "CHUNK_EVENTS", 64)
        yield 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("order")


steps = st.lists(
    st.one_of(st.integers(-30, 200), st.integers(-300, 400), st.sampled_from([-REORDER_US, -REORDER_US - 1, 5000])),
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


@given(steps, st.integers(95_000, 160_000))
@settings(max_examples=80, deadline=None)
def test_order_across_runs_and_start(small_chunks, folder, steps, start_us):
    path, rows = write(folder, steps)
    expected, repaired, invalid = oracle(rows)
    recording = open_recording(path)
    late_start = as_tuples(list(recording.chunks(start_us)))
    counts = recording.invalid, recording.repaired, recording.first_invalid
    runs = list(recording.chunks())
    assert all(0 < len(run) <= small_chunks for run in runs)
    assert as_tuples(runs) == expected
    assert recording.repaired == repaired
    assert recording.invalid == invalid
    assert late_start == [row for row in expected if row[0] >= start_us]
    # the second time, the pass continues from a place that an earlier pass remembered
    assert as_tuples(list(recording.chunks(start_us))) == late_start
    assert (recording.invalid, recording.repaired, recording.first_invalid) == counts == (invalid, repaired, counts[2])


def test_a_late_start_skips_what_an_earlier_pass_saw(small_chunks, folder, monkeypatch):
    path, _ = write(folder, [1000] * 1000)
    recording = open_recording(path)
    last = list(recording.chunks())[-1]
    asked = []
    original = recording._reader
    monkeypatch.setattr(recording, "_reader", lambda tally, place: asked.append(place[0]) or original(tally, place))
    assert as_tuples(list(recording.chunks(int(last.t[-1])))) == as_tuples([last[-1:]])
    assert asked[0] > path.stat().st_size - 8 * 2 * small_chunks


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


def test_hold_back_is_bounded_where_all_events_share_one_time(small_chunks, folder):
    path = folder / "c.dat"
    n = 1000
    # the last event is within the tolerance, but what precedes it was handed out to keep memory bounded
    path.write_bytes(
        dat_header() + encode_dat([2000] * n + [1999], [i % 64 for i in range(n + 1)], [0] * (n + 1), [0] * (n + 1))
    )
    recording = open_recording(path)
    runs = list(recording.chunks())
    assert [x for _, x, _, _ in as_tuples(runs)] == [i % 64 for i in range(n)]
    assert max(map(len, runs)) <= small_chunks
    assert recording.invalid == {"time_backwards": 1}
