# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Splats to ellipses in the image, and the gradient of that."""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.
# ruff: noqa: ANN001, ANN201, RUF046

from __future__ import annotations

import math

from numba import njit, prange

from gaussgym_render.differentiable.constants import ALPHA_MIN, CHUNK, COMPENSATION_MIN, EPS2D_PX2
from gaussgym_render.differentiable.matrices import (
    camera_point,
    mul,
    rotation,
    rotation_backward,
    tangent_limits,
    transpose,
)


@njit(parallel=True, cache=True, error_model="numpy")
def project(
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
    lx0, lx1, ly0, ly1 = tangent_limits(K, width, height)
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
        x, y, z = camera_point(view, float(means[i, 0]), float(means[i, 1]), float(means[i, 2]))
        op = float(opacities[i])
        if not (z >= near and z <= far) or not (op >= ALPHA_MIN):
            continue
        qw, qx, qy, qz = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
        q_norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        if not (q_norm > 0.0):
            continue
        R = mul(W, rotation(qw / q_norm, qx / q_norm, qy / q_norm, qz / q_norm))
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
def project_backward(
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
    lx0, lx1, ly0, ly1 = tangent_limits(K, width, height)
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
    Wt = transpose(W)
    count = ids.shape[0]
    for chunk in prange((count + CHUNK - 1) // CHUNK):
        for k in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK)):
            i = ids[k]
            m0, m1, m2 = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
            x, y, z = camera_point(view, m0, m1, m2)
            qw, qx, qy, qz = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
            q_norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
            qw, qx, qy, qz = qw / q_norm, qx / q_norm, qy / q_norm, qz / q_norm
            Rq = rotation(qw, qx, qy, qz)
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
            cov_w = mul(M, transpose(M))
            cov_c = mul(mul(W, cov_w), Wt)
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
            GW = mul(G, W)
            v_cov = mul(Wt, GW)
            vM = mul(v_cov, M)
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
            vqw, vqx, vqy, vqz = rotation_backward(qw, qx, qy, qz, vR)
            dot = vqw * qw + vqx * qx + vqy * qy + vqz * qz
            v_quats[i, 0] += (vqw - dot * qw) / q_norm
            v_quats[i, 1] += (vqx - dot * qx) / q_norm
            v_quats[i, 2] += (vqy - dot * qy) / q_norm
            v_quats[i, 3] += (vqz - dot * qz) / q_norm
            if v_view_chunks.shape[0] > 0:
                vW = mul(GW, cov_w)
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
