"""What paces the control loop: wake-ups in absolute time, and a record of how late they were."""

from __future__ import annotations

import gc
import os
import time
from typing import Callable, Dict, Optional

import numpy as np

__all__ = [
    "JITTER_EDGES_US",
    "RUNTIME_PRIORITY",
    "SUPERVISOR_PRIORITY",
    "FixedRate",
    "Samples",
    "be_prompt",
    "is_prompt",
]

RUNTIME_PRIORITY, SUPERVISOR_PRIORITY = 10, 20
"""Among real-time threads, where the system lets them be: who damps comes before who computes."""
JITTER_EDGES_US = (0, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)


class Samples:
    """The newest so many numbers, in memory taken once: what a run measures must not make it grow.

    Args:
        capacity: How many are kept.

    Attributes:
        count: How many were added in all.
        newest: The last one added; 0 before the first.
    """

    def __init__(self, capacity: int = 1 << 16) -> None:
        self.count = 0
        self.newest = 0.0
        self._values = np.full(capacity, 0.0)  # touched now, not page by page during the run

    def add(self, value: float) -> None:
        """Add one; the oldest goes when all places are taken."""
        self._values[self.count % len(self._values)] = value
        self.newest = value
        self.count += 1

    @property
    def values(self) -> np.ndarray:
        """Those that are kept, in no particular order."""
        return self._values[: min(self.count, len(self._values))]

    def summary(self, scale: float = 1.0) -> Dict[str, float]:
        """``p50``, ``p99`` and ``max`` of those that are kept; empty without any.

        Args:
            scale: The results are multiplied by this (1e3: seconds to milliseconds).
        """
        if not self.count:
            return {}
        p50, p99 = np.percentile(self.values, [50, 99])
        return {"p50": scale * float(p50), "p99": scale * float(p99), "max": scale * float(self.values.max())}


class FixedRate:
    """Wakes up at ``start + n * period``: what a step takes does not shift the next ones.

    A step that ran past its period is a miss; the periods that it ate are skipped, never made up for in a burst.

    Args:
        period_s: [s].
        clock: Monotonic seconds.
        sleep: Sleeps for so many seconds.

    Attributes:
        misses: Periods missed in all.
        misses_in_a_row: Since the last one kept.
        lateness_counts: How often a wake-up was late by a bin of :data:`JITTER_EDGES_US` [µs]; the last bin is open.
        worst_lateness_s: [s].
        lateness_s: How late the wake-ups were [s].
    """

    def __init__(
        self,
        period_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.misses = self.misses_in_a_row = 0
        self.lateness_counts = np.zeros(len(JITTER_EDGES_US), dtype=np.int64)
        self.worst_lateness_s = 0.0
        self.lateness_s = Samples()
        self._period_s = period_s
        self._clock, self._sleep = clock, sleep
        self._start_s: Optional[float] = None
        self._tick = 0

    def wait(self) -> float:
        """Sleep until the next period begins (the first call returns at once).

        Returns:
            How late the wake-up was [s].
        """
        now_s = self._clock()
        if self._start_s is None:
            self._start_s = now_s
            return 0.0
        self._tick += 1
        # start + n * period, not a running sum: rounding does not add up over hours.
        next_s = self._start_s + self._tick * self._period_s
        if now_s > next_s:
            skipped = int((now_s - next_s) / self._period_s)
            self.misses += 1 + skipped
            self.misses_in_a_row += 1 + skipped
            self._tick += skipped
            next_s += skipped * self._period_s
        else:
            self.misses_in_a_row = 0
            while now_s < next_s:  # a sleep may return early
                self._sleep(next_s - now_s)
                now_s = self._clock()
        late_s = now_s - next_s
        self.lateness_counts[np.searchsorted(JITTER_EDGES_US, late_s * 1e6, side="right") - 1] += 1
        self.worst_lateness_s = max(self.worst_lateness_s, late_s)
        self.lateness_s.add(late_s)
        return late_s


def be_prompt(priority: int) -> bool:
    """Ask for real-time scheduling of this thread, and keep the garbage collector off what is there already.

    Threads and processes that it starts later are ordinary again.

    Args:
        priority: Among real-time threads, 1 ... 99.

    Returns:
        Whether the system agreed (Linux, as root or with the right to; otherwise nothing is different).
    """
    gc.collect()
    gc.freeze()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except (AttributeError, OSError):
        return False
    return True


def is_prompt() -> bool:
    """Whether this thread is scheduled in real time."""
    try:
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR)
    except (AttributeError, OSError):
        return False
