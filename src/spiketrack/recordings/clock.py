"""Clocks of words: a counter of a few bits becomes a time that only its wraps and corrupt readings could upset."""

from __future__ import annotations

from numba import njit

SUSPECT_US = 1_000_000  # a reading further ahead than this, or far back, is believed only if the next one agrees
WRAP_BACK_US = 1 << 16  # a step back across the wrap of a clock is at most this long


@njit(cache=True, nogil=True)
def unwrap(clock, before, new, span, unit_us):
    """The unwrapped clock after reading `new` (0 .. span - 1, in units of unit_us).

    clock: the unwrapped clock so far, -1 before the first reading. before: the clock before its last reading, where
    that reading was suspect, else -1. Returns (clock, before, restored).

    A drop of more than half the span is a wrap, a smaller one a step back. A rise of nearly the whole span is a step
    back across a wrap that has happened. Where a suspect reading is followed by one that continues the clock before
    it, the suspect one was corrupt: the clock is restored.
    """
    if clock < 0:
        return new, -1, False
    suspect = SUSPECT_US // unit_us
    if before >= 0:
        step = (new - before) % span
        if step <= suspect:
            return before + step, -1, True
    step = new - clock % span
    if 2 * step < -span:
        step += span
    elif step > span - max(WRAP_BACK_US // unit_us, 1) and clock >= span:
        step -= span
    if -WRAP_BACK_US <= step * unit_us <= SUSPECT_US:
        return clock + step, -1, False
    return clock + step, clock, False
