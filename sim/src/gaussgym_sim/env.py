"""The auto-resetting vector environment: a task's episodes, observation groups, curriculum, fixed starts for evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.env_cfg import EnvCfg as EnvCfg
from gaussgym_sim.env_state import env_state, load_env_state
from gaussgym_sim.mdp.commands import PathFollower, PathNetwork
from gaussgym_sim.mdp.curriculum import GoalDistance, next_levels
from gaussgym_sim.mdp.episodes import EpisodeSums, multiples_of
from gaussgym_sim.mdp.feet import Feet, Gait
from gaussgym_sim.mdp.placing import Placer
from gaussgym_sim.mdp.posture import Posture
from gaussgym_sim.mdp.rewards import RewardInputs, Rewards
from gaussgym_sim.mdp.slots import SceneChanges
from gaussgym_sim.mdp.starts import FixedStarts, Starts, StartSampler, hashed_uniform
from gaussgym_sim.mdp.step_kernels import take_actions
from gaussgym_sim.mdp.terminations import Reasons, find_ends
from gaussgym_sim.randomize import Disturbances, PhysicsRandomizer, Uniform, which
from gaussgym_sim.sensors.camera import CameraRenderer, CameraRig
from gaussgym_sim.sensors.observations import Observations, make_sensing
from gaussgym_sim.task import get_task
from gaussgym_sim.vecsim import VecSim

if TYPE_CHECKING:
    from gaussgym_sim.views.nan_guard import NanGuard


class Env:
    """E robots, each learning on the ground of one scene; resets itself.

    Follows the step contract of rsl_rl's VecEnv with plain dicts: `step` returns (observations, reward [E], dones [E], extras),
    ``extras['time_outs']`` [E] marks episodes cut short rather than failed. Returned tensors are new every step.

    Attributes:
        num_envs, num_actions, max_episode_length, episode_length_buf, device, cfg: as in VecEnv.
        level: [E] curriculum level.
        fixed_starts: deals the given starts, None where starts are drawn.
        start_id: [E] number of the running episode in the given starts, -1 without.
        camera: the cameras, or None.
        task, task_cfg, task_state: what is learned (`gaussgym_sim.task`), its settings, and what it remembers.
        sim: physics; ``sim.state`` is the state after the last step.
        network, follower: the scenes' paths, and where each env is on its own.
        commands: the velocity commands.
        action, last_action, last_joint_vel: of this step and the one before.
        command_before: [E, 3] the command that this step was to carry out.
        joint_pos_offset: [E, J] from the default pose [rad].
        feet, gait: contact and air time; the gait's clock or None.
        yaw, gravity_b, lin_vel_b, height_m: of the current state, without noise: heading [rad], unit vector of gravity, base
            velocity [m/s], height over the mean ground below the body [m].
        episodes: sums over the running episodes.
        goal_distance: curriculum over the goal's distance, or None.
        choose_scenes: curriculum over scenes: called with (env, ids [R] of the envs whose episodes end, their success [R]: for a
            task without one, that they did not fall) before they start again; may call `set_scene`. Not called for envs whose
            episodes are cut short because their scene is replaced.
        uniform: the random numbers of everything here.
        sensing: errors of the sensors (`gaussgym_sim.sensors.sensing`), None without any.
        disturbances: kicks and pushes.
        keep_final_observations: also give ``extras["final_observations"]``, the groups [R, ...] of the R envs that ended, as they
            were before their reset, with ``extras["final_ids"]`` [R]; costs a second set of observations in such steps.
        guard: names and saves what is not finite (`gaussgym_sim.views.nan_guard`), or None.
        physics_s, render_s: time spent in the simulator's steps and in images so far [s]; what a GPU has yet to do counts where
            it is waited for.
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
            renderer: of the sim's scenes, in their order, at the size of ``cfg.camera``; None = no images.
            starts: episodes to run instead of drawn ones (see `sample_starts`).

        Raises:
            InputError: unknown task, a scene without paths, lengths of episodes that are no range, or starts that do not fit the
                scenes.
        """
        self.sim, self.cfg = sim, cfg or EnvCfg()
        _check_range(self.cfg.rough_episode_s)
        self.task = get_task(self.cfg.task)
        self.task_cfg = self.task.cfg if self.cfg.task_cfg is None else self.cfg.task_cfg
        if self.task.check_scenes is not None:
            self.task.check_scenes(sim.scenes)
        self.num_envs, self.num_actions, self.device = sim.num_envs, sim.robot.num_joints, sim.device
        self.max_episode_length = round(self.cfg.episode_s / self.cfg.control_s)
        generator = torch.Generator(device=self.device)
        generator.manual_seed(seed)
        self.uniform = Uniform(generator, self.device)
        self.network = PathNetwork(sim.scenes, device=self.device)
        self.follower = PathFollower(self.network, self.num_envs, self.device)
        self._scene_changes = SceneChanges(sim)
        self._see_grounds()
        self.commands = self.task.commands(self)
        randomize = self.cfg.randomize
        self.sensing = make_sensing(
            sim.robot, self.cfg.observations, randomize.sensing, self.num_envs, control_s=self.cfg.control_s,
            uniform=self.uniform,
        )  # fmt: skip
        self.observations = Observations(
            sim.robot, self.cfg.observations, device=self.device, generator=generator, sensing=self.sensing
        )
        self._physics = PhysicsRandomizer(sim, randomize, self.uniform)
        self.disturbances = Disturbances(
            randomize, self.num_envs, control_s=self.cfg.control_s, device=self.device, uniform=self.uniform
        )
        self._allocate()
        self.goal_distance: GoalDistance | None = None
        if self.cfg.goal_distance is not None:
            self.goal_distance = GoalDistance(self.cfg.goal_distance, len(sim.scenes), self.device)
        self._sampler = StartSampler(self.network, use_levels=self.cfg.curriculum)
        self._placer = Placer(sim, self.uniform)
        self.fixed_starts = (
            FixedStarts(starts, self.network, sim.scene_of_env) if starts is not None else None
        )
        self.camera: CameraRig | None = None
        if renderer is not None:
            self.camera = CameraRig(
                sim.robot, self.cfg.camera, renderer, sim.scene_of_env, control_s=self.cfg.control_s,
                clock=randomize.camera_clock,
            )  # fmt: skip
        self.task_state: Any = None  # a `TaskState`
        if self.task.state is not None:
            self.task_state = self.task.state(self)
        self.keep_final_observations = False
        self.guard: NanGuard | None = None
        self.choose_scenes: Callable[[Env, Tensor, Tensor], None] | None = None
        self.physics_s = self.render_s = 0.0
        self._begin_everywhere()

    def reset(self, seed: int | None = None) -> dict[str, Tensor]:
        """Begin new episodes in all envs, at the first level and with newly drawn physics.

        Args:
            seed: of all random draws from now on: the same one gives the same episodes again. None: draw on.

        Returns:
            Observation groups.
        """
        if seed is not None:
            self.uniform.generator.manual_seed(seed)
            for part in (self.camera, self.sensing):
                if part is not None:
                    part.reseed()
        self._begin_everywhere()
        return self.get_observations()

    def _begin_everywhere(self) -> None:
        everyone = torch.arange(self.num_envs, device=self.device)
        self.level.zero_()
        if self.goal_distance is not None:
            self.goal_distance.reset()
        if self.fixed_starts is not None:
            self.fixed_starts.rewind()
        self._start(everyone)
        if self.cfg.random_initial_age:
            self.episode_length_buf[:] = (
                self.uniform(0.0, 1.0, self.num_envs) * self.max_episode_length
            ).long()
            if self.camera is not None:
                self.camera.stagger(self.uniform)
        self._refresh()
        self.commands.update(self.sim.state.root_pos_w[:, :2], self.yaw)
        self._capture()

    def rough(self) -> Tensor:
        """[E] bool, envs whose ground is no plane."""
        return self._rough

    def _see_grounds(self) -> None:
        """Which envs stand on rough ground, as scenes are now."""
        self._rough = ~self.sim.terrain.flat[self.sim.scene_of_env]
        self._cuts_short = self.cfg.rough_episode_s is not None and bool(self._rough.any())

    def _allocate(self) -> None:
        e, j, device = self.num_envs, self.num_actions, self.device
        self.default_joint_pos = torch.tensor(self.sim.robot.default_joint_pos, device=device)
        self.episode_length_buf = torch.zeros(e, dtype=torch.long, device=device)
        self.level = torch.zeros(e, dtype=torch.long, device=device)
        self.start_id = torch.full((e,), -1, dtype=torch.long, device=device)
        self.action = torch.zeros(e, j, device=device)
        self.last_action, self.last_joint_vel = (
            torch.zeros_like(self.action),
            torch.zeros_like(self.action),
        )
        self.gait: Gait | None = None
        if self.cfg.gait_hz is not None:
            self.gait = Gait(self.sim.robot, e, self.cfg.gait_hz, self.uniform)
        elif self.cfg.rewards.feet_phase != 0.0:
            raise InputError(
                "feet_phase follows a gait's clock: found EnvCfg.gait_hz None, expected its range"
            )
        self.feet = Feet(e, len(self.sim.robot.leg_names), device)
        weights = self.task.weights(self.cfg.task_rewards)
        self._task_terms = [self.task.rewards[name].term for name in weights]
        self.rewards = Rewards(self.cfg.rewards, self.rough(), weights, control_s=self.cfg.control_s)
        self.episodes = EpisodeSums(self.rewards.names, e, device)
        self._posture = Posture(
            self.sim, self.observations.grid_b,
            lambda pos, yaw, scenes: self.observations.scan_ground(pos, yaw, self.sim.terrain, scenes),
        )  # fmt: skip
        self._nobody = torch.zeros(e, dtype=torch.bool, device=device)

    # ------------------------------------------------------------------ step

    def step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Any]]:
        """Advance one control step.

        Args:
            action: [E, J]; position targets are default pose + action scale x action.

        Returns:
            (observation groups, reward [E], dones [E] bool, extras): ``time_outs`` [E] float, ``fell`` and ``success``
            [E] bool and ``start_id`` [E] of the episodes that this step belongs to, ``log`` means over the episodes that
            ended in this step, ``metrics`` the task's values [E], which hold for those (both empty if none), and ``reasons``
            why they may have ended (`gaussgym_sim.mdp.terminations.Reasons`).
        """
        cfg, sim = self.cfg, self.sim
        self.last_action, self.last_joint_vel = self.action, sim.state.joint_vel.clone()
        target = self._take(action.detach())
        self.disturbances.apply(sim)
        started = time.perf_counter()
        sim.step(target, substeps=cfg.substeps)
        self.physics_s += time.perf_counter() - started
        if self.sensing is not None:
            self.sensing.advance()
        self._refresh()
        self._after_physics()
        reward = self._reward()
        if self.guard is not None:
            self._bad_action |= self.guard.check_step(self, action, reward)
        self.episodes.add(self.rewards.terms, self.command_before, cfg.control_s)
        dones, extras = self._finish()
        self._capture()
        groups = self.get_observations()
        if self.guard is not None:
            self.guard.check_observations(groups)
        return groups, reward, dones, extras

    def _take(self, action: Tensor) -> Tensor:
        """Joint targets [E, J] that an action asks for, which becomes the env's own."""
        # A policy that has diverged must not poison observations: such an env is reset as one that fell.
        clip, scale = self.cfg.action_clip, self.sim.robot.action_scale
        if self.device.type == "cpu" and action.dtype == torch.float32:
            self.action, target = torch.empty_like(self.action), torch.empty_like(self.action)
            given = (self.default_joint_pos, self.action, target)
            bad = take_actions(action.numpy(), clip, scale, *(t.numpy() for t in given))
            self._bad_action = torch.from_numpy(bad)
            return target
        return self._take_by_tensors(action)

    def _take_by_tensors(self, action: Tensor) -> Tensor:
        clip, scale = self.cfg.action_clip, self.sim.robot.action_scale
        self._bad_action = (action * 0.0).sum(
            dim=1
        ) != 0.0  # a number times 0 is 0, infinite or NaN times 0 is NaN
        self.action = torch.where(self._bad_action[:, None], 0.0, action.to(torch.float32).clamp(-clip, clip))
        return self.default_joint_pos + scale * self.action

    def _refresh(self) -> None:
        """Quantities derived from the state, shared by commands, rewards and observations."""
        posture = self._posture
        posture.update()
        self.yaw, self.gravity_b, self.lin_vel_b = posture.yaw, posture.gravity_b, posture.lin_vel_b
        self.joint_pos_offset, self.height_m = posture.joint_pos_offset, posture.height_m

    def _refresh_started(self, ids: Tensor) -> None:
        """The same and the commands, of envs ``ids`` [R] that have started anew."""
        self._posture.update_rows(ids)
        self.commands.update(self.sim.state.root_pos_w[ids, :2], self.yaw[ids], ids)

    def _after_physics(self) -> None:
        s, dt = self.sim.state, self.cfg.control_s
        self.episodes.count(self.episode_length_buf, dt)
        self.feet.update(s.foot_contact, dt)
        if self.gait is not None:
            self.gait.update(dt)
        if not self.task.pursues_goal:
            period = max(1, round(self.cfg.commands.resample_s / dt))
            self.commands.resample(multiples_of(self.episode_length_buf, period))
        self.command_before = self.commands.command.clone()
        self.commands.update(s.root_pos_w[:, :2], self.yaw)
        if self.task_state is not None:
            self.task_state.update()

    def _reward(self) -> Tensor:
        return self.rewards.compute(RewardInputs.of(self), [term(self) for term in self._task_terms])

    def _finish(self) -> tuple[Tensor, dict[str, Any]]:
        """Who ends here, why, and their next start."""
        s, cfg = self.sim.state, self.cfg
        task, border_m = self.task, cfg.terminations.border_margin_m
        outside = self.sim.terrain.outside(s.root_pos_w[:, :2], self.sim.scene_of_env, margin_m=border_m)
        failed, reached, cut = (
            self._nobody if term is None else term(self) for term in (task.failed, task.success, task.cut)
        )
        if self._cuts_short:
            cut = cut | self._short_ends()
        reasons = Reasons(self._bad_action, failed, reached, cut, outside, self._scene_changes.leaving)
        ends = find_ends(
            s, self.gravity_b, self.height_m, cfg.terminations, self.episode_length_buf, self.max_episode_length, reasons
        )  # fmt: skip
        fell, success, dones = ends.fell, ends.success, ends.dones
        extras: dict[str, Any] = {
            "time_outs": ends.time_outs, "fell": fell, "success": success, "start_id": self.start_id.clone(), "log": {},
            "metrics": {}, "reasons": reasons,
        }  # fmt: skip
        ids = which(dones)
        if len(ids):
            # Copies, as a task's state goes on.
            metrics = {
                name: metric(self, success).float().clone() for name, metric in self.task.metrics.items()
            }
            extras |= {"log": self._log(ids, fell, success, metrics), "metrics": metrics}
            if self.keep_final_observations:
                final = self.get_observations()
                extras |= {"final_ids": ids, "final_observations": {k: v[ids] for k, v in final.items()}}
            counted = ~self._scene_changes.leaving[ids] if self._scene_changes else None
            self._curricula(ids, (~fell if task.success is None else success)[ids], counted)
            self._change_scenes(dones)
            self._start(ids)
            self._refresh_started(ids)
        return dones, extras

    def _short_ends(self) -> Tensor:
        """[E] bool, envs on rough ground whose episodes end now by `EnvCfg.rough_episode_s`.

        A length that is uniform in a range is an end whose chance, from the shortest on, is one step in those left to the
        longest: nothing need be remembered.
        """
        assert self.cfg.rough_episode_s is not None
        shortest, longest = (round(seconds / self.cfg.control_s) for seconds in self.cfg.rough_episode_s)
        age = self.episode_length_buf
        chance = 1.0 / (longest - age + 1).clamp(min=1)
        return self._rough & (age >= shortest) & (self.uniform(0.0, 1.0, self.num_envs) < chance)

    def _log(
        self, ids: Tensor, fell: Tensor, success: Tensor, metrics: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        log = self.episodes.means(ids, self.cfg.control_s)
        log["episode/fell"] = fell[ids].float().mean()
        if self.task.success is not None:
            log["episode/success"] = success[ids].float().mean()
        for name, values in metrics.items():
            log[f"episode/{name}"] = values[ids].mean()
        if self.network.num_levels > 1:
            log["episode/level"] = self.level.float().mean()
        if self.goal_distance is not None:
            log["episode/goal_distance_m"] = self.goal_distance.distance_m.mean()
        return log

    def _curricula(self, ids: Tensor, success: Tensor, counted: Tensor | None) -> None:
        """What episodes that end in envs ``ids`` [R] mean for the next ones.

        Those that are ``counted`` [R] bool (None: all) say how hard their scene is; others were only cut short.
        """
        if self.cfg.curriculum and self.network.num_levels > 1:
            self.level[ids] = next_levels(
                self.level[ids], walked_m=self.episodes.walked_m(ids, self.sim.state.root_pos_w[:, :2]),
                commanded_m=self.episodes.commanded_m[ids], num_levels=self.network.num_levels, up_m=self.cfg.level_up_m,
                down_fraction=self.cfg.level_down_fraction, uniform=self.uniform,
            )  # fmt: skip
        if counted is not None:
            ids, success = ids[counted], success[counted]
        if self.goal_distance is not None:
            self.goal_distance.update(self.sim.scene_of_env[ids], success)
        if self.choose_scenes is not None and len(ids):
            self.choose_scenes(self, ids, success)

    # ------------------------------------------------------------------ starts

    def _start(self, ids: Tensor) -> None:
        """Begin new episodes in envs ``ids``, with newly drawn sensors and physics."""
        bias = None
        if self.sensing is not None:
            self.sensing.restart(ids)
            bias = self.sensing.encoder_bias[ids]
        self._physics.draw(ids, bias)
        if self.fixed_starts is not None:
            self.start_id[ids], start = self.fixed_starts.next(ids)
        else:
            start = self._sampler.draw(
                self.sim.scene_of_env[ids], self.level[ids], to_goal=self.task.pursues_goal,
                commands=self.cfg.commands, randomize=self.cfg.randomize, uniform=self.uniform,
                goal_distance_m=None if self.goal_distance is None else self.goal_distance.of(self.sim.scene_of_env[ids]),
            )  # fmt: skip
        self.follower.start(ids, start.index, start.direction, start.goal)
        self._placer.place(ids, start.xy, start.yaw, self.cfg.randomize)
        self.episodes.start(ids, start.xy)
        self.feet.start(ids)
        self.disturbances.start(ids)
        if self.gait is not None:
            self.gait.start(ids)
        self.episode_length_buf[ids] = 0
        self.action[ids] = 0.0
        self.commands.resample(ids, speed=start.speed if self.task.pursues_goal else None)
        if self.task_state is not None:
            self.task_state.start(ids)
        if self.camera is not None:
            self.camera.restart(ids, self.cfg.randomize, self.uniform)

    def replace_scene(self, index: int, scene: Scene) -> None:
        """Put another scene in the place of ``sim.scenes[index]`` in the next step, before whose images are taken.

        In that step the episodes there are cut short (``time_outs``), and new ones begin in the new scene.

        Raises:
            InputError: a scene without paths, or an env that runs fixed starts.
        """
        if self.fixed_starts is not None:
            raise InputError(
                "this environment runs fixed starts of its scenes; none of these can be replaced"
            )
        self._check_scene(scene)
        self._scene_changes.fill(index, scene)

    def set_scene(self, env_ids: Tensor, scene: Scene) -> None:
        """Move envs ``env_ids`` [R] to another scene, each when its episode ends; see `VecSim.set_scene` for where it may lie.

        Raises:
            InputError: a scene without paths or that the task cannot use, or an env that runs fixed starts.
        """
        if self.fixed_starts is not None:
            raise InputError("this environment runs fixed starts of its scenes; its envs cannot leave these")
        self._check_scene(scene)
        self._scene_changes.move(env_ids, scene)

    def _check_scene(self, scene: Scene) -> None:
        PathNetwork([scene], device=self.device)
        if self.task.check_scenes is not None:
            self.task.check_scenes([scene])

    def _change_scenes(self, dones: Tensor) -> None:
        """Change to the scenes that wait for envs that end; these must then start."""
        if not self._scene_changes:
            return
        before = list(self.sim.scenes)
        changed = self._scene_changes.apply(dones).nonzero().squeeze(1)
        if len(changed) == 0:
            return
        if any(scene is not other for scene, other in zip(self.sim.scenes, before, strict=True)):
            self.network = PathNetwork(self.sim.scenes, device=self.device)
            self.follower.change_network(self.network, self.sim.scene_of_env)
            self._sampler = StartSampler(self.network, use_levels=self.cfg.curriculum)
        self._see_grounds()
        self.commands.set_rough(self.rough())
        self.rewards.set_rough(self.rough())

    def set_levels(self, level: Tensor) -> None:
        """Put all envs on curriculum levels [E] and begin new episodes there; ages are kept.

        Levels above those of the scenes at hand are kept for scenes to come.
        """
        age = self.episode_length_buf.clone()
        self.level[:] = level.clamp(min=0)
        self._start(torch.arange(self.num_envs, device=self.device))
        self.episode_length_buf[:] = age
        self._refresh()
        self.commands.update(self.sim.state.root_pos_w[:, :2], self.yaw)
        self._capture()

    def draw(self, env_ids: Tensor, low: float, high: float, *shape: int, what: int) -> Tensor:
        """Uniform numbers [R, ...] in [low, high) for episodes that start in envs ``env_ids`` [R].

        An episode of fixed starts gets the same ones whenever and wherever it is run; they depend on its number and on ``what``
        they are for, an integer.
        """
        if self.fixed_starts is None:
            return self.uniform(low, high, len(env_ids), *shape)
        return low + (high - low) * hashed_uniform(self.start_id[env_ids], what, *shape)

    # ------------------------------------------------------------------ observations

    def scan_xy(self) -> Tensor:
        """[E, S, 2] points of the height scan's grid in the world [m]."""
        x, y = self.observations.grid_b.T
        cos, sin = torch.cos(self.yaw)[:, None], torch.sin(self.yaw)[:, None]
        turned = torch.stack((cos * x - sin * y, sin * x + cos * y), dim=2)
        return turned + self.sim.state.root_pos_w[:, None, :2]

    def get_observations(self) -> dict[str, Tensor]:
        """Observation groups of the current state: proprio [E, 45], base_vel [E, 3], scan [E, S], those of the task; with a
        renderer also the images of `CameraCfg.images` (rgb uint8 [E, 3, H, W], depth uint8 [E, 1, H, W]) and rgb_new uint8 [E, 1]
        (1 where they are a new frame). Noise is drawn at every call.
        """
        s, noisy, obs = self.sim.state, self.cfg.noisy_observations, self.observations
        terms = (
            s.root_ang_vel_b, self.gravity_b, self.commands.command, self.joint_pos_offset,
            s.joint_vel, self.action,
        )  # fmt: skip
        groups = {
            "proprio": obs.proprio(terms, noisy=noisy),
            "base_vel": obs.base_vel(self.lin_vel_b, noisy=noisy),
            "scan": obs.scan(s.root_pos_w, self._posture.ground, noisy=noisy),
        }
        if self.gait is not None:
            groups["gait"] = self.gait.observation()
        for name, term in self.task.observations.items():
            groups[name] = term(self)
        if self.camera is not None:
            # A renderer's own frames are laid out otherwise than images are.
            for name, image in self.camera.images.items():
                groups[name] = image.clone(memory_format=torch.contiguous_format)
            groups["rgb_new"] = self.camera.new.clone()
        return groups

    def _capture(self) -> None:
        if self.camera is not None:
            started = time.perf_counter()
            inputs = self.task.camera_inputs
            patches = None if inputs is None else lambda: inputs(self)
            self.camera.capture(self.sim.state, self.lin_vel_b, self.uniform, patches)
            self.render_s += time.perf_counter() - started

    # ------------------------------------------------------------------ state

    @property
    def changes_wait(self) -> bool:
        """Whether scene changes wait for the end of episodes: these are not part of `state_dict`."""
        return bool(self._scene_changes)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the coming steps depend on, beside settings, scenes and actions; no scene changes that still wait."""
        return env_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly as the env did whose `state_dict` this is: of the same settings, with its scenes in the same slots.

        Raises:
            InputError: it has other parts than this env (task, camera, curricula).
        """
        load_env_state(self, state)
        self._see_grounds()
        self.commands.set_rough(self.rough())
        self.rewards.set_rough(self.rough())
        self._refresh()


def _check_range(lengths_s: tuple[float, float] | None) -> None:
    """Raises InputError unless episodes' lengths are a range of positive times or None."""
    if lengths_s is not None and not (len(lengths_s) == 2 and 0.0 < lengths_s[0] <= lengths_s[1]):
        raise InputError(
            f"rough_episode_s: found {lengths_s}, expected a shortest length above 0 s and a longest, or None"
        )
