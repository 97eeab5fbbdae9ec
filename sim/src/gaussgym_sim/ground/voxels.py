# Numba's functions are not annotated; its argument types are looser than its stubs.
# ruff: noqa: ANN001, ANN202, RUF046
# pyright: reportCallIssue=false, reportArgumentType=false
"""The surface of a mesh above its ground as voxels: few, sorted, each with a summary of the surface in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numba
import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

_SAMPLES = 3
"""Points of surface along a voxel's edge."""
_FAR_CELLS = 1_000_000
_LEVEL_M = 0.5
_FOOT_LEVEL_M = 2.0
"""Over ground that is not level, walls end at multiples of these above the lowest ground, so that few boxes make them."""
_AROUND_M = 1.0
"""How far around the highest ground counts for where walls end."""
_OFFSET = 0.37
"""Of the grid, in voxels: surfaces made at round numbers do not lie on the borders of voxels."""


@dataclass(frozen=True)
class Voxels:
    """V voxels of a grid that is ``shape`` large, sorted by z, then y, then x."""

    size_m: float
    origin_m: NDArray[np.float64]
    """Lowest corner of voxel (0, 0, 0) [m]."""
    shape: tuple[int, int, int]
    """Voxels along x, y, z."""
    index: NDArray[np.int64]
    """[V, 3] x, y, z."""
    area_m2: NDArray[np.float64]
    """[V] surface in the voxel."""
    normal_m2: NDArray[np.float64]
    """[V, 3] sum of its unit normals times area."""
    across_m2: NDArray[np.float64]
    """[V, 3] the surface's area as seen along each axis."""
    face_m: NDArray[np.float64]
    """[V, 3] where the surface is on average along each axis, as seen along it."""
    low_m: NDArray[np.float64]
    """[V, 3] lowest corner of its bounds."""
    high_m: NDArray[np.float64]
    """[V, 3] highest corner."""
    ground_m: NDArray[np.float64]
    """[V] highest ground right below."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def keys(self) -> NDArray[np.int64]:
        """[V] numbers that ascend."""
        nx, ny, _ = self.shape
        return (self.index[:, 2] * ny + self.index[:, 1]) * nx + self.index[:, 0]

    def select(self, which: NDArray) -> Voxels:
        """Some of them, given as a mask or as numbers that ascend."""
        arrays = {f.name: getattr(self, f.name)[which] for f in fields(self) if f.name not in _OF_ALL}
        return replace(self, **arrays)


_OF_ALL = ("size_m", "origin_m", "shape")


def above_ground(
    mesh: Mesh, field: Heightfield, *, voxel_m: float, step_m: float, top_m: float, reach_m: float
) -> Voxels:
    """Voxels that hold surface which a heightfield does not represent.

    That is surface more than ``step_m`` above all known grid points around it, at most ``top_m`` (give or take 0.25 m) above
    the highest within 1 m and at most ``reach_m`` away.
    """
    ground, highest, distance = known_ground(field)
    near = np.where(distance * field.cell_m <= reach_m, ground, np.nan)
    lowest = float(np.nanmin(near))
    above = highest_around(ground, math.ceil(_AROUND_M / field.cell_m)) + top_m - lowest
    top = lowest + np.round(above / _LEVEL_M) * _LEVEL_M
    limits = np.array([lowest - _LEVEL_M, float(top.max())])
    start = np.asarray(field.origin_xy_m, np.float64)
    origin = (np.floor(np.array([*start, limits[0]]) / voxel_m - 1) + _OFFSET) * voxel_m
    end = np.array([*(start + field.size_m), limits[1]])
    shape = np.ceil((end - origin) / voxel_m).astype(np.int64) + 1
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    low, high = corners.min(axis=1), corners.max(axis=1)
    inside = ((high > [*start, limits[0]]) & (low < end)).all(axis=1)
    corners = corners[inside]
    arguments = (corners, highest, top, distance, start, field.cell_m, voxel_m, step_m, reach_m)
    empty = np.zeros((0, 8))
    count = _sample(*arguments, origin, shape, empty, np.zeros(0, np.int64))
    samples, keys = np.zeros((count, 8)), np.zeros(count, np.int64)
    _sample(*arguments, origin, shape, samples, keys)
    return _summarize(samples, keys, voxel_m, origin, (int(shape[0]), int(shape[1]), int(shape[2])))


def known_ground(field: Heightfield) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """At each grid point [ny, nx]: height of the nearest known point, highest of those around it, distance in cells."""
    if field.known.any():
        ground, distance = _spread(field.height_m.astype(np.float64), field.known)
    else:
        ground, distance = field.height_m.astype(np.float64), np.zeros(field.known.shape)
    return ground, highest_around(ground, 1), distance


def highest_around(height: NDArray[Any], cells: int) -> NDArray[Any]:
    """Highest of the values [ny, nx] in the square that reaches ``cells`` to each side."""
    out = height
    for axis in range(2):
        along, best = np.moveaxis(out, axis, 0), np.moveaxis(out, axis, 0).copy()
        for d in range(1, min(cells, len(along) - 1) + 1):
            np.maximum(best[d:], along[:-d], out=best[d:])
            np.maximum(best[:-d], along[d:], out=best[:-d])
        out = np.moveaxis(best, 0, axis)
    return np.ascontiguousarray(out)


@numba.njit(cache=True)
def _spread(height, known):
    """Heights of the nearest known points and how far they are, by passing coordinates on to neighbours, forth and back."""
    ny, nx = height.shape
    from_j, from_i = np.full((ny, nx), -1), np.full((ny, nx), -1)
    distance = np.full((ny, nx), float(_FAR_CELLS))
    for j in range(ny):
        for i in range(nx):
            if known[j, i]:
                from_j[j, i], from_i[j, i], distance[j, i] = j, i, 0.0
    for turn in range(4):
        for jj in range(ny):
            for ii in range(nx):
                j, i = (jj if turn % 2 == 0 else ny - 1 - jj), (ii if turn < 2 else nx - 1 - ii)
                for dj in range(-1, 2):
                    for di in range(-1, 2):
                        a, b = j + dj, i + di
                        if a < 0 or b < 0 or a >= ny or b >= nx or from_j[a, b] < 0:
                            continue
                        far = math.hypot(j - from_j[a, b], i - from_i[a, b])
                        if far < distance[j, i]:
                            from_j[j, i], from_i[j, i], distance[j, i] = from_j[a, b], from_i[a, b], far
    out = np.empty((ny, nx))
    for j in range(ny):
        for i in range(nx):
            out[j, i] = height[from_j[j, i], from_i[j, i]]
    return out, distance


@numba.njit(cache=True, nogil=True)
def _sample(
    corners, highest, top, distance, start, cell_m, voxel_m, step_m, reach_m, origin, shape, samples, keys
):  # fmt: skip
    """Lay points over triangles in rows along the longest edge; count those that matter and, if there is room, keep them.

    Kept are x, y, z, the area that the point stands for (half on edges), its unit normal and the highest ground below.
    """
    ny, nx = highest.shape
    spacing, kept, room = voxel_m / _SAMPLES, 0, len(keys)
    for f in range(len(corners)):
        first = _longest_edge(corners[f])
        ax, ay, az = corners[f, first]
        ux, uy, uz = corners[f, (first + 1) % 3] - corners[f, first]
        wx, wy, wz = corners[f, (first + 2) % 3] - corners[f, first]
        px, py, pz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        twice = math.sqrt(px * px + py * py + pz * pz)
        base = math.sqrt(ux * ux + uy * uy + uz * uz)
        if twice < 1e-12:
            continue
        px, py, pz = px / twice, py / twice, pz / twice
        rows = max(1, int(math.ceil(twice / base / spacing)))
        for r in range(rows + 1):
            t = r / rows
            columns = max(1, int(math.ceil(base * (1 - t) / spacing)))
            share = twice * max(1 - t, 0.25 / rows) / rows / columns * (0.5 if r in (0, rows) else 1.0)
            for k in range(columns + 1):
                s = (1 - t) * k / columns
                x, y, z = ax + s * ux + t * wx, ay + s * uy + t * wy, az + s * uz + t * wz
                i = int(math.floor((x - start[0]) / cell_m + 0.5))
                j = int(math.floor((y - start[1]) / cell_m + 0.5))
                if i < 0 or j < 0 or i >= nx or j >= ny or distance[j, i] * cell_m > reach_m:
                    continue
                if z <= highest[j, i] + step_m or z > top[j, i]:
                    continue
                if kept < room:
                    # A point on a voxel's border belongs to the one behind the surface.
                    vx = _cell(x - 1e-6 * px, origin[0], voxel_m, shape[0])
                    vy = _cell(y - 1e-6 * py, origin[1], voxel_m, shape[1])
                    vz = _cell(z - 1e-6 * pz, origin[2], voxel_m, shape[2])
                    keys[kept] = (vz * shape[1] + vy) * shape[0] + vx
                    row = samples[kept]
                    row[0], row[1], row[2], row[4], row[5], row[6] = x, y, z, px, py, pz
                    row[3], row[7] = share * (0.5 if k in (0, columns) else 1.0), highest[j, i]
                kept += 1
    return kept


@numba.njit(cache=True, nogil=True)
def _cell(x, origin, size, count):
    return min(max(int(math.floor((x - origin) / size)), 0), count - 1)


@numba.njit(cache=True, nogil=True)
def _longest_edge(corner):
    """Which corner the longest edge starts at."""
    best, first = -1.0, 0
    for k in range(3):
        length = 0.0
        for axis in range(3):
            length += (corner[(k + 1) % 3, axis] - corner[k, axis]) ** 2
        if length > best:
            best, first = length, k
    return first


def _summarize(
    samples: NDArray[np.float64], keys: NDArray[np.int64], voxel_m: float, origin: NDArray[np.float64],
    shape: tuple[int, int, int],
) -> Voxels:  # fmt: skip
    """Voxels from their points."""
    unique, owner = np.unique(keys, return_inverse=True)
    count, points, weight = len(unique), samples[:, :3], samples[:, 3]

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(owner, values, minlength=count).astype(np.float64)

    area = total(weight)
    seen = [weight * np.maximum(np.abs(samples[:, 4 + k]), 1e-6) for k in range(3)]
    across = np.stack([total(seen[k]) for k in range(3)], axis=1)
    index = np.stack(
        [unique % shape[0], unique // shape[0] % shape[1], unique // (shape[0] * shape[1])], axis=1
    )
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, owner, points)
    np.maximum.at(high, owner, points)
    # What comes within a spacing of the voxel's border goes on in the next voxel.
    border, near = origin + index * voxel_m, 1.01 * voxel_m / _SAMPLES
    low = np.where(low - border < near, border, low)
    high = np.where(border + voxel_m - high < near, border + voxel_m, high)
    return Voxels(
        voxel_m,
        origin,
        shape,
        index,
        area,
        np.stack([total(weight * samples[:, 4 + k]) for k in range(3)], axis=1),
        across,
        np.stack([total(seen[k] * points[:, k]) for k in range(3)], axis=1) / across,
        low,
        high,
        total(weight * samples[:, 7]) / area,
    )


def piece_sizes(found: Voxels) -> NDArray[np.integer]:
    """[V] number of voxels in the connected piece (neighbours touch at least at a corner) that each belongs to."""
    nx, ny, _ = found.shape
    return _piece_sizes(found.keys, found.index, nx, ny)


@numba.njit(cache=True, nogil=True)
def _find(keys, key):
    """Place of a key in ascending keys, or -1."""
    k = np.searchsorted(keys, key)
    return k if k < len(keys) and keys[k] == key else -1


@numba.njit(cache=True, nogil=True)
def _piece_sizes(keys, index, nx, ny):
    parent = np.arange(len(keys))
    for n in range(len(keys)):
        for step in range(13):
            # The 13 neighbours that come before in the order.
            dx, dy, dz = step % 3 - 1, step // 3 % 3 - 1, step // 9 - 1
            x, y = index[n, 0] + dx, index[n, 1] + dy
            if x < 0 or y < 0 or x >= nx or y >= ny:
                continue
            other = _find(keys, keys[n] + (dz * ny + dy) * nx + dx)
            if other < 0:
                continue
            a, b = n, other
            while parent[a] != a:
                a = parent[a]
            while parent[b] != b:
                b = parent[b]
            parent[max(a, b)] = min(a, b)
            parent[n] = min(a, b)
    size = np.zeros(len(keys), np.int64)
    for n in range(len(keys)):
        a = n
        while parent[a] != a:
            a = parent[a]
        parent[n] = a
        size[a] += 1
    return size[parent]


def with_feet(found: Voxels, *, reach_m: float) -> Voxels:
    """Let what hangs less than ``reach_m`` above the ground reach down into it, as walls do whose feet count as ground."""
    nx, ny, _ = found.shape
    bottom = found.low_m[:, 2] - found.ground_m
    lowest = (found.index[:, 2] == 0) | ~np.isin(found.keys - nx * ny, found.keys)
    hanging = np.flatnonzero(lowest & (bottom < reach_m))
    lowest = found.ground_m.min() if len(found) else 0.0
    level = lowest + np.floor((found.ground_m[hanging] - lowest) / _FOOT_LEVEL_M) * _FOOT_LEVEL_M
    end = np.floor((level - found.origin_m[2]) / found.size_m).astype(np.int64)
    count = np.maximum(found.index[hanging, 2] - np.maximum(end, 0), 0)
    down = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + 1
    which = np.concatenate([np.arange(len(found)), np.repeat(hanging, count)])
    shift = np.concatenate([np.zeros(len(found), np.int64), down])
    index = found.index[which] - shift[:, None] * [0, 0, 1]
    keys = (index[:, 2] * ny + index[:, 1]) * nx + index[:, 0]
    _, first = np.unique(keys, return_index=True)  # the real ones come first
    which, shift, index = which[first], shift[first], index[first]
    corner = (found.origin_m + index * found.size_m)[:, 2]
    moved = replace(found.select(which), index=index)
    added = shift > 0
    low, high = moved.low_m.copy(), moved.high_m.copy()
    low[added, 2], high[added, 2] = corner[added], corner[added] + found.size_m
    # A foot closes the gap up to the bottom of what it carries.
    carried = ~added & np.isin(which, hanging)
    low[carried, 2] = corner[carried]
    return replace(moved, low_m=low, high_m=high)


def free_depth_m(found: Voxels, kind: NDArray[np.int8], most_m: float) -> NDArray[np.float64]:
    """[V] how far a face may reach back [m], at most ``most_m``: surface that faces the other way ends it."""
    nx, ny, _ = found.shape
    depth = np.full(len(found), most_m)
    keys, stride = found.keys, (1, nx, nx * ny)
    for facing in range(6):
        axis, mine, back = facing // 2, np.flatnonzero(kind == facing), -1 if facing % 2 else 1
        face, far = found.face_m[mine, axis], found.low_m if back < 0 else found.high_m
        for d in range(math.ceil(most_m / found.size_m), 0, -1):
            other = keys[mine] + d * back * stride[axis]
            at = np.minimum(np.searchsorted(keys, other), len(keys) - 1)
            for hit, end in ((facing ^ 1, found.face_m), (6, far)):
                ends = (keys[at] == other) & (kind[at] == hit)
                depth[mine[ends]] = np.clip(back * (end[at, axis] - face), 0.0, most_m)[ends]
    return depth


def merge(found: Voxels, kind: NDArray[np.int8]) -> NDArray[np.integer]:
    """[V] number of the box that each voxel goes into: greedy, in the voxels' order.

    Voxels that face an axis (kind 2 axis + side) merge with their like across it, never along it; others (kind 6) in all
    directions.
    """
    nx, ny, _ = found.shape
    return _merge(found.keys, found.index, kind, nx, ny)


@numba.njit(cache=True, nogil=True)
def _merge(keys, index, kind, nx, ny):
    owner = np.full(len(keys), -1)
    stride = np.array([1, nx, nx * ny])
    boxes = 0
    for n in range(len(keys)):
        if owner[n] >= 0:
            continue
        size = np.ones(3, np.int64)
        # Upright first, so that walls along slanted lines become columns, not layers.
        for axis in (2, 0, 1):
            while kind[n] == 6 or kind[n] // 2 != axis:
                if axis < 2 and index[n, axis] + size[axis] >= (nx if axis == 0 else ny):
                    break
                layer = size.copy()
                layer[axis] = 1
                if not _is_free(
                    keys, kind, owner, keys[n] + size[axis] * stride[axis], layer, stride, kind[n]
                ):
                    break
                size[axis] += 1
        for z in range(size[2]):
            for y in range(size[1]):
                for x in range(size[0]):
                    owner[_find(keys, keys[n] + x + y * stride[1] + z * stride[2])] = boxes
        boxes += 1
    return owner


@numba.njit(cache=True, nogil=True)
def _is_free(keys, kind, owner, start, size, stride, wanted):
    """Whether all voxels of a block are there, of one kind and in no box."""
    for z in range(size[2]):
        for y in range(size[1]):
            for x in range(size[0]):
                k = _find(keys, start + x + y * stride[1] + z * stride[2])
                if k < 0 or owner[k] >= 0 or kind[k] != wanted:
                    return False
    return True
