"""Eight-lane vector code for the CPU rasterizer's inner loop, as LLVM IR inside numba functions.

LLVM's loop vectorizer does not touch loops of eight passes, and a splat at robot resolution is three to five pixels wide, so
the one hot block is written out. The IR names no instruction set: LLVM lowers it to AVX, AVX-512, SSE or NEON, whatever the
machine has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8
"""Pixels of a row that `blend` treats at once."""
CHANNELS = 5
"""Floats a pixel carries while blending: transmittance, red, green, blue, depth."""

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VF = ir.VectorType(_F32, LANES)
_VI = ir.VectorType(_I32, LANES)
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
        return _blend_ir(builder, data, arguments[1], arguments[2], arguments[3:])

    return signature, codegen


def _blend_ir(
    builder: ir.IRBuilder, data: ir.Value, base: ir.Value, stride: ir.Value, scalars: list[ir.Value]
) -> ir.Value:
    vector = _Vector(builder)
    offset, falloff, log2_peak, red, green, blue, depth, max_alpha, min_alpha, min_t = map(
        vector.splat, scalars
    )

    def load(index: ir.Value) -> tuple[ir.Value, ir.Value]:
        pointer = builder.bitcast(builder.gep(data, [index]), _VF.as_pointer())
        return pointer, builder.load(pointer, align=4)

    lane = ir.Constant(_VF, [float(i) for i in range(LANES)])
    t = vector.add(offset, lane)
    power = vector.sub(log2_peak, vector.mul(vector.mul(t, t), falloff))
    floor = vector.constant(-30.0)
    power = builder.select(builder.fcmp_ordered(">", power, floor), power, floor)
    alpha = vector.exp2(power)
    alpha = builder.select(builder.fcmp_ordered("<", alpha, max_alpha), alpha, max_alpha)

    t_pointer, before = load(base)
    zero = vector.constant(0.0)
    touched = builder.and_(
        builder.fcmp_ordered(">=", alpha, min_alpha), builder.fcmp_ordered(">", before, zero)
    )
    weight = vector.mul(before, alpha)
    after = vector.sub(before, weight)
    finishes = builder.and_(touched, builder.fcmp_ordered("<=", after, min_t))
    blends = builder.and_(touched, builder.not_(finishes))
    weight = builder.select(blends, weight, zero)
    negated = builder.fsub(zero, before)
    stored = builder.select(finishes, negated, builder.select(blends, after, before))
    builder.store(stored, t_pointer, align=4)
    index = base
    for value in (red, green, blue, depth):
        index = builder.add(index, stride)
        pointer, old = load(index)
        builder.store(vector.add(old, vector.mul(weight, value)), pointer, align=4)
    bits = builder.bitcast(finishes, ir.IntType(LANES))
    return builder.zext(bits, ir.IntType(64))


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


@intrinsic
def sqrt(typing_context: Any, value: Any) -> Any:
    """Square root of a float32 ≥ 0, as an instruction (numpy's sets errno, which keeps loops scalar)."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [_F32]), arguments)

    return types.float32(types.float32), codegen
