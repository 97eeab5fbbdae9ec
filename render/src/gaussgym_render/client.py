"""Pixels from `gaussgym-render serve`, in any Python from 3.8 on.

This one file needs numpy and nothing else: copy it to where the simulator runs::

    from client import RenderClient                      # or: from gaussgym_render.client import RenderClient

    with RenderClient("place") as client:
        frames = client.render(c2w, K, scene_ids)        # frames.rgb, frames.depth, frames.alpha

The arrays of `frames` are views of shared memory: the next request of the same client overwrites them, and after `close()` the
server may give the memory to somebody else. Copy what is to be kept.

Server and clients share one file in /dev/shm, so this works within one machine (and between containers that share its
/dev/shm, such as `docker run --ipc=host`), on Linux, between processes of one user. Format, little-endian::

    0            header: `HEADER`; magic and version stay where they are in all versions
    128          description: JSON, UTF-8 (scenes, camera_model, backend, ...)
    slots_offset slots, `slot_bytes` each: `SLOT_HEAD`, then the arrays of `slot_arrays`, each at a multiple of 64 bytes

A slot belongs to one client. The client writes its request and then increments `request`; the server writes the answer and
then sets `response` to the same number. Both poll with sleeps that grow. Who lives is not told by a process id, which may be
used again or belong to another container, but by a lock (`fcntl`, F_OFD_SETLK) that the kernel drops when its holder ends,
however it ends: the server holds byte 0 of the file, the client of slot i byte 1 + i.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import re
import struct
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows has none; RenderClient says what is wrong
    import fcntl

__all__ = ["Frames", "RenderClient", "RenderServerError", "RequestError"]

MAGIC = b"GGRENDER"
VERSION = 1
SHM = "/dev/shm"
PREFIX = "gaussgym-render."

HEADER = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("description_bytes", "<u4"),
        ("server_pid", "<i8"),
        ("heartbeat_ns", "<i8"),  # CLOCK_MONOTONIC when the server last looked for requests
        ("stopped", "<u4"),  # the server ended in good order
        ("num_slots", "<u4"),
        ("max_cameras", "<u4"),
        ("width", "<u4"),
        ("height", "<u4"),
        ("num_scenes", "<u4"),
        ("slots_offset", "<u8"),
        ("slot_bytes", "<u8"),
    ]
)
HEADER_BYTES = 128
ERROR_BYTES = 4000
SLOT_HEAD = np.dtype(
    [
        ("request", "<u8"),
        ("response", "<u8"),
        ("client_pid", "<i8"),
        ("count", "<u4"),
        ("status", "<u4"),
        ("error_bytes", "<u4"),
        ("error", "u1", (ERROR_BYTES,)),
    ]
)
STATUS_OK, STATUS_BAD_REQUEST, STATUS_FAILED = 0, 1, 2
PAGE = 4096

SERVER_BYTE = 0
"""Byte of the segment whose lock says that the server lives; that of slot i is `SERVER_BYTE + 1 + i`."""
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37  # Linux; the module fcntl names them from Python 3.9 on
_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, pid: struct flock of 64-bit Linux
_FENCE = threading.Lock()

_SLEEP_MIN_S, _SLEEP_MAX_S = 20e-6, 1e-3
_LIVENESS_PERIOD_S = 0.05


class RenderServerError(RuntimeError):
    """There is no server, it speaks another version, it is full, it died or it does not answer."""


class RequestError(ValueError):
    """The server cannot render this request, the text says why; the next request may be better."""


class Frames(NamedTuple):
    """Images of C cameras, views of shared memory that the next request overwrites.

    Attributes:
        rgb: uint8 `[C, H, W, 3]`.
        depth: float32 `[C, H, W]`, expected depth along the camera's +Z [m], 0 where nothing was hit.
        alpha: float32 `[C, H, W]`, opacity in 0..1.
    """

    rgb: np.ndarray
    depth: np.ndarray
    alpha: np.ndarray


def segment_path(name: str) -> str:
    """The file that a server of this name shares.

    Raises:
        RenderServerError: On a system without /dev/shm, or a name that is no plain file name.
    """
    if fcntl is None or not os.path.isdir(SHM):
        raise RenderServerError(f"found no {SHM}; shared memory between simulator and renderer needs Linux")
    if not re.match(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\Z", name):
        raise RenderServerError(
            f"server name {name!r}; expected 1 to 64 letters, digits, '_', '-' and '.', not '.' or '-' first"
        )
    return os.path.join(SHM, PREFIX + name)


def try_lock(fd: int, byte: int) -> bool:
    """Lock a byte of an open file for as long as the file stays open; False if another opener holds it."""
    try:
        fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise RenderServerError(f"this system has no open-file locks ({error}); expected Linux") from None
    return True


def is_locked(fd: int, byte: int) -> bool:
    """Whether another opener of a file holds the lock on a byte of it."""
    lock = fcntl.fcntl(fd, _F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    return _FLOCK.unpack(lock)[0] != fcntl.F_UNLCK


def fence() -> None:
    """Make what was written before visible before what is written after, also where processors reorder stores (ARM).

    Taking and dropping a lock orders memory; twice, since a store may slip into a critical section from either side.
    """
    with _FENCE:
        pass
    with _FENCE:
        pass


def slot_arrays(max_cameras: int, width: int, height: int) -> List[Tuple[str, str, Tuple[int, ...]]]:
    """Name, type and shape of a slot's arrays, in their order."""
    m = max_cameras
    return [
        ("c2w", "<f8", (m, 4, 4)),
        ("K", "<f8", (m, 3, 3)),
        ("scene_ids", "<i8", (m,)),
        ("mask", "?", (m,)),
        ("twist_c", "<f8", (m, 6)),
        ("camera_ids", "<i8", (m,)),
        ("frame_ids", "<i8", (m,)),
        ("rgb", "u1", (m, height, width, 3)),
        ("depth", "<f4", (m, height, width)),
        ("alpha", "<f4", (m, height, width)),
    ]


