"""Actuators: how position targets become joint torques, every substep, on the CPU. Other engines have twins of `Actuators`."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gaussgym_sim.actuation.actuator_net import ActuatorNet
from gaussgym_sim.robot import RobotCfg

_SAVED = ("kp", "kd", "strength", "offset", "delay", "torque")


class Actuators:
    """The actuators of E robots.

    Attributes:
        kp, kd, strength, offset: [E, J], see `gaussgym_sim.vecsim.PARAMS`.
        delay: [E] substeps.
        torque: [E, J] of the last substep [Nm].
    """

    def __init__(self, robot: RobotCfg, num_envs: int, *, max_delay: int) -> None:
        """Nominal parameters, and a memory of the targets of ``max_delay`` substeps."""
        cfg, joints = robot.actuator, robot.num_joints
        cfg.check(joints)
        self.limit = np.array(robot.torque_limit_nm)
        self.kp, self.kd = (np.tile(np.array(gain), (num_envs, 1)) for gain in (robot.kp, robot.kd))
        self.strength, self.offset = np.ones((num_envs, joints)), np.zeros((num_envs, joints))
        self.delay = np.zeros(num_envs, dtype=np.int32)
        self.torque = np.zeros((num_envs, joints))
        infinite = np.full(joints, np.inf)
        dc = cfg.kind == "dc"
        self._stall = np.array(cfg.stall_torque_nm) if dc else infinite
        self._no_load = np.array(cfg.no_load_speed_rad_s) if dc else infinite
        self._dc = dc
        # Targets change with each call of `begin`, so the last max_delay + 1 of them are all that a delay can reach.
        self._targets = np.tile(np.array(robot.default_joint_pos), (max_delay + 1, num_envs, 1))
        self._began = np.zeros(max_delay + 1, dtype=np.int64)
        self._newest, self._now = 0, 0
        self._slot = np.zeros((1, max_delay + 1), dtype=np.int32)
        self._net: Any = None
        if cfg.net is not None and cfg.kind == "net":
            self._net = ActuatorNet.load(cfg.net).start(num_envs, joints)

    def begin(self, target: NDArray[Any], substeps: int) -> None:
        """Targets [E, J] rad from now on, for so many substeps: `apply` takes the substep's number among these."""
        count = len(self._targets)
        self._newest = (self._newest + 1) % count
        self._targets[self._newest] = target
        self._began[self._newest] = self._now
        # Which of the kept targets was in force so many substeps ago, for each substep and possible delay.
        self._slot = np.empty((substeps, count), dtype=np.int32)
        for substep in range(substeps):
            slot = self._newest
            for delay in range(count):
                while self._began[slot] > self._now + substep - delay and (slot - 1) % count != self._newest:
                    slot = (slot - 1) % count
                self._slot[substep, delay] = slot
        self._now += substeps

    def apply(
        self,
        substep: int,
        envs: NDArray[np.int64],
        qpos: NDArray[np.float64],
        qvel: NDArray[np.float64],
        columns: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
        ctrl: NDArray[np.float64],
    ) -> None:
        """Write the torques of some environments into ``torque`` and into an engine's controls.

        Args:
            substep: which since `begin`, from 0.
            envs: [n] which environments.
            qpos: [n, nq] their positions.
            qvel: [n, nv] their velocities.
            columns: of the joints, in the robot's order, in ``qpos``, ``qvel`` and ``ctrl``.
            ctrl: [n, nu] output [Nm].
        """
        slots = self._slot[substep]
        if self._net is None:
            _feedback(
                envs, self._targets, slots, self.delay, self.kp, self.kd, self.strength, self.offset, self.limit,
                self._dc, self._stall, self._no_load, qpos, qvel, *columns, self.torque, ctrl,
            )  # fmt: skip
            return
        wanted = self._targets[slots[self.delay[envs]], envs] + self.offset[envs]
        torque = self._net.torque(envs, wanted - qpos[:, columns[0]], qvel[:, columns[1]])
        torque = np.clip(torque * self.strength[envs], -self.limit, self.limit)
        self.torque[envs] = torque
        ctrl[:, columns[2]] = torque

    def reset(self, env_ids: NDArray[np.int64], joint_pos: NDArray[Any]) -> None:
        """Environments start anew, having held ``joint_pos`` [R, J]."""
        self._targets[:, env_ids] = joint_pos
        self.torque[env_ids] = 0.0
        if self._net is not None:
            self._net.reset(env_ids)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Parameters and memory."""
        state = {name: getattr(self, name).copy() for name in _SAVED}
        state |= {"targets": self._targets.copy(), "began": self._began.copy()}
        state["clock"] = np.array([self._newest, self._now])
        return state | ({} if self._net is None else self._net.state_dict())

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Inverse of `state_dict`."""
        for name in _SAVED:
            getattr(self, name)[:] = state[name]
        self._targets[:], self._began[:] = state["targets"], state["began"]
        self._newest, self._now = (int(x) for x in state["clock"])
        if self._net is not None:
            self._net.load_state_dict(state)


@numba.njit(cache=True, nogil=True)
def _feedback(
    envs,
    targets,
    slots,
    delay,
    kp,
    kd,
    strength,
    offset,
    limit,
    dc,
    stall,
    no_load,
    qpos,
    qvel,
    q,
    v,
    u,
    out,
    ctrl,
):
    """`ActuatorCfg`'s 'pd' and 'dc' for n environments; no product is fused with a sum, so that results equal numpy's."""
    for i in range(len(envs)):
        e = envs[i]
        slot = slots[delay[e]]
        for j in range(len(limit)):
            speed = qvel[i, v[j]]
            error = targets[slot, e, j] + offset[e, j] - qpos[i, q[j]]
            tau = strength[e, j] * (kp[e, j] * error - kd[e, j] * speed)
            if dc:
                most = max(stall[j] * (1.0 - speed / no_load[j]), 0.0)
                least = min(stall[j] * (-1.0 - speed / no_load[j]), 0.0)
                tau = min(max(tau, least), most)
            tau = min(max(tau, -limit[j]), limit[j])
            out[e, j] = tau
            ctrl[i, u[j]] = tau
