# Numba's functions are not annotated; its argument types are looser than its stubs.
# ruff: noqa: ANN001, ANN202, RUF046
# pyright: reportCallIssue=false, reportArgumentType=false
"""Rays against grounds on the CPU: heightfield triangles, planes, boxes and meshes of many scenes at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gaussgym_sim.ground.terrain import Ground

_TILE_CELLS = 8
_PAD_M = 1e-3
"""Height ranges of tiles are widened by this, so that a ray clipped to them still crosses what lies at their end."""


@dataclass(frozen=True)
class _Surface:
    """One scene as arrays. Square tiles of cells cover everything; each lists the boxes and triangles that touch it."""

    numbers: NDArray[np.float64]
    """Tiles' origin x, y and size; heightfield's origin x, y and cell; lowest and highest z of all; z of the plane [m]."""
    counts: NDArray[np.int64]
    """Tiles along x, y; grid points along x, y; tiles before the heightfield's along x, y; number of boxes; is it a plane."""
    heights: NDArray[np.float32]
    tile_z: NDArray[np.float64]
    """[tiles, 2] lowest and highest point of the heightfield in each tile [m]; where there is none the first is above."""
    first: NDArray[np.int64]
    """[tiles + 1] where each tile's ``items`` begin."""
    items: NDArray[np.int32]
    """Numbers of boxes, then of triangles plus the number of boxes."""
    boxes: NDArray[np.float64]
    """[B, 6] lowest and highest corner [m]."""
    triangles: NDArray[np.float64]
    """[F, 9] corner and two edges [m]."""


class RayCaster:
    """Distances along rays to the grounds of many scenes.

    The heightfield's cells are split along the diagonal from their lowest x and y to their highest, as MuJoCo splits them for
    rays and contacts; surfaces are hit from both sides, a plane from above. Beyond a heightfield's border there is nothing.
    """

    def __init__(self, grounds: Sequence[Ground]) -> None:
        """Sort the boxes and triangles of each ground into tiles."""
        self._surfaces = [_surface_of(ground) for ground in grounds]
        self._pack()

    def replace(self, index: int, ground: Ground) -> None:
        """Put another ground in the place of number ``index``."""
        self._surfaces[index] = _surface_of(ground)
        self._pack()

    def _pack(self) -> None:
        parts = self._surfaces
        names = ("heights", "tile_z", "first", "items", "boxes", "triangles")
        self._arrays = tuple(np.concatenate([getattr(p, name) for p in parts]) for name in names)
        sizes = np.array([[len(getattr(p, name)) for name in names] for p in parts])
        self._starts = np.concatenate([np.zeros((1, len(names)), np.int64), np.cumsum(sizes, axis=0)])[:-1]
        self._numbers = np.stack([p.numbers for p in parts])
        self._counts = np.stack([p.counts for p in parts])

    def cast(
        self, origin_w: NDArray[np.float32], direction_w: NDArray[np.float32], scene_ids: NDArray[np.int64],
        out: NDArray[np.float32],
    ) -> None:  # fmt: skip
        """Distances in lengths of the direction, infinite where nothing is hit.

        Args:
            origin_w: [E, N, 3] [m].
            direction_w: [E, N, 3], not 0.
            scene_ids: [E] number of the ground of each row.
            out: [E, N], written.
        """
        _cast(
            origin_w,
            direction_w,
            scene_ids,
            self._numbers,
            self._counts,
            self._starts,
            *self._arrays,
            out,
        )


