"""Who plays a part beside the runtime: a policy that can fail, an operator who can be lost, a camera that can go blind."""

from __future__ import annotations

import time
from typing import Any, Callable, Optional

import numpy as np

from ..bundle import CameraSpec
from ..camera import CameraFrame
from ..operator import OperatorCommand
from ..robot_io import LinkError, RobotState
from .injection import Injection

__all__ = ["ScriptedCamera", "ScriptedOperator", "SpoiltPolicy"]


class SpoiltPolicy:
    """Stands in for a :class:`~gaussgym_deploy.policy.Policy` and does to its actions what a fault says.

    Args:
        policy: The honest one.
        clock: The clock of the trial [s].
        sleep: Lets its time pass: what an inference that is late takes.
    """

    def __init__(self, policy: Any, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.injection: Optional[Injection] = None
        self.steps = 0
        self._policy, self._clock, self._sleep = policy, clock, sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def act(self, proprio: np.ndarray, rgb: Optional[np.ndarray] = None) -> np.ndarray:
        """The honest actions, or the fault's."""
        action = self._policy.act(proprio, rgb)
        self.steps += 1
        injection = self.injection
        if injection is None or injection.since_s(self._clock()) < 0 or injection.kind.side != "policy":
            return action
        injection.calls += 1
        return self._spoil(injection, np.array(action, dtype=np.float32))

    def _spoil(self, injection: Injection, action: np.ndarray) -> np.ndarray:
        name, joint, first = injection.kind.name, injection.joint, injection.calls == 1
        if name == "action_nan":
            action[joint] = np.nan
        elif name == "action_inf":
            action[joint] = injection.sign * np.inf
        elif name == "action_huge" and first:
            action[joint] = injection.sign * 1e6
        elif name == "action_shakes" and injection.calls <= 5:
            action[:] = 100.0 * injection.sign * (-1) ** injection.calls
        elif name == "action_misshapen":
            action = action[:-1]
        elif name == "policy_raises":
            raise RuntimeError("out of memory (injected)")
        elif name == "inference_late_once" and first:
            self._sleep(0.015)
        elif name == "inference_late":
            self._sleep(0.07)
        return action


class ScriptedOperator:
    """An operator who holds the stick forward, until the fault.

    Args:
        clock: The clock of the trial [s].
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.injection: Optional[Injection] = None
        self._clock = clock
        self._said = OperatorCommand(velocity=np.array([0.5, 0.0, 0.0]))

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """Alive, forward; after the fault whatever it says."""
        injection, said = self.injection, self._said
        since_s = -1.0 if injection is None else injection.since_s(now_s)
        name = "" if injection is None or since_s < 0 else injection.kind.name
        lost = name == "operator_lost" or (name == "operator_late_once" and since_s < 0.15)
        if not lost:
            said.alive_s = now_s
        if name == "operator_raises":
            raise OSError(19, "no such device (injected)")
        said.stop = "button (injected)" if name == "operator_estop" else None
        said.velocity[:] = (np.nan if name == "operator_nan" else 0.5), 0.0, 0.0
        return said

    def close(self) -> None:
        """Nothing to let go of."""


class ScriptedCamera:
    """A camera of its own, in real time: a test card that moves, until the fault.

    Args:
        spec: Size of its frames.
        rate_hz: Frames a second [1/s].
        latency_s: From the exposure to the arrival [s].
    """

    def __init__(self, spec: CameraSpec, rate_hz: float, *, latency_s: float = 0.02) -> None:
        self.injection: Optional[Injection] = None
        self._period_s, self._latency_s = 1.0 / rate_hz, latency_s
        self._due_s, self._number = time.monotonic(), 0
        across = np.linspace(20.0, 255.0, spec.width).astype(np.uint8)
        self._card = np.repeat(np.repeat(across[None, :, None], spec.height, axis=0), 3, axis=2)
        self._last = self._card

    def read(self) -> Optional[CameraFrame]:
        """Wait for the next frame, or for what the fault makes of it.

        Raises:
            LinkError: When the fault is that it is unplugged.
        """
        self._due_s = max(self._due_s + self._period_s, time.monotonic())
        time.sleep(self._due_s - time.monotonic() if self._due_s > time.monotonic() else 0.0)
        self._number += 1
        frame = np.roll(self._card, self._number, axis=1)
        injection, now_s = self.injection, time.monotonic()
        if injection is None or injection.since_s(now_s) < 0 or injection.kind.side != "camera":
            self._last = frame
            return CameraFrame(frame, now_s - self._latency_s, now_s, self._number)
        injection.stash["frames"] = injection.stash.get("frames", 0) + 1
        return self._spoilt(injection.kind.name, injection.stash["frames"] == 1, frame, now_s)

    def _spoilt(self, name: str, first: bool, frame: np.ndarray, now_s: float) -> Optional[CameraFrame]:
        taken_s = now_s - self._latency_s
        if name == "camera_disconnected":
            raise LinkError("no such device (injected)")
        if name == "camera_frozen" or (name == "camera_late_once" and first):
            return None
        if name == "camera_black" or (name == "camera_black_once" and first):
            frame = np.zeros_like(frame)
        elif name == "camera_restamped":
            frame = self._last
        elif name == "camera_late":
            taken_s = now_s - 0.8
        elif name == "camera_wrong_size":
            frame = frame[: len(frame) // 2]
        elif name == "camera_wrong_type":
            frame = frame.astype(np.float32) / 255.0
        return CameraFrame(frame, taken_s, now_s, self._number)

    def close(self) -> None:
        """Nothing to let go of."""
