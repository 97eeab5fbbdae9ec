"""How many metres one unit of a model is: by sensors, GPS, surveyed points, markers, known distances, depth, camera height.

Nothing is silently 1.0: each rule returns the scale with its source and a standard deviation, and the one that is used is
recorded with all that were not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gaussgym_scene.errors import InputError

from gaussgym_recon.georegister import HIDDEN_DRIFT, independent_fraction, robust_umeyama

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gaussgym_recon.gravity import GroundPlane
    from gaussgym_recon.sightings import Located

SENSOR_STD_FRACTION = {"slam": 0.005, "arkit": 0.01, "feed-forward": 0.1}
"""Scale error of poses by LiDAR odometry, by a phone's visual-inertial odometry, and of networks that guess metres."""
OTHER_SENSOR_STD_FRACTION = 0.02
CAMERA_HEIGHT_STD_FRACTION = 0.05
"""How well people know the height at which they carried a camera; 7 cm of 1.5 m."""
DEPTH_BIAS_STD_FRACTION = 0.015
"""Error of a depth sensor that all its pixels share: 2 % at most at 2 m by the data sheets of stereo cameras."""
CLEAR_STD_FRACTION = 0.05
"""A source of higher rank is used if it is at least this good; else the best one is."""
RANKS = ("sensor", "gcp", "gps", "marker", "distance", "depth", "camera_height")
"""Sources of scale, the most trusted first."""


@dataclass(frozen=True)
class MetricScale:
    """Scale of the model, where it came from and how well it is known."""

    value: float
    """Metres per unit of the model."""
    source: str
    std_fraction: float
    """Standard deviation over value."""
    gps_heading_rad: float | None = None
    """Angle from the levelled model's +X to east, counter-clockwise; None without GPS."""

    def summary(self) -> dict[str, Any]:
        """For the report."""
        return {"source": self.source, "metres_per_unit": self.value, "std_fraction": self.std_fraction}


def choose_scale(candidates: list[MetricScale]) -> MetricScale:
    """The candidate of the highest rank that is known to 5 %; where none is, the one that is known best.

    Raises:
        InputError: There is no candidate.
    """
    if not candidates:
        raise InputError(
            "nothing says how large the place is; state the height at which the camera was carried (--camera-height, metres), or "
            "one of --scale-from marker=SIDE, distance=A.jpg:x,y:B.jpg:x,y=METRES, gcp=FILE"
        )
    ranked = sorted(candidates, key=lambda c: RANKS.index(c.source))
    clear = [c for c in ranked if c.std_fraction <= CLEAR_STD_FRACTION]
    return clear[0] if clear else min(ranked, key=lambda c: c.std_fraction)


def scale_from_sensor(poses_source: str | None) -> MetricScale:
    """Poses that are in metres by the source's own sensors."""
    std = SENSOR_STD_FRACTION.get(poses_source or "", OTHER_SENSOR_STD_FRACTION)
    return MetricScale(1.0, "sensor", std)


