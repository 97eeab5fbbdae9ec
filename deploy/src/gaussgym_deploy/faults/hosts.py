"""Robots of trials in real time, at the far end of a real wire, in the campaign's own process: shared memory, or DDS.

A host turns 500 times a second in a thread: commands in, robot up to now, state out. It stands in for the robot's own computer,
motor boards' time-out included, and it is where faults of the wire happen.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Callable, Deque, List, Optional, Protocol

import numpy as np

from ..bundle import PolicyBundle
from ..robot_io import DAMPING_KD, JointCommand, RobotIO
from ..scheduler import RUNTIME_PRIORITY, be_prompt
from ..shared_memory import SharedMemoryRobot, SharedMemoryServer
from .injection import Injection
from .tap import Tap
from .wire_faults import WIRE_FAULTS

__all__ = ["DdsHost", "Host", "ShmHost", "open_hosted"]

RATE_HZ = 500.0
COMMAND_TIMEOUT_S = 0.1
AWAY_S = 0.2
"""A robot's computer that restarts is away for at least so long [s] (really: for a minute)."""


class Host(Protocol):
    """The robot's end of a link."""

    timed_out_s: Optional[float]

    def step(self) -> None:
        """One turn."""
        ...

    def begin(self, injection: Optional[Injection]) -> None:
        """A new trial."""
        ...

    def close(self) -> None:
        """Let go of the wire."""
        ...


