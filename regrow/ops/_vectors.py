"""Loops over the connections of one row, as LLVM vector code (numba intrinsics).

A loop keeps a tile of the batch in vector registers: every connection reads its weight once and
adds ``w * x[column, tile]`` to all of them. Plain loops reach 60-80 % of this speed, because LLVM
keeps the sums in memory, or in 256-bit vectors on processors with wider ones.

Arrays are one-dimensional. float32 and float64 are what they say; int16 is read as bfloat16, whose
sums are float32. Imports numba: only ``_kernels`` imports this module, on first use.
"""

# ruff: noqa: ANN001, ANN202, ANN401, ARG001 (numba and llvmlite are untyped)
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

from regrow._optional import require

numba = require("numba", extra="sparse")
binding = require("llvmlite.binding", extra="sparse")
ir = require("llvmlite.ir", extra="sparse")
cgutils = require("numba.core.cgutils", extra="sparse")
extending = require("numba.extending", extra="sparse")
types = numba.types

I1, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 16, 32, 64))
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()
N_VECTORS = 8
"""Vectors of sums in the widest tile: with 16 registers they leave room for weight and operand."""
TOGETHER = 4
"""Dot products summed at the same time, whose totals then take half the instructions."""


def vector_bits() -> int:
    """Width of the vectors of this machine, or of the processor that NUMBA_CPU_NAME names."""
    name = numba.config.CPU_NAME
    if name not in (None, "host"):
        # (A width that the processor lacks is slower, not wrong.)
        return 128 if name in ("generic", "x86-64", "x86-64-v2") else 256
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 512
    return 256 if features.get("avx2") else 128


BITS = vector_bits()
LANES_F32 = BITS // 32
LANES_F64 = BITS // 64
N_WIDTHS = 3 + LANES_F32.bit_length()
"""Tiles of 8, 4, 2 and 1 vectors, then halves of a vector down to one lane."""


class _Element:
    """How one array type is read: stored type, type of the sums, and the step between."""

    def __init__(self, array: Any) -> None:
        self.is_bfloat16 = array.dtype == types.int16
        self.stored = {types.float32: FLOAT, types.float64: DOUBLE, types.int16: I16}[array.dtype]
        self.sums = DOUBLE if array.dtype == types.float64 else FLOAT
        self.lanes = LANES_F64 if array.dtype == types.float64 else LANES_F32
        self.n_bytes = {FLOAT: 4, DOUBLE: 8, I16: 2}[self.stored]

    def widen(self, builder: Any, value: Any, lanes: int) -> Any:
        """A stored value, or a vector of ``lanes`` (0: no vector), as the type of the sums."""
        if not self.is_bfloat16:
            return value
        whole = ir.VectorType(I32, lanes) if lanes else I32
        shift = ir.Constant(whole, [16] * lanes if lanes else 16)
        bits = builder.shl(builder.zext(value, whole), shift)
        return builder.bitcast(bits, ir.VectorType(FLOAT, lanes) if lanes else FLOAT)

    def shape(self, step: int) -> tuple[int, int]:
        """(vectors, lanes of each) of a tile of width number ``step``."""
        if step <= 3:
            return N_VECTORS >> step, self.lanes
        return 1, max(1, self.lanes >> (step - 3))


def _data(context: Any, builder: Any, array: Any, value: Any, element: Any) -> Any:
    pointer = context.make_array(array)(context, builder, value).data
    return builder.bitcast(pointer, element.as_pointer())


def _load(builder: Any, base: Any, index: int, lanes: int, element: _Element) -> Any:
    """Vector number ``index`` from ``base`` on, as the type of the sums."""
    place = builder.gep(base, [ir.Constant(I64, index * lanes)])
    place = builder.bitcast(place, ir.VectorType(element.stored, lanes).as_pointer())
    return element.widen(builder, builder.load(place, align=element.n_bytes), lanes)


def _broadcast(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    )


