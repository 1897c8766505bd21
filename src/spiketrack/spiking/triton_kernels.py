"""Triton kernels of `lif` and `ilif`: each way one pass over memory, a lane for every neuron and all its time steps.

Tensors are flat: x, spikes and their gradients (T, n), states (n,), in one order of memory; None where there is none.
Lanes lie along n and walk over the steps, which are unrolled, so that membranes stay in registers. Numbers are computed
in KIND, float32 or float64; what is read and written keeps its own type. Constants of the settings are part of the
compiled code, in full precision; the rate, which may be learnt, lies in memory.

The backward kernels compute the membranes again by the same instructions. They must be launched without contraction
of products and sums (enable_fp_fusion=False), or other neurons might fire than in the forward pass.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row(row, at, inside, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Values of a row in KIND; zeros where there is no row."""
    if row is None:
        return tl.zeros([BLOCK], KIND)
    else:
        return tl.load(row + at, mask=inside, other=0).to(KIND)


@triton.jit
def _charge(current, rest, rate, DECAY_INPUT: tl.constexpr):
    if DECAY_INPUT:
        return rest + (current - rest) * rate
    else:
        return (rest - rest * rate) + current


@triton.jit
def _after(membrane, THRESHOLD: tl.constexpr, HARD: tl.constexpr):
    fired = 0.0 if HARD else membrane - THRESHOLD
    return tl.where(membrane >= THRESHOLD, fired, membrane)


@triton.jit
def _surrogate(u, SIGMOID: tl.constexpr, SLOPE: tl.constexpr, HALF_PI: tl.constexpr):
    if SIGMOID:
        e = tl.exp(-tl.abs(u) * SLOPE)
        return SLOPE * e / ((1 + e) * (1 + e))
    else:
        w = u * (SLOPE * HALF_PI)
        return SLOPE / ((1 + w * w) * 2)


