"""Who tells the robot where to go: the operator's link, and its sign of life.

A source is anything with :class:`CommandSource`'s two methods. The runtime reads it once per control step; what it says replaces
``RobotState.command``. Without a source the robot's own command holds (a simulated robot follows its path; nobody to lose).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Protocol

import numpy as np

from .robot_io import RobotState

__all__ = ["CommandSource", "OperatorCommand"]


@dataclass
class OperatorCommand:
    """What the operator wants now.

    Attributes:
        velocity: v_x, v_y [m/s] and yaw rate [rad/s] in base axes, float64 ``[3]``.
        alive_s: Last sign of life of the operator, on the runtime's clock [s]; ``-inf`` before the first. The guard
            ``operator_age_s`` damps when it is too old.
        stop: Emergency stop, or None; the text is the reason for the log.
        mode: The mode wanted (``damp``, ``stand``, ``run``), None: as before.
    """

    velocity: np.ndarray = field(default_factory=lambda: np.zeros(3))
    alive_s: float = float("-inf")
    stop: Optional[str] = None
    mode: Optional[str] = None


class CommandSource(Protocol):
    """What the runtime needs of an operator (gamepad, keyboard, web page, goal follower)."""

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        """Return the newest command; must not block.

        Args:
            state: The robot's newest state (a goal follower reads ``position_w``; Unitree's remote arrives with the state).
            now_s: Current time on the runtime's clock [s].
        """
        ...

    def close(self) -> None:
        """Let go of devices and sockets; may be called twice."""
        ...
