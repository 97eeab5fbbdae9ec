"""`RenderServer`: a renderer behind shared memory, for simulators in other processes and Pythons; `client.py` is their end."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import mmap
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from gaussgym_scene import InputError

from gaussgym_render import client
from gaussgym_render.backends import AnySplats
from gaussgym_render.client import HEADER, HEADER_BYTES, PAGE, SERVER_BYTE, SHM, Slot
from gaussgym_render.frames import Frames
from gaussgym_render.renderer import SplatRenderer
from gaussgym_render.robot_camera import RobotCamera, get_camera_model, make_robot_camera

logger = logging.getLogger(__name__)

IDLE_SHARE = 1.0 / 64.0
"""A poll comes after this share of the time since the last request: its delay stays small beside the client's own work."""
SLEEP_MIN_S, SLEEP_MAX_S = 50e-6, 5e-3


@dataclass(frozen=True, kw_only=True)
class RenderServerCfg:
    """What a server offers.

    Attributes:
        name: By which clients find it.
        max_cameras: Most cameras of a request.
        num_clients: Most clients at a time; each has memory of its own.
    """

    name: str
    max_cameras: int = 256
    num_clients: int = 4

    def __post_init__(self) -> None:
        if self.max_cameras < 1 or self.num_clients < 1:
            raise InputError(
                f"{self.max_cameras} cameras a request and {self.num_clients} clients; expected at least 1 of each"
            )


def make_camera(
    splats: Sequence[AnySplats],
    width: int,
    height: int,
    *,
    camera_model: str = "ideal",
    horizontal_fov_rad: float = np.pi / 2,
    seed: int = 0,
    backend: str = "auto",
    num_threads: int | None = None,
) -> SplatRenderer | RobotCamera:
    """What a server renders with.

    Args:
        splats: The scenes.
        width: Image width [px].
        height: Image height [px].
        camera_model: A name of `robot_camera.CAMERA_MODELS`.
        horizontal_fov_rad: Field of view that a distorting lens is sized for; requests may differ a little.
        seed: Of the camera model.
        backend: Of the renderer.
        num_threads: Of the renderer.

    Raises:
        InputError: See `SplatRenderer` and `get_camera_model`.
    """
    cfg = get_camera_model(camera_model)
    if cfg.ideal:
        return SplatRenderer(splats, width, height, backend=backend, num_threads=num_threads)
    if not 0.0 < horizontal_fov_rad < np.pi:
        raise InputError(f"field of view {np.degrees(horizontal_fov_rad):g}°, expected 0 to 180")
    focal = 0.5 * width / np.tan(0.5 * horizontal_fov_rad)
    k = np.array([[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]])
    return make_robot_camera(
        splats, k, width, height, cfg, seed=seed, backend=backend, num_threads=num_threads
    )


