"""Warp kernels around MuJoCo Warp's step: actuators before it, the state's buffers after it, overflows."""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
# ruff: noqa: UP018, RUF046  (a variable that a loop changes is declared by a call)

from __future__ import annotations

import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)

# Sums and products stay apart, so that torques round as those of `gaussgym_sim.actuation.actuators` do.
wp.set_module_options({"enable_backward": False, "fuse_fp": False})

MAX_STATE = wp.constant(1e10)
"""A position, velocity or reading beyond this is no state any more (MuJoCo's own limit)."""


@wp.struct
class Gains:
    """Parameters of the actuators, float32."""

    kp: wp.array2d[float]
    kd: wp.array2d[float]
    strength: wp.array2d[float]
    offset: wp.array2d[float]
    delay: wp.array[int]
    """[E] substeps."""
    limit: wp.array[float]
    """[J] Nm."""
    stall: wp.array[float]
    no_load: wp.array[float]
    dc: int
    """Whether ``stall`` and ``no_load`` clip the torque."""


@wp.func
def delayed_error(
    e: int,
    j: int,
    qpos: wp.array2d[float],
    columns: wp.array2d[int],
    gains: Gains,
    target: wp.array2d[float],
    now: int,
    held: wp.array3d[float],
) -> float:
    """Target of a joint's delay ago less its position [rad]; the target of now is kept."""
    depth = held.shape[0]
    held[now, e, j] = target[e, j]
    wanted = held[(now + depth - gains.delay[e]) % depth, e, j]
    return wanted + gains.offset[e, j] - qpos[e, columns[0, j]]


@wp.func
def put_torque(
    e: int,
    j: int,
    tau: float,
    columns: wp.array2d[int],
    gains: Gains,
    torque: wp.array2d[float],
    ctrl: wp.array2d[float],
) -> None:
    """A joint's torque [Nm], within its limit, where it belongs."""
    tau = wp.min(wp.max(tau, -gains.limit[j]), gains.limit[j])
    torque[e, j] = tau
    ctrl[e, columns[2, j]] = tau


@wp.kernel
def sense(
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    columns: wp.array2d[int],
    gains: Gains,
    target: wp.array2d[float],
    clock: wp.array[int],
    substep: int,
    held: wp.array3d[float],
    error: wp.array2d[float],
    velocity: wp.array2d[float],
) -> None:
    """What a learned actuator gets: errors and velocities [E, J]. Arguments as in `drive`."""
    e, j = wp.tid()
    now = (clock[0] + substep) % held.shape[0]
    error[e, j] = delayed_error(e, j, qpos, columns, gains, target, now, held)
    velocity[e, j] = qvel[e, columns[1, j]]


@wp.kernel
def limit(
    given: wp.array2d[float],
    columns: wp.array2d[int],
    gains: Gains,
    torque: wp.array2d[float],
    ctrl: wp.array2d[float],
) -> None:
    """Torques [E, J] of a learned actuator, with each joint's strength and limit."""
    e, j = wp.tid()
    put_torque(e, j, gains.strength[e, j] * given[e, j], columns, gains, torque, ctrl)


@wp.kernel
def drive(
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    columns: wp.array2d[int],
    gains: Gains,
    target: wp.array2d[float],
    clock: wp.array[int],
    substep: int,
    held: wp.array3d[float],
    torque: wp.array2d[float],
    ctrl: wp.array2d[float],
) -> None:
    """Torques of [E, J] joints, `gaussgym_sim.actuation.actuator_cfg.ActuatorCfg`'s 'pd' and 'dc'.

    Args:
        qpos: [E, nq].
        qvel: [E, nv].
        columns: [3, J] of the joints in ``qpos``, ``qvel`` and ``ctrl``.
        gains: see `Gains`.
        target: [E, J] rad.
        clock: [1] substeps since the start, modulo D, before this control step.
        substep: which of the control step.
        held: [D, E, J] the targets of the last D substeps, at their time modulo D.
        torque: [E, J] output [Nm].
        ctrl: [E, nu] output [Nm].
    """
    e, j = wp.tid()
    error = delayed_error(e, j, qpos, columns, gains, target, (clock[0] + substep) % held.shape[0], held)
    speed = qvel[e, columns[1, j]]
    tau = gains.strength[e, j] * (gains.kp[e, j] * error - gains.kd[e, j] * speed)
    if gains.dc != 0:
        ratio = speed / gains.no_load[j]
        most = wp.max(gains.stall[j] * (1.0 - ratio), 0.0)
        least = wp.min(gains.stall[j] * (-1.0 - ratio), 0.0)
        tau = wp.min(wp.max(tau, least), most)
    put_torque(e, j, tau, columns, gains, torque, ctrl)


@wp.kernel
def advance_clock(clock: wp.array[int], substeps: int, depth: int) -> None:
    """Time goes on, in place."""
    clock[0] = (clock[0] + substeps) % depth


