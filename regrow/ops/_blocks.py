"""What a task gets: one block of 64-bit integers, with addresses, sizes and counters.

A task is a C function of one pointer, so that any native thread can run it, several at a time on
one block. The block is a list of parts, done one after the other: each part is a number of units,
which ``claim`` deals out one by one, to whoever comes. A thread goes on to the next part while
others are still at their last units, unless that part has to ``wait_for`` them all.
The type of the pointer, say float32*, is no more than a tag: the dtype of the numbers it works on.

``_parts`` has the layout.
Imports numba: only the kernels import this module, on first use.
"""

# ruff: noqa: ANN001, ANN202, ANN401, ARG001 (numba and llvmlite are untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import os
from typing import Any

from regrow._optional import require
from regrow.ops._compile import inlined
from regrow.ops._parts import CLAIMED, FINISHED

numba = require("numba", extra="sparse")
ir = require("llvmlite.ir", extra="sparse")
extending = require("numba.extending", extra="sparse")
types = numba.types

I64 = ir.IntType(64)
PATIENCE = 2000
"""How often to look before letting other threads have the processor."""


def _entry(builder: Any, block: Any, index: Any) -> Any:
    """The place of an entry of the block."""
    return builder.gep(builder.bitcast(block, I64.as_pointer()), [index])


@extending.intrinsic
def entry(context, block, index):
    """Entry number ``index`` of the block."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load(_entry(builder, *values))

    return types.intp(block, types.intp), code


@extending.intrinsic
def part_at(context, block, index):
    """The part whose header begins at an entry of the block, or is so far from another part's."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(_entry(builder, *values), values[0].type)

    return block(block, types.intp), code


@extending.intrinsic
def claim(context, part):
    """The next unit of work: 0, 1, 2, ... over all threads."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        counter = _entry(builder, values[0], ir.Constant(I64, CLAIMED))
        return builder.atomic_rmw("add", counter, ir.Constant(I64, 1), "monotonic")

    return types.intp(part), code


@extending.intrinsic
def finish(context, part):
    """One unit more is done; what was written for it is seen by those who wait for it."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        counter = _entry(builder, values[0], ir.Constant(I64, FINISHED))
        return builder.atomic_rmw("add", counter, ir.Constant(I64, 1), "release")

    return types.intp(part), code


@extending.intrinsic
def _finished(context, part):
    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        counter = _entry(builder, values[0], ir.Constant(I64, FINISHED))
        return builder.load_atomic(counter, "acquire", 8)

    return types.intp(part), code


if os.name == "posix":
    _let_others_run = types.ExternalFunction("sched_yield", types.int32())
else:

    @inlined
    def _let_others_run():
        return 0


@inlined
def wait_for(part, n_units):
    """Until so many units of a part are done. Those who claimed them are at work on them.

    A unit takes some microseconds; who waits longer has more threads than processors.
    """
    left = PATIENCE
    while _finished(part) < n_units:
        left -= 1
        if left < 0:
            _let_others_run()


@extending.intrinsic
def _tagged(context, block, address):
    """The address as a pointer to what the block's type says."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[1], context.get_value_type(signature.return_type))

    return block(block, types.intp), code


def _typed(dtype: Any) -> Any:
    @extending.intrinsic
    def pointer(context, address):
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

        return types.CPointer(dtype)(types.intp), code

    return pointer


_int32, _int64 = _typed(types.int32), _typed(types.int64)


@inlined
def numbers(block, index, size):
    """The array of ``size`` numbers, of the tagged type, whose address is an entry."""
    return numba.carray(_tagged(block, entry(block, index)), size)


@inlined
def int32s(block, index, size):
    """The array of ``size`` 32-bit integers whose address is an entry."""
    return numba.carray(_int32(entry(block, index)), size)


@inlined
def int64s(block, index, size):
    """The array of ``size`` 64-bit integers whose address is an entry."""
    return numba.carray(_int64(entry(block, index)), size)


@extending.intrinsic
def _sums(context, block, address):
    """The address as a pointer to the type of sums: float32 where the tag is a narrow one."""
    dtype = types.float64 if block.dtype == types.float64 else types.float32

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[1], context.get_value_type(signature.return_type))

    return types.CPointer(dtype)(block, types.intp), code


@inlined
def sums(block, index, size):
    """The array of ``size`` sums whose address is an entry."""
    return numba.carray(_sums(block, entry(block, index)), size)
