# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""What measured depth says to the splats: where their surface lies, and which way it faces."""

from __future__ import annotations

import cv2
import numpy as np
from gaussgym_scene.cameras import Intrinsics
from numba import njit, prange
from numpy.typing import NDArray

Floats = NDArray[np.floating]

NEAR_FRACTION = 0.05
"""A splat whose depth differs from the measured one by less lies on the measured surface."""


@njit(parallel=True, cache=True, error_model="numpy")
def _depth_slopes(depth, trans, measured, weight, v_depth, v_trans):
    """Gradients of the depth loss by accumulated depth and transmittance; errors beyond 2 % pull no harder."""
    for i in prange(depth.shape[0]):
        for j in range(depth.shape[1]):
            v_depth[i, j] = 0.0
            v_trans[i, j] = 0.0
            z, alpha = measured[i, j], np.float32(1.0) - trans[i, j]
            if z > 0.0 and alpha > 0.5:
                expected = depth[i, j] / alpha
                slope = weight * min(max((expected - z) / (np.float32(0.02) * z), -1.0), 1.0) / z
                v_depth[i, j] = slope / alpha
                v_trans[i, j] = slope * expected / alpha


@njit(parallel=True, cache=True, error_model="numpy")
def _normal_slopes(ids, means, quats, scales, view, K, measured, normals, weight, v_quats):
    """Add the gradients of ``weight * sum (1 - (a n)^2)`` by the quaternions, ``a`` the shortest axis of a splat."""
    height, width = measured.shape
    for k in prange(len(ids)):
        i = ids[k]
        x, y, z = means[i, 0], means[i, 1], means[i, 2]
        cx = view[0, 0] * x + view[0, 1] * y + view[0, 2] * z + view[0, 3]
        cy = view[1, 0] * x + view[1, 1] * y + view[1, 2] * z + view[1, 3]
        cz = view[2, 0] * x + view[2, 1] * y + view[2, 2] * z + view[2, 3]
        if cz <= 0.0:
            continue
        column, row = int(K[0, 0] * cx / cz + K[0, 2]), int(K[1, 1] * cy / cz + K[1, 2])
        if column < 0 or column >= width or row < 0 or row >= height:
            continue
        there = measured[row, column]
        if not (there > 0.0 and abs(cz - there) < NEAR_FRACTION * there):
            continue
        n0, n1, n2 = normals[row, column, 0], normals[row, column, 1], normals[row, column, 2]
        low = 0
        for a in range(1, 3):
            if scales[i, a] < scales[i, low]:
                low = a
        w, p, q, r = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
        length = np.sqrt(w * w + p * p + q * q + r * r)
        w, p, q, r = w / length, p / length, q / length, r / length
        # The axis is column ``low`` of the rotation; d0..d3 are its products with n, differentiated by w, x, y, z.
        if low == 0:
            a0, a1, a2 = 1 - 2 * (q * q + r * r), 2 * (p * q + w * r), 2 * (p * r - w * q)
            d0 = 2 * (r * n1 - q * n2)
            d1 = 2 * (q * n1 + r * n2)
            d2 = 2 * (-2 * q * n0 + p * n1 - w * n2)
            d3 = 2 * (-2 * r * n0 + w * n1 + p * n2)
        elif low == 1:
            a0, a1, a2 = 2 * (p * q - w * r), 1 - 2 * (p * p + r * r), 2 * (q * r + w * p)
            d0 = 2 * (-r * n0 + p * n2)
            d1 = 2 * (q * n0 - 2 * p * n1 + w * n2)
            d2 = 2 * (p * n0 + r * n2)
            d3 = 2 * (-w * n0 - 2 * r * n1 + q * n2)
        else:
            a0, a1, a2 = 2 * (p * r + w * q), 2 * (q * r - w * p), 1 - 2 * (p * p + q * q)
            d0 = 2 * (q * n0 - p * n1)
            d1 = 2 * (r * n0 - w * n1 - 2 * p * n2)
            d2 = 2 * (w * n0 + r * n1 - 2 * q * n2)
            d3 = 2 * (p * n0 + q * n1)
        slope = -2.0 * weight * (a0 * n0 + a1 * n1 + a2 * n2)
        along = d0 * w + d1 * p + d2 * q + d3 * r
        v_quats[i, 0] += slope * (d0 - along * w) / length
        v_quats[i, 1] += slope * (d1 - along * p) / length
        v_quats[i, 2] += slope * (d2 - along * q) / length
        v_quats[i, 3] += slope * (d3 - along * r) / length


