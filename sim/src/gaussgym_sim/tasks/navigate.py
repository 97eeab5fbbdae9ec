"""``navigate``: find a coloured marker, around areas not to be entered and obstacles that move; drive with `CommandEnv`.

The policy gives velocity commands a few times a second and sees: the marker's place is in no group that it should read, only in
images (and in ``target_b`` and ``hazards_b``, for critics and teachers). All of marker, areas and obstacles are painted on the
ground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaussgym_sim.mdp.commands import CommandCfg, CommandSource, GivenCommands
from gaussgym_sim.mdp.patches import Patches, to_base_xy
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.task import RewardTerm, Task
from gaussgym_sim.tasks.goal import reached_goal
from gaussgym_sim.tasks.goal_semantic import between, camera_inputs

if TYPE_CHECKING:
    from gaussgym_sim.env import Env


@dataclass(frozen=True)
class NavigateCfg:
    """What lies on the way, drawn for each episode.

    Attributes:
        marker_half_m: half side of the marker at the goal.
        marker_rgb: its colour, 0..1.
        areas: areas not to be entered.
        area_half_m: range of their half sides.
        area_lateral_m: half range of their offset across the path.
        area_rgb: their colour.
        obstacles: obstacles that move to and fro across the path.
        obstacle_radius_m: of each.
        obstacle_speed_m_s: range of their highest speeds.
        obstacle_sweep_m: half length of their way.
        obstacle_rgb: their colour.
        robot_radius_m: of the disc around the base that must not touch them.
        touch_ends: whether a touch ends the episode as a fall does, or only costs.
        free_m: length of path at the start and before the goal where nothing lies.
    """

    marker_half_m: float = 0.25
    marker_rgb: tuple[float, float, float] = (0.9, 0.05, 0.1)
    areas: int = 3
    area_half_m: tuple[float, float] = (0.3, 0.5)
    area_lateral_m: float = 0.4
    area_rgb: tuple[float, float, float] = (0.95, 0.85, 0.05)
    obstacles: int = 2
    obstacle_radius_m: float = 0.25
    obstacle_speed_m_s: tuple[float, float] = (0.2, 0.5)
    obstacle_sweep_m: float = 0.8
    obstacle_rgb: tuple[float, float, float] = (0.1, 0.3, 0.95)
    robot_radius_m: float = 0.3
    touch_ends: bool = True
    free_m: float = 1.5


class NavigateState:
    """Marker, areas and obstacles of the running episodes, and how far robots have walked.

    The first patch is the marker, then come the areas, then the obstacles (a square around each disc).

    Attributes:
        patches: all of them.
        touched: [E] bool, robots that touch an obstacle.
        in_area: [E] bool, bases in an area.
        no_go_s: [E] time in areas.
        touch_s: [E] time in touch with obstacles.
        walked_m: [E] length of the base's way.
        shortest_m: [E] straight from the start to within the goal's radius.
        goal_m, last_goal_m: [E] distance of the goal now and a step ago.
    """

    _KEPT = (
        "no_go_s",
        "touch_s",
        "walked_m",
        "shortest_m",
        "goal_m",
        "_last_xy",
        "_centre",
        "_sweep",
        "_phase",
        "_rate",
    )

    def __init__(self, env: Env) -> None:
        """None is there yet."""
        self._env, c = env, env.task_cfg
        self.cfg: NavigateCfg = c
        e, device = env.num_envs, env.device
        self.patches = Patches(e, 1 + c.areas + c.obstacles, device)
        colours = [c.marker_rgb, *[c.area_rgb] * c.areas, *[c.obstacle_rgb] * c.obstacles]
        self.patches.rgb[:] = torch.tensor(colours, device=device)
        self._areas, self._obstacles = slice(1, 1 + c.areas), slice(1 + c.areas, None)
        self.touched = torch.zeros(e, dtype=torch.bool, device=device)
        self.in_area = torch.zeros_like(self.touched)
        self.no_go_s, self.touch_s, self.walked_m, self.shortest_m, self.goal_m, self.last_goal_m = (
            torch.zeros(6, e, device=device)
        )
        self._last_xy = torch.zeros(e, 2, device=device)
        self._centre = torch.zeros(e, c.obstacles, 2, device=device)
        self._sweep = torch.zeros_like(self._centre)
        self._phase, self._rate = torch.zeros(2, e, c.obstacles, device=device)

    def start(self, env_ids: Tensor) -> None:
        """See `TaskState.start`."""
        env, c, count = self._env, self.cfg, len(env_ids)
        goal, xy = env.follower.goal_xy()[env_ids], env.sim.state.root_pos_w[env_ids, :2]
        area = between(env, env_ids, c.areas, lateral_m=c.area_lateral_m, free_m=c.free_m, what=0)
        self._centre[env_ids] = between(env, env_ids, c.obstacles, lateral_m=0.0, free_m=c.free_m, what=2)
        way = goal - xy
        across = torch.stack((-way[:, 1], way[:, 0]), dim=1) / way.norm(dim=1, keepdim=True).clamp(min=1e-6)
        self._sweep[env_ids] = c.obstacle_sweep_m * across[:, None]
        self._phase[env_ids] = env.draw(env_ids, -math.pi, math.pi, c.obstacles, what=4)
        self._rate[env_ids] = (
            env.draw(env_ids, *c.obstacle_speed_m_s, c.obstacles, what=5) / c.obstacle_sweep_m
        )
        self.patches.xy_m[env_ids] = torch.cat((goal[:, None], area, self._obstacle_xy()[env_ids]), dim=1)
        half = torch.full((count, self.patches.half_m.shape[1]), c.obstacle_radius_m, device=env.device)
        half[:, 0] = c.marker_half_m
        half[:, self._areas] = env.draw(env_ids, *c.area_half_m, c.areas, what=6)
        self.patches.half_m[env_ids] = half
        for sums in (self.no_go_s, self.touch_s, self.walked_m):
            sums[env_ids] = 0.0
        distance = way.norm(dim=1)
        self.goal_m[env_ids] = distance
        self.shortest_m[env_ids] = (distance - env.cfg.commands.goal_radius_m).clamp(min=0.0)
        self._last_xy[env_ids] = xy

    def _obstacle_xy(self) -> Tensor:
        return self._centre + torch.sin(self._phase)[..., None] * self._sweep

    def update(self) -> None:
        """See `TaskState.update`."""
        env, c, dt = self._env, self.cfg, self._env.cfg.control_s
        xy = env.sim.state.root_pos_w[:, :2]
        self._phase.add_(self._rate, alpha=dt)
        obstacles = self._obstacle_xy()
        self.patches.xy_m[:, self._obstacles] = obstacles
        gap = (obstacles - xy[:, None]).norm(dim=2)
        self.touched = (gap < c.obstacle_radius_m + c.robot_radius_m).any(dim=1)
        self.in_area = self.patches.hit(xy[:, None], first=1, end=1 + c.areas)[:, 0]
        self.no_go_s.add_(self.in_area, alpha=dt)
        self.touch_s.add_(self.touched, alpha=dt)
        self.walked_m += (xy - self._last_xy).norm(dim=1)
        self._last_xy.copy_(xy)
        self.last_goal_m = self.goal_m.clone()
        self.goal_m.copy_((env.follower.goal_xy() - xy).norm(dim=1))

    def state_dict(self) -> dict[str, Any]:
        """See `TaskState.state_dict`."""
        return {
            "patches": self.patches.state_dict(),
            "own": {name: getattr(self, name).clone() for name in self._KEPT},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `TaskState.load_state_dict`."""
        self.patches.load_state_dict(state["patches"])
        for name, value in state["own"].items():
            getattr(self, name).copy_(value)


