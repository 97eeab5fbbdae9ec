"""Lenses that k1, k2, p1, p2 cannot express: their images are made pinhole images at import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

MAX_HALF_FOV_RAD = np.radians(50.0)
"""Pinhole images made of wider lenses end here: beyond, pixels grow large and say little."""
BORDER_SAMPLES = 64
EXACT = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
"""Models of COLMAP that our intrinsics express exactly."""

Projection = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From rays in the camera's frame `[n, 3]` to pixels `[n, 2]`; NaN where the lens sees nothing."""


@dataclass(frozen=True)
class Lens:
    """A camera of any model."""

    model: str
    """Its name, for the record."""
    width: int
    height: int
    focal_px: float
    """In the middle of the image."""
    project: Projection
    panorama: bool = False
    """Whether it sees all around: then four pinhole images are made of each."""


class Undistorter:
    """Resamples the images of one lens at the pixels of one pinhole camera."""

    def __init__(self, lens: Lens, *, yaw_rad: float = 0.0) -> None:
        """Choose the pinhole camera and make the map.

        It keeps the sampling in the middle of the image, and sees the largest upright rectangle that lies in the lens's
        image, no farther than 50 degrees to each side.

        Args:
            lens: The lens.
            yaw_rad: Turn of the pinhole camera to the right, about the lens's own vertical axis [rad].

        Raises:
            InputError: The lens sees nothing, its parameters make no camera.
        """
        self.lens = lens
        cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
        self.lens_from_pinhole = np.eye(4)
        """How the pinhole camera is turned in the lens's frame `[4, 4]`."""
        self.lens_from_pinhole[:3, :3] = [[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]
        self.pinhole = _square_view(lens) if lens.panorama else _pinhole_within(lens)
        p = self.pinhole
        u, v = np.meshgrid(np.arange(p.width) + 0.5, np.arange(p.height) + 0.5)
        rays = np.stack([(u - p.cx) / p.fx, (v - p.cy) / p.fy, np.ones_like(u)], axis=-1).reshape(-1, 3)
        at = lens.project(rays @ self.lens_from_pinhole[:3, :3].T).reshape(p.height, p.width, 2)
        self._x, self._y = at[..., 0], at[..., 1]

    def image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A photograph `[H, W, 3]` of the lens as the pinhole camera would have taken it."""
        x, y = (self._x - 0.5).astype(np.float32), (self._y - 0.5).astype(np.float32)
        border = cv2.BORDER_WRAP if self.lens.panorama else cv2.BORDER_REPLICATE
        return np.asarray(cv2.remap(pixels, x, y, cv2.INTER_CUBIC, borderMode=border), np.uint8)

    def nearest(self, values: NDArray) -> NDArray:
        """Depths, confidences or masks `[h, w]` with the lens's field of view, at any size; nothing is mixed."""
        rows = np.clip(self._y * (values.shape[0] / self.lens.height), 0, values.shape[0] - 1).astype(
            np.int64
        )
        columns = np.clip(self._x * (values.shape[1] / self.lens.width), 0, values.shape[1] - 1).astype(
            np.int64
        )
        return values[rows, columns]


def undistorters(lens: Lens) -> list[Undistorter]:
    """One pinhole camera for a lens; four, 90 degrees apart, for a panorama."""
    if not lens.panorama:
        return [Undistorter(lens)]
    return [Undistorter(lens, yaw_rad=quarter * np.pi / 2) for quarter in range(4)]


def panorama_lens(width: int, height: int) -> Lens:
    """An equirectangular image: +Z of the camera in its middle, to the right grows the angle about +Y, the zenith on top."""

    def project(rays: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y, z = rays.T
        azimuth, elevation = np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))
        return np.column_stack([(azimuth / (2 * np.pi) + 0.5) * width, (elevation / np.pi + 0.5) * height])

    return Lens("EQUIRECTANGULAR", width, height, width / (2 * np.pi), project, panorama=True)


