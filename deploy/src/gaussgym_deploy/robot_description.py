"""What a robot says of itself, to hold a bundle against: joint order, limits, where its camera sits.

``robots/NAME.json`` describes the robots that have links here; a file of one's own has the same form::

    {"format": "gaussgym-robot-description", "version": 1, "name": "go2", "joint_names": [...],
     "joint_pos_limit_rad": [[low, high], ...], "torque_limit_nm": [...], "joint_vel_limit_rad_s": [...],
     "camera": {"position_b_m": [x, y, z], "quat_b_c_wxyz": [w, x, y, z]}}

All but format, version, name and joint_names may be left out: what a robot does not say is not compared. The camera may also
have width, height, fx, fy, cx and cy. A ``robot.json`` of ``gaussgym-sim import-robot`` is read as well.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from .bundle.contents import BundleError, CameraSpec, PolicyBundle
from .bundle.schema import first_problem

__all__ = [
    "RobotDescription",
    "described_robots",
    "find_description",
    "misfits",
    "read_description",
    "require_fit",
]

FOLDER = Path(__file__).with_name("robots")
CAMERA_POSITION_M, CAMERA_ANGLE_RAD, CAMERA_INTRINSICS = 0.03, 0.05, 0.03
"""How far the camera's mount, and (as a share of focal length and image size) its intrinsics, may be from the policy's. Training
varies them by 0.02 m, 0.03 rad and 0.02."""

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_SCHEMA: Dict[str, Any] = {
    "type": "object",
    "required": ["format", "version", "name", "joint_names"],
    "properties": {
        "format": {"const": "gaussgym-robot-description"},
        "version": {"const": 1},
        "name": {"type": "string", "minLength": 1},
        "joint_names": {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
        "joint_pos_limit_rad": {"type": "array", "items": {**_NUMBERS, "minItems": 2, "maxItems": 2}},
        "torque_limit_nm": _NUMBERS,
        "joint_vel_limit_rad_s": _NUMBERS,
        "camera": {
            "type": "object",
            "properties": {
                "position_b_m": {**_NUMBERS, "minItems": 3, "maxItems": 3},
                "quat_b_c_wxyz": {**_NUMBERS, "minItems": 4, "maxItems": 4},
                **{key: {"type": "integer", "minimum": 1} for key in ("width", "height")},
                **{key: {"type": "number"} for key in ("fx", "fy", "cx", "cy")},
            },
        },
    },
}


@dataclass(frozen=True)
class RobotDescription:
    """A robot's own description; None where it does not say.

    Attributes:
        name: Of the robot.
        joint_names: In the order of its link.
        joint_pos_limit: Lower and upper [rad], ``[J, 2]``.
        torque_limit: [N·m], ``[J]``.
        joint_vel_limit: [rad/s], ``[J]``.
        camera: What is known of its camera, names as in :class:`gaussgym_deploy.bundle.CameraSpec`.
    """

    name: str
    joint_names: Tuple[str, ...]
    joint_pos_limit: Optional[np.ndarray]
    torque_limit: Optional[np.ndarray]
    joint_vel_limit: Optional[np.ndarray]
    camera: Mapping[str, Any]


def described_robots() -> List[str]:
    """Names of the robots whose descriptions come with this package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def find_description(robot: str) -> Optional[RobotDescription]:
    """The description of a robot by name or by file; None for a name without one.

    Args:
        robot: Name, or path of a JSON file.

    Raises:
        BundleError: For a file that is missing or does not describe a robot.
    """
    if robot.endswith(".json"):
        return read_description(Path(robot))
    return read_description(FOLDER / f"{robot}.json") if robot in described_robots() else None


def read_description(path: Path) -> RobotDescription:
    """Read a description, or the ``robot.json`` of an imported robot.

    Args:
        path: The file.

    Raises:
        BundleError: When it is missing or does not fit.
    """
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected a robot's description") from None
    except ValueError as error:
        raise BundleError(f"{path}: not valid JSON ({error})") from None
    if isinstance(fields, dict) and fields.get("format") == "gaussgym-robot":
        fields = _of_imported(fields)
    problem = first_problem(fields, _SCHEMA)
    if problem is not None:
        found = "missing" if problem.missing else repr(problem.found)[:80]
        raise BundleError(f"{path}: {problem.where!r} is {found}, expected {problem.expected}")
    joints = len(fields["joint_names"])
    return RobotDescription(
        name=fields["name"],
        joint_names=tuple(fields["joint_names"]),
        joint_pos_limit=_array(path, fields, "joint_pos_limit_rad", (joints, 2)),
        torque_limit=_array(path, fields, "torque_limit_nm", (joints,)),
        joint_vel_limit=_array(path, fields, "joint_vel_limit_rad_s", (joints,)),
        camera=fields.get("camera", {}),
    )


