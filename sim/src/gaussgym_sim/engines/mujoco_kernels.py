"""States of a batch of simulations in one pass: what `gaussgym_sim.engines.mujoco_slot` reads and writes."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import numba


@numba.njit(cache=True, nogil=True)
def mark_invalid(envs, qpos, qvel, warning, kinds, bad):
    """Mark environments whose state is not finite, or that have warnings [n, W, 2] of some ``kinds``, in ``bad`` [E]."""
    for i in range(len(envs)):
        total = 0.0
        for k in range(qpos.shape[1]):
            total += qpos[i, k] - qpos[i, k]  # 0, or NaN where it is not finite
        for k in range(qvel.shape[1]):
            total += qvel[i, k] - qvel[i, k]
        wrong = total != 0.0
        for kind in kinds:
            wrong |= warning[i, kind, 1] != 0
        if wrong:
            bad[envs[i]] = True


@numba.njit(cache=True, nogil=True)
def add_velocity(rows, envs, picked, delta, qvel, first, buffer):
    """Add rows ``picked`` of ``delta`` [R, 3] to three columns of ``qvel`` from ``first`` on, and to ``buffer`` [E, 3]."""
    for i in range(len(rows)):
        for k in range(3):
            qvel[rows[i], first + k] += delta[picked[i], k]
            buffer[envs[rows[i]], k] = qvel[rows[i], first + k]


@numba.njit(cache=True, nogil=True)
def write_motion(rows, picked, qpos, qvel, q, v, pos_w, quat, lin_w, ang_b, joint_pos, joint_vel):
    """Rows of a batch take the values ``picked`` of the last six arguments, see `gaussgym_sim.vecsim.VecSim.reset`."""
    for i in range(len(rows)):
        r, p = rows[i], picked[i]
        for k in range(3):
            qpos[r, k], qvel[r, k], qvel[r, 3 + k] = pos_w[p, k], lin_w[p, k], ang_b[p, k]
        for k in range(4):
            qpos[r, 3 + k] = quat[p, k]
        for j in range(len(q)):
            qpos[r, q[j]], qvel[r, v[j]] = joint_pos[p, j], joint_vel[p, j]


@numba.njit(cache=True, nogil=True)
def copy_motion(
    rows, envs, qpos, qvel, sensors, q, v, foot_pos, foot_vel, pos_w, quat, lin_w, ang_b, joint_pos, joint_vel,
    foot_pos_w, foot_vel_w,
):  # fmt: skip
    """Rows of a batch into the buffers of environments, see `gaussgym_sim.engines.mujoco_slot.read_state`."""
    for i in range(len(rows)):
        r, e = rows[i], envs[i]
        for k in range(3):
            pos_w[e, k], lin_w[e, k], ang_b[e, k] = qpos[r, k], qvel[r, k], qvel[r, 3 + k]
        for k in range(4):
            quat[e, k] = qpos[r, 3 + k]
        for j in range(len(q)):
            joint_pos[e, j], joint_vel[e, j] = qpos[r, q[j]], qvel[r, v[j]]
        for leg in range(len(foot_pos)):
            for k in range(3):
                foot_pos_w[e, leg, k] = sensors[r, foot_pos[leg, k]]
                foot_vel_w[e, leg, k] = sensors[r, foot_vel[leg, k]]


@numba.njit(cache=True, nogil=True)
def copy_contacts(
    rows,
    envs,
    sensors,
    torque,
    foot,
    thigh,
    trunk,
    out_torque,
    force_w,
    foot_contact,
    thigh_contact,
    trunk_contact,
):
    """The same for what the last substep felt."""
    for i in range(len(rows)):
        r, e = rows[i], envs[i]
        out_torque[e] = torque[e]
        for leg in range(len(foot)):
            foot_contact[e, leg] = sensors[r, foot[leg, 0]] > 0
            thigh_contact[e, leg] = sensors[r, thigh[leg]] > 0
            for k in range(3):  # the sensor tells what the foot does to the ground
                force_w[e, leg, k] = -sensors[r, foot[leg, 1 + k]]
        hit = False
        for t in range(len(trunk)):
            hit = hit or sensors[r, trunk[t]] > 0
        trunk_contact[e] = hit
