"""The robot's camera: where it sits, what it asks of a renderer, and images held between frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from gaussgym_scene.errors import InputError
from torch import Tensor

from gaussgym_sim.frames import matrix_from_quat, matrix_from_rotation_vector
from gaussgym_sim.randomize import RandomizeCfg, Uniform
from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.kinematics import BodyKinematics
from gaussgym_sim.sensors.camera_clock import CameraClock, CameraClockCfg
from gaussgym_sim.sensors.images import IMAGE_CHANNELS, check_images, quantize_depth
from gaussgym_sim.sensors.latency import FrameRing, check_shape
from gaussgym_sim.vecsim import SimState

OVERLAP_M = 0.6
"""Other robots whose base is nearer than this are not shown: they pass through each other, and would fill the image [m]."""

_KEPT = ("new", "unwatched", "pose_b_c", "K", "_first", "_camera_ids", "_frame_ids", "_owed")


class RenderedFrames(Protocol):
    """What a renderer returns; of a camera that gives images of one kind only that is read, and others may be missing."""

    rgb: Any
    """uint8 [C, H, W, 3]."""
    depth: Any
    """float32 [C, H, W], along the camera's +Z [m]; 0 where nothing was hit."""


class CameraRenderer(Protocol):
    """A renderer of scenes, such as `gaussgym_render.SplatRenderer`; scene ids count as the simulator's scenes do.

    One with an attribute ``takes_motion`` that is true, such as `gaussgym_render.RobotCamera`, is also given ``twist_c`` [C, 6]
    (`camera_twist`), ``camera_ids`` [C] int64 (drawn anew for each episode) and ``frame_ids`` [C] int64 (counting up).

    One with an attribute ``takes_bodies`` that is true is also given where robots are: ``body_poses_w`` [C, 1 + K, B, 4, 4]
    float64, bodies as `gaussgym_sim.robots.geoms.robot_geoms` counts them, of the camera's own robot and then of the K nearest
    others in its scene, K = its attribute ``num_others`` (0 without one); ``robot_shown`` [C, 1 + K] bool, False where there is
    no such robot; and if it takes motion ``body_twists_b`` [C, 1 + K, B, 6], velocities in the bodies' own frames, linear [m/s]
    then angular [rad/s]. All are overwritten by the next call.

    One with a method ``stays_on(device)`` that returns True for the envs' device is always given all envs, so that nobody waits
    to know which are due: ``mask`` [C] bool on the device says so, and ``out``, what its first call returned, whose other rows it
    leaves as they are. Not where it takes bodies or patches, or where frames arrive late.

    One with an attribute ``takes_patches`` that is true is, by tasks that have them, also given coloured squares on the ground,
    sides along the world's axes: ``patch_pos_w`` [C, K, 3] centres [m], ``patch_half_m`` [C, K] half sides [m], negative where
    there is none, and ``patch_rgb`` [C, K, 3] in 0..1.
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
    """Size, optics, mount and rate of the robot's camera.

    Attributes:
        width: of the image [px].
        height: of the image [px].
        horizontal_fov_rad: where the optics are not calibrated: square pixels, centred.
        rate_hz: frames a second.
        focal_px: calibrated focal lengths along u and v [px], or None.
        center_px: calibrated principal point u, v [px], pixel centres at +0.5; needed with `focal_px`.
        position_b_m: calibrated optical centre in the base frame [m], or None: the robot's nominal mount.
        quat_b_c_wxyz: calibrated rotation that takes camera vectors to base vectors; needed with `position_b_m`.
        images: observation groups that it gives, of `gaussgym_sim.sensors.images.IMAGE_CHANNELS`, all from one
            frame.
        depth_max_m: of `gaussgym_sim.sensors.images.quantize_depth` [m].
    """

    width: int = 64
    height: int = 48
    horizontal_fov_rad: float = math.pi / 2
    rate_hz: float = 10.0
    focal_px: tuple[float, float] | None = None
    center_px: tuple[float, float] | None = None
    position_b_m: tuple[float, float, float] | None = None
    quat_b_c_wxyz: tuple[float, float, float, float] | None = None
    images: tuple[str, ...] = ("rgb",)
    depth_max_m: float = 5.0

    def period_steps(self, control_s: float) -> int:
        """Control steps between frames."""
        return max(1, round(1.0 / (self.rate_hz * control_s)))


def intrinsics(cfg: CameraCfg) -> Tensor:
    """Calibration matrix K [3, 3] in pixels: as calibrated, else square pixels, centred."""
    if cfg.focal_px is not None and cfg.center_px is not None:
        (fx, fy), (cx, cy) = cfg.focal_px, cfg.center_px
        return torch.tensor([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    focal = cfg.width / 2 / math.tan(cfg.horizontal_fov_rad / 2)
    return torch.tensor([[focal, 0.0, cfg.width / 2], [0.0, focal, cfg.height / 2], [0.0, 0.0, 1.0]])


def mount_pose(robot: RobotCfg, cfg: CameraCfg | None = None) -> Tensor:
    """T_b_c [4, 4]: camera (+X right, +Y down, +Z forward) in the base frame.

    Args:
        robot: its nominal mount looks ahead, and down by the robot's tilt.
        cfg: a calibrated mount counts instead.
    """
    if cfg is not None and cfg.position_b_m is not None and cfg.quat_b_c_wxyz is not None:
        pose = torch.eye(4)
        pose[:3, :3] = matrix_from_quat(torch.tensor(cfg.quat_b_c_wxyz))
        pose[:3, 3] = torch.tensor(cfg.position_b_m)
        return pose
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


class RobotsInView:
    """Whose bodies the cameras' images show: each camera's own robot, and the nearest others of its scene.

    The others are drawn and nothing else: robots of different envs do not touch. An image with others depends on theirs.

    Args:
        robot: which.
        scene_of_env: [E].
        num_others: how many others an image shows at most.
    """

    def __init__(self, robot: RobotCfg, scene_of_env: Tensor, num_others: int) -> None:
        count, device = len(scene_of_env), scene_of_env.device
        self.num_others, self._scenes = num_others, scene_of_env
        self._kinematics = BodyKinematics(robot, count, device=device)
        shown, bodies = count * (1 + num_others), len(self._kinematics.body_names)
        self._poses = torch.zeros(
            shown if num_others else 0, bodies, 4, 4, dtype=torch.float64, device=device
        )
        self._twists = torch.zeros(shown if num_others else 0, bodies, 6, dtype=torch.float64, device=device)

    def look(self, ids: Tensor, state: SimState, lin_vel_b: Tensor | None) -> dict[str, Tensor]:
        """What a renderer that takes bodies is given.

        Args:
            ids: [R] envs whose cameras take a frame.
            state: of all envs.
            lin_vel_b: [E, 3] base velocity in the base frame [m/s], for renderers that take motion; None: no velocities.
        """
        robots, shown = self._robots(ids, state.root_pos_w)
        everyone = slice(None) if self.num_others else ids
        joints = state.joint_pos[everyone]
        poses = self._kinematics.poses(state.root_pos_w[everyone], state.root_quat_wxyz[everyone], joints)
        given = {"body_poses_w": self._pick(poses, robots, self._poses), "robot_shown": shown}
        if lin_vel_b is not None:
            twists = self._kinematics.twists(
                lin_vel_b[everyone], state.root_ang_vel_b[everyone], joints, state.joint_vel[everyone]
            )
            given["body_twists_b"] = self._pick(twists, robots, self._twists)
        return given

    def _pick(self, values: Tensor, robots: Tensor, buffer: Tensor) -> Tensor:
        """[R, 1 + K, ...] out of values of all robots, or of the R own ones where no others are shown."""
        if self.num_others == 0:
            return values[:, None]
        picked = buffer[: robots.numel()]
        torch.index_select(values, 0, robots.flatten(), out=picked)
        return picked.view(*robots.shape, *values.shape[1:])

    def _robots(self, ids: Tensor, pos_w: Tensor) -> tuple[Tensor, Tensor]:
        """Which robots each image shows [R, 1 + K], itself first and then from near to far, and whether [R, 1 + K]."""
        own = ids[:, None]
        if self.num_others == 0:
            return own, torch.ones_like(own, dtype=torch.bool)
        square = (pos_w[own, :2] - pos_w[None, :, :2]).square().sum(dim=2)
        hidden = (self._scenes[own] != self._scenes[None]) | (
            square < OVERLAP_M**2
        )  # itself is at distance 0
        square.masked_fill_(hidden, torch.inf)
        nearest = min(self.num_others, len(pos_w))
        square, others = square.topk(nearest, dim=1, largest=False)
        missing = self.num_others - nearest
        others = torch.nn.functional.pad(others, (0, missing))
        shown = torch.nn.functional.pad(torch.isfinite(square), (1, missing), value=False)
        shown[:, 0] = True
        return torch.cat((own, others), dim=1), shown


class CameraRig:
    """One camera an env, with its own small error of pose and focal length, and a clock of its own.

    Attributes:
        images: by group, uint8 [E, 3 or 1, H, W], the last frame that has arrived in each env.
        new: [E, 1] uint8, 1 where a frame arrived in the last `capture`.
        unwatched: [E] bool, envs whose frames nobody looks at: they keep their image and cost nothing; a new episode is
            watched again.
        exposing: while False, frames that fall due wait, and each env takes one at the next capture where it is True: for those
            that look less often than they capture. Where frames arrive late it has no effect.
        clock: when frames are taken, and how late they are.
    """

    def __init__(
        self,
        robot: RobotCfg,
        cfg: CameraCfg,
        renderer: CameraRenderer,
        scene_of_env: Tensor,
        *,
        control_s: float,
        clock: CameraClockCfg | None = None,
    ) -> None:
        """All envs are due for a frame.

        Raises:
            InputError: images that no camera gives.
        """
        check_images(cfg)
        count, device = len(scene_of_env), scene_of_env.device
        self.cfg, self._renderer, self._scenes = cfg, renderer, scene_of_env
        self._mount, self._k = mount_pose(robot, cfg).to(device), intrinsics(cfg).to(device)
        self.pose_b_c = self._mount.repeat(count, 1, 1)
        self.K = self._k.repeat(count, 1, 1)
        self.images = {
            name: torch.zeros(
                count, IMAGE_CHANNELS[name], cfg.height, cfg.width, dtype=torch.uint8, device=device
            )
            for name in cfg.images
        }
        self.new = torch.zeros(count, 1, dtype=torch.uint8, device=device)
        self.unwatched = torch.zeros(count, dtype=torch.bool, device=device)
        self.exposing = True
        self._owed = torch.zeros(count, dtype=torch.bool, device=device)
        self.clock = CameraClock(
            clock or CameraClockCfg(), count, period_steps=cfg.period_steps(control_s), control_s=control_s, device=device
        )  # fmt: skip
        self._late: FrameRing | None = None
        if self.clock.max_latency > 0:
            image = (sum(IMAGE_CHANNELS[name] for name in cfg.images), cfg.height, cfg.width)
            latency, gap = self.clock.max_latency, self.clock.min_gap
            self._late = FrameRing(count, image, max_latency=latency, min_gap=gap, device=device)
        self._first = torch.ones(count, dtype=torch.bool, device=device)  # no frame yet in this episode
        self._steps = 0
        self._takes_motion = bool(getattr(renderer, "takes_motion", False))
        self._takes_patches = bool(getattr(renderer, "takes_patches", False))
        self._in_view = (
            RobotsInView(robot, scene_of_env, int(getattr(renderer, "num_others", 0)))
            if getattr(renderer, "takes_bodies", False)
            else None
        )
        stays_on = getattr(renderer, "stays_on", None)
        late_or_more = self._late is not None or self._takes_patches or self._in_view is not None
        self._in_place = stays_on is not None and not late_or_more and bool(stays_on(device))
        self._frames: RenderedFrames | None = None  # of all envs, where they are rendered in place
        self._generator: torch.Generator | None = None
        self._camera_ids = torch.zeros(count, dtype=torch.long, device=device)
        self._frame_ids = torch.zeros(count, dtype=torch.long, device=device)

    @property
    def image_bytes(self) -> int:
        """Memory of all images: E (1 + frames on their way) C H W, C channels of all images together, see
        `gaussgym_sim.sensors.latency.FrameRing`.
        """
        shown = sum(image.numel() for image in self.images.values())
        return shown + (0 if self._late is None else self._late.num_bytes)

    @property
    def rgb(self) -> Tensor:
        """The colour image of `images`."""
        return self.images["rgb"]

    def restart(self, env_ids: Tensor, cfg: RandomizeCfg, uniform: Uniform) -> None:
        """New episodes in envs ``env_ids`` [R]: draw their cameras' errors and ask for a frame, which arrives at once."""
        self.clock.restart(env_ids, uniform)
        self.K[env_ids] = self._k
        self._first[env_ids] = True
        if self._late is not None:
            self._late.restart(env_ids)
        self.unwatched[env_ids] = False
        if self._takes_motion:
            self._camera_ids[env_ids] = self._draw_ids(len(env_ids), uniform)
        self._draw_pose(env_ids, cfg, uniform)
        self._draw_intrinsics(env_ids, cfg, uniform)

    def _draw_pose(self, env_ids: Tensor, cfg: RandomizeCfg, uniform: Uniform) -> None:
        """Errors of the mount. They turn with the body, being on its side of the base's pose."""
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

    def _draw_intrinsics(self, env_ids: Tensor, cfg: RandomizeCfg, uniform: Uniform) -> None:
        """Errors of each focal length and of the principal point."""
        count, axes = len(env_ids), torch.arange(2, device=self.K.device)
        if cfg.camera_focal_std > 0:
            # Beyond four standard deviations a focal length could come near zero.
            error = uniform.normal(cfg.camera_focal_std, count, 2)
            factor = 1.0 + error.clamp(-4 * cfg.camera_focal_std, 4 * cfg.camera_focal_std)
            self.K[env_ids[:, None], axes, axes] = self.K[env_ids[:, None], axes, axes] * factor
        if cfg.camera_principal_std_px > 0:
            shift = uniform.normal(cfg.camera_principal_std_px, count, 2)
            self.K[env_ids[:, None], axes, 2] = self._k[axes, 2] + shift

    def reseed(self) -> None:
        """Draw the ids of cameras as from the start, by the seed that the draws now have; clocks count from 0."""
        self._generator = None
        self.clock.rewind()

    def _draw_ids(self, count: int, uniform: Uniform) -> Tensor:
        """Ids of new cameras [count], from a generator of their own: episodes do not depend on the kind of camera."""
        if self._generator is None:
            seed = uniform.generator.initial_seed()
            self._generator = torch.Generator(device=self.K.device).manual_seed(seed)
        return torch.randint(2**62, (count,), generator=self._generator, device=self.K.device)

    def stagger(self, uniform: Uniform) -> None:
        """Spread the envs' frames over the period."""
        self.clock.stagger(uniform)

    def capture(
        self,
        state: SimState,
        lin_vel_b: Tensor,
        uniform: Uniform,
        patches: Callable[[], dict[str, Tensor]] | None = None,
    ) -> None:
        """Call once a control step: render the cameras that are due from the current poses; the others keep their image.

        Args:
            state: of all envs.
            lin_vel_b: [E, 3] base velocity in the base frame [m/s].
            uniform: random numbers, for clocks that vary.
            patches: what renderers that take patches are given, rows [E]; asked for when a frame is due.
        """
        self._steps += 1
        due = self._expose(self.clock.tick(uniform))
        self.new[:, 0] = due
        if self._in_place:
            self._render_in_place(due & ~self.unwatched, state, lin_vel_b)
            return
        ids = (due & ~self.unwatched).nonzero().squeeze(1)
        frames = self._take(ids, state, lin_vel_b, patches) if len(ids) else None
        if self._late is None:
            if frames is not None:
                self._show(ids, frames)
            return
        self._deliver(self._late, ids, frames)

    def _expose(self, due: Tensor) -> Tensor:
        """Which envs take a frame now, of those that are ``due`` [E] and those that wait."""
        if self._late is not None:
            return due
        self._owed |= due
        if not self.exposing:
            return torch.zeros_like(due)
        taken = self._owed.clone()
        self._owed.zero_()
        return taken

    def _render_in_place(self, due: Tensor, state: SimState, lin_vel_b: Tensor) -> None:
        """Have the frames of envs that are ``due`` [E] written to where `images` show them, without knowing which these are."""
        c2w = camera_to_world(state.root_pos_w, state.root_quat_wxyz, self.pose_b_c)
        given: dict[str, Any] = {"mask": due}
        if self._takes_motion:
            twist_c = camera_twist(lin_vel_b, state.root_ang_vel_b, self.pose_b_c)
            given |= {"camera_ids": self._camera_ids, "frame_ids": self._frame_ids, "twist_c": twist_c}
        if self._frames is not None:
            given["out"] = self._frames
        frames = self._renderer.render(c2w, self.K, self._scenes, **given)
        self._frame_ids += due
        rows = due[:, None, None, None]
        if self._frames is None and "rgb" in self.images:
            seen = frames.rgb.permute(0, 3, 1, 2)
            seen.copy_(torch.where(rows, seen, self.rgb))
            self.images["rgb"] = seen
        self._frames = frames
        if "depth" in self.images:
            seen, shown = quantize_depth(frames.depth, self.cfg.depth_max_m), self.images["depth"]
            torch.where(rows, seen, shown, out=shown)

    def _take(
        self, ids: Tensor, state: SimState, lin_vel_b: Tensor, patches: Callable[[], dict[str, Tensor]] | None
    ) -> Tensor:
        """Frames of envs [R], now: uint8 [R, C, H, W], the channels of all images one after the other."""
        c2w = camera_to_world(state.root_pos_w[ids], state.root_quat_wxyz[ids], self.pose_b_c[ids])
        given: dict[str, Tensor] = {}
        if self._takes_motion:
            twist_c = camera_twist(lin_vel_b[ids], state.root_ang_vel_b[ids], self.pose_b_c[ids])
            given = {
                "camera_ids": self._camera_ids[ids],
                "frame_ids": self._frame_ids[ids],
                "twist_c": twist_c,
            }
            self._frame_ids[ids] += 1
        if self._in_view is not None:
            given |= self._in_view.look(ids, state, lin_vel_b if self._takes_motion else None)
        if self._takes_patches and patches is not None:
            given |= {name: values[ids] for name, values in patches().items()}
        frames = self._renderer.render(c2w, self.K[ids], self._scenes[ids], **given)
        images = [self._image(name, frames) for name in self.images]
        return images[0] if len(images) == 1 else torch.cat(images, dim=1)

    def _image(self, name: str, frames: RenderedFrames) -> Tensor:
        """One of the images of frames, uint8 [R, 3 or 1, H, W]."""
        if name == "rgb":
            return torch.as_tensor(frames.rgb).to(self.new.device).permute(0, 3, 1, 2)
        return quantize_depth(torch.as_tensor(frames.depth).to(self.new.device), self.cfg.depth_max_m)

    def _show(self, ids: Tensor, frames: Tensor) -> None:
        """Frames [R, C, H, W] have arrived at envs [R]."""
        first = 0
        for image in self.images.values():
            end = first + image.shape[1]
            image[ids] = frames[:, first:end]
            first = end

    def _deliver(self, late: FrameRing, ids: Tensor, frames: Tensor | None) -> None:
        """Send frames of envs [R] on their way, and show those that arrive."""
        self.new.zero_()
        if frames is not None:
            latency = torch.where(self._first[ids], 0, self.clock.latency[ids])
            self._first[ids] = False
            at_once = latency == 0
            late.send(ids[~at_once], frames[~at_once], now=self._steps, latency=latency[~at_once])
            now = ids[at_once]
            self._show(now, frames[at_once])
            self.new[now] = 1
        arrived, images = late.receive(self._steps)
        self._show(arrived, images)
        self.new[arrived] = 1

    def state_dict(self) -> dict[str, Any]:
        """Everything that coming images depend on, beside robots and random numbers."""
        state: dict[str, Any] = {name: getattr(self, name).clone() for name in _KEPT}
        state |= {name: image.clone() for name, image in self.images.items()}
        state |= {"steps": self._steps, "clock": self.clock.state_dict()}
        state["late"] = None if self._late is None else self._late.state_dict()
        return state | {"generator": None if self._generator is None else self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`.

        Raises:
            InputError: of other envs, images or latencies.
        """
        for name, image in self.images.items():
            if name not in state:
                raise InputError(
                    f"saved cameras without {name} images; resume with the same settings (CameraCfg.images)"
                )
            check_shape(f"{name} images", state[name], image)
        for name, image in self.images.items():
            image[:] = state[name]
        for name in _KEPT:
            getattr(self, name)[:] = state[name]
        self._steps = int(state["steps"])
        self.clock.load_state_dict(state["clock"])
        if self._late is not None:
            self._late.load_state_dict(state["late"])
        self._generator = None
        if state["generator"] is not None:
            self._generator = torch.Generator(device=self.K.device)
            self._generator.set_state(state["generator"])
