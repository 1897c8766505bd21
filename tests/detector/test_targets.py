"""Task-aligned targets: by hand, by the definition in plain loops, and equal to the dense formulation on both ways."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.boxes import iou
from spiketrack.detector import target_kernels, target_pairs
from spiketrack.detector.spikeyolo import locations
from spiketrack.detector.targets import Assignment, Grid, LabelBatch, ciou, locations_inside, task_aligned_targets

_PATH = Path(__file__).parents[2] / "benchmarks" / "targets.py"
_spec = importlib.util.spec_from_file_location("benchmark_of_targets", _PATH)
_benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_benchmark)
dense_targets = _benchmark.dense_targets

CONSTANTS = {"topk": 10, "alpha": 0.5, "beta": 6.0}
POINTS, STRIDES = locations([(8, 8), (4, 4), (2, 2)], torch.device("cpu"))
GRID = Grid.of(POINTS, STRIDES)
WAYS = {"loop": target_kernels, "pairs": target_pairs}


def by_way(way, logits, boxes, grid, labels, *, topk, alpha, beta):
    return Assignment(*WAYS[way].assign(logits, boxes, grid, labels, (topk, alpha, beta)))


def random_case(seed, images=3, most=5, classes=4):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (images, most, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 30, (images, most, 2))], axis=2).astype(np.float32)
    labels = LabelBatch(
        torch.from_numpy(boxes),
        torch.from_numpy(rng.integers(0, classes, (images, most))),
        torch.from_numpy(rng.random((images, most)) < 0.7),
    )
    logits = torch.from_numpy(rng.normal(0, 2, (images, len(POINTS), classes)).astype(np.float32))
    side = torch.from_numpy(rng.uniform(2, 25, (images, len(POINTS), 4)).astype(np.float32))
    predicted = torch.cat([POINTS - side[..., :2], POINTS + side[..., 2:]], dim=-1)
    return logits, predicted, labels


def assigned_one_by_one(logits, predicted, labels):
    """The definition in plain loops: returns {(image, location): (label, target score)}."""
    result = {}
    for n in range(len(logits)):
        claims = {}
        for m in np.flatnonzero(labels.valid[n]):
            box, cls = labels.boxes[n, m], labels.classes[n, m]
            metric, overlap = {}, {}
            for a, point in enumerate(POINTS):
                if (point > box[:2]).all() and (point < box[2:]).all():
                    overlap[a] = max(float(ciou(box, predicted[n, a])), 0.0)
                    metric[a] = float(logits[n, a, cls].sigmoid()) ** 0.5 * overlap[a] ** 6
            for a in sorted((a for a in metric if metric[a] > 0), key=metric.get, reverse=True)[:10]:
                claims.setdefault(a, []).append((overlap[a], m, metric[a]))
        winners = {a: max(c, key=lambda claim: claim[0]) for a, c in claims.items()}
        for a, (_, m, metric) in winners.items():
            own = [w for w in winners.values() if w[1] == m]
            strongest, best = max(w[2] for w in own), max(w[0] for w in own)
            result[n, a] = (int(m), metric * best / (strongest + 1e-9))
    return result


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(4))
def test_targets_equal_the_definition(seed, way):
    logits, predicted, labels = random_case(seed)
    found = by_way(way, logits, predicted, GRID, labels, **CONSTANTS)
    expected = assigned_one_by_one(logits, predicted, labels)
    places = list(zip(found.image.tolist(), found.location.tolist(), strict=True))
    assert places == sorted(expected)
    assert found.label.tolist() == [expected[place][0] for place in places]
    assert found.strength.tolist() == pytest.approx([expected[place][1] for place in places], rel=1e-4, abs=1e-6)


SHAPES = [[(8, 8), (4, 4), (2, 2)], [(6, 9), (3, 5), (2, 3)], [(1, 1), (1, 1), (1, 1)], [(5, 4), (3, 2), (2, 1)]]
CORNERS = st.one_of(
    st.integers(-40, 110).map(float),  # meets centres and edges of cells: equals
    st.floats(-40, 110, width=32),
    st.sampled_from([-1e30, 1e30, math.nan, math.inf, 4.0, 1e-30]),
)


@st.composite
def cases(draw):
    """Few values and many equals, labels one over another, tiny, turned round, outside, infinite, NaN or padding."""
    points, strides = locations(draw(st.sampled_from(SHAPES)), torch.device("cpu"))
    n, m, k, a = draw(st.integers(0, 3)), draw(st.integers(0, 5)), draw(st.integers(1, 3)), len(points)
    corners = draw(st.lists(st.tuples(CORNERS, CORNERS, CORNERS, CORNERS), min_size=n * m, max_size=n * m))
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(n, m, 4)
    if draw(st.booleans()):  # mostly proper boxes, so that labels do get locations
        boxes = torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:].abs()], dim=-1)
    if m > 1 and draw(st.booleans()):
        boxes[:, 1] = boxes[:, 0]
    seed = draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    labels = LabelBatch(
        boxes,
        torch.randint(k, (n, m), generator=generator),
        torch.rand(n, m, generator=generator) < draw(st.sampled_from([0.5, 1.0])),
    )
    whole = draw(st.booleans())
    side = torch.rand(n, a, 4, generator=generator) * 40 - 2
    logits = torch.randn(n, a, k, generator=generator) * 3
    side, logits = (side.round(), logits.round()) if whole else (side, logits)
    if m and draw(st.booleans()):  # most predict one and the same label
        predicted = torch.where(torch.rand(n, a, 1, generator=generator) < 0.8, boxes[:, :1].nan_to_num(), side)
    else:
        predicted = torch.cat([points - side[..., :2], points + side[..., 2:]], dim=-1)
    constants = {
        "topk": draw(st.sampled_from([1, 3, 10, 500])),
        "alpha": draw(st.sampled_from([0.5, 0.0, 1.0])),
        "beta": draw(st.sampled_from([6.0, 1.0])),
    }
    return points, strides, logits, predicted, labels, constants


@settings(max_examples=100, deadline=None)
@given(cases())
def test_both_ways_equal_the_dense_formulation(case):
    points, strides, logits, predicted, labels, constants = case
    a, k = logits.shape[1:]
    dense = dense_targets(logits.double().sigmoid(), predicted.double(), points, labels, **constants)
    before = [part.clone() for part in labels]
    for way in WAYS:
        found = by_way(way, logits, predicted, Grid.of(points, strides), labels, **constants)
        ours = found.dense(labels, a, k)
        assert torch.equal(ours.positive, dense.positive)
        assert torch.equal(ours.boxes[ours.positive], dense.boxes[dense.positive])
        torch.testing.assert_close(ours.scores, dense.scores, rtol=1e-6, atol=1e-12)
        assert not ours.boxes[~ours.positive].any()
        place = found.image * a + found.location
        assert (place.diff() > 0).all()
        assert found.label.dtype == torch.int64
        assert found.strength.dtype == torch.float32
    for part, kept in zip(labels, before, strict=True):
        torch.testing.assert_close(part, kept, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_locations_inside_labels(case):
    points, strides, _, _, labels, _ = case
    corners = labels.boxes[:, :, None]
    inside = ((points > corners[..., :2]) & (points < corners[..., 2:])).all(-1)  # (N, M, A)
    inside = (inside & labels.valid[..., None]).any(1)
    grid = Grid.of(points, strides)
    for way in WAYS.values():
        assert torch.equal(way.mark(grid, labels, len(points)), inside)
    assert torch.equal(torch.stack(locations_inside(grid, labels, len(points)), dim=1), inside.nonzero())


def test_the_grid_describes_the_locations():
    grid = Grid.of(*locations([(6, 9), (3, 5), (2, 3)], torch.device("cpu")))
    assert [part.tolist() for part in grid] == [[0, 54, 69], [9, 5, 3], [6, 3, 2], [8, 16, 32]]


@pytest.mark.parametrize("way", WAYS)
def test_an_assignment_by_hand(way):
    """Two labels, two cells of stride 8 each, sharing one; metric = CIoU, which equals IoU for concentric boxes of
    one shape. Every other location predicts nothing."""
    points, strides = locations([(1, 3), (1, 1), (1, 1)], torch.device("cpu"))
    # centres (4, 4), (12, 4), (20, 4); A covers the first two, B the last two
    boxes = torch.tensor([[[0.0, 0.0, 16.0, 8.0], [8.0, 0.0, 24.0, 8.0]]])
    labels = LabelBatch(boxes, torch.tensor([[0, 1]]), torch.tensor([[True, True]]))
    predicted = torch.zeros(1, 5, 4)
    predicted[0, 0] = torch.tensor([4.0, 2.0, 12.0, 6.0])  # inside A, half its sides: IoU 1/4
    predicted[0, 1] = torch.tensor([8.0, 0.0, 24.0, 8.0])  # exactly B: 1. With A: IoU 1/3, centres 8 apart, hull 24 x 8
    predicted[0, 2] = torch.tensor([12.0, 2.0, 20.0, 6.0])  # inside B, half its sides: 1/4
    logits = torch.full((1, 5, 2), 40.0)  # all scores are 1
    found = by_way(way, logits, predicted, Grid.of(points, strides), labels, topk=10, alpha=1.0, beta=1.0)
    assert found.image.tolist() == [0, 0, 0]
    assert found.location.tolist() == [0, 1, 2]
    assert found.label.tolist() == [0, 1, 1]
    # metric * largest overlap / largest metric of the label: A has one location left, so 1/4 * (1/4) / (1/4)
    assert found.strength.tolist() == pytest.approx([0.25, 1.0, 0.25], rel=1e-5)
    # with one location per label A takes the cell that overlaps it most, 1/3 - 64 / 640, and loses it to B
    assert 1 / 3 - 64 / 640 < 0.25
    found = by_way(way, logits, predicted, Grid.of(points, strides), labels, topk=1, alpha=1.0, beta=1.0)
    assert [part.tolist() for part in found[1:3]] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("way", WAYS)
def test_equals_go_to_the_first_location_and_the_first_label(way):
    box = torch.tensor([8.0, 8.0, 40.0, 40.0])
    labels = LabelBatch(box.expand(1, 2, 4), torch.tensor([[2, 2]]), torch.tensor([[True, True]]))
    logits = torch.zeros(1, len(POINTS), 3)
    found = by_way(way, logits, box.expand(1, len(POINTS), 4), GRID, labels, **CONSTANTS)
    inside = ((POINTS > 8) & (POINTS < 40)).all(1).nonzero().squeeze(1)
    assert len(inside) > 10
    assert found.location.tolist() == inside[:10].tolist()
    assert not found.label.any()
    # a perfect prediction gets a target score of one
    torch.testing.assert_close(found.strength, torch.ones(10), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_areas_beyond_float32_still_overlap(way):
    box = torch.tensor([0.0, 0.0, 1e30, 1e30])
    labels = LabelBatch(box.view(1, 1, 4), torch.tensor([[0]]), torch.tensor([[True]]))
    logits = torch.arange(len(POINTS)).view(1, -1, 1) / 20
    found = by_way(way, logits, box.expand(1, len(POINTS), 4), GRID, labels, topk=1, alpha=0.5, beta=6.0)
    assert found.location.tolist() == [len(POINTS) - 1]


def test_a_prediction_that_is_not_a_number_takes_nobodys_place():
    box = torch.tensor([8.0, 8.0, 40.0, 40.0])
    labels = LabelBatch(box.view(1, 1, 4), torch.tensor([[0]]), torch.tensor([[True]]))
    predicted = box.repeat(1, len(POINTS), 1)
    predicted[0, 9] = torch.nan
    logits = torch.zeros(1, len(POINTS), 1)
    logits[0, 10] = torch.nan
    loop, pairs = (by_way(way, logits, predicted, GRID, labels, **CONSTANTS) for way in WAYS)
    assert loop.location.tolist() == pairs.location.tolist()
    assert len(loop.location) == 10
    assert not {9, 10} & set(loop.location.tolist())


def test_images_without_labels_have_no_positive_location():
    logits, predicted, labels = random_case(0)
    none = LabelBatch(labels.boxes, labels.classes, torch.zeros_like(labels.valid))
    assert len(task_aligned_targets(logits, predicted, GRID, none, **CONSTANTS).image) == 0
    empty = LabelBatch(torch.zeros(3, 0, 4), torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, 0, dtype=torch.bool))
    found = task_aligned_targets(logits, predicted, GRID, empty, **CONSTANTS)
    full = task_aligned_targets(logits, predicted, GRID, labels, **CONSTANTS)
    assert [(len(part), part.dtype) for part in found] == [(0, part.dtype) for part in full]
    assert not found.dense(empty, len(POINTS), 4).positive.any()


def test_a_label_of_an_unknown_class_is_refused():
    logits, predicted, labels = random_case(0)
    labels = LabelBatch(labels.boxes, torch.tensor([[4, 0, 0, 0, 0]] * 3), torch.ones_like(labels.valid))
    with pytest.raises(ValueError, match="classes 0 to 4, but the predictions have 4"):
        task_aligned_targets(logits, predicted, GRID, labels, **CONSTANTS)


def test_ciou_by_hand():
    a, b = torch.tensor([0.0, 0.0, 4.0, 2.0]), torch.tensor([2.0, 0.0, 6.0, 2.0])
    # IoU 4 / 12; centres 2 apart, hull 6 x 2; equal aspect
    assert ciou(a, b).item() == pytest.approx(1 / 3 - 4 / 40, rel=1e-5)
    c = torch.tensor([0.0, 0.0, 2.0, 4.0])
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
    overlap = 4 / 12
    assert ciou(a, c).item() == pytest.approx(overlap - 2 / 32 - v / (v - overlap + 1) * v, rel=1e-5)
    boxes = torch.rand(5, 4)
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(ciou(boxes, boxes), torch.ones(5), rtol=1e-4, atol=1e-4)
    assert (ciou(boxes[:, None], boxes[None]) <= torch.from_numpy(iou(boxes.numpy(), boxes.numpy())) + 1e-5).all()
