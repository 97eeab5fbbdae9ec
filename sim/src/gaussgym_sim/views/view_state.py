"""What a viewer shows of chosen environments, as one plain structure: robots, contacts, scans, rays, commands, paths, cameras.

::

    source = ViewSource(env)
    shapes, state = source.shapes, source.look(torch.tensor([0, 5]))
    np.savez("view.npz", **state.arrays())  # or json.dumps(state.to_json())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.frames import quat_from_yaw, rotate
from gaussgym_sim.robots.geoms import Geom, robot_geoms
from gaussgym_sim.robots.kinematics import BodyKinematics
from gaussgym_sim.sensors.camera import camera_to_world, intrinsics, mount_pose

if TYPE_CHECKING:
    from gaussgym_sim.env import Env

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ViewShapes:
    """What does not change: names, and the shapes that bodies carry.

    Attributes:
        robot: its name.
        bodies: B names, the base first.
        legs: L names.
        joints: J names.
        reward_terms: T names.
        geoms: of the robot; ``geoms[i].body`` counts ``bodies``.
        camera_size: width, height [px].
    """

    robot: str
    bodies: tuple[str, ...]
    legs: tuple[str, ...]
    joints: tuple[str, ...]
    reward_terms: tuple[str, ...]
    geoms: tuple[Geom, ...]
    camera_size: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, numbers and texts."""
        geoms = [
            {
                key: value.tolist() if isinstance(value, np.ndarray) else value
                for key, value in vars(g).items()
            }
            for g in self.geoms
        ]
        return vars(self) | {"geoms": geoms}


