"""Ground control points: surveyed places and where they are in the photographs, which give scale and gravity.

The file is OpenDroneMap's `gcp_list.txt`: a line with the coordinate system, then a line for every sighting,
`x y z pixel_x pixel_y image [name]`. Coordinate systems: `EPSG:4326` (x longitude, y latitude [deg], z altitude [m]); `WGS84 UTM
32N`, `EPSG:326zz`, `EPSG:327zz` (metres); `local` (metres, z up).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import InputError

from gaussgym_recon.georegister import enu_from_gps, umeyama
from gaussgym_recon.gravity import UpEstimate
from gaussgym_recon.scale import MetricScale
from gaussgym_recon.sightings import triangulate

if TYPE_CHECKING:
    from gaussgym_scene.cameras import Intrinsics
    from numpy.typing import NDArray

SURVEY_STD_M = 0.02
"""Error of a surveyed point where the residuals do not say more [m]."""
UTM_STD_FRACTION = 0.0004
"""Scale of the UTM projection differs from one by up to this."""


@dataclass(frozen=True)
class ControlPoint:
    """A surveyed place."""

    name: str
    position_m: NDArray[np.float64]
    """East, north, up `[3]` [m], any origin."""
    sightings: list[tuple[str, float, float]]
    """Image file name, and pixel."""


def read_control_points(path: Path) -> list[ControlPoint]:
    """Read a `gcp_list.txt`.

    Raises:
        InputError: The file is missing, its coordinate system is unknown, or a line is not as expected.
    """
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable ({error}); expected a gcp_list.txt") from None
    rows = [(n, line.strip()) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not rows:
        raise InputError(f"{path}: empty; expected a coordinate system and a line for every sighting")
    degrees = _is_degrees(path, rows[0][1])
    places: dict[str, tuple[NDArray[np.float64], list[tuple[str, float, float]]]] = {}
    for number, line in rows[1:]:
        fields = line.split()
        try:
            x, y, z, u, v = (float(value) for value in fields[:5])
            file = fields[5]
        except (ValueError, IndexError):
            raise InputError(
                f"{path}, line {number}: {line!r}, expected 'x y z pixel_x pixel_y image [name]'"
            ) from None
        name = fields[6] if len(fields) > 6 else f"{x:.9g} {y:.9g} {z:.9g}"
        places.setdefault(name, (np.array([x, y, z]), []))[1].append((file, u, v))
    if not places:
        raise InputError(
            f"{path}: names no sighting; expected three or more points, each in two or more images"
        )
    xyz = np.stack([place for place, _ in places.values()])
    if degrees:
        geographic = xyz[:, [1, 0, 2]]
        xyz = enu_from_gps(geographic, geographic.mean(axis=0))
    return [
        ControlPoint(name, at - xyz.mean(axis=0), seen) for at, (name, (_, seen)) in zip(xyz, places.items())
    ]


def _is_degrees(path: Path, system: str) -> bool:
    text = system.upper().replace(" ", "")
    if text in ("EPSG:4326", "WGS84"):
        return True
    if (
        text in ("LOCAL", "ENU")
        or re.fullmatch(r"WGS84UTM\d{1,2}[NS]", text)
        or re.fullmatch(r"EPSG:32[67]\d\d", text)
    ):
        return False
    raise InputError(
        f"{path}: coordinate system {system!r}, expected EPSG:4326, WGS84 UTM <zone>N or <zone>S, EPSG:326zz, EPSG:327zz or local"
    )


def align_to_control_points(
    points: list[ControlPoint],
    names: list[str],
    c2w: NDArray[np.float64],
    intrinsics: list[Intrinsics],
) -> tuple[MetricScale, UpEstimate]:
    """Scale and gravity of a model from surveyed points, by a similarity to where they triangulate.

    Args:
        points: Of :func:`read_control_points`; those that two registered images see take part.
        names: Files of the model's images; the last part of a path is enough to be found.
        c2w: Camera-to-world `[n, 4, 4]`.
        intrinsics: Of each.

    Raises:
        InputError: Fewer than three points can be used, or they lie on one line.
    """
    place = {name.rsplit("/", 1)[-1].lower(): index for index, name in enumerate(names)}
    found, wanted = [], []
    for point in points:
        seen = [
            (place[Path(file).name.lower()], u, v)
            for file, u, v in point.sightings
            if Path(file).name.lower() in place
        ]
        if len(seen) < 2:
            continue
        images = [image for image, _, _ in seen]
        pixels = np.array([[u, v] for _, u, v in seen])
        located = triangulate(c2w[images], [intrinsics[i] for i in images], pixels)
        if located is not None:
            found.append(located.point)
            wanted.append(point.position_m)
    if len(found) < 3:
        raise InputError(
            f"{len(found)} of {len(points)} control points are seen by two or more registered images, expected three or more"
        )
    source, target = np.array(found), np.array(wanted)
    spread = np.linalg.svd(target - target.mean(axis=0), compute_uv=False)
    if spread[1] < 0.02 * spread[0]:
        raise InputError(
            "the control points lie on one line, which leaves gravity open; survey one beside it"
        )
    aligned = umeyama(source, target)
    off = aligned.apply(source) - target
    freedom = max(1, off.size - 7)
    # Few points, few residuals: the expected error counts as three more.
    error_m = float(np.sqrt(((off**2).sum() + 3 * SURVEY_STD_M**2) / (freedom + 3)))
    centred = target - target.mean(axis=0)
    std = float(np.hypot(error_m / np.linalg.norm(centred), UTM_STD_FRACTION))
    up = aligned.rotation.T @ np.array([0.0, 0.0, 1.0])
    # A tilt about the axis a moves a point at r by a x r; what all points say of it together is their inertia.
    inertia = (centred**2).sum() * np.eye(3) - centred.T @ centred
    known = np.linalg.inv(_turn_of_up(np.linalg.pinv(inertia)) * error_m**2)
    across = aligned.rotation[:2]
    return MetricScale(aligned.scale, "gcp", std), UpEstimate(up, across.T @ known @ across)


def _turn_of_up(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance `[2, 2]` of how far +Z moves along x and y under turns about all axes of covariance `[3, 3]`."""
    moves = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    return moves @ covariance @ moves.T
