"""Kernels of `lif` and `ilif`: each way one pass over memory, blocks of neurons with all their time steps.

Rows are flat: x, spikes and their gradients (T, n), states (n,), all of one float dtype. A block's membranes lie in
scratch arrays that the nearest cache holds. Nothing is kept for the backward pass but x: it computes the same membranes
again, by the same instructions (no contraction of products and sums), so the same neurons fire.

The inner loops vectorise, which takes few arrays whose memory may overlap: what is not x, a gradient or a row of the
scratch lies on the stack, where the compiler knows that nothing else does. Settings enter as numbers and selections
rather than as branches around loops.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic, overload, register_jitable

from spiketrack.spiking.bfloat16 import read, writable, written

BLOCK = 128  # neurons; 8 steps of two arrays are 8 KB of the nearest cache
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


@intrinsic
def _on_stack(typingctx, like):
    """Room for BLOCK numbers of the type of `like` on the stack of the function; to be viewed with carray."""

    def codegen(context, builder, signature, args):
        kind = context.get_value_type(like)
        with builder.goto_entry_block():
            room = builder.alloca(ir.ArrayType(kind, BLOCK))
        room.align = 64
        return builder.bitcast(room, kind.as_pointer())

    return types.CPointer(like)(like), codegen


@intrinsic
def _fused(typingctx, a, b, c):
    """a b + c, rounded once."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, a, a), codegen


@register_jitable
def _charge(x, rest, rate, decay_input):
    return rest + (x - rest) * rate if decay_input else (rest - rest * rate) + x


@register_jitable
def _after(membrane, threshold, hard, zero):
    fired = zero if hard else membrane - threshold
    return fired if membrane >= threshold else membrane


@register_jitable
def _surrogate(u, is_sigmoid, slope, one, half_pi):
    if is_sigmoid:
        e = _exp_minus(abs(u) * slope)
        return slope * e / ((one + e) * (one + e))
    w = u * (slope * half_pi)
    return slope / ((one + w * w) * (one + one))


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
    v = carray(_on_stack(rate), BLOCK)  # ty: ignore[missing-argument]
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
    learns, start, stop,
):  # fmt: skip
    """Fill grad_x (T, n) and grad_state (n,) of the neurons start .. stop; returns their part of dL / d rate.

    grad_spikes: (T, n) or (0, n), grad_rest: (n,) or (0,), where there is none. grad_state: (0,) where not wanted.
    learns: whether dL / d rate is wanted; else 0.
    """
    # ds = dL/ds[t] (- m dr or - threshold dr where the reset is not detached); dm = ds surrogate'(m) + dr (1 - s hard)
    # dx[t] = rate dm (dm without input decay); dr[t-1] = (1 - rate) dm
    # d rate += (x[t] - r[t-1]) dm (- r[t-1] dm without input decay)
    steps = x.shape[0]
    zero, one, half_pi = x.dtype.type(0), x.dtype.type(1), x.dtype.type(math.pi / 2)
    zeroed_at = threshold if hard else x.dtype.type(np.inf)
    by_membrane, fixed = hard and not detach, threshold if not hard and not detach else zero
    rate_of_x, share_of_x = (rate, one) if decay_input else (one, zero)
    keep, total = one - rate, 0.0
    rests, no_grad = np.empty((steps, BLOCK), x.dtype), np.zeros(BLOCK, x.dtype)
    carry = carray(_on_stack(rate), BLOCK)  # ty: ignore[missing-argument]
    sums = carray(_on_stack(rate), BLOCK)  # ty: ignore[missing-argument]
    for first in range(start, stop, BLOCK):
        size = min(BLOCK, stop - first)
        _load(state, first, size, carry)  # carries the membrane forward, then its gradient back
        for t in range(steps):
            current, rest = x[t, first : first + size], rests[t]
            for i in range(size):
                r = carry[i]
                rest[i] = r
                carry[i] = _after(_charge(current[i], r, rate, decay_input), threshold, hard, zero)
        _load(grad_rest, first, size, carry)
        for i in range(size):
            sums[i] = zero
        for t in range(steps - 1, -1, -1):
            current, out, rest = x[t, first : first + size], grad_x[t, first : first + size], rests[t]
            ds = grad_spikes[t, first : first + size] if len(grad_spikes) else no_grad[:size]
            for i in range(size):
                charge, r, kept = current[i], rest[i], carry[i]  # loaded whether used or not: no branch
                m = _charge(charge, r, rate, decay_input)
                dm = _surrogate(m - threshold, is_sigmoid, slope, one, half_pi)
                dm *= ds[i] - kept * (m if by_membrane else fixed)
                dm += zero if m >= zeroed_at else kept
                out[i] = dm * rate_of_x
                carry[i] = dm * keep
                if learns:
                    sums[i] += dm * (charge * share_of_x - r)
        for i in range(size if learns else 0):
            total += sums[i]
        if len(grad_state):
            _store(carry, first, size, grad_state)
    return total


