"""The runtime's end of Unitree's low-level DDS topics: the Go2, and any simulated robot that speaks the same.

Made for a plain loop of one thread: ``read()`` takes what has arrived (microseconds, never waits), ``write()`` seals and sends.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

from ..robot_io import JointCommand, LinkError, RobotState
from .messages import (
    SERVO_MODE,
    SPORT_MODE_STATE_FIELDS,
    LowCmdFrame,
    LowStateFrame,
    MessageFrame,
    motor_index,
)
from .remote import REMOTE_BYTES, RemoteCfg, stick_velocity
from .wire import FrameWriter, Wire

__all__ = ["COMMAND_TOPIC", "SPORT_TOPIC", "STATE_TOPIC", "DdsLink", "DdsLinkCfg"]

COMMAND_TOPIC, STATE_TOPIC, SPORT_TOPIC = "rt/lowcmd", "rt/lowstate", "rt/sportmodestate"

_ECHOES = 4096  # commands whose round trip can still be told
_FLAG = 1 << 31  # ticks count modulo 2^32: what lies more than half of that ahead lies behind
_LISTENER_TIMEOUT_S = 2.0
_SLOW_EVERY = 10  # reads between looks at other writers


@dataclass(frozen=True)
class DdsLinkCfg:
    """Where the robot is and how to begin.

    Attributes:
        domain: DDS domain.
        interface: Network interface.
        listen_s: How long to listen for another publisher of commands, before this one begins [s].
        start_timeout_s: How long to wait for the robot's first state [s].
        rival_memory_s: A foreign command counts as a rival's presence for this long [s].
        remote: What the remote control's sticks mean.
    """

    domain: int
    interface: str
    listen_s: float = 0.3
    start_timeout_s: float = 10.0
    rival_memory_s: float = 1.0
    remote: RemoteCfg = field(default_factory=RemoteCfg)


class DdsLink:
    """A :class:`~gaussgym_deploy.robot_io.RobotIO` over ``rt/lowstate`` and ``rt/lowcmd``.

    States with a bad checksum or layout are thrown away and counted in ``RobotState.corrupt``; states whose tick is not newer
    than the last one's in ``RobotState.out_of_order``. ``RobotState.command`` is what the remote control's sticks ask for.

    Args:
        joint_names: The policy's joints; Unitree's twelve in any order.
        cfg: Where.
        clock: Seconds, monotonic.
        release: Called when the robot was heard and nobody else was seen to command it, before the command topic is joined
            (takes the robot's own motion service off the motors).
        listen_only: The command topic is not joined, and who else commands the robot is its own business.

    Attributes:
        checks_crc: Whether the robot fills in the checksum of its states (told by the first ones).
        idle_writers: Other writers that were on the command topic, silent, when this one joined: the robot's own services.

    Raises:
        LinkError: When no robot is heard, or somebody else commands it.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        cfg: DdsLinkCfg,
        *,
        clock: Callable[[], float] = time.monotonic,
        release: Optional[Callable[[Wire], None]] = None,
        listen_only: bool = False,
    ) -> None:
        self.cfg, self._clock = cfg, clock
        self._index = motor_index(joint_names)
        joints = len(self._index)
        self._torque, self._temperature = np.zeros(joints), np.zeros(joints)
        self._acceleration, self._remote = np.zeros(3), np.zeros(REMOTE_BYTES, dtype=np.uint8)
        self._state = RobotState.zeros(joints)
        self._state.joint_torque, self._state.motor_temperature_c = self._torque, self._temperature
        self._state.lin_acc_b, self._state.remote = self._acceleration, self._remote
        self._command, self._heard = LowCmdFrame(), LowStateFrame()
        self._command.set_modes(SERVO_MODE)
        self._odometry = MessageFrame(SPORT_MODE_STATE_FIELDS)
        self._position = self._odometry["position"]
        self._tick: Optional[int] = None
        self._tick_ms = 0
        self._gone = False
        self._reads = 0
        self._foreign_s = -np.inf
        self._trips = RoundTrips(clock)
        self.states = 0
        self.checks_crc = True
        self.idle_writers = 0
        self._commands: Optional[FrameWriter] = None
        self._wire = Wire(cfg.domain, cfg.interface)
        try:
            self._states = self._wire.reader(STATE_TOPIC, "LowState_")
            self._sport = self._wire.reader(SPORT_TOPIC, "SportModeState_", depth=1)
            self._spy = self._wire.reader(COMMAND_TOPIC, "LowCmd_", depth=1, ignore_own=True)
            self._wait_for_robot()
            if not listen_only:
                self._join(release)
        except BaseException:
            self._wire.close()
            raise

    def _join(self, release: Optional[Callable[[Wire], None]]) -> None:
        """Make sure that nobody else commands the robot, and join the command topic."""
        self._listen()
        if release is not None:
            release(self._wire)
            self._listen()
        self.idle_writers = self._spy.writers
        self._commands = commands = self._wire.writer(COMMAND_TOPIC, "LowCmd_")
        self._wait_for_listener(commands)

    def read(self) -> RobotState:
        """The newest state (the same object every time).

        Raises:
            LinkError: When the robot's writer has left, until another one comes.
        """
        frames = self._states.take()[0]
        # Not the notice in place of a sample: it is none when the last sample was not taken yet.
        if self.states and self._states.writers == 0:
            self._gone, self._tick = True, None
        for frame in frames:
            self._accept(frame)
        self._take_odometry()
        self._reads += 1
        if self._reads % _SLOW_EVERY == 0:
            self._look_around()
        if self._gone:
            raise LinkError("the robot's state writer has left the DDS domain")
        return self._state

    def write(self, command: JointCommand) -> None:
        """Send a command, sealed with its checksum and numbered in ``reserve``.

        Raises:
            LinkError: When the command holds something that is no number (nothing is sent), the link only listens, or DDS
                refuses.
        """
        if self._commands is None:
            raise LinkError("this link only listens")
        frame, index = self._command, self._index
        if not (
            np.isfinite(command.q).all() and np.isfinite(command.kp).all() and np.isfinite(command.kd).all()
        ):
            raise LinkError("the joint command holds a value that is no finite number; it was not sent")
        frame.q[index], frame.kp[index], frame.kd[index] = command.q, command.kp, command.kd
        frame.dq[index] = 0.0
        frame.reserve[0] = self._trips.next_number()
        data = frame.seal()
        self._trips.sent()
        self._commands.write(data)

    def close(self) -> None:
        """Leave the domain; may be called twice."""
        self._wire.close()

    def report(self) -> Dict[str, Any]:
        """What the link saw so far: counts, and round trips [ms] where the robot echoes command numbers."""
        state = self._state
        return {
            "states": self.states,
            "corrupt": state.corrupt,
            "out_of_order": state.out_of_order,
            "rival_writers": state.rival_writers,
            "idle_writers": self.idle_writers,
            "checks_crc": self.checks_crc,
            **self._trips.report(),
        }

    def _accept(self, data: bytes) -> None:
        heard, state = self._heard, self._state
        if not heard.load(data) or (self.checks_crc and not heard.intact):
            state.corrupt += 1
            return
        tick = int(heard.tick[0])
        step = 1 if self._tick is None else (tick - self._tick) & 0xFFFFFFFF
        if step == 0 or step >= _FLAG:
            state.out_of_order += 1
            return
        self._tick = tick
        self._tick_ms += step
        self._gone = False
        self.states += 1
        self._trips.heard(int(heard.reserve[0]))
        self._state.round_trip_s = self._trips.newest_s
        self._copy(heard)

    def _copy(self, heard: LowStateFrame) -> None:
        state, index = self._state, self._index
        state.t_s = 1e-3 * self._tick_ms
        state.joint_pos[:] = heard.q[index]
        state.joint_vel[:] = heard.dq[index]
        self._torque[:] = heard.tau_est[index]
        self._temperature[:] = heard.temperature[index]
        state.quat_wxyz[:] = heard.quaternion
        state.ang_vel_b[:] = heard.gyroscope
        self._acceleration[:] = heard.accelerometer
        state.battery_fraction = 0.01 * int(heard.soc[0])
        self._remote[:] = heard.wireless_remote
        stick_velocity(self._remote, self.cfg.remote, state.command)

    def _look_around(self) -> None:
        """Other writers of commands; may be some milliseconds late."""
        now_s = self._clock()
        foreign, _ = self._spy.take()
        if foreign:
            self._foreign_s = now_s
        recent = now_s - self._foreign_s < self.cfg.rival_memory_s
        if self._commands is not None:  # who only listens has no rivals
            self._state.rival_writers = max(self._spy.writers - self.idle_writers, int(recent))

    def _take_odometry(self) -> None:
        """The robot's odometry, after the states: a robot that sends it before them is then read with both of one moment."""
        for frame in self._sport.take()[0]:
            if self._odometry.load(frame):
                if self._state.position_w is None:
                    self._state.position_w = np.zeros(3)
                self._state.position_w[:] = self._position

    def _wait_for_robot(self) -> None:
        """Wait for some states; they tell whether the robot fills in their checksum."""
        where = f"DDS domain {self.cfg.domain} on interface {self.cfg.interface!r}"
        end_s = self._clock() + self.cfg.start_timeout_s
        frames: List[bytes] = []
        while len(frames) < 5:
            if self._clock() > end_s:
                if frames:
                    break
                raise LinkError(
                    f"no robot is heard on {STATE_TOPIC} in {where} (waited {self.cfg.start_timeout_s:g} s)"
                )
            frames += self._states.take()[0]
            time.sleep(0.002)
        whole = [frame for frame in frames if self._heard.load(frame)]
        if not whole:
            raise LinkError(f"what {STATE_TOPIC} carries in {where} is not Unitree's LowState_ of the Go2")
        self.checks_crc = any(frame[-4:] != b"\0\0\0\0" for frame in whole)
        for frame in frames:
            self._accept(frame)

    def _wait_for_listener(self, commands: FrameWriter) -> None:
        """A command that nobody has subscribed to yet would be lost."""
        end_s = self._clock() + _LISTENER_TIMEOUT_S
        while commands.readers == 0:
            if self._clock() > end_s:
                raise LinkError(f"a robot sends states, but nobody has subscribed to {COMMAND_TOPIC}")
            time.sleep(0.002)

    def _listen(self) -> None:
        """Refuse to become the second commander of a robot."""
        end_s = self._clock() + self.cfg.listen_s
        while self._clock() < end_s:
            if self._spy.take()[0]:
                raise LinkError(
                    f"somebody else sends commands on {COMMAND_TOPIC} (another program, or the robot's own motion service);"
                    " end that first: two commanders tear a robot apart"
                )
            self._states.take()  # what waits here until the first read() would only be old
            time.sleep(0.005)


