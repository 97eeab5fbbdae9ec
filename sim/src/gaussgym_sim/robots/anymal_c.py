"""ANYbotics ANYmal C. Facts and their sources: README.md beside this file."""

from __future__ import annotations

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.quadruped import quadruped


def anymal_c() -> RobotCfg:
    """ANYmal C. Its legs are ordered RF, LF, RH, LH, so that they correspond to those of the other quadrupeds."""
    return quadruped(
        "anymal_c",
        legs=("RF", "LF", "RH", "LH"),
        joints=("HAA", "HFE", "KFE"),
        front=(0.0, 0.4, -0.8),
        rear=(0.0, -0.4, 0.8),
        torque_limit_nm=(80.0, 80.0, 80.0),
        speed_limit_rad_s=(7.5, 7.5, 7.5),
        kp=160.0,
        kd=4.0,
        trunk_geoms=("trunk", "face", "tail"),
        foot_radius_m=0.03,
        base_height_m=0.55,
        trunk_mass_kg=26.37317,
        trunk_com_b=(-0.01779394, -0.0001781696, 0.008504339),
        camera_pos_b=(0.4467, 0.0, 0.1776),
        camera_tilt_rad=0.0,
    )
