"""Observations on the CPU: one pass an env. `gaussgym_sim.sensors.observations.Observations` has the same as tensor code."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def gather_scaled(ang_vel_b, gravity_b, command, offset, joint_vel, action, scale, out):
    """Terms of `proprio_terms` side by side in ``out`` [E, P], times ``scale`` [P]."""
    joints = offset.shape[1]
    for e in range(len(out)):
        for k in range(3):
            out[e, k] = ang_vel_b[e, k] * scale[k]
            out[e, 3 + k] = gravity_b[e, k] * scale[3 + k]
            out[e, 6 + k] = command[e, k] * scale[6 + k]
        for k in range(joints):
            out[e, 9 + k] = offset[e, k] * scale[9 + k]
            out[e, 9 + joints + k] = joint_vel[e, k] * scale[9 + joints + k]
            out[e, 9 + 2 * joints + k] = action[e, k] * scale[9 + 2 * joints + k]


@numba.njit(cache=True, nogil=True)
def clipped_heights(pos_w, ground, nominal_m, clip_m, scale, out):
    """See `Observations.scan`; on planes ``ground`` is one value a row, expanded."""
    nominal_m, clip_m, scale = np.float32(nominal_m), np.float32(clip_m), np.float32(scale)
    flat = ground.strides[1] == 0
    for e in range(len(out)):
        base = pos_w[e, 2] - nominal_m
        if flat:
            out[e] = min(max(base - ground[e, 0], -clip_m), clip_m) * scale
            continue
        for k in range(out.shape[1]):
            out[e, k] = min(max(base - ground[e, k], -clip_m), clip_m) * scale


@numba.njit(cache=True, nogil=True)
def _mixed(x, key):
    """The finalizer of MurmurHash3 (Appleby), with a key in its middle: 32 bits each."""
    x = np.uint32(x ^ (x >> np.uint32(16)))
    x = np.uint32(np.uint32(x * np.uint32(0x85EBCA6B)) ^ key)
    x = np.uint32(x ^ (x >> np.uint32(13)))
    x = np.uint32(x * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


@numba.njit(cache=True, nogil=True)
def add_noise(seed, amplitude, out):
    """Add uniform noise of ``amplitude`` [1 or E, P] to ``out`` [E, P]; it follows from ``seed`` (62 bits) and place alone."""
    first, key = np.uint32(seed & 0x7FFFFFFF), np.uint32(seed >> 31)
    columns = out.shape[1]
    for e in range(len(out)):
        row = amplitude[e if len(amplitude) > 1 else 0]
        start = np.uint32(first + np.uint32(e * columns))
        for k in range(columns):
            bits = _mixed(np.uint32(start + np.uint32(k)), key)
            unit = np.float32(np.int32(bits >> np.uint32(8))) * np.float32(2.0**-23) - np.float32(1.0)
            out[e, k] += row[k] * unit
