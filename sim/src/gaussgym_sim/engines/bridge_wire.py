"""How a simulation in another process is driven: one block of shared memory, and messages over a socket.

Both ends load this file, so it runs under Python 3.8 with nothing but numpy: `gaussgym_sim.engines.bridge` (the client) and
`gaussgym_sim.engines.bridge_worker` import it, `isaacgym_worker.py` loads it as the file beside it.

Block (version 1, little-endian)::

    0     magic b"GGBRIDGE", version u32, 0 u32, layout hash u64, size u64, client's process id i64
    64    the arrays of the layout, each aligned to 64 bytes

The layout is a list of [name, dtype, shape] that the client sends with its first message; the hash in the header is of this list.
The block has no name: it is a memory file whose descriptor the worker inherits, so that whatever ends either process, nothing
is left behind. Arrays are written by the side whose turn it is; the messages, each answered before the next, are the hand-over.

Message: operation u32, number u32, length of a JSON object u64, length of a binary attachment u64, then these two.
"""

import hashlib
import json
import mmap
import os
import select
import socket
import struct
import tempfile
import traceback
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

MAGIC = b"GGBRIDGE"
VERSION = 1
HEADER = struct.Struct("<8sIIQQq")
HEADER_BYTES = 64
_ALIGN = 64
_MESSAGE = struct.Struct("<IIQQ")
_POLL_S = 1.0
_LONGEST_TEXT = 400

# Requests, client to worker. `number` is the count of rows in ``in/ids`` (START, STEP: see there).
START, STEP, RESET, SET_PARAMS, KICK, PUSH, PARK, SET_SCENE, STATE_DICT, LOAD_STATE_DICT, CLOSE = range(1, 12)
REQUEST_NAMES = {
    START: "start", STEP: "step", RESET: "reset", SET_PARAMS: "set_params", KICK: "kick", PUSH: "push", PARK: "park",
    SET_SCENE: "set_scene", STATE_DICT: "state_dict", LOAD_STATE_DICT: "load_state_dict", CLOSE: "close",
}  # fmt: skip
# Answers.
DONE, BAD_INPUT, FAILED = 100, 101, 102

Layout = List[Tuple[str, str, Tuple[int, ...]]]


class WireError(RuntimeError):
    """The block or a message is not of this version and layout."""


class BadInput(ValueError):
    """What the client asked for cannot be done; nothing has changed and the worker goes on."""


class Message(NamedTuple):
    """One message; ``body`` is a JSON object."""

    op: int
    number: int
    body: Dict[str, Any]
    blob: bytes


def state_layout(num_envs: int, num_joints: int, num_legs: int) -> Layout:
    """Fields of `gaussgym_sim.vecsim.SimState`, and what else the worker keeps current."""
    e, j, legs = num_envs, num_joints, num_legs
    numbers = {
        "root_pos_w": (e, 3), "root_quat_wxyz": (e, 4), "root_lin_vel_w": (e, 3), "root_ang_vel_b": (e, 3),
        "joint_pos": (e, j), "joint_vel": (e, j), "joint_torque": (e, j),
        "foot_pos_w": (e, legs, 3), "foot_vel_w": (e, legs, 3), "foot_force_w": (e, legs, 3),
    }  # fmt: skip
    flags = {"foot_contact": (e, legs), "thigh_contact": (e, legs), "trunk_contact": (e,), "invalid": (e,)}
    fields = [("state/" + name, "<f4", shape) for name, shape in numbers.items()]
    fields += [("state/" + name, "|b1", shape) for name, shape in flags.items()]
    return [*fields, ("scene_of_env", "<i8", (e,)), ("invalid_count", "<i8", (1,))]


def input_layout(num_envs: int, num_joints: int) -> Layout:
    """Arguments of the calls; those of R environments fill the first R rows."""
    e, j = num_envs, num_joints
    numbers = {
        "target": (e, j), "root_pos_w": (e, 3), "root_quat_wxyz": (e, 4), "root_lin_vel_w": (e, 3),
        "root_ang_vel_b": (e, 3), "joint_pos": (e, j), "joint_vel": (e, j), "lin": (e, 3), "ang": (e, 3),
    }  # fmt: skip
    fields = [("in/" + name, "<f4", shape) for name, shape in numbers.items()]
    return [("in/ids", "<i8", (e,)), *fields]


