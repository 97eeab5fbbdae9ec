"""The state machine of the runtime.

::

            first state          damp_s over           pose reached
    IDLE ───────────────▶ DAMP ───────────────▶ STAND ───────────────▶ RUN
                           ▲ ▲                    │                     │
                           │ └── operator, fault ─┴── operator, fault ──┘
                           └── a fault is latched: nothing but clear_fault() lets the robot up again

IDLE sends nothing. DAMP sends zero stiffness and a fixed damping. STAND moves from the pose it found to the bundle's
default pose. RUN is the policy. There is no way from RUN to STAND: a robot that stopped is damped first.
"""

from __future__ import annotations

from enum import Enum
from typing import Dict, FrozenSet, Optional

import numpy as np

from .bundle import PolicyBundle
from .guards import Fault
from .robot_io import DAMPING_KD, JointCommand, RobotState

__all__ = ["Mode", "StateMachine"]


class Mode(Enum):
    """What the runtime is doing."""

    IDLE = "idle"
    DAMP = "damp"
    STAND = "stand"
    RUN = "run"


ALLOWED: Dict[Mode, FrozenSet[Mode]] = {
    Mode.IDLE: frozenset({Mode.DAMP}),
    Mode.DAMP: frozenset({Mode.IDLE, Mode.STAND}),
    Mode.STAND: frozenset({Mode.DAMP, Mode.RUN}),
    Mode.RUN: frozenset({Mode.DAMP}),
}


class StateMachine:
    """Modes, their transitions, the latched fault, and the commands of the modes that need no policy.

    Args:
        bundle: Default pose and gains.
        stand_s: How long standing up takes [s]; 0: the robot stands already (simulated episodes).
        pose_tolerance_rad: How close every joint must come to the default pose before RUN [rad]; not asked when ``stand_s`` is 0.
        damping_kd: Damping of DAMP [N·m·s/rad].

    Attributes:
        mode: The current mode.
        fault: The latched fault, or None.
        entered_s: When the current mode began, on the clock that callers use.
        stand_from: Pose from which the robot stood up last, within its joint limits [rad], ``[J]``.
    """

    def __init__(
        self,
        bundle: PolicyBundle,
        *,
        stand_s: float = 2.0,
        pose_tolerance_rad: float = 0.35,
        damping_kd: float = DAMPING_KD,
    ) -> None:
        joints = len(bundle.joint_names)
        self.mode = Mode.IDLE
        self.fault: Optional[Fault] = None
        self.entered_s = 0.0
        self._bundle = bundle
        self._stand_s = stand_s
        self._pose_tolerance_rad = pose_tolerance_rad
        self.stand_from = np.zeros(joints)
        self._damp = JointCommand(np.zeros(joints), np.zeros(joints), np.full(joints, damping_kd))
        self._stand = JointCommand(np.zeros(joints), bundle.kp.copy(), bundle.kd.copy())

    def request(self, mode: Mode, state: RobotState, now_s: float) -> Optional[str]:
        """Ask for another mode.

        Args:
            mode: The wanted mode.
            state: The robot's newest state; STAND starts from its pose.
            now_s: Current time [s].

        Returns:
            None when the mode changed (or was there already), else why it was refused.
        """
        if mode is self.mode:
            return None
        if mode not in ALLOWED[self.mode]:
            return f"{self.mode.value} cannot go to {mode.value}"
        if self.fault is not None and mode is not Mode.DAMP:
            return f"latched fault ({self.fault})"
        if mode is Mode.RUN and not self.standing(state, now_s):
            return "the robot does not stand yet"
        if mode is Mode.STAND:
            # A joint that reads beyond its limits is commanded to the limit.
            np.clip(state.joint_pos, *self._bundle.joint_pos_limit.T, out=self.stand_from)
        self.mode, self.entered_s = mode, now_s
        return None

    def trip(self, fault: Fault, now_s: float) -> None:
        """Latch a fault (the first one stays) and damp.

        Args:
            fault: What happened.
            now_s: Current time [s].
        """
        if self.fault is None:
            self.fault = fault
        if self.mode is not Mode.DAMP:
            self.mode, self.entered_s = Mode.DAMP, now_s

    def clear_fault(self) -> None:
        """The operator has looked at the robot; it stays in DAMP until asked for more."""
        self.fault = None

    def restart(self, now_s: float) -> None:
        """Back to IDLE without a fault: a new simulated episode. Not for a robot that may move.

        Args:
            now_s: Current time [s].
        """
        self.mode, self.fault, self.entered_s = Mode.IDLE, None, now_s

    def resume(self, mode: Mode, entered_s: float, stand_from: np.ndarray, fault: Optional[Fault]) -> None:
        """Be where another state machine was (replays).

        Args:
            mode: Its mode.
            entered_s: When that began [s].
            stand_from: Its :attr:`stand_from`.
            fault: Its latched fault.
        """
        self.mode, self.entered_s, self.fault = mode, entered_s, fault
        self.stand_from[:] = stand_from

    def standing(self, state: RobotState, now_s: float) -> bool:
        """Whether STAND has run its time and the pose is reached."""
        if self.mode is not Mode.STAND or now_s - self.entered_s < self._stand_s:
            return False
        error_rad = np.abs(state.joint_pos - self._bundle.default_joint_pos).max()
        return self._stand_s == 0 or bool(error_rad <= self._pose_tolerance_rad)

    def command(self, now_s: float) -> Optional[JointCommand]:
        """The command of DAMP or STAND; None in IDLE (nothing is sent) and RUN (the policy's business).

        Args:
            now_s: Current time [s].
        """
        if self.mode is Mode.DAMP:
            return self._damp
        if self.mode is Mode.STAND:
            done = 1.0 if self._stand_s <= 0 else min(max((now_s - self.entered_s) / self._stand_s, 0.0), 1.0)
            blend = done * done * (3.0 - 2.0 * done)  # no step in velocity at either end
            np.subtract(self._bundle.default_joint_pos, self.stand_from, out=self._stand.q)
            self._stand.q *= blend
            self._stand.q += self.stand_from
            return self._stand
        return None

    @property
    def damping(self) -> JointCommand:
        """The damping command."""
        return self._damp
