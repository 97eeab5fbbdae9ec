"""Booster's T1 through the maker's SDK (package ``booster_robotics_sdk_python``).

Not run on hardware by us. The SDK's classes, their fields and the order of the joints were read off version 1.6.3; what a
T1 does with a command was not seen. Tested against a stand-in of the SDK.

Commands go out joint by joint (``LowCmdType.SERIAL``, 23 joints in the order of ``JointIndex``: head, left arm, right arm, waist,
left leg, right leg). The ankles are parallel mechanisms, driven by cranks: as the maker's own example for learned policies does,
they get their stiffness as a torque, ``tau = clip(kp (q - joint_pos))``, with the damping left to the motors.
"""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Optional, Tuple

import numpy as np

from .bundle import PolicyBundle
from .robot_io import JointCommand, LinkError, RobotState

__all__ = ["JOINTS", "BoosterLink", "open_t1"]

JOINTS = 23
ANKLES = (15, 16, 21, 22)
_BATTERY_SCALE = 0.01


def open_t1(
    bundle: PolicyBundle, *, interface: str = "", domain: int = 0, start_timeout_s: float = 10.0
) -> BoosterLink:
    """The link ``t1``.

    Args:
        bundle: The policy bundle, for a T1 with its 23 joints in the SDK's order.
        interface: Network interface; empty: the SDK chooses.
        domain: DDS domain.
        start_timeout_s: How long to wait for the robot's first state [s].

    Raises:
        LinkError: Without the SDK, when the policy is for another robot, or when no robot is heard.
    """
    if bundle.robot != "t1" or len(bundle.joint_names) != JOINTS:
        raise LinkError(
            f"the policy {bundle.path} is for {bundle.robot!r} with {len(bundle.joint_names)} joints, this link is for a 't1'"
            f" with {JOINTS}"
        )
    try:
        import booster_robotics_sdk_python as sdk  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise LinkError(
            f"the link 't1' needs Booster's SDK ({error}): pip install booster_robotics_sdk_python (Linux, Python 3.10 ...)"
        ) from None
    return BoosterLink(
        sdk, bundle.torque_limit, interface=interface, domain=domain, start_timeout_s=start_timeout_s
    )


