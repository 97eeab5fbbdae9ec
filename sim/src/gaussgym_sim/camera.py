"""The robot's camera: where it sits, what it asks of a renderer, and images held between frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gaussgym_sim.frames import matrix_from_quat, matrix_from_rotation_vector
from gaussgym_sim.randomize import RandomizeCfg, Uniform
from gaussgym_sim.robot import RobotCfg


class RenderedFrames(Protocol):
    """What a renderer returns; only ``rgb`` is read here."""

    rgb: Any
    """uint8 [C, H, W, 3]."""


class CameraRenderer(Protocol):
    """A renderer of scenes, such as `gaussgym_render.SplatRenderer`; scene ids count as the simulator's scenes do.

    One with an attribute ``takes_motion`` that is true, such as `gaussgym_render.RobotCamera`, is also given ``twist_c`` [C, 6]
    (`camera_twist`), ``camera_ids`` [C] int64 (drawn anew for each episode) and ``frame_ids`` [C] int64 (counting up).
    """

    def render(self, c2w: Any, K: Any, scene_ids: Any, *, mask: Any | None = None) -> RenderedFrames:
        """Render one image per camera.

        Args:
            c2w: [C, 4, 4] camera to world, OpenCV axes.
            K: [C, 3, 3] pixels, pixel centres at +0.5.
            scene_ids: [C] integers.
            mask: [C] bool, cameras to render; None = all.
        """
        ...


@dataclass(frozen=True)
class CameraCfg:
    """Image size, field of view and rate of the robot's camera; its mount is the robot's."""

    width: int = 64
    height: int = 48
    horizontal_fov_rad: float = math.pi / 2
    rate_hz: float = 10.0

    def period_steps(self, control_s: float) -> int:
        """Control steps between frames."""
        return max(1, round(1.0 / (self.rate_hz * control_s)))


def intrinsics(cfg: CameraCfg) -> Tensor:
    """Calibration matrix K [3, 3] in pixels: square pixels, centred."""
    focal = cfg.width / 2 / math.tan(cfg.horizontal_fov_rad / 2)
    return torch.tensor([[focal, 0.0, cfg.width / 2], [0.0, focal, cfg.height / 2], [0.0, 0.0, 1.0]])


def mount_pose(robot: RobotCfg) -> Tensor:
    """T_b_c [4, 4]: camera (+X right, +Y down, +Z forward) in the base frame, looking ahead and down by the robot's tilt."""
    cos, sin = math.cos(robot.camera_tilt_rad), math.sin(robot.camera_tilt_rad)
    right, down, forward = (0.0, -1.0, 0.0), (-sin, 0.0, -cos), (cos, 0.0, -sin)
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([right, down, forward]).T
    pose[:3, 3] = torch.tensor(robot.camera_pos_b)
    return pose


def camera_to_world(root_pos_w: Tensor, root_quat_wxyz: Tensor, pose_b_c: Tensor) -> Tensor:
    """c2w [C, 4, 4] of cameras mounted at ``pose_b_c`` [C, 4, 4] on bases at [C, 3] and [C, 4]."""
    base = torch.zeros_like(pose_b_c)
    base[:, :3, :3] = matrix_from_quat(root_quat_wxyz)
    base[:, :3, 3] = root_pos_w
    base[:, 3, 3] = 1.0
    return base @ pose_b_c


def camera_twist(root_lin_vel_b: Tensor, root_ang_vel_b: Tensor, pose_b_c: Tensor) -> Tensor:
    """Velocity of cameras mounted at ``pose_b_c`` [C, 4, 4], in their own frames.

    Args:
        root_lin_vel_b: [C, 3] of the base's origin, in the base frame [m/s].
        root_ang_vel_b: [C, 3] in the base frame [rad/s].
        pose_b_c: [C, 4, 4] camera in the base frame.

    Returns:
        [C, 6], linear [m/s] then angular [rad/s].
    """
    lin_vel_b = root_lin_vel_b + torch.linalg.cross(root_ang_vel_b, pose_b_c[:, :3, 3])
    velocity_b = torch.stack((lin_vel_b, root_ang_vel_b), dim=1)  # [C, 2, 3]
    return (velocity_b @ pose_b_c[:, :3, :3]).flatten(1)  # rows times R_b_c: into the camera's axes


