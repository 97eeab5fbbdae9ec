"""The task: get ahead as fast as you can; ten metres are enough."""

from dataclasses import dataclass

from gaussgym_sim.env import Env
from gaussgym_sim.task import RewardTerm, Task
from torch import Tensor


@dataclass(frozen=True)
class DashCfg:
    """Settings: EnvCfg(task="dash", task_cfg=DashCfg(finish_m=5))."""

    finish_m: float = 10.0
    """Distance from the start that ends an episode as a success [m]."""


def distance(env: Env) -> Tensor:
    """[E] from where the episode began [m]."""
    return (env.sim.state.root_pos_w[:, :2] - env.episodes.start_xy).norm(dim=1)


def haste(env: Env) -> Tensor:
    """[E] speed ahead [m/s], a reward."""
    return env.lin_vel_b[:, 0].clamp(min=0.0)


TASK = Task(
    "dash", cfg=DashCfg(), rewards={"haste": RewardTerm(2.0, haste)}, observations={"distance": lambda env: distance(env)[:, None]},
    success=lambda env: distance(env) > env.task_cfg.finish_m,
)  # fmt: skip
