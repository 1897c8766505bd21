"""Streams: every recording in order, side by side, and entered at any batch."""

from collections import Counter

import numpy as np
import pytest
import torch
from moving_squares import write_sequence

from spiketrack.boxes import Boxes
from spiketrack.datasets.augment import AugmentSettings
from spiketrack.datasets.etram import LabelledSequence
from spiketrack.datasets.sequences import SampleChoice
from spiketrack.datasets.streams import StreamSamples
from spiketrack.errors import SettingsError
from spiketrack.events import Events
from spiketrack.representations import InputSettings

SLICE_US = 100
STRONG = AugmentSettings(flip=0.5, zoom=0.3, translate=0.2, drop=0.3)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """Recordings of 4, 7 and 12 steps; event k of recording i is at column i in step k; labels at the ends of steps."""
    root, made = tmp_path_factory.mktemp("streams"), []
    for i, length in enumerate((4, 7, 12)):
        t = np.arange(length) * SLICE_US + 50
        events = Events.repaired(t, np.full(length, i), np.arange(length), np.ones(length, int), 64, 64)[0]
        path = write_sequence(root, f"stream_{i}", events, None)
        times = (np.arange(0, length, 3) + 1) * SLICE_US  # steps 0, 3, 6, ...
        labels = Boxes.of(times, [[10 * i, 20, 10 * i + 8, 30]] * len(times), i, track_id=[i] * len(times))
        made.append(LabelledSequence(f"stream_{i}", path, 64, 64, labels, Counter()))
    return made


def streams_of(sequences, *, steps=2, batch_size=2, augment=AugmentSettings(), seed=0):  # noqa: B008
    input = InputSettings(slice_us=SLICE_US)
    return StreamSamples(sequences, input, augment, steps=steps, batch_size=batch_size, seed=seed)


def test_every_stream_runs_through_whole_recordings_in_order(sequences):
    streams = streams_of(sequences)
    batches = [batch for epoch in range(6) for batch in streams.epoch(epoch)]
    assert all(len(list(streams.epoch(e))) == streams.batches_per_epoch(e) for e in range(3))
    seen = Counter()
    for lane in range(2):
        before = None
        for batch in batches:
            name, first = batch.names[lane].split(" step ")
            if batch.fresh[lane]:
                seen[name] += 1
            else:  # goes on exactly where it ended
                assert (name, int(first)) == (before[0], before[1] + 2)
            before = name, int(first)
    # each recording once in a round of all
    assert max(seen.values()) - min(seen.values()) <= 1
    assert batches[0].fresh.all()


def test_a_stream_holds_the_events_and_labels_of_its_steps(sequences):
    for batch in streams_of(sequences).epoch(0):
        number = 0
        for t in range(2):
            for lane in range(2):
                name, first = batch.names[lane].split(" step ")
                step, index = int(first) + t, int(name[-1])
                length = (4, 7, 12)[index]
                expected = [[1, step, index]] if 0 <= step < length else []  # polarity, row, column
                assert torch.nonzero(batch.events[t, lane]).tolist() == expected
                labelled = 0 <= step < length and step % 3 == 0
                assert batch.labelled[t, lane] == labelled
                if labelled:
                    assert batch.labels.boxes[number].tolist() == [[10 * index, 20, 10 * index + 8, 30]]
                    assert batch.labels.track_ids[number].tolist() == [index]
                    assert batch.labels.recordings[number] == index
                    number += 1
        assert number == len(batch.labels.boxes)


def test_an_epoch_is_entered_at_any_batch(sequences):
    whole = [list(streams_of(sequences, augment=STRONG).epoch(epoch)) for epoch in range(3)]
    late = streams_of(sequences, augment=STRONG)
    for one, other in zip(late.epoch(2, 1), whole[2][1:], strict=True):
        assert one.names == other.names
        assert torch.equal(one.events, other.events)
        assert torch.equal(one.labels.boxes, other.labels.boxes)


def test_one_view_holds_for_a_whole_recording(sequences):
    """The map is drawn once a pass: the box of the longest recording stays where it is, pass by pass another place."""
    augment = AugmentSettings(flip=0.5, zoom=0.2, translate=0.1)
    places: dict[int, set] = {}
    number = 0
    streams = streams_of([sequences[2]], batch_size=1, augment=augment)
    for batch in (batch for epoch in range(8) for batch in streams.epoch(epoch)):
        number += int(batch.fresh[0])
        for boxes in batch.labels.boxes:
            places.setdefault(number, set()).add(tuple(boxes[0].tolist()))
    assert len(places) >= 6
    assert all(len(seen) == 1 for seen in places.values())
    assert len(set.union(*places.values())) == len(places)


def test_balance_is_refused(sequences):
    with pytest.raises(SettingsError, match=r"with training.state carried it must be 0"):
        StreamSamples(
            sequences, InputSettings(slice_us=SLICE_US), AugmentSettings(), steps=1, batch_size=1, seed=0, balance=0.5
        )


def test_a_choice_of_samples_is_refused(sequences):
    with pytest.raises(SettingsError, match=r"data\.overlap, .* choose single samples"):
        StreamSamples(
            sequences,
            InputSettings(slice_us=SLICE_US),
            AugmentSettings(),
            steps=1,
            batch_size=1,
            seed=0,
            choice=SampleChoice(overlap=0.25),
        )


def test_mosaics_are_refused(sequences):
    with pytest.raises(SettingsError, match="mosaic joins single samples"):
        streams_of(sequences, augment=AugmentSettings(mosaic=0.1))
