"""The runtime's side of a trial, in virtual and in real time: up on its feet, the fault, and what the runtime makes of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from ..bundle import PolicyBundle
from ..camera import CameraThread
from ..guards import Fault
from ..log import RunLog
from ..robot_io import RobotIO
from ..runtime import Runtime
from ..scheduler import FixedRate
from ..states import Mode
from ..supervisor import InProcessLink
from .actors import ScriptedOperator, SpoiltPolicy
from .injection import Injection
from .table import allowed_s
from .trials import AFTER_DAMP_S, AFTER_RIDE_S

__all__ = ["Conductor", "Outcome"]

DAMP_S, STAND_S = 0.04, 0.3
"""A short way to RUN [s]."""
SETTLE_S, WINDOW_S = 0.03, 0.22
"""Faults begin so long after a mode has begun, and within so long from then on [s]."""
FULL_DISK = "/dev/full"
"""Every write to it fails for want of space (Linux)."""
PATIENCE_S = 3.0
"""A trial whose mode does not come within so long is not one [s]."""


@dataclass
class Outcome:
    """What the runtime's side saw.

    Attributes:
        start_s: When the fault began [s]; infinity: it never came to that.
        end_s: When the trial ended [s].
        ready: Whether the robot was in the mode in which the fault should fall, without a fault.
        why: Why it was not.
        moment: When in the control period the fault began, 0 ... 1.
        causes: Faults that the runtime latched, ``kind: detail``, from its log.
        held: See :class:`~.trials.Observed`.
        end_mode: Mode at the end.
        runs: Whether the policy still acted at the end.
        exceptions: What the runtime raised.
    """

    start_s: float = float("inf")
    end_s: float = 0.0
    ready: bool = False
    why: str = ""
    moment: float = 0.0
    causes: List[str] = field(default_factory=list)
    held: bool = False
    end_mode: str = ""
    runs: bool = False
    exceptions: List[str] = field(default_factory=list)

    def to_dict(self) -> Dict[str, Any]:
        """Plain JSON (``start_s`` must be finite)."""
        return asdict(self)


class MemoryLog:
    """A run log that keeps faults."""

    active = False

    def __init__(self) -> None:
        self.faults: List[str] = []
        self.error: Optional[str] = None

    def write(self, event: str, **values: object) -> None:
        """Keep what matters here."""
        if event == "fault":
            self.faults.append(f"{values.get('kind')}: {values.get('detail')}")

    def close(self) -> None:
        """Nothing to close."""


class Conductor:
    """A runtime that is taken through trials, one after the other.

    Args:
        bundle: The policy.
        clock: Seconds; the clock of the trials.
        sleep: Sleeps on it.
        camera: Frames for a robot whose link carries none.

    Attributes:
        runtime: The real one.
        policy: Stands in for its networks.
        operator: Who can be lost.
        misbehave: Called once when the fault begins, from the runtime's own loop (a process that hangs, ends, is busy).
    """

    def __init__(
        self,
        bundle: PolicyBundle,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        camera: Optional[CameraThread] = None,
    ) -> None:
        self.bundle = bundle
        self._clock, self._sleep = clock, sleep
        self.operator = ScriptedOperator(clock)
        self.runtime = Runtime(
            bundle, InProcessLink(len(bundle.joint_names)), damp_s=DAMP_S, stand_s=STAND_S, operator=self.operator,
            camera=camera, clock=clock, sleep=sleep,
        )  # fmt: skip
        self.policy = SpoiltPolicy(self.runtime._policy, clock, sleep)
        self.runtime._policy = self.policy  # type: ignore[assignment]
        self.misbehave: Callable[[Injection], None] = lambda injection: None
        self._rate = FixedRate(bundle.control_dt_s, clock=clock, sleep=sleep)
        self._outcome = Outcome()
        self._log: Union[MemoryLog, RunLog] = MemoryLog()
        self._before: Tuple[Mode, Optional[Fault]] = (Mode.IDLE, None)

    def conduct(
        self,
        link: RobotIO,
        injection: Injection,
        mode: Mode,
        *,
        delay: float,
        began: Callable[[float], None] = lambda start_s: None,
        over: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """One trial, from IDLE to its end.

        Args:
            link: The runtime's link to the supervisor, with a first state in it.
            injection: The fault; gets its ``start_s`` here.
            mode: In which mode it shall fall.
            delay: When after the mode has begun, 0 ... 1 of :data:`WINDOW_S`.
            began: Called with ``start_s`` as soon as that is known, at least :data:`SETTLE_S` before.
            over: Called when the fault must end (trials of ``hold``).
        """
        self._begin(link, injection)
        outcome, runtime, clock = self._outcome, self.runtime, self._clock
        expected = injection.kind.expected(mode.value)
        if expected == "hold":
            runtime.goal = Mode.STAND
        if not self._reach(mode):
            return self._sum_up()
        began_s = clock()
        start_s = began_s + SETTLE_S + delay * WINDOW_S
        outcome.start_s = injection.start_s = start_s
        outcome.moment = ((start_s - began_s) / self.bundle.control_dt_s) % 1.0
        began(start_s)
        self._go(start_s, until_fault=True)
        outcome.ready = self._before == (mode, None)
        outcome.why = "" if outcome.ready else f"mode {self._before[0].value}, fault {self._before[1]}"
        if outcome.ready:
            self._suffer(injection, expected or "damp", over)
        return self._sum_up()

    def _begin(self, link: RobotIO, injection: Injection) -> None:
        runtime = self.runtime
        self._outcome = Outcome()
        self.operator.injection = self.policy.injection = injection
        # With an operator the robot's own command is nobody's business.
        runtime.operator = None if injection.kind.name == "nan_command" else self.operator
        runtime.robot, runtime.goal = link, Mode.RUN
        self._log = MemoryLog()
        runtime._log = self._log  # type: ignore[assignment]
        self._rate = FixedRate(self.bundle.control_dt_s, clock=self._clock, sleep=self._sleep)
        runtime.restart(self._clock())

    def _reach(self, mode: Mode) -> bool:
        end_s = self._clock() + PATIENCE_S
        machine = self.runtime.machine
        while machine.mode is not mode:
            self._step()
            if self._clock() > end_s or machine.fault is not None or self._outcome.exceptions:
                fault = (
                    machine.fault
                    or "; ".join(self._outcome.exceptions)
                    or f"no {mode.value} within {PATIENCE_S:g} s"
                )
                self._outcome.why = str(fault)
                return False
        return True

    def _suffer(self, injection: Injection, expected: str, over: Callable[[], None]) -> None:
        runtime, dt = self.runtime, self.bundle.control_dt_s
        if injection.kind.name == "log_disk_full":
            runtime._log = RunLog(FULL_DISK)
        self.misbehave(injection)
        allowed = allowed_s(injection.kind, runtime.guards.limits, dt)
        if expected == "damp":
            self._go(injection.start_s + allowed + AFTER_DAMP_S)
            return
        if expected == "hold":
            # The fault becomes known, then the operator asks to run: it must not, until the fault is over.
            self._go(injection.start_s + allowed + 0.1)
            runtime.goal = Mode.RUN
            self._go(self._clock() + 0.2)
            self._outcome.held = runtime.machine.mode is Mode.STAND
            over()
        else:
            self._go(injection.start_s + AFTER_RIDE_S)
        self._walk()

    def _walk(self) -> None:
        """It runs, or gets there, and the policy acts."""
        end_s = self._clock() + PATIENCE_S
        while (
            self.runtime.machine.mode is not Mode.RUN
            and self._clock() < end_s
            and not self._outcome.exceptions
        ):
            self._step()
        steps = self.policy.steps
        self._go(self._clock() + AFTER_RIDE_S)
        # A busy machine may eat some steps of real time.
        self._outcome.runs = self.policy.steps > steps + 0.6 * AFTER_RIDE_S / self.bundle.control_dt_s

    def _go(self, end_s: float, *, until_fault: bool = False) -> None:
        """Let the runtime step until a time; ``until_fault``: as long as the next step still lies before it."""
        while self._clock() < end_s:
            if until_fault and self._clock() + self.bundle.control_dt_s >= end_s:
                self._before = (self.runtime.machine.mode, self.runtime.machine.fault)
                return
            self._step()

    def _step(self) -> None:
        """One control step; a runtime that raises is dead from then on, and the world goes on without it."""
        if self._outcome.exceptions:
            self._sleep(self.bundle.control_dt_s)
            return
        try:
            # Long enough to be entered in real time, too short for a second step.
            self.runtime._loop(self._rate, self._clock() + 1e-4)
        except Exception as error:
            self._outcome.exceptions.append(f"the runtime raised {type(error).__name__}: {error}")

    def _sum_up(self) -> Outcome:
        outcome, machine = self._outcome, self.runtime.machine
        outcome.end_s = self._clock()
        outcome.causes = self._log.faults if isinstance(self._log, MemoryLog) else []
        if not outcome.causes and machine.fault is not None:
            outcome.causes = [f"latched without a word in the log: {machine.fault}"] * (
                self.runtime._log is self._log
            )
            outcome.causes = outcome.causes or [str(machine.fault)]
        outcome.end_mode = machine.mode.value
        return outcome
