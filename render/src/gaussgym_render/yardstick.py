"""The yardstick of benchmarks: a plain renderer, as a competent engineer writes it in an afternoon.

One camera after the other, all cores over cameras. For each: project all splats one by one in float32, comparison-sort the
visible ones by depth, blend each over its bounding box. Compiled with numba, antialiased, view-dependent, and correct (a test
holds it to the oracle), but nothing in it is clever: `gaussgym_render.cpu` is measured against it.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from gaussgym_scene import Splats
from gaussgym_scene.frames import matrix_from_quat_wxyz
from numpy.typing import NDArray

from gaussgym_render import harmonics, oracle
from gaussgym_render.cpu import available_cores

_F = np.float32
_EPS_2D, _MIN_ALPHA, _MAX_ALPHA = _F(oracle.EPS_2D), _F(oracle.MIN_ALPHA), _F(oracle.MAX_ALPHA)
_MIN_T, _MIN_COMPENSATION = _F(oracle.MIN_TRANSMITTANCE), _F(oracle.MIN_COMPENSATION)
_MAX_EXTENT, _TAN_MARGIN = _F(oracle.MAX_EXTENT), _F(oracle.TAN_MARGIN)
_C0, _C1 = _F(harmonics.C0), _F(harmonics.C1)
_C2, _C3 = tuple(map(_F, harmonics.C2)), tuple(map(_F, harmonics.C3))
_COLUMNS = 10  # u, v, conic (xx, xy, yy), opacity, half width and height of the box, depth, index


@numba.njit(cache=True, nogil=True, fastmath=True)
def _basis(x, y, z, weights):
    """The SH basis up to degree 3 at a unit direction."""
    xx, yy, zz = x * x, y * y, z * z
    weights[0] = _C0
    weights[1], weights[2], weights[3] = -_C1 * y, _C1 * z, -_C1 * x
    weights[4], weights[5], weights[6] = _C2[0] * x * y, _C2[1] * y * z, _C2[2] * (_F(2) * zz - xx - yy)
    weights[7], weights[8] = _C2[3] * x * z, _C2[4] * (xx - yy)
    weights[9], weights[10] = _C3[0] * y * (_F(3) * xx - yy), _C3[1] * x * y * z
    weights[11] = _C3[2] * y * (_F(4) * zz - xx - yy)
    weights[12] = _C3[3] * z * (_F(2) * zz - _F(3) * xx - _F(3) * yy)
    weights[13] = _C3[4] * x * (_F(4) * zz - xx - yy)
    weights[14], weights[15] = _C3[5] * z * (xx - yy), _C3[6] * x * (xx - _F(3) * yy)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _project_splat(mean, covariance, opacity, view, k, size, near, row):
    """EWA projection of one splat into `row [10]`; whether it can touch the image."""
    dx, dy, dz = mean[0] - view[0, 3], mean[1] - view[1, 3], mean[2] - view[2, 3]
    x = view[0, 0] * dx + view[1, 0] * dy + view[2, 0] * dz
    y = view[0, 1] * dx + view[1, 1] * dy + view[2, 1] * dz
    z = view[0, 2] * dx + view[1, 2] * dy + view[2, 2] * dz
    if z < near:
        return False
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    margin_x, margin_y = _TAN_MARGIN * _F(0.5) * size[0] / fx, _TAN_MARGIN * _F(0.5) * size[1] / fy
    tx = min(max(x / z, -(cx / fx + margin_x)), (size[0] - cx) / fx + margin_x)
    ty = min(max(y / z, -(cy / fy + margin_y)), (size[1] - cy) / fy + margin_y)
    # Rows of J W, in the world frame.
    a0, a1, a2 = (
        fx / z * (view[0, 0] - tx * view[0, 2]),
        fx / z * (view[1, 0] - tx * view[1, 2]),
        fx / z * (view[2, 0] - tx * view[2, 2]),
    )
    b0, b1, b2 = (
        fy / z * (view[0, 1] - ty * view[0, 2]),
        fy / z * (view[1, 1] - ty * view[1, 2]),
        fy / z * (view[2, 1] - ty * view[2, 2]),
    )
    c = covariance
    p0, p1, p2 = (
        c[0] * a0 + c[1] * a1 + c[2] * a2,
        c[1] * a0 + c[3] * a1 + c[4] * a2,
        c[2] * a0 + c[4] * a1 + c[5] * a2,
    )
    q0, q1, q2 = (
        c[0] * b0 + c[1] * b1 + c[2] * b2,
        c[1] * b0 + c[3] * b1 + c[4] * b2,
        c[2] * b0 + c[4] * b1 + c[5] * b2,
    )
    xx, xy, yy = a0 * p0 + a1 * p1 + a2 * p2, a0 * q0 + a1 * q1 + a2 * q2, b0 * q0 + b1 * q1 + b2 * q2
    sharp = max(xx * yy - xy * xy, _F(0))
    xx, yy = xx + _EPS_2D, yy + _EPS_2D
    det = xx * yy - xy * xy
    opacity = opacity * max(np.sqrt(sharp / det), _MIN_COMPENSATION)
    if opacity < _MIN_ALPHA:
        return False
    extent = min(_MAX_EXTENT, np.sqrt(_F(2) * np.log(opacity / _MIN_ALPHA)))
    u, v = fx * x / z + cx, fy * y / z + cy
    half_x, half_y = np.ceil(extent * np.sqrt(xx)), np.ceil(extent * np.sqrt(yy))
    if u + half_x <= 0 or u - half_x >= size[0] or v + half_y <= 0 or v - half_y >= size[1]:
        return False
    row[0], row[1], row[2], row[3], row[4] = u, v, yy / det, -xy / det, xx / det
    row[5], row[6], row[7], row[8] = opacity, half_x, half_y, z
    return True


@numba.njit(cache=True, nogil=True, fastmath=True)
def _color(mean, sh, view, weights, color):
    """Colour of one splat seen from the camera."""
    dx, dy, dz = mean[0] - view[0, 3], mean[1] - view[1, 3], mean[2] - view[2, 3]
    scale = _F(1) / np.sqrt(dx * dx + dy * dy + dz * dz)
    _basis(dx * scale, dy * scale, dz * scale, weights)
    for channel in range(3):
        total = _F(0.5)
        for i in range(sh.shape[0]):
            total += weights[i] * sh[i, channel]
        color[channel] = max(total, _F(0))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _blend_splat(row, color, rgb, depth, left, done):
    """Blend one splat over its bounding box."""
    height, width = left.shape
    u, v = row[0], row[1]
    x0, x1 = max(int(np.floor(u - row[6])), 0), min(int(np.ceil(u + row[6])), width)
    y0, y1 = max(int(np.floor(v - row[7])), 0), min(int(np.ceil(v + row[7])), height)
    for y in range(y0, y1):
        dy = _F(y) + _F(0.5) - v
        for x in range(x0, x1):
            if done[y, x]:
                continue
            dx = _F(x) + _F(0.5) - u
            power = _F(0.5) * (row[2] * dx * dx + row[4] * dy * dy) + row[3] * dx * dy
            alpha = min(_MAX_ALPHA, row[5] * np.exp(-power))
            if alpha < _MIN_ALPHA:
                continue
            after = left[y, x] * (_F(1) - alpha)
            if after <= _MIN_T:
                done[y, x] = True
                continue
            weight = left[y, x] * alpha
            for channel in range(3):
                rgb[y, x, channel] += weight * color[channel]
            depth[y, x] += weight * row[8]
            left[y, x] = after


@numba.njit(cache=True, nogil=True, fastmath=True)
def _render_camera(scene, view, k, near, background, frame):
    """Render one camera of one scene."""
    means, covariances, opacities, sh = scene
    out_rgb, out_depth, out_alpha = frame
    height, width = out_alpha.shape
    size = (_F(width), _F(height))
    rows = np.empty((len(means), _COLUMNS), np.float32)
    index = np.empty(len(means), np.int64)
    count = 0
    for i in range(len(means)):
        if _project_splat(means[i], covariances[i], opacities[i], view, k, size, near, rows[count]):
            index[count] = i
            count += 1
    rgb, depth = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    left, done = np.ones((height, width), np.float32), np.zeros((height, width), np.bool_)
    color, weights = np.empty(3, np.float32), np.empty(16, np.float32)
    for i in np.argsort(rows[:count, 8]):
        _color(means[index[i]], sh[index[i]], view, weights, color)
        _blend_splat(rows[i], color, rgb, depth, left, done)
    for y in range(height):
        for x in range(width):
            alpha = _F(1) - left[y, x]
            for channel in range(3):
                value = rgb[y, x, channel] + left[y, x] * background[channel]
                out_rgb[y, x, channel] = np.uint8(min(max(value, _F(0)), _F(1)) * _F(255) + _F(0.5))
            out_depth[y, x] = depth[y, x] / alpha if alpha > 0 else _F(0)
            out_alpha[y, x] = alpha


class Yardstick:
    """The plain renderer with the interface of a backend (`gaussgym_render.backends.Rasterizer`), without objects.

    Args:
        scenes: The scenes; their covariances are computed once.
        near: Nearest depth of a splat's mean [m].
        num_threads: Threads over cameras; None: all cores.
    """

    def __init__(
        self, scenes: Sequence[Splats], *, near: float = 0.01, num_threads: int | None = None
    ) -> None:
        self.near, self.num_threads = _F(near), num_threads or available_cores()
        self.scenes = [_scene_arrays(scene) for scene in scenes]

    def render(
        self,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        scene_ids: NDArray[np.int64],
        cameras: NDArray[np.int64],
        background: NDArray[np.float32],
        frames: tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        """See `gaussgym_render.cpu.CpuRasterizer.render`."""
        views, intrinsics = c2w.astype(np.float32), ks.astype(np.float32)

        def one(c: int) -> None:
            frame = tuple(image[c] for image in frames)
            scene = self.scenes[scene_ids[c]]
            _render_camera(scene, views[c], intrinsics[c], self.near, background, frame)

        first, *others = cameras.tolist()
        one(first)  # compiles, in one thread
        with ThreadPoolExecutor(self.num_threads) as pool:
            list(pool.map(one, others))


def _scene_arrays(splats: Splats) -> tuple[NDArray[Any], ...]:
    """Means, covariances (xx, xy, xz, yy, yz, zz), opacities and SH coefficients of a scene."""
    factor = matrix_from_quat_wxyz(splats.quats_wxyz.astype(np.float64)) * splats.scales[:, None, :]
    covariances = (factor @ factor.transpose(0, 2, 1)).reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]]
    arrays = (splats.means, covariances, splats.opacities, splats.sh)
    return tuple(np.ascontiguousarray(array, np.float32) for array in arrays)
