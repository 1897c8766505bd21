"""Class weights: what the labels of a data set say about how much a class should count.

Station: in come labels, out go one factor for each class and a table of it. The weight of a class is n / (K * n_k), of
a class without labels the largest of the others, then all are scaled to the mean 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.errors import LabelError


def count_labels(labels: Sequence[Boxes], classes: int, most: int | None = None) -> NDArray[np.int64]:
    """(K,) labels of each class; of more than `most` labels that many, evenly over the recordings."""
    ids = np.concatenate([np.zeros(0, np.int32), *(boxes.class_id for boxes in labels)])
    if most is not None and len(ids) > most:
        ids = ids[np.linspace(0, len(ids) - 1, most).round().astype(np.int64)]
    return np.bincount(ids, minlength=classes)


def balanced_weights(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) weights of mean 1, the rarer the class the larger. Raises LabelError where there is no label."""
    if not counts.any():
        raise LabelError("class weights: there is no label to count")
    weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
    weights[counts == 0] = weights[counts > 0].max()
    return weights / weights.mean()


def weights_table(class_names: Sequence[str], counts: NDArray[np.int64], weights: NDArray[np.float64]) -> list[str]:
    """Lines of a table: class, labels, share, weight."""
    width = max(len("class"), *(len(name) for name in class_names))
    lines = [f"{'class':<{width}}  {'labels':>10}  {'share':>7}  {'weight':>7}"]
    for name, count, weight in zip(class_names, counts.tolist(), weights.tolist(), strict=True):
        lines.append(f"{name:<{width}}  {count:>10,}  {count / max(counts.sum(), 1):>6.1%}  {weight:>7.3f}")
    return lines
