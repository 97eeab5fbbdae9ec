"""The policy bundle: everything a robot needs to run a policy as it was trained, in one folder that checks itself.

::

    policy.json     the manifest (written last): what the numbers mean, sha256 and size of every other file
    policy.onnx     proprio [1,P] f32, (feature [1,F] f32), (h_in [L,1,H] f32)  ->  actions [1,J], (h_out [L,1,H])
    encoder.onnx    rgb uint8 [1,3,H,W]  ->  feature [1,F]                      (only of policies that see)
    golden.npz      what the trainer's own code computed, replayed wherever the bundle is about to be used

``golden.npz`` holds T consecutive control steps: ``proprio`` [T,P] float32 (scaled terms, not normalized), ``reset`` [T]
bool (hidden state and last action are zero before this step), ``actions`` [T,J] float32 as the network gave them (not
clipped); with a camera ``rgb`` [K,3,H,W] uint8 (one per *camera* frame) and ``frame`` [T] int (which of them is current).
Optional, and then the observation builder is checked too: the readings that ``proprio`` was computed from,
``raw_joint_pos`` [T,J], ``raw_joint_vel`` [T,J], ``raw_quat_wxyz`` [T,4], ``raw_ang_vel_b`` [T,3], ``raw_command`` [T,3].

The manifest's keys carry their units. Arrays are per joint, in the order of ``joint_names``:
``target = default_joint_pos_rad + action_scale_rad * clip(action, -action_clip, action_clip)``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

__all__ = [
    "BundleError",
    "CameraSpec",
    "ObservationTerm",
    "PolicyBundle",
    "Recurrence",
    "write_bundle",
]

FORMAT = "gaussgym-policy"
VERSION = 1
MANIFEST = "policy.json"
POLICY_FILE, ENCODER_FILE, GOLDEN_FILE = "policy.onnx", "encoder.onnx", "golden.npz"
NORMALIZATION_BAKED_IN = "inside policy.onnx: feed the scaled terms as they are"


class BundleError(ValueError):
    """The bundle cannot be used; the one-line text says what was found, what was expected and what to do."""


@dataclass(frozen=True)
class ObservationTerm:
    """One term of the proprioceptive observation.

    Attributes:
        name: A registered term, see :data:`gaussgym_deploy.observation.TERMS`.
        size: Number of values.
        scale: The values are multiplied by this (one number, or one per value).
        clip: The scaled values are limited to ``[-clip, clip]``; None: not at all.
    """

    name: str
    size: int
    scale: Union[float, Tuple[float, ...]] = 1.0
    clip: Optional[float] = None


@dataclass(frozen=True)
class CameraSpec:
    """Size, intrinsics and mount of the camera that the policy was trained with (OpenCV axes, no distortion).

    Attributes:
        width: Image width [px].
        height: Image height [px].
        fx: Focal length [px].
        fy: Focal length [px].
        cx: Principal point [px]; the centre of the top-left pixel is (0.5, 0.5).
        cy: Principal point [px].
        position_b_m: Optical centre in the base frame [m].
        quat_b_c_wxyz: Rotation that takes camera vectors to base vectors.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    position_b_m: Tuple[float, float, float]
    quat_b_c_wxyz: Tuple[float, float, float, float]


@dataclass(frozen=True)
class Recurrence:
    """Size of the GRU state ``h`` that goes in and out, ``[layers, 1, hidden]``."""

    layers: int
    hidden: int


