"""Which way is up, and where is the ground: from sensors, from GPS, from how people hold cameras, from the ground itself.

Every source is an :class:`UpEstimate`, a direction with the information it carries on the two tilt angles, so that sources
that know one angle only (a straight walk, a flight in one line) are combined without special cases. The result states its
standard deviation. GPS altitude takes part only where the cameras spread far enough for it to say something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import StageError
from scipy.spatial import cKDTree

from gaussgym_recon.georegister import HIDDEN_DRIFT, independent_fraction, level_rotation
from gaussgym_recon.plane_search import search_plane

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gaussgym_recon.plane_search import Plane


@dataclass(frozen=True, kw_only=True)
class GravityCfg:
    """Of :func:`ground_plane`."""

    max_prior_angle_rad: float = np.radians(25.0)
    """Largest angle between the plane's normal and the up direction that is expected."""
    nadir_angle_rad: float = np.radians(30.0)
    """View axes closer than this to the normal of the dominant plane mean a flight looking down."""
    threshold_of_height: float = 0.04
    """Distance of an inlier to the plane over the camera height."""
    tight_of_height: float = 0.01
    """Half the range of heights over the camera height that points of one level of the ground share."""
    levels_gain: float = 1.1
    """How many times as many points have to lie on two levels, a kerb's or a step's, as along the plane's own normal."""
    reach_of_height: float = 6.0
    """Points farther than this from every camera, over the camera height, say little of the ground."""
    roll_std_rad: float = np.radians(2.5)
    """How level people hold a camera, as far as the images do not say."""
    pitch_std_rad: float = np.radians(8.0)
    """How steadily they look up or down, as far as the images do not say."""
    elevation_std_rad: float = np.radians(6.0)
    """How far from the horizon they look on the whole."""
    roll_habit_std_rad: float = np.radians(1.0)
    """How far from level they hold it on the whole."""
    slope_std_rad: float = np.radians(2.0)
    """Slope of the ground, along either axis, of places that are not known to be level."""
    floor_std_rad: float = np.radians(0.4)
    """How level floors are, along either axis."""
    nadir_std_rad: float = np.radians(5.0)
    """How plumb the mean view axis of a flight that looks down is, along either axis."""
    gps_prior_std_rad: float = np.radians(5.0)
    """GPS that knows the tilt better than this replaces the cameras' up direction in the search for the ground."""
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
class UpEstimate:
    """A direction against gravity and how well it is known."""

    up: NDArray[np.float64]
    """Unit vector `[3]`."""
    information: NDArray[np.float64]
    """`[3, 3]`: inverse covariance of the tilt [1/rad^2]; zero along `up`, and along a tilt that is not known."""

    @property
    def std_rad(self) -> float:
        """Root mean square of the angle by which `up` may be off [rad]; infinite where one tilt is not known."""
        tilt = level_rotation(self.up)[:2]
        known = np.linalg.eigvalsh(tilt @ self.information @ tilt.T)
        return float(np.sqrt((1.0 / known).sum())) if known[0] > 1e-9 else np.inf

    @staticmethod
    def within(up: NDArray[np.float64], std_rad: float) -> UpEstimate:
        """A direction of which both tilts are known to `std_rad` each."""
        up = np.asarray(up, np.float64) / np.linalg.norm(up)
        return UpEstimate(up, (np.eye(3) - np.outer(up, up)) / std_rad**2)


def fuse_up(estimates: list[UpEstimate]) -> UpEstimate:
    """The direction that fits all estimates best, by Gauss-Newton on the two tilts; they must not share errors."""
    up = estimates[0].up
    for _ in range(10):
        tilt = level_rotation(up)[:2]
        known = sum(tilt @ e.information @ tilt.T for e in estimates)
        step = np.linalg.solve(known, sum(tilt @ e.information @ (e.up - up) for e in estimates))
        up = up + step @ tilt
        up /= np.linalg.norm(up)
        if np.linalg.norm(step) < 1e-10:
            break
    tilt = level_rotation(up)[:2]
    known = sum(tilt @ e.information @ tilt.T for e in estimates)
    return UpEstimate(up, tilt.T @ known @ tilt)


