"""How near simulated recordings come to real ones: the same statistics of both, as JSON and plots.

python benchmarks/realism.py [--data ../shared/data] [--out docs/realism] [--seed 0] [--name after] [--presets FILE]

Real: the recordings of the shared data, of which each shows something else. Simulated: the same sensor's preset before
a scene made to resemble it, with light levels set once by hand after a first look at the real rates, so rates and ON
shares there prove little. Presets were tuned on these same recordings: none is held out. Every statistic comes from one
pass over windows of 10 ms with per-pixel state, so memory is that of the sensor. `before.json` keeps the run with the
presets before they were tuned. Nothing here is a test of equality: see docs/realism.md for what may be compared.
"""

from __future__ import annotations

import argparse
import json
import runpy
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from spiketrack.events import Events
from spiketrack.recordings import open_recording, windows
from spiketrack.report.charts import Plot, bars, category, short
from spiketrack.simulation.presets import PRESETS
from spiketrack.simulation.sensor import Sensor, SensorSettings
from spiketrack.traffic.light import Daytime
from spiketrack.traffic.scene import TrafficSettings, simulate_traffic

WINDOW_US = 10_000
NEAR_US, ALONE_US, PAUSE_US = 5_000, 20_000, 10_000
BINS_A_DECADE, DECADES = 8, 8
LONGEST = 20  # bursts of this many events or more share a bin
SPEEDS = 2.0 ** np.arange(3, 16)  # px/s, edges of the bins by speed
LEAST_POINTS, LARGEST_RESIDUAL_US = 7, 1_500.0


@njit
def _speed(starts, polarity_of, x, y, t, p):
    """Speed in px/s of the edge at a pixel: a plane through the burst starts of 5 x 5 pixels; 0 where none fits."""
    n, sx, sy, st, sxx, syy, sxy, sxt, syt, stt = 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            u, v = x + dx, y + dy
            if u < 0 or v < 0 or v >= starts.shape[0] or u >= starts.shape[1]:
                continue
            ago = float(starts[v, u] - t) if (dx or dy) else 0.0
            if (dx or dy) and (polarity_of[v, u] != p or ago < -100_000.0):
                continue
            n += 1
            sx += dx
            sy += dy
            st += ago
            sxx += dx * dx
            syy += dy * dy
            sxy += dx * dy
            sxt += dx * ago
            syt += dy * ago
            stt += ago * ago
    if n < LEAST_POINTS:
        return 0.0
    sxx, syy, sxy = sxx - sx * sx / n, syy - sy * sy / n, sxy - sx * sy / n
    sxt, syt, stt = sxt - sx * st / n, syt - sy * st / n, stt - st * st / n
    det = sxx * syy - sxy * sxy
    if det < 1.0:
        return 0.0
    a, b = (sxt * syy - syt * sxy) / det, (syt * sxx - sxt * sxy) / det
    left = stt - a * sxt - b * syt
    slope = np.hypot(a, b)
    if slope <= 0 or left > 0.25 * stt or np.sqrt(max(left, 0.0) / n) > LARGEST_RESIDUAL_US:
        return 0.0
    return 1e6 / slope


@njit
def _close_burst(v, u, length, near, speed, bursts, by_speed):
    if length[v, u] == 0 or not near[v, u]:
        return
    bursts[min(length[v, u], LONGEST)] += 1
    if speed[v, u] > 0:
        k = int(np.floor(np.log2(speed[v, u]))) - 3
        if 0 <= k < by_speed.shape[0]:
            by_speed[k, 0] += 1
            by_speed[k, 1] += length[v, u]


