from collections import Counter

import numpy as np
import pytest
import torch
from moving_squares import CLASS_NAMES, SLICE_US, write_sequence

from spiketrack.boxes import Boxes
from spiketrack.datasets.augment import AugmentSettings, draw
from spiketrack.datasets.batches import pad_labels, read_ahead
from spiketrack.datasets.etram import LabelledSequence, find_sequences, label_steps, load_sequence
from spiketrack.datasets.sequences import SampleChoice, TrainingSamples
from spiketrack.errors import SettingsError
from spiketrack.events import Events
from spiketrack.representations import InputSettings

INPUT = InputSettings(slice_us=SLICE_US)
PLAIN = AugmentSettings()
STRONG = AugmentSettings(flip=0.5, zoom=0.3, stretch=0.3, translate=0.2, drop=0.5)


@pytest.fixture(scope="module")
def sequences(squares):
    return find_sequences(squares, "train", CLASS_NAMES)


@pytest.fixture(scope="module")
def gapped(tmp_path_factory):
    """Four sequences of four classes; class i has labels at irregular times, its box at x = 10 i."""
    root, rng, made = tmp_path_factory.mktemp("gapped"), np.random.default_rng(0), []
    for i in range(4):
        times = np.sort(rng.choice(np.arange(1, 40), 12, replace=False)) * 10_000 + 1_000 * i
        labels = Boxes.of(times, np.tile([10 * i, 20, 10 * i + 8, 30], (12, 1)), i, track_id=np.ones(12))
        t = np.sort(rng.integers(0, 420_000, 500))
        events = Events.repaired(t, rng.integers(0, 64, 500), rng.integers(0, 64, 500), t % 2, 64, 64)[0]
        path = write_sequence(root, f"class_{i}", events, labels)
        made.append(LabelledSequence(f"class_{i}", path, 64, 64, labels, Counter()))
    return made


def samples_of(sequences, input=INPUT, augment=PLAIN, *, steps=3, batch_size=4, seed=0):
    return TrainingSamples(sequences, input, augment, steps=steps, batch_size=batch_size, seed=seed)


def equal(one, other):
    return (
        torch.equal(one.events, other.events)
        and torch.equal(one.labelled, other.labelled)
        and all(torch.equal(a, b) for a, b in zip(one.labels, other.labels, strict=True))
        and one.names == other.names
    )


def test_a_cache_changes_no_batch(sequences):
    cached = TrainingSamples(sequences, INPUT, STRONG, steps=3, batch_size=4, seed=0, cache_mb=100)
    for one, other in zip(cached.epoch(1), samples_of(sequences, augment=STRONG).epoch(1), strict=True):
        assert equal(one, other)


def test_mosaics_follow_from_seed_epoch_and_place(sequences):
    settings = STRONG.model_copy(update={"mosaic": 0.5})
    whole, again = (list(samples_of(sequences, augment=settings, seed=3).epoch(2)) for _ in range(2))
    assert all(equal(a, b) for a, b in zip(whole, again, strict=True))
    rest = list(samples_of(sequences, augment=settings, seed=3).epoch(2, 1))
    assert all(equal(a, b) for a, b in zip(whole[1:], rest, strict=True))
    alone = list(samples_of(sequences, augment=STRONG, seed=3).epoch(2))
    boxes = [sum(int(batch.labels.valid.sum()) for batch in batches) for batches in (alone, whole)]
    assert boxes[1] > boxes[0]  # one object a sequence; four in a mosaic, unless a seam hides them


def single(tmp_path, t, x, y, label_times, input, **options):
    """The samples of one sequence with the given events (all ON) and one label at each time."""
    events = Events.repaired(np.array(t), np.array(x), np.array(y), np.ones(len(t), int), 64, 64)[0]
    labels = Boxes.of(label_times, np.tile([8, 16, 24, 48], (len(label_times), 1)), 0, track_id=range(len(label_times)))
    path = write_sequence(tmp_path, "one", events, labels)
    return samples_of([LabelledSequence("one", path, 64, 64, labels, Counter())], input, **options)


