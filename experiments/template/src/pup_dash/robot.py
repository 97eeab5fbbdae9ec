"""The robot: an MJCF of our own beside this file, and the numbers that a policy needs."""

from dataclasses import replace
from pathlib import Path

from gaussgym_sim.robot import RobotCfg
from gaussgym_sim.robots.quadruped import quadruped


def pup() -> RobotCfg:
    """Four kilograms on four legs. Two legs, or six? Fill in `RobotCfg` itself."""
    legs, joints = ("FR", "FL", "RR", "RL"), ("hip", "thigh", "calf")
    cfg = quadruped(
        "pup", legs=legs, joints=joints, front=(0.0, 0.7, -1.4), rear=(0.0, 0.7, -1.4), kp=20.0, kd=0.5,
        torque_limit_nm=(8.0, 8.0, 8.0), speed_limit_rad_s=(25.0, 25.0, 25.0), trunk_geoms=("trunk",),
        foot_radius_m=0.02, base_height_m=0.24, trunk_mass_kg=2.0, trunk_com_b=(0.0, 0.0, 0.0),
        camera_pos_b=(0.17, 0.0, 0.03), camera_tilt_rad=0.3,
    )  # fmt: skip
    return replace(cfg, mjcf=Path(__file__).with_name("pup.xml"))
