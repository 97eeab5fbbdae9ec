"""Lens distortion: a distorted image is resampled from a pinhole image that covers what the lens sees.

The models are OpenCV's, with its names and order of coefficients, so that a calibration file's numbers can be used as they are.
With `(x, y)` the point `(X/Z, Y/Z)` of the camera frame and `u = fx·x' + cx`, `v = fy·y' + cy`:

- `opencv` `(k1, k2, p1, p2, k3)` (Brown 1966; OpenCV documentation, calib3d): with `r² = x² + y²`,
  `x' = x·(1 + k1 r² + k2 r⁴ + k3 r⁶) + 2 p1 x y + p2 (r² + 2x²)`,
  `y' = y·(1 + k1 r² + k2 r⁴ + k3 r⁶) + p1 (r² + 2y²) + 2 p2 x y`.
- `fisheye` `(k1, k2, k3, k4)` (Kannala and Brandt 2006; OpenCV documentation, fisheye): with `θ = atan r`,
  `(x', y') = (x, y)/r · θ·(1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸)`.

A pinhole image has no room for what lies far off the axis: rays beyond `MAX_OFF_AXIS_RAD` are refused, not cropped.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201, ANN202

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numba
import numpy as np
from gaussgym_scene import InputError
from numpy.typing import NDArray

LensModel = Literal["pinhole", "opencv", "fisheye"]
NUM_COEFFICIENTS = {"pinhole": 0, "opencv": 5, "fisheye": 4}

MAX_OFF_AXIS_RAD = np.radians(75.0)
"""Furthest off the axis that a corner of the image may look: there a pinhole image spends 15 times the area per solid
angle that it does in its middle, beyond it grows without bound."""
_MAX_RADIUS = float(np.tan(MAX_OFF_AXIS_RAD))
_MARGIN_PX = 1.0
_ITERATIONS = 30
_TOLERANCE = 1e-10
_SEEN, _FOLDED, _TOO_WIDE = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class LensCfg:
    """A lens and how much its copies differ.

    Attributes:
        model: 'pinhole' (no distortion), 'opencv' or 'fisheye'.
        coefficients: OpenCV's, `(k1, k2, p1, p2, k3)` or `(k1, k2, k3, k4)`.
        spread: Half range of each coefficient, drawn per camera; () for none.
        oversample: Pixels of the pinhole image per pixel of the distorted one, where they are densest. The rasterizer's
            low-pass (0.3 px²), bilinear sampling and the four taps a pixel together blur as much as the low-pass alone does
            an undistorted image at 1.5.
    """

    model: LensModel = "pinhole"
    coefficients: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    oversample: float = 1.5

    def __post_init__(self) -> None:
        """Check the values."""
        if self.model not in get_args(LensModel):
            raise InputError(
                f"unknown lens model {self.model!r}; choose one of: {', '.join(NUM_COEFFICIENTS)}"
            )
        expected = NUM_COEFFICIENTS[self.model]
        if len(self.coefficients) != expected or not np.isfinite(self.coefficients).all():
            raise InputError(
                f"lens model {self.model!r} has coefficients {self.coefficients}, expected {expected} finite numbers"
            )
        if self.spread and (
            len(self.spread) != expected
            or not (np.isfinite(self.spread) & (np.array(self.spread) >= 0)).all()
        ):
            raise InputError(
                f"spread of the lens is {self.spread}, expected () or {expected} numbers of at least 0"
            )
        if not 0.5 <= self.oversample <= 8:
            raise InputError(f"oversample is {self.oversample}, expected 0.5 to 8")

    @property
    def ideal(self) -> bool:
        """Whether there is no distortion to model."""
        return self.model == "pinhole"


def distort(model: LensModel, coefficients: Any, xy: Any) -> NDArray[np.float64]:
    """Where a lens puts what a pinhole sees at `xy` `[..., 2]` (X/Z, Y/Z): `[..., 2]`, to be multiplied by the focal length."""
    k = np.asarray(coefficients, np.float64)
    x, y = np.moveaxis(np.asarray(xy, np.float64), -1, 0)
    square = x * x + y * y
    if model == "opencv":
        radial = 1 + square * (k[0] + square * (k[1] + square * k[4]))
        dx = 2 * k[2] * x * y + k[3] * (square + 2 * x * x)
        dy = k[2] * (square + 2 * y * y) + 2 * k[3] * x * y
        return np.stack([x * radial + dx, y * radial + dy], -1)
    if model == "fisheye":
        radius = np.sqrt(square)
        angle = np.arctan(radius)
        t = angle * angle
        bent = angle * (1 + t * (k[0] + t * (k[1] + t * (k[2] + t * k[3]))))
        scale = np.where(radius > 1e-12, bent / np.maximum(radius, 1e-12), 1.0)
        return np.stack([x * scale, y * scale], -1)
    return np.stack([x, y], -1)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _undistort_opencv(xd, yd, x, y, k):
    """Invert `opencv` by Newton's method from (x, y); returns x, y, and whether they are a point that the lens maps upright."""
    for _ in range(_ITERATIONS):
        square = x * x + y * y
        radial = 1.0 + square * (k[0] + square * (k[1] + square * k[4]))
        slope = k[0] + square * (2.0 * k[1] + square * 3.0 * k[4])
        ex = x * radial + 2.0 * k[2] * x * y + k[3] * (square + 2.0 * x * x) - xd
        ey = y * radial + k[2] * (square + 2.0 * y * y) + 2.0 * k[3] * x * y - yd
        a = radial + 2.0 * x * x * slope + 2.0 * k[2] * y + 6.0 * k[3] * x
        b = 2.0 * x * y * slope + 2.0 * k[2] * x + 2.0 * k[3] * y
        d = radial + 2.0 * y * y * slope + 6.0 * k[2] * y + 2.0 * k[3] * x
        det = a * d - b * b
        if not (det > 0.0 and a + d > 0.0):
            return x, y, False
        if abs(ex) + abs(ey) < _TOLERANCE:
            return x, y, True
        x -= (d * ex - b * ey) / det
        y -= (a * ey - b * ex) / det
    return x, y, False


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _undistort_fisheye(xd, yd, x, y, k):
    """Invert `fisheye` by Newton's method in θ from (x, y); returns x, y, and a code."""
    bent = np.sqrt(xd * xd + yd * yd)
    if bent < 1e-12:
        return xd, yd, _SEEN
    angle = np.arctan(np.sqrt(x * x + y * y))
    for _ in range(_ITERATIONS):
        t = angle * angle
        error = angle * (1.0 + t * (k[0] + t * (k[1] + t * (k[2] + t * k[3])))) - bent
        slope = 1.0 + t * (3.0 * k[0] + t * (5.0 * k[1] + t * (7.0 * k[2] + t * 9.0 * k[3])))
        if not slope > 0.0:
            return x, y, _FOLDED
        if angle > MAX_OFF_AXIS_RAD + 0.5:  # well beyond: it need not converge to say so
            return x, y, _TOO_WIDE
        if abs(error) < _TOLERANCE:
            if angle > MAX_OFF_AXIS_RAD:
                return x, y, _TOO_WIDE
            scale = np.tan(angle) / bent
            return xd * scale, yd * scale, _SEEN
        angle -= error / slope
    return x, y, _FOLDED


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _trace_corner(fisheye, k, focal, i, j, x, y, out):
    """Solve one pixel corner from a neighbour's solution (x, y)."""
    xd, yd = (i - focal[2]) / focal[0], (j - focal[3]) / focal[1]
    if fisheye:
        x, y, code = _undistort_fisheye(xd, yd, x, y, k)
    else:
        x, y, found = _undistort_opencv(xd, yd, x, y, k)
        code = _SEEN if found else _FOLDED
        if found and x * x + y * y > _MAX_RADIUS * _MAX_RADIUS:
            code = _TOO_WIDE
    out[0], out[1] = x, y
    return code


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _trace(fisheye, coefficients, focals, rays, codes):
    """Fill `rays [U, H+1, W+1, 2]`, walking from the principal point outwards.

    Each corner starts from its neighbour's solution: two steps are enough, and no corner lands on a branch of the polynomial
    behind its fold, which starting from the distorted point itself can do.
    """
    rows, columns = rays.shape[1], rays.shape[2]
    for u in range(len(rays)):
        k, focal, table = coefficients[u], focals[u], rays[u]
        i0 = min(max(int(focal[2] + 0.5), 0), columns - 1)
        j0 = min(max(int(focal[3] + 0.5), 0), rows - 1)
        code = _SEEN
        for step in range(rows):
            j = j0 + step if j0 + step < rows else rows - 1 - step
            x, y = 0.0, 0.0
            if step > 0:
                before = j - 1 if j > j0 else j + 1
                x, y = table[before, i0, 0], table[before, i0, 1]
            code = _trace_corner(fisheye, k, focal, i0, j, x, y, table[j, i0])
            for i in range(i0 + 1, columns):
                if code == _SEEN:
                    code = _trace_corner(
                        fisheye, k, focal, i, j, table[j, i - 1, 0], table[j, i - 1, 1], table[j, i]
                    )
            for i in range(i0 - 1, -1, -1):
                if code == _SEEN:
                    code = _trace_corner(
                        fisheye, k, focal, i, j, table[j, i + 1, 0], table[j, i + 1, 1], table[j, i]
                    )
            if code != _SEEN:
                break
        codes[u] = code