@dataclass(frozen=True)
class GroundPlane:
    """The ground in the frame of structure from motion: the plane `normal · x = offset`, and gravity."""

    normal: NDArray[np.float64]
    """Unit, towards the cameras."""
    offset: float
    up: NDArray[np.float64]
    """Against gravity; differs from the normal where the ground slopes."""
    up_std_rad: float
    """Root mean square of the angle by which `up` may be off [rad]."""
    camera_height: float
    """Median height of the cameras above the ground, units of the model."""
    height_std_fraction: float
    """Standard deviation of that height by the scatter of the ground, over the height."""
    inliers: int
    source: str
    prior_angle_rad: float
    """Angle between the plane's normal and the up direction that was expected."""
    slope_rad: float
    """Angle between the plane's normal and `up`."""


DOWN_IN_STORED_IMAGE = {1: (0, 1, 0), 3: (0, -1, 0), 6: (1, 0, 0), 8: (-1, 0, 0)}
"""Which axis of the stored pixels points down when the EXIF orientation is applied, in the camera frame."""


def up_from_cameras(
    c2w: NDArray[np.float64], orientations: list[int] | None = None, *, cfg: GravityCfg | None = None
) -> UpEstimate:
    """Up direction from how people hold cameras: level, and looking down by much the same angle all along.

    Weighted least squares over two tilt angles, one common elevation of the view axes and one common roll. Image-right axes
    have the common roll up to `cfg.roll_std_rad`; view axes the common elevation up to `cfg.pitch_std_rad`. A walk that
    looks one way only leaves the tilt to the expectation that both are near zero; walks that turn measure them.

    Args:
        c2w: Camera-to-world `[n, 4, 4]`, OpenCV, of the stored pixels.
        orientations: EXIF orientation of each image, default 1.
        cfg: Standard deviations.
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
    covariance = np.eye(4)
    for _ in range(10):
        tilt = level_rotation(up)[:2]
        rolls, climbs = right @ up, forward @ up
        roll_std = _spread(rolls, cfg.roll_std_rad)
        pitch_std = _spread(climbs - np.median(climbs), cfg.pitch_std_rad)
        # Hands shake from image to image, but habits stay: one independent image in four.
        none, every = np.zeros(count), np.ones(count)
        rows = [
            np.c_[right @ tilt.T, none, -every],
            np.c_[forward @ tilt.T, -every, none],
            np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
        ]
        values = [-rolls, -climbs, np.zeros(2)]
        weights = [
            0.25 / (roll_std**2 * (1 + (rolls / (3 * roll_std)) ** 2)),
            np.full(count, 0.25 / pitch_std**2),
            1.0 / np.square([cfg.elevation_std_rad, cfg.roll_habit_std_rad]),
        ]
        design, wanted, weight = np.concatenate(rows), np.concatenate(values), np.concatenate(weights)
        covariance = np.linalg.inv((design * weight[:, None]).T @ design)
        step = covariance @ ((design * weight[:, None]).T @ wanted)
        up = up + step[:2] @ tilt
        up /= np.linalg.norm(up)
        if np.linalg.norm(step[:2]) < 1e-9:
            break
    if up @ mean_up < np.cos(cfg.max_prior_angle_rad):
        return UpEstimate.within(mean_up, cfg.elevation_std_rad)
    tilt = level_rotation(up)[:2]
    return UpEstimate(up, tilt.T @ np.linalg.inv(covariance[:2, :2]) @ tilt)


def _spread(residuals: NDArray[np.float64], expected: float) -> float:
    """Standard deviation of few residuals, the expected one counting as four of them."""
    return float(np.sqrt((4 * expected**2 + (residuals**2).sum()) / (4 + len(residuals))))


def up_from_gps(
    centers: NDArray[np.float64],
    gps_enu_m: NDArray[np.float64],
    up: NDArray[np.float64],
    scale: float,
    *,
    min_noise_m: float = 1.0,
) -> UpEstimate:
    """Up direction from GPS altitude: the tilt at which the cameras' heights follow it best.

    Args:
        centers: Camera centres `[n, 3]` of the fixes that are not outliers.
        gps_enu_m: Their fixes [m] `[n, 3]`.
        up: Up direction within some 30 degrees, around which the tilt is measured.
        scale: Metres per unit of the model.
        min_noise_m: Altitudes are not trusted to be better than this [m].

    Returns:
        The direction, with no information along a tilt that a straight track leaves open.
    """
    weights, slope = np.ones(len(centers)), np.zeros(3)
    # A millimetre's worth of prior keeps a straight track from dividing by zero.
    ridge = np.diag([1e-6, 1e-6, 0.0])
    for _ in range(5):
        level = level_rotation(up)
        local = scale * (centers - centers.mean(axis=0)) @ level.T
        design = np.c_[local[:, :2], np.ones(len(centers))]
        weights, slope = np.ones(len(centers)), np.zeros(3)
        for _ in range(10):
            off = gps_enu_m[:, 2] - local[:, 2] - design @ slope
            noise = max(1.4826 * float(np.median(np.abs(off - np.median(off)))), min_noise_m)
            weights = 1.0 / (1.0 + (off / (3.0 * noise)) ** 2)
            normal = (design * weights[:, None]).T @ design + ridge
            slope = slope + np.linalg.solve(normal, (design * weights[:, None]).T @ off)
        # Heights that grow by `slope` per metre more than the model's mean that up leans that way.
        up = level.T @ np.array([slope[0], slope[1], 1.0])
        up /= np.linalg.norm(up)
    level = level_rotation(up)
    local = scale * (centers - centers.mean(axis=0)) @ level.T
    design = np.c_[local[:, :2], np.ones(len(centers))]
    off = gps_enu_m[:, 2] - local[:, 2]
    off = off - weights @ off / weights.sum()
    spread = np.sqrt(weights @ off**2 / weights.sum())
    std = HIDDEN_DRIFT * max(float(spread), min_noise_m)
    share = independent_fraction(off[:, None])
    known = (
        share
        / std**2
        * (design[:, :2] * weights[:, None]).T
        @ (design[:, :2] - weights @ design[:, :2] / weights.sum())
    )
    return UpEstimate(up, level[:2].T @ (0.5 * (known + known.T)) @ level[:2])


def ground_plane(
    c2w: NDArray[np.float64],
    points: NDArray[np.float64],
    *,
    orientations: list[int] | None = None,
    level: bool = False,
    known_up: tuple[UpEstimate, str] | None = None,
    gps_up: UpEstimate | None = None,
    cfg: GravityCfg | None = None,
) -> GroundPlane:
    """Find the ground below the cameras and with it gravity.

    A plane by RANSAC among the points near the cameras, its normal within `cfg.max_prior_angle_rad` of the
    expected up direction and below every camera, with a threshold relative to the camera height: without
    these bounds far points and walls win. What is expected is, first that applies: `known_up`, GPS where it knows both
    tilts, how people hold cameras. Flights that look down are recognized by their view axes. Streets slope, floors do
    not: gravity is the plane's normal where `level` says so, else what all sources say together.

    Args:
        c2w: Camera-to-world `[n, 4, 4]`, OpenCV, any similarity frame.
        points: Sparse points `[P, 3]`, the reliable ones.
        orientations: EXIF orientation of each image.
        level: Whether the place is known to have a level floor.
        known_up: Gravity and its source where it is known; the plane then gives the ground's height only.
        gps_up: Gravity by GPS altitude.
        cfg: Bounds and thresholds.

    Returns:
        The plane.

    Raises:
        StageError: No plane fits.
    """
    cfg = cfg or GravityCfg()
    centers = c2w[:, :3, 3]
    # The nearest camera of all, not of those that see the point: who walks forward sees the ground long before
    # passing over it.
    nearest = cKDTree(centers).query(points)[0]
    held = up_from_cameras(c2w, orientations, cfg=cfg)
    trusted_gps = gps_up if gps_up is not None and gps_up.std_rad < cfg.gps_prior_std_rad else None
    expected = known_up[0] if known_up is not None else trusted_gps or held
    std = min(expected.std_rad, cfg.elevation_std_rad * 2)
    found = search_plane(points, nearest, centers, expected.up, cfg.max_prior_angle_rad, std, cfg)
    nadir = False
    if known_up is None:
        found, nadir = _or_flight(c2w, points, nearest, found, trusted_gps is not None, cfg)
    if found is None:
        raise StageError(
            f"no ground plane within {np.degrees(cfg.max_prior_angle_rad):.0f} degrees of the expected up direction "
            f"among {len(points)} points; expected photographs that show the ground, held upright"
        )
    normal, offset, inliers = found
    angle = _angle(normal, expected.up)
    if known_up is not None:
        up, source = known_up
    elif level and not nadir and angle < cfg.level_within_rad:
        up, source = _plane_up(points, nearest, centers, found, cfg.floor_std_rad, cfg), "plane"
    else:
        slope = _plane_up(points, nearest, centers, found, cfg.slope_std_rad, cfg)
        up, source = _combined(c2w, slope, held, trusted_gps, nadir, cfg)
    height = float(np.median(centers @ normal - offset))
    return GroundPlane(
        normal=normal,
        offset=offset,
        up=up.up,
        up_std_rad=up.std_rad,
        camera_height=height,
        height_std_fraction=_height_std(points, nearest, centers, found, cfg) / height,
        inliers=inliers,
        source=source,
        prior_angle_rad=angle,
        slope_rad=_angle(normal, up.up),
    )


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.arccos(np.clip(a @ b, -1, 1)))


def _or_flight(
    c2w: NDArray[np.float64],
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    found: Plane | None,
    gps_knows: bool,
    cfg: GravityCfg,
) -> tuple[Plane | None, bool]:
    """The plane below a flight where that has clearly more points; and whether the cameras look down on the plane."""
    centers, axes = c2w[:, :3, 3], c2w[:, :3, 2]
    if not gps_knows:
        free = search_plane(points, nearest, centers, -axes.mean(axis=0), cfg.nadir_angle_rad, np.inf, cfg)
        outvoted = found is None or (free is not None and free[2] > 1.5 * found[2])
        if free is not None and outvoted and _is_flight(axes, centers, free, len(points), cfg):
            return free, True
    return found, found is not None and _is_flight(axes, centers, found, len(points), cfg)


def _combined(
    c2w: NDArray[np.float64],
    plane: UpEstimate,
    held: UpEstimate,
    gps: UpEstimate | None,
    nadir: bool,
    cfg: GravityCfg,
) -> tuple[UpEstimate, str]:
    """What the ground, the cameras and GPS say together."""
    estimates, names = [plane], ["plane"]
    if nadir:
        estimates.append(UpEstimate.within(-c2w[:, :3, 2].mean(axis=0), cfg.nadir_std_rad))
        names.append("nadir")
    elif gps is None or _angle(held.up, gps.up) < 3.0 * np.hypot(held.std_rad, gps.std_rad):
        estimates.append(held)
        names.append("camera_down")
    if gps is not None:
        estimates.append(gps)
        names.insert(0, "gps")
    return fuse_up(estimates), "+".join(names)


def _inliers(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    centers: NDArray[np.float64],
    plane: Plane,
    cfg: GravityCfg,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of the ground near the cameras `[k, 3]` and their distances to the plane `[k]`."""
    normal, offset, _ = plane
    height = float(np.median(centers @ normal - offset))
    distances = points @ normal - offset
    near = (nearest < cfg.reach_of_height * height) & (np.abs(distances) < cfg.threshold_of_height * height)
    return points[near], distances[near]