def _surface_of(ground: Ground) -> _Surface:
    """Lay tiles over a ground and list what is in them."""
    field, plane = ground.heightfield, ground.is_plane
    solid = ground.mesh is None and not plane
    boxes = np.concatenate(
        [ground.boxes.centre_m - ground.boxes.half_m, ground.boxes.centre_m + ground.boxes.half_m], axis=1
    )
    corners = (
        np.zeros((0, 3, 3)) if ground.mesh is None else ground.mesh.vertices[ground.mesh.faces].astype(float)
    )
    low = np.concatenate([boxes[:, :3], corners.min(axis=1)])
    high = np.concatenate([boxes[:, 3:], corners.max(axis=1)])
    tile = _TILE_CELLS * field.cell_m
    start = np.asarray(field.origin_xy_m, np.float64)
    end = start + field.size_m if solid else start
    before = np.ceil(np.maximum(start - low[:, :2].min(axis=0, initial=np.inf), 0) / tile)
    before = np.where(np.isfinite(before), before, 0).astype(np.int64)
    reach = np.maximum(end, high[:, :2].max(axis=0, initial=-np.inf)) - start
    tiles = before + np.maximum(np.ceil(reach / tile - 1e-9), 1).astype(np.int64)
    heights = field.height_m if solid else field.height_m[:2, :2]
    tile_z = _tile_ranges(heights, tiles, before) if solid else _no_heights(int(tiles.prod()))
    first, items = _sort_into_tiles(low, high, start - before * tile, tile, tiles)
    z_low = min(low[:, 2].min(initial=np.inf), tile_z[:, 0].min())
    z_high = max(high[:, 2].max(initial=-np.inf), tile_z[:, 1].max())
    numbers = [*(start - before * tile), tile, *start, field.cell_m, z_low - _PAD_M, z_high + _PAD_M]
    ny, nx = heights.shape
    edges = np.concatenate(
        [corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=1
    )
    return _Surface(
        np.array([*numbers, float(field.height_m.min())]),
        np.array([*tiles, nx, ny, *before, len(boxes), plane], np.int64),
        heights.ravel(),
        tile_z,
        first,
        items,
        boxes,
        edges,
    )


def _no_heights(tiles: int) -> NDArray[np.float64]:
    return np.tile(np.array([np.inf, -np.inf]), (tiles, 1))


def _tile_ranges(
    height_m: NDArray[np.float32], tiles: NDArray[np.int64], before: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[tiles, 2] lowest and highest height of each tile, its borders included; empty ranges where there are no heights."""
    ny, nx = height_m.shape
    out = _no_heights(int(tiles.prod())).reshape(tiles[1], tiles[0], 2)
    across = [np.arange(0, n - 1, _TILE_CELLS) for n in (ny, nx)]

    def reduced(function: np.ufunc) -> NDArray[np.float32]:
        rows = [function.reduce(height_m[j : j + _TILE_CELLS + 1], axis=0) for j in across[0]]
        rows = np.stack(rows)
        return np.stack(
            [function.reduce(rows[:, i : i + _TILE_CELLS + 1], axis=1) for i in across[1]], axis=1
        )

    inner = out[before[1] : before[1] + len(across[0]), before[0] : before[0] + len(across[1])]
    inner[..., 0], inner[..., 1] = reduced(np.minimum) - _PAD_M, reduced(np.maximum) + _PAD_M
    return out.reshape(-1, 2)


def _sort_into_tiles(
    low: NDArray[np.float64], high: NDArray[np.float64], origin: NDArray[np.float64], tile: float,
    tiles: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:  # fmt: skip
    """Start of each tile's list, and the lists: numbers of the items whose bounds [items, 3] touch the tile."""
    a = np.clip(np.floor((low[:, :2] - origin) / tile - 1e-6), 0, tiles - 1).astype(np.int64)
    b = np.clip(np.floor((high[:, :2] - origin) / tile + 1e-6), 0, tiles - 1).astype(np.int64)
    wide = b - a + 1
    count = wide.prod(axis=1)
    item = np.repeat(np.arange(len(low)), count)
    k = np.arange(len(item)) - np.repeat(np.cumsum(count) - count, count)
    where = (a[item, 1] + k // wide[item, 0]) * tiles[0] + a[item, 0] + k % wide[item, 0]
    order = np.argsort(where, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(where, minlength=int(tiles.prod())))])
    return first.astype(np.int64), item[order].astype(np.int32)


@numba.njit(cache=True, nogil=True)
def _cast(
    origin,
    direction,
    scene_ids,
    numbers,
    counts,
    starts,
    heights,
    tile_z,
    first,
    items,
    boxes,
    triangles,
    out,
):
    for e in range(origin.shape[0]):
        s = scene_ids[e]
        for n in range(origin.shape[1]):
            out[e, n] = _cast_one(
                origin[e, n, 0], origin[e, n, 1], origin[e, n, 2], direction[e, n, 0], direction[e, n, 1],
                direction[e, n, 2], numbers[s], counts[s], heights[starts[s, 0] :], tile_z[starts[s, 1] :],
                first[starts[s, 2] :], items[starts[s, 3] :], boxes[starts[s, 4] :], triangles[starts[s, 5] :],
            )  # fmt: skip


@numba.njit(cache=True, nogil=True)
def _clip(o, d, low, high, t0, t1):
    """Part of t0..t1 in which low <= o + t d <= high; empty if the first is above the second."""
    if abs(d) < 1e-12:
        return (t0, t1) if low <= o <= high else (1.0, 0.0)
    a, b = (low - o) / d, (high - o) / d
    return max(t0, min(a, b)), min(t1, max(a, b))


@numba.njit(cache=True, nogil=True)
def _next_line(o, d, origin, size, index):
    """Where a ray leaves cell ``index`` along one axis."""
    if abs(d) < 1e-12:
        return math.inf
    return (origin + (index + (1 if d > 0 else 0)) * size - o) / d


@numba.njit(cache=True, nogil=True)
def _cast_one(
    ox32, oy32, oz32, dx32, dy32, dz32, numbers, counts, heights, tile_z, first, items, boxes, triangles
):
    ox, oy, oz = float(ox32), float(oy32), float(oz32)
    dx, dy, dz = float(dx32), float(dy32), float(dz32)
    best = math.inf
    if counts[7] and dz < -1e-12 and oz >= numbers[8]:
        best = (numbers[8] - oz) / dz
    x0, y0, tile, tiles_x, tiles_y = numbers[0], numbers[1], numbers[2], counts[0], counts[1]
    t, end = _clip(oz, dz, numbers[6], numbers[7], 0.0, best)
    t, end = _clip(ox, dx, x0, x0 + tiles_x * tile, t, end)
    t, end = _clip(oy, dy, y0, y0 + tiles_y * tile, t, end)
    if t > end:
        return best
    i = min(max(int(math.floor((ox + t * dx - x0) / tile)), 0), tiles_x - 1)
    j = min(max(int(math.floor((oy + t * dy - y0) / tile)), 0), tiles_y - 1)
    above_t, above = -1.0, 0.0
    while True:
        next_x, next_y = _next_line(ox, dx, x0, tile, i), _next_line(oy, dy, y0, tile, j)
        leave = min(next_x, next_y, end)
        for k in range(first[j * tiles_x + i], first[j * tiles_x + i + 1]):
            item = items[k]
            if item < counts[6]:
                best = min(best, _ray_box(ox, oy, oz, dx, dy, dz, boxes[item]))
            else:
                best = min(best, _ray_triangle(ox, oy, oz, dx, dy, dz, triangles[item - counts[6]]))
        low, high = tile_z[j * tiles_x + i, 0], tile_z[j * tiles_x + i, 1]
        a, b = _clip(oz, dz, low, high, t, leave)
        if low < high and a <= b:
            hit, above_t, above = _march(
                ox, oy, oz, dx, dy, dz, a, b, i - counts[4], j - counts[5], numbers, counts, heights, above_t, above
            )  # fmt: skip
            best = min(best, hit)
        if best <= leave or leave >= end:
            return best
        t = leave
        if next_x <= next_y:
            i += 1 if dx > 0 else -1
        else:
            j += 1 if dy > 0 else -1
        if i < 0 or j < 0 or i >= tiles_x or j >= tiles_y:
            return best


@numba.njit(cache=True, nogil=True)
def _march(ox, oy, oz, dx, dy, dz, t, end, ti, tj, numbers, counts, heights, above_t, above):
    """First crossing of the heightfield in t..end within heightfield tile ti, tj, and the height above it at the end.

    Along a ray the surface is linear between cell borders and diagonals, so that a change of sign of the height above it is a
    hit; heights are carried from cell to cell (``above`` at ``above_t``), and nothing slips through an edge.
    """
    cell, nx, ny = numbers[5], counts[2], counts[3]
    x, y, vx, vy = (ox - numbers[3]) / cell, (oy - numbers[4]) / cell, dx / cell, dy / cell
    i0, j0 = ti * _TILE_CELLS, tj * _TILE_CELLS
    i1, j1 = min(i0 + _TILE_CELLS, nx - 1), min(j0 + _TILE_CELLS, ny - 1)
    t, end = _clip(x, vx, float(i0), float(i1), t, end)
    t, end = _clip(y, vy, float(j0), float(j1), t, end)
    if t > end:
        return math.inf, -1.0, 0.0
    i = min(max(int(math.floor(x + t * vx)), i0), i1 - 1)
    j = min(max(int(math.floor(y + t * vy)), j0), j1 - 1)
    if abs(above_t - t) > 1e-9:
        above = oz + t * dz - _height(x + t * vx, y + t * vy, i, j, nx, heights)
    if above == 0.0:
        return t, t, above
    while True:
        next_x, next_y = _next_line(x, vx, 0.0, 1.0, i), _next_line(y, vy, 0.0, 1.0, j)
        leave = min(next_x, next_y, end)
        middle = ((i - j) - (x - y)) / (vx - vy) if abs(vx - vy) > 1e-12 else leave
        for step in range(2):
            to = middle if step == 0 else leave
            if step == 0 and not t < middle < leave:
                continue
            new = oz + to * dz - _height(x + to * vx, y + to * vy, i, j, nx, heights)
            if new == 0.0 or (above > 0.0) != (new > 0.0):
                return t + (to - t) * above / (above - new), to, new
            t, above = to, new
        if leave >= end:
            return math.inf, t, above
        if next_x <= next_y:
            i += 1 if vx > 0 else -1
        else:
            j += 1 if vy > 0 else -1
        if i < i0 or j < j0 or i >= i1 or j >= j1:
            return math.inf, t, above


@numba.njit(cache=True, nogil=True)
def _height(x, y, i, j, nx, heights):
    """Height at grid coordinates x, y in cell i, j, on the two triangles that share the diagonal to i + 1, j + 1."""
    u, v = min(max(x - i, 0.0), 1.0), min(max(y - j, 0.0), 1.0)
    a, b = float(heights[j * nx + i]), float(heights[j * nx + i + 1])
    c, d = float(heights[(j + 1) * nx + i]), float(heights[(j + 1) * nx + i + 1])
    if u >= v:
        return a + u * (b - a) + v * (d - b)
    return a + v * (c - a) + u * (d - c)


@numba.njit(cache=True, nogil=True)
def _ray_box(ox, oy, oz, dx, dy, dz, box):
    """Distance to a box; from within, to where the ray leaves it."""
    t0, t1 = _clip(ox, dx, box[0], box[3], -math.inf, math.inf)
    t0, t1 = _clip(oy, dy, box[1], box[4], t0, t1)
    t0, t1 = _clip(oz, dz, box[2], box[5], t0, t1)
    if t0 > t1 or t1 < 0.0:
        return math.inf
    return t0 if t0 >= 0.0 else t1


@numba.njit(cache=True, nogil=True)
def _ray_triangle(ox, oy, oz, dx, dy, dz, triangle):
    """Distance to a triangle from either side (Moeller & Trumbore 1997), its edges included."""
    ax, ay, az, bx, by, bz = triangle[3:9]
    px, py, pz = dy * bz - dz * by, dz * bx - dx * bz, dx * by - dy * bx
    det = ax * px + ay * py + az * pz
    if abs(det) < 1e-14:
        return math.inf
    sx, sy, sz = ox - triangle[0], oy - triangle[1], oz - triangle[2]
    u = (sx * px + sy * py + sz * pz) / det
    qx, qy, qz = sy * az - sz * ay, sz * ax - sx * az, sx * ay - sy * ax
    v = (dx * qx + dy * qy + dz * qz) / det
    t = (bx * qx + by * qy + bz * qz) / det
    if u < -1e-9 or v < -1e-9 or u + v > 1.0 + 1e-9 or t < 0.0:
        return math.inf
    return t
