"""Vector code for the CPU rasterizer's inner loops, as LLVM IR inside numba functions.

LLVM's loop vectorizer does not touch loops of four passes, and a splat at robot resolution is two to five pixels wide, so the
hot block is written out. The IR names no instruction set: LLVM lowers it to AVX, AVX-512, SSE or NEON, whatever the machine has.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

BLOCK = 4
"""Pixels of a row, and rows, that `blend_block` treats at once."""
CHANNELS = 4
"""Floats a pixel carries while blending, beside its depth: transmittance, red, green, blue."""

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_ROUND_TO_INT = 12582912.0  # 1.5 · 2^23: adding it leaves the nearest integer in the low mantissa bits
_EXP2 = (  # minimax fit of 2^f on [-0.5, 0.5], relative error 8e-8
    1.0000000710297001,
    0.6931469491610643,
    0.24022121753561632,
    0.05550742616001954,
    0.009675459745531391,
    0.0013266970386528456,
)


class _Vector:
    """Operators on vectors of `count` floats, so that the kernel below reads like its formula."""

    def __init__(self, builder: ir.IRBuilder, count: int) -> None:
        self.builder, self.count = builder, count
        self.floats, self.words = ir.VectorType(_F32, count), ir.VectorType(_I32, count)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.floats, [value] * self.count)

    def splat(self, scalar: ir.Value) -> ir.Value:
        one = self.builder.insert_element(
            ir.Constant(self.floats, ir.Undefined), scalar, ir.Constant(_I32, 0)
        )
        return self.pick(one, [0] * self.count)

    def pick(self, a: ir.Value, lanes: list[int], b: ir.Value | None = None) -> ir.Value:
        """The lanes of `a`, then `b`, in the given order."""
        other = ir.Constant(a.type, ir.Undefined) if b is None else b
        return self.builder.shuffle_vector(a, other, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fadd(a, b, flags=("contract",))

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fsub(a, b, flags=("contract",))

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fmul(a, b, flags=("contract",))

    def exp2(self, power: ir.Value) -> ir.Value:
        """`2^power` for powers in -126 … 0."""
        magic = self.constant(_ROUND_TO_INT)
        shifted = self.builder.fadd(power, magic)
        fraction = self.builder.fsub(power, self.builder.fsub(shifted, magic))
        value = self.constant(_EXP2[-1])
        for coefficient in reversed(_EXP2[:-1]):
            value = self.add(self.mul(value, fraction), self.constant(coefficient))
        exponent = self.builder.shl(
            self.builder.bitcast(shifted, self.words), ir.Constant(self.words, [23] * self.count)
        )
        moved = self.builder.add(self.builder.bitcast(value, self.words), exponent)
        return self.builder.bitcast(moved, self.floats)


def _make_blend_block(rows: int) -> Any:
    """`blend_block` for blocks of that many rows."""
    count = rows * BLOCK

    @intrinsic
    def blend_block(
        typing_context: Any,
        image: Any,
        depths: Any,
        at: Any,
        stride: Any,
        offset_x: Any,
        offset_y: Any,
        slope: Any,
        falloff: Any,
        row_falloff: Any,
        log2_opacity: Any,
        red: Any,
        green: Any,
        blue: Any,
        depth: Any,
        max_alpha: Any,
        min_alpha: Any,
        min_transmittance: Any,
    ) -> Any:
        """Blend one splat into a block of pixels, four wide.

        With `d` the pixel's centre minus the splat's, `t = dx - slope·dy`, the splat's alpha is
        `2^(log2_opacity - row_falloff·dy² - falloff·t²)`: a square completed in x, whose terms do not cancel however elongated
        the splat. Pixels that are finished have a transmittance ≤ 0. A pixel's colour is added to as its transmittance is taken
        from, by one multiplication of its four floats.

        Args:
            typing_context: Numba's.
            image: float32 `[:]`, transmittance, red, green and blue of pixel p from `4·p` on.
            depths: float32 `[:]`, of pixel p at `p`.
            at: Number of the block's first pixel.
            stride: Pixels from one row to the next.
            offset_x: First pixel's centre minus the splat's centre [px].
            offset_y: The same down the rows [px].
            slope: By how much the centre line moves along x per row.
            falloff: Half the precision along the row, times log2(e) [1/px²].
            row_falloff: The same down the rows [1/px²].
            log2_opacity: log2 of the splat's peak alpha.
            red: Colour.
            green: Colour.
            blue: Colour.
            depth: Depth along +Z [m].
            max_alpha: Alpha is clamped to this.
            min_alpha: Smaller alphas are skipped.
            min_transmittance: A pixel finishes before the splat that would take it to this or lower.

        Returns:
            uint64, bit `4·row + column` of the pixels that the splat would finish: they are left as they are, for the caller to
            mark.
        """
        signature = types.uint64(image, depths, types.int64, types.int64, *(types.float32,) * 13)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            image, depths = (
                cgutils.create_struct_proxy(kind)(context, builder, array).data
                for kind, array in zip(signature.args[:2], arguments[:2])
            )
            vector = _Vector(builder, count)
            alpha = _block_alpha(vector, arguments[4:10], arguments[14])
            pixels = _Pixels(vector, image, depths, arguments[2], arguments[3], rows)
            return _composite(vector, alpha, pixels, arguments[10:14], arguments[15:17])

        return signature, codegen

    return blend_block


def _block_alpha(vector: _Vector, shape: list[ir.Value], max_alpha: ir.Value) -> ir.Value:
    """Alpha of a splat in the pixels of a block, row by row."""
    builder = vector.builder
    offset_x, offset_y, slope, falloff, row_falloff, log2_opacity = map(vector.splat, shape)
    down = vector.add(offset_y, ir.Constant(vector.floats, [float(i // BLOCK) for i in range(vector.count)]))
    across = vector.add(offset_x, ir.Constant(vector.floats, [float(i % BLOCK) for i in range(vector.count)]))
    t = vector.sub(across, vector.mul(slope, down))
    power = vector.sub(log2_opacity, vector.mul(vector.mul(down, down), row_falloff))
    power = vector.sub(power, vector.mul(vector.mul(t, t), falloff))
    floor, most = vector.constant(-30.0), vector.splat(max_alpha)
    power = builder.select(builder.fcmp_ordered(">", power, floor), power, floor)
    alpha = vector.exp2(power)
    return builder.select(builder.fcmp_ordered("<", alpha, most), alpha, most)


class _Pixels:
    """The pixels of a block in memory: a row is sixteen floats of colour and four of depth."""

    def __init__(
        self, vector: _Vector, image: ir.Value, depths: ir.Value, at: ir.Value, stride: ir.Value, rows: int
    ) -> None:
        self.builder, self.vector = vector.builder, vector
        self.colors, self.depths = [], []
        word = ir.IntType(64)
        for row in range(rows):
            pixel = self.builder.add(at, self.builder.mul(stride, ir.Constant(word, row)))
            color = self.builder.mul(pixel, ir.Constant(word, CHANNELS))
            self.colors.append(self._pointer(image, color, BLOCK * CHANNELS))
            self.depths.append(self._pointer(depths, pixel, BLOCK))

    def _pointer(self, data: ir.Value, index: ir.Value, count: int) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(data, [index]), ir.VectorType(_F32, count).as_pointer())

    def load(self) -> list[ir.Value]:
        """The colours, a vector of sixteen floats a row."""
        return [self.builder.load(pointer, align=4) for pointer in self.colors]

    def transmittance(self, colors: list[ir.Value]) -> ir.Value:
        """Transmittance of each pixel, in one vector."""
        first = [CHANNELS * i for i in range(BLOCK)]
        parts, size = colors, BLOCK * CHANNELS
        taken = first
        while len(parts) > 1:
            lanes = [*taken, *(size + i for i in taken)]
            parts = [self.vector.pick(a, lanes, b) for a, b in zip(parts[::2], parts[1::2])]
            size = len(lanes)
            taken = list(range(size))
        return parts[0]

    def add(self, colors: list[ir.Value], weight: ir.Value, change: ir.Value, depth: ir.Value) -> None:
        """Add `weight` of a pixel times the pattern of its four floats, and times the depth."""
        for row, (color, pointer) in enumerate(zip(colors, self.colors)):
            spread = [BLOCK * row + i // CHANNELS for i in range(BLOCK * CHANNELS)]
            product = self.vector.mul(self.vector.pick(weight, spread), change)
            self.builder.store(self.vector.add(color, product), pointer, align=4)
        deep = self.vector.mul(weight, depth)
        for row, pointer in enumerate(self.depths):
            own = self.vector.pick(deep, [BLOCK * row + i for i in range(BLOCK)])
            before = self.builder.load(pointer, align=4)
            self.builder.store(self.vector.add(before, own), pointer, align=4)


def _composite(
    vector: _Vector, alpha: ir.Value, pixels: _Pixels, color: list[ir.Value], limits: list[ir.Value]
) -> ir.Value:
    """Blend alphas over a block of pixels; returns the mask of those that would finish."""
    builder = vector.builder
    min_alpha, min_t = map(vector.splat, limits)
    *rgb, depth = color
    colors = pixels.load()
    before = pixels.transmittance(colors)
    zero = vector.constant(0.0)
    touched = builder.and_(
        builder.fcmp_ordered(">=", alpha, min_alpha), builder.fcmp_ordered(">", before, zero)
    )
    weight = vector.mul(before, alpha)
    finishes = builder.and_(touched, builder.fcmp_ordered("<=", builder.fsub(before, weight), min_t))
    weight = builder.select(builder.and_(touched, builder.not_(finishes)), weight, zero)
    change = ir.Constant(ir.VectorType(_F32, CHANNELS), [-1.0] * CHANNELS)
    for i, value in enumerate(rgb, start=1):
        change = builder.insert_element(change, value, ir.Constant(_I32, i))
    change = vector.pick(change, [i % CHANNELS for i in range(BLOCK * CHANNELS)])
    pixels.add(colors, weight, change, vector.splat(depth))
    return builder.zext(builder.bitcast(finishes, ir.IntType(vector.count)), ir.IntType(64))


blend_block = _make_blend_block(BLOCK)
blend_flat_block = _make_blend_block(2)
"""`blend_block` for blocks of two rows."""


def _make_open_block(rows: int) -> Any:
    """`open_block` for blocks of that many rows."""

    @intrinsic
    def open_block(typing_context: Any, bits: Any, word: Any, words: Any, shift: Any) -> Any:
        """Which columns of a block, four wide, hold a pixel that is still open.

        An intrinsic, since a compiled function would count references to the array, with a locked instruction each.

        Args:
            typing_context: Numba's.
            bits: uint64, a bit a pixel, `words` to a row, the last of them a spare.
            word: That of the block's first pixel.
            words: See `bits`.
            shift: Bit of the first pixel within it.

        Returns:
            uint64, four bits.
        """
        signature = types.uint64(bits, types.int64, types.int64, types.uint64)

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
            data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
            kind = ir.IntType(64)
            one, found = ir.Constant(kind, 1), ir.Constant(kind, 0)
            index, shift = arguments[1], arguments[3]
            back = builder.sub(ir.Constant(kind, 63), shift)
            for _ in range(rows):
                low = builder.lshr(builder.load(builder.gep(data, [index])), shift)
                high = builder.load(builder.gep(data, [builder.add(index, one)]))
                high = builder.shl(builder.shl(high, one), back)
                found = builder.or_(found, builder.or_(low, high))
                index = builder.add(index, arguments[2])
            return builder.and_(found, ir.Constant(kind, (1 << BLOCK) - 1))

        return signature, codegen

    return open_block


open_block = _make_open_block(BLOCK)
open_flat_block = _make_open_block(2)
"""`open_block` for blocks of two rows."""


@intrinsic
def next_job(typing_context: Any, counter: Any) -> Any:
    """Atomically take the next number from `counter` (int64 `[1]`): the work queue of all threads."""
    signature = types.int64(counter)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return signature, codegen


@intrinsic
def float_bits(typing_context: Any, value: Any) -> Any:
    """The 32 bits of a float32 as int32."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return builder.bitcast(arguments[0], _I32)

    return types.int32(types.float32), codegen


