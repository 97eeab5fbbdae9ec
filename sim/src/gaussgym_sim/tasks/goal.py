"""``goal``: follow the scene's path to a goal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from gaussgym_sim.task import Task

if TYPE_CHECKING:
    from gaussgym_sim.env import Env


def reached_goal(env: Env) -> Tensor:
    """[E] bool, bases within the goal's radius."""
    gap = env.follower.goal_xy() - env.sim.state.root_pos_w[:, :2]
    return gap.norm(dim=1) < env.cfg.commands.goal_radius_m


TASK = Task("goal", pursues_goal=True, success=reached_goal)
