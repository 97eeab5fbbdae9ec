# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Differentiable Gaussian-splat rasterizer on the CPU: numba kernels with analytic gradients behind torch autograd.

The conventions are those of gsplat 1.5.3 (Ye et al. 2024, arXiv 2409.06765): pixel centres at +0.5, a 0.3 px low-pass
on the projected covariance, opacity compensation for it when ``antialiased``, alpha clamped at 0.999, splats below
1/255 skipped, and a pixel finished by the splat that would bring its transmittance to 1e-4 or less (that splat is left
out).

How it is laid out for a CPU: the image is cut into tiles of 16x16 pixels; within a tile the loops run over splats front
to back and over the pixel rows that a splat touches, so that the innermost loop is 16 neighbouring pixels of arithmetic
without branches, which compilers turn into vector instructions. The backward pass walks the same lists front to back
again and subtracts what a splat adds from the pixel's final colour to know what lies behind it, so nothing per pixel
and splat is stored. Each (tile, splat) pair owns a slot for its partial gradients, and slots are summed in a fixed
order: gradients are bit-identical from run to run, whatever the number of threads.
"""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.
# ruff: noqa: ANN001, ANN202, ANN205, RUF046, SIM110

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import torch
from gaussgym_scene.errors import InputError
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

TILE = 16
EPS2D_PX2 = 0.3
ALPHA_MIN = 1.0 / 255.0
ALPHA_MAX = 0.999
TRANSMITTANCE_STOP = 1e-4
COMPENSATION_MIN = 0.005
FILL_BANDS = 8  # bands of tile rows that are filled side by side; each reads all visible splats
CHUNK = 1024  # splats whose camera gradients are summed together before the fixed-order total
RECORD = 16  # floats a visible splat holds for blending: mx my A B C op r g b z y0 y1 limit
PARTIAL = 10  # floats a (tile, splat) pair holds for the backward pass: S0 Sx Sy Sxx Sxy Syy r g b z


# ----------------------------------------------------------------------------------------------- small matrices
# 3x3 matrices are row-major tuples of nine scalars: no allocation inside the parallel loops.


@njit(cache=True)
def _mul(a, b):
    return (
        a[0] * b[0] + a[1] * b[3] + a[2] * b[6],
        a[0] * b[1] + a[1] * b[4] + a[2] * b[7],
        a[0] * b[2] + a[1] * b[5] + a[2] * b[8],
        a[3] * b[0] + a[4] * b[3] + a[5] * b[6],
        a[3] * b[1] + a[4] * b[4] + a[5] * b[7],
        a[3] * b[2] + a[4] * b[5] + a[5] * b[8],
        a[6] * b[0] + a[7] * b[3] + a[8] * b[6],
        a[6] * b[1] + a[7] * b[4] + a[8] * b[7],
        a[6] * b[2] + a[7] * b[5] + a[8] * b[8],
    )


@njit(cache=True)
def _transpose(a):
    return (a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8])


@njit(cache=True)
def _rotation(w, x, y, z):
    return (
        1.0 - 2.0 * (y * y + z * z),
        2.0 * (x * y - w * z),
        2.0 * (x * z + w * y),
        2.0 * (x * y + w * z),
        1.0 - 2.0 * (x * x + z * z),
        2.0 * (y * z - w * x),
        2.0 * (x * z - w * y),
        2.0 * (y * z + w * x),
        1.0 - 2.0 * (x * x + y * y),
    )


@njit(cache=True)
def _rotation_backward(w, x, y, z, v):
    vw = 2.0 * (-z * v[1] + y * v[2] + z * v[3] - x * v[5] - y * v[6] + x * v[7])
    vx = 2.0 * (y * v[1] + z * v[2] + y * v[3] - 2 * x * v[4] - w * v[5] + z * v[6] + w * v[7] - 2 * x * v[8])
    vy = 2.0 * (
        -2 * y * v[0] + x * v[1] + w * v[2] + x * v[3] + z * v[5] - w * v[6] + z * v[7] - 2 * y * v[8]
    )
    vz = 2.0 * (
        -2 * z * v[0] - w * v[1] + x * v[2] + w * v[3] - 2 * z * v[4] + y * v[5] + x * v[6] + y * v[7]
    )
    return vw, vx, vy, vz


# ---------------------------------------------------------------------------------------------------- projection


@njit(cache=True)
def _camera_point(view, m0, m1, m2):
    x = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]
    y = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]
    z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
    return x, y, z


@njit(cache=True)
def _tangent_limits(K, width, height):
    """Limits of x/z and y/z within which the local affine approximation is evaluated (image + 30 % of its tangent)."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    mx = 0.3 * 0.5 * width / fx
    my = 0.3 * 0.5 * height / fy
    return -(cx / fx + mx), (width - cx) / fx + mx, -(cy / fy + my), (height - cy) / fy + my


