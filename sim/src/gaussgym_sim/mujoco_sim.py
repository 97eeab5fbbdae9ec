"""MuJoCo on the CPU: one `mujoco.batch.Batch` a scene, explicit PD torques every substep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.scene import Scene
from mujoco import batch
from torch import Tensor

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.starts import scene_of_env
from gaussgym_sim.terrain import TerrainLookup, add_terrain, physics_heightfield
from gaussgym_sim.vecsim import SUBSTEP_S, SimState

_BAD_STATE = [
    int(mujoco.mjtWarning.mjWARN_BADQPOS),
    int(mujoco.mjtWarning.mjWARN_BADQVEL),
    int(mujoco.mjtWarning.mjWARN_BADQACC),
]
_ROOT = 7  # qpos of a free joint: position and quaternion
_ROOT_V = 6
_TRUNK_BODY = 1


def effective_cpus() -> int:
    """CPUs that this process may use: affinity and the container's quota where the system tells them."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    try:
        quota, period = quota_file.read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass  # no quota, or no such file on this system
    return count


def build_model(robot: RobotCfg, scene: Scene) -> mujoco.MjModel:
    """The robot on the scene's ground as a plain MuJoCo model (also for rendering or `mj_step`)."""
    return _compile(robot, physics_heightfield(scene))


def _compile(robot: RobotCfg, field: Heightfield) -> mujoco.MjModel:
    spec = mujoco.MjSpec.from_file(str(robot.mjcf))
    add_terrain(spec, field)
    model = spec.compile()
    model.opt.timestep = SUBSTEP_S
    return model


class _SceneBatch:
    """The envs of one scene: a batch and the views of it that are read every step."""

    def __init__(self, model: mujoco.MjModel, envs: slice, num_threads: int) -> None:
        count = envs.stop - envs.start
        self.model, self.envs = model, envs
        self.batch = batch.Batch(model, count, min(num_threads, count))
        self.qpos, self.qvel = self.batch.bind("qpos"), self.batch.bind("qvel")
        self.ctrl, self.sensors = self.batch.bind("ctrl"), self.batch.bind("sensordata")
        self.friction = self.batch.expand("geom_friction")
        self.robot_geoms = np.flatnonzero(model.geom_bodyid > 0)
        self.payload: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self.moving = np.arange(count, dtype=np.int32)

    def step_once(self, bad: np.ndarray) -> None:
        """One substep; simulations in which MuJoCo raised an error keep their state and are marked in ``bad``."""
        try:
            self.batch.step(None if len(self.moving) == len(self.qpos) else self.moving)
        except batch.SimulationError as error:
            bad[np.asarray(error.ids)] = True


