"""One instruction for several events: what numba does not make of a loop by itself, said in LLVM's own terms.

LLVM turns these vectors into whatever the machine has (AVX-512, AVX2, SSE2, NEON), so nothing here depends on it.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_INT8, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def lane_writer(lanes: int) -> Callable[..., None]:
    """A function write(out, n, base, table, row) for jitted code: out[n + i] = base + table[row, i], i < lanes.

    out: (N,) uint64, n + lanes <= N; table: (R, C) uint8 in C order, lanes <= C; row < R. Nothing is checked.
    """

    @intrinsic
    def write(typing_context, out, n, base, table, row):
        def code(context, builder, signature, arguments):
            out_type, _, _, table_type, _ = signature.args
            out_value, n_value, base_value, table_value, row_value = arguments
            vector = ir.VectorType(_INT64, lanes)
            out_array = context.make_array(out_type)(context, builder, out_value)
            table_array = context.make_array(table_type)(context, builder, table_value)
            columns = builder.extract_value(table_array.shape, 1)
            source = builder.gep(table_array.data, [builder.mul(row_value, columns)])
            target = builder.gep(out_array.data, [n_value])
            narrow = ir.VectorType(_INT8, lanes)
            offsets = builder.zext(builder.load(builder.bitcast(source, narrow.as_pointer()), align=1), vector)
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), base_value, _INT32(0))
            same = builder.shuffle_vector(
                one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
            )
            builder.store(builder.add(offsets, same), builder.bitcast(target, vector.as_pointer()), align=8)
            return context.get_dummy_value()

        return types.void(out, types.uint64, types.uint64, table, types.uint64), code

    return write
