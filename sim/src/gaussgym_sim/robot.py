"""Robots: an MJCF out of primitives plus the numbers that a policy needs to command it. A registry by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry

from gaussgym_sim.actuation.actuator_cfg import ActuatorCfg

ROBOT_FOLDER = Path(__file__).parent / "robots"


@dataclass(frozen=True)
class RobotCfg:
    """One legged robot. Per-joint tuples follow ``joint_names``; per-leg tuples follow ``leg_names``.

    The MJCF holds bodies, joints, shapes and one motor a joint, named like it; sensors are added by
    `gaussgym_sim.engines.mujoco_model.robot_spec`. Its base is the body with the free joint.

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
            ``mirror_joints[i]``; () for a robot that is not symmetric. Legs are mirrored in the same way, see `mirror_legs`.
        mirror_legs: leg i of the mirrored robot is leg ``mirror_legs[i]``.
        speed_limit_rad_s: published speed at which each joint's motor has no torque left; () where nobody published it.
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
    speed_limit_rad_s: tuple[float, ...] = ()

    @property
    def num_joints(self) -> int:
        """Number of actuated joints."""
        return len(self.joint_names)


ROBOTS: Registry[Callable[[], RobotCfg]] = Registry(
    "robot",
    "gaussgym.robots",
    {
        "a1": "gaussgym_sim.robots.unitree:a1",
        "anymal_c": "gaussgym_sim.robots.anymal_c:anymal_c",
        "go1": "gaussgym_sim.robots.unitree:go1",
        "go2": "gaussgym_sim.robots.unitree:go2",
        "t1": "gaussgym_sim.robots.t1:t1",
    },
)
"""What makes the robots, by name. Another package adds one by an entry point of group ``gaussgym.robots``."""


def register_robot(name: str, factory: Callable[[], RobotCfg]) -> None:
    """Register a robot for this process; packages may instead declare an entry point of group ``gaussgym.robots``."""
    ROBOTS.own[name] = factory
    get_robot.cache_clear()


def robot_names() -> list[str]:
    """Names of all registered robots."""
    return sorted(ROBOTS.names())


@cache
def get_robot(name: str) -> RobotCfg:
    """The robot registered as ``name``, or that of a file ``name`` that `gaussgym-sim import-robot` wrote.

    Such a file's robot is named after the path as given, so that whatever keeps its name finds it again.

    Raises:
        InputError: no such robot (the message lists those that exist), or a damaged file.
    """
    if name.endswith(".json") and name not in ROBOTS.names():
        from gaussgym_sim.robot_import.robot_file import load_robot

        return replace(load_robot(name), name=name)
    otherwise = ", or the path of a robot.json that `gaussgym-sim import-robot` wrote"
    return ROBOTS.get(name, otherwise=otherwise)()


def with_dc_motors(robot: RobotCfg, *, stall_factor: float = 1.0) -> RobotCfg:
    """The same robot, whose torque falls off with speed as a DC motor's does (`ActuatorCfg` of kind 'dc').

    The line goes from ``stall_factor`` times the torque limit at standstill to none at the published speed limit. With 1 that
    is the cautious reading of a data sheet; for the ANYdrive 3 NVIDIA's Isaac Lab has 1.5 (120 Nm, clipped at 80).

    Raises:
        InputError: the robot's speed limits are not known.
    """
    if not robot.speed_limit_rad_s:
        raise InputError(
            f"robot {robot.name!r} has no speed_limit_rad_s; a DC motor's line needs one a joint"
        )
    actuator = ActuatorCfg(
        kind="dc",
        stall_torque_nm=tuple(stall_factor * limit for limit in robot.torque_limit_nm),
        no_load_speed_rad_s=robot.speed_limit_rad_s,
    )
    actuator.check(robot.num_joints)
    return replace(robot, actuator=actuator)