@intrinsic
def bits_float(typing_context: Any, value: Any) -> Any:
    """The float32 of 32 bits."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return builder.bitcast(arguments[0], _F32)

    return types.float32(types.int32), codegen


RECORD = 16
"""Floats of a splat's record, a cache line."""


@intrinsic
def append_records(
    typing_context: Any,
    planes: Any,
    words: Any,
    colors: Any,
    at: Any,
    chunk: Any,
    slot: Any,
    source: Any,
    records: Any,
    count: Any,
) -> Any:
    """Append those of sixteen splats that are kept to the list of records: planes in, records out, by a 16x16 transposition.

    Every record is written and the count advanced by 0 or 1: which are kept is unpredictable, a branch costs more.

    Args:
        typing_context: Numba's.
        planes: float32, seven quantities of all splats of a chunk, one after the other.
        words: int32, five more: first and last column, first and last row, whether kept.
        colors: float32, three.
        at: First of the sixteen within the chunk.
        chunk: Splats of a chunk.
        slot: Number of the first of the sixteen in the atlas.
        source: int32, numbers in the input by slot.
        records: float32, to append to: the seven quantities, columns (last in the high half), rows, number in the input, colours
            (at least 0), slot, two zeros. Up to fifteen records beyond the last are written to.
        count: Records there are.

    Returns:
        Records there are now.
    """
    signature = types.int64(planes, words, colors, *(types.int64,) * 3, source, records, types.int64)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        def data(i: int) -> ir.Value:
            return cgutils.create_struct_proxy(signature.args[i])(context, builder, arguments[i]).data

        vector, word = _Vector(builder, RECORD), ir.IntType(64)
        at, chunk, slot, count = arguments[3], arguments[4], arguments[5], arguments[8]

        def load(source: ir.Value, plane: int, kind: ir.VectorType) -> ir.Value:
            index = builder.add(at, builder.mul(chunk, ir.Constant(word, plane)))
            pointer = builder.bitcast(builder.gep(source, [index]), kind.as_pointer())
            return builder.load(pointer, align=4)

        boxes = [load(data(1), plane, vector.words) for plane in range(5)]
        high = ir.Constant(vector.words, [16] * RECORD)
        columns, rows = (builder.or_(boxes[i], builder.shl(boxes[i + 1], high)) for i in (0, 2))
        first = builder.bitcast(builder.trunc(slot, _I32), _F32)
        slots = builder.add(
            builder.bitcast(vector.splat(first), vector.words), ir.Constant(vector.words, list(range(RECORD)))
        )
        pointer = builder.bitcast(builder.gep(data(6), [slot]), vector.words.as_pointer())
        number = builder.load(pointer, align=4)
        zero = vector.constant(0.0)
        quantities = [load(data(0), plane, vector.floats) for plane in range(7)]
        quantities += [builder.bitcast(value, vector.floats) for value in (columns, rows, number)]
        for channel in range(3):
            color = load(data(2), channel, vector.floats)
            quantities.append(builder.select(builder.fcmp_ordered(">", color, zero), color, zero))
        quantities.append(builder.bitcast(slots, vector.floats))
        quantities += [zero] * (RECORD - len(quantities))
        target = data(7)
        for i, record in enumerate(_transpose(vector, quantities)):
            index = builder.mul(count, ir.Constant(word, RECORD))
            pointer = builder.bitcast(builder.gep(target, [index]), vector.floats.as_pointer())
            builder.store(record, pointer, align=4)
            kept = builder.extract_element(boxes[4], ir.Constant(_I32, i))
            count = builder.add(count, builder.zext(kept, word))
        return count

    return signature, codegen


