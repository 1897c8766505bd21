"""Kernels of `sparse_conv`: convolutions of binary maps that add rows instead of multiplying by 0 and 1. Compiled.

Each is one primitive: acc += the sum of the rows that the bits of a word name. Forward the rows are the kernel's, one
per input channel of a tap, and acc an output pixel; for the gradient of the kernel the rows are the pixels of a row of
the output's gradient, and acc is the kernel's row of a tap and channel. Rows have 16, 32 or 64 numbers, which stay in
registers from the first bit of a word to the last. Import inside functions.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

WORD = 64  # channels, or places of a row, in one word
MANY = 1 << 24  # whole numbers that float32 can count
NEAR = 64  # output pixels that share a look at a tap's rows: both lie in the nearest cache
_I64 = ir.IntType(64)


def _literal(number):
    if not isinstance(number, types.IntegerLiteral):
        raise TypingError("expected a literal")  # numba then tries again with the literal's type
    return number.literal_value


@intrinsic
def _add_rows(typingctx, word, rows, first, acc, place, lanes):
    """acc[place : place + lanes] += rows[first + b * lanes : ... + lanes] of every set bit b of the word.

    rows, acc: contiguous arrays of one float type, seen as flat; lanes: a literal.
    """
    width = _literal(lanes)

    def codegen(context, builder, signature, args):
        number = context.get_value_type(rows.dtype)
        vector = ir.VectorType(number, width)
        align = context.get_abi_sizeof(number)
        bits, source, at, target, into, _ = args
        source = context.make_array(rows)(context, builder, source).data
        target = context.make_array(acc)(context, builder, target).data
        base = builder.gep(source, [at])
        out = builder.bitcast(builder.gep(target, [into]), vector.as_pointer())
        some, loop = builder.append_basic_block("some"), builder.append_basic_block("row")
        last, done = builder.append_basic_block("last"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_unsigned("!=", bits, _I64(0)), some, done)
        builder.position_at_end(some)
        started = builder.load(out, align=align)
        builder.branch(loop)
        builder.position_at_end(loop)
        left, total = builder.phi(_I64), builder.phi(vector)
        bit = builder.cttz(left, ir.IntType(1)(1))
        row = builder.bitcast(builder.gep(base, [builder.mul(bit, _I64(width))]), vector.as_pointer())
        added = builder.fadd(total, builder.load(row, align=align))
        rest = builder.and_(left, builder.sub(left, _I64(1)))
        left.add_incoming(bits, some)
        left.add_incoming(rest, loop)
        total.add_incoming(started, some)
        total.add_incoming(added, loop)
        builder.cbranch(builder.icmp_unsigned("!=", rest, _I64(0)), loop, last)
        builder.position_at_end(last)
        builder.store(added, out, align=align)
        builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(types.uint64, rows, types.int64, acc, types.int64, lanes), codegen


@intrinsic
def _bits_of(typingctx, x, first, lanes):
    """Which of x[first : first + lanes] are not 0, as the low bits of a word, and whether the others are all 1."""
    width = _literal(lanes)

    def codegen(context, builder, signature, args):
        number = context.get_value_type(x.dtype)
        vector = ir.VectorType(number, width)
        data = context.make_array(x)(context, builder, args[0]).data
        at = builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer())
        values = builder.load(at, align=context.get_abi_sizeof(number))
        short = ir.IntType(width)
        on = builder.bitcast(builder.fcmp_unordered("!=", values, ir.Constant(vector, [0.0] * width)), short)
        ones = builder.bitcast(builder.fcmp_ordered("==", values, ir.Constant(vector, [1.0] * width)), short)
        binary = builder.zext(builder.icmp_unsigned("==", on, ones), ir.IntType(8))
        return context.make_tuple(builder, signature.return_type, [builder.zext(on, _I64), binary])

    return types.Tuple((types.uint64, types.uint8))(x, types.int64, lanes), codegen


@intrinsic
def _lowest(typingctx, word):
    """Number of the lowest set bit of a word that is not 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), codegen


@intrinsic
def _add_either(typingctx, word, where_set, elsewhere, first, y, place):
    """y[place + i] += where_set[first + i] where bit i of the word is set, else elsewhere[first + i]; i = 0 .. 15."""

    def codegen(context, builder, signature, args):
        number = context.get_value_type(y.dtype)
        vector, align = ir.VectorType(number, 16), context.get_abi_sizeof(number)

        def at(kind, array, index):
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        on, off = (at(kind, args[i], args[3]) for i, kind in ((1, where_set), (2, elsewhere)))
        bits = builder.bitcast(builder.trunc(args[0], ir.IntType(16)), ir.VectorType(ir.IntType(1), 16))
        chosen = builder.select(bits, builder.load(on, align=align), builder.load(off, align=align))
        out = at(y, args[4], args[5])
        builder.store(builder.fadd(builder.load(out, align=align), chosen), out, align=align)
        return context.get_dummy_value()

    return types.void(types.uint64, where_set, elsewhere, types.int64, y, types.int64), codegen


