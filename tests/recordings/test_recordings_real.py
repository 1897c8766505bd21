"""The truths of the real recordings, to the last event."""

import numpy as np
import pytest

from spiketrack.events import Events
from spiketrack.recordings import ReadOptions, load_labels, open_recording, summarize, windows

pytestmark = pytest.mark.real_data

TRUTHS = {
    "gen3_evt2.raw": ("evt2", 640, 480, 521_252, 913716224, 913812095, 476298094656969, 185_861),
    "evk4_evt3.raw": ("evt3", 1280, 720, 1_218_618, 11200224, 21968221, 18523856550493, 553_295),
    "evk4_same_as_evt3.dat": (
        "dat", 1280, 720, 1_218_618, 11200224 - 11194368, 21968221 - 11194368,
        18523856550493 - 1_218_618 * 11194368, 553_295,
    ),
    "NCARS_obj_004397_td.dat": ("dat", 54, 61, 4_407, 0, 99937, 239318661, 1_671),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUTHS)
def test_every_event_is_there(real_data, name):
    summary = summarize(open_recording(real_data / "recordings" / name))
    found = (summary.format, summary.width, summary.height, summary.events, summary.t_first_us, summary.t_last_us)
    assert (*found, summary.sum_t, summary.on) == TRUTHS[name]
    assert summary.off == summary.events - summary.on
    assert (summary.invalid, summary.repaired) == ({}, {})


def test_evt3_and_dat_tell_the_same_recording(real_data):
    first, second = (
        Events.concatenate(list(open_recording(real_data / "recordings" / name).chunks()))
        for name in ("evk4_evt3.raw", "evk4_same_as_evt3.dat")
    )
    for name in "xyp":
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert np.array_equal(first.t, second.t + 11_194_368)


@pytest.mark.parametrize(("piece_words", "threads"), [(32_769, 1), (1 << 21, 1), (40_001, 2)])
@pytest.mark.parametrize("name", ["gen3_evt2.raw", "evk4_evt3.raw", "evk4_same_as_evt3.dat"])
def test_pieces_of_any_size_give_the_same_events(real_data, name, piece_words, threads):
    recording = open_recording(real_data / "recordings" / name)
    whole = Events.concatenate(list(recording.chunks()))
    recording = open_recording(recording.path, options=ReadOptions(threads=threads))
    recording._piece_words = piece_words
    pieces = Events.concatenate(list(recording.chunks()))
    assert all(np.array_equal(getattr(whole, column), getattr(pieces, column)) for column in "txyp")


def test_windows_from_the_middle(real_data):
    recording = open_recording(real_data / "recordings" / "evk4_evt3.raw")
    whole = Events.concatenate(list(recording.chunks()))
    start_us, end_us = 16_000_000, 18_000_000  # across the wrap of the clock at 16,777,216 us
    found = list(windows(recording, 50_000, start_us=start_us, end_us=end_us))
    assert len(found) == 40
    cut = whole.between(start_us, end_us)
    for name in "txyp":
        assert np.array_equal(np.concatenate([getattr(window, name) for window in found]), getattr(cut, name))


def test_every_nmnist_sample_decodes(real_data):
    samples = sorted((real_data / "nmnist").glob("*/*/*.bin"))
    events = t_last = 0
    for path in samples:
        recording = open_recording(path)
        assert recording.format == "nmnist"
        for run in recording.chunks():
            events += len(run)
            t_last = max(t_last, int(run.t[-1]))
        assert not recording.invalid
        assert not recording.repaired
    assert (len(samples), events, t_last) == (1_100, 4_518_827, 336_040)


def test_etram_labels(real_data):
    path = real_data / "labels" / "etram_val_day_014_bbox.npy"
    boxes, repairs = load_labels(path, width=1280, height=720)
    assert (len(boxes), len(np.unique(boxes.track_id)), repairs) == (1_095, 13, {})
    assert (int(boxes.t[0]), int(boxes.t[-1])) == (11_761_159, 63_027_313)
    assert np.unique(boxes.class_id).tolist() == [0, 1]
    np.testing.assert_allclose(boxes.xyxy[0], [124.5372, 77.25, 187.2129, 122.835], rtol=1e-6)
