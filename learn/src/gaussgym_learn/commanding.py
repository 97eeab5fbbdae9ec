"""Policies above the one that walks: an environment whose actions are velocities, which a shipped, frozen policy carries out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.mdp.starts import Starts
from gaussgym_sim.mdp.symmetry import Symmetry
from gaussgym_sim.sensors.camera import CameraRenderer
from gaussgym_sim.task import get_task
from gaussgym_sim.vecsim import VecSim, make_sim
from gaussgym_sim.views.command_env import CommandEnv, CommandEnvCfg
from tensordict import TensorDict

from gaussgym_learn.camera_renderer import Seen
from gaussgym_learn.env import LearnEnv, make_env
from gaussgym_learn.recipes import CommandingCfg
from gaussgym_learn.rotation import ScenesCfg
from gaussgym_learn.scene_list import open_scenes, scene_hash
from gaussgym_learn.symmetry import MirrorMaps

if TYPE_CHECKING:
    from gaussgym_render.robot_camera import RobotCameraCfg

SHIPPED = Path(__file__).parent / "policies"


def takes_commands(task: str) -> bool:
    """Whether a task's commands come from a policy."""
    return get_task(task).commanded


class PolicyWalker:
    """A policy that walks, as `gaussgym_sim.views.command_env.Walker`.

    Args:
        name: of a shipped policy, or a run folder.

    Attributes:
        policy: it, as `gaussgym_learn.acting.ActingPolicy`.
    """

    def __init__(self, name: str) -> None:
        from gaussgym_learn.acting import load_policy

        shipped = SHIPPED / name
        self.policy = load_policy(shipped if shipped.is_dir() else name)
        if self.policy.sees:
            raise InputError(f"walker {name!r} sees; expected one that walks blind, such as 'stairs_teacher'")

    def __call__(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Joint actions [E, J] of one control step."""
        return self.policy.act(TensorDict(obs, batch_size=[len(obs["proprio"])]))  # type: ignore[arg-type]

    def reset(self, dones: torch.Tensor) -> None:
        """Forget the past of envs that are done [E] bool."""
        self.policy.reset(dones)


class CommandMirror:
    """What observations and commands are to the mirrored robot; see `gaussgym_learn.symmetry.MirrorMaps`.

    Args:
        symmetry: of the robot and the task's observations.
    """

    def __init__(self, symmetry: Symmetry) -> None:
        self._symmetry = symmetry

    def observations(self, groups: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """1-D groups `[..., D]` by name, mirrored."""
        return self._symmetry.observations(groups)

    def actions(self, action: torch.Tensor) -> torch.Tensor:
        """Commands v_x, v_y, yaw rate `[..., 3]`, mirrored."""
        return action * action.new_tensor((1.0, -1.0, -1.0))


class CommandVecEnv(LearnEnv):
    """`gaussgym_sim.views.command_env.CommandEnv` behind rsl_rl's interface; a step is a decision.

    To reach what the task wants ends its reward for good: ``time_outs``, after which a learner counts on rewards to come, are
    only episodes that ran out of time or ground.

    Args:
        sim: physics, kept over resets.
        cfg: the learning problem.
        commanding: the walker, and what actions mean.
        scene_hashes: see `LearnEnv`.
        seed: of the first reset.
        renderer: of the sim's scenes, for the robot's camera; None for none.
        starts: episodes to run instead of drawn ones.

    Attributes:
        walker, command_cfg: who carries commands out, and what actions mean.
        commander: the environment within, which counts in decisions.
        env: the one within that, which counts in control steps.
        sim: its physics.
    """

    def __init__(
        self,
        sim: VecSim,
        cfg: EnvCfg,
        commanding: CommandingCfg,
        *,
        scene_hashes: dict[str, str],
        seed: int = 0,
        renderer: CameraRenderer | None = None,
        starts: Starts | None = None,
    ) -> None:
        self.sim, self.scene_hashes, self.robot = sim, scene_hashes, sim.robot.name
        self.cfg = self._cfg = cfg  # rsl_rl's type says less
        self.walker = PolicyWalker(commanding.walker)
        self.command_cfg = CommandEnvCfg(commanding.decision_s, commanding.low, commanding.high)
        self.control_dt_s, self._renderer, self._starts = commanding.decision_s, renderer, starts
        self.num_envs, self.device = sim.num_envs, "cpu"
        self.reset(seed=seed)
        self.num_actions, self.max_episode_length = (
            self.commander.num_actions,
            self.commander.max_episode_length,
        )
        self.layout = {name: list(v.shape[1:]) for name, v in self._obs.items()}
        self.walker.policy.check(self)

    @property
    def camera_hz(self) -> float:
        """Camera frames a second, at most one a decision."""
        return min(1.0 / self.control_dt_s, self._cfg.camera.rate_hz)

    @property
    def episode_length_buf(self) -> torch.Tensor:  # type: ignore[override]
        """Decisions since each environment's episode began, `[E]`."""
        return self.commander.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf[:] = value * self.commander.decision_steps

    def reset(self, *, seed: int) -> TensorDict:
        """See `LearnEnv.reset`."""
        spent = self.spent_s() if hasattr(self, "env") else (0.0, 0.0)
        # A new one, as what it holds may be made anew by steps in torch's inference mode, and not be written to outside of it.
        self.env = Env(self.sim, self._cfg, seed=seed, renderer=self._renderer, starts=self._starts)
        self._spent_before_s = spent
        self.commander = CommandEnv(self.env, self.walker, self.command_cfg)
        self.walker.policy.reset()
        self._obs = self._pack(self.commander.get_observations())
        return self._obs

    def get_observations(self) -> TensorDict:
        """The observations of the last decision."""
        return self._obs

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        """See `rsl_rl.env.VecEnv.step`; actions `[E, 3]`, see `CommandEnv.step`."""
        obs, rewards, dones, extras = self.commander.step(actions)
        extras["time_outs"] = extras["time_outs"] * ~extras["success"]
        self._obs = self._pack(obs)
        self.show_tape(self._obs)
        return self._obs, rewards, dones.long(), extras

    def mirror_maps(self) -> MirrorMaps:
        """See `LearnEnv.mirror_maps`.

        Raises:
            InputError: a robot or observations without mirror image, or commands that reach further to one side.
        """
        low, high = self.command_cfg.low, self.command_cfg.high
        if low[1] != -high[1] or low[2] != -high[2]:
            raise InputError(
                f"commands from {low} to {high} have no mirror image; expected the same range to either side"
            )
        symmetry = Symmetry(self.sim.robot, self._cfg.observations, task=self.env.task, device=self.device)
        return CommandMirror(symmetry)

    def spent_s(self) -> tuple[float, float]:
        """See `LearnEnv.spent_s`; the walker's time is not in it."""
        physics, render = self._spent_before_s
        return physics + self.env.physics_s, render + self.env.render_s

    def state_dict(self) -> dict[str, Any] | None:
        """See `LearnEnv.state_dict`."""
        return self.commander.state_dict() if "state_dict" in self.sim.capabilities else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `LearnEnv.load_state_dict`."""
        self.commander.load_state_dict(state)
        self._obs = self._pack(self.commander.get_observations())

    def _pack(self, obs: dict[str, torch.Tensor]) -> TensorDict:
        return TensorDict(obs, batch_size=[self.num_envs])  # type: ignore[arg-type]


def make_commanding_env(
    task: str,
    scenes: Sequence[Scene | Path | str] | Scene | Path | str,
    num_envs: int,
    commanding: CommandingCfg,
    *,
    robot: str = "go1",
    sim: str = "mujoco",
    renderer: str | None = "auto",
    seed: int = 0,
    cfg: EnvCfg | None = None,
    num_threads: int | None = None,
    starts: Starts | None = None,
    camera_model: str | RobotCameraCfg = "ideal",
    show_robot: bool = False,
    show_others: int = 0,
    lod: Sequence[Path | str] | None = None,
) -> CommandVecEnv:
    """An environment whose actions are commands, that rsl_rl can train in; arguments as of `gaussgym_learn.env.make_env`.

    Args:
        task: one whose commands are given, such as `corridor` or `navigate`.
        scenes: see there.
        num_envs: see there.
        commanding: the walker, and what actions mean.
        robot: see there.
        sim: see there.
        renderer: see there.
        seed: see there.
        cfg: see there.
        num_threads: see there.
        starts: see there.
        camera_model: see there.
        show_robot: see there.
        show_others: see there.
        lod: see there.

    Raises:
        InputError: as `make_env`; a task that makes its own commands; a walker that does not fit.
    """
    seen = Seen(renderer, camera_model, show_robot, show_others, lod)
    cfg = seen.fitted(EnvCfg.for_task(task) if cfg is None else dataclasses.replace(cfg, task=task))
    opened = open_scenes(scenes)
    physics = make_sim(sim, robot, opened, num_envs, device="cpu", seed=seed, num_threads=num_threads)
    camera = seen.renderer(opened, cfg, physics.robot, num_threads=num_threads)
    hashes = {scene.name: scene_hash(scene) for scene in opened}
    return CommandVecEnv(
        physics, cfg, commanding, scene_hashes=hashes, seed=seed, renderer=camera, starts=starts
    )


def make_policy_env(
    commanding: CommandingCfg | None,
    task: str,
    scenes: Sequence[Scene | Path | str] | Scene | Path | str,
    num_envs: int,
    *,
    memory: ScenesCfg | None = None,
    **options: Any,
) -> LearnEnv:
    """The environment of a policy: of one that walks, or of one that commands a walker.

    Args:
        commanding: of a policy that commands; None of one whose actions are those of joints.
        task: see `gaussgym_learn.env.make_env`.
        scenes: see there.
        num_envs: see there.
        memory: see there; a policy that commands holds all scenes.
        **options: further arguments of `make_env`; what concerns walking and the exchange of scenes alone is left out for a
            policy that commands.

    Raises:
        InputError: as these two; a task that does not suit the policy.
    """
    if commanding is None:
        if takes_commands(task):
            raise InputError(
                f"task {task!r} wants commands from a policy above the one that walks, such as recipe corridor_pixels makes; "
                "expected another task"
            )
        return make_env(task, scenes, num_envs, memory=memory, **options)
    if not takes_commands(task):
        raise InputError(
            f"found task {task!r}, which makes its own commands, for a policy that gives commands; expected one such as corridor"
        )
    if memory not in (None, ScenesCfg()):
        raise InputError(
            "a policy that gives commands holds all scenes, all alike; leave scenes-at-once, scene-memory-gb, "
            "scene-curriculum and weights out"
        )
    kept = {name: value for name, value in options.items() if name not in _OF_WALKING}
    return make_commanding_env(task, scenes, num_envs, commanding, **kept)


_OF_WALKING = ("clearance", "warm_up", "update_steps")
