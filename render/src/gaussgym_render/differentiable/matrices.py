# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Small matrices as tuples, and what projection needs of a camera: nothing is allocated inside the parallel loops."""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from numba import njit

# 3x3 matrices are row-major tuples of nine scalars: no allocation inside the parallel loops.


@njit(cache=True)
def mul(a, b):
    """Product of two 3x3 matrices."""
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
def transpose(a):
    """Of a 3x3 matrix."""
    return (a[0], a[3], a[6], a[1], a[4], a[7], a[2], a[5], a[8])


@njit(cache=True)
def rotation(w, x, y, z):
    """Matrix of a unit quaternion."""
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
def rotation_backward(w, x, y, z, v):
    """Gradient by the quaternion of a loss whose gradient by its matrix is ``v``."""
    vw = 2.0 * (-z * v[1] + y * v[2] + z * v[3] - x * v[5] - y * v[6] + x * v[7])
    vx = 2.0 * (y * v[1] + z * v[2] + y * v[3] - 2 * x * v[4] - w * v[5] + z * v[6] + w * v[7] - 2 * x * v[8])
    vy = 2.0 * (
        -2 * y * v[0] + x * v[1] + w * v[2] + x * v[3] + z * v[5] - w * v[6] + z * v[7] - 2 * y * v[8]
    )
    vz = 2.0 * (
        -2 * z * v[0] - w * v[1] + x * v[2] + w * v[3] - 2 * z * v[4] + y * v[5] + x * v[6] + y * v[7]
    )
    return vw, vx, vy, vz


@njit(cache=True)
def camera_point(view, m0, m1, m2):
    """A world point in the camera frame [m]."""
    x = view[0, 0] * m0 + view[0, 1] * m1 + view[0, 2] * m2 + view[0, 3]
    y = view[1, 0] * m0 + view[1, 1] * m1 + view[1, 2] * m2 + view[1, 3]
    z = view[2, 0] * m0 + view[2, 1] * m1 + view[2, 2] * m2 + view[2, 3]
    return x, y, z


@njit(cache=True)
def tangent_limits(K, width, height):
    """Limits of x/z and y/z within which the local affine approximation is evaluated (image + 30 % of its tangent)."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    mx = 0.3 * 0.5 * width / fx
    my = 0.3 * 0.5 * height / fy
    return -(cx / fx + mx), (width - cx) / fx + mx, -(cy / fy + my), (height - cy) / fy + my
