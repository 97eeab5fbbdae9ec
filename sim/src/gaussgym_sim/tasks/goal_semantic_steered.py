"""``goal_semantic_steered``: ``goal_semantic`` for a policy above the one that walks; drive with `CommandEnv`.

The path's command goes on leading to the goal, through patches where they lie; the policy's is added to it. So whoever does not
know of patches reaches the goal, and all that there is to learn is to walk around them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gaussgym_sim.mdp.commands import CommandSource, SteeredCommands
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.sensors.camera import CameraCfg
from gaussgym_sim.task import RewardTerm, path_commands
from gaussgym_sim.tasks import goal_semantic

if TYPE_CHECKING:
    from gaussgym_sim.env import Env

COST_MAP_X_M = (-0.4, 2.0, 13)
"""First, last and number of the cost map's places ahead of the base [m]."""
COST_MAP_Y_M = (-1.0, 1.0, 11)
"""The same to its left [m]."""


def steered_commands(env: Env) -> CommandSource:
    """The path's commands, which the policy adds to."""
    return SteeredCommands(path_commands(env))


def cost_map(env: Env) -> Tensor:
    """[E, 143] 1 where a place of the map ahead of the base (x major, turned with it) lies in a patch: for teachers."""
    x, y = (
        torch.linspace(low, high, count, device=env.device)
        for low, high, count in (COST_MAP_X_M, COST_MAP_Y_M)
    )
    x, y = (v.flatten() for v in torch.meshgrid(x, y, indexing="ij"))
    cos, sin = torch.cos(env.yaw)[:, None], torch.sin(env.yaw)[:, None]
    turned = torch.stack((cos * x - sin * y, sin * x + cos * y), dim=2)
    return env.task_state.patches.hit(turned + env.sim.state.root_pos_w[:, None, :2]).float()


def path_command(env: Env) -> Tensor:
    """[E, 3] the path's own command: v_x, v_y [m/s], yaw rate [rad/s]."""
    return env.commands.path.command.clone()  # type: ignore[attr-defined]


def steering(env: Env) -> Tensor:
    """[E] sum of squares of what was added to the path's command, [m/s] and [rad/s]."""
    return env.commands.given.square().sum(dim=1)  # type: ignore[attr-defined]


TASK = replace(
    goal_semantic.TASK,
    name="goal_semantic_steered",
    defaults={
        "rewards": RewardCfg.none(),
        "camera": CameraCfg(rate_hz=5.0),
        "episode_s": 30.0,
    },
    commands=steered_commands,
    commanded=True,
    rewards={
        **goal_semantic.TASK.rewards,
        # Nobody goes around what is not there: a detour without need would avoid patches unseen.
        "steering": RewardTerm(-0.5, steering),
    },
    observations={"path_command": path_command, "cost_map": cost_map},
    mirrors={
        "path_command": lambda _, values: values * values.new_tensor([1.0, -1.0, -1.0]),
        "cost_map": lambda _, values: values.unflatten(-1, (-1, COST_MAP_Y_M[2])).flip(-1).flatten(-2),
    },
)
