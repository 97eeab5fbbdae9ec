"""An Intel RealSense as the robot's camera (its colour stream), through pyrealsense2."""

from __future__ import annotations

import time
from typing import Any, Optional

import numpy as np

from .bundle import CameraSpec
from .camera import CameraFrame
from .image_fit import ImageFit, LensCfg
from .robot_io import LinkError

__all__ = ["RealSenseCamera"]

_PATIENCE_MS = 1000


class RealSenseCamera:
    """A :class:`~gaussgym_deploy.camera.Camera`; the lens' calibration is the one that the camera carries.

    Args:
        spec: The policy's camera.
        width: Of the colour stream [px].
        height: Of the colour stream [px].
        hz: Of the colour stream [1/s].
        latency_s: From exposure to arrival, as calibrated [s].
        serial: Serial number, where several are plugged in.
        module: Stands in for pyrealsense2 (tests).

    Raises:
        LinkError: Without pyrealsense2, without a camera, or when it has no such stream.
    """

    def __init__(
        self,
        spec: CameraSpec,
        *,
        width: int = 424,
        height: int = 240,
        hz: int = 30,
        latency_s: float = 0.0,
        serial: Optional[str] = None,
        module: Any = None,
    ) -> None:
        rs = _require_pyrealsense2() if module is None else module
        self._latency_s, self._number, self._open = latency_s, 0, True
        self._pipeline, config = rs.pipeline(), rs.config()
        if serial is not None:
            config.enable_device(serial)
        config.enable_stream(rs.stream.color, width, height, rs.format.rgb8, hz)
        try:
            profile = self._pipeline.start(config)
        except RuntimeError as error:
            raise LinkError(
                f"the RealSense does not start with {width}x{height} at {hz} Hz: {error}"
            ) from None
        found = profile.get_stream(rs.stream.color).as_video_stream_profile().get_intrinsics()
        self._fit = ImageFit(spec, _lens(found))

    def read(self) -> Optional[CameraFrame]:
        """Wait for the next frame; None when none came within a second.

        Raises:
            LinkError: When the camera was closed.
        """
        if not self._open:
            raise LinkError("the camera is closed")
        try:
            frames = self._pipeline.wait_for_frames(_PATIENCE_MS)
        except RuntimeError:  # "Frame didn't arrive within 1000"
            return None
        frame = frames.get_color_frame()
        if not frame:
            return None
        received_s = time.monotonic()
        self._number += 1
        rgb = self._fit(np.asarray(frame.get_data()))
        return CameraFrame(rgb, received_s - self._latency_s, received_s, self._number - 1)

    def close(self) -> None:
        """Stop the stream; may be called twice."""
        if self._open:
            self._open = False
            self._pipeline.stop()


def _lens(found: Any) -> LensCfg:
    """RealSense puts the centre of the first pixel at (0, 0); coefficients are k1, k2, p1, p2, k3."""
    k1, k2, p1, p2 = (float(value) for value in found.coeffs[:4])
    return LensCfg(
        found.width, found.height, found.fx, found.fy, found.ppx + 0.5, found.ppy + 0.5, (k1, k2, p1, p2)
    )


def _require_pyrealsense2() -> Any:
    try:
        import pyrealsense2
    except ImportError:
        raise LinkError(
            "a RealSense needs the package pyrealsense2: pip install 'gaussgym-deploy[realsense]'"
        ) from None
    return pyrealsense2
