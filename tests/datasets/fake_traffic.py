"""A quick stand-in for `spiketrack.traffic.scene.simulate_traffic`, which processes can import.

One object of each class in turn drives to the right; it fires a column of events a millisecond, and noise comes on top.
"""

import os
import signal
import time

import numpy as np

from spiketrack.boxes import Boxes
from spiketrack.errors import RecordingError
from spiketrack.events import Events
from spiketrack.traffic.annotations import ANNOTATION_DTYPE, labels_of
from spiketrack.traffic.scene import TrafficChunk

SIDE = 40  # pixels of the object


def drive(settings, duration_us, seed, chunk_us=100_000):
    """Chunks as of simulate_traffic; nothing in them depends on chunk_us but where they are cut."""
    width, height = settings.sensor.width, settings.sensor.height
    for start_us in range(0, duration_us, chunk_us):
        end_us = min(start_us + chunk_us, duration_us)
        parts = [_millisecond(ms, width, height, seed) for ms in range(start_us // 1000, -(-end_us // 1000))]
        events = Events.concatenate(parts).between(start_us, end_us)
        rows = _rows(settings, start_us, end_us)
        image = np.full((height, width), 60, np.uint8)
        left = _left(end_us)
        image[50 : 50 + SIDE, left : left + SIDE] = 200
        yield TrafficChunk(start_us, end_us, events, labels_of(rows), rows, image)


def _left(t_us):
    return 20 + round(t_us * 1e-4) % 100


def _millisecond(ms, width, height, seed):
    rng = np.random.default_rng([*seed, ms])
    n = 30
    t = ms * 1000 + np.sort(rng.integers(0, 1000, SIDE + n))
    x, y = rng.integers(0, width, SIDE + n), rng.integers(0, height, SIDE + n)
    x[:SIDE], y[:SIDE] = _left(ms * 1000) + SIDE - 1, 50 + np.arange(SIDE)
    p = rng.integers(0, 2, SIDE + n)
    return Events(t, x.astype(np.uint16), y.astype(np.uint16), p.astype(np.uint8), width, height)


def _rows(settings, start_us, end_us):
    """Of the eight classes one is labelled at each time, and a second object never is."""
    period = settings.label_period_us
    times = range(max(period, -(-start_us // period) * period), end_us, period)
    rows = np.zeros(2 * len(times), ANNOTATION_DTYPE)
    for k, t in enumerate(times):
        box = (_left(t), 50, _left(t) + SIDE, 50 + SIDE)
        number = t // period % 8
        rows[2 * k : 2 * k + 2]["t"] = t
        for row, class_id in ((rows[2 * k], number), (rows[2 * k + 1], 3)):
            row["class_id"], row["track_id"], row["whole"], row["visible"] = class_id, 1 + class_id, box, box
        rows["labelled"][2 * k] = True
    return rows


def die_in_the_second(settings, duration_us, seed, chunk_us=100_000):
    """The process of scene number 1 is killed in the middle, as by a system without memory."""
    for chunk in drive(settings, duration_us, seed, chunk_us):
        if seed[2] == 1 and chunk.start_us > 0:
            os.kill(os.getpid(), signal.SIGKILL)
        yield chunk


def fill_the_disk(settings, duration_us, seed, chunk_us=100_000):
    yield from drive(settings, min(duration_us, chunk_us), seed, chunk_us)
    raise RecordingError("train_0000_td.h5: cannot be written: No space left on device")


def interrupt_the_third(settings, duration_us, seed, chunk_us=100_000):
    """Ctrl-C in the middle of scene number 2 (in the process that simulates)."""
    for chunk in drive(settings, duration_us, seed, chunk_us):
        if seed[2] == 2 and chunk.start_us > 0:
            raise KeyboardInterrupt
        yield chunk


def empty(settings, duration_us, seed, chunk_us=100_000):
    """Chunks in which nothing happens."""
    for chunk in drive(settings, duration_us, seed, chunk_us):
        nothing = Events.empty(chunk.events.width, chunk.events.height)
        yield chunk._replace(events=nothing, labels=Boxes.empty(), annotations=chunk.annotations[:0])


def dawdle(settings, duration_us, seed, chunk_us=100_000):
    """A scene that takes minutes."""
    for chunk in drive(settings, duration_us, seed, chunk_us):
        yield chunk
        time.sleep(1)
