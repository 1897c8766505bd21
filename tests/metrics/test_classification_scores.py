"""Classification scores: by hand, and the area under the curve against counting pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketrack.errors import SettingsError, SpiketrackError
from spiketrack.metrics.classification import roc, score_classification, wilson

NAMES = ("cat", "dog", "cow")


def sure_of(*answers):
    """Probabilities of samples whose likeliest class is given."""
    return 0.1 + 0.7 * np.eye(3)[list(answers)]


def test_three_classes_by_hand():
    # truth: 2 cats, 3 dogs, 1 cow; one dog is taken for a cat, the cow for a dog
    scores = score_classification([0, 0, 1, 1, 1, 2], sure_of(0, 0, 1, 1, 0, 1), NAMES)
    assert scores.confusion.tolist() == [[2, 0, 0], [1, 2, 0], [0, 1, 0]]
    assert (scores.samples, scores.accuracy) == (6, 4 / 6)
    assert scores.balanced_accuracy == pytest.approx((1 + 2 / 3 + 0) / 3)
    cat, dog, cow = scores.per_class.values()
    assert (cat.samples, cat.answers, cat.precision, cat.recall, cat.f1) == (2, 3, 2 / 3, 1.0, 4 / 5)
    assert (dog.samples, dog.answers, dog.precision, dog.recall) == (3, 3, 2 / 3, 2 / 3)
    assert (cow.answers, cow.precision, cow.recall, cow.f1) == (0, None, 0.0, 0.0)
    # one against the rest, scores .8 or .1. cat: 2 of 2 and 1 of 4 above; dog: 2 of 3, 1 of 3; cow: all equal
    assert [r.roc.area for r in (cat, dog, cow)] == pytest.approx([7 / 8, 2 / 3, 1 / 2])
    assert scores.area == pytest.approx((7 / 8 + 2 / 3 + 1 / 2) / 3)


def test_curve_by_hand():
    # by falling score: + - (+ -) +; the tie is one step of both
    curve = roc([True, False, True, False, True], [0.9, 0.8, 0.5, 0.5, 0.1])
    assert curve.true_positive.tolist() == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert curve.false_positive.tolist() == [0, 0, 0.5, 1, 1]
    # pairs: .9 beats both (2), .5 loses to .8 and ties (0.5), .1 loses twice: 2.5 of 6
    assert curve.area == pytest.approx(2.5 / 6)


def test_two_classes_have_the_area_of_class_1():
    chances = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4]])
    scores = score_classification([0, 0, 1, 1], chances, ("background", "cars"))
    assert scores.area == scores.per_class["cars"].roc.area == 3 / 4  # .7 beats .1 and .6; .4 beats .1
    assert scores.accuracy == 0.5


def test_a_class_without_samples_has_no_recall_and_no_curve():
    scores = score_classification([0, 0], sure_of(0, 2), NAMES)
    dog = scores.per_class["dog"]
    assert (dog.recall, dog.precision, dog.f1, dog.roc) == (None, None, None, None)
    assert (scores.balanced_accuracy, scores.area) == (0.5, None)


def test_equal_probabilities_answer_the_first_class():
    assert score_classification([1], [[0.5, 0.5]], ("a", "b")).confusion.tolist() == [[0, 0], [1, 0]]


def test_wilson_as_published():
    # Newcombe 1998, table I: 81 of 263 -> 0.2553 .. 0.3662; 0 of 20 -> 0 .. 0.1611
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(20, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_area_is_the_share_of_pairs_in_order(samples):
    positive, scores = (np.array(column) for column in zip(*samples, strict=True))
    curve = roc(positive, scores)
    above, below = scores[positive], scores[~positive]
    if not len(above) or not len(below):
        assert curve is None
        return
    pairs = np.sign(above[:, None] - below[None, :])
    assert curve.area == pytest.approx(((pairs + 1) / 2).mean())
    assert (np.diff(curve.true_positive) >= 0).all()
    assert (np.diff(curve.false_positive) >= 0).all()
    assert (curve.true_positive[[0, -1]].tolist(), curve.false_positive[[0, -1]].tolist()) == ([0, 1], [0, 1])


@pytest.mark.parametrize(
    ("class_ids", "chances", "says"),
    [
        ([], np.empty((0, 3)), "no sample to score"),
        ([0], [[0.5, 0.5]], r"shape \(1, 3\), got \(1, 2\)"),
        ([0, 3], sure_of(0, 1), "sample 1 has class id 3, the list has 3"),
        ([0, -1], sure_of(0, 1), "sample 1 has class id -1"),
        ([0, 1], [[1, 0, 0], [np.nan, 0, 0]], "probabilities of sample 1 are no numbers"),
    ],
)
def test_what_cannot_be_scored_is_named(class_ids, chances, says):
    with pytest.raises(SpiketrackError, match=says):
        score_classification(class_ids, chances, NAMES)


def test_class_names_are_distinct():
    with pytest.raises(SettingsError, match="must be distinct"):
        score_classification([0], [[0.5, 0.5]], ("a", "a"))
