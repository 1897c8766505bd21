"""Kernels of `lif`: each way one pass over memory, blocks of neurons with all their time steps.

Rows are flat: x, spikes and their gradients (T, n), states (n,), all of one float dtype. A block's membranes lie in a
scratch array that the nearest cache holds. Nothing is kept for the backward pass but x: it computes the same membranes
again, by the same instructions (no contraction of products and sums), so the same neurons fire.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload, register_jitable

BLOCK = 512
_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_MOST = np.float32(80.0)  # exp(-80) = 2e-35 still is a normal number
_HALF = np.float32(0.5)
_C2, _C3, _C4, _C5, _C6 = (np.float32(1 / math.factorial(n)) for n in range(2, 7))


@intrinsic
def _two_to_minus(typingctx, n):
    """2^-n of a whole float32 n in 0 .. 126, by its exponent bits; a call that vectorises."""

    def codegen(context, builder, signature, args):
        bits = builder.sub(ir.Constant(ir.IntType(32), 127), builder.fptosi(args[0], ir.IntType(32)))
        return builder.bitcast(builder.shl(bits, ir.Constant(ir.IntType(32), 23)), ir.FloatType())

    return types.float32(types.float32), codegen


def _exp_minus(y):
    """exp(-y) of y >= 0; float32 to 2e-7 of itself (constant beyond y = 80), float64 exactly."""
    raise NotImplementedError("compiled code only")


@overload(_exp_minus)
def _overload_exp_minus(y):
    if y == types.float32:

        def single(y):
            # y = n ln 2 + r, |r| <= ln 2 / 2: exp(-y) = 2^-n exp(-r), the latter by its series
            y = min(y, _MOST)
            n = np.floor(y * _LOG2_E + _HALF)
            r = -((y - n * _LN2_HIGH) - n * _LN2_LOW)
            series = _C2 + r * (_C3 + r * (_C4 + r * (_C5 + r * _C6)))
            return (np.float32(1) + (r + r * r * series)) * _two_to_minus(n)  # ty: ignore[missing-argument]

        return single
    return lambda y: math.exp(-y)


@register_jitable
def _charge(x, rest, rate, decay_input):
    return rest + (x - rest) * rate if decay_input else (rest - rest * rate) + x


@register_jitable
def _after(membrane, threshold, hard, zero):
    fired = zero if hard else membrane - threshold
    return fired if membrane >= threshold else membrane


@register_jitable
def _load(row, first, size, out):
    """The piece of a row from `first` on, zeros where there is no row."""
    piece = row[first : first + size]
    for i in range(size):
        out[i] = 0
    for i in range(len(piece)):
        out[i] = piece[i]


@register_jitable
def _store(values, first, size, row):
    piece = row[first : first + size]
    for i in range(size):
        piece[i] = values[i]


@njit(cache=True, nogil=True, error_model="numpy")
def forward(x, state, rate, threshold, hard, decay_input, spikes, rest, start, stop):
    """Fill spikes (T, n) and rest (n,) of the neurons start .. stop. state: (n,), or (0,) for rest at 0."""
    zero, one = x.dtype.type(0), x.dtype.type(1)
    v = np.empty(BLOCK, x.dtype)
    for first in range(start, stop, BLOCK):
        size = min(BLOCK, stop - first)
        _load(state, first, size, v)
        for t in range(x.shape[0]):
            current, out = x[t, first : first + size], spikes[t, first : first + size]
            for i in range(size):
                membrane = _charge(current[i], v[i], rate, decay_input)
                out[i] = one if membrane >= threshold else zero
                v[i] = _after(membrane, threshold, hard, zero)
        _store(v, first, size, rest)


@njit(cache=True, nogil=True, error_model="numpy")
def backward(
    x, state, rate, threshold, hard, decay_input, detach, is_sigmoid, slope, grad_spikes, grad_rest, grad_x, grad_state,
    start, stop,
):  # fmt: skip
    """Fill grad_x (T, n) and grad_state (n,) of the neurons start .. stop; returns their part of dL / d rate.

    grad_spikes: (T, n) or (0, n), grad_rest: (n,) or (0,), where there is none. grad_state: (0,) where not wanted.
    """
    # ds = dL/ds[t] (- m dr or - threshold dr where the reset is not detached); dm = ds surrogate'(m) + dr (1 - s hard)
    # dx[t] = rate dm (dm without input decay); dr[t-1] = (1 - rate) dm; d rate += (x[t] - r[t-1]) dm
    steps = x.shape[0]
    zero, one = x.dtype.type(0), x.dtype.type(1)
    atan_slope = slope * x.dtype.type(math.pi / 2)
    zeroed_at = threshold if hard else x.dtype.type(np.inf)
    half_slope = slope * x.dtype.type(0.5)
    membranes, rests = np.empty((steps, BLOCK), x.dtype), np.empty((steps, BLOCK), x.dtype)
    dm, carry = np.empty(BLOCK, x.dtype), np.empty(BLOCK, x.dtype)
    no_grad = np.zeros(BLOCK, x.dtype)
    sums = np.zeros(BLOCK, np.float64)
    for first in range(start, stop, BLOCK):
        size = min(BLOCK, stop - first)
        _load(state, first, size, carry)  # carries the membrane forward, then its gradient back
        for t in range(steps):
            current, r, m = x[t, first : first + size], rests[t], membranes[t]
            for i in range(size):
                r[i] = carry[i]
            for i in range(size):
                m[i] = _charge(current[i], r[i], rate, decay_input)
            for i in range(size):
                carry[i] = _after(m[i], threshold, hard, zero)
        _load(grad_rest, first, size, carry)
        for t in range(steps - 1, -1, -1):
            m, r = membranes[t], rests[t]
            current, out = x[t, first : first + size], grad_x[t, first : first + size]
            ds = grad_spikes[t, first : first + size] if len(grad_spikes) else no_grad[:size]
            # short loops over few arrays: the compiler vectorises them
            if is_sigmoid:
                for i in range(size):
                    e = _exp_minus(abs(m[i] - threshold) * slope)
                    dm[i] = slope * e / ((one + e) * (one + e))
            else:
                for i in range(size):
                    u = (m[i] - threshold) * atan_slope
                    dm[i] = half_slope / (one + u * u)
            if detach:
                for i in range(size):
                    dm[i] *= ds[i]
            else:
                for i in range(size):
                    dm[i] *= ds[i] - carry[i] * (m[i] if hard else threshold)
            for i in range(size):
                kept = carry[i]  # loaded whether used or not: no branch
                dm[i] += zero if m[i] >= zeroed_at else kept
            for i in range(size):
                out[i] = dm[i] * rate if decay_input else dm[i]
            if decay_input:
                for i in range(size):
                    sums[i] += dm[i] * (current[i] - r[i])
            else:
                for i in range(size):
                    sums[i] -= dm[i] * r[i]
            for i in range(size):
                carry[i] = dm[i] * (one - rate)
        if len(grad_state):
            _store(carry, first, size, grad_state)
    return sums.sum()