class CameraRig:
    """One camera an env, with its own small error of pose and focal length, rendering every few steps.

    Attributes:
        rgb: [E, 3, H, W] uint8, the last frame of each env.
        new: [E, 1] uint8, 1 where the last `capture` took a frame.
        unwatched: [E] bool, envs whose frames nobody looks at: they keep their image and cost nothing; a new episode is
            watched again.
    """

    def __init__(
        self,
        robot: RobotCfg,
        cfg: CameraCfg,
        renderer: CameraRenderer,
        scene_of_env: Tensor,
        *,
        control_s: float,
    ) -> None:
        """All envs are due for a frame."""
        count, device = len(scene_of_env), scene_of_env.device
        self.cfg, self._renderer, self._scenes = cfg, renderer, scene_of_env
        self._mount, self._k = mount_pose(robot).to(device), intrinsics(cfg).to(device)
        self.pose_b_c = self._mount.repeat(count, 1, 1)
        self.K = self._k.repeat(count, 1, 1)
        self.rgb = torch.zeros(count, 3, cfg.height, cfg.width, dtype=torch.uint8, device=device)
        self.new = torch.zeros(count, 1, dtype=torch.uint8, device=device)
        self.unwatched = torch.zeros(count, dtype=torch.bool, device=device)
        self._period = cfg.period_steps(control_s)
        self._age = torch.full((count,), self._period, dtype=torch.long, device=device)
        self._takes_motion = bool(getattr(renderer, "takes_motion", False))
        self._generator: torch.Generator | None = None
        self._camera_ids = torch.zeros(count, dtype=torch.long, device=device)
        self._frame_ids = torch.zeros(count, dtype=torch.long, device=device)

    def restart(self, env_ids: Tensor, cfg: RandomizeCfg, uniform: Uniform) -> None:
        """New episodes in envs ``env_ids`` [R]: draw their cameras' errors and ask for a frame."""
        self._age[env_ids] = self._period
        self.unwatched[env_ids] = False
        if self._takes_motion:
            self._camera_ids[env_ids] = self._draw_ids(len(env_ids), uniform)
        if cfg.camera_pos_m == 0 and cfg.camera_rot_rad == 0 and cfg.camera_focal == 0:
            return
        count = len(env_ids)
        error = torch.eye(4, device=self.K.device).repeat(count, 1, 1)
        error[:, :3, :3] = matrix_from_rotation_vector(
            uniform(-cfg.camera_rot_rad, cfg.camera_rot_rad, count, 3)
        )
        error[:, :3, 3] = uniform(-cfg.camera_pos_m, cfg.camera_pos_m, count, 3)
        self.pose_b_c[env_ids] = self._mount @ error
        focal = 1.0 + uniform(-cfg.camera_focal, cfg.camera_focal, count)
        self.K[env_ids, 0, 0] = self._k[0, 0] * focal
        self.K[env_ids, 1, 1] = self._k[1, 1] * focal

    def _draw_ids(self, count: int, uniform: Uniform) -> Tensor:
        """Ids of new cameras [count], from a generator of their own: episodes do not depend on the kind of camera."""
        if self._generator is None:
            seed = uniform.generator.initial_seed()
            self._generator = torch.Generator(device=self.K.device).manual_seed(seed)
        return torch.randint(2**62, (count,), generator=self._generator, device=self.K.device)

    def stagger(self, uniform: Uniform) -> None:
        """Spread the envs' frames over the period."""
        self._age[:] = (uniform(0.0, 1.0, len(self._age)) * self._period).long()

    def capture(
        self,
        root_pos_w: Tensor,
        root_quat_wxyz: Tensor,
        root_lin_vel_b: Tensor | None = None,
        root_ang_vel_b: Tensor | None = None,
    ) -> None:
        """Call once a control step: render the cameras that are due from the current poses; the others keep their image.

        Args:
            root_pos_w: [E, 3].
            root_quat_wxyz: [E, 4].
            root_lin_vel_b: [E, 3] [m/s], for renderers that take motion; None = at rest.
            root_ang_vel_b: [E, 3] [rad/s], likewise.
        """
        due = self._age >= self._period
        self._age = torch.where(due, 1, self._age + 1)
        self.new[:, 0] = due
        ids = (due & ~self.unwatched).nonzero().squeeze(1)
        if len(ids) == 0:
            return
        c2w = camera_to_world(root_pos_w[ids], root_quat_wxyz[ids], self.pose_b_c[ids])
        motion = {}
        if self._takes_motion:
            motion = {"camera_ids": self._camera_ids[ids], "frame_ids": self._frame_ids[ids]}
            self._frame_ids[ids] += 1
            if root_lin_vel_b is not None and root_ang_vel_b is not None:
                motion["twist_c"] = camera_twist(root_lin_vel_b[ids], root_ang_vel_b[ids], self.pose_b_c[ids])
        frames = self._renderer.render(c2w, self.K[ids], self._scenes[ids], **motion)
        self.rgb[ids] = torch.as_tensor(frames.rgb).to(self.rgb.device).permute(0, 3, 1, 2)
