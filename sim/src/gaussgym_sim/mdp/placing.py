"""How robots are put on the ground: upright, feet and lower legs just clear of the ground below them."""

from __future__ import annotations

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.frames import multiply_quat, quat_from_rotation_vector, quat_from_yaw
from gaussgym_sim.mdp.start_kernels import stand_upright
from gaussgym_sim.randomize import RandomizeCfg, Uniform
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.geoms import load_model
from gaussgym_sim.vecsim import VecSim

START_CLEARANCE_M = 0.02
_GRID_M = 0.05
_SQUARE_M = 0.025


def footprint_m(robot: RobotCfg) -> NDArray[np.float64]:
    """Points that must be clear of the ground when a robot is put down [F, 3] m: x and y from the base, in the default pose, and
    height over the soles.

    The base's origin and the feet, to the nearest 5 cm, count as level with the soles. Then come the lowest points of what else
    collides of the links that end in feet, one a square of 2.5 cm: beside a foot, a calf may reach into the next step.
    """
    model, data = _default_pose(robot)
    feet = [model.geom(name).id for name in robot.foot_geoms]
    level = np.concatenate((np.zeros((1, 2)), np.round(data.geom_xpos[feet, :2] / _GRID_M) * _GRID_M))
    collides = np.isin(model.geom_bodyid, model.geom_bodyid[feet])
    collides &= (model.geom_contype > 0) | (model.geom_conaffinity > 0)
    collides[feet] = False
    points = np.concatenate(
        [np.zeros((0, 3)), *(_lowest_m(model, data, int(g)) for g in np.flatnonzero(collides))]
    )
    points[:, 2] = np.maximum(points[:, 2] + robot.base_height_m, 0.0)
    points = points[np.argsort(points[:, 2], kind="stable")]
    lowest = np.unique(np.floor(points[:, :2] / _SQUARE_M), axis=0, return_index=True)[1]
    return np.concatenate((np.pad(level, ((0, 0), (0, 1))), points[np.sort(lowest)]))


def _default_pose(robot: RobotCfg) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A robot's model, and where its shapes are with the base at the origin."""
    model = load_model(robot.mjcf)
    data = mujoco.MjData(model)
    data.qpos[:] = model.qpos0
    free = int(np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)[0])
    start = int(model.jnt_qposadr[free])
    data.qpos[start : start + 7] = (0, 0, 0, 1, 0, 0, 0)
    for name, angle in zip(robot.joint_names, robot.default_joint_pos, strict=True):
        data.qpos[model.joint(name).qposadr[0]] = angle
    mujoco.mj_kinematics(model, data)
    return model, data


def _lowest_m(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> NDArray[np.float64]:
    """Points [125, 3] over the box around a shape, world frame; no part of the shape is lower than the lowest near it."""
    centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
    grid = np.stack(np.meshgrid(*[np.linspace(-1.0, 1.0, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return (centre + half * grid) @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]


class Placer:
    """Resets a simulator's envs to standing robots."""

    def __init__(self, sim: VecSim, uniform: Uniform) -> None:
        """Keep the simulator and its robot's footprint."""
        self._sim, self._uniform = sim, uniform
        self._footprint = torch.tensor(footprint_m(sim.robot), dtype=torch.float32, device=sim.device)
        self._default = torch.tensor(sim.robot.default_joint_pos, device=sim.device)

    def place(self, env_ids: Tensor, xy: Tensor, yaw: Tensor, cfg: RandomizeCfg) -> None:
        """Put robots upright at xy [R, 2] m with heading yaw [R] rad.

        Args:
            env_ids: [R].
            xy: base position.
            yaw: heading.
            cfg: ranges of joint angles, tilt and velocities.
        """
        sim, u, count = self._sim, self._uniform, len(env_ids)
        joint_noise = cfg.spread(u, cfg.start_joint_rad, count, len(self._default))
        lin_vel = cfg.spread(u, cfg.start_lin_vel_m_s, count, 3)
        ang_vel, joint_vel = torch.zeros_like(lin_vel), torch.zeros_like(joint_noise)
        if cfg.start_ang_vel_rad_s > 0:
            ang_vel = cfg.spread(u, cfg.start_ang_vel_rad_s, count, 3)
        if cfg.start_joint_vel_rad_s > 0:
            joint_vel = cfg.spread(u, cfg.start_joint_vel_rad_s, count, len(self._default))
        pos, quat = self._stand(xy, yaw, sim.scene_of_env[env_ids])
        if cfg.start_tilt_rad > 0:
            flat = torch.zeros(count, 1, device=yaw.device)
            tilt = torch.cat((cfg.spread(u, cfg.start_tilt_rad, count, 2), flat), 1)
            quat = multiply_quat(quat, quat_from_rotation_vector(tilt))
            # The lowest foot is that much lower.
            pos[:, 2] += self._footprint[:, :2].norm(dim=1).max() * torch.sin(tilt.norm(dim=1))
        sim.reset(
            env_ids,
            root_pos_w=pos,
            root_quat_wxyz=quat,
            root_lin_vel_w=lin_vel,
            root_ang_vel_b=ang_vel,
            joint_pos=self._default + joint_noise,
            joint_vel=joint_vel,
        )

    def _stand(self, xy: Tensor, yaw: Tensor, scene_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Positions [R, 3] and quaternions wxyz [R, 4] of upright robots with their feet over the ground."""
        height_m = self._sim.robot.base_height_m + START_CLEARANCE_M
        if xy.device.type != "cpu":
            return self._stand_by_tensors(xy, yaw, scene_ids, height_m)
        pos, quat = torch.empty(len(xy), 3), torch.empty(len(xy), 4)
        places = (t.numpy() for t in (scene_ids, xy, yaw, self._footprint))
        arguments = [*self._sim.terrain.arrays(), *places, height_m, pos.numpy(), quat.numpy()]
        stand_upright(*arguments)
        return pos, quat

    def _stand_by_tensors(
        self, xy: Tensor, yaw: Tensor, scene_ids: Tensor, height_m: float
    ) -> tuple[Tensor, Tensor]:
        x, y, over_soles = self._footprint.T
        cos, sin = torch.cos(yaw)[:, None], torch.sin(yaw)[:, None]
        below = torch.stack((cos * x - sin * y, sin * x + cos * y), dim=2) + xy[:, None]
        ground = (self._sim.terrain.sample(below, scene_ids) - over_soles).amax(dim=1)
        return torch.cat((xy, (ground + height_m)[:, None]), dim=1), quat_from_yaw(yaw)
