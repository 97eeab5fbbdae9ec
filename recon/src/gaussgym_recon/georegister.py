"""From the arbitrary frame of structure from motion to the world: metres, +Z up, ground at zero, +X along the walk.

Photos hold neither scale nor gravity. Gravity comes from the cameras' image-down axes (people hold cameras
upright) and then from the ground plane near the cameras, never from the GPS alignment of a straight walk, which
leaves roll loose. Scale comes from GPS, of which only scale and heading are taken, or from a stated height of the
cameras above the ground. Nothing is silently 1.0: both sources are recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import InputError, StageError
from scipy.spatial import cKDTree

from gaussgym_recon.posed import Similarity

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

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
    noise: float,
    iterations: int = 200,
    seed: int = 0,
) -> tuple[Similarity, NDArray[np.float64]]:
    """Similarity that a minority of wrong targets does not move: RANSAC, then Cauchy-weighted least squares.

    Args:
        source: Points `[n, d]`.
        target: Points `[n, d]`.
        noise: Expected standard deviation of the targets, their unit.
        iterations: RANSAC draws of `d` points.
        seed: Of the draws.

    Returns:
        The similarity and the final weights `[n]` in 0..1.
    """
    rng = np.random.default_rng(seed)
    dimension, count = source.shape[1], len(source)
    best, best_cost = umeyama(source, target), np.inf
    candidates = [rng.choice(count, size=min(count, dimension + 1), replace=False) for _ in range(iterations)]
    for chosen in [np.arange(count), *candidates]:
        try:
            candidate = umeyama(source[chosen], target[chosen])
        except InputError:
            continue
        squared = ((candidate.apply(source) - target) ** 2).sum(axis=1)
        cost = np.log1p(squared / noise**2).sum()
        if candidate.scale > 0 and cost < best_cost:
            best, best_cost = candidate, cost
    weights = np.ones(count)
    for _ in range(30):
        squared = ((best.apply(source) - target) ** 2).sum(axis=1)
        weights = 1.0 / (1.0 + squared / (2.0 * noise) ** 2)
        best = umeyama(source, target, weights=weights)
    return best, weights


@dataclass(frozen=True, kw_only=True)
class GravityCfg:
    """Of :func:`ground_plane`."""

    max_prior_angle_rad: float = np.radians(25.0)
    """Largest angle between the plane's normal and the cameras' mean up direction."""
    nadir_angle_rad: float = np.radians(30.0)
    """View axes closer than this to the normal of the dominant plane mean a flight looking down."""
    threshold_of_height: float = 0.04
    """Distance of an inlier to the plane over the camera height."""
    reach_of_height: float = 6.0
    """Points farther than this from every camera, over the camera height, say little of the ground."""
    roll_std_rad: float = np.radians(2.5)
    """How level people hold a camera, as far as the images do not say."""
    pitch_std_rad: float = np.radians(8.0)
    """How steadily they look up or down, as far as the images do not say."""
    elevation_std_rad: float = np.radians(6.0)
    """How far from the horizon they look on the whole."""
    slope_std_rad: float = np.radians(2.0)
    """Slope of the ground of places that are not known to be level."""
    level_within_rad: float = np.radians(5.0)
    """A floor is taken to be level when it lies within this angle of the cameras' up direction."""
    prior_weight: float = 10.0
    """Inliers that outweigh one standard deviation of the prior."""
    iterations: int = 2000
    """RANSAC draws."""
    min_inliers: int = 12
    """Fewer points make no ground."""
    scored_points: int = 3000
    """Points that a draw is scored on, at most."""
    seed: int = 0
    """Of the draws."""


@dataclass(frozen=True)
class GroundPlane:
    """The ground in the frame of structure from motion: the plane `normal · x = offset`, and gravity."""

    normal: NDArray[np.float64]
    """Unit, towards the cameras."""
    offset: float
    up: NDArray[np.float64]
    """Against gravity; differs from the normal where the ground slopes."""
    camera_height: float
    """Median height of the cameras above the ground, units of the model."""
    inliers: int
    source: str
    prior_angle_rad: float
    """Angle between the plane's normal and the up direction that the cameras alone give."""
    slope_rad: float
    """Angle between the plane's normal and `up`."""


DOWN_IN_STORED_IMAGE = {1: (0, 1, 0), 3: (0, -1, 0), 6: (1, 0, 0), 8: (-1, 0, 0)}
"""Which axis of the stored pixels points down when the EXIF orientation is applied, in the camera frame."""


