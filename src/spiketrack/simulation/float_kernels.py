"""Numba kernels of logarithm and exponential in float32, in forms that vectorise.

Station: below the kernels of the event pixel, inlined into their loops.
"""

from __future__ import annotations

import numpy as np
from numba import njit

TWO, ONE, HALF, ZERO = np.float32(2), np.float32(1), np.float32(0.5), np.float32(0)
_SQRT_HALF = np.float32(0.70710678118654752440)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOG2_E = np.float32(1.44269504088896341)
_LOG = tuple(
    np.float32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
_EXP = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)
_LEAST_EXPONENT = np.float32(-80)
TINY = np.float32(1.2e-38)
INFINITE = np.float32(np.inf)


@njit(inline="always", error_model="numpy")
def log(v):
    """Natural logarithm of a normal positive float32 (Cephes logf: within 2 ulp), in a form that vectorises."""
    bits = np.float32(v).view(np.int32)
    exponent = np.float32((bits >> np.int32(23)) - np.int32(126))
    m = np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)).view(np.float32)  # 0.5 .. 1
    low = m < _SQRT_HALF
    exponent = exponent - (ONE if low else ZERO)
    m = (m + m if low else m) - ONE
    z = m * m
    r = _LOG[0]
    for k in range(1, 9):
        r = r * m + _LOG[k]
    r = r * m * z + exponent * _LN2_LOW - HALF * z
    return m + r + exponent * _LN2_HIGH


@njit(inline="always", error_model="numpy")
def exp(x):
    """Exponential of a float32 <= 0 (Cephes expf: within 2 ulp), in a form that vectorises."""
    x = _LEAST_EXPONENT if x < _LEAST_EXPONENT else x
    k = np.int32(x * _LOG2_E - HALF)  # towards zero: the nearest, for x <= 0
    n = np.float32(k)
    x = x - n * _LN2_HIGH - n * _LN2_LOW
    r = _EXP[0]
    for j in range(1, 6):
        r = r * x + _EXP[j]
    r = r * x * x + x + ONE
    return r * np.int32((k + np.int32(127)) << np.int32(23)).view(np.float32)
