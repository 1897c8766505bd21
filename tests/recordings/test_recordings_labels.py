"""Labels: field names decide, repairs are counted, pickles are never read, writing is atomic and bounded."""

import pickle
import resource

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spiketrack.boxes import Boxes
from spiketrack.errors import LabelError
from spiketrack.recordings import LABEL_DTYPE, LabelWriter, load_labels, save_labels


def rows(*values, dtype=LABEL_DTYPE):
    """Rows of t, x, y, w, h, class_id, track_id, class_confidence."""
    out = np.zeros(len(values), dtype)
    for i, value in enumerate(values):
        out[i] = value
    return out


def saved(path, array):
    np.save(path, array, allow_pickle=True)
    return path


def test_the_row_is_forty_bytes():
    assert LABEL_DTYPE.itemsize == 40
    assert [LABEL_DTYPE.fields[name][1] for name in LABEL_DTYPE.names] == [0, 8, 12, 16, 20, 24, 28, 32]


def test_values_by_hand(tmp_path):
    path = saved(tmp_path / "a.npy", rows((5, 1.5, 2, 3, 4, 1, 7, 0.5), (6, 0, 0, 64, 48, 0, 8, 1)))
    boxes, repairs = load_labels(path, width=64, height=48, class_names=["car", "bus"])
    assert boxes.t.tolist() == [5, 6]
    assert boxes.xyxy.tolist() == [[1.5, 2, 4.5, 6], [0, 0, 64, 48]]
    assert (boxes.class_id.tolist(), boxes.track_id.tolist(), boxes.score.tolist()) == ([1, 0], [7, 8], [0.5, 1])
    assert repairs == {}


def test_fields_go_by_name(tmp_path):
    gen1 = np.dtype(
        [("class_id", "u1"), ("h", "<f8"), ("w", "<f4"), ("ts", "<u8"), ("y", "<i2"), ("x", "<f4"), ("extra", "S3")]
    )
    path = saved(tmp_path / "a.npy", rows((2, 4, 3, 9, 2, 1, b"abc"), dtype=gen1))
    boxes, repairs = load_labels(path)
    assert (boxes.t.tolist(), boxes.xyxy.tolist()) == ([9], [[1, 2, 4, 6]])
    assert (boxes.class_id.tolist(), boxes.track_id.tolist(), boxes.score.tolist()) == ([2], [-1], [1])
    assert repairs == {}


BOX = {"x": 1.5, "y": 2, "w": 3, "h": 4, "track_id": 7}
XYWH = [(name, "<f4") for name in "xywh"]
PUBLISHED = {
    "GEN1": [("ts", "<u8"), *XYWH, ("class_id", "u1"), ("confidence", "<f4"), ("track_id", "<u4")],
    "1Mpx": [("t", "<u8"), *XYWH, ("class_id", "<u4"), ("track_id", "<u4"), ("class_confidence", "<f4")],
    "Prophesee": LABEL_DTYPE,
    "eTraM": [("t", "<i8"), *XYWH, ("class_id", "<u4"), ("track_id", "<u4"), ("class_confidence", "<f4")],
    "DSEC": [
        ("t", "<u8"),
        *XYWH,
        ("class_id", "u1"),
        ("class_confidence", "<f4"),
        ("track_id", "<u4"),
        ("img_name", "<U10"),
    ],
}


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("name", "class_id"), [("GEN1", 1), ("1Mpx", 6), ("Prophesee", 6), ("eTraM", 7), ("DSEC", 7)])
def test_the_published_data_sets(tmp_path, name, class_id, aligned):
    """GEN1: 0 car, 1 pedestrian; 1Mpx: 7 classes; eTraM: 8; rows of 33 to 80 bytes, with and without gaps."""
    dtype = PUBLISHED[name] if name == "Prophesee" else np.dtype(PUBLISHED[name], align=aligned)
    labels = np.zeros(2, dtype)
    for field, value in BOX.items():
        labels[field] = value
    labels["ts" if name == "GEN1" else "t"] = [33_333, 66_666]
    labels["class_id"] = [0, class_id]
    labels["confidence" if name == "GEN1" else "class_confidence"] = [1, 0.25]
    boxes, repairs = load_labels(saved(tmp_path / "a.npy", labels), width=304, height=240)
    assert (boxes.t.tolist(), boxes.class_id.tolist()) == ([33_333, 66_666], [0, class_id])
    assert (boxes.xyxy.tolist(), boxes.track_id.tolist()) == ([[1.5, 2, 4.5, 6]] * 2, [7, 7])
    assert (boxes.score.tolist(), repairs) == ([1, 0.25], {})