def camera_up_prior(
    c2w: NDArray[np.float64],
    orientations: list[int] | None = None,
    *,
    plane_up: NDArray[np.float64] | None = None,
    cfg: GravityCfg | None = None,
) -> tuple[NDArray[np.float64], float]:
    """Up direction from how people hold cameras: level, and looking down by much the same angle all along.

    Weighted least squares over two tilt angles and one common elevation of the view axes. Image-right axes are
    horizontal up to `cfg.roll_std_rad`; view axes have the common elevation up to `cfg.pitch_std_rad`. A walk that
    looks one way only leaves the tilt along the walk to the expectation that the common elevation is near zero;
    walks that turn measure it. The normal of the ground may be added as one more measurement with the standard
    deviation of the slope of places, `cfg.slope_std_rad`.

    Args:
        c2w: Camera-to-world `[n, 4, 4]`, OpenCV, of the stored pixels.
        orientations: EXIF orientation of each image, default 1.
        plane_up: Unit normal of the ground.
        cfg: Standard deviations.

    Returns:
        Unit vector `[3]` and its expected error [rad].
    """
    cfg = cfg or GravityCfg()
    down_c = np.array([DOWN_IN_STORED_IMAGE.get(o, (0, 1, 0)) for o in orientations or [1] * len(c2w)], float)
    forward = c2w[:, :3, 2]
    down = np.einsum("nij,nj->ni", c2w[:, :3, :3], down_c)
    right = np.cross(down, forward)
    up = -down.mean(axis=0)
    up /= np.linalg.norm(up)
    mean_up = up
    count = len(c2w)
    covariance = np.eye(3)
    for _ in range(10):
        tilt = level_rotation(up)[:2]
        rolls, climbs = right @ up, forward @ up
        roll_std = _spread(rolls, cfg.roll_std_rad)
        pitch_std = _spread(climbs - np.median(climbs), cfg.pitch_std_rad)
        # Hands shake from image to image, but habits stay: one independent image in four.
        rows = [np.c_[right @ tilt.T, np.zeros(count)], np.c_[forward @ tilt.T, -np.ones(count)]]
        values = [-rolls, -climbs]
        weights = [
            0.25 / (roll_std**2 * (1 + (rolls / (3 * roll_std)) ** 2)),
            np.full(count, 0.25 / pitch_std**2),
        ]
        rows.append(np.array([[0.0, 0.0, 1.0]]))
        values.append(np.zeros(1))
        weights.append(np.full(1, 1.0 / cfg.elevation_std_rad**2))
        if plane_up is not None:
            rows.append(np.c_[np.eye(2), np.zeros(2)])
            values.append(tilt @ plane_up)
            weights.append(np.full(2, 1.0 / cfg.slope_std_rad**2))
        design, wanted, weight = np.concatenate(rows), np.concatenate(values), np.concatenate(weights)
        covariance = np.linalg.inv((design * weight[:, None]).T @ design)
        step = covariance @ ((design * weight[:, None]).T @ wanted)
        up = up + step[:2] @ tilt
        up /= np.linalg.norm(up)
        if np.linalg.norm(step[:2]) < 1e-9:
            break
    if up @ mean_up < np.cos(cfg.max_prior_angle_rad):
        return mean_up, cfg.elevation_std_rad
    return up, float(np.sqrt(np.trace(covariance[:2, :2])))


def _spread(residuals: NDArray[np.float64], expected: float) -> float:
    """Standard deviation of few residuals, the expected one counting as four of them."""
    return float(np.sqrt((4 * expected**2 + (residuals**2).sum()) / (4 + len(residuals))))


