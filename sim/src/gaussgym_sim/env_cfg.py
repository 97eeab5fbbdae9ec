"""Settings of an environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gaussgym_sim.mdp.commands import CommandCfg
from gaussgym_sim.mdp.curriculum import GoalDistanceCfg
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.mdp.terminations import TerminationCfg
from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.sensors.camera import CameraCfg
from gaussgym_sim.sensors.observations import ObservationCfg
from gaussgym_sim.task import get_task
from gaussgym_sim.vecsim import SUBSTEP_S


@dataclass(frozen=True)
class EnvCfg:
    """Everything that defines the learning problem beside robot and scenes."""

    task: str = "velocity"
    """Registered name, see `gaussgym_sim.task`."""
    task_cfg: Any = None
    """The task's own settings in place of `Task.cfg`."""
    task_rewards: Mapping[str, float] = field(default_factory=dict)
    """Weights [1/s] in place of those of the task's own reward terms."""
    episode_s: float = 20.0
    rough_episode_s: tuple[float, float] | None = None
    """On rough ground, the range in which the length of each episode is drawn; None: ``episode_s`` there, too. Short ones make
    starts, from rest and with feet over steps, a larger share of what is met."""
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
    gait_hz: tuple[float, float] | None = None
    """Frequency of a clock for the gait, drawn for each episode; adds the observation group ``gait`` [E, 2]: sine, cosine."""
    goal_distance: GoalDistanceCfg | None = None
    """Curriculum over the distance of the goal, in place of `CommandCfg.goal_distance_m`."""
    level_up_m: float = 3.0
    """Distance from the start at which an env has mastered its level."""
    level_down_fraction: float = 0.4
    """Share of the commanded distance below which an env falls back a level."""

    @classmethod
    def for_task(cls, task: str, **changes: Any) -> EnvCfg:
        """Settings that suit a task, with some changed.

        Raises:
            InputError: no such task.
        """
        return cls(**{"task": task, **get_task(task).defaults, **changes})

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
            goal_distance=None,
            rough_episode_s=None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, for logs and checkpoints."""
        return asdict(self)
