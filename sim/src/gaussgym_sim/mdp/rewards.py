"""Reward terms, each a rate a second; their weighted sum is multiplied by the control step. `RewardCfg` has the presets.

Formulas of the GaussGym and legged_gym terms follow their papers (arXiv 2510.15352; Rudin et al., arXiv 2109.11978) and the
former's public code, in own words and code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gaussgym_scene.errors import InputError
from torch import Tensor

from gaussgym_sim.frames import wrap_angle
from gaussgym_sim.mdp.reward_kernels import STATE_TERMS, state_terms, weighted_sum
from gaussgym_sim.robot import RobotCfg

if TYPE_CHECKING:
    from gaussgym_sim.env import Env
    from gaussgym_sim.ground.terrain import TerrainLookup
    from gaussgym_sim.mdp.commands import PathFollower
    from gaussgym_sim.mdp.feet import Gait

STANDING_FACTOR = 3.0
PHASE_SIGMA_M2 = 0.01


@dataclass(frozen=True)
class RewardCfg:
    """Weight of each term [1/s]; field names are term names. Those with weight 0 are not computed."""

    track_lin_vel: float = 1.5
    track_ang_vel: float = 0.75
    lin_vel_z: float = -2.0
    ang_vel_xy: float = -0.05
    orientation: float = -2.0
    torque: float = -1e-4
    joint_acc: float = -2.5e-7
    action_rate: float = -0.01
    feet_air_time: float = 1.0
    thigh_contact: float = -0.5
    pose: float = -0.1
    foot_slip: float = -0.1
    base_height: float = -10.0
    alive: float = 0.2
    target_rate: float = 0.0
    energy: float = 0.0
    weighted_pose: float = 0.0
    collision: float = 0.0
    stumble: float = 0.0
    foot_slide: float = 0.0
    feet_clearance: float = 0.0
    feet_distance: float = 0.0
    feet_phase: float = 0.0
    foothold: float = 0.0
    goal_pos: float = 0.0
    goal_yaw: float = 0.0
    move_in_direction: float = 0.0
    dont_wait: float = 0.0
    stand_at_target: float = 0.0
    lin_vel_error: float = 0.0

    # From here on: settings, no weights.
    tracking_sigma: float = 0.2
    """Width of both tracking terms (m/s)^2, (rad/s)^2."""
    air_target_s: float = 0.2
    """Flights longer than this earn, shorter ones cost."""
    air_cap_s: float = 0.4
    """Flights longer than this earn no more."""
    stumble_ratio: float = 2.0
    """A foot stumbles where its horizontal force is this many times its vertical one."""
    clearance_m: float = 0.08
    """Height over the ground that a moving foot should have."""
    feet_distance_m: float = 0.1
    """Left and right feet nearer than this, across the heading, are too near."""
    swing_height_m: float = 0.05
    """Height to which the gait's clock lifts feet."""
    foothold_depth_m: float = 0.1
    """Ground this far below a standing foot does not carry it."""
    sole_half_m: float = 0.03
    """Half side of the square around a foot's centre that should be carried."""
    waiting_m_s: float = 0.2
    """Slower than this is waiting."""
    goal_window_s: float = 1.0
    """Time before the episode's end in which the distance to the goal counts."""
    pose_weights: tuple[tuple[str, float], ...] = (("", 1.0),)
    """Of `weighted_pose`: (part of a joint's name, weight); the first that fits counts."""
    per_step: bool = False
    """Weights are per control step rather than per second."""
    clip: bool = True
    """The total is never below zero."""
    same_on_rough: bool = False
    """Rough ground has the same weights."""
    rough: tuple[tuple[str, float], ...] = (
        ("lin_vel_z", -0.7),
        ("orientation", -0.7),
        ("base_height", -3.0),
        ("thigh_contact", -0.3),
        ("pose", -0.05),
    )
    """Else: weights that rough ground has in place of those above; it dictates height, tilt and pose."""

    def on_rough_ground(self) -> RewardCfg:
        """Weights on rough ground."""
        if self.same_on_rough:
            return self
        return replace(self, **dict(self.rough))  # type: ignore[arg-type]

    @classmethod
    def none(cls) -> RewardCfg:
        """No term at all, and a total that may be negative: for tasks with rewards of their own."""
        weights = {f.name: 0.0 for f in fields(cls) if f.name in TERMS}
        return cls(**weights, clip=False, same_on_rough=True)  # type: ignore[arg-type]

    @classmethod
    def preset(cls, name: str, *, to_goal: bool = False) -> RewardCfg:
        """Weights by name.

        Args:
            name: 'walking' (the default of `RewardCfg`), or the original's for its robots: 'gaussgym_a1', 'gaussgym_go1' (the
                same), 'gaussgym_t1' (wants `EnvCfg.gait_hz`), 'gaussgym_anymal_c'. The original filters the base's velocity
                first, and measures clearance from the feet's meshes.
            to_goal: the weights of its goal task rather than of its velocity task; 'walking' has one set for both.

        Raises:
            InputError: no such preset; the message lists those that exist.
        """
        if name == "walking":
            return cls()
        if name not in _PRESETS:
            raise InputError(f"unknown reward preset {name!r}; choose one of: {', '.join(preset_names())}")
        common: dict[str, Any] = {
            "tracking_sigma": 0.25,
            "per_step": True,
            "clip": False,
            "same_on_rough": True,
        }
        preset = dict(_PRESETS[name])
        tracking = {k: preset.pop(k) for k in ("track_lin_vel", "track_ang_vel")}
        return replace(cls.none(), **common | preset | (_GOAL if to_goal else tracking))


