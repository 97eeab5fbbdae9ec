"""A robot link over POSIX shared memory, both ends: :class:`SharedMemoryServer` (the robot process, usually a
simulator) and :class:`SharedMemoryRobot` (the runtime's :class:`~gaussgym_deploy.robot_io.RobotIO`).

The robot process::

    with SharedMemoryServer(name, robot="go1", joint_names=names, control_dt_s=0.02, camera_size_wh=(84, 48),
                            num_starts=256, info={"scene": "street"}) as server:
        server.wait_for_runtime(timeout_s=60.0)
        while True:
            request = server.wait_request(timeout_s=60.0)        # blocks: no command, no physics (lockstep)
            if request is None:                                  # the runtime closed the link: a normal end
                break
            if isinstance(request, ResetRequest):
                put_robot_at(request.start_index)                # and render a first camera frame
                server.publish(state)                            # result is RUNNING
            else:                                                # a JointCommand: arrays valid until the next request
                step_physics_for_one_control_period(request.q, request.kp, request.kd)   # PD at *every* substep
                server.publish(state, result=EpisodeResult.RUNNING)  # or SUCCESS, FELL, TIMEOUT

Rules of the conversation in lockstep:

1. The runtime speaks first, with a reset. The robot publishes exactly one state per request, and nothing in between.
2. ``RobotState.rgb`` is uint8 ``[H, W, 3]``; put the same array and ``rgb_t_s`` again between camera frames (the frame
   crosses only when ``rgb_t_s`` changes). ``t_s`` is simulated time and must grow with every state, also over resets.
3. ``command`` comes from the robot's side (a path follower, an operator).
4. Once a result other than RUNNING is published, the runtime answers with a reset or closes. A joint command that
   arrives nevertheless need not be simulated, but must be answered (publish the last state and the same result).

sim2sim starts the robot process as (:func:`gaussgym_deploy.sim2sim.robot_command`)
``gaussgym-learn robot --scene DIR --shm NAME --bundle DIR --lockstep|--no-lockstep [--starts FILE]``: robot, gains, camera size,
intrinsics and mount are those of the bundle, and what is announced here is compared with it.

Free-running (``lockstep=False``): the server publishes at its own pace, and takes ``latest_request()``, which never blocks.

Wire format (version 2, little-endian, native alignment 8; :func:`_message_dtypes` lists the fields)::

    0     magic b"GGROBOT1", version u32, length of the description u32, server pid i64, runtime pid i64,
          server closed u32, runtime closed u32
    64    description: JSON, UTF-8 (robot, joint_names, control_dt_s, camera_size_wh, lockstep, num_starts, info)
    4096  state message     (robot → runtime)
    ...   command message   (runtime → robot)
    ...   image message     (robot → runtime)

Version 2 carries what robots say beyond version 1 (accelerometer, torque, temperature, battery, odometry, remote control,
rejected states, rival writers, round trip), a supervisor's latched fault, and the time at which a command was sent.

Each message has one writer and is ``number u64, crc u32, 0 u32, payload``: the number grows by one per message and is
what the reader polls; the CRC-32 over number and payload shows a copy taken in the middle of a write (or, on machines
that reorder stores, one whose payload is not visible yet), which the reader takes again. No locks: a killed peer
leaves nothing locked.

Nothing is left behind either. The segment's name is removed as soon as the runtime has attached, so that the memory
goes with the last process that maps it, however that ends; until then it belongs to the server (and to Python's
resource tracker, which survives a kill of the server). An attached runtime never registers with its own
tracker: before Python 3.13 that would remove the segment under the server when the runtime exits.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import sys
import time
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from multiprocessing import resource_tracker, shared_memory
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Type, Union

import numpy as np

from .robot_io import JointCommand, LinkError, RobotState

__all__ = [
    "EpisodeResult",
    "LinkDescription",
    "ResetRequest",
    "SharedMemoryRobot",
    "SharedMemoryServer",
]

MAGIC = b"GGROBOT1"
VERSION = 2
_HEADER_BYTES = 64
_DESCRIPTION_BYTES = 4096 - _HEADER_BYTES
_FIXED = struct.Struct("=8sIIqqII")
_OFFSET_SERVER_PID, _OFFSET_RUNTIME_PID, _OFFSET_SERVER_CLOSED, _OFFSET_RUNTIME_CLOSED = 16, 24, 32, 36
_KIND_JOINT_COMMAND, _KIND_RESET = 0, 1
_FAULT_BYTES = 160
_OPTIONAL = ("lin_acc_b", "joint_torque", "motor_temperature_c", "position_w", "remote")
"""Arrays that a robot may not have, in the order of their bits in ``present``."""
_NUMBERS = ("battery_fraction", "round_trip_s", "corrupt", "out_of_order", "rival_writers")
_SPIN_S = 50e-6
_SLEEP_MIN_S, _SLEEP_MAX_S = 50e-6, 1e-3
_LIVENESS_PERIOD_S = 0.05


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
        if len(encoded) > _DESCRIPTION_BYTES:
            raise LinkError(
                f"the link's description has {len(encoded)} bytes, at most {_DESCRIPTION_BYTES} fit"
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


def _message_dtypes(description: LinkDescription) -> Tuple[np.dtype, np.dtype, np.dtype]:
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
        ("supervisor_fault", f"S{_FAULT_BYTES}"),  # UTF-8, padded with zeros
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


class _Mailbox:
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


class _Segment:
    """The mapped segment: header, description and the three mailboxes."""

    def __init__(self, memory: shared_memory.SharedMemory, description: LinkDescription) -> None:
        self.memory = memory
        self.description = description
        self.boxes = []
        offset = _HEADER_BYTES + _DESCRIPTION_BYTES
        for dtype in _message_dtypes(description):
            self.boxes.append(_Mailbox(_buffer(memory)[offset : offset + dtype.itemsize], dtype))
            offset += dtype.itemsize
        self.state, self.command, self.image = self.boxes

    @staticmethod
    def size(description: LinkDescription) -> int:
        return (
            _HEADER_BYTES + _DESCRIPTION_BYTES + sum(dtype.itemsize for dtype in _message_dtypes(description))
        )

    def get(self, code: str, offset: int) -> int:
        return struct.unpack_from("=" + code, _buffer(self.memory), offset)[0]

    def put(self, code: str, offset: int, value: int) -> None:
        struct.pack_into("=" + code, _buffer(self.memory), offset, value)

    def close(self) -> None:
        for box in self.boxes:
            box.release()
        self.memory.close()


class SharedMemoryServer:
    """The robot process's end of the link (see the module's text for the loop around it).

    Args:
        name: Name of the segment, without a slash, at most 30 characters (what ``--shm NAME`` hands over).
        robot: Robot name, e.g. ``"go1"``.
        joint_names: In the order of all joint arrays that cross the link.
        control_dt_s: Control period [s].
        camera_size_wh: Width and height of the camera image [px], None without a camera.
        lockstep: Whether physics waits for commands.
        num_starts: Number of starts that a reset can name.
        info: Anything else worth logging; plain JSON, about 3 kB at most.

    Attributes:
        description: What the runtime is told.
        start_index: Of the last reset taken; -1 before the first.
        forward_s: Published with every state: how long the last command took from the runtime to the robot's side [s].

    Raises:
        LinkError: When a living process serves under this name already (a dead one's leftover is replaced).
    """

    def __init__(
        self,
        name: str,
        *,
        robot: str,
        joint_names: Sequence[str],
        control_dt_s: float = 0.02,
        camera_size_wh: Optional[Tuple[int, int]] = None,
        lockstep: bool = True,
        num_starts: int = 0,
        info: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.description = LinkDescription(
            robot, tuple(joint_names), control_dt_s, camera_size_wh, lockstep, num_starts, dict(info or {})
        )
        self._linked = True
        self._closed = False
        encoded = self.description.to_bytes()
        memory = _create(name, _Segment.size(self.description))
        _buffer(memory)[_HEADER_BYTES : _HEADER_BYTES + len(encoded)] = encoded
        _FIXED.pack_into(_buffer(memory), 0, b"\0" * 8, VERSION, len(encoded), os.getpid(), 0, 0, 0)
        _buffer(memory)[:8] = MAGIC  # last: whoever attaches earlier sees an unfinished segment and waits
        self._segment = _Segment(memory, self.description)
        record = self._segment.command.record
        self._request = JointCommand(q=record["q"][0], kp=record["kp"][0], kd=record["kd"][0])
        self._fields = _StateRecord(self._segment.state.record)
        self._segment.state.record["misfit_wh"] = -1
        self._image_t_s = -np.inf
        self.start_index = -1
        self.forward_s = float("nan")

    def wait_for_runtime(self, timeout_s: float = 60.0) -> None:
        """Wait until a runtime has attached, then remove the segment's name (nobody else can attach, nothing can leak).

        Args:
            timeout_s: How long to wait [s].

        Raises:
            LinkError: When nobody came.
        """
        segment = self._segment
        if not _wait(lambda: segment.get("q", _OFFSET_RUNTIME_PID) != 0, timeout_s, lambda: True):
            raise LinkError(f"no runtime attached to {segment.memory.name!r} within {timeout_s:g} s")
        self._unlink()

    def publish(
        self, state: RobotState, *, result: EpisodeResult = EpisodeResult.RUNNING, strict_image: bool = True
    ) -> None:
        """Hand a state to the runtime, as the answer to the last request taken. Everything is copied.

        Args:
            state: Joint order, units and frames as in :class:`RobotState`; the image only crosses when ``rgb_t_s`` changed.
            result: How the episode stands.
            strict_image: Refuse an image that does not fit; otherwise only its size crosses, and the runtime's guard acts.

        Raises:
            LinkError: When the image is not uint8 ``[H, W, 3]`` of the announced size.
        """
        segment = self._segment
        record = segment.state.record
        if state.rgb is not None and state.rgb_t_s != self._image_t_s:
            misfit = self._misfit(state.rgb)
            if misfit and strict_image:
                raise LinkError(misfit)
            height, width = state.rgb.shape[:2] if state.rgb.ndim == 3 else (0, 0)
            record["misfit_wh"] = (width, height) if misfit else (-1, -1)
            if not misfit:
                self._post_image(state.rgb, state.rgb_t_s)
            self._image_t_s = state.rgb_t_s
        record["rgb_t_s"] = state.rgb_t_s
        record["answers"] = segment.command.number
        self._fields.put(state)
        record["forward_s"] = self.forward_s
        record["image_number"] = segment.image.number if state.rgb is not None else 0
        record["start_index"] = self.start_index
        record["result"] = int(result)
        segment.state.post()

    def wait_request(self, timeout_s: float = 60.0) -> Union[JointCommand, ResetRequest, None]:
        """Wait for the runtime's next request (lockstep).

        Args:
            timeout_s: How long to wait [s].

        Returns:
            A :class:`ResetRequest`, a :class:`JointCommand` (arrays valid until the next call; copy what must live longer),
            or None when the runtime closed the link.

        Raises:
            LinkError: When the runtime was killed or stays silent.
        """
        segment = self._segment
        seen = segment.command.number
        if not _wait(lambda: segment.command.posted() != seen, timeout_s, self._runtime_alive):
            if segment.get("I", _OFFSET_RUNTIME_CLOSED):
                return None
            if not self._runtime_alive():
                raise LinkError("the runtime is gone (killed?) without closing the link")
            raise LinkError(f"the runtime sent nothing for {timeout_s:g} s")
        return self._take_request()

    def latest_request(self) -> Union[JointCommand, ResetRequest, None]:
        """The newest request that was not taken yet, or None; never blocks (free-running robots).

        A robot that gets None keeps its last command, and damps when that is older than about 0.1 s.
        """
        if self._segment.command.posted() == self._segment.command.number:
            return None
        return self._take_request()

    @property
    def runtime_gone(self) -> bool:
        """Whether the runtime closed the link or died."""
        return not self._runtime_alive()

    @property
    def runtime_closed(self) -> bool:
        """Whether the runtime closed the link: a normal end."""
        return bool(self._segment.get("I", _OFFSET_RUNTIME_CLOSED))

    @property
    def request_sent_s(self) -> float:
        """When the runtime sent the last request taken, ``time.monotonic()`` of this machine [s]."""
        return float(self._segment.command.record["sent_s"][0])

    def close(self) -> None:
        """Tell the runtime that the robot is gone and unmap; may be called twice."""
        if self._closed:
            return
        self._closed = True
        self._segment.put("I", _OFFSET_SERVER_CLOSED, 1)
        self._unlink()
        # The records are private copies, so that nothing handed out points into the segment that goes away here.
        self._segment.close()

    def __enter__(self) -> SharedMemoryServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _runtime_alive(self) -> bool:
        segment = self._segment
        return not segment.get("I", _OFFSET_RUNTIME_CLOSED) and _pid_alive(
            segment.get("q", _OFFSET_RUNTIME_PID)
        )

    def _take_request(self) -> Union[JointCommand, ResetRequest]:
        box = self._segment.command
        _fetch(box, "command")
        if int(box.record["kind"][0]) == _KIND_RESET:
            self.start_index = int(box.record["start_index"][0])
            return ResetRequest(self.start_index)
        return self._request

    def _misfit(self, rgb: np.ndarray) -> str:
        """Why an image is not as announced; empty when it is."""
        size = self.description.camera_size_wh
        shape = None if size is None else (size[1], size[0], 3)
        if rgb.dtype == np.uint8 and rgb.shape == shape:
            return ""
        return f"camera image is {rgb.dtype} {rgb.shape}, announced was uint8 {shape}"

    def _post_image(self, rgb: np.ndarray, rgb_t_s: float) -> None:
        record = self._segment.image.record
        record["t_s"] = rgb_t_s
        record["rgb"][0, : rgb.size].reshape(rgb.shape)[...] = rgb
        self._segment.image.post()

    def _unlink(self) -> None:
        if self._linked:
            self._linked = False
            self._segment.memory.unlink()


class SharedMemoryRobot:
    """The runtime's end of the link: a :class:`RobotIO` that can also start episodes.

    Args:
        name: Name of the segment.
        timeout_s: How long to wait for the robot process to come up [s].
        answer_timeout_s: How long to wait for an answer later on [s] (a renderer may compile on its first image).
        alive: Tells whether the robot process still runs; stops the waiting early.

    Attributes:
        description: What the robot process says of itself.

    Raises:
        LinkError: When nobody serves under this name in time, or in another format.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float = 60.0,
        answer_timeout_s: float = 60.0,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._closed = False
        self._answer_timeout_s = answer_timeout_s
        memory = _attach(name, timeout_s, alive)
        try:
            self.description = _read_description(memory)
            if memory.size < _Segment.size(self.description):
                raise LinkError(f"segment {name!r} has {memory.size} bytes, its description needs more")
        except LinkError:
            memory.close()
            raise
        self._segment = _Segment(memory, self.description)
        self._segment.put("q", _OFFSET_RUNTIME_PID, os.getpid())
        self._record = _StateRecord(self._segment.state.record)
        self._state = self._record.state
        size = self.description.camera_size_wh
        self._rgb: Optional[np.ndarray] = None
        if size is not None:
            pixels = self._segment.image.record["rgb"][0, : size[0] * size[1] * 3]
            self._rgb = pixels.reshape(size[1], size[0], 3)

    def reset(self, start_index: int) -> None:
        """Start a new episode and wait for its first state, which the next :meth:`read` returns.

        Args:
            start_index: Row of the robot process's list of starts.

        Raises:
            LinkError: When the robot process is gone or does not answer in time.
        """
        box = self._segment.command
        box.record["kind"] = _KIND_RESET
        box.record["start_index"] = start_index
        box.record["sent_s"] = time.monotonic()
        # Waiting here also keeps the next joint command from overwriting the request before it was seen.
        self._await_answer(box.post())

    def read(self) -> RobotState:
        """The state that answers the last request (lockstep) or the newest one (free-running).

        The same object every time; its arrays are overwritten by the next call.

        Raises:
            LinkError: When the robot process is gone or does not answer in time, or (lockstep) nothing was asked of it yet.
        """
        segment = self._segment
        if not self.description.lockstep:
            self._await_answer(0)
            if segment.state.posted() != segment.state.number:
                _fetch(segment.state, "state")
            if self.robot_gone:
                raise LinkError(self._gone())
        elif segment.command.number == 0:
            raise LinkError("in lockstep the runtime speaks first: call reset() before read()")
        else:
            self._await_answer(segment.command.number)
        self._read_image()
        return self._record.get()

    @property
    def has_news(self) -> bool:
        """Whether a state lies there that was not read yet."""
        return self._segment.state.posted() != self._segment.state.number

    def write(self, command: JointCommand) -> None:
        """Send a joint command; in lockstep the robot simulates one control period with it.

        Raises:
            LinkError: When the robot process is gone.
        """
        if self.robot_gone:
            raise LinkError(self._gone())
        record = self._segment.command.record
        record["kind"] = _KIND_JOINT_COMMAND
        record["sent_s"] = time.monotonic()
        record["q"][0] = command.q
        record["kp"][0] = command.kp
        record["kd"][0] = command.kd
        self._segment.command.post()

    @property
    def forward_s(self) -> float:
        """How long the last command took from here to the robot's side [s]; NaN where the server does not say."""
        return float(self._segment.state.record["forward_s"][0])

    @property
    def result(self) -> EpisodeResult:
        """How the episode stood at the last state read."""
        return EpisodeResult(int(self._segment.state.record["result"][0]))

    def close(self) -> None:
        """Tell the robot process that the runtime ends, and unmap; may be called twice."""
        if not self._closed:
            self._closed = True
            self._segment.put("I", _OFFSET_RUNTIME_CLOSED, 1)
            self._segment.close()

    def __enter__(self) -> SharedMemoryRobot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_answer(self, number: int) -> None:
        """Take states until one is there that knows of request ``number``."""
        box = self._segment.state
        while box.number == 0 or int(box.record["answers"][0]) < number:
            if not _wait(
                lambda: box.posted() != box.number, self._answer_timeout_s, lambda: not self.robot_gone
            ):
                raise LinkError(self._gone())
            _fetch(box, "state")

    def _read_image(self) -> None:
        wanted = int(self._segment.state.record["image_number"][0])
        self._state.rgb = None
        self._state.rgb_t_s = -np.inf
        width, height = self._segment.state.record["misfit_wh"][0].tolist()
        if width >= 0:  # only its size is known
            dtype = np.float32 if (width, height) == self.description.camera_size_wh else np.uint8
            self._state.rgb = np.broadcast_to(dtype(0), (height, width, 3))
            self._state.rgb_t_s = float(self._segment.state.record["rgb_t_s"][0])
            return
        if wanted == 0 or self._rgb is None:
            return
        box = self._segment.image
        if box.number < wanted:
            _fetch(box, "image", at_least=wanted)
        self._state.rgb = self._rgb
        self._state.rgb_t_s = float(box.record["t_s"][0])

    @property
    def robot_gone(self) -> bool:
        """Whether the robot process closed the link or died."""
        segment = self._segment
        closed = segment.get("I", _OFFSET_SERVER_CLOSED)
        return bool(closed) or not _pid_alive(segment.get("q", _OFFSET_SERVER_PID))

    def _gone(self) -> str:
        if self._segment.get("I", _OFFSET_SERVER_CLOSED):
            return "the robot process closed the link"
        if self.robot_gone:
            return "the robot process is gone (killed?) without closing the link"
        return f"the robot process did not answer for {self._answer_timeout_s:g} s"


class _StateRecord:
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
            record["supervisor_fault"] = state.supervisor_fault.encode("utf-8")[:_FAULT_BYTES]

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


def _fetch(box: _Mailbox, what: str, *, at_least: int = 1, timeout_s: float = 1.0) -> None:
    """Copy a message that is whole and not older than number ``at_least``."""
    if not _wait(lambda: box.fetch() and box.number >= at_least, timeout_s, lambda: True):
        raise LinkError(f"the {what} message in shared memory stays damaged (checksum)")


def _wait(ready: Callable[[], bool], timeout_s: float, alive: Callable[[], bool]) -> bool:
    """Wait for ``ready``: spin briefly, then sleep for about an eighth of the time waited so far.

    The spinning does not yield: on a busy machine sched_yield gives away a whole time slice (measured: 7 ms a call), while a
    process that sleeps is woken promptly.

    Returns:
        False when the time is over or the peer died (and ``ready`` is still false after that).
    """
    start_s = time.perf_counter()
    next_check_s = _LIVENESS_PERIOD_S
    while not ready():
        waited_s = time.perf_counter() - start_s
        if waited_s < _SPIN_S:
            continue
        if waited_s > timeout_s:
            return ready()
        if waited_s > next_check_s:
            if not alive():
                return ready()
            next_check_s = waited_s + _LIVENESS_PERIOD_S
        time.sleep(min(max(waited_s / 8.0, _SLEEP_MIN_S), _SLEEP_MAX_S))
    return True


def _pid_alive(pid: int) -> bool:
    """Whether a process of this machine still runs; a killed child that nobody has waited for counts as gone."""
    if pid <= 0:
        return False
    if os.name != "posix":  # there os.kill(pid, 0) would send Ctrl-C; the timeouts must do
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    if pid == os.getpid():
        return True
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return not os.path.isdir("/proc/self")


def _buffer(memory: shared_memory.SharedMemory) -> memoryview:
    """The mapped bytes (None only after close)."""
    buffer: Any = memory.buf
    return buffer


def _create(name: str, size: int) -> shared_memory.SharedMemory:
    """Create the segment, replacing the leftover of a dead server."""
    if os.name == "posix":
        # Started only by the first registration, the tracker would leave some milliseconds in which a kill leaks the name.
        resource_tracker.ensure_running()
    try:
        return shared_memory.SharedMemory(name=name, create=True, size=size)
    except FileExistsError:
        pass
    try:
        leftover = shared_memory.SharedMemory(name=name)
    except ValueError:
        raise LinkError(f"shared memory {name!r} exists but is empty; choose another name") from None
    magic, _, _, pid, _, _, _ = _FIXED.unpack_from(_buffer(leftover), 0)
    foreign = magic not in (MAGIC, b"\0" * 8)
    busy = magic == MAGIC and _pid_alive(pid)
    leftover.close()
    if foreign or busy:
        _forget(leftover)
        raise LinkError(
            f"shared memory {name!r} belongs to another program; choose another name"
            if foreign
            else f"process {pid} serves a robot under the name {name!r} already; choose another name or end it"
        )
    leftover.unlink()
    return shared_memory.SharedMemory(name=name, create=True, size=size)


def _attach(name: str, timeout_s: float, alive: Callable[[], bool]) -> shared_memory.SharedMemory:
    """Attach to a finished segment, without making this process's resource tracker responsible for it."""
    start_s = time.perf_counter()
    while True:
        memory = None
        with contextlib.suppress(
            FileNotFoundError, ValueError
        ):  # ValueError: created, but still without a size
            memory = _open_untracked(name)
        if memory is not None:
            if bytes(_buffer(memory)[:8]) == MAGIC:
                return memory
            memory.close()
        if not alive():
            raise LinkError("the robot process ended before its link came up")
        if time.perf_counter() - start_s > timeout_s:
            raise LinkError(f"no robot process serves under the name {name!r} (waited {timeout_s:g} s)")
        time.sleep(0.01)


def _open_untracked(name: str) -> shared_memory.SharedMemory:
    kind: Type[Any] = shared_memory.SharedMemory
    if sys.version_info >= (3, 13):
        return kind(name=name, track=False)
    # Python < 3.13 registers attached segments too, and removes them when *this* process exits. Registering and
    # unregistering afterwards would not do: in a process that is also the creator it would forget the creator's entry.
    register = resource_tracker.register
    resource_tracker.register = lambda *_: None
    try:
        return kind(name=name)
    finally:
        resource_tracker.register = register


def _forget(memory: shared_memory.SharedMemory) -> None:
    """Undo the registration of a segment that was opened the ordinary way but belongs to somebody else."""
    if os.name == "posix":
        resource_tracker.unregister(getattr(memory, "_name", memory.name), "shared_memory")


def _read_description(memory: shared_memory.SharedMemory) -> LinkDescription:
    _, version, length, _, runtime_pid, _, _ = _FIXED.unpack_from(_buffer(memory), 0)
    if version != VERSION:
        raise LinkError(
            f"the robot process speaks version {version} of the link, this runtime speaks {VERSION}"
        )
    if runtime_pid != 0:
        raise LinkError(f"process {runtime_pid} drives this robot already")
    try:
        return LinkDescription.from_bytes(bytes(_buffer(memory)[_HEADER_BYTES : _HEADER_BYTES + length]))
    except (ValueError, KeyError, TypeError) as error:
        raise LinkError(f"the link's description does not read: {error}") from None
