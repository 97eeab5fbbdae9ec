"""Unitree A1, Go1 and Go2. Facts and their sources: README.md beside this file."""

from __future__ import annotations

from typing import Any

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.quadruped import quadruped


def _unitree(name: str, **numbers: Any) -> RobotCfg:
    """What is the same in all of them: names of legs, joints and shapes."""
    return quadruped(
        name, legs=("FR", "FL", "RR", "RL"), joints=("hip", "thigh", "calf"), trunk_geoms=("trunk", "head"),
        camera_housing=("head",), **numbers,
    )  # fmt: skip


def a1() -> RobotCfg:
    """Unitree A1."""
    return _unitree(
        "a1",
        front=(0.1, 0.8, -1.6),
        rear=(0.1, 1.0, -1.6),
        torque_limit_nm=(33.5, 33.5, 33.5),
        speed_limit_rad_s=(21.0, 21.0, 21.0),
        kp=40.0,
        kd=1.0,
        foot_radius_m=0.02,
        base_height_m=0.29,
        trunk_mass_kg=6.001,
        trunk_com_b=(0.0, 0.004099317, -0.0004999167),
        camera_pos_b=(0.285, 0.0, 0.05),
        camera_tilt_rad=0.8204,
    )


def go1() -> RobotCfg:
    """Unitree Go1."""
    return _unitree(
        "go1",
        front=(0.1, 0.9, -1.8),
        rear=(0.1, 0.9, -1.8),
        torque_limit_nm=(23.7, 23.7, 35.55),
        speed_limit_rad_s=(30.1, 30.1, 20.06),
        kp=30.0,
        kd=0.7,
        foot_radius_m=0.023,
        base_height_m=0.28,
        trunk_mass_kg=5.204,
        trunk_com_b=(0.0223, 0.002, -0.0005),
        camera_pos_b=(0.29, 0.0, 0.03),
        camera_tilt_rad=0.5236,
    )


def go2() -> RobotCfg:
    """Unitree Go2."""
    return _unitree(
        "go2",
        front=(0.1, 0.8, -1.6),
        rear=(0.1, 1.0, -1.6),
        torque_limit_nm=(23.7, 23.7, 45.43),
        speed_limit_rad_s=(30.1, 30.1, 15.7),
        kp=50.0,
        kd=1.2,
        foot_radius_m=0.022,
        base_height_m=0.31,
        trunk_mass_kg=7.277,
        trunk_com_b=(0.02007917, 0.0, -0.005103489),
        camera_pos_b=(0.32715, 0.0, 0.04297),
        camera_tilt_rad=0.0,
    )
