"""What the two ends say to each other, byte by byte: the description, and messages of numbered, checked records."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from multiprocessing import shared_memory
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ..robot_io import LinkError, RobotState
from .segments import FIXED, HEADER_BYTES, VERSION, buffer, wait

DESCRIPTION_BYTES = 4096 - HEADER_BYTES
KIND_JOINT_COMMAND, KIND_RESET = 0, 1
FAULT_BYTES = 160
_OPTIONAL = ("lin_acc_b", "joint_torque", "motor_temperature_c", "position_w", "remote")
"""Arrays that a robot may not have, in the order of their bits in ``present``."""
_NUMBERS = ("battery_fraction", "round_trip_s", "corrupt", "out_of_order", "rival_writers")


class EpisodeResult(IntEnum):
    """How the running episode stands, in the robot process's judgement."""

    RUNNING = 0
    SUCCESS = 1
    FELL = 2
    TIMEOUT = 3


@dataclass(frozen=True)
class ResetRequest:
    """The runtime asks for a new episode.

    Attributes:
        start_index: Row of the robot process's list of starts, 0 ... ``num_starts - 1``.
    """

    start_index: int


@dataclass(frozen=True)
class LinkDescription:
    """What the robot process says of itself when the runtime attaches.

    Attributes:
        robot: Robot name, compared with the bundle's.
        joint_names: In the order of all joint arrays on the wire.
        control_dt_s: Control period [s]; what one command lasts in lockstep.
        camera_size_wh: Width and height of the camera image [px], None without a camera.
        lockstep: Whether the robot's time stands still until a command comes.
        num_starts: Number of different starts that a reset can name (0: unknown).
        info: Anything else worth logging (scene, camera intrinsics and mount, versions); plain JSON.
    """

    robot: str
    joint_names: Tuple[str, ...]
    control_dt_s: float = 0.02
    camera_size_wh: Optional[Tuple[int, int]] = None
    lockstep: bool = True
    num_starts: int = 0
    info: Dict[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """JSON, UTF-8."""
        encoded = json.dumps(self.__dict__).encode("utf-8")
        if len(encoded) > DESCRIPTION_BYTES:
            raise LinkError(
                f"the link's description has {len(encoded)} bytes, at most {DESCRIPTION_BYTES} fit"
            )
        return encoded

    @classmethod
    def from_bytes(cls, encoded: bytes) -> LinkDescription:
        """The inverse of :meth:`to_bytes`."""
        values = json.loads(encoded.decode("utf-8"))
        size = values["camera_size_wh"]
        values["camera_size_wh"] = None if size is None else (int(size[0]), int(size[1]))
        values["joint_names"] = tuple(values["joint_names"])
        return cls(**values)


def message_dtypes(description: LinkDescription) -> Tuple[np.dtype, np.dtype, np.dtype]:
    """Record types of the state, command and image messages."""
    joints = (len(description.joint_names),)
    head = [("number", "<u8"), ("crc", "<u4"), ("zero", "<u4")]
    state = head + [
        ("answers", "<u8"),  # number of the last request that this state takes into account
        ("t_s", "<f8"),
        ("joint_pos", "<f8", joints),
        ("joint_vel", "<f8", joints),
        ("quat_wxyz", "<f8", (4,)),
        ("ang_vel_b", "<f8", (3,)),
        ("command", "<f8", (3,)),
        ("lin_acc_b", "<f8", (3,)),
        ("joint_torque", "<f8", joints),
        ("motor_temperature_c", "<f8", joints),
        ("position_w", "<f8", (3,)),
        ("remote", "u1", (40,)),
        ("present", "<u8"),  # bit i: the i-th of _OPTIONAL is there
        ("battery_fraction", "<f8"),
        ("round_trip_s", "<f8"),
        ("corrupt", "<i8"),
        ("out_of_order", "<i8"),
        ("rival_writers", "<i8"),
        (
            "forward_s",
            "<f8",
        ),  # from the runtime's sending the last command to its leaving for the robot; NaN: unknown
        ("supervisor_fault", f"S{FAULT_BYTES}"),  # UTF-8, padded with zeros
        ("image_number", "<u8"),  # 0: no image yet
        ("rgb_t_s", "<f8"),
        (
            "misfit_wh",
            "<i8",
            (2,),
        ),  # size of an image that is not as announced and did not cross; -1, -1: it is
        ("start_index", "<i8"),
        ("result", "<i8"),
    ]
    command = head + [
        ("kind", "<i8"),
        ("start_index", "<i8"),
        ("sent_s", "<f8"),  # time.monotonic() of the machine
        ("q", "<f8", joints),
        ("kp", "<f8", joints),
        ("kd", "<f8", joints),
    ]
    width, height = description.camera_size_wh or (0, 0)
    padded = (height * width * 3 + 7) // 8 * 8
    image = head + [("t_s", "<f8"), ("rgb", "u1", (padded,))]
    return np.dtype(state), np.dtype(command), np.dtype(image)


class Mailbox:
    """One message in shared memory with a single writer, and this side's copy of it in ``record``."""

    def __init__(self, shared: memoryview, dtype: np.dtype) -> None:
        self._shared = shared
        self._local = bytearray(dtype.itemsize)
        self._bytes = memoryview(self._local)
        self.record: np.ndarray = np.frombuffer(self._local, dtype=dtype)
        self._number: np.ndarray = self.record["number"]
        self._crc: np.ndarray = self.record["crc"]

    @property
    def number(self) -> int:
        """Number of the message in this side's copy; 0 before the first."""
        return int(self._number[0])

    def posted(self) -> int:
        """Number of the message that lies in shared memory now."""
        return struct.unpack_from("=Q", self._shared, 0)[0]

    def post(self) -> int:
        """Publish ``record``; returns its number."""
        self._number[0] += 1
        self._crc[0] = self._checksum()
        # The payload first and the number last: on most machines the reader then never sees a torn message at all.
        self._shared[8:] = self._bytes[8:]
        self._shared[:8] = self._bytes[:8]
        return self.number

    def fetch(self) -> bool:
        """Copy the message that lies there; False when it was caught in the middle of a write (``record`` is then junk)."""
        self._bytes[:] = self._shared
        return int(self._crc[0]) == self._checksum()

    def _checksum(self) -> int:
        return zlib.crc32(self._bytes[16:], zlib.crc32(self._bytes[:8]))

    def release(self) -> None:
        """Let go of the shared memory, which cannot be unmapped while a view of it is alive."""
        self._shared.release()


class Segment:
    """The mapped segment: header, description and the three mailboxes."""

    def __init__(self, memory: shared_memory.SharedMemory, description: LinkDescription) -> None:
        self.memory = memory
        self.description = description
        self.boxes = []
        offset = HEADER_BYTES + DESCRIPTION_BYTES
        for dtype in message_dtypes(description):
            self.boxes.append(Mailbox(buffer(memory)[offset : offset + dtype.itemsize], dtype))
            offset += dtype.itemsize
        self.state, self.command, self.image = self.boxes

    @staticmethod
    def size(description: LinkDescription) -> int:
        """Bytes that a link of this description takes."""
        return HEADER_BYTES + DESCRIPTION_BYTES + sum(dtype.itemsize for dtype in message_dtypes(description))

    def get(self, code: str, offset: int) -> int:
        """A number of the header; ``code`` as in :mod:`struct`."""
        return struct.unpack_from("=" + code, buffer(self.memory), offset)[0]

    def put(self, code: str, offset: int, value: int) -> None:
        """Write a number of the header."""
        struct.pack_into("=" + code, buffer(self.memory), offset, value)

    def close(self) -> None:
        """Let go of the memory."""
        for box in self.boxes:
            box.release()
        self.memory.close()


class StateRecord:
    """A state message's record, written from a :class:`RobotState` or read as one.

    Attributes:
        state: Its arrays are views of the record.
    """

    def __init__(self, record: np.ndarray) -> None:
        self._record = record
        self._optional = [record[name][0] for name in _OPTIONAL]
        self._present = -1
        self.state = RobotState(
            t_s=0.0,
            joint_pos=record["joint_pos"][0],
            joint_vel=record["joint_vel"][0],
            quat_wxyz=record["quat_wxyz"][0],
            ang_vel_b=record["ang_vel_b"][0],
            command=record["command"][0],
        )

    def put(self, state: RobotState) -> None:
        """Copy a state into the record (images travel in a message of their own)."""
        record, fields = self._record, self.state
        record["t_s"] = state.t_s
        fields.joint_pos[:] = state.joint_pos
        fields.joint_vel[:] = state.joint_vel
        fields.quat_wxyz[:] = state.quat_wxyz
        fields.ang_vel_b[:] = state.ang_vel_b
        fields.command[:] = state.command
        present = 0
        for bit, name in enumerate(_OPTIONAL):
            value = getattr(state, name)
            if value is not None:
                self._optional[bit][:] = value
                present |= 1 << bit
        record["present"] = present
        for name in _NUMBERS:
            record[name] = getattr(state, name)
        if state.supervisor_fault != fields.supervisor_fault:
            fields.supervisor_fault = state.supervisor_fault
            record["supervisor_fault"] = state.supervisor_fault.encode("utf-8")[:FAULT_BYTES]

    def get(self) -> RobotState:
        """The record as a state: the same object every time."""
        record, state = self._record, self.state
        state.t_s = float(record["t_s"][0])
        present = int(record["present"][0])
        if present != self._present:
            self._present = present
            for bit, name in enumerate(_OPTIONAL):
                setattr(state, name, self._optional[bit] if present >> bit & 1 else None)
        for name in _NUMBERS:
            setattr(state, name, record[name][0].item())
        fault = record["supervisor_fault"][0]
        state.supervisor_fault = fault.decode("utf-8", "replace") if fault else ""
        return state


def fetch(box: Mailbox, what: str, *, at_least: int = 1, timeout_s: float = 1.0) -> None:
    """Copy a message that is whole and not older than number ``at_least``."""
    if not wait(lambda: box.fetch() and box.number >= at_least, timeout_s, lambda: True):
        raise LinkError(f"the {what} message in shared memory stays damaged (checksum)")


def read_description(memory: shared_memory.SharedMemory) -> LinkDescription:
    """What the robot process says of itself.

    Raises:
        LinkError: Another version, a robot that is driven already, or a description that does not read.
    """
    _, version, length, _, runtime_pid, _, _ = FIXED.unpack_from(buffer(memory), 0)
    if version != VERSION:
        raise LinkError(
            f"the robot process speaks version {version} of the link, this runtime speaks {VERSION}"
        )
    if runtime_pid != 0:
        raise LinkError(f"process {runtime_pid} drives this robot already")
    try:
        return LinkDescription.from_bytes(bytes(buffer(memory)[HEADER_BYTES : HEADER_BYTES + length]))
    except (ValueError, KeyError, TypeError) as error:
        raise LinkError(f"the link's description does not read: {error}") from None