def corner_rays(
    model: LensModel, coefficients: Any, focals: Any, width: int, height: int
) -> NDArray[np.float64]:
    """What the corners of the pixels of a distorted image look at.

    Args:
        model: 'opencv' or 'fisheye'.
        coefficients: `[U, 5]` or `[U, 4]`.
        focals: fx, fy, cx, cy `[U, 4]` [px].
        width: Of the distorted image [px].
        height: Of the distorted image [px].

    Returns:
        (X/Z, Y/Z) in the camera frame `[U, height + 1, width + 1, 2]`.

    Raises:
        InputError: A corner has no ray (the polynomial folds back before it), or one further off the axis than a pinhole
            image can hold.
    """
    coefficients = np.ascontiguousarray(coefficients, np.float64)
    focals = np.ascontiguousarray(focals, np.float64)
    rays = np.empty((len(focals), height + 1, width + 1, 2))
    codes = np.zeros(len(focals), np.int64)
    _trace(model == "fisheye", coefficients, focals, rays, codes)
    if codes.any():
        first = int(np.flatnonzero(codes)[0])
        shown = np.round(coefficients[first], 5).tolist(), np.round(focals[first], 2).tolist()
        lens = f"{model} lens {shown[0]} with fx, fy, cx, cy {shown[1]}"
        if codes[first] == _FOLDED:
            raise InputError(
                f"{lens} folds back before the corners of a {width}x{height} image; expected coefficients that are "
                "monotone over the image: take those of a calibration of this field of view, or a longer focal length"
            )
        raise InputError(
            f"{lens} sees more than {np.degrees(MAX_OFF_AXIS_RAD):.0f}° off its axis in the corners of a {width}x{height} image, "
            "which a pinhole image cannot cover; take a longer focal length or a smaller image"
        )
    return rays


