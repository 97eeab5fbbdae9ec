"""Cameras of a robot whose link carries no images (Unitree's state topic does not): read by a thread of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Protocol

import numpy as np

__all__ = ["Camera", "CameraFrame"]


@dataclass
class CameraFrame:
    """One image.

    Attributes:
        rgb: uint8 ``[H, W, 3]``, already cropped and scaled to the bundle's camera.
        t_s: When it was taken, on the runtime's monotonic clock [s] (arrival minus the camera's measured latency).
        received_s: When it arrived, same clock [s].
        number: Counts frames of this camera from 0.
    """

    rgb: np.ndarray
    t_s: float
    received_s: float
    number: int


class Camera(Protocol):
    """A source of frames. ``read`` blocks until the next frame and is called from a thread of the camera's own."""

    def read(self) -> Optional[CameraFrame]:
        """Wait for the next frame; None when none came within a second.

        Raises:
            LinkError: When the camera is gone.
        """
        ...

    def close(self) -> None:
        """Let go of the device; may be called twice."""
        ...
