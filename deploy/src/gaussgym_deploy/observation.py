"""The observation builder: ``proprio`` from a robot's readings, term by term as the bundle's manifest lists them.

The same code feeds the policy in simulation (sim2sim), on the bench and on a robot; nothing here knows which it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Optional

import numpy as np

from .bundle import BundleError, PolicyBundle
from .robot_io import RobotState

__all__ = ["TERMS", "ObservationBuilder", "TermInputs", "gravity_b_from_quat", "register_term"]


@dataclass
class TermInputs:
    """What a term may read.

    Attributes:
        state: The robot's newest state.
        default_joint_pos: Pose of a zero action [rad], ``[J]``.
        last_action: The policy's previous action after ``action_clip``, ``[J]``; zero after a reset.
    """

    state: RobotState
    default_joint_pos: np.ndarray
    last_action: np.ndarray


TermFunction = Callable[[TermInputs, np.ndarray], None]
TERMS: Dict[str, TermFunction] = {}
"""Registered terms by name: functions that write their values into the array that they are given."""


def register_term(name: str) -> Callable[[TermFunction], TermFunction]:
    """Decorator: make a term known under ``name``. It must fill its output and allocate nothing."""

    def add(function: TermFunction) -> TermFunction:
        TERMS[name] = function
        return function

    return add


@register_term("ang_vel_b")
def _ang_vel_b(inputs: TermInputs, out: np.ndarray) -> None:
    out[:] = inputs.state.ang_vel_b


@register_term("gravity_b")
def _gravity_b(inputs: TermInputs, out: np.ndarray) -> None:
    gravity_b_from_quat(inputs.state.quat_wxyz, out)


@register_term("command")
def _command(inputs: TermInputs, out: np.ndarray) -> None:
    out[:] = inputs.state.command


@register_term("joint_pos_offset")
def _joint_pos_offset(inputs: TermInputs, out: np.ndarray) -> None:
    np.subtract(inputs.state.joint_pos, inputs.default_joint_pos, out=out, casting="same_kind")


@register_term("joint_vel")
def _joint_vel(inputs: TermInputs, out: np.ndarray) -> None:
    out[:] = inputs.state.joint_vel


@register_term("last_action")
def _last_action(inputs: TermInputs, out: np.ndarray) -> None:
    out[:] = inputs.last_action


def gravity_b_from_quat(quat_wxyz: np.ndarray, out: np.ndarray) -> None:
    """World's down direction (0, 0, -1) in base axes: minus the third row of the rotation matrix base → world.

    Args:
        quat_wxyz: Attitude of the base, unit quaternion, ``[4]``.
        out: Receives the unit vector, ``[3]``.
    """
    w, x, y, z = quat_wxyz
    out[0] = 2.0 * (w * y - x * z)
    out[1] = -2.0 * (w * x + y * z)
    out[2] = 2.0 * (x * x + y * y) - 1.0


class ObservationBuilder:
    """Fills one preallocated ``proprio`` vector per control step.

    Args:
        bundle: Gives the terms, their sizes, scales and clips, and the default pose.

    Attributes:
        proprio: float32 ``[1, P]``, what the policy network takes; overwritten by every :meth:`build`.
        last_action: The runtime writes the policy's clipped action here after each step, float32 ``[J]``.

    Raises:
        BundleError: When the manifest names a term that is not registered, or gives a size that does not fit it.
    """

    def __init__(self, bundle: PolicyBundle) -> None:
        self.proprio = np.zeros((1, bundle.proprio_size), dtype=np.float32)
        self.last_action = np.zeros(len(bundle.joint_names), dtype=np.float32)
        self._inputs = TermInputs(
            RobotState.zeros(len(bundle.joint_names)), bundle.default_joint_pos, self.last_action
        )
        self._steps = []
        start = 0
        for term in bundle.observation:
            if term.name not in TERMS:
                raise BundleError(
                    f"observation term {term.name!r} is unknown; this runtime has {', '.join(sorted(TERMS))}"
                )
            view = self.proprio[0, start : start + term.size]
            start += term.size
            try:
                TERMS[term.name](self._inputs, view)
            except (ValueError, IndexError):
                raise BundleError(
                    f"observation term {term.name!r} does not have {term.size} values on a robot with"
                    f" {len(bundle.joint_names)} joints; export the policy again"
                ) from None
            scale = np.asarray(term.scale, dtype=np.float32)
            self._steps.append((TERMS[term.name], view, None if (scale == 1.0).all() else scale, term.clip))
        self.proprio[:] = 0.0

    def reset(self) -> None:
        """Begin an episode: no last action."""
        self.last_action[:] = 0.0

    def build(self, state: RobotState) -> np.ndarray:
        """Compute ``proprio`` for a state.

        Args:
            state: The robot's newest state.

        Returns:
            :attr:`proprio`, float32 ``[1, P]``.
        """
        self._inputs.state = state
        scale: Optional[np.ndarray]
        for function, view, scale, clip in self._steps:
            function(self._inputs, view)
            if scale is not None:
                view *= scale
            if clip is not None:
                np.clip(view, -clip, clip, out=view)
        return self.proprio
