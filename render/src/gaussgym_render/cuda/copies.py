"""The order between copies to a device and the frames that use what was copied."""

from __future__ import annotations

import time
from typing import Any

import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)

_LOOK_AGAIN_S = 1e-4


class CopyStream:
    """The order between copies and frames on a CUDA device.

    Args:
        device: A Warp device.
    """

    def __init__(self, device: Any) -> None:
        self._device, self.stream = device, wp.Stream(device)

    def after_copies(self) -> Any:
        """An event after all copies enqueued so far."""
        return self.stream.record_event()

    def after_frame(self) -> Any:
        """An event after what the device's current stream has been given so far."""
        return self._device.stream.record_event()

    def copies_wait(self, event: Any) -> None:
        """Let copies to come wait for an event."""
        self.stream.wait_event(event)

    def frame_waits(self, event: Any) -> None:
        """Let what comes on the device's current stream wait for an event."""
        self._device.stream.wait_event(event)

    def host_waits(self, event: Any) -> None:
        """Wait for an event here and now.

        Warp's own wait refuses while any thread captures a graph on the device, as the one that renders may.
        """
        while not event.is_complete:
            time.sleep(_LOOK_AGAIN_S)

    def is_over(self, event: Any) -> bool:
        """Whether an event has happened."""
        return event.is_complete


class PlainCopies(CopyStream):
    """The same on the CPU device, where a copy is over when it returns: there is nothing to wait for."""

    def __init__(self, device: Any) -> None:
        self._device, self.stream = device, None

    def after_copies(self) -> Any:
        """See `CopyStream`."""
        return None

    after_frame = after_copies

    def copies_wait(self, event: Any) -> None:
        """See `CopyStream`."""

    frame_waits = host_waits = copies_wait

    def is_over(self, event: Any) -> bool:
        """See `CopyStream`."""
        return True
