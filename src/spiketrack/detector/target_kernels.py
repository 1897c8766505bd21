"""Task-aligned targets on the CPU: each label's loop over the cells inside it, compiled.

Station: behind `targets.task_aligned_targets`; see there and docs/targets.md for what comes in and goes out. CIoU and
metric are computed in float64 and rounded to float32 once; equals keep the order of locations, and of labels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor

from spiketrack.detector.targets import Grid, LabelBatch

EPS = 1e-7  # as in targets.ciou


def mark(grid: Grid, labels: LabelBatch, locations: int) -> Tensor:
    """(N, A) bool: True where the centre is inside a label of the image."""
    inside = np.zeros((labels.valid.shape[0], locations), np.bool_)
    _mark(labels.boxes.float().contiguous().numpy(), labels.valid.contiguous().numpy(), _cells(grid), inside)
    return torch.from_numpy(inside)


def assign(
    class_logits: Tensor, boxes: Tensor, grid: Grid, labels: LabelBatch, constants: tuple[int, float, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four parts of an Assignment. class_logits: (N, A, K) and boxes: (N, A, 4), float32. constants: topk, alpha,
    beta."""
    classes = labels.classes[labels.valid]
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < class_logits.shape[2]:
        raise ValueError(
            f"targets: labels of classes {int(classes.min())} to {int(classes.max())}, "
            f"but the predictions have {class_logits.shape[2]} classes, from 0 on"
        )
    own = (labels.boxes.float(), labels.classes, labels.valid)
    arrays = (x.contiguous().numpy() for x in (class_logits, boxes, *own))
    topk, alpha, beta = constants
    found = _assign(*arrays, _cells(grid), min(topk, class_logits.shape[1]), float(alpha), float(beta))
    image, location, label, strength = (torch.from_numpy(part) for part in found)
    return image, location, label, strength


def _cells(grid: Grid) -> np.ndarray:
    """(L, 4) int64: start, width, height, stride."""
    return torch.stack(list(grid), dim=1).numpy()


@njit(cache=True, nogil=True)
def _span(low, high, stride, count):
    """First cell and the one behind the last with low < (cell + 0.5) * stride < high, of `count` cells. Exact, as
    strides are powers of two. Nothing is between numbers that are not ordered, NaN included."""
    if not low < high:
        return 0, 0
    first = min(max(np.floor(low / stride - 0.5) + 1.0, 0.0), float(count))
    last = min(max(np.ceil(high / stride - 0.5), 0.0), float(count))
    return int(first), int(last)


@njit(cache=True, nogil=True)
def _mark(corners, valid, cells, inside):
    for n in range(valid.shape[0]):
        for m in range(valid.shape[1]):
            if not valid[n, m]:
                continue
            for level in range(len(cells)):
                start, width, height, stride = cells[level, 0], cells[level, 1], cells[level, 2], cells[level, 3]
                left, right = _span(corners[n, m, 0], corners[n, m, 2], stride, width)
                top, bottom = _span(corners[n, m, 1], corners[n, m, 3], stride, height)
                for row in range(top, bottom):
                    inside[n, start + row * width + left : start + row * width + right] = True


@njit(cache=True, nogil=True, error_model="numpy")
def _ciou(a, b, least):
    """CIoU of two boxes in float64, term by term as targets.ciou; 0 if there is none or the IoU is below `least`."""
    ax, ay, ar, ab = np.float64(a[0]), np.float64(a[1]), np.float64(a[2]), np.float64(a[3])
    bx, by, br, bb = np.float64(b[0]), np.float64(b[1]), np.float64(b[2]), np.float64(b[3])
    w, h = max(min(ar, br) - max(ax, bx), 0.0), max(min(ab, bb) - max(ay, by), 0.0)
    intersection = w * h
    if intersection <= 0:
        return 0.0  # the other terms only take away
    union = (ar - ax) * (ab - ay) + (br - bx) * (bb - by) - intersection
    iou = intersection / (union + EPS)
    if iou < least:
        return 0.0
    hull_w, hull_h = max(ar, br) - min(ax, bx), max(ab, bb) - min(ay, by)
    dx, dy = ax + ar - bx - br, ay + ab - by - bb
    distance = (dx * dx + dy * dy) / 4 / (hull_w * hull_w + hull_h * hull_h + EPS)
    angle = math.atan((ar - ax) / (ab - ay + EPS)) - math.atan((br - bx) / (bb - by + EPS))
    v = (4 / math.pi**2) * (angle * angle)
    return iou - distance - v / (v - iou + 1 + EPS) * v