@dataclass(frozen=True)
class PolicyBundle:
    """A bundle that was read and checked. ``J`` joints, ``P`` proprioceptive values; arrays are float64, read-only.

    Attributes:
        path: The bundle's folder.
        robot: Name of the robot that the policy was trained for.
        joint_names: In the order of all joint arrays.
        observation: Terms of ``proprio``, in order.
        default_joint_pos: Pose that a zero action holds [rad], ``[J]``.
        kp: Stiffness [N·m/rad], ``[J]``.
        kd: Damping [N·m·s/rad], ``[J]``.
        action_scale: [rad] per unit of action, ``[J]``.
        action_clip: Actions are limited to ``[-action_clip, action_clip]``; inf where training did not clip.
        torque_limit: [N·m], ``[J]``.
        joint_pos_limit: Lower and upper [rad], ``[J, 2]``.
        joint_vel_limit: [rad/s], ``[J]``.
        control_hz: Rate of the policy [1/s].
        camera_hz: Rate of camera frames [1/s].
        camera: None for a blind policy.
        feature_size: Length of the encoder's output, 0 for a blind policy.
        recurrent: None for a feed-forward policy.
        guards: Overrides of :class:`gaussgym_deploy.guards.GuardLimits`, by field name.
        training: Where the policy comes from (task, scenes, hashes, steps, versions).
        licence: SPDX name.
        golden: The arrays of ``golden.npz``.
    """

    path: Path
    robot: str
    joint_names: Tuple[str, ...]
    observation: Tuple[ObservationTerm, ...]
    default_joint_pos: np.ndarray
    kp: np.ndarray
    kd: np.ndarray
    action_scale: np.ndarray
    action_clip: float
    torque_limit: np.ndarray
    joint_pos_limit: np.ndarray
    joint_vel_limit: np.ndarray
    control_hz: float
    camera_hz: float
    camera: Optional[CameraSpec]
    feature_size: int
    recurrent: Optional[Recurrence]
    guards: Mapping[str, float]
    training: Mapping[str, Any]
    licence: str
    golden: Mapping[str, np.ndarray]

    @property
    def proprio_size(self) -> int:
        """Length of ``proprio``."""
        return sum(term.size for term in self.observation)

    @property
    def control_dt_s(self) -> float:
        """Control period [s]."""
        return 1.0 / self.control_hz

    @property
    def policy_file(self) -> Path:
        """The policy network."""
        return self.path / POLICY_FILE

    @property
    def encoder_file(self) -> Optional[Path]:
        """The image encoder; None for a blind policy."""
        return None if self.camera is None else self.path / ENCODER_FILE

    @classmethod
    def load(cls, directory: Union[str, Path]) -> PolicyBundle:
        """Read and check a bundle: manifest, sizes, hashes, shapes, finite numbers.

        The networks themselves are checked when :class:`gaussgym_deploy.policy.Policy` opens them.

        Args:
            directory: The bundle's folder, or its ``policy.json``.

        Raises:
            BundleError: When anything does not fit.
        """
        directory = Path(directory)
        if directory.name == MANIFEST:
            directory = directory.parent
        fields = _Fields(directory / MANIFEST, _read_manifest(directory))
        camera = fields.camera()
        required = [POLICY_FILE, GOLDEN_FILE] + ([] if camera is None else [ENCODER_FILE])
        _check_files(directory, fields, required)
        joint_names = fields.names("joint_names")
        joints = len(joint_names)
        bundle = cls(
            path=directory,
            robot=fields.text("robot"),
            joint_names=joint_names,
            observation=fields.observation(),
            default_joint_pos=fields.numbers("default_joint_pos_rad", (joints,)),
            kp=fields.numbers("kp_nm_per_rad", (joints,), at_least=0.0),
            kd=fields.numbers("kd_nms_per_rad", (joints,), at_least=0.0),
            action_scale=fields.numbers("action_scale_rad", (joints,)),
            action_clip=fields.action_clip(),
            torque_limit=fields.numbers("torque_limit_nm", (joints,), above=0.0),
            joint_pos_limit=fields.numbers("joint_pos_limit_rad", (joints, 2)),
            joint_vel_limit=fields.numbers("joint_vel_limit_rad_s", (joints,), above=0.0),
            control_hz=float(fields.numbers("control_hz", (), above=0.0)),
            camera_hz=float(fields.numbers("camera_hz", (), above=0.0)),
            camera=camera,
            feature_size=0 if camera is None else fields.integer("feature_size"),
            recurrent=fields.recurrence(),
            guards={
                key: float(fields.number(value, f"guards.{key}"))
                for key, value in fields.table("guards").items()
            },
            training=fields.table("training"),
            licence=fields.text("licence"),
            golden=_read_golden(directory / GOLDEN_FILE),
        )
        _check_consistency(bundle)
        return bundle


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

    try:
        (partial / POLICY_FILE).write_bytes(_onnx_bytes(policy_onnx))
        if encoder_onnx is not None:
            (partial / ENCODER_FILE).write_bytes(_onnx_bytes(encoder_onnx))
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
            "licence": licence,
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
    from .policy import Policy, replay_golden  # here, since policy.py needs this module

    bundle = PolicyBundle.load(directory)
    replay_golden(bundle, Policy(bundle)).require_match(bundle)


