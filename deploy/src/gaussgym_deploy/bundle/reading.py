"""Reading a bundle: manifest against its schema, files against their hashes, arrays against the manifest."""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple, Union

import numpy as np

from .contents import (
    ENCODER_FILE,
    FORMAT,
    GOLDEN_FILE,
    MANIFEST,
    VERSION,
    BundleError,
    CameraSpec,
    LegGeometry,
    ObservationTerm,
    PolicyBundle,
    Recurrence,
)
from .schema import first_problem, load_schema

__all__ = ["check_manifest", "read_bundle", "sha256_of"]

RAW_READINGS = {
    "raw_joint_pos": 0,
    "raw_joint_vel": 0,
    "raw_quat_wxyz": 4,
    "raw_ang_vel_b": 3,
    "raw_command": 3,
}
"""Optional arrays of the golden trace and their widths; 0: one value a joint."""


def read_bundle(directory: Union[str, Path]) -> PolicyBundle:
    """Read and check a bundle; see :meth:`PolicyBundle.load`.

    Args:
        directory: The bundle's folder, or its ``policy.json``.

    Raises:
        BundleError: When anything does not fit.
    """
    directory = Path(directory)
    if directory.name == MANIFEST:
        directory = directory.parent
    path = directory / MANIFEST
    fields = _read_manifest(path)
    camera = _camera(path, fields["camera"])
    _check_files(directory, fields["files"], [] if camera is None else [ENCODER_FILE])
    joints, recurrent = len(fields["joint_names"]), fields["recurrent"]
    if camera is not None and fields["feature_size"] < 1:
        raise _error(
            path, "feature_size", fields["feature_size"], "a whole number >= 1 for a policy that sees"
        )
    arrays = {
        key: _array(path, key, fields[key], (joints, 2) if key == "joint_pos_limit_rad" else (joints,))
        for key in (
            "default_joint_pos_rad", "kp_nm_per_rad", "kd_nms_per_rad", "action_scale_rad", "torque_limit_nm",
            "joint_pos_limit_rad", "joint_vel_limit_rad_s",
        )
    }  # fmt: skip
    bundle = PolicyBundle(
        path=directory,
        robot=fields["robot"],
        joint_names=tuple(fields["joint_names"]),
        observation=tuple(_term(path, index, entry) for index, entry in enumerate(fields["observation"])),
        default_joint_pos=arrays["default_joint_pos_rad"],
        kp=arrays["kp_nm_per_rad"],
        kd=arrays["kd_nms_per_rad"],
        action_scale=arrays["action_scale_rad"],
        action_clip=math.inf if fields["action_clip"] is None else float(fields["action_clip"]),
        torque_limit=arrays["torque_limit_nm"],
        joint_pos_limit=arrays["joint_pos_limit_rad"],
        joint_vel_limit=arrays["joint_vel_limit_rad_s"],
        control_hz=float(fields["control_hz"]),
        camera_hz=float(fields["camera_hz"]),
        camera=camera,
        feature_size=0 if camera is None else int(fields["feature_size"]),
        recurrent=None
        if recurrent is None
        else Recurrence(int(recurrent["layers"]), int(recurrent["hidden"])),
        guards={key: float(value) for key, value in fields["guards"].items()},
        training=fields["training"],
        licence=fields["licence"],
        golden=_read_golden(directory / GOLDEN_FILE),
        legs=tuple(_leg(path, index, entry, joints) for index, entry in enumerate(fields.get("legs", []))),
    )
    _check_consistency(bundle)
    return bundle


def _leg(path: Path, index: int, entry: Dict[str, Any], num_joints: int) -> LegGeometry:
    where, count = f"legs[{index}]", len(entry["joints"])
    if not all(0 <= joint < num_joints for joint in entry["joints"]):
        raise _error(path, f"{where}.joints", entry["joints"], f"numbers of joints, 0 to {num_joints - 1}")
    rows = {
        key: tuple(tuple(row) for row in _array(path, f"{where}.{key}", entry[key], (count, width)).tolist())
        for key, width in (("origins_m", 3), ("quats_wxyz", 4), ("axes", 3))
    }
    return LegGeometry(
        name=entry["name"],
        joints=tuple(entry["joints"]),
        foot_m=tuple(_array(path, f"{where}.foot_m", entry["foot_m"], (3,)).tolist()),
        foot_radius_m=float(entry["foot_radius_m"]),
        **rows,
    )


