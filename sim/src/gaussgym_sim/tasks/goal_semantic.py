"""``goal_semantic``: reach the goal, around patches of the ground that cost and that only colour tells apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gaussgym_sim.mdp.patches import Patches
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.task import RewardTerm, Task
from gaussgym_sim.tasks.goal import reached_goal

if TYPE_CHECKING:
    from gaussgym_sim.env import Env


@dataclass(frozen=True)
class SemanticCfg:
    """Where patches lie: drawn for each episode, on the path between start and goal.

    Attributes:
        count: patches an episode.
        half_m: range of their half sides.
        lateral_m: half range of their offset across the path.
        free_m: length of path at the start and before the goal that has none.
        rgb: their colour, 0..1.
    """

    count: int = 4
    half_m: tuple[float, float] = (0.3, 0.5)
    lateral_m: float = 0.4
    free_m: float = 1.2
    rgb: tuple[float, float, float] = (0.95, 0.85, 0.05)


def between(env: Env, env_ids: Tensor, count: int, *, lateral_m: float, free_m: float, what: int) -> Tensor:
    """Draw ``count`` points [R, count, 2] m near each env's path, evenly spread between its start and its goal.

    Args:
        env: whose robots stand at their starts.
        env_ids: [R].
        count: points an env, one in each of as many equal parts of the way.
        lateral_m: half range of the offset across the path.
        free_m: length of path without points at either end, as far as the path has it.
        what: see `Env.draw`; ``what`` + 1 is used up, too.
    """
    net, follower = env.network, env.follower
    index, direction = follower.index[env_ids], follower.direction[env_ids]
    steps = follower.steps_to_goal()[env_ids]
    free = torch.minimum(free_m / net.spacing_m[index], 0.4 * steps)
    share = (torch.arange(count, device=env.device) + env.draw(env_ids, 0.0, 1.0, count, what=what)) / count
    ahead = (free[:, None] + share * (steps - 2 * free)[:, None]).round().long()
    points = net.points[net.along(index[:, None], direction[:, None] * ahead)]
    across = torch.stack((-torch.sin(points[..., 3]), torch.cos(points[..., 3])), dim=2)
    return points[..., :2] + env.draw(env_ids, -lateral_m, lateral_m, count, 1, what=what + 1) * across


class SemanticState:
    """Patches of the running episodes, and what they have cost.

    Attributes:
        patches: the patches.
        foot_hit: [E, L] bool, feet that stand in one.
        patch_s: [E] time with a foot in one.
        patch_m: [E] way of the base over them.
    """

    def __init__(self, env: Env) -> None:
        """None is there yet."""
        self._env, self.cfg = env, env.task_cfg
        self.patches = Patches(env.num_envs, self.cfg.count, env.device)
        self.patches.rgb[:] = torch.tensor(self.cfg.rgb, device=env.device)
        self.patch_s = torch.zeros(env.num_envs, device=env.device)
        self.patch_m, self._last_xy = (
            torch.zeros_like(self.patch_s),
            torch.zeros(env.num_envs, 2, device=env.device),
        )
        self.foot_hit = torch.zeros(
            env.num_envs, len(env.sim.robot.leg_names), dtype=torch.bool, device=env.device
        )

    def start(self, env_ids: Tensor) -> None:
        """See `TaskState.start`."""
        env, c = self._env, self.cfg
        self.patches.xy_m[env_ids] = between(
            env, env_ids, c.count, lateral_m=c.lateral_m, free_m=c.free_m, what=0
        )
        self.patches.half_m[env_ids] = env.draw(env_ids, *c.half_m, c.count, what=2)
        self.patch_s[env_ids], self.patch_m[env_ids] = 0.0, 0.0
        self._last_xy[env_ids] = env.sim.state.root_pos_w[env_ids, :2]

    def update(self) -> None:
        """See `TaskState.update`."""
        env, s = self._env, self._env.sim.state
        torch.logical_and(self.patches.hit(s.foot_pos_w[..., :2]), s.foot_contact, out=self.foot_hit)
        self.patch_s.add_(self.foot_hit.any(dim=1), alpha=env.cfg.control_s)
        xy = s.root_pos_w[:, :2]
        self.patch_m += (xy - self._last_xy).norm(dim=1) * self.patches.hit(xy[:, None])[:, 0]
        self._last_xy.copy_(xy)

    def state_dict(self) -> dict[str, Any]:
        """See `TaskState.state_dict`."""
        own = {name: getattr(self, name).clone() for name in ("patch_s", "patch_m", "_last_xy")}
        return {"patches": self.patches.state_dict(), "own": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `TaskState.load_state_dict`."""
        self.patches.load_state_dict(state["patches"])
        for name, value in state["own"].items():
            getattr(self, name).copy_(value)


def feet_in_patches(env: Env) -> Tensor:
    """[E] how many feet stand in a patch."""
    return env.task_state.foot_hit.sum(dim=1, dtype=torch.float32)


def progress_m_s(env: Env) -> Tensor:
    """[E] speed along the path, towards the goal [m/s], at most the fastest that is ever commanded."""
    follower = env.follower
    yaw = env.network.travel_yaw(follower.index, follower.direction)
    velocity = env.sim.state.root_lin_vel_w
    speed = velocity[:, 0] * torch.cos(yaw) + velocity[:, 1] * torch.sin(yaw)
    return speed.clamp(max=env.cfg.commands.goal_speed_m_s[1])


def cost_scan(env: Env) -> Tensor:
    """[E, S] 1 where a point of the height scan's grid lies in a patch: what a teacher may know."""
    return env.task_state.patches.hit(env.scan_xy()).float()


def camera_inputs(env: Env) -> dict[str, Tensor]:
    """What the camera sees of them."""
    return env.task_state.patches.camera_inputs(env.sim.terrain, env.sim.scene_of_env)


TASK = Task(
    "goal_semantic",
    cfg=SemanticCfg(),
    # The commands lead along the path, and so through patches: to obey them counts less than to get on.
    defaults={"rewards": replace(RewardCfg(), track_lin_vel=0.5, track_ang_vel=0.25)},
    pursues_goal=True,
    state=SemanticState,
    success=reached_goal,
    rewards={"progress": RewardTerm(2.0, progress_m_s), "patch_cost": RewardTerm(-2.0, feet_in_patches)},
    observations={"cost_scan": cost_scan},
    mirrors={"cost_scan": lambda symmetry, values: symmetry.scan(values)},
    metrics={
        "patch_s": lambda env, _: env.task_state.patch_s,
        "patch_m": lambda env, _: env.task_state.patch_m,
    },
    camera_inputs=camera_inputs,
)
