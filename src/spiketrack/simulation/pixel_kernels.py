"""Numba kernels of the event pixel.

Station: inside `sensor`. In come a frame of intensity and the pixels' state, out go unsorted events of the interval.
Imported only where a simulation runs, so that settings stay cheap to import.

Between two frames the log intensity u runs linearly, u(t) = u0 + s t. The photoreceptor's output y follows it through
a first-order low pass with time constant tau, exactly:
    y(t) = u(t) - s tau + (y0 - u0 + s tau) exp(-t / tau)
Pixels are kept by tile, (tiles, 7, 256) float32, so that a tile is one run of memory. All pixels of a tile first pass a
loop without branches that finds the level at the end and who may have crossed a threshold; the few who may, or who
have noise or are in reset, are solved one by one (`crossing_kernels`). Tiles that flicker do so several times a frame.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from spiketrack.simulation.crossing_kernels import LEVEL_TOLERANCE, run_pixel
from spiketrack.simulation.flicker_kernels import between, is_quiet, rouse
from spiketrack.simulation.float_kernels import HALF, INFINITE, ONE, TINY, TWO, ZERO, exp, log
from spiketrack.simulation.pixel_state import (
    AREA,
    DARK,
    FASTEST,
    FULL_AT,
    LAMPS,
    LIGHT,
    LOG,
    OFF,
    ON,
    OUTPUT,
    REFERENCE,
    REFRACTORY,
    SLOWEST,
    STILL,
    TILE,
)

_SETTLED = 2e-3  # log units between a pixel and its target that are left alone once nothing changes: 1 % of a threshold
_SERIES_BELOW = np.float32(0.03)
_SIXTH = np.float32(1 / 6)


@njit(inline="always")
def _gather(frame, tile, across, light):
    """Copy a tile's intensities; what lies beyond the frame is 1."""
    height, width = frame.shape
    top, left = tile // across * TILE, tile % across * TILE
    if top + TILE <= height and left + TILE <= width:
        for row in range(TILE):
            for column in range(TILE):
                light[row * TILE + column] = frame[top + row, left + column]
    else:
        light[:] = ONE
        for row in range(min(TILE, height - top)):
            for column in range(min(TILE, width - left)):
                light[row * TILE + column] = frame[top + row, left + column]


@njit(cache=True, nogil=True, error_model="numpy")
def log_of(frame, across, dark, state):
    """Intensity and the log of it plus dark into the state of all tiles; False where a value is not fit for it."""
    dark = np.float32(dark)
    bad = 0
    for tile in range(len(state)):
        light, target = state[tile, LIGHT], state[tile, LOG]
        _gather(frame, tile, across, light)
        for i in range(AREA):
            v = light[i] + dark
            bad |= np.int32(not (light[i] >= ZERO and v >= TINY and v < INFINITE))
            target[i] = log(v)
    return bad == 0


@njit(inline="always", error_model="numpy")
def _moves(now, before, share, dark):
    """Whether any of a tile's intensities differs from that of before by more than share (log units), or is unfit."""
    moved = np.int32(0)
    for i in range(AREA):
        moved |= np.int32(not (now[i] >= ZERO and abs(now[i] - before[i]) <= share * (before[i] + dark)))
    return moved != 0


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(light, u0, y0, reference, on, off, dark, dt, fastest, slowest, u1, y1, tells):
    """The loop without branches over a tile.

    fastest, slowest: most and least of 1 / tau, per us; a pixel's is fastest times its intensity (scaled to 1 where the
    most is reached). Fills u1, y1 and tells (who must be looked at); returns (all fit, any to look at, any unsettled).
    """
    bad, any_tell, any_unsettled = np.int32(0), np.int32(0), np.int32(0)
    tolerance, settled = np.float32(LEVEL_TOLERANCE), np.float32(_SETTLED)
    dt, least, most = np.float32(dt), np.float32(slowest * dt), np.float32(fastest[0] * dt)
    scale = np.float32(fastest[1] * dt)
    for i in range(AREA):
        v = light[i] + dark
        bad |= np.int32(not (light[i] >= ZERO and v >= TINY and v < INFINITE))
        u = log(v)
        x = v * scale
        x = most if x > most else x
        x = least if x < least else x
        e = exp(-x)
        share = ONE - x * (HALF - x * _SIXTH) if x < _SERIES_BELOW else (ONE - e) / x  # (1 - exp(-x)) / x
        y = u + (y0[i] - u0[i]) * e - (u - u0[i]) * share
        u1[i] = u
        y1[i] = y
        # where the output turns round it equals its input, u0 + s tau log(1 - (u0 - y0) / s tau); 2z / (2 + z) is
        # less than log(1 + z) and so bounds its way
        ahead, left, way = u0[i] - y0[i], u - y, u - u0[i]
        turns = (ahead > ZERO) != (left > ZERO)
        top, bottom = (y if y > y0[i] else y0[i]), (y if y < y0[i] else y0[i])
        peak = u0[i] - ahead * (TWO * way) / (TWO * way - ahead * x + TINY)  # ahead and way differ in sign
        top = peak if turns and peak > top else top
        bottom = peak if turns and peak < bottom else bottom
        r = reference[i]
        tell = np.int32(not (top < r + on[i] - tolerance and bottom > r - off[i] + tolerance))  # NaN tells too
        tells[i] = tell
        any_tell |= tell
        any_unsettled |= np.int32(left > settled or -left > settled)
    return bad == 0, any_tell != 0, any_unsettled != 0


