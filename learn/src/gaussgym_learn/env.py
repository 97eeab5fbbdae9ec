"""The simulator's environment as rsl_rl wants it, with a splat camera where the policy sees."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.slots import fill_slot
from gaussgym_sim.mdp.starts import Starts
from gaussgym_sim.mdp.symmetry import Symmetry
from gaussgym_sim.sensors.camera import CameraRenderer
from gaussgym_sim.vecsim import VecSim, make_sim
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from gaussgym_learn.camera_renderer import Seen
from gaussgym_learn.frontier import Frontier
from gaussgym_learn.recipes import IMAGE_GROUPS
from gaussgym_learn.rotation import (
    DrawnRotation,
    SceneRotation,
    ScenesCfg,
    slot_renderer,
)
from gaussgym_learn.scene_curriculum import SceneCurriculum
from gaussgym_learn.scene_list import frontier_of, hash_scenes, listed, open_scenes, scene_hash
from gaussgym_learn.warm_up import WarmUp

if TYPE_CHECKING:
    from gaussgym_render.robot_camera import RobotCameraCfg

    from gaussgym_learn.pictures import CameraTape
    from gaussgym_learn.symmetry import MirrorMaps


class LearnEnv(VecEnv):
    """What training, evaluation and export need of an environment beyond rsl_rl's `VecEnv`.

    Attributes:
        robot: registry name.
        layout: shape per observation group, without the batch axis.
        scene_hashes: name → hash of the scenes it runs on.
        control_dt_s: control period [s].
        tape: is handed the camera's images of each step where there is one, or None.
        keep_final_observations: asks for the extras `final_observations` and `final_ids` of the episodes that end in a step, see
            `gaussgym_sim.env.Env`; an environment may be without.
    """

    robot: str
    layout: dict[str, list[int]]
    scene_hashes: dict[str, str]
    control_dt_s: float
    tape: CameraTape | None = None
    keep_final_observations: bool = False

    @abstractmethod
    def reset(self, *, seed: int) -> TensorDict:
        """Start all episodes anew; everything random from here on follows from the seed alone."""

    def curriculum_state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the environment."""
        return {}

    def load_curriculum_state(self, state: dict[str, Any]) -> None:
        """Restore `curriculum_state`."""

    def state_dict(self) -> dict[str, Any] | None:
        """Everything that the coming steps depend on beside curricula, scenes and actions, as tensors and plain values; None
        where the simulator cannot say: a checkpoint then begins all episodes anew (`reset`).
        """
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on exactly as the environment did whose `state_dict` this is, of the same settings, after `load_curriculum_state`;
        `get_observations` gives the observations of then.

        Raises:
            InputError: it is of other settings.
        """
        raise NotImplementedError(f"{type(self).__name__} has no state to restore")

    def show_tape(self, obs: TensorDict) -> None:
        """Hand the `tape` the images of a step."""
        if self.tape is not None:
            for group in IMAGE_GROUPS:
                if group in obs:
                    self.tape.add(obs[group], obs["rgb_new"])
                    return

    def mirror_maps(self) -> MirrorMaps | None:
        """What observations and actions are to the robot's mirror image; None where nobody has said it."""
        return None

    def spent_s(self) -> tuple[float, float]:
        """Time spent so far in physics and in rendering [s]."""
        return 0.0, 0.0


