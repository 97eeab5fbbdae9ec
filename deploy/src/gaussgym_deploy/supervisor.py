"""The supervisor: the only writer of commands, between the runtime and the robot.

::

    runtime ──command──▶ last check ──▶ robot link ──▶ robot        every command is checked once more
            ◀──state────            ◀──                             every new state goes on at once

It forwards what passes the last check, and damps when the runtime falls silent, dies, sends something that must not be
sent, or when the robot's own state stands still. Damping is then latched and sent again in every step, whatever comes back.
In ``gaussgym-deploy run`` it lives in a process of its own (:mod:`gaussgym_deploy.supervisor_process`), which a kill or a stop
of the runtime does not reach; here is its logic, on whatever clock calls :meth:`Supervisor.step`, and :class:`InProcessLink`
to run it beside a runtime on a clock that obeys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Protocol

import numpy as np

from .bundle import PolicyBundle
from .guards import Fault, GuardLimits
from .robot_io import DAMPING_KD, JointCommand, LinkError, RobotIO, RobotState

__all__ = ["CommandCheck", "InProcessLink", "RuntimeEnd", "Supervisor", "SupervisorCfg"]

ROUNDING = 1e-6
"""A command at its limit may lie beyond it by rounding [rad, N·m/rad]."""
OVERSLEPT_S = 0.005
"""A step later than this was held up: by a machine that stood still, on which the runtime could not speak either [s]."""


@dataclass(frozen=True)
class SupervisorCfg:
    """How the supervisor watches.

    Attributes:
        rate_hz: Steps per second of the process.
        heartbeat_periods: Control periods without a new command after which it damps: one late command rides through.
            Time in which the supervisor itself was held up does not count, as long as the silence stays below ``state_age_s``.
        final_damp_s: After the runtime's normal end it damps so long before it lets go of the robot [s].
        hold_s: After the death or silence of a runtime that had sent commands it damps so long [s].
        attach_timeout_s: How long it waits for the runtime at first [s].
        dry_run: Nothing is ever sent to the robot; everything else is as always.
    """

    rate_hz: float = 500.0
    heartbeat_periods: float = 2.0
    final_damp_s: float = 0.5
    hold_s: float = 60.0
    attach_timeout_s: float = 30.0
    dry_run: bool = False


class RuntimeEnd(Protocol):
    """The supervisor's end of the wire to the runtime."""

    def latest_command(self) -> Optional[JointCommand]:
        """The newest command that was not taken yet, or None; never blocks."""
        ...

    def publish(self, state: RobotState) -> None:
        """Hand a state to the runtime."""
        ...

    @property
    def runtime_closed(self) -> bool:
        """Whether the runtime ended normally."""
        ...

    @property
    def runtime_gone(self) -> bool:
        """Whether the runtime ended, normally or not."""
        ...


class CommandCheck:
    """The last check of a command: finite, targets and gains within what the bundle allows.

    A target is bound by the joint's limits and ``target_margin_rad`` where it is stiff (where ``kp`` is 0 it does nothing). Gains
    lie between 0 and the bundle's; damping may reach the damping command's.

    Args:
        bundle: Joint limits and gains.
        limits: Thresholds; default: the bundle's.
    """

    def __init__(self, bundle: PolicyBundle, limits: Optional[GuardLimits] = None) -> None:
        limits = limits or GuardLimits.of(bundle.guards)
        self._names = bundle.joint_names
        margin = limits.target_margin_rad + ROUNDING
        self._lower = bundle.joint_pos_limit[:, 0] - margin
        self._upper = bundle.joint_pos_limit[:, 1] + margin
        self._kp = bundle.kp + ROUNDING
        self._kd = np.maximum(bundle.kd, DAMPING_KD) + ROUNDING
        self._good, self._fits = (np.zeros(len(bundle.joint_names), dtype=bool) for _ in range(2))

    def __call__(self, command: JointCommand) -> Optional[Fault]:
        """Why the command must not be sent, or None.

        Args:
            command: What the runtime wants to send.
        """
        good, fits = self._good, self._fits
        # Comparisons with NaN are false, so that what is not a number fails them all.
        np.less_equal(self._lower, command.q, out=good)
        good &= np.less_equal(command.q, self._upper, out=fits)
        np.equal(command.kp, 0.0, out=fits)
        fits &= np.isfinite(command.q)
        good |= fits
        good &= np.less_equal(0.0, command.kp, out=fits)
        good &= np.less_equal(command.kp, self._kp, out=fits)
        good &= np.less_equal(0.0, command.kd, out=fits)
        good &= np.less_equal(command.kd, self._kd, out=fits)
        if good.all():
            return None
        joint = int(np.argmin(good))
        return Fault(
            "bad_command",
            f"{self._names[joint]}: q {command.q[joint]:.3g} rad, kp {command.kp[joint]:.3g}, kd {command.kd[joint]:.3g};"
            f" expected q {self._lower[joint]:.2f} ... {self._upper[joint]:.2f}, kp at most {self._kp[joint]:.4g},"
            f" kd at most {self._kd[joint]:.3g}",
        )


