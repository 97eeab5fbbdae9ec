"""From a real camera's image to the one that the policy was trained on: undistorted, turned to its focal length, scaled, sampled.

For every pixel of the policy's image its ray is followed into the real lens once, when the camera is opened; per frame it is a
blur (where the real image is finer) and a look-up. Pixel centres are at (0.5, 0.5), as everywhere in this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple

import numpy as np

from .bundle import CameraSpec
from .robot_io import LinkError

__all__ = ["ImageFit", "LensCfg", "lens_from"]


@dataclass(frozen=True)
class LensCfg:
    """Intrinsics of a real camera, as a calibration gives them.

    Attributes:
        width: Image width [px].
        height: Image height [px].
        fx: Focal length [px].
        fy: Focal length [px].
        cx: Principal point [px].
        cy: Principal point [px].
        distortion: OpenCV's k1, k2, p1, p2.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: Tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


def lens_from(numbers: Sequence[float]) -> LensCfg:
    """A lens from a list of numbers, as an option on the command line gives it.

    Args:
        numbers: width, height, fx, fy, cx, cy and, if it distorts, k1, k2, p1, p2.

    Raises:
        LinkError: When these are neither 6 nor 10 numbers.
    """
    if len(numbers) not in (6, 10) or not all(isinstance(number, (int, float)) for number in numbers):
        raise LinkError(
            f"lens is {list(numbers)}, expected [width, height, fx, fy, cx, cy] or [..., k1, k2, p1, p2]"
        )
    k1, k2, p1, p2 = (float(number) for number in (list(numbers[6:]) or [0.0] * 4))
    fx, fy, cx, cy = (float(number) for number in numbers[2:6])
    return LensCfg(int(numbers[0]), int(numbers[1]), fx, fy, cx, cy, (k1, k2, p1, p2))


class ImageFit:
    """Makes the policy's image out of a camera's.

    Args:
        spec: The policy's camera.
        lens: The real one; None: not calibrated, then the largest middle part of the right shape is scaled, and that its field of
            view is the policy's is the user's word.

    Attributes:
        covered: Share of the policy's image that the real camera sees; the rest repeats the border.
    """

    def __init__(self, spec: CameraSpec, lens: Optional[LensCfg] = None) -> None:
        self.spec, self._lens = spec, lens
        self.covered = 1.0
        self._size_wh: Optional[Tuple[int, int]] = None
        if lens is not None:
            self._prepare(lens)

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Fit one image.

        Args:
            rgb: uint8 ``[H, W, 3]``.

        Returns:
            uint8 ``[spec.height, spec.width, 3]``, new.

        Raises:
            LinkError: When the image is not of the lens' size.
        """
        height, width = rgb.shape[:2]
        if self._size_wh is None:
            self._prepare(_middle(width, height, self.spec))
        if (width, height) != self._size_wh:
            source = "before" if self._lens is None else "in its calibration"
            raise LinkError(f"the camera sends {width}x{height} pixels, {source} it was {self._size_wh}")
        import cv2

        step = self._step
        if step > 1:  # whole blocks are averaged, so that the look-up below does not skip pixels
            rgb = cv2.resize(rgb, (width // step, height // step), interpolation=cv2.INTER_AREA)
        return cv2.remap(rgb, self._map_x, self._map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _prepare(self, lens: LensCfg) -> None:
        """Where each pixel of the policy's image lies in the real one."""
        spec = self.spec
        self._size_wh = lens.width, lens.height
        x = (np.arange(spec.width) + 0.5 - spec.cx) / spec.fx
        y = (np.arange(spec.height) + 0.5 - spec.cy) / spec.fy
        u, v = _project(lens, *np.meshgrid(x, y))
        inside = (u >= 0) & (u <= lens.width) & (v >= 0) & (v <= lens.height)
        self.covered = float(inside.mean())
        finer = min(lens.fx / spec.fx, lens.fy / spec.fy)
        self._step = max(1, round(finer))
        # Scaled by whole blocks: what is left over at the right and lower edge stretches the block a little.
        scale_u = (lens.width // self._step) / lens.width
        scale_v = (lens.height // self._step) / lens.height
        # cv2 puts the centre of the first pixel at 0, we at 0.5.
        self._map_x = (u * scale_u - 0.5).astype(np.float32)
        self._map_y = (v * scale_v - 0.5).astype(np.float32)


def _project(lens: LensCfg, x: np.ndarray, y: np.ndarray) -> Tuple[Any, Any]:
    """Pixels of rays ``(x, y, 1)`` through a lens with radial and tangential distortion."""
    k1, k2, p1, p2 = lens.distortion
    r2 = x * x + y * y
    radial = 1.0 + r2 * (k1 + r2 * k2)
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    return lens.fx * u + lens.cx, lens.fy * v + lens.cy


def _middle(width: int, height: int, spec: CameraSpec) -> LensCfg:
    """The lens of which the policy's image is the largest middle part, without distortion."""
    scale = min(width / spec.width, height / spec.height)
    return LensCfg(
        width,
        height,
        spec.fx * scale,
        spec.fy * scale,
        width / 2 + (spec.cx - spec.width / 2) * scale,
        height / 2 + (spec.cy - spec.height / 2) * scale,
    )
