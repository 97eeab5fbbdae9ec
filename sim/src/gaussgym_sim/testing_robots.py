"""Checks that a robot's model and gains are sound: it stands on a slope, holds its pose when hung, and how soon it falls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.frames import rotate
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.testing import CheckResult, MakeSim, flat_scene, heights_scene, place
from gaussgym_sim.vecsim import SUBSTEP_S, VecSim

HEADINGS_RAD = (0.0, math.pi / 4, math.pi / 2, math.pi)
"""Up the slope, diagonally, across, down."""
_CLEARANCE_M = 0.02
_SUBSTEPS = 4


def _at_most(name: str, measured: float, limit: float, unit: str) -> CheckResult:
    return CheckResult(name, measured, limit / 2, limit / 2, unit)


@dataclass
class _Stance:
    """What the second half of a stance showed, worst over it, each [E]."""

    torque: Tensor
    """Largest share of a joint's torque limit."""
    creep_m: Tensor
    tilt_rad: Tensor
    height_m: Tensor
    contacts: Tensor
    """Control steps in which trunk or thigh touched, from the start on."""


def _stand(sim: VecSim, joints: Tensor, normal_w: Tensor, seconds: float) -> _Stance:
    state, limit = sim.state, torch.tensor(sim.robot.torque_limit_nm)
    steps = round(seconds / (_SUBSTEPS * SUBSTEP_S))
    zero = torch.zeros(sim.num_envs)
    seen = _Stance(zero.clone(), zero.clone(), zero.clone(), zero + math.inf, zero.clone())
    up = torch.tensor([0.0, 0.0, 1.0]).expand(sim.num_envs, 3)
    half_way = state.root_pos_w.clone()
    for step in range(steps):
        sim.step(joints, substeps=_SUBSTEPS)
        seen.contacts += (state.trunk_contact | state.thigh_contact.any(1) | state.invalid).float()
        if step == steps // 2:
            half_way = state.root_pos_w.clone()
        if step >= steps // 2:
            seen.torque = torch.maximum(seen.torque, (state.joint_torque.abs() / limit).amax(1))
            upright = (rotate(state.root_quat_wxyz, up) @ normal_w).clamp(-1.0, 1.0)
            seen.tilt_rad = torch.maximum(seen.tilt_rad, torch.acos(upright))
            seen.height_m = torch.minimum(seen.height_m, state.root_pos_w @ normal_w)
    seen.creep_m = (state.root_pos_w - half_way).norm(dim=1)
    return seen


def check_stands_on_slope(
    make: MakeSim, *, slope_rad: float = math.radians(10.0), seconds: float = 10.0
) -> list[CheckResult]:
    """A quadruped that holds its default pose stands on a slope, facing up, diagonally, across and down.

    Bounds, all for the second half of the time: torque at most 80 % of the limit; creep 0.1 m (soft contacts such as MuJoCo's
    give way by about a centimetre a second; without friction it would be metres); tilt of the trunk against the ground 20°.
    Neither trunk nor thigh touches, from the start on. Ground and soles have friction 1.
    """
    sim = make([heights_scene(lambda x, y: math.tan(slope_rad) * x, name="slope")], len(HEADINGS_RAD))
    normal_w = torch.tensor([-math.sin(slope_rad), 0.0, math.cos(slope_rad)])
    count = len(HEADINGS_RAD)
    half = torch.tensor(HEADINGS_RAD) / 2
    cos, sin = math.cos(slope_rad / 2), -math.sin(slope_rad / 2)  # first turned by the heading, then nose up
    quat = torch.stack([cos * half.cos(), sin * half.sin(), sin * half.cos(), cos * half.sin()], dim=1)
    start = normal_w * (sim.robot.base_height_m + _CLEARANCE_M)
    joints = place(sim, pos_w=start.repeat(count, 1), quat_wxyz=quat)
    seen = _stand(sim, joints, normal_w, seconds)
    sim.close()
    results = []
    for env, heading in enumerate(HEADINGS_RAD):
        what = f"{sim.robot.name} on {math.degrees(slope_rad):.0f} deg, heading {math.degrees(heading):.0f}"
        results += [
            _at_most(f"{what}: torque", float(seen.torque[env]), 0.8, "of its limit"),
            _at_most(f"{what}: creep", float(seen.creep_m[env]), 0.1, "m"),
            _at_most(f"{what}: tilt", math.degrees(seen.tilt_rad[env]), 20.0, "deg"),
            _at_most(f"{what}: touching", float(seen.contacts[env]), 0.0, "steps"),
        ]
    return results


