"""What a run reports when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Union

from .scheduler import JITTER_EDGES_US

__all__ = ["RunReport"]


@dataclass
class RunReport:
    """What happened during a run.

    Attributes:
        ticks: Control steps.
        real_time: Whether the control thread was scheduled in real time.
        ticks_by_mode: Control steps by mode name.
        fault: The latched fault, or None.
        deadline_misses: Control periods missed.
        lateness_counts: Wake-ups by lateness, bins of ``lateness_edges_us``.
        lateness_edges_us: Lower edges of the bins [µs].
        worst_lateness_ms: [ms].
        lateness_ms: p50, p99 and max of how late wake-ups were [ms].
        thread_ms: p50, p99 and max of a step's thread-CPU time, reading and sending included [ms].
        steps_over_period: Steps whose thread-CPU time exceeded the control period: misses that are this program's own.
        inference_ms: p50, p99 and max of the policy's time, camera encoder included [ms].
        interventions: Control steps that each limit changed.
        write_errors: Commands that could not be sent.
        frame_age_ms: p50, p99 and max of the age of the frame that the policy used, in every step of RUN [ms].
        camera: Rate [1/s], latency [ms], frames and last error of the camera's thread; empty without one.
        round_trip_ms: p50, p99 and max from a command to the first state that knows of it, as the link measures it [ms].
        forward_ms: p50, p99 and max of a command's way through the supervisor [ms]; empty without one.
        log_error: Why the log is not complete, or None.
        flight_error: Why the flight is not written, or None.
    """

    ticks: int = 0
    real_time: bool = False
    ticks_by_mode: Dict[str, int] = field(default_factory=dict)
    fault: Optional[str] = None
    deadline_misses: int = 0
    lateness_counts: List[int] = field(default_factory=list)
    lateness_edges_us: List[int] = field(default_factory=lambda: list(JITTER_EDGES_US))
    worst_lateness_ms: float = 0.0
    lateness_ms: Dict[str, float] = field(default_factory=dict)
    thread_ms: Dict[str, float] = field(default_factory=dict)
    steps_over_period: int = 0
    inference_ms: Dict[str, float] = field(default_factory=dict)
    interventions: Dict[str, int] = field(default_factory=dict)
    write_errors: int = 0
    frame_age_ms: Dict[str, float] = field(default_factory=dict)
    camera: Dict[str, Union[float, str]] = field(default_factory=dict)
    round_trip_ms: Dict[str, float] = field(default_factory=dict)
    forward_ms: Dict[str, float] = field(default_factory=dict)
    log_error: Optional[str] = None
    flight_error: Optional[str] = None
