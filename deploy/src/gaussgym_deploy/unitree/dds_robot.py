"""The robot's end of Unitree's low-level DDS topics: any simulated robot, seen from outside like a Go2.

The robot is a :class:`~gaussgym_deploy.robot_io.RobotIO`: ``read()`` lets it live up to now, ``write()`` hands it a command.
States go out at 500 Hz with checksum and tick; commands are taken like a motor board does: a bad checksum or a value that is no
number is ignored, and silence ends in damping.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional, Sequence

import numpy as np

from ..robot_io import DAMPING_KD, JointCommand, RobotIO, RobotState
from .dds_link import COMMAND_TOPIC, SPORT_TOPIC, STATE_TOPIC
from .messages import (
    SERVO_MODE,
    SPORT_MODE_STATE_FIELDS,
    LowCmdFrame,
    LowStateFrame,
    MessageFrame,
    motor_index,
)
from .remote import pack_velocity
from .wire import Wire

__all__ = ["DdsRobot", "DdsRobotCfg"]

_GRAVITY_M_S2 = 9.81
_ROOM_C = 30


@dataclass(frozen=True)
class DdsRobotCfg:
    """How a simulated robot appears on DDS.

    Attributes:
        domain: DDS domain.
        interface: Network interface.
        rate_hz: States per second.
        odometry_hz: Odometry messages per second, where the robot has any; they go out before the state of their moment.
        command_timeout_s: Silence after which the motors damp [s].
    """

    domain: int
    interface: str = "lo"
    rate_hz: float = 500.0
    odometry_hz: float = 500.0
    command_timeout_s: float = 0.1


class DdsRobot:
    """Serves a simulated robot on ``rt/lowstate``, ``rt/lowcmd`` and, where it knows its position, ``rt/sportmodestate``.

    Args:
        robot: The simulated robot.
        joint_names: Its joints, Unitree's twelve in any order.
        cfg: Where and how fast.
        clock: Seconds, monotonic.

    Attributes:
        transmit: Sends a state frame; replace it to drop, delay, repeat or spoil frames (fault injection).
        obeyed: Called with every command that the motors take (valid until the next).
        commands: Commands obeyed.
        crc_errors: Commands ignored for their checksum or layout.
        refused: Commands ignored for what they say (not a number, velocity targets, feed-forward torque).
        timeouts: Times the motors fell back to damping.
        states: States sent.
    """

    def __init__(
        self,
        robot: RobotIO,
        joint_names: Sequence[str],
        cfg: DdsRobotCfg,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cfg, self._robot, self._clock = cfg, robot, clock
        self._index = motor_index(joint_names)
        self.commands = self.crc_errors = self.refused = self.timeouts = self.states = 0
        joints = len(self._index)
        self._held, self._damping = JointCommand.zeros(joints), JointCommand.zeros(joints)
        self._damping.kd[:] = DAMPING_KD
        self._commanded_s: Optional[float] = None  # None: damping
        self._in, self._out, self._odometry = (
            LowCmdFrame(),
            LowStateFrame(),
            MessageFrame(SPORT_MODE_STATE_FIELDS),
        )
        self._position = self._odometry["position"]
        self._out.soc[0] = 100
        self._out.temperature[:] = _ROOM_C
        self._odometry_every = max(1, round(cfg.rate_hz / cfg.odometry_hz))
        self._wire = Wire(cfg.domain, cfg.interface)
        self._reader = self._wire.reader(COMMAND_TOPIC, "LowCmd_")
        self._state_writer = self._wire.writer(STATE_TOPIC, "LowState_")
        self._sport_writer = self._wire.writer(SPORT_TOPIC, "SportModeState_")
        self.transmit: Callable[[bytes], None] = self.send
        self.obeyed: Callable[[JointCommand], None] = lambda command: None
        self._robot.write(self._damping)

    def step(self) -> None:
        """One turn: commands in, robot up to now, state out."""
        now_s = self._clock()
        for data in self._reader.take()[0]:
            if self._obey(data):
                self._commanded_s = now_s
                self.obeyed(self._held)
        if self._commanded_s is not None:
            if now_s - self._commanded_s > self.cfg.command_timeout_s:
                self._commanded_s = None
                self.timeouts += 1
                self._hold(self._damping)
            else:
                self._hold(self._held)
        self._publish(self._robot.read())

    def run(self, stop: Callable[[], bool]) -> None:
        """Turn at the rate of the states until told to stop."""
        period_s = 1.0 / self.cfg.rate_hz
        due_s = self._clock()
        while not stop():
            self.step()
            # Behind by more than a few periods (the machine was busy): go on from here, without a burst.
            due_s = max(due_s + period_s, self._clock() - 5 * period_s)
            time.sleep(max(0.0, due_s - self._clock()))

    def send(self, frame: bytes) -> None:
        """Send a state frame as it is."""
        self._state_writer.write(frame)

    def close_writer(self) -> None:
        """As when the robot's computer goes down: the writer of states leaves."""
        self._state_writer.close()

    def open_writer(self) -> None:
        """As when it comes up again: another writer."""
        self._state_writer = self._wire.writer(STATE_TOPIC, "LowState_")

    def close(self) -> None:
        """Leave the domain and let go of the robot; may be called twice."""
        self._wire.close()
        self._robot.close()

    def report(self) -> Dict[str, Any]:
        """Counts of what came and went."""
        names = ("states", "commands", "crc_errors", "refused", "timeouts")
        return {name: getattr(self, name) for name in names}

    def _hold(self, command: JointCommand) -> None:
        self._robot.write(command)

    def _obey(self, data: bytes) -> bool:
        """Take a command into ``_held``; False when it is ignored."""
        frame, index, held = self._in, self._index, self._held
        if not frame.load(data) or not frame.intact:
            self.crc_errors += 1
            return False
        q, kp, kd = frame.q[index], frame.kp[index], frame.kd[index]
        on = frame.modes()[index] == SERVO_MODE
        plain = np.isfinite(q).all() and np.isfinite(kp).all() and np.isfinite(kd).all()
        plain = plain and not frame.tau[index].any() and not (frame.dq[index] * (kd != 0)).any()
        if not plain or (np.abs(q) * (kp != 0) > 100.0).any():
            self.refused += 1
            return False
        held.q[:], held.kp[:], held.kd[:] = np.where(kp != 0, q, 0.0), kp * on, kd * on
        self._out.reserve[0] = frame.reserve[0]
        self.commands += 1
        return True

    def _publish(self, state: RobotState) -> None:
        out, index = self._out, self._index
        tick = int(state.t_s * 1e3 + 0.5) & 0xFFFFFFFF
        if self.states and tick == int(out.tick[0]):
            return  # the robot's time stands still; the same tick twice would look like a late packet
        out.tick[0] = tick
        out.q[index], out.dq[index] = state.joint_pos, state.joint_vel
        out.tau_est[index] = self._torque(state) if state.joint_torque is None else state.joint_torque
        out.quaternion[:], out.gyroscope[:] = state.quat_wxyz, state.ang_vel_b
        out.accelerometer[:] = _gravity(state.quat_wxyz) if state.lin_acc_b is None else state.lin_acc_b
        if state.motor_temperature_c is not None:
            out.temperature[index] = state.motor_temperature_c
        if np.isfinite(state.battery_fraction):
            out.soc[0] = round(100 * state.battery_fraction)
        out.wireless_remote[:] = np.frombuffer(pack_velocity(state.command), dtype=np.uint8)
        if state.position_w is not None and self.states % self._odometry_every == 0:
            self._position[:] = state.position_w
            self._sport_writer.write(bytes(self._odometry.buffer))
        self.transmit(out.seal())
        self.states += 1

    def _torque(self, state: RobotState) -> np.ndarray:
        """What the motors are asked for, where the robot does not say what they give."""
        command = self._damping if self._commanded_s is None else self._held
        return command.kp * (command.q - state.joint_pos) - command.kd * state.joint_vel


def _gravity(quat_wxyz: np.ndarray) -> np.ndarray:
    """An accelerometer's reading at rest: the reaction to gravity in base axes [m/s²], ``[3]``."""
    w, x, y, z = quat_wxyz
    return _GRAVITY_M_S2 * np.array([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])
