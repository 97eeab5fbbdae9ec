"""The plain robot's camera: splats seen from its mount, frames that come at a rate and late, in this thread or in one beside."""

from __future__ import annotations

import queue
import threading
from collections import deque
from typing import Protocol

import numpy as np
from gaussgym_deploy.bundle import CameraSpec
from gaussgym_deploy.robot_io import RobotState
from gaussgym_deploy.scheduler import be_prompt
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CAMERA_PRIORITY = 5


class Eye(Protocol):
    """Something that sees."""

    def image(self, position_w: Floats, quat_wxyz: Floats) -> NDArray[np.uint8]:
        """uint8 `[H, W, 3]` from a base pose."""
        ...


class SplatCamera:
    """Renders the scene's splats from the robot's mount.

    Args:
        scene: where.
        spec: size, intrinsics and mount.
        backend: of the splat renderer.
        gain: factor on light.
        gamma: exponent on encoded values in 0..1.
    """

    def __init__(
        self, scene: Scene, spec: CameraSpec, backend: str, *, gain: float = 1.0, gamma: float = 1.0
    ) -> None:
        from gaussgym_render import SplatRenderer

        self._renderer = SplatRenderer([scene.splats], spec.width, spec.height, backend=backend)
        self._k = np.array([[[spec.fx, 0, spec.cx], [0, spec.fy, spec.cy], [0, 0, 1]]])
        self._mount = np.eye(4)
        self._mount[:3, :3] = matrix_from_quat_wxyz(np.array(spec.quat_b_c_wxyz))
        self._mount[:3, 3] = spec.position_b_m
        self._scene = np.zeros(1, dtype=np.int64)
        self._codes = response_codes(gain, gamma)

    def image(self, position_w: Floats, quat_wxyz: Floats) -> NDArray[np.uint8]:
        """uint8 `[H, W, 3]` from a base pose."""
        base = np.eye(4)
        base[:3, :3] = matrix_from_quat_wxyz(quat_wxyz)
        base[:3, 3] = position_w
        return self._codes[self._renderer.render((base @ self._mount)[None], self._k, self._scene).rgb[0]]


def response_codes(gain: float, gamma: float) -> NDArray[np.uint8]:
    """What a camera of some exposure makes of each code that an ideal one gives, `[256]`.

    Codes are sRGB (IEC 61966-2-1): decoded to light, times the gain, encoded, and raised to gamma.
    """
    code = np.arange(256) / 255.0
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    light = np.clip(gain * light, 0.0, 1.0)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255.0 * np.clip(shown, 0.0, 1.0) ** gamma).astype(np.uint8)


class CameraFeed:
    """Frames on their way from the camera to the robot's state.

    Args:
        eye: takes the images.
        latency_s: from exposure to arrival.
        threaded: render beside the physics, which must not wait where it keeps real time; a frame then arrives when it is due and
            rendered, and one that is asked for while another is being rendered is lost, as with a camera that cannot keep up.
    """

    def __init__(self, eye: Eye, *, latency_s: float = 0.0, threaded: bool = False) -> None:
        self._eye, self._latency_s = eye, latency_s
        self._coming: deque[tuple[float, NDArray[np.uint8]]] = deque()
        self._asked: queue.SimpleQueue[tuple[float, Floats, Floats] | None] | None = None
        self._busy = threading.Event()
        self._episode = 0
        if threaded:
            self._asked = queue.SimpleQueue()
            threading.Thread(target=self._work, name="camera", daemon=True).start()

    def restart(self, state: RobotState, time_s: float, position_w: Floats, quat_wxyz: Floats) -> None:
        """A new episode: frames on their way are lost, and the first is there at once."""
        self._episode += 1
        self._coming.clear()
        state.rgb, state.rgb_t_s = self._eye.image(position_w, quat_wxyz), time_s

    def take(self, time_s: float, position_w: Floats, quat_wxyz: Floats) -> None:
        """Expose a frame now."""
        if self._asked is None:
            self._coming.append((time_s, self._eye.image(position_w, quat_wxyz)))
        elif not self._busy.is_set():
            self._busy.set()
            self._asked.put((time_s, position_w.copy(), quat_wxyz.copy()))

    def receive(self, state: RobotState, time_s: float) -> None:
        """Show the newest frame that has arrived."""
        while self._coming and self._coming[0][0] + self._latency_s <= time_s + 1e-9:
            state.rgb_t_s, state.rgb = self._coming.popleft()

    def close(self) -> None:
        """End the thread."""
        if self._asked is not None:
            self._asked.put(None)

    def _work(self) -> None:
        assert self._asked is not None
        be_prompt(
            CAMERA_PRIORITY
        )  # where it was preempted in the middle of Python code, the physics would wait for it
        while (order := self._asked.get()) is not None:
            time_s, position_w, quat_wxyz = order
            episode = self._episode
            image = self._eye.image(position_w, quat_wxyz)
            if episode == self._episode:
                self._coming.append((time_s, image))
            self._busy.clear()