class RoundTrips:
    """Time from sending a command to hearing a state that echoes its number.

    Args:
        clock: Seconds, monotonic.

    Attributes:
        newest_s: The last one measured [s]; NaN before the first.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.newest_s = float("nan")
        self._clock = clock
        self._sent_s = np.zeros(_ECHOES)
        self._times_s = np.zeros(1 << 16)
        self._number = 0
        self._echoed = 0
        self._last_echo = 0

    def next_number(self) -> int:
        """Number of the next command, 1 ... 2^32 - 1."""
        self._number = self._number % 0xFFFFFFFF + 1
        return self._number

    def sent(self) -> None:
        """The command with the last number goes out now."""
        self._sent_s[self._number % _ECHOES] = self._clock()

    def heard(self, number: int) -> None:
        """A state came with this number (0: the robot does not echo)."""
        if number == self._last_echo or not self._number - _ECHOES < number <= self._number:
            return
        self._last_echo = number
        self.newest_s = self._clock() - self._sent_s[number % _ECHOES]
        self._times_s[self._echoed % len(self._times_s)] = self.newest_s
        self._echoed += 1

    def report(self) -> Dict[str, Any]:
        """``commands``, ``echoed`` and ``round_trip_ms`` (p50, p99, max of the last 65536; empty without echoes)."""
        times_ms = 1e3 * self._times_s[: min(self._echoed, len(self._times_s))]
        summary: Dict[str, float] = {}
        if len(times_ms):
            p50, p99 = (float(value) for value in np.percentile(times_ms, [50, 99]))
            summary = {"p50": p50, "p99": p99, "max": float(times_ms.max())}
        return {"commands": self._number, "echoed": self._echoed, "round_trip_ms": summary}
