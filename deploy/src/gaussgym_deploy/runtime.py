"""The runtime: reads the robot, guards it, runs the policy, writes joint commands, 50 times a second.

One control step (:meth:`Runtime.control`) is the same in simulation and on a robot; only what paces it differs:
:meth:`Runtime.run` follows a clock in absolute time, lockstep (:mod:`gaussgym_deploy.sim2sim`) follows the robot's.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

import numpy as np

from .bundle import PolicyBundle
from .camera import CameraThread, CameraWatch
from .guards import Fault, GuardLimits, Guards
from .log import RunLog
from .observation import ObservationBuilder
from .operator import CommandSource, OperatorCommand
from .policy import Policy, replay_golden
from .recorder import MODES, FlightRecorder
from .robot_io import JointCommand, RobotIO, RobotState, SupervisorGone
from .run_report import RunReport
from .scheduler import FixedRate, Samples, is_prompt
from .states import Mode, StateMachine

__all__ = ["RunReport", "Runtime"]

AFTERMATH_S = 1.0
"""So long after a fault the flight is written, with what followed in it [s]."""
STILL_RAD_S = 0.05
STILL_JOINT_RAD_S = 0.2
"""A base that turns and joints that move slower than this may leave the camera's picture as it is."""


class Runtime:
    """A policy bundle on a robot.

    The golden trace is replayed first: a runtime whose arithmetic differs from the trainer's refuses to start.

    Args:
        bundle: What to run.
        robot: The link; closed by :meth:`run` (and by nobody else here).
        operator: Who says where to go; default: the robot's own command holds. Closed by :meth:`run`.
        camera: Frames for a robot whose link carries none; started and closed by :meth:`run`. Default: the link's.
        limits: Guard thresholds; default: the bundle's.
        damp_s: How long DAMP lasts before standing up [s].
        stand_s: How long standing up takes [s]; 0 with ``damp_s`` 0: the robot stands already and RUN begins in the first step.
        log: File for JSON lines.
        flight: Folder for the flight recorder's last 60 s, written a second after a fault and at the end of :meth:`run`.
        clock: Monotonic seconds.
        sleep: Sleeps for so many seconds.

    Attributes:
        machine: The state machine.
        guards: The guards.
        watch: The camera's.
        goal: The mode that the operator wants; RUN at first.
        inference_s: What the policy steps took [s].
        recorder: The flight recorder, or None.
        last_action_raw: What the policy gave in its last step, not clipped, ``[J]``.

    Raises:
        BundleError: When the networks do not fit the manifest or do not reproduce the golden trace.
    """

    def __init__(
        self,
        bundle: PolicyBundle,
        robot: RobotIO,
        *,
        operator: Optional[CommandSource] = None,
        camera: Optional[CameraThread] = None,
        limits: Optional[GuardLimits] = None,
        damp_s: float = 0.5,
        stand_s: float = 2.0,
        log: Union[str, Path, None] = None,
        flight: Union[str, Path, None] = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bundle, self.robot = bundle, robot
        self.operator, self.camera = operator, camera
        self.guards = Guards(bundle, limits)
        self.watch = CameraWatch(bundle.camera, self.guards.limits)
        self.machine = StateMachine(bundle, stand_s=stand_s)
        self.goal = Mode.RUN
        self.inference_s, self._thread_s, self._frame_age_s = Samples(), Samples(), Samples()
        self._round_trip_s, self._forward_s = Samples(), Samples()
        self._policy = Policy(bundle)
        self._observation = ObservationBuilder(bundle)
        replay_golden(bundle, self._policy).require_match(bundle)
        self._damp_s = damp_s
        self._clock, self._sleep = clock, sleep
        self._log = RunLog(log)
        self.recorder = None if flight is None else FlightRecorder(bundle, flight, about=self._about(stand_s))
        self._save_s = np.inf
        self._report = RunReport(ticks_by_mode={mode.value: 0 for mode in Mode})
        joints = len(bundle.joint_names)
        self.last_action_raw = np.zeros(joints, dtype=np.float32)
        self._command = JointCommand(np.zeros(joints), bundle.kp.copy(), bundle.kd.copy())
        self._stop: Optional[str] = None
        self._alone = self._ending = self._finished = False
        self._unsent = 0
        self._last_goal = self.goal
        self._state = RobotState.zeros(joints)
        self.restart(0.0)

    def _about(self, stand_s: float) -> Dict[str, Any]:
        """What a replay must know beside the readings."""
        return {
            "limits": dict(self.guards.limits.__dict__),
            "damp_s": self._damp_s,
            "stand_s": stand_s,
            "operator": self.operator is not None,
            "camera_thread": self.camera is not None,
        }

    def restart(self, now_s: float) -> None:
        """Begin anew: IDLE, no fault, hidden state and last action zero. For simulated episodes.

        Args:
            now_s: Current time [s].
        """
        self.machine.restart(now_s)
        self.guards.reset()
        self.watch.reset()
        self._begin_policy()
        self._operator_alive = self.operator is None
        self._stop = None
        self._unsent = 0
        if self.recorder is not None:
            self.recorder.restart()

    def resume(
        self,
        row: Mapping[str, Any],
        inputs: Mapping[str, np.ndarray],
        state: RobotState,
        *,
        fault: Optional[Fault],
    ) -> None:
        """Go on behind a control step of a flight (:mod:`gaussgym_deploy.replay`).

        Args:
            row: That step's :data:`~gaussgym_deploy.recorder.FIELDS`.
            inputs: ``hidden``, ``feature`` and ``last_action`` of the next step.
            state: The state of that step, with its image.
            fault: The fault latched then.
        """
        now_s, mode = float(row["t_s"]), MODES[int(row["mode"])]
        self.restart(now_s)
        self.machine.resume(mode, float(row["entered_s"]), row["stand_from"], fault)
        running = mode is Mode.RUN
        self.guards.resume(
            state.t_s,
            now_s,
            float(row["state_age_s"]),
            row["target"] if mode in (Mode.STAND, Mode.RUN) else None,
        )
        self.watch.resume(state.rgb, state.rgb_t_s, now_s - float(row["frame_age_s"]))
        self._seen_frame = self.watch.number if running else 0
        if running:
            self._policy.resume(inputs["hidden"], inputs["feature"])
            self._observation.last_action[:] = inputs["last_action"]

    @property
    def proprio(self) -> np.ndarray:
        """What the policy saw last, float32 ``[1, P]``."""
        return self._observation.proprio

    def stop(self, reason: str = "operator") -> None:
        """Emergency stop, from any thread or signal handler: latched damping from the next step on.

        Args:
            reason: For the log.
        """
        self._stop = reason

    def finish(self) -> None:
        """End :meth:`run` after the current step, as if its time were over; from any thread."""
        self._finished = True

    def run(self, duration_s: Optional[float] = None, *, final_damp_s: float = 1.0) -> RunReport:
        """Run in real time until the time is over or Ctrl-C, then damp, then close the link.

        A fault does not end the loop: damping is sent again in every period until then. Only the supervisor's
        death ends it at once, since nobody is left who could send anything.

        Args:
            duration_s: [s]; None: until interrupted.
            final_damp_s: How long damping is sent before the link closes [s].

        Returns:
            What happened.

        Raises:
            KeyboardInterrupt: After the final damping.
        """
        rate = FixedRate(self.bundle.control_dt_s, clock=self._clock, sleep=self._sleep)
        if self.camera is not None:
            self.camera.start()
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
            self.goal, self._ending, self._finished = Mode.DAMP, True, False
            self._loop(rate, self._clock() + final_damp_s)
        finally:
            self._send(self.machine.damping)
            self._close()
            report = self.report(rate)
            if self.recorder is not None:
                self.recorder.save()
                report.flight_error = self.recorder.error
            self._log.write("end", **report.__dict__)
            self._log.close()
            report.log_error = self._log.error
        if interrupted:
            raise KeyboardInterrupt
        return report

    def _close(self) -> None:
        for part in (self.robot, self.operator, self.camera):
            if part is not None:
                part.close()

    def _loop(self, rate: FixedRate, end_s: Optional[float]) -> None:
        while not (self._alone or self._finished) and (end_s is None or self._clock() < end_s):
            late_s = rate.wait()
            start_s = time.thread_time()
            self._step(rate, late_s, self._clock())
            self._thread_s.add(time.thread_time() - start_s)
            self._report.steps_over_period += self._thread_s.newest > self.bundle.control_dt_s

    def _step(self, rate: FixedRate, late_s: float, now_s: float) -> None:
        """One paced control step, whatever is raised in it."""
        fault: Optional[Fault] = None
        state: Optional[RobotState] = None
        if rate.misses_in_a_row >= self.guards.limits.deadline_misses:
            fault = Fault("deadline", f"{rate.misses_in_a_row} control periods missed in a row")
        try:
            state = self.robot.read()
        except SupervisorGone as error:
            fault, self._alone = Fault("supervisor", str(error)), True
        except Exception as error:  # whatever a link raises, damping must go on
            fault = fault or Fault("link", str(error) or type(error).__name__)
        self.control(state, now_s, late_s=late_s, fault=fault)
        if state is not None:
            self._measure(state)

    def _measure(self, state: RobotState) -> None:
        """What the link says of its own speed."""
        for value_s, samples in (
            (state.round_trip_s, self._round_trip_s),
            (getattr(self.robot, "forward_s", np.nan), self._forward_s),
        ):
            if value_s == value_s:
                samples.add(value_s)

    def control(
        self, state: Optional[RobotState], now_s: float, *, late_s: float = 0.0, fault: Optional[Fault] = None
    ) -> None:
        """One control step: check, change mode, compute, send, remember. Raises nothing, whatever the readings.

        Args:
            state: The robot's newest state; None when it could not be read (damping is sent).
            now_s: Current time on the runtime's clock [s].
            late_s: How late this step began [s], for the log.
            fault: What went wrong outside of it.
        """
        if self._stop is not None:
            fault, self._stop = Fault("estop", self._stop), None
        if self._unsent >= self.guards.limits.unsent_commands:
            fault = fault or Fault("link", f"{self._unsent} commands in a row could not be sent")
        goal, acted = self.goal, tuple(self.guards.interventions.values())
        self._policy.inference_s = 0.0
        try:
            command = self._command_for(state, now_s, fault)
        except Exception as error:  # a reading that no guard foresaw must not end the loop that damps
            self._trip(
                Fault("internal", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"), now_s
            )
            command = self.machine.damping
        if command is not None:
            self._send(command)
        self._count(now_s, late_s, command)
        if self.recorder is not None:
            self._record(now_s, state is not None, fault, goal, acted, command, late_s)

    def _command_for(
        self, state: Optional[RobotState], now_s: float, fault: Optional[Fault]
    ) -> Optional[JointCommand]:
        """Check, change mode, compute; None where nothing is to be sent."""
        machine = self.machine
        if state is not None:
            self._state = state
            fault = fault or self._ask_operator(state, now_s) or self._check(state, now_s)
        if fault is not None:
            self._trip(fault, now_s)
        if state is not None:
            self._change_mode(state, now_s)
        command = machine.command(now_s)
        if machine.mode is Mode.STAND and command is not None:
            self.guards.begin_at(command.q)
        if machine.mode is Mode.RUN:
            # Without a readable state the link's fault is latched already, so that RUN implies a state.
            command = self._run_policy(self._state, now_s) or self._tripped_by_policy(now_s)
        return command

    def _record(
        self,
        now_s: float,
        readable: bool,
        fault: Optional[Fault],
        goal: Mode,
        acted: Tuple[int, ...],
        command: Optional[JointCommand],
        late_s: float,
    ) -> None:
        """Hand the step to the flight recorder, and let it write a second after a fault."""
        recorder = self.recorder
        assert recorder is not None
        recorder.step(
            now_s,
            self._state,
            readable=readable,
            state_age_s=self.guards.state_age_s(now_s),
            given_fault=fault,
            goal=goal,
            machine=self.machine,
            watch=self.watch,
            command=command,
            interventions=tuple(n - b for n, b in zip(self.guards.interventions.values(), acted)),
            late_s=late_s,
            inference_s=self._policy.inference_s,
        )
        if now_s >= self._save_s:
            self._save_s = np.inf
            recorder.save(wait=False)

    def report(self, rate: Optional[FixedRate] = None) -> RunReport:
        """What happened so far."""
        report = self._report
        report.real_time = is_prompt()
        report.fault = None if self.machine.fault is None else str(self.machine.fault)
        report.interventions = dict(self.guards.interventions)
        for name in ("inference", "thread", "frame_age", "round_trip", "forward"):
            samples = self.inference_s if name == "inference" else getattr(self, f"_{name}_s")
            setattr(report, f"{name}_ms", samples.summary(1e3))
        if self.camera is not None:
            report.camera = {
                "hz": 1.0 / self.camera.period_s,
                "latency_ms": 1e3 * self.camera.latency_s,
                "frames": self.camera.frames,
                "error": self.camera.error,
            }
        if rate is not None:
            report.deadline_misses = rate.misses
            report.lateness_counts = rate.lateness_counts.tolist()
            report.worst_lateness_ms = 1e3 * rate.worst_lateness_s
            report.lateness_ms = rate.lateness_s.summary(1e3)
        return report

    def _ask_operator(self, state: RobotState, now_s: float) -> Optional[Fault]:
        """Take the operator's command, mode and sign of life; the fault if they say or deserve one."""
        if self.operator is None:
            return None
        wish: Optional[OperatorCommand] = None
        fault: Optional[Fault] = None
        try:
            wish = self.operator.read(state, now_s)
            goal = self._last_goal if wish.mode is None else Mode(wish.mode)
            state.command[:] = wish.velocity
        except Exception as error:  # whatever a gamepad's driver raises, the robot must be damped
            fault, wish = Fault("operator", " ".join(str(error).split())[:200] or type(error).__name__), None
        if self.recorder is not None:
            self.recorder.operator(wish, fault)
        if wish is None:
            return fault
        if goal is not self._last_goal and not self._ending:
            self.goal = self._last_goal = goal
        if wish.stop is not None:
            return Fault("estop", wish.stop)
        return self._check_operator(state, now_s - wish.alive_s)

    def _check_operator(self, state: RobotState, age_s: float) -> Optional[Fault]:
        limit_s = self.guards.limits.operator_age_s
        self._operator_alive = age_s <= limit_s
        if self._operator_alive:
            return None
        state.command[:] = 0.0
        if self.machine.mode in (Mode.STAND, Mode.RUN):
            return Fault("operator", f"last sign of life {age_s:.3f} s ago, at most {limit_s:g} s")
        return None

    def _check(self, state: RobotState, now_s: float) -> Optional[Fault]:
        """All checks that the current mode asks for."""
        guards, mode = self.guards, self.machine.mode
        fault = guards.check_clock(state.t_s, now_s)
        age_s = guards.state_age_s(now_s)
        fault = fault or guards.check_link(state, age_s)
        if fault is None:
            self._look(state, age_s, now_s)
            if mode in (Mode.STAND, Mode.RUN):
                fault = guards.check_body(state)
        if fault is None and mode is Mode.RUN:
            fault = self._check_camera(now_s)
        return fault

    def _look(self, state: RobotState, state_age_s: float, now_s: float) -> None:
        """Show a new frame to the camera's watch."""
        rgb, stamp, age_s = state.rgb, state.rgb_t_s, state.t_s - state.rgb_t_s + state_age_s
        if self.camera is not None:
            frame = self.camera.latest()
            if frame is None:
                return
            rgb, stamp, age_s = frame.rgb, frame.t_s, now_s - frame.t_s
        if rgb is None or not stamp > self.watch.stamp:
            return
        turns, moves = np.abs(state.ang_vel_b).max(), np.abs(state.joint_vel).max()
        if self.recorder is not None:
            self.recorder.frame(rgb)
        self.watch.show(
            rgb, stamp, age_s, now_s, moving=bool(turns > STILL_RAD_S or moves > STILL_JOINT_RAD_S)
        )

    def _check_camera(self, now_s: float) -> Optional[Fault]:
        fault = self.watch.check(now_s)
        if fault is None or self.camera is None or not self.camera.error:
            return fault
        return Fault(fault.kind, f"{fault.detail} ({self.camera.error})")

    def _change_mode(self, state: RobotState, now_s: float) -> None:
        """Walk towards the operator's goal as far as this step allows."""
        machine = self.machine
        while machine.fault is None and machine.mode is not self.goal:
            mode = machine.mode
            if self.goal is Mode.IDLE and mode is Mode.DAMP:
                wanted = Mode.IDLE
            elif self.goal in (Mode.DAMP, Mode.IDLE) or mode in (Mode.IDLE, Mode.RUN):
                wanted = Mode.DAMP  # there is no way from RUN to STAND but this one
            elif mode is Mode.DAMP and now_s - machine.entered_s >= self._damp_s and self._operator_alive:
                wanted = Mode.STAND
            elif mode is Mode.STAND and self.goal is Mode.RUN and self.watch.check(now_s) is None:
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
        self._seen_frame = 0
        self._policy_fault: Optional[Fault] = None

    def _run_policy(self, state: RobotState, now_s: float) -> Optional[JointCommand]:
        """Observation → networks → limited command; None when the policy failed (``_policy_fault`` says why)."""
        rgb = None
        if self._policy.needs_camera:
            self._frame_age_s.add(self.watch.age_s(now_s))
            if self.watch.number != self._seen_frame:
                self._seen_frame = self.watch.number
                rgb = self.watch.rgb.transpose(2, 0, 1)
        proprio = self._observation.build(state)
        if self.recorder is not None:
            self.recorder.inputs(self._policy, self._observation.last_action, proprio)
        try:
            action = self._policy.act(proprio, rgb)
            self._policy_fault = self.guards.check_action(action)
        except Exception as error:  # whatever the networks raise, the robot must be damped
            self._policy_fault = Fault("policy", " ".join(str(error).split())[:200] or type(error).__name__)
        if self._policy_fault is not None:
            return None
        self.inference_s.add(self._policy.inference_s)
        self.last_action_raw[:] = action
        if self.recorder is not None:
            self.recorder.action(action)
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
            self._save_s = now_s + AFTERMATH_S
            self._log.write(
                "fault", t_s=now_s, kind=fault.kind, detail=fault.detail, mode=self.machine.mode.value
            )
        self.machine.trip(fault, now_s)

    def _send(self, command: JointCommand) -> None:
        """Send; a link that fails here is reported by the next read, and must not stop the damping that follows."""
        try:
            self.robot.write(command)
            self._unsent = 0
        except Exception:  # whatever a link raises, damping must go on
            self._report.write_errors += 1
            self._unsent += 1

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
