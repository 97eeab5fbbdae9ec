"""Rotations on the CPU, one pass a base; `gaussgym_sim.frames.BaseFrame`'s tensor code is the twin."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import math

import numba


@numba.njit(cache=True, nogil=True)
def base_frame(r, e, quat, vector_w, yaw, gravity_b, vector_b):
    """What the quaternion in row ``r`` says, into row ``e`` of the last three arguments."""
    w, x, y, z = quat[r, 0], quat[r, 1], quat[r, 2], quat[r, 3]
    m00, m01, m02 = w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)
    m10, m11, m12 = 2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)
    m20, m21, m22 = 2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z
    yaw[e] = math.atan2(m10, m00)
    gravity_b[e, 0], gravity_b[e, 1], gravity_b[e, 2] = -m20, -m21, -m22
    a, b, c = vector_w[r, 0], vector_w[r, 1], vector_w[r, 2]
    vector_b[e, 0] = a * m00 + b * m10 + c * m20
    vector_b[e, 1] = a * m01 + b * m11 + c * m21
    vector_b[e, 2] = a * m02 + b * m12 + c * m22


@numba.njit(cache=True, nogil=True)
def base_frames(quat, vector_w, yaw, gravity_b, vector_b):
    """`gaussgym_sim.frames.BaseFrame`; the last three arguments are outputs."""
    for e in range(len(quat)):
        base_frame(e, e, quat, vector_w, yaw, gravity_b, vector_b)