def _fused(builder: Any, element: _Element, lanes: int) -> Any:
    """The function a * b + c of vectors, rounded once where the processor can."""
    vector = ir.VectorType(element.sums, lanes)
    name = f"llvm.fmuladd.v{lanes}f{64 if element.sums is DOUBLE else 32}"
    signature = ir.FunctionType(vector, [vector] * 3)
    return cgutils.get_or_insert_function(builder.module, signature, name)


class _Loop:
    """``while k < end and columns[k] < limit``, with sums that travel from turn to turn.

    A turn takes ``together`` connections; the loop ends where fewer are left.
    """

    def __init__(
        self, builder: Any, columns: Any, begin: Any, end: Any, limit: Any, together: int = 1
    ) -> None:
        self.builder, self.columns, self.end, self.limit = builder, columns, end, limit
        self.before, self.together = builder.block, together
        self.test, self.check, self.body, self.done = (
            builder.append_basic_block(name) for name in ("test", "check", "body", "done")
        )
        builder.branch(self.test)
        builder.position_at_end(self.test)
        self.k = builder.phi(I64)
        self.k.add_incoming(begin, self.before)

    def carry(self, start: Any) -> Any:
        """A value that ``again`` renews; call before ``enter``."""
        phi = self.builder.phi(start.type)
        phi.add_incoming(start, self.before)
        return phi

    def _column(self, ahead: int) -> Any:
        place = self.builder.gep(self.columns, [self.k])
        place = self.builder.gep(place, [ir.Constant(I64, ahead)])
        return self.builder.sext(self.builder.load(place), I64)

    def enter(self) -> list[Any]:
        """Start the body; the columns of this turn."""
        builder, last = self.builder, self.together - 1
        inside = builder.icmp_signed("<", builder.add(self.k, ir.Constant(I64, last)), self.end)
        builder.cbranch(inside, self.check, self.done)
        builder.position_at_end(self.check)
        column = self._column(last)
        builder.cbranch(builder.icmp_signed("<", column, self.limit), self.body, self.done)
        builder.position_at_end(self.body)
        return [*(self._column(i) for i in range(last)), column]

    def again(self, carried: list[Any], renewed: list[Any]) -> None:
        """Close the body."""
        following = self.builder.add(self.k, ir.Constant(I64, self.together))
        self.k.add_incoming(following, self.builder.block)
        for phi, value in zip(carried, renewed, strict=True):
            phi.add_incoming(value, self.builder.block)
        self.builder.branch(self.test)
        self.builder.position_at_end(self.done)


def _row(step: int) -> Any:
    """Make ``row(x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume)``.

    y[y_at + tile] = start (or itself where ``resume``) + the sum of values[k] * x[at + columns[k]
    * stride + tile] until ``end`` or the first column at or past ``limit``; returns k there.
    ``order`` is None, or where in ``values`` the k-th weight lies.
    """

    @extending.intrinsic
    def row(context, x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume):
        taken = (
            *(x, types.intp, types.intp, columns, values, order, types.intp, types.intp),
            *(types.intp, y, types.intp, y.dtype, types.boolean),
        )

        def code(context: Any, builder: Any, signature: Any, values_of: Any) -> Any:
            kinds = signature.args
            x, at, stride, columns, values, order, k, end, limit, y, y_at, start, resume = values_of
            element, weight = _Element(kinds[0]), _Element(kinds[4])
            n_vectors, lanes = element.shape(step)
            vector = ir.VectorType(element.sums, lanes)
            fused = _fused(builder, element, lanes)
            x = builder.gep(_data(context, builder, kinds[0], x, element.stored), [at])
            columns = _data(context, builder, kinds[3], columns, I32)
            values = _data(context, builder, kinds[4], values, weight.stored)
            if kinds[5] != types.none:
                order = _data(context, builder, kinds[5], order, I32)
            y = builder.gep(_data(context, builder, kinds[9], y, element.sums), [y_at])
            places = [
                builder.bitcast(builder.gep(y, [ir.Constant(I64, i * lanes)]), vector.as_pointer())
                for i in range(n_vectors)
            ]
            sums = _first_sums(builder, places, start, resume, lanes)
            loop = _Loop(builder, columns, k, end, limit)
            sums = [loop.carry(one) for one in sums]
            (column,) = loop.enter()
            place = loop.k
            if kinds[5] != types.none:
                place = builder.sext(builder.load(builder.gep(order, [place])), I64)
            w = weight.widen(builder, builder.load(builder.gep(values, [place])), 0)
            w = _broadcast(builder, w, lanes)
            base = builder.gep(x, [builder.mul(column, stride)])
            loads = [_load(builder, base, i, lanes, element) for i in range(n_vectors)]
            loop.again(
                sums,
                [builder.call(fused, [w, a, b]) for a, b in zip(loads, sums, strict=True)],
            )
            for one, place in zip(sums, places, strict=True):
                builder.store(one, place, align=4)
            return loop.k

        return types.intp(*taken), code

    return row


