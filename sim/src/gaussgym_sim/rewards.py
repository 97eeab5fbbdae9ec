"""Reward terms, each a rate a second; the total is clipped at zero and multiplied by the control step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

FEET_AIR_CAP_S = 0.4
FEET_AIR_TARGET_S = 0.2
STANDING_FACTOR = 3.0


@dataclass(frozen=True)
class RewardCfg:
    """Weight of each term [1/s]; field names are term names."""

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
    tracking_sigma: float = 0.2
    """Width of both tracking terms (m/s)^2, (rad/s)^2; no weight."""

    def on_rough_ground(self) -> RewardCfg:
        """Weights where the ground dictates height, tilt and pose."""
        return replace(
            self, lin_vel_z=-0.7, orientation=-0.7, base_height=-3.0, thigh_contact=-0.3, pose=-0.05
        )


@dataclass
class RewardInputs:
    """What the terms read, [E, ...] each, SI units, frames in the names."""

    command: Tensor
    lin_vel_b: Tensor
    ang_vel_b: Tensor
    gravity_b: Tensor
    joint_pos_offset: Tensor
    joint_vel: Tensor
    last_joint_vel: Tensor
    torque: Tensor
    action: Tensor
    last_action: Tensor
    foot_vel_w: Tensor
    foot_contact: Tensor
    touch_down: Tensor
    foot_air_s: Tensor
    thigh_contact: Tensor
    base_height_error_m: Tensor
    moving: Tensor
    control_s: float
    sigma: float


def _square_sum(x: Tensor) -> Tensor:
    return (x * x).sum(dim=1)


TERMS: dict[str, Callable[[RewardInputs], Tensor]] = {
    "track_lin_vel": lambda s: torch.exp(-_square_sum(s.command[:, :2] - s.lin_vel_b[:, :2]) / s.sigma),
    "track_ang_vel": lambda s: torch.exp(-(s.command[:, 2] - s.ang_vel_b[:, 2]).square() / s.sigma),
    "lin_vel_z": lambda s: s.lin_vel_b[:, 2].square(),
    "ang_vel_xy": lambda s: _square_sum(s.ang_vel_b[:, :2]),
    "orientation": lambda s: _square_sum(s.gravity_b[:, :2]),
    "torque": lambda s: _square_sum(s.torque),
    "joint_acc": lambda s: _square_sum((s.joint_vel - s.last_joint_vel) / s.control_s),
    "action_rate": lambda s: _square_sum(s.action - s.last_action),
    "feet_air_time": lambda s: (
        ((s.foot_air_s.clamp(max=FEET_AIR_CAP_S) - FEET_AIR_TARGET_S) * s.touch_down).sum(dim=1) * s.moving
    ),
    "thigh_contact": lambda s: s.thigh_contact.sum(dim=1, dtype=torch.float32),
    "pose": lambda s: _square_sum(s.joint_pos_offset) * (STANDING_FACTOR - (STANDING_FACTOR - 1) * s.moving),
    "foot_slip": lambda s: (s.foot_vel_w[..., :2].square().sum(dim=2) * s.foot_contact).sum(dim=1),
    "base_height": lambda s: s.base_height_error_m.square(),
    "alive": lambda s: torch.ones_like(s.base_height_error_m),
}
"""Every term unweighted, [E]. `RewardCfg` has one weight each."""


def compute(inputs: RewardInputs, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Total reward of one control step and its terms.

    Args:
        inputs: see `RewardInputs`.
        weights: [T, E] weight of each term for each env, in the order of `TERMS`.

    Returns:
        (reward [E] = control_s x max(0, sum of weighted terms), weighted terms [T, E] as rates a second).
    """
    terms = torch.stack([term(inputs) for term in TERMS.values()]).mul_(weights)
    return terms.sum(dim=0).clamp_(min=0.0).mul_(inputs.control_s), terms


def weight_table(flat: RewardCfg, rough: RewardCfg, is_rough: Tensor) -> Tensor:
    """Weights [T, E]: ``rough`` where ``is_rough`` [E], else ``flat``."""
    columns = [[getattr(cfg, name) for name in TERMS] for cfg in (flat, rough)]
    table = torch.tensor(columns, dtype=torch.float32, device=is_rough.device)
    return table[is_rough.long()].T.contiguous()
