"""Non-maximum suppression beside a greedy loop in NumPy, and what of the time is sorting.

    python benchmarks/nms.py [ROUNDS] [--boxes 10000] [--iou 0.5]       default 7 rounds

Boxes of 10 to 60 pixels, random scores (seed 0): spread over 1280 x 720, so that most survive, with one class and with
eight; and clustered, moved by a few pixels around 100 places, so that few do. The greedy loop compares the best box
left with all others left at once. Both must keep the same boxes, or the benchmark ends with an error. CPU time of this
process, the least of the rounds, which take turns.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from spiketrack.detector.decode import non_maximum_suppression

BAR = 20


def greedy(xyxy: np.ndarray, score: np.ndarray, class_id: np.ndarray, max_iou: float) -> np.ndarray:
    """The definition, with the arithmetic of the package: float32, the threshold in float64."""
    areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    left = np.argsort(-score, kind="stable")
    left = left[areas[left] > 0]
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        size = np.minimum(xyxy[left, 2:], xyxy[best, 2:]) - np.maximum(xyxy[left, :2], xyxy[best, :2])
        intersection = size[:, 0].clip(0) * size[:, 1].clip(0)
        over = intersection > np.float64(max_iou) * (areas[left] + areas[best] - intersection)
        left = left[~(over & (class_id[left] == class_id[best]))]
    return np.array(kept, np.int64)


def boxes(count: int, places: int | None, rng: np.random.Generator) -> np.ndarray:
    size = rng.uniform(10, 60, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * ([1280, 720] - size)
    if places:
        own = rng.integers(0, places, count)
        size, corner = size[own] * rng.uniform(0.9, 1.1, (count, 2)), corner[own] + rng.normal(0, 2, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=7)
    parser.add_argument("--boxes", type=int, default=10_000)
    parser.add_argument("--iou", type=float, default=0.5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    score = rng.random(arguments.boxes).astype(np.float32)
    kinds = {"spread, one class": (None, 1), "spread, eight classes": (None, 8), "clustered, one class": (100, 1)}
    for kind, (places, classes) in kinds.items():
        case = (boxes(arguments.boxes, places, rng), score, rng.integers(0, classes, len(score)), arguments.iou)
        calls = {
            "greedy, NumPy": lambda case=case: greedy(*case),
            "spiketrack": lambda case=case: non_maximum_suppression(*case),
            "of it sorting": lambda: np.argsort(-score, kind="stable"),
        }
        kept = calls["spiketrack"]()
        if not np.array_equal(kept, calls["greedy, NumPy"]()):
            raise SystemExit(f"{kind}: the two keep different boxes")
        least = dict.fromkeys(calls, float("inf"))
        for _ in range(arguments.rounds):
            for name, call in calls.items():
                begin = time.process_time()
                call()
                least[name] = min(least[name], 1e3 * (time.process_time() - begin))
        print(f"{kind}: {len(kept)} of {len(score)} kept, the same boxes")
        for name, took in least.items():
            print(f"  {name:<16}{took:>10.2f} ms{least['greedy, NumPy'] / took:>9.1f} x   (bar {BAR} x)")


if __name__ == "__main__":
    main()
