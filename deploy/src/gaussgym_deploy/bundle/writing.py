"""Writing a bundle: everything is checked, the golden trace replayed, and only then it takes its place."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from .contents import (
    ENCODER_FILE,
    FORMAT,
    GOLDEN_FILE,
    MANIFEST,
    POLICY_FILE,
    VERSION,
    BundleError,
    CameraSpec,
    LegGeometry,
    ObservationTerm,
    PolicyBundle,
    Recurrence,
)
from .onnx_header import read_onnx_header, require_readable
from .reading import sha256_of

__all__ = ["CONVENTIONS", "write_bundle"]

NORMALIZATION_BAKED_IN = "inside policy.onnx: feed the scaled terms as they are"
CONVENTIONS = {
    "axes": "robot base +X forward, +Y left, +Z up; camera +X right, +Y down, +Z forward; right-handed; SI units",
    "quaternions": "Hamilton, unit, wxyz; quat_b_c takes camera vectors to base vectors",
    "target": "default_joint_pos_rad + action_scale_rad * clip(action, -action_clip, action_clip), held for one control period",
    "torque": "kp_nm_per_rad * (target - joint_pos) - kd_nms_per_rad * joint_vel, at the motor's own rate",
    "proprio": "terms in order, each value * scale, then limited to +-clip where clip is not null",
    "ang_vel_b": "angular velocity of the base in base axes [rad/s]",
    "gravity_b": "world's down direction in base axes, unit vector",
    "command": "wanted v_x, v_y [m/s] and yaw rate [rad/s] of the base in base axes",
    "joint_pos_offset": "joint angles minus default_joint_pos_rad [rad]",
    "joint_vel": "joint velocities [rad/s]",
    "last_action": "the policy's previous action after action_clip, before its scale; zero after a reset",
    "rgb": "uint8 0 ... 255, red green blue, [1, 3, height, width], row 0 on top; encode every new frame once",
    "memory": "h_in of a step is h_out of the step before; zero after a reset",
}
"""Said in every manifest, for those who run a bundle without this package."""


def write_bundle(
    directory: Union[str, Path],
    *,
    robot: str,
    joint_names: Sequence[str],
    observation: Sequence[ObservationTerm],
    default_joint_pos: Any,
    kp: Any,
    kd: Any,
    action_scale: Any,
    torque_limit: Any,
    joint_pos_limit: Any,
    joint_vel_limit: Any,
    policy_onnx: Union[bytes, str, Path],
    golden: Mapping[str, np.ndarray],
    encoder_onnx: Union[bytes, str, Path, None] = None,
    camera: Optional[CameraSpec] = None,
    feature_size: int = 0,
    recurrent: Optional[Recurrence] = None,
    action_clip: Optional[float] = None,
    control_hz: float = 50.0,
    camera_hz: float = 10.0,
    guards: Optional[Mapping[str, float]] = None,
    training: Optional[Mapping[str, Any]] = None,
    licence: str = "Apache-2.0",
    legs: Sequence[LegGeometry] = (),
) -> Path:
    """Write a bundle, check it (networks opened, golden trace replayed), and only then put it in its place.

    Scalars given for per-joint values are repeated for all joints. See :class:`PolicyBundle` for units and the module's
    text for ``golden``.

    Args:
        directory: The bundle's folder; an older bundle there is replaced.
        robot: Name of the robot.
        joint_names: In the order of all joint arrays.
        observation: Terms of ``proprio``, in order.
        default_joint_pos: Pose of a zero action [rad].
        kp: [N·m/rad].
        kd: [N·m·s/rad].
        action_scale: [rad] per unit of action.
        torque_limit: [N·m].
        joint_pos_limit: Lower and upper [rad], ``[J, 2]``.
        joint_vel_limit: [rad/s].
        policy_onnx: The network's bytes, or its file (weights inside, no external data).
        golden: Arrays of ``golden.npz``.
        encoder_onnx: The encoder's bytes or file; needed with ``camera``.
        camera: None for a blind policy.
        feature_size: Length of the encoder's output.
        recurrent: None for a feed-forward policy.
        action_clip: None where training did not clip.
        control_hz: Rate of the policy [1/s].
        camera_hz: Rate of camera frames [1/s].
        guards: Overrides of :class:`gaussgym_deploy.guards.GuardLimits`.
        training: Where the policy comes from; plain JSON.
        licence: SPDX name.
        legs: Geometry of the legs, for odometry; not written where there is none.

    Returns:
        The path of ``policy.json``.

    Raises:
        BundleError: When what was given does not make a usable bundle; nothing is then left in ``directory``.
    """
    directory = Path(directory)
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(str(partial), ignore_errors=True)
    partial.mkdir(parents=True)
    joints = len(joint_names)

    def per_joint(value: Any) -> Any:
        return np.broadcast_to(np.asarray(value, dtype=np.float64), (joints,)).tolist()

    sizes = {"proprio": [1, sum(term.size for term in observation)], "actions": [1, joints]}
    if camera is not None:
        sizes.update(rgb=[1, 3, camera.height, camera.width], feature=[1, int(feature_size)])
    if recurrent is not None:
        sizes.update(
            h_in=[recurrent.layers, 1, recurrent.hidden], h_out=[recurrent.layers, 1, recurrent.hidden]
        )
    try:
        networks = {"policy": _write_network(partial / POLICY_FILE, policy_onnx, sizes, _POLICY_IO)}
        if encoder_onnx is not None:
            networks["encoder"] = _write_network(partial / ENCODER_FILE, encoder_onnx, sizes, _ENCODER_IO)
        with open(str(partial / GOLDEN_FILE), "wb") as file:
            arrays: Dict[str, Any] = {key: np.asarray(value) for key, value in golden.items()}
            np.savez_compressed(file, **arrays)
        fields: Dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "robot": robot,
            "joint_names": list(joint_names),
            "observation": [asdict(term) for term in observation],
            "normalization": NORMALIZATION_BAKED_IN,
            "default_joint_pos_rad": per_joint(default_joint_pos),
            "kp_nm_per_rad": per_joint(kp),
            "kd_nms_per_rad": per_joint(kd),
            "action_scale_rad": per_joint(action_scale),
            "action_clip": None if action_clip is None or np.isinf(action_clip) else float(action_clip),
            "torque_limit_nm": per_joint(torque_limit),
            "joint_pos_limit_rad": np.asarray(joint_pos_limit, dtype=np.float64).tolist(),
            "joint_vel_limit_rad_s": per_joint(joint_vel_limit),
            "control_hz": float(control_hz),
            "camera_hz": float(camera_hz),
            "camera": None if camera is None else asdict(camera),
            "feature_size": int(feature_size),
            "recurrent": None if recurrent is None else asdict(recurrent),
            "guards": dict(guards or {}),
            "training": dict(training or {}),
            "networks": networks,
            "conventions": CONVENTIONS,
            "licence": licence,
            **({"legs": [asdict(leg) for leg in legs]} if legs else {}),
        }
        _write_manifest(partial, fields)
        _prove(partial)
        _replace_directory(partial, directory)
    except BaseException:
        shutil.rmtree(str(partial), ignore_errors=True)
        raise
    return directory / MANIFEST


def _prove(directory: Path) -> None:
    """Open the networks and replay the golden trace of a bundle that is about to be published."""
    from ..policy import Policy, replay_golden  # here, since it needs this package

    bundle = PolicyBundle.load(directory)
    replay_golden(bundle, Policy(bundle)).require_match(bundle)


_POLICY_IO = (("proprio", "feature", "h_in"), ("actions", "h_out"))
_ENCODER_IO = (("rgb",), ("feature",))


def _write_network(
    path: Path,
    source: Union[bytes, str, Path],
    sizes: Mapping[str, Sequence[int]],
    names: Tuple[Sequence[str], Sequence[str]],
) -> Dict[str, Any]:
    """Write an ONNX file; returns what the manifest says of it (of the names, those that have a size)."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    header = read_onnx_header(data, path.name)
    require_readable(header, path.name)
    path.write_bytes(data)
    inputs, outputs = ({name: list(sizes[name]) for name in side if name in sizes} for side in names)
    return {"file": path.name, **header._asdict(), "inputs": inputs, "outputs": outputs}


def _write_manifest(directory: Path, fields: Dict[str, Any]) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(directory.iterdir())
    }
    try:
        text = json.dumps({**fields, "files": files}, indent=2, allow_nan=False)
    except ValueError:
        bad = [key for key, value in fields.items() if not _is_strict_json(value)]
        raise BundleError(f"{', '.join(bad)}: NaN or infinity cannot be written to {MANIFEST}") from None
    with open(str(directory / MANIFEST), "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _is_strict_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _replace_directory(source: Path, target: Path) -> None:
    old = target.with_name(target.name + ".old")
    shutil.rmtree(str(old), ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(str(old), ignore_errors=True)