@register_jitable
def _integer(membrane, levels, zero):
    return np.rint(min(max(membrane, zero), levels))


@njit(cache=True, nogil=True, error_model="numpy")
def integer_forward(x, state, levels, decay, gain, spikes, rest, start, stop):
    """Fill spikes (T, n) and rest (n,) of the I-LIF neurons start .. stop. state: (n,), or (0,) for rest at 0.

    x, spikes: of the dtype of the constants and states, or bits of bfloat16.
    """
    zero = decay - decay
    v = carray(_on_stack(decay), BLOCK)  # ty: ignore[missing-argument]
    room = carray(_on_stack(decay), BLOCK)  # ty: ignore[missing-argument]
    for first in range(start, stop, BLOCK):
        size = min(BLOCK, stop - first)
        _load(state, first, size, v)
        for t in range(x.shape[0]):
            current, sent = x[t, first : first + size], spikes[t, first : first + size]
            out = writable(sent, room)
            for i in range(size):
                membrane = _fused(v[i], decay, read(current[i]) * gain)  # ty: ignore[missing-argument]
                fired = _integer(membrane, levels, zero)
                out[i] = fired
                v[i] = membrane - fired
            written(room, sent)
        _store(v, first, size, rest)


@njit(cache=True, nogil=True, error_model="numpy")
def integer_backward(
    x, state, levels, decay, gain, grad_spikes, grad_rest, grad_x, grad_state, start, stop
):  # fmt: skip
    """Fill grad_x (T, n) and grad_state (n,) of the I-LIF neurons start .. stop.

    x, grad_spikes, grad_x: as x of `integer_forward`. grad_spikes: (T, n) or (0, n), grad_rest: (n,) or (0,), where
    there is none. grad_state: (0,) where not wanted.
    """
    # dm[t] = ds[t] (0 <= m[t] <= D) + decay dm[t+1];  dx[t] = gain dm[t]
    steps, zero = x.shape[0], decay - decay
    membranes, no_grad = np.empty((steps, BLOCK), state.dtype), np.zeros(BLOCK, x.dtype)
    carry = carray(_on_stack(decay), BLOCK)  # ty: ignore[missing-argument]
    room = carray(_on_stack(decay), BLOCK)  # ty: ignore[missing-argument]
    for first in range(start, stop, BLOCK):
        size = min(BLOCK, stop - first)
        _load(state, first, size, carry)
        for t in range(steps):
            current, membrane = x[t, first : first + size], membranes[t]
            for i in range(size):
                m = _fused(carry[i], decay, read(current[i]) * gain)  # ty: ignore[missing-argument]
                membrane[i] = m
                carry[i] = m - _integer(m, levels, zero)
        _load(grad_rest, first, size, carry)
        for t in range(steps - 1, -1, -1):
            dx, membrane = grad_x[t, first : first + size], membranes[t]
            ds = grad_spikes[t, first : first + size] if len(grad_spikes) else no_grad[:size]
            out = writable(dx, room)
            for i in range(size):
                m, sent = membrane[i], read(ds[i])
                dm = (sent if (m >= zero) & (m <= levels) else zero) + carry[i]
                out[i] = dm * gain
                carry[i] = dm * decay
            written(room, dx)
        if len(grad_state):
            _store(carry, first, size, grad_state)
