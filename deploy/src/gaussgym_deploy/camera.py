"""Cameras: read by a thread of their own where the robot's link carries no images, and watched whoever carries them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Optional, Protocol

import numpy as np

from .bundle import CameraSpec
from .guards import Fault, GuardLimits

__all__ = ["Camera", "CameraFrame", "CameraThread", "CameraWatch"]

RETRY_S = 0.1
SMOOTHING = 0.1


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


class CameraThread:
    """Reads a camera at the camera's own rate; whoever asks gets the newest frame.

    A camera that raises is asked again every 0.1 s: it may come back. Until then frames age, and the camera's guard acts.

    Args:
        camera: Closed by :meth:`close`.

    Attributes:
        error: What the camera raised last, empty once a frame came.
        frames: Number of frames received.
        latency_s: From taking a frame to its arrival, smoothed over about ten frames [s]; NaN before the first.
        period_s: Between arrivals, smoothed [s]; NaN before the second.
    """

    def __init__(self, camera: Camera) -> None:
        self.error = ""
        self.frames = 0
        self.latency_s = self.period_s = float("nan")
        self._camera = camera
        self._newest: Optional[CameraFrame] = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="camera", daemon=True)

    def start(self) -> CameraThread:
        """Begin to read; returns itself."""
        self._thread.start()
        return self

    def latest(self) -> Optional[CameraFrame]:
        """The newest frame; None before the first. Never blocks. Its pixels are not written again."""
        return self._newest

    def close(self) -> None:
        """Stop reading and let go of the camera; may be called twice."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)  # a camera's read ends within about a second
        self._camera.close()

    def _loop(self) -> None:
        while not self._ending.is_set():
            try:
                frame = self._camera.read()
            except Exception as error:  # whatever a driver raises must not end the thread that watches it
                self.error = " ".join(str(error).split())[:200] or type(error).__name__
                self._ending.wait(RETRY_S)
                continue
            if frame is not None:
                self._take(frame)

    def _take(self, frame: CameraFrame) -> None:
        before = self._newest
        self.latency_s = _smooth(self.latency_s, frame.received_s - frame.t_s)
        if before is not None:
            self.period_s = _smooth(self.period_s, frame.received_s - before.received_s)
        self._newest = frame  # one reference: a reader sees the old frame or the new one, never half of each
        self.frames += 1
        self.error = ""


class CameraWatch:
    """Decides which frames the policy gets, and when there were none for too long.

    A frame counts when its time stamp is newer than the last one's, it is not black, and it does not show the very pixels of the
    frame before while the robot moves (a driver that stamps an old buffer anew). Frames that do not count are ridden through,
    with the last one that did, until that is ``camera_age_s`` old.

    Args:
        camera: The policy's camera; None for a blind policy, which watches nothing.
        limits: Thresholds.

    Attributes:
        rgb: Copy of the last frame that counted, uint8 ``[H, W, 3]``.
        number: How many counted since :meth:`reset`.
        stamp: Time stamp of the newest frame shown, counted or not, on whatever clock it has [s].
    """

    def __init__(self, camera: Optional[CameraSpec], limits: GuardLimits) -> None:
        shape = (0, 0, 3) if camera is None else (camera.height, camera.width, 3)
        self.rgb = np.zeros(shape, dtype=np.uint8)
        self._blind, self._limits = camera is None, limits
        self.reset()

    def reset(self) -> None:
        """Begin an episode: no frame yet."""
        self.number = 0
        self.stamp = self._taken_s = -np.inf
        self._refused = "camera_age"
        self._misfit: Optional[Fault] = None

    def resume(self, rgb: Optional[np.ndarray], stamp: float, taken_s: float) -> None:
        """Go on with a frame that was judged already (replays).

        Args:
            rgb: uint8 ``[H, W, 3]``, or None.
            stamp: Its time stamp [s].
            taken_s: When it was taken, runtime's clock [s].
        """
        self.reset()
        self.stamp, self._taken_s = stamp, taken_s
        if rgb is not None and rgb.shape == self.rgb.shape:
            self.rgb[...] = rgb
            self.number = 1

    def show(
        self, rgb: Optional[np.ndarray], stamp: float, age_s: float, now_s: float, *, moving: bool
    ) -> None:
        """Take the newest frame there is (often the same as last time).

        Args:
            rgb: uint8 ``[H, W, 3]``, or None.
            stamp: When it was taken, on any clock [s].
            age_s: How old it is [s].
            now_s: Current time, runtime's clock [s].
            moving: Whether the robot moves, so that the picture must change.
        """
        if self._blind or rgb is None or not stamp > self.stamp:
            return
        self.stamp = stamp
        self._misfit = None
        if rgb.shape != self.rgb.shape or rgb.dtype != np.uint8:
            self._misfit = Fault(
                "camera_shape",
                f"frame is {rgb.dtype} {list(rgb.shape)}, expected uint8 {list(self.rgb.shape)}",
            )
        elif rgb.mean() < self._limits.camera_dark_level:
            self._refused = "camera_black"
        elif moving and self.number and np.array_equal(rgb, self.rgb):
            self._refused = "camera_frozen"
        else:
            self.rgb[...] = rgb
            self.number += 1
            self._refused = "camera_age"
            self._taken_s = now_s - max(age_s, 0.0)  # a stamp from the future makes no frame last longer

    def age_s(self, now_s: float) -> float:
        """How old the last frame that counted is [s]; infinite without any."""
        return now_s - self._taken_s

    def check(self, now_s: float) -> Optional[Fault]:
        """A frame that counts is there and fresh (asked while a policy that sees is running).

        Args:
            now_s: Current time, runtime's clock [s].
        """
        if self._blind or self._misfit is not None:
            return self._misfit
        age_s, limit_s = self.age_s(now_s), self._limits.camera_age_s
        if age_s <= limit_s:
            return None
        if not self.number:
            return Fault(self._refused, "no usable camera frame yet")
        return Fault(self._refused, f"last usable frame is {age_s:.3f} s old, at most {limit_s:g} s")


def _smooth(old: float, new: float) -> float:
    return new if np.isnan(old) else old + SMOOTHING * (new - old)
