"""A robot stepped by plain MuJoCo (`mj_step`, no batch) on a scene's ground, with training's camera, commands and verdict."""

from __future__ import annotations

from collections import deque

import mujoco
import numpy as np
import torch
from gaussgym_deploy.bundle import CameraSpec
from gaussgym_deploy.robot_io import JointCommand, RobotState
from gaussgym_deploy.shared_memory import EpisodeResult
from gaussgym_deploy.simulated_robot import SimulatedRobotCfg
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.scene import Scene
from gaussgym_sim.engines.mujoco_model import compile_model, robot_bodies, robot_spec
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.frames import yaw_of
from gaussgym_sim.ground.terrain import add_ground, ground_of, is_flat, physics_heightfield
from gaussgym_sim.mdp.commands import PathFollower, PathNetwork, VelocityCommands
from gaussgym_sim.mdp.placing import START_CLEARANCE_M, footprint_m
from gaussgym_sim.mdp.starts import FixedStarts, Starts
from gaussgym_sim.randomize import Uniform
from gaussgym_sim.robot import RobotCfg

from gaussgym_learn.robot.camera import CameraFeed, SplatCamera
from gaussgym_learn.robot.sensing import Sensors
from gaussgym_learn.robot.tally import EpisodeTally

_ROOT, _ROOT_V = 7, 6
_PAYLOAD_POS_B_M = (0.0, 0.0, 0.1)


def plain_model(robot: RobotCfg, scene: Scene, options: SimulatedRobotCfg) -> mujoco.MjModel:
    """The robot on a scene's ground as a MuJoCo model, with the frictions, payload and time step of the options."""
    if robot.actuator.kind != "pd":
        raise InputError(
            f"robot {robot.name!r} has actuators of kind {robot.actuator.kind!r}; the plain robot simulates 'pd' only"
        )
    spec = robot_spec(robot)
    if options.payload_kg > 0:
        base = spec.body(mujoco.MjModel.from_xml_path(str(robot.mjcf)).body(1).name)
        small = 1e-4 * options.payload_kg  # a point in effect: MuJoCo wants some inertia
        base.add_body(
            name="payload",
            pos=_PAYLOAD_POS_B_M,
            mass=options.payload_kg,
            inertia=[small] * 3,
            explicitinertial=True,
        )
    add_ground(spec, ground_of(scene))
    model = compile_model(spec, timestep_s=1.0 / options.physics_hz)
    bodies = set(robot_bodies(model))
    for geom in range(model.ngeom):  # robot shapes have contact priority: theirs is the friction in force
        if int(model.geom_bodyid[geom]) in bodies:
            model.geom_friction[geom, 0] *= options.friction
    dofs = [model.joint(name).dofadr[0] for name in robot.joint_names]
    if options.joint_friction_nm is not None:
        model.dof_frictionloss[dofs] = options.joint_friction_nm
    if options.joint_damping_nms is not None:
        model.dof_damping[dofs] = options.joint_damping_nms
    return model