class GaussgymVecEnv(LearnEnv):
    """`gaussgym_sim.Env` behind rsl_rl's interface.

    Args:
        sim: physics, kept over resets.
        cfg: the learning problem.
        scene_hashes: see `LearnEnv`.
        seed: of the first reset.
        clearance: `(weight [1/s], target [m])` of the penalty on low swing feet, weight 0 for none.
        renderer: of the sim's scenes, for the robot's camera; None for none.
        starts: episodes to run instead of drawn ones.
        rotation: exchanges the sim's scenes, and those that a `SlotRenderer` shows; None: they stay.
        curriculum: says which scenes robots go to; None: they stay where they are.
    """

    def __init__(
        self,
        sim: VecSim,
        cfg: EnvCfg,
        *,
        scene_hashes: dict[str, str],
        seed: int = 0,
        clearance: tuple[float, float] = (0.0, 0.08),
        renderer: CameraRenderer | None = None,
        starts: Starts | None = None,
        rotation: SceneRotation | WarmUp | None = None,
        curriculum: SceneCurriculum | None = None,
    ) -> None:
        self.sim, self.cfg, self._cfg, self.scene_hashes, self.robot = (
            sim,
            cfg,
            cfg,
            scene_hashes,
            sim.robot.name,
        )
        self.num_envs, self.num_actions, self.device = sim.num_envs, sim.robot.num_joints, "cpu"
        self.control_dt_s = cfg.control_s
        self.clearance, self.starts, self._renderer = clearance, starts, renderer
        self.rotation, self._slots = rotation, slot_renderer(renderer)
        self.curriculum = curriculum
        self._read_ahead()
        self.reset(seed=seed)

    def reset(self, *, seed: int) -> TensorDict:
        """See `LearnEnv.reset`; curricula (levels, distances of goals, scenes) are kept."""
        before = getattr(self, "env", None)
        spent = (0.0, 0.0) if before is None else self.spent_s()
        self.env = Env(self.sim, self._cfg, seed=seed, renderer=self._renderer, starts=self.starts)
        self._spent_before_s = spent
        self.max_episode_length = self.env.max_episode_length
        if self.curriculum is not None:
            self.curriculum.attach(self.env)
        if before is not None:
            distance = before.goal_distance
            if distance is not None and self.env.goal_distance is not None:
                self.env.goal_distance.load_state_dict(distance.state_dict())
            if distance is not None or bool((before.level > 0).any()):
                self.env.set_levels(before.level)
        self._obs = self._pack(self.env.get_observations())
        self.layout = {k: list(v.shape[1:]) for k, v in self._obs.items()}
        return self._obs

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """Steps since each environment's episode began, `[E]`."""
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf[:] = value

    def get_observations(self) -> TensorDict:
        """The observations of the last step."""
        return self._obs

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """See `rsl_rl.env.VecEnv.step`."""
        self._rotate()
        facing = self._facing_path()
        self.env.keep_final_observations = self.keep_final_observations
        obs, rewards, dones, extras = self.env.step(actions)
        if self.clearance[0] > 0.0:
            rewards = (rewards - self._clearance_penalty()).clamp_min(0.0)
        rewards = rewards * facing
        if self.curriculum is not None and extras["log"]:
            extras["log"] |= self.curriculum.metrics()
        self._obs = self._pack(obs)
        self.show_tape(self._obs)
        return self._obs, rewards, dones.long(), extras

    def mirror_maps(self) -> MirrorMaps:
        """See `LearnEnv.mirror_maps`.

        Raises:
            InputError: a robot or observations without mirror image.
        """
        return Symmetry(self.sim.robot, self.cfg.observations, task=self.env.task, device=self.device)

    def spent_s(self) -> tuple[float, float]:
        """See `LearnEnv.spent_s`."""
        physics, render = self._spent_before_s
        return physics + self.env.physics_s, render + self.env.render_s

    def state_dict(self) -> dict[str, Any] | None:
        """See `LearnEnv.state_dict`; None also while robots wait to change scenes."""
        if "state_dict" not in self.sim.capabilities or self.env.changes_wait:
            return None
        return {"env": self.env.state_dict(), "observations": {k: v.clone() for k, v in self._obs.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `LearnEnv.load_state_dict`."""
        self.env.load_state_dict(state["env"])
        self._obs = self._pack(state["observations"])

    def _facing_path(self) -> torch.Tensor:
        """Factor `[E]` on the reward, 1 on course down to 1/4 facing away from the path.

        Robots that follow a path are commanded to turn first when they face away from it, with little or no forward speed. That
        makes turning away from a hard step and standing there a comfortable optimum; this takes its reward.
        """
        commands = self.env.commands
        follows = commands._heading & ~commands._standing
        on_course = commands.command[:, 0] / commands._sampled[:, 0].clamp_min(0.05)
        return torch.where(follows, 0.25 + 0.75 * on_course.clamp(0.0, 1.0), torch.ones(self.num_envs))

    def _clearance_penalty(self) -> torch.Tensor:
        """Penalty of swing feet that move fast but low: weight x sum over feet of shortfall x speed, `[E]`."""
        weight, target = self.clearance
        state = self.sim.state
        xy = state.foot_pos_w[..., :2]
        ground = self.sim.terrain.sample(xy, self.sim.scene_of_env)
        shortfall = (target - (state.foot_pos_w[..., 2] - self.sim.robot.foot_radius_m - ground)).clamp(
            0.0, target
        ) / target
        speed = state.foot_vel_w[..., :2].norm(dim=-1).clamp(max=2.0)
        return weight * self.control_dt_s * (shortfall * speed * ~state.foot_contact).sum(dim=1)

    def _pack(self, obs: dict[str, torch.Tensor]) -> TensorDict:
        return TensorDict(obs, batch_size=[self.num_envs])  # type: ignore[arg-type]

    @property
    def camera_hz(self) -> float:
        """Camera frames a second."""
        return 1.0 / (self.cfg.camera.period_steps(self.cfg.control_s) * self.cfg.control_s)

    def _rotate(self) -> None:
        """Have the scene whose turn it is come in with the step that begins."""
        due = None if self.rotation is None else self.rotation.advance()
        if self.rotation is None or due is None:
            return
        slot, number = due
        if self.curriculum is not None:
            self.curriculum.exchange(self.env, slot, self._in_slots[slot], number)
        self._in_slots[slot] = number
        self.env.replace_scene(slot, self.rotation.scene(number))
        if self._slots is not None:
            self._slots.show(slot, number)
        self._read_ahead()

    def _read_ahead(self) -> None:
        """Start reading the scenes whose turn is next, for physics and camera."""
        if self.rotation is not None:
            self._in_slots = self.rotation.active
            self.rotation.read_ahead()
            if self._slots is not None:
                self._slots.prefetch(self.rotation.coming)

    def curriculum_state(self) -> dict[str, Any]:
        """Level of each environment, distances of goals, where the rotation of scenes stands and how well each is known."""
        state: dict[str, Any] = {"level": self.env.level.clone()}
        if self.rotation is not None:
            state["rotation"] = self.rotation.state()
        if self.curriculum is not None:
            state["scenes"] = self.curriculum.state(self.env)
        if self.env.goal_distance is not None:
            state["goal_distance"] = self.env.goal_distance.state_dict()
        return state

    def load_curriculum_state(self, state: dict[str, Any]) -> None:
        """Put all environments on their levels and bring in their scenes (takes effect from the next reset on).

        Raises:
            InputError: the rotation or the curriculum is of other scenes.
        """
        moved = False
        if self.curriculum is not None and "scenes" in state:
            moved = self.curriculum.load_state(self.env, state["scenes"])
        if self.rotation is not None and "rotation" in state:
            before = self.rotation.active
            self.rotation.load_state(state["rotation"])
            changed = [(slot, n) for slot, n in enumerate(self.rotation.active) if n != before[slot]]
            for slot, number in changed:
                fill_slot(self.sim, slot, self.rotation.scene(number))
                if self._slots is not None:
                    self._slots.show(slot, number)
            self._read_ahead()
            moved = moved or bool(changed)
        if moved:
            self.env = Env(self.sim, self._cfg, renderer=self._renderer)
            if self.curriculum is not None:
                self.curriculum.attach(self.env)
        if self.env.goal_distance is not None and "goal_distance" in state:
            self.env.goal_distance.load_state_dict(state["goal_distance"])
        level = state.get("level")
        if level is not None and len(level) == self.num_envs:
            self.env.level[:] = level


def make_env(
    task: str,
    scenes: Sequence[Scene | Path | str] | Scene | Path | str,
    num_envs: int,
    *,
    robot: str = "go1",
    sim: str = "mujoco",
    renderer: str | None = "auto",
    device: str = "cpu",
    seed: int = 0,
    cfg: EnvCfg | None = None,
    clearance: tuple[float, float] = (0.0, 0.08),
    num_threads: int | None = None,
    starts: Starts | None = None,
    camera_model: str | RobotCameraCfg = "ideal",
    show_robot: bool = False,
    show_others: int = 0,
    lod: Sequence[Path | str] | None = None,
    memory: ScenesCfg | None = None,
    update_steps: int = 1,
    warm_up: tuple[Scene, int] | None = None,
) -> GaussgymVecEnv:
    """An environment that rsl_rl can train in.

    Args:
        task: registered name, such as `velocity` or `goal`.
        scenes: `Scene`s or scene folders; environments are split over them evenly.
        num_envs: environments.
        robot: registry name.
        sim: physics backend.
        renderer: backend of the splat renderer for the robot's camera; None for a blind environment.
        device: of all tensors.
        seed: of everything random.
        cfg: the learning problem, `task` replaces its task; None: settings that suit the task.
        clearance: see `GaussgymVecEnv`.
        num_threads: of physics and rendering.
        starts: fixed episodes to run instead of drawn ones.
        camera_model: lens, shutter and sensor of the camera, see `gaussgym_render.robot_camera.CAMERA_MODELS`; a file that
            `gaussgym-deploy calibrate` wrote gives optics and mount instead, see `gaussgym_learn.calibrated`. Or a kind of
            camera itself.
        show_robot: draw the robot's own body into its images, from its collision and visual shapes.
        show_others: draw up to so many other robots of the same scene, the nearest. They are pictures: robots of different
            environments pass through each other (and are not drawn where they overlap), and images then depend on the batch.
        lod: for each scene the folder that `gaussgym-render optimize` made from it, to render in its place; None: the scenes.
        memory: which scenes are held at a time; None: all of them.
        update_steps: steps of an update, in which `ScenesCfg.rotate_every` counts.
        warm_up: ground on which all environments begin, and their steps until the scenes come in (`gaussgym_learn.warm_up`).

    Returns:
        A VecEnv whose observations are a TensorDict of the groups proprio, base_vel, scan, and with a renderer rgb.

    Raises:
        InputError: an unknown name; settings of the camera without a renderer; levels of detail that do not fit the scenes;
            a scene that does not do, more scenes at once than there are, or too little memory for them.
    """
    memory = memory or ScenesCfg()
    if renderer is None and memory.memory_gb is not None:
        raise InputError(
            f"found scene memory of {memory.memory_gb} GB for a policy without a camera; expected none: leave it out"
        )
    seen = Seen(renderer, camera_model, show_robot, show_others, lod)
    cfg = seen.fitted(EnvCfg.for_task(task) if cfg is None else dataclasses.replace(cfg, task=task))
    if warm_up is not None and (renderer is not None or memory.at_once is not None or memory.draws):
        raise InputError(
            "a warm-up is for a policy without a camera, with all scenes at once and alike; leave one of them out"
        )
    if starts is not None and (memory.draws or memory.at_once is not None):
        raise InputError(
            "fixed starts name their scenes: give all at once, without weights and curricula of scenes"
        )
    shown = _scenes_shown(scenes, memory, cfg, memory.rotate_every * update_steps, seed)
    rotation, opened = shown.rotation, shown.opened
    if warm_up is not None:
        rotation = WarmUp(warm_up[0], opened, steps=warm_up[1])
        opened = rotation.first()
    physics = make_sim(sim, robot, opened, num_envs, device=device, seed=seed, num_threads=num_threads)
    camera = seen.renderer(
        shown.sources,
        cfg,
        physics.robot,
        num_threads=num_threads,
        memory=memory,
        shown=None if rotation is None else rotation.active,
        device=device,
    )
    return GaussgymVecEnv(
        physics,
        cfg,
        scene_hashes=shown.hashes,
        seed=seed,
        clearance=clearance,
        renderer=camera,
        starts=starts,
        rotation=rotation,
        curriculum=shown.curriculum,
    )


@dataclasses.dataclass(frozen=True)
class _Shown:
    """Which scenes there are, and which are there at first."""

    sources: Sequence[Scene | Path | str]
    opened: list[Scene]
    hashes: dict[str, str]
    rotation: SceneRotation | None
    curriculum: SceneCurriculum | None


def _scenes_shown(
    scenes: Sequence[Scene | Path | str] | Scene | Path | str,
    memory: ScenesCfg,
    cfg: EnvCfg,
    every_steps: int,
    seed: int,
) -> _Shown:
    """Open the scenes, all or as many as are held at once; `every_steps` is the time between two exchanges.

    Raises:
        InputError: as `make_env`.
    """
    sources = listed(scenes)
    frontier = frontier_of(sources, memory) if memory.draws else None
    rotation: SceneRotation | None = None
    if memory.at_once is None:
        opened = open_scenes(sources)
        sources = opened
        hashes = {scene.name: scene_hash(scene) for scene in opened}
    else:
        turns = {"every_steps": every_steps, "seed": seed}
        if frontier is None:
            rotation = SceneRotation(sources, memory.at_once, **turns)
        else:
            rotation = DrawnRotation(sources, memory.at_once, **turns, frontier=frontier)
        hashes = hash_scenes(sources)
        opened = [rotation.scene(number) for number in rotation.active]
    curriculum = None
    if frontier is not None or (rotation is not None and cfg.goal_distance is not None):
        curriculum = SceneCurriculum(frontier or Frontier(len(sources)), list(hashes), rotation)
    return _Shown(sources, opened, hashes, rotation, curriculum)