@njit(cache=True, nogil=True, error_model="numpy")
def _advance_at_once(light, u0, reference, on, off, dark, u1, tells):
    """`_advance` without a low pass: (all fit, any to look at)."""
    bad, any_tell = np.int32(0), np.int32(0)
    tolerance = np.float32(LEVEL_TOLERANCE)
    for i in range(AREA):
        v = light[i] + dark
        bad |= np.int32(not (light[i] >= ZERO and v >= TINY and v < INFINITE))
        u = log(v)
        u1[i] = u
        r = reference[i]
        tell = np.int32(not (u < r + on[i] - tolerance and u > r - off[i] + tolerance))
        tells[i] = tell
        any_tell |= tell
    return bad == 0, any_tell != 0


@njit(cache=True, nogil=True, error_model="numpy")
def _noise_between(noise, first, last, t0, t1):
    """The noise events [first, last) of (t0, t1], in their order."""
    noise_t, noise_place, noise_p = noise
    inside = np.flatnonzero((noise_t[first:last] > t0) & (noise_t[first:last] <= t1)) + first
    return noise_t[inside], noise_place[inside], noise_p[inside]


@njit(cache=True, nogil=True, error_model="numpy")
def _step(light, tile, t0, t1, pixel, state, free_at, noise, first, last, runs, work, fired, count):
    """Run one tile from t0 to t1 us, its light linear in the log up to `light`.

    runs: whether its light has to be looked at; else only its noise events [first, last) are. work: u1, y1 (256,)
    float32, tells (256,) int32, look (257,) int64. fired: times, places and kinds, filled from count on.
    Returns (fired, count, whether all intensities were fit, whether any pixel is unsettled, pixels looked at).
    """
    u0, y0, reference = state[tile, LOG], state[tile, OUTPUT], state[tile, REFERENCE]
    on, off = state[tile, ON], state[tile, OFF]
    u1, y1, tells, look = work
    times, places, kinds = fired
    noise_t, noise_place, noise_p = noise
    dark, dt = np.float32(pixel[DARK]), t1 - t0
    limited = pixel[FASTEST] > 0
    rates = (pixel[FASTEST], pixel[FASTEST] / pixel[FULL_AT])
    waits, looked = False, 0
    if runs:
        if limited:
            fit, any_tell, waits = _advance(
                light, u0, y0, reference, on, off, dark, dt, rates, pixel[SLOWEST], u1, y1, tells
            )
        else:
            fit, any_tell = _advance_at_once(light, u0, reference, on, off, dark, u1, tells)
        if not fit:
            return fired, count, False, waits, 0
        if first == last and not any_tell:
            u0[:] = u1
            if limited:
                y0[:] = y1
            return fired, count, True, waits, 0
        for k in range(first, last):
            tells[noise_place[k] - tile * AREA] = 1
        for i in range(AREA):
            look[looked] = i
            looked += tells[i]
    else:  # only those with noise
        for k in range(first, last):
            if k == first or noise_place[k] != noise_place[k - 1]:
                look[looked] = noise_place[k] - tile * AREA
                looked += 1
    begin = first
    for m in range(looked):
        i = look[m]
        stop = begin
        while stop < last and noise_place[stop] == tile * AREA + i:
            stop += 1
        tau = 0.0
        before, after, out = np.float64(u0[i]), np.float64(u0[i]), np.float64(u0[i])
        if runs:
            after = np.float64(u1[i])
        if limited:
            out = np.float64(y0[i])
            if runs:
                v = np.float64(light[i] + dark)
                tau = 1 / max(min(v * rates[1], rates[0]), pixel[SLOWEST])
            else:
                before = after = out
        path = (before, (after - before) / dt, out, tau)
        end = np.float64(y1[i]) if runs and limited else after
        free = free_at[tile, i] if np.isnan(reference[i]) else 0.0
        own = (np.float64(reference[i]), free, np.float64(on[i]), np.float64(off[i]), pixel[REFRACTORY])
        done, held, free = run_pixel(path, end, t0, dt, own, noise_t, noise_p, begin, stop, times, kinds, count)
        while done < 0:
            room = len(times)
            times = np.append(times, np.empty(room, np.float64))
            places, kinds = np.append(places, np.empty(room, np.int32)), np.append(kinds, np.empty(room, np.uint8))
            done, held, free = run_pixel(path, end, t0, dt, own, noise_t, noise_p, begin, stop, times, kinds, count)
        places[count:done] = tile * AREA + i
        count = done
        reference[i] = held
        if np.isnan(held):
            free_at[tile, i] = free
        begin = stop
    if runs:
        u0[:] = u1
        if limited:
            y0[:] = y1
    return (times, places, kinds), count, True, waits, looked