@njit(cache=True, nogil=True)
def pack(x, bits, start, stop):
    """Fill bits (pixels, words) of x (pixels, channels), pixels start .. stop. Returns how many pixels have each bit,
    (channels,) int64, or nothing, (0,), where some numbers are neither 0 nor 1.

    channels: a multiple of 16. Bit c of word w of a pixel is channel 64 w + c.
    """
    channels, binary, one = x.shape[1], np.uint8(1), np.uint64(1)
    counts = np.zeros(channels, np.int64)
    for first in range(start, stop, MANY):
        sums = np.zeros(channels, x.dtype)
        for pixel in range(first, min(first + MANY, stop)):
            for w in range(bits.shape[1]):
                word = np.uint64(0)
                for part in range(min(channels - w * WORD, WORD) // 16):
                    c = w * WORD + part * 16
                    on, fits = _bits_of(x, pixel * channels + c, 16)  # ty: ignore[missing-argument]
                    word |= on << np.uint64(part * 16)
                    binary &= fits
                    _add_rows(one, x, pixel * channels + c, sums, c, 16)  # ty: ignore[missing-argument]
                bits[pixel, w] = word
            if not binary:
                return counts[:0]
        for c in range(channels):
            counts[c] += np.int64(sums[c])
    return counts


@njit(cache=True, nogil=True)
def add_either(bits, where_set, elsewhere, y, start, stop):
    """Add to y (pixels, C), pixels start .. stop, where_set (C,) where a bit is set and elsewhere (C,) where none."""
    channels = y.shape[1]
    for pixel in range(start, stop):
        for c in range(0, channels, 16):
            word = bits[pixel, c // WORD] >> np.uint64(c % WORD)
            _add_either(word, where_set, elsewhere, c, y, pixel * channels + c)  # ty: ignore[missing-argument]


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def moments(planes, sums, start, stop):
    """Fill sums[i] (2,) float64 with the sum and the sum of squares of planes[i] (pixels,), i = start .. stop."""
    for i in range(start, stop):
        total = square = 0.0
        for value in planes[i]:
            total += np.float64(value)
            square += np.float64(value) * np.float64(value)
        sums[i, 0], sums[i, 1] = total, square


@njit(cache=True, nogil=True)
def fold(weight, norms, scale, offset, rows, bias):
    """Fill rows (O' / lanes, k, k, C, lanes) with weight (O, C, k, k) scale, zeros from O to O', and bias (O',) with
    the sums of weight offset. scale, offset: (norms, C), of output o norms[o]."""
    outputs, channels, size, _ = weight.shape
    blocks, lanes = rows.shape[0], rows.shape[4]
    factors, sums, totals = np.empty(lanes, weight.dtype), np.empty(lanes), np.empty(lanes)
    for block in range(blocks):
        first, own = block * lanes, min(lanes, outputs - block * lanes)
        totals[:] = 0
        for c in range(channels):
            sums[:] = 0
            for i in range(own):
                factors[i] = scale[norms[first + i], c]
            for ky in range(size):
                for kx in range(size):
                    row = rows[block, ky, kx, c]
                    for i in range(own):
                        w = weight[first + i, c, ky, kx]
                        row[i] = w * factors[i]
                        sums[i] += w
                    row[own:] = 0
            for i in range(own):
                totals[i] += sums[i] * offset[norms[first + i], c]
        for i in range(own):
            bias[first + i] = totals[i]


@njit(cache=True, nogil=True)
def unfold(grad_rows, grad_bias, weight, norms, scale, offset, grad_weight, by_scale, by_offset, start, stop):
    """The way back through `fold`, of channels start .. stop: fill grad_weight, add to by_scale and by_offset
    (norms, C) the gradients of these."""
    outputs, _, size, _ = weight.shape
    blocks, lanes = grad_rows.shape[0], grad_rows.shape[4]
    factors, constants = np.empty(lanes, weight.dtype), np.empty(lanes, weight.dtype)
    products, totals = np.empty(lanes), np.empty(lanes)
    for block in range(blocks):
        first, own = block * lanes, min(lanes, outputs - block * lanes)
        for c in range(start, stop):
            products[:] = totals[:] = 0
            for i in range(own):
                factors[i] = scale[norms[first + i], c]
                constants[i] = offset[norms[first + i], c] * grad_bias[first + i]
            for ky in range(size):
                for kx in range(size):
                    row = grad_rows[block, ky, kx, c]
                    for i in range(own):
                        w, g = weight[first + i, c, ky, kx], row[i]
                        grad_weight[first + i, c, ky, kx] = g * factors[i] + constants[i]
                        products[i] += w * g
                        totals[i] += w
            for i in range(own):
                by_scale[norms[first + i], c] += products[i]
                by_offset[norms[first + i], c] += totals[i] * grad_bias[first + i]


@njit(cache=True, nogil=True)
def forward(bits, kernel, bias, stride, padding, y, start, stop):
    """Fill rows start .. stop of all N * H' rows of y (N, H', W', O). bits: (N, H, W, words).

    kernel: (O / lanes, k, k, C, lanes), bias: (O,).
    """
    height, width, words = bits.shape[1:]
    out_height, out_width, outputs = y.shape[1:]
    blocks, size, _, channels, lanes = kernel.shape
    together = max(1, NEAR // out_width)
    for begin in range(start, stop, together):
        end = min(begin + together, stop)
        for row in range(begin, end):
            y[row // out_height, row % out_height] = bias
        for block in range(blocks):
            for ky in range(size):
                for kx in range(size):
                    low = max(0, -((kx - padding) // stride))
                    high = min(out_width, (width - 1 - kx + padding) // stride + 1)
                    for w in range(words):
                        first = (((block * size + ky) * size + kx) * channels + w * WORD) * lanes
                        for row in range(begin, end):
                            n, in_y = row // out_height, row % out_height * stride + ky - padding
                            if 0 <= in_y < height:
                                for x in range(low, high):
                                    word = bits[n, in_y, x * stride + kx - padding, w]
                                    place = (row * out_width + x) * outputs + block * lanes
                                    if lanes == 64:
                                        _add_rows(word, kernel, first, y, place, 64)  # ty: ignore[missing-argument]
                                    elif lanes == 32:
                                        _add_rows(word, kernel, first, y, place, 32)  # ty: ignore[missing-argument]
                                    else:
                                        _add_rows(word, kernel, first, y, place, 16)  # ty: ignore[missing-argument]


@njit(cache=True, nogil=True)
def turn(bits, turned, start, stop):
    """Bits per channel and row: fill rows start .. stop of turned (rows, C, stride, words). bits: (rows, W, words).

    Bit j of a channel's word w with remainder r is the pixel x = (64 w + j) stride + r.
    """
    stride, none, one = turned.shape[2], np.uint64(0), np.uint64(1)
    for row in range(start, stop):
        turned[row] = none
        for x in range(bits.shape[1]):
            r, j = x % stride, x // stride
            w, bit = j // WORD, one << np.uint64(j % WORD)
            for part in range(bits.shape[2]):
                left = bits[row, x, part]
                while left:
                    turned[row, part * WORD + _lowest(left), r, w] |= bit  # ty: ignore[missing-argument]
                    left &= left - one


@njit(cache=True, nogil=True)
def kernel_gradient(turned, grad, padding, grad_kernel, grad_bias, start, stop):
    """Fill channels start .. stop of grad_kernel (O / lanes, k, k, C, lanes), and their share of the outputs of
    grad_bias (O,).

    turned: (N, H, C, stride, words) as of `turn`; grad: (N, H', W', O), the gradient of the output.
    """
    height, stride, words = turned.shape[1], turned.shape[3], turned.shape[4]
    images, out_height, out_width, outputs = grad.shape
    blocks, size, _, channels, lanes = grad_kernel.shape
    grad_kernel[:, :, :, start:stop] = 0
    first_bias, last_bias = start * outputs // channels, stop * outputs // channels
    room = np.zeros((out_width + words * WORD + 2 * size, lanes), grad.dtype)  # one row, zeros on both sides
    for n in range(images):
        for out_y in range(out_height):
            for block in range(blocks):
                for x in range(out_width):
                    for i in range(lanes):
                        room[size + x, i] = grad[n, out_y, x, block * lanes + i]
                low, high = max(first_bias - block * lanes, 0), min(last_bias - block * lanes, lanes)
                for x in range(size, size + out_width):
                    for i in range(low, high):
                        grad_bias[block * lanes + i] += room[x, i]
                for ky in range(size):
                    in_y = out_y * stride + ky - padding
                    if not 0 <= in_y < height:
                        continue
                    for kx in range(size):
                        r = (kx - padding) % stride
                        shift = (r - kx + padding) // stride
                        for c in range(start, stop):
                            place = (((block * size + ky) * size + kx) * channels + c) * lanes
                            for w in range(words):
                                word, first = turned[n, in_y, c, r, w], (size + shift + w * WORD) * lanes
                                if lanes == 64:
                                    _add_rows(word, room, first, grad_kernel, place, 64)  # ty: ignore[missing-argument]
                                elif lanes == 32:
                                    _add_rows(word, room, first, grad_kernel, place, 32)  # ty: ignore[missing-argument]
                                else:
                                    _add_rows(word, room, first, grad_kernel, place, 16)  # ty: ignore[missing-argument]