def test_batches_follow_from_seed_and_epoch(sequences):
    first, again = (list(samples_of(sequences, augment=STRONG, seed=3).epoch(2)) for _ in range(2))
    assert len(first) == len(again) >= 3
    assert all(equal(a, b) for a, b in zip(first, again, strict=True))
    other_epoch = next(samples_of(sequences, augment=STRONG, seed=3).epoch(1))
    other_seed = next(samples_of(sequences, augment=STRONG, seed=4).epoch(2))
    assert not equal(first[0], other_epoch)
    assert not equal(first[0], other_seed)


def test_an_epoch_can_be_entered_anywhere(sequences):
    whole = list(samples_of(sequences, augment=STRONG).epoch(1))
    samples = samples_of(sequences, augment=STRONG)
    assert samples.batches_per_epoch(1) == len(whole)
    for start in (1, len(whole) - 1):
        rest = list(samples.epoch(1, start))
        assert len(rest) == len(whole) - start
        assert all(equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    assert list(samples.epoch(1, len(whole))) == []


def test_every_sample_of_every_epoch_is_changed_in_its_own_way(sequences, monkeypatch):
    drawn = []

    def remember(*arguments):
        drawn.append(draw(*arguments))
        return drawn[-1]

    monkeypatch.setattr("spiketrack.datasets.samples.draw", remember)
    samples = samples_of(sequences, augment=STRONG)
    count = sum(len(batch.names) for epoch in range(2) for batch in samples.epoch(epoch))
    assert len(drawn) == len(set(drawn)) == count > 20


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_every_labelled_step_is_seen_exactly_once_an_epoch(gapped, steps):
    samples = samples_of(gapped, steps=steps)
    for epoch in range(6):
        seen = Counter()
        for sample in samples.samples(epoch):
            _, labelled, _ = label_steps(gapped[sample.sequence].labels, SLICE_US)
            inside = labelled[(labelled >= sample.first) & (labelled < sample.first + steps)]
            assert len(inside) > 0
            seen.update((sample.sequence, int(step)) for step in inside)
        expected = {(i, int(step)) for i, s in enumerate(gapped) for step in label_steps(s.labels, SLICE_US)[1]}
        assert set(seen) == expected
        assert set(seen.values()) == {1}


def test_the_phase_of_the_windows_varies(gapped):
    samples = samples_of(gapped, steps=3)
    phases = {sample.first % 3 for epoch in range(20) for sample in samples.samples(epoch) if sample.sequence == 0}
    assert phases == {0, 1, 2}


def test_labels_come_in_the_order_of_the_labelled_steps(gapped):
    """Time-major, as `features[labelled]` picks predictions; in batch-major order classes would be swapped."""
    samples = samples_of(gapped, steps=3, batch_size=4)
    mixed = 0
    for epoch in range(4):
        for batch in samples.epoch(epoch):
            places = torch.nonzero(batch.labelled).tolist()  # (t, b), t first
            assert len(places) == len(batch.labels.valid)
            for (t, b), boxes, classes, valid, *_ in zip(places, *batch.labels, strict=True):
                name, _, first = batch.names[b].split()
                i = int(name[-1])
                assert classes[valid].tolist() == [i]
                assert boxes[valid].tolist() == [[10 * i, 20, 10 * i + 8, 30]]
                assert int(first) + t in label_steps(gapped[i].labels, SLICE_US)[1]
            by_sample = sorted(places, key=lambda place: (place[1], place[0]))
            classes = [int(batch.names[b][6]) for _, b in places]
            mixed += classes != [int(batch.names[b][6]) for _, b in by_sample]
    assert mixed > 5, "the batches must be able to tell the two orders apart"


def test_unlabelled_steps_are_marked(gapped):
    samples = samples_of(gapped, steps=4, batch_size=1)
    unlabelled = 0
    for sample, batch in zip(samples.samples(0), samples.epoch(0), strict=True):
        _, labelled, _ = label_steps(gapped[sample.sequence].labels, SLICE_US)
        expected = [step in labelled for step in range(sample.first, sample.first + 4)]
        assert batch.labelled[:, 0].tolist() == expected
        unlabelled += 4 - sum(expected)
    assert unlabelled > 10


def test_a_sample_by_hand(tmp_path):
    # slices of 100 us that end at 100, 200, 300; the label at 300 is that of step 2
    t, x, y = [99, 100, 199, 200, 201, 299, 300], [1, 2, 3, 4, 5, 6, 7], [11, 12, 13, 14, 15, 16, 17]
    samples = single(tmp_path, t, x, y, [100, 300], InputSettings(slice_us=100), steps=3, batch_size=1)
    batch = next(batch for epoch in range(20) for batch in samples.epoch(epoch) if batch.names == ["one step 0"])
    assert batch.events.shape == (3, 1, 2, 64, 64)
    assert batch.events.dtype == torch.uint8
    # (t, b, c, y, x); channel 1 is ON
    assert torch.nonzero(batch.events).tolist() == [
        [0, 0, 1, 11, 1],
        [1, 0, 1, 12, 2],
        [1, 0, 1, 13, 3],
        [2, 0, 1, 14, 4],
        [2, 0, 1, 15, 5],
        [2, 0, 1, 16, 6],
    ]
    assert batch.labelled[:, 0].tolist() == [True, False, True]
    assert batch.labels.boxes.tolist() == [[[8, 16, 24, 48]]] * 2


def test_a_sample_may_begin_before_the_recording(tmp_path):
    samples = single(tmp_path, [5, 30], [1, 2], [3, 4], [40], InputSettings(slice_us=100), steps=4, batch_size=1)
    for epoch in range(8):
        (batch,) = samples.epoch(epoch)
        first = int(batch.names[0].split()[-1])
        assert first <= -1  # the only labelled step ends at 40
        assert torch.nonzero(batch.labelled).tolist() == [[-1 - first, 0]]
        # both events lie in [-60, 40), the step of the label
        assert batch.events[-1 - first].sum() == batch.events.sum() == 2


def test_a_window_longer_than_a_slice_sees_earlier_events(tmp_path):
    t, x, y = [50, 250], [10, 20], [10, 20]
    overlapping = InputSettings(slice_us=100, window_us=300)
    samples = single(tmp_path, t, x, y, [300], overlapping, steps=1, batch_size=1)
    (batch,) = samples.epoch(0)
    assert torch.nonzero(batch.events).tolist() == [[0, 0, 1, 10, 10], [0, 0, 1, 20, 20]]
    samples = single(tmp_path, t, x, y, [300], overlapping.model_copy(update={"window_us": 100}), steps=1, batch_size=1)
    (batch,) = samples.epoch(0)
    assert torch.nonzero(batch.events).tolist() == [[0, 0, 1, 20, 20]]
    # two steps: the event at 50 is seen by both, that at 250 by the second only
    samples = single(tmp_path, t, x, y, [200, 300], overlapping, steps=2, batch_size=1)
    batch = next(batch for epoch in range(20) for batch in samples.epoch(epoch) if batch.names == ["one step 1"])
    assert batch.events[:, 0].sum(dim=(1, 2, 3)).tolist() == [1, 2]


def test_scaling_to_a_smaller_input(tmp_path):
    smaller = InputSettings(slice_us=100, height=32, width=48)
    samples = single(tmp_path, [10, 11], [63, 8], [63, 32], [100], smaller, steps=1, batch_size=1)
    (batch,) = samples.epoch(0)
    assert batch.events.shape == (1, 1, 2, 32, 48)
    # x -> 48/64 x, y -> 32/64 y
    assert torch.nonzero(batch.events)[:, 3:].tolist() == [[16, 6], [31, 47]]
    assert batch.labels.boxes.tolist() == [[[6, 8, 18, 24]]]


def test_a_crop_cuts_events_and_labels_alike(tmp_path):
    cropped = InputSettings(slice_us=100, crop=(16, 0, 48, 64), width=36, height=32)
    samples = single(tmp_path, [10, 11, 12], [63, 15, 20], [63, 32, 32], [100], cropped, steps=1, batch_size=1)
    (batch,) = samples.epoch(0)
    assert batch.events.shape == (1, 1, 2, 32, 36)
    # x -> 36/48 (x - 16), y -> 32/64 y; the box 8 16 24 48 keeps its right half
    assert torch.nonzero(batch.events)[:, 3:].tolist() == [[16, 3], [31, 35]]
    assert batch.labels.boxes.tolist() == [[[0, 8, 6, 24]]]
    with pytest.raises(SettingsError, match=r"input.crop to be null"):
        samples_of(samples.sequences, cropped.model_copy(update={"width": None}), AugmentSettings(crop=(32, 32)))


def test_signed_bins(tmp_path):
    signed = InputSettings(slice_us=100, representation="signed_difference", bins=2)
    samples = single(tmp_path, [10, 11, 60], [1, 1, 2], [5, 5, 6], [100], signed, steps=1, batch_size=1)
    (batch,) = samples.epoch(0)
    assert (batch.events.shape, batch.events.dtype) == ((1, 1, 2, 64, 64), torch.int8)
    assert batch.events[0, 0, 0, 5, 1] == 2
    assert batch.events[0, 0, 1, 6, 2] == 1


def test_a_label_moved_off_the_sensor_leaves_a_labelled_step_without_boxes(tmp_path):
    far = AugmentSettings(translate=1.0, least_visible=1.0)
    samples = single(tmp_path, [10], [5], [5], [100], InputSettings(slice_us=100), augment=far, steps=1, batch_size=1)
    batches = [batch for epoch in range(10) for batch in samples.epoch(epoch)]
    empty = [batch for batch in batches if batch.labels.boxes.shape[1] == 0]
    assert len(empty) > 3
    assert all(batch.labelled.all() for batch in empty)


def other_sensor(sequences, width, height):
    first = sequences[0]
    return [*sequences, LabelledSequence("wide", first.path, width, height, first.labels, Counter())]


def test_sensors_of_different_size_need_a_common_input(sequences):
    mixed = other_sensor(sequences, 96, 80)
    with pytest.raises(SettingsError, match=r"\(64, 64\), \(80, 96\).*set input.height and input.width"):
        samples_of(mixed)
    samples_of(mixed, INPUT.model_copy(update={"width": 64, "height": 64}))
    samples_of(mixed, augment=AugmentSettings(crop=(64, 64)))


def test_an_input_larger_than_the_sensor_is_refused(sequences):
    with pytest.raises(SettingsError, match=r"96 x 64.*64 x 64"):
        samples_of(sequences, INPUT.model_copy(update={"width": 96}))


def test_crops_must_fit(sequences):
    with pytest.raises(SettingsError, match=r"crop is 80 x 64; .* 32 .. 64 by 32 .. 64"):
        samples_of(sequences, augment=AugmentSettings(crop=(80, 64)))
    with pytest.raises(SettingsError, match=r"crop is 31 x 64"):
        samples_of(sequences, augment=AugmentSettings(crop=(31, 64)))
    with pytest.raises(SettingsError, match=r"needs input.width, input.height and input.crop to be null"):
        samples_of(sequences, INPUT.model_copy(update={"width": 32}), AugmentSettings(crop=(32, 32)))


def test_a_crop_sets_the_size_of_the_input(sequences):
    batch = next(samples_of(sequences, augment=AugmentSettings(crop=(40, 32))).epoch(0))
    assert batch.events.shape[3:] == (32, 40)
    boxes = batch.labels.boxes[batch.labels.valid]
    assert len(boxes)
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([40, 32, 40, 32])).all()