def _first_sums(builder: Any, places: list[Any], start: Any, resume: Any, lanes: int) -> list[Any]:
    """What the sums begin with: ``start``, or what ``places`` hold."""
    before = builder.block
    fresh = _broadcast(builder, start, lanes)
    stored, ready = (builder.append_basic_block(name) for name in ("stored", "ready"))
    builder.cbranch(resume, stored, ready)
    builder.position_at_end(stored)
    old = [builder.load(place, align=4) for place in places]
    builder.branch(ready)
    builder.position_at_end(ready)
    sums = []
    for one in old:
        phi = builder.phi(one.type)
        phi.add_incoming(fresh, before)
        phi.add_incoming(one, stored)
        sums.append(phi)
    return sums


def _dot(step: int) -> Any:
    """Make ``dot(x, at, stride, columns, k, end, limit, out, y, y_at, resume)``.

    out[k] = (itself where ``resume``) + the sum over the tile of y[y_at + .] * x[at + columns[k] *
    stride + .], until ``end`` or the first column at or past ``limit``; returns k there.
    """

    @extending.intrinsic
    def dot(context, x, at, stride, columns, k, end, limit, out, y, y_at, resume):
        taken = (
            *(x, types.intp, types.intp, columns, types.intp, types.intp, types.intp),
            *(out, y, types.intp, types.boolean),
        )

        def code(context: Any, builder: Any, signature: Any, values_of: Any) -> Any:
            kinds = signature.args
            x, at, stride, columns, k, end, limit, out, y, y_at, resume = values_of
            element = _Element(kinds[0])
            n_vectors, lanes = element.shape(step)
            fused = _fused(builder, element, lanes)
            x = builder.gep(_data(context, builder, kinds[0], x, element.stored), [at])
            y = builder.gep(_data(context, builder, kinds[8], y, element.stored), [y_at])
            columns = _data(context, builder, kinds[3], columns, I32)
            out = _data(context, builder, kinds[7], out, element.sums)
            own = [_load(builder, y, i, lanes, element) for i in range(n_vectors)]
            for together in (TOGETHER, 1):
                loop = _Loop(builder, columns, k, end, limit, together)
                sums = []
                for column in loop.enter():
                    base = builder.gep(x, [builder.mul(column, stride)])
                    others = [_load(builder, base, i, lanes, element) for i in range(n_vectors)]
                    # (Sums of several connections do not wait for each other; one has two.)
                    n_chains = min(n_vectors, 2 // together or 1)
                    chains = list(map(builder.fmul, own[:n_chains], others))
                    for i in range(n_chains, n_vectors):
                        pair = [own[i], others[i], chains[i % n_chains]]
                        chains[i % n_chains] = builder.call(fused, pair)
                    sums.append(chains[0] if len(chains) == 1 else builder.fadd(*chains))
                _store_totals(builder, sums, lanes, builder.gep(out, [loop.k]), resume)
                loop.again([], [])
                k = loop.k
            return k

        return types.intp(*taken), code

    return dot


def _store_totals(builder: Any, sums: list[Any], lanes: int, place: Any, resume: Any) -> None:
    """Store the sum of each vector side by side, or add them there where ``resume``."""
    n = len(sums)
    if lanes < n:
        for i, one in enumerate(sums):
            there = builder.gep(place, [ir.Constant(I64, i)])
            _store_totals(builder, [one], lanes, there, resume)
        return
    total = _totals(builder, sums, lanes)
    place = builder.bitcast(place, total.type.as_pointer())
    zero = ir.Constant(total.type, [0.0] * n)
    old = builder.select(resume, builder.load(place, align=4), zero)
    builder.store(builder.fadd(total, old), place, align=4)


def _totals(builder: Any, sums: list[Any], lanes: int) -> Any:
    """The vector of the sums of a power of two of vectors, which have as many lanes or more."""
    n = 1
    # Each round joins pairs, or the vector with nothing, and halves the lanes of each sum.
    while len(sums) > 1 or lanes > n:
        pairs = list(zip(sums[::2], sums[1::2], strict=True)) if len(sums) > 1 else [(sums[0],)]
        width = lanes // n  # lanes of each of the n sums in a vector
        joined = []
        for pair in pairs:
            first, second = pair[0], pair[-1]
            low, high = (
                builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, len(at)), at))
                for at in (
                    [v * lanes + g * width + h + j for v in range(len(pair)) for g in range(n)
                     for j in range(width // 2)]
                    for h in (0, width // 2)
                )
            )  # fmt: skip
            joined.append(builder.fadd(low, high))
        n, lanes = n * len(pairs[0]), lanes * len(pairs[0]) // 2
        sums = joined
    return sums[0]


@extending.intrinsic
def transpose_square(context, source, at, stride, target, to, to_stride):
    """Transpose one square of as many rows and columns as a vector has lanes.

    target[to + j * to_stride + i] = source[at + i * stride + j], for i and j below the lanes.
    """
    taken = (source, types.intp, types.intp, target, types.intp, types.intp)

    def code(context: Any, builder: Any, signature: Any, values_of: Any) -> Any:
        kinds = signature.args
        source, at, stride, target, to, to_stride = values_of
        element = _Element(kinds[0])
        lanes = element.lanes
        vector = ir.VectorType(element.stored, lanes)
        source = builder.gep(_data(context, builder, kinds[0], source, element.stored), [at])
        target = builder.gep(_data(context, builder, kinds[3], target, element.stored), [to])

        def place(base: Any, i: int, step: Any) -> Any:
            one = builder.gep(base, [builder.mul(ir.Constant(I64, i), step)])
            return builder.bitcast(one, vector.as_pointer())

        rows = [builder.load(place(source, i, stride), align=element.n_bytes) for i in range(lanes)]
        half = lanes // 2
        while half:
            rows = _exchange(builder, rows, half)
            half //= 2
        for i, row in enumerate(rows):
            builder.store(row, place(target, i, to_stride), align=element.n_bytes)
        return context.get_dummy_value()

    return types.void(*taken), code


def _exchange(builder: Any, rows: list[Any], half: int) -> list[Any]:
    """One round of a transposition: swap the off-diagonal quarters of squares of 2 * half."""
    lanes = len(rows)
    low = [j if not j & half else lanes + j - half for j in range(lanes)]
    high = [j + half if not j & half else lanes + j for j in range(lanes)]
    result = list(rows)
    for i in range(lanes):
        if i & half:
            continue
        a, b = rows[i], rows[i + half]
        for target, pick in ((i, low), (i + half, high)):
            pattern = ir.Constant(ir.VectorType(I32, lanes), pick)
            result[target] = builder.shuffle_vector(a, b, pattern)
    return result


@extending.intrinsic
def prefetch(context, array, at):
    """Ask for the cache line of ``array[at]``, which may lie past the end."""

    def code(context: Any, builder: Any, signature: Any, values_of: Any) -> Any:
        kind, (array, at) = signature.args[0], values_of
        stored = I32 if kind.dtype == types.int32 else _Element(kind).stored
        place = builder.gep(_data(context, builder, kind, array, stored), [at])
        pointer = builder.bitcast(place, ir.IntType(8).as_pointer())
        taken = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, taken, "llvm.prefetch.p0")
        # To read, into every level of cache, data.
        builder.call(function, [pointer, *(ir.Constant(I32, i) for i in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, types.intp), code


ROWS = tuple(_row(step) for step in range(8))
DOTS = tuple(_dot(step) for step in range(8))
