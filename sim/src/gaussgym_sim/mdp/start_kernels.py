"""Starts of episodes on the CPU: one pass a robot. `StartSampler` and `Placer` have the same as tensor code."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import math

import numba
import numpy as np

from gaussgym_sim.ground.height_kernels import height_at
from gaussgym_sim.mdp.path_kernels import along

_HALF_STEP = 1e-4  # lengths that are a whole number of steps to float32 take no further one


@numba.njit(cache=True, nogil=True)
def _ahead(point, way, last, closed, rows):
    """Length of the line ahead [m]."""
    if closed[point]:
        return np.float32(np.inf)
    return rows[last[point], 4] - rows[point, 4] if way > 0 else rows[point, 4]


@numba.njit(cache=True, nogil=True)
def draw_starts(
    scene_ids, levels, group_of, points, first_of_group, size_of_group, first, last, closed, rows, line_yaw, numbers, turn,
    to_go, need, to_goal, lateral, speeds, index, direction, goal, xy, yaw, speed,
):  # fmt: skip
    """See `StartSampler.draw`; the last six arguments are outputs [R, ...].

    Args::

        group_of, points, first_of_group, size_of_group: tables of the `StartSampler`.
        first, last, closed, rows, line_yaw: tables of the `PathNetwork`.
        numbers: [4, R] in 0..1: point, direction, lateral offset, speed.
        turn: [R] offset of the heading [rad].
        to_go, need: [R] distance of the goal, and how much line is wanted ahead [m].
    """
    for r in range(len(scene_ids)):
        group = group_of[scene_ids[r], min(levels[r], group_of.shape[1] - 1)]
        point = points[first_of_group[group] + np.int64(numbers[0, r] * np.float32(size_of_group[group]))]
        way = 1 if numbers[1, r] < 0.5 else -1
        ahead, behind = _ahead(point, way, last, closed, rows), _ahead(point, -way, last, closed, rows)
        if ahead < need[r] and behind > ahead:
            way, ahead = -way, behind
        if to_goal and ahead < to_go[r]:
            back = math.ceil((to_go[r] - ahead) / rows[point, 5] - np.float32(_HALF_STEP))
            point = along(point, -way * np.int64(back), first, last, closed)
        heading = line_yaw[point] if way > 0 else line_yaw[point] + math.pi
        yaw[r] = (heading + math.pi) % (2 * math.pi) - math.pi + turn[r]
        off = (numbers[2, r] * np.float32(2 * lateral) - np.float32(lateral)) * min(
            rows[point, 6], np.float32(0.5)
        )
        xy[r, 0], xy[r, 1] = rows[point, 0] - off * rows[point, 3], rows[point, 1] + off * rows[point, 2]
        steps = np.int64(math.ceil(to_go[r] / rows[point, 5] - np.float32(_HALF_STEP)))
        if closed[point]:
            steps = min(steps, (last[point] - first[point] + 1) // 2)
        index[r], direction[r], goal[r] = point, way, along(point, way * steps, first, last, closed)
        speed[r] = numbers[3, r] * np.float32(speeds[1] - speeds[0]) + np.float32(speeds[0])


@numba.njit(cache=True, nogil=True)
def stand_upright(
    cells, offset, cells_x, last, inv_cell, origin, scene_ids, xy, yaw, footprint, height_m, pos_w, quat
):
    """Positions [R, 3] with the soles ``height_m`` below the base and all of ``footprint`` [F, 3] (see `placing`) over the
    ground, and headings as wxyz [R, 4].

    The first six arguments are those of `gaussgym_sim.ground.terrain.TerrainLookup`.
    """
    for r in range(len(xy)):
        scene, cos, sin = scene_ids[r], np.float32(math.cos(yaw[r])), np.float32(math.sin(yaw[r]))
        ground = np.float32(-np.inf)
        for k in range(len(footprint)):
            x = xy[r, 0] + cos * footprint[k, 0] - sin * footprint[k, 1]
            y = xy[r, 1] + sin * footprint[k, 0] + cos * footprint[k, 1]
            here = height_at(cells, offset, cells_x, last, inv_cell, origin, scene, x, y)
            ground = max(ground, here - footprint[k, 2])
        pos_w[r, 0], pos_w[r, 1], pos_w[r, 2] = xy[r, 0], xy[r, 1], ground + np.float32(height_m)
        quat[r, 0], quat[r, 1], quat[r, 2], quat[r, 3] = math.cos(yaw[r] / 2), 0.0, 0.0, math.sin(yaw[r] / 2)
