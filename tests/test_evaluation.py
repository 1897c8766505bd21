from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loud_detector import loud_detector
from moving_squares import CLASS_NAMES, SLICE_US, square_sequence, write_sequence
from pydantic import ValidationError

from spiketrack.boxes import Boxes
from spiketrack.datasets.etram import LabelledSequence, find_sequences
from spiketrack.detector.decode import DecodeSettings
from spiketrack.detector.spikeyolo import ModelSettings
from spiketrack.errors import LabelError, SettingsError
from spiketrack.evaluation import EvaluationSettings, evaluate, run_sequence
from spiketrack.metrics import average_precision
from spiketrack.pipeline import Detector, Step
from spiketrack.recordings import windows
from spiketrack.representations import InputSettings
from spiketrack.tracking import ByteTrackSettings

# boxes as detected, identities from the first sight on
PLAIN_TRACKING = ByteTrackSettings(filtered_boxes=False, confirm_hits=1)


class Oracle:
    """Stands in for a detector: finds the labels of a sequence in the step that ends with them, and what `extra` adds.

    extra(start_us, end_us, found) returns the boxes of a step; all stand at its end, as a detector's do.
    """

    def __init__(self, sequences, extra=lambda start_us, end_us, found: found):
        self.labels = {sequence.path: sequence.labels for sequence in sequences}
        self.extra = extra
        self.input = InputSettings(slice_us=SLICE_US)
        self.class_names = CLASS_NAMES
        self.model = torch.nn.Identity()
        self.asked: list[SimpleNamespace] = []

    def detect(self, recording, *, start_us, end_us):
        self.asked.append(SimpleNamespace(start_us=start_us, end_us=end_us))
        labels = self.labels[recording.path]
        for window in windows(recording, SLICE_US, start_us=start_us, end_us=end_us):
            inside = labels[(labels.t > window.start_us) & (labels.t <= window.end_us)]
            latest = inside[inside.t == inside.t[-1:].sum()]
            yield Step(window, self.extra(window.start_us, window.end_us, latest).at_time(window.end_us))


@pytest.fixture(scope="module")
def sequences(squares):
    return find_sequences(squares, "test", CLASS_NAMES)


@pytest.fixture(scope="module")
def gapped(tmp_path_factory):
    """One sequence with labels at the ends of some slices only, from 60 ms on, and within slices."""
    events, labels = square_sequence(0, 1, 12)
    chosen = labels[np.isin(labels.t, SLICE_US * np.array([3, 4, 7, 8, 11]))]
    path = write_sequence(tmp_path_factory.mktemp("gapped"), "gapped", events, chosen)
    return LabelledSequence("gapped", path, 64, 64, chosen, Counter())


def score(oracle, sequences, warm_up_steps=2, tracking=PLAIN_TRACKING, protocol="unfiltered"):
    settings = EvaluationSettings(warm_up_steps=warm_up_steps, protocol=protocol)
    return evaluate(oracle, sequences, settings, tracking)


def test_perfect_detections_score_one(sequences):
    result = score(Oracle(sequences), sequences)
    assert (result.detection.map, result.detection.ap50, result.detection.precision, result.detection.recall) == (
        pytest.approx((1, 1, 1, 1))
    )
    average = result.tracking.class_average
    assert (average.hota, average.mota, average.idf1, average.idsw) == pytest.approx((1, 1, 1, 0))
    assert result.detection.label_times == result.tracking.label_times == 16
    assert [r.sequence.name for r in result.sequences] == ["test_0", "test_1"]
    for found, sequence in zip(result.sequences, sequences, strict=True):
        np.testing.assert_array_equal(found.detections.t, sequence.labels.t)
        np.testing.assert_array_equal(found.tracks.xyxy, sequence.labels.xyxy)


def test_finding_nothing_scores_zero(sequences):
    result = score(Oracle(sequences, lambda start, end, found: Boxes.empty()), sequences)
    assert (result.detection.map, result.tracking.class_average.hota) == (0, 0)
    assert result.tracking.class_average.fn == 16


def test_a_miss_in_one_of_two_classes(sequences):
    """Only the sequence of class 0 is found: the mean over classes is 1/2."""
    oracle = Oracle(sequences, lambda start, end, found: found[found.class_id == 0])
    result = score(oracle, sequences)
    assert result.detection.map == pytest.approx(0.5)
    assert result.detection.per_class["large"].map == 0
    assert result.tracking.per_class["small"].hota == pytest.approx(1)


