"""Which way is up by photographs of built places: corners, doors, windows and posts are plumb.

Each straight segment in a photograph spans a plane with the camera's centre; the planes of plumb edges all hold the vertical, so
the vertical is what the most segments' planes hold (a vertical vanishing point that all cameras share, since their rotations are
known; Coughlan and Yuille, ICCV 1999, for one camera). It needs no depth, no scale and no level ground: streets slope, walls
hardly ever. Where too few edges agree (woods, rubble, flights that look down) nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from gaussgym_scene.cameras import undistort

from gaussgym_recon.georegister import level_rotation
from gaussgym_recon.gravity import UpEstimate

if TYPE_CHECKING:
    from gaussgym_scene.cameras import Intrinsics
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class PlumbLinesCfg:
    """Of :func:`segment_planes` and :func:`up_from_lines`."""

    long_side_px: int = 800
    """Photographs are reduced to this long side before segments are looked for [px]."""
    min_length: float = 0.03
    """Of a segment, over the long side: shorter ones point nowhere in particular."""
    narrowing_rad: tuple[float, ...] = tuple(
        np.radians([15.0, 15.0, 10.0, 10.0, 6.0, 6.0, 4.0, 4.0, 2.5, 2.5, 1.5, 1.5, 1.0, 1.0, 1.0, 1.0])
    )
    """How far from the vertical segments may point to take part, step after step."""
    wide_rad: float = np.radians(10.0)
    """The segments that point within this of the vertical are those that could be plumb."""
    min_share: float = 0.5
    """Of these, by length, that must lie within the last of `narrowing_rad` (at random: a tenth)."""
    min_fraction: float = 0.05
    """Of all segments that must lie there, too."""
    min_segments: int = 200
    """Fewer say nothing."""
    min_images: int = 8
    """In which they must be seen."""
    min_spread: float = 0.04
    """Of the directions that edges are seen from, square of the sine: from one direction only, the tilt towards it stays open."""
    images_per_independent: float = 4.0
    """Photographs that count as one, since neighbours show the same edges and share the errors of poses."""
    built_std_rad: float = np.radians(0.2)
    """How plumb built edges are on the whole, along either axis."""
    max_turn_rad: float = np.radians(25.0)
    """From where the search starts; farther off another axis of the place was taken for up."""
    max_std_rad: float = np.radians(1.0)
    """What is known no better, along either axis, is left to other rules."""


@dataclass(frozen=True)
class SegmentPlanes:
    """Planes through a camera's centre and straight segments of its photograph."""

    normals: NDArray[np.float64]
    """Unit `[n, 3]`; their sign means nothing."""
    lengths: NDArray[np.float64]
    """Of the segments, over the photograph's long side `[n]`."""


def segment_planes(
    grey: NDArray[np.uint8], intrinsics: Intrinsics, cfg: PlumbLinesCfg | None = None
) -> SegmentPlanes:
    """The straight segments of a photograph (von Gioi et al. 2012, by OpenCV), as planes in the camera frame.

    Args:
        grey: Photograph `[h, w]`, distortion as taken.
        intrinsics: Of the photograph, at any size.
        cfg: Settings.
    """
    cfg = cfg or PlumbLinesCfg()
    zoom = min(1.0, cfg.long_side_px / max(grey.shape))
    size = (round(grey.shape[1] * zoom), round(grey.shape[0] * zoom))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA) if zoom < 1.0 else grey
    found = cv2.createLineSegmentDetector().detect(small)[0]
    ends = np.zeros((0, 2, 2)) if found is None else np.asarray(found, np.float64).reshape(-1, 2, 2)
    lengths = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) / max(size)
    ends, lengths = ends[lengths > cfg.min_length], lengths[lengths > cfg.min_length]
    camera = intrinsics.resized(*size)
    # OpenCV's pixel centres are whole numbers.
    points = (ends + 0.5 - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    if any(camera.distortion):
        points = undistort(points, camera.distortion)
    rays = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
    normals = np.cross(rays[:, 0], rays[:, 1])
    return SegmentPlanes(normals / np.linalg.norm(normals, axis=1, keepdims=True), lengths)


def up_from_lines(
    normals: NDArray[np.float64],
    lengths: NDArray[np.float64],
    images: NDArray[np.int64],
    start: NDArray[np.float64],
    cfg: PlumbLinesCfg | None = None,
) -> UpEstimate | None:
    """The direction that the planes of most segments hold.

    Args:
        normals: Unit normals of the segments' planes `[n, 3]`, in one frame for all cameras.
        lengths: Of the segments `[n]`; long ones point more surely.
        images: Which photograph each is of `[n]`.
        start: Rough up direction, right within some 15 degrees.
        cfg: Settings.

    Returns:
        Up and its information, by the scatter between photographs; None where too few segments agree, or leave a tilt open.
    """
    cfg = cfg or PlumbLinesCfg()
    up = start = np.asarray(start, np.float64) / np.linalg.norm(start)
    weights = np.zeros(len(normals))
    if len(normals) < cfg.min_segments:
        return None
    for within in cfg.narrowing_rad:
        off = np.arcsin(np.clip(normals @ up, -1, 1))
        weights = np.where(np.abs(off) < within, np.square(lengths) / (1 + np.square(3 * off / within)), 0.0)
        moment = (normals * weights[:, None]).T @ normals
        found = np.linalg.eigh(moment)[1][:, 0]
        up = found * np.sign(found @ up)
    off = np.arcsin(np.clip(normals @ up, -1, 1))
    plumb, near = np.abs(off) < cfg.narrowing_rad[-1], np.abs(off) < cfg.wide_rad
    if (
        plumb.sum() < cfg.min_segments
        or plumb.mean() < cfg.min_fraction
        or lengths[plumb].sum() < cfg.min_share * lengths[near].sum()
        or len(np.unique(images[plumb])) < cfg.min_images
        or up @ start < np.cos(cfg.max_turn_rad)
    ):
        return None
    tilt = level_rotation(up)[:2]
    covariance = _scatter(normals @ tilt.T, off, np.square(lengths) * plumb, images, cfg)
    if covariance is None or np.linalg.eigvalsh(covariance)[-1] > cfg.max_std_rad**2:
        return None
    return UpEstimate(up, tilt.T @ np.linalg.inv(covariance) @ tilt)


def _scatter(
    rows: NDArray[np.float64],
    off: NDArray[np.float64],
    weights: NDArray[np.float64],
    images: NDArray[np.int64],
    cfg: PlumbLinesCfg,
) -> NDArray[np.float64] | None:
    """Covariance of the two tilts by how photographs differ; None where one is open.

    The sandwich of an M-estimator, a photograph a cluster: the loss's second derivative counts, not its weights, or photographs
    that disagree would seem to say little rather than to disagree.
    """
    spread = (rows * weights[:, None]).T @ rows
    if np.linalg.eigvalsh(spread)[0] < cfg.min_spread * weights.sum():
        return None
    far = np.square(3 * off / cfg.narrowing_rad[-1])
    hessian = (rows * (weights * (1 - far) / np.square(1 + far))[:, None]).T @ rows
    # Edges scattered over the whole width of the loss curve it nowhere: no deviation can be stated.
    if np.linalg.eigvalsh(hessian)[0] < 0.02 * np.linalg.eigvalsh(spread)[0]:
        return None
    pulls = np.zeros((int(images.max()) + 1, 2))
    np.add.at(pulls, images, rows * (weights * off / (1 + far))[:, None])
    step = np.linalg.solve(hessian, pulls.T)
    return cfg.images_per_independent * step @ step.T + cfg.built_std_rad**2 * np.eye(2)
