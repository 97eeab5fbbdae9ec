"""``gaps``: walk along paths over gaps; feet must land on ground that carries them, away from edges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene
from torch import Tensor

from gaussgym_sim.ground.terrain import TerrainLookup, physics_heightfield
from gaussgym_sim.mdp.commands import CommandCfg, PathNetwork
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.task import RewardTerm, Task

if TYPE_CHECKING:
    from gaussgym_sim.env import Env

_RADII_M = (0.03, 0.06, 0.09, 0.12)
_DIRECTIONS = 8
_REACH = 3
"""Path points before and behind within which something must be higher for a gap to be filled, see `path_level_m`."""
_ACROSS_M, _ACROSS_POINTS = 0.4, 4
"""The same to the left and right."""


@dataclass(frozen=True)
class FootholdCfg:
    """What a bad foothold is.

    Attributes:
        edge_depth_m: ground this far below a foot's own is over an edge.
        gap_depth_m: a foot this far below the path's level is in a gap.
        fall_depth_m: one this far below it has fallen in; the episode ends.
    """

    edge_depth_m: float = 0.05
    gap_depth_m: float = 0.06
    fall_depth_m: float = 0.2


def path_level_m(network: PathNetwork, terrain: TerrainLookup) -> Tensor:
    """Height of each path point [P] with gaps and pits filled.

    Path points lie on the ground, and so at the bottom of gaps. What is filled is lower than something on either side: across the
    path first (between stones), then along it. On slopes and stairs the level is the ground.

    Args:
        network: of the scenes' paths.
        terrain: of the same scenes.
    """
    points, index = network.points, torch.arange(len(network.points), device=network.points.device)
    scene_ids = torch.bucketize(index, network.offset[1:], right=True)
    lateral = torch.linspace(-_ACROSS_M, _ACROSS_M, 2 * _ACROSS_POINTS + 1, device=points.device)
    across = torch.stack((-torch.sin(points[:, 3]), torch.cos(points[:, 3])), dim=1)
    ground = terrain.sample(points[:, None, :2] + lateral[:, None] * across[:, None], scene_ids)
    right, left = ground[:, : _ACROSS_POINTS + 1].amax(dim=1), ground[:, _ACROSS_POINTS:].amax(dim=1)
    heights = torch.minimum(right, left)
    sides = [torch.arange(*r, device=index.device)[None] for r in ((-_REACH, 1), (0, _REACH + 1))]
    before, behind = (heights.take(network.along(index[:, None], side)).amax(dim=1) for side in sides)
    return torch.minimum(before, behind)


class FootholdState:
    """Where the feet are against the path's level, and how well they landed.

    Attributes:
        below_m: [E, L] of each sole below the path's level there.
        edge_m: [E, L] distance of the nearest edge from each foot, at most `FAR_M`; computed for feet that touch down.
        landings, bad: [E] feet that touched down, and of these those in a gap or nearer than half of `FAR_M` to an edge.
    """

    FAR_M = _RADII_M[-1]

    def __init__(self, env: Env) -> None:
        """No foot has landed."""
        self._env, self.cfg = env, env.task_cfg
        self._network: Any = None
        angle = torch.arange(_DIRECTIONS, device=env.device) * (2 * math.pi / _DIRECTIONS)
        ring = torch.stack((torch.cos(angle), torch.sin(angle)), dim=1)
        self._radii = torch.tensor(_RADII_M, device=env.device)
        self._offsets = torch.cat(
            (torch.zeros(1, 2, device=env.device), (self._radii[:, None, None] * ring).flatten(0, 1))
        )
        legs = len(env.sim.robot.leg_names)
        self.below_m = torch.zeros(env.num_envs, legs, device=env.device)
        self.edge_m = torch.full_like(self.below_m, self.FAR_M)
        self.landings, self.bad = torch.zeros(2, env.num_envs, device=env.device)

    def start(self, env_ids: Tensor) -> None:
        """See `TaskState.start`."""
        self.landings[env_ids], self.bad[env_ids] = 0.0, 0.0
        self.below_m[env_ids] = 0.0

    def _level_m(self) -> Tensor:
        """[E, L] height of the path beside each foot."""
        net, follower = self._env.network, self._env.follower
        if self._network is not net:  # scenes have changed
            self._network, self._path_level_m = net, path_level_m(net, self._env.sim.terrain)
        row = net.rows.index_select(0, follower.index)
        ahead = (self._env.sim.state.foot_pos_w[..., :2] - row[:, None, :2]) @ row[:, 2:4, None]
        steps = (ahead[..., 0] / row[:, 5:6]).round_().long()  # along the line, whichever way one walks it
        return self._path_level_m.take(net.along(follower.index[:, None], steps))

    def update(self) -> None:
        """See `TaskState.update`."""
        env, c, s = self._env, self.cfg, self._env.sim.state
        self.below_m = self._level_m() - (s.foot_pos_w[..., 2] - env.sim.robot.foot_radius_m)
        self.edge_m = self._edge_distance()
        landed = env.feet.touch_down
        bad = (self.below_m > c.gap_depth_m) | (self.edge_m < 0.5 * self.FAR_M)
        self.landings += landed.sum(dim=1)
        self.bad += (landed & bad).sum(dim=1)

    def _edge_distance(self) -> Tensor:
        """[E, L] smallest radius of a ring around each foot on which the ground drops, `FAR_M` where on none."""
        env = self._env
        points = env.sim.state.foot_pos_w[:, :, None, :2] + self._offsets
        ground = env.sim.terrain.sample(points.flatten(1, 2), env.sim.scene_of_env).view(points.shape[:3])
        drop = ground[..., :1] - ground[..., 1:] > self.cfg.edge_depth_m
        over = drop.unflatten(2, (len(_RADII_M), _DIRECTIONS)).any(dim=3)
        return torch.where(over, self._radii, self.FAR_M).amin(dim=2)

    def state_dict(self) -> dict[str, Any]:
        """See `TaskState.state_dict`."""
        return {name: getattr(self, name).clone() for name in ("landings", "bad")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `TaskState.load_state_dict`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)


def near_edge(env: Env) -> Tensor:
    """[E] summed over feet that touch down: 1 on an edge, 0 from `FootholdState.FAR_M` on."""
    state = env.task_state
    return ((1.0 - state.edge_m / state.FAR_M) * env.feet.touch_down).sum(dim=1)


def in_gap(env: Env) -> Tensor:
    """[E] how many feet are below the path's level, in a gap."""
    return (env.task_state.below_m > env.task_cfg.gap_depth_m).sum(dim=1, dtype=torch.float32)


