"""A Warp kernel that puts robots into a state: MuJoCo Warp's arrays, actuators' memory and the state's buffers, feet included."""

from __future__ import annotations

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)
from gaussgym_scene.errors import InputError

from gaussgym_sim.engines.mjwarp_kernels import Buffers, Parked, Robots
from gaussgym_sim.robot import RobotCfg

wp.set_module_options({"enable_backward": False})

_FIXED, _HINGE, _SLIDE = 0, 1, 2


@wp.struct
class Legs:
    """The joints between the base and each foot, from the base on: [L, D], shorter legs with fixed ones at the end."""

    pos: wp.array2d[wp.vec3]
    """Of a joint's frame in the one before [m]."""
    quat: wp.array2d[wp.quat]
    """The same; x, y, z, w as Warp has it."""
    kind: wp.array2d[int]
    axis: wp.array2d[wp.vec3]
    anchor: wp.array2d[wp.vec3]
    column: wp.array2d[wp.vec2i]
    """In qpos and qvel."""
    zero: wp.array2d[float]
    """Position at which the frame is the model's [rad or m]."""
    foot: wp.array[wp.vec3]
    """[L] in the last frame [m]."""


@wp.struct
class Start:
    """The arguments of `gaussgym_sim.vecsim.VecSim.reset`."""

    env_ids: wp.array[wp.int64]
    root_pos_w: wp.array2d[float]
    root_quat_wxyz: wp.array2d[float]
    root_lin_vel_w: wp.array2d[float]
    root_ang_vel_b: wp.array2d[float]
    joint_pos: wp.array2d[float]
    joint_vel: wp.array2d[float]


@wp.func
def place_feet(e: int, qpos: wp.array2d[float], qvel: wp.array2d[float], legs: Legs, out: Buffers) -> None:
    """Positions and velocities of a robot's feet, from its coordinates."""
    base = wp.normalize(wp.quat(qpos[e, 4], qpos[e, 5], qpos[e, 6], qpos[e, 3]))
    for leg in range(legs.pos.shape[0]):
        turn = base
        place = wp.vec3(qpos[e, 0], qpos[e, 1], qpos[e, 2])
        velocity = wp.vec3(qvel[e, 0], qvel[e, 1], qvel[e, 2])
        spin = wp.quat_rotate(base, wp.vec3(qvel[e, 3], qvel[e, 4], qvel[e, 5]))
        for k in range(legs.pos.shape[1]):
            arm = wp.quat_rotate(turn, legs.pos[leg, k])
            place += arm
            velocity += wp.cross(spin, arm)
            turn = turn * legs.quat[leg, k]
            column = legs.column[leg, k]
            axis = wp.quat_rotate(turn, legs.axis[leg, k])
            if legs.kind[leg, k] == 1:
                arm = wp.quat_rotate(turn, legs.anchor[leg, k])
                place += arm
                velocity += wp.cross(spin, arm)
                angle = qpos[e, column[0]] - legs.zero[leg, k]
                turn = turn * wp.quat_from_axis_angle(legs.axis[leg, k], angle)
                spin += qvel[e, column[1]] * axis
                arm = -wp.quat_rotate(turn, legs.anchor[leg, k])
                place += arm
                velocity += wp.cross(spin, arm)
            elif legs.kind[leg, k] == 2:
                arm = (qpos[e, column[0]] - legs.zero[leg, k]) * axis
                place += arm
                velocity += wp.cross(spin, arm) + qvel[e, column[1]] * axis
        arm = wp.quat_rotate(turn, legs.foot[leg])
        place += arm
        velocity += wp.cross(spin, arm)
        for k in range(3):
            out.foot_pos_w[e, leg, k] = place[k]
            out.foot_vel_w[e, leg, k] = velocity[k]
            out.foot_force_w[e, leg, k] = 0.0
        out.foot_contact[e, leg] = False
        out.thigh_contact[e, leg] = False
    out.trunk_contact[e] = False
    out.invalid[e] = False


