"""PCK and OKS: values by hand, and COCO's own evaluation."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spiketrack.keypoints.joints import BONES, MIRRORED, NECK, PELVIS, SIGMAS
from spiketrack.keypoints.scores import (
    Poses,
    distances,
    object_keypoint_similarity,
    oks_average_precision,
    pck,
    pck_interval,
    pck_of_either_side,
)
from spiketrack.traffic.body_parts import JOINTS


def poses(people, rng, images):
    keypoints = np.concatenate([rng.uniform(0, 100, (people, 15, 2)), rng.random((people, 15, 1)) < 0.7], axis=2)
    keypoints[:, 0, 2] = 1
    corner = rng.uniform(0, 50, (people, 2))
    return Poses(
        keypoints, np.hstack([corner, corner + rng.uniform(20, 60, (people, 2))]), rng.integers(0, images, people)
    )


def test_a_mirror_swaps_left_and_right_and_bones_join_all_joints():
    assert [JOINTS[i] for i in MIRRORED[3:5]] == ["right shoulder", "left shoulder"]
    assert [MIRRORED[i] for i in MIRRORED] == list(range(15))
    assert {JOINTS.index("left knee"), JOINTS.index("left ankle")} in [set(bone) for bone in BONES]
    assert len(BONES) == 14  # a tree
    assert {joint for bone in BONES for joint in bone} == set(range(15))


def test_pck_by_hand():
    """A torso of 50 pixels: 10 pixels off is within 0.2 of it, 10.1 is not; a hidden joint does not count."""
    keypoints = np.zeros((1, 15, 3))
    keypoints[0, PELVIS, 1] = 50
    keypoints[0, [NECK, PELVIS, 3, 4], 2] = 1
    person = Poses(keypoints, np.array([[0, 0, 30.0, 100]]), np.zeros(1, np.int64))
    assert person.torso.tolist() == [50]
    found = keypoints[..., :2].copy()
    found[0, NECK] = [6, 8]
    found[0, PELVIS] = [0, 60.1]
    found[0, 5] = [1000, 0]  # out of sight
    away = distances(found, person)
    assert pck(away, person.seen, person.torso, 0.2) == 3 / 4
    assert pck(away, person.seen, person.torso, 0.19) == 2 / 4
    assert pck(away, np.zeros((1, 15), bool), person.torso, 0.2) is None


def test_the_interval_of_pck_draws_people_not_crops():
    """Of two people one is always right: a draw of two has 0, 1/2 or 1, however many crops each has."""
    seen, length = np.ones((12, 1), bool), np.ones(12)
    person = np.array([0] * 6 + [1] * 6)
    assert pck_interval(person[:, None].astype(float), seen, length, 0.2, person) == (0, 1)
    assert pck_interval(np.zeros((12, 1)), seen, length, 0.2, person) == (1, 1)


def test_either_side_exchanges_the_sides_of_whole_people():
    """One person seen from the wrong side, another with the left side alone where the right one is."""
    rng = np.random.default_rng(0)
    true = poses(2, rng, images=1)
    true.keypoints[..., 2] = 1
    found = true.keypoints[:, MIRRORED, :2]
    found[1] = true.keypoints[1, :, :2]
    left = [i for i, name in enumerate(JOINTS) if name.startswith("left")]
    found[1, left] = true.keypoints[1, np.array(MIRRORED)[left], :2]
    assert pck_of_either_side(found, true, 1e-6) == (15 + 9) / 30  # of the second, the trunk and the right side
    assert pck(distances(found, true), true.seen, true.torso, 1e-6) == (3 + 9) / 30


def test_oks_by_hand():
    """One joint in sight, at a distance where the exponent is 1: e^-1; exact joints give 1."""
    keypoints, whole = np.zeros((1, 15, 3)), np.array([[0, 0, 20.0, 40]])
    keypoints[0, 7, 2] = 1
    found = keypoints[..., :2].copy()
    assert object_keypoint_similarity(found, keypoints, whole).tolist() == [[1.0]]
    found[0, 7, 0] = np.sqrt(2 * 0.53 * 20 * 40) * 2 * 0.062
    assert object_keypoint_similarity(found, keypoints, whole)[0, 0] == pytest.approx(np.exp(-1))


@pytest.mark.parametrize("seed", range(3))
def test_oks_average_precision_is_that_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    true = poses(30, rng, images=12)
    spread = rng.choice([0.3, 1.5, 4.0, 12.0], (30, 1, 1))
    found, score = true.keypoints[..., :2] + rng.normal(0, 1, (30, 15, 2)) * spread, rng.random(30)

    def entry(i, triples):
        return {"id": i + 1, "image_id": int(true.image[i]), "category_id": 1, "keypoints": triples.ravel().tolist()}

    sides = true.whole[:, 2:] - true.whole[:, :2]
    labels = [
        {
            **entry(i, true.keypoints[i] * [1, 1, 2]),
            "num_keypoints": int(true.seen[i].sum()),
            "bbox": [*true.whole[i, :2].tolist(), *sides[i].tolist()],
            "area": 0.53 * float(sides[i].prod()),
            "iscrowd": 0,
        }
        for i in range(30)
    ]
    results = [{**entry(i, np.hstack([found[i], np.ones((15, 1))])), "score": float(score[i])} for i in range(30)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": i} for i in range(12)], "categories": [{"id": 1}], "annotations": labels}
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "keypoints")
        judge.params.kpt_oks_sigmas = SIGMAS
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    wanted = judge.eval["precision"][:, :, 0, 0, 0].mean(1)  # (10,)
    assert 0.05 < wanted.mean() < 0.95
    assert oks_average_precision(found, score, true) == pytest.approx(wanted, abs=1e-9)
