"""The auto-resetting vector environment: two tasks, observation groups, curriculum, fixed starts for evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim import rewards, terminations
from gaussgym_sim.camera import CameraCfg, CameraRenderer, CameraRig
from gaussgym_sim.commands import CommandCfg, PathFollower, PathNetwork, VelocityCommands
from gaussgym_sim.frames import gravity_in_base, quat_from_yaw, rotate, rotate_inverse, yaw_of
from gaussgym_sim.observations import ObservationCfg, Observations
from gaussgym_sim.randomize import RandomizeCfg, Uniform, draw_kicks, randomize_physics
from gaussgym_sim.rewards import RewardCfg, RewardInputs
from gaussgym_sim.starts import FixedStarts, Starts, StartSampler
from gaussgym_sim.terminations import TerminationCfg
from gaussgym_sim.vecsim import SUBSTEP_S, VecSim

TASKS = ("velocity", "goal")
_START_CLEARANCE_M = 0.02
_FOOTPRINT_M = ((0.0, 0.0), (0.2, 0.15), (0.2, -0.15), (-0.2, 0.15), (-0.2, -0.15))


@dataclass(frozen=True)
class EnvCfg:
    """Everything that defines the learning problem beside robot and scenes."""

    task: str = "velocity"
    episode_s: float = 20.0
    substeps: int = 4
    action_clip: float = 10.0
    commands: CommandCfg = field(default_factory=CommandCfg)
    observations: ObservationCfg = field(default_factory=ObservationCfg)
    rewards: RewardCfg = field(default_factory=RewardCfg)
    terminations: TerminationCfg = field(default_factory=TerminationCfg)
    randomize: RandomizeCfg = field(default_factory=RandomizeCfg.light)
    camera: CameraCfg = field(default_factory=CameraCfg)
    noisy_observations: bool = True
    random_initial_age: bool = True
    curriculum: bool = True
    """Raise and lower each env's level over the lines of scenes whose metadata has ``path_level``; else any line."""
    level_up_m: float = 3.0
    """Distance from the start at which an env has mastered its level."""
    level_down_fraction: float = 0.4
    """Share of the commanded distance below which an env falls back a level."""

    @property
    def control_s(self) -> float:
        """Time of a control step [s]."""
        return self.substeps * SUBSTEP_S

    def for_evaluation(self) -> EnvCfg:
        """The same task without noise, randomization, random ages or curriculum."""
        return replace(
            self,
            randomize=RandomizeCfg.none(),
            noisy_observations=False,
            random_initial_age=False,
            curriculum=False,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, for logs and checkpoints."""
        return asdict(self)


class Env:
    """E robots, each learning on the ground of one scene; resets itself.

    Follows the step contract of rsl_rl's VecEnv with plain dicts: `step` returns (observations, reward [E], dones [E], extras),
    ``extras['time_outs']`` [E] marks episodes cut short rather than failed. Returned tensors are new every step.

    Attributes:
        num_envs, num_actions, max_episode_length, episode_length_buf, device, cfg: as in VecEnv.
        level: [E] curriculum level.
        start_id: [E] number of the running episode in the given starts, -1 without.
        camera: the cameras, or None.
        keep_final_observations: also give ``extras["final_observations"]``, the groups [R, ...] of the R envs that ended, as they
            were before their reset, with ``extras["final_ids"]`` [R]; costs a second set of observations in such steps.
    """

    def __init__(
        self,
        sim: VecSim,
        cfg: EnvCfg | None = None,
        *,
        seed: int = 0,
        renderer: CameraRenderer | None = None,
        starts: Starts | None = None,
    ) -> None:
        """Reset all envs once.

        Args:
            sim: made by `make_sim`.
            cfg: the problem.
            seed: of all random draws here.
            renderer: of the sim's scenes, in their order, at the size of ``cfg.camera``; None = no ``rgb`` observation.
            starts: episodes to run instead of drawn ones (see `sample_starts`).

        Raises:
            InputError: unknown task, a scene without paths, or starts that do not fit the scenes.
        """
        self.sim, self.cfg = sim, cfg or EnvCfg()
        if self.cfg.task not in TASKS:
            raise InputError(f"unknown task {self.cfg.task!r}; choose one of: {', '.join(TASKS)}")
        self.num_envs, self.num_actions, self.device = sim.num_envs, sim.robot.num_joints, sim.device
        self.max_episode_length = round(self.cfg.episode_s / self.cfg.control_s)
        generator = torch.Generator(device=self.device)
        generator.manual_seed(seed)
        self._uniform = Uniform(generator, self.device)
        self.network = PathNetwork(sim.scenes, device=self.device)
        self.follower = PathFollower(self.network, self.num_envs, self.device)
        self._replacements: dict[int, Scene] = {}
        rough = self._rough()
        self.commands = VelocityCommands(
            self.cfg.commands, self.follower, rough, self._uniform, task=self.cfg.task
        )
        self.observations = Observations(
            sim.robot, self.cfg.observations, device=self.device, generator=generator
        )
        self._weights = rewards.weight_table(self.cfg.rewards, self.cfg.rewards.on_rough_ground(), rough)
        self._allocate()
        self._sampler = StartSampler(self.network, use_levels=self.cfg.curriculum)
        self._fixed_starts = (
            FixedStarts(starts, self.network, sim.scene_of_env) if starts is not None else None
        )
        self.camera = (
            CameraRig(sim.robot, self.cfg.camera, renderer, sim.scene_of_env, control_s=self.cfg.control_s)
            if renderer is not None
            else None
        )
        self.keep_final_observations = False
        self._begin_everywhere()

    def reset(self, seed: int | None = None) -> dict[str, Tensor]:
        """Begin new episodes in all envs, at the first level and with newly drawn physics.

        Args:
            seed: of all random draws from now on: the same one gives the same episodes again. None: draw on.

        Returns:
            Observation groups.
        """
        if seed is not None:
            self._uniform.generator.manual_seed(seed)
            if self.camera is not None:
                self.camera.reseed()
        self._begin_everywhere()
        return self.get_observations()

    def _begin_everywhere(self) -> None:
        everyone = torch.arange(self.num_envs, device=self.device)
        self.level.zero_()
        if self._fixed_starts is not None:
            self._fixed_starts.rewind()
        randomize_physics(self.sim, everyone, self.cfg.randomize, self._uniform)
        self._start(everyone)
        if self.cfg.random_initial_age:
            self.episode_length_buf[:] = (
                self._uniform(0.0, 1.0, self.num_envs) * self.max_episode_length
            ).long()
            if self.camera is not None:
                self.camera.stagger(self._uniform)
        self._refresh()
        self.commands.update(self.sim.state.root_pos_w[:, :2], self._yaw)
        self._capture()

    def _rough(self) -> Tensor:
        """[E] bool, envs whose ground is no plane."""
        return ~self.sim.terrain.flat[self.sim.scene_of_env]

    def _allocate(self) -> None:
        e, j, device = self.num_envs, self.num_actions, self.device
        legs = len(self.sim.robot.leg_names)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(e, *shape, device=device)

        self.default_joint_pos = torch.tensor(self.sim.robot.default_joint_pos, device=device)
        self.episode_length_buf = torch.zeros(e, dtype=torch.long, device=device)
        self.level = torch.zeros(e, dtype=torch.long, device=device)
        self.start_id = torch.full((e,), -1, dtype=torch.long, device=device)
        self._action, self._last_action, self._last_joint_vel = zeros(j), zeros(j), zeros(j)
        self._foot_air_s, self._was_contact = zeros(legs), zeros(legs).bool()
        self._start_xy, self._commanded_m = zeros(2), zeros()
        self._reward_sums = torch.zeros(len(rewards.TERMS), e, device=device)
        self._episode_s = zeros()
        self._footprint = torch.tensor(_FOOTPRINT_M, device=device)
        grid = self.observations.grid_b
        self._under_body = ((grid[:, 0].abs() < 0.26) & (grid[:, 1].abs() < 0.2)).nonzero().squeeze(1)

    # ------------------------------------------------------------------ step

    def step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Any]]:
        """Advance one control step.

        Args:
            action: [E, J]; position targets are default pose + action scale x action.

        Returns:
            (observation groups, reward [E], dones [E] bool, extras): ``time_outs`` [E] float, ``fell`` and ``success``
            [E] bool and ``start_id`` [E] of the episodes that this step belongs to, ``log`` means over the episodes that
            ended in this step (empty if none).
        """
        cfg, sim = self.cfg, self.sim
        self._last_action, self._last_joint_vel = self._action, sim.state.joint_vel.clone()
        # A policy that has diverged must not poison observations: such an env is reset as one that fell.
        self._bad_action = ~torch.isfinite(action).all(dim=1)
        clipped = action.detach().to(torch.float32).clamp(-cfg.action_clip, cfg.action_clip)
        self._action = torch.where(self._bad_action[:, None], 0.0, clipped)
        if cfg.randomize.kick_interval_s > 0:
            kicked, delta = draw_kicks(cfg.randomize, self.num_envs, cfg.control_s, self._uniform)
            if len(kicked):
                sim.kick(kicked, delta)
        sim.step(self.default_joint_pos + sim.robot.action_scale * self._action, substeps=cfg.substeps)
        self._refresh()
        self._after_physics()
        reward = self._reward()
        dones, extras = self._finish()
        self._capture()
        return self.get_observations(), reward, dones, extras

    def _refresh(self) -> None:
        """Quantities derived from the state, shared by commands, rewards and observations."""
        s = self.sim.state
        self._yaw = yaw_of(s.root_quat_wxyz)
        self._gravity_b = gravity_in_base(s.root_quat_wxyz)
        self._lin_vel_b = rotate_inverse(s.root_quat_wxyz, s.root_lin_vel_w)
        self._ground = self.observations.scan_ground(
            s.root_pos_w, self._yaw, self.sim.terrain, self.sim.scene_of_env
        )
        self._height = s.root_pos_w[:, 2] - self._ground[:, self._under_body].mean(dim=1)

    def _after_physics(self) -> None:
        s, dt = self.sim.state, self.cfg.control_s
        self.episode_length_buf += 1
        self._episode_s += dt
        contact = s.foot_contact | self._was_contact
        self._touch_down = (self._foot_air_s > 0) & contact
        self._foot_air_s += dt
        self._touch_air_s = self._foot_air_s.clone()
        self._foot_air_s *= ~contact
        self._was_contact = s.foot_contact.clone()
        period = max(1, round(self.cfg.commands.resample_s / dt))
        if self.cfg.task == "velocity":
            due = (self.episode_length_buf % period == 0).nonzero().squeeze(1)
            self.commands.resample(due)
        self._command_before = self.commands.command.clone()
        self.commands.update(s.root_pos_w[:, :2], self._yaw)

    def _reward(self) -> Tensor:
        s = self.sim.state
        command = self._command_before
        inputs = RewardInputs(
            command=command, lin_vel_b=self._lin_vel_b, ang_vel_b=s.root_ang_vel_b, gravity_b=self._gravity_b,
            joint_pos_offset=s.joint_pos - self.default_joint_pos, joint_vel=s.joint_vel,
            last_joint_vel=self._last_joint_vel, torque=s.joint_torque, action=self._action,
            last_action=self._last_action, foot_vel_w=s.foot_vel_w, foot_contact=s.foot_contact,
            touch_down=self._touch_down, foot_air_s=self._touch_air_s, thigh_contact=s.thigh_contact,
            base_height_error_m=self._height - self.sim.robot.base_height_m,
            moving=(command.abs().amax(dim=1) > 0.05).float(), control_s=self.cfg.control_s,
            sigma=self.cfg.rewards.tracking_sigma,
        )  # fmt: skip
        self._commanded_m += command[:, :2].norm(dim=1) * self.cfg.control_s
        reward, terms = rewards.compute(inputs, self._weights)
        self._reward_sums += terms * self.cfg.control_s
        return reward

    def _finish(self) -> tuple[Tensor, dict[str, Any]]:
        """Who ends here, why, and their next start."""
        s, cfg = self.sim.state, self.cfg
        fell = terminations.fell(s, self._gravity_b, self._height, cfg.terminations)
        fell |= s.invalid | self._bad_action
        timed_out = self.episode_length_buf >= self.max_episode_length
        xy = s.root_pos_w[:, :2]
        outside = self.sim.terrain.outside(
            xy, self.sim.scene_of_env, margin_m=cfg.terminations.border_margin_m
        )
        success = torch.zeros_like(fell)
        if cfg.task == "goal":
            success = ((self.follower.goal_xy() - xy).norm(dim=1) < cfg.commands.goal_radius_m) & ~fell
        else:
            at_end = self.network.distance_to_end_m(self.follower.index, self.follower.direction) <= 1e-3
            outside = outside | (at_end & ~self.sim.terrain.flat[self.sim.scene_of_env])
        cut = (timed_out | outside | success | self._leaving()) & ~fell
        dones = fell | cut
        extras: dict[str, Any] = {
            "time_outs": cut.float(), "fell": fell, "success": success, "start_id": self.start_id.clone(), "log": {},
        }  # fmt: skip
        ids = dones.nonzero().squeeze(1)
        if len(ids):
            extras["log"] = self._log(ids, fell, success)
            if self.keep_final_observations:
                final = self.get_observations()
                extras |= {"final_ids": ids, "final_observations": {k: v[ids] for k, v in final.items()}}
            if cfg.curriculum and self.network.num_levels > 1:
                self._change_levels(ids)
            self._replace_scenes()
            self._start(ids)
            self._refresh()
            self.commands.update(s.root_pos_w[:, :2], self._yaw)
        return dones, extras

    def _log(self, ids: Tensor, fell: Tensor, success: Tensor) -> dict[str, Tensor]:
        seconds = self._episode_s[ids].clamp(min=self.cfg.control_s)
        rates = (self._reward_sums[:, ids] / seconds).mean(dim=1)
        log = {f"reward/{name}": rate for name, rate in zip(rewards.TERMS, rates, strict=True)}
        log["episode/fell"] = fell[ids].float().mean()
        log["episode/seconds"] = self._episode_s[ids].mean()
        if self.cfg.task == "goal":
            log["episode/success"] = success[ids].float().mean()
        if self.network.num_levels > 1:
            log["episode/level"] = self.level.float().mean()
        return log

    def _change_levels(self, ids: Tensor) -> None:
        walked = (self.sim.state.root_pos_w[ids, :2] - self._start_xy[ids]).norm(dim=1)
        up = walked > self.cfg.level_up_m
        down = (walked < self.cfg.level_down_fraction * self._commanded_m[ids]) & ~up
        level = self.level[ids] + up.long() - down.long()
        again = (
            self._uniform(0.0, 1.0, len(ids)) * self.network.num_levels
        ).long()  # mastered all: any level
        level = torch.where(up & (level >= self.network.num_levels), again, level)
        self.level[ids] = level.clamp(min=0)

    # ------------------------------------------------------------------ starts

    def _start(self, ids: Tensor) -> None:
        """Begin new episodes in envs ``ids``."""
        if self._fixed_starts is not None:
            self.start_id[ids], start = self._fixed_starts.next(ids)
        else:
            start = self._sampler.draw(
                self.sim.scene_of_env[ids], self.level[ids], task=self.cfg.task, commands=self.cfg.commands,
                randomize=self.cfg.randomize, uniform=self._uniform,
            )  # fmt: skip
        self.follower.start(ids, start.index, start.direction, start.goal)
        self._place(ids, start.xy, start.yaw)
        self.commands.resample(ids, speed=start.speed if self.cfg.task == "goal" else None)
        if self.camera is not None:
            self.camera.restart(ids, self.cfg.randomize, self._uniform)

    def _place(self, ids: Tensor, xy: Tensor, yaw: Tensor) -> None:
        """Put robots upright at xy [R, 2] with heading yaw [R], feet just clear of the highest ground below them."""
        count, cfg, u, robot = len(ids), self.cfg.randomize, self._uniform, self.sim.robot
        quat = quat_from_yaw(yaw)
        corners = torch.cat((self._footprint, torch.zeros(len(self._footprint), 1, device=self.device)), 1)
        below = (
            rotate(quat[:, None].expand(-1, len(corners), -1), corners.expand(count, -1, -1))[..., :2]
            + xy[:, None]
        )
        ground = self.sim.terrain.sample(below, self.sim.scene_of_env[ids]).amax(dim=1)
        joint_noise = u(-cfg.start_joint_rad, cfg.start_joint_rad, count, self.num_actions)
        lin_vel = u(-cfg.start_lin_vel_m_s, cfg.start_lin_vel_m_s, count, 3)
        height = robot.base_height_m + _START_CLEARANCE_M
        self.sim.reset(
            ids,
            root_pos_w=torch.cat((xy, (ground + height)[:, None]), dim=1),
            root_quat_wxyz=quat,
            root_lin_vel_w=lin_vel,
            root_ang_vel_b=torch.zeros_like(lin_vel),
            joint_pos=self.default_joint_pos + joint_noise,
            joint_vel=torch.zeros_like(joint_noise),
        )
        self._start_xy[ids] = xy
        self.episode_length_buf[ids] = 0
        self._reward_sums[:, ids] = 0.0
        for buffer in (self._action, self._foot_air_s, self._commanded_m, self._episode_s):
            buffer[ids] = 0.0
        self._was_contact[ids] = False

    def replace_scene(self, index: int, scene: Scene) -> None:
        """Put another scene in the place of ``sim.scenes[index]`` in the next step, before whose images are taken.

        In that step the episodes there are cut short (``time_outs``), and new ones begin in the new scene.

        Raises:
            InputError: a scene without paths, or an env that runs fixed starts.
        """
        if self._fixed_starts is not None:
            raise InputError(
                "this environment runs fixed starts of its scenes; none of these can be replaced"
            )
        PathNetwork([scene], device=self.device)
        self._replacements[index] = scene

    def _leaving(self) -> Tensor:
        """[E] bool, envs whose scene is about to be replaced."""
        leaving = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        for index in self._replacements:
            leaving |= self.sim.scene_of_env == index
        return leaving

    def _replace_scenes(self) -> None:
        """Change to the scenes that wait; their envs must then start."""
        if not self._replacements:
            return
        changed = self._leaving().nonzero().squeeze(1)
        for index, scene in self._replacements.items():
            self.sim.set_scene((self.sim.scene_of_env == index).nonzero().squeeze(1), scene)
        self._replacements.clear()
        self.network = PathNetwork(self.sim.scenes, device=self.device)
        self.follower.change_network(self.network, self.sim.scene_of_env)
        self._sampler = StartSampler(self.network, use_levels=self.cfg.curriculum)
        rough = self._rough()
        self.commands.set_rough(rough)
        self._weights = rewards.weight_table(self.cfg.rewards, self.cfg.rewards.on_rough_ground(), rough)
        randomize_physics(self.sim, changed, self.cfg.randomize, self._uniform)

    def set_levels(self, level: Tensor) -> None:
        """Put all envs on curriculum levels [E] and begin new episodes there; ages are kept.

        Levels above those of the scenes at hand are kept for scenes to come.
        """
        age = self.episode_length_buf.clone()
        self.level[:] = level.clamp(min=0)
        self._start(torch.arange(self.num_envs, device=self.device))
        self.episode_length_buf[:] = age
        self._refresh()
        self.commands.update(self.sim.state.root_pos_w[:, :2], self._yaw)
        self._capture()

    # ------------------------------------------------------------------ observations

    @property
    def lin_vel_b(self) -> Tensor:
        """[E, 3] base velocity in the base frame [m/s], without noise."""
        return self._lin_vel_b

    @property
    def height_m(self) -> Tensor:
        """[E] base height over the mean ground below the body [m]."""
        return self._height

    def get_observations(self) -> dict[str, Tensor]:
        """Observation groups of the current state: proprio [E, 45], base_vel [E, 3], scan [E, S]; with a renderer
        also rgb uint8 [E, 3, H, W] and rgb_new uint8 [E, 1] (1 where the image is a new frame). Noise is drawn at every call.
        """
        s, noisy, obs = self.sim.state, self.cfg.noisy_observations, self.observations
        terms = (
            s.root_ang_vel_b, self._gravity_b, self.commands.command, s.joint_pos - self.default_joint_pos,
            s.joint_vel, self._action,
        )  # fmt: skip
        groups = {
            "proprio": obs.proprio(terms, noisy=noisy),
            "base_vel": obs.base_vel(self._lin_vel_b, noisy=noisy),
            "scan": obs.scan(s.root_pos_w[:, 2], self._ground, noisy=noisy),
        }
        if self.camera is not None:
            groups["rgb"], groups["rgb_new"] = self.camera.rgb.clone(), self.camera.new.clone()
        return groups

    def _capture(self) -> None:
        if self.camera is not None:
            self.camera.capture(self.sim.state, self._lin_vel_b)