_GOAL = {"goal_pos": 10.0, "goal_yaw": 5.0, "move_in_direction": 1.0, "dont_wait": -1.0}
_A1 = {
    "track_lin_vel": 1.0, "track_ang_vel": 0.5, "ang_vel_xy": -0.15, "target_rate": -1.0, "weighted_pose": -0.5,
    "pose_weights": (("hip", 2.0), ("thigh", 0.3), ("calf", 0.1)), "feet_air_time": 1.0, "air_target_s": 0.2,
    "air_cap_s": 0.2, "stumble": -3.0, "foot_slide": -0.1, "feet_clearance": 1.0,
}  # fmt: skip
_T1_POSE = (
    ("Hip_Pitch", 0.01), ("Hip_Roll", 1.0), ("Hip_Yaw", 5.0), ("Knee", 0.01), ("Ankle_Pitch", 1.0), ("Ankle_Roll", 5.0),
    ("Head", 1.0), ("", 50.0),
)  # fmt: skip
_PRESETS: dict[str, dict[str, Any]] = {
    "gaussgym_a1": _A1,
    "gaussgym_go1": _A1,
    "gaussgym_t1": {
        "track_lin_vel": 3.0, "track_ang_vel": 1.5, "ang_vel_xy": -0.15, "orientation": -0.5, "target_rate": -2.0,
        "weighted_pose": -0.5, "pose_weights": _T1_POSE, "stumble": -3.0, "foot_slide": -0.5, "feet_distance": -10.0,
        "feet_phase": 5.0, "foothold": -0.5,
    },
    "gaussgym_anymal_c": {
        "track_lin_vel": 1.0, "track_ang_vel": 0.5, "ang_vel_xy": -0.05, "lin_vel_z": -0.5, "target_rate": -0.01,
        "feet_air_time": 1.0, "air_target_s": 0.5, "air_cap_s": 1.5, "torque": -1e-5, "joint_acc": -2.5e-7,
        "collision": -1.0,
    },
}  # fmt: skip


def preset_names() -> list[str]:
    """Names that `RewardCfg.preset` takes."""
    return ["walking", *_PRESETS]


