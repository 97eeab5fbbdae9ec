"""Shared memory as the operating system has it: made, found, let go of without a trace; waiting for the other process."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
import time
from multiprocessing import resource_tracker, shared_memory
from typing import Any, Callable, Type

from ..robot_io import LinkError

MAGIC = b"GGROBOT1"
VERSION = 2
HEADER_BYTES = 64
FIXED = struct.Struct("=8sIIqqII")
OFFSET_SERVER_PID, OFFSET_RUNTIME_PID, OFFSET_SERVER_CLOSED, OFFSET_RUNTIME_CLOSED = 16, 24, 32, 36
_SPIN_S = 50e-6
_SLEEP_MIN_S, _SLEEP_MAX_S = 50e-6, 1e-3
_LIVENESS_PERIOD_S = 0.05


def wait(ready: Callable[[], bool], timeout_s: float, alive: Callable[[], bool]) -> bool:
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


def pid_alive(pid: int) -> bool:
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


def buffer(memory: shared_memory.SharedMemory) -> memoryview:
    """The mapped bytes (None only after close)."""
    buffer: Any = memory.buf
    return buffer


def create(name: str, size: int) -> shared_memory.SharedMemory:
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
    magic, _, _, pid, _, _, _ = FIXED.unpack_from(buffer(leftover), 0)
    foreign = magic not in (MAGIC, b"\0" * 8)
    busy = magic == MAGIC and pid_alive(pid)
    leftover.close()
    if foreign or busy:
        forget(leftover)
        raise LinkError(
            f"shared memory {name!r} belongs to another program; choose another name"
            if foreign
            else f"process {pid} serves a robot under the name {name!r} already; choose another name or end it"
        )
    leftover.unlink()
    return shared_memory.SharedMemory(name=name, create=True, size=size)


def attach(name: str, timeout_s: float, alive: Callable[[], bool]) -> shared_memory.SharedMemory:
    """Attach to a finished segment, without making this process's resource tracker responsible for it."""
    start_s = time.perf_counter()
    while True:
        memory = None
        with contextlib.suppress(
            FileNotFoundError, ValueError
        ):  # ValueError: created, but still without a size
            memory = open_untracked(name)
        if memory is not None:
            if bytes(buffer(memory)[:8]) == MAGIC:
                return memory
            memory.close()
        if not alive():
            raise LinkError("the robot process ended before its link came up")
        if time.perf_counter() - start_s > timeout_s:
            raise LinkError(f"no robot process serves under the name {name!r} (waited {timeout_s:g} s)")
        time.sleep(0.01)


def open_untracked(name: str) -> shared_memory.SharedMemory:
    """A segment that this process's resource tracker knows nothing of."""
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


def forget(memory: shared_memory.SharedMemory) -> None:
    """Undo the registration of a segment that was opened the ordinary way but belongs to somebody else."""
    if os.name == "posix":
        resource_tracker.unregister(getattr(memory, "_name", memory.name), "shared_memory")
