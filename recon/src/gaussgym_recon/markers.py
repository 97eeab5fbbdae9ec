"""Scale from a printed ArUco or AprilTag marker of known size that lies or hangs somewhere in the place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import InputError

from gaussgym_recon.scale import MetricScale
from gaussgym_recon.sightings import triangulate

if TYPE_CHECKING:
    from gaussgym_scene.cameras import Intrinsics
    from numpy.typing import NDArray

DICTIONARIES = ("DICT_APRILTAG_36h11", "DICT_4X4_50", "DICT_5X5_100", "DICT_6X6_250", "DICT_ARUCO_ORIGINAL")
"""Families that are sought; their ids are told apart."""
MAX_RESIDUAL_PX = 3.0
"""Corners that are farther off are of something else that looks like a marker [px]."""
MAX_SIDE_SPREAD = 0.1
"""Sides of a square differ by less than this fraction."""
PRINT_STD_FRACTION = 0.005
"""How well the printed size is known."""


@dataclass(frozen=True)
class MarkerSighting:
    """A marker in one image."""

    key: str
    """Family and id."""
    image: int
    """Index into the model's images."""
    corners_px: NDArray[np.float64]
    """`[4, 2]`, around the marker, in pixels with the first pixel's centre at 0.5."""


def find_markers(images: Iterable[tuple[int, NDArray[np.uint8]]]) -> list[MarkerSighting]:
    """Find markers of all families in grey images.

    Args:
        images: Index and grey image `[H, W]` of each.
    """
    import cv2

    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detectors = [
        (
            name,
            cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, name)), parameters),
        )
        for name in DICTIONARIES
    ]
    found = []
    for index, grey in images:
        for name, detector in detectors:
            corners, ids, _ = detector.detectMarkers(grey)
            for quad, identity in zip(corners, () if ids is None else np.ravel(ids)):
                # OpenCV's pixel centres lie at whole numbers.
                found.append(
                    MarkerSighting(
                        f"{name}:{identity}", index, np.asarray(quad, np.float64).reshape(4, 2) + 0.5
                    )
                )
    return found


def scale_from_markers(
    sightings: list[MarkerSighting],
    side_m: float,
    c2w: NDArray[np.float64],
    intrinsics: list[Intrinsics],
) -> MetricScale:
    """Scale from markers whose printed side is known.

    A marker counts when three or more images see it and its triangulated corners make a square.

    Args:
        sightings: Of :func:`find_markers`.
        side_m: Length of the black square's side [m].
        c2w: Camera-to-world of the model's images `[n, 4, 4]`.
        intrinsics: Of each image.

    Raises:
        InputError: No marker counts, or the side is not between 5 mm and 10 m.
    """
    if not 0.005 <= side_m <= 10.0:
        raise InputError(f"marker side {side_m:g} m, expected 0.005 to 10 m (the black square's side)")
    sides, variances, refused = [], [], []
    for key in sorted({sighting.key for sighting in sightings}):
        group = [sighting for sighting in sightings if sighting.key == key]
        measured = _side(group, c2w, intrinsics)
        if isinstance(measured, str):
            refused.append(f"{key} {measured}")
        else:
            sides.append(measured[0])
            variances.append(measured[1])
    if not sides:
        reason = "; ".join(refused[:3]) if refused else "none was found"
        raise InputError(
            f"no marker gives a scale ({reason}); expected an ArUco or AprilTag marker ({', '.join(DICTIONARIES)}) seen sharply "
            "by three or more registered images"
        )
    weights = 1.0 / np.array(variances)
    side = float(weights @ np.array(sides) / weights.sum())
    std = float(np.sqrt(1.0 / weights.sum()) / side)
    return MetricScale(side_m / side, "marker", float(np.hypot(std, PRINT_STD_FRACTION)))


def _side(
    group: list[MarkerSighting], c2w: NDArray[np.float64], intrinsics: list[Intrinsics]
) -> tuple[float, float] | str:
    """Mean side of one marker and its variance, or why it does not count."""
    images = [sighting.image for sighting in group]
    if len(set(images)) < 3 or len(set(images)) < len(images):
        return f"is in {len(set(images))} registered images, once or more in each"
    corners = []
    for corner in range(4):
        pixels = np.stack([sighting.corners_px[corner] for sighting in group])
        located = triangulate(c2w[images], [intrinsics[i] for i in images], pixels)
        if located is None:
            return "is seen from one direction only"
        if located.residual_px > MAX_RESIDUAL_PX:
            return f"is off by {located.residual_px:.1f} px"
        corners.append(located)
    lengths, variances = [], []
    for first, second in zip(corners, corners[1:] + corners[:1]):
        between = second.point - first.point
        length = float(np.linalg.norm(between))
        lengths.append(length)
        variances.append(between @ (first.covariance + second.covariance) @ between / length**2)
    side = float(np.mean(lengths))
    if np.ptp(lengths) > max(MAX_SIDE_SPREAD * side, 4.0 * float(np.sqrt(max(variances)))):
        return f"has sides that differ by {np.ptp(lengths) / side:.0%}"
    # Neighbouring sides share corners and all share the cameras' errors: two independent ones in four.
    variance = max(float(np.mean(variances)), float(np.var(lengths, ddof=1))) / 2.0
    return side, variance
