from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from moving_squares import write_sequence

from spiketrack.boxes import NO_TRACK, Boxes
from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.datasets.mosaic import Part, mosaic
from spiketrack.datasets.samples import Sample, SampleMaker
from spiketrack.events import Events
from spiketrack.representations import InputSettings

WIDTH, HEIGHT, STEPS = 16, 12, 2


def rng(seed=0):
    return np.random.default_rng(seed)


def part_of(number, labels=None, end_us=100, sequence=None):
    """All counts of sample `number` are its number in the first step and ten more in the second."""
    planes = np.full((STEPS, 1, HEIGHT, WIDTH), number, np.uint8)
    planes[1] += 10
    return Part(planes, labels or [Boxes.empty()] * STEPS, number if sequence is None else sequence, end_us)


def box(t, xyxy, class_id=0, track_id=NO_TRACK):
    return Boxes.of(t, [xyxy], class_id, track_id=[track_id])


def corner_of(planes, number):
    """left, top, right, bottom of where a sample shows."""
    rows, columns = np.nonzero(planes == number)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@given(seed=st.integers(0, 1000))
def test_four_quadrants_around_a_centre(seed):
    made = mosaic([part_of(i) for i in range(4)], 0.3, rng(seed))
    first, second = made.planes[:, 0]
    np.testing.assert_array_equal(second, first + 10)  # step k of the mosaic is step k of all
    corners = [corner_of(first, i) for i in range(4)]
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in corners]
    assert areas == [np.count_nonzero(first == i) for i in range(4)]  # rectangles
    assert sum(areas) == WIDTH * HEIGHT
    (x,) = {left for left, *_ in corners} - {0}
    (y,) = {top for _, top, *_ in corners} - {0}
    assert 4 <= x <= 12
    assert 3 <= y <= 9


def test_every_quadrant_is_reached_by_every_part_and_the_centre_varies():
    made = [mosaic([part_of(i) for i in range(4)], 0.3, rng(seed)).planes[0, 0] for seed in range(200)]
    assert {planes[0, 0] for planes in made} == {0, 1, 2, 3}
    assert {(planes[0] != planes[0, 0]).argmax() for planes in made} == set(range(4, 13))


def test_labels_move_with_the_counts():
    """A part whose single count marks its single box, whichever quadrant and cut are drawn."""
    for seed in range(50):
        parts = []
        for number in range(4):
            planes = np.zeros((STEPS, 1, HEIGHT, WIDTH), np.uint8)
            planes[:, 0, 5:7, 7 + number] = number + 1
            labels = [box(90, [7 + number, 5, 8 + number, 7], class_id=number), box(100, [0, 0, 0.5, 0.5], 9)]
            parts.append(Part(planes, labels, 0, 100))
        made = mosaic(parts, 0.99, rng(seed))
        found = {int(c): corners for c, corners in zip(made.labels[0].class_id, made.labels[0].xyxy, strict=True)}
        for number in range(4):
            rows, columns = np.nonzero(made.planes[0, 0] == number + 1)
            if len(rows) == 2:
                expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert found.pop(number).tolist() == expected
        assert not found


def test_a_label_cut_by_a_seam_by_hand():
    """A box as wide and high as the sample covers its whole quadrant; least_visible decides whether it stays."""
    labels = [box(90, [0, 0, WIDTH, HEIGHT]), box(100, [0, 0, WIDTH, HEIGHT])]
    made = mosaic([part_of(0, labels), *(part_of(i) for i in (1, 2, 3))], 0.0, rng(3))
    left, top, right, bottom = corner_of(made.planes[0, 0], 0)
    for boxes in made.labels:
        assert boxes.xyxy.tolist() == [[left, top, right, bottom]]
    share = (right - left) * (bottom - top) / (WIDTH * HEIGHT)
    for least, kept in ((share - 0.01, 1), (share + 0.01, 0)):
        made = mosaic([part_of(0, labels), *(part_of(i) for i in (1, 2, 3))], least, rng(3))
        assert [len(boxes) for boxes in made.labels] == [kept, kept]


def test_a_cut_shows_the_centre_of_a_label():
    labels = [box(90, [13, 1, 15, 3]), box(100, [13, 1, 15, 3])]
    for seed in range(100):
        made = mosaic([part_of(i, labels) for i in range(4)], 0.25, rng(seed))
        assert [len(boxes) for boxes in made.labels] == [4, 4]


def test_a_step_is_labelled_where_all_four_are():
    known, empty = box(100, [2, 2, 6, 6]), Boxes.empty()
    labels = [[None, known], [known, empty], [known, known], [empty, empty]]
    made = mosaic([part_of(i, own) for i, own in enumerate(labels)], 0.0, rng())
    assert made.labels[0] is None
    assert len(made.labels[1]) == 2
    labels[1] = [known, None]
    assert mosaic([part_of(i, own) for i, own in enumerate(labels)], 0.0, rng()) is None


