"""Robots: an MJCF out of primitives plus the numbers that a policy needs to command it. A registry by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from gaussgym_scene.errors import InputError

from gaussgym_sim.actuators import ActuatorCfg

ENTRY_POINT_GROUP = "gaussgym.robots"
ROBOT_FOLDER = Path(__file__).parent / "robots"


@dataclass(frozen=True)
class RobotCfg:
    """One legged robot. Per-joint tuples follow ``joint_names``; per-leg tuples follow ``leg_names``.

    The MJCF holds bodies, joints, shapes and one motor a joint, named like it; sensors are added by
    `gaussgym_sim.mujoco_model.robot_spec`. Its base is the body with the free joint.

    Attributes:
        name: registry name.
        mjcf: path of the model.
        joint_names: actuated joints in the order of actions and observations.
        leg_names: legs in the order of the joints.
        default_joint_pos: pose that actions are offsets to [rad].
        torque_limit_nm: symmetric limit of each joint's torque.
        kp: position gain of each joint [Nm/rad].
        kd: velocity gain of each joint [Nm s/rad].
        action_scale: [rad] per unit of action.
        foot_geoms: one shape a leg, its sole.
        thigh_geoms: one shape a leg, whose contacts cost reward.
        trunk_geoms: shapes whose contacts end an episode.
        foot_radius_m: height of a foot shape's centre over the ground when it stands there.
        base_height_m: height of the base origin over the ground when walking.
        trunk_mass_kg, trunk_com_b: nominal mass and centre of mass [m] of the base, as in the MJCF.
        camera_pos_b: camera centre in the base frame [m].
        camera_tilt_rad: downward tilt of the optical axis below +x of the base.
        camera_housing: geoms around the camera that it never sees itself, though its error of position may put it inside.
        actuator: how targets become torques.
        mirror_joints, mirror_signs: left-right reflection: joint i of the mirrored robot is ``mirror_signs[i]`` times joint
            ``mirror_joints[i]``. Legs are mirrored in the same way, see `mirror_legs`.
        mirror_legs: leg i of the mirrored robot is leg ``mirror_legs[i]``.
    """

    name: str
    mjcf: Path
    joint_names: tuple[str, ...]
    leg_names: tuple[str, ...]
    default_joint_pos: tuple[float, ...]
    torque_limit_nm: tuple[float, ...]
    kp: tuple[float, ...]
    kd: tuple[float, ...]
    action_scale: float
    foot_geoms: tuple[str, ...]
    thigh_geoms: tuple[str, ...]
    trunk_geoms: tuple[str, ...]
    foot_radius_m: float
    base_height_m: float
    trunk_mass_kg: float
    trunk_com_b: tuple[float, float, float]
    camera_pos_b: tuple[float, float, float]
    camera_tilt_rad: float
    mirror_joints: tuple[int, ...]
    mirror_signs: tuple[float, ...]
    mirror_legs: tuple[int, ...]
    camera_housing: tuple[str, ...] = ()
    actuator: ActuatorCfg = field(default_factory=ActuatorCfg)

    @property
    def num_joints(self) -> int:
        """Number of actuated joints."""
        return len(self.joint_names)


_LEGS = ("FR", "FL", "RR", "RL")


def _go1() -> RobotCfg:
    return RobotCfg(
        name="go1",
        mjcf=ROBOT_FOLDER / "go1.xml",
        joint_names=tuple(f"{leg}_{joint}" for leg in _LEGS for joint in ("hip", "thigh", "calf")),
        leg_names=_LEGS,
        default_joint_pos=tuple(q for leg in _LEGS for q in (-0.1 if leg[1] == "R" else 0.1, 0.9, -1.8)),
        torque_limit_nm=(23.7, 23.7, 35.55) * 4,
        kp=(30.0,) * 12,
        kd=(0.7,) * 12,
        action_scale=0.25,
        foot_geoms=tuple(f"{leg}_foot" for leg in _LEGS),
        thigh_geoms=tuple(f"{leg}_thigh" for leg in _LEGS),
        trunk_geoms=("trunk", "head"),
        foot_radius_m=0.023,
        base_height_m=0.28,
        trunk_mass_kg=5.204,
        trunk_com_b=(0.0223, 0.002, -0.0005),
        camera_pos_b=(0.29, 0.0, 0.03),
        camera_tilt_rad=0.5236,
        mirror_joints=(3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8),
        mirror_signs=(-1.0, 1.0, 1.0) * 4,
        mirror_legs=(1, 0, 3, 2),
        camera_housing=("head",),
    )


_REGISTRY: dict[str, Callable[[], RobotCfg]] = {"go1": _go1}


def register_robot(name: str, factory: Callable[[], RobotCfg]) -> None:
    """Register a robot for this process; packages may instead declare an entry point of group ``gaussgym.robots``."""
    _REGISTRY[name] = factory
    get_robot.cache_clear()


def robot_names() -> list[str]:
    """Names of all registered robots."""
    return sorted({*_REGISTRY, *(e.name for e in entry_points(group=ENTRY_POINT_GROUP))})


@cache
def get_robot(name: str) -> RobotCfg:
    """The robot registered as ``name``.

    Raises:
        InputError: no such robot; the message lists those that exist.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]()
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            return entry.load()()
    raise InputError(f"unknown robot {name!r}; choose one of: {', '.join(robot_names())}")
