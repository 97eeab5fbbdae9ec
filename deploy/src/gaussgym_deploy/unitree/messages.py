"""Unitree's low-level messages without DDS: CDR frames, C structs and the checksum, in numpy.

Facts from the IDL files of unitree_sdk2_python and unitree_ros2 (BSD-3-Clause): type names ``unitree_go.msg.dds_.<Name>_``, the
fields below in this order. On the wire a message is a 4-byte header (00 01 00 00: CDR, little-endian) and the CDR body. The
checksum in its last word runs over the *C struct*, whose padding differs, without that word.

Motors: FR, FL, RR, RL x hip, thigh, calf are entries 0 ... 11 of 20.
"""

from __future__ import annotations

import zlib
from typing import Sequence

import numpy as np

from ..robot_io import LinkError
from .layout import Fields, byte_map, offsets, view

__all__ = [
    "LOW_CMD_FIELDS",
    "LOW_STATE_FIELDS",
    "MOTOR_NAMES",
    "POSITION_STOP",
    "SPORT_MODE_STATE_FIELDS",
    "VELOCITY_STOP",
    "LowCmdFrame",
    "LowStateFrame",
    "MessageFrame",
    "crc32",
    "motor_index",
]

HEADER = b"\x00\x01\x00\x00"
"""CDR, little-endian, no options."""

POSITION_STOP, VELOCITY_STOP = 2.146e9, 16000.0
"""Targets that mean "no position control" and "no velocity control" to a motor board."""

MOTOR_NAMES = tuple(
    f"{leg}_{joint}" for leg in ("FR", "FL", "RR", "RL") for joint in ("hip", "thigh", "calf")
)
"""Motors 0 ... 11."""

MOTORS = 20
SERVO_MODE = 1

_MOTOR_CMD: Fields = (
    ("mode", "B", 1),
    ("q", "f", 1),
    ("dq", "f", 1),
    ("tau", "f", 1),
    ("kp", "f", 1),
    ("kd", "f", 1),
    ("reserve", "I", 3),
)
_BMS_CMD: Fields = (("off", "B", 1), ("reserve", "B", 3))
LOW_CMD_FIELDS: Fields = (
    ("head", "B", 2),
    ("level_flag", "B", 1),
    ("frame_reserve", "B", 1),
    ("sn", "I", 2),
    ("version", "I", 2),
    ("bandwidth", "H", 1),
    ("motor_cmd", _MOTOR_CMD, MOTORS),
    ("bms_cmd", _BMS_CMD, 1),
    ("wireless_remote", "B", 40),
    ("led", "B", 12),
    ("fan", "B", 2),
    ("gpio", "B", 1),
    ("reserve", "I", 1),
    ("crc", "I", 1),
)
_IMU_STATE: Fields = (
    ("quaternion", "f", 4),
    ("gyroscope", "f", 3),
    ("accelerometer", "f", 3),
    ("rpy", "f", 3),
    ("temperature", "B", 1),
)
# Temperatures are octets in the IDL (which the type's identity depends on) but int8 in the C structs and the ROS messages.
_MOTOR_STATE: Fields = (
    ("mode", "B", 1),
    ("q", "f", 1),
    ("dq", "f", 1),
    ("ddq", "f", 1),
    ("tau_est", "f", 1),
    ("q_raw", "f", 1),
    ("dq_raw", "f", 1),
    ("ddq_raw", "f", 1),
    ("temperature", "B", 1),
    ("lost", "I", 1),
    ("reserve", "I", 2),
)
_BMS_STATE: Fields = (
    ("version_high", "B", 1),
    ("version_low", "B", 1),
    ("status", "B", 1),
    ("soc", "B", 1),
    ("current", "i", 1),
    ("cycle", "H", 1),
    ("bq_ntc", "B", 2),
    ("mcu_ntc", "B", 2),
    ("cell_vol", "H", 15),
)
LOW_STATE_FIELDS: Fields = (
    ("head", "B", 2),
    ("level_flag", "B", 1),
    ("frame_reserve", "B", 1),
    ("sn", "I", 2),
    ("version", "I", 2),
    ("bandwidth", "H", 1),
    ("imu_state", _IMU_STATE, 1),
    ("motor_state", _MOTOR_STATE, MOTORS),
    ("bms_state", _BMS_STATE, 1),
    ("foot_force", "h", 4),
    ("foot_force_est", "h", 4),
    ("tick", "I", 1),
    ("wireless_remote", "B", 40),
    ("bit_flag", "B", 1),
    ("adc_reel", "f", 1),
    ("temperature_ntc1", "B", 1),
    ("temperature_ntc2", "B", 1),
    ("power_v", "f", 1),
    ("power_a", "f", 1),
    ("fan_frequency", "H", 4),
    ("reserve", "I", 1),
    ("crc", "I", 1),
)
_PATH_POINT: Fields = tuple((name, "f", 1) for name in ("t_from_start", "x", "y", "yaw", "vx", "vy", "vyaw"))
SPORT_MODE_STATE_FIELDS: Fields = (
    ("stamp", (("sec", "i", 1), ("nanosec", "I", 1)), 1),
    ("error_code", "I", 1),
    ("imu_state", _IMU_STATE, 1),
    ("mode", "B", 1),
    ("progress", "f", 1),
    ("gait_type", "B", 1),
    ("foot_raise_height", "f", 1),
    ("position", "f", 3),
    ("body_height", "f", 1),
    ("velocity", "f", 3),
    ("yaw_speed", "f", 1),
    ("range_obstacle", "f", 4),
    ("foot_force", "h", 4),
    ("foot_position_body", "f", 12),
    ("foot_speed_body", "f", 12),
    ("path_point", _PATH_POINT, 10),
)
WIRELESS_CONTROLLER_FIELDS: Fields = (
    ("lx", "f", 1),
    ("ly", "f", 1),
    ("rx", "f", 1),
    ("ry", "f", 1),
    ("keys", "H", 1),
)