def _transpose(vector: _Vector, rows: list[ir.Value]) -> list[ir.Value]:
    """The columns of a square of vectors, by exchanging ever larger blocks off the diagonal."""
    rows, size = list(rows), len(rows)
    step = 1
    while step < size:
        upper = [i if not i & step else size + i - step for i in range(size)]
        lower = [i + step if not i & step else size + i for i in range(size)]
        for i in range(size):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = vector.pick(a, upper, b), vector.pick(a, lower, b)
        step *= 2
    return rows


HALVES = 16
"""Half-precision numbers that `widen` converts at once."""
HAS_HALF = platform.machine().lower() not in ("x86_64", "amd64") or bool(
    binding.get_host_cpu_features().get("f16c")
)
"""Whether the processor converts half precision itself; all but x86 ones from before 2012 do."""


@intrinsic
def widen(typing_context: Any, halves: Any, at: Any, out: Any, to: Any) -> Any:
    """Convert the sixteen half-precision numbers from `halves[at]` on (uint16, their bits) to float32, from `out[to]` on."""
    signature = types.void(halves, types.int64, out, types.int64)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        source = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        target = cgutils.create_struct_proxy(signature.args[2])(context, builder, arguments[2]).data
        bits = ir.VectorType(ir.IntType(16), HALVES)
        pointer = builder.bitcast(builder.gep(source, [arguments[1]]), bits.as_pointer())
        values = widen_bits(builder, builder.load(pointer, align=2), native=HAS_HALF)
        pointer = builder.bitcast(builder.gep(target, [arguments[3]]), values.type.as_pointer())
        builder.store(values, pointer, align=4)
        return context.get_dummy_value()

    return signature, codegen


