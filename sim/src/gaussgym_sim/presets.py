"""Named ranges of randomization: none, the quick recipe, those of gauss_gym's robots, and the widest that are supported.

gauss_gym's are those of its released code (`escontra/gauss_gym`, arXiv 2510.15352), with what was meant where the code does
something else: its motor strength scales targets (here: torques), its joint friction follows the torque's sign (here: opposes
motion), camera errors are added along world axes (here: they turn with the body). Its friction of joints and its compliance are
those of PhysX; here they are dry friction [Nm] and softness of `gaussgym_sim.vecsim.PARAMS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from gaussgym_scene.errors import InputError

from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.sensors.camera_clock import CameraClockCfg
from gaussgym_sim.sensors.sensing import SensingCfg


def _gaussgym(trunk_mass_factor: tuple[float, float], joint_friction_nm: tuple[float, float]) -> RandomizeCfg:
    """What all robots of gauss_gym share."""
    return replace(
        RandomizeCfg.none(),
        friction=(0.3, 2.0),
        restitution=(0.1, 0.9),
        compliance=(0.0, 1.5),
        trunk_mass_factor=trunk_mass_factor,
        trunk_com_m=(0.1, 0.1, 0.05),
        link_mass_factor=(0.9, 1.1),
        gain_factor=(0.9, 1.1),
        strength_factor=(0.8, 1.2),
        motor_offset_rad=0.03,
        armature_kg_m2=(0.0, 0.015),
        joint_friction_nm=joint_friction_nm,
        kick_m_s=1.5,
        kick_rad_s=1.5,
        kick_interval_s=4.0,
        push_force_n=10.0,
        push_torque_nm=2.0,
        push_duration_s=1.0,
        push_interval_s=8.0,
        start_normal=True,
        start_joint_rad=0.05,
        start_lin_vel_m_s=0.1,
        camera_pos_m=0.02,
        camera_rot_rad=0.03,
        camera_focal_std=0.05,  # 3 of 60.6 pixels
        camera_principal_std_px=1.0,
        camera_clock=CameraClockCfg(period_s=(0.05, 0.15), latency_s=(0.12, 0.30), redraw_s=3.0),
        sensing=SensingCfg(
            imu_latency_s=(0.0, 0.0475),
            action_latency_s=(0.0, 0.0275),
            same_latency=True,
            latency_redraw_s=3.0,
            ang_vel_noise_rad_s=(0.1, 0.35),
            gravity_noise=(0.025, 0.1),
            joint_pos_noise_rad=(0.005, 0.02),
            joint_vel_noise_rad_s=(0.3, 1.5),
        ),
    )


def _a1() -> RandomizeCfg:
    return _gaussgym((0.6, 1.4), (0.0, 0.1))


def _t1() -> RandomizeCfg:
    """Dry friction is the environment's own (0 to 2 Nm) rather than PhysX's (0 to 0.01)."""
    return replace(_gaussgym((0.8, 1.2), (0.0, 2.0)), kd_offset=(("ankle", -0.5, 2.0),))


def _anymal_c() -> RandomizeCfg:
    return replace(_gaussgym((0.8, 1.2), (0.0, 0.05)), kd_factor=(0.95, 1.05), start_yaw_rad=1.5)


def _extreme() -> RandomizeCfg:
    """Everything, as far as it is supported.

    The inertia of rotors goes down to 0.8 of each joint's own and no further: gains act once a 5 ms substep, which is stable only
    while kd dt < 2 I (ANYmal's shanks without their rotors are not, with these gains).
    """
    return RandomizeCfg(
        friction=(0.05, 2.5), restitution=(0.0, 0.95), compliance=(0.0, 3.0), trunk_mass_factor=(0.5, 1.8),
        trunk_com_m=(0.15, 0.1, 0.08), link_mass_factor=(0.7, 1.4), gain_factor=(0.6, 1.5), kd_factor=(0.5, 1.5),
        strength_factor=(0.5, 1.3), motor_offset_rad=0.1, delay_s=(0.0, 0.06), armature_factor=(0.8, 3.0),
        joint_damping_nm_s=(0.0, 2.0), joint_friction_nm=(0.0, 2.0), gravity_m_s2=1.0, kick_m_s=2.0, kick_rad_s=3.0,
        kick_interval_s=2.0, push_force_n=60.0, push_torque_nm=10.0, push_duration_s=1.0, push_interval_s=3.0,
        start_joint_rad=0.3, start_joint_vel_rad_s=2.0, start_lin_vel_m_s=1.0, start_ang_vel_rad_s=1.0,
        start_yaw_rad=math.pi, start_tilt_rad=0.3, start_lateral=1.0, camera_pos_m=0.05, camera_rot_rad=0.1,
        camera_focal=0.1, camera_focal_std=0.05, camera_principal_std_px=3.0,
        camera_clock=CameraClockCfg(period_s=(0.02, 0.3), jitter_s=0.01, latency_s=(0.0, 0.3), redraw_s=1.0),
        sensing=SensingCfg(
            encoder_bias_rad=0.05, gyro_bias_rad_s=0.2, imu_tilt_rad=0.1, imu_latency_s=(0.0, 0.1),
            joint_latency_s=(0.0, 0.1), command_latency_s=(0.0, 0.2), action_latency_s=(0.0, 0.1),
            latency_redraw_s=1.0, ang_vel_noise_rad_s=(0.0, 1.0), gravity_noise=(0.0, 0.2),
            joint_pos_noise_rad=(0.0, 0.05), joint_vel_noise_rad_s=(0.0, 3.0),
        ),
    )  # fmt: skip


PRESETS: dict[str, Callable[[], RandomizeCfg]] = {
    "none": RandomizeCfg.none,
    "light": RandomizeCfg.light,
    "default": RandomizeCfg,
    "gaussgym_a1": _a1,
    "gaussgym_t1": _t1,
    "gaussgym_anymal_c": _anymal_c,
    "extreme": _extreme,
}


def randomize_preset(name: str) -> RandomizeCfg:
    """Ranges by name.

    Raises:
        InputError: no such preset; the message lists those that exist.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset of randomization {name!r}; choose one of: {', '.join(PRESETS)}")
    return PRESETS[name]()