def layout_hash(layout: Layout) -> int:
    """Eight bytes of the SHA-256 of the layout's JSON."""
    text = json.dumps([[name, dtype, list(shape)] for name, dtype, shape in layout], separators=(",", ":"))
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def block_bytes(layout: Layout) -> int:
    """Size of the block."""
    end = HEADER_BYTES
    for _, dtype, shape in layout:
        end = -(-end // _ALIGN) * _ALIGN + np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
    return -(-end // mmap.PAGESIZE) * mmap.PAGESIZE


def create_block(layout: Layout) -> int:
    """A nameless file of shared memory with a written header; returns its descriptor."""
    size = block_bytes(layout)
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("gaussgym-bridge", os.MFD_CLOEXEC)
    else:  # macOS: an unlinked file that both map
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    try:
        os.ftruncate(fd, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)  # writing to it cannot fail later
        os.pwrite(fd, HEADER.pack(MAGIC, VERSION, 0, layout_hash(layout), size, os.getpid()), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def map_block(fd: int, layout: Layout) -> Dict[str, np.ndarray]:
    """The block's arrays by name, as views of the mapping (which lives as long as they do).

    Raises:
        WireError: another magic, version, layout or size than these.
    """
    head = os.pread(fd, HEADER.size, 0)
    if len(head) < HEADER.size or head[:8] != MAGIC:
        raise WireError("the shared memory is not a bridge's block")
    _, version, _, found_hash, size, _ = HEADER.unpack(head)
    if version != VERSION:
        raise WireError(
            f"the client speaks version {version} of the bridge, the worker version {VERSION}; use both from one checkout"
        )
    if found_hash != layout_hash(layout) or size != block_bytes(layout) or os.fstat(fd).st_size < size:
        raise WireError(
            "the shared memory has another layout than announced; use both ends from one checkout"
        )
    memory = mmap.mmap(fd, size)
    arrays, end = {}, HEADER_BYTES
    for name, dtype, shape in layout:
        begin = -(-end // _ALIGN) * _ALIGN
        arrays[name] = np.ndarray(shape, dtype, memory, begin)
        end = begin + arrays[name].nbytes
    return arrays


def as_layout(rows: List[List[Any]]) -> Layout:
    """A layout that came as JSON."""
    return [(str(name), str(dtype), tuple(int(n) for n in shape)) for name, dtype, shape in rows]


class Channel:
    """One end of the socket."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected stream socket."""
        self.socket = sock

    def send(
        self, op: int, number: int = 0, body: Optional[Dict[str, Any]] = None, blob: bytes = b""
    ) -> None:
        """Send a message.

        Raises:
            OSError: the other end is gone.
        """
        text = json.dumps(body).encode() if body else b""
        self.socket.sendall(_MESSAGE.pack(op, number, len(text), len(blob)) + text)
        if blob:
            self.socket.sendall(blob)

    def receive(self) -> Message:
        """Wait for a message, as long as the socket's timeout allows.

        Raises:
            EOFError: the other end is gone.
            socket.timeout: nothing came in time.
        """
        op, number, text_bytes, blob_bytes = _MESSAGE.unpack(self._read(_MESSAGE.size))
        text = self._read(text_bytes)
        return Message(op, number, json.loads(text.decode()) if text else {}, self._read(blob_bytes))

    def _read(self, count: int) -> bytes:
        parts, left = [], count
        while left:
            try:
                part = self.socket.recv(min(left, 1 << 20))
            except ConnectionError:
                part = b""
            if not part:
                raise EOFError("the other end of the bridge is gone")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


Handler = Callable[[Message], Optional[Tuple[Dict[str, Any], bytes]]]


def serve(channel: Channel, handlers: Dict[int, Handler]) -> None:
    """A worker's loop: answer requests until the client closes or is gone, whichever way it went.

    A handler returns None or (JSON object, attachment). `BadInput` that it raises is told to the client, and the worker goes on;
    after any other exception, told as well, the state of the simulation is unknown and the loop ends.
    """
    parent = os.getppid()
    while True:
        # A forked child of the client may hold the socket open after its death: look at the parent too.
        while not select.select([channel.socket], [], [], _POLL_S)[0]:
            if os.getppid() != parent:
                return
        try:
            request = channel.receive()
        except EOFError:
            return
        if request.op == CLOSE:
            channel.send(DONE)
            return
        try:
            if request.op not in handlers:
                raise BadInput(f"this worker does not know request {request.op}")
            body, blob = handlers[request.op](request) or ({}, b"")
        except BadInput as error:
            channel.send(BAD_INPUT, body={"text": str(error)})
            continue
        except Exception as error:  # the client must know, whatever it was
            traceback.print_exc()
            text = " ".join(f"{type(error).__name__}: {error}".split())
            channel.send(
                FAILED, body={"text": text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " ..."}
            )
            return
        channel.send(DONE, body=body, blob=blob)
