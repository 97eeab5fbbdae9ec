"""Around a run: its folder belongs to one process, signals wait for the end of an update, and a machine's limits read well."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from gaussgym_scene.errors import InputError, StageError

LOCK = "run.lock"


class RunLock:
    """Holds a run's folder for this process, until the block ends or the process dies in whatever way.

    Args:
        out: the folder, made if missing.
    """

    def __init__(self, out: Path) -> None:
        self._path = out / LOCK
        self._file: Any = None

    def __enter__(self) -> RunLock:
        """Take it.

        Raises:
            InputError: another process holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+", encoding="utf-8")
        try:
            _lock(self._file)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise InputError(
                f"{self._path.parent}: in use by process {holder}; wait for its end, or give another --output"
            ) from None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go."""
        self._file.close()


def _lock(file: Any) -> None:
    """Lock an open file or raise OSError. Locks end with the process that took them; its children do not inherit them."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        return
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Interrupts:
    """While the block runs, Ctrl-C and SIGTERM only ask: the update that runs is finished and saved first. A second one ends at
    once. Does nothing outside the main thread, where no signals arrive.

    Attributes:
        asked: whether a signal came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        """Listen."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")


@contextlib.contextmanager
def explained_errors(out: Path) -> Iterator[None]:
    """Turn what torch and Python say about too little memory into one line.

    Raises:
        StageError: in the place of a `MemoryError` or of torch's.
    """
    try:
        yield
    except MemoryError:
        raise StageError(f"{out}: out of memory; {_LESS}") from None
    except RuntimeError as error:
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not any(
            s in str(error) for s in _NO_MEMORY
        ):
            raise
        reason = " ".join(str(error).split())[:120]
        raise StageError(f"{out}: out of memory ({reason}); {_LESS}") from None


_LESS = "take fewer environments (--num-envs), shorter rollouts or smaller images; checkpoints are whole"


def available_bytes() -> int | None:
    """Memory that this process may still take [bytes]: free memory of the machine, of its control group and below its own limit,
    whichever is least; None where the system does not say.
    """
    found = [_free_of_machine(), _free_of_group(), _free_of_limit()]
    known = [number for number in found if number is not None]
    return min(known) if known else None


def check_memory(needed: int, what: str) -> None:
    """Refuse what cannot fit, before it is allocated.

    Args:
        needed: [bytes].
        what: takes it, such as ``rollouts of 64 environments x 24 steps``.

    Raises:
        InputError: it is more than is available.
    """
    available = available_bytes()
    if available is not None and needed > available:
        raise InputError(
            f"{what} take {needed / 1e9:.3g} GB of memory, found {max(available, 0) / 1e9:.3g} GB; take fewer environments "
            "(--num-envs), shorter rollouts or smaller images"
        )


def _free_of_machine() -> int | None:
    lines = _text("/proc/meminfo").splitlines()
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    if free:
        return free[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _free_of_group() -> int | None:
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        most, now = _text(limit).strip(), _text(used).strip()
        if most.isdecimal() and now.isdecimal():
            return int(most) - int(now) + _page_cache()
    return None


def _page_cache() -> int:
    """File pages that count as used by the control group and that the kernel gives back when asked [bytes]."""
    lines = (_text("/sys/fs/cgroup/memory.stat") or _text("/sys/fs/cgroup/memory/memory.stat")).splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))


def _free_of_limit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    pages = _text("/proc/self/statm").split()
    return most - int(pages[0]) * os.sysconf("SC_PAGE_SIZE") if pages else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
