"""What a bundle holds, in memory: :class:`PolicyBundle` and its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Tuple, Union

import numpy as np

__all__ = ["BundleError", "CameraSpec", "ObservationTerm", "PolicyBundle", "Recurrence"]

FORMAT = "gaussgym-policy"
VERSION = 1
MANIFEST = "policy.json"
POLICY_FILE, ENCODER_FILE, GOLDEN_FILE = "policy.onnx", "encoder.onnx", "golden.npz"


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
    """Size of the memory ``h`` that goes in and out, ``[layers, 1, hidden]``.

    A GRU's state; of an LSTM its hidden states, then its cell states, so that ``layers`` is twice the network's.
    """

    layers: int
    hidden: int


@dataclass(frozen=True)
class LegGeometry:
    """One leg as a chain of hinges from the base to the foot: what odometry from joints and IMU needs.

    Link ``i`` lies in the link above it (the base for the first) at ``T(origins_m[i], quats_wxyz[i]) R(axes[i], q_i)``.

    Attributes:
        name: Name of the leg.
        joints: Its joints, as numbers in ``joint_names``, from the base down.
        origins_m: Joint positions in the link above [m], ``[n, 3]``.
        quats_wxyz: Rotations of the links against the link above, at joint angle 0, ``[n, 4]``.
        axes: Unit axes in the links' own frames, ``[n, 3]``.
        foot_m: Centre of the foot in the last link [m], ``[3]``.
        foot_radius_m: Height of that centre over the ground when the foot stands on it [m].
    """

    name: str
    joints: Tuple[int, ...]
    origins_m: Tuple[Tuple[float, ...], ...]
    quats_wxyz: Tuple[Tuple[float, ...], ...]
    axes: Tuple[Tuple[float, ...], ...]
    foot_m: Tuple[float, ...]
    foot_radius_m: float


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
        legs: Geometry of the legs, for odometry; empty where the manifest does not say.
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
    legs: Tuple[LegGeometry, ...] = ()

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
        from .reading import read_bundle  # here, since it needs this module

        return read_bundle(directory)