class PlainRobot:
    """One robot on one scene's ground, stepped by `mj_step`, with goal commands and a verdict on the episode.

    It follows the same rules as the training environment (where episodes start, what a fall is, how the command follows the
    path, when the camera takes a frame) but shares none of its batched code. `step` is a control period; who paces time
    otherwise calls `advance`.

    Args:
        robot: which.
        scene: where.
        cfg: episode length, goal and camera rate.
        starts: the episodes that `reset` can name, all on scene 0.
        camera: size, intrinsics and mount; None for a blind robot.
        renderer: backend of the splat renderer.
        options: sensors, delays, ground, motors; default: the nominal robot.
        threaded_camera: render beside the physics, see `CameraFeed`.
        endless: episodes never end (a robot that somebody drives).

    Attributes:
        state: what the robot publishes; the same object always.
        result: how the episode stands.
        tally: sums over the episode.
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
        options: SimulatedRobotCfg | None = None,
        threaded_camera: bool = False,
        endless: bool = False,
    ) -> None:
        self.robot, self.cfg, self.starts, self.camera = robot, cfg, starts, camera
        self.options, self.endless = options or SimulatedRobotCfg(), endless
        self.dt_s = 1.0 / self.options.physics_hz
        self.steps_per_control = round(cfg.control_s / self.dt_s)
        if abs(self.steps_per_control * self.dt_s - cfg.control_s) > 1e-9:
            raise InputError(
                f"physics_hz is {self.options.physics_hz}, expected a multiple of the control rate, {1 / cfg.control_s:g}"
            )
        self.model = plain_model(robot, scene, self.options)
        self.data = mujoco.MjData(self.model)
        self.mass_kg = float(self.model.body_mass[robot_bodies(self.model)].sum())
        self._index_model()
        self._place_on(scene)
        self._limit = np.array(robot.torque_limit_nm) * self.options.motor_strength
        self._torque = np.zeros(robot.num_joints)
        self._delay_steps = round(1e-3 * self.options.command_delay_ms / self.dt_s)
        self._on_their_way: deque[tuple[int, JointCommand]] = deque()
        self._held = JointCommand.zeros(robot.num_joints)
        self._feed = None
        if camera is not None:
            self._feed = CameraFeed(
                SplatCamera(
                    scene,
                    camera,
                    renderer,
                    gain=self.options.camera_gain,
                    gamma=self.options.camera_gamma,
                ),
                latency_s=1e-3 * self.options.camera_latency_ms,
                threaded=threaded_camera,
            )
        nominal_steps = cfg.camera.period_steps(cfg.control_s) * self.steps_per_control
        given_hz = self.options.camera_hz
        self._camera_steps = nominal_steps if given_hz is None else max(1, round(1 / (given_hz * self.dt_s)))
        self._start_s = self._time_s = 0.0  # grows over resets, as the link demands
        self._steps = 0
        self.result = EpisodeResult.RUNNING
        self.state = RobotState.zeros(robot.num_joints)
        self._sensors = Sensors(self.options, self.state, self.dt_s)
        self.tally = EpisodeTally(cfg.control_s, self.mass_kg)

    def _index_model(self) -> None:
        model, robot = self.model, self.robot
        joints = [model.joint(name) for name in robot.joint_names]
        self._q = np.array([j.qposadr[0] for j in joints])
        self._v = np.array([j.dofadr[0] for j in joints])
        self._u = np.array([model.actuator(name).id for name in robot.joint_names])
        self._trunk = np.array([model.sensor(f"{geom}_contact").adr[0] for geom in robot.trunk_geoms])
        # MuJoCo clips controls by itself; the limit that counts is the one of the options.
        model.actuator_ctrllimited[self._u] = 0

    def _place_on(self, scene: Scene) -> None:
        """Where episodes start, how commands follow the path, where the scene ends."""
        cfg, device = self.cfg, torch.device("cpu")
        self._field = physics_heightfield(scene)
        self._has_border = not is_flat(self._field)
        low, size = np.array(self._field.origin_xy_m), np.array(self._field.size_m)
        margin = cfg.terminations.border_margin_m
        self._inside_xy_m = low + margin, low + size - margin
        self._network = PathNetwork([scene], device=device)
        FixedStarts(self.starts, self._network, torch.zeros(1, dtype=torch.long))  # checks them
        self._follower = PathFollower(self._network, 1, device)
        rough = torch.tensor([self._has_border])
        uniform = Uniform(torch.Generator().manual_seed(0), device)
        self._commands = VelocityCommands(cfg.commands, self._follower, rough, uniform, task="goal")
        self._default, self._footprint = np.array(self.robot.default_joint_pos), footprint_m(self.robot)
        self._goal_xy = np.zeros(2)

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
        below = self._footprint[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + xy
        ground = (self._field.sample(below) - self._footprint[:, 2]).max()
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
        self._begin(number)

    def _begin(self, number: int) -> None:
        self._steps, self.result = 0, EpisodeResult.RUNNING
        self._time_s += self.cfg.control_s
        self._start_s = self._time_s
        self._torque[:] = 0.0
        self._on_their_way.clear()
        self._held = JointCommand.zeros(self.robot.num_joints)
        self._update_command()
        self._sensors.seed(number)
        self._sensors.restart(*self._readings())
        if self._feed is not None:
            self._feed.restart(self.state, self._time_s, self.data.qpos[:3], self.data.qpos[3:_ROOT])
        self._sensors.observe()
        self.tally.begin(number, self.data.qpos[:3])

    def step(self, command: JointCommand) -> EpisodeResult:
        """One control period with a held command; returns how the episode stands."""
        return self.advance(command, self.steps_per_control)

    def advance(self, command: JointCommand, steps: int) -> EpisodeResult:
        """Some physics steps with a command that has just arrived, then new readings in `state`.

        Args:
            command: copied.
            steps: of physics, `options.physics_hz` a second.

        Returns:
            How the episode stands. When it is over, no more steps are taken.
        """
        copy = JointCommand(command.q.copy(), command.kp.copy(), command.kd.copy())
        self._on_their_way.append((self._steps + self._delay_steps, copy))
        for _ in range(steps):
            self._physics_step()
            if self._steps % self.steps_per_control == 0:
                self._control_period_over()
                if self.result != EpisodeResult.RUNNING:
                    break
        self._sensors.observe()
        if self._feed is not None:
            self._feed.receive(self.state, self._time_s)
        return self.result

    def _physics_step(self) -> None:
        data, q, v = self.data, self._q, self._v
        while self._on_their_way and self._on_their_way[0][0] <= self._steps:
            self._held = self._on_their_way.popleft()[1]
        command = self._held
        torque = command.kp * (command.q - data.qpos[q]) - command.kd * data.qvel[v]
        np.clip(self.options.motor_strength * torque, -self._limit, self._limit, out=self._torque)
        data.ctrl[self._u] = self._torque
        mujoco.mj_step(self.model, data)
        self._steps += 1
        self._time_s = self._start_s + self._steps * self.dt_s
        self._sensors.readings.add(*self._readings())
        if self._feed is not None and self._steps % self._camera_steps == 0:
            self._feed.take(self._time_s, data.qpos[:3], data.qpos[3:_ROOT])

    def _readings(self) -> tuple:
        """What `gaussgym_learn.robot.sensing.Readings.add` takes."""
        data = self.data
        return (
            self._time_s, data.qpos[self._q], data.qvel[self._v], self._torque, data.qpos[3:_ROOT],
            data.qvel[3:_ROOT_V], data.qvel[:3], data.qpos[:3],
        )  # fmt: skip

    def _control_period_over(self) -> None:
        data = self.data
        if not self.endless:
            self.result = self._verdict()
        power_w = float(np.abs(self._torque * data.qvel[self._v]).sum())
        if self.result == EpisodeResult.RUNNING:
            vel_b = matrix_from_quat_wxyz(data.qpos[3:_ROOT]).T @ data.qvel[:3]
            self.tally.add(self.state.command, vel_b, float(data.qvel[5]), power_w, data.qpos[:3])
        self._update_command()

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
        if outside or self._steps * self.dt_s >= self.cfg.episode_s - 0.5 * self.cfg.control_s:
            return EpisodeResult.TIMEOUT
        return EpisodeResult.RUNNING

    def _update_command(self) -> None:
        """The command that follows the path from where the robot is, for the coming control period."""
        pose = torch.from_numpy(self.data.qpos[None, :_ROOT].astype(np.float32))
        self._commands.update(pose[:, :2], yaw_of(pose[:, 3:]))
        self.state.command[:] = self._commands.command[0].numpy()

    def path_ahead_m(self, number: int) -> np.ndarray:
        """Points of the path from start ``number`` to its goal `[P, 2]`, in the scene's frame."""
        starts = self.starts
        at, goal = int(starts.point[number]), int(starts.goal_point[number])
        way, net = torch.tensor([int(starts.direction[number])]), self._network
        points = [at]
        while points[-1] != goal:
            following = int(net.along(torch.tensor([points[-1]]), way)[0])
            if following == points[-1]:  # the line's end
                break
            points.append(following)
        return net.points[points, :2].numpy().astype(np.float64)

    @property
    def time_s(self) -> float:
        """The robot's clock [s]."""
        return self._time_s

    def pose(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """True base position [m], attitude wxyz and joint positions [rad], copies."""
        qpos = self.data.qpos
        return qpos[:3].copy(), qpos[3:_ROOT].copy(), qpos[self._q]

    def close(self) -> None:
        """End the camera's thread."""
        if self._feed is not None:
            self._feed.close()