def misfits(bundle: PolicyBundle, robot: RobotDescription) -> List[str]:
    """How a bundle does not fit a robot, one sentence each; empty when it fits.

    A bundle may be more careful than the robot (narrower limits), never less.

    Args:
        bundle: The policy.
        robot: What the robot says of itself.
    """
    if [_plain(name) for name in bundle.joint_names] != [_plain(name) for name in robot.joint_names]:
        return [_joint_order(bundle, robot)]
    found = []
    if robot.joint_pos_limit is not None:
        beyond = np.maximum(
            robot.joint_pos_limit[:, 0] - bundle.joint_pos_limit[:, 0],
            bundle.joint_pos_limit[:, 1] - robot.joint_pos_limit[:, 1],
        )
        found += _beyond(bundle, "joint_pos_limit_rad", beyond, "rad")
    if robot.torque_limit is not None:
        found += _beyond(bundle, "torque_limit_nm", bundle.torque_limit - robot.torque_limit, "N·m")
    if robot.joint_vel_limit is not None:
        found += _beyond(
            bundle, "joint_vel_limit_rad_s", bundle.joint_vel_limit - robot.joint_vel_limit, "rad/s"
        )
    return found + ([] if bundle.camera is None else _camera(bundle.camera, robot))


def require_fit(bundle: PolicyBundle, name: str) -> None:
    """Refuse a bundle that does not fit the description of the robot that it is about to drive.

    Args:
        bundle: The policy.
        name: Of the robot; one without a description fits everything.

    Raises:
        BundleError: The first misfit.
    """
    robot = find_description(name)
    found = [] if robot is None else misfits(bundle, robot)
    if found:
        raise BundleError(f"{bundle.path}: {found[0]}; export the policy for {name} again")


def _plain(joint_name: str) -> str:
    """The same for the two ways in which makers write a joint's name, ``FR_hip`` and ``FR_hip_joint``."""
    return joint_name[: -len("_joint")] if joint_name.endswith("_joint") else joint_name


def _of_imported(fields: Dict[str, Any]) -> Dict[str, Any]:
    """The description inside a ``robot.json`` (joint limits and camera stand in its MJCF)."""
    robot = fields.get("robot")
    robot = robot if isinstance(robot, dict) else {}
    renamed = {"joint_vel_limit_rad_s": "speed_limit_rad_s"}
    keys = ("name", "joint_names", "torque_limit_nm", "joint_vel_limit_rad_s")
    kept = {key: robot.get(renamed.get(key, key)) for key in keys}
    return {
        "format": "gaussgym-robot-description", "version": 1, **{key: value for key, value in kept.items() if value}
    }  # fmt: skip


def _array(path: Path, fields: Mapping[str, Any], key: str, shape: Tuple[int, ...]) -> Optional[np.ndarray]:
    if key not in fields:
        return None
    array = np.asarray(fields[key], dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise BundleError(f"{path}: {key!r} has shape {list(array.shape)}, expected finite {list(shape)}")
    return array


def _joint_order(bundle: PolicyBundle, robot: RobotDescription) -> str:
    ours, theirs = bundle.joint_names, robot.joint_names
    if len(ours) != len(theirs):
        return f"{len(ours)} joints, {robot.name} has {len(theirs)}"
    index = next(i for i, (mine, its) in enumerate(zip(ours, theirs)) if _plain(mine) != _plain(its))
    return f"joint {index} is {ours[index]!r}, on {robot.name} it is {theirs[index]!r}"


def _beyond(bundle: PolicyBundle, key: str, excess: np.ndarray, unit: str) -> List[str]:
    index = int(np.argmax(excess))
    if excess[index] <= 1e-4:  # descriptions are rounded
        return []
    return [f"{key!r} of {bundle.joint_names[index]} is {excess[index]:.4g} {unit} beyond what the robot has"]


def _camera(camera: CameraSpec, robot: RobotDescription) -> List[str]:
    known, found = robot.camera, []
    if "position_b_m" in known:
        distance_m = float(np.linalg.norm(np.subtract(known["position_b_m"], camera.position_b_m)))
        if distance_m > CAMERA_POSITION_M:
            found.append(
                f"the camera sits {distance_m:.3f} m from where it was trained, at most {CAMERA_POSITION_M} m"
            )
    if "quat_b_c_wxyz" in known:
        quat = np.asarray(known["quat_b_c_wxyz"], dtype=np.float64)
        cosine = abs(float(quat @ camera.quat_b_c_wxyz)) / max(float(np.linalg.norm(quat)), 1e-9)
        angle_rad = 2.0 * math.acos(min(1.0, cosine))
        if angle_rad > CAMERA_ANGLE_RAD:
            found.append(f"the camera is turned by {angle_rad:.3f} rad, at most {CAMERA_ANGLE_RAD} rad")
    for key in ("width", "height"):
        if key in known and known[key] != getattr(camera, key):
            found.append(f"the camera's {key} is {known[key]} px, trained with {getattr(camera, key)} px")
    sizes = {"fx": camera.fx, "fy": camera.fy, "cx": camera.width, "cy": camera.height}
    for key, size in sizes.items():
        if key in known and abs(known[key] - getattr(camera, key)) > CAMERA_INTRINSICS * size:
            found.append(
                f"the camera's {key} is {known[key]:.2f} px, trained with {getattr(camera, key):.2f} px"
            )
    return found