def _onnx_bytes(source: Union[bytes, str, Path]) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(str(path), "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _write_manifest(directory: Path, fields: Dict[str, Any]) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256_of(path)}
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


def _read_manifest(directory: Path) -> Dict[str, Any]:
    path = directory / MANIFEST
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
    return fields


class _Fields:
    """Typed access to the manifest, with one clear error for each way in which a field can be wrong."""

    def __init__(self, path: Path, fields: Dict[str, Any]) -> None:
        self.path = path
        self.fields = fields

    def error(self, key: str, found: Any, expected: str) -> BundleError:
        shown = repr(found)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return BundleError(f"{self.path}: {key!r} is {shown}, expected {expected}; export the policy again")

    def value(self, key: str) -> Any:
        if key not in self.fields:
            raise BundleError(f"{self.path}: {key!r} is missing; export the policy again")
        return self.fields[key]

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, value, "a name")
        return value

    def table(self, key: str) -> Dict[str, Any]:
        value = self.value(key)
        if not isinstance(value, dict):
            raise self.error(key, value, "an object")
        return value

    def names(self, key: str) -> Tuple[str, ...]:
        value = self.value(key)
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            raise self.error(key, value, "a list of names")
        if len(set(value)) != len(value):
            raise self.error(key, value, "names that differ from each other")
        return tuple(value)

    def integer(self, key: str, *, value: Any = None) -> int:
        value = self.value(key) if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(key, value, "a whole number of at least 1")
        return value

    def number(self, value: Any, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, value, "a number")
        return float(self._finite(np.float64(value), key))

    def numbers(
        self, key: str, shape: Tuple[int, ...], *, at_least: float = -np.inf, above: float = -np.inf
    ) -> np.ndarray:
        value = self.value(key)
        try:
            array = np.asarray(value)
        except ValueError:  # ragged
            raise self.error(key, value, f"numbers of shape {list(shape)}") from None
        if array.shape != shape or array.dtype.kind not in "iuf":
            raise self.error(key, value, f"numbers of shape {list(shape)}")
        array = self._finite(array.astype(np.float64), key)
        if (array < at_least).any() or (array <= above).any():
            raise self.error(
                key, value, f"numbers {'>=' if above == -np.inf else '>'} {max(at_least, above):g}"
            )
        array.flags.writeable = False
        return array

    def _finite(self, array: Any, key: str) -> Any:
        if not np.isfinite(array).all():
            raise self.error(key, np.asarray(array).tolist(), "finite numbers")
        return array

    def action_clip(self) -> float:
        value = self.value("action_clip")
        return float("inf") if value is None else float(self.numbers("action_clip", (), above=0.0))

    def observation(self) -> Tuple[ObservationTerm, ...]:
        entries = self.value("observation")
        if not isinstance(entries, list) or not entries:
            raise self.error("observation", entries, "a list of terms")
        terms = []
        for index, entry in enumerate(entries):
            key = f"observation[{index}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise self.error(key, entry, "an object with name, size and scale")
            size = self.integer(f"{key}.size", value=entry.get("size", 0))
            scale = entry.get("scale")
            if isinstance(scale, list):
                if len(scale) != size:
                    raise self.error(f"{key}.scale", scale, f"one number or {size}")
                scale = tuple(self.number(value, f"{key}.scale") for value in scale)
            else:
                scale = self.number(scale, f"{key}.scale")
            clip = entry.get("clip")
            clip = None if clip is None else self.number(clip, f"{key}.clip")
            terms.append(ObservationTerm(entry["name"], size, scale, clip))
        return tuple(terms)

    def camera(self) -> Optional[CameraSpec]:
        value = self.value("camera")
        if value is None:
            return None
        names = CameraSpec.__dataclass_fields__
        if not isinstance(value, dict) or set(value) != set(names):
            raise self.error("camera", value, f"null or an object with {', '.join(names)}")
        nested = _Fields(self.path, {f"camera.{name}": item for name, item in value.items()})
        scalars = {name: float(nested.numbers(f"camera.{name}", ())) for name in ("fx", "fy", "cx", "cy")}
        quat = nested.numbers("camera.quat_b_c_wxyz", (4,))
        if abs(float(np.linalg.norm(quat)) - 1.0) > 1e-3:
            raise self.error("camera.quat_b_c_wxyz", value["quat_b_c_wxyz"], "a unit quaternion")
        return CameraSpec(
            width=nested.integer("camera.width"),
            height=nested.integer("camera.height"),
            position_b_m=tuple(nested.numbers("camera.position_b_m", (3,)).tolist()),
            quat_b_c_wxyz=tuple(quat.tolist()),
            **scalars,
        )

    def recurrence(self) -> Optional[Recurrence]:
        value = self.value("recurrent")
        if value is None:
            return None
        if not isinstance(value, dict) or set(value) != {"layers", "hidden"}:
            raise self.error("recurrent", value, "null or an object with layers and hidden")
        return Recurrence(
            self.integer("recurrent.layers", value=value["layers"]),
            self.integer("recurrent.hidden", value=value["hidden"]),
        )


def _check_files(directory: Path, fields: _Fields, required: Sequence[str]) -> None:
    records = fields.table("files")
    for name in required:
        if name not in records:
            raise BundleError(f"{fields.path}: 'files' does not list {name}; export the policy again")
    for name, record in records.items():
        if not isinstance(record, dict) or not isinstance(record.get("bytes"), int) or "sha256" not in record:
            raise fields.error(f"files.{name}", record, "bytes and sha256")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{fields.path}: file name {name!r} leaves the folder")
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
        found = _sha256_of(path)
        if found != record["sha256"]:
            raise BundleError(
                f"{path}: sha256 {found[:12]} differs from the manifest's {str(record['sha256'])[:12]};"
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
    raw = {
        "raw_joint_pos": joints,
        "raw_joint_vel": joints,
        "raw_quat_wxyz": 4,
        "raw_ang_vel_b": 3,
        "raw_command": 3,
    }
    if any(key in golden for key in raw):
        expected.update({key: (steps, size) for key, size in raw.items()})
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