class Supervisor:
    """Checks and forwards commands, hands states on, damps (latched) when something is wrong.

    Nothing is sent before the runtime's first command, not even damping: until then the robot is in its own hands.

    Args:
        bundle: Joint limits, gains, control rate.
        robot: The link; the supervisor is its only writer.
        wire: The runtime's end.
        limits: Thresholds; default: the bundle's.
        cfg: How it watches.

    Attributes:
        fault: The latched fault, or None. Kinds: ``heartbeat``, ``runtime_gone``, ``bad_command``, ``state_age``,
            ``state_shape`` (does not fit the wire), ``link``.
        write_errors: Commands that the link refused.
        forwarded: Commands forwarded (in a dry run: that would have been).
        finished: Whether the robot may be let go: it was damped for long enough after the runtime's end.
    """

    def __init__(
        self,
        bundle: PolicyBundle,
        robot: RobotIO,
        wire: RuntimeEnd,
        *,
        limits: Optional[GuardLimits] = None,
        cfg: Optional[SupervisorCfg] = None,
    ) -> None:
        self.cfg = cfg or SupervisorCfg()
        self.fault: Optional[Fault] = None
        self.write_errors = self.forwarded = 0
        self.finished = False
        self._robot, self._wire = robot, wire
        self._limits = limits or GuardLimits.of(bundle.guards)
        self._check = CommandCheck(bundle, self._limits)
        joints = len(bundle.joint_names)
        self._blank = RobotState.zeros(joints)
        self._damping = JointCommand(np.zeros(joints), np.zeros(joints), np.full(joints, DAMPING_KD))
        self._silence_s = self.cfg.heartbeat_periods * bundle.control_dt_s
        self._command_s: Optional[float] = None  # of the last command; None before the first
        self._now_s: Optional[float] = None  # of the running step; None before the first
        self._held_up_s = 0.0  # of the silence since the last command
        self._unsent_s: Optional[float] = None  # since when the link refuses every command
        self._unsent = ""
        self._last_t_s = float("nan")
        self._moved_s: Optional[float] = None  # when t_s was last seen to change; None before the first state
        self._ended_s: Optional[float] = None  # since when the runtime is gone
        self._state: Optional[RobotState] = None
        self._published: object = None

    def step(self, now_s: float) -> None:
        """One step: read the robot, take the newest command, judge, send, hand the state on.

        Args:
            now_s: Current time [s].
        """
        late_s = 0.0 if self._now_s is None else now_s - self._now_s - 1.0 / self.cfg.rate_hz
        self._held_up_s += late_s if late_s > OVERSLEPT_S else 0.0
        self._now_s = now_s
        self._read(now_s)
        command = self._wire.latest_command()
        if command is not None:
            self._command_s, self._held_up_s = now_s, 0.0
            if self.fault is None:
                fault = self._check(command)
                if fault is not None:
                    self.trip(fault)
        self._watch(now_s)
        if self._command_s is None:
            pass
        elif self.fault is not None or self._ended_s is not None:
            self._send(self._damping)
        elif command is not None:
            self.forwarded += 1
            self._send(command)
        self._publish()

    def trip(self, fault: Fault) -> None:
        """Latch a fault; the first one stays.

        Args:
            fault: What happened.
        """
        if self.fault is None:
            self.fault = fault

    def damp(self) -> None:
        """Send damping now, outside of :meth:`step` (the process is told to end)."""
        self._send(self._damping)

    def _read(self, now_s: float) -> None:
        try:
            state = self._robot.read()
        except Exception as error:  # whatever a link raises, damping must go on
            self.trip(Fault("link", str(error) or type(error).__name__))
            return
        # Compared with what was copied: links may hand out the same object every time.
        if self._moved_s is None or state.t_s != self._last_t_s:
            self._last_t_s, self._moved_s = state.t_s, now_s
        self._state = state

    def _watch(self, now_s: float) -> None:
        """Trip on silence, death and stale states; notice the runtime's end."""
        if self._ended_s is None and self._wire.runtime_gone:
            self._ended_s = now_s
            if not self._wire.runtime_closed:
                self.trip(Fault("runtime_gone", "the runtime died without closing the link"))
        if self._command_s is None:
            self.finished = self._ended_s is not None
            return
        silent_s = now_s - self._command_s
        # A machine that stood still wakes all processes at once: the runtime is owed the time that nobody had.
        patience_s = min(self._silence_s + self._held_up_s, max(self._silence_s, self._limits.state_age_s))
        if self._ended_s is None and not silent_s <= patience_s:
            self.trip(Fault("heartbeat", f"no command for {silent_s:.3f} s, at most {patience_s:.3f} s"))
        if self._unsent_s is not None and not now_s - self._unsent_s <= self._silence_s:
            self.trip(
                Fault("link", f"no command could be sent for {now_s - self._unsent_s:.3f} s ({self._unsent})")
            )
        if self._moved_s is not None and not now_s - self._moved_s <= self._limits.state_age_s:
            age_s = now_s - self._moved_s
            self.trip(
                Fault("state_age", f"state is {age_s:.3f} s old, at most {self._limits.state_age_s:g} s")
            )
        if self._ended_s is not None and self._wire.runtime_closed:
            self.finished = now_s - self._ended_s >= self.cfg.final_damp_s
        else:
            self.finished = silent_s >= self.cfg.hold_s

    def _send(self, command: JointCommand) -> None:
        if self.cfg.dry_run:
            return
        try:
            self._robot.write(command)
            self._unsent_s = None
        except Exception as error:  # the next damping must go out
            self.write_errors += 1
            self._unsent = str(error) or type(error).__name__
            self._unsent_s = self._now_s if self._unsent_s is None else self._unsent_s

    def _publish(self) -> None:
        """Hand on a state that differs from the last one."""
        state = self._state
        if state is None:
            return
        state.supervisor_fault = "" if self.fault is None else str(self.fault)
        shown = (
            state.t_s, state.rgb_t_s, state.corrupt, state.out_of_order, state.rival_writers, state.supervisor_fault,
        )  # fmt: skip
        if shown != self._published:
            self._published = shown
            try:
                self._wire.publish(state)
            except Exception as error:  # a state that does not fit the wire
                self.trip(Fault("state_shape", " ".join(str(error).split())[:100]))
                self._wire.publish(replace(self._blank, t_s=state.t_s, supervisor_fault=str(self.fault)))


