"""From the arbitrary frame of structure from motion to the world: metres, +Z up, ground at zero, +X along the walk.

Photos hold neither scale nor gravity: :mod:`gaussgym_recon.scale` and :mod:`gaussgym_recon.gravity` find them, this module
aligns positions with GPS or surveyed points, whatever a minority of them says, and lays the world frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import InputError

from gaussgym_recon.posed import Similarity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from gaussgym_recon.gravity import GroundPlane

WGS84_RADIUS_M = 6378137.0
WGS84_FLATTENING = 1.0 / 298.257223563


def enu_from_gps(lat_lon_alt: ArrayLike, origin_lat_lon_alt: ArrayLike) -> NDArray[np.float64]:
    """Convert WGS84 fixes to a local tangent frame.

    Args:
        lat_lon_alt: Latitude and longitude [deg] and altitude above the ellipsoid [m], shape `[..., 3]`.
        origin_lat_lon_alt: The frame's origin, shape `[3]`.

    Returns:
        East, north, up [m], shape `[..., 3]`.
    """
    origin = np.asarray(origin_lat_lon_alt, dtype=np.float64)
    lat, lon = np.radians(origin[0]), np.radians(origin[1])
    offset = _ecef(np.asarray(lat_lon_alt, dtype=np.float64)) - _ecef(origin)
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    up = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    return offset @ np.stack([east, north, up], axis=1)


def gps_from_enu(enu_m: ArrayLike, origin_lat_lon_alt: ArrayLike) -> NDArray[np.float64]:
    """Invert :func:`enu_from_gps` by Newton steps; exact to micrometres within kilometres of the origin."""
    enu_m = np.asarray(enu_m, dtype=np.float64)
    origin = np.asarray(origin_lat_lon_alt, dtype=np.float64)
    lat = np.radians(origin[0])
    eccentricity2 = WGS84_FLATTENING * (2 - WGS84_FLATTENING)
    curve = 1 - eccentricity2 * np.sin(lat) ** 2
    metres_north = WGS84_RADIUS_M * (1 - eccentricity2) / curve**1.5 + origin[2]
    metres_east = (WGS84_RADIUS_M / np.sqrt(curve) + origin[2]) * np.cos(lat)
    degrees = np.degrees([1 / metres_north, 1 / metres_east])
    gps = np.broadcast_to(origin, enu_m.shape).copy()
    for _ in range(8):
        missing = enu_m - enu_from_gps(gps, origin)
        gps += np.stack(
            [missing[..., 1] * degrees[0], missing[..., 0] * degrees[1], missing[..., 2]], axis=-1
        )
    return gps


def _ecef(lat_lon_alt: NDArray[np.float64]) -> NDArray[np.float64]:
    lat, lon, alt = np.radians(lat_lon_alt[..., 0]), np.radians(lat_lon_alt[..., 1]), lat_lon_alt[..., 2]
    eccentricity2 = WGS84_FLATTENING * (2 - WGS84_FLATTENING)
    radius = WGS84_RADIUS_M / np.sqrt(1 - eccentricity2 * np.sin(lat) ** 2)
    return np.stack(
        [
            (radius + alt) * np.cos(lat) * np.cos(lon),
            (radius + alt) * np.cos(lat) * np.sin(lon),
            (radius * (1 - eccentricity2) + alt) * np.sin(lat),
        ],
        axis=-1,
    )


def umeyama(
    source: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None, with_scale: bool = True
) -> Similarity:
    """Least-squares similarity from `source` to `target` (Umeyama, PAMI 1991, equations 40 to 43).

    Args:
        source: Points `[n, d]`, `d` 2 or 3.
        target: Points `[n, d]`.
        weights: Non-negative weights `[n]`, default equal.
        with_scale: Whether to estimate the scale; 1 otherwise.

    Returns:
        Similarity of dimension `d`.

    Raises:
        InputError: Fewer than two points, or all at one place.
    """
    source = np.asarray(source, dtype=np.float64)
    target = np.asarray(target, dtype=np.float64)
    share = np.ones(len(source)) if weights is None else np.array(weights, dtype=np.float64)
    if len(source) < 2 or share.sum() <= 0:
        raise InputError(f"alignment of {len(source)} positions; expected two or more")
    share /= share.sum()
    mean_source, mean_target = share @ source, share @ target
    centred, wanted = source - mean_source, target - mean_target
    variance = float(share @ (centred**2).sum(axis=1))
    if variance < 1e-300:
        raise InputError("alignment of positions that all coincide; expected a camera that moves")
    left, singular, right = np.linalg.svd((wanted * share[:, None]).T @ centred)
    sign = np.ones(source.shape[1])
    sign[-1] = 1.0 if np.linalg.det(left @ right) > 0 else -1.0
    rotation = (left * sign) @ right
    scale = float((singular * sign).sum() / variance) if with_scale else 1.0
    return Similarity(scale, rotation, mean_target - scale * rotation @ mean_source)


def robust_umeyama(
    source: NDArray[np.float64],
    target: NDArray[np.float64],
    *,
    noise: ArrayLike,
    iterations: int = 200,
    seed: int = 0,
) -> tuple[Similarity, NDArray[np.float64]]:
    """Similarity that a minority of wrong targets does not move: RANSAC, then Cauchy-weighted least squares.

    Args:
        source: Points `[n, d]`.
        target: Points `[n, d]`.
        noise: Expected standard deviation of the targets, their unit; one number, or one an axis `[d]`.
        iterations: RANSAC draws of `d` points.
        seed: Of the draws.

    Returns:
        The similarity and the final weights `[n]` in 0..1.
    """
    rng = np.random.default_rng(seed)
    spread = np.maximum(np.asarray(noise, dtype=np.float64), 1e-6)
    dimension, count = source.shape[1], len(source)
    best, best_cost = umeyama(source, target), np.inf
    candidates = [rng.choice(count, size=min(count, dimension + 1), replace=False) for _ in range(iterations)]
    for chosen in [np.arange(count), *candidates]:
        try:
            candidate = umeyama(source[chosen], target[chosen])
        except InputError:
            continue
        squared = (((candidate.apply(source) - target) / spread) ** 2).sum(axis=1)
        cost = np.log1p(squared).sum()
        if candidate.scale > 0 and cost < best_cost:
            best, best_cost = candidate, cost
    weights = np.ones(count)
    for _ in range(30):
        squared = (((best.apply(source) - target) / spread) ** 2).sum(axis=1)
        weights = 1.0 / (1.0 + squared / 4.0)
        best = umeyama(source, target, weights=weights)
    return best, weights


ALTITUDE_NOISE = 3.0
"""How many times noisier than horizontally a fix is in altitude."""


@dataclass(frozen=True)
class GpsFit:
    """Camera centres laid on GPS fixes, and the fixes that cannot be right."""

    transform: Similarity
    """From the model to east, north, up [m]."""
    residuals_m: NDArray[np.float64]
    """Horizontal distance of each camera from its fix `[n]` [m]; NaN without one."""
    outliers: NDArray[np.bool_]
    """Fixes that disagree with all others `[n]`; they have no part in `transform`."""
    threshold_m: float
    """Distance beyond which a fix is an outlier [m]."""


def fit_gps(
    centers: NDArray[np.float64],
    gps_enu_m: NDArray[np.float64],
    *,
    noise_m: float = 3.0,
    worst_m: float = 15.0,
) -> GpsFit:
    """Align a model to GPS and name the fixes that are wrong.

    A fix is wrong farther than five standard deviations from its camera (in altitude: three times that), the deviation taken
    from the median residual, though never below twice `noise_m` and always beyond `worst_m`.

    Args:
        centers: Camera centres in any frame `[n, 3]`.
        gps_enu_m: East, north, up [m] `[n, 3]`, NaN where unknown.
        noise_m: Horizontal noise that is expected of a fix [m]; altitudes are taken to be three times as noisy.
        worst_m: Largest distance that noise explains [m].

    Raises:
        InputError: Fewer than two fixes, or all at one place.
    """
    fixed = np.asarray(np.isfinite(gps_enu_m).all(axis=1))
    noise = noise_m * np.array([1.0, 1.0, ALTITUDE_NOISE])
    aligned, _ = robust_umeyama(centers[fixed], gps_enu_m[fixed], noise=noise)
    outliers = np.zeros(len(centers), np.bool_)
    threshold = worst_m
    for _ in range(6):
        off = np.where(fixed[:, None], aligned.apply(centers) - gps_enu_m, 0.0)
        # A straight walk may roll about itself: what is off to the side can hide in the altitude.
        distance = np.maximum(np.hypot(off[:, 0], off[:, 1]), np.abs(off[:, 2]) / ALTITUDE_NOISE)
        # The median of a Rayleigh distribution is 1.1774 standard deviations.
        spread = float(np.median(distance[fixed & ~outliers])) / 1.1774
        threshold = min(max(5.0 * spread, 2.0 * noise_m), worst_m)
        found = np.logical_and(fixed, distance > threshold)
        if (fixed & ~found).sum() < 4:
            break
        settled = np.array_equal(found, outliers)
        outliers = found
        aligned = umeyama(centers[fixed & ~outliers], gps_enu_m[fixed & ~outliers])
        if settled:
            break
    residuals = np.linalg.norm((aligned.apply(centers) - gps_enu_m)[:, :2], axis=1)
    return GpsFit(aligned, residuals, outliers, threshold)


HIDDEN_DRIFT = 1.5
"""By how much errors of a fit to GPS exceed what its residuals say: drift as slow as the walk looks like scale or tilt.
Found by simulation with drifts that last 3 to 15 images."""


def independent_fraction(residuals: NDArray[np.float64]) -> float:
    """Share of the residuals `[n, d]` of a fit that are independent, by their autocorrelation, at most a quarter.

    Errors of GPS drift: neighbouring fixes share most of theirs, and what they share shrinks no mean. The correlations are
    added up to the first that is not positive (Geyer, Statistical Science 1992); a fit takes up part of the drift and hides
    it, for which the sum is widened by what was found of it.
    """
    count = len(residuals)
    if count < 4:
        return 0.25
    centred = residuals - residuals.mean(axis=0)
    variance = float((centred**2).sum())
    if variance <= 0:
        return 0.25
    time = 1.0
    for lag in range(1, count // 2):
        correlation = float((centred[lag:] * centred[:-lag]).sum()) / variance
        if correlation <= 0:
            break
        time += 2.0 * correlation
    time *= 1.0 + 12.0 * time / count
    return min(0.25, max(1.0 / time, 1.0 / count))


def level_rotation(up: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation that turns the unit vector `up` to +Z."""
    helper = np.eye(3)[int(np.argmin(np.abs(up)))]
    x = np.cross(helper, up)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(up, x), up])


def world_frame(centers: NDArray[np.float64], plane: GroundPlane, scale: float) -> Similarity:
    """The transform into the world: ground at zero, origin below the first camera, +X along the walk.

    The heading is the main horizontal direction of the camera path, signed so that the walk starts off along it.

    Args:
        centers: Camera centres in the frame of structure from motion, capture order `[n, 3]`.
        plane: The ground there.
        scale: Metres per unit.
    """
    level = level_rotation(plane.up)
    xy = (centers @ level.T)[:, :2]
    offsets = xy - xy[0]
    main = np.linalg.svd(xy - xy.mean(axis=0), full_matrices=False)[2][0]
    along = offsets @ main
    main = main * np.sign(along[int(np.argmax(np.abs(along)))] or 1.0)
    turn = np.array([[main[0], main[1], 0.0], [-main[1], main[0], 0.0], [0.0, 0.0, 1.0]])
    rotation = turn @ level
    foot = centers[0] - plane.up * (centers[0] @ plane.normal - plane.offset) / (plane.normal @ plane.up)
    return Similarity(scale, rotation, -scale * rotation @ foot)
