"""What a task is, and the registry of tasks.

A task is a `Task`: plain functions over an `Env`, each of which returns a tensor with one row an env. To add one from a package
of your own, without a fork, write

    from gaussgym_sim.task import RewardTerm, Task

    def reached(env):  # ends the episode, as a success
        return env.sim.state.root_pos_w[:, 0] > env.task_cfg.finish_m

    TASK = Task("dash", cfg=DashCfg(), success=reached, rewards={"speed": RewardTerm(0.5, lambda env: env.lin_vel_b[:, 0])})

and name it in the package's ``pyproject.toml``::

    [project.entry-points."gaussgym.tasks"]
    dash = "my_package:TASK"

Then ``EnvCfg(task="dash")`` is that task. Within a process, `register_task` does the same. What functions may read is listed at
`gaussgym_sim.env.Env`; a task that remembers something gives a `TaskState`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.mdp.commands import CommandSource, VelocityCommands

if TYPE_CHECKING:
    from gaussgym_sim.env import Env
    from gaussgym_sim.mdp.symmetry import Symmetry

_BUILT_IN = (
    "velocity", "goal", "goal_semantic", "navigate", "gaps", "stepping_stones", "corridor", "goal_semantic_steered",
)  # fmt: skip

Term = Callable[["Env"], Tensor]
"""A function of the environment with one row an env."""


@dataclass(frozen=True)
class RewardTerm:
    """A task's own reward: ``weight`` [1/s] times ``term`` [E]; `EnvCfg.task_rewards` replaces weights by name."""

    weight: float
    term: Term


class TaskState(Protocol):
    """What a task remembers of each env, as `Env.task_state`."""

    def start(self, env_ids: Tensor) -> None:
        """New episodes in envs ``env_ids`` [R]; robots stand at their starts."""
        ...

    def update(self) -> None:
        """Once a control step, after physics and before rewards."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What the coming steps depend on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        ...


def path_commands(env: Env) -> CommandSource:
    """Commands along the scenes' paths: to a goal for a task that pursues one, else sampled velocities."""
    mode = "goal" if env.task.pursues_goal else "velocity"
    return VelocityCommands(env.cfg.commands, env.follower, env.rough(), env.uniform, task=mode)


@dataclass(frozen=True)
class Task:
    """A learning problem, beside robot, scenes and `EnvCfg`.

    Attributes:
        name: as registered.
        cfg: defaults of the task's own settings, a frozen dataclass; `EnvCfg.task_cfg` replaces it, `Env.task_cfg` has it.
        defaults: fields of `EnvCfg` that suit the task, for `EnvCfg.for_task`.
        pursues_goal: episodes have a goal on the path, `CommandCfg.goal_distance_m` ahead; else commands change every
            ``resample_s``.
        commands: makes the source of the velocity commands.
        commanded: whether a policy above the one that walks gives these, by `gaussgym_sim.views.command_env.CommandEnv`.
        state: makes the `TaskState`, None for a task that remembers nothing.
        success: [E] bool, ends the episode as reached (cut short rather than failed).
        failed: [E] bool, ends the episode as a fall does.
        cut: [E] bool, ends it as a time-out does.
        rewards: the task's own terms, beside those of `RewardCfg`.
        observations: further observation groups by name, [E, ...] each.
        mirrors: how each of these groups looks to the mirrored robot, by the group's name.
        metrics: values [E] of episodes that end in this step, given (env, success [E] bool); logged as ``episode/<name>``.
        camera_inputs: what a camera's renderer with ``takes_patches`` is given
            (`gaussgym_sim.sensors.camera.CameraRenderer`), rows [E].
        check_scenes: raises an `InputError` that says what the scenes lack.
        start_copies: an evaluation's list has each start so many times in a row, for a task that varies something else with the
            start's number.
    """

    name: str
    cfg: Any = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    pursues_goal: bool = False
    commands: Callable[[Env], CommandSource] = path_commands
    commanded: bool = False
    state: Callable[[Env], TaskState] | None = None
    success: Term | None = None
    failed: Term | None = None
    cut: Term | None = None
    rewards: Mapping[str, RewardTerm] = field(default_factory=dict)
    observations: Mapping[str, Term] = field(default_factory=dict)
    mirrors: Mapping[str, Callable[[Symmetry, Tensor], Tensor]] = field(default_factory=dict)
    metrics: Mapping[str, Callable[[Env, Tensor], Tensor]] = field(default_factory=dict)
    camera_inputs: Callable[[Env], dict[str, Tensor]] | None = None
    check_scenes: Callable[[Sequence[Scene]], None] | None = None
    start_copies: int = 1

    def weights(self, replaced: Mapping[str, float]) -> dict[str, float]:
        """Weights [1/s] of the own reward terms that have one, with some replaced by name.

        Raises:
            InputError: a name that the task does not have.
        """
        for name in replaced:
            if name not in self.rewards:
                have = ", ".join(self.rewards) or "none of its own"
                raise InputError(f"task {self.name!r} has no reward term {name!r}; it has: {have}")
        weights = {name: term.weight for name, term in self.rewards.items()} | dict(replaced)
        return {name: weight for name, weight in weights.items() if weight != 0.0}


TASKS: Registry[Task] = Registry(
    "task", "gaussgym.tasks", {name: f"gaussgym_sim.tasks.{name}:TASK" for name in _BUILT_IN}
)
"""Tasks by name. Another package adds one by an entry point of group ``gaussgym.tasks`` to a `Task`."""


def register_task(task: Task) -> None:
    """Register a task for this process; packages may instead declare an entry point of group ``gaussgym.tasks``."""
    TASKS.own[task.name] = task


def task_names() -> list[str]:
    """Names of all tasks, those of this package first."""
    return TASKS.names()


def get_task(name: str) -> Task:
    """The task registered as ``name``.

    Raises:
        InputError: no such task; the message lists those that exist.
    """
    return TASKS.get(name)