@njit
def _feed(t, x, y, p, last, kind, starts, length, near, speed, alone_t, alone_p, alone, bins, bursts, by_speed):
    """One run of events; returns how many had an event beside them within NEAR_US before."""
    height, width = last.shape
    supported = 0
    for i in range(len(t)):
        u, v, now, q = int(x[i]), int(y[i]), t[i], int(p[i])
        newest = -(1 << 60)
        for b in range(max(v - 1, 0), min(v + 2, height)):
            for a in range(max(u - 1, 0), min(u + 2, width)):
                if a != u or b != v:
                    newest = max(newest, last[b, a])
                    if alone_t[b, a] >= 0 and now - alone_t[b, a] <= ALONE_US:
                        alone_t[b, a] = -1
        is_near = now - newest <= NEAR_US
        supported += is_near
        if alone_t[v, u] >= 0:
            alone[alone_p[v, u], v, u] += 1
        alone_t[v, u] = now if now - newest > ALONE_US else -1
        alone_p[v, u] = q
        gap = now - last[v, u]
        fresh = True
        if kind[v, u] >= 0:
            k = int(np.log10(max(gap, 1)) * BINS_A_DECADE)
            bins[0 if kind[v, u] == q else 1, min(k, bins.shape[1] - 1)] += 1
            fresh = kind[v, u] != q or gap > PAUSE_US
        if fresh:
            _close_burst(v, u, length, near, speed, bursts, by_speed)
            speed[v, u] = _speed(starts, kind, u, v, now, q)
            starts[v, u] = now
            length[v, u] = 0
            near[v, u] = is_near
        length[v, u] += 1
        last[v, u] = now
        kind[v, u] = q
    return supported


@njit
def _finish(length, near, speed, alone_t, alone_p, alone, bursts, by_speed):
    for v in range(length.shape[0]):
        for u in range(length.shape[1]):
            _close_burst(v, u, length, near, speed, bursts, by_speed)
            if alone_t[v, u] >= 0:
                alone[alone_p[v, u], v, u] += 1


@njit
def _supported(t, x, y, last):
    """How many events have one beside them (3 x 3) within NEAR_US before; `last` is kept."""
    height, width = last.shape
    count = 0
    for i in range(len(t)):
        u, v = int(x[i]), int(y[i])
        for b in range(max(v - 1, 0), min(v + 2, height)):
            hit = False
            for a in range(max(u - 1, 0), min(u + 2, width)):
                if (a != u or b != v) and t[i] - last[b, a] <= NEAR_US:
                    hit = True
                    break
            if hit:
                count += 1
                break
        last[v, u] = t[i]
    return count