@wp.kernel
def restart(
    start: Start,
    robots: Robots,
    legs: Legs,
    qpos: wp.array2d[float],
    qvel: wp.array2d[float],
    warmstart: wp.array2d[float],
    wrench: wp.array2d[wp.spatial_vector],
    held: wp.array3d[float],
    torque: wp.array2d[float],
    parked: Parked,
    out: Buffers,
) -> None:
    """Put the environments of ``start`` [R], a thread each, into their states, without a memory of what was before."""
    r = wp.tid()
    e = int(start.env_ids[r])
    for k in range(3):
        qpos[e, k] = start.root_pos_w[r, k]
        qvel[e, k] = start.root_lin_vel_w[r, k]
        qvel[e, 3 + k] = start.root_ang_vel_b[r, k]
        out.root_pos_w[e, k] = qpos[e, k]
        out.root_lin_vel_w[e, k] = qvel[e, k]
        out.root_ang_vel_b[e, k] = qvel[e, 3 + k]
    for k in range(4):
        qpos[e, 3 + k] = start.root_quat_wxyz[r, k]
        out.root_quat_wxyz[e, k] = qpos[e, 3 + k]
    for j in range(robots.columns.shape[1]):
        qpos[e, robots.columns[0, j]] = start.joint_pos[r, j]
        qvel[e, robots.columns[1, j]] = start.joint_vel[r, j]
        out.joint_pos[e, j] = start.joint_pos[r, j]
        out.joint_vel[e, j] = start.joint_vel[r, j]
        out.joint_torque[e, j] = 0.0
        torque[e, j] = 0.0
        for slot in range(held.shape[0]):
            held[slot, e, j] = start.joint_pos[r, j]
    for i in range(qvel.shape[1]):
        warmstart[e, i] = 0.0
        parked.qvel[e, i] = qvel[e, i]
    for i in range(qpos.shape[1]):
        parked.qpos[e, i] = qpos[e, i]
    for body in range(wrench.shape[1]):
        wrench[e, body] = wp.spatial_vector()
    place_feet(e, qpos, qvel, legs, out)


@dataclass
class _Chain:
    """One leg's joints as `Legs` has them."""

    pos: list[np.ndarray] = field(default_factory=list)
    quat: list[np.ndarray] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    axis: list[np.ndarray] = field(default_factory=list)
    anchor: list[np.ndarray] = field(default_factory=list)
    column: list[tuple[int, int]] = field(default_factory=list)
    zero: list[float] = field(default_factory=list)

    def add(self, model: mujoco.MjModel, body: int) -> None:
        """A body with its joints."""
        first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        pos, quat = model.body_pos[body], model.body_quat[body]
        for joint in range(first, first + count) if count else [-1]:
            self._add_joint(model, joint, pos, quat)
            pos, quat = np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0])

    def _add_joint(self, model: mujoco.MjModel, joint: int, pos: np.ndarray, quat_wxyz: np.ndarray) -> None:
        kinds = {int(mujoco.mjtJoint.mjJNT_HINGE): _HINGE, int(mujoco.mjtJoint.mjJNT_SLIDE): _SLIDE}
        kind = _FIXED if joint < 0 else kinds.get(int(model.jnt_type[joint]), -1)
        if kind < 0:
            raise InputError(
                f"joint {model.joint(joint).name!r} of a leg is a ball joint; expected hinges and slides"
            )
        self.pos.append(pos)
        self.quat.append(np.roll(quat_wxyz, -1))
        self.kind.append(kind)
        self.axis.append(np.zeros(3) if joint < 0 else model.jnt_axis[joint])
        self.anchor.append(np.zeros(3) if joint < 0 else model.jnt_pos[joint])
        column = (0, 0) if joint < 0 else (int(model.jnt_qposadr[joint]), int(model.jnt_dofadr[joint]))
        self.column.append(column)
        self.zero.append(0.0 if joint < 0 else float(model.qpos0[column[0]]))

    def pad(self, length: int) -> None:
        """Fixed joints at the end."""
        while len(self.kind) < length:
            self.pos.append(np.zeros(3))
            self.quat.append(np.array([0.0, 0.0, 0.0, 1.0]))
            self.kind.append(_FIXED)
            self.axis.append(np.zeros(3))
            self.anchor.append(np.zeros(3))
            self.column.append((0, 0))
            self.zero.append(0.0)


def legs_of(model: mujoco.MjModel, robot: RobotCfg) -> Any:
    """`Legs` of a robot on the current device.

    Raises:
        InputError: a ball joint in a leg.
    """
    base, chains, feet = int(model.jnt_bodyid[0]), [], []
    for name in robot.foot_geoms:
        geom = model.geom(name)
        bodies, body = [], int(geom.bodyid[0])
        while body not in (base, 0):
            bodies.append(body)
            body = int(model.body_parentid[body])
        chain = _Chain()
        for body in reversed(bodies):
            chain.add(model, body)
        chains.append(chain)
        feet.append(geom.pos)
    depth = max(len(chain.kind) for chain in chains)
    legs = Legs()
    for chain in chains:
        chain.pad(depth)
    types: dict[str, Any] = {
        "pos": wp.vec3, "quat": wp.quat, "kind": int, "axis": wp.vec3, "anchor": wp.vec3, "column": wp.vec2i, "zero": float,
    }  # fmt: skip
    for name, kind in types.items():
        values = np.array([getattr(chain, name) for chain in chains])
        setattr(legs, name, wp.array(values, dtype=kind))
    legs.foot = wp.array(np.array(feet), dtype=wp.vec3)
    return legs