@njit(cache=True, nogil=True)
def _place(metric, claims, first, count, topk):
    """Where a claim with this metric goes among claims first .. count - 1, the largest metric first, behind equals;
    those behind make room, at most `topk` stay. Returns the place, -1 for none, and the new count."""
    if count - first == topk:
        if not metric > claims[count - 1].metric:
            return -1, count
        count -= 1
    at = count
    while at > first and metric > claims[at - 1].metric:
        claims[at] = claims[at - 1]
        at -= 1
    return at, count + 1


_CLAIM = np.dtype(
    [("location", np.int64), ("label", np.int64), ("overlap", np.float32), ("metric", np.float32)], align=True
)


@njit(cache=True, nogil=True, error_model="numpy")
def _claim(logits, boxes, corner, class_id, label, cells, topk, alpha, beta, claims, count):
    """Append the best locations of one label to the claims; returns their number.

    logits: (A, K), boxes: (A, 4) of the image.
    """
    first, least = count, 0.0
    for level in range(len(cells)):
        start, width, height, stride = cells[level, 0], cells[level, 1], cells[level, 2], cells[level, 3]
        left, right = _span(corner[0], corner[2], stride, width)
        top, bottom = _span(corner[1], corner[3], stride, height)
        for row in range(top, bottom):
            for location in range(start + row * width + left, start + row * width + right):
                overlap = _ciou(corner, boxes[location], least)
                if not overlap > 0:
                    continue
                score = 1 / (1 + math.exp(-np.float64(logits[location, class_id])))
                metric = np.float32(score**alpha * overlap**beta)
                if not metric > 0:
                    continue
                at, count = _place(metric, claims, first, count, topk)
                if at >= 0:
                    claims[at].location = location
                    claims[at].label = label
                    claims[at].overlap = np.float32(overlap)
                    claims[at].metric = metric
                    worst = np.float64(claims[count - 1].metric)
                    if count - first == topk and beta >= 1 and worst > 1e-30:
                        # metric <= CIoU^beta <= IoU^beta: less than this cannot be a claim, rounding allowed for
                        least = worst ** (1 / beta) * (1 - 1e-6)
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _assign(logits, boxes, corners, classes, valid, cells, topk, alpha, beta):
    images, most = valid.shape
    locations = logits.shape[1]
    claims = np.empty(most * topk, _CLAIM)
    holder = np.full(locations, -1, np.int64)  # the claim that has the location
    strongest, largest = np.empty(most, np.float32), np.empty(most, np.float32)
    room = min(valid.sum() * topk, images * locations)
    image, place, label = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
    strength, found = np.empty(room, np.float32), 0
    for n in range(images):
        count = 0
        for m in range(most):
            if valid[n, m]:
                count = _claim(
                    logits[n], boxes[n], corners[n, m], classes[n, m], m, cells, topk, alpha, beta, claims, count
                )
        for i in range(count):
            held = holder[claims[i].location]
            if held < 0 or claims[i].overlap > claims[held].overlap:
                holder[claims[i].location] = i
        strongest[:] = 0
        largest[:] = 0
        first = found
        for location in range(locations):
            if holder[location] < 0:
                continue
            claim = claims[holder[location]]
            holder[location] = -1
            strongest[claim.label] = max(strongest[claim.label], claim.metric)
            largest[claim.label] = max(largest[claim.label], claim.overlap)
            image[found], place[found], label[found], strength[found] = n, location, claim.label, claim.metric
            found += 1
        for i in range(first, found):
            strength[i] = strength[i] * largest[label[i]] / (strongest[label[i]] + np.float32(1e-9))
    return image[:found], place[:found], label[:found], strength[:found]