def sensor_sequence(folder, name, width, height, events, box):
    """One sequence with events (x, y) at 10, 11, ... us, all ON, and a box at 100 us."""
    x, y = np.array(events).T
    t = 10 + np.arange(len(events))
    path = write_sequence(folder, name, Events.repaired(t, x, y, np.ones(len(t), int), width, height)[0], None)
    labels = Boxes.of([100], [box], 0, track_id=[1])
    return LabelledSequence(name, path, width, height, labels, Counter())


SCALED = InputSettings(slice_us=100, shortest_side=64)
WHOLE = AugmentSettings(crop=(64, 64))


def test_samples_of_any_sensor_share_a_batch_at_the_scale_of_the_network(tmp_path):
    made = [
        sensor_sequence(tmp_path, "one", 64, 64, [(10, 20), (63, 63)], [8, 16, 24, 48]),
        sensor_sequence(tmp_path, "two", 128, 128, [(20, 41), (127, 126)], [16, 32, 48, 96]),
        sensor_sequence(tmp_path, "three", 192, 192, [(32, 60), (189, 191)], [24, 48, 72, 144]),
    ]
    (batch,) = samples_of(made, SCALED, WHOLE, steps=1, batch_size=3).epoch(0)
    assert batch.events.shape == (1, 3, 2, 64, 64)
    for b in range(3):  # the same picture from three sensors
        assert torch.nonzero(batch.events[0, b]).tolist() == [[1, 20, 10], [1, 63, 63]]
    assert batch.labels.boxes.tolist() == [[[8, 16, 24, 48]]] * 3