@dataclass
class RewardInputs:
    """What the terms read, [E, ...] each, SI units, frames in the names. The properties are computed by who asks first."""

    cfg: RewardCfg
    robot: RobotCfg
    control_s: float
    command: Tensor
    lin_vel_b: Tensor
    ang_vel_b: Tensor
    gravity_b: Tensor
    yaw: Tensor
    root_pos_w: Tensor
    joint_pos_offset: Tensor
    joint_vel: Tensor
    last_joint_vel: Tensor
    torque: Tensor
    action: Tensor
    last_action: Tensor
    foot_pos_w: Tensor
    foot_vel_w: Tensor
    foot_force_w: Tensor
    foot_contact: Tensor
    touch_down: Tensor
    foot_air_s: Tensor
    thigh_contact: Tensor
    trunk_contact: Tensor
    height_m: Tensor
    episode_steps: Tensor
    max_episode_steps: int
    terrain: TerrainLookup
    scene_ids: Tensor
    follower: PathFollower
    gait: Gait | None
    goal_radius_m: float

    @classmethod
    def of(cls, env: Env) -> RewardInputs:
        """Of the step that an environment has just taken."""
        s, feet, cfg = env.sim.state, env.feet, env.cfg
        return cls(
            cfg=cfg.rewards, robot=env.sim.robot, control_s=cfg.control_s, command=env.command_before,
            lin_vel_b=env.lin_vel_b, ang_vel_b=s.root_ang_vel_b, gravity_b=env.gravity_b, yaw=env.yaw,
            root_pos_w=s.root_pos_w, joint_pos_offset=env.joint_pos_offset, joint_vel=s.joint_vel,
            last_joint_vel=env.last_joint_vel, torque=s.joint_torque, action=env.action, last_action=env.last_action,
            foot_pos_w=s.foot_pos_w, foot_vel_w=s.foot_vel_w, foot_force_w=s.foot_force_w,
            foot_contact=s.foot_contact, touch_down=feet.touch_down, foot_air_s=feet.touch_air_s,
            thigh_contact=s.thigh_contact, trunk_contact=s.trunk_contact,
            height_m=env.height_m, episode_steps=env.episode_length_buf,
            max_episode_steps=env.max_episode_length, terrain=env.sim.terrain, scene_ids=env.sim.scene_of_env,
            follower=env.follower, gait=env.gait, goal_radius_m=cfg.commands.goal_radius_m,
        )  # fmt: skip

    @cached_property
    def base_height_error_m(self) -> Tensor:
        """[E] from the height at which the robot stands."""
        return self.height_m - self.robot.base_height_m

    @cached_property
    def in_goal_window(self) -> Tensor:
        """[E] bool, whether the episode is about to be cut short."""
        steps = round(self.cfg.goal_window_s / self.control_s)
        return self.episode_steps >= self.max_episode_steps - steps

    @cached_property
    def moving(self) -> Tensor:
        """1.0 where a motion is commanded."""
        return (self.command.abs().amax(dim=1) > 0.05).float()

    @cached_property
    def foot_height_m(self) -> Tensor:
        """[E, L] of each sole over the ground below its centre."""
        ground = self.terrain.sample(self.foot_pos_w[..., :2], self.scene_ids)
        return self.foot_pos_w[..., 2] - self.robot.foot_radius_m - ground

    @cached_property
    def sole_gap_m(self) -> Tensor:
        """[E, L, 9] between each sole's plane and the ground, on a square grid around its centre that heads as the base does."""
        x, y = _sole_grid(self.cfg.sole_half_m, self.yaw.device)
        cos, sin = torch.cos(self.yaw)[:, None], torch.sin(self.yaw)[:, None]
        offset = torch.stack((cos * x - sin * y, sin * x + cos * y), dim=2)  # [E, 9, 2]
        points = self.foot_pos_w[:, :, None, :2] + offset[:, None]
        ground = self.terrain.sample(points.flatten(1, 2), self.scene_ids).view(points.shape[:3])
        return self.foot_pos_w[..., 2:] - self.robot.foot_radius_m - ground

    @cached_property
    def to_goal_w(self) -> Tensor:
        """[E, 2] from the base to the goal."""
        return self.follower.goal_xy() - self.root_pos_w[:, :2]

    @cached_property
    def goal_distance_m(self) -> Tensor:
        """[E]."""
        return self.to_goal_w.norm(dim=1)

    @cached_property
    def joint_weights(self) -> Tensor:
        """[J] of `RewardCfg.pose_weights`."""
        return _joint_weights(self.robot.joint_names, self.cfg.pose_weights, self.yaw.device)