@wp.struct
class Robots:
    """Where a robot's quantities lie in MuJoCo's arrays."""

    columns: wp.array2d[int]
    """[3, J], see `drive`."""
    feet: wp.array2d[int]
    """[4, L] first column of each leg's foot position, velocity, contact (found, force) and thigh contact in sensordata."""
    trunk: wp.array[int]
    """[T] columns of the trunk shapes' contacts."""


@wp.struct
class Parked:
    """Robots that stay as they are."""

    mask: wp.array[wp.bool]
    qpos: wp.array2d[float]
    qvel: wp.array2d[float]


@wp.struct
class Buffers:
    """The arrays behind `gaussgym_sim.vecsim.SimState`, by the same names."""

    root_pos_w: wp.array2d[float]
    root_quat_wxyz: wp.array2d[float]
    root_lin_vel_w: wp.array2d[float]
    root_ang_vel_b: wp.array2d[float]
    joint_pos: wp.array2d[float]
    joint_vel: wp.array2d[float]
    joint_torque: wp.array2d[float]
    foot_pos_w: wp.array3d[float]
    foot_vel_w: wp.array3d[float]
    foot_force_w: wp.array3d[float]
    foot_contact: wp.array2d[wp.bool]
    thigh_contact: wp.array2d[wp.bool]
    trunk_contact: wp.array[wp.bool]
    invalid: wp.array[wp.bool]


@wp.func
def finite(x: float) -> float:
    """The value, or 0 where it is no state any more."""
    return wp.where(wp.abs(x) < MAX_STATE, x, 0.0)


@wp.kernel
def report(
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    sensordata: wp.array2d[float],
    torque: wp.array2d[float],
    robots: Robots,
    parked: Parked,
    out: Buffers,
    invalid_count: wp.array[wp.int64],
) -> None:
    """Fill the buffers of one environment a thread after a control step; put parked robots back where they were."""
    e = wp.tid()
    if parked.mask[e]:
        for i in range(qpos.shape[1]):
            qpos[e, i] = parked.qpos[e, i]
        for i in range(qvel.shape[1]):
            qvel[e, i] = parked.qvel[e, i]
        out.invalid[e] = False
        return
    good = int(1)  # False for NaN as well
    for i in range(qpos.shape[1]):
        good = wp.where(wp.abs(qpos[e, i]) < MAX_STATE, good, 0)
    for i in range(qvel.shape[1]):
        good = wp.where(wp.abs(qvel[e, i]) < MAX_STATE, good, 0)
    out.invalid[e] = good == 0
    if good == 0:
        wp.atomic_add(invalid_count, 0, wp.int64(1))
    for k in range(3):
        out.root_pos_w[e, k] = finite(qpos[e, k])
        out.root_lin_vel_w[e, k] = finite(qvel[e, k])
        out.root_ang_vel_b[e, k] = finite(qvel[e, 3 + k])
    for k in range(4):
        out.root_quat_wxyz[e, k] = wp.where(good == 1, qpos[e, 3 + k], wp.where(k == 0, 1.0, 0.0))
    for j in range(robots.columns.shape[1]):
        out.joint_pos[e, j] = finite(qpos[e, robots.columns[0, j]])
        out.joint_vel[e, j] = finite(qvel[e, robots.columns[1, j]])
        out.joint_torque[e, j] = finite(torque[e, j])
    for leg in range(robots.feet.shape[1]):
        contact = robots.feet[2, leg]
        for k in range(3):
            out.foot_pos_w[e, leg, k] = finite(sensordata[e, robots.feet[0, leg] + k])
            out.foot_vel_w[e, leg, k] = finite(sensordata[e, robots.feet[1, leg] + k])
            # The sensor tells what the foot does to the ground.
            out.foot_force_w[e, leg, k] = -finite(sensordata[e, contact + 1 + k])
        out.foot_contact[e, leg] = sensordata[e, contact] > 0.0
        out.thigh_contact[e, leg] = sensordata[e, robots.feet[3, leg]] > 0.0
    hit = int(0)
    for t in range(robots.trunk.shape[0]):
        if sensordata[e, robots.trunk[t]] > 0.0:
            hit = 1
    out.trunk_contact[e] = hit == 1


@wp.kernel
def collect_overflow(overflow: wp.array[int], mask: int, found: wp.array[int]) -> None:
    """Gather MuJoCo Warp's flags [E] into ``found`` (bits, number of environments), and clear them."""
    e = wp.tid()
    bits = overflow[e] & mask
    overflow[e] = 0
    if bits != 0:
        wp.atomic_or(found, 0, bits)
        wp.atomic_add(found, 1, 1)


KERNELS = (sense, limit, drive, advance_clock, report, collect_overflow)
"""All of them; a test compiles them for GPUs."""