def widen_bits(builder: ir.IRBuilder, bits: ir.Value, *, native: bool) -> ir.Value:
    """Finite halves, as a vector of their bits, to float32: by the processor, or by moving exponent and mantissa into place."""
    count = bits.type.count
    floats, words = ir.VectorType(_F32, count), ir.VectorType(_I32, count)
    if native:
        return builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), count)), floats)
    wide = builder.zext(bits, words)

    def every(value: int) -> ir.Constant:
        return ir.Constant(words, [value] * count)

    magnitude = builder.shl(builder.and_(wide, every(0x7FFF)), every(13))
    sign = builder.shl(builder.and_(wide, every(0x8000)), every(16))
    # The exponents' biases differ by 112.
    return builder.fmul(
        builder.bitcast(builder.or_(magnitude, sign), floats), ir.Constant(floats, [2.0**112] * count)
    )


@intrinsic
def half_float(typing_context: Any, bits: Any) -> Any:
    """One finite half-precision number, given as its bits (uint16), as float32."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        one = ir.Constant(ir.VectorType(ir.IntType(16), 1), ir.Undefined)
        vector = builder.insert_element(one, arguments[0], ir.Constant(_I32, 0))
        return builder.extract_element(widen_bits(builder, vector, native=HAS_HALF), ir.Constant(_I32, 0))

    return types.float32(types.uint16), codegen


@intrinsic
def sqrt(typing_context: Any, value: Any) -> Any:
    """Square root of a float32 ≥ 0, as an instruction (numpy's sets errno, which keeps loops scalar)."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [_F32]), arguments)

    return types.float32(types.float32), codegen


@intrinsic
def prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of `array[index]` (flat array, int64 index)."""
    signature = types.void(array, types.int64)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        pointer = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return signature, codegen