@cache
def _sole_grid(half_m: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """X and y [9] of a square of side twice ``half_m``."""
    step = torch.tensor((-half_m, 0.0, half_m), device=device)
    x, y = torch.meshgrid(step, step, indexing="ij")
    return x.flatten(), y.flatten()


@cache
def _joint_weights(
    joints: tuple[str, ...], weights: tuple[tuple[str, float], ...], device: torch.device
) -> Tensor:
    """[J] the first of the weights whose name is a part of the joint's, 0 without one."""
    values = [next((weight for part, weight in weights if part in joint), 0.0) for joint in joints]
    return torch.tensor(values, device=device)


def _square_sum(x: Tensor) -> Tensor:
    return (x * x).sum(dim=1)


def _track(error: Tensor, s: RewardInputs) -> Tensor:
    return torch.exp(error.mul_(-1.0 / s.cfg.tracking_sigma))


def _feet_air_time(s: RewardInputs) -> Tensor:
    """Seconds of flight beyond the target, of feet that touch down; only while walking."""
    beyond = s.foot_air_s.clamp(max=s.cfg.air_cap_s).sub_(s.cfg.air_target_s)
    return (beyond * s.touch_down).sum(dim=1) * s.moving


def _stumble(s: RewardInputs) -> Tensor:
    """How many feet push against something steep."""
    sideways = s.foot_force_w[..., :2].norm(dim=2)
    return (sideways > s.cfg.stumble_ratio * s.foot_force_w[..., 2].abs()).sum(dim=1, dtype=torch.float32)


def _feet_clearance(s: RewardInputs) -> Tensor:
    """Minus speed times what lacks of the height that moving feet should have."""
    lack = (s.foot_height_m - s.cfg.clearance_m).clamp(min=-s.cfg.clearance_m, max=0.0)
    return (lack * s.foot_vel_w[..., :2].norm(dim=2)).sum(dim=1) * s.moving


def _feet_distance(s: RewardInputs) -> Tensor:
    """How many pairs of left and right feet are too near, across the heading."""
    pairs = [(i, j) for i, j in enumerate(s.robot.mirror_legs) if i < j]
    first, second = (list(legs) for legs in zip(*pairs, strict=True))
    gap = s.foot_pos_w[:, first, :2] - s.foot_pos_w[:, second, :2]
    across = torch.cos(s.yaw)[:, None] * gap[..., 1] - torch.sin(s.yaw)[:, None] * gap[..., 0]
    return (across.abs() < s.cfg.feet_distance_m).sum(dim=1, dtype=torch.float32)


def _feet_phase(s: RewardInputs) -> Tensor:
    """Feet follow the heights of the gait's clock: 1 exactly, 0 far off."""
    assert s.gait is not None, "the environment has checked that there is one"
    return torch.exp(
        -_square_sum(s.foot_height_m - s.gait.foot_height_m(s.cfg.swing_height_m)) / PHASE_SIGMA_M2
    )


def _foothold(s: RewardInputs) -> Tensor:
    """Share of each standing sole that hangs over a drop, summed over feet."""
    hangs = (s.sole_gap_m > s.cfg.foothold_depth_m).float().mean(dim=2)
    return (hangs * s.foot_contact).sum(dim=1)


def _goal_yaw(s: RewardInputs) -> Tensor:
    net, follower = s.follower.network, s.follower
    error = wrap_angle(net.travel_yaw(follower.goal, follower.direction) - s.yaw).abs()
    return (1.0 - 0.5 * error) * s.in_goal_window


def _move_in_direction(s: RewardInputs) -> Tensor:
    """Cosine between velocity and the way to the goal."""
    cos, sin = torch.cos(s.yaw), torch.sin(s.yaw)
    to_x = cos * s.to_goal_w[:, 0] + sin * s.to_goal_w[:, 1]
    to_y = cos * s.to_goal_w[:, 1] - sin * s.to_goal_w[:, 0]
    along = s.lin_vel_b[:, 0] * to_x + s.lin_vel_b[:, 1] * to_y
    return along / (s.lin_vel_b[:, :2].norm(dim=1) * s.goal_distance_m).clamp(min=1e-8)


def _dont_wait(s: RewardInputs) -> Tensor:
    slow = s.lin_vel_b[:, :2].norm(dim=1) < s.cfg.waiting_m_s
    return (slow & (s.goal_distance_m >= s.goal_radius_m)).float()


TERMS: dict[str, Callable[[RewardInputs], Tensor]] = {
    "track_lin_vel": lambda s: _track(_square_sum(s.command[:, :2] - s.lin_vel_b[:, :2]), s),
    "track_ang_vel": lambda s: _track((s.command[:, 2] - s.ang_vel_b[:, 2]).square_(), s),
    "lin_vel_z": lambda s: s.lin_vel_b[:, 2].square(),
    "ang_vel_xy": lambda s: _square_sum(s.ang_vel_b[:, :2]),
    "orientation": lambda s: _square_sum(s.gravity_b[:, :2]),
    "torque": lambda s: _square_sum(s.torque),
    "joint_acc": lambda s: _square_sum((s.joint_vel - s.last_joint_vel).mul_(1.0 / s.control_s)),
    "action_rate": lambda s: _square_sum(s.action - s.last_action),
    "feet_air_time": _feet_air_time,
    "thigh_contact": lambda s: s.thigh_contact.sum(dim=1, dtype=torch.float32),
    "pose": lambda s: _square_sum(s.joint_pos_offset) * (STANDING_FACTOR - (STANDING_FACTOR - 1) * s.moving),
    "foot_slip": lambda s: (s.foot_vel_w[..., :2].square().sum(dim=2) * s.foot_contact).sum(dim=1),
    "base_height": lambda s: s.base_height_error_m.square(),
    "alive": lambda s: torch.ones_like(s.height_m),
    "target_rate": lambda s: _square_sum((s.action - s.last_action) * s.robot.action_scale),
    "energy": lambda s: (s.torque * s.joint_vel).abs().sum(dim=1),
    "weighted_pose": lambda s: (s.joint_pos_offset.square() * s.joint_weights).sum(dim=1),
    "collision": lambda s: s.thigh_contact.sum(dim=1, dtype=torch.float32) + s.trunk_contact,
    "stumble": _stumble,
    "foot_slide": lambda s: (s.foot_vel_w.norm(dim=2) * s.foot_contact).sum(dim=1),
    "feet_clearance": _feet_clearance,
    "feet_distance": _feet_distance,
    "feet_phase": _feet_phase,
    "foothold": _foothold,
    "goal_pos": lambda s: (1.0 - 0.5 * s.goal_distance_m) * s.in_goal_window,
    "goal_yaw": _goal_yaw,
    "move_in_direction": _move_in_direction,
    "dont_wait": _dont_wait,
    "stand_at_target": lambda s: s.joint_pos_offset.norm(dim=1) * (s.goal_distance_m < s.goal_radius_m),
    "lin_vel_error": lambda s: (s.command[:, :2] - s.lin_vel_b[:, :2]).norm(dim=1),
}
"""Every term unweighted, [E]. `RewardCfg` has one weight each.

Beside the obvious: ``pose`` is the squared distance from the default pose, three times when standing; ``target_rate`` the squared
change of the joint targets [rad], ``action_rate`` that of the actions; ``foot_slip`` the squared horizontal velocity of standing
feet, ``foot_slide`` their speed; ``collision`` counts thighs and trunk that touch something; ``lin_vel_error`` is the distance
from the commanded velocity, which pulls as much at a robot that stands still, where ``track_lin_vel`` is flat, as at one that
walks.
"""


class Rewards:
    """Weighted sum of the terms that have a weight, for E envs.

    Attributes:
        names: of the terms that are computed, the task's own last.
        terms: [T, E] weighted terms of the last step, rates a second.
    """

    def __init__(
        self, cfg: RewardCfg, rough: Tensor, extra: Mapping[str, float], *, control_s: float
    ) -> None:
        """Weights of each env, by whether its ground is rough.

        Args:
            cfg: weights on planes; those on rough ground follow from it.
            rough: [E] bool.
            extra: weights [1/s] of terms that `compute` is given, in their order.
            control_s: control step [s].
        """
        self._cfgs, self._extra, self._control_s = (cfg, cfg.on_rough_ground()), dict(extra), control_s
        active = [n for n in TERMS if any(getattr(c, n) != 0.0 for c in self._cfgs)]
        self._functions = [TERMS[n] for n in active]
        self._rows = np.array([active.index(n) if n in active else -1 for n in STATE_TERMS])
        self._by_tensors = [(row, TERMS[n]) for row, n in enumerate(active) if n not in STATE_TERMS]
        self.names = (*active, *self._extra)
        self.terms = torch.zeros(len(self.names), len(rough), device=rough.device)
        self._weights = torch.zeros_like(self.terms)
        self.set_rough(rough)

    def set_rough(self, rough: Tensor) -> None:
        """Change which envs stand on rough ground, [E] bool."""
        core = self.names[: len(self._functions)]
        scale = 1.0 / self._control_s if self._cfgs[0].per_step else 1.0
        columns = [[scale * getattr(c, n) for n in core] + list(self._extra.values()) for c in self._cfgs]
        self._weights.copy_(torch.tensor(columns, device=rough.device)[rough.long()].T)

    def compute(self, inputs: RewardInputs, extra: Sequence[Tensor] = ()) -> Tensor:
        """Total reward [E] of one control step: control_s x the sum of weighted terms, by default at least 0.

        Args:
            inputs: see `RewardInputs`.
            extra: unweighted values [E] of the task's own terms.
        """
        if self.terms.device.type == "cpu":
            return self._compute_by_kernels(inputs, extra)
        return self._compute_by_tensors(inputs, extra)

    def _compute_by_kernels(self, inputs: RewardInputs, extra: Sequence[Tensor]) -> Tensor:
        s, c, terms = inputs, inputs.cfg, self.terms.numpy()
        numbers = (
            c.tracking_sigma, s.control_s, STANDING_FACTOR, s.robot.action_scale, c.air_target_s, c.air_cap_s, c.stumble_ratio,
            s.robot.base_height_m,
        )  # fmt: skip
        tensors = (
            s.joint_weights, s.command, s.lin_vel_b, s.ang_vel_b, s.gravity_b, s.height_m, s.joint_pos_offset,
            s.joint_vel, s.last_joint_vel, s.torque, s.action, s.last_action, s.foot_vel_w, s.foot_force_w, s.foot_contact,
            s.touch_down, s.foot_air_s, s.thigh_contact, s.trunk_contact,
        )  # fmt: skip
        arguments = [self._rows, np.array(numbers, np.float32), *(t.numpy() for t in tensors), terms]
        state_terms(*arguments)
        for row, function in self._by_tensors:
            self.terms[row] = function(inputs)
        for row, values in enumerate(extra, start=len(self._functions)):
            self.terms[row] = values
        total = np.empty(terms.shape[1], np.float32)
        weighted_sum(terms, self._weights.numpy(), self._cfgs[0].clip, np.float32(self._control_s), total)
        return torch.from_numpy(total)

    def _compute_by_tensors(self, inputs: RewardInputs, extra: Sequence[Tensor]) -> Tensor:
        values = [function(inputs) for function in self._functions]
        torch.stack([*values, *extra], out=self.terms).mul_(self._weights)
        total = self.terms.sum(dim=0)
        if self._cfgs[0].clip:
            total.clamp_(min=0.0)
        return total.mul_(self._control_s)
