"""Schedules of matrix products for WebGPU adapters that are software, such as SwiftShader.

TVM's schedules for GPUs share tiles and sums among the threads of a workgroup, with barriers between writing and reading.
On a CPU each barrier puts a thread aside and takes up another, which costs far more than it saves. Here each thread works
by itself.
"""

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import dlight
from tvm.s_tir.dlight.gpu.matmul import (
    auto_inline_consumer_chain,
    auto_inline_producers,
    get_index_map,
    get_reduction_blocks,
)

ROWS, COLUMNS = 4, 4  # of the result, a thread
THREADS = 16  # a workgroup


class RowAThread(dlight.base.ScheduleRule):
    """Of a matrix and a vector: each element of the result is a thread's."""

    def apply(self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool):
        if dlight.gpu.GEMV().apply(func, target, tunable) is None:
            return None
        return dlight.gpu.Fallback().apply(func, target, tunable)


class TileAThread(dlight.base.ScheduleRule):
    """Of two matrices, and what follows element by element: a tile of the result is a thread's."""

    def apply(self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool):
        if not isinstance(func, tirx.PrimFunc):
            return None
        schedule = s_tir.Schedule(func)
        root = dlight.analysis.get_root_block(schedule)
        products = get_reduction_blocks(schedule, schedule.get_child_blocks(root))
        if products is None or get_index_map(schedule.get(products[0])) is None:
            return None
        product = products[0]

        # As C[s, i, j] += A[s, i, k] * B[s, j, k]
        operands = [schedule.reindex(product, ("read", index)) for index in (0, 1)]
        result = schedule.reindex(product, ("write", 0))
        product_map, a_map, b_map, c_map = get_index_map(schedule.get(product))
        schedule.transform_layout(operands[0], ("write", 0), a_map)
        schedule.transform_layout(operands[1], ("write", 0), b_map)
        schedule.transform_layout(result, ("read", 0), c_map)
        schedule.transform_block_layout(product, product_map)
        schedule.pad_einsum(product, [1, ROWS, THREADS * COLUMNS, 1])

        batch, i, j, k = schedule.get_loops(product)
        i, row = schedule.split(i, [None, ROWS])
        j, thread, column = schedule.split(j, [None, THREADS, COLUMNS])
        schedule.reorder(batch, i, j, thread, k, row, column)
        schedule.bind(schedule.fuse(batch, i), "blockIdx.x")
        schedule.bind(j, "blockIdx.y")
        schedule.bind(thread, "threadIdx.x")
        for loop in (row, column):
            schedule.unroll(loop)
        sums = schedule.cache_write(product, 0, "local")
        schedule.reverse_compute_at(sums, thread, preserve_unit_loops=True)
        for index in (0, 1):
            operand = schedule.cache_read(product, index, "local")
            schedule.compute_at(operand, k, preserve_unit_loops=True)
            for loop in schedule.get_loops(operand)[-2:]:
                schedule.unroll(loop)
            auto_inline_producers(schedule, operand)
        auto_inline_consumer_chain(schedule, sums)
        schedule.decompose_reduction(product, k)
        return schedule