class MujocoSim:
    """`VecSim` on MuJoCo. All buffers are numpy; the tensors of ``state`` are views of them."""

    def __init__(
        self, robot: RobotCfg, scenes: Sequence[Scene], num_envs: int, *, num_threads: int | None = None
    ) -> None:
        """Compile one model a scene. See `make_sim` for the arguments."""
        self.robot, self.scenes, self.num_envs = robot, list(scenes), num_envs
        self.substep_s, self.device = SUBSTEP_S, torch.device("cpu")
        self.num_threads = num_threads or effective_cpus()
        self.invalid_count = 0
        fields = [physics_heightfield(scene) for scene in self.scenes]
        self.terrain = TerrainLookup(fields, device=self.device)
        owner = scene_of_env(len(self.scenes), num_envs)
        bounds = np.searchsorted(owner, np.arange(len(self.scenes) + 1))
        self.scene_of_env = torch.from_numpy(owner)
        self._batches = [
            _SceneBatch(_compile(robot, field), slice(int(a), int(b)), self.num_threads)
            for field, a, b in zip(fields, bounds[:-1], bounds[1:], strict=True)
        ]
        self._index_model(self._batches[0].model)
        self.total_mass_kg = float(self._batches[0].model.body_mass.sum())
        self._allocate()

    def _index_model(self, model: mujoco.MjModel) -> None:
        robot = self.robot
        joints = [model.joint(name) for name in robot.joint_names]
        self._q = np.array([j.qposadr[0] for j in joints])
        self._v = np.array([j.dofadr[0] for j in joints])
        self._u = np.array([model.actuator(name).id for name in robot.joint_names])
        self._limit = np.array(robot.torque_limit_nm)

        def columns(names: list[str]) -> np.ndarray:
            """Sensor columns, [len(names), dim] (or [len(names)] for scalars)."""
            sensors = [model.sensor(name) for name in names]
            cols = np.array([np.arange(s.adr[0], s.adr[0] + s.dim[0]) for s in sensors])
            return cols[:, 0] if cols.shape[1] == 1 else cols

        self._foot_pos = columns([f"{leg}_foot_pos" for leg in robot.leg_names])
        self._foot_vel = columns([f"{leg}_foot_vel" for leg in robot.leg_names])
        self._foot_contact = columns([f"{leg}_foot_contact" for leg in robot.leg_names])
        self._thigh = columns([f"{leg}_thigh_contact" for leg in robot.leg_names])
        self._trunk = columns([f"{geom}_contact" for geom in robot.trunk_geoms])

    def _allocate(self) -> None:
        e, j, legs = self.num_envs, self.robot.num_joints, len(self.robot.leg_names)
        self._kp = np.full((e, j), self.robot.kp)
        self._kd = np.full((e, j), self.robot.kd)
        self._strength = np.ones((e, j))
        self._target = np.tile(np.array(self.robot.default_joint_pos), (e, 1))
        self._torque = np.zeros((e, j))
        self._bad = np.zeros(e, dtype=bool)
        shapes = {
            "root_pos_w": (3,), "root_quat_wxyz": (4,), "root_lin_vel_w": (3,), "root_ang_vel_b": (3,),
            "joint_pos": (j,), "joint_vel": (j,), "joint_torque": (j,),
            "foot_pos_w": (legs, 3), "foot_vel_w": (legs, 3), "foot_force_w": (legs, 3),
        }  # fmt: skip
        self._out = {name: np.zeros((e, *shape), dtype=np.float32) for name, shape in shapes.items()}
        flags = {"foot_contact": (legs,), "thigh_contact": (legs,), "trunk_contact": (), "invalid": ()}
        self._out |= {name: np.zeros((e, *shape), dtype=bool) for name, shape in flags.items()}
        self.state = SimState(**{name: torch.from_numpy(array) for name, array in self._out.items()})

    def step(self, target_joint_pos: Tensor, *, substeps: int = 4) -> None:
        """See `VecSim.step`."""
        self._target[:] = target_joint_pos.numpy()
        self._bad[:] = False
        for part in self._batches:
            for _ in range(substeps):
                self._apply_torque(part)
                part.step_once(self._bad[part.envs])
            self._read(part, slice(None), contacts=True)
        self._find_invalid()

    def _apply_torque(self, part: _SceneBatch) -> None:
        """Tau = clip(strength (kp (target - q) - kd qd), limit), in place."""
        envs, torque = part.envs, self._torque[part.envs]
        np.subtract(self._target[envs], part.qpos[:, self._q], out=torque)
        torque *= self._kp[envs]
        torque -= self._kd[envs] * part.qvel[:, self._v]
        torque *= self._strength[envs]
        np.clip(torque, -self._limit, self._limit, out=torque)
        part.ctrl[:, self._u] = torque

    def _find_invalid(self) -> None:
        invalid: Any = self._out["invalid"]
        for part in self._batches:
            finite = np.isfinite(part.qpos).all(axis=1) & np.isfinite(part.qvel).all(axis=1)
            warned = part.batch.warning[:, _BAD_STATE, 1].any(axis=1)
            invalid[part.envs] = ~finite | warned | self._bad[part.envs]
        if invalid.any():
            self.invalid_count += int(invalid.sum())
            for array in self._out.values():
                if array.dtype == np.float32:
                    np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            self._out["root_quat_wxyz"][invalid] = (1.0, 0.0, 0.0, 0.0)

    def _read(self, part: _SceneBatch, rows: slice | np.ndarray, *, contacts: bool) -> None:
        """Copy rows of a scene's batch into the state buffers; without contacts these read zero."""
        out = {name: array[part.envs] for name, array in self._out.items()}
        qpos, qvel, sensors = part.qpos[rows], part.qvel[rows], part.sensors[rows]
        out["root_pos_w"][rows] = qpos[:, :3]
        out["root_quat_wxyz"][rows] = qpos[:, 3:_ROOT]
        out["root_lin_vel_w"][rows] = qvel[:, :3]
        out["root_ang_vel_b"][rows] = qvel[:, 3:_ROOT_V]
        out["joint_pos"][rows] = qpos[:, self._q]
        out["joint_vel"][rows] = qvel[:, self._v]
        out["foot_pos_w"][rows] = sensors[:, self._foot_pos]
        out["foot_vel_w"][rows] = sensors[:, self._foot_vel]
        if contacts:
            foot = sensors[:, self._foot_contact]
            out["joint_torque"][rows] = self._torque[part.envs][rows]
            out["foot_contact"][rows] = foot[..., 0] > 0
            out["foot_force_w"][rows] = -foot[..., 1:]  # the sensor tells what the foot does to the ground
            out["thigh_contact"][rows] = sensors[:, self._thigh] > 0
            out["trunk_contact"][rows] = (sensors[:, self._trunk] > 0).any(axis=1)
        else:
            for name in (
                "joint_torque",
                "foot_force_w",
                "foot_contact",
                "thigh_contact",
                "trunk_contact",
                "invalid",
            ):
                out[name][rows] = 0

    def reset(
        self, env_ids: Tensor, *, root_pos_w: Tensor, root_quat_wxyz: Tensor, root_lin_vel_w: Tensor,
        root_ang_vel_b: Tensor, joint_pos: Tensor, joint_vel: Tensor,
    ) -> None:  # fmt: skip
        """See `VecSim.reset`."""
        qpos_root = torch.cat((root_pos_w, root_quat_wxyz), dim=1).numpy()
        qvel_root = torch.cat((root_lin_vel_w, root_ang_vel_b), dim=1).numpy()
        q, v = joint_pos.numpy(), joint_vel.numpy()
        for part, rows, picked in self._split(env_ids):
            part.batch.reset(rows, stage=mujoco.mjtStage.mjSTAGE_NONE)
            part.qpos[rows[:, None], np.arange(_ROOT)] = qpos_root[picked]
            part.qvel[rows[:, None], np.arange(_ROOT_V)] = qvel_root[picked]
            part.qpos[rows[:, None], self._q] = q[picked]
            part.qvel[rows[:, None], self._v] = v[picked]
            part.batch.forward(rows, stage=mujoco.mjtStage.mjSTAGE_VEL)
            self._read(part, rows, contacts=False)

    def park(self, env_ids: Tensor) -> None:
        """See `VecSim.park`."""
        for part, rows, _ in self._split(env_ids):
            part.moving = np.setdiff1d(part.moving, rows.astype(np.int32))

    def replace_scene(self, index: int, scene: Scene) -> None:
        """See `VecSim.replace_scene`. Compiles one model; the other scenes' batches stay as they are."""
        field = physics_heightfield(scene)
        envs = self._batches[index].envs
        self._batches[index] = _SceneBatch(_compile(self.robot, field), envs, self.num_threads)
        self.terrain.replace(index, field)
        self.scenes[index] = scene
        self._kp[envs], self._kd[envs], self._strength[envs] = self.robot.kp, self.robot.kd, 1.0

    def kick(self, env_ids: Tensor, delta_lin_vel_w: Tensor) -> None:
        """See `VecSim.kick`."""
        delta = delta_lin_vel_w.numpy()
        for part, rows, picked in self._split(env_ids):
            part.qvel[rows[:, None], np.arange(3)] += delta[picked]
            self._out["root_lin_vel_w"][part.envs][rows] = part.qvel[rows, :3]

    def set_actuators(self, env_ids: Tensor, *, kp: Tensor, kd: Tensor, strength: Tensor) -> None:
        """See `VecSim.set_actuators`."""
        ids = env_ids.numpy()
        self._kp[ids], self._kd[ids], self._strength[ids] = kp.numpy(), kd.numpy(), strength.numpy()

    def set_friction(self, env_ids: Tensor, friction: Tensor) -> None:
        """See `VecSim.set_friction`. Robot geoms have contact priority over the ground, so theirs is the value in force."""
        values = friction.numpy()
        for part, rows, picked in self._split(env_ids):
            part.friction[rows[:, None], part.robot_geoms, 0] = values[picked, None]

    def set_payload(self, env_ids: Tensor, *, trunk_mass_kg: Tensor, trunk_com_b: Tensor) -> None:
        """See `VecSim.set_payload`."""
        mass, com = trunk_mass_kg.numpy(), trunk_com_b.numpy()
        for part, rows, picked in self._split(env_ids):
            if part.payload is None:
                part.payload = tuple(part.batch.expand(f) for f in ("body_mass", "body_ipos", "body_inertia"))
            masses, coms, inertias = part.payload
            model = part.model
            factor = mass[picked] / model.body_mass[_TRUNK_BODY]
            masses[rows, _TRUNK_BODY] = mass[picked]
            coms[rows, _TRUNK_BODY] = com[picked]
            inertias[rows, _TRUNK_BODY] = model.body_inertia[_TRUNK_BODY] * factor[:, None]
            part.batch.set_const(rows)

    def _split(self, env_ids: Tensor) -> Iterator[tuple[_SceneBatch, np.ndarray, np.ndarray]]:
        """Yield (scene batch, its local rows, mask of ``env_ids``) for the scenes concerned."""
        ids = env_ids.numpy()
        for part in self._batches:
            picked = (ids >= part.envs.start) & (ids < part.envs.stop)
            if picked.any():
                yield part, ids[picked] - part.envs.start, picked
