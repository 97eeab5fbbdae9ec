# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Colours of spherical harmonics, and their gradients."""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from gaussgym_render.differentiable.constants import CHUNK


@njit(cache=True)
def _sh_basis(degree, x, y, z, basis):
    """Real spherical harmonics to degree 3 with the signs of the 3DGS PLY (Kerbl et al. 2023)."""
    basis[0] = 0.28209479177387814
    if degree >= 1:
        basis[1] = -0.4886025119029199 * y
        basis[2] = 0.4886025119029199 * z
        basis[3] = -0.4886025119029199 * x
    if degree >= 2:
        basis[4] = 1.0925484305920792 * x * y
        basis[5] = -1.0925484305920792 * y * z
        basis[6] = 0.31539156525252005 * (2.0 * z * z - x * x - y * y)
        basis[7] = -1.0925484305920792 * x * z
        basis[8] = 0.5462742152960396 * (x * x - y * y)
    if degree >= 3:
        basis[9] = -0.5900435899266435 * y * (3.0 * x * x - y * y)
        basis[10] = 2.890611442640554 * x * y * z
        basis[11] = -0.4570457994644658 * y * (4.0 * z * z - x * x - y * y)
        basis[12] = 0.3731763325901154 * z * (2.0 * z * z - 3.0 * x * x - 3.0 * y * y)
        basis[13] = -0.4570457994644658 * x * (4.0 * z * z - x * x - y * y)
        basis[14] = 1.445305721320277 * z * (x * x - y * y)
        basis[15] = -0.5900435899266435 * x * (x * x - 3.0 * y * y)


@njit(cache=True)
def _sh_gradient(degree, x, y, z, w):
    """Gradient of ``sum_k w[k] basis_k`` with respect to (x, y, z) taken as free variables."""
    gx, gy, gz = 0.0, 0.0, 0.0
    if degree >= 1:
        gy -= 0.4886025119029199 * w[1]
        gz += 0.4886025119029199 * w[2]
        gx -= 0.4886025119029199 * w[3]
    if degree >= 2:
        a, b, c = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
        gx += a * y * w[4] - 2.0 * b * x * w[6] - a * z * w[7] + 2.0 * c * x * w[8]
        gy += a * x * w[4] - a * z * w[5] - 2.0 * b * y * w[6] - 2.0 * c * y * w[8]
        gz += -a * y * w[5] + 4.0 * b * z * w[6] - a * x * w[7]
    if degree >= 3:
        d, e, f, g, h = (
            0.5900435899266435,
            2.890611442640554,
            0.4570457994644658,
            0.3731763325901154,
            1.445305721320277,
        )
        gx += -6.0 * d * x * y * w[9] + e * y * z * w[10] + 2.0 * f * x * y * w[11] - 6.0 * g * x * z * w[12]
        gx += -f * (4.0 * z * z - 3.0 * x * x - y * y) * w[13] + 2.0 * h * x * z * w[14]
        gx += -d * (3.0 * x * x - 3.0 * y * y) * w[15]
        gy += -d * (3.0 * x * x - 3.0 * y * y) * w[9] + e * x * z * w[10]
        gy += -f * (4.0 * z * z - x * x - 3.0 * y * y) * w[11] - 6.0 * g * y * z * w[12]
        gy += 2.0 * f * x * y * w[13] - 2.0 * h * y * z * w[14] + 6.0 * d * x * y * w[15]
        gz += (
            e * x * y * w[10]
            - 8.0 * f * y * z * w[11]
            + g * (6.0 * z * z - 3.0 * x * x - 3.0 * y * y) * w[12]
        )
        gz += -8.0 * f * x * z * w[13] + h * (x * x - y * y) * w[14]
    return gx, gy, gz


@njit(parallel=True, cache=True)
def colors_from_sh(means, sh, degree, position, ids, rgb):
    """Colours ``rgb`` of the splats ``ids`` as seen from ``position``."""
    bases = (degree + 1) * (degree + 1)
    count = ids.shape[0]
    for chunk in prange((count + CHUNK - 1) // CHUNK):
        basis = np.zeros(16)
        for k in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            i = ids[k]
            dx, dy, dz = means[i, 0] - position[0], means[i, 1] - position[1], means[i, 2] - position[2]
            inv = 1.0 / math.sqrt(max(dx * dx + dy * dy + dz * dz, 1e-24))
            _sh_basis(degree, dx * inv, dy * inv, dz * inv, basis)
            for ch in range(3):
                total = 0.5
                for j in range(bases):
                    total += basis[j] * sh[i, j, ch]
                rgb[k, ch] = max(total, 0.0)


@njit(parallel=True, cache=True)
def colors_from_sh_backward(means, sh, degree, position, ids, rgb, v_rgb, v_means, v_sh, v_position_chunks):
    """Chain gradients of colours to coefficients, centres and the camera's position (added to ``v_*``)."""
    bases = (degree + 1) * (degree + 1)
    count = ids.shape[0]
    for chunk in prange((count + CHUNK - 1) // CHUNK):
        basis = np.zeros(16)
        weight = np.zeros(16)
        for k in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            i = ids[k]
            dx, dy, dz = means[i, 0] - position[0], means[i, 1] - position[1], means[i, 2] - position[2]
            inv = 1.0 / math.sqrt(max(dx * dx + dy * dy + dz * dz, 1e-24))
            x, y, z = dx * inv, dy * inv, dz * inv
            _sh_basis(degree, x, y, z, basis)
            for j in range(bases):
                weight[j] = 0.0
            for ch in range(3):
                g = v_rgb[k, ch] if rgb[k, ch] > 0.0 else np.float32(0.0)
                for j in range(bases):
                    v_sh[i, j, ch] += g * basis[j]
                    weight[j] += g * sh[i, j, ch]
            if degree > 0:
                gx, gy, gz = _sh_gradient(degree, x, y, z, weight)
                dot = gx * x + gy * y + gz * z
                gx, gy, gz = (gx - dot * x) * inv, (gy - dot * y) * inv, (gz - dot * z) * inv
                v_means[i, 0] += gx
                v_means[i, 1] += gy
                v_means[i, 2] += gz
                if v_position_chunks.shape[0] > 0:
                    v_position_chunks[chunk, 0] -= gx
                    v_position_chunks[chunk, 1] -= gy
                    v_position_chunks[chunk, 2] -= gz


# ------------------------------------------------------------------------------------------------ order and tiles