class BoosterLink:
    """A :class:`~gaussgym_deploy.robot_io.RobotIO` over Booster's SDK.

    The SDK delivers states from a thread of its own; the newest one is kept, and copied by :meth:`read`. States carry no time,
    so that ``t_s`` is the time of arrival. The robot must stand in its prepare mode (held by the operator); the first command
    that is written switches it to custom mode, in which it obeys commands; closing the link switches it to damping.

    Args:
        sdk: The SDK's module.
        torque_limit: Bound of the ankles' torque [N·m], ``[23]``.
        interface: Network interface.
        domain: DDS domain.
        start_timeout_s: How long to wait for the first state [s].
        clock: Seconds, monotonic.

    Raises:
        LinkError: When no robot is heard.
    """

    def __init__(
        self,
        sdk: Any,
        torque_limit: np.ndarray,
        *,
        interface: str = "",
        domain: int = 0,
        start_timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sdk, self._limit, self._clock = sdk, np.asarray(torque_limit, dtype=np.float64), clock
        self._state = RobotState.zeros(JOINTS)
        self._torque, self._temperature = np.zeros(JOINTS), np.zeros(JOINTS)
        self._acceleration = np.zeros(3)
        self._state.joint_torque, self._state.motor_temperature_c = self._torque, self._temperature
        self._state.lin_acc_b = self._acceleration
        self._newest: Optional[Tuple[float, Any]] = None
        self._shown: Optional[Tuple[float, Any]] = None
        self._custom = self._closed = False
        sdk.ChannelFactory.Instance().Init(domain, interface)
        self._client = sdk.B1LocoClient()
        self._client.Init()
        self._command, self._motors = _serial_command(sdk)
        self._publisher = sdk.B1LowCmdPublisher()
        self._publisher.InitChannel()
        self._subscribers = [
            sdk.B1LowStateSubscriber(self._on_state),
            sdk.B1BatteryStateSubscriber(self._on_battery),
        ]
        for subscriber in self._subscribers:
            subscriber.InitChannel()
        self._wait_for_robot(start_timeout_s)

    def read(self) -> RobotState:
        """The newest state (the same object every time).

        Raises:
            LinkError: When the link was closed.
        """
        if self._closed or self._newest is None:
            raise LinkError("the link to the T1 is closed")
        newest, state = self._newest, self._state  # one reference: never half of two states
        if newest is self._shown:
            return state
        self._shown = newest
        state.t_s, message = newest
        for joint, motor in enumerate(message.motor_state_serial):
            state.joint_pos[joint], state.joint_vel[joint] = motor.q, motor.dq
            self._torque[joint], self._temperature[joint] = motor.tau_est, motor.temperature
        imu = message.imu_state
        state.ang_vel_b[:], self._acceleration[:] = imu.gyro, imu.acc
        state.quat_wxyz[:] = _quat_wxyz_from_rpy(*imu.rpy)
        return state

    def write(self, command: JointCommand) -> None:
        """Send a command; the first one takes the robot into custom mode.

        Raises:
            LinkError: When the link was closed, the command holds what is no number (nothing is sent), or the SDK refuses.
        """
        if self._closed:
            raise LinkError("the link to the T1 is closed")
        if not all(np.isfinite(part).all() for part in (command.q, command.kp, command.kd)):
            raise LinkError("the joint command holds a value that is no finite number; it was not sent")
        for joint, motor in enumerate(self._motors):
            motor.q, motor.kp, motor.kd = (
                float(command.q[joint]),
                float(command.kp[joint]),
                float(command.kd[joint]),
            )
            motor.tau = 0.0
        for joint in ANKLES:
            motor, position = self._motors[joint], float(self._state.joint_pos[joint])
            limit = float(self._limit[joint])
            motor.tau = min(max(motor.kp * (motor.q - position), -limit), limit)
            motor.q, motor.kp = position, 0.0
        self._command.motor_cmd = self._motors
        self._send()
        if not self._custom:
            # Only now: in custom mode the robot obeys the newest command, and there must be one.
            self._client.ChangeMode(self._sdk.RobotMode.kCustom)
            self._custom = True

    def close(self) -> None:
        """Switch the robot to damping and leave; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._custom:
            self._client.ChangeMode(self._sdk.RobotMode.kDamping)
        for channel in (*self._subscribers, self._publisher):
            channel.CloseChannel()

    def _send(self) -> None:
        if self._publisher.Write(self._command) is False:
            raise LinkError("the SDK refused to send the command")

    def _on_state(self, message: Any) -> None:
        if len(message.motor_state_serial) != JOINTS:
            self._state.corrupt += 1
            return
        self._newest = self._clock(), message

    def _on_battery(self, message: Any) -> None:
        self._state.battery_fraction = _BATTERY_SCALE * float(message.soc)

    def _wait_for_robot(self, timeout_s: float) -> None:
        end_s = self._clock() + timeout_s
        while self._newest is None:
            if self._clock() > end_s:
                self._closed = True
                for channel in (*self._subscribers, self._publisher):
                    channel.CloseChannel()
                found = (
                    f"; {self._state.corrupt} states had another number of joints"
                    if self._state.corrupt
                    else ""
                )
                raise LinkError(f"no T1 with {JOINTS} joints is heard (waited {timeout_s:g} s){found}")
            time.sleep(0.005)


def _serial_command(sdk: Any) -> Tuple[Any, Any]:
    """An empty command for 23 joints, and its motors."""
    command = sdk.LowCmd()
    command.cmd_type = sdk.LowCmdType.SERIAL
    motors = [sdk.MotorCmd() for _ in range(JOINTS)]
    for motor in motors:
        motor.weight = 1.0
    return command, motors


def _quat_wxyz_from_rpy(roll: float, pitch: float, yaw: float) -> Tuple[float, float, float, float]:
    """Roll about x, then pitch about y, then yaw about z, all about fixed axes [rad]."""
    (cr, cp, cy), (sr, sp, sy) = (
        tuple(turn(0.5 * angle) for angle in (roll, pitch, yaw)) for turn in (math.cos, math.sin)
    )
    return (
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    )
