"""What can go wrong with a walking robot, in numbers: one function of the environment for each, larger is worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from gaussgym_sim.frames import wrap_angle
from gaussgym_sim.robots.geoms import load_model

if TYPE_CHECKING:
    from gaussgym_sim.env import Env

STANDS = 0.2
"""Share of the robot's weight from which on a foot stands."""
_GRAVITY = 9.81


@dataclass(frozen=True)
class Quantity:
    """One thing that is watched.

    Attributes:
        name: in JSON.
        label: for people, of what went wrong.
        unit: of its values.
        measure: of the state now, `[E]`.
        smoothed: whether only its mean over about 0.1 s means anything.
    """

    name: str
    label: str
    unit: str
    measure: Callable[[Env], torch.Tensor]
    smoothed: bool = True


def tilt_rad(env: Env) -> torch.Tensor:
    """Angle between the base's vertical axis and the world's."""
    return torch.acos((-env.gravity_b[:, 2]).clamp(-1.0, 1.0))


def height_error_m(env: Env) -> torch.Tensor:
    """How far the base is from its height over the ground when walking."""
    return (env.height_m - env.sim.robot.base_height_m).abs()


def slip_m_s(env: Env) -> torch.Tensor:
    """Horizontal speed of the fastest foot that stands.

    A foot stands that has not just come down, and that the ground pushes up with a fifth of the robot's weight, and more than
    aside: one that bumps against a riser does not.
    """
    force, speed = env.sim.state.foot_force_w, env.sim.state.foot_vel_w[..., :2].norm(dim=2)
    up = force[..., 2]
    stands = (up > STANDS * _GRAVITY * env.sim.total_mass_kg) & (up > force[..., :2].norm(dim=2))
    return (speed * (stands & ~env.feet.touch_down)).amax(dim=1)


def velocity_error_m_s(env: Env) -> torch.Tensor:
    """Distance of the base's velocity in the plane from the commanded one."""
    return (env.lin_vel_b[:, :2] - env.commands.command[:, :2]).norm(dim=1)


@cache
def _joint_range_rad(mjcf: Path, joint_names: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest and highest position of each joint `[J]` [rad]; infinite where it has no limit."""
    model = load_model(mjcf)
    ids = [model.joint(name).id for name in joint_names]
    limits = torch.tensor(model.jnt_range[ids], dtype=torch.float32)
    free = torch.tensor([not model.jnt_limited[i] for i in ids])
    low, high = torch.where(free[:, None], torch.tensor([-torch.inf, torch.inf]), limits).unbind(1)
    return low, high


def joint_limit_rad(env: Env) -> torch.Tensor:
    """How far the joint that is nearest to its limit is beyond it (negative: before it)."""
    low, high = _joint_range_rad(env.sim.robot.mjcf, env.sim.robot.joint_names)
    q = env.sim.state.joint_pos
    return torch.maximum(low - q, q - high).amax(dim=1).clamp_min(-3.2)


def saturation(env: Env) -> torch.Tensor:
    """Torque of the most loaded joint, of its limit."""
    limit = torch.tensor(env.sim.robot.torque_limit_nm)
    return (env.sim.state.joint_torque.abs() / limit).amax(dim=1)


def turned_away_rad(env: Env) -> torch.Tensor:
    """Angle between the robot's heading and the direction of travel of its path."""
    follower = env.follower
    return wrap_angle(env.network.travel_yaw(follower.index, follower.direction) - env.yaw).abs()


def off_path_m(env: Env) -> torch.Tensor:
    """Distance from the line of the path, beyond its half width (negative: within)."""
    follower, net = env.follower, env.network
    point = net.rows[follower.index]
    offset = env.sim.state.root_pos_w[:, :2] - point[:, :2]
    return (offset[:, 1] * point[:, 2] - offset[:, 0] * point[:, 3]).abs() - point[:, 6]


def spin_rad_s(env: Env) -> torch.Tensor:
    """Speed at which the base rolls and pitches."""
    return env.sim.state.root_ang_vel_b[:, :2].norm(dim=1)


def action_change(env: Env) -> torch.Tensor:
    """Largest change of an action in a control step [action units]."""
    return (env.action - env.last_action).abs().amax(dim=1)


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("foot_slip", "a foot slipped", "m/s", slip_m_s),
    Quantity("tilt", "the base tilted", "rad", tilt_rad, smoothed=False),
    Quantity("spin", "the base rolled or pitched fast", "rad/s", spin_rad_s),
    Quantity("base_height", "the base left its height", "m", height_error_m, smoothed=False),
    Quantity("velocity_error", "the velocity was not the commanded one", "m/s", velocity_error_m_s),
    Quantity("joint_limit", "a joint came to its limit", "rad", joint_limit_rad, smoothed=False),
    Quantity("torque_saturation", "a joint's torque was at its limit", "of the limit", saturation),
    Quantity("action_change", "the policy's actions jumped", "1", action_change),
    Quantity("turned_away", "the robot turned away from its path", "rad", turned_away_rad, smoothed=False),
    Quantity("off_path", "the robot left its path", "m", off_path_m, smoothed=False),
)
"""In the order in which ties are named: causes before their consequences."""


def measure_all(env: Env) -> torch.Tensor:
    """All quantities of the state now `[E, Q]`."""
    return torch.stack([quantity.measure(env) for quantity in QUANTITIES], dim=1)
