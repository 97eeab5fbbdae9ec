"""What all four-legged robots here share: three joints a leg, right legs before left ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gaussgym_sim.robot import ROBOT_FOLDER, RobotCfg

Pose = tuple[float, float, float]


def quadruped(
    name: str,
    *,
    legs: tuple[str, str, str, str],
    joints: tuple[str, str, str],
    front: Pose,
    rear: Pose,
    torque_limit_nm: Pose,
    speed_limit_rad_s: Pose,
    kp: float,
    kd: float,
    **other: Any,
) -> RobotCfg:
    """The cfg of a robot with four like legs whose first joint abducts.

    Args:
        name: of robot and MJCF.
        legs: front right, front left, rear right, rear left.
        joints: names within a leg, from the hip down.
        front: default pose of the left front leg [rad]; that of the right one is its mirror image.
        rear: the same of the left rear leg.
        torque_limit_nm: of the joints of one leg.
        speed_limit_rad_s: of the joints of one leg.
        kp: position gain of all joints.
        kd: velocity gain of all joints.
        **other: remaining fields of `RobotCfg`.
    """

    def pose(leg: int) -> Sequence[float]:
        abduct, *rest = front if leg < 2 else rear
        return (abduct if leg % 2 else -abduct, *rest)

    return RobotCfg(
        name=name,
        mjcf=ROBOT_FOLDER / f"{name}.xml",
        joint_names=tuple(f"{leg}_{joint}" for leg in legs for joint in joints),
        leg_names=legs,
        default_joint_pos=tuple(q for leg in range(4) for q in pose(leg)),
        torque_limit_nm=torque_limit_nm * 4,
        speed_limit_rad_s=speed_limit_rad_s * 4,
        kp=(kp,) * 12,
        kd=(kd,) * 12,
        action_scale=0.25,
        foot_geoms=tuple(f"{leg}_foot" for leg in legs),
        thigh_geoms=tuple(f"{leg}_thigh" for leg in legs),
        mirror_joints=(3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8),
        mirror_signs=(-1.0, 1.0, 1.0) * 4,
        mirror_legs=(1, 0, 3, 2),
        **other,
    )