def test_clock_and_identities_are_those_of_the_first():
    """Parts of the first's own recording keep their identities; those of others never meet them, in any two steps."""
    numbers, ends, own = [7, 7, 3, 5], [1_000, 400, 2_000, 90], [4, 4, 4, NO_TRACK]
    parts = [
        part_of(i, [box(end - 10, [3, 3, 9, 9], i, track), box(end, [3, 3, 9, 9], i, track)], end, number)
        for i, (number, end, track) in enumerate(zip(numbers, ends, own, strict=True))
    ]
    made = mosaic(parts, 0.0, rng())
    assert (made.sequence, made.end_us) == (7, 1_000)
    assert [set(boxes.t.tolist()) for boxes in made.labels] == [{990}, {1_000}]
    first, second = (dict(zip(boxes.class_id.tolist(), boxes.track_id.tolist(), strict=True)) for boxes in made.labels)
    assert first == second == {0: 4, 1: 4, 2: 4 * 2**32 + 4, 3: NO_TRACK}


def test_parts_stay_as_they_are_and_the_same_generator_gives_the_same_mosaic():
    labels = [box(90, [2, 2, 6, 6]), box(100, [3, 2, 7, 6])]
    parts = [part_of(i, list(labels)) for i in range(4)]
    copies = [part.planes.copy() for part in parts]
    one, two = (mosaic(parts, 0.3, rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.planes, two.planes)
    for a, b in zip(one.labels, two.labels, strict=True):
        np.testing.assert_array_equal(a.xyxy, b.xyxy)
    for part, copy in zip(parts, copies, strict=True):
        np.testing.assert_array_equal(part.planes, copy)
        assert [boxes.xyxy.tolist() for boxes in part.labels] == [boxes.xyxy.tolist() for boxes in labels]


def test_samples_of_different_shape_are_refused():
    narrow = part_of(3)._replace(planes=np.zeros((STEPS, 1, HEIGHT, WIDTH - 1), np.uint8))
    with pytest.raises(ValueError, match="four samples of one shape"):
        mosaic([part_of(0), part_of(1), part_of(2), narrow], 0.3, rng())
    with pytest.raises(ValueError, match="four samples"):
        mosaic([part_of(0), part_of(1)], 0.3, rng())


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Four recordings of a 64 x 64 sensor; in recording i every event lies in column 10 i, its label around it."""
    root, made = tmp_path_factory.mktemp("columns"), []
    for i in range(4):
        t = np.arange(0, 200_000, 50)
        y = (t // 50) % 64
        events = Events.repaired(t, np.full_like(t, 10 * i), y, np.ones_like(t), 64, 64)[0]
        labels = Boxes.of([50_000, 100_000, 150_000], [[10 * i - 2, 0, 10 * i + 3, 64]] * 3, i, track_id=[1, 1, 1])
        path = write_sequence(root, f"column_{i}", events, labels)
        made.append(LabelledSequence(f"column_{i}", path, 64, 64, labels, Counter()))
    return made


def maker(recordings, share):
    settings = InputSettings(slice_us=50_000)
    return SampleMaker(recordings, settings, AugmentSettings(mosaic=share, least_visible=0.1), steps=2, cache_mb=10)


def test_a_sample_maker_joins_samples(recordings):
    samples = [Sample(i, first) for i in range(4) for first in (0, 1)]
    made = maker(recordings, 1.0)
    planes, labels = made.make(samples[0], rng(1), samples)
    again, _ = maker(recordings, 1.0).make(samples[0], rng(1), samples)
    np.testing.assert_array_equal(planes, again)
    assert planes.shape == (2, 2, 64, 64)
    assert len(labels[1]) == 4
    assert [set(boxes.t.tolist()) for boxes in labels] == [{50_000}, {100_000}]
    for boxes in labels:  # every label holds the column of events of its recording, and nothing else does
        assert set(boxes.class_id.tolist()) <= {0, 1, 2, 3}
    lit = np.zeros((64, 64), bool)
    for left, top, right, bottom in labels[1].xyxy.astype(int):
        lit[top:bottom, left:right] = True
    assert not planes[1].any(axis=0)[~lit].any()


def test_samples_without_mosaic_draw_nothing_more(recordings):
    samples = [Sample(i, 0) for i in range(4)]
    plain, off = maker(recordings, 0.0), rng(2)
    planes, _ = plain.make(samples[2], off, samples)
    alone, same = maker(recordings, 1.0), rng(2)
    np.testing.assert_array_equal(planes, alone.make(samples[2], same, [])[0])
    assert off.random() == same.random()


def test_mosaics_come_as_often_as_asked(recordings):
    samples = [Sample(i, 0) for i in range(4)]
    made = maker(recordings, 0.25)
    joined = sum(len(made.make(samples[1], rng(seed), samples)[1][1]) > 1 for seed in range(200))
    assert 30 < joined < 70  # binomial, 50 expected, deviation 6
