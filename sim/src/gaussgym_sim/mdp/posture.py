"""What follows from the state of robots and the ground below them, shared by commands, rewards and observations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gaussgym_sim.frames import BaseFrame
from gaussgym_sim.mdp.step_kernels import heights_over, postures
from gaussgym_sim.vecsim import VecSim

_UNDER_X_M, _UNDER_Y_M = 0.26, 0.2

ScanGround = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(base positions [R, 3] m, headings [R] rad, scenes [R]) -> ground heights [R, S] m below a grid."""


class Posture:
    """Derived quantities of E robots; `update` makes new tensors, `update_rows` writes rows of these.

    Attributes:
        yaw, gravity_b, lin_vel_b, joint_pos_offset, height_m: see `gaussgym_sim.env.Env`.
        ground: [E, S] ground heights below the grid [m]; one value a row, expanded, where all grounds are planes.
    """

    def __init__(self, sim: VecSim, grid_b: Tensor, scan_ground: ScanGround) -> None:
        """Prepare the mean over the points of the grid [S, 2] that lie below the body."""
        self._sim, self._scan_ground = sim, scan_ground
        self._base_frame = BaseFrame(sim.device)
        self._default = torch.tensor(sim.robot.default_joint_pos, device=sim.device)
        under = ((grid_b[:, 0].abs() < _UNDER_X_M) & (grid_b[:, 1].abs() < _UNDER_Y_M)).float()
        self._under = under / under.sum()  # [S] weights
        self._points = under.nonzero().squeeze(1)
        self._weights = self._under[self._points]
        self._everyone = torch.arange(sim.num_envs, device=sim.device)
        self._by_kernels = sim.device.type == "cpu"

    def update(self) -> None:
        """All robots, from the simulator's state."""
        s, sim = self._sim.state, self._sim
        if self._by_kernels:
            count = sim.num_envs
            self.yaw, self.height_m = torch.empty(count), torch.empty(count)
            self.gravity_b, self.lin_vel_b = torch.empty(count, 3), torch.empty(count, 3)
            self.joint_pos_offset = torch.empty_like(s.joint_pos)
            self._write(self._everyone)
            self.ground = self._scan_ground(s.root_pos_w, self.yaw, sim.scene_of_env)
            self._write_heights(self._everyone, self.ground)
            return
        self._update_by_tensors()

    def _write(self, ids: Tensor) -> None:
        s = self._sim.state
        state = (ids, s.root_quat_wxyz, s.root_lin_vel_w, s.joint_pos)
        out = (self.yaw, self.gravity_b, self.lin_vel_b, self.joint_pos_offset)
        postures(*(t.numpy() for t in (*state, self._default, *out)))

    def _write_heights(self, ids: Tensor, ground: Tensor) -> None:
        tensors = (ids, self._sim.state.root_pos_w, ground, self._points, self._weights, self.height_m)
        heights_over(*(t.numpy() for t in tensors))

    def _update_by_tensors(self) -> None:
        s, sim = self._sim.state, self._sim
        self.yaw, self.gravity_b, self.lin_vel_b = self._base_frame(s.root_quat_wxyz, s.root_lin_vel_w)
        self.ground = self._scan_ground(s.root_pos_w, self.yaw, sim.scene_of_env)
        self.joint_pos_offset = s.joint_pos - self._default
        self.height_m = s.root_pos_w[:, 2] - self._below(self.ground)

    def _below(self, ground: Tensor) -> Tensor:
        """Mean ground height [R] m below bodies, of scans [R, S]."""
        return ground[:, 0] if ground.stride(1) == 0 else ground @ self._under

    def update_rows(self, ids: Tensor) -> None:
        """Robots ``ids`` [R] alone."""
        s, sim = self._sim.state, self._sim
        if not self._by_kernels:
            self._update_rows_by_tensors(ids)
            return
        self._write(ids)
        ground = self._scan_ground(s.root_pos_w[ids], self.yaw[ids], sim.scene_of_env[ids])
        self._keep_ground(ids, ground)
        self._write_heights(ids, ground)

    def _update_rows_by_tensors(self, ids: Tensor) -> None:
        s, sim = self._sim.state, self._sim
        pos = s.root_pos_w[ids]
        frame = self._base_frame(s.root_quat_wxyz[ids], s.root_lin_vel_w[ids])
        self.yaw[ids], self.gravity_b[ids], self.lin_vel_b[ids] = frame
        ground = self._scan_ground(pos, frame[0], sim.scene_of_env[ids])
        self._keep_ground(ids, ground)
        self.joint_pos_offset[ids] = s.joint_pos[ids] - self._default
        self.height_m[ids] = pos[:, 2] - self._below(ground)

    def _keep_ground(self, ids: Tensor, ground: Tensor) -> None:
        if self.ground.stride(1) != 0:  # all grounds are planes: rows of one value, as they were
            self.ground[ids] = ground
