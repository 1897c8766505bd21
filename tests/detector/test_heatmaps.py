import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.detector.heatmaps import HeatmapSettings, heatmap_targets, locref_cells

_PATH = Path(__file__).parents[2] / "benchmarks" / "heatmaps.py"
_spec = importlib.util.spec_from_file_location("benchmark_of_heatmaps", _PATH)
_benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_benchmark)
by_definition = _benchmark.targets_by_definition


def same(result, expected):
    for ours, theirs in zip(result, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.numpy().dtype == theirs.dtype
            np.testing.assert_array_equal(ours.numpy(), theirs)


@st.composite
def cases(draw):
    images, animals, joints = draw(st.integers(0, 3)), draw(st.integers(0, 3)), draw(st.integers(0, 4))
    size = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    stride = draw(st.sampled_from([1, 1.5, 2, 3, 4, 8, 0.7]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    keypoints = rng.uniform(-0.4, 1.4, (images, animals, joints, 3)) * [size[1] * stride, size[0] * stride, 1]
    if draw(st.booleans()):
        keypoints = keypoints.round()  # many distances of exactly the threshold
    keypoints[..., 2] = rng.choice([-2, -1, 0, 1, 2], (images, animals, joints), p=[0.05, 0.15, 0.15, 0.35, 0.3])
    odd = rng.random((images, animals, joints, 2)) < draw(st.sampled_from([0, 0, 0.1]))
    keypoints[..., :2][odd] = rng.choice([np.nan, np.inf, -np.inf, 1e9], odd.sum())
    individual = draw(st.booleans())
    ids = np.array([rng.permutation(4)[:animals] - 1 for _ in range(images)]).reshape(images, animals).astype(int)
    chosen = HeatmapSettings(
        shape=draw(st.sampled_from(["gaussian", "plateau"])),
        mode="individual" if individual else "keypoint",
        max_individuals=3 if individual else None,
        pos_dist_thresh=draw(st.sampled_from([17, 5, 2.5, 0.4])),
        generate_locref=draw(st.booleans()),
        gradient_masking=draw(st.booleans()),
        background_weight=0.25,
    )
    return keypoints.astype(np.float32), size, stride, chosen, ids if individual else None


def both(case, **changes):
    keypoints, size, stride, chosen, ids = case
    with np.errstate(all="ignore"):
        expected = by_definition(keypoints, size, stride, chosen, ids)
    ours = None if ids is None else torch.from_numpy(ids)
    chosen = chosen.model_copy(update=changes)
    return (torch.from_numpy(keypoints), size, stride, chosen, ours), expected


@settings(max_examples=120, deadline=None)
@given(cases())
def test_every_bit_is_that_of_the_definition(case):
    arguments, expected = both(case)
    before = arguments[0].clone()
    result = heatmap_targets(*arguments)
    same(result, expected)
    again = heatmap_targets(*arguments, out=result)
    same(again, expected)
    assert again.heatmap.data_ptr() == result.heatmap.data_ptr()
    assert torch.equal(before.nan_to_num(7), arguments[0].nan_to_num(7))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_float32_stays_within_two_steps(case):
    arguments, expected = both(case, arithmetic="float32")
    result = heatmap_targets(*arguments)
    np.testing.assert_allclose(result.heatmap.numpy(), expected[0], rtol=0, atol=1.2e-7)
    same(result[1:], expected[1:])


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_sparse_offsets_are_the_weighted_ones(case):
    arguments, _ = both(case, generate_locref=True)
    dense, sparse = heatmap_targets(*arguments), locref_cells(*arguments)
    b, k, h, w = dense.heatmap.shape
    filled = torch.zeros(b, k, 2, h * w)
    count = torch.zeros(b, k, h * w, dtype=torch.int64).scatter_add(2, sparse.cell, sparse.valid.long())
    valid = sparse.valid[:, :, None].expand_as(sparse.offsets)
    cell = torch.where(valid, sparse.cell[:, :, None], h * w)  # what is not valid goes to a cell of its own
    filled = torch.zeros(b, k, 2, h * w + 1).scatter(3, cell, sparse.offsets)[..., :-1]
    weights = dense.locref_weights.view(b, k, 2, h * w)
    assert torch.equal(count, weights[:, :, 0])
    wanted = torch.where(weights == 1, dense.locref.view(b, k, 2, h * w), 0.0)
    np.testing.assert_array_equal(filled.numpy(), wanted.numpy())


@pytest.mark.parametrize("animals", [1, 2])
def test_windows_on_a_large_map_lose_nothing(animals):
    rng = np.random.default_rng(3)
    keypoints = rng.uniform(-0.2, 1.2, (1, animals, 4, 3)) * [700, 600, 1]
    keypoints[..., 2] = 1
    keypoints[0, 0, 3, 0] = np.nan
    chosen = HeatmapSettings(pos_dist_thresh=8)
    case = keypoints.astype(np.float32), (300, 350), 2, chosen, None
    arguments, expected = both(case)
    same(heatmap_targets(*arguments), expected)
    assert 0 < np.count_nonzero(expected[0][0, 0]) < 300 * 350 / 4


def test_values_worked_out_by_hand():
    keypoints = torch.tensor([[[2.0, 6.0, 1.0]]])
    heatmap, weights, locref, inside = heatmap_targets(keypoints, (6, 6), 4, HeatmapSettings())
    assert heatmap[0, 0, 1, 0] == 1  # centres 2, 6, 10, ...
    assert heatmap[0, 0, 1, 2].item() == pytest.approx(np.exp(-64 / (2 * (34 / 3) ** 2)), abs=1e-7)
    assert weights.eq(1).all()
    assert locref[0, 0, 5].tolist() == pytest.approx([-4 * i / 7.2801 for i in range(6)])
    assert inside[0, 0, 1].tolist() == [1, 1, 1, 1, 1, 0]  # 16 <= 17 < 20
    # stride 3: centres 1.5, 4.5 are cut to 1, 4
    assert heatmap_targets(torch.tensor([[[4.0, 1.0, 1.0]]]), (3, 3), 3, HeatmapSettings()).heatmap[0, 0, 0, 1] == 1


def test_the_last_animal_owns_the_offsets_and_the_last_word_the_weight():
    two = torch.tensor([[[[2.0, 2.0, 1.0]], [[10.0, 2.0, 1.0]]]])
    gaussian = heatmap_targets(two, (3, 3), 4, HeatmapSettings())
    assert gaussian.locref[0, 0, 0, 0].item() == pytest.approx(8 / 7.2801)
    masked = torch.tensor([[[[0.0, 0.0, -1.0]], [[0.0, 0.0, 0.0]]]])
    chosen = HeatmapSettings(gradient_masking=True, background_weight=0.5)
    assert heatmap_targets(masked, (2, 2), 4, chosen).heatmap_weights.unique().tolist() == [0.5]
    assert heatmap_targets(masked.flip(1), (2, 2), 4, chosen).heatmap_weights.unique().tolist() == [0]


def test_of_two_columns_the_second_is_the_visibility_too():
    pairs = np.array([[[3.0, 5.0], [3.0, -1.0], [3.0, 0.0]]], np.float32)
    arguments, expected = both((pairs, (4, 5), 2, HeatmapSettings(), None))
    same(heatmap_targets(*arguments), expected)
    assert expected[1][0, :, 0, 0].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"keypoints": torch.zeros(2, 3)}, "keypoints must be"),
        ({"keypoints": torch.zeros(1, 2, 3, 4)}, "keypoints must be"),
        ({"size": (0, 4)}, "at least 1 x 1"),
        ({"stride": 0}, "above 0"),
        ({"stride": float("nan")}, "above 0"),
        ({"individual_ids": torch.zeros(1, 1, dtype=torch.int64)}, "belong to mode"),
        ({"settings": HeatmapSettings(mode="individual", max_individuals=2)}, "needs individual_ids"),
        (
            {
                "settings": HeatmapSettings(mode="individual", max_individuals=2),
                "individual_ids": torch.full((1, 1), 2),
            },
            "reach 2",
        ),
        ({"out": heatmap_targets(torch.zeros(1, 2, 3), (5, 4), 2, HeatmapSettings())}, "out.heatmap must be"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changed, message):
    arguments = {"keypoints": torch.zeros(1, 2, 3), "size": (4, 4), "stride": 2, "settings": HeatmapSettings()}
    with pytest.raises(ValueError, match=message):
        heatmap_targets(**(arguments | changed))


def test_individuals_must_be_counted():
    with pytest.raises(ValueError, match="max_individuals"):
        HeatmapSettings(mode="individual")