def test_only_detections_at_label_times_count(gapped):
    def noisy(start_us, end_us, found):
        wrong = Boxes.of(end_us, [[0, 0, 20, 20], [40, 40, 60, 60]], [0, 1], [0.9, 0.9])
        return found if len(found) else wrong

    clean, disturbed = score(Oracle([gapped]), [gapped]), score(Oracle([gapped], noisy), [gapped])
    assert clean.detection.map == disturbed.detection.map == pytest.approx(1)
    assert disturbed.detection.label_times == 5
    assert disturbed.detection.detections == 5
    assert disturbed.tracking.detection_average.fp == 0
    # the same boxes at label times do count
    wrong_always = Oracle([gapped], lambda start, end, found: Boxes.of(end, [[0, 0, 20, 20]], 1, [0.9]))
    assert score(wrong_always, [gapped]).tracking.detection_average.fp == 5


@pytest.mark.parametrize("warm_up_steps", [0, 1, 2, 5, 1_000])
def test_warm_up_does_not_change_which_label_times_are_evaluated(gapped, warm_up_steps):
    oracle = Oracle([gapped])
    result = score(oracle, [gapped], warm_up_steps)
    assert result.detection.label_times == 5
    assert np.unique(result.sequences[0].detections.t).tolist() == np.unique(gapped.labels.t).tolist()
    assert result.detection.map == pytest.approx(1)
    # the first label stands at the end of step 2; warm-up does not reach before the start of the grid
    assert oracle.asked[0].start_us == SLICE_US * (2 - min(warm_up_steps, 2))
    assert oracle.asked[0].end_us == SLICE_US * 11


@pytest.mark.parametrize("warm_up_steps", [0, 10])
@pytest.mark.parametrize("times", [[5_000], [5_000, 25_000, 50_000]])
def test_a_label_earlier_than_one_slice_is_evaluated_too(tmp_path, times, warm_up_steps):
    events, _ = square_sequence(0, 0, 4)
    labels = Boxes.of(times, np.tile([10, 10, 30, 30], (len(times), 1)), 0, track_id=np.ones(len(times)))
    path = write_sequence(tmp_path, "early", events, labels)
    sequence = LabelledSequence("early", path, 64, 64, labels, Counter())
    result = score(Oracle([sequence]), [sequence], warm_up_steps)
    assert result.sequences[0].detections.t.tolist() == times
    assert result.detection.map == pytest.approx(1)


def test_detections_of_a_step_move_to_its_label_time(tmp_path):
    """A label at 55 ms lies in the step (45, 65] of the grid that ends at the first label, 25 ms."""
    events, _ = square_sequence(0, 0, 4)
    labels = Boxes.of([25_000, 55_000], [[10, 10, 30, 30], [12, 12, 32, 32]], 0, track_id=[1, 1])
    path = write_sequence(tmp_path, "between", events, labels)
    sequence = LabelledSequence("between", path, 64, 64, labels, Counter())
    result = score(Oracle([sequence]), [sequence])
    assert result.sequences[0].detections.t.tolist() == [25_000, 55_000]
    assert result.sequences[0].tracks.t.tolist() == [25_000, 55_000]


def test_a_network_runs_over_whole_sequences(sequences):
    detector = loud_detector()
    detector.model.train()
    calls = []
    settings = EvaluationSettings(warm_up_steps=3)
    result = evaluate(detector, sequences, settings, ByteTrackSettings(), lambda *call: calls.append(call))
    assert calls == [(1, 2, "test_0"), (2, 2, "test_1")]
    assert not detector.model.training
    for found, sequence in zip(result.sequences, sequences, strict=True):
        assert np.unique(found.detections.t).tolist() == sequence.labels.t.tolist()
        assert set(found.tracks.t.tolist()) <= set(sequence.labels.t.tolist())
    again = run_sequence(detector, sequences[0], ByteTrackSettings(), EvaluationSettings(warm_up_steps=3))
    np.testing.assert_array_equal(again.detections.xyxy, result.sequences[0].detections.xyxy)


def test_warm_up_sets_the_state(squares, gapped):
    cold = run_sequence(loud_detector(), gapped, ByteTrackSettings(), EvaluationSettings(warm_up_steps=0))
    warm = run_sequence(loud_detector(), gapped, ByteTrackSettings(), EvaluationSettings(warm_up_steps=2))
    first = SLICE_US * 3
    assert not np.allclose(cold.detections.at(first).score, warm.detections.at(first).score, atol=1e-4)


def test_an_unknown_protocol_names_the_nearest():
    with pytest.raises((SettingsError, ValidationError), match="did you mean 'prophesee-gen1'"):
        EvaluationSettings(protocol="prophesee-gen")


