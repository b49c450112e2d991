"""Tiles of a sparse convolution, as LLVM vector code (numba intrinsics).

A tile is a few lines of a few vectors each: neighbouring output pixels of one channel, each for as
many samples as a vector has lanes. Its sums stay in registers while all connections of the channel
are added. Arrays are one-dimensional, float32 or float64. Imports numba: only ``_conv_kernels``
imports this module, on first use.
"""

# ruff: noqa: ANN001, ANN202, ANN401, ARG001 (numba and llvmlite are untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from regrow._optional import require
from regrow.ops._vectors import (
    BITS,
    I1,
    I32,
    I64,
    _broadcast,
    _data,
    _Element,
    _fused,
    _load,
)

ir = require("llvmlite.ir", extra="sparse")
cgutils = require("numba.core.cgutils", extra="sparse")
extending = require("numba.extending", extra="sparse")
types = require("numba", extra="sparse").types

N_SUMS = 16 if BITS == 512 else 8
"""Vectors of sums in the largest tile: processors with 512-bit vectors have 32 registers."""
SHAPES = tuple(
    shape
    for shape in (
        *((1, 16), (1, 14), (2, 8), (1, 8), (2, 7), (1, 7), (4, 4), (2, 4), (1, 4)),
        *((4, 2), (1, 2), (4, 1), (1, 1)),
    )
    if shape[0] * shape[1] <= N_SUMS
)
"""(Lines, vectors) of the tiles there are: the widest that fits is taken, then the tallest. Lines
of usual ImageNet models are multiples of 7 or 14. Each shape takes its time to compile."""
TOGETHER = (8, 4, 2, 1)
"""Connections whose products with one output gradient are summed at the same time."""


@extending.intrinsic
def tile(
    context, shape, x, at, x_line, offsets, values, k, end, y, y_at, y_line, y_step, start, resume
):
    """Sums of one tile, of the lines and vectors that ``SHAPES[shape]`` says.

    Vector v of line r of y, at y_at + r * y_line + v * y_step, becomes start (or stays itself where
    ``resume``) plus the sum of values[k] * x[at + offsets[k] + r * x_line + v * lanes + .] over the
    connections k until ``end``.
    """
    taken = (
        *(types.intp, x, types.intp, types.intp, offsets, values, types.intp, types.intp, y),
        *(types.intp, types.intp, types.intp, y.dtype, types.boolean),
    )

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        element = _Element(kinds[1])
        shape, x, at, x_line, offsets, values, *rest = given
        x = builder.gep(_data(context, builder, kinds[1], x, element.stored), [at])
        offsets = _data(context, builder, kinds[4], offsets, I32)
        values = _data(context, builder, kinds[5], values, element.stored)
        k, end, y, y_at, *rest = rest
        y = builder.gep(_data(context, builder, kinds[8], y, element.sums), [y_at])
        done = builder.append_basic_block("done")
        # (The last shape stands for any other number.)
        blocks = [builder.append_basic_block("shape") for _ in SHAPES]
        switch = builder.switch(shape, blocks[-1])
        for i, block in enumerate(blocks[:-1]):
            switch.add_case(ir.Constant(I64, i), block)
        for block, (n_lines, n_vectors) in zip(blocks, SHAPES, strict=True):
            builder.position_at_end(block)
            places = _places(builder, y, n_lines, n_vectors, rest, element)
            sums = _begin(builder, places, rest[2], rest[3], element)
            body = _connection(builder, x, x_line, offsets, values, n_lines, n_vectors, element)
            sums = _loop(builder, k, end, sums, body)
            for one, place in zip(sums, places, strict=True):
                builder.store(one, place, align=element.n_bytes)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*taken), code


def _places(
    builder: Any, y: Any, n_lines: int, n_vectors: int, steps: list[Any], element: _Element
) -> list[Any]:
    """Where the vectors of a tile lie in the result."""
    y_line, y_step = steps[:2]
    vector = ir.VectorType(element.sums, element.lanes)
    places = []
    for r in range(n_lines):
        line = builder.gep(y, [builder.mul(y_line, ir.Constant(I64, r))])
        for v in range(n_vectors):
            place = builder.gep(line, [builder.mul(y_step, ir.Constant(I64, v))])
            places.append(builder.bitcast(place, vector.as_pointer()))
    return places


