"""Robots as files: `robot.json` (a `RobotCfg` without code) beside `robot.xml` (its MJCF)."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gaussgym_scene.artifact import ArtifactWriter, read_artifact
from gaussgym_scene.errors import InputError

from gaussgym_sim.actuation.actuator_cfg import ActuatorCfg
from gaussgym_sim.robot import RobotCfg

FORMAT, VERSION = "gaussgym-robot", 1
MANIFEST, MJCF = "robot.json", "robot.xml"
_PER_JOINT = ("joint_names", "default_joint_pos", "torque_limit_nm", "kp", "kd")
_PER_JOINT_OR_NONE = ("mirror_joints", "mirror_signs", "speed_limit_rad_s")
_PER_LEG = ("leg_names", "foot_geoms", "thigh_geoms", "mirror_legs")
_TEXTS = {"joint_names", "leg_names", "foot_geoms", "thigh_geoms", "trunk_geoms", "camera_housing"}


def save_robot(robot: RobotCfg, mjcf: str, folder: Path, *, notes: tuple[str, ...] = ()) -> Path:
    """Write a robot's folder.

    Args:
        robot: its ``mjcf`` is left out; the file beside takes its place.
        mjcf: text of the model.
        folder: replaced as a whole.
        notes: what a reader should know, one line each.

    Returns:
        The path of `robot.json`. Its numbers may be edited by hand; `robot.xml` may not (its hash is kept).
    """
    if robot.actuator.net is not None:
        raise InputError(
            f"robot {robot.name!r}: an actuator network does not go into {MANIFEST}; save it without"
        )
    with ArtifactWriter(folder, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        (writer.path / MJCF).write_text(mjcf)
        values = asdict(robot)
        del values["mjcf"], values["actuator"]["net"]
        writer.fields |= {"robot": values, "notes": list(notes)}
    return folder / MANIFEST


def load_robot(path: Path | str) -> RobotCfg:
    """Read what `save_robot` wrote.

    Args:
        path: `robot.json` or its folder.

    Raises:
        InputError: a damaged or foreign file, or a field that is missing, of the wrong kind or of the wrong length.
    """
    path = Path(path)
    folder = path.parent if path.name == MANIFEST else path
    values = read_artifact(folder, manifest=MANIFEST, format=FORMAT, versions=(VERSION,)).get("robot")
    what = folder / MANIFEST
    if not isinstance(values, dict):
        raise InputError(f"{what}: 'robot' is {type(values).__name__}, expected an object")
    names = {f.name for f in fields(RobotCfg)} - {"mjcf"}
    if set(values) != names:
        odd = sorted(set(values) ^ names)
        raise InputError(f"{what}: fields {', '.join(odd)} are missing or unknown; import the robot again")
    actuator = values.pop("actuator")
    if not isinstance(actuator, dict) or not set(actuator) <= {f.name for f in fields(ActuatorCfg)} - {"net"}:
        raise InputError(
            f"{what}: 'actuator' is {actuator!r}, expected kind, stall_torque_nm and no_load_speed_rad_s"
        )
    motor = {key: _value(what, key, value) for key, value in actuator.items()}
    robot = RobotCfg(
        mjcf=folder / MJCF,
        actuator=ActuatorCfg(**motor),
        **{k: _value(what, k, v) for k, v in values.items()},
    )
    _check_lengths(what, robot)
    return robot


def _value(what: Path, name: str, value: Any) -> Any:
    """A field's value, lists as tuples; refuse what is neither text nor a finite number."""
    kind = str if name in _TEXTS or name in ("name", "kind") else (int, float)
    items = value if isinstance(value, list) else [value]
    listed = isinstance(value, list) == (name not in _SINGLE)
    if not listed or not all(isinstance(v, kind) and not isinstance(v, bool) for v in items):
        raise InputError(f"{what}: {name!r} is {value!r}, expected {'text' if kind is str else 'numbers'}")
    if kind is not str and not all(math.isfinite(v) for v in items):
        raise InputError(f"{what}: {name!r} is {value!r}, expected finite numbers")
    return tuple(value) if isinstance(value, list) else value


_SINGLE = {
    "name",
    "kind",
    "action_scale",
    "foot_radius_m",
    "base_height_m",
    "trunk_mass_kg",
    "camera_tilt_rad",
}


def _check_lengths(what: Path, robot: RobotCfg) -> None:
    joints, legs = robot.num_joints, len(robot.leg_names)
    lengths = [(n, joints, False) for n in _PER_JOINT] + [(n, joints, True) for n in _PER_JOINT_OR_NONE]
    lengths += [(n, legs, False) for n in _PER_LEG]
    lengths += [("trunk_com_b", 3, False), ("camera_pos_b", 3, False)]
    for name, length, may_be_empty in lengths:
        found = len(getattr(robot, name))
        if found != length and not (may_be_empty and found == 0):
            raise InputError(f"{what}: {name!r} has {found} entries, expected {length}")
    for name, size in (("mirror_joints", joints), ("mirror_legs", legs)):
        values = getattr(robot, name)
        if values and sorted(values) != list(range(size)):
            raise InputError(f"{what}: {name!r} is {values}, expected each of 0 to {size - 1} once")
    robot.actuator.check(joints)