class InProcessLink:
    """The wire between a runtime and a supervisor in one process: both ends in one object.

    The runtime sees a :class:`RobotIO`, the supervisor a :class:`RuntimeEnd`. Somebody must call ``Supervisor.step`` between the
    runtime's steps (:meth:`gaussgym_deploy.testing.FakeClock.every`).

    Args:
        num_joints: Number of joints.

    Attributes:
        runtime_closed: Whether the runtime closed its end.
        runtime_gone: Set it to play a runtime that died.
    """

    def __init__(self, num_joints: int) -> None:
        self.runtime_closed = self.runtime_gone = False
        self._command = JointCommand.zeros(num_joints)
        self._fresh = False
        self._state: Optional[RobotState] = None

    def read(self) -> RobotState:
        """The newest state that the supervisor published.

        Raises:
            LinkError: Before the first.
        """
        if self._state is None:
            raise LinkError("the supervisor has not published any state yet")
        return self._state

    def write(self, command: JointCommand) -> None:
        """Hand a command to the supervisor; it is copied."""
        self._command.q[:] = command.q
        self._command.kp[:] = command.kp
        self._command.kd[:] = command.kd
        self._fresh = True

    def close(self) -> None:
        """The runtime's normal end."""
        self.runtime_closed = self.runtime_gone = True

    def latest_command(self) -> Optional[JointCommand]:
        """See :class:`RuntimeEnd`."""
        fresh, self._fresh = self._fresh, False
        return self._command if fresh else None

    def publish(self, state: RobotState) -> None:
        """See :class:`RuntimeEnd`; the state is not copied."""
        self._state = state
