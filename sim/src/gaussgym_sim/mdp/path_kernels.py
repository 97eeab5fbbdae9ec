"""Path following on the CPU: one pass an env instead of twenty tensor operations. `PathFollower`'s tensor code is its twin.

The first nine arguments of each are `PathFollower.lines`, whether it wants them or not.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def along(index, steps, first, last, closed):
    """See `gaussgym_sim.mdp.commands.PathNetwork.along`."""
    moved, low, high = index + steps, first[index], last[index]
    if closed[index]:
        return low + (moved - low) % (high - low + 1)
    return min(max(moved, low), high)


@numba.njit(cache=True, nogil=True)
def nearest_points(envs, index, direction, goal, window, first, last, closed, rows, xy, distance):
    """Move envs [R] to the nearest of their next points; ``distance`` [R] from these points' line is an output [m]."""
    for r in range(len(envs)):
        e = envs[r]
        best, best_square = index[e], math.inf
        for k in range(len(window)):
            point = along(index[e], direction[e] * window[k], first, last, closed)
            x, y = rows[point, 0] - xy[r, 0], rows[point, 1] - xy[r, 1]
            square = x * x + y * y
            if square < best_square:
                best, best_square = point, square
        index[e] = best
        row = rows[best]
        distance[r] = abs((xy[r, 1] - row[1]) * row[2] - (xy[r, 0] - row[0]) * row[3])


@numba.njit(cache=True, nogil=True)
def heading_errors(
    envs, index, direction, goal, window, first, last, closed, rows, xy, yaw, lookahead_m, stop_at_goal, error
):
    """Pure pursuit: ``error`` [R] is an output [rad], see `gaussgym_sim.mdp.commands.PathFollower.heading_error`."""
    for r in range(len(envs)):
        e = envs[r]
        point, way = index[e], direction[e]
        steps = max(round(lookahead_m / rows[point, 5]), 1)
        if stop_at_goal:
            left = (goal[e] - point) * way
            left = left % (last[point] - first[point] + 1) if closed[point] else max(left, 0)
            steps = min(steps, left)
        row = rows[along(point, way * steps, first, last, closed)]
        x, y = row[0] - xy[r, 0], row[1] - xy[r, 1]
        if not stop_at_goal and not closed[point]:
            missing = lookahead_m - abs(row[4] - rows[point, 4])
            if missing > 0:
                onward_x, onward_y = row[2] * way, row[3] * way
                # A robot that has walked past the end keeps its lookahead, rather than turn back for a fixed point.
                missing -= min(x * onward_x + y * onward_y, 0.0)
                x, y = x + missing * onward_x, y + missing * onward_y
        error[r] = (math.atan2(y, x) - yaw[r] + math.pi) % (2 * math.pi) - math.pi


@numba.njit(cache=True, nogil=True)
def follow_commands(
    envs, index, rows, off_line, error, sampled, heading, standing, gain, least, most, goal, command
):
    """Commands of envs [R] in ``command`` [E, 3], see `gaussgym_sim.mdp.commands.VelocityCommands.update`."""
    for r in range(len(envs)):
        e = envs[r]
        if not goal:
            if off_line[r] >= max(rows[index[e], 6], 0.5):
                heading[e] = True
            if standing[e] or not heading[e]:
                for k in range(3):
                    command[e, k] = 0.0 if standing[e] else sampled[e, k]
                continue
        # Facing away from the path, walking on would leave it: turn first.
        command[e, 0] = sampled[e, 0] * max(math.cos(error[r]), 0.0)
        command[e, 1] = 0.0
        command[e, 2] = min(max(gain * error[r], least), most)


@numba.njit(cache=True, nogil=True)
def follow_paths(
    envs, index, direction, goal, window, first, last, closed, rows, xy, yaw, lookahead_m, sampled, heading, standing, gain,
    least, most, to_goal, command,
):  # fmt: skip
    """The three above, one after the other."""
    off_line, error = np.empty(len(envs), np.float32), np.empty(len(envs), np.float32)
    nearest_points(envs, index, direction, goal, window, first, last, closed, rows, xy, off_line)
    heading_errors(
        envs, index, direction, goal, window, first, last, closed, rows, xy, yaw, lookahead_m, to_goal, error
    )
    follow_commands(
        envs, index, rows, off_line, error, sampled, heading, standing, gain, least, most, to_goal, command
    )


@numba.njit(cache=True, nogil=True)
def new_commands(envs, numbers, ranges, heading_share, standing_share, rough, sampled, heading, standing):
    """Commands of envs [R] from ``numbers`` [5, R] in 0..1, see `gaussgym_sim.mdp.commands.VelocityCommands.resample`."""
    for r in range(len(envs)):
        e = envs[r]
        for k in range(3):
            low, high = ranges[k, 0], ranges[k, 1]
            sampled[e, k] = numbers[k, r] * np.float32(high - low) + np.float32(low)
        heading[e] = numbers[3, r] < heading_share or rough[e]
        standing[e] = numbers[4, r] < standing_share


@numba.njit(cache=True, nogil=True)
def at_ends(envs, index, direction, goal, window, first, last, closed, rows, rough):
    """[E] bool, who is on rough ground at the end of a line that leads nowhere."""
    found = np.zeros(len(index), np.bool_)
    for e in range(len(index)):
        if rough[e] and not closed[index[e]]:
            arc = rows[index[e], 4]
            ahead = rows[last[index[e]], 4] - arc if direction[e] > 0 else arc
            found[e] = ahead <= 1e-3
    return found
