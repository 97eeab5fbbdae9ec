"""Ground heights on the CPU: one pass a point instead of a dozen tensor operations. `TerrainLookup`'s tensor code is its twin."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def grid_heights(cells, offset, cells_x, last, inv_cell, origin, scene_ids, xy, yaw, grid, out):
    """Heights ``out`` [E, S] m under points ``grid`` [2, S] turned by ``yaw`` [E] and moved to ``xy`` [E, 2].

    The other arguments are those of `gaussgym_sim.ground.terrain.TerrainLookup`, a row a scene; ``cells`` [C, 4] is the
    bilinear function of each cell.
    """
    half = np.float32(0.0)
    for e in range(len(xy)):
        scene = scene_ids[e]
        inv = inv_cell[scene]
        cos, sin = np.float32(math.cos(yaw[e])) * inv, np.float32(math.sin(yaw[e])) * inv
        start_x, start_y = (xy[e, 0] - origin[scene, 0]) * inv, (xy[e, 1] - origin[scene, 1]) * inv
        last_x, last_y = last[scene, 0], last[scene, 1]
        columns, first = cells_x[scene], offset[scene]
        for k in range(grid.shape[1]):
            x = min(max(cos * grid[0, k] - sin * grid[1, k] + start_x, half), last_x)
            y = min(max(sin * grid[0, k] + cos * grid[1, k] + start_y, half), last_y)
            i, j = min(np.int32(x), np.int32(last_x) - 1), min(np.int32(y), np.int32(last_y) - 1)
            u, v = x - np.float32(i), y - np.float32(j)
            c = cells[first + j * columns + i]
            out[e, k] = c[0] + c[1] * u + v * (c[2] + c[3] * u)


@numba.njit(cache=True, nogil=True)
def height_at(cells, offset, cells_x, last, inv_cell, origin, scene, x_m, y_m):
    """Height [m] of a scene's ground at a point [m]; beyond the border the nearest border value."""
    inv, zero = inv_cell[scene], np.float32(0.0)
    last_x, last_y = last[scene, 0], last[scene, 1]
    x = min(max((x_m - origin[scene, 0]) * inv, zero), last_x)
    y = min(max((y_m - origin[scene, 1]) * inv, zero), last_y)
    i, j = min(np.int32(x), np.int32(last_x) - 1), min(np.int32(y), np.int32(last_y) - 1)
    u, v = x - np.float32(i), y - np.float32(j)
    c = cells[offset[scene] + j * cells_x[scene] + i]
    return c[0] + c[1] * u + v * (c[2] + c[3] * u)


@numba.njit(cache=True, nogil=True)
def beyond_border(xy, scene_ids, low, high, flat, margin_m):
    """See `gaussgym_sim.ground.terrain.TerrainLookup.outside`."""
    out, margin_m = np.zeros(len(xy), np.bool_), np.float32(margin_m)
    for e in range(len(xy)):
        scene = scene_ids[e]
        for k in range(2):
            out[e] |= xy[e, k] < low[scene, k] + margin_m or xy[e, k] > high[scene, k] - margin_m
        out[e] &= not flat[scene]
    return out
