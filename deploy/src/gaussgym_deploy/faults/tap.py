"""The robot's end of a link: what the robot says is spoilt here, what it is told is noted."""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Optional, Sequence

import numpy as np

from ..robot_io import JointCommand, LinkError, RobotIO, RobotState
from .injection import Injection
from .state_faults import STATE_FAULTS, Passing, copy_state

__all__ = ["CommandRecord", "Tap"]

HISTORY_S = 1.0
"""How far back late states and frames reach [s]."""


class CommandRecord:
    """Commands as they arrive at the robot, in preallocated rows.

    Args:
        joints: Number of joints.
        capacity: Rows; the oldest are forgotten beyond that.
    """

    def __init__(self, joints: int, capacity: int = 8192) -> None:
        self._rows = np.zeros((capacity, 1 + 3 * joints))
        self._joints = joints
        self.count = 0

    def clear(self) -> None:
        """Forget all."""
        self.count = 0

    def add(self, now_s: float, command: JointCommand) -> None:
        """Note one."""
        row, joints = self._rows[self.count % len(self._rows)], self._joints
        row[0] = now_s
        row[1 : 1 + joints] = command.q
        row[1 + joints : 1 + 2 * joints] = command.kp
        row[1 + 2 * joints :] = command.kd
        self.count += 1

    def rows(self) -> np.ndarray:
        """``[N, 1 + 3 J]``: time [s], q, kp, kd, oldest first (a copy)."""
        size = len(self._rows)
        if self.count <= size:
            return self._rows[: self.count].copy()
        return np.roll(self._rows, -(self.count % size), axis=0)


class Tap:
    """A robot whose readings can be spoilt and whose commands are noted: the robot's end of a link.

    Args:
        robot: The robot.
        clock: Seconds; the clock of the trial.
        on_wire: Faults that happen on the wire behind, not here.

    Attributes:
        robot: The robot behind; may be replaced between trials.
        record: The commands that arrived.
        newest_s: Largest time stamp handed out so far, robot's clock [s].
        injection: The fault, or None.
    """

    def __init__(
        self, robot: RobotIO, joints: int, clock: Callable[[], float], *, on_wire: Sequence[str] = ()
    ) -> None:
        self.robot = robot
        self.record = CommandRecord(joints)
        self.injection: Optional[Injection] = None
        self.newest_s = 0.0
        self._clock = clock
        self._on_wire = frozenset(on_wire)
        self._history: Deque[RobotState] = deque()
        self._given: Optional[RobotState] = None
        self._epoch_s = 0.0

    def begin(self, robot: RobotIO, injection: Optional[Injection], *, epoch_s: float = 0.0) -> None:
        """A new trial: another robot, another fault, nothing noted yet; the robot's clock shows ``epoch_s`` more."""
        self.robot, self.injection, self._epoch_s = robot, injection, epoch_s
        self.record.clear()
        self._history.clear()
        self._given = None

    def read(self) -> RobotState:
        """The robot's state, spoilt from the fault's beginning on."""
        state = copy_state(self.robot.read())
        state.t_s += self._epoch_s
        state.rgb_t_s += self._epoch_s
        history = self._history
        if not history or state.t_s > history[-1].t_s:
            history.append(copy_state(state))
        while history[0].t_s < state.t_s - HISTORY_S:
            history.popleft()
        injection = self.injection
        if injection is not None:
            since_s = injection.since_s(self._clock())
            fault = STATE_FAULTS.get(injection.kind.name)
            if since_s >= 0 and fault is not None and injection.kind.name not in self._on_wire:
                given = state if self._given is None else copy_state(self._given)
                state = fault(Passing(state, since_s, injection, given, history))
            self._count(state, injection)
        self._given = state
        if state.t_s > self.newest_s:
            self.newest_s = state.t_s
        return copy_state(state)

    @staticmethod
    def _count(state: RobotState, injection: Injection) -> None:
        """What the link has thrown away, in the state that is handed out (``given`` may be an older one)."""
        state.corrupt = max(state.corrupt, injection.stash.get("corrupt", 0))
        state.out_of_order = max(state.out_of_order, injection.stash.get("out_of_order", 0))

    def write(self, command: JointCommand) -> None:
        """Note and pass on, unless the fault is that it does not arrive."""
        now_s, injection = self._clock(), self.injection
        if injection is not None and injection.since_s(now_s) >= 0:
            if injection.kind.name == "send_failed_once":
                injection.calls += 1
                if injection.calls == 1:
                    raise LinkError("cannot send (injected)")
            elif injection.kind.name == "send_fails" and injection.since_s(now_s) < 0.2:
                raise LinkError("cannot send (injected)")
        self.record.add(now_s, command)
        self.robot.write(command)

    def note(self, command: JointCommand) -> None:
        """Note a command that reached the robot by another way."""
        self.record.add(self._clock(), command)

    def close(self) -> None:
        """The robot stays: it belongs to the campaign."""
