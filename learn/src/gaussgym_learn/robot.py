"""A simulated robot behind the deploy link: plain MuJoCo (`mj_step`, no batch) and a camera that sees the scene's splats."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from gaussgym_deploy.bundle import BundleError, CameraSpec, PolicyBundle
from gaussgym_deploy.robot_io import DAMPING_KD, JointCommand, RobotState
from gaussgym_deploy.shared_memory import EpisodeResult, ResetRequest, SharedMemoryServer
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.scene import Scene
from gaussgym_sim.engines.mujoco_model import build_model
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.frames import yaw_of
from gaussgym_sim.ground.terrain import ground_of, is_flat, physics_heightfield
from gaussgym_sim.mdp.commands import PathFollower, PathNetwork, VelocityCommands
from gaussgym_sim.mdp.placing import START_CLEARANCE_M, footprint_m
from gaussgym_sim.mdp.starts import FixedStarts, Starts
from gaussgym_sim.randomize import Uniform
from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.sensors.camera import CameraCfg
from numpy.typing import NDArray

from gaussgym_learn.evaluate import evaluation_cfg, fixed_starts
from gaussgym_learn.export import camera_spec

_ROOT, _ROOT_V = 7, 6


class PlainRobot:
    """One robot on one scene's ground, stepped by `mj_step`, with goal commands and a verdict on the episode.

    It follows the same rules as the training environment (where episodes start, what a fall is, how the command follows the
    path, when the camera takes a frame) but shares none of its batched code.

    Args:
        robot: which.
        scene: where.
        cfg: episode length, goal and camera rate.
        starts: the episodes that `reset` can name, all on scene 0.
        camera: size, intrinsics and mount; None for a blind robot.
        renderer: backend of the splat renderer.
    """

    def __init__(
        self,
        robot: RobotCfg,
        scene: Scene,
        cfg: EnvCfg,
        starts: Starts,
        *,
        camera: CameraSpec | None,
        renderer: str = "auto",
    ) -> None:
        self.robot, self.cfg, self.starts = robot, cfg, starts
        self.model = build_model(robot, ground_of(scene))
        self.data = mujoco.MjData(self.model)
        self._index_model()
        device = torch.device("cpu")
        self._field = physics_heightfield(scene)
        self._has_border = not is_flat(self._field)
        low, size = np.array(self._field.origin_xy_m), np.array(self._field.size_m)
        margin = cfg.terminations.border_margin_m
        self._inside_xy_m = low + margin, low + size - margin
        self._network = PathNetwork([scene], device=device)
        FixedStarts(starts, self._network, torch.zeros(1, dtype=torch.long))  # checks them
        self._follower = PathFollower(self._network, 1, device)
        rough = torch.tensor([self._has_border])
        uniform = Uniform(torch.Generator().manual_seed(0), device)
        self._commands = VelocityCommands(cfg.commands, self._follower, rough, uniform, task="goal")
        self._default, self._footprint = np.array(robot.default_joint_pos), footprint_m(robot)
        self._limit = np.array(robot.torque_limit_nm)
        self._goal_xy = np.zeros(2)
        self._camera = _SplatCamera(scene, camera, renderer) if camera is not None else None
        self._camera_period = cfg.camera.period_steps(cfg.control_s)
        self._time_s = 0.0  # grows over resets, as the link demands
        self._steps = 0
        self.state = RobotState.zeros(robot.num_joints)

    def _index_model(self) -> None:
        model, robot = self.model, self.robot
        joints = [model.joint(name) for name in robot.joint_names]
        self._q = np.array([j.qposadr[0] for j in joints])
        self._v = np.array([j.dofadr[0] for j in joints])
        self._u = np.array([model.actuator(name).id for name in robot.joint_names])
        self._trunk = np.array([model.sensor(f"{geom}_contact").adr[0] for geom in robot.trunk_geoms])

    def reset(self, number: int) -> None:
        """Begin an episode.

        Args:
            number: row of `starts`.
        """
        if not 0 <= number < len(self.starts):
            raise InputError(f"start {number} does not exist; there are {len(self.starts)}")
        starts, data = self.starts, self.data
        xy, yaw = starts.xy_m[number].astype(np.float64), float(starts.yaw_rad[number])
        cos, sin = np.cos(yaw), np.sin(yaw)
        below = self._footprint @ np.array([[cos, sin], [-sin, cos]]) + xy
        ground = self._field.sample(below).max()
        mujoco.mj_resetData(self.model, data)
        data.qpos[:3] = *xy, ground + self.robot.base_height_m + START_CLEARANCE_M
        data.qpos[3:_ROOT] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
        data.qpos[self._q] = self._default
        mujoco.mj_forward(self.model, data)
        everyone = torch.zeros(1, dtype=torch.long)
        point, direction, goal = (
            torch.tensor([int(a[number])]) for a in (starts.point, starts.direction, starts.goal_point)
        )
        self._follower.start(everyone, point, direction, goal)
        self._goal_xy = self._follower.goal_xy()[0].numpy().astype(np.float64)
        self._commands.resample(everyone, speed=torch.tensor([float(starts.speed_m_s[number])]))
        self._steps = 0
        self._time_s += self.cfg.control_s
        self._observe()

    def step(self, command: JointCommand) -> EpisodeResult:
        """One control period with a held command; returns how the episode stands."""
        data, q, v = self.data, self._q, self._v
        for _ in range(self.cfg.substeps):
            torque = command.kp * (command.q - data.qpos[q]) - command.kd * data.qvel[v]
            data.ctrl[self._u] = np.clip(torque, -self._limit, self._limit)
            mujoco.mj_step(self.model, data)
        self._steps += 1
        self._time_s += self.cfg.control_s
        result = self._verdict()
        self._observe()
        return result

    def _verdict(self) -> EpisodeResult:
        data, limits = self.data, self.cfg.terminations
        up_z = matrix_from_quat_wxyz(data.qpos[3:_ROOT])[2, 2] if np.isfinite(data.qpos).all() else -1.0
        height = data.qpos[2] - float(self._field.sample(data.qpos[:2]))
        touches = bool((data.sensordata[self._trunk] > 0).any())
        if touches or up_z < np.cos(limits.max_tilt_rad) or height < limits.min_base_height_m:
            return EpisodeResult.FELL
        xy, (low, high) = data.qpos[:2], self._inside_xy_m
        if np.hypot(*(self._goal_xy - xy)) < self.cfg.commands.goal_radius_m:
            return EpisodeResult.SUCCESS
        outside = self._has_border and bool((xy < low).any() or (xy > high).any())
        if outside or self._steps >= round(self.cfg.episode_s / self.cfg.control_s):
            return EpisodeResult.TIMEOUT
        return EpisodeResult.RUNNING

    def _observe(self) -> None:
        """Update the published state: sensors, the command that follows the path, and the camera if a frame is due."""
        data, state = self.data, self.state
        state.t_s = self._time_s
        state.joint_pos[:] = data.qpos[self._q]
        state.joint_vel[:] = data.qvel[self._v]
        state.quat_wxyz[:] = data.qpos[3:_ROOT]
        state.ang_vel_b[:] = data.qvel[3:_ROOT_V]
        pose = torch.from_numpy(data.qpos[None, :_ROOT].astype(np.float32))
        self._commands.update(pose[:, :2], yaw_of(pose[:, 3:]))
        state.command[:] = self._commands.command[0].numpy()
        if self._camera is not None and self._steps % self._camera_period == 0:
            state.rgb = self._camera.image(data.qpos[:3], data.qpos[3:_ROOT])
            state.rgb_t_s = self._time_s


class _SplatCamera:
    """Renders the scene's splats from the robot's mount."""

    def __init__(self, scene: Scene, spec: CameraSpec, backend: str) -> None:
        from gaussgym_render import SplatRenderer

        self._renderer = SplatRenderer([scene.splats], spec.width, spec.height, backend=backend)
        self._k = np.array([[[spec.fx, 0, spec.cx], [0, spec.fy, spec.cy], [0, 0, 1]]])
        self._mount = np.eye(4)
        self._mount[:3, :3] = matrix_from_quat_wxyz(np.array(spec.quat_b_c_wxyz))
        self._mount[:3, 3] = spec.position_b_m
        self._scene = np.zeros(1, dtype=np.int64)

    def image(self, position_w: NDArray[np.float64], quat_wxyz: NDArray[np.float64]) -> NDArray[np.uint8]:
        """uint8 `[H, W, 3]` from a base pose."""
        base = np.eye(4)
        base[:3, :3] = matrix_from_quat_wxyz(quat_wxyz)
        base[:3, 3] = position_w
        return self._renderer.render((base @ self._mount)[None], self._k, self._scene).rgb[0]


def serve_robot(
    scene: Path | str,
    shm: str,
    *,
    bundle: Path | str | None = None,
    lockstep: bool = True,
    starts: Path | str | None = None,
    episodes: int = 256,
    robot: str = "go1",
    renderer: str = "auto",
    timeout_s: float = 120.0,
) -> None:
    """Be the robot of a scene for a runtime that attaches over shared memory; returns when it closes the link.

    Args:
        scene: scene folder.
        shm: name of the shared memory.
        bundle: policy bundle: gives the robot and the camera (without it the simulator's own camera).
        lockstep: physics waits for commands; else it runs in real time and damps when none come.
        starts: JSON file of `gaussgym_sim.mdp.starts.Starts`; default: the starts of `evaluate` on this scene.
        episodes: number of default starts.
        robot: registry name, where no bundle says it.
        renderer: backend of the camera.
        timeout_s: how long to wait for the runtime [s].

    Raises:
        InputError: a scene, bundle or file of starts that does not fit.
        LinkError: the runtime is gone.
    """
    loaded = _load_bundle(bundle)
    cfg = evaluation_cfg("goal")
    description = get_robot(loaded.robot if loaded is not None else robot)
    camera = loaded.camera if loaded is not None else camera_spec(description, CameraCfg())
    place = Scene.load(scene)
    simulated = PlainRobot(
        description,
        place,
        cfg,
        _read_starts(starts) if starts is not None else fixed_starts([place], episodes),
        camera=camera,
        renderer=renderer,
    )
    with SharedMemoryServer(
        shm,
        robot=description.name,
        joint_names=description.joint_names,
        control_dt_s=cfg.control_s,
        camera_size_wh=None if camera is None else (camera.width, camera.height),
        lockstep=lockstep,
        num_starts=len(simulated.starts),
        info={"scene": place.name, "episode_s": cfg.episode_s, "mujoco": mujoco.__version__},
    ) as server:
        server.wait_for_runtime(timeout_s=timeout_s)
        (_serve_lockstep if lockstep else _serve_free)(server, simulated, timeout_s)


def _serve_lockstep(server: SharedMemoryServer, robot: PlainRobot, timeout_s: float) -> None:
    result = EpisodeResult.RUNNING
    while (request := server.wait_request(timeout_s=timeout_s)) is not None:
        if isinstance(request, ResetRequest):
            robot.reset(request.start_index)
            result = EpisodeResult.RUNNING
        elif result == EpisodeResult.RUNNING:
            result = robot.step(request)
        server.publish(robot.state, result=result)


def _serve_free(server: SharedMemoryServer, robot: PlainRobot, timeout_s: float) -> None:
    """Real time: one control period of physics every control period, whether commands come or not."""
    joints, result = robot.robot.num_joints, EpisodeResult.RUNNING
    held, silent_s = JointCommand.zeros(joints), 0.0
    started, period_s = False, robot.cfg.control_s
    due_s = time.monotonic()
    while not server.runtime_gone:
        request = server.latest_request()
        silent_s = 0.0 if request is not None else silent_s + period_s
        if isinstance(request, ResetRequest):
            robot.reset(request.start_index)
            result, held, started = EpisodeResult.RUNNING, JointCommand.zeros(joints), True
        elif request is not None:
            held = JointCommand(request.q.copy(), request.kp.copy(), request.kd.copy())
        elif silent_s > timeout_s:
            return
        if silent_s > 0.1:
            held.kp[:], held.kd[:] = 0.0, DAMPING_KD
        if started:
            if result == EpisodeResult.RUNNING and not isinstance(request, ResetRequest):
                result = robot.step(held)
            server.publish(robot.state, result=result)
        due_s = max(due_s + period_s, time.monotonic() - period_s)
        time.sleep(max(0.0, due_s - time.monotonic()))


def _load_bundle(path: Path | str | None) -> PolicyBundle | None:
    if path is None:
        return None
    try:
        return PolicyBundle.load(path)
    except BundleError as error:
        raise InputError(str(error)) from None


def _read_starts(path: Path | str) -> Starts:
    try:
        fields: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected starts") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: holds a {type(fields).__name__}, expected an object of starts")
    return Starts.from_dict(fields.get("starts", fields))