def test_a_cut_is_of_input_pixels_and_need_not_begin_at_a_bin(tmp_path):
    big = sensor_sequence(tmp_path, "big", 256, 192, [(130, 101)], [128, 100, 132, 104])
    samples = samples_of([big], SCALED, AugmentSettings(crop=(40, 32)), steps=1, batch_size=1)  # f = 3: 120 x 96
    offsets = set()
    for epoch in range(40):
        (batch,) = samples.epoch(epoch)
        assert batch.events.shape == (1, 1, 2, 32, 40)
        ((_, _, _, row, column),) = torch.nonzero(batch.events).tolist()
        left, top, right, _ = (batch.labels.boxes[0, 0] * 3).tolist()
        assert 0 <= left < right <= 120
        offsets.add(round(128 - left) if left else None)
        if left and top and right < 119.9:
            # the event is two pixels right of the box's left edge and one below its top
            assert (column, row) == ((round(left) + 2) // 3, (round(top) + 1) // 3)
    assert len({offset % 3 for offset in offsets if offset is not None}) == 3


def test_a_cut_of_an_enlarged_sensor_shows_every_pixel_enlarged(tmp_path):
    small = sensor_sequence(tmp_path, "small", 40, 36, [(3, 5)], [2, 4, 10, 12])
    enlarging = InputSettings(slice_us=100, shortest_side=72, least_side=72)
    samples = samples_of([small], enlarging, AugmentSettings(crop=(48, 64)), steps=1, batch_size=1)
    for epoch in range(20):
        (batch,) = samples.epoch(epoch)
        assert batch.events.shape == (1, 1, 2, 64, 48)
        found = torch.nonzero(batch.events[0, 0, 1])
        if len(found):
            top, left = found[0].tolist()
            assert found.tolist() == [[top + dy, left + dx] for dy in (0, 1) for dx in (0, 1)]
            box = batch.labels.boxes[0, 0].tolist()  # the event is in its second row and column
            assert box[:2] == [max(left - 2, 0), max(top - 2, 0)]
            assert box[2:] == [min(left + 14, 48), min(top + 14, 64)]
    with pytest.raises(SettingsError, match=r"crop is 49 x 64; .* which must divide it"):
        samples_of([small], enlarging, AugmentSettings(crop=(49, 64)))


def test_balance_draws_rare_classes_more_often(tmp_path):
    made = []
    for name, class_id, times in (("common", 0, range(100, 9100, 100)), ("rare", 1, range(100, 1100, 100))):
        path = write_sequence(tmp_path, name, Events.repaired([50], [3], [3], [1], 64, 64)[0], None)
        labels = Boxes.of(list(times), [[2, 2, 40, 40]] * len(times), class_id)
        made.append(LabelledSequence(name, path, 64, 64, labels, Counter()))
    of_rare = {}
    for balance in (0.0, 0.5, 1.0):
        samples = TrainingSamples(
            made, InputSettings(slice_us=100), PLAIN, steps=1, batch_size=4, seed=0, balance=balance
        )
        drawn = samples.samples(0)
        assert len(drawn) == 100  # an epoch is as long as ever
        of_rare[balance] = sum(sample.sequence for sample in drawn)
        assert {sample.first for sample in drawn if sample.sequence} == set(range(10))  # none of them is left out
    # weights 90^-b and 10^-b: 10 / (10 + 90 / 3) of the draws at 0.5, one half at 1
    assert of_rare[0.0] == 10
    assert abs(of_rare[0.5] - 25) <= 1
    assert abs(of_rare[1.0] - 50) <= 1


def test_balance_holds_crops_on_rare_classes(tmp_path):
    path = write_sequence(tmp_path, "both", Events.repaired([50], [3], [3], [1], 640, 480)[0], None)
    corners = [[8 * i, 0, 8 * i + 8, 8] for i in range(9)] + [[600, 400, 608, 408]]
    labels = Boxes.of([100] * 10, corners, [0] * 9 + [1], track_id=range(10))
    both = LabelledSequence("both", path, 640, 480, labels, Counter())
    rare = {}
    for balance in (0.0, 1.0):
        samples = TrainingSamples(
            [both], INPUT, AugmentSettings(crop=(64, 64)), steps=1, batch_size=1, seed=0, balance=balance
        )
        batches = [next(samples.epoch(epoch)) for epoch in range(200)]
        rare[balance] = sum((batch.labels.classes[batch.labels.valid] == 1).any().item() for batch in batches)
    assert 8 <= rare[0.0] <= 36  # a tenth of 200 crops
    assert 76 <= rare[1.0] <= 124  # half of them


def test_a_sensor_smaller_than_the_crop_is_padded(tmp_path):
    small = sensor_sequence(tmp_path, "small", 40, 36, [(0, 0), (39, 35)], [4, 5, 20, 30])
    samples = samples_of([small], SCALED, WHOLE, steps=1, batch_size=1)
    places = set()
    for epoch in range(30):
        (batch,) = samples.epoch(epoch)
        (_, _, _, y0, x0), (_, _, _, y1, x1) = torch.nonzero(batch.events).tolist()
        assert (x1 - x0, y1 - y0) == (39, 35)
        assert batch.labels.boxes.tolist() == [[[x0 + 4, y0 + 5, x0 + 20, y0 + 30]]]
        places.add((x0, y0))
    assert len(places) > 10
    with pytest.raises(SettingsError, match=r"crop is 31 x 64; the network's cells need 32"):
        samples_of([small], SCALED, AugmentSettings(crop=(31, 64)))
    with pytest.raises(SettingsError, match=r"\(36, 40\), \(64, 64\).*or data.augment.crop"):
        samples_of([small, sensor_sequence(tmp_path, "other", 128, 128, [(0, 0)], [4, 5, 20, 30])], SCALED)


def test_without_a_crop_the_binned_sensor_is_the_input(tmp_path):
    big = sensor_sequence(tmp_path, "big", 131, 129, [(10, 21), (130, 5)], [30, 30, 60, 93])
    (batch,) = samples_of([big], SCALED, steps=1, batch_size=1).epoch(0)
    assert batch.events.shape == (1, 1, 2, 43, 43)
    assert torch.nonzero(batch.events)[:, 3:].tolist() == [[7, 3]]  # column 130 is left over
    assert batch.labels.boxes.tolist() == [[[10, 10, 20, 31]]]


def test_the_share_of_crops_on_a_label(tmp_path):
    big = sensor_sequence(tmp_path, "big", 640, 480, [(0, 0)], [0, 0, 10, 10])
    held = {}
    for share in (0.0, 0.5, 1.0):
        augment = AugmentSettings(crop=(32, 32), crop_on_label=share)
        samples = samples_of([big], InputSettings(slice_us=100, shortest_side=240), augment, steps=1, batch_size=1)
        batches = [next(samples.epoch(epoch)) for epoch in range(100)]
        assert all(batch.labelled.all() for batch in batches)  # a crop without a label is background
        held[share] = sum(batch.labels.valid.any().item() for batch in batches)
    assert held[1.0] == 100
    assert 35 <= held[0.5] <= 65
    assert held[0.0] <= 5


def test_times_known_to_be_empty_are_background(tmp_path):
    events = Events.repaired(np.array([5, 150]), [1, 2], [3, 4], [1, 1], 64, 64)[0]
    labels = Boxes.of([200], [[8, 16, 24, 48]], 0, track_id=[1])
    path = write_sequence(tmp_path, "one", events, labels)
    np.save(tmp_path / "one_times.npy", np.array([100, 200, 400]))
    sequence = load_sequence(path, tmp_path / "one_bbox.npy", CLASS_NAMES)
    samples = samples_of([sequence], InputSettings(slice_us=100), steps=1, batch_size=1)
    found = {batch.names[0]: batch.labels.valid.sum().item() for batch in samples.epoch(0) if batch.labelled.all()}
    assert found == {"one step 0": 0, "one step 1": 1, "one step 3": 0}
    samples = samples_of([sequence], InputSettings(slice_us=100), steps=4, batch_size=1)
    batch = next(batch for epoch in range(20) for batch in samples.epoch(epoch) if batch.names == ["one step 0"])
    assert batch.labelled[:, 0].tolist() == [True, True, False, True]
    assert batch.labels.valid.tolist() == [[False], [True], [False]]


def test_padding_by_hand():
    first, second = Boxes.of(0, [[1, 2, 3, 4], [5, 6, 7, 8]], [2, 0], track_id=[7, 9]), Boxes.empty()
    boxes, classes, valid, track_ids, sequences = pad_labels([first, second], [3, 4])
    assert boxes.tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]], [[0] * 4] * 2]
    assert classes.tolist() == [[2, 0], [0, 0]]
    assert valid.tolist() == [[True, True], [False, False]]
    assert track_ids.tolist() == [[7, 9], [-1, -1]]
    assert sequences.tolist() == [3, 4]
    assert pad_labels([], []).boxes.shape == (0, 0, 4)


