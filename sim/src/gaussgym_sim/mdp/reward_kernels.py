"""Reward terms on the CPU: one pass an env instead of some forty tensor operations. The twins are
`gaussgym_sim.mdp.rewards.TERMS`.

Only terms of the robot's own state are here; those of ground, path and gait are tensor code on all devices.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

import math

import numba
import numpy as np

STATE_TERMS = (
    "track_lin_vel", "track_ang_vel", "lin_vel_z", "ang_vel_xy", "orientation", "torque", "joint_acc", "action_rate",
    "feet_air_time", "thigh_contact", "pose", "foot_slip", "base_height", "alive", "target_rate", "energy", "weighted_pose",
    "collision", "stumble", "foot_slide", "lin_vel_error",
)  # fmt: skip
"""Terms that `state_terms` computes, in the order of its ``rows``."""
_MOVING = np.float32(0.05)


@numba.njit(cache=True, nogil=True)
def _base_terms(rows, e, numbers, command, lin_vel_b, ang_vel_b, gravity_b, height, out):
    """Terms 0 to 4, 12, 13 and 20 of env ``e``."""
    x, y = command[e, 0] - lin_vel_b[e, 0], command[e, 1] - lin_vel_b[e, 1]
    if rows[0] >= 0:
        out[rows[0], e] = math.exp(-(x * x + y * y) / numbers[0])
    if rows[20] >= 0:
        out[rows[20], e] = math.sqrt(x * x + y * y)
    if rows[1] >= 0:
        turn = command[e, 2] - ang_vel_b[e, 2]
        out[rows[1], e] = math.exp(-(turn * turn) / numbers[0])
    if rows[2] >= 0:
        out[rows[2], e] = lin_vel_b[e, 2] * lin_vel_b[e, 2]
    if rows[3] >= 0:
        out[rows[3], e] = ang_vel_b[e, 0] * ang_vel_b[e, 0] + ang_vel_b[e, 1] * ang_vel_b[e, 1]
    if rows[4] >= 0:
        out[rows[4], e] = gravity_b[e, 0] * gravity_b[e, 0] + gravity_b[e, 1] * gravity_b[e, 1]
    if rows[12] >= 0:
        error = height[e] - numbers[7]
        out[rows[12], e] = error * error
    if rows[13] >= 0:
        out[rows[13], e] = 1.0


@numba.njit(cache=True, nogil=True)
def _joint_terms(
    rows, e, numbers, standing, pose_weights, offset, vel, last_vel, torque, action, last_action, out
):
    """Terms 5 to 7, 10 and 14 to 16 of env ``e``: all sums at once, as each alone waits for its last addition."""
    zero = np.float32(0.0)
    torques, jerks, changes, offsets, energy, pose = zero, zero, zero, zero, zero, zero
    for k in range(len(pose_weights)):
        jerk, change = vel[e, k] - last_vel[e, k], action[e, k] - last_action[e, k]
        square = offset[e, k] * offset[e, k]
        torques += torque[e, k] * torque[e, k]
        jerks += jerk * jerk
        changes += change * change
        offsets += square
        energy += abs(torque[e, k] * vel[e, k])
        pose += square * pose_weights[k]
    if rows[5] >= 0:
        out[rows[5], e] = torques
    if rows[6] >= 0:
        out[rows[6], e] = jerks / (numbers[1] * numbers[1])
    if rows[7] >= 0:
        out[rows[7], e] = changes
    if rows[10] >= 0:
        out[rows[10], e] = offsets * standing
    if rows[14] >= 0:
        out[rows[14], e] = changes * (numbers[3] * numbers[3])
    if rows[15] >= 0:
        out[rows[15], e] = energy
    if rows[16] >= 0:
        out[rows[16], e] = pose


@numba.njit(cache=True, nogil=True)
def _foot_terms(rows, e, numbers, moving, vel, force, contact, touch_down, air_s, thigh, trunk, out):
    """Terms 8, 9, 11 and 17 to 19 of env ``e``."""
    flight, slip, slide = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    thighs, stumbles = np.float32(0.0), np.float32(0.0)
    for k in range(contact.shape[1]):
        if touch_down[e, k]:
            flight += min(air_s[e, k], numbers[5]) - numbers[4]
        if thigh[e, k]:
            thighs += np.float32(1.0)
        flat = vel[e, k, 0] * vel[e, k, 0] + vel[e, k, 1] * vel[e, k, 1]
        if contact[e, k]:
            slip += flat
            slide += math.sqrt(flat + vel[e, k, 2] * vel[e, k, 2])
        if rows[18] >= 0:
            sideways = math.sqrt(force[e, k, 0] * force[e, k, 0] + force[e, k, 1] * force[e, k, 1])
            if sideways > numbers[6] * abs(force[e, k, 2]):
                stumbles += np.float32(1.0)
    if rows[8] >= 0:
        out[rows[8], e] = flight if moving else 0.0
    if rows[9] >= 0:
        out[rows[9], e] = thighs
    if rows[11] >= 0:
        out[rows[11], e] = slip
    if rows[17] >= 0:
        out[rows[17], e] = thighs + (1.0 if trunk[e] else 0.0)
    if rows[18] >= 0:
        out[rows[18], e] = stumbles
    if rows[19] >= 0:
        out[rows[19], e] = slide


@numba.njit(cache=True, nogil=True)
def state_terms(
    rows, numbers, pose_weights, command, lin_vel_b, ang_vel_b, gravity_b, height, offset, vel, last_vel, torque,
    action, last_action, foot_vel, foot_force, foot_contact, touch_down, air_s, thigh, trunk, out,
):  # fmt: skip
    """Unweighted terms of all envs, from what `gaussgym_sim.mdp.rewards.RewardInputs` has.

    Into ``out`` [T, E]::

        rows: [21] its row for each of `STATE_TERMS`, -1 for those that are not wanted.
        numbers: width of the tracking terms, control step [s], factor of the pose while standing, scale of actions, flights
            that earn [s], their cap [s], ratio of forces that is stumbling, height of a
            base that stands [m].
        pose_weights: [J].
    """
    for e in range(len(command)):
        most = max(abs(command[e, 0]), abs(command[e, 1]), abs(command[e, 2]))
        moving = most > _MOVING
        standing = np.float32(1.0) if moving else numbers[2]
        _base_terms(rows, e, numbers, command, lin_vel_b, ang_vel_b, gravity_b, height, out)
        _joint_terms(
            rows, e, numbers, standing, pose_weights, offset, vel, last_vel, torque, action, last_action, out
        )
        _foot_terms(
            rows, e, numbers, moving, foot_vel, foot_force, foot_contact, touch_down, air_s, thigh, trunk, out
        )


@numba.njit(cache=True, nogil=True)
def weighted_sum(terms, weights, clip, control_s, total):
    """Multiply ``terms`` by ``weights`` [T, E]; ``total`` [E] is their sum, at least 0 if ``clip``, times ``control_s``."""
    total[:] = 0.0
    for t in range(len(terms)):
        for e in range(len(total)):
            terms[t, e] *= weights[t, e]
            total[e] += terms[t, e]
    for e in range(len(total)):
        if clip:  # NaN stays
            total[e] = np.float32(0.0) if total[e] < 0 else total[e]
        total[e] *= control_s
