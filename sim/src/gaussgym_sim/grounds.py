"""Small grounds and starts that tests and benches share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.vecsim import VecSim

GRAVITY_M_S2 = 9.81
MakeSim = Callable[..., VecSim]
"""(scenes, num_envs, num_threads=...) → sim of a quadruped; checks name the Go1's numbers."""


def straight_path(length_m: float, *, y_m: float = 0.0, half_width_m: float = 1.0, path_id: int = 0) -> Paths:
    """A line along x, centred on the origin, a point every 0.25 m; z is 0."""
    x = np.arange(-length_m / 2, length_m / 2 + 1e-6, 0.25)
    points = np.stack([x, np.full_like(x, y_m), 0 * x, 0 * x], axis=1).astype(np.float32)
    return Paths(points, np.full(len(x), path_id, np.int32), np.full(len(x), half_width_m, np.float32))


def flat_scene(*, z_m: float = 0.0, length_m: float = 30.0) -> Scene:
    """Level ground at height ``z_m`` with one straight path."""
    heights = np.full((21, 161), z_m, np.float32)
    field = Heightfield(heights, 0.25, np.array([-20.0, -2.5]), np.ones_like(heights, bool))
    return Scene("flat", heightfield=field, paths=straight_path(length_m))


def heights_scene(
    height_of: Callable[[NDArray, NDArray], NDArray],
    *,
    cell_m: float = 0.1,
    origin_xy_m: tuple[float, float] = (-6.0, -2.0),
    size_m: tuple[float, float] = (12.0, 5.0),
    name: str = "heights",
) -> Scene:
    """Ground z = height_of(x, y) on a grid that is neither square nor centred, with one path along x."""
    x = origin_xy_m[0] + cell_m * np.arange(round(size_m[0] / cell_m) + 1)
    y = origin_xy_m[1] + cell_m * np.arange(round(size_m[1] / cell_m) + 1)
    heights = height_of(*np.meshgrid(x, y)).astype(np.float32)
    field = Heightfield(heights, cell_m, np.array(origin_xy_m), np.ones_like(heights, bool))
    return Scene(name, heightfield=field, paths=straight_path(size_m[0] - 2.0, half_width_m=0.5))


def wavy_scene() -> Scene:
    """Smooth ground without any symmetry, above and below zero."""
    return heights_scene(lambda x, y: 0.7 + 0.08 * x - 0.15 * y + 0.03 * np.sin(1.3 * x + 0.4 * y))


def place(
    sim: VecSim,
    *,
    pos_w: Tensor,
    quat_wxyz: Tensor | None = None,
    lin_vel_w: Tensor | None = None,
    ang_vel_b: Tensor | None = None,
    env_ids: Tensor | None = None,
) -> Tensor:
    """Reset envs (default all) to base positions [R, 3] in the default pose; returns the default joint positions [E, J]."""
    ids = torch.arange(sim.num_envs) if env_ids is None else env_ids
    count = len(ids)
    upright = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1)
    joints = torch.tensor(sim.robot.default_joint_pos).repeat(sim.num_envs, 1)
    sim.reset(
        ids,
        root_pos_w=pos_w,
        root_quat_wxyz=upright if quat_wxyz is None else quat_wxyz,
        root_lin_vel_w=torch.zeros(count, 3) if lin_vel_w is None else lin_vel_w,
        root_ang_vel_b=torch.zeros(count, 3) if ang_vel_b is None else ang_vel_b,
        joint_pos=joints[ids],
        joint_vel=torch.zeros(count, sim.robot.num_joints),
    )
    return joints


@dataclass(frozen=True)
class CheckResult:
    """One measured number against what it should be."""

    name: str
    measured: float
    expected: float
    tolerance: float
    unit: str

    @property
    def passed(self) -> bool:
        """Within tolerance (NaN is not)."""
        return abs(self.measured - self.expected) <= self.tolerance


def stand(sim: VecSim, *, control_steps: int = 100) -> None:
    """Put all envs on the ground at the origin in the default pose and hold it."""
    pos = torch.zeros(sim.num_envs, 3)
    pos[:, 2] = sim.terrain.sample(pos[:, None, :2], sim.scene_of_env)[:, 0] + 0.3
    joints = place(sim, pos_w=pos)
    for _ in range(control_steps):
        sim.step(joints)


def random_walk(sim: VecSim, *, control_steps: int = 40, seed: int = 0) -> Tensor:
    """State after random actions from standing: [E, 7 + J], for comparisons of trajectories."""
    generator = torch.Generator().manual_seed(seed)
    stand(sim, control_steps=5)
    joints = torch.tensor(sim.robot.default_joint_pos)
    for _ in range(control_steps):
        noise = torch.randn(sim.num_envs, sim.robot.num_joints, generator=generator)
        sim.step(joints + 0.3 * noise)
    s = sim.state
    return torch.cat((s.root_pos_w, s.root_quat_wxyz, s.joint_pos), dim=1).clone()