def time_to_fall(make: MakeSim, *, most_s: float = 10.0) -> float:
    """How long the robot stays up on level ground when it only holds its default pose [s]; infinite if longer than ``most_s``.

    It has fallen when trunk or head touch the ground or the base leans by more than 60°.
    """
    sim = make([flat_scene()], 1)
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, sim.robot.base_height_m + 0.01]]))
    up, state = torch.tensor([[0.0, 0.0, 1.0]]), sim.state
    try:
        for step in range(round(most_s / SUBSTEP_S)):
            sim.step(joints, substeps=1)
            leaning = bool(rotate(state.root_quat_wxyz, up)[0, 2] < 0.5)
            if leaning or bool(state.trunk_contact[0]) or bool(state.invalid[0]):
                return (step + 1) * SUBSTEP_S
        return math.inf
    finally:
        sim.close()


def hung_model(robot: RobotCfg) -> mujoco.MjModel:
    """The robot in the air, its base welded to the world."""
    spec = mujoco.MjSpec.from_file(str(robot.mjcf))
    base = next(joint for joint in spec.joints if joint.type == mujoco.mjtJoint.mjJNT_FREE)
    spec.delete(base)
    return spec.compile()


def check_holds_pose_hung(
    robot: RobotCfg, *, seconds: float = 10.0, kick_rad: float = 0.1
) -> list[CheckResult]:
    """Hung from its base, the robot comes back to its default pose from ``kick_rad`` off it, at the project's 5 ms substep.

    The torque law is written out here (position gain, velocity gain, limit), so that nothing is under test but the model and
    its gains. Bounds, for the last second: error 0.15 rad (weight pulls a limb off its target by torque over gain), speed
    1e-3 rad/s (a gain too high for the substep trembles), torque 80 % of the limit.
    """
    model = hung_model(robot)
    data = mujoco.MjData(model)
    joints = [model.joint(name) for name in robot.joint_names]
    q, v = (np.array([getattr(j, adr)[0] for j in joints]) for adr in ("qposadr", "dofadr"))
    u = np.array([model.actuator(name).id for name in robot.joint_names])
    target, limit = np.array(robot.default_joint_pos), np.array(robot.torque_limit_nm)
    low, high = np.array([j.range for j in joints]).T
    kick = kick_rad * np.where(np.arange(len(target)) % 2 == 0, 1.0, -1.0)
    data.qpos[q] = np.clip(target + kick, low, high)
    steps, worst = round(seconds / SUBSTEP_S), np.zeros(3)
    for step in range(steps):
        torque = _pd(robot, target - data.qpos[q], data.qvel[v], limit)
        data.ctrl[u] = torque
        mujoco.mj_step(model, data)
        if step >= steps - round(1.0 / SUBSTEP_S):
            now = (target - data.qpos[q], data.qvel[v], torque / limit)
            worst = np.maximum(worst, [np.abs(x).max() for x in now])
    return [
        _at_most(f"{robot.name} hung: error", float(worst[0]), 0.15, "rad"),
        _at_most(f"{robot.name} hung: speed", float(worst[1]), 1e-3, "rad/s"),
        _at_most(f"{robot.name} hung: torque", float(worst[2]), 0.8, "of its limit"),
    ]


def _pd(
    robot: RobotCfg, error: NDArray[np.float64], speed: NDArray[np.float64], limit: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.clip(np.array(robot.kp) * error - np.array(robot.kd) * speed, -limit, limit)


def check_robot(make: MakeSim, robot: RobotCfg) -> list[CheckResult]:
    """All checks here that suit a robot: hung from its base; on a slope if it has four legs, else how soon it falls, in words."""
    results = check_holds_pose_hung(robot)
    if len(robot.leg_names) == 4:
        return results + check_stands_on_slope(make)
    print(
        f"{robot.name} holds its default pose on level ground for {time_to_fall(make):.3f} s before it falls"
    )
    return results
