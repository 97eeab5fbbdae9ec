"""Synthetic sensors beside the camera: a depth sensor and visual-inertial odometry, each with stated errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.spatial.transform import Rotation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gaussgym_recon.meshcast import MeshCaster

SOURCE_UP = (0.0, 1.0, 0.0)
"""Up in the frame of odometry, as ARKit has it."""
NOISE_BY_CONFIDENCE = (4.0, 2.0, 1.0)
"""Factor on the noise of depths of low, medium and high confidence."""


@dataclass(frozen=True, kw_only=True)
class DepthSensorCfg:
    """A depth sensor with the camera's field of view.

    The noise of a depth z has the standard deviation ``noise_m + noise_per_m (z - 0.4 m)^2``, independent from pixel to pixel,
    the axial model of a structured-light sensor (Nguyen, Izadi and Lovell 2012, equation 2), times 2 where the confidence is
    medium and 4 where it is low. At depth edges the sensor returns mixtures of both surfaces, with low confidence.
    """

    width: int = 256
    """[px]."""
    height: int = 192
    """[px]."""
    range_m: float = 5.0
    """Nothing farther is returned [m]."""
    noise_m: float = 0.0012
    """[m]."""
    noise_per_m: float = 0.0019
    """[1/m]."""
    edge_fraction: float = 0.05
    """Neighbouring depths that differ by more are an edge."""


@dataclass(frozen=True, kw_only=True)
class OdometryCfg:
    """Poses by visual-inertial odometry with loop closures now and then: metric, gravity-aligned, slowly drifting."""

    scale_error_fraction: float = 0.003
    """Of all lengths."""
    tilt_rad: float = np.radians(0.2)
    """How far its up is from the true one [rad]."""
    drift_m: float = 0.002
    """Standard deviation that the position gains along each axis over a metre, growing with the root of the way [m]."""
    drift_rad: float = np.radians(0.02)
    """The same of the heading [rad]."""
    jitter_m: float = 0.001
    """Of each pose by itself, along each axis [m]."""
    jitter_rad: float = np.radians(0.03)
    """Of each pose by itself, about each axis [rad]."""


def depth_noise_std_m(depth_m: NDArray[np.float64], cfg: DepthSensorCfg) -> NDArray[np.float64]:
    """Standard deviation of depths of high confidence [m]."""
    return cfg.noise_m + cfg.noise_per_m * (depth_m - 0.4) ** 2


def sense_depth(
    caster: MeshCaster, c2w: NDArray[np.float64], cfg: DepthSensorCfg, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """What the sensor returns at a pose.

    Args:
        caster: The scene and the camera.
        c2w: Camera to world `[4, 4]`.
        cfg: The sensor.
        rng: Random numbers.

    Returns:
        Depth along +Z `[height, width]` [m], 0 where there is none, and its confidence: 0 at edges, at grazing angles and near
        the range's end, 2 where nothing speaks against it, 1 between.
    """
    true, cosine = caster.surface(c2w, cfg.width, cfg.height)
    far = np.where(true > 0, true, 1e3)
    near3, far3 = np.asarray(minimum_filter(far, 3)), np.asarray(maximum_filter(far, 3))
    # On a slanted plane depth changes from pixel to pixel too; an edge is a step that no plane makes.
    bend = np.abs(far3 + near3 - 2 * far) / far
    edge = bend > cfg.edge_fraction
    near_edge = np.asarray(maximum_filter(edge, 3), bool)
    confidence = np.ones(true.shape, np.uint8)
    confidence[(cosine > 0.35) & (true < 0.6 * cfg.range_m) & ~near_edge] = 2
    confidence[edge | (cosine < 0.15) | (true > 0.9 * cfg.range_m)] = 0
    mixed = near3 + rng.random(true.shape) * (np.minimum(far3, cfg.range_m) - near3)
    depth = np.where(edge, mixed, true)
    std = depth_noise_std_m(depth, cfg) * np.array(NOISE_BY_CONFIDENCE)[confidence]
    depth = depth + std * rng.normal(size=depth.shape)
    nothing = (true <= 0) | (true > cfg.range_m) | (depth <= 0) | (depth > cfg.range_m)
    return np.where(nothing, 0.0, depth), np.where(nothing, 0, confidence).astype(np.uint8)


def odometry_poses(
    c2w: NDArray[np.float64], cfg: OdometryCfg, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Poses as odometry gives them: in a frame of its own, +Y up, its origin at the first camera.

    Args:
        c2w: True poses in a world with +Z up `[n, 4, 4]`.
        cfg: Errors.
        rng: Random numbers.

    Returns:
        Camera to the odometry's frame `[n, 4, 4]`.
    """
    n = len(c2w)
    steps = np.diff(c2w[:, :3, 3], axis=0, prepend=c2w[:1, :3, 3])
    spread = np.sqrt(np.linalg.norm(steps, axis=1))[:, None]
    heading = np.cumsum(cfg.drift_rad * spread[:, 0] * rng.normal(size=n))
    turn = Rotation.from_rotvec(heading[:, None] * [0.0, 0.0, 1.0])
    walked = turn.apply(steps) * (1 + cfg.scale_error_fraction) + cfg.drift_m * spread * rng.normal(
        size=(n, 3)
    )
    position = np.cumsum(walked, axis=0) + cfg.jitter_m * rng.normal(size=(n, 3))
    shaken = (
        turn
        * Rotation.from_matrix(c2w[:, :3, :3])
        * Rotation.from_rotvec(cfg.jitter_rad * rng.normal(size=(n, 3)))
    )
    lean = rng.uniform(0, 2 * np.pi)
    tilt = Rotation.from_rotvec(cfg.tilt_rad * np.array([np.cos(lean), np.sin(lean), 0.0]))
    to_y_up = Rotation.from_matrix([[1, 0, 0], [0, 0, 1], [0, -1, 0]])
    frame = to_y_up * Rotation.from_euler("z", rng.uniform(0, 2 * np.pi)) * tilt
    out = np.tile(np.eye(4), (n, 1, 1))
    out[:, :3, :3] = (frame * shaken).as_matrix()
    out[:, :3, 3] = frame.apply(position)
    return out
