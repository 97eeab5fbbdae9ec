"""Eight-lane vector code for the CPU rasterizer's inner loop, as LLVM IR inside numba functions.

LLVM's loop vectorizer does not touch loops of eight passes, and a splat at robot resolution is three to five pixels wide, so
the one hot block is written out. The IR names no instruction set: LLVM lowers it to AVX, AVX-512, SSE or NEON, whatever the
machine has.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8
"""Pixels of a row that `blend` treats at once."""
HALF = LANES // 2
"""Pixels of each of two rows that `blend_pair` treats at once."""
CHANNELS = 5
"""Floats a pixel carries while blending: transmittance, red, green, blue, depth."""

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VF = ir.VectorType(_F32, LANES)
_VI = ir.VectorType(_I32, LANES)
_VH = ir.VectorType(_F32, HALF)
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
    """Operators on vector values, so that the kernel below reads like its formula."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(_VF, [value] * LANES)

    def splat(self, scalar: ir.Value) -> ir.Value:
        one = self.builder.insert_element(ir.Constant(_VF, ir.Undefined), scalar, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(one, ir.Constant(_VF, ir.Undefined), ir.Constant(_VI, [0] * LANES))

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
        exponent = self.builder.shl(self.builder.bitcast(shifted, _VI), ir.Constant(_VI, [23] * LANES))
        return self.builder.bitcast(self.builder.add(self.builder.bitcast(value, _VI), exponent), _VF)


@intrinsic
def blend(
    typing_context: Any,
    image: Any,
    base: Any,
    stride: Any,
    offset: Any,
    falloff: Any,
    log2_peak: Any,
    red: Any,
    green: Any,
    blue: Any,
    depth: Any,
    max_alpha: Any,
    min_alpha: Any,
    min_transmittance: Any,
) -> Any:
    """Blend one splat into eight neighbouring pixels of one row.

    With `t = offset + lane` the splat's alpha in a lane is `2^(log2_peak - falloff·t²)`. Lanes whose pixel is finished have a
    transmittance ≤ 0: a pixel finishes by negating it.

    Args:
        typing_context: Numba's.
        image: float32 `[:]`, channel c of the lane's pixel at `base + c·stride + lane`.
        base: Index of the first pixel's transmittance.
        stride: Distance between channels.
        offset: Distance of the first pixel's centre from the splat's centre line in this row [px].
        falloff: Half the precision along the row, times log2(e) [1/px²].
        log2_peak: log2 of the highest alpha in this row.
        red: Colour.
        green: Colour.
        blue: Colour.
        depth: Depth along +Z [m].
        max_alpha: Alpha is clamped to this.
        min_alpha: Smaller alphas are skipped.
        min_transmittance: A pixel finishes before the splat that would take it to this or lower.

    Returns:
        uint64, the lanes whose pixel finished now.
    """
    floats = (types.float32,) * 10
    signature = types.uint64(image, types.int64, types.int64, *floats)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        vector = _Vector(builder)
        offset, falloff, log2_peak = map(vector.splat, arguments[3:6])
        t = vector.add(offset, ir.Constant(_VF, [float(i) for i in range(LANES)]))
        power = vector.sub(log2_peak, vector.mul(vector.mul(t, t), falloff))
        return _composite(vector, power, _Pixels(builder, data, arguments[1], arguments[2]), arguments[6:])

    return signature, codegen


@intrinsic
def blend_pair(
    typing_context: Any,
    image: Any,
    base: Any,
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
    """Blend one splat into four neighbouring pixels of two rows; as `blend`, for splats up to four pixels wide.

    Args:
        typing_context: Numba's.
        image: As in `blend`; the lower row begins `CHANNELS·stride` behind the upper one.
        base: As in `blend`, of the upper row.
        stride: As in `blend`.
        offset_x: First pixel's centre minus the splat's centre [px].
        offset_y: Upper row's centre minus the splat's centre [px].
        slope: By how much the centre line moves along x per row.
        falloff: As in `blend`.
        row_falloff: The same down the rows [1/px²].
        log2_opacity: log2 of the splat's peak alpha.
        red: Colour.
        green: Colour.
        blue: Colour.
        depth: Depth along +Z [m].
        max_alpha: As in `blend`.
        min_alpha: As in `blend`.
        min_transmittance: As in `blend`.

    Returns:
        uint64, bits 0 to 3 the upper row's lanes that finished now, 4 to 7 the lower row's.
    """
    signature = types.uint64(image, types.int64, types.int64, *(types.float32,) * 13)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, arguments[0]).data
        vector = _Vector(builder)
        base, stride = arguments[1:3]
        offset_x, offset_y, slope, falloff, row_falloff, log2_opacity = map(vector.splat, arguments[3:9])
        down = vector.add(offset_y, ir.Constant(_VF, [float(i // HALF) for i in range(LANES)]))
        across = vector.add(offset_x, ir.Constant(_VF, [float(i % HALF) for i in range(LANES)]))
        t = vector.sub(across, vector.mul(slope, down))
        power = vector.sub(log2_opacity, vector.mul(vector.mul(down, down), row_falloff))
        power = vector.sub(power, vector.mul(vector.mul(t, t), falloff))
        lower = builder.mul(stride, ir.Constant(ir.IntType(64), CHANNELS))
        pixels = _Pixels(builder, data, base, stride, lower)
        return _composite(vector, power, pixels, arguments[9:])

    return signature, codegen


class _Pixels:
    """Where the channels of eight pixels lie: one run of eight, or with `lower` two runs of four."""

    def __init__(
        self,
        builder: ir.IRBuilder,
        data: ir.Value,
        base: ir.Value,
        stride: ir.Value,
        lower: ir.Value | None = None,
    ) -> None:
        self.builder, self.data, self.lower = builder, data, lower
        self.index = [base]
        for _ in range(CHANNELS - 1):
            self.index.append(builder.add(self.index[-1], stride))

    def _pointer(self, index: ir.Value, kind: ir.VectorType) -> ir.Value:
        return self.builder.bitcast(self.builder.gep(self.data, [index]), kind.as_pointer())

    def load(self, channel: int) -> ir.Value:
        index = self.index[channel]
        if self.lower is None:
            return self.builder.load(self._pointer(index, _VF), align=4)
        halves = [
            self.builder.load(self._pointer(at, _VH), align=4)
            for at in (index, self.builder.add(index, self.lower))
        ]
        return self.builder.shuffle_vector(*halves, ir.Constant(_VI, list(range(LANES))))

    def store(self, channel: int, value: ir.Value) -> None:
        index = self.index[channel]
        if self.lower is None:
            self.builder.store(value, self._pointer(index, _VF), align=4)
            return
        for first, at in ((0, index), (HALF, self.builder.add(index, self.lower))):
            lanes = ir.Constant(ir.VectorType(_I32, HALF), list(range(first, first + HALF)))
            half = self.builder.shuffle_vector(value, value, lanes)
            self.builder.store(half, self._pointer(at, _VH), align=4)


def _composite(vector: _Vector, power: ir.Value, pixels: _Pixels, scalars: list[ir.Value]) -> ir.Value:
    """Blend eight alphas `2^power` over eight pixels; returns the mask of those that finished."""
    builder = vector.builder
    *color, max_alpha, min_alpha, min_t = map(vector.splat, scalars)
    zero, floor = vector.constant(0.0), vector.constant(-30.0)
    power = builder.select(builder.fcmp_ordered(">", power, floor), power, floor)
    alpha = vector.exp2(power)
    alpha = builder.select(builder.fcmp_ordered("<", alpha, max_alpha), alpha, max_alpha)
    before = pixels.load(0)
    touched = builder.and_(
        builder.fcmp_ordered(">=", alpha, min_alpha), builder.fcmp_ordered(">", before, zero)
    )
    weight = vector.mul(before, alpha)
    after = vector.sub(before, weight)
    finishes = builder.and_(touched, builder.fcmp_ordered("<=", after, min_t))
    blends = builder.and_(touched, builder.not_(finishes))
    weight = builder.select(blends, weight, zero)
    negated = builder.fsub(zero, before)
    pixels.store(0, builder.select(finishes, negated, builder.select(blends, after, before)))
    for channel, value in enumerate(color, start=1):
        pixels.store(channel, vector.add(pixels.load(channel), vector.mul(weight, value)))
    return builder.zext(builder.bitcast(finishes, ir.IntType(LANES)), ir.IntType(64))


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
