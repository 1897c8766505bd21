"""Association: gates before the assignment."""

import numpy as np
import pytest

from spiketrack.tracking import assign, overlap_similarity
from spiketrack.tracking.association import NEVER


def test_rests_are_complete_and_the_best_sum_wins() -> None:
    similarity = np.array([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0]])
    pairs, rest_rows, rest_columns = assign(similarity, 0.2)
    # 0.8 + 0.8 beats 0.9 + 0.1
    assert pairs.tolist() == [[0, 1], [1, 0]]
    assert rest_rows.tolist() == []
    assert rest_columns.tolist() == [2]


def test_a_pair_below_the_minimum_cannot_push_a_good_pair_apart() -> None:
    # ungated, 0.6 + 0.45 = 1.05 beats 0.9 + 0
    similarity = np.array([[0.9, 0.6], [0.45, 0.0]])
    pairs, rest_rows, rest_columns = assign(similarity, 0.5)
    assert pairs.tolist() == [[0, 0]]
    assert (rest_rows.tolist(), rest_columns.tolist()) == ([1], [1])


def test_the_minimum_itself_matches_and_never_does_not() -> None:
    assert assign(np.array([[0.5]]), 0.5).pairs.tolist() == [[0, 0]]
    assert assign(np.array([[0.0]]), 0.0).pairs.tolist() == [[0, 0]]
    assert assign(np.array([[NEVER]]), 0.0).pairs.tolist() == []
    with pytest.raises(ValueError, match="minimum similarity must be >= 0, got -1"):
        assign(np.array([[0.5]]), -1)


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0)])
def test_nothing_to_match(shape: tuple[int, int]) -> None:
    pairs, rest_rows, rest_columns = assign(np.empty(shape), 0.5)
    assert pairs.shape == (0, 2)
    assert (len(rest_rows), len(rest_columns)) == shape


def test_similarity_by_hand() -> None:
    tracks = np.array([[0, 0, 10, 10], [0, 0, 10, 20]])
    detections = np.array([[0, 0, 10, 20], [50, 50, 60, 60]])
    assert overlap_similarity(tracks, detections).tolist() == [[0.5, 0], [1, 0]]
    fused = overlap_similarity(tracks, detections, score=np.array([0.5, 1.0]))
    assert fused.tolist() == [[0.25, 0], [0.5, 0]]
    by_class = overlap_similarity(tracks, detections, classes=(np.array([0, 1]), np.array([1, 1])))
    assert by_class.tolist() == [[NEVER, NEVER], [1, 0]]
