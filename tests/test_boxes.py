import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spiketrack.boxes import NO_TRACK, Boxes, iou


def three_boxes():
    return Boxes.of([20, 10, 10], [[0, 0, 4, 2], [2, 0, 6, 2], [1, 1, 1, 1]], [2, 0, 1], track_id=[7, 8, 9])


def test_of_converts_sorts_stably_and_fills():
    boxes = three_boxes()
    assert boxes.t.tolist() == [10, 10, 20]
    assert boxes.class_id.tolist() == [0, 1, 2]
    assert boxes.track_id.tolist() == [8, 9, 7]
    assert boxes.score.tolist() == [1, 1, 1]
    assert Boxes.of(5, [[0, 0, 1, 1]], 3).track_id.tolist() == [NO_TRACK]
    assert boxes.size.tolist() == [[4, 2], [0, 0], [4, 2]]


def test_slicing_by_time_is_half_open_and_views():
    boxes = three_boxes()
    assert boxes.between(10, 20).class_id.tolist() == [0, 1]
    assert boxes.at(20).class_id.tolist() == [2]
    assert np.shares_memory(boxes.at(20).xyxy, boxes.xyxy)
    assert [(t, len(b)) for t, b in boxes.by_time()] == [(10, 2), (20, 1)]
    assert list(Boxes.empty().by_time()) == []
    assert boxes[boxes.class_id != 1].class_id.tolist() == [0, 2]
    assert boxes.at_time(99).t.tolist() == [99, 99, 99]
    with pytest.raises(TypeError, match="one box"):
        boxes[0]
    with pytest.raises(ValueError, match="earlier than the box before it"):
        boxes[np.array([2, 0])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xyxy": [[0, 0, np.nan, 1]]}, "box 0 is not finite"),
        ({"xyxy": [[3, 0, 2, 1]]}, "box 0 is turned inside out"),
        ({"class_id": [-1]}, "class_id = -1 of box 0 is negative"),
        ({"score": [1.5]}, "score = 1.5 of box 0 is not within 0 .. 1"),
        ({"score": [np.nan]}, "not within 0 .. 1"),
    ],
)
def test_bad_boxes_are_named(change, message):
    values = {"t": [1], "xyxy": [[0, 0, 1, 1]], "class_id": [0], "score": [0.5]} | change
    with pytest.raises(ValueError, match=message):
        Boxes.of(**values)


def test_bad_shapes_and_dtypes_are_refused():
    boxes = three_boxes()
    with pytest.raises(ValueError, match=r"xyxy must be float32 of shape \(3, 4\)"):
        Boxes(boxes.t, boxes.xyxy[:2], boxes.class_id, boxes.score, boxes.track_id)
    with pytest.raises(ValueError, match="class_id must be int32"):
        Boxes(boxes.t, boxes.xyxy, boxes.class_id.astype(np.int64), boxes.score, boxes.track_id)


def test_records_are_frozen():
    boxes = three_boxes()
    with pytest.raises(AttributeError):
        boxes.t = None
    with pytest.raises(ValueError, match="read-only"):
        boxes.xyxy[0, 0] = 1


def test_empty_boxes_are_like_full_ones():
    empty, full = Boxes.empty(), three_boxes()
    for name in ("t", "xyxy", "class_id", "score", "track_id"):
        assert getattr(empty, name).dtype == getattr(full, name).dtype
        assert getattr(empty, name).shape[1:] == getattr(full, name).shape[1:]
    assert len(Boxes.concatenate([])) == len(Boxes.concatenate([empty, empty])) == 0
    assert len(Boxes.concatenate([full, empty, full])) == 6


def test_iou_by_hand():
    boxes = three_boxes()  # [2 0 6 2], a point, [0 0 4 2]
    np.testing.assert_allclose(iou(boxes.xyxy, boxes.xyxy), [[1, 0, 1 / 3], [0, 0, 0], [1 / 3, 0, 1]])
    assert iou(boxes.xyxy, np.empty((0, 4))).shape == (3, 0)


@given(st.lists(st.tuples(*[st.integers(0, 20)] * 4), min_size=1, max_size=8))
def test_iou_equals_counting_pixels(rows):
    corners = np.array(rows)
    xyxy = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    masks = np.zeros((len(xyxy), 20, 20), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, xyxy, strict=True):
        mask[y1:y2, x1:x2] = True
    both = (masks[:, None] & masks[None]).sum((2, 3))
    either = (masks[:, None] | masks[None]).sum((2, 3))
    np.testing.assert_allclose(iou(xyxy, xyxy), both / np.maximum(either, 1), rtol=1e-6)