def _connection(
    builder: Any, x: Any, x_line: Any, offsets: Any, values: Any,
    n_lines: int, n_vectors: int, element: _Element,
) -> Callable[[Any, list[Any]], list[Any]]:  # fmt: skip
    """What one connection adds to the sums of a tile."""
    lanes = element.lanes
    fused = _fused(builder, element, lanes)

    def body(k: Any, sums: list[Any]) -> list[Any]:
        w = _broadcast(builder, builder.load(builder.gep(values, [k])), lanes)
        offset = builder.sext(builder.load(builder.gep(offsets, [k])), I64)
        base = builder.gep(x, [offset])
        renewed = []
        for r in range(n_lines):
            line = base
            if r:
                line = builder.gep(base, [builder.mul(x_line, ir.Constant(I64, r))])
            for v in range(n_vectors):
                one = _load(builder, line, v, lanes, element)
                renewed.append(builder.call(fused, [w, one, sums[r * n_vectors + v]]))
        return renewed

    return body


def _loop(builder: Any, first: Any, end: Any, carried: list[Any], body: Any) -> list[Any]:
    """``for k in range(first, end)``: what ``body(k, carried)`` makes of the carried values."""
    before = builder.block
    test, inside, done = (builder.append_basic_block(name) for name in ("test", "inside", "done"))
    builder.branch(test)
    builder.position_at_end(test)
    k = builder.phi(I64)
    k.add_incoming(first, before)
    phis = [builder.phi(one.type) for one in carried]
    for phi, one in zip(phis, carried, strict=True):
        phi.add_incoming(one, before)
    builder.cbranch(builder.icmp_signed("<", k, end), inside, done)
    builder.position_at_end(inside)
    renewed = body(k, phis)
    k.add_incoming(builder.add(k, ir.Constant(I64, 1)), builder.block)
    for phi, one in zip(phis, renewed, strict=True):
        phi.add_incoming(one, builder.block)
    builder.branch(test)
    builder.position_at_end(done)
    return phis


def _begin(
    builder: Any, places: list[Any], start: Any, resume: Any, element: _Element
) -> list[Any]:
    """What sums begin with: what ``places`` hold, or ``start``."""
    before = builder.block
    fresh = _broadcast(builder, start, element.lanes)
    stored, ready = (builder.append_basic_block(name) for name in ("stored", "ready"))
    builder.cbranch(resume, stored, ready)
    builder.position_at_end(stored)
    old = [builder.load(place, align=element.n_bytes) for place in places]
    builder.branch(ready)
    builder.position_at_end(ready)
    sums = []
    for one in old:
        phi = builder.phi(one.type)
        phi.add_incoming(fresh, before)
        phi.add_incoming(one, stored)
        sums.append(phi)
    return sums


@extending.intrinsic
def copy(context, source, at, target, to, n):
    """target[to + i] = source[at + i], for i below ``n``: numba's loops go one by one."""
    taken = (source, types.intp, target, types.intp, types.intp)

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        source, at, target, to, n = given
        element = _Element(kinds[0])
        source = builder.gep(_data(context, builder, kinds[0], source, element.stored), [at])
        target = builder.gep(_data(context, builder, kinds[2], target, element.stored), [to])
        byte = ir.IntType(8).as_pointer()
        taken = ir.FunctionType(ir.VoidType(), [byte, byte, I64, I1])
        function = cgutils.get_or_insert_function(builder.module, taken, "llvm.memcpy.p0.p0.i64")
        n_bytes = builder.mul(n, ir.Constant(I64, element.n_bytes))
        places = (builder.bitcast(place, byte) for place in (target, source))
        builder.call(function, [*places, n_bytes, ir.Constant(I1, 0)])
        return context.get_dummy_value()

    return types.void(*taken), code


@extending.intrinsic
def copy_vector(context, source, at, target, to):
    """The same for as many elements as a vector has."""
    taken = (source, types.intp, target, types.intp)

    def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        source, at, target, to = given
        element = _Element(kinds[0])
        source = builder.gep(_data(context, builder, kinds[0], source, element.stored), [at])
        target = builder.gep(_data(context, builder, kinds[2], target, element.stored), [to])
        value = _load(builder, source, 0, element.lanes, element)
        target = builder.bitcast(target, value.type.as_pointer())
        builder.store(value, target, align=element.n_bytes)
        return context.get_dummy_value()

    return types.void(*taken), code


