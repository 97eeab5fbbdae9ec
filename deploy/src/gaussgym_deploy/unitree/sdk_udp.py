"""The Go1's low-level UDP link (what unitree_legged_sdk v3.8 speaks to 192.168.123.10, port 8007). NOT RUN ON HARDWARE.

What is certain and what is not. The maker publishes the structs of the *programming interface* (comm.h) and says that on the wire
low-level packets are "compressed"; the compression lives in a closed library. The layout here is what two independent open
analyses of the Go1's traffic agree on (free-dog-sdk by Bin4ry, MIT; free_dog_sdk_cpp by linzhuyue): a command has 614 bytes, a
state 807, with torques as int16 / 256 N·m, stiffness as uint16 / 32, and a scrambled checksum. They do *not* agree on the scale
of the damping (16 or 32 steps per N·m·s/rad), so that this link sends no command until the user says which (``kd_scale``), from a
test with the robot hanging. The checksum of states is not documented by either and is not checked.

The A1's packets (unitree_legged_sdk v3.3.1) are compressed as well, and nobody has published how: link ``a1`` refuses.
"""

from __future__ import annotations

import socket
import time
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import numpy as np

from ..bundle import PolicyBundle
from ..robot_io import JointCommand, LinkError, RobotState
from .messages import crc32, motor_index
from .remote import REMOTE_BYTES, RemoteCfg, stick_velocity

__all__ = ["COMMAND", "STATE", "Go1UdpLink", "open_a1", "open_go1", "scrambled_crc"]

NOTICE = "this link was never run on a Go1: its packet layout comes from published analyses of the traffic, not from the maker"
SERVO, DAMPING = 0x0A, 0x00
_MOTOR_COMMAND = [
    ("mode", "u1"), ("q", "<f4"), ("dq", "<f4"), ("tau", "<i2"), ("kp", "<u2"), ("kd", "<u2"), ("reserve", "<u4", 3),
]  # fmt: skip
_HEAD = [
    ("head", "u1", 2), ("level", "u1"), ("frame", "u1"), ("sn", "<u4", 2), ("version", "<u4", 2), ("bandwidth", "<u2"),
]  # fmt: skip
COMMAND = np.dtype(
    [
        *_HEAD,
        ("motor", _MOTOR_COMMAND, 20),
        ("bms", "u1", 4),
        ("remote", "u1", 40),
        ("reserve", "<u4"),
        ("crc", "<u4"),
    ]
)
_MOTOR_STATE = [
    ("mode", "u1"), ("q", "<f4"), ("dq", "<f4"), ("ddq", "<i2"), ("tau", "<i2"), ("q_raw", "<f4"), ("dq_raw", "<f4"),
    ("ddq_raw", "<i2"), ("temperature", "i1"), ("reserve", "<u4", 2),
]  # fmt: skip
STATE = np.dtype(
    [
        *_HEAD, ("quaternion", "<f4", 4), ("gyroscope", "<f4", 3), ("accelerometer", "<f4", 3), ("rpy", "<f4", 3),
        ("imu_temperature", "i1"), ("motor", _MOTOR_STATE, 20), ("bms_version", "u1", 2), ("bms_status", "u1"),
        ("soc", "u1"), ("bms_rest", "u1", 20), ("foot_force", "<i2", 4), ("foot_force_est", "<i2", 4), ("tick", "<u4"),
        ("remote", "u1", REMOTE_BYTES), ("reserve", "<u4"), ("crc", "<u4"),
    ]
)  # fmt: skip
assert (COMMAND.itemsize, STATE.itemsize) == (614, 807)

_BANDWIDTH = 0xC03A
_CRC_KEY = 0xEDCAB9DE
_TAU_SCALE, _KP_SCALE = 256.0, 32.0
_FLAG = 1 << 31