def test_the_protocol_is_applied(sequences):
    # squares of 16 px have a diagonal of 22.6, those of 30 px of 42.4: only the large class is left
    result = score(Oracle(sequences), sequences, protocol="cordone")
    assert result.detection.protocol.name == "cordone"
    assert result.detection.labels == 8
    assert result.detection.per_class["small"] is None


def test_what_is_found_at_a_time_known_to_be_empty_is_wrong(gapped):
    """Five labels are found with score 0.6, and at two times a box with score 0.9 where there is none."""

    def extra(start_us, end_us, found):
        if end_us // SLICE_US in (5, 6):
            return Boxes.of(end_us, [[0, 0, 9, 9]], 1, [0.9], [-1])
        return Boxes(found.t, found.xyxy, found.class_id, np.full(len(found), 0.6, np.float32), found.track_id)

    unknown = score(Oracle([gapped], extra), [gapped])
    assert (unknown.detection.ap50, unknown.detection.label_times) == (pytest.approx(1), 5)
    known = replace(gapped, annotated=SLICE_US * np.array([3, 5, 6, 7, 12]))
    result = score(Oracle([known], extra), [known])
    # label times 3, 4, 7, 8, 11, and the empty 5, 6 and 12
    assert (result.detection.label_times, result.tracking.label_times) == (8, 8)
    assert result.detection.detections == 7
    assert result.detection.ap50 == pytest.approx(5 / 7)
    assert result.tracking.detection_average.fp == unknown.tracking.detection_average.fp + 2


def test_an_empty_sequence_is_evaluated_beside_others(gapped):
    empty = replace(gapped, name="empty", labels=gapped.labels[:0], annotated=SLICE_US * np.array([2, 4]))

    def extra(start_us, end_us, found):
        return Boxes.of(end_us, [[0, 0, 9, 9]], 1, [0.9], [-1])

    result = score(Oracle([gapped], extra), [gapped, empty])
    assert (result.detection.label_times, result.detection.detections) == (7, 7)
    assert result.detection.ap50 == 0
    with pytest.raises(LabelError, match="nothing to evaluate"):
        score(Oracle([empty], extra), [empty])


def test_times_known_to_be_empty_follow_the_protocol():
    """By hand: a label found with score 0.6, wrong boxes with 0.9 at two empty times; one of these is too early."""
    wide = [[10, 10, 50, 50]]
    labels = Boxes.of([600_000], wide, 0, track_id=[1])
    detections = Boxes.of([400_000, 600_000, 700_000, 800_000], wide * 4, 0, [0.9, 0.6, 0.9, 0.9])
    annotated = {"one": np.array([400_000, 600_000, 700_000])}
    for protocol, times, ap50 in (("unfiltered", 3, 1 / 3), ("prophesee-gen1", 2, 1 / 2)):
        scores = average_precision([("one", labels, detections)], ["car"], protocol, annotated)
        assert (scores.label_times, scores.detections_elsewhere) == (times, 1)
        assert scores.ap50 == pytest.approx(ap50)


def test_only_what_leads_to_a_label_is_run(squares):
    """Each label time gets what a fresh state and the steps before it give; nothing else is run."""
    sequence = find_sequences(squares, "test", CLASS_NAMES)[0]
    torch.manual_seed(0)
    detector = Detector.build(ModelSettings(), InputSettings(slice_us=100), DecodeSettings(score=0.0), CLASS_NAMES)
    detector.model.eval()
    settings = EvaluationSettings(reset_every=4, labelled_only=True)
    result = run_sequence(detector, sequence, ByteTrackSettings(), settings)
    times = np.unique(sequence.labels.t)
    assert np.unique(result.detections.t).tolist() == times.tolist()
    for time in times.tolist():
        *_, step = detector.detect(sequence.open(), start_us=time - 400, end_us=time)
        expected = step.detections
        assert np.array_equal(result.detections.at(time).xyxy, expected.xyxy)
    with pytest.raises(ValidationError, match="labelled_only needs reset_every"):
        EvaluationSettings(labelled_only=True)


def test_the_size_of_pieces_changes_nothing(squares):
    torch.manual_seed(0)
    input = InputSettings(slice_us=20_000)
    detector = Detector.build(ModelSettings(), input, DecodeSettings(score=0.0, max_boxes=5), CLASS_NAMES)
    detector.model.eval()
    sequence = find_sequences(squares, "test", CLASS_NAMES)[0]
    whole, single = (
        run_sequence(detector, sequence, ByteTrackSettings(), EvaluationSettings(chunk_steps=n)) for n in (None, 3)
    )
    np.testing.assert_allclose(whole.detections.xyxy, single.detections.xyxy, atol=1e-3)
