"""Camera intrinsics with OpenCV distortion."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gaussgym_scene.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A pinhole camera with OpenCV's radial-tangential distortion. Pixel centres lie at (0.5, 0.5)."""

    width: int
    """Image width [px]."""
    height: int
    """Image height [px]."""
    fx: float
    """Focal length [px]."""
    fy: float
    """Focal length [px]."""
    cx: float
    """Principal point [px]."""
    cy: float
    """Principal point [px]."""
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """k1, k2, p1, p2 of OpenCV."""
    focal_source: str = "calibrated"
    """Where the focal length comes from: 'exif', 'guess', 'calibrated'."""

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if self.width < 1 or self.height < 1 or not np.isfinite(values).all() or min(self.fx, self.fy) <= 0:
            raise InputError(
                f"camera intrinsics {self} are not a camera: sizes and focal lengths must be positive"
            )

    @property
    def K(self) -> NDArray[np.float64]:
        """Calibration matrix [px], shape `[3, 3]`."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)

    def resized(self, width: int, height: int) -> "Intrinsics":
        """The same camera read out at another size."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
        )

    def without_distortion(self) -> "Intrinsics":
        """The ideal pinhole camera with the same calibration matrix."""
        return replace(self, distortion=(0.0, 0.0, 0.0, 0.0))

    @classmethod
    def from_fov(cls, width: int, height: int, horizontal_fov_rad: float) -> "Intrinsics":
        """A centred camera with square pixels and the given horizontal field of view [rad]."""
        focal = 0.5 * width / np.tan(0.5 * horizontal_fov_rad)
        return cls(width=width, height=height, fx=float(focal), fy=float(focal), cx=width / 2, cy=height / 2)

    def to_dict(self) -> dict[str, object]:
        """Plain values for a manifest."""
        return {
            "width": self.width,
            "height": self.height,
            "fx": self.fx,
            "fy": self.fy,
            "cx": self.cx,
            "cy": self.cy,
            "distortion_k1_k2_p1_p2": list(self.distortion),
            "focal_source": self.focal_source,
        }

    @classmethod
    def from_dict(cls, fields: dict) -> "Intrinsics":
        """Read what `to_dict` wrote."""
        try:
            return cls(
                width=int(fields["width"]),
                height=int(fields["height"]),
                fx=float(fields["fx"]),
                fy=float(fields["fy"]),
                cx=float(fields["cx"]),
                cy=float(fields["cy"]),
                distortion=tuple(float(value) for value in fields["distortion_k1_k2_p1_p2"]),  # type: ignore[arg-type]
                focal_source=str(fields["focal_source"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"camera intrinsics {fields!r} lack or misuse {error}") from None


def distort(points: ArrayLike, distortion: ArrayLike) -> NDArray[np.float64]:
    """Apply OpenCV's radial-tangential distortion to normalized image points.

    Args:
        points: Ideal points (x/z, y/z), shape `[..., 2]`.
        distortion: k1, k2, p1, p2.

    Returns:
        Distorted points, shape `[..., 2]` (OpenCV documentation of `cv::projectPoints`, k3 = 0).
    """
    x, y = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
    k1, k2, p1, p2 = np.asarray(distortion, dtype=np.float64)
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        axis=-1,
    )


def undistort(points: ArrayLike, distortion: ArrayLike, *, iterations: int = 20) -> NDArray[np.float64]:
    """Invert `distort` by fixed-point iteration; shapes as there."""
    points = np.asarray(points, dtype=np.float64)
    ideal = points.copy()
    for _ in range(iterations):
        ideal += points - distort(ideal, distortion)
    return ideal


def pixel_rays_c(intrinsics: Intrinsics) -> NDArray[np.float64]:
    """Viewing rays of all pixel centres in the camera frame, distortion undone.

    Returns:
        Directions with z = 1, shape `[height, width, 3]`, so that depth along +Z times the ray is the point.
    """
    u, v = np.meshgrid(np.arange(intrinsics.width) + 0.5, np.arange(intrinsics.height) + 0.5)
    points = np.stack([(u - intrinsics.cx) / intrinsics.fx, (v - intrinsics.cy) / intrinsics.fy], axis=-1)
    if any(intrinsics.distortion):
        points = undistort(points, intrinsics.distortion)
    return np.concatenate([points, np.ones_like(points[..., :1])], axis=-1)