def ground_plane(
    c2w: NDArray[np.float64],
    points: NDArray[np.float64],
    *,
    orientations: list[int] | None = None,
    level: bool = False,
    cfg: GravityCfg | None = None,
) -> GroundPlane:
    """Find the ground below the cameras and with it gravity.

    A plane by RANSAC among the points near the cameras, its normal within `cfg.max_prior_angle_rad` of the
    cameras' mean up direction and below every camera, with a threshold relative to the camera height: without
    these bounds far points and walls win. Flights that look down are recognized by their view axes, and there
    the prior is not used. Streets slope, floors do not: gravity is the plane's normal where `level` says so, else
    the weighted mean of the normal and what the cameras say, :func:`camera_up_prior`.

    Args:
        c2w: Camera-to-world `[n, 4, 4]`, OpenCV, any similarity frame.
        points: Sparse points `[P, 3]`, the reliable ones.
        orientations: EXIF orientation of each image.
        level: Whether the place is known to have a level floor.
        cfg: Bounds and thresholds.

    Returns:
        The plane.

    Raises:
        StageError: No plane fits.
    """
    cfg = cfg or GravityCfg()
    centers, axes = c2w[:, :3, 3], c2w[:, :3, 2]
    # The nearest camera of all, not of those that see the point: who walks forward sees the ground long before
    # passing over it.
    nearest = cKDTree(centers).query(points)[0]
    prior, prior_std = camera_up_prior(c2w, orientations, cfg=cfg)
    found = _search_plane(points, nearest, centers, prior, cfg.max_prior_angle_rad, prior_std, cfg)
    free = _search_plane(points, nearest, centers, -axes.mean(axis=0), cfg.nadir_angle_rad, np.inf, cfg)
    source = "plane+camera_down"
    outvoted = found is None or (free is not None and free[2] > 1.5 * found[2])
    if free is not None and outvoted and _is_flight(axes, centers, free, len(points), cfg):
        found, source = free, "plane+nadir"
    if found is None:
        raise StageError(
            f"no ground plane within {np.degrees(cfg.max_prior_angle_rad):.0f} degrees of the cameras' up direction "
            f"among {len(points)} points; expected photographs that show the ground, held upright"
        )
    normal, offset, inliers = found
    up, angle = normal, float(np.arccos(np.clip(normal @ prior, -1, 1)))
    if source == "plane+camera_down" and not (level and angle < cfg.level_within_rad):
        up, _ = camera_up_prior(c2w, orientations, plane_up=normal, cfg=cfg)
    return GroundPlane(
        normal=normal,
        offset=offset,
        up=up,
        camera_height=float(np.median(centers @ normal - offset)),
        inliers=inliers,
        source="plane" if source == "plane+camera_down" and up is normal else source,
        prior_angle_rad=angle,
        slope_rad=float(np.arccos(np.clip(normal @ up, -1, 1))),
    )


def _is_flight(
    axes: NDArray[np.float64],
    centers: NDArray[np.float64],
    plane: tuple[NDArray[np.float64], float, int],
    num_points: int,
    cfg: GravityCfg,
) -> bool:
    """Whether the cameras look down on a plane that holds most points while they move across their view.

    Who walks towards a wall looks along its normal too, but moves along the view axis and sees more than the wall.
    """
    angles = np.arccos(np.clip(-axes @ plane[0], -1, 1))
    steps = np.diff(centers, axis=0)
    lengths = np.maximum(np.linalg.norm(steps, axis=1), 1e-12)
    along = np.abs(np.einsum("ij,ij->i", steps, axes[:-1])) / lengths
    across = bool(np.median(along) < 0.5) if len(along) else False
    return across and np.median(angles) < cfg.nadir_angle_rad and plane[2] > 0.5 * num_points


def _search_plane(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    centers: NDArray[np.float64],
    prior_up: NDArray[np.float64],
    max_angle_rad: float,
    prior_std_rad: float,
    cfg: GravityCfg,
) -> tuple[NDArray[np.float64], float, int] | None:
    """RANSAC over triples of near points, the score counting inliers within reach of the cameras."""
    prior_up = prior_up / np.linalg.norm(prior_up)
    below = np.flatnonzero(np.isfinite(nearest) & (points @ prior_up < np.median(centers @ prior_up)))
    if len(below) < 10:
        return None
    # Near points are drawn more often: the ground that matters is the ground under the walk.
    chance = 1.0 / np.maximum(nearest[below], np.quantile(nearest[below], 0.05)) ** 2
    rng = np.random.default_rng(cfg.seed)
    triples = rng.choice(below, size=(cfg.iterations, 3), p=chance / chance.sum())
    scored = below if len(below) <= cfg.scored_points else rng.choice(below, cfg.scored_points, replace=False)
    kept_fraction = len(scored) / len(below)
    a, b, c = points[triples[:, 0]], points[triples[:, 1]], points[triples[:, 2]]
    normals = np.cross(b - a, c - a)
    lengths = np.linalg.norm(normals, axis=1)
    usable = lengths > 1e-12 * np.median(lengths)
    normals, a = normals[usable] / lengths[usable, None], a[usable]
    normals *= np.sign(normals @ prior_up)[:, None]
    usable = normals @ prior_up > np.cos(max_angle_rad)
    normals, offsets = normals[usable], np.einsum("ij,ij->i", normals[usable], a[usable])
    heights = centers @ normals.T - offsets
    height = np.median(heights, axis=0)
    fits = (height > 0) & (np.quantile(heights, 0.1, axis=0) > 0.3 * height)
    normals, offsets, height = normals[fits], offsets[fits], height[fits]
    if not len(normals):
        return None
    score = _plane_scores(points[scored], nearest[scored], normals, offsets, height, cfg) / kept_fraction
    expected_rad = np.hypot(prior_std_rad, cfg.slope_std_rad)
    score -= cfg.prior_weight * (np.arccos(np.clip(normals @ prior_up, -1, 1)) / expected_rad) ** 2
    best = int(np.argmax(score))
    found = _refine_plane(points[below], nearest[below], centers, normals[best], float(offsets[best]), cfg)
    return found if found[2] >= cfg.min_inliers else None


