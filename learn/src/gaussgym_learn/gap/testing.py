"""Flight recordings of simulated robots that differ from the nominal one in a known way, by a loop of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize
from gaussgym_sim.engines.mujoco_model import build_model, robot_bodies
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.robot import RobotCfg, get_robot
from numpy.typing import NDArray

SUBSTEP_S = 0.002
_STEPS = 10  # a control period


@dataclass(frozen=True)
class Truth:
    """What is planted; see `gaussgym_learn.gap.replay.Physics`."""

    delay_s: float = 0.0
    strength: float = 1.0
    joint_friction_nm: float = 0.0
    joint_damping_nms: float = 0.0
    ground_friction: float = 1.0


def swaying(
    robot: RobotCfg, t_s: float, rng_phase: NDArray[np.float64], amplitude: float
) -> NDArray[np.float64]:
    """Targets [rad] of a robot that stands and moves all its joints at several frequencies."""
    default = np.array(robot.default_joint_pos)
    waves = np.sum(
        [np.sin(2 * np.pi * f * t_s + rng_phase[i]) for i, f in enumerate((0.7, 1.9, 3.1))], axis=0
    )
    return default + amplitude * np.tile([0.5, 1.0, 0.8], 4) * waves / 3


@cache
def _flat() -> Scene:
    return synthesize("flat", seed=0, max_splats=2000)


def simulate(
    truth: Truth,
    *,
    seconds: float = 20.0,
    seed: int = 0,
    amplitude: float = 0.35,
    noise: float = 0.0,
    robot_name: str = "go1",
    targets: Callable[..., NDArray[np.float64]] = swaying,
) -> dict[str, NDArray[Any]]:
    """Arrays of a flight recording of a robot on flat ground: 50 Hz, PD at every 2 ms.

    Args:
        truth: what is planted.
        seconds: length.
        seed: of the motion and the noise.
        amplitude: of the motion [rad].
        noise: 1 for that of ordinary sensors.
        robot_name: which robot.
        targets: the motion, see `swaying`.
    """
    robot = get_robot(robot_name)
    model = build_model(robot, ground_of(_flat()))
    model.opt.timestep = SUBSTEP_S
    joints = [model.joint(name) for name in robot.joint_names]
    q, v = (np.array([getattr(j, a)[0] for j in joints]) for a in ("qposadr", "dofadr"))
    u = np.array([model.actuator(name).id for name in robot.joint_names])
    model.dof_frictionloss[v] = truth.joint_friction_nm
    model.dof_damping[v] = truth.joint_damping_nms
    model.geom_friction[np.isin(model.geom_bodyid, robot_bodies(model)), 0] = truth.ground_friction
    data, rng = mujoco.MjData(model), np.random.default_rng(seed)
    data.qpos[:3], data.qpos[q] = (2.0, 0.0, robot.base_height_m), robot.default_joint_pos
    mujoco.mj_forward(model, data)
    phase = rng.uniform(0, 2 * np.pi, (3, robot.num_joints))
    lag, kp, kd = round(truth.delay_s / SUBSTEP_S), np.array(robot.kp), np.array(robot.kd)
    limit = np.array(robot.torque_limit_nm)
    pending = [np.array(robot.default_joint_pos)] * (lag + _STEPS)  # targets of the substeps to come
    rows: dict[str, list[NDArray[Any]]] = {}
    torque = np.zeros(robot.num_joints)
    for step in range(round(seconds * 50)):
        rotation = np.zeros(9)
        mujoco.mju_quat2Mat(rotation, data.qpos[3:7])
        target = targets(robot, 0.02 * step, phase, amplitude)
        values = {
            "t_s": 50.0 + 0.02 * step, "robot_t_s": 0.02 * step, "joint_pos": data.qpos[q], "joint_vel": data.qvel[v],
            "joint_torque": torque, "quat_wxyz": data.qpos[3:7], "ang_vel_b": data.qvel[3:6],
            "lin_acc_b": rotation.reshape(3, 3).T @ (data.qacc[:3] + [0, 0, 9.81]), "position_w": data.qpos[:3],
            "command": np.zeros(3), "target": target, "kp": kp, "kd": kd, "action": np.zeros(12),
        }  # fmt: skip
        for name, value in values.items():
            rows.setdefault(name, []).append(np.array(value, dtype=np.float64))
        pending[lag : lag + _STEPS] = [target] * _STEPS
        for _ in range(_STEPS):
            torque = truth.strength * (kp * (pending.pop(0) - data.qpos[q]) - kd * data.qvel[v])
            pending.append(target)
            torque = np.clip(torque, -limit, limit)
            data.ctrl[u] = torque
            mujoco.mj_step(model, data)
    arrays = {name: np.stack(values) for name, values in rows.items()}
    if noise > 0:
        for name, std in (
            ("joint_pos", 0.003),
            ("joint_vel", 0.1),
            ("ang_vel_b", 0.03),
            ("position_w", 0.002),
        ):
            arrays[name] = arrays[name] + rng.normal(0.0, noise * std, arrays[name].shape)
    return arrays


def write_flight(
    folder: Path, arrays: dict[str, NDArray[Any]], *, robot_name: str = "go1", **fields: Any
) -> Path:
    """The two files of a flight recording."""
    robot = get_robot(robot_name)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "flight.npz", **arrays)  # type: ignore[arg-type]
    about = {
        "format": "gaussgym-flight",
        "version": 1,
        "robot": robot_name,
        "joint_names": list(robot.joint_names),
    }
    (folder / "flight.json").write_text(json.dumps({**about, **fields}))
    return folder