class RenderServer:
    """Answers requests for images, each client's in memory of its own, one request after the other.

    Args:
        camera: Renders. Requests of several clients are served in turn.
        cfg: What is offered.
        scenes: A name for each of the camera's scenes, for the clients to read.

    Attributes:
        num_requests: Answered so far.
        num_images: Of those requests.
        size_bytes: Of the shared memory.

    Raises:
        InputError: A living server has that name, or the memory does not fit into /dev/shm.
    """

    def __init__(
        self, camera: SplatRenderer | RobotCamera, cfg: RenderServerCfg, scenes: Sequence[str]
    ) -> None:
        self.camera, self.cfg = camera, cfg
        self.renderer = camera.renderer if isinstance(camera, RobotCamera) else camera
        self.num_requests = self.num_images = 0
        try:
            self._path = Path(client.segment_path(cfg.name))
        except client.RenderServerError as error:
            raise InputError(str(error)) from None
        description = json.dumps(
            {
                "scenes": list(scenes),
                "camera_model": "robot" if isinstance(camera, RobotCamera) else "ideal",
                "backend": self.renderer.backend,
            }
        ).encode()
        slots_offset = -(-(HEADER_BYTES + len(description)) // PAGE) * PAGE
        slot_bytes = client.slot_bytes(cfg.max_cameras, camera.width, camera.height)
        self.size_bytes = slots_offset + cfg.num_clients * slot_bytes
        remove_leftovers(self._path.parent)
        self._fd = _allocate(self._path.parent, self.size_bytes)
        self._memory = mmap.mmap(self._fd, self.size_bytes)
        self._header: np.ndarray = np.ndarray((), HEADER, self._memory)
        self._memory[HEADER_BYTES : HEADER_BYTES + len(description)] = description
        fields = (
            client.MAGIC,
            client.VERSION,
            len(description),
            os.getpid(),
            time.monotonic_ns(),
            0,
            cfg.num_clients,
        )
        sizes = (cfg.max_cameras, camera.width, camera.height, len(scenes), slots_offset, slot_bytes)
        self._header[...] = fields + sizes
        self._slots = [
            Slot(self._memory, slots_offset + i * slot_bytes, cfg.max_cameras, camera.width, camera.height)
            for i in range(cfg.num_clients)
        ]
        try:
            _publish(self._fd, self._path, cfg.name)
        except BaseException:
            os.close(self._fd)
            raise

    def serve(self, stopping: Callable[[], bool]) -> None:
        """Answer requests until `stopping()`; a request that is being rendered is finished first.

        Nothing a client sends ends the server: what it cannot render is the answer, and what fails is logged.
        """
        active_s = time.perf_counter()
        while not stopping():
            self._header["heartbeat_ns"] = time.monotonic_ns()
            asked = [slot for slot in self._slots if slot.request[0] != slot.response[0]]
            for slot in asked:
                self._answer(slot)
            now_s = time.perf_counter()
            if asked:
                active_s = now_s
            else:
                time.sleep(min(max((now_s - active_s) * IDLE_SHARE, SLEEP_MIN_S), SLEEP_MAX_S))

    def close(self) -> None:
        """Remove the shared memory and tell the clients; may be called twice."""
        if self._fd < 0:
            return
        self._header["stopped"] = 1
        _unlink(self._path, self._fd)
        del self._slots, self._header
        with contextlib.suppress(BufferError):  # somebody holds a view; the mapping goes with it
            self._memory.close()
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> RenderServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, slot: Slot) -> None:
        number = int(slot.request[0])
        client.fence()
        try:
            self._render(slot)
            status, text = client.STATUS_OK, ""
        except InputError as error:
            status, text = client.STATUS_BAD_REQUEST, str(error)
        except Exception as error:  # a defect of ours must not end the other clients' simulators
            logger.exception("request %d of process %d failed", number, slot.head["client_pid"])
            status, text = client.STATUS_FAILED, f"{type(error).__name__}: {error}"
        slot.head["status"] = status
        slot.put_error(text)
        self.num_requests += 1
        client.fence()
        slot.response[0] = number

    def _render(self, slot: Slot) -> None:
        """Render a request into its slot."""
        count = int(slot.head["count"])
        if count > self.cfg.max_cameras:
            raise InputError(f"{count} cameras, expected at most {self.cfg.max_cameras} (--max-cameras)")
        # Copies: between check and use the client's process could change its own.
        c2w, k, scene_ids, mask, twist_c, camera_ids, frame_ids = (
            slot.arrays[name][:count].copy()
            for name in ("c2w", "K", "scene_ids", "mask", "twist_c", "camera_ids", "frame_ids")
        )
        out = Frames(*(slot.arrays[name][:count] for name in ("rgb", "depth", "alpha")))
        if isinstance(self.camera, RobotCamera):
            self.camera.render(
                c2w, k, scene_ids, mask=mask, out=out, twist_c=twist_c, camera_ids=camera_ids, frame_ids=frame_ids
            )  # fmt: skip
        else:
            self.camera.render(c2w, k, scene_ids, mask=mask, out=out)
        self.num_images += int(mask.sum())


def serve_until_signalled(server: RenderServer) -> signal.Signals:
    """Serve until SIGINT (Ctrl-C) or SIGTERM, which are answered between requests; a second one ends at once.

    Returns:
        The signal.
    """
    received: list[signal.Signals] = []

    def note(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.serve(lambda: bool(received))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return received[0]


def remove_leftovers(folder: Path = Path(SHM)) -> list[Path]:
    """Remove the memory of servers that were killed: nobody holds its lock.

    Returns:
        What was removed.
    """
    removed = []
    for path in sorted(folder.glob(client.PREFIX + "*")):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            # Whoever holds the lock may remove the file: two servers that start at once do not remove each other's.
            ours = os.pread(fd, len(client.MAGIC), 0) == client.MAGIC
            if ours and client.try_lock(fd, SERVER_BYTE) and _unlink(path, fd):
                removed.append(path)
        finally:
            os.close(fd)
    if removed:
        logger.info("removed the memory of killed render servers: %s", ", ".join(map(str, removed)))
    return removed


def _allocate(folder: Path, size: int) -> int:
    """A locked file of that size without a name yet, its memory reserved: writing to it cannot fail later."""
    space = os.statvfs(folder)
    available = space.f_bavail * space.f_frsize
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if size > available:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.posix_fallocate(fd, 0, size)
        client.try_lock(fd, SERVER_BYTE)
    except OSError as error:
        os.close(fd)
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(
            f"the server needs {size / 1e6:.0f} MB of shared memory and {folder} has {available / 1e6:.0f} MB left; lower "
            "--max-cameras or --clients, or enlarge it (docker run --shm-size)"
        ) from None
    except client.RenderServerError as error:
        os.close(fd)
        raise InputError(str(error)) from None
    return fd


def _publish(fd: int, path: Path, name: str) -> None:
    """Give a finished, locked file its name, whole or not at all."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # With a folder given, Python calls linkat(2) and follows the link to the nameless file.
        os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        with path.open("rb") as file:
            header = np.frombuffer(file.read(HEADER.itemsize).ljust(HEADER.itemsize, b"\0"), HEADER)[0]
        if header["magic"] != client.MAGIC:
            raise InputError(
                f"{path} exists and is no render server's memory; choose another --name"
            ) from None
        raise InputError(
            f"process {header['server_pid']} serves under the name {name!r} already; choose another --name or end it"
        ) from None
    finally:
        os.close(folder)


def _unlink(path: Path, fd: int) -> bool:
    """Remove a name if it still belongs to the open file."""
    try:
        if os.stat(path).st_ino == os.fstat(fd).st_ino:
            path.unlink()
            return True
    except FileNotFoundError:
        pass
    return False
