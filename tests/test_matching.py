"""Matching: the touching pairs and the best pairs, against whole matrices and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from spiketrack.boxes import iou
from spiketrack.matching import best_pairs, touching


def graph(worth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(worth)
    return np.searchsorted(rows, np.arange(worth.shape[0] + 1)), columns, worth[rows, columns]


def test_best_pairs_by_hand() -> None:
    # 0.8 + 0.8 beats 0.9 + 0.1; the third row would take a column of row 0 or 1 for less, and stays alone
    worth = np.array([[0.9, 0.8, 0.0], [0.8, 0.1, 0.0], [0.05, 0.0, 0.0]])
    assert best_pairs(*graph(worth), 3).tolist() == [1, 0, -1]
    # a better newcomer drives a row out: 5 > 3
    assert best_pairs(*graph(np.array([[3.0], [5.0]])), 1).tolist() == [-1, 0]


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    density=st.floats(0, 1),
    whole_numbers=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_sum_is_that_of_scipy_on_gated_problems(
    shape: tuple[int, int], density: float, whole_numbers: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    value = rng.integers(-1, 6, shape).astype(float) if whole_numbers else rng.random(shape)
    worth = np.where(rng.random(shape) < density, value, 0.0)
    partner = best_pairs(*graph(worth), shape[1])
    rows = np.flatnonzero(partner >= 0)
    assert len(set(partner[rows].tolist())) == len(rows)
    assert (worth[rows, partner[rows]] > 0).all()
    allowed = np.maximum(worth, 0)
    assert worth[rows, partner[rows]].sum() == pytest.approx(
        allowed[linear_sum_assignment(allowed, maximize=True)].sum(), abs=1e-9
    )


@settings(max_examples=200, deadline=None)
@given(
    counts=st.tuples(st.integers(0, 25), st.integers(0, 25)), side=st.integers(0, 90), seed=st.integers(0, 2**32 - 1)
)
def test_touching_finds_what_the_matrix_of_all_pairs_finds(counts: tuple[int, int], side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = [rng.integers(-50, 50, (n, 2)) for n in counts]
    a, b = (np.c_[c, c + rng.integers(0, side + 1, c.shape)].astype(float) for c in corners)
    first, column, overlap = touching(a, b)
    found = np.zeros((len(a), len(b)))
    found[np.repeat(np.arange(len(a)), np.diff(first)), column] = overlap
    assert len(overlap) == np.count_nonzero(found)
    assert np.array_equal(found, iou(a, b, np.float64))