def _plane_up(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    centers: NDArray[np.float64],
    plane: Plane,
    slope_std_rad: float,
    cfg: GravityCfg,
) -> UpEstimate:
    """The normal as an up direction: ground slopes, and the fit has an error of its own (one independent point in ten)."""
    normal = plane[0]
    ground, distances = _inliers(points, nearest, centers, plane, cfg)
    tilt = level_rotation(normal)[:2]
    spread = (ground - ground.mean(axis=0)) @ tilt.T
    fit = 10.0 * float(np.var(distances)) * np.linalg.inv(spread.T @ spread + 1e-12 * np.eye(2))
    return UpEstimate(normal, tilt.T @ np.linalg.inv(fit + slope_std_rad**2 * np.eye(2)) @ tilt)


def _height_std(
    points: NDArray[np.float64],
    nearest: NDArray[np.float64],
    centers: NDArray[np.float64],
    plane: Plane,
    cfg: GravityCfg,
) -> float:
    """Standard deviation of the median camera height: scatter of the ground, and of the cameras' own heights."""
    _, distances = _inliers(points, nearest, centers, plane, cfg)
    own = centers @ plane[0]
    ground = float(np.var(distances)) * 10.0 / max(len(distances), 1)
    return float(np.sqrt(ground + 4.0 * np.var(own) / max(len(own), 1)))


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
