"""What every step does to all envs beside rewards and paths, on the CPU: one pass an env each. `gaussgym_sim.env` and the classes
named have the same as tensor code.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import numba
import numpy as np

from gaussgym_sim.frame_kernels import base_frame


@numba.njit(cache=True, nogil=True)
def take_actions(raw, clip, scale, default, action, target):
    """Clip actions ``raw`` [E, J] into ``action``; ``target`` [E, J] are the joint positions that they ask for [rad].

    Returns:
        [E] bool, rows that are not finite, whose actions are 0.
    """
    bad, clip, scale = np.zeros(len(raw), np.bool_), np.float32(clip), np.float32(scale)
    for e in range(len(raw)):
        for k in range(raw.shape[1]):
            bad[e] |= not np.isfinite(raw[e, k])
        for k in range(raw.shape[1]):
            action[e, k] = np.float32(0.0) if bad[e] else min(max(raw[e, k], -clip), clip)
            target[e, k] = default[k] + scale * action[e, k]
    return bad


@numba.njit(cache=True, nogil=True)
def postures(envs, quat, lin_vel_w, joint_pos, default, yaw, gravity_b, lin_vel_b, offset):
    """See `gaussgym_sim.mdp.posture.Posture`, for envs [R]; the last four arguments are outputs [E, ...]."""
    for r in range(len(envs)):
        e = envs[r]
        base_frame(e, e, quat, lin_vel_w, yaw, gravity_b, lin_vel_b)
        for k in range(len(default)):
            offset[e, k] = joint_pos[e, k] - default[k]


@numba.njit(cache=True, nogil=True)
def heights_over(envs, pos_w, ground, points, weights, height):
    """Heights of bases over the mean of ``ground`` [R, S] at some points with weights, into ``height`` [E], for envs [R].

    On planes ``ground`` is one value a row, expanded, which is taken as it is.
    """
    flat = ground.strides[1] == 0
    for r in range(len(envs)):
        below = ground[r, 0]
        if not flat:
            below = np.float32(0.0)
            for k in range(len(points)):
                below += ground[r, points[k]] * weights[k]
        height[envs[r]] = pos_w[envs[r], 2] - below


@numba.njit(cache=True, nogil=True)
def count_feet(now, control_s, air_s, touch_air_s, touch_down, was):
    """See `gaussgym_sim.mdp.feet.Feet.update`."""
    control_s = np.float32(control_s)
    for e in range(now.shape[0]):
        for k in range(now.shape[1]):
            contact = now[e, k] or was[e, k]
            touch_down[e, k] = contact and air_s[e, k] > 0
            touch_air_s[e, k] = air_s[e, k] + control_s
            air_s[e, k] = np.float32(0.0) if contact else touch_air_s[e, k]
            was[e, k] = now[e, k]


@numba.njit(cache=True, nogil=True)
def count_time(steps, seconds, control_s):
    """One control step more in ``steps`` [E] and ``seconds`` [E]."""
    control_s = np.float32(control_s)
    for e in range(len(steps)):
        steps[e] += 1
        seconds[e] += control_s


@numba.njit(cache=True, nogil=True)
def find_multiples(steps, period):
    """See `gaussgym_sim.mdp.episodes.multiples_of`."""
    found, count = np.empty(len(steps), np.int64), 0
    for e in range(len(steps)):
        if steps[e] % period == 0:
            found[count] = e
            count += 1
    return found[:count].copy()


@numba.njit(cache=True, nogil=True)
def add_rewards(terms, command, control_s, sums, commanded_m):
    """See `gaussgym_sim.mdp.episodes.EpisodeSums.add`."""
    control_s = np.float32(control_s)
    for t in range(terms.shape[0]):
        for e in range(terms.shape[1]):
            sums[t, e] += terms[t, e] * control_s
    for e in range(len(command)):
        x, y = command[e, 0], command[e, 1]
        commanded_m[e] += np.sqrt(x * x + y * y) * control_s


@numba.njit(cache=True, nogil=True)
def mean_rates(envs, sums, seconds, control_s):
    """Means over envs [R] of each row of ``sums`` [T, E] a second, and of ``seconds`` [E] themselves, [T + 1]."""
    means, least = np.zeros(len(sums) + 1, np.float32), np.float32(control_s)
    for t in range(len(sums)):
        for e in envs:
            means[t] += sums[t, e] / max(seconds[e], least)
    for e in envs:
        means[-1] += seconds[e]
    return means / np.float32(len(envs))


@numba.njit(cache=True, nogil=True)
def end_episodes(
    least_gravity, least_height, most_steps, trunk, invalid, gravity_b, height, steps, bad, failed, reached, cut, outside,
    leaving, fell, success, time_outs, dones,
):  # fmt: skip
    """See `gaussgym_sim.mdp.terminations.find_ends`; the last four arguments are outputs."""
    for e in range(len(fell)):
        tilted, low = gravity_b[e, 2] > least_gravity, height[e] < least_height
        fell[e] = trunk[e] or invalid[e] or bad[e] or failed[e] or tilted or low
        success[e] = reached[e] and not fell[e]
        late = steps[e] >= most_steps or reached[e] or cut[e] or outside[e] or leaving[e]
        time_outs[e] = 1.0 if late and not fell[e] else 0.0
        dones[e] = fell[e] or late