def given_commands(env: Env) -> CommandSource:
    """Commands come from the policy."""
    return GivenCommands(env.num_envs, env.device)


def spl(env: Env, success: Tensor) -> Tensor:
    """[E] success weighted by path length (Anderson et al., arXiv 1807.06757), against the straight way: with areas that must be
    gone around, 1 cannot be reached.
    """
    state = env.task_state
    return success * state.shortest_m / torch.maximum(state.walked_m, state.shortest_m).clamp(min=1e-6)


def approach_m_s(env: Env) -> Tensor:
    """[E] how fast the goal comes nearer, as the crow flies [m/s]."""
    return (env.task_state.last_goal_m - env.task_state.goal_m) / env.cfg.control_s


def target_b(env: Env) -> Tensor:
    """[E, 2] the goal, ahead and to the left of the base [m]: for critics and teachers."""
    return to_base_xy(env.follower.goal_xy()[:, None], env.sim.state.root_pos_w[:, :2], env.yaw)[:, 0]


def hazards_b(env: Env) -> Tensor:
    """[E, H, 3] centres of areas and obstacles, ahead and to the left of the base, and their half sides [m]."""
    patches = env.task_state.patches
    xy = to_base_xy(patches.xy_m[:, 1:], env.sim.state.root_pos_w[:, :2], env.yaw)
    return torch.cat((xy, patches.half_m[:, 1:, None]), dim=2)


def _fails_on_touch(env: Env) -> Tensor:
    return env.task_state.touched & env.task_cfg.touch_ends


def _mirror_y(values: Tensor) -> Tensor:
    sign = torch.ones(values.shape[-1], device=values.device)
    sign[1] = -1.0
    return values * sign


TASK = Task(
    "navigate",
    cfg=NavigateCfg(),
    defaults={
        "rewards": RewardCfg.none(),
        "commands": CommandCfg(goal_distance_m=6.0),
        "episode_s": 30.0,
    },
    pursues_goal=True,
    commands=given_commands,
    commanded=True,
    state=NavigateState,
    success=reached_goal,
    failed=_fails_on_touch,
    rewards={
        "approach": RewardTerm(1.0, approach_m_s),
        "reached": RewardTerm(5.0, lambda env: reached_goal(env).float() / env.cfg.control_s),
        "no_go": RewardTerm(-1.0, lambda env: env.task_state.in_area.float()),
        "touch": RewardTerm(-5.0, lambda env: env.task_state.touched.float()),
    },
    observations={"target_b": target_b, "hazards_b": hazards_b},
    mirrors={"target_b": lambda _, v: _mirror_y(v), "hazards_b": lambda _, v: _mirror_y(v)},
    metrics={
        "spl": spl,
        "no_go_s": lambda env, _: env.task_state.no_go_s,
        "touch_s": lambda env, _: env.task_state.touch_s,
        "walked_m": lambda env, _: env.task_state.walked_m,
    },
    camera_inputs=camera_inputs,
)
