"""Random events and the definitions of the representations, one event after the other, for comparison."""

import math

import numpy as np
from hypothesis import strategies as st

from spiketrack.events import Events

WIDTH, HEIGHT = 8, 4


def make_events(t, x, y, p, width=WIDTH, height=HEIGHT):
    return Events.repaired(np.array(t), np.array(x), np.array(y), np.array(p), width, height)[0]


@st.composite
def random_events(draw, low=-50, high=150):
    """Up to 200 events, or some thousands on few pixels, so that counts saturate."""
    n = draw(st.one_of(st.integers(0, 200), st.just(3000)))
    busy = draw(st.integers(1, WIDTH))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    on = draw(st.sampled_from([0.1, 0.5, 1.0]))
    return make_events(
        np.sort(rng.integers(low, high, n)), rng.integers(0, busy, n), rng.integers(0, HEIGHT, n), rng.random(n) < on
    )


@st.composite
def frames(draw):
    """size and crop: either may be None, the size never exceeds the crop."""
    crop = None
    if draw(st.booleans()):
        x0, y0 = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
        crop = (x0, y0, draw(st.integers(1, WIDTH - x0)), draw(st.integers(1, HEIGHT - y0)))
    _, _, width, height = crop or (0, 0, WIDTH, HEIGHT)
    size = (draw(st.integers(1, height)), draw(st.integers(1, width))) if draw(st.booleans()) else None
    return {"size": size, "crop": crop}


windows = st.tuples(st.integers(-60, 60), st.integers(1, 120)).map(lambda drawn: (drawn[0], drawn[0] + drawn[1]))


def seen(events, start, end, size, crop):
    """(H, W), and t, row, column, p of every event of the window inside the crop."""
    x0, y0, width, height = crop or (0, 0, events.width, events.height)
    rows, columns = size or (height, width)
    found = []
    for t, x, y, p in zip(*(column.tolist() for column in (events.t, events.x, events.y, events.p)), strict=True):
        if start <= t < end and x0 <= x < x0 + width and y0 <= y < y0 + height:
            found.append((t, (y - y0) * rows // height, (x - x0) * columns // width, p))
    return (rows, columns), found


def counts(events, start, end, steps, size=None, crop=None):
    """(steps, 2, H, W) int64, unlimited."""
    shape, found = seen(events, start, end, size, crop)
    planes = np.zeros((steps, 2, *shape), np.int64)
    for t, row, column, p in found:
        planes[(t - start) * steps // (end - start), p, row, column] += 1
    return planes


def voxels(events, start, end, steps, size=None, crop=None):
    """(steps, 1, H, W) float64."""
    shape, found = seen(events, start, end, size, crop)
    planes = np.zeros((steps, 1, *shape))
    for t, row, column, p in found:
        time = (steps - 1) * (t - start) / (end - start)
        for k in range(steps):
            planes[k, 0, row, column] += (1 if p else -1) * max(0.0, 1 - abs(time - k))
    return planes


def surfaces(events, start, end, steps, tau, since, size=None, crop=None):
    """(steps, 2, H, W) float64 of the events of [since, end), at the ends of the bins of [start, end)."""
    shape, found = seen(events, since, end, size, crop)
    planes = np.zeros((steps, 2, *shape))
    for k in range(steps):
        bin_end = start + -(-(k + 1) * (end - start) // steps)
        for t, row, column, p in found:
            if t < bin_end:
                planes[k, p, row, column] = math.exp(-(bin_end - t) / tau)
    return planes
