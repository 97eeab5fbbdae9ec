"""The tethered first run of a policy on a robot, step by step: each is measured where it can be, and asked where it cannot.

The checklist sits in the operator's place (:class:`gaussgym_deploy.operator.CommandSource`), so that the runtime, its guards and
the supervisor are those of every other run. It goes on to the next step only when the one before has passed.
"""

from __future__ import annotations

import queue
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Protocol, Tuple

import numpy as np

from .observation import gravity_b_from_quat
from .operator import CommandSource, OperatorCommand
from .robot_io import RobotState
from .runtime import Runtime
from .states import Mode
from .teleop.png import png

__all__ = ["Checklist", "Prompter", "StepResult", "TerminalPrompter"]

ANSWER_S = 600.0
"""How long an answer may take [s]."""


class Prompter(Protocol):
    """Asks the operator, without keeping the control loop waiting."""

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def ask(self, question: str) -> None:
        """Show a question."""
        ...

    def answer(self) -> Optional[str]:
        """The answer to the last question (a stripped line in lower case), or None; never blocks."""
        ...


class TerminalPrompter:
    """Questions on standard output, answers from standard input, read by a thread."""

    def __init__(self) -> None:
        self._lines: queue.Queue[str] = queue.Queue()
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, text: str) -> None:
        """Show a line."""
        print(text, flush=True)

    def ask(self, question: str) -> None:
        """Show a question; what was typed before it is no answer to it."""
        while not self._lines.empty():
            self._lines.get_nowait()
        print(f"  ? {question} ", end="", flush=True)

    def answer(self) -> Optional[str]:
        """The line that was typed, or None; ``no`` where nobody is left to type."""
        try:
            return self._lines.get_nowait().strip().lower()
        except queue.Empty:
            return "no" if self._ended else None

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.put(line)
        self._ended = True


@dataclass(frozen=True)
class StepResult:
    """One step.

    Attributes:
        name: Its heading.
        passed: Whether it may go on.
        found: What was measured or answered.
    """

    name: str
    passed: bool
    found: str


Steps = Iterator[None]
"""A step: yields once per control step, raises :class:`_Failed` when it does not pass."""


class _Failed(Exception):
    """The step has failed; the text says what was found."""


