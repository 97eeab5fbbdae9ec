"""How well the loop keeps time over minutes: against a bare clock loop in the same run, in thread-CPU time, in memory.

What the kernel does to any process that sleeps is measured beside it: ``python -m gaussgym_deploy.endurance PERIOD SECONDS``
wakes up at the same rate by ``clock_nanosleep`` with an absolute time, and does nothing else; where the run has real-time
scheduling, so has it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Optional

import numpy as np

from .bundle import PolicyBundle
from .camera import CameraFrame, CameraThread
from .robot_io import LinkError
from .run_report import RunReport
from .runtime import Runtime
from .scheduler import RUNTIME_PRIORITY, Samples, be_prompt
from .supervisor_process import SupervisedRobot

__all__ = ["EnduranceReport", "MovingCard", "bare_lateness", "endurance"]

CLOCK_MONOTONIC, TIMER_ABSTIME = 1, 1
IMAGE_PATIENCE_S = 2.0


class _Timespec(ctypes.Structure):
    _fields_ = [("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long)]


def bare_lateness(period_s: float, seconds: float) -> Dict[str, float]:
    """Lateness of a loop that does nothing but sleep until ``start + n * period``: p50, p99 and max [ms].

    Args:
        period_s: [s].
        seconds: How long [s].
    """
    try:
        sleep = ctypes.CDLL(None).clock_nanosleep
    except (AttributeError, OSError, TypeError):  # not Linux: the same by time.sleep
        sleep = None
    samples, until = Samples(), _Timespec()
    start_s = time.monotonic()
    for tick in range(1, int(seconds / period_s)):
        next_s = start_s + tick * period_s
        if sleep is None:
            time.sleep(max(next_s - time.monotonic(), 0.0))
        else:
            until.tv_sec, until.tv_nsec = int(next_s), int(1e9 * (next_s - int(next_s)))
            sleep(CLOCK_MONOTONIC, TIMER_ABSTIME, ctypes.byref(until), None)
        samples.add(time.monotonic() - next_s)
    return samples.summary(1e3)


class MovingCard:
    """A camera without a device: a picture that shifts by a pixel a frame, at the policy's size and rate.

    Args:
        bundle: Gives size and rate; a policy that sees.
    """

    def __init__(self, bundle: PolicyBundle) -> None:
        assert bundle.camera is not None
        self._period_s = 1.0 / bundle.camera_hz
        shape = (bundle.camera.height, bundle.camera.width, 3)
        self._card = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self._next_s = time.monotonic()
        self._number = 0

    def read(self) -> Optional[CameraFrame]:
        """The next frame, when it is due."""
        self._next_s += self._period_s
        time.sleep(max(self._next_s - time.monotonic(), 0.0))
        now_s = time.monotonic()
        self._number += 1
        return CameraFrame(np.roll(self._card, self._number, axis=1), now_s, now_s, self._number)

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class EnduranceReport:
    """Outcome.

    Attributes:
        robot: Name of the link.
        seconds: How long it ran [s].
        images: ``link``, ``card`` (:class:`MovingCard`) or ``none``.
        machine: What it ran on.
        run: The run's :class:`~gaussgym_deploy.run_report.RunReport`.
        bare_ms: Lateness of the bare loop beside it [ms].
        lateness_over_bare_ms: p99 of the run's lateness less the bare loop's [ms].
        memory_mb: Resident memory of this process: most in the first fifth, at the end, largest [MB]; the same of the supervisor.
    """

    robot: str
    seconds: float
    images: str
    machine: str
    run: Dict[str, Any] = field(default_factory=dict)
    bare_ms: Dict[str, float] = field(default_factory=dict)
    lateness_over_bare_ms: float = float("nan")
    memory_mb: Dict[str, Dict[str, float]] = field(default_factory=dict)


def endurance(
    bundle: PolicyBundle,
    robot: str,
    seconds: float,
    *,
    options: Optional[Dict[str, Any]] = None,
    flight: Optional[str] = None,
) -> EnduranceReport:
    """Run a bundle on a robot for long, with a bare loop beside it.

    Args:
        bundle: What to run.
        robot: Robot link.
        seconds: How long, standing up included [s].
        options: Of the link.
        flight: Folder for the flight recorder, or None.

    Raises:
        LinkError: When the link does not open, or the bare loop fails.
    """
    report = EnduranceReport(
        robot,
        seconds,
        "none",
        _machine(),
    )
    with SupervisedRobot(robot, bundle, options=options) as link:
        camera = _camera(bundle, link, report)
        runtime = Runtime(bundle, link, camera=camera, flight=flight)
        bare = subprocess.Popen(
            [sys.executable, "-m", "gaussgym_deploy.endurance", repr(bundle.control_dt_s), repr(seconds)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        memory = _MemoryWatch({"runtime": os.getpid(), "supervisor": link.pid})
        be_prompt(RUNTIME_PRIORITY)
        try:
            run: RunReport = runtime.run(seconds)
        finally:
            memory.close()
            bare.terminate() if sys.exc_info()[0] is not None else None
            words, _ = bare.communicate(timeout=60.0)
    if bare.returncode != 0:
        raise LinkError(f"the bare loop ended with exit status {bare.returncode}")
    report.run, report.bare_ms, report.memory_mb = asdict(run), json.loads(words.decode()), memory.summary()
    report.lateness_over_bare_ms = run.lateness_ms.get("p99", float("nan")) - report.bare_ms["p99"]
    return report


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _camera(bundle: PolicyBundle, link: SupervisedRobot, report: EnduranceReport) -> Optional[CameraThread]:
    """The link's images where it has some; a moving card for a policy that sees on a link that does not."""
    if bundle.camera is None:
        return None
    end_s = time.monotonic() + IMAGE_PATIENCE_S
    while time.monotonic() < end_s:
        if link.read().rgb is not None:
            report.images = "link"
            return None
        time.sleep(0.05)
    report.images = "card"
    return CameraThread(MovingCard(bundle))


class _MemoryWatch:
    """Resident memory of some processes, once a second, from a thread."""

    def __init__(self, pids: Dict[str, int], period_s: float = 1.0) -> None:
        self._seen: Dict[str, List[float]] = {name: [] for name in pids}
        self._pids, self._period_s = pids, period_s
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="memory", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._ending.wait(self._period_s):
            for name, pid in self._pids.items():
                try:
                    with open(f"/proc/{pid}/statm", "rb") as file:
                        pages = int(file.read().split()[1])
                except (OSError, IndexError):  # it has ended, or this is not Linux
                    continue
                self._seen[name].append(1e-6 * pages * os.sysconf("SC_PAGE_SIZE"))

    def close(self) -> None:
        self._ending.set()
        self._thread.join()

    def summary(self) -> Dict[str, Dict[str, float]]:
        """Most in the first fifth, at the end, and most of all [MB]."""
        found = {}
        for name, seen in self._seen.items():
            if seen:
                found[name] = {
                    "first_fifth": max(seen[: max(len(seen) // 5, 1)]),
                    "end": seen[-1],
                    "max": max(seen),
                }
        return found


if __name__ == "__main__":
    be_prompt(RUNTIME_PRIORITY)
    print(json.dumps(bare_lateness(float(sys.argv[1]), float(sys.argv[2]))))