def colmap_lens(model: str, width: int, height: int, params: list[float]) -> Intrinsics | Lens:
    """The camera of a COLMAP model: intrinsics where these express it exactly, a lens otherwise.

    Args:
        model: Its name, such as `OPENCV_FISHEYE`.
        width: Image [px].
        height: Image [px].
        params: In COLMAP's order.

    Raises:
        InputError: The model is unknown or has another number of parameters.
    """
    import pycolmap

    if model == "EQUIRECTANGULAR":
        return panorama_lens(width, height)
    try:
        camera = pycolmap.Camera(model=model, width=width, height=height, params=params)
        valid = camera.verify_params() and np.isfinite(params).all()
    except (ValueError, RuntimeError, AttributeError, KeyError, TypeError):
        valid, camera = False, None
    if camera is None or not valid:
        raise InputError(
            f"camera model {model} with {len(params)} parameters is unknown; expected one of COLMAP's, "
            f"such as {', '.join(EXACT)}"
        )
    if model in EXACT:
        k1 = k2 = p1 = p2 = 0.0
        if model in ("SIMPLE_RADIAL", "RADIAL", "OPENCV"):
            extra = [*params[4 if model == "OPENCV" else 3 :], 0.0, 0.0, 0.0]
            k1, k2 = extra[0], extra[1] if model != "SIMPLE_RADIAL" else 0.0
            p1, p2 = (extra[2], extra[3]) if model == "OPENCV" else (0.0, 0.0)
        k = camera.calibration_matrix()
        return Intrinsics(
            width=width, height=height, fx=float(k[0, 0]), fy=float(k[1, 1]), cx=float(k[0, 2]), cy=float(k[1, 2]),
            distortion=(k1, k2, p1, p2),
        )  # fmt: skip

    def project(rays: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(camera.img_from_cam(np.ascontiguousarray(rays)), np.float64)

    middle = project(np.array([[0.0, 0.0, 1.0], [1e-4, 0.0, 1.0], [0.0, 1e-4, 1.0]]))
    focal = float(np.mean([middle[1, 0] - middle[0, 0], middle[2, 1] - middle[0, 1]]) / 1e-4)
    return Lens(model, width, height, focal, project)


def polynomial_lens(
    model: str,
    width: int,
    height: int,
    k: NDArray[np.float64],
    radial: tuple[float, ...],
    p1: float,
    p2: float,
) -> Lens:
    """OpenCV's model with a polynomial of any degree: ``1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8`` (nerfstudio's k3, k4).

    Args:
        model: Its name.
        width: Image [px].
        height: Image [px].
        k: Calibration matrix `[3, 3]`.
        radial: k1, k2, ...
        p1: Tangential.
        p2: Tangential.
    """

    def project(rays: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = rays[:, 0] / rays[:, 2], rays[:, 1] / rays[:, 2]
        r2 = x * x + y * y
        factor = 1.0 + sum(c * r2 ** (n + 1) for n, c in enumerate(radial))
        u = x * factor + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        v = y * factor + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return np.column_stack([k[0, 0] * u + k[0, 2], k[1, 1] * v + k[1, 2]])

    return Lens(model, width, height, float(np.sqrt(k[0, 0] * k[1, 1])), project)


def _pinhole_within(lens: Lens) -> Intrinsics:
    """The pinhole camera whose image lies within the lens's: along each axis as far as it goes, then shrunk until all fits."""
    reach = [_reach(lens, direction) for direction in ((-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))]
    if min(reach) <= 1e-3 or not np.isfinite(lens.focal_px) or lens.focal_px <= 0:
        raise InputError(
            f"camera of model {lens.model} sees nothing beside its middle; its parameters are no camera"
        )
    low, high = 0.0, 1.0
    if _inside(lens, _border(reach, 1.0)):
        low = 1.0
    else:
        for _ in range(30):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if _inside(lens, _border(reach, middle)) else (low, middle)
    left, right, top, bottom = (low * r for r in reach)
    width, height = (max(8, int(lens.focal_px * extent)) for extent in (left + right, top + bottom))
    return Intrinsics(
        width=width, height=height, fx=width / (left + right), fy=height / (top + bottom),
        cx=left * width / (left + right), cy=top * height / (top + bottom),
    )  # fmt: skip


def _reach(lens: Lens, direction: tuple[float, float]) -> float:
    """How far from the axis the image goes along a direction of the plane z = 1, as a tangent."""
    tangents = np.linspace(0.0, np.tan(MAX_HALF_FOV_RAD), 2000)
    at = lens.project(np.column_stack([tangents[:, None] * np.array(direction), np.ones_like(tangents)]))
    along = (at - at[0]) @ np.array(direction)
    good = _within(lens, at) & (np.diff(along, prepend=-1.0) > 0)
    return float(tangents[len(good) - 1 if good.all() else max(int(np.argmin(good)) - 1, 0)])


def _border(reach: list[float], factor: float) -> NDArray[np.float64]:
    left, right, top, bottom = (factor * r for r in reach)
    s = np.linspace(0.0, 1.0, BORDER_SAMPLES)
    x, y = -left + s * (left + right), -top + s * (top + bottom)
    ones = np.ones_like(s)
    sides = [(x, -top * ones), (x, bottom * ones), (-left * ones, y), (right * ones, y)]
    return np.concatenate([np.column_stack([*side, ones]) for side in sides])


def _square_view(lens: Lens) -> Intrinsics:
    """Ninety degrees each way, with the lens's own sampling in the middle."""
    side = max(8, round(2 * lens.focal_px))
    return Intrinsics(width=side, height=side, fx=side / 2, fy=side / 2, cx=side / 2, cy=side / 2)


def _inside(lens: Lens, points: NDArray[np.float64]) -> bool:
    return bool(_within(lens, lens.project(points)).all())


def _within(lens: Lens, at: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.all((at >= -0.01) & (at <= np.array([lens.width, lens.height]) + 0.01), axis=1)


def describe(lenses: list[Any]) -> str | None:
    """Names of the models that were undistorted, for the metadata; None where there are none."""
    names = sorted({lens.model for lens in lenses if isinstance(lens, Lens)})
    return ", ".join(names) or None
