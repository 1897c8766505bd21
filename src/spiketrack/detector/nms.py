"""Greedy non-maximum suppression that compares near boxes only. Compiled; import inside functions.

Station: behind `decode.non_maximum_suppression`. Kept boxes lie in the cells of a grid by their centre; a box looks at
the cells that a box which can suppress it may lie in. With an IoU above t of two boxes of widths v and w, the width of
their intersection is above t v and t w, and at most (v + w) / 2 less the distance of their centres. So v < w / t, and
the centres are less than w (1 - t) max(1, 1 / (2 t)) apart; the same for heights.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

SLACK = 1e-3  # of a side, far above the rounding of any of these numbers


@njit(cache=True, nogil=True)
def suppress(xyxy, order, class_id, max_iou, most):
    """Indices of the first `most` boxes that survive, in the given order.

    xyxy: (N, 4) float32, finite. order, class_id: (N,) int64. A box survives if it has an area and no survivor of its
    class before it overlaps it with an IoU above max_iou.
    """
    reach = (1 - max_iou) * max(1.0, 0.5 / max_iou) + SLACK if max_iou > 0 else math.inf
    left, top, cell_width, cell_height, columns, rows = _grid(xyxy, reach)
    newest = np.full(columns * rows, -1, np.int32)  # of a cell, the last survivor put there; older ones by `older`
    older = np.empty(len(order), np.int32)
    kept = np.empty(min(len(order), max(most, 0)), np.int64)
    count = 0
    for i in order:
        if count == len(kept):
            break
        width, height = xyxy[i, 2] - xyxy[i, 0], xyxy[i, 3] - xyxy[i, 1]
        if not width * height > 0:
            continue
        x, y = (np.float64(xyxy[i, 0]) + xyxy[i, 2]) / 2 - left, (np.float64(xyxy[i, 1]) + xyxy[i, 3]) / 2 - top
        reach_x, reach_y = width * reach, height * reach
        first_column, last_column = _cell(x - reach_x, cell_width, columns), _cell(x + reach_x, cell_width, columns)
        first_row, last_row = _cell(y - reach_y, cell_height, rows), _cell(y + reach_y, cell_height, rows)
        free = True
        if (last_column - first_column + 1) * (last_row - first_row + 1) > count:
            for k in range(count):
                if class_id[kept[k]] == class_id[i] and _over(xyxy, i, kept[k], max_iou):
                    free = False
                    break
        else:
            for row in range(first_row, last_row + 1):
                for column in range(first_column, last_column + 1):
                    k = newest[row * columns + column]
                    while free and k >= 0:
                        free = class_id[kept[k]] != class_id[i] or not _over(xyxy, i, kept[k], max_iou)
                        k = older[k]
                if not free:
                    break
        if free:
            cell = _cell(y, cell_height, rows) * columns + _cell(x, cell_width, columns)
            older[count] = newest[cell]
            newest[cell] = count
            kept[count] = i
            count += 1
    return kept[:count].copy()


@njit(cache=True, nogil=True)
def _over(xyxy, i, j, max_iou):
    """Whether the IoU of boxes i and j is above max_iou."""
    w = min(xyxy[i, 2], xyxy[j, 2]) - max(xyxy[i, 0], xyxy[j, 0])
    h = min(xyxy[i, 3], xyxy[j, 3]) - max(xyxy[i, 1], xyxy[j, 1])
    if not (w > 0 and h > 0):
        return False
    areas = (xyxy[i, 2] - xyxy[i, 0]) * (xyxy[i, 3] - xyxy[i, 1])
    areas += (xyxy[j, 2] - xyxy[j, 0]) * (xyxy[j, 3] - xyxy[j, 1])
    return w * h > max_iou * (areas - w * h)


@njit(cache=True, nogil=True)
def _grid(xyxy, reach):
    """Least centre (x, y), sides of a cell, columns and rows: a cell is as large as the mean reach, and there are at
    most four cells per box."""
    least_x = least_y = math.inf
    most_x = most_y = -math.inf
    width = height = 0.0
    count = 0
    for i in range(len(xyxy)):
        w, h = xyxy[i, 2] - xyxy[i, 0], xyxy[i, 3] - xyxy[i, 1]
        if w * h > 0:
            x, y = (np.float64(xyxy[i, 0]) + xyxy[i, 2]) / 2, (np.float64(xyxy[i, 1]) + xyxy[i, 3]) / 2
            least_x, most_x = min(least_x, x), max(most_x, x)
            least_y, most_y = min(least_y, y), max(most_y, y)
            width, height, count = width + w, height + h, count + 1
    if count == 0 or reach == math.inf:
        return 0.0, 0.0, 1.0, 1.0, 1, 1
    most = 2 * math.sqrt(count)
    columns = int(min(max((most_x - least_x) / (width / count * reach), 1.0), most))
    rows = int(min(max((most_y - least_y) / (height / count * reach), 1.0), most))
    cell_width = max((most_x - least_x) / columns, 1e-30)
    cell_height = max((most_y - least_y) / rows, 1e-30)
    return least_x, least_y, cell_width, cell_height, columns, rows


@njit(cache=True, nogil=True)
def _cell(place, side, count):
    return int(min(max(place / side, 0.0), count - 1.0))
