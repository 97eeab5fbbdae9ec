# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Rows of a tile as vectors of 16 floats.

The row functions are written as vector arithmetic and handed to LLVM as such (numba intrinsics), because its loop vectorizer
gives up on the equivalent loops; LLVM maps the vectors to whatever the machine has (AVX-512, AVX2, SSE, NEON).
"""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gaussgym_render.differentiable.constants import ALPHA_MAX, ALPHA_MIN, TILE, TRANSMITTANCE_STOP

PLANE = TILE * TILE
LIVE, FINAL, RED, GREEN, BLUE, DEPTH = (
    i * PLANE for i in range(6)
)  # planes of the forward pass's tile buffer
BEHIND, V_RED, V_GREEN, V_BLUE, V_DEPTH = (
    i * PLANE for i in range(1, 6)
)  # planes of the backward pass's, beside LIVE
SUMS = 6 * PLANE  # lane sums of the backward pass: S0, Sy, Syy, r, g, b, z
_VECTOR = ir.VectorType(ir.FloatType(), TILE)


class _Lanes:
    """16 floats in LLVM: operators emit vector instructions, so that row functions read like arithmetic."""

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.value = builder, value

    def _of(self, other: _Lanes | float) -> ir.Value:
        if isinstance(other, _Lanes):
            return other.value
        return ir.Constant(_VECTOR, [float(np.float32(other))] * TILE)

    def _new(self, value: ir.Value) -> _Lanes:
        return _Lanes(self.builder, value)

    def __add__(self, other: _Lanes | float) -> _Lanes:
        return self._new(self.builder.fadd(self.value, self._of(other), flags=("fast",)))

    def __sub__(self, other: _Lanes | float) -> _Lanes:
        return self._new(self.builder.fsub(self.value, self._of(other), flags=("fast",)))

    def __rsub__(self, other: float) -> _Lanes:
        return self._new(self.builder.fsub(self._of(other), self.value, flags=("fast",)))

    def __mul__(self, other: _Lanes | float) -> _Lanes:
        return self._new(self.builder.fmul(self.value, self._of(other), flags=("fast",)))

    def __truediv__(self, other: _Lanes | float) -> _Lanes:
        return self._new(self.builder.fdiv(self.value, self._of(other)))

    def compare(self, op: str, other: _Lanes | float) -> ir.Value:
        return self.builder.fcmp_ordered(op, self.value, self._of(other))

    def where(self, condition: ir.Value, other: _Lanes | float) -> _Lanes:
        return self._new(self.builder.select(condition, self.value, self._of(other)))

    def minimum(self, other: _Lanes | float) -> _Lanes:
        return self.where(self.compare("<", other), other)

    def maximum(self, other: _Lanes | float) -> _Lanes:
        return self.where(self.compare(">", other), other)


class _Rows:
    """Reads and writes rows of 16 floats of the tile buffer inside an intrinsic."""

    def __init__(self, context, builder, array_type, array, base) -> None:
        self.builder = builder
        self.data = context.make_array(array_type)(context, builder, array).data
        self.base = base

    def _pointer(self, offset: int, relative: bool) -> ir.Value:
        index = ir.Constant(ir.IntType(64), offset)
        if relative:
            index = self.builder.add(self.base, index)
        return self.builder.bitcast(self.builder.gep(self.data, [index]), _VECTOR.as_pointer())

    def load(self, offset: int, *, relative: bool = True) -> _Lanes:
        return _Lanes(self.builder, self.builder.load(self._pointer(offset, relative), align=4))

    def store(self, offset: int, value: _Lanes, *, relative: bool = True) -> None:
        self.builder.store(value.value, self._pointer(offset, relative), align=4)

    def splat(self, scalar: ir.Value) -> _Lanes:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), TILE), [0] * TILE)
        return _Lanes(self.builder, self.builder.shuffle_vector(first, undefined, mask))

    def columns(self) -> _Lanes:
        return _Lanes(self.builder, ir.Constant(_VECTOR, [float(x) for x in range(TILE)]))

    def total(self, lanes: _Lanes) -> ir.Value:
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _VECTOR])
        function = cgutils.get_or_insert_function(
            self.builder.module, kind, f"llvm.vector.reduce.fadd.v{TILE}f32"
        )
        return self.builder.call(
            function, [ir.Constant(ir.FloatType(), -0.0), lanes.value], fastmath=("reassoc",)
        )


def _gaussian(dx: _Lanes, half_a: _Lanes, b_dy: _Lanes, c_dy2: _Lanes, opacity: _Lanes) -> _Lanes:
    """``opacity * exp(-sigma)``; exp(-s) as p(s/8)^8, p of degree 6: relative error below 2e-6 for s <= 6.

    Where s > 6 the clamped value stays below 1/255 for any opacity, so the splat is skipped there as it should be.
    """
    sigma = (dx * (dx * half_a + b_dy) + c_dy2).maximum(0.0)
    t = sigma.minimum(6.0) * 0.125
    e = t * (1.0 / 720.0) - 1.0 / 120.0
    for coefficient in (1.0 / 24.0, -1.0 / 6.0, 0.5, -1.0, 1.0):
        e = e * t + coefficient
    e = e * e
    e = e * e
    return opacity * (e * e)


_ARRAY = types.Array(types.float32, 1, "C")
_F32 = types.float32


@intrinsic
def blend_row(typingctx, buf, base, mx, half_a, b_dy, c_dy2, op, r, g, b, z):
    """Blend one splat over the row of the tile buffer at ``base``."""

    def codegen(context, builder, signature, args):
        rows = _Rows(context, builder, signature.args[0], args[0], args[1])
        mx, half_a, b_dy, c_dy2, op, r, g, b, z = (rows.splat(a) for a in args[2:])
        alpha = _gaussian(rows.columns() - mx, half_a, b_dy, c_dy2, op).minimum(ALPHA_MAX)
        alpha = alpha.where(alpha.compare(">=", ALPHA_MIN), 0.0)
        live = rows.load(LIVE)
        after = live * (1.0 - alpha)
        go = after.compare(">", TRANSMITTANCE_STOP)
        weight = (live * alpha).where(go, 0.0)
        rows.store(LIVE, after.where(go, 0.0))
        rows.store(FINAL, after.where(go, rows.load(FINAL)))
        for plane, value in ((RED, r), (GREEN, g), (BLUE, b), (DEPTH, z)):
            rows.store(plane, rows.load(plane) + weight * value)
        return context.get_dummy_value()

    return types.void(_ARRAY, types.intp, *([_F32] * 9)), codegen


@intrinsic
def blend_row_backward(typingctx, buf, base, mx, half_a, b_dy, c_dy2, dy, op, r, g, b, z):
    """Replay one splat over a row and add what it contributes to the lane sums."""

    def codegen(context, builder, signature, args):
        rows = _Rows(context, builder, signature.args[0], args[0], args[1])
        mx, half_a, b_dy, c_dy2, dy, op, r, g, b, z = (rows.splat(a) for a in args[2:])
        raw = _gaussian(rows.columns() - mx, half_a, b_dy, c_dy2, op)
        alpha = raw.minimum(ALPHA_MAX)
        alpha = alpha.where(alpha.compare(">=", ALPHA_MIN), 0.0)
        live = rows.load(LIVE)
        after = live * (1.0 - alpha)
        go = after.compare(">", TRANSMITTANCE_STOP)
        weight = (live * alpha).where(go, 0.0)
        v_r, v_g, v_b, v_z = rows.load(V_RED), rows.load(V_GREEN), rows.load(V_BLUE), rows.load(V_DEPTH)
        gain = v_r * r + v_g * g + v_b * b + v_z * z
        behind = rows.load(BEHIND) - weight * gain
        v_alpha = live * gain - behind / (1.0 - alpha)
        v_sigma = (alpha * v_alpha * -1.0).where(go, 0.0)
        v_sigma = v_sigma.where(raw.compare("<", ALPHA_MAX), 0.0)
        rows.store(LIVE, after.where(go, 0.0))
        rows.store(BEHIND, behind)
        moments = (
            v_sigma,
            v_sigma * dy,
            v_sigma * dy * dy,
            weight * v_r,
            weight * v_g,
            weight * v_b,
            weight * v_z,
        )
        for i, value in enumerate(moments):
            offset = SUMS + i * TILE
            rows.store(offset, rows.load(offset, relative=False) + value, relative=False)
        return context.get_dummy_value()

    return types.void(_ARRAY, types.intp, *([_F32] * 10)), codegen


@intrinsic
def reduce_lanes(typingctx, buf, mx, out, start):
    """Sum the lanes into ``out[start : start + 10]``: S0, Sx, Sy, Sxx, Sxy, Syy, r, g, b, z."""

    def codegen(context, builder, signature, args):
        rows = _Rows(context, builder, signature.args[0], args[0], None)
        target = context.make_array(signature.args[2])(context, builder, args[2]).data
        s0, sy, syy, r, g, b, z = (rows.load(SUMS + i * TILE, relative=False) for i in range(7))
        dx = rows.columns() - rows.splat(args[1])
        for i, lanes in enumerate((s0, s0 * dx, sy, s0 * dx * dx, sy * dx, syy, r, g, b, z)):
            index = builder.add(args[3], ir.Constant(ir.IntType(64), i))
            builder.store(rows.total(lanes), builder.gep(target, [index]))
        return context.get_dummy_value()

    return types.void(_ARRAY, _F32, _ARRAY, types.intp), codegen