def _plane_scores(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    normals: NDArray[np.float64],
    offsets: NDArray[np.float64],
    height: NDArray[np.float64],
    cfg: GravityCfg,
) -> NDArray[np.float64]:
    """Inliers of each plane less what lies clearly below it: nothing lies under the ground."""
    scores = np.empty(len(normals))
    for start in range(0, len(normals), 64):
        part = slice(start, start + 64)
        distance = (points @ normals[part].T - offsets[part]) / height[part]
        near = nearest[:, None] < cfg.reach_of_height * height[part]
        inliers = near & (np.abs(distance) < cfg.threshold_of_height)
        under = near & (distance < -3.0 * cfg.threshold_of_height)
        scores[part] = inliers.sum(axis=0) - under.sum(axis=0, dtype=np.float64)
    return scores


def _refine_plane(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    centers: NDArray[np.float64],
    up: NDArray[np.float64],
    offset: float,
    cfg: GravityCfg,
) -> tuple[NDArray[np.float64], float, int]:
    """Weighted least squares on the inliers, a few rounds."""
    inliers = np.zeros(len(points), bool)
    for _ in range(10):
        height = float(np.median(centers @ up - offset))
        near = nearest < cfg.reach_of_height * height
        distances = points @ up - offset
        inliers = near & (np.abs(distances) < cfg.threshold_of_height * height)
        if inliers.sum() < 3:
            break
        weights = 1.0 / (1.0 + (distances[inliers] / (0.3 * cfg.threshold_of_height * height)) ** 2)
        mean = weights @ points[inliers] / weights.sum()
        centred = (points[inliers] - mean) * np.sqrt(weights)[:, None]
        normal = np.linalg.svd(centred, full_matrices=False)[2][2]
        up = normal * np.sign(normal @ up)
        offset = float(mean @ up)
    return up, offset, int(inliers.sum())


@dataclass(frozen=True)
class MetricScale:
    """Scale of the model, where it came from and how well it is known."""

    value: float
    """Metres per unit of the model."""
    source: str
    std_fraction: float | None
    """Standard deviation over value; None when the source does not say."""
    gps_heading_rad: float | None = None
    """Angle from the levelled model's +X to east, counter-clockwise; None without GPS."""


def scale_from_gps(
    level_xy: NDArray[np.float64], gps_xy_m: NDArray[np.float64], *, noise_m: float = 3.0
) -> MetricScale:
    """Scale and heading of a levelled model from GPS, by a robust similarity in the horizontal plane.

    The standard deviation assumes that errors of neighbouring fixes are correlated, one independent fix in four.

    Args:
        level_xy: Horizontal camera centres in units of the model `[n, 2]`.
        gps_xy_m: East and north `[n, 2]`, NaN where unknown.
        noise_m: Expected noise of a fix [m].

    Raises:
        InputError: Fewer than four fixes, or a walk too short to give a scale within 50 %.
    """
    fixed = np.isfinite(gps_xy_m).all(axis=1)
    if fixed.sum() < 4:
        raise InputError(
            f"{int(fixed.sum())} images with GPS, expected four or more; state the camera height in metres"
        )
    source, target = level_xy[fixed], gps_xy_m[fixed]
    aligned, weights = robust_umeyama(source, target, noise=noise_m)
    residual = np.sqrt(weights @ ((aligned.apply(source) - target) ** 2).sum(axis=1) / (2 * weights.sum()))
    centred = (source - weights @ source / weights.sum()) * aligned.scale
    independent = max(2.0, weights.sum() / 4.0)
    spread = np.sqrt(weights @ (centred**2).sum(axis=1) / weights.sum())
    std = float(max(residual, 0.3) / (np.sqrt(independent) * spread))
    if std > 0.5:
        raise InputError(
            f"GPS moves {2 * spread:.1f} m with a noise of {residual:.1f} m, too little for a scale; "
            "state the camera height in metres"
        )
    heading = float(np.arctan2(aligned.rotation[1, 0], aligned.rotation[0, 0]))
    return MetricScale(aligned.scale, "gps", std, heading)


def scale_from_camera_height(plane: GroundPlane, camera_height_m: float) -> MetricScale:
    """Scale from the height at which the cameras were carried.

    Args:
        plane: The ground.
        camera_height_m: Stated height of the cameras above the ground [m].

    Raises:
        InputError: The stated height is not between 5 cm and 500 m.
    """
    if not 0.05 <= camera_height_m <= 500.0:
        raise InputError(f"camera height {camera_height_m} m, expected 0.05 to 500 m")
    return MetricScale(camera_height_m / plane.camera_height, "camera_height", None)


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