class Statistics:
    """What is counted over one recording, fed window by window."""

    def __init__(self, width: int, height: int) -> None:
        shape = (height, width)
        self._never = -(1 << 60)
        self._last, self._mixed = np.full(shape, self._never), np.full(shape, self._never)
        self._kind = np.full(shape, -1, np.int8)
        self._starts = np.full(shape, self._never)
        self._length, self._near = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        self._speed = np.zeros(shape)
        self._alone_t, self._alone_p = np.full(shape, -1), np.zeros(shape, np.int8)
        self._alone = np.zeros((2, *shape), np.int64)
        self._gaps = np.zeros((2, BINS_A_DECADE * DECADES), np.int64)
        self._bursts, self._by_speed = np.zeros(LONGEST + 1, np.int64), np.zeros((len(SPEEDS) - 1, 2), np.int64)
        self._counts = np.zeros(shape, np.int64)
        self._rng = np.random.default_rng(0)
        self._rates: list[tuple[int, int, int]] = []  # events, ON, active pixels of each window
        self._supported = self._supported_mixed = self._row_runs = self._stamps = 0

    def feed(self, events: Events) -> None:
        """Take the events of the next WINDOW_US."""
        t, x, y, p = (np.ascontiguousarray(column) for column in (events.t, events.x, events.y, events.p))
        pixel = y.astype(np.int64) * events.width + x
        hits = np.bincount(pixel, minlength=self._counts.size) if len(t) else np.zeros(self._counts.size, np.int64)
        self._counts += hits.reshape(self._counts.shape)
        self._rates.append((len(t), int(np.count_nonzero(p)), int(np.count_nonzero(hits))))
        if not len(t):
            return
        state = (self._last, self._kind, self._starts, self._length, self._near, self._speed)
        state = (*state, self._alone_t, self._alone_p, self._alone)
        self._supported += _feed(t, x, y, p, *state, self._gaps, self._bursts, self._by_speed)
        order = self._rng.permutation(len(t))
        self._supported_mixed += _supported(t, x[order], y[order], self._mixed)
        self._stamps += 1 + int(np.count_nonzero(np.diff(t)))
        self._row_runs += 1 + int(np.count_nonzero((np.diff(t) != 0) | (np.diff(y.astype(np.int64)) != 0)))

    def result(self) -> dict[str, Any]:
        """Everything as plain numbers; rates in events per second."""
        _finish(
            self._length,
            self._near,
            self._speed,
            self._alone_t,
            self._alone_p,
            self._alone,
            self._bursts,
            self._by_speed,
        )
        rates = np.array(self._rates, np.int64).reshape(-1, 3)
        events, seconds = int(rates[:, 0].sum()), len(rates) * WINDOW_US * 1e-6
        alone = self._alone.sum(axis=0)
        quiet = _quiet(self._counts, alone)
        hot = _hot(alone)
        pixels_quiet = int(np.count_nonzero(quiet & ~hot))
        noise = alone[quiet & ~hot].sum()
        lengths = np.arange(LONGEST + 1)
        bursts = int(self._bursts.sum())
        active = self._counts > 0
        gaps = self._gaps.sum(axis=0)
        return {
            "events": events,
            "seconds": seconds,
            "rate": events / seconds,
            "rate_per_active_pixel": events / max(int(active.sum()), 1) / seconds,
            "active_share": float(active.mean()),
            "on_share": rates[:, 1].sum() / max(events, 1),
            "same_polarity_next": float(self._gaps[0].sum() / max(gaps.sum(), 1)),
            "shortest_same_us": _percentile(self._gaps[0], 0.01),
            "median_same_us": _percentile(self._gaps[0], 0.5),
            "median_opposite_us": _percentile(self._gaps[1], 0.5),
            "near_share": self._supported / max(events, 1),
            "near_share_shuffled": self._supported_mixed / max(events, 1),
            "burst_mean": float((lengths * self._bursts).sum() / max(bursts, 1)),
            "burst_single": float(self._bursts[1] / max(bursts, 1)),
            "alone_hz": float(alone.sum() / alone.size / seconds),
            "quiet_share": float(quiet.mean()),
            "noise_hz": float(noise / max(pixels_quiet, 1) / seconds) if pixels_quiet else None,
            "noise_on_share": float(self._alone[1][quiet & ~hot].sum() / noise) if noise else None,
            "hot_share": float(hot.mean()),
            "hot_hz": float(alone[hot].mean() / seconds) if hot.any() else None,
            "events_a_row": events / max(self._row_runs, 1),
            "events_a_stamp": events / max(self._stamps, 1),
            "rates": [[int(v) for v in row] for row in _thinned(rates)],
            "gaps": self._gaps.tolist(),
            "bursts": self._bursts.tolist(),
            "by_speed": self._by_speed.tolist(),
        }