def scrambled_crc(packet: bytes) -> int:
    """The last word of a command: the CRC of its whole words in front, xor a constant, turned by one byte.

    Args:
        packet: The 614 bytes; the first 608 count.
    """
    value = (crc32(packet[: (len(packet) - 4) // 4 * 4]) ^ _CRC_KEY) & 0xFFFFFFFF
    return value >> 8 | (value & 0xFF) << 24


def open_go1(
    bundle: PolicyBundle,
    *,
    accept_untested: bool = False,
    kd_scale: Optional[float] = None,
    address: str = "192.168.123.10",
    port: int = 8007,
    local_port: int = 8080,
    start_timeout_s: float = 5.0,
) -> Go1UdpLink:
    """The link ``go1``.

    Args:
        bundle: The policy bundle, for a Go1.
        accept_untested: The user's word that this was read: the link was not run on hardware.
        kd_scale: Steps of the wire's damping per N·m·s/rad (16 or 32); None: states only, commands are refused.
        address: Of the robot's motor controller.
        port: Its port.
        local_port: Ours.
        start_timeout_s: How long to wait for the robot's first state [s].

    Raises:
        LinkError: Without the user's word, when the policy is for another robot, or when the robot does not answer.
    """
    if bundle.robot != "go1":
        raise LinkError(f"the policy {bundle.path} is for {bundle.robot!r}, this link is for a 'go1'")
    if not accept_untested:
        raise LinkError(f"{NOTICE}; if you know what you do: --option accept_untested=true")
    return Go1UdpLink(
        bundle.joint_names,
        (address, port),
        local_port=local_port,
        kd_scale=kd_scale,
        start_timeout_s=start_timeout_s,
    )


def open_a1(bundle: PolicyBundle) -> Any:
    """The link ``a1``: refuses, and says why.

    Raises:
        LinkError: Always.
    """
    raise LinkError(
        "the A1's low-level UDP packets are compressed by the maker's closed library and their layout is not published;"
        " drive it through a ROS 2 node around unitree_legged_sdk v3.3.1 (--robot ros2)"
    )


class Go1UdpLink:
    """A :class:`~gaussgym_deploy.robot_io.RobotIO` over the Go1's low-level UDP packets.

    The robot answers whoever sends: opening the link sends packets that set all motors to damping mode.

    Args:
        joint_names: The policy's joints; Unitree's twelve in any order.
        address: Host and port of the robot.
        local_port: Port to be answered on; 0: any.
        kd_scale: See :func:`open_go1`.
        start_timeout_s: How long to wait for the first state [s].
        remote: Meaning of the remote control's sticks.
        clock: Seconds, monotonic.

    Raises:
        LinkError: When the robot does not answer.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        address: Tuple[str, int],
        *,
        local_port: int = 8080,
        kd_scale: Optional[float] = None,
        start_timeout_s: float = 5.0,
        remote: Optional[RemoteCfg] = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = motor_index(joint_names)
        joints = len(self._index)
        self._kd_scale, self._remote_cfg = kd_scale, remote or RemoteCfg()
        self._buffer = bytearray(COMMAND.itemsize)
        self._command = np.frombuffer(self._buffer, dtype=COMMAND)
        self._command["head"][0], self._command["level"], self._command["bandwidth"] = (
            (0xFE, 0xEF),
            0xFF,
            _BANDWIDTH,
        )
        self._state = RobotState.zeros(joints)
        self._torque, self._temperature = np.zeros(joints), np.zeros(joints)
        self._acceleration, self._remote = np.zeros(3), np.zeros(REMOTE_BYTES, dtype=np.uint8)
        self._state.joint_torque, self._state.motor_temperature_c = self._torque, self._temperature
        self._state.lin_acc_b, self._state.remote = self._acceleration, self._remote
        self._tick: Optional[int] = None
        self._tick_ms = 0
        self._socket: Optional[socket.socket] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind(("", local_port))
            self._socket.connect(address)  # only this robot's packets are taken
            self._socket.setblocking(False)
            self._wake(start_timeout_s, clock)
        except OSError as error:
            self.close()
            if isinstance(error, LinkError):
                raise
            raise LinkError(f"UDP to {address[0]}:{address[1]}: {error.strerror}") from None

    def read(self) -> RobotState:
        """The newest state (the same object every time).

        Raises:
            LinkError: When the link was closed or the network is gone.
        """
        sock = self._open()
        while True:
            try:
                data = sock.recv(2048)
            except BlockingIOError:
                return self._state
            except OSError as error:
                raise LinkError(f"the Go1's UDP link: {error.strerror}") from None
            self._accept(data)

    def write(self, command: JointCommand) -> None:
        """Send a command.

        Raises:
            LinkError: Without ``kd_scale``, when the command does not fit the packet (nothing is sent), or the network is gone.
        """
        self._open()
        if self._kd_scale is None:
            raise LinkError(
                "the scale of damping in the Go1's packets is not certain (published analyses say 16 and 32); find it out with"
                " the robot hanging, then: --option kd_scale=..."
            )
        kp, kd = np.rint(command.kp * _KP_SCALE), np.rint(command.kd * self._kd_scale)
        fits = np.isfinite(command.q).all() and all(
            (part >= 0).all() and (part <= 65535).all() for part in (kp, kd)
        )
        if not fits:
            raise LinkError("the joint command holds a value that does not fit the packet; it was not sent")
        motors, index = self._command["motor"][0], self._index
        motors["mode"][index], motors["q"][index], motors["dq"][index] = SERVO, command.q, 0.0
        motors["tau"][index], motors["kp"][index], motors["kd"][index] = 0, kp, kd
        self._send()

    def close(self) -> None:
        """Close the socket; may be called twice."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def report(self) -> Dict[str, Any]:
        """Counts."""
        return {"corrupt": self._state.corrupt, "out_of_order": self._state.out_of_order}

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise LinkError("the Go1's UDP link is closed")
        return self._socket

    def _send(self) -> None:
        self._command["crc"] = scrambled_crc(bytes(self._buffer))
        try:
            self._open().send(self._buffer)
        except OSError as error:
            raise LinkError(f"the Go1's UDP link: {error.strerror}") from None

    def _wake(self, timeout_s: float, clock: Callable[[], float]) -> None:
        """Send damping-mode packets until the robot answers."""
        end_s = clock() + timeout_s
        while self._tick is None:
            if clock() > end_s:
                raise LinkError(f"no Go1 answers (waited {timeout_s:g} s); is it in low-level mode?")
            self._send()
            time.sleep(0.01)
            self.read()

    def _accept(self, data: bytes) -> None:
        state, index = self._state, self._index
        if len(data) != STATE.itemsize or data[2] != 0xFF:
            state.corrupt += 1
            return
        got = np.frombuffer(data, dtype=STATE)[0]
        tick = int(got["tick"])
        step = 1 if self._tick is None else (tick - self._tick) & 0xFFFFFFFF
        if step == 0 or step >= _FLAG:
            state.out_of_order += 1
            return
        self._tick, self._tick_ms = tick, self._tick_ms + step
        motors = got["motor"]
        state.t_s = 1e-3 * self._tick_ms
        state.joint_pos[:], state.joint_vel[:] = motors["q"][index], motors["dq"][index]
        self._torque[:], self._temperature[:] = (
            motors["tau"][index] / _TAU_SCALE,
            motors["temperature"][index],
        )
        state.quat_wxyz[:], state.ang_vel_b[:] = got["quaternion"], got["gyroscope"]
        self._acceleration[:], self._remote[:] = got["accelerometer"], got["remote"]
        state.battery_fraction = 0.01 * int(got["soc"])
        stick_velocity(self._remote, self._remote_cfg, state.command)