@triton.jit
def lif_forward(
    x, state, rate, spikes, rest, n,
    THRESHOLD: tl.constexpr, HARD: tl.constexpr, DECAY_INPUT: tl.constexpr,
    STEPS: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill spikes (T, n) and rest (n,). rate: one number of KIND."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    share, left = tl.load(rate), _row(state, at, inside, KIND, BLOCK)
    for _ in tl.static_range(STEPS):
        membrane = _charge(_row(x, at, inside, KIND, BLOCK), left, share, DECAY_INPUT)
        tl.store(spikes + at, tl.where(membrane >= THRESHOLD, 1.0, 0.0), mask=inside)
        left = _after(membrane, THRESHOLD, HARD)
        x += n
        spikes += n
    tl.store(rest + at, left, mask=inside)


@triton.jit
def lif_backward(
    x, state, rate, grad_spikes, grad_rest, grad_x, grad_state, grad_rate, n,
    THRESHOLD: tl.constexpr, HARD: tl.constexpr, DECAY_INPUT: tl.constexpr, DETACH: tl.constexpr,
    SIGMOID: tl.constexpr, SLOPE: tl.constexpr, HALF_PI: tl.constexpr,
    STEPS: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill grad_x (T, n), grad_state (n,) and grad_rate, the part of dL / d rate of every program; None: not wanted."""
    # ds = dL/ds[t] (- m dr or - threshold dr where the reset is not detached); dm = ds surrogate'(m) + dr (1 - s hard)
    # dx[t] = rate dm (dm without input decay); dr[t-1] = (1 - rate) dm
    # d rate += (x[t] - r[t-1]) dm (- r[t-1] dm without input decay)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    share, left = tl.load(rate), _row(state, at, inside, KIND, BLOCK)
    membranes, pulls = (), ()  # pull: d m / d rate
    for _ in tl.static_range(STEPS):
        current = _row(x, at, inside, KIND, BLOCK)
        membrane = _charge(current, left, share, DECAY_INPUT)
        membranes += (membrane,)
        if grad_rate is not None:
            pulls += (current - left if DECAY_INPUT else -left,)
        left = _after(membrane, THRESHOLD, HARD)
        x += n
        grad_x += n
        if grad_spikes is not None:
            grad_spikes += n
    carry = _row(grad_rest, at, inside, KIND, BLOCK)
    total = tl.zeros([BLOCK], KIND)
    for back in tl.static_range(STEPS):
        grad_x -= n
        if grad_spikes is not None:
            grad_spikes -= n
        membrane = membranes[STEPS - 1 - back]
        sent = _row(grad_spikes, at, inside, KIND, BLOCK)
        if not DETACH:
            sent -= carry * (membrane if HARD else THRESHOLD)
        kept = tl.where(membrane >= THRESHOLD, 0.0, carry) if HARD else carry
        down = sent * _surrogate(membrane - THRESHOLD, SIGMOID, SLOPE, HALF_PI) + kept
        tl.store(grad_x + at, down * share if DECAY_INPUT else down, mask=inside)
        carry = down * (1 - share)
        if grad_rate is not None:
            total += down * pulls[STEPS - 1 - back]
    if grad_state is not None:
        tl.store(grad_state + at, carry, mask=inside)
    if grad_rate is not None:
        tl.store(grad_rate + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def _rounded(value, like, KIND: tl.constexpr):
    """A value as it would be in memory of the type of `like`, in KIND."""
    return value.to(like.dtype.element_ty).to(KIND)


@triton.jit
def _integer(membrane, LEVELS: tl.constexpr, KIND: tl.constexpr):
    clipped = tl.where(membrane < 0, 0.0, tl.where(membrane > LEVELS, LEVELS, membrane))  # NaN stays
    # numbers from 2^23 (2^52 in float64) on are whole: the sum is rounded, half to even
    whole: tl.constexpr = 4503599627370496.0 if KIND == tl.float64 else 8388608.0  # noqa: SIM300
    return (clipped + whole) - whole


@triton.jit
def _integer_charge(
    x, left, at, inside, DECAY: tl.constexpr, GAIN: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr
):
    gained = _rounded(_row(x, at, inside, KIND, BLOCK) * GAIN, x, KIND)
    return _rounded(tl.fma(left, tl.full([BLOCK], DECAY, KIND), gained), x, KIND)


@triton.jit
def ilif_forward(
    x, state, spikes, rest, n,
    LEVELS: tl.constexpr, DECAY: tl.constexpr, GAIN: tl.constexpr,
    STEPS: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill spikes (T, n) and rest (n,) of I-LIF neurons."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    left = _row(state, at, inside, KIND, BLOCK)
    for _ in tl.static_range(STEPS):
        membrane = _integer_charge(x, left, at, inside, DECAY, GAIN, KIND, BLOCK)
        fired = _integer(membrane, LEVELS, KIND)
        tl.store(spikes + at, fired, mask=inside)
        left = _rounded(membrane - fired, x, KIND)
        x += n
        spikes += n
    tl.store(rest + at, left, mask=inside)


@triton.jit
def ilif_backward(
    x, state, grad_spikes, grad_rest, grad_x, grad_state, n,
    LEVELS: tl.constexpr, DECAY: tl.constexpr, GAIN: tl.constexpr,
    STEPS: tl.constexpr, KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill grad_x (T, n) and grad_state (n,) of I-LIF neurons; None: not wanted."""
    # dm[t] = ds[t] (0 <= m[t] <= D) + decay dm[t+1];  dx[t] = gain dm[t]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    left = _row(state, at, inside, KIND, BLOCK)
    windows = ()
    for _ in tl.static_range(STEPS):
        membrane = _integer_charge(x, left, at, inside, DECAY, GAIN, KIND, BLOCK)
        windows += ((membrane >= 0) & (membrane <= LEVELS),)
        left = _rounded(membrane - _integer(membrane, LEVELS, KIND), x, KIND)
        x += n
        grad_x += n
        if grad_spikes is not None:
            grad_spikes += n
    carry = _row(grad_rest, at, inside, KIND, BLOCK)
    for back in tl.static_range(STEPS):
        grad_x -= n
        if grad_spikes is not None:
            grad_spikes -= n
        sent = _row(grad_spikes, at, inside, KIND, BLOCK)
        down = _rounded(tl.where(windows[STEPS - 1 - back], sent, 0.0) + carry, grad_x, KIND)
        tl.store(grad_x + at, down * GAIN, mask=inside)
        carry = down * DECAY
    if grad_state is not None:
        tl.store(grad_state + at, carry, mask=inside)
