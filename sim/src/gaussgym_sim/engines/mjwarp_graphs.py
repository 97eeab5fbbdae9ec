"""Sequences of Warp launches that run again and again, recorded as graphs: CUDA's on a GPU, Warp's own on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import warp as wp  # noqa: TID253  (this module is imported only where the backend is asked for)


class Graphs:
    """Launch sequences by key, in the order of torch's current stream.

    The first call of a key launches plainly (which also compiles and loads kernels), the second records a graph, and later ones
    launch that with one call: some 600 launches a control step take 30 ms from Python, and 1.5 ms replayed (4 robots, CPU). A
    graph holds the addresses of its arrays: `forget` it when these are replaced.

    Args:
        device: torch's.
        record: whether to record at all; plain launches give the same bits, slower (tests).
    """

    def __init__(self, device: torch.device, *, record: bool = True) -> None:
        self.device = wp.device_from_torch(device)
        self._torch_device, self._record_them = device, record
        self._graphs: dict[Hashable, Any] = {}
        self._launched: set[Hashable] = set()
        self._streams: dict[int, Any] = {}
        # The legacy default stream, which torch uses unless told otherwise, cannot be recorded.
        self._recording = wp.Stream(self.device) if self.device.is_cuda else None

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Warp launches on torch's current stream of the device."""
        if not self.device.is_cuda:
            with wp.ScopedDevice(self.device):
                yield
            return
        current = torch.cuda.current_stream(self._torch_device)
        if current.cuda_stream not in self._streams:
            self._streams[current.cuda_stream] = wp.stream_from_torch(current)
        stream = self._streams[current.cuda_stream]
        with wp.ScopedDevice(self.device), wp.ScopedStream(stream, sync_enter=False):
            yield

    def run(self, key: Hashable, launches: Callable[[], None]) -> None:
        """Run a sequence of launches, the same for a key each time: same kernels, arrays and numbers."""
        with self.on_stream():
            if not self._record_them or key not in self._launched:
                launches()
                self._launched.add(key)
                return
            if key not in self._graphs:
                self._graphs[key] = self._record(launches)
            stream = wp.get_stream(self.device) if self.device.is_cuda else None
            wp.capture_launch(self._graphs[key], stream=stream)

    def _record(self, launches: Callable[[], None]) -> Any:
        with (
            wp.ScopedStream(self._recording, sync_enter=False),
            wp.ScopedCapture(device=self.device, stream=self._recording, force_module_load=False) as capture,
        ):
            launches()
        return capture.graph

    def forget(self) -> None:
        """Drop all graphs: arrays that they hold were replaced, and kernels may be new."""
        self._graphs.clear()
        self._launched.clear()
