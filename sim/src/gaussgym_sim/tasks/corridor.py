"""``corridor``: two lanes side by side, and only their colour says which of them is safe; drive with `CommandEnv`.

The robot starts in the middle in front of both. To come into the dangerous lane ends the episode as a failure, to have passed it
by the other one is success, and not to get past in time is neither. Which lane is which is drawn for each episode; nothing but
images tells (and ``safe_side``, for teachers and critics), so whoever does not see gets past in half of the episodes at best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.mdp.patches import Patches
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.sensors.camera import CameraCfg
from gaussgym_sim.task import RewardTerm, Task
from gaussgym_sim.tasks.navigate import given_commands

if TYPE_CHECKING:
    from gaussgym_sim.env import Env
    from gaussgym_sim.mdp.symmetry import Symmetry

_DANGEROUS, _SAFE = 0, 1  # numbers of the patches
_STRAIGHT = 1e-3


@dataclass(frozen=True)
class CorridorCfg:
    """Where the lanes lie, and how they look.

    Attributes:
        gate_m: from the start to the lanes' middle, along the path.
        lane_m: width and length of each lane; the path is the border between them.
        dangerous_rgb: mean colour of the dangerous lane, 0..1.
        safe_rgb: of the safe one, about as bright.
        light: range of a factor on each lane's colour, drawn for each lane of each episode.
        tint: half range of what is added to each of its channels.
    """

    gate_m: float = 1.5
    lane_m: float = 1.2
    dangerous_rgb: tuple[float, float, float] = (0.72, 0.24, 0.12)
    safe_rgb: tuple[float, float, float] = (0.14, 0.34, 0.70)
    light: tuple[float, float] = (0.6, 1.25)
    tint: float = 0.06


class CorridorState:
    """Lanes of the running episodes. Of the two patches the first is the dangerous lane.

    Attributes:
        patches: the lanes.
        safe_side: [E] 1 where the safe lane is the left one, -1 where it is the right one.
        along_m: [E] way of the base along the path since the start.
        across_m: [E] of the base to the left of the path.
        ahead: [E, 2] unit vector along the path.
    """

    def __init__(self, env: Env) -> None:
        """None is there yet."""
        self._env, self.cfg = env, env.task_cfg
        count, device = env.num_envs, env.device
        self.patches = Patches(count, 2, device)
        self.safe_side, self.along_m, self.across_m = torch.zeros(3, count, device=device)
        self.ahead, self._origin = torch.zeros(2, count, 2, device=device)
        mean = torch.tensor([self.cfg.dangerous_rgb, self.cfg.safe_rgb], device=device)
        self._mean_rgb = mean

    def start(self, env_ids: Tensor) -> None:
        """See `TaskState.start`."""
        env, c = self._env, self.cfg
        net, follower = env.network, env.follower
        index, direction = follower.index[env_ids], follower.direction[env_ids]
        yaw = net.travel_yaw(index, direction)
        ahead = torch.stack((torch.cos(yaw), torch.sin(yaw)), dim=1).round()
        left = torch.stack((-ahead[:, 1], ahead[:, 0]), dim=1)
        side = self._draw_side(env_ids)
        self.ahead[env_ids], self._origin[env_ids], self.safe_side[env_ids] = (
            ahead,
            net.points[index, :2],
            side,
        )
        gate = net.points[index, :2] + c.gate_m * ahead
        safe = (0.5 * c.lane_m * side)[:, None] * left
        self.patches.xy_m[env_ids] = torch.stack((gate - safe, gate + safe), dim=1)
        self.patches.half_m[env_ids] = 0.5 * c.lane_m
        light = env.draw(env_ids, *c.light, 2, 1, what=1)
        tint = env.draw(env_ids, -c.tint, c.tint, 2, 3, what=2)
        self.patches.rgb[env_ids] = (light * (self._mean_rgb + tint)).clamp(0.0, 1.0)
        self._measure()

    def _draw_side(self, env_ids: Tensor) -> Tensor:
        """[R] 1 or -1. Of given starts every other one, so that of each two both cases are run (see `Task.start_copies`)."""
        env = self._env
        if env.fixed_starts is not None:
            return 1.0 - 2.0 * (env.start_id[env_ids] % 2)
        return torch.where(env.draw(env_ids, 0.0, 1.0, what=0) < 0.5, 1.0, -1.0)

    def _measure(self) -> None:
        moved = self._env.sim.state.root_pos_w[:, :2] - self._origin
        self.along_m = (moved * self.ahead).sum(dim=1)
        self.across_m = self.ahead[:, 0] * moved[:, 1] - self.ahead[:, 1] * moved[:, 0]

    def update(self) -> None:
        """See `TaskState.update`."""
        self._measure()

    def state_dict(self) -> dict[str, Any]:
        """See `TaskState.state_dict`."""
        own = {name: getattr(self, name).clone() for name in _KEPT}
        return {"patches": self.patches.state_dict(), "own": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `TaskState.load_state_dict`."""
        self.patches.load_state_dict(state["patches"])
        for name, value in state["own"].items():
            getattr(self, name).copy_(value)


