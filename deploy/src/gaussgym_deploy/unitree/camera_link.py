"""The camera of a simulated robot on DDS: its frames come over shared memory, since the Go2's camera is no topic either."""

from __future__ import annotations

import time
from typing import Optional

from ..camera import CameraFrame
from ..robot_io import LinkError
from ..shared_memory import SharedMemoryRobot

__all__ = ["SharedMemoryCamera"]

_POLL_S = 0.002
_PATIENCE_S = 1.0


class SharedMemoryCamera:
    """A :class:`~gaussgym_deploy.camera.Camera` whose frames a process of this machine publishes.

    Args:
        name: Of the shared memory.
        timeout_s: How long to wait for the process to come up [s].

    Raises:
        LinkError: When nobody serves frames under this name.
    """

    def __init__(self, name: str, *, timeout_s: float = 60.0) -> None:
        self._link = SharedMemoryRobot(name, timeout_s=timeout_s, answer_timeout_s=_PATIENCE_S)
        if self._link.description.camera_size_wh is None:
            self._link.close()
            raise LinkError(f"shared memory {name!r} belongs to a robot without a camera")
        self._last_t_s, self._number = float("-inf"), 0

    def read(self) -> Optional[CameraFrame]:
        """Wait for the next frame, a second at most.

        Its time is the exposure's on this machine's monotonic clock.

        Raises:
            LinkError: When the camera's process is gone.
        """
        end_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < end_s:
            if self._link.has_news:
                state = self._link.read()
                if state.rgb is not None and state.rgb_t_s != self._last_t_s:
                    self._last_t_s, self._number = state.rgb_t_s, self._number + 1
                    # A copy: the link's own buffer is overwritten by the next read.
                    return CameraFrame(state.rgb.copy(), state.rgb_t_s, time.monotonic(), self._number - 1)
            time.sleep(_POLL_S)
        if self._link.robot_gone:
            raise LinkError("the camera's process is gone")
        return None

    def close(self) -> None:
        """Let go of the shared memory; may be called twice."""
        self._link.close()
