"""What `--scale-from` and `--up-from` say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gaussgym_scene.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sighting = tuple[str, float, float]
"""Image file and pixel x, y."""

SCALE_FORMS = "auto, sensor, gps, depth, camera-height=1.5, marker=0.16, gcp=FILE or distance=A.jpg:x,y:B.jpg:x,y=2.0 (metres)"
UP_FORMS = "auto, sensor, plane, cameras or axis=+z"


@dataclass(frozen=True)
class ScaleFrom:
    """A wanted source of scale."""

    kind: str
    """'auto', 'sensor', 'gps', 'depth', 'camera-height', 'marker', 'gcp', 'distance'."""
    value_m: float = 0.0
    """Height, side or distance [m]."""
    path: Path = Path()
    """Of the control points."""
    ends: tuple[tuple[Sighting, ...], ...] = ()
    """The two places of a distance, each seen in one image or more."""


@dataclass(frozen=True)
class UpFrom:
    """A wanted source of gravity."""

    kind: str
    """'auto', 'sensor', 'plane', 'cameras', 'axis'."""
    axis: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))


def parse_scale_from(text: str) -> ScaleFrom:
    """Read a `--scale-from`.

    Raises:
        InputError: It has none of the forms.
    """
    kind, _, rest = text.partition("=")
    if kind in ("auto", "sensor", "gps", "depth") and not rest:
        return ScaleFrom(kind)
    if kind == "gcp" and rest:
        return ScaleFrom(kind, path=Path(rest))
    try:
        if kind in ("camera-height", "marker"):
            return ScaleFrom(kind, value_m=_positive(rest))
        if kind == "distance":
            places, _, length = rest.rpartition("=")
            ends = tuple(tuple(_sighting(s) for s in end.split("+")) for end in _two_ends(places))
            return ScaleFrom(kind, value_m=_positive(length), ends=ends)
    except ValueError:
        pass
    raise InputError(f"--scale-from {text!r}, expected {SCALE_FORMS}")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < np.inf:
        raise ValueError(text)
    return value


def _two_ends(text: str) -> tuple[str, str]:
    """Split 'A.jpg:x,y+C.jpg:x,y:B.jpg:x,y' at the colon that follows a pixel."""
    parts = text.split(":")
    # Colons stand between image and pixel, and between the ends; there alone no '+' leads on from the pixel.
    for cut in range(2, len(parts)):
        before, after = ":".join(parts[:cut]), ":".join(parts[cut:])
        if "," in parts[cut - 1] and "+" not in parts[cut - 1] and ":" in after:
            return before, after
    raise ValueError(text)


def _sighting(text: str) -> Sighting:
    file, _, pixel = text.rpartition(":")
    x, y = pixel.split(",")
    if not file:
        raise ValueError(text)
    return file, float(x), float(y)


def parse_up_from(text: str) -> UpFrom:
    """Read an `--up-from`.

    Raises:
        InputError: It has none of the forms.
    """
    if text in ("auto", "sensor", "plane", "cameras"):
        return UpFrom(text)
    kind, _, axis = text.partition("=")
    if kind == "axis" and len(axis) == 2 and axis[0] in "+-" and axis[1] in "xyz":
        unit = np.zeros(3)
        unit["xyz".index(axis[1])] = 1.0 if axis[0] == "+" else -1.0
        return UpFrom("axis", unit)
    raise InputError(f"--up-from {text!r}, expected {UP_FORMS} (of +x -x +y -y +z -z)")
