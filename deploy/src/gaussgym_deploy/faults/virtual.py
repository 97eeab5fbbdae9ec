"""Trials in virtual time: the real runtime and the real supervisor in one process, on a clock that moves when they sleep.

A robot of numpy (``bench``) or of MuJoCo (``sim``, a process in lockstep) stands behind a :class:`~.inject.Tap`. Nothing waits,
so that a trial of a second takes a few hundredths, and what a busy machine does to real time cannot disturb it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Optional, Protocol, Tuple

import numpy as np

from ..bundle import PolicyBundle
from ..guards import Fault
from ..log import RunLog
from ..processes import new_name
from ..robot_io import DAMPING_KD, BenchRobot, JointCommand, LinkError, RobotIO, RobotState
from ..robot_process import RobotProcess, check_robot, robot_command
from ..runtime import Runtime
from ..scheduler import FixedRate
from ..shared_memory import SharedMemoryRobot
from ..simulated_robot import SimulatedRobotCfg
from ..states import Mode
from ..supervisor import InProcessLink, Supervisor, SupervisorCfg
from ..testing import FakeClock
from .inject import Injection, ScriptedOperator, SpoiltPolicy, Tap, copy_state
from .table import FaultKind, allowed_s
from .trials import AFTER_DAMP_S, AFTER_RIDE_S, Observed, Trial, judge

__all__ = ["BenchSource", "RobotSource", "SteppedRobot", "VirtualRig"]

DAMP_S, STAND_S = 0.04, 0.3
"""A short way to RUN [s]."""
SETTLE_S, WINDOW_S = 0.03, 0.22
"""Faults begin so long after a mode has begun, and within so long from then on [s]."""
FULL_DISK = "/dev/full"
"""Every write to it fails for want of space (Linux)."""
TRIES = 20
"""How often a trial is begun anew when the robot trips by itself before the fault."""
PATIENCE_S = 3.0
"""A trial whose mode does not come within so long is not one [s]."""


class RobotSource(Protocol):
    """Where the robots of trials come from."""

    def fresh(self, clock: Callable[[], float], generator: np.random.Generator) -> RobotIO:
        """A robot on its feet, on this clock."""
        ...

    def close(self) -> None:
        """Let go of processes."""
        ...


class BenchSource:
    """Bench robots near the default pose.

    Args:
        bundle: Joint limits, pose, camera.
    """

    def __init__(self, bundle: PolicyBundle) -> None:
        self._bundle = bundle

    def close(self) -> None:
        """Nothing to let go of."""

    def fresh(self, clock: Callable[[], float], generator: np.random.Generator) -> RobotIO:
        """See :class:`RobotSource`."""
        bundle, camera = self._bundle, self._bundle.camera
        joints = len(bundle.joint_names)
        return BenchRobot(
            joints,
            torque_limit=bundle.torque_limit,
            start_joint_pos=bundle.default_joint_pos + generator.uniform(-0.1, 0.1, joints),
            joint_pos_limit=bundle.joint_pos_limit,
            camera_size_wh=None if camera is None else (camera.width, camera.height),
            camera_hz=bundle.camera_hz,
            substep_s=0.002,
            clock=clock,
        )


class SteppedRobot:
    """A robot process in lockstep, on a clock: one step of physics whenever a control period of that clock is over.

    Args:
        link: The link to the process.
        clock: Seconds.
        period_s: Control period [s].
        command_timeout_s: Silence after which it damps, as motor boards do [s].
    """

    def __init__(
        self,
        link: SharedMemoryRobot,
        clock: Callable[[], float],
        period_s: float,
        *,
        command_timeout_s: float = 0.1,
    ) -> None:
        self._link, self._clock, self._period_s = link, clock, period_s
        self._timeout_s = command_timeout_s
        self._state: RobotState = copy_state(link.read())
        joints = len(self._state.joint_pos)
        self._held = JointCommand(np.zeros(joints), np.zeros(joints), np.full(joints, DAMPING_KD))
        self._next_s = clock() + period_s
        self._command_s = clock()

    def read(self) -> RobotState:
        """Step as far as the clock went, and show the last state."""
        while self._clock() >= self._next_s:
            if self._next_s - self._command_s > self._timeout_s:
                self._held.kp[:], self._held.kd[:] = 0.0, DAMPING_KD
            self._link.write(self._held)
            state = self._link.read()
            self._state = copy_state(state)
            if state.rgb is not None:
                self._state.rgb = state.rgb.copy()  # the link's own buffer is written again
            self._next_s += self._period_s
        return self._state

    def write(self, command: JointCommand) -> None:
        """Hold it from now on."""
        self._held = JointCommand(command.q.copy(), command.kp.copy(), command.kd.copy())
        self._command_s = self._clock()

    def close(self) -> None:
        """The process belongs to the campaign."""


class SimSource:
    """Robots of a ``gaussgym-learn robot`` process, each at one of its starts.

    Args:
        bundle: Robot and camera.
        scene: Folder of the scene.
    """

    def __init__(self, bundle: PolicyBundle, scene: Path) -> None:
        self._bundle = bundle
        name, options = new_name(), SimulatedRobotCfg(noise=1.0)  # sensors as noisy as in training
        self._process = RobotProcess(robot_command(scene, name, bundle, lockstep=True, options=options), name)
        self._link = self._process.robot
        check_robot(bundle, self._link.description)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def fresh(self, clock: Callable[[], float], generator: np.random.Generator) -> RobotIO:
        """See :class:`RobotSource`."""
        self._link.reset(int(generator.integers(max(self._link.description.num_starts, 1))))
        return SteppedRobot(self._link, clock, self._bundle.control_dt_s)


class NotOnItsFeet(Exception):
    """The robot did not come to the mode in which the fault should fall, or tripped before: try another start."""


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


class VirtualRig:
    """Trials of one link in virtual time.

    Args:
        name: ``bench`` or ``sim``.
        bundle: The policy.
        source: Robots.

    Attributes:
        retaken: Trials begun again, since the robot tripped before the fault (a policy may stumble).
    """

    def __init__(self, name: str, bundle: PolicyBundle, source: RobotSource) -> None:
        self.name, self.bundle, self.retaken = name, bundle, 0
        self._source, self._generator = source, np.random.default_rng(0)
        self._clock = FakeClock()
        self._tap = Tap(source.fresh(self._clock, self._generator), len(bundle.joint_names), self._clock)
        self._operator = ScriptedOperator(self._clock)
        self._cfg = SupervisorCfg()
        self._link = InProcessLink(len(bundle.joint_names))
        self._supervisor: Optional[Supervisor] = None
        self._runtime = Runtime(
            bundle, self._link, damp_s=DAMP_S, stand_s=STAND_S, operator=self._operator,
            clock=self._clock, sleep=self._clock.sleep,
        )  # fmt: skip
        self._policy = SpoiltPolicy(self._runtime._policy, self._clock, self._clock.sleep)
        self._runtime._policy = self._policy  # type: ignore[assignment]
        self._exceptions: List[str] = []
        self._start_s, self._stepped_s = float("inf"), self._clock()
        self._at_start: Optional[Tuple[Mode, Optional[Fault]]] = (
            None  # mode and fault when the injected fault began
        )
        self._clock.every(1.0 / self._cfg.rate_hz, self._supervise)

    def close(self) -> None:
        """End the robots' process."""
        self._source.close()

    def trial(self, kind: FaultKind, mode: str, generator: np.random.Generator) -> Trial:
        """One fault at a random moment.

        Args:
            kind: Which.
            mode: In which mode: ``stand`` or ``run``.
            generator: Draws the moment, the joint, the phases of the loops.

        Raises:
            LinkError: When the robot trips by itself again and again before the fault begins.
        """
        self._generator = generator
        tries = 0
        while True:
            try:
                seen, moment = self._observe(kind, mode)
            except NotOnItsFeet:
                self.retaken += 1
                tries += 1
                if tries == TRIES:
                    raise LinkError(
                        f"{self.name}: {TRIES} times in a row the robot tripped by itself before {kind.name} began"
                        f" ({self._runtime.machine.fault}); this policy does not hold this robot on its feet"
                    ) from None
                continue
            limits = self._runtime.guards.limits
            return judge(
                kind, self.name, mode, seen, self.bundle, limits, moment=moment, damping_kd=DAMPING_KD
            )

    # ------------------------------------------------------------------------------------------------ one trial

    def _observe(self, kind: FaultKind, mode: str) -> Tuple[Observed, float]:
        injection = self._begin(kind)
        runtime, clock, dt = self._runtime, self._clock, self.bundle.control_dt_s
        expected = kind.expected(mode)
        if expected == "hold":
            runtime.goal = Mode.STAND
        rate = FixedRate(dt, clock=clock, sleep=clock.sleep)
        self._reach(rate, Mode(mode))
        began_s = clock()
        injection.start_s = self._start_s = began_s + SETTLE_S + float(self._generator.uniform(0.0, WINDOW_S))
        moment = ((injection.start_s - began_s) / dt) % 1.0
        self._go(rate, injection.start_s)
        if self._at_start != (Mode(mode), None):
            raise NotOnItsFeet
        if kind.name == "log_disk_full":
            runtime._log = RunLog(FULL_DISK)
        seen = Observed(injection.start_s, 0.0, self._tap.record.rows())
        if expected == "damp":
            self._go(rate, injection.start_s + allowed_s(kind, runtime.guards.limits, dt) + AFTER_DAMP_S)
        elif expected == "hold":
            self._hold(rate, injection, seen)
        else:
            self._go(rate, injection.start_s + AFTER_RIDE_S)
        if expected != "damp" and not self._exceptions:
            self._walk(rate, seen)
        self._sum_up(seen)
        return seen, moment

    def _begin(self, kind: FaultKind) -> Injection:
        """A fresh robot, supervisor and link, the runtime at its beginning, and a fault that is yet to come."""
        clock, runtime = self._clock, self._runtime
        self._supervisor = None
        # From the supervisor's next step on, so that a trial does not depend on those before it; then a phase between the loops.
        clock.sleep(max(self._stepped_s + 1.0 / self._cfg.rate_hz - clock(), 0.0))
        clock.sleep(float(self._generator.uniform(0.0, self.bundle.control_dt_s)))
        injection = Injection.draw(kind, self.bundle, self._generator)
        epoch_s = float(self._generator.uniform(10.0, 1000.0))
        self._tap.begin(self._source.fresh(clock, self._generator), injection, epoch_s=epoch_s)
        self._operator.injection = self._policy.injection = injection
        # With an operator the robot's own command is nobody's business.
        runtime.operator = None if kind.name == "nan_command" else self._operator
        self._exceptions, self._at_start, self._start_s = [], None, float("inf")
        self._link = runtime.robot = InProcessLink(len(self.bundle.joint_names))
        self._supervisor = Supervisor(
            self.bundle, self._tap, self._link, limits=runtime.guards.limits, cfg=self._cfg
        )
        self._log = runtime._log = MemoryLog()  # type: ignore[assignment]
        runtime.goal = Mode.RUN
        clock.sleep(2.0 / self._cfg.rate_hz)  # a first state is there
        runtime.restart(clock())
        return injection

    def _reach(self, rate: FixedRate, mode: Mode) -> None:
        end_s = self._clock() + PATIENCE_S
        while self._runtime.machine.mode is not mode:
            self._go(rate, self._clock() + 0.5 * self.bundle.control_dt_s)
            if self._clock() > end_s or self._runtime.machine.fault is not None or self._exceptions:
                raise NotOnItsFeet

    def _hold(self, rate: FixedRate, injection: Injection, seen: Observed) -> None:
        """The fault becomes known, then the operator asks to run: it must not, until the fault is over."""
        runtime = self._runtime
        self._go(
            rate,
            injection.start_s
            + allowed_s(injection.kind, runtime.guards.limits, self.bundle.control_dt_s)
            + 0.1,
        )
        runtime.goal = Mode.RUN
        self._go(rate, self._clock() + 0.2)
        seen.held = runtime.machine.mode is Mode.STAND
        self._tap.injection = None

    def _walk(self, rate: FixedRate, seen: Observed) -> None:
        """It runs, or gets there, and the policy acts."""
        end_s = self._clock() + PATIENCE_S
        while self._runtime.machine.mode is not Mode.RUN and self._clock() < end_s and not self._exceptions:
            self._go(rate, self._clock() + self.bundle.control_dt_s)
        steps = self._policy.steps
        self._go(rate, self._clock() + AFTER_RIDE_S)
        seen.runs = self._policy.steps > steps + 0.8 * AFTER_RIDE_S / self.bundle.control_dt_s

    def _go(self, rate: FixedRate, end_s: float) -> None:
        """Let runtime and world go on; a runtime that raises is dead from then on, and the world goes on without it."""
        if not self._exceptions:
            try:
                self._runtime._loop(rate, end_s)
            except Exception as error:
                self._exceptions.append(f"the runtime raised {type(error).__name__}: {error}")
                self._link.runtime_gone = True
        while self._clock() < end_s:
            self._clock.sleep(end_s - self._clock())

    def _supervise(self, now_s: float) -> None:
        self._stepped_s = now_s
        if self._at_start is None and now_s >= self._start_s:
            self._at_start = (self._runtime.machine.mode, self._runtime.machine.fault)
        if self._supervisor is None:
            return
        try:
            self._supervisor.step(now_s)
        except Exception as error:
            self._exceptions.append(f"the supervisor raised {type(error).__name__}: {error}")
            self._supervisor = None

    def _sum_up(self, seen: Observed) -> None:
        seen.end_s = self._clock()
        seen.commands = self._tap.record.rows()
        latched = self._runtime.machine.fault
        seen.causes = self._log.faults or [str(latched)] * (
            latched is not None and self._runtime._log is not self._log
        )
        if self._supervisor is not None and self._supervisor.fault is not None:
            seen.causes.append(str(self._supervisor.fault))
        seen.end_mode = self._runtime.machine.mode.value
        seen.exceptions = list(self._exceptions)
