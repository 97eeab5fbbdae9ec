"""Motion blur and rolling shutter: where the camera is while it exposes a frame, and which of those moments a row sees.

A frame is stamped when its last row ends its exposure, so that it shows nothing from the future. With readout time R and exposure
time E, row y of H is exposed during `[e - E, e]`, `e = -R·(1 - (y + ½)/H)` (all at once if R = 0: a global shutter). Time
`[-(R + E), 0]` is cut into as many cells as the motion asks for; the scene is rendered from the pose in the middle of each
cell, and a row is the mean of the cells that its exposure overlaps, weighted by the overlap, in linear light.

Poses follow the screw motion of the camera about itself, `T_w_c(t) = T_w_c(0)·exp(t·ξ)` with the twist ξ in the camera's own
frame (Lynch and Park, Modern Robotics, 2017, chapter 3).
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from gaussgym_scene import InputError
from numpy.typing import NDArray

Range = tuple[float, float]
"""Lowest and highest value of what a camera draws uniformly."""

REFERENCE_DEPTH_M = 1.0
"""Depth at which the image motion of a translation is estimated; ground and obstacles ahead of a small robot."""
_SMALL_RAD = 1e-4


@dataclass(frozen=True, kw_only=True)
class ShutterCfg:
    """Times of a camera's shutter.

    Attributes:
        exposure_s: Range of the exposure time of a row [s]; it blurs, brightness is `SensorCfg.exposure_ev`.
        readout_s: Range of the time from the first row's exposure to the last one's [s]; 0 is a global shutter.
        max_samples: Most poses that a frame is rendered from.
        sample_px: Image motion that is worth another pose [px]; a camera that moves less in a frame costs one image.
    """

    exposure_s: Range = (0.0, 0.0)
    readout_s: Range = (0.0, 0.0)
    max_samples: int = 8
    sample_px: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("exposure_s", "readout_s"):
            check_range(name, getattr(self, name), lowest=0.0, unit="s")
        if self.max_samples < 1:
            raise InputError(f"max_samples is {self.max_samples}, expected at least 1 pose a frame")
        if not self.sample_px > 0:
            raise InputError(f"sample_px is {self.sample_px}, expected a positive image motion [px]")

    @property
    def ideal(self) -> bool:
        """Whether a frame is taken in an instant."""
        return self.exposure_s[1] == 0.0 and self.readout_s[1] == 0.0


def check_range(name: str, value: Range, *, lowest: float, highest: float = np.inf, unit: str = "") -> None:
    """Raise an `InputError` unless a range is two finite ordered numbers within bounds."""
    low, high = (float(v) for v in value)
    if not (np.isfinite([low, high]).all() and lowest <= low <= high <= highest):
        raise InputError(
            f"{name} is {value!r}, expected (lowest, highest) within {lowest:g} to {highest:g} {unit}".rstrip()
        )


def _cross_matrix(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices `[..., 3, 3]` of the cross product with vectors `[..., 3]`."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    zero = np.zeros_like(x)
    rows = ((zero, -z, y), (z, zero, -x), (-y, x, zero))
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _sinc_terms(angle: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """`sin θ/θ`, `(1 - cos θ)/θ²` and `(θ - sin θ)/θ³`, by their series near 0."""
    small = angle < _SMALL_RAD
    safe = np.where(small, 1.0, angle)
    square = angle * angle
    return (
        np.where(small, 1 - square / 6, np.sin(safe) / safe),
        np.where(small, 0.5 - square / 24, 2 * (np.sin(safe / 2) / safe) ** 2),
        np.where(small, 1 / 6 - square / 120, (safe - np.sin(safe)) / safe**3),
    )


def se3_exp(twist: Any) -> NDArray[np.float64]:
    """Rigid transforms of twists: the motion after unit time.

    Args:
        twist: `[..., 6]`, linear [m] then angular [rad].

    Returns:
        `[..., 4, 4]`, `[[R, V v], [0, 1]]` with Rodrigues' `R` and `V = I + (1 - cos θ)/θ² [ω] + (θ - sin θ)/θ³ [ω]²`.
    """
    twist = np.asarray(twist, np.float64)
    linear, angular = twist[..., :3], twist[..., 3:]
    sine, cosine, rest = (f[..., None, None] for f in _sinc_terms(np.linalg.norm(angular, axis=-1)))
    cross = _cross_matrix(angular)
    square = cross @ cross
    transform = np.zeros((*twist.shape[:-1], 4, 4))
    transform[..., :3, :3] = np.eye(3) + sine * cross + cosine * square
    transform[..., :3, 3] = ((np.eye(3) + cosine * cross + rest * square) @ linear[..., None])[..., 0]
    transform[..., 3, 3] = 1.0
    return transform


def twist_between(previous: Any, present: Any, dt_s: float) -> NDArray[np.float64]:
    """The constant twist that carries one pose into another: the inverse of `se3_exp`.

    Args:
        previous: Camera to world `[..., 4, 4]`.
        present: Camera to world `[..., 4, 4]`, less than half a turn away.
        dt_s: Time between them [s].

    Returns:
        `[..., 6]` in the camera's own frame, linear [m/s] then angular [rad/s]: `present = previous · se3_exp(dt_s · twist)`.

    Raises:
        InputError: `dt_s` is not positive.
    """
    if not dt_s > 0:
        raise InputError(f"time between two poses is {dt_s} s, expected more than 0")
    previous, present = np.asarray(previous, np.float64), np.asarray(present, np.float64)
    inverse = np.swapaxes(previous[..., :3, :3], -1, -2)
    rotation = inverse @ present[..., :3, :3]
    shift = (inverse @ (present[..., :3, 3] - previous[..., :3, 3])[..., None])[..., 0]
    axis = 0.5 * np.stack(
        [
            rotation[..., 2, 1] - rotation[..., 1, 2],
            rotation[..., 0, 2] - rotation[..., 2, 0],
            rotation[..., 1, 0] - rotation[..., 0, 1],
        ],
        -1,
    )  # sin θ · axis
    cosine = 0.5 * (np.trace(rotation, axis1=-2, axis2=-1) - 1.0)
    angle = np.arctan2(np.linalg.norm(axis, axis=-1), cosine)
    sine, cosine_term, rest = _sinc_terms(angle)
    angular = axis / sine[..., None]
    cross = _cross_matrix(angular)
    v = np.eye(3) + cosine_term[..., None, None] * cross + rest[..., None, None] * (cross @ cross)
    linear = np.linalg.solve(v, shift[..., None])[..., 0]
    return np.concatenate([linear, angular], -1) / dt_s


def num_samples(
    cfg: ShutterCfg,
    twist_c: NDArray[np.float64],
    duration_s: NDArray[np.float64],
    focal_px: NDArray[np.float64],
) -> NDArray[np.int64]:
    """How many poses each camera's frame needs.

    Args:
        cfg: The shutter.
        twist_c: In the camera's own frame `[C, 6]`, linear [m/s] then angular [rad/s].
        duration_s: Exposure and readout time together `[C]` [s].
        focal_px: Focal length `[C]` [px].

    Returns:
        `[C]`, 1 to `cfg.max_samples`: image motion in that time, as small angles and at `REFERENCE_DEPTH_M`, in steps of
        `cfg.sample_px`.
    """
    speed = (
        np.linalg.norm(twist_c[:, 3:], axis=1) + np.linalg.norm(twist_c[:, :3], axis=1) / REFERENCE_DEPTH_M
    )
    steps = np.ceil(speed * duration_s * focal_px / cfg.sample_px)
    return np.clip(steps, 1, cfg.max_samples).astype(np.int64)


def sample_times(
    duration_s: NDArray[np.float64], samples: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The middles of the cells of each camera's time.

    Args:
        duration_s: Exposure and readout time together `[C]` [s].
        samples: Cells of each camera `[C]`.

    Returns:
        Times `[J]` [s] of the J = Σ samples images, before 0, the end of the frame, in the order of cameras and time; the
        camera of each `[J]`; the first image of each camera and J `[C + 1]`.
    """
    first = np.concatenate([[0], np.cumsum(samples)])
    camera = np.repeat(np.arange(len(samples)), samples)
    cell = np.arange(first[-1]) - first[camera]
    time = (cell + 0.5) / samples[camera] * duration_s[camera] - duration_s[camera]
    return time, camera, first