def slot_bytes(max_cameras: int, width: int, height: int) -> int:
    """Size of a slot, a multiple of the page."""
    return _slot_offsets(max_cameras, width, height)[1]


def _slot_offsets(max_cameras: int, width: int, height: int) -> Tuple[Dict[str, int], int]:
    offsets, end = {}, SLOT_HEAD.itemsize
    for name, dtype, shape in slot_arrays(max_cameras, width, height):
        offsets[name] = -(-end // 64) * 64
        end = offsets[name] + np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
    return offsets, -(-end // PAGE) * PAGE


class Slot:
    """A slot's head and arrays, as views of the mapped segment.

    Attributes:
        head: Record of `SLOT_HEAD`, shape `[]`.
        arrays: The arrays of `slot_arrays` by name.
    """

    def __init__(self, memory: Any, offset: int, max_cameras: int, width: int, height: int) -> None:
        self.head: np.ndarray = np.ndarray((), SLOT_HEAD, memory, offset)
        offsets, _ = _slot_offsets(max_cameras, width, height)
        self.arrays: Dict[str, np.ndarray] = {
            name: np.ndarray(shape, dtype, memory, offset + offsets[name])
            for name, dtype, shape in slot_arrays(max_cameras, width, height)
        }
        # Fields of their own, so that polling makes no objects but an integer.
        self.request: np.ndarray = np.ndarray((1,), "<u8", memory, offset)
        self.response: np.ndarray = np.ndarray((1,), "<u8", memory, offset + 8)

    def error(self) -> str:
        """The text that came with the answer."""
        return bytes(self.head["error"][: int(self.head["error_bytes"])]).decode("utf-8", "replace")

    def put_error(self, text: str) -> None:
        """Set that text; what does not fit is cut off."""
        encoded = np.frombuffer(text.encode("utf-8")[:ERROR_BYTES], np.uint8)
        self.head["error"][: len(encoded)] = encoded
        self.head["error_bytes"] = len(encoded)


class RenderClient:
    """A connection to `gaussgym-render serve`. Use it from one thread, and not in a forked child.

    Args:
        name: The server's name (its `--name`).
        timeout_s: How long to wait for an answer [s].
        connect_timeout_s: How long to wait for the server to come up [s].

    Attributes:
        width: Image width [px].
        height: Image height [px].
        max_cameras: Most cameras of a request.
        scenes: Names of the server's scenes; a camera's scene id is a place in this list.
        description: What else the server says of itself: `camera_model`, `backend`, `num_splats`.

    Raises:
        RenderServerError: When no server of that name comes up in time, it speaks another version, or all its slots are taken.
    """

    def __init__(self, name: str, *, timeout_s: float = 60.0, connect_timeout_s: float = 10.0) -> None:
        self.name, self.timeout_s = name, float(timeout_s)
        self._fd = _open_segment(name, connect_timeout_s)
        self._pid = os.getpid()
        try:
            self._memory: Optional[mmap.mmap] = mmap.mmap(self._fd, 0)
            self._header: np.ndarray = np.ndarray((), HEADER, self._memory)
            header = self._header
            text = self._memory[HEADER_BYTES : HEADER_BYTES + int(header["description_bytes"])]
            self.description: Dict[str, Any] = json.loads(text.decode("utf-8"))
            self.scenes: List[str] = self.description["scenes"]
            self.width, self.height = int(header["width"]), int(header["height"])
            self.max_cameras = int(header["max_cameras"])
            self._slot: Any = self._claim(int(header["num_slots"]))
        except BaseException:
            os.close(self._fd)
            raise
        self._calls = 0
        self._count = 0
        self._number = int(self._slot.request[0])

    def render(
        self,
        c2w: Any,
        K: Any,
        scene_ids: Any,
        *,
        mask: Any = None,
        twist_c: Any = None,
        camera_ids: Any = None,
        frame_ids: Any = None,
    ) -> Frames:
        """Render one image per camera; arrays are numpy's or anything that `numpy.asarray` takes.

        Args:
            c2w: Camera to world `[C, 4, 4]`, OpenCV axes (+X right, +Y down, +Z forward), rigid.
            K: Calibration matrices `[C, 3, 3]` [px], pixel centres at +0.5, no skew.
            scene_ids: Scene of each camera, integers `[C]`.
            mask: Which cameras to render, bool `[C]`; None: all. The others keep the image that the last request left at
                their place, black before the first.
            twist_c: Velocity of each camera in its own frame `[C, 6]`, linear [m/s] then angular [rad/s]; only for a server
                with `--camera-model robot`, like the next two. None: they rest.
            camera_ids: Which camera each one is, integers `[C]`; None: its place in the batch.
            frame_ids: Number of each camera's frame, integers `[C]`; None: the number of this client's requests so far.

        Returns:
            Views of shared memory: the client's next request overwrites them.

        Raises:
            RequestError: On wrong shapes, poses that are not rigid or not finite, scene ids out of range.
            RenderServerError: When the server died or does not answer in time.
        """
        self.request(
            c2w, K, scene_ids, mask=mask, twist_c=twist_c, camera_ids=camera_ids, frame_ids=frame_ids
        )
        return self.result()

    def request(
        self,
        c2w: Any,
        K: Any,
        scene_ids: Any,
        *,
        mask: Any = None,
        twist_c: Any = None,
        camera_ids: Any = None,
        frame_ids: Any = None,
    ) -> None:
        """The first half of `render`: the server works while the caller does something else, then calls `result`.

        The arrays of the last frames are overwritten from here on.

        Raises:
            RequestError: On wrong shapes or types.
            RenderServerError: When the result of the last request was not taken, or the client is closed.
        """
        slot = self._usable()
        if self._pending(slot):
            raise RenderServerError("the last request is still being rendered; call result() first")
        if self.description["camera_model"] == "ideal" and not (
            twist_c is None and camera_ids is None and frame_ids is None
        ):
            raise RequestError(
                "the server's cameras are ideal and take no twist_c, camera_ids, frame_ids; start it with --camera-model robot"
            )
        poses = np.asarray(c2w)
        count = len(poses) if poses.ndim else 0
        if count > self.max_cameras:
            raise RequestError(
                f"{count} cameras, the server takes at most {self.max_cameras}; send them in parts or start it with "
                f"--max-cameras {count}"
            )
        numbers = np.full(count, self._calls, np.int64)
        arrays = {
            "c2w": _checked("c2w", poses, (count, 4, 4), "numbers"),
            "K": _checked("K", K, (count, 3, 3), "numbers"),
            "scene_ids": _checked("scene_ids", scene_ids, (count,), "integers"),
            "mask": _checked("mask", mask, (count,), "bool", np.ones(count, bool)),
            "twist_c": _checked("twist_c", twist_c, (count, 6), "numbers", np.zeros((count, 6))),
            "camera_ids": _checked("camera_ids", camera_ids, (count,), "integers", np.arange(count)),
            "frame_ids": _checked("frame_ids", frame_ids, (count,), "integers", numbers),
        }
        for name, array in arrays.items():
            slot.arrays[name][:count] = array
        slot.head["count"] = count
        self._calls += 1
        self._count = count
        self._number += 1
        fence()
        slot.request[0] = self._number

    def result(self) -> Frames:
        """The second half of `render`: wait for the frames that `request` asked for.

        Raises:
            RequestError: When the server cannot render the request.
            RenderServerError: When the server died, or does not answer in time; in the latter case `result` may be tried again.
        """
        slot = self._usable()
        if not _wait(lambda: not self._pending(slot), self.timeout_s, self._server_alive):
            raise RenderServerError(self._silence())
        fence()
        status = int(slot.head["status"])
        if status == STATUS_BAD_REQUEST:
            raise RequestError(slot.error())
        if status != STATUS_OK:
            raise RenderServerError(f"the render server {self.name!r} failed: {slot.error()}")
        n = self._count
        return Frames(slot.arrays["rgb"][:n], slot.arrays["depth"][:n], slot.arrays["alpha"][:n])

    def close(self) -> None:
        """Give the slot back; may be called twice. Frames that are still held are not to be read any more."""
        if self._memory is None:
            return
        memory, self._memory = self._memory, None
        self._slot = None
        del self._header
        os.close(self._fd)  # drops the lock
        try:
            memory.close()
        except BufferError:  # somebody holds frames; the mapping goes with the last of them
            del memory

    def __enter__(self) -> RenderClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_slot", None) is not None and os.getpid() == self._pid:
            self.close()

    def _claim(self, num_slots: int) -> Slot:
        """Take a free slot, once a request that a dead client left in it is done."""
        for i in range(num_slots):
            if try_lock(self._fd, SERVER_BYTE + 1 + i):
                break
        else:
            raise RenderServerError(
                f"all {num_slots} slots of the render server {self.name!r} are taken; close a client or start it with "
                f"--clients {num_slots + 1}"
            )
        header = self._header
        offset = int(header["slots_offset"]) + i * int(header["slot_bytes"])
        slot = Slot(self._memory, offset, self.max_cameras, self.width, self.height)
        if not _wait(lambda: slot.response[0] == slot.request[0], self.timeout_s, self._server_alive):
            raise RenderServerError(self._silence())
        slot.head["client_pid"] = self._pid
        for name in Frames._fields:
            slot.arrays[name][...] = 0
        return slot

    def _usable(self) -> Slot:
        if self._memory is None:
            raise RenderServerError(f"this client of the render server {self.name!r} is closed")
        if os.getpid() != self._pid:
            raise RenderServerError(f"this client was made in process {self._pid}; make one here")
        return self._slot

    def _pending(self, slot: Slot) -> bool:
        return int(slot.response[0]) != self._number

    def _server_alive(self) -> bool:
        return not self._header["stopped"] and is_locked(self._fd, SERVER_BYTE)

    def _silence(self) -> str:
        """Why there is no answer."""
        header = self._header
        server = f"the render server {self.name!r} (process {int(header['server_pid'])})"
        if header["stopped"]:
            return f"{server} was stopped; start it again and make a new client"
        if not is_locked(self._fd, SERVER_BYTE):
            return f"{server} died (killed?); start it again and make a new client"
        seen_s = (time.monotonic_ns() - int(header["heartbeat_ns"])) * 1e-9
        return f"{server} did not answer for {self.timeout_s:g} s; it last looked for requests {seen_s:.1f} s ago"


_KINDS: Dict[str, Tuple[type, ...]] = {
    "numbers": (np.floating, np.integer),
    "integers": (np.integer,),
    "bool": (np.bool_,),
}


def _checked(
    name: str, values: Any, shape: Sequence[int], kind: str, default: Optional[np.ndarray] = None
) -> np.ndarray:
    """An array of the request, of the right shape and kind; `default` for None."""
    if values is None and default is not None:
        return default
    array = np.asarray(values)
    if array.shape != tuple(shape):
        raise RequestError(
            f"{name} has shape {array.shape}, expected {tuple(shape)} (C = {shape[0]} cameras)"
        )
    if not issubclass(array.dtype.type, _KINDS[kind]):
        raise RequestError(f"{name} are {array.dtype}, expected {kind}")
    return array


def _open_segment(name: str, timeout_s: float) -> int:
    """Open the segment of a living server of our version."""
    path = segment_path(name)
    start_s = time.perf_counter()
    found = "no render server of that name"
    while True:
        fd = -1
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            found = "no render server of that name"
        except PermissionError:
            raise RenderServerError(
                f"{path}: not readable; a server serves processes of its own user"
            ) from None
        if fd >= 0:
            head = os.pread(fd, HEADER.itemsize, 0)
            if is_locked(fd, SERVER_BYTE) or head[:8] != MAGIC:
                _check_version(path, head, fd)
                return fd
            os.close(fd)
            found = "only what a killed one left behind"
        if time.perf_counter() - start_s >= timeout_s:
            raise RenderServerError(
                f"{found} after {timeout_s:g} s; expected one: gaussgym-render serve SCENE --name {name}"
            )
        time.sleep(0.02)


def _check_version(path: str, head: bytes, fd: int) -> None:
    """Raise a `RenderServerError` if the segment is not one, or not one of our version."""
    problem = None
    if len(head) < HEADER.itemsize or head[:8] != MAGIC:
        problem = f"{path} is not a render server's memory; choose another name"
    else:
        version = struct.unpack_from("<I", head, 8)[0]
        if version != VERSION:
            problem = (
                f"the server speaks version {version}, this client version {VERSION}; copy client.py from the server's "
                "gaussgym_render"
            )
    if problem:
        os.close(fd)
        raise RenderServerError(problem)


def _wait(ready: Callable[[], Any], timeout_s: float, alive: Callable[[], bool]) -> bool:
    """Wait for `ready`, in sleeps of about a sixteenth of the time waited so far, at most 1 ms.

    Returns:
        False when the time is over or the server is gone (and `ready` is still false after that).
    """
    start_s = time.perf_counter()
    next_check_s = _LIVENESS_PERIOD_S
    while not ready():
        waited_s = time.perf_counter() - start_s
        if waited_s > next_check_s:
            if not alive():
                return bool(ready())
            next_check_s = waited_s + _LIVENESS_PERIOD_S
        if waited_s > timeout_s:
            return bool(ready())
        time.sleep(min(max(waited_s / 16.0, _SLEEP_MIN_S), _SLEEP_MAX_S))
    return True