def test_a_header_that_numpy_itself_stumbles_over(tmp_path):
    whole = saved(tmp_path / "a.npy", rows((5, 1, 2, 3, 4, 1, 7, 1))).read_bytes()
    for content in (whole.replace(b"}", b"\x00"), whole.replace(b"(1,)", b"((((")):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(LabelError, match="not a whole structured"):
            load_labels(tmp_path / "a.npy")


@pytest.mark.parametrize("shape", ["(2,)", "(4611686018427387904,)", "(1073741824, 1073741824)"])
def test_a_header_that_claims_more_than_the_file_holds(tmp_path, shape):
    whole = saved(tmp_path / "a.npy", rows((5, 1, 2, 3, 4, 1, 7, 1))).read_bytes()
    header = whole[10:-40].replace(b"(1,)", shape.encode())
    (tmp_path / "a.npy").write_bytes(whole[:8] + len(header).to_bytes(2, "little") + header + whole[-40:])
    with pytest.raises(LabelError, match=r"it claims .* rows of 40 bytes, 40 bytes are left"):
        load_labels(tmp_path / "a.npy")


def test_packed_rows_read_the_same(tmp_path):
    packed = np.dtype([(name, LABEL_DTYPE[name]) for name in LABEL_DTYPE.names])
    assert packed.itemsize == 36
    value = (5, 1.5, 2, 3, 4, 1, 7, 0.5)
    first, _ = load_labels(saved(tmp_path / "a.npy", rows(value, dtype=packed)))
    second, _ = load_labels(saved(tmp_path / "b.npy", rows(value)))
    assert first.xyxy.tolist() == second.xyxy.tolist()
    assert first.track_id.tolist() == second.track_id.tolist() == [7]


def test_repairs_are_counted_each_row_under_one_drop(tmp_path):
    nan, inf = np.nan, np.inf
    path = saved(
        tmp_path / "a.npy",
        rows(
            (10, 1, 1, 5, 5, 0, 1, 1),
            (9, -2, 1, 5, 5, 0, 2, 1),  # reordered, clipped
            (11, 60, 40, 50, 50, 0, 3, 1.5),  # clipped, score clamped
            (12, nan, 1, 5, 5, 0, 4, 1),
            (13, 1, 1, inf, 5, 0, 4, 1),
            (14, 1, 1, 5, 5, 0, 4, nan),
            (15, 3e38, 1, 3e38, 5, 0, 4, 1),  # x + w is no float32
            (16, 1, 1, 0, 5, 0, 4, 1),
            (17, 1, 1, 5, -5, 0, 4, 1),
            (18, 64, 1, 5, 5, 0, 4, 1),  # touches the right edge from outside
            (19, -5, 1, 5, 5, 0, 4, 1),
            (20, 1, 48, 5, 5, 0, 4, 7),
            (21, 1, 1, 5, 5, 0, 5, -0.5),
        ),
    )
    boxes, repairs = load_labels(path, width=64, height=48)
    assert boxes.t.tolist() == [9, 10, 11, 21]
    assert boxes.xyxy.tolist() == [[0, 1, 3, 6], [1, 1, 6, 6], [60, 40, 64, 48], [1, 1, 6, 6]]
    assert boxes.score.tolist() == [1, 1, 1, 0]
    assert repairs == {
        "reordered": 1,
        "clipped": 2,
        "score_clamped": 2,
        "not_finite": 4,
        "empty": 2,
        "outside_sensor": 3,
    }
    assert len(load_labels(path)[0]) == 7  # without a sensor nothing is outside


