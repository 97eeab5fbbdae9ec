"""Trials in virtual time: the real runtime and the real supervisor in one process, on a clock that moves when they sleep.

A robot of numpy (``bench``) or of MuJoCo (``sim``, a process in lockstep) stands behind a :class:`~.tap.Tap`. Nothing waits,
so that a trial of a second takes a few hundredths, and what a busy machine does to real time cannot disturb it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Optional, Protocol

import numpy as np

from ..bundle import PolicyBundle
from ..processes import new_name
from ..robot_io import DAMPING_KD, BenchRobot, JointCommand, LinkError, RobotIO, RobotState
from ..robot_process import RobotProcess, check_robot, robot_command
from ..shared_memory import SharedMemoryRobot
from ..simulated_robot import SimulatedRobotCfg
from ..states import Mode
from ..supervisor import InProcessLink, Supervisor, SupervisorCfg
from ..testing import FakeClock
from .conductor import Conductor, Outcome
from .injection import Injection
from .state_faults import copy_state
from .table import FaultKind
from .tap import Tap
from .trials import Observed, Trial, judge

__all__ = ["BenchSource", "RobotSource", "SteppedRobot", "VirtualRig"]

TRIES = 20
"""How often a trial is begun anew when the robot trips by itself before the fault."""


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
        camera: Whether they carry the bundle's camera.
    """

    def __init__(self, bundle: PolicyBundle, *, camera: bool = True) -> None:
        self._bundle, self._camera = bundle, camera

    def close(self) -> None:
        """Nothing to let go of."""

    def fresh(self, clock: Callable[[], float], generator: np.random.Generator) -> RobotIO:
        """See :class:`RobotSource`."""
        bundle, camera = self._bundle, self._bundle.camera if self._camera else None
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
        lockstep: Whether physics waits for the clock of the trials; else it runs in real time.
    """

    def __init__(self, bundle: PolicyBundle, scene: Path, *, lockstep: bool = True) -> None:
        self._bundle, self._lockstep = bundle, lockstep
        name, options = new_name(), SimulatedRobotCfg(noise=1.0)  # sensors as noisy as in training
        command = robot_command(scene, name, bundle, lockstep=lockstep, options=options)
        self._process = RobotProcess(command if lockstep else [*command, "--endless"], name)
        self._link = self._process.robot
        check_robot(bundle, self._link.description)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def fresh(self, clock: Callable[[], float], generator: np.random.Generator) -> RobotIO:
        """See :class:`RobotSource`."""
        self._link.reset(int(generator.integers(max(self._link.description.num_starts, 1))))
        if not self._lockstep:
            return self._link
        return SteppedRobot(self._link, clock, self._bundle.control_dt_s)


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
        self._cfg = SupervisorCfg()
        self._supervisor: Optional[Supervisor] = None
        self._conductor = Conductor(bundle, clock=self._clock, sleep=self._clock.sleep)
        self._exceptions: List[str] = []
        self._stepped_s = self._clock()
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
        for _ in range(TRIES):
            outcome = self._observe(kind, mode)
            if outcome.ready:
                limits = self._conductor.runtime.guards.limits
                seen = self._seen(outcome)
                return judge(
                    kind,
                    self.name,
                    mode,
                    seen,
                    self.bundle,
                    limits,
                    moment=outcome.moment,
                    damping_kd=DAMPING_KD,
                )
            self.retaken += 1
        raise LinkError(
            f"{self.name}: {TRIES} times in a row the robot was not ready when {kind.name} should begin ({outcome.why});"
            " this policy does not hold this robot on its feet"
        )

    def _observe(self, kind: FaultKind, mode: str) -> Outcome:
        """A fresh robot, supervisor and link, and one trial."""
        clock, generator, joints = self._clock, self._generator, len(self.bundle.joint_names)
        self._supervisor, self._exceptions = None, []
        # From the supervisor's next step on, so that a trial does not depend on those before it; then a phase between the loops.
        clock.sleep(max(self._stepped_s + 1.0 / self._cfg.rate_hz - clock(), 0.0))
        clock.sleep(float(generator.uniform(0.0, self.bundle.control_dt_s)))
        injection = Injection.draw(kind, self.bundle, generator)
        epoch_s = float(generator.uniform(10.0, 1000.0))
        self._tap.begin(self._source.fresh(clock, generator), injection, epoch_s=epoch_s)
        link = InProcessLink(joints)
        limits = self._conductor.runtime.guards.limits
        self._supervisor = Supervisor(self.bundle, self._tap, link, limits=limits, cfg=self._cfg)
        clock.sleep(2.0 / self._cfg.rate_hz)  # a first state is there
        return self._conductor.conduct(
            link, injection, Mode(mode), delay=float(generator.uniform()), over=self._end_fault
        )

    def _end_fault(self) -> None:
        self._tap.injection = None

    def _supervise(self, now_s: float) -> None:
        self._stepped_s = now_s
        if self._supervisor is None:
            return
        try:
            self._supervisor.step(now_s)
        except Exception as error:
            self._exceptions.append(f"the supervisor raised {type(error).__name__}: {error}")
            self._supervisor = None

    def _seen(self, outcome: Outcome) -> Observed:
        causes = list(outcome.causes)
        if self._supervisor is not None and self._supervisor.fault is not None:
            causes.append(str(self._supervisor.fault))
        return Observed(
            outcome.start_s, outcome.end_s, self._tap.record.rows(), causes, outcome.held, outcome.end_mode, outcome.runs,
            None, outcome.exceptions + self._exceptions,
        )  # fmt: skip