def source_size(cfg: LensCfg, K: Any, width: int, height: int) -> tuple[int, int]:
    """Size of the pinhole image [px] that covers a distorted one at `cfg.oversample` pixels a pixel.

    Args:
        cfg: The lens; its nominal coefficients count.
        K: Calibration matrix of the distorted camera `[3, 3]` [px].
        width: Of the distorted image [px].
        height: Of the distorted image [px].

    Returns:
        Width and height; those of the distorted image if there is no distortion.

    Raises:
        InputError: See `corner_rays`.
    """
    if cfg.ideal:
        return width, height
    k = np.asarray(K, np.float64)
    focals = np.array([[k[0, 0], k[1, 1], k[0, 2], k[1, 2]]])
    rays = corner_rays(cfg.model, [cfg.coefficients], focals, width, height)[0]
    size = []
    for axis in range(2):
        # The smallest step between neighbouring corners decides; elsewhere the pinhole image is denser still.
        finest = np.diff(rays[..., axis], axis=1 - axis).min()
        extent = rays[..., axis].max() - rays[..., axis].min()
        size.append(int(np.ceil(cfg.oversample * extent / finest + 2 * _MARGIN_PX)))
    return size[0], size[1]


def source_focals(rays: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Pinhole cameras that see exactly what lenses see, a margin of a pixel around it.

    Args:
        rays: From `corner_rays`, `[U, H+1, W+1, 2]`.
        width: Of the pinhole image [px].
        height: Of the pinhole image [px].

    Returns:
        fx, fy, cx, cy `[U, 4]` [px].
    """
    low, high = rays.min((1, 2)), rays.max((1, 2))
    focal = (np.array([width, height]) - 2 * _MARGIN_PX) / (high - low)
    return np.concatenate([focal, _MARGIN_PX - low * focal], 1)


@numba.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _add_bilinear(image, decode, u, v, weight, light, column):
    """Add the light at (u, v) [px] of a gamma-encoded image, between pixel centres."""
    height, width = image.shape[0], image.shape[1]
    x, y = min(max(u - 0.5, 0.0), width - 1.0), min(max(v - 0.5, 0.0), height - 1.0)
    i, j = min(int(x), max(width - 2, 0)), min(int(y), max(height - 2, 0))
    i1, j1 = min(i + 1, width - 1), min(j + 1, height - 1)
    a, b = x - i, y - j
    w00, w10 = weight * (1.0 - a) * (1.0 - b), weight * a * (1.0 - b)
    w01, w11 = weight * (1.0 - a) * b, weight * a * b
    for c in range(3):
        light[column, c] += np.float32(
            w00 * decode[image[j, i, c]]
            + w10 * decode[image[j, i1, c]]
            + w01 * decode[image[j1, i, c]]
            + w11 * decode[image[j1, i1, c]]
        )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_row(image, decode, rays, focal, y, weight, light):
    """Add row y of the distorted image to `light [W, 3]`, each pixel as the mean of four points of its area.

    Args:
        image: Pinhole image, uint8 `[Hs, Ws, 3]`.
        decode: Linear light of each code `[256]`.
        rays: One table of `corner_rays`.
        focal: fx, fy, cx, cy of the pinhole image.
        y: Row.
        weight: Of this image.
        light: float32, added to.
    """
    quarter = weight * 0.25
    for x in range(light.shape[0]):
        for corner in range(4):
            # A quarter of a pixel from the middle towards each corner, bilinear between the corners' rays.
            near_x, near_y = 0.75 if corner & 1 == 0 else 0.25, 0.75 if corner & 2 == 0 else 0.25
            far_x, far_y = 1.0 - near_x, 1.0 - near_y
            rx = near_y * (near_x * rays[y, x, 0] + far_x * rays[y, x + 1, 0]) + far_y * (
                near_x * rays[y + 1, x, 0] + far_x * rays[y + 1, x + 1, 0]
            )
            ry = near_y * (near_x * rays[y, x, 1] + far_x * rays[y, x + 1, 1]) + far_y * (
                near_x * rays[y + 1, x, 1] + far_x * rays[y + 1, x + 1, 1]
            )
            _add_bilinear(
                image, decode, focal[0] * rx + focal[2], focal[1] * ry + focal[3], quarter, light, x
            )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def nearest_pixel(rays, focal, x, y, width, height):
    """The pixel of the pinhole image under the middle of a distorted one: (column, row)."""
    rx = 0.25 * (rays[y, x, 0] + rays[y, x + 1, 0] + rays[y + 1, x, 0] + rays[y + 1, x + 1, 0])
    ry = 0.25 * (rays[y, x, 1] + rays[y, x + 1, 1] + rays[y + 1, x, 1] + rays[y + 1, x + 1, 1])
    i, j = int(focal[0] * rx + focal[2]), int(focal[1] * ry + focal[3])
    return min(max(i, 0), width - 1), min(max(j, 0), height - 1)