def scale_from_gps(
    level_xy: NDArray[np.float64], gps_xy_m: NDArray[np.float64], *, noise_m: float = 3.0
) -> MetricScale:
    """Scale and heading of a levelled model from GPS, by a robust similarity in the horizontal plane.

    The standard deviation counts as many fixes as their errors are independent of their neighbours'.

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
    off = aligned.apply(source) - target
    residual = np.sqrt(weights @ (off**2).sum(axis=1) / (2 * weights.sum()))
    centred = (source - weights @ source / weights.sum()) * aligned.scale
    independent = max(2.0, weights.sum() * independent_fraction(off * np.sqrt(weights)[:, None]))
    spread = np.sqrt(weights @ (centred**2).sum(axis=1) / weights.sum())
    std = float(HIDDEN_DRIFT * max(residual, 0.3) / (np.sqrt(independent) * spread))
    if std > 0.5:
        raise InputError(
            f"GPS moves {2 * spread:.1f} m with a noise of {residual:.1f} m, too little for a scale; "
            "state the camera height in metres"
        )
    heading = float(np.arctan2(aligned.rotation[1, 0], aligned.rotation[0, 0]))
    return MetricScale(aligned.scale, "gps", std, heading)


def scale_from_camera_height(
    plane: GroundPlane, camera_height_m: float, *, std_fraction: float = CAMERA_HEIGHT_STD_FRACTION
) -> MetricScale:
    """Scale from the height at which the cameras were carried.

    Args:
        plane: The ground.
        camera_height_m: Stated height of the cameras above the ground [m].
        std_fraction: How well that is known.

    Raises:
        InputError: The stated height is not between 5 cm and 500 m.
    """
    if not 0.05 <= camera_height_m <= 500.0:
        raise InputError(f"camera height {camera_height_m} m, expected 0.05 to 500 m")
    std = float(np.hypot(std_fraction, plane.height_std_fraction))
    return MetricScale(camera_height_m / plane.camera_height, "camera_height", std)


def scale_from_distance(
    first: Located, second: Located, distance_m: float, *, std_m: float | None = None
) -> MetricScale:
    """Scale from a distance that was measured on site.

    Args:
        first: One end.
        second: The other.
        distance_m: Between them [m].
        std_m: How well it was measured, by default to 1 cm or 0.5 %.

    Raises:
        InputError: The ends coincide, or the distance is not positive.
    """
    if not 0 < distance_m < 1e5:
        raise InputError(f"distance {distance_m:g} m, expected a positive number of metres")
    between = second.point - first.point
    length = float(np.linalg.norm(between))
    along = between / max(length, 1e-300)
    variance = float(along @ (first.covariance + second.covariance) @ along)
    if length < 1e-12 or variance > 0.25 * length**2:
        raise InputError(
            f"the two places are {length:.3g} units apart with an error of {np.sqrt(variance):.3g}; name places farther apart"
        )
    stated = std_m if std_m is not None else max(0.01, 0.005 * distance_m)
    std = float(np.sqrt(variance / length**2 + (stated / distance_m) ** 2))
    return MetricScale(distance_m / length, "distance", std)


def scale_from_depth(
    sensor_m: list[NDArray[np.float64]],
    model: list[NDArray[np.float64]],
    *,
    bias_std: float = DEPTH_BIAS_STD_FRACTION,
) -> MetricScale:
    """Scale from a depth sensor, against the depths of sparse points in the same images.

    Args:
        sensor_m: For each image the sensor's depth at its points [m]; zero or NaN where there is none.
        model: The points' depths in units of the model, same shapes.
        bias_std: What all depths of the sensor may share [fraction].

    Raises:
        InputError: Fewer than 20 points with depth in fewer than 3 images, or depths that do not follow the points'.
    """
    logs = []
    for measured, depth in zip(sensor_m, model):
        usable = np.isfinite(measured) & (measured > 0) & (depth > 0)
        logs.append(np.log(measured[usable] / depth[usable]))
    seen = [part for part in logs if len(part) >= 5]
    together = np.concatenate(seen) if seen else np.zeros(0)
    if len(seen) < 3 or len(together) < 20:
        raise InputError(
            f"depth at {len(together)} points of {len(seen)} images, expected 20 or more of 3 or more; the depth images do not "
            "cover what the photographs show"
        )
    middle = float(np.median(together))
    spread = 1.4826 * float(np.median(np.abs(together - middle)))
    if spread > 0.2:
        raise InputError(
            f"sensor depths scatter by {spread:.0%} about the points' depths; they are not aligned to the images, or not in mm"
        )
    # Points are shared by images, and errors by the points of an image: images count, not points.
    per_image = np.array([np.median(part) for part in seen])
    among = 1.4826 * float(np.median(np.abs(per_image - np.median(per_image))))
    independent = max(1.0, len(seen) / 4.0)
    std = np.hypot(
        max(among, spread / np.sqrt(len(together) / len(seen))) * 1.2533 / np.sqrt(independent), bias_std
    )
    return MetricScale(float(np.exp(middle)), "depth", float(std))