class Checklist:
    """Walks through a first run. Give it to a runtime as its operator, :meth:`attach` it, and run.

    Args:
        prompter: Asks.
        operator: The real one; its velocities are used in the last step only, its stop and its silence always count.
            None: nobody but the terminal; the two steps about the operator are then left out, and said to be.
        picture: Where the robot's picture is written for the operator to look at (PNG).
        run_s: How long the policy runs in the last step [s].

    Attributes:
        results: The steps so far.
    """

    def __init__(
        self,
        prompter: Prompter,
        operator: Optional[CommandSource] = None,
        *,
        picture: Path = Path("camera.png"),
        run_s: float = 5.0,
    ) -> None:
        self.results: List[StepResult] = []
        self._prompter, self._operator = prompter, operator
        self._picture, self._run_s = picture, run_s
        self._command = OperatorCommand()
        self._wish: Optional[OperatorCommand] = None
        self._steps: Optional[Steps] = None
        self._gravity_b = np.zeros(3)

    def attach(self, runtime: Runtime) -> None:
        """Begin with nothing sent at all.

        Args:
            runtime: The runtime whose operator this is.
        """
        self._runtime = runtime
        runtime.goal = Mode.IDLE
        self._steps = self._all()

    @property
    def passed(self) -> bool:
        """Whether all steps were done and have passed."""
        return self._steps is None and bool(self.results) and all(result.passed for result in self.results)

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """One control step of the list."""
        self._state, self._now_s = state, now_s
        gravity_b_from_quat(state.quat_wxyz, self._gravity_b)
        command = self._command
        command.mode = command.stop = None
        command.alive_s = now_s
        command.velocity[:] = 0.0
        if self._operator is not None:
            self._wish = self._operator.read(state, now_s)
            command.stop = self._wish.stop
            command.alive_s = self._wish.alive_s
            if self._wish.mode == "damp":
                command.stop = "the operator chose damping"
        if self._steps is not None:
            try:
                next(self._steps)
            except StopIteration:
                self._steps = None
                self._runtime.finish()
        return command

    def close(self) -> None:
        """Let go of the real operator."""
        if self._operator is not None:
            self._operator.close()

    # ---------------------------------------------------------------- the list

    def _all(self) -> Steps:
        steps: List[Tuple[str, Callable[[], Steps]]] = [
            ("states arrive", self._states_arrive),
            ("level", self._level),
            ("gravity and turn rate have the right signs", self._signs),
            ("every leg is where it is said to be", self._legs),
            ("the camera looks ahead", self._camera),
            ("damping", self._damping),
            ("emergency stop", self._emergency_stop),
            ("standing in the harness", self._stand_in_harness),
            ("operator lost", self._operator_lost),
            ("standing on the ground", self._stand_on_ground),
            ("the policy, tethered", self._policy),
        ]
        for number, (name, step) in enumerate(steps, start=1):
            self._prompter.say(f"{number}/{len(steps)} {name}")
            self._found = "as expected"
            try:
                yield from step()
            except _Failed as failed:
                self._end_step(name, False, str(failed))
                self._command.mode = "damp" if self._runtime.machine.mode is not Mode.IDLE else None
                return
            self._end_step(name, True, self._found)

    def _end_step(self, name: str, passed: bool, found: str) -> None:
        self.results.append(StepResult(name, passed, found))
        self._prompter.say(f"  {'ok  ' if passed else 'FAIL'} {found}")

    def _states_arrive(self) -> Steps:
        start_s, start_t_s = self._now_s, self._state.t_s
        before, new, corrupt = start_t_s, 0, self._state.corrupt
        while self._now_s - start_s < 2.0:
            yield
            new += self._state.t_s != before
            before = self._state.t_s
            self._no_fault()
        hz = new / (self._now_s - start_s)
        need_hz = 0.9 * self._runtime.bundle.control_hz
        pace = (self._state.t_s - start_t_s) / (self._now_s - start_s)
        bad = self._state.corrupt - corrupt
        self._found = (
            f"a new state in {hz:.0f} control steps a second, robot's clock at {pace:.2f}, {bad} corrupt"
        )
        self._need(hz >= need_hz and abs(pace - 1.0) < 0.1 and bad == 0)

    def _level(self) -> Steps:
        yield from self._ask(
            "The robot hangs in its harness, level, feet off the ground, nobody near. Enter:"
        )
        tilt_deg = float(np.degrees(np.arccos(np.clip(-self._gravity_b[2], -1.0, 1.0))))
        self._found = f"tilted by {tilt_deg:.1f} deg"
        self._need(tilt_deg < 15.0)

    def _signs(self) -> Steps:
        for question, what, sign in (
            ("Tip its nose DOWN by hand and hold it there.", lambda: self._gravity_b[0], 1.0),
            ("Now tip its RIGHT side down.", lambda: self._gravity_b[1], -1.0),
        ):
            yield from self._by_hand(question, what, sign, 0.2)
        yield from self._by_hand(
            "Turn it by hand to its LEFT (counter-clockwise from above), quickly.",
            lambda: self._state.ang_vel_b[2], 1.0, 0.3,
        )  # fmt: skip

    def _by_hand(self, question: str, what: Callable[[], float], sign: float, least: float) -> Steps:
        """Something is moved by hand until it shows, with the sign that it must have."""
        self._prompter.say(f"  > {question}")
        start_s = self._now_s
        while abs(what()) < least:
            yield
            self._need(self._now_s - start_s < ANSWER_S, "nothing moved")
        value = float(what())
        self._need(sign * value > 0.0, f"{question} gave {value:+.2f}, expected the other sign")

    def _legs(self) -> Steps:
        groups: Dict[str, List[int]] = {}
        for index, name in enumerate(self._runtime.bundle.joint_names):
            groups.setdefault(name.split("_")[0], []).append(index)
        for group, joints in groups.items():
            self._prompter.say("  > Hands off all limbs.")
            yield from self._still()
            start = self._state.joint_pos.copy()
            moved = np.zeros(len(start))
            self._prompter.ask(f"Move the limb {group} by hand, nothing else, then Enter:")
            yield from self._answered(lambda start=start, moved=moved: self._follow(start, moved))
            inside = moved[joints].max()
            outside = np.delete(moved, joints).max() if len(joints) < len(moved) else 0.0
            name = self._runtime.bundle.joint_names[int(np.argmax(moved))]
            found = (
                f"{group}: its joints moved by {inside:.2f} rad, others by {outside:.2f}, most of all {name}"
            )
            self._need(inside > 0.15 and outside < 0.5 * inside, found)

    def _still(self) -> Steps:
        """Wait until no joint has moved for half a second: the limb before hangs down again."""
        start_s = since_s = self._now_s
        pose = self._state.joint_pos.copy()
        while self._now_s - since_s < 0.5:
            yield
            if np.abs(self._state.joint_pos - pose).max() > 0.02:
                since_s = self._now_s
                pose[:] = self._state.joint_pos
            self._need(self._now_s - start_s < ANSWER_S, "the joints do not come to rest")

    def _follow(self, start: np.ndarray, moved: np.ndarray) -> None:
        np.maximum(moved, np.abs(self._state.joint_pos - start), out=moved)

    def _camera(self) -> Steps:
        bundle = self._runtime.bundle
        if bundle.camera is None:
            self._found = "left out: the policy is blind"
            return
        start_s, frames, before = self._now_s, 0, -np.inf
        while self._now_s - start_s < 3.0:
            yield
            rgb, rgb_t_s = self._frame()
            frames += rgb is not None and rgb_t_s != before
            before = rgb_t_s
        hz = frames / (self._now_s - start_s)
        rgb, _ = self._frame()
        self._need(rgb is not None and hz > 0.7 * bundle.camera_hz, f"{hz:.1f} frames a second")
        assert rgb is not None
        self._picture.write_bytes(png(rgb))
        yield from self._yes(f"Look at {self._picture}: upright, ahead, in its own colours? [y/n]")
        self._found = f"{hz:.1f} frames a second, {rgb.shape[1]}x{rgb.shape[0]} px"

    def _frame(self) -> Tuple[Optional[np.ndarray], float]:
        camera = self._runtime.camera
        if camera is None:
            return self._state.rgb, self._state.rgb_t_s
        frame = camera.latest()
        return (None, -np.inf) if frame is None else (frame.rgb, frame.t_s)

    def _emergency_stop(self) -> Steps:
        if self._operator is None:
            self._found = "left out: no operator but this terminal"
            return
        yield from self._operator_here()
        self._prompter.say("  > Press the emergency stop of the operator's device.")
        yield from self._until_fault("estop")

    def _operator_lost(self) -> Steps:
        if self._operator is None:
            self._found = "left out: no operator but this terminal"
            return
        yield from self._until_standing()
        self._prompter.say("  > Let go of the dead man's button (or close the page).")
        last_s = self._now_s
        while self._runtime.machine.fault is None:
            yield
            assert self._wish is not None
            # A step later the guard has seen the age that is seen here.
            last_s = max(last_s, self._wish.alive_s)
            self._need(self._now_s - last_s < ANSWER_S, "nothing happened")
        yield from self._until_fault("operator")
        self._found = f"damped {1e3 * (self._now_s - last_s):.0f} ms after the last sign of life"

    def _damping(self) -> Steps:
        yield from self._ask("Motors are switched to damping now; hands on the harness. Enter:")
        self._command.mode = "damp"
        yield from self._wait(1.0)
        self._need(self._runtime.machine.mode is Mode.DAMP, "the mode did not change")
        yield from self._yes("Push a leg: does it give way slowly, without noise? [y/n]")

    def _stand_in_harness(self) -> Steps:
        yield from self._operator_here()
        yield from self._ask("The legs move to the default pose, in the air. Hands off. Enter:")
        yield from self._until_standing()
        yield from self._yes("Are all legs where a standing robot has them, without trembling? [y/n]")
        self._no_fault()

    def _stand_on_ground(self) -> Steps:
        self._command.mode = "damp"
        yield
        yield from self._ask("Lower the robot until it lies on the ground, tether slack but held. Enter:")
        yield from self._operator_here()
        yield from self._until_standing()
        yield from self._yes("Does it stand still on all feet? [y/n]")
        self._no_fault()

    def _policy(self) -> Steps:
        yield from self._ask(f"The policy runs for {self._run_s:g} s; tether held, thumb on the stop. Enter:")
        yield from self._operator_here()
        self._command.mode = "run"
        start_s = self._now_s
        while self._now_s - start_s < self._run_s:
            yield
            if self._wish is not None:
                self._command.velocity[:] = self._wish.velocity
            self._no_fault()
        self._need(self._runtime.machine.mode is Mode.RUN, "it did not begin to run")
        self._command.mode = "damp"
        yield
        acted = {name: count for name, count in self._runtime.guards.interventions.items() if count}
        self._found = f"ran {self._run_s:g} s; limits that acted: {acted or 'none'}"

    # ---------------------------------------------------------------- parts of steps

    def _wait(self, seconds: float) -> Steps:
        start_s = self._now_s
        while self._now_s - start_s < seconds:
            yield

    def _ask(self, question: str) -> Steps:
        self._prompter.ask(question)
        yield from self._answered(lambda: None)
        self._need(self._answer not in ("n", "no"), "the operator said no")

    def _yes(self, question: str) -> Steps:
        self._prompter.ask(question)
        yield from self._answered(lambda: None)
        self._need(self._answer in ("y", "yes"), f"the operator answered {self._answer!r}")

    def _answered(self, meanwhile: Callable[[], None]) -> Steps:
        start_s = self._now_s
        while True:
            yield
            meanwhile()
            answer = self._prompter.answer()
            if answer is not None:
                self._answer = answer
                return
            self._need(self._now_s - start_s < ANSWER_S, "no answer")

    def _operator_here(self) -> Steps:
        """Wait for the operator's sign of life: the dead man's button held, the page open."""
        limit_s = self._runtime.guards.limits.operator_age_s
        if self._wish is None or self._now_s - self._wish.alive_s <= limit_s:
            return
        self._prompter.say("  > Hold the dead man's button (or open the page).")
        start_s = self._now_s
        while self._now_s - self._wish.alive_s > limit_s:
            yield
            self._need(self._now_s - start_s < ANSWER_S, "no sign of life of the operator")

    def _until_standing(self) -> Steps:
        machine = self._runtime.machine
        self._command.mode = "stand"
        start_s = self._now_s
        while not machine.standing(self._state, self._now_s):
            yield
            self._no_fault()
            self._need(self._now_s - start_s < 10.0, self._pose_error())
        self._found = self._pose_error()

    def _pose_error(self) -> str:
        off = np.abs(self._state.joint_pos - self._runtime.bundle.default_joint_pos)
        worst = int(np.argmax(off))
        return f"{self._runtime.bundle.joint_names[worst]} is {off[worst]:.2f} rad from the default pose, the others less"

    def _until_fault(self, kind: str) -> Steps:
        """Wait for a fault of this kind, look at the damping, and clear it."""
        machine, start_s = self._runtime.machine, self._now_s
        while machine.fault is None:
            yield
            self._need(self._now_s - start_s < ANSWER_S, "nothing happened")
        self._need(machine.fault.kind == kind, f"expected the fault {kind!r}, found {machine.fault}")
        self._need(machine.mode is Mode.DAMP, f"mode {machine.mode.value} instead of damping")
        self._found = str(machine.fault)
        self._command.mode = "damp"
        yield
        machine.clear_fault()
        yield from self._operator_here()

    def _no_fault(self) -> None:
        fault = self._runtime.machine.fault
        self._need(fault is None, f"the runtime has stopped: {fault}")

    def _need(self, holds: bool, found: Optional[str] = None) -> None:
        if not holds:
            raise _Failed(found or self._found)