def check_manifest(path: Path, fields: Any) -> None:
    """Hold a manifest against the schema.

    Args:
        path: Of the manifest, for errors.
        fields: As ``json.load`` gives it.

    Raises:
        BundleError: For the first thing that does not fit, with what was found and what was expected.
    """
    for where, number in _numbers("", fields):
        if not math.isfinite(number):
            raise _error(path, where, number, "a finite number")
    problem = first_problem(fields, load_schema())
    if problem is None:
        return
    if problem.missing:
        raise BundleError(f"{path}: {problem.where!r} is missing; export the policy again")
    raise _error(path, problem.where, problem.found, problem.expected)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _error(path: Path, key: str, found: Any, expected: str) -> BundleError:
    shown = repr(found)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return BundleError(f"{path}: {key!r} is {shown}, expected {expected}; export the policy again")


def _numbers(where: str, value: Any) -> Iterator[Tuple[str, float]]:
    """All numbers of a JSON value with their paths."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(f"{where}.{key}" if where else str(key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _numbers(f"{where}[{index}]", item)
    elif isinstance(value, float):
        yield where, value


def _read_manifest(path: Path) -> Dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected the manifest of a policy bundle") from None
    except UnicodeDecodeError:
        raise BundleError(f"{path}: not text; export the policy again") from None

    def no_constant(name: str) -> None:
        raise BundleError(f"{path}: holds {name}, expected finite numbers; export the policy again")

    try:
        fields = json.loads(text, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        raise BundleError(f"{path}: not valid JSON ({error}); export the policy again") from None
    if not isinstance(fields, dict):
        raise BundleError(f"{path}: holds a {type(fields).__name__}, expected an object")
    if fields.get("format") != FORMAT:
        raise BundleError(f"{path}: format is {fields.get('format')!r}, expected {FORMAT!r}")
    if fields.get("version") != VERSION:
        raise BundleError(
            f"{path}: version {fields.get('version')!r} is unknown, this runtime reads {VERSION};"
            " export the policy again or upgrade"
        )
    check_manifest(path, fields)
    return fields


def _array(path: Path, key: str, value: Any, shape: Tuple[int, ...]) -> np.ndarray:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise _error(path, key, value, f"numbers of shape {list(shape)}")
    array.flags.writeable = False
    return array


def _term(path: Path, index: int, entry: Dict[str, Any]) -> ObservationTerm:
    scale, clip, size = entry["scale"], entry.get("clip"), int(entry["size"])
    if isinstance(scale, list):
        if len(scale) != size:
            raise _error(path, f"observation[{index}].scale", scale, f"one number or {size}")
        scale = tuple(float(value) for value in scale)
    else:
        scale = float(scale)
    return ObservationTerm(entry["name"], size, scale, None if clip is None else float(clip))


def _camera(path: Path, value: Optional[Dict[str, Any]]) -> Optional[CameraSpec]:
    if value is None:
        return None
    quat = value["quat_b_c_wxyz"]
    if abs(float(np.linalg.norm(quat)) - 1.0) > 1e-3:
        raise _error(path, "camera.quat_b_c_wxyz", quat, "a unit quaternion")
    position = tuple(float(item) for item in value["position_b_m"])
    return CameraSpec(
        width=int(value["width"]),
        height=int(value["height"]),
        position_b_m=(position[0], position[1], position[2]),
        quat_b_c_wxyz=(float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])),
        **{name: float(value[name]) for name in ("fx", "fy", "cx", "cy")},
    )


def _check_files(directory: Path, records: Dict[str, Dict[str, Any]], needed: Sequence[str]) -> None:
    for name in needed:
        if name not in records:
            raise BundleError(
                f"{directory / MANIFEST}: 'files' does not list {name}; export the policy again"
            )
    for name, record in records.items():
        path = directory / name
        if not path.is_file():
            raise BundleError(
                f"{path}: missing, though the manifest lists it; copy or export the bundle again"
            )
        size = path.stat().st_size
        if size != record["bytes"]:
            raise BundleError(
                f"{path}: {size} bytes, the manifest says {record['bytes']}; copy or export the bundle again"
            )
        found = sha256_of(path)
        if found != record["sha256"]:
            raise BundleError(
                f"{path}: sha256 {found[:12]} differs from the manifest's {record['sha256'][:12]};"
                " the file was changed: copy or export the bundle again"
            )


def _read_golden(path: Path) -> Dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise BundleError(f"{path}: not a readable npz file ({error}); export the policy again") from None


def _check_consistency(bundle: PolicyBundle) -> None:
    """Checks that need more than one field."""
    path = bundle.path / MANIFEST
    lower, upper = bundle.joint_pos_limit[:, 0], bundle.joint_pos_limit[:, 1]
    if not (lower < upper).all():
        raise BundleError(f"{path}: 'joint_pos_limit_rad' has a lower limit that is not below the upper one")
    outside = (bundle.default_joint_pos < lower) | (bundle.default_joint_pos > upper)
    if outside.any():
        names = [name for name, bad in zip(bundle.joint_names, outside) if bad]
        raise BundleError(
            f"{path}: 'default_joint_pos_rad' is outside 'joint_pos_limit_rad' for {', '.join(names)}"
        )
    if bundle.camera_hz > bundle.control_hz:
        raise BundleError(
            f"{path}: 'camera_hz' {bundle.camera_hz:g} is above 'control_hz' {bundle.control_hz:g}"
        )
    _check_golden(bundle)


def _check_golden(bundle: PolicyBundle) -> None:
    golden, path, joints = bundle.golden, bundle.path / GOLDEN_FILE, len(bundle.joint_names)
    if "proprio" not in golden or golden["proprio"].ndim != 2 or not len(golden["proprio"]):
        raise BundleError(
            f"{path}: 'proprio' is missing or not a table with at least one step; export the policy again"
        )
    steps = len(golden["proprio"])
    expected = {"proprio": (steps, bundle.proprio_size), "reset": (steps,), "actions": (steps, joints)}
    if bundle.camera is not None:
        frames = len(golden["rgb"]) if "rgb" in golden and golden["rgb"].ndim else 0
        expected["rgb"] = (frames, 3, bundle.camera.height, bundle.camera.width)
        expected["frame"] = (steps,)
    if any(key in golden for key in RAW_READINGS):
        expected.update({key: (steps, size or joints) for key, size in RAW_READINGS.items()})
    for key, shape in expected.items():
        if key not in golden:
            raise BundleError(f"{path}: {key!r} is missing; export the policy again")
        array = golden[key]
        if array.shape != shape:
            raise BundleError(
                f"{path}: {key!r} has shape {list(array.shape)}, the manifest asks for {list(shape)}; export again"
            )
        kind = {"rgb": "u", "frame": "iu", "reset": "b"}.get(key, "f")
        if array.dtype.kind not in kind or (key == "rgb" and array.dtype != np.uint8):
            raise BundleError(f"{path}: {key!r} holds {array.dtype}; export the policy again")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BundleError(f"{path}: {key!r} holds NaN or infinity; export the policy again")
    if not golden["reset"][0]:
        raise BundleError(f"{path}: the trace does not begin with a reset; export the policy again")
    if bundle.camera is not None and not (
        len(golden["rgb"]) and golden["frame"].min() >= 0 and golden["frame"].max() < len(golden["rgb"])
    ):
        raise BundleError(f"{path}: 'frame' names images that 'rgb' does not hold; export the policy again")