def _dots(n: int) -> Any:
    """Make ``dots(x, at, x_line, offsets, k, dy, dy_at, dy_line, n_lines, n_vectors, out)``.

    Adds to out[k + j], for j below ``n``, the sum over lines r and their vectors of
    dy[dy_at + r * dy_line + .] * x[at + offsets[k + j] + r * x_line + .].
    """

    @extending.intrinsic
    def dots(context, x, at, x_line, offsets, k, dy, dy_at, dy_line, n_lines, n_vectors, out):
        taken = (
            *(x, types.intp, types.intp, offsets, types.intp, dy, types.intp, types.intp),
            *(types.intp, types.intp, out),
        )

        def code(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            kinds = signature.args
            x, at, x_line, offsets, k, dy, dy_at, dy_line, n_lines, n_vectors, out = given
            element = _Element(kinds[0])
            lanes = element.lanes
            vector = ir.VectorType(element.sums, lanes)
            fused = _fused(builder, element, lanes)
            x = builder.gep(_data(context, builder, kinds[0], x, element.stored), [at])
            offsets = builder.gep(_data(context, builder, kinds[3], offsets, I32), [k])
            dy = builder.gep(_data(context, builder, kinds[5], dy, element.stored), [dy_at])
            out = builder.gep(_data(context, builder, kinds[10], out, element.sums), [k])
            bases = []
            for j in range(n):
                offset = builder.load(builder.gep(offsets, [ir.Constant(I64, j)]))
                bases.append(builder.gep(x, [builder.sext(offset, I64)]))
            zero = ir.Constant(I64, 0)

            def line(r: Any, sums: list[Any]) -> list[Any]:
                own = builder.gep(dy, [builder.mul(r, dy_line)])
                skipped = builder.mul(r, x_line)

                def column(v: Any, sums: list[Any]) -> list[Any]:
                    step = builder.mul(v, ir.Constant(I64, lanes))
                    mine = _load(builder, builder.gep(own, [step]), 0, lanes, element)
                    place = builder.add(skipped, step)
                    return [
                        builder.call(
                            fused,
                            [
                                mine,
                                _load(builder, builder.gep(base, [place]), 0, lanes, element),
                                s,
                            ],
                        )
                        for base, s in zip(bases, sums, strict=True)
                    ]

                return _loop(builder, zero, n_vectors, sums, column)

            nothing = ir.Constant(vector, [0.0] * lanes)
            sums = _loop(builder, zero, n_lines, [nothing] * n, line)
            for first in range(0, n, lanes):
                some = sums[first : first + lanes]
                total = _totals(builder, some, lanes)
                place = builder.gep(out, [ir.Constant(I64, first)])
                place = builder.bitcast(place, total.type.as_pointer())
                old = builder.load(place, align=element.n_bytes)
                builder.store(builder.fadd(old, total), place, align=element.n_bytes)
            return context.get_dummy_value()

        return types.void(*taken), code

    return dots


def _totals(builder: Any, vectors: list[Any], lanes: int) -> Any:
    """The sums of up to ``lanes`` vectors, as one vector of as many lanes."""
    width = lanes
    while len(vectors) > 1:
        # Each vector holds some sums in parts of ``width``; two of them hold twice as many in half.
        held, half = lanes // width, width // 2
        starts = [source * lanes + i * width for source in (0, 1) for i in range(held)]
        vectors = [
            builder.fadd(*_halves(builder, a, b, starts, half))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        width = half
    total, held = vectors[0], lanes // width
    while width > 1:
        half = width // 2
        undefined = ir.Constant(total.type, ir.Undefined)
        starts = [i * width for i in range(held)]
        total = builder.fadd(*_halves(builder, total, undefined, starts, half))
        width = half
    return total


def _halves(builder: Any, a: Any, b: Any, starts: list[int], half: int) -> list[Any]:
    """The first and the second halves of the parts that begin at ``starts``, in a row."""
    found = []
    for shift in (0, half):
        lanes_of = [start + shift + i for start in starts for i in range(half)]
        pattern = ir.Constant(ir.VectorType(I32, len(lanes_of)), lanes_of)
        found.append(builder.shuffle_vector(a, b, pattern))
    return found


DOTS = tuple(_dots(n) for n in TOGETHER)
