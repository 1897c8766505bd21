"""Matching: which boxes touch, and the best one-to-one pairs of them. Compiled; import inside functions.

Station: tracking (tracks with detections) and metrics (labels with tracks) both stand on it. Boxes go in, the touching
pairs come out as a sparse graph; a worth for each pair goes in, the best assignment comes out. Both cost what the pairs
cost, not rows times columns: far boxes never meet. The assignment is the shortest augmenting path method (Jonker and
Volgenant 1987; Crouse 2016) over the pairs that there are, where a row may also stay alone.

A graph is `first`, (N + 1,) int64, and `column`, (P,) int64: row i has the pairs first[i] to first[i + 1].
"""

from __future__ import annotations

import numpy as np
from numba import njit

ALONE = -1


@njit(cache=True, nogil=True)
def touching(rows, columns):
    """Pairs with an IoU above 0 of (N, 4) and (M, 4) xyxy float64: first (N + 1,), column (P,), iou (P,).

    Columns lie in bands as high as the highest of them, by their top, and are swept from left to right: a row looks
    only at those of the bands that can reach it, whose left edge can reach it. A row's columns come in that order.
    """
    band_first, order, origin, tallest, widest = _bands(columns)
    bands = len(band_first) - 1
    left, top, right, bottom = columns[order, 0], columns[order, 1], columns[order, 2], columns[order, 3]
    first = np.zeros(len(rows) + 1, np.int64)
    column = np.empty(4 * len(rows) + 16, np.int64)
    overlap = np.empty(len(column))
    n = 0
    for i in range(len(rows)):
        x0, y0, x1, y1 = rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]
        lowest = max(0.0, np.floor((y0 - origin) / tallest) - 1)
        highest = min(bands - 1.0, np.floor((y1 - origin) / tallest))
        for band in range(int(min(lowest, bands)), int(max(highest, -1.0)) + 1):
            end = band_first[band + 1]
            k = band_first[band] + np.searchsorted(left[band_first[band] : end], x0 - widest)
            while k < end and left[k] < x1:
                width, height = min(x1, right[k]) - max(x0, left[k]), min(y1, bottom[k]) - max(y0, top[k])
                if width > 0 and height > 0:
                    if n == len(column):
                        column = np.concatenate((column, np.empty_like(column)))
                        overlap = np.concatenate((overlap, np.empty_like(overlap)))
                    common = width * height
                    areas = (x1 - x0) * (y1 - y0) + (right[k] - left[k]) * (bottom[k] - top[k])
                    column[n], overlap[n] = order[k], common / (areas - common)
                    n += 1
                k += 1
        first[i + 1] = n
    return first, column[:n].copy(), overlap[:n].copy()


@njit(cache=True, nogil=True)
def _bands(boxes):
    """Bands of boxes by their top: first of each band, the boxes by band and left edge, origin, band height, width."""
    n = len(boxes)
    origin, lowest, tallest, widest = np.inf, -np.inf, 1e-3, 0.0
    for i in range(n):
        origin, lowest = min(origin, boxes[i, 1]), max(lowest, boxes[i, 1])
        tallest = max(tallest, boxes[i, 3] - boxes[i, 1])
        widest = max(widest, boxes[i, 2] - boxes[i, 0])
    if n == 0:
        return np.zeros(1, np.int64), np.empty(0, np.int64), 0.0, tallest, widest
    tallest = max(tallest, (lowest - origin) / n)  # no more bands than boxes
    band_of = np.empty(n, np.int64)
    band_first = np.zeros(int((lowest - origin) / tallest) + 2, np.int64)
    for i in range(n):
        band_of[i] = int((boxes[i, 1] - origin) / tallest)
        band_first[band_of[i] + 1] += 1
    band_first = np.cumsum(band_first)
    filled, order = band_first.copy(), np.empty(n, np.int64)
    for i in np.argsort(boxes[:, 0], kind="mergesort"):
        order[filled[band_of[i]]] = i
        filled[band_of[i]] += 1
    return band_first, order, origin, tallest, widest


@njit(cache=True, nogil=True)
def best_pairs(first, column, worth, columns):
    """The one-to-one pairs with the largest sum of `worth` (P,): the column of every row or ALONE, (N,) int64.

    columns: how many there are. Pairs of no worth (<= 0) are never made. Each row in turn finds the shortest way, in
    reduced costs, to a free column or to a row that had better stay alone; the search ends at the first of them, so it
    stays within the connected pairs.
    """
    rows = len(first) - 1
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    column_of, row_of = np.full(rows, ALONE), np.full(columns, ALONE)
    shortest, via = np.full(columns, np.inf), np.full(columns, ALONE)
    reached, settled = np.empty(columns, np.int64), np.zeros(columns, np.bool_)
    tree = np.empty(min(rows, columns) + 1, np.int64)
    for start in range(rows):
        length, n_reached, n_tree = 0.0, 0, 0
        alone, alone_length = start, np.inf
        row, end = start, ALONE
        while True:
            tree[n_tree] = row
            n_tree += 1
            if length - row_price[row] < alone_length:
                alone, alone_length = row, length - row_price[row]
            for pair in range(first[row], first[row + 1]):
                j = column[pair]
                if worth[pair] <= 0 or settled[j]:
                    continue
                through = length - worth[pair] - row_price[row] - column_price[j]
                if through < shortest[j]:
                    if shortest[j] == np.inf:
                        reached[n_reached] = j
                        n_reached += 1
                    shortest[j], via[j] = through, row
            nearest, length = ALONE, alone_length
            for k in range(n_reached):
                j = reached[k]
                if not settled[j] and shortest[j] < length:
                    nearest, length = j, shortest[j]
            if nearest == ALONE:
                break
            settled[nearest] = True
            if row_of[nearest] == ALONE:
                end = nearest
                break
            row = row_of[nearest]
        row_price[start] += length
        for k in range(1, n_tree):
            row_price[tree[k]] += length - shortest[column_of[tree[k]]]
        for k in range(n_reached):
            if settled[reached[k]]:
                column_price[reached[k]] -= length - shortest[reached[k]]
        if end == ALONE:
            end, column_of[alone] = column_of[alone], ALONE
        while end != ALONE:
            row = via[end]
            row_of[end], column_of[row], end = row, end, column_of[row]
        for k in range(n_reached):
            j = reached[k]
            shortest[j], settled[j] = np.inf, False
    return column_of