def test_a_file_without_rows(tmp_path):
    boxes, repairs = load_labels(saved(tmp_path / "a.npy", rows()), width=64, height=48, class_names=[])
    assert (len(boxes), boxes.xyxy.shape, repairs) == (0, (0, 4), {})


def test_a_class_beyond_the_list_names_file_row_id_and_list(tmp_path):
    path = saved(tmp_path / "a.npy", rows((5, 1, 2, 3, 4, 1, 7, 1), (6, 1, 2, 3, 4, 2, 7, 1)))
    with pytest.raises(LabelError, match=r"a\.npy: row 1 has class id 2, the list of classes is: 0 car, 1 bus"):
        load_labels(path, class_names=["car", "bus"])


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros(3), "expected one-dimensional structured rows, got float64"),
        (np.zeros((2, 2), LABEL_DTYPE), r"got .* of shape \(2, 2\)"),
        (np.array([{}, None]), "pickles are never read"),
        (np.zeros(2, [("t", "i8"), ("x", "f4"), ("who", "O")]), "pickles are never read"),
        (
            np.zeros(2, [("t", "i8"), ("x", "f4"), ("w", "f4"), ("h", "f4")]),
            "no field class_id, y; the file has t, x, w, h",
        ),
        (np.zeros(2, [(n, "f4") for n in ("x", "y", "w", "h")] + [("class_id", "i4")]), "no field t or ts"),
        (np.zeros(2, [(n, "f4") for n in ("t", "x", "y", "w", "h", "class_id")]), "field t must hold integers"),
        (np.zeros(2, [("t", "i8"), ("class_id", "i4")] + [(n, "U4") for n in "xywh"]), "field x must hold numbers"),
        (
            np.zeros(2, [("t", "i8"), ("class_id", "i4"), ("x", "f4", 2)] + [(n, "f4") for n in "ywh"]),
            "field x must hold",
        ),
        (rows((5, 1, 2, 3, 4, 1 << 31, 7, 1)), "row 0 has class_id 2147483648"),
        (np.full(1, -1, [("t", "i8"), ("class_id", "i4")] + [(n, "f4") for n in "xywh"]), "row 0 has class_id -1"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, says):
    with pytest.raises(LabelError, match=says) as error:
        load_labels(saved(tmp_path / "a.npy", array))
    assert str(tmp_path / "a.npy") in str(error.value)


