"""Reward terms, each a rate a second; the total is clipped at zero and multiplied by the control step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


class Rewards:
    """Weighted sum of the terms that have a weight, for E envs.

    Attributes:
        names: of the terms that are computed, the task's own last.
        terms: [T, E] weighted terms of the last step, rates a second.
    """

    def __init__(self, cfg: RewardCfg, rough: Tensor, extra: Mapping[str, float]) -> None:
        """Weights of each env, by whether its ground is rough.

        Args:
            cfg: weights on planes; those on rough ground follow from it.
            rough: [E] bool.
            extra: weights of terms that `compute` is given, in their order.
        """
        self._cfgs, self._extra = (cfg, cfg.on_rough_ground()), dict(extra)
        active = [n for n in TERMS if any(getattr(c, n) != 0.0 for c in self._cfgs)]
        self._functions = [TERMS[n] for n in active]
        self.names = (*active, *self._extra)
        self.terms = torch.zeros(len(self.names), len(rough), device=rough.device)
        self._weights = torch.zeros_like(self.terms)
        self.set_rough(rough)

    def set_rough(self, rough: Tensor) -> None:
        """Change which envs stand on rough ground, [E] bool."""
        core = self.names[: len(self._functions)]
        columns = [[getattr(c, n) for n in core] + list(self._extra.values()) for c in self._cfgs]
        self._weights.copy_(torch.tensor(columns, device=rough.device)[rough.long()].T)

    def compute(self, inputs: RewardInputs, extra: Sequence[Tensor] = ()) -> Tensor:
        """Total reward [E] of one control step: control_s x max(0, sum of weighted terms).

        Args:
            inputs: see `RewardInputs`.
            extra: unweighted values [E] of the task's own terms.
        """
        values = [function(inputs) for function in self._functions]
        torch.stack([*values, *extra], out=self.terms).mul_(self._weights)
        return self.terms.sum(dim=0).clamp_(min=0.0).mul_(inputs.control_s)
