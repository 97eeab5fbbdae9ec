"""``velocity``: walk as commanded, along the scene's paths where the ground is rough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from gaussgym_sim.task import Task

if TYPE_CHECKING:
    from gaussgym_sim.env import Env


def end_of_line(env: Env) -> Tensor:
    """[E] bool, robots at the end of their path on rough ground, where it leads nowhere."""
    return env.follower.at_end(env.rough())


TASK = Task("velocity", cut=end_of_line)