def _quiet(counts: NDArray[np.int64], alone: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels of the 32 x 32 tiles in which four of five events are alone: nothing moved there."""
    height, width = counts.shape
    quiet = np.zeros(counts.shape, np.bool_)
    for top in range(0, height, 32):
        for left in range(0, width, 32):
            tile = np.s_[top : top + 32, left : left + 32]
            total = counts[tile].sum()
            quiet[tile] = alone[tile].sum() >= 0.8 * total
    return quiet


def _hot(alone: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Pixels with more than ten times the mean of lonely events, and 5 at least."""
    return alone > max(10 * float(alone.mean()), 4.5)


def _percentile(bins: NDArray[np.int64], share: float) -> float | None:
    """The upper edge of the bin, in microseconds, below which the share lies."""
    if not bins.sum():
        return None
    k = int(np.searchsorted(np.cumsum(bins), share * bins.sum()))
    return float(10 ** ((k + 1) / BINS_A_DECADE))


def _thinned(rates: NDArray[np.int64], most: int = 120) -> NDArray[np.int64]:
    step = max(1, -(-len(rates) // most))  # plots need no more
    return np.array([rates[k : k + step].mean(axis=0) for k in range(0, len(rates), step)])


def measure(runs: Iterable[Events], width: int, height: int) -> dict[str, Any]:
    """Statistics of consecutive windows of WINDOW_US."""
    statistics = Statistics(width, height)
    for run in runs:
        statistics.feed(run)
    return statistics.result()


REAL = {
    "evk4 sky": "recordings/evk4_evt3.raw",
    "gen3 flash": "recordings/gen3_evt2.raw",
    "davis346 board": "recordings/davis346_board.aedat4",
    "atis car": "recordings/NCARS_obj_004397_td.dat",
    "atis digits": "nmnist/Test",
}
PRESET_OF = {
    "evk4 sky": "evk4",
    "gen3 flash": "gen3",
    "davis346 board": "davis346",
    "atis car": "gen1",
    "atis digits": "gen1",
}
DIGITS, DIGIT_SIDE = 40, 34
CAR_SIDE = 60
EDGE_SPEEDS = (30, 100, 300, 1_000, 3_000, 10_000)  # px/s
Frames = Iterator[tuple[int, NDArray[np.float32], NDArray[np.bool_] | None]]  # us, (H, W), changed tiles


def real_runs(path: Path) -> Iterator[tuple[Iterator[Events], int, int]]:
    """A recording, or many of a folder, each as (windows, width, height)."""
    files = sorted(path.rglob("*.bin"))[:DIGITS] if path.is_dir() else [path]
    for file in files:
        recording = open_recording(file)
        width, height = (DIGIT_SIDE, DIGIT_SIDE) if path.is_dir() else (recording.width, recording.height)
        yield windows(recording, WINDOW_US), width, height


def sky(sensor: SensorSettings, rng: np.random.Generator) -> Frames:
    """A night sky through a lens: a planet with its glare and stars drift 4 px/s and shake; 3 s."""
    frame = np.full((sensor.height, sensor.width), 2e-4, np.float32)
    places = rng.uniform((60, 60), (sensor.width - 60, sensor.height - 60), (20, 2))
    stars = [(*place, 10 ** rng.uniform(-2, 0), 1.5, 10) for place in places]
    stars.append((480.0, 290.0, 5.0, 12.0, 120))
    for t_us in range(0, 3_010_000, 10_000):
        seconds = t_us * 1e-6
        dx, dy = -3.0 * seconds, 3.0 * seconds + 1.5 * np.sin(2 * np.pi * 3 * seconds)
        changed = np.zeros((-(-sensor.height // 16), -(-sensor.width // 16)), np.bool_)
        for x, y, peak, width, reach in stars:
            left, top = max(int(x) - reach - 20, 0), max(int(y) - reach - 20, 0)
            part = np.s_[top : int(y) + reach + 20, left : int(x) + reach + 20]
            v, u = np.mgrid[part][:, : sensor.height - top, : sensor.width - left]
            far = ((u - x - dx) ** 2 + (v - y - dy) ** 2) / width**2
            light = peak * (np.exp(-far / 2) if width < 5 else (1 + far) ** -2.5)
            frame[part] = 2e-4 + light
            changed[top // 16 : (int(y) + reach + 20) // 16 + 1, left // 16 : (int(x) + reach + 20) // 16 + 1] = True
        yield t_us, frame.copy(), changed


def flash(sensor: SensorSettings, rng: np.random.Generator) -> Frames:
    """Grass before a black sky in a light that flashes up three times and fades; 0.1 s."""
    height, width = sensor.height, sensor.width
    grass = np.zeros((height, width), np.float32)
    v, u = np.mgrid[:height, :width]
    for _ in range(60):
        foot, tip, lean = rng.uniform(0, width), rng.uniform(0.5, 0.95) * height, rng.normal(0, 0.6)
        thick = rng.uniform(1, 4)
        blade = (np.abs(u - foot - lean * (height - v)) < thick) & (v > tip)
        grass[blade] = rng.uniform(0.05, 0.6)
    for t_us in range(0, 100_500, 500):
        light = sum(
            np.exp(-(t_us - at) / 9_000) * min((t_us - at) / 1e3, 1) for at in (2_000, 35_000, 70_000) if t_us > at
        )
        yield t_us, 2e-4 + grass * np.float32(0.5 + 0.8 * light), None


def board(sensor: SensorSettings, rng: np.random.Generator) -> Frames:
    """A calibration board and two lamps in light that pulses at 100 Hz; 0.13 s."""
    v, u = np.mgrid[: sensor.height, : sensor.width]
    scene = np.full(u.shape, 0.02, np.float32) + 0.02 * rng.random(u.shape, np.float32)
    inside = (u > 80) & (u < 175) & (v > 25) & (v < 138)
    scene[inside] = np.where(((u // 14 + v // 14) % 2 == 0)[inside], 0.3, 0.06)
    lamps = (np.hypot(u - 60, v - 10) < 9) | (np.hypot(u - 213, v - 18) < 9)
    scene[lamps] = 1.0
    depth = np.where(lamps, 1.5, np.where(inside, 0.5, 0.3)).astype(np.float32)
    for t_us in range(0, 130_500, 500):
        pulse = np.float32(np.exp(-((t_us % 10_000 - 2_000) ** 2) / 1_500**2) - 0.27)
        yield t_us, scene * (1 + depth * pulse), None


def digit(sensor: SensorSettings, rng: np.random.Generator) -> Frames:
    """White strokes on a dark screen before a camera that makes three saccades of 100 ms."""
    points = rng.uniform(11, 23, (4, 2))
    along = np.linspace(0, 1, 40)[:, None]
    line = np.concatenate([a + (b - a) * along for a, b in pairwise(points)])
    corners = np.array([(0, 0), (3, 6), (6, 0), (0, 0)], float)
    v, u = np.mgrid[: sensor.height, : sensor.width].astype(float)
    for t_us in range(0, 302_000, 2_000):
        leg, share = divmod(min(t_us, 299_999) / 100_000, 1)
        share = 0.5 - 0.5 * np.cos(np.pi * share)
        shift = corners[int(leg)] + (corners[int(leg) + 1] - corners[int(leg)]) * share - 3
        near = np.min(np.hypot(u[..., None] - line[:, 0] - shift[0], v[..., None] - line[:, 1] - shift[1]), axis=2)
        yield t_us, (0.1 + 0.6 / (1 + np.exp((near - 1.4) / 0.35))).astype(np.float32), None


def exposed(frames: Frames, sensor: SensorSettings, seed: int) -> Iterator[Events]:
    """The events of frames, cut into windows of WINDOW_US."""
    camera = Sensor(sensor, (seed,))
    waiting, start = Events.empty(sensor.width, sensor.height), 0
    for t_us, frame, changed in frames:
        waiting = Events.concatenate([waiting, camera.expose(frame, t_us, changed).events])
        while t_us >= start + WINDOW_US:
            yield waiting.between(start, start + WINDOW_US)
            start += WINDOW_US
            waiting = waiting[int(np.searchsorted(waiting.t, start)) :]


def cars(seed: int) -> Iterator[tuple[list[Events], int, int]]:
    """Vehicles cut out of simulated traffic before a moving camera, 100 ms each, as N-CARS was cut out."""
    found = 0
    for scene in range(4):
        settings = TrafficSettings(preset="gen1", camera="moving", daytime="day", rain=False)
        for k, chunk in enumerate(simulate_traffic(settings, 600_000, (seed, scene))):
            boxes = chunk.labels
            if k == 0 or not len(boxes):
                continue
            sizes = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
            best = int(np.argmin(np.abs(sizes.max(axis=1) - CAR_SIDE)))
            if not 0.5 * CAR_SIDE < sizes[best].max() < 2 * CAR_SIDE:
                continue
            left, top = (boxes.xyxy[best, :2] + sizes[best] / 2 - CAR_SIDE / 2).astype(int)
            left, top = (int(np.clip(a, 0, b)) for a, b in ((left, 304 - CAR_SIDE), (top, 240 - CAR_SIDE)))
            events = chunk.events
            x, y = events.x.astype(int) - left, events.y.astype(int) - top
            keep = (x >= 0) & (x < CAR_SIDE) & (y >= 0) & (y < CAR_SIDE)
            columns = (x[keep].astype(np.uint16), y[keep].astype(np.uint16), events.p[keep])
            cut = Events(events.t[keep], *columns, CAR_SIDE, CAR_SIDE)
            starts = range(chunk.start_us, chunk.end_us, WINDOW_US)
            yield [cut.between(start, start + WINDOW_US) for start in starts], CAR_SIDE, CAR_SIDE
            found += 1
            if found == 8:
                return


def simulated_runs(name: str, seed: int) -> Iterator[tuple[Iterable[Events], int, int]]:
    """The counterpart of a real recording, as (windows, width, height)."""
    sensor = PRESETS[PRESET_OF[name]]
    if name == "atis car":
        yield from cars(seed)
        return
    if name == "atis digits":
        small = sensor.model_copy(update={"width": DIGIT_SIDE, "height": DIGIT_SIDE})
        for k in range(DIGITS // 2):
            yield exposed(digit(small, np.random.default_rng((seed, k))), small, seed + k), DIGIT_SIDE, DIGIT_SIDE
        return
    draw = {"evk4 sky": sky, "gen3 flash": flash, "davis346 board": board}[name]
    yield exposed(draw(sensor, np.random.default_rng(seed)), sensor, seed), sensor.width, sensor.height


def merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One result of several recordings: the mean of numbers, the sum of histograms, the first's rate over time."""
    out: dict[str, Any] = {}
    for key in results[0]:
        values = [result[key] for result in results if result[key] is not None]
        if key == "rates":
            out[key] = values[0]
        elif key in ("gaps", "bursts", "by_speed"):
            out[key] = np.sum(values, axis=0).tolist()
        else:
            out[key] = float(np.mean(values)) if values else None
    return out


def edges(sensor: SensorSettings, seed: int) -> list[tuple[int, float]]:
    """Events a pixel fires while a soft edge of one natural log unit (0.1 to 0.27) passes: (speed px/s, mean)."""
    width = 160
    small = sensor.model_copy(
        update={"width": width, "height": 32, "pixel": sensor.pixel.model_copy(update={"hot_pixels": 0.0})}
    )
    u = np.arange(width, dtype=np.float32)
    out = []
    for speed in EDGE_SPEEDS:
        camera, count, step = Sensor(small, (seed,)), 0, max(20, round(5e5 / speed))
        for k in range(1 + round(2 * width)):
            row = 0.1 * np.exp(1 / (1 + np.exp(np.clip((u - k / 2) / 0.7, -30, 30))))
            exposure = camera.expose(np.repeat(row[None], 32, axis=0).astype(np.float32), k * step)
            inner = (exposure.events.x >= 20) & (exposure.events.x < width - 20)
            count += int(np.count_nonzero(inner & exposure.signal & (exposure.events.p == 1)))
        out.append((speed, count / ((width - 40) * 32)))
    return out


def traffic(seed: int) -> list[dict[str, Any]]:
    """Rate and ON share of EVK4 traffic scenes by night and day, of the 2 s after the first 0.3 s."""
    out = []
    daytimes: tuple[Daytime, ...] = ("night", "night", "day", "day")
    for k, daytime in enumerate(daytimes):
        settings = TrafficSettings(preset="evk4", daytime=daytime, rain=False)
        count = on = 0
        for chunk in simulate_traffic(settings, 2_300_000, (seed, k)):
            if chunk.start_us >= 300_000:
                count += len(chunk.events)
                on += int(np.count_nonzero(chunk.events.p))
        out.append({"daytime": daytime, "rate": count / 2, "on_share": on / max(count, 1)})
    return out


LINES = (("real", category(0), False), ("before", category(1), True), ("after", category(2), False))
STYLE = (
    "text{font:12px sans-serif;fill:#444}.label{font-weight:600}.line{fill:none;stroke-width:1.8}"
    ".grid,.base,.tick{stroke:#ccc}.track{fill:#eee}svg{--c1:#222;--c2:#e08a1e;--c3:#2166ac;--c4:#2a9d55}"
)


def sheet(panels: list[tuple[str, str, int, int]], path: Path, columns: int = 2) -> None:
    """Write charts side by side as one SVG file; a panel: title, svg, width, height."""
    wide, high = max(p[2] for p in panels), max(p[3] for p in panels) + 24
    parts = []
    for k, (title, svg, width, height) in enumerate(panels):
        x, y = k % columns * (wide + 16), k // columns * high
        inner = svg.replace("<svg ", f'<svg x="{x}" y="{y + 20}" width="{width}" height="{height}" ', 1)
        parts.append(f'<text class="label" x="{x + 58}" y="{y + 15}">{title}</text>{inner}')
    rows = -(-len(panels) // columns)
    size = f'viewBox="0 0 {min(columns, len(panels)) * (wide + 16)} {rows * high + 24}"'
    legend = "".join(
        f'<text x="{10 + 80 * k}" y="{rows * high + 14}" style="fill:{colour}">{name}</text>'
        for k, (name, colour, _) in enumerate(LINES)
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}{legend}</svg>\n'
    )


def curves(runs: dict[str, dict[str, Any]], draw: Any, log_x: bool, labels: tuple[str, str]) -> tuple[str, int, int]:
    """One chart of `draw(result) -> (x, y)` for real, before and after."""
    drawn = [(line, draw(runs[line[0]])) for line in LINES if line[0] in runs]
    points = [(line, np.asarray(x), np.asarray(y)) for line, (x, y) in drawn]
    shown = [(x, y) for _, x, y in points if len(x)]
    if not shown:
        shown = [(np.array([1.0, 10.0]), np.array([0.0, 1.0]))]
    xs = [np.log10(x) if log_x else x for x, _ in shown]
    top = max(float(np.nanmax(y)) for _, y in shown)
    plot = Plot((min(x.min() for x in xs), max(x.max() for x in xs)), (0, 1.05 * top), size=(500, 220), labels=labels)
    plot.x_axis(6, (lambda v: short(10**v)) if log_x else None)
    plot.y_axis(4)
    for (name, colour, dashed), x, y in points:
        if len(x):
            plot.line(np.log10(x) if log_x else x, y, colour, name, dashed)
    return plot.svg(labels[1]), 500, 220


def _rate(result: dict[str, Any]) -> tuple[NDArray, NDArray]:
    rates = np.array(result["rates"], float)[:, 0]
    return (np.arange(len(rates)) + 0.5) / len(rates), rates / max(rates.mean(), 1e-9)


def _gaps(result: dict[str, Any], row: int | None = None) -> tuple[NDArray, NDArray]:
    bins = np.array(result["gaps"], float)
    bins = bins.sum(axis=0) if row is None else bins[row]
    return 10 ** ((np.arange(len(bins)) + 0.5) / BINS_A_DECADE), bins / max(bins.sum(), 1)


def _bursts(result: dict[str, Any]) -> tuple[NDArray, NDArray]:
    bursts = np.array(result["bursts"], float)[1:]
    return np.arange(1, LONGEST + 1), bursts / max(bursts.sum(), 1)


def _by_speed(result: dict[str, Any]) -> tuple[NDArray, NDArray]:
    count, events = np.array(result["by_speed"], float).T
    enough = count >= 20
    return np.sqrt(SPEEDS[1:] * SPEEDS[:-1])[enough], events[enough] / count[enough]


def plots(out: Path, runs: dict[str, dict[str, Any]]) -> None:
    """All plots of real, before and after."""
    names = list(REAL)

    def each(draw: Any, log_x: bool, labels: tuple[str, str], path: str) -> None:
        panels = []
        for name in names:
            mine = {run: results["recordings"][name] for run, results in runs.items()}
            panels.append((name, *curves(mine, draw, log_x, labels)))
        sheet(panels, out / path)

    each(_rate, False, ("share of the recording", "rate / mean"), "rate.svg")
    each(lambda r: _gaps(r, 0), True, ("us to the next event, same polarity", "share"), "gaps_same.svg")
    each(lambda r: _gaps(r, 1), True, ("us to the next event, opposite polarity", "share"), "gaps_opposite.svg")
    each(_bursts, False, ("events a pixel fires in a passage", "share of passages"), "bursts.svg")
    each(_by_speed, True, ("speed of the edge from plane fits, px/s", "events a passage"), "speed.svg")

    def table(keys: list[tuple[str, str]], path: str) -> None:
        panels = []
        for key, title in keys:
            rows = [
                (name, [runs[run]["recordings"][name][key] if run in runs else None for run, *_ in LINES])
                for name in names
            ]
            limit = max((v for _, values in rows for v in values if v is not None), default=1.0) or 1.0
            svg = bars(rows, [line[0] for line in LINES], width=500, limit=limit)
            panels.append((title, svg, 500, len(rows) * 59))
        sheet(panels, out / path)

    table([("on_share", "ON share"), ("same_polarity_next", "next event has the same polarity")], "polarity.svg")
    table([("near_share", "event beside within 5 ms"), ("near_share_shuffled", "the same, shuffled")], "near.svg")
    table([("noise_hz", "noise, Hz a quiet pixel"), ("hot_share", "share of hot pixels")], "noise.svg")
    table([("events_a_row", "events a row and time"), ("events_a_stamp", "events a time")], "rows.svg")
    edge_panels = []
    for preset in PRESETS:
        mine = {run: results["edges"][preset] for run, results in runs.items() if results.get("edges")}
        chart = curves(mine, lambda r: np.array(r).T, True, ("speed, px/s", "ON events a passage"))
        edge_panels.append((preset, *chart))
    sheet(edge_panels, out / "edges.svg")


def simulate(seed: int, only: list[str]) -> dict[str, Any]:
    """All simulated counterparts with the presets as they are."""
    return {
        "recordings": {name: merged([measure(*run) for run in simulated_runs(name, seed)]) for name in only},
        "edges": {preset: edges(sensor, seed) for preset, sensor in PRESETS.items()},
        "traffic": traffic(seed),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("docs/realism"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", choices=("before", "after"), default="after", help="the file of the simulated side")
    parser.add_argument("--presets", type=Path, help="a presets.py to use instead, as of another version")
    arguments = parser.parse_args()
    if arguments.presets:
        PRESETS.update(runpy.run_path(str(arguments.presets))["PRESETS"])
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = list(REAL)
    begin = time.perf_counter()
    real = {"recordings": {n: merged([measure(*run) for run in real_runs(arguments.data / REAL[n])]) for n in names}}
    for name, result in (("real", real), (arguments.name, simulate(arguments.seed, names))):
        (arguments.out / f"{name}.json").write_text(json.dumps(_rounded(result)) + "\n")
    runs = {}
    for name, *_ in LINES:
        if (arguments.out / f"{name}.json").exists():
            runs[name] = json.loads((arguments.out / f"{name}.json").read_text())
    plots(arguments.out, runs)
    for name, run in runs.items():
        for recording, result in run["recordings"].items():
            print(json.dumps({"run": name, "recording": recording, **_scalars(result)}))
        for key in ("edges", "traffic"):
            if key in run:
                print(json.dumps({"run": name, key: run[key]}))
    print(json.dumps({"wall_s": round(time.perf_counter() - begin)}))


def _scalars(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if not isinstance(value, list)}


def _rounded(value: Any) -> Any:
    """Four digits of every number."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