def test_overlapping_samples_and_a_limit_for_each_recording(tmp_path):
    path = write_sequence(tmp_path, "long", Events.repaired([50], [3], [3], [1], 64, 64)[0], None)
    labels = Boxes.of(list(range(100, 4100, 100)), [[2, 2, 40, 40]] * 40, 0)  # steps 0 .. 39 of 100 us
    sequence = LabelledSequence("long", path, 64, 64, labels, Counter())

    def firsts(epoch=0, **choice):
        samples = TrainingSamples(
            [sequence], InputSettings(slice_us=100), PLAIN, steps=8, batch_size=4, seed=0, choice=SampleChoice(**choice)
        )
        return sorted(sample.first for sample in samples.samples(epoch))

    plain, overlapping = firsts(), firsts(overlap=0.25)
    assert set(np.diff(plain)) == {8}
    assert set(np.diff(overlapping)) == {6}  # 2 of 8 steps are seen twice
    for starts in (plain, overlapping):
        assert starts[0] <= 0 < starts[0] + 8  # over the whole recording, both ends included
        assert starts[-1] <= 39 < starts[-1] + 8
    limited = [firsts(epoch, samples_per_recording=3) for epoch in range(8)]
    assert {len(starts) for starts in limited} == {3}
    assert len({tuple(starts) for starts in limited}) > 1  # drawn anew
    assert firsts(3, samples_per_recording=3) == limited[3]


def test_batches_are_read_further_ahead():
    made = []

    def batches():
        for number in range(6):
            made.append(number)
            yield number

    for ahead in (1, 3):
        made.clear()
        assert list(read_ahead(batches(), ahead)) == list(range(6))
        reader = read_ahead(batches(), ahead)
        made.clear()
        assert next(reader) == 0
        reader.close()  # waits for what was begun
        assert len(made) == ahead + 1
