"""``camera.json``: what was found about a camera, for training, for the bundle and for the robot's camera thread.

::

    {"format": "gaussgym-camera", "version": 1, "width": 640, "height": 480, "fx": ..., "fy": ..., "cx": ..., "cy": ...,
     "distortion": [k1, k2, p1, p2], "position_b_m": [x, y, z] or null, "quat_b_c_wxyz": [w, x, y, z] or null,
     "latency_s": number or null, "errors": {...}}

Pixel centres are at (0.5, 0.5): OpenCV's own ``cx``, ``cy`` are half a pixel less. Camera axes are OpenCV's (+X right, +Y down,
+Z forward).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ..bundle import BundleError, CameraSpec
from ..image_fit import LensCfg

__all__ = ["FORMAT", "VERSION", "CameraFile"]

FORMAT, VERSION = "gaussgym-camera", 1


@dataclass(frozen=True)
class CameraFile:
    """A calibrated camera.

    Attributes:
        width: Image width [px].
        height: Image height [px].
        fx: Focal length [px].
        fy: Focal length [px].
        cx: Principal point [px].
        cy: Principal point [px].
        distortion: OpenCV's k1, k2, p1, p2.
        position_b_m: Optical centre in the base frame [m], or None: mount not calibrated.
        quat_b_c_wxyz: Rotation that takes camera vectors to base vectors, or None.
        latency_s: From exposure to the image's time stamp [s], or None.
        errors: Standard errors and residuals, by name, plain JSON.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: Tuple[float, ...]
    position_b_m: Optional[Tuple[float, float, float]] = None
    quat_b_c_wxyz: Optional[Tuple[float, float, float, float]] = None
    latency_s: Optional[float] = None
    errors: Dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> CameraFile:
        """Read and check a file.

        Raises:
            BundleError: When it is no such file, or holds something else than finite numbers.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(
                f"{path}: {error.strerror}; expected a camera.json of 'calibrate camera'"
            ) from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{path}: not valid JSON ({error}); calibrate the camera again") from None
        if not isinstance(found, dict) or (found.get("format"), found.get("version")) != (FORMAT, VERSION):
            raise BundleError(f"{path}: expected format {FORMAT!r}, version {VERSION}")
        names = list(cls.__dataclass_fields__)
        values = {name: found[name] for name in names if name in found}
        missing = [name for name in names[:7] if name not in values]
        if missing:
            raise BundleError(f"{path}: lacks {', '.join(missing)}; calibrate the camera again")
        for name, count in (("distortion", 4), ("position_b_m", 3), ("quat_b_c_wxyz", 4)):
            if values.get(name) is not None:
                values[name] = _numbers(path, name, values[name], count)
        for name in ("width", "height", "fx", "fy"):
            if not isinstance(values[name], (int, float)) or not 0 < values[name] < 1e6:
                raise BundleError(f"{path}: {name} is {values[name]!r}, expected a number above 0")
        for name in ("cx", "cy", "latency_s"):
            if values.get(name) is not None:
                values[name] = _numbers(path, name, [values[name]], 1)[0]
        return cls(**values)

    def save(self, path: Path) -> Path:
        """Write the file in one go; returns its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with open(str(temporary), "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "version": VERSION, **asdict(self)}, file, indent=1)
            file.write("\n")
        os.replace(str(temporary), str(path))
        return path

    @property
    def matrix(self) -> np.ndarray:
        """OpenCV's camera matrix (centre of the first pixel at 0), ``[3, 3]``."""
        return np.array([[self.fx, 0.0, self.cx - 0.5], [0.0, self.fy, self.cy - 0.5], [0.0, 0.0, 1.0]])

    def lens(self) -> LensCfg:
        """For :class:`gaussgym_deploy.image_fit.ImageFit`, which makes a policy's images out of this camera's."""
        k1, k2, p1, p2 = self.distortion
        return LensCfg(self.width, self.height, self.fx, self.fy, self.cx, self.cy, (k1, k2, p1, p2))

    def spec(self, width: int, height: int) -> CameraSpec:
        """The camera of a policy that sees the largest middle part of this camera's image, scaled, without distortion.

        Args:
            width: The policy's image [px].
            height: [px].

        Raises:
            BundleError: When the mount is not calibrated.
        """
        if self.position_b_m is None or self.quat_b_c_wxyz is None:
            raise BundleError("the mount is not calibrated; run 'calibrate mount' first")
        scale = min(self.width / width, self.height / height)
        left, top = (self.width - width * scale) / 2, (self.height - height * scale) / 2
        return CameraSpec(
            width,
            height,
            self.fx / scale,
            self.fy / scale,
            (self.cx - left) / scale,
            (self.cy - top) / scale,
            self.position_b_m,
            self.quat_b_c_wxyz,
        )

    def with_errors(self, errors: Dict[str, Any], **changes: Any) -> CameraFile:
        """The same with something found, and how well."""
        return replace(self, errors={**self.errors, **errors}, **changes)


def _numbers(path: Path, name: str, values: Any, count: int) -> Tuple[float, ...]:
    proper = isinstance(values, list) and len(values) == count
    if not proper or not all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and np.isfinite(x) for x in values
    ):
        raise BundleError(f"{path}: {name} is {values!r}, expected {count} finite numbers")
    return tuple(float(x) for x in values)