_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def crc32(struct_bytes: bytes) -> int:
    """Unitree's checksum over whole little-endian 32-bit words.

    CRC-32 with polynomial 04C11DB7, start FFFFFFFF, no reflection and no final xor, most significant bit of each word first.
    zlib's is the same one reflected, so: reverse the bits of every 32-bit word, and of the result.

    Args:
        struct_bytes: The C struct without its last word; a multiple of 4 bytes.
    """
    words = np.frombuffer(struct_bytes, dtype=np.uint8).reshape(-1, 4)[:, ::-1]
    return _finish_crc(words.tobytes())


def _finish_crc(swapped: bytes) -> int:
    """The checksum of bytes that were swapped within their words already."""
    value = zlib.crc32(swapped.translate(_REVERSED)) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "little").translate(_REVERSED), "big")


def motor_index(joint_names: Sequence[str]) -> np.ndarray:
    """Which motor drives each joint of a policy.

    Args:
        joint_names: The policy's, e.g. ``FR_hip_joint``.

    Returns:
        Motor numbers, intp ``[J]``.

    Raises:
        LinkError: When the joints are not those of a Unitree quadruped.
    """
    stripped = [name[: -len("_joint")] if name.endswith("_joint") else name for name in joint_names]
    if sorted(stripped) != sorted(MOTOR_NAMES):
        raise LinkError(
            f"the bundle's joints are {list(joint_names)}, a Unitree quadruped has {list(MOTOR_NAMES)}"
            " (with or without '_joint')"
        )
    return np.array([MOTOR_NAMES.index(name) for name in stripped], dtype=np.intp)


