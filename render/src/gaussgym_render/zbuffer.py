"""Triangles of posed objects into a depth buffer, one tile of one camera at a time, compiled by numba.

Homogeneous rasterization (Olano and Greer, 1997): with the corners a, b, c in the camera frame and the ray d = (x, y, 1) of a
pixel centre, the ray meets the triangle where d·(b×c), d·(c×a) and d·(a×b) have the sign of the volume, and the triangle's plane
at depth N·a / N·d. Nothing is divided by a corner's depth, so that triangles which cross the camera's plane need no clipping.
All in float64: neighbours' shared edges are the same number with opposite signs, so that there are no gaps between them.

Compiled into the kernels of `cpu`, whose cache does not notice a change here: then delete `__pycache__`.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202
# Intrinsics get their typing context from numba, not from the caller.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import numba
import numpy as np

from gaussgym_render import lanes

_SLACK_PX = 1e-6  # boxes only have to contain every pixel that passes the edge tests


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _pose_in_camera(view, pose_w, pose_c):
    """Write rotation (rows, 9) and translation (3) of an object in the camera frame; `view` as
    `projection.place_camera` writes it.
    """
    dx, dy, dz = pose_w[0, 3] - view[9], pose_w[1, 3] - view[10], pose_w[2, 3] - view[11]
    for i in range(3):
        a, b, c = view[3 * i], view[3 * i + 1], view[3 * i + 2]
        for j in range(3):
            pose_c[3 * i + j] = a * pose_w[0, j] + b * pose_w[1, j] + c * pose_w[2, j]
        pose_c[9 + i] = a * dx + b * dy + c * dz


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _sphere_visible(bounds, pose_c, k, near, tile):
    """Whether a sphere (centre in the object's frame, radius) can reach into the frustum of a tile."""
    x = pose_c[0] * bounds[0] + pose_c[1] * bounds[1] + pose_c[2] * bounds[2] + pose_c[9]
    y = pose_c[3] * bounds[0] + pose_c[4] * bounds[1] + pose_c[5] * bounds[2] + pose_c[10]
    z = pose_c[6] * bounds[0] + pose_c[7] * bounds[1] + pose_c[8] * bounds[2] + pose_c[11]
    reach = bounds[3] * 1.0001 + 1e-6  # poses are only rigid up to float32
    if z + reach < near:
        return False
    for axis in range(2):
        focal, centre, offset = k[axis, axis], k[axis, 2], x if axis == 0 else y
        low, high = centre - tile[axis], tile[axis] + tile[2 + axis] - centre
        if focal * offset + low * z < -reach * np.sqrt(focal * focal + low * low):
            return False
        if -focal * offset + high * z < -reach * np.sqrt(focal * focal + high * high):
            return False
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _pixel_range(low, high, first, count):
    """First and last of a tile's `count` pixels, from `first` on, whose centres lie in `low` to `high` [px]."""
    # Clamped as floats: beside the image a pixel coordinate may be too large for an integer.
    low, high = np.ceil(low - first - 0.5 - _SLACK_PX), np.floor(high - first - 0.5 + _SLACK_PX)
    return np.int64(min(max(low, 0.0), count + 0.0)), np.int64(max(min(high, count - 1.0), -1.0))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _place_corners(vertices, first, last, pose_c, k, near, tile, corners, lines):
    """Write x, y, z in the camera frame and u, v [px] of each vertex, and its first column to the right, last to the left,
    first row below, last above; returns whether the near plane cuts the object (behind it u, v and lines mean nothing).
    """
    fx, fy, cx, cy = k[0, 0], k[1, 1], k[0, 2], k[1, 2]
    cut = False
    for i in range(first, last):
        px, py, pz = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        x = pose_c[0] * px + pose_c[1] * py + pose_c[2] * pz + pose_c[9]
        y = pose_c[3] * px + pose_c[4] * py + pose_c[5] * pz + pose_c[10]
        z = pose_c[6] * px + pose_c[7] * py + pose_c[8] * pz + pose_c[11]
        cut |= z < near
        scale = 1.0 / max(z, near)
        u, v = fx * x * scale + cx, fy * y * scale + cy
        at = np.uintp(i - first)
        corners[at, 0], corners[at, 1], corners[at, 2], corners[at, 3], corners[at, 4] = x, y, z, u, v
        x0, x1 = _pixel_range(u, u, tile[0], tile[2])
        y0, y1 = _pixel_range(v, v, tile[1], tile[3])
        lines[at, 0], lines[at, 1], lines[at, 2], lines[at, 3] = x0, x1, y0, y1
    return cut


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _box_before_near(corners, a, b, c, k, near, tile):
    """First and last column and row that a triangle's part in front of the near plane can cover; empty if first > last."""
    low_u, high_u, low_v, high_v = np.inf, -np.inf, np.inf, -np.inf
    p = c
    for q in (a, b, c):
        zp, zq = corners[p, 2], corners[q, 2]
        if (zp >= near) != (zq >= near):
            share = (near - zp) / (zq - zp)
            u = k[0, 0] * (corners[p, 0] + share * (corners[q, 0] - corners[p, 0])) / near + k[0, 2]
            v = k[1, 1] * (corners[p, 1] + share * (corners[q, 1] - corners[p, 1])) / near + k[1, 2]
            low_u, high_u, low_v, high_v = min(low_u, u), max(high_u, u), min(low_v, v), max(high_v, v)
        if zq >= near:
            u, v = corners[q, 3], corners[q, 4]
            low_u, high_u, low_v, high_v = min(low_u, u), max(high_u, u), min(low_v, v), max(high_v, v)
        p = q
    x0, x1 = _pixel_range(low_u, high_u, tile[0], tile[2])
    y0, y1 = _pixel_range(low_v, high_v, tile[1], tile[3])
    return x0, x1, y0, y1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _cross(ax, ay, az, bx, by, bz):
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _draw_triangle(
    corners, a, b, c, box, red, green, blue, light_c, ambient, k, near, tile, instance, depth, rgb, owner
):
    """Put one triangle, either side of it, into the depth buffer; `box` holds all pixels that it covers."""
    x0, x1, y0, y1 = box
    ax, ay, az = corners[a, 0], corners[a, 1], corners[a, 2]
    bx, by, bz = corners[b, 0], corners[b, 1], corners[b, 2]
    cx, cy, cz = corners[c, 0], corners[c, 1], corners[c, 2]
    nx, ny, nz = _cross(bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az)
    volume = nx * ax + ny * ay + nz * az
    if volume == 0.0:  # edge-on, or without area
        return
    side = 1.0 if volume > 0.0 else -1.0  # makes the normal point away from the camera
    volume, nx, ny, nz = side * volume, side * nx, side * ny, side * nz
    cosine = -(nx * light_c[0] + ny * light_c[1] + nz * light_c[2]) / np.sqrt(nx * nx + ny * ny + nz * nz)
    bright = np.float32(ambient + (1.0 - ambient) * max(cosine, 0.0))
    red, green, blue = red * bright, green * bright, blue * bright
    px, py, pz = _cross(bx, by, bz, cx, cy, cz)
    qx, qy, qz = _cross(cx, cy, cz, ax, ay, az)
    sx, sy, sz = _cross(ax, ay, az, bx, by, bz)
    for y in range(y0, y1 + 1):
        dy = (tile[1] + y + 0.5 - k[1, 2]) / k[1, 1]
        p_row, q_row, s_row, n_row = py * dy + pz, qy * dy + qz, sy * dy + sz, ny * dy + nz
        for x in range(x0, x1 + 1):
            dx = (tile[0] + x + 0.5 - k[0, 2]) / k[0, 0]
            facing = nx * dx + n_row
            if (
                side * (px * dx + p_row) >= 0.0
                and side * (qx * dx + q_row) >= 0.0
                and side * (sx * dx + s_row) >= 0.0
                and facing > 0.0
            ):
                z, at = volume / facing, y * tile[2] + x
                if near <= z and z < depth[at]:
                    depth[at], owner[at] = z, instance
                    rgb[3 * at], rgb[3 * at + 1], rgb[3 * at + 2] = red, green, blue


@numba.njit(cache=True, nogil=True, error_model="numpy")
def draw_instances(first, last, object_ids, poses_w, objects, view, k, near, tile, scratch) -> None:
    """Draw a camera's instances into a tile's depth buffer, cleared before.

    Args:
        first: First of its instances.
        last: One past its last instance.
        object_ids: int64 `[I]`.
        poses_w: Object to world, float64 `[I, 4, 4]`.
        objects: Vertices, faces, colours, offsets of both, bounds, light, as in `ObjectSet`.
        view: World to camera, float64 `[12]`, as `projection.place_camera` writes it.
        k: Calibration matrix `[3, 3]` [px].
        near: Nothing nearer than this along +Z is drawn [m].
        tile: x, y, width, height [px].
        scratch: `pose_c [12]`, `corners [V, 5]`, `lines [V, 4]` int64, and what is filled, row by row of the tile's pixels:
            `depth` float64 along +Z [m], infinite where there is no object, the shaded colours `rgb` float32, three per pixel,
            and `owner` int32, the instance in view, -1 where there is none.
    """
    vertices, faces, colors, vertex_offsets, face_offsets, bounds, light = objects
    pose_c, corners, lines, depth, rgb, owner = scratch
    depth[: tile[2] * tile[3]] = np.inf
    owner[: tile[2] * tile[3]] = -1
    light_c = (
        view[0] * light[0] + view[1] * light[1] + view[2] * light[2],
        view[3] * light[0] + view[4] * light[1] + view[5] * light[2],
        view[6] * light[0] + view[7] * light[1] + view[8] * light[2],
    )
    for i in range(first, last):
        n = object_ids[i]
        _pose_in_camera(view, poses_w[i], pose_c)
        if not _sphere_visible(bounds[n], pose_c, k, near, tile):
            continue
        cut = _place_corners(
            vertices, vertex_offsets[n], vertex_offsets[n + 1], pose_c, k, near, tile, corners, lines
        )
        for f in range(face_offsets[n], face_offsets[n + 1]):
            a, b, c = np.uintp(faces[f, 0]), np.uintp(faces[f, 1]), np.uintp(faces[f, 2])
            if cut:
                x0, x1, y0, y1 = _box_before_near(corners, a, b, c, k, near, tile)
            else:
                x0, x1 = (
                    min(lines[a, 0], lines[b, 0], lines[c, 0]),
                    max(lines[a, 1], lines[b, 1], lines[c, 1]),
                )
                y0, y1 = (
                    min(lines[a, 2], lines[b, 2], lines[c, 2]),
                    max(lines[a, 3], lines[b, 3], lines[c, 3]),
                )
            if x0 <= x1 and y0 <= y1:  # most triangles fall between the pixel centres
                _draw_triangle(
                    corners, a, b, c, (x0, x1, y0, y1), colors[f, 0], colors[f, 1], colors[f, 2],
                    light_c, light[3], k, near, tile, i, depth, rgb, owner,
                )  # fmt: skip


@numba.njit(cache=True, nogil=True, error_model="numpy")
def list_covered(num_pixels, depth, pixels, keys) -> int:
    """Fill `pixels` with those that show an object and `keys` with the bits of their float32 depth; returns how many."""
    count = 0
    for p in range(num_pixels):
        if depth[p] < np.inf:
            pixels[count] = p
            keys[count] = np.uint32(lanes.float_bits(np.float32(depth[p])))
            count += 1
    return count