@njit(parallel=True, cache=True, error_model="numpy")
def _project(
    means,
    quats,
    scales,
    opacities,
    view,
    K,
    width,
    height,
    near,
    far,
    antialiased,
    mean2d,
    conic,
    opac,
    depth,
    half,
    rect,
):
    """Project splats; ``rect`` is (x0, x1, y0, y1) in pixels, half open, empty (x0 = x1 = 0) where invisible."""
    n = means.shape[0]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    lx0, lx1, ly0, ly1 = _tangent_limits(K, width, height)
    W = (
        view[0, 0],
        view[0, 1],
        view[0, 2],
        view[1, 0],
        view[1, 1],
        view[1, 2],
        view[2, 0],
        view[2, 1],
        view[2, 2],
    )
    for i in prange(n):
        rect[i, 0] = 0
        rect[i, 1] = 0
        rect[i, 2] = 0
        rect[i, 3] = 0
        x, y, z = _camera_point(view, float(means[i, 0]), float(means[i, 1]), float(means[i, 2]))
        op = float(opacities[i])
        if not (z >= near and z <= far) or not (op >= ALPHA_MIN):
            continue
        qw, qx, qy, qz = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
        q_norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        if not (q_norm > 0.0):
            continue
        R = _mul(W, _rotation(qw / q_norm, qx / q_norm, qy / q_norm, qz / q_norm))
        s0, s1, s2 = float(scales[i, 0]), float(scales[i, 1]), float(scales[i, 2])
        # Two rows of J W R S: the covariance in the image is their Gram matrix.
        tx = z * min(lx1, max(lx0, x / z))
        ty = z * min(ly1, max(ly0, y / z))
        j0, j2 = fx / z, -fx * tx / (z * z)
        k1, k2 = fy / z, -fy * ty / (z * z)
        u0, u1, u2 = (j0 * R[0] + j2 * R[6]) * s0, (j0 * R[1] + j2 * R[7]) * s1, (j0 * R[2] + j2 * R[8]) * s2
        v0, v1, v2 = (k1 * R[3] + k2 * R[6]) * s0, (k1 * R[4] + k2 * R[7]) * s1, (k1 * R[5] + k2 * R[8]) * s2
        a = u0 * u0 + u1 * u1 + u2 * u2
        b = u0 * v0 + u1 * v1 + u2 * v2
        c = v0 * v0 + v1 * v1 + v2 * v2
        det0 = a * c - b * b
        a += EPS2D_PX2
        c += EPS2D_PX2
        det = a * c - b * b
        if not (det > 0.0):
            continue
        if antialiased:
            op *= math.sqrt(max(det0 / det, COMPENSATION_MIN * COMPENSATION_MIN))
            if op < ALPHA_MIN:
                continue
        mx = fx * x / z + cx
        my = fy * y / z + cy
        limit = math.log(op / ALPHA_MIN)
        hx = math.sqrt(2.0 * limit * a)
        hy = math.sqrt(2.0 * limit * c)
        if mx + hx <= 0 or mx - hx >= width or my + hy <= 0 or my - hy >= height:
            continue
        x0 = max(0, int(math.ceil(mx - hx - 0.5)))
        x1 = min(width, int(math.floor(mx + hx - 0.5)) + 1)
        y0 = max(0, int(math.ceil(my - hy - 0.5)))
        y1 = min(height, int(math.floor(my + hy - 0.5)) + 1)
        if x0 >= x1 or y0 >= y1:
            continue
        rect[i, 0] = x0
        rect[i, 1] = x1
        rect[i, 2] = y0
        rect[i, 3] = y1
        mean2d[i, 0] = mx
        mean2d[i, 1] = my
        conic[i, 0] = c / det
        conic[i, 1] = -b / det
        conic[i, 2] = a / det
        opac[i] = op
        depth[i] = z
        half[i, 0] = hx
        half[i, 1] = hy


