"""Booster T1, a humanoid with 23 joints. Facts and their sources: README.md beside this file."""

from __future__ import annotations

from gaussgym_sim.robot import ROBOT_FOLDER, RobotCfg

_ARM = ("Shoulder_Pitch", "Shoulder_Roll", "Elbow_Pitch", "Elbow_Yaw")
_LEG = ("Hip_Pitch", "Hip_Roll", "Hip_Yaw", "Knee_Pitch", "Ankle_Pitch", "Ankle_Roll")
_JOINTS = (
    "AAHead_yaw", "Head_pitch",
    *(f"{side}_{joint}" for side in ("Left", "Right") for joint in _ARM),
    "Waist",
    *(f"{side}_{joint}" for side in ("Left", "Right") for joint in _LEG),
)  # fmt: skip


def _per_joint(head: float, arm: float, waist: float, leg: tuple[float, ...]) -> tuple[float, ...]:
    return (head,) * 2 + (arm,) * 8 + (waist,) + leg * 2


def _mirrored(name: str) -> str:
    """The joint that is this one's mirror image."""
    if name.startswith("Left_"):
        return name.replace("Left_", "Right_")
    return name.replace("Right_", "Left_")


def t1() -> RobotCfg:
    """Booster T1. Joint order is the vendor's: head, left arm, right arm, waist, left leg, right leg."""
    arm, leg = (0.2, 1.35, 0.0, 0.5), (-0.2, 0.0, 0.0, 0.4, -0.2, 0.0)
    left_arm = (arm[0], -arm[1], arm[2], -arm[3])
    return RobotCfg(
        name="t1",
        mjcf=ROBOT_FOLDER / "t1.xml",
        joint_names=_JOINTS,
        leg_names=("left", "right"),
        default_joint_pos=(0.0, 0.5236, *left_arm, *arm, 0.0, *leg, *leg),
        torque_limit_nm=_per_joint(7.0, 18.0, 30.0, (45.0, 30.0, 30.0, 60.0, 20.0, 15.0)),
        speed_limit_rad_s=_per_joint(12.56, 18.84, 10.88, (12.5, 10.9, 10.9, 11.7, 18.8, 12.4)),
        kp=_per_joint(5.0, 20.0, 200.0, (200.0, 200.0, 200.0, 200.0, 50.0, 50.0)),
        kd=_per_joint(0.5, 0.5, 5.0, (5.0, 5.0, 5.0, 5.0, 2.0, 2.0)),
        action_scale=0.25,
        foot_geoms=("left_foot", "right_foot"),
        thigh_geoms=("left_thigh", "right_thigh"),
        trunk_geoms=("trunk", "head", "waist"),
        foot_radius_m=0.015,
        base_height_m=0.66,
        trunk_mass_kg=11.7,
        trunk_com_b=(0.0551365, -1.42058e-06, 0.105062),
        camera_pos_b=(0.195, 0.0, 0.355),
        camera_tilt_rad=0.5236,
        mirror_joints=tuple(_JOINTS.index(_mirrored(name)) for name in _JOINTS),
        mirror_signs=tuple(
            -1.0 if name.lower().endswith(("roll", "yaw", "waist")) else 1.0 for name in _JOINTS
        ),
        mirror_legs=(1, 0),
        camera_housing=("head",),
    )