def depth_slopes(
    depth: Floats, trans: Floats, measured_m: Floats | None, weight: float
) -> tuple[Floats, Floats]:
    """Gradients of ``weight * mean huber(|z - z_measured| / z_measured)``.

    Args:
        depth: ``[H, W]`` weight times z, summed.
        trans: ``[H, W]`` transmittance.
        measured_m: ``[H, W]`` [m], 0 where nothing was measured; None for no depth at all.
        weight: Of the loss.

    Returns:
        By ``depth`` and by ``trans``.
    """
    if measured_m is None or weight <= 0:
        return np.zeros_like(depth), np.zeros_like(trans)
    v_depth, v_trans = np.empty_like(depth), np.empty_like(trans)
    _depth_slopes(depth, trans, measured_m, np.float32(weight / depth.size), v_depth, v_trans)
    return v_depth, v_trans


def add_normal_slopes(
    ids: NDArray, means: Floats, quats: Floats, scales: Floats, worldview: Floats, camera: Intrinsics,
    measured_m: Floats, normals_w: Floats, weight: float, v_quats: Floats,
) -> None:  # fmt: skip
    """Add to ``v_quats`` the gradient of ``weight * mean (1 - (axis . normal)^2)`` over visible splats on a measured surface.

    Args:
        ids: Visible splats.
        means: ``[N, 3]`` [m].
        quats: ``[N, 4]`` wxyz.
        scales: ``[N, 3]`` [m]; the shortest says which axis is meant.
        worldview: World to camera ``[4, 4]``.
        camera: Of the size of ``measured_m``.
        measured_m: ``[H, W]`` depth along +Z [m], 0 = unknown.
        normals_w: ``[H, W, 3]`` unit, either side.
        weight: Of the loss.
        v_quats: ``[N, 4]``, added to.
    """
    if len(ids):
        _normal_slopes(
            ids, means, quats, scales, worldview, camera.K, measured_m, normals_w, np.float32(weight / len(ids)), v_quats
        )  # fmt: skip


def normals_of_depth(depth_m: Floats, camera: Intrinsics, c2w: NDArray[np.float64]) -> NDArray[np.float32]:
    """Unit normals in the world, ``[H, W, 3]``, of a depth image; zero where a neighbour is missing or beyond an edge.

    Args:
        depth_m: ``[H, W]`` along +Z [m], 0 = unknown.
        camera: Pinhole camera of that image.
        c2w: Camera to world ``[4, 4]``.
    """
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    points = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    points = (points * depth_m[..., None]) @ c2w[:3, :3].T
    right, left = np.roll(points, -1, 1), np.roll(points, 1, 1)
    below, above = np.roll(points, -1, 0), np.roll(points, 1, 0)
    normal = np.cross(below - above, right - left)
    length = np.linalg.norm(normal, axis=-1)
    whole = (depth_m > 0) & (length > 0)
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        beside = np.roll(depth_m, shift, axis)
        whole &= (beside > 0) & (np.abs(beside - depth_m) < NEAR_FRACTION * depth_m)
    whole[[0, -1]] = whole[:, [0, -1]] = False
    return np.where(whole[..., None], normal / np.maximum(length, 1e-12)[..., None], 0).astype(np.float32)


class MeasuredSurfaces:
    """Measured depths of views, and their normals, at the size of any pyramid level.

    Args:
        depths_m: ``[h, w]`` by view, 0 = unknown, any size.
        normals_w: ``[h, w, 3]`` by view; where a view has none, its normals come from the depth itself.
    """

    def __init__(self, depths_m: dict[int, Floats], normals_w: dict[int, Floats] | None = None) -> None:
        self._depths = depths_m
        self._normals = normals_w or {}
        self._made: dict[int, NDArray[np.float32]] = {}

    def depth(self, index: int, camera: Intrinsics) -> NDArray[np.float32] | None:
        """``[H, W]`` [m], 0 = unknown, or None where the view has none."""
        found = self._depths.get(index)
        return None if found is None else _resized(found, camera)

    def normals(self, index: int, camera: Intrinsics, c2w: NDArray[np.float64]) -> NDArray[np.float32]:
        """``[H, W, 3]`` in the world; zero where unknown. Only of views that have a depth."""
        if index not in self._normals and index not in self._made:
            depth = self._depths[index]
            own = camera.resized(depth.shape[1], depth.shape[0])
            self._made[index] = normals_of_depth(depth, own, c2w)
        found = self._normals.get(index, self._made.get(index))
        assert found is not None
        return _resized(found, camera)


def _resized(image: Floats, camera: Intrinsics) -> NDArray[np.float32]:
    size = (camera.width, camera.height)
    return np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.float32)