def moved(
    poses: NDArray[np.float64], twists: NDArray[np.float64], time: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where things were at a time before the end of the frame.

    Args:
        poses: Of cameras or objects, to the world, at time 0 `[N, 4, 4]`.
        twists: In their own frames `[N, 6]`, linear [m/s] then angular [rad/s].
        time: `[N]` [s].

    Returns:
        `[N, 4, 4]`; what does not move keeps its pose, bit for bit.
    """
    return poses @ se3_exp(time[:, None] * twists)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def row_window(y, height, exposure_s, readout_s):
    """When row y is exposed: (begin, end) [s], 0 being the end of the frame."""
    end = -readout_s * (1.0 - (y + 0.5) / height)
    return end - exposure_s, end


@numba.njit(cache=True, nogil=True, error_model="numpy")
def cell_at(time, duration_s, samples):
    """The cell that holds a time in [-duration_s, 0]."""
    if duration_s <= 0.0:
        return 0
    return min(max(int((time + duration_s) / duration_s * samples), 0), samples - 1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def cell_weight(cell, samples, begin, end, duration_s):
    """The share of an exposure from `begin` to `end` that lies in a cell; the shares of all cells sum to 1."""
    if samples == 1:
        return 1.0
    if end <= begin:
        return 1.0 if cell == cell_at(end, duration_s, samples) else 0.0
    width = duration_s / samples
    low = cell * width - duration_s
    return max(min(low + width, end) - max(low, begin), 0.0) / (end - begin)
