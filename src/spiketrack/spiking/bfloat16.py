"""bfloat16 in compiled kernels: the upper half of a float32, which NumPy and numba know as bits, uint16.

Station: beside the kernels of neurons and depthwise convolutions, which compute in float32 and read and write either. A
pass over memory takes half the time with half the bytes.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

_NAN = 0x7FC0


@intrinsic
def _from_bits(typingctx, bits):
    def codegen(context, builder, signature, args):
        wide = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def _to_bits(typingctx, value):
    """Rounded to the nearest, halves to even; NaN stays NaN."""

    def codegen(context, builder, signature, args):
        word, half = ir.IntType(32), ir.IntType(16)
        bits = builder.bitcast(args[0], word)
        shift = ir.Constant(word, 16)
        odd = builder.and_(builder.lshr(bits, shift), ir.Constant(word, 1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF))), shift)
        is_nan = builder.fcmp_unordered("uno", args[0], args[0])
        return builder.select(is_nan, ir.Constant(half, _NAN), builder.trunc(rounded, half))

    return types.uint16(types.float32), codegen


def read(value):
    """The number that an element of an array stands for: of uint16 a float32, of floats itself."""
    raise NotImplementedError("compiled code only")


@overload(read, inline="always")
def _overload_read(value):
    if value == types.uint16:
        return lambda value: _from_bits(value)  # ty: ignore[missing-argument]
    return lambda value: value


def writable(out, room):
    """Where to write floats that are meant for `out`: `out` itself, or `room` where `out` is uint16."""
    raise NotImplementedError("compiled code only")


@overload(writable, inline="always")
def _overload_writable(out, room):
    if out.dtype == types.uint16:
        return lambda out, room: room
    return lambda out, room: out


def written(room, out):
    """What `writable` gave is full: round it into an `out` of uint16. A loop of its own, or the other's would not
    vectorise."""
    raise NotImplementedError("compiled code only")


@overload(written, inline="always")
def _overload_written(room, out):
    def rounded(room, out):
        for i in range(len(out)):
            out[i] = _to_bits(room[i])  # ty: ignore[missing-argument]

    return rounded if out.dtype == types.uint16 else lambda room, out: None
