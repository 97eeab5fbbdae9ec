"""Differences between training environments: physics, gains, kicks, starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaussgym_sim.vecsim import VecSim


@dataclass(frozen=True)
class RandomizeCfg:
    """Uniform ranges; factors multiply nominal values."""

    friction: tuple[float, float] = (0.5, 1.25)
    trunk_mass_factor: tuple[float, float] = (0.85, 1.25)
    trunk_com_m: float = 0.03
    """Half range of the shift of the trunk's centre of mass along each axis [m]."""
    gain_factor: tuple[float, float] = (0.9, 1.1)
    strength_factor: tuple[float, float] = (0.9, 1.1)
    kick_m_s: float = 0.3
    """Half range of kicks along world x and y [m/s]."""
    kick_interval_s: float = 5.0
    """Mean time between kicks [s]; 0 = never."""
    start_joint_rad: float = 0.1
    start_lin_vel_m_s: float = 0.2
    start_yaw_rad: float = 0.4
    start_lateral: float = 0.5
    """Half range of the start's offset across the path, as a fraction of its half width (at most 0.5 m)."""
    camera_pos_m: float = 0.02
    """Half range of the camera's error of position along each of its axes [m]."""
    camera_rot_rad: float = 0.03
    """Half range of the camera's error of rotation about each of its axes [rad]."""
    camera_focal: float = 0.02
    """Half range of the camera's relative error of focal length."""

    @classmethod
    def none(cls) -> RandomizeCfg:
        """Nominal physics, exact starts, no kicks."""
        return cls(
            friction=(1.0, 1.0), trunk_mass_factor=(1.0, 1.0), trunk_com_m=0.0, gain_factor=(1.0, 1.0),
            strength_factor=(1.0, 1.0), kick_m_s=0.0, kick_interval_s=0.0, start_joint_rad=0.0,
            start_lin_vel_m_s=0.0, start_yaw_rad=0.0, start_lateral=0.0, camera_pos_m=0.0, camera_rot_rad=0.0,
            camera_focal=0.0,
        )  # fmt: skip

    @classmethod
    def light(cls) -> RandomizeCfg:
        """The measured quick recipe: kicks and starts vary, physics is nominal."""
        return cls(
            friction=(1.0, 1.0), trunk_mass_factor=(1.0, 1.0), trunk_com_m=0.0, gain_factor=(1.0, 1.0),
            strength_factor=(1.0, 1.0),
        )  # fmt: skip


class Uniform:
    """Uniform draws from one generator."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        """Keep the generator."""
        self.generator, self.device = generator, device

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw float32 of the given shape in [low, high)."""
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low


def randomize_physics(sim: VecSim, env_ids: Tensor, cfg: RandomizeCfg, uniform: Uniform) -> None:
    """Draw friction, payload, gains and strength of envs ``env_ids`` [R]; a range of one nominal value changes nothing."""
    count, joints, robot = len(env_ids), sim.robot.num_joints, sim.robot
    if cfg.friction != (1.0, 1.0):
        sim.set_params(env_ids, friction=uniform(*cfg.friction, count))
    if cfg.trunk_mass_factor != (1.0, 1.0) or cfg.trunk_com_m > 0:
        mass = uniform(*cfg.trunk_mass_factor, count) * robot.trunk_mass_kg
        com = torch.tensor(robot.trunk_com_b, device=sim.device) + uniform(
            -cfg.trunk_com_m, cfg.trunk_com_m, count, 3
        )
        sim.set_params(env_ids, trunk_mass_kg=mass, trunk_com_b=com)
    if cfg.gain_factor != (1.0, 1.0) or cfg.strength_factor != (1.0, 1.0):
        sim.set_params(
            env_ids,
            kp=torch.tensor(robot.kp, device=sim.device) * uniform(*cfg.gain_factor, count, joints),
            kd=torch.tensor(robot.kd, device=sim.device) * uniform(*cfg.gain_factor, count, joints),
            strength=uniform(*cfg.strength_factor, count, joints),
        )


def draw_kicks(cfg: RandomizeCfg, num_envs: int, control_s: float, uniform: Uniform) -> tuple[Tensor, Tensor]:
    """Who is kicked in this control step and by how much: (env ids [R], [R, 3] m/s)."""
    hit = uniform(0.0, 1.0, num_envs) < control_s / cfg.kick_interval_s
    ids = hit.nonzero().squeeze(1)
    delta = uniform(-cfg.kick_m_s, cfg.kick_m_s, len(ids), 3)
    delta[:, 2] = 0.0
    return ids, delta