@njit(parallel=True, cache=True, error_model="numpy")
def _project_backward(
    means,
    quats,
    scales,
    opacities,
    view,
    K,
    width,
    height,
    antialiased,
    ids,
    v2d,
    v_means,
    v_quats,
    v_scales,
    v_opac,
    v_view_chunks,
):
    """Chain gradients of the image quantities of visible splats ``ids`` to the parameters (added to ``v_*``).

    ``v2d [V,8]``: mean2d x, y, conic A, B, C, compensated opacity, depth; the last column is not read.
    """
    fx, fy = K[0, 0], K[1, 1]
    lx0, lx1, ly0, ly1 = _tangent_limits(K, width, height)
    W = (
        view[0, 0],
        view[0, 1],
        view[0, 2],
        view[1, 0],
        view[1, 1],
        view[1, 2],
        view[2, 0],
        view[2, 1],
        view[2, 2],
    )
    Wt = _transpose(W)
    count = ids.shape[0]
    for chunk in prange((count + CHUNK - 1) // CHUNK):
        for k in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            i = ids[k]
            m0, m1, m2 = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
            x, y, z = _camera_point(view, m0, m1, m2)
            qw, qx, qy, qz = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
            q_norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
            qw, qx, qy, qz = qw / q_norm, qx / q_norm, qy / q_norm, qz / q_norm
            Rq = _rotation(qw, qx, qy, qz)
            s0, s1, s2 = float(scales[i, 0]), float(scales[i, 1]), float(scales[i, 2])
            M = (
                Rq[0] * s0,
                Rq[1] * s1,
                Rq[2] * s2,
                Rq[3] * s0,
                Rq[4] * s1,
                Rq[5] * s2,
                Rq[6] * s0,
                Rq[7] * s1,
                Rq[8] * s2,
            )
            cov_w = _mul(M, _transpose(M))
            cov_c = _mul(_mul(W, cov_w), Wt)
            inside_x = x / z >= lx0 and x / z <= lx1
            inside_y = y / z >= ly0 and y / z <= ly1
            tx = z * min(lx1, max(lx0, x / z))
            ty = z * min(ly1, max(ly0, y / z))
            j0, j2 = fx / z, -fx * tx / (z * z)
            k1, k2 = fy / z, -fy * ty / (z * z)
            # J cov_c, two rows of three, then J cov_c Jt.
            p0, p1, p2 = (
                j0 * cov_c[0] + j2 * cov_c[6],
                j0 * cov_c[1] + j2 * cov_c[7],
                j0 * cov_c[2] + j2 * cov_c[8],
            )
            r0, r1, r2 = (
                k1 * cov_c[3] + k2 * cov_c[6],
                k1 * cov_c[4] + k2 * cov_c[7],
                k1 * cov_c[5] + k2 * cov_c[8],
            )
            a0 = p0 * j0 + p2 * j2
            b = p1 * k1 + p2 * k2
            c0 = r1 * k1 + r2 * k2
            det0 = a0 * c0 - b * b
            a, c = a0 + EPS2D_PX2, c0 + EPS2D_PX2
            det = a * c - b * b
            A, B, C = c / det, -b / det, a / det
            # d(conic) = -conic d(cov) conic
            vA, vB, vC = float(v2d[k, 2]), 0.5 * float(v2d[k, 3]), float(v2d[k, 4])
            t0, t1, t2, t3 = A * vA + B * vB, A * vB + B * vC, B * vA + C * vB, B * vB + C * vC
            g_aa = -(t0 * A + t1 * B)
            g_ab = -(t0 * B + t1 * C)
            g_cc = -(t2 * B + t3 * C)
            v_op = float(v2d[k, 5])
            if antialiased:
                ratio = det0 / det
                comp = math.sqrt(max(ratio, COMPENSATION_MIN * COMPENSATION_MIN))
                if ratio > COMPENSATION_MIN * COMPENSATION_MIN:
                    f = v_op * float(opacities[i]) * 0.5 * comp
                    g_aa += f * (c0 / det0 - c / det)
                    g_cc += f * (a0 / det0 - a / det)
                    g_ab += f * (-b / det0 + b / det)
                v_op *= comp
            v_opac[i] += v_op
            # cov2d = J cov_c Jt
            v_j0 = 2.0 * (g_aa * p0 + g_ab * r0)
            v_j2 = 2.0 * (g_aa * p2 + g_ab * r2)
            v_k1 = 2.0 * (g_ab * p1 + g_cc * r1)
            v_k2 = 2.0 * (g_ab * p2 + g_cc * r2)
            # Jt G J; J = [[j0, 0, j2], [0, k1, k2]]
            n02 = j0 * (g_aa * j2 + g_ab * k2)
            n12 = k1 * (g_ab * j2 + g_cc * k2)
            n22 = j2 * (g_aa * j2 + g_ab * k2) + k2 * (g_ab * j2 + g_cc * k2)
            G = (j0 * g_aa * j0, j0 * g_ab * k1, n02, j0 * g_ab * k1, k1 * g_cc * k1, n12, n02, n12, n22)
            v_u, v_v = float(v2d[k, 0]), float(v2d[k, 1])
            z2 = z * z
            v_x = v_u * fx / z
            v_y = v_v * fy / z
            v_z = float(v2d[k, 6]) - (v_u * fx * x + v_v * fy * y) / z2 - (v_j0 * fx + v_k1 * fy) / z2
            if inside_x:
                v_x -= v_j2 * fx / z2
                v_z += 2.0 * v_j2 * fx * x / (z2 * z)
            else:
                v_z += v_j2 * fx * tx / (z2 * z)
            if inside_y:
                v_y -= v_k2 * fy / z2
                v_z += 2.0 * v_k2 * fy * y / (z2 * z)
            else:
                v_z += v_k2 * fy * ty / (z2 * z)
            v_means[i, 0] += W[0] * v_x + W[3] * v_y + W[6] * v_z
            v_means[i, 1] += W[1] * v_x + W[4] * v_y + W[7] * v_z
            v_means[i, 2] += W[2] * v_x + W[5] * v_y + W[8] * v_z
            GW = _mul(G, W)
            v_cov = _mul(Wt, GW)
            vM = _mul(v_cov, M)
            v_scales[i, 0] += 2.0 * (Rq[0] * vM[0] + Rq[3] * vM[3] + Rq[6] * vM[6])
            v_scales[i, 1] += 2.0 * (Rq[1] * vM[1] + Rq[4] * vM[4] + Rq[7] * vM[7])
            v_scales[i, 2] += 2.0 * (Rq[2] * vM[2] + Rq[5] * vM[5] + Rq[8] * vM[8])
            d0, d1, d2 = 2.0 * s0, 2.0 * s1, 2.0 * s2
            vR = (
                vM[0] * d0,
                vM[1] * d1,
                vM[2] * d2,
                vM[3] * d0,
                vM[4] * d1,
                vM[5] * d2,
                vM[6] * d0,
                vM[7] * d1,
                vM[8] * d2,
            )
            vqw, vqx, vqy, vqz = _rotation_backward(qw, qx, qy, qz, vR)
            dot = vqw * qw + vqx * qx + vqy * qy + vqz * qz
            v_quats[i, 0] += (vqw - dot * qw) / q_norm
            v_quats[i, 1] += (vqx - dot * qx) / q_norm
            v_quats[i, 2] += (vqy - dot * qy) / q_norm
            v_quats[i, 3] += (vqz - dot * qz) / q_norm
            if v_view_chunks.shape[0] > 0:
                vW = _mul(GW, cov_w)
                v_view_chunks[chunk, 0] += 2.0 * vW[0] + v_x * m0
                v_view_chunks[chunk, 1] += 2.0 * vW[1] + v_x * m1
                v_view_chunks[chunk, 2] += 2.0 * vW[2] + v_x * m2
                v_view_chunks[chunk, 3] += v_x
                v_view_chunks[chunk, 4] += 2.0 * vW[3] + v_y * m0
                v_view_chunks[chunk, 5] += 2.0 * vW[4] + v_y * m1
                v_view_chunks[chunk, 6] += 2.0 * vW[5] + v_y * m2
                v_view_chunks[chunk, 7] += v_y
                v_view_chunks[chunk, 8] += 2.0 * vW[6] + v_z * m0
                v_view_chunks[chunk, 9] += 2.0 * vW[7] + v_z * m1
                v_view_chunks[chunk, 10] += 2.0 * vW[8] + v_z * m2
                v_view_chunks[chunk, 11] += v_z


# ------------------------------------------------------------------------------------------- spherical harmonics


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
def _colors_from_sh(means, sh, degree, position, ids, rgb):
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
def _colors_from_sh_backward(means, sh, degree, position, ids, rgb, v_rgb, v_means, v_sh, v_position_chunks):
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


@njit(cache=True)
def _depth_order(depth, rect):
    """Indices of visible splats, front to back, ties by index: a radix sort on the bits of the positive depth."""
    n = depth.shape[0]
    count = 0
    for i in range(n):
        if rect[i, 1] > rect[i, 0]:
            count += 1
    ids = np.empty(count, np.int32)
    keys = np.empty(count, np.uint32)
    k = 0
    bits = depth.view(np.uint32)
    for i in range(n):
        if rect[i, 1] > rect[i, 0]:
            ids[k] = i
            keys[k] = bits[i]
            k += 1
    ids2 = np.empty(count, np.int32)
    keys2 = np.empty(count, np.uint32)
    start = np.empty(2049, np.int64)
    for shift in (0, 11, 22):
        start[:] = 0
        for k in range(count):
            start[((keys[k] >> np.uint32(shift)) & np.uint32(2047)) + 1] += 1
        for b in range(2048):
            start[b + 1] += start[b]
        for k in range(count):
            b = (keys[k] >> np.uint32(shift)) & np.uint32(2047)
            p = start[b]
            start[b] = p + 1
            ids2[p] = ids[k]
            keys2[p] = keys[k]
        ids, ids2 = ids2, ids
        keys, keys2 = keys2, keys
    return ids


@njit(cache=True)
def _row_span(mx, my, A, B, C, limit, hx, d0, d1):
    """Left and right end of the ellipse sigma <= limit for offsets dy in [d0, d1]; (1, -1) where it is empty."""
    det = A * C - B * B
    dy_right = -B * hx / C  # dy at the right-most point of the ellipse; the left-most lies opposite
    e = min(max(dy_right, d0), d1)
    root = 2.0 * limit * A - e * e * det
    f = min(max(-dy_right, d0), d1)
    root2 = 2.0 * limit * A - f * f * det
    if root < 0.0 and root2 < 0.0:
        return 1.0, -1.0
    right = hx if e == dy_right else (-B * e + math.sqrt(max(root, 0.0))) / A
    left = -hx if f == -dy_right else (-B * f - math.sqrt(max(root2, 0.0))) / A
    return left, right


@njit(parallel=True, cache=True, error_model="numpy")
def _spans(ids, mean2d, conic, opac, half, rect, row_offset, span):
    """Tile columns [span0, span1) that each splat touches in each tile row of its rectangle."""
    for k in prange(ids.shape[0]):
        i = ids[k]
        mx, my = float(mean2d[i, 0]), float(mean2d[i, 1])
        A, B, C = float(conic[i, 0]), float(conic[i, 1]), float(conic[i, 2])
        limit = math.log(float(opac[i]) / ALPHA_MIN) + 1e-4
        y0, y1 = rect[i, 2], rect[i, 3]
        t0 = y0 // TILE
        for t in range(t0, (y1 - 1) // TILE + 1):
            p = row_offset[k] + t - t0
            top = max(y0, t * TILE) + 0.5 - my
            bottom = min(y1, (t + 1) * TILE) - 0.5 - my
            left, right = _row_span(mx, my, A, B, C, limit, float(half[i, 0]), top, bottom)
            x0 = max(rect[i, 0], int(math.ceil(mx + left - 0.501)))
            x1 = min(rect[i, 1], int(math.floor(mx + right - 0.499)) + 1)
            if left > right or x0 >= x1:
                span[p, 0] = 0
                span[p, 1] = 0
            else:
                span[p, 0] = x0 // TILE
                span[p, 1] = (x1 - 1) // TILE + 1


@njit(cache=True)
def _row_offsets(ids, rect):
    offset = np.empty(ids.shape[0] + 1, np.int64)
    offset[0] = 0
    for k in range(ids.shape[0]):
        i = ids[k]
        offset[k + 1] = offset[k] + (rect[i, 3] - 1) // TILE - rect[i, 2] // TILE + 1
    return offset


@njit(cache=True)
def _slots_and_counts(ids, rect, row_offset, span, tiles_x, tiles_y):
    slot = np.empty(span.shape[0] + 1, np.int64)
    slot[0] = 0
    tile_start = np.zeros(tiles_x * tiles_y + 1, np.int64)
    for k in range(ids.shape[0]):
        t = rect[ids[k], 2] // TILE
        for p in range(row_offset[k], row_offset[k + 1]):
            slot[p + 1] = slot[p] + span[p, 1] - span[p, 0]
            for tx in range(span[p, 0], span[p, 1]):
                tile_start[t * tiles_x + tx + 1] += 1
            t += 1
    for t in range(tiles_x * tiles_y):
        tile_start[t + 1] += tile_start[t]
    return slot, tile_start


@njit(parallel=True, cache=True)
def _fill_tiles(ids, rect, row_offset, span, slot, tile_start, tiles_x, tiles_y, list_rank, list_slot):
    bands = min(FILL_BANDS, tiles_y)
    for turn in prange(bands):
        band = np.int64(turn)
        if bands % 3:  # no thread has all of the sky
            band = band * 3 % bands
        low, high = band * tiles_y // bands, (band + 1) * tiles_y // bands
        cursor = tile_start[low * tiles_x : high * tiles_x].copy()
        for k in range(ids.shape[0]):
            t0 = rect[ids[k], 2] // TILE
            for t in range(max(t0, low), min(t0 + row_offset[k + 1] - row_offset[k], high)):
                p = row_offset[k] + t - t0
                first = (t - low) * tiles_x
                for tx in range(span[p, 0], span[p, 1]):
                    place = cursor[first + tx]
                    list_rank[place] = k
                    list_slot[place] = slot[p] + tx - span[p, 0]
                    cursor[first + tx] = place + 1


@njit(parallel=True, cache=True)
def _pack(ids, mean2d, conic, opac, depth, rect, rgb, record):
    for k in prange(ids.shape[0]):
        i = ids[k]
        record[k, 0] = mean2d[i, 0]
        record[k, 1] = mean2d[i, 1]
        record[k, 2] = conic[i, 0]
        record[k, 3] = conic[i, 1]
        record[k, 4] = conic[i, 2]
        record[k, 5] = opac[i]
        record[k, 6] = rgb[k, 0]
        record[k, 7] = rgb[k, 1]
        record[k, 8] = rgb[k, 2]
        record[k, 9] = depth[i]
        record[k, 10] = rect[i, 2]
        record[k, 11] = rect[i, 3]


# ------------------------------------------------------------------------------------------------------- blending
# A row of a tile is one vector of 16 floats. The row functions below are written as vector arithmetic and handed to
# LLVM as such (numba intrinsics), because its loop vectorizer gives up on the equivalent loops; LLVM maps the vectors
# to whatever the machine has (AVX-512, AVX2, SSE, NEON).

_PLANE = TILE * TILE
_LIVE, _FINAL, _R, _G, _B, _Z = (i * _PLANE for i in range(6))  # planes of the forward pass's tile buffer
_BEHIND, _VR, _VG, _VB, _VZ = (i * _PLANE for i in range(1, 6))  # planes of the backward pass's, beside _LIVE
_SUMS = 6 * _PLANE  # lane sums of the backward pass: S0, Sy, Syy, r, g, b, z
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
def _blend_row(typingctx, buf, base, mx, half_a, b_dy, c_dy2, op, r, g, b, z):
    """Blend one splat over the row of the tile buffer at ``base``."""

    def codegen(context, builder, signature, args):
        rows = _Rows(context, builder, signature.args[0], args[0], args[1])
        mx, half_a, b_dy, c_dy2, op, r, g, b, z = (rows.splat(a) for a in args[2:])
        alpha = _gaussian(rows.columns() - mx, half_a, b_dy, c_dy2, op).minimum(ALPHA_MAX)
        alpha = alpha.where(alpha.compare(">=", ALPHA_MIN), 0.0)
        live = rows.load(_LIVE)
        after = live * (1.0 - alpha)
        go = after.compare(">", TRANSMITTANCE_STOP)
        weight = (live * alpha).where(go, 0.0)
        rows.store(_LIVE, after.where(go, 0.0))
        rows.store(_FINAL, after.where(go, rows.load(_FINAL)))
        for plane, value in ((_R, r), (_G, g), (_B, b), (_Z, z)):
            rows.store(plane, rows.load(plane) + weight * value)
        return context.get_dummy_value()

    return types.void(_ARRAY, types.intp, *([_F32] * 9)), codegen


@intrinsic
def _blend_row_backward(typingctx, buf, base, mx, half_a, b_dy, c_dy2, dy, op, r, g, b, z):
    """Replay one splat over a row and add what it contributes to the lane sums."""

    def codegen(context, builder, signature, args):
        rows = _Rows(context, builder, signature.args[0], args[0], args[1])
        mx, half_a, b_dy, c_dy2, dy, op, r, g, b, z = (rows.splat(a) for a in args[2:])
        raw = _gaussian(rows.columns() - mx, half_a, b_dy, c_dy2, op)
        alpha = raw.minimum(ALPHA_MAX)
        alpha = alpha.where(alpha.compare(">=", ALPHA_MIN), 0.0)
        live = rows.load(_LIVE)
        after = live * (1.0 - alpha)
        go = after.compare(">", TRANSMITTANCE_STOP)
        weight = (live * alpha).where(go, 0.0)
        v_r, v_g, v_b, v_z = rows.load(_VR), rows.load(_VG), rows.load(_VB), rows.load(_VZ)
        gain = v_r * r + v_g * g + v_b * b + v_z * z
        behind = rows.load(_BEHIND) - weight * gain
        v_alpha = live * gain - behind / (1.0 - alpha)
        v_sigma = (alpha * v_alpha * -1.0).where(go, 0.0)
        v_sigma = v_sigma.where(raw.compare("<", ALPHA_MAX), 0.0)
        rows.store(_LIVE, after.where(go, 0.0))
        rows.store(_BEHIND, behind)
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
            offset = _SUMS + i * TILE
            rows.store(offset, rows.load(offset, relative=False) + value, relative=False)
        return context.get_dummy_value()

    return types.void(_ARRAY, types.intp, *([_F32] * 10)), codegen


@intrinsic
def _reduce_lanes(typingctx, buf, mx, out, start):
    """Sum the lanes into ``out[start : start + 10]``: S0, Sx, Sy, Sxx, Sxy, Syy, r, g, b, z."""

    def codegen(context, builder, signature, args):
        rows = _Rows(context, builder, signature.args[0], args[0], None)
        target = context.make_array(signature.args[2])(context, builder, args[2]).data
        s0, sy, syy, r, g, b, z = (rows.load(_SUMS + i * TILE, relative=False) for i in range(7))
        dx = rows.columns() - rows.splat(args[1])
        for i, lanes in enumerate((s0, s0 * dx, sy, s0 * dx * dx, sy * dx, syy, r, g, b, z)):
            index = builder.add(args[3], ir.Constant(ir.IntType(64), i))
            builder.store(rows.total(lanes), builder.gep(target, [index]))
        return context.get_dummy_value()

    return types.void(_ARRAY, _F32, _ARRAY, types.intp), codegen


@njit(cache=True)
def _all_done(buf):
    for p in range(_PLANE):
        if buf[p] > 0.0:
            return False
    return True


@njit(parallel=True, cache=True, boundscheck=False)
def _blend(tile_start, list_rank, record, tiles_x, tiles_y, hop, width, height, rgb, depth, trans):
    """Composite front to back; ``depth`` accumulates weight x z, ``trans`` is what remains of the background."""
    half = np.float32(0.5)
    for turn in prange(tiles_x * tiles_y):
        tile = turn * hop % (tiles_x * tiles_y)
        ox, oy = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        buf = np.zeros(6 * _PLANE, np.float32)
        y_end = min(oy + TILE, height)
        columns = min(TILE, width - ox)
        for row in range(y_end - oy):  # pixels outside the image count as done
            for x in range(columns):
                buf[row * TILE + x] = 1.0
                buf[_FINAL + row * TILE + x] = 1.0
        for n in range(tile_start[tile], tile_start[tile + 1]):
            k = list_rank[n]
            mx, my = record[k, 0] - np.float32(ox) - half, record[k, 1] - half
            half_a, b_, half_c = half * record[k, 2], record[k, 3], half * record[k, 4]
            op, r, g, b, z = record[k, 5], record[k, 6], record[k, 7], record[k, 8], record[k, 9]
            for row in range(max(oy, int(record[k, 10])), min(y_end, int(record[k, 11]))):
                dy = np.float32(row) - my
                _blend_row(buf, (row - oy) * TILE, mx, half_a, b_ * dy, half_c * dy * dy, op, r, g, b, z)
            if n & 7 == 7 and _all_done(buf):
                break
        for row in range(oy, y_end):
            for x in range(columns):
                p = (row - oy) * TILE + x
                rgb[row, ox + x, 0] = buf[_R + p]
                rgb[row, ox + x, 1] = buf[_G + p]
                rgb[row, ox + x, 2] = buf[_B + p]
                depth[row, ox + x] = buf[_Z + p]
                trans[row, ox + x] = buf[_FINAL + p]


@njit(parallel=True, cache=True, boundscheck=False)
def _blend_backward(
    tile_start,
    list_rank,
    list_slot,
    record,
    tiles_x,
    tiles_y,
    hop,
    width,
    height,
    v_rgb,
    v_depth,
    behind,
    partial,
):
    """Partial gradients of every (tile, splat) pair.

    ``behind [H,W]`` is the final value of the pixel dotted with its gradient; what a splat adds is taken off it, so that
    what is left is what lies behind the splat.
    """
    half = np.float32(0.5)
    for turn in prange(tiles_x * tiles_y):
        tile = turn * hop % (tiles_x * tiles_y)
        ox, oy = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        buf = np.zeros(6 * _PLANE + 7 * TILE, np.float32)
        y_end = min(oy + TILE, height)
        for row in range(oy, y_end):
            for x in range(min(TILE, width - ox)):
                p = (row - oy) * TILE + x
                buf[_LIVE + p] = 1.0
                buf[_BEHIND + p] = behind[row, ox + x]
                buf[_VR + p] = v_rgb[row, ox + x, 0]
                buf[_VG + p] = v_rgb[row, ox + x, 1]
                buf[_VB + p] = v_rgb[row, ox + x, 2]
                buf[_VZ + p] = v_depth[row, ox + x]
        for n in range(tile_start[tile], tile_start[tile + 1]):
            k = list_rank[n]
            mx, my = record[k, 0] - np.float32(ox) - half, record[k, 1] - half
            half_a, b_, half_c = half * record[k, 2], record[k, 3], half * record[k, 4]
            op, r, g, b, z = record[k, 5], record[k, 6], record[k, 7], record[k, 8], record[k, 9]
            for x in range(7 * TILE):
                buf[_SUMS + x] = 0.0
            for row in range(max(oy, int(record[k, 10])), min(y_end, int(record[k, 11]))):
                dy = np.float32(row) - my
                _blend_row_backward(
                    buf, (row - oy) * TILE, mx, half_a, b_ * dy, half_c * dy * dy, dy, op, r, g, b, z
                )
            _reduce_lanes(buf, mx, partial, np.intp(list_slot[n]) * PARTIAL)
            if n & 7 == 7 and _all_done(buf):
                for rest in range(n + 1, tile_start[tile + 1]):
                    start = np.intp(list_slot[rest]) * PARTIAL
                    partial[start : start + PARTIAL] = 0.0
                break


@njit(parallel=True, cache=True)
def _gather(row_offset, slot, partial, record, v2d, v_rgb):
    """Sum the partial gradients of each visible splat in slot order.

    Column 7 is the sum over tiles of the length of the image-plane gradient: tiles that pull in different directions do
    not cancel, so that it finds splats too large for what they cover (the idea of AbsGS, Ye et al. 2024, by tile).
    """
    for k in prange(v2d.shape[0]):
        s0, sx, sy, sxx, sxy, syy, c0, c1, c2, c3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        pull = 0.0
        for j in range(slot[row_offset[k]], slot[row_offset[k + 1]]):
            s0 += partial[j * PARTIAL + 0]
            sx += partial[j * PARTIAL + 1]
            sy += partial[j * PARTIAL + 2]
            sxx += partial[j * PARTIAL + 3]
            sxy += partial[j * PARTIAL + 4]
            syy += partial[j * PARTIAL + 5]
            c0 += partial[j * PARTIAL + 6]
            c1 += partial[j * PARTIAL + 7]
            c2 += partial[j * PARTIAL + 8]
            c3 += partial[j * PARTIAL + 9]
            px = record[k, 2] * partial[j * PARTIAL + 1] + record[k, 3] * partial[j * PARTIAL + 2]
            py = record[k, 3] * partial[j * PARTIAL + 1] + record[k, 4] * partial[j * PARTIAL + 2]
            pull += math.sqrt(px * px + py * py)
        v2d[k, 0] = -(record[k, 2] * sx + record[k, 3] * sy)
        v2d[k, 1] = -(record[k, 3] * sx + record[k, 4] * sy)
        v2d[k, 2] = 0.5 * sxx
        v2d[k, 3] = sxy
        v2d[k, 4] = 0.5 * syy
        v2d[k, 5] = -s0 / record[k, 5]
        v2d[k, 6] = c3
        v2d[k, 7] = pull
        v_rgb[k, 0] = c0
        v_rgb[k, 1] = c1
        v_rgb[k, 2] = c2


# --------------------------------------------------------------------------------------------------- one camera


@dataclass
class RasterState:
    """What the forward pass of one camera leaves for its backward pass (arrays of ``V`` visible splats, front to back)."""

    view: np.ndarray
    K: np.ndarray
    width: int
    height: int
    antialiased: bool
    ids: np.ndarray
    rect: np.ndarray
    row_offset: np.ndarray
    slot: np.ndarray
    tile_start: np.ndarray
    list_rank: np.ndarray
    list_slot: np.ndarray
    record: np.ndarray
    rgb_visible: np.ndarray
    sh_degree: int | None
    tiles: tuple[int, int]
    mean2d: np.ndarray


@dataclass
class RasterGradients:
    """Gradients of one camera: parameters in full length, image-plane means of the visible splats only.

    ``pull_visible [V]`` is the tile-wise length of the image-plane gradient (see ``_gather``).
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    colors: np.ndarray
    view: np.ndarray | None
    means2d_visible: np.ndarray
    pull_visible: np.ndarray


def _hop(tiles: int) -> int:
    """A step through all tiles that never visits one twice and never stays in one part of the image.

    Threads get equal runs of turns: in the order of the image one would have the sky and another the ground.
    """
    hop = max(1, round(0.618 * tiles))
    while math.gcd(hop, tiles) != 1:
        hop += 1
    return hop


def raster_forward(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    view: np.ndarray,
    K: np.ndarray,
    width: int,
    height: int,
    *,
    near: float = 0.01,
    far: float = 1e10,
    antialiased: bool = True,
    sh_degree: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, RasterState]:
    """Forward pass of one camera on numpy arrays (the trainer calls this directly, without torch).

    Args:
        means: float32 ``[N,3]`` world [m].
        quats: float32 ``[N,4]`` wxyz, any length.
        scales: float32 ``[N,3]`` standard deviations [m].
        opacities: float32 ``[N]`` in 0..1.
        colors: float32 ``[N,3]``, or SH ``[N,K,3]`` where ``sh_degree`` is given.
        view: ``[4,4]`` world to camera.
        K: ``[3,3]`` pixels.
        width: pixels.
        height: pixels.
        near: nearest depth drawn [m].
        far: farthest depth drawn [m].
        antialiased: multiply opacity by the low-pass compensation (Mip-Splatting).
        sh_degree: degree to evaluate, at most that of ``colors``.

    Returns:
        ``rgb [H,W,3]`` without background, ``depth [H,W]`` accumulated weight times z, transmittance ``[H,W]``, state.
    """
    n = means.shape[0]
    view = np.ascontiguousarray(view, np.float64)
    K = np.ascontiguousarray(K, np.float64)
    mean2d = np.empty((n, 2), np.float32)
    conic = np.empty((n, 3), np.float32)
    opac = np.empty(n, np.float32)
    depth = np.zeros(n, np.float32)
    half = np.empty((n, 2), np.float32)
    rect = np.empty((n, 4), np.int32)
    _project(
        means,
        quats,
        scales,
        opacities,
        view,
        K,
        width,
        height,
        near,
        far,
        antialiased,
        mean2d,
        conic,
        opac,
        depth,
        half,
        rect,
    )
    ids = _depth_order(depth, rect)
    row_offset = _row_offsets(ids, rect)
    span = np.empty((int(row_offset[-1]), 2), np.int32)
    _spans(ids, mean2d, conic, opac, half, rect, row_offset, span)
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    slot, tile_start = _slots_and_counts(ids, rect, row_offset, span, tiles_x, tiles_y)
    list_rank = np.empty(int(slot[-1]), np.int32)
    list_slot = np.empty(int(slot[-1]), np.int32)
    _fill_tiles(ids, rect, row_offset, span, slot, tile_start, tiles_x, tiles_y, list_rank, list_slot)
    if sh_degree is None:
        rgb_visible = np.ascontiguousarray(colors[ids])
    else:
        rgb_visible = np.empty((len(ids), 3), np.float32)
        position = -view[:3, :3].T @ view[:3, 3]
        _colors_from_sh(means, colors, sh_degree, position, ids, rgb_visible)
    record = np.empty((len(ids), RECORD), np.float32)
    _pack(ids, mean2d, conic, opac, depth, rect, rgb_visible, record)
    rgb = np.empty((height, width, 3), np.float32)
    depth_sum = np.empty((height, width), np.float32)
    trans = np.empty((height, width), np.float32)
    hop = _hop(tiles_x * tiles_y)
    _blend(tile_start, list_rank, record, tiles_x, tiles_y, hop, width, height, rgb, depth_sum, trans)
    state = RasterState(
        view, K, width, height, antialiased, ids, rect, row_offset, slot, tile_start, list_rank, list_slot, record,
        rgb_visible, sh_degree, (tiles_x, tiles_y), mean2d,
    )  # fmt: skip
    return rgb, depth_sum, trans, state


def raster_backward(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    state: RasterState,
    rgb: np.ndarray,
    depth_sum: np.ndarray,
    trans: np.ndarray,
    v_rgb: np.ndarray,
    v_depth_sum: np.ndarray,
    v_trans: np.ndarray,
    *,
    camera_gradient: bool = False,
) -> RasterGradients:
    """Backward pass of :func:`raster_forward`: gradients of a scalar loss from those of its three images.

    Args:
        means: as in the forward pass; likewise ``quats``, ``scales``, ``opacities``, ``colors``.
        quats: as in the forward pass.
        scales: as in the forward pass.
        opacities: as in the forward pass.
        colors: as in the forward pass.
        state: of the forward pass.
        rgb: image of the forward pass; likewise ``depth_sum`` and ``trans``.
        depth_sum: as ``rgb``.
        trans: as ``rgb``.
        v_rgb: float32 ``[H,W,3]`` gradient of the loss by ``rgb``.
        v_depth_sum: float32 ``[H,W]``.
        v_trans: float32 ``[H,W]``.
        camera_gradient: also give the gradient by the viewmat (rows 0..2).
    """
    ids, count = state.ids, len(state.ids)
    behind = np.einsum("hwc,hwc->hw", rgb, v_rgb)
    behind += depth_sum * v_depth_sum + trans * v_trans
    partial = np.empty(len(state.list_rank) * PARTIAL, np.float32)
    tiles_x, tiles_y = state.tiles
    _blend_backward(
        state.tile_start, state.list_rank, state.list_slot, state.record, tiles_x, tiles_y, _hop(tiles_x * tiles_y),
        state.width, state.height,
        np.ascontiguousarray(v_rgb, np.float32), np.ascontiguousarray(v_depth_sum, np.float32), behind, partial,
    )  # fmt: skip
    v2d = np.empty((count, 8), np.float32)
    v_rgb_visible = np.empty((count, 3), np.float32)
    _gather(state.row_offset, state.slot, partial, state.record, v2d, v_rgb_visible)
    v_means, v_quats, v_scales = np.zeros_like(means), np.zeros_like(quats), np.zeros_like(scales)
    v_opac, v_colors = np.zeros_like(opacities), np.zeros_like(colors)
    chunks = -(-count // CHUNK) if camera_gradient else 0
    v_view_chunks = np.zeros((chunks, 12))
    _project_backward(
        means, quats, scales, opacities, state.view, state.K, state.width, state.height, state.antialiased, ids, v2d,
        v_means, v_quats, v_scales, v_opac, v_view_chunks,
    )  # fmt: skip
    v_position = np.zeros((chunks, 3))
    if state.sh_degree is None:
        v_colors[ids] = v_rgb_visible
    else:
        position = -state.view[:3, :3].T @ state.view[:3, 3]
        _colors_from_sh_backward(
            means,
            colors,
            state.sh_degree,
            position,
            ids,
            state.rgb_visible,
            v_rgb_visible,
            v_means,
            v_colors,
            v_position,
        )
    v_view = None
    if camera_gradient:
        v_view = np.zeros((4, 4))
        v_view[:3] = v_view_chunks.sum(0).reshape(3, 4)
        # position = -Rt t
        g = v_position.sum(0)
        v_view[:3, 3] -= state.view[:3, :3] @ g
        v_view[:3, :3] -= np.outer(state.view[:3, 3], g)
    return RasterGradients(v_means, v_quats, v_scales, v_opac, v_colors, v_view, v2d[:, :2], v2d[:, 7])


# ---------------------------------------------------------------------------------------------------------- torch


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, viewmats, Ks, settings, info):
        arrays = [
            np.ascontiguousarray(t.detach().numpy(), np.float32)
            for t in (means, quats, scales, opacities, colors)
        ]
        views, intrinsics = viewmats.detach().numpy(), Ks.detach().numpy()
        frames = [raster_forward(*arrays, v, k, **settings) for v, k in zip(views, intrinsics)]
        ctx.arrays, ctx.frames, ctx.info = arrays, frames, info
        ctx.dtypes = [t.dtype for t in (means, quats, scales, opacities, colors, viewmats)]
        visible = np.zeros((len(frames), len(means)), bool)
        radii = np.zeros((len(frames), len(means), 2), np.int32)
        means2d = np.zeros((len(frames), len(means), 2), np.float32)
        for c, frame in enumerate(frames):
            state = frame[3]
            visible[c, state.ids] = True
            radii[c, state.ids] = np.ceil(0.5 * (state.rect[state.ids, 1::2] - state.rect[state.ids, 0::2]))
            means2d[c, state.ids] = state.mean2d[state.ids]
        info["visible"] = torch.from_numpy(visible)
        info["radii"] = torch.from_numpy(radii)
        info["means2d"] = torch.from_numpy(means2d)
        return tuple(torch.from_numpy(np.stack([f[i] for f in frames])) for i in range(3))

    @staticmethod
    def backward(ctx, v_rgb, v_depth, v_trans):
        total: list[np.ndarray] = [np.zeros_like(a) for a in ctx.arrays]
        want_camera = ctx.needs_input_grad[5]
        v_views = np.zeros((len(ctx.frames), 4, 4))
        v_means2d = np.zeros((len(ctx.frames), len(ctx.arrays[0]), 2), np.float32)
        pull = np.zeros((len(ctx.frames), len(ctx.arrays[0])), np.float32)
        for c, (rgb, depth_sum, trans, state) in enumerate(ctx.frames):
            g = raster_backward(
                *ctx.arrays, state, rgb, depth_sum, trans, v_rgb[c].numpy(), v_depth[c].numpy(), v_trans[c].numpy(),
                camera_gradient=want_camera,
            )  # fmt: skip
            for t, v in zip(total, (g.means, g.quats, g.scales, g.opacities, g.colors)):
                t += v
            if want_camera:
                v_views[c] = g.view
            v_means2d[c, state.ids] = g.means2d_visible
            pull[c, state.ids] = g.pull_visible
        ctx.info["means2d_grad"] = torch.from_numpy(v_means2d)
        ctx.info["means2d_pull"] = torch.from_numpy(pull)
        out = [torch.from_numpy(t).to(d) for t, d in zip(total, ctx.dtypes)]
        return (*out, torch.from_numpy(v_views).to(ctx.dtypes[5]) if want_camera else None, None, None, None)


def rasterize(
    means: torch.Tensor,
    quats_wxyz: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    colors: torch.Tensor,
    viewmats: torch.Tensor,
    Ks: torch.Tensor,
    width: int,
    height: int,
    *,
    near: float = 0.01,
    far: float = 1e10,
    antialiased: bool = True,
    background: torch.Tensor | None = None,
    sh_degree: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Draw splats from several cameras, differentiably, with the conventions of gsplat 1.5.3.

    Args:
        means: ``[N,3]`` centres, world [m].
        quats_wxyz: ``[N,4]`` rotations, normalized inside.
        scales: ``[N,3]`` standard deviations [m].
        opacities: ``[N]`` in 0..1.
        colors: ``[N,3]`` RGB, or SH coefficients ``[N,K,3]`` where ``sh_degree`` is given.
        viewmats: ``[C,4,4]`` world to camera (OpenCV: +X right, +Y down, +Z forward).
        Ks: ``[C,3,3]`` intrinsics [px]; no gradient.
        width: image width [px].
        height: image height [px].
        near: nearest depth drawn [m].
        far: farthest depth drawn [m].
        antialiased: multiply opacity by the low-pass compensation.
        background: ``[3]`` or ``[C,3]`` colour behind the splats; black when None.
        sh_degree: degree to evaluate (0..3), at most the degree that ``colors`` holds.

    Returns:
        ``rgb [C,H,W,3]``, ``alpha [C,H,W]``, ``depth [C,H,W]`` expected depth along +Z [m] (0 where nothing was hit),
        and ``info``: ``visible [C,N]``, ``radii [C,N,2]`` [px], ``means2d [C,N,2]`` [px] and, after ``backward()``,
        ``means2d_grad [C,N,2]`` and ``means2d_pull [C,N]`` (summed lengths by tile), from which densification reads.

    Raises:
        InputError: if shapes do not fit together or a tensor is not on the CPU.

    Source: Kerbl et al. 2023 (arXiv 2308.04079) for the rasterizer, Yu et al. 2024 (arXiv 2311.16493) for the
    compensation, Ye et al. 2024 (arXiv 2409.06765, appendix) for the gradients of the projection.
    """
    _check(means, quats_wxyz, scales, opacities, colors, viewmats, Ks, sh_degree)
    info: dict[str, torch.Tensor] = {}
    settings = {
        "width": int(width),
        "height": int(height),
        "near": float(near),
        "far": float(far),
        "antialiased": bool(antialiased),
        "sh_degree": sh_degree,
    }
    rgb, depth_sum, trans = _Rasterize.apply(
        means, quats_wxyz, scales, opacities, colors, viewmats, Ks, settings, info
    )  # type: ignore[misc]
    alpha = 1.0 - trans
    depth = torch.where(alpha > 0, depth_sum / alpha.clamp_min(1e-10), torch.zeros_like(alpha))
    if background is not None:
        rgb = rgb + trans[..., None] * background.to(rgb.dtype).reshape(-1, 1, 1, 3)
    return rgb, alpha, depth, info


def _check(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree) -> None:
    n, c = len(means), len(viewmats)
    wanted = {
        "means": (means, (n, 3)),
        "quats_wxyz": (quats, (n, 4)),
        "scales": (scales, (n, 3)),
        "opacities": (opacities, (n,)),
        "viewmats": (viewmats, (c, 4, 4)),
        "Ks": (Ks, (c, 3, 3)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise InputError(f"rasterize: {name} has shape {tuple(tensor.shape)}, expected {shape}.")
        if tensor.device.type != "cpu":
            raise InputError(f"rasterize: {name} lies on {tensor.device}, expected the CPU.")
    if sh_degree is None:
        if tuple(colors.shape) != (n, 3):
            raise InputError(
                f"rasterize: colors has shape {tuple(colors.shape)}, expected {(n, 3)} without sh_degree."
            )
    elif colors.ndim != 3 or colors.shape[0] != n or colors.shape[2] != 3 or not 0 <= sh_degree <= 3:
        raise InputError(
            f"rasterize: colors has shape {tuple(colors.shape)}, sh_degree {sh_degree}; expected [N,K,3], 0..3."
        )
    elif colors.shape[1] < (sh_degree + 1) ** 2:
        raise InputError(f"rasterize: {colors.shape[1]} SH bases in colors cannot give degree {sh_degree}.")


def set_threads(count: int) -> None:
    """Limit the threads of the kernels to ``count`` (at most the number numba started with)."""
    numba.set_num_threads(max(1, min(count, numba.config.NUMBA_NUM_THREADS)))