class MessageFrame:
    """A CDR frame (header and body) in a buffer of its own, with numpy views of its fields.

    Args:
        fields: The message.

    Attributes:
        buffer: Header and body; the body is padded to whole words.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._body_bytes = offsets(fields, c_struct=False)[1]
        self.buffer = bytearray(len(HEADER) + -(-self._body_bytes // 4) * 4)
        self.buffer[: len(HEADER)] = HEADER
        self._memory = memoryview(self.buffer)

    def __getitem__(self, name: str) -> np.ndarray:
        """View of a field ``[count]``, e.g. ``frame["motor_cmd.q"]``; make it once, not in a loop."""
        return view(self._fields, name, self.buffer, len(HEADER))

    def bytes_of(self, name: str) -> np.ndarray:
        """Where the bytes of an unevenly spaced byte field lie in :attr:`buffer`, intp ``[count]``."""
        return np.array(offsets(self._fields, c_struct=False)[0][name], dtype=np.intp) + len(HEADER)

    def load(self, data: bytes) -> bool:
        """Take a frame off the wire.

        Returns:
            False, and nothing is taken, when header or length are not this message's.
        """
        if len(data) != len(self.buffer) or data[:4] != HEADER:
            return False
        self._memory[:] = data
        return True


class SealedFrame(MessageFrame):
    """A frame whose last word is the checksum of its C struct.

    Args:
        fields: The message; the last field is ``crc``.
    """

    def __init__(self, fields: Fields) -> None:
        super().__init__(fields)
        # One more byte than the frame has, which stays zero, stands for the padding of the C struct.
        self._padded = bytearray(len(self.buffer) + 1)
        self._padded_memory = memoryview(self._padded)
        self._padded_bytes = np.frombuffer(self._padded, dtype=np.uint8)
        source = byte_map(fields)[:-4]
        source = np.where(source == self._body_bytes, len(self.buffer), source + len(HEADER))
        self._struct_index = np.ascontiguousarray(source)
        self._swapped_index = np.ascontiguousarray(source.reshape(-1, 4)[:, ::-1]).ravel()
        self._swapped = np.zeros(len(source), dtype=np.uint8)
        self._crc = self["crc"]

    def computed_crc(self) -> int:
        """The checksum that the present contents should carry."""
        self._padded_memory[:-1] = self._memory
        np.take(self._padded_bytes, self._swapped_index, out=self._swapped, mode="clip")
        return _finish_crc(self._swapped.tobytes())

    def seal(self) -> bytes:
        """Set the checksum; returns the frame as it goes over the wire."""
        self._crc[0] = self.computed_crc()
        return bytes(self.buffer)

    @property
    def intact(self) -> bool:
        """Whether the checksum fits the contents."""
        return int(self._crc[0]) == self.computed_crc()

    def c_struct(self) -> bytes:
        """The message as the C struct in memory (little-endian, padding zero), checksum included."""
        self._padded_memory[:-1] = self._memory
        return self._padded_bytes[self._struct_index].tobytes() + self._crc.tobytes()


class LowCmdFrame(SealedFrame):
    """A ``LowCmd_``: what the motors shall do. Starts as "stop": no stiffness, no damping, stop values as targets.

    Attributes:
        q: Target angles [rad], float32 ``[20]``.
        dq: Target velocities [rad/s], ``[20]``.
        tau: Feed-forward torques [N·m], ``[20]``.
        kp: Stiffness [N·m/rad], ``[20]``.
        kd: Damping [N·m·s/rad], ``[20]``.
        reserve: A word that the robot ignores, ``[1]``; here it carries the number of the command.
    """

    def __init__(self) -> None:
        super().__init__(LOW_CMD_FIELDS)
        self["head"][:] = (0xFE, 0xEF)
        self["level_flag"][:] = 0xFF
        self.q, self.dq, self.tau = self["motor_cmd.q"], self["motor_cmd.dq"], self["motor_cmd.tau"]
        self.kp, self.kd, self.reserve = self["motor_cmd.kp"], self["motor_cmd.kd"], self["reserve"]
        self._modes = self.bytes_of("motor_cmd.mode")
        self._all_bytes = np.frombuffer(self.buffer, dtype=np.uint8)
        self.set_modes(SERVO_MODE)
        self.q[:] = POSITION_STOP
        self.dq[:] = VELOCITY_STOP

    def set_modes(self, mode: int) -> None:
        """Set the mode byte of all 20 motors (1: servo, 0: stop)."""
        self._all_bytes[self._modes] = mode

    def modes(self) -> np.ndarray:
        """Mode bytes, uint8 ``[20]``; a copy."""
        return self._all_bytes[self._modes]


class LowStateFrame(SealedFrame):
    """A ``LowState_``: what the robot measured.

    Attributes:
        quaternion: wxyz, float32 ``[4]``.
        gyroscope: [rad/s], ``[3]``.
        accelerometer: [m/s²], ``[3]``.
        rpy: Roll, pitch, yaw [rad], ``[3]``.
        q: Angles [rad], ``[20]``.
        dq: Velocities [rad/s], ``[20]``.
        tau_est: Estimated torques [N·m], ``[20]``.
        temperature: Of the motors [°C], int8 ``[20]``.
        soc: State of charge [%], uint8 ``[1]``.
        tick: Time since the robot's start [ms], uint32 ``[1]``.
        wireless_remote: The remote control's packet, uint8 ``[40]``.
        reserve: Unused by the robot; the simulated ones echo the number of the last command here, ``[1]``.
    """

    def __init__(self) -> None:
        super().__init__(LOW_STATE_FIELDS)
        self["head"][:] = (0xFE, 0xEF)
        self["level_flag"][:] = 0xFF
        self.quaternion, self.rpy = self["imu_state.quaternion"], self["imu_state.rpy"]
        self.gyroscope, self.accelerometer = self["imu_state.gyroscope"], self["imu_state.accelerometer"]
        self.q, self.dq = self["motor_state.q"], self["motor_state.dq"]
        self.tau_est = self["motor_state.tau_est"]
        # Read as signed: a motor below 0 °C exists, one above 127 °C does not.
        self.temperature = self["motor_state.temperature"].view(np.int8)
        self.soc, self.tick = self["bms_state.soc"], self["tick"]
        self.wireless_remote, self.reserve = self["wireless_remote"], self["reserve"]
        self.quaternion[0] = 1.0