def test_files_that_are_no_whole_npy_are_refused(tmp_path):
    whole = saved(tmp_path / "a.npy", rows((5, 1, 2, 3, 4, 1, 7, 1), (6, 1, 2, 3, 4, 1, 7, 1))).read_bytes()
    huge = whole.replace(b"(2,)", b"(2000000000000,)")
    for content in (b"", whole[:3], whole[:50], whole[:-1], b"no labels", pickle.dumps([1, 2]), b"PK\x03\x04", huge):
        (tmp_path / "b.npy").write_bytes(content)
        with pytest.raises(LabelError, match=r"b\.npy"):
            load_labels(tmp_path / "b.npy")
    np.savez(tmp_path / "c.npz", a=np.zeros(3))
    with pytest.raises(LabelError, match="not a whole structured"):
        load_labels(tmp_path / "c.npz")
    with pytest.raises(LabelError, match="No such file"):
        load_labels(tmp_path / "none.npy")
    with pytest.raises(LabelError, match="Is a directory"):
        load_labels(tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("labels")


finite = st.floats(0, 1000, width=32)
box = st.tuples(
    st.integers(0, 10**9), finite, finite, st.floats(0.5, 500, width=32), st.floats(0.5, 500, width=32),
    st.integers(0, 80), st.integers(0, 2**32 - 1), st.floats(0, 1, width=32),
)  # fmt: skip


@given(st.lists(box, max_size=30), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_round_trip_also_in_pieces(folder, values, piece):
    t, x, y, w, h, class_id, track_id, score = (
        np.array(c) for c in (zip(*values, strict=True) if values else [[]] * 8)
    )
    boxes = Boxes.of(t, np.stack([x, y, x + w, y + h], axis=1), class_id, score, track_id)
    with LabelWriter(folder / "a.npy") as writer:
        for first in range(0, len(boxes), piece):
            writer.append(boxes[first : first + piece])
    save_labels(folder / "b.npy", boxes)
    assert (folder / "a.npy").read_bytes() == (folder / "b.npy").read_bytes()
    assert np.load(folder / "a.npy", allow_pickle=False).dtype == LABEL_DTYPE
    back, repairs = load_labels(folder / "a.npy")
    assert repairs == {}
    for name in ("t", "class_id", "score", "track_id"):
        assert np.array_equal(getattr(back, name), getattr(boxes, name))
    np.testing.assert_allclose(back.xyxy, boxes.xyxy, rtol=2e-7, atol=0)  # w = x2 - x1 is rounded to float32


def test_padding_of_the_rows_is_zero(tmp_path):
    save_labels(tmp_path / "a.npy", Boxes.of([5], [[1, 2, 3, 4]], [0], track_id=[3]))
    content = (tmp_path / "a.npy").read_bytes()
    assert len(content) % 64 == 40
    assert content[-4:] == bytes(4)


def test_writer_refuses_what_the_file_cannot_hold_and_leaves_the_older_file(tmp_path):
    path = tmp_path / "a.npy"
    save_labels(path, Boxes.of([5], [[1, 2, 3, 4]], [0], track_id=[3]))
    before = path.read_bytes()
    with pytest.raises(LabelError, match=r"a\.npy: box 1 has track id -1"):
        save_labels(path, Boxes.of([5, 6], [[1, 2, 3, 4]] * 2, [0, 0], track_id=[3, -1]))
    with pytest.raises(LabelError, match="box 0 has track id 4294967296"):
        save_labels(path, Boxes.of([5], [[1, 2, 3, 4]], [0], track_id=[1 << 32]))
    with LabelWriter(path) as writer:
        writer.append(Boxes.of([5], [[1, 2, 3, 4]], [0], track_id=[3]))
        with pytest.raises(LabelError, match="time runs backwards: 4 us after 5 us"):
            writer.append(Boxes.of([4], [[1, 2, 3, 4]], [0], track_id=[3]))
    with pytest.raises(LabelError, match="outside of"):
        writer.append(Boxes.of([6], [[1, 2, 3, 4]], [0], track_id=[3]))
    with pytest.raises(LabelError, match=r"none/a\.npy: labels cannot be written: No such file"):
        save_labels(tmp_path / "none" / "a.npy", Boxes.empty())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_and_keeps_the_older_file(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"older")
    many = Boxes.of(0, np.tile([1, 2, 3, 4], (10_000, 1)), 0, track_id=np.arange(10_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(LabelError, match=r"a\.npy: labels cannot be written: File too large"):
            save_labels(path, many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_float_too_wide_for_a_coordinate_is_counted(tmp_path):
    rows_of_long_doubles = np.zeros(2, [("t", "i8"), *((name, np.longdouble) for name in "xywh"), ("class_id", "u1")])
    for name, value in zip("txywh", (5, 1, 2, 3, 4), strict=True):
        rows_of_long_doubles[name] = value
    rows_of_long_doubles["x"][1] = np.longdouble(2) ** 10_000 if np.finfo(np.longdouble).max > 1e400 else np.inf
    np.save(tmp_path / "a.npy", rows_of_long_doubles)
    boxes, repairs = load_labels(tmp_path / "a.npy")
    assert len(boxes) == 1
    assert sum(repairs.values()) == 1
