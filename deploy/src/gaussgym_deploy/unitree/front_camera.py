"""The Go2's own front camera: service ``videohub``, api 1001, whose answer's octets are one JPEG image."""

from __future__ import annotations

import time
from typing import Any, Optional

import numpy as np

from ..bundle import CameraSpec
from ..camera import CameraFrame
from ..image_fit import ImageFit, LensCfg
from ..robot_io import LinkError
from .services import ServiceClient
from .wire import Wire

__all__ = ["Go2FrontCamera", "decode_jpeg"]

GET_IMAGE = 1001
_ANSWER_S = 1.0


class Go2FrontCamera:
    """A :class:`~gaussgym_deploy.camera.Camera` that asks for image after image.

    An image is asked for when the last one has come (or a frame period later), so that none waits in a queue and grows old.

    Args:
        wire: The robot's DDS domain; a wire of its own, since it is read from a thread of its own.
        spec: The policy's camera.
        lens: Calibration of the front camera; None: the middle of the image.
        hz: Images per second at most.
        latency_s: From exposure to the request's answer, as calibrated [s].
    """

    def __init__(
        self,
        wire: Wire,
        spec: CameraSpec,
        *,
        lens: Optional[LensCfg] = None,
        hz: float = 15.0,
        latency_s: float = 0.0,
    ) -> None:
        _require_cv2()
        self._wire = wire
        self._fit = ImageFit(spec, lens)
        self._period_s, self._latency_s = 1.0 / hz, latency_s
        self._client: Optional[ServiceClient] = ServiceClient(wire, "videohub")
        self._due_s, self._number = 0.0, 0

    def read(self) -> Optional[CameraFrame]:
        """Ask for the next image; None when no answer came within a second.

        Raises:
            LinkError: When the camera was closed, its service is gone or answers what is no image.
        """
        if self._client is None:
            raise LinkError("the camera is closed")
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s = time.monotonic() + self._period_s
        _, encoded = self._client.call(GET_IMAGE, timeout_s=_ANSWER_S, what="GetImageSample")
        received_s = time.monotonic()
        self._number += 1
        rgb = self._fit(decode_jpeg(encoded))
        return CameraFrame(rgb, received_s - self._latency_s, received_s, self._number - 1)

    def close(self) -> None:
        """Leave the service and the domain; may be called twice."""
        if self._client is not None:
            self._client.close()
            self._client = None
            self._wire.close()


def decode_jpeg(encoded: bytes) -> np.ndarray:
    """Decode an image.

    Args:
        encoded: JPEG file.

    Returns:
        uint8 ``[H, W, 3]``, RGB.

    Raises:
        LinkError: When it is none.
    """
    cv2 = _require_cv2()
    bgr = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), cv2.IMREAD_COLOR) if encoded else None
    if bgr is None:
        raise LinkError(f"the front camera answered {len(encoded)} bytes that are no image")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _require_cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise LinkError(
            "decoding camera images needs opencv-python-headless: pip install 'gaussgym-deploy[camera]'"
        ) from None
    return cv2