@dataclass(eq=False)
class ViewState:
    """What n environments look like now; positions [m] are in the frame of each one's scene.

    Attributes:
        env_ids, scene_ids: [n] int64, which, and the slot of the scene that each stands in.
        episode_s: [n] age of its episode.
        body_pos_w, body_quat_wxyz: [n, B, 3], [n, B, 4] of every body, as `ViewShapes.bodies`.
        joint_pos: [n, J] [rad].
        foot_pos_w, foot_force_w: [n, L, 3] centre, and ground reaction [N].
        foot_contact, thigh_contact: [n, L] bool.
        trunk_contact: [n] bool.
        scan_pos_w: [n, S, 3] points of the height scan on the ground.
        ray_origin_w, ray_hit_w: [n, R, 3] rays through a coarse grid of the camera's pixels, NaN where one hits nothing.
        command: [n, 3] forward, left [m/s], yaw rate [rad/s].
        path_pos_w: [n, P, 3] the line that each follows, filled up with NaN.
        goal_pos_w: [n, 3] on the ground, NaN where a task has none.
        camera_c2w: [n, 4, 4] camera (+X right, +Y down, +Z forward) to world.
        camera_K: [n, 3, 3] [px].
        rewards: [n, T] weighted terms of the last step, rates a second.
    """

    env_ids: NDArray[np.int64]
    scene_ids: NDArray[np.int64]
    episode_s: Floats
    body_pos_w: Floats
    body_quat_wxyz: Floats
    joint_pos: Floats
    foot_pos_w: Floats
    foot_force_w: Floats
    foot_contact: NDArray[np.bool_]
    thigh_contact: NDArray[np.bool_]
    trunk_contact: NDArray[np.bool_]
    scan_pos_w: Floats
    ray_origin_w: Floats
    ray_hit_w: Floats
    command: Floats
    path_pos_w: Floats
    goal_pos_w: Floats
    camera_c2w: Floats
    camera_K: Floats
    rewards: Floats

    _INTEGERS: ClassVar[tuple[str, ...]] = ("env_ids", "scene_ids")
    _FLAGS: ClassVar[tuple[str, ...]] = ("foot_contact", "thigh_contact", "trunk_contact")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """By name, for ``np.savez``."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_json(self) -> dict[str, Any]:
        """Nested lists; what is not finite becomes None."""
        return {name: _finite(array.tolist()) for name, array in self.arrays().items()}

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> ViewState:
        """Inverse of `arrays` and of `to_json`.

        Raises:
            InputError: a missing field.
        """
        out: dict[str, Any] = {}
        for field in fields(cls):
            if field.name not in values:
                raise InputError(f"view state without {field.name!r}; expected all fields of ViewState")
            kind = (
                np.int64 if field.name in cls._INTEGERS else bool if field.name in cls._FLAGS else np.float32
            )
            out[field.name] = np.array(values[field.name], dtype=kind)  # None becomes NaN
        return cls(**out)


class ViewSource:
    """Looks at an environment; changes nothing in it and draws no random numbers.

    Args:
        env: whose robots are shown.
        ray_grid: rays across and down the camera's image.

    Attributes:
        shapes: what does not change.
    """

    def __init__(self, env: Env, *, ray_grid: tuple[int, int] = (8, 6)) -> None:
        self._env, robot, camera = env, env.sim.robot, env.cfg.camera
        self._kinematics = BodyKinematics(robot, env.num_envs, device=env.device)
        self._mount, self._k = mount_pose(robot, camera).to(env.device), intrinsics(camera).to(env.device)
        x = (torch.arange(ray_grid[0]) + 0.5) * camera.width / ray_grid[0]
        y = (torch.arange(ray_grid[1]) + 0.5) * camera.height / ray_grid[1]
        pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        self._pixels = torch.cat((pixels, torch.ones(len(pixels), 1)), dim=1).to(env.device)
        self.shapes = ViewShapes(
            robot.name, self._kinematics.body_names, robot.leg_names, robot.joint_names, tuple(env.rewards.names),
            tuple(robot_geoms(robot)), (camera.width, camera.height),
        )  # fmt: skip

    def look(self, env_ids: Tensor) -> ViewState:
        """The present state of envs ``env_ids`` [n]."""
        env, ids = self._env, env_ids.to(self._env.device)
        s = env.sim.state
        poses = self._kinematics.poses(s.root_pos_w[ids], s.root_quat_wxyz[ids], s.joint_pos[ids])
        c2w, k = self._camera(ids)
        origin, hit = self._rays(ids, c2w, k)
        values = {
            "env_ids": ids, "scene_ids": env.sim.scene_of_env[ids],
            "episode_s": env.episode_length_buf[ids] * env.cfg.control_s,
            "body_pos_w": poses[..., :3, 3], "body_quat_wxyz": _quat_from_matrix(poses[..., :3, :3]),
            "camera_c2w": c2w, "camera_K": k, "ray_origin_w": origin, "ray_hit_w": hit, "scan_pos_w": self._scan(ids),
            "command": env.commands.command[ids], "path_pos_w": self._paths(ids), "goal_pos_w": self._goals(ids),
            "rewards": env.rewards.terms[:, ids].T,
        }  # fmt: skip
        for name in (
            "joint_pos",
            "foot_pos_w",
            "foot_force_w",
            "foot_contact",
            "thigh_contact",
            "trunk_contact",
        ):
            values[name] = getattr(s, name)[ids]
        return ViewState.read({name: value.detach().cpu().numpy() for name, value in values.items()})

    def _camera(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """c2w [n, 4, 4] and K [n, 3, 3]: the cameras' own, or nominal ones where there are none."""
        s, rig = self._env.sim.state, self._env.camera
        if rig is None:
            pose, k = self._mount.repeat(len(ids), 1, 1), self._k.repeat(len(ids), 1, 1)
        else:
            pose, k = rig.pose_b_c[ids], rig.K[ids]
        return camera_to_world(s.root_pos_w[ids], s.root_quat_wxyz[ids], pose), k

    def _rays(self, ids: Tensor, c2w: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and hits [n, R, 3]."""
        along_c = self._pixels @ torch.linalg.inv(k).transpose(1, 2)
        along_w = torch.nn.functional.normalize(along_c @ c2w[:, :3, :3].transpose(1, 2), dim=2)
        origin = c2w[:, None, :3, 3].expand_as(along_w)
        scenes = self._env.sim.scene_of_env[ids]
        distance = self._env.sim.terrain.raycast(
            origin.contiguous().cpu(), along_w.contiguous().cpu(), scenes.cpu()
        )
        distance = distance.to(origin.device)[..., None]
        hit = torch.where(torch.isfinite(distance), origin + distance * along_w, torch.nan)
        return origin, hit

    def _scan(self, ids: Tensor) -> Tensor:
        env, pos = self._env, self._env.sim.state.root_pos_w[ids]
        scenes = env.sim.scene_of_env[ids]
        z = env.observations.scan_ground(pos, env.yaw[ids], env.sim.terrain, scenes)
        grid = torch.nn.functional.pad(env.observations.grid_b, (0, 1)).expand(len(ids), -1, -1)
        turned = rotate(quat_from_yaw(env.yaw[ids])[:, None].expand(-1, grid.shape[1], -1), grid)
        return torch.cat((turned[..., :2] + pos[:, None, :2], z[..., None]), dim=2)

    def _paths(self, ids: Tensor) -> Tensor:
        """The whole line of each env's point, [n, P, 3]."""
        net, at = self._env.network, self._env.follower.index[ids]
        first, count = net.first[at], net.last[at] - net.first[at] + 1
        steps = torch.arange(int(count.max()), device=at.device)
        points = net.points[torch.minimum(first[:, None] + steps, net.last[at][:, None]), :3]
        return torch.where((steps < count[:, None])[..., None], points, torch.nan)

    def _goals(self, ids: Tensor) -> Tensor:
        env = self._env
        goals = env.network.points[env.follower.goal[ids], :3]
        return goals if env.task.pursues_goal else torch.full_like(goals, torch.nan)


def _quat_from_matrix(matrix: Tensor) -> Tensor:
    """Unit quaternions wxyz [..., 4] with w >= 0 of rotation matrices [..., 3, 3].

    The four products 4 q q_i are columns of a symmetric matrix of sums of the entries; the longest is the best conditioned.
    """
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    xx, yy, zz = m[0][0], m[1][1], m[2][2]
    wx, wy, wz = m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]
    xy, xz, yz = m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]
    rows = (
        (1 + xx + yy + zz, wx, wy, wz),
        (wx, 1 + xx - yy - zz, xy, xz),
        (wy, xy, 1 - xx + yy - zz, yz),
        (wz, xz, yz, 1 - xx - yy + zz),
    )
    products = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    longest = products.square().sum(dim=-1).argmax(dim=-1)
    quat = products.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 4))[..., 0, :]
    quat = torch.nn.functional.normalize(quat, dim=-1)
    return torch.where(quat[..., :1] < 0, -quat, quat)


def _finite(value: Any) -> Any:
    """Nested lists with None in the place of what is not finite."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