class HostThread:
    """Turns a host at its rate, and does things for others between its turns.

    Args:
        host: The host; closed by :meth:`close`.

    Attributes:
        host: The host.
        exceptions: What it raised.
        worst_turn_s: Longest time between two turns since :meth:`begin` [s].
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.exceptions: List[str] = []
        self.worst_turn_s = 0.0
        self._calls: Deque[Callable[[], None]] = deque()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="robot", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], None], *, timeout_s: float = 10.0) -> None:
        """Do something between two turns and wait for it."""
        done = threading.Event()
        self._calls.append(lambda: (function(), done.set()))  # type: ignore[func-returns-value]
        if not done.wait(timeout_s):
            raise RuntimeError("the robot's thread hangs")

    def close(self) -> None:
        """End the thread, close the host."""
        self._ending.set()
        self._thread.join(timeout=5.0)
        self.host.close()

    def _run(self) -> None:
        be_prompt(RUNTIME_PRIORITY)  # a real robot has a computer of its own
        due_s = last_s = time.monotonic()
        while not self._ending.is_set():
            now_s = time.monotonic()
            self.worst_turn_s, last_s = max(self.worst_turn_s, now_s - last_s), now_s
            try:
                while self._calls:
                    self._calls.popleft()()
                self.host.step()
            except Exception as error:  # the trial's judge must hear of it
                self.exceptions.append(f"the robot's host raised {type(error).__name__}: {error}")
            # Behind by more than a few periods (the machine was busy): go on from here, without a burst.
            due_s = max(due_s + 1.0 / RATE_HZ, time.monotonic() - 5.0 / RATE_HZ)
            time.sleep(max(0.0, due_s - time.monotonic()))


class ShmHost:
    """A robot behind shared memory, as its supervisor sees it through :func:`open_hosted`.

    Args:
        name: Name of the shared memory; one supervisor may attach.
        bundle: Joints, camera.
        tap: The robot.
    """

    def __init__(self, name: str, bundle: PolicyBundle, tap: Tap) -> None:
        camera, joints = bundle.camera, len(bundle.joint_names)
        self.timed_out_s: Optional[float] = None
        self._tap = tap
        self._server = SharedMemoryServer(
            name,
            robot=bundle.robot,
            joint_names=bundle.joint_names,
            control_dt_s=bundle.control_dt_s,
            camera_size_wh=None if camera is None else (camera.width, camera.height),
            lockstep=False,
        )
        self._damping = JointCommand(np.zeros(joints), np.zeros(joints), np.full(joints, DAMPING_KD))
        self._command_s: Optional[float] = None

    def begin(self, injection: Optional[Injection]) -> None:
        """See :class:`Host`."""
        self.timed_out_s = self._command_s = None

    def step(self) -> None:
        """See :class:`Host`."""
        request, now_s = self._server.latest_request(), time.monotonic()
        if isinstance(request, JointCommand):
            self._command_s = now_s
            self._tap.write(request)
        elif self._command_s is not None and now_s - self._command_s > COMMAND_TIMEOUT_S:
            if self.timed_out_s is None:
                self.timed_out_s = now_s
            self._tap.robot.write(self._damping)
        self._server.publish(self._tap.read(), strict_image=False)

    def close(self) -> None:
        """See :class:`Host`."""
        self._server.close()


def open_hosted(bundle: PolicyBundle, shm: str) -> RobotIO:
    """The link to a :class:`ShmHost`, for :func:`~gaussgym_deploy.robot_io.open_robot` by this function's full name.

    Args:
        bundle: Not needed; every link takes it.
        shm: Name of the shared memory.
    """
    return SharedMemoryRobot(shm, timeout_s=10.0, answer_timeout_s=10.0)


class DdsHost:
    """A robot behind real DDS.

    Args:
        domain: DDS domain on the loopback interface.
        bundle: Joints.
        tap: The robot.
    """

    def __init__(self, domain: int, bundle: PolicyBundle, tap: Tap) -> None:
        from ..unitree.dds_robot import DdsRobot, DdsRobotCfg

        self.timed_out_s: Optional[float] = None
        self._tap, self._domain = tap, domain
        self._robot = DdsRobot(_Untapped(tap), bundle.joint_names, DdsRobotCfg(domain))
        self._robot.obeyed = tap.note
        self._robot.transmit = self._transmit
        self._timeouts = 0
        self._frames: Deque[Any] = deque()
        self._injection: Optional[Injection] = None
        self._rival: Any = None
        self._last = b""
        self._done = self._away = False

    def begin(self, injection: Optional[Injection]) -> None:
        """See :class:`Host`."""
        self.timed_out_s, self._timeouts = None, self._robot.timeouts
        self._injection, self._done = injection, False
        self._come_back()
        self._frames.clear()
        if self._rival is not None:
            self._rival.close()
            self._rival = None

    def step(self) -> None:
        """See :class:`Host`."""
        self._act()
        self._robot.step()
        if self._robot.timeouts != self._timeouts and self.timed_out_s is None:
            self.timed_out_s = time.monotonic()

    def close(self) -> None:
        """See :class:`Host`."""
        self.begin(None)
        self._robot.close()

    def _act(self) -> None:
        """Faults that are no frames: once, when they begin."""
        injection = self._injection
        since_s = -1.0 if injection is None else injection.since_s(time.monotonic())
        if self._away and since_s > AWAY_S:
            self._come_back()
        if injection is None or self._done or since_s < 0:
            return
        self._done = True
        if injection.kind.name == "second_publisher":
            from ..unitree.dds_link import COMMAND_TOPIC
            from ..unitree.wire import Wire

            self._rival = Wire(self._domain, "lo")
            self._rival.writer(COMMAND_TOPIC, "LowCmd_")
        elif injection.kind.name == "writer_restarted":
            self._robot.close_writer()
            self._away = True

    def _come_back(self) -> None:
        if self._away:
            self._away = False
            self._robot.open_writer()

    def _transmit(self, frame: bytes) -> None:
        """Send a frame, unless a fault of the wire says otherwise."""
        if self._away:
            return
        now_s, injection, frames = time.monotonic(), self._injection, self._frames
        frames.append((now_s, frame))
        while frames[0][0] < now_s - 1.0:
            frames.popleft()
        name = "" if injection is None or injection.since_s(now_s) < 0 else injection.kind.name
        if injection is None or name not in WIRE_FAULTS:
            self._last = frame
            self._robot.send(frame)
            return
        injection.calls += 1
        for passing in WIRE_FAULTS[name](frame, injection.since_s(now_s), injection, self._last, frames):
            self._robot.send(passing)


class _Untapped:
    """The tapped robot without the noting of commands: a DDS robot writes the held one at every turn."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def read(self) -> Any:
        return self._tap.read()

    def write(self, command: JointCommand) -> None:
        self._tap.robot.write(command)

    def close(self) -> None:
        pass