_KEPT = ("safe_side", "along_m", "across_m", "ahead", "_origin")


def in_danger(env: Env) -> Tensor:
    """[E] bool, bases between the dangerous lane's ends, on its side of the path."""
    state, c = env.task_state, env.task_cfg
    beside = (state.along_m - c.gate_m).abs() <= 0.5 * c.lane_m
    return beside & (state.across_m * state.safe_side <= 0.0)


def passed(env: Env) -> Tensor:
    """[E] bool, bases beyond both lanes."""
    return env.task_state.along_m > env.task_cfg.gate_m + 0.5 * env.task_cfg.lane_m


def progress_m_s(env: Env) -> Tensor:
    """[E] speed along the path [m/s]."""
    return (env.sim.state.root_lin_vel_w[:, :2] * env.task_state.ahead).sum(dim=1)


def way(env: Env) -> Tensor:
    """[E, 4] how far the lanes' middle is ahead [m], how far left of the path the base is [m], cosine and sine of the base's
    heading against the path: all that there is to know but the lanes' colours.
    """
    state = env.task_state
    cos, sin = torch.cos(env.yaw), torch.sin(env.yaw)
    x, y = state.ahead.unbind(1)
    heading = (x * cos + y * sin, x * sin - y * cos)
    return torch.stack((env.task_cfg.gate_m - state.along_m, state.across_m, *heading), dim=1)


def safe_side(env: Env) -> Tensor:
    """[E, 1] 1 where the safe lane is the left one, -1 where it is the right one: for teachers and critics."""
    return env.task_state.safe_side[:, None].clone()


def _mirror_way(symmetry: Symmetry, values: Tensor) -> Tensor:
    return values * torch.tensor([1.0, -1.0, 1.0, -1.0], device=values.device)


def _check_scenes(scenes: Sequence[Scene]) -> None:
    """Raise an `InputError` unless all paths are straight and along the world's axes, as the sides of lanes are."""
    for scene in scenes:
        for number in np.unique(scene.paths.path_id):
            line = scene.paths.line(number)[:, :2]
            if min((line - line[0]).std(axis=0)) > _STRAIGHT:
                raise InputError(
                    f"scene {scene.name!r}: path {number} is not straight along x or y; expected one of kind hall"
                )


TASK = Task(
    "corridor",
    cfg=CorridorCfg(),
    defaults={
        "rewards": RewardCfg.none(),
        "camera": CameraCfg(width=84, height=48, rate_hz=5.0),
        "episode_s": 8.0,
        "random_initial_age": False,
    },
    pursues_goal=True,
    commands=given_commands,
    commanded=True,
    state=CorridorState,
    success=passed,
    failed=in_danger,
    rewards={
        "progress": RewardTerm(1.0, progress_m_s),
        "passed": RewardTerm(5.0, lambda env: passed(env).float() / env.cfg.control_s),
        "danger": RewardTerm(-4.0, lambda env: in_danger(env).float() / env.cfg.control_s),
    },
    observations={"way": way, "safe_side": safe_side},
    mirrors={"way": _mirror_way, "safe_side": lambda _, values: -values},
    metrics={"danger": lambda env, _: in_danger(env), "along_m": lambda env, _: env.task_state.along_m},
    camera_inputs=lambda env: env.task_state.patches.camera_inputs(env.sim.terrain, env.sim.scene_of_env),
    check_scenes=_check_scenes,
    start_copies=2,
)