def fell_in(env: Env) -> Tensor:
    """[E] bool, robots with a foot deep in a gap."""
    return (env.task_state.below_m > env.task_cfg.fall_depth_m).any(dim=1)


def end_of_line(env: Env) -> Tensor:
    """[E] bool, robots at the end of their path."""
    return env.network.distance_to_end_m(env.follower.index, env.follower.direction) <= 1e-3


def bad_landings(env: Env, success: Tensor) -> Tensor:
    """[E] share of landings that were bad; 0 without a landing."""
    state = env.task_state
    return state.bad / state.landings.clamp(min=1.0)


def check_holes(scenes: Sequence[Scene]) -> None:
    """Refuse scenes whose paths cross nothing.

    Raises:
        InputError: one without a gap under its paths.
    """
    for scene in scenes:
        network = PathNetwork([scene], device=torch.device("cpu"))
        terrain = TerrainLookup([physics_heightfield(scene)], device=torch.device("cpu"))
        ground = terrain.sample(network.points[None, :, :2], torch.zeros(1, dtype=torch.long))[0]
        depth = float((path_level_m(network, terrain) - ground).max())
        if depth < FootholdCfg.gap_depth_m:
            raise InputError(
                f"scene {scene.name!r}: its paths cross no gap deeper than {max(depth, 0.0):.2f} m, expected one of at least "
                f"{FootholdCfg.gap_depth_m} m; `gaussgym-scene synth gaps` makes one"
            )


REWARDS = replace(
    RewardCfg(), lin_vel_z=-0.5, orientation=-0.5, base_height=0.0, pose=-0.05, foothold=-1.0, foothold_depth_m=0.05,
    same_on_rough=True,
)  # fmt: skip
"""Weights for ground with holes: the base's height over the mean ground means nothing there."""

TASK = Task(
    "gaps",
    cfg=FootholdCfg(),
    defaults={"rewards": REWARDS, "commands": CommandCfg(heading_fraction=1.0, standing_fraction=0.0)},
    state=FootholdState,
    failed=fell_in,
    cut=end_of_line,
    rewards={"near_edge": RewardTerm(-1.0, near_edge), "in_gap": RewardTerm(-1.0, in_gap)},
    metrics={"bad_landings": bad_landings, "landings": lambda env, _: env.task_state.landings},
    check_scenes=check_holes,
)
