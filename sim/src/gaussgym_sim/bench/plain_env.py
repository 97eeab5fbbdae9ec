"""The rival's environment: one robot, plain MuJoCo, as anybody would write it for gymnasium; imports no torch."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray


class PlainEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """45 numbers of proprioception, a tracking reward, a reset on falls and after 20 s; no randomization, no noise.

    Args:
        model: the robot on its ground, as our own simulator compiles it.
        joints: addresses of the joints in qpos, qvel and ctrl.
        robot: dict of `RobotCfg` fields: default_joint_pos, kp, kd, torque_limit_nm, action_scale.
        start_pos_w: [3] where episodes begin.
        substeps: physics steps of an action.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        joints: tuple[NDArray[np.int64], ...],
        robot: dict[str, Any],
        start_pos_w: NDArray[np.float64],
        substeps: int = 4,
    ) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._q, self._v, self._u = joints
        self._pose, self._kp, self._kd = (np.array(robot[k]) for k in ("default_joint_pos", "kp", "kd"))
        self._limit, self._scale = np.array(robot["torque_limit_nm"]), robot["action_scale"]
        self._start, self._substeps = start_pos_w, substeps
        count = len(self._pose)
        self.observation_space = spaces.Box(-np.inf, np.inf, (9 + 3 * count,), np.float32)
        self.action_space = spaces.Box(-10.0, 10.0, (count,), np.float32)
        self._action = np.zeros(count)
        self._age = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Stand at the start."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:3], self._data.qpos[3:7] = self._start, (1, 0, 0, 0)
        self._data.qpos[self._q] = self._pose
        self._action[:] = 0
        self._age = 0
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """The same PD law as ours, every substep."""
        self._action[:] = action
        target = self._pose + self._scale * self._action
        data = self._data
        for _ in range(self._substeps):
            torque = self._kp * (target - data.qpos[self._q]) - self._kd * data.qvel[self._v]
            data.ctrl[self._u] = np.clip(torque, -self._limit, self._limit)
            mujoco.mj_step(self._model, data)
        self._age += 1
        obs = self._observe()
        reward = 0.02 * float(np.exp(-np.square(data.qvel[:2]).sum() / 0.2))
        return obs, reward, bool(obs[5] > -0.5), self._age >= 1000, {}

    def _observe(self) -> NDArray[np.float32]:
        data = self._data
        w, x, y, z = data.qpos[3:7]
        gravity = (2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1)
        parts = (
            data.qvel[3:6], gravity, np.zeros(3), data.qpos[self._q] - self._pose, data.qvel[self._v], self._action,
        )  # fmt: skip
        return np.concatenate(parts, dtype=np.float32)
