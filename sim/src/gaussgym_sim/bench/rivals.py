"""Other ways to step the same robots: gymnasium's AsyncVectorEnv, MuJoCo Warp on its CPU device."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from gaussgym_scene.scene import Scene

from gaussgym_sim.bench.timing import Stopwatch
from gaussgym_sim.engines.mujoco_model import build_model
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.robot import RobotCfg


def missing_modules(*names: str) -> list[str]:
    """Those that cannot be imported."""
    return [name for name in names if find_spec(name) is None]


class AsyncRun:
    """`gymnasium.vector.AsyncVectorEnv` of plain environments: one process each, numpy over shared memory.

    Make it before anything that starts threads: its processes are forks of this one.

    Args:
        robot: which.
        scene: the ground.
        num_envs: environments, a process each.
        steps: control steps a call.
        terrain: see `make_sim`.
    """

    def __init__(self, robot: RobotCfg, scene: Scene, num_envs: int, *, steps: int, terrain: str) -> None:
        from gymnasium.vector import AsyncVectorEnv

        from gaussgym_sim.bench.plain_env import PlainEnv

        model = build_model(robot, ground_of(scene, terrain))
        joints = (
            np.array([model.joint(name).qposadr[0] for name in robot.joint_names]),
            np.array([model.joint(name).dofadr[0] for name in robot.joint_names]),
            np.array([model.actuator(name).id for name in robot.joint_names]),
        )
        xy = scene.paths.points[len(scene.paths) // 2, :2]
        start = np.array([*xy, float(scene.heightfield.sample(xy)) + robot.base_height_m + 0.03])
        make: Any = partial(PlainEnv, model, joints, asdict(robot), start)
        self._envs = AsyncVectorEnv([make] * num_envs, shared_memory=True)
        self._steps, self._num_envs = steps, num_envs
        rng = np.random.default_rng(0)
        self._actions = rng.normal(size=(8, num_envs, robot.num_joints)).astype(np.float32)
        self._envs.reset(seed=0)

    def __call__(self) -> dict[str, float]:
        """Wall time alone: the work is done in other processes."""
        watch = Stopwatch()
        with watch:
            for i in range(self._steps):
                self._envs.step(self._actions[i % 8])
        return {"control_steps_per_s": self._num_envs * self._steps / watch.wall_s}

    def close(self) -> None:
        """End the processes."""
        self._envs.close()
