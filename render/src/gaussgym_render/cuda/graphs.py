"""CUDA graphs of whole calls: what is launched over and over with the same arrays is captured once and replayed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)
from gaussgym_scene import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


class GraphCache:
    """Graphs by what they were captured for, the ones used longest ago dropped; owns the stream that they are captured on.

    A key is launched plainly when it first comes, which loads its kernels, and captured when it comes again. A caller that is
    capturing a graph of its own gets the launches into that.

    Args:
        device: Warp device.
        enabled: Whether to capture at all.
        limit: Most graphs to hold.
    """

    def __init__(self, device: Any, *, enabled: bool, limit: int = 8) -> None:
        self.device, self.enabled, self.limit = device, enabled, limit
        self.num_captures = 0
        self._graphs: OrderedDict[Hashable, Any] = OrderedDict()  # None: came once
        self._stream = wp.Stream(device) if enabled and device.is_cuda else None

    def run(self, key: Hashable, launch: Callable[[], None]) -> None:
        """Do what `launch` launches, on the device's current stream.

        Args:
            key: Says what; two calls with one key launch the same, with the same arrays.
            launch: Launches and nothing else.
        """
        if not self.enabled or self.device.is_capturing:
            with joined_capture(self.device):
                launch()
            return
        known = key in self._graphs
        graph = self._graphs.pop(key, None)
        if not known:
            launch()
        else:
            graph = self._capture(launch) if graph is None else graph
            wp.capture_launch(graph)
        self._graphs[key] = graph
        while len(self._graphs) > self.limit:
            self._graphs.popitem(last=False)

    def clear(self) -> None:
        """Forget all graphs: buffers that they use are about to go."""
        self._graphs.clear()

    def _capture(self, launch: Callable[[], None]) -> Any:
        """The graph of what `launch` launches; on a stream of its own, since the default stream cannot be captured."""
        self.num_captures += 1
        if self._stream is None:
            with wp.ScopedCapture(device=self.device) as capture:
                launch()
            return capture.graph
        with (
            wp.ScopedStream(self._stream, sync_enter=False),
            wp.ScopedCapture(stream=self._stream) as capture,
        ):
            launch()
        return capture.graph


def before_growth(device: Any, what: str) -> None:
    """Get ready to replace buffers: wait for launches that use the old ones, on whatever stream.

    Raises:
        InputError: A graph is being captured, whose buffers have to be there before; `what` there is no room for.
    """
    if device.is_capturing:
        raise InputError(
            f"found a graph being captured and no room for {what} yet; render as many once before capturing"
        )
    wp.synchronize_device(device)


@contextmanager
def joined_capture(device: Any) -> Iterator[None]:
    """Let Warp know of a capture that another library (torch) has begun on the current stream; does nothing without one."""
    foreign = device.is_cuda and device.stream.is_capturing and device.stream not in device.captures
    if not foreign:
        yield
        return
    wp.capture_begin(stream=device.stream, external=True)
    try:
        yield
    finally:
        wp.capture_end(stream=device.stream)