@njit(cache=True, nogil=True, error_model="numpy")
def expose_tiles(frame, tiles, active, t0, t1, pixel, state, free_at, noise, unsettled, flicker):
    """Run the pixels of some tiles from t0 to t1 us.

    frame: (H, W) float32 intensity. tiles: (N,) tile numbers in order, row by row; active: (N,) whether the tile's
    light may change. Where it does not by more than pixel[STILL] log units since it last did, and nothing is unsettled,
    only pixels with noise are looked at; small changes add up. pixel: see DARK and the names after it; rates in 1/us,
    FASTEST 0 is no low pass. state: (tiles, 7, 256) float32, see LIGHT and the names after it; a NaN reference is a
    pixel in reset until free_at, (tiles, 256) float64 us. noise: times (float64 us), places (tile * 256 + pixel, sorted
    by place and time), polarities. unsettled: (tiles,) bool, set for the tiles that are run. flicker: (N,) whether the
    tile flickers, the light that does (H, W), times (K,) float64 us up to t1 from one to the next of which it is run,
    wave (see `flicker_kernels`), and asleep, (tiles,) bool, set for those that cannot fire until their light changes or
    noise comes: these need not be among `tiles`. Returns (times, places, kinds, whether all intensities were fit); a
    kind is the polarity, plus 2 for noise.
    """
    flickers, lamps, steps, wave, asleep = flicker
    swings = wave[0] * np.sin(wave[1] * steps)
    across = -(-frame.shape[1] // TILE)
    dark, still = np.float32(pixel[DARK]), np.float32(pixel[STILL])
    light, goal, glow = np.empty(AREA, np.float32), np.empty(AREA, np.float32), np.empty(AREA, np.float32)
    u1, y1 = np.empty(AREA, np.float32), np.empty(AREA, np.float32)
    work = (u1, y1, np.empty(AREA, np.int32), np.empty(AREA + 1, np.int64))
    fired = (np.empty(1024, np.float64), np.empty(1024, np.int32), np.empty(1024, np.uint8))
    count, fit = 0, True
    bounds = np.searchsorted(noise[1], tiles * AREA), np.searchsorted(noise[1], tiles * AREA + AREA)
    for n in range(len(tiles)):
        tile = tiles[n]
        first, last = bounds[0][n], bounds[1][n]
        before, before_lamps = state[tile, LIGHT], state[tile, LAMPS]
        if not flickers[n]:
            runs = unsettled[tile]
            if active[n] or runs:
                _gather(frame, tile, across, light)
            if active[n] and _moves(light, before, still, dark):
                runs = True
                before[:] = light
            fired, count, fit, waits, _ = _step(
                light, tile, t0, t1, pixel, state, free_at, noise, first, last, runs, work, fired, count
            )
            if runs:
                unsettled[tile] = waits
        else:
            if active[n]:
                _gather(frame, tile, across, goal)
                _gather(lamps, tile, across, glow)
            if asleep[tile]:
                rouse(tile, t0, pixel, wave, state)
            start, looked = t0, 0
            for k in range(len(steps)):
                if active[n] and k < len(steps) - 1:
                    share = (steps[k] - t0) / (t1 - t0)
                    between(before, goal, before_lamps, glow, swings[k], share, dark, light)
                else:
                    if active[n]:
                        before[:], before_lamps[:] = goal, glow
                    swing = np.float32(swings[k])
                    for i in range(AREA):
                        light[i] = before[i] + swing * before_lamps[i]
                own = noise if first == last else _noise_between(noise, first, last, start, steps[k])
                stop = first if first == last else len(own[0])
                begin = first if first == last else 0
                fired, count, fit, _, some = _step(
                    light, tile, start, steps[k], pixel, state, free_at, own, begin, stop, True, work, fired, count
                )
                start, looked = steps[k], looked + some
                if not fit:
                    break
            asleep[tile] = not active[n] and looked == 0 and is_quiet(tile, pixel, wave, state)
        if not fit:
            break
    times, places, kinds = fired
    return times[:count], places[:count], kinds[:count], fit
