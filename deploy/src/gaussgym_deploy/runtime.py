"""The runtime: reads the robot, guards it, runs the policy, writes joint commands, 50 times a second.

One control step (:meth:`Runtime.control`) is the same in simulation and on a robot; only what paces it differs:
:meth:`Runtime.run` follows a clock in absolute time, lockstep (:mod:`gaussgym_deploy.sim2sim`) follows the robot's.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Callable, Deque, Dict, List, Optional, Union

import numpy as np

from .bundle import PolicyBundle
from .guards import Fault, GuardLimits, Guards
from .observation import ObservationBuilder
from .policy import Policy, replay_golden
from .robot_io import JointCommand, RobotIO, RobotState
from .states import Mode, StateMachine

__all__ = ["FixedRate", "RunLog", "RunReport", "Runtime"]

JITTER_EDGES_US = (0, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)


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
        return late_s


class RunLog:
    """JSON lines, one object an event: ``start``, ``mode``, ``fault``, ``tick``, ``end``.

    Args:
        path: File to write; None logs nowhere.

    Attributes:
        error: Why the log is not complete, or None.
    """

    def __init__(self, path: Union[str, Path, None]) -> None:
        self.error: Optional[str] = None
        self._file: Optional[IO[str]] = None if path is None else open(str(path), "w", encoding="utf-8")  # noqa: SIM115

    @property
    def active(self) -> bool:
        """Whether anything is written."""
        return self._file is not None

    def write(self, event: str, *, flush: bool = True, **values: Any) -> None:
        """Append one line.

        Args:
            event: Kind of event.
            flush: Hand it to the system at once (not for ticks: the disk must not pace the loop).
            values: Plain JSON.
        """
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"event": event, **values}) + "\n")
            if flush:
                self._file.flush()
        except OSError as error:  # a full disk must not stop the control loop
            self.error = f"the log ends early: {error.strerror}"
            self.close()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError as error:
                self.error = f"the log ends early: {error.strerror}"


@dataclass
class RunReport:
    """What happened during a run.

    Attributes:
        ticks: Control steps.
        ticks_by_mode: Control steps by mode name.
        fault: The latched fault, or None.
        deadline_misses: Control periods missed.
        lateness_counts: Wake-ups by lateness, bins of ``lateness_edges_us``.
        lateness_edges_us: Lower edges of the bins [µs].
        worst_lateness_ms: [ms].
        inference_ms: p50, p99 and max of the policy's time, camera encoder included [ms].
        interventions: Control steps that each limit changed.
        write_errors: Commands that could not be sent.
        log_error: Why the log is not complete, or None.
    """

    ticks: int = 0
    ticks_by_mode: Dict[str, int] = field(default_factory=dict)
    fault: Optional[str] = None
    deadline_misses: int = 0
    lateness_counts: List[int] = field(default_factory=list)
    lateness_edges_us: List[int] = field(default_factory=lambda: list(JITTER_EDGES_US))
    worst_lateness_ms: float = 0.0
    inference_ms: Dict[str, float] = field(default_factory=dict)
    interventions: Dict[str, int] = field(default_factory=dict)
    write_errors: int = 0
    log_error: Optional[str] = None


class Runtime:
    """A policy bundle on a robot.

    The golden trace is replayed first: a runtime whose arithmetic differs from the trainer's refuses to start.

    Args:
        bundle: What to run.
        robot: The link; closed by :meth:`run` (and by nobody else here).
        limits: Guard thresholds; default: the bundle's.
        damp_s: How long DAMP lasts before standing up [s].
        stand_s: How long standing up takes [s]; 0 with ``damp_s`` 0: the robot stands already and RUN begins in the first step.
        log: File for JSON lines.
        clock: Monotonic seconds.
        sleep: Sleeps for so many seconds.

    Attributes:
        machine: The state machine.
        guards: The guards.
        goal: The mode that the operator wants; RUN at first.
        inference_s: What the last (at most 65536) policy steps took [s].

    Raises:
        BundleError: When the networks do not fit the manifest or do not reproduce the golden trace.
    """

    def __init__(
        self,
        bundle: PolicyBundle,
        robot: RobotIO,
        *,
        limits: Optional[GuardLimits] = None,
        damp_s: float = 0.5,
        stand_s: float = 2.0,
        log: Union[str, Path, None] = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bundle, self.robot = bundle, robot
        self.guards = Guards(bundle, limits)
        self.machine = StateMachine(bundle, stand_s=stand_s)
        self.goal = Mode.RUN
        self.inference_s: Deque[float] = deque(maxlen=1 << 16)
        self._policy = Policy(bundle)
        self._observation = ObservationBuilder(bundle)
        replay_golden(bundle, self._policy).require_match(bundle)
        self._damp_s = damp_s
        self._clock, self._sleep = clock, sleep
        self._log = RunLog(log)
        self._report = RunReport(ticks_by_mode={mode.value: 0 for mode in Mode})
        joints = len(bundle.joint_names)
        self._command = JointCommand(np.zeros(joints), bundle.kp.copy(), bundle.kd.copy())
        self._stop: Optional[str] = None
        self._state = RobotState.zeros(joints)
        self.restart(0.0)

    def restart(self, now_s: float) -> None:
        """Begin anew: IDLE, no fault, hidden state and last action zero. For simulated episodes.

        Args:
            now_s: Current time [s].
        """
        self.machine.restart(now_s)
        self.guards.reset()
        self._begin_policy()
        self._last_t_s = -np.inf
        self._moved_s = now_s
        self._stop = None

    def stop(self, reason: str = "operator") -> None:
        """Emergency stop, from any thread or signal handler: latched damping from the next step on.

        Args:
            reason: For the log.
        """
        self._stop = reason

    def run(self, duration_s: Optional[float] = None, *, final_damp_s: float = 1.0) -> RunReport:
        """Run in real time until the time is over or Ctrl-C, then damp, then close the link.

        A fault does not end the loop: damping is sent again in every period until then.

        Args:
            duration_s: [s]; None: until interrupted.
            final_damp_s: How long damping is sent before the link closes [s].

        Returns:
            What happened.

        Raises:
            KeyboardInterrupt: After the final damping.
        """
        rate = FixedRate(self.bundle.control_dt_s, clock=self._clock, sleep=self._sleep)
        start_s = self._clock()
        self.restart(start_s)
        self._log.write(
            "start", robot=self.bundle.robot, policy=str(self.bundle.path), limits=self.guards.limits.__dict__
        )
        interrupted = False
        try:
            try:
                self._loop(rate, None if duration_s is None else start_s + duration_s)
            except KeyboardInterrupt:
                interrupted = True
            self.goal = Mode.DAMP
            self._loop(rate, self._clock() + final_damp_s)
        finally:
            self._send(self.machine.damping)
            self.robot.close()
            report = self.report(rate)
            self._log.write("end", **report.__dict__)
            self._log.close()
            report.log_error = self._log.error
        if interrupted:
            raise KeyboardInterrupt
        return report

    def _loop(self, rate: FixedRate, end_s: Optional[float]) -> None:
        while end_s is None or self._clock() < end_s:
            late_s = rate.wait()
            now_s = self._clock()
            if rate.misses_in_a_row >= self.guards.limits.deadline_misses:
                self._trip(
                    Fault("deadline", f"{rate.misses_in_a_row} control periods missed in a row"), now_s
                )
            try:
                state: Optional[RobotState] = self.robot.read()
            except Exception as error:  # whatever a link raises, damping must go on
                state = None
                self._trip(Fault("link", str(error) or type(error).__name__), now_s)
            self.control(state, now_s, late_s=late_s)

    def control(self, state: Optional[RobotState], now_s: float, *, late_s: float = 0.0) -> None:
        """One control step: check, change mode, compute, send.

        Args:
            state: The robot's newest state; None when it could not be read (damping is sent).
            now_s: Current time on the runtime's clock [s].
            late_s: How late this step began [s], for the log.
        """
        machine = self.machine
        if self._stop is not None:
            self._trip(Fault("estop", self._stop), now_s)
            self._stop = None
        if state is not None:
            self._state = state
            fault = self._check(state, now_s)
            if fault is not None:
                self._trip(fault, now_s)
            self._change_mode(state, now_s)
        command = machine.command(now_s)
        if machine.mode is Mode.RUN:
            # Without a readable state the link's fault is latched already, so that RUN implies a state.
            command = self._run_policy(self._state) or self._tripped_by_policy(now_s)
        if command is not None:
            self._send(command)
        self._count(now_s, late_s, command)

    def report(self, rate: Optional[FixedRate] = None) -> RunReport:
        """What happened so far."""
        report = self._report
        report.fault = None if self.machine.fault is None else str(self.machine.fault)
        report.interventions = dict(self.guards.interventions)
        if self.inference_s:
            times_ms = 1e3 * np.asarray(self.inference_s)
            p50, p99 = np.percentile(times_ms, [50, 99])
            report.inference_ms = {"p50": float(p50), "p99": float(p99), "max": float(times_ms.max())}
        if rate is not None:
            report.deadline_misses = rate.misses
            report.lateness_counts = rate.lateness_counts.tolist()
            report.worst_lateness_ms = 1e3 * rate.worst_lateness_s
        return report

    def _check(self, state: RobotState, now_s: float) -> Optional[Fault]:
        """All checks that the current mode asks for."""
        if state.t_s != self._last_t_s:
            self._last_t_s, self._moved_s = state.t_s, now_s
        self._age_s = now_s - self._moved_s
        fault = self.guards.check_link(state, self._age_s)
        if fault is None and self.machine.mode in (Mode.STAND, Mode.RUN):
            fault = self.guards.check_body(state)
        if fault is None and self.machine.mode is Mode.RUN:
            fault = self.guards.check_camera(state, self._age_s)
        return fault

    def _change_mode(self, state: RobotState, now_s: float) -> None:
        """Walk towards the operator's goal as far as this step allows."""
        machine = self.machine
        while machine.fault is None and machine.mode is not self.goal:
            mode = machine.mode
            if self.goal is Mode.DAMP or mode is Mode.IDLE:
                wanted = Mode.DAMP
            elif mode is Mode.DAMP and now_s - machine.entered_s >= self._damp_s:
                wanted = Mode.STAND
            elif (
                mode is Mode.STAND
                and self.goal is Mode.RUN
                and self.guards.check_camera(state, self._age_s) is None
            ):
                wanted = Mode.RUN
            else:
                return
            if machine.request(wanted, state, now_s) is not None:
                return
            self._log.write("mode", t_s=now_s, mode=machine.mode.value)
            fault = self.guards.check_body(state) if machine.mode is Mode.STAND else None
            if fault is not None:
                self._trip(fault, now_s)
            if machine.mode is Mode.RUN:
                self._begin_policy()

    def _begin_policy(self) -> None:
        self._policy.reset()
        self._observation.reset()
        self._seen_rgb_t_s = -np.inf
        self._policy_fault: Optional[Fault] = None

    def _run_policy(self, state: RobotState) -> Optional[JointCommand]:
        """Observation → networks → limited command; None when the policy failed (``_policy_fault`` says why)."""
        rgb = None
        if self._policy.needs_camera and state.rgb is not None and state.rgb_t_s != self._seen_rgb_t_s:
            self._seen_rgb_t_s = state.rgb_t_s
            rgb = state.rgb.transpose(2, 0, 1)
        proprio = self._observation.build(state)
        try:
            action = self._policy.act(proprio, rgb)
        except Exception as error:  # whatever the networks raise, the robot must be damped
            self._policy_fault = Fault("policy", " ".join(str(error).split())[:200])
            return None
        self.inference_s.append(self._policy.inference_s)
        self._policy_fault = self.guards.check_action(action)
        if self._policy_fault is not None:
            return None
        last_action = self._observation.last_action
        self.guards.limit_action(action, last_action)
        np.multiply(self.bundle.action_scale, last_action, out=self._command.q)
        self._command.q += self.bundle.default_joint_pos
        self.guards.limit_target(self._command.q, state)
        return self._command

    def _tripped_by_policy(self, now_s: float) -> Optional[JointCommand]:
        if self._policy_fault is not None:
            self._trip(self._policy_fault, now_s)
        return self.machine.command(now_s)

    def _trip(self, fault: Fault, now_s: float) -> None:
        if self.machine.fault is None:
            self._log.write(
                "fault", t_s=now_s, kind=fault.kind, detail=fault.detail, mode=self.machine.mode.value
            )
        self.machine.trip(fault, now_s)

    def _send(self, command: JointCommand) -> None:
        """Send; a link that fails here is reported by the next read, and must not stop the damping that follows."""
        try:
            self.robot.write(command)
        except OSError:
            self._report.write_errors += 1

    def _count(self, now_s: float, late_s: float, command: Optional[JointCommand]) -> None:
        self._report.ticks += 1
        self._report.ticks_by_mode[self.machine.mode.value] += 1
        if self._log.active:
            self._log.write(
                "tick",
                flush=False,
                t_s=round(now_s, 6),
                robot_t_s=round(float(self._state.t_s), 6),
                mode=self.machine.mode.value,
                late_ms=round(1e3 * late_s, 3),
                inference_ms=round(1e3 * self._policy.inference_s, 3),
                joint_pos=[round(value, 4) for value in self._state.joint_pos.tolist()],
                target=None if command is None else [round(value, 4) for value in command.q.tolist()],
            )
