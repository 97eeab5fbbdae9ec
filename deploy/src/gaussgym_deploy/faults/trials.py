"""One trial: a fault at one moment on one link, what the robot was told from then on, and whether that was right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional, Sequence, Tuple

import numpy as np

from ..bundle import PolicyBundle
from ..guards import GuardLimits
from .table import PERIODS, FaultKind, allowed_s

__all__ = ["AFTER_DAMP_S", "AFTER_RIDE_S", "Observed", "Trial", "judge", "no_trial", "worst_command"]

AFTER_DAMP_S = 0.3
"""Damping is watched for so long after it began [s]."""
AFTER_RIDE_S = 0.25
"""A robot that rode through is watched walking for so long [s]."""
ROUNDING = 1e-6


@dataclass
class Observed:
    """What happened in a trial, as it was seen from outside.

    Attributes:
        start_s: When the fault began [s].
        end_s: When the trial ended [s].
        commands: Commands at the robot's end, ``[N, 1 + 3 J]``: time [s], q, kp, kd.
        causes: Faults in the order in which they were latched, ``kind: detail``: the runtime's log, the supervisor's.
        held: Whether the mode stayed STAND as long as the fault lasted (trials of ``hold``).
        end_mode: Mode at the end.
        runs: Whether the policy still acted at the end.
        timed_out_s: When the robot's own time-out damped it [s], None: it did not.
        exceptions: What escaped from the runtime or the supervisor.
        worst_turn_s: Longest time between two turns of the robot's own loop [s]; 0 in virtual time.
    """

    start_s: float
    end_s: float
    commands: np.ndarray
    causes: List[str] = field(default_factory=list)
    held: bool = False
    end_mode: str = ""
    runs: bool = False
    timed_out_s: Optional[float] = None
    exceptions: List[str] = field(default_factory=list)
    worst_turn_s: float = 0.0


@dataclass(frozen=True)
class Trial:
    """One trial and its verdict.

    Attributes:
        kind: Name of the fault.
        link: Where.
        mode: In which mode: ``stand`` or ``run``.
        expected: ``ride``, ``hold`` or ``damp``.
        moment: When in the control period the fault began, 0 ... 1.
        reaction_s: From the fault to the first damping command at the robot's end [s]; None: there was none.
        allowed_s: Longest reaction [s].
        longest_gap_s: Longest silence between damping commands [s].
        beyond_limit_rad: How far the worst stiff target lay beyond a joint limit [rad]; negative: within.
        worst_gain: Largest kp and kd as a multiple of what is allowed.
        finite: Whether every command was finite.
        cause: What the log says first; empty: nothing.
        failures: What was wrong; empty: passed.
    """

    kind: str
    link: str
    mode: str
    expected: str
    moment: float
    reaction_s: Optional[float]
    allowed_s: float
    longest_gap_s: float
    beyond_limit_rad: float
    worst_gain: float
    finite: bool
    cause: str
    failures: Tuple[str, ...] = ()


def no_trial(kind: FaultKind, link: str, mode: str, why: str) -> Trial:
    """A failed trial that did not take place.

    Args:
        kind: The row.
        link: Where.
        mode: In which mode the fault should have fallen.
        why: What went wrong.
    """
    expected = kind.expected(mode) or "damp"
    return Trial(kind.name, link, mode, expected, 0.0, None, 0.0, 0.0, 0.0, 0.0, True, "", (why,))


def worst_command(commands: np.ndarray, bundle: PolicyBundle, damping_kd: float) -> Tuple[float, float, bool]:
    """The worst that was sent.

    Args:
        commands: ``[N, 1 + 3 J]``.
        bundle: Joint limits and gains.
        damping_kd: Damping of the damping command [N·m·s/rad].

    Returns:
        How far a stiff target lay beyond a joint limit [rad] (negative: within), the largest gain as a multiple of what is
        allowed, whether all was finite.
    """
    joints = len(bundle.joint_names)
    q, kp, kd = (commands[:, 1 + i * joints : 1 + (i + 1) * joints] for i in range(3))
    if not len(commands):
        return float("-inf"), 0.0, True
    beyond = np.maximum(bundle.joint_pos_limit[:, 0] - q, q - bundle.joint_pos_limit[:, 1])
    beyond = np.where(kp > 0, beyond, -np.inf)
    most_kd = np.maximum(bundle.kd, damping_kd)
    most_kp = np.where(bundle.kp > 0, bundle.kp, np.inf)
    gain = max(float(np.nanmax(kp / most_kp)), float(np.nanmax(kd / most_kd)))
    return float(beyond.max()), gain, bool(np.isfinite(commands).all())


def judge(
    kind: FaultKind,
    link: str,
    mode: str,
    seen: Observed,
    bundle: PolicyBundle,
    limits: GuardLimits,
    *,
    moment: float,
    damping_kd: float,
) -> Trial:
    """Hold what happened against the table.

    Args:
        kind: The row.
        link: Where.
        mode: Mode in which the fault fell.
        seen: What happened.
        bundle: Limits, gains, rates.
        limits: Guard thresholds in force.
        moment: For the report.
        damping_kd: Damping of the damping command [N·m·s/rad].
    """
    expected = kind.expected(mode) or "damp"
    joints = len(bundle.joint_names)
    times = seen.commands[:, 0]
    damping = is_damping(seen.commands, joints)
    after = times >= seen.start_s - ROUNDING
    first = np.flatnonzero(after & damping)
    damped_s = times[first[0]] if len(first) else seen.timed_out_s
    reaction_s = None if damped_s is None else float(damped_s - seen.start_s)
    gap_s = _longest_gap_s(times[first[0] :] if len(first) else times[:0], seen.end_s)
    beyond, gain, finite = worst_command(seen.commands, bundle, damping_kd)
    limit_s = allowed_s(kind, limits, bundle.control_dt_s)
    failures = list(seen.exceptions)
    before = np.flatnonzero(times < seen.start_s)
    if not len(before) or damping[before[-1]]:
        failures.append("the robot was not on its feet before the fault")
    if not finite:
        failures.append("a command was not finite")
    if beyond > limits.target_margin_rad + ROUNDING:
        failures.append(
            f"a target lay {beyond:.3g} rad beyond a joint limit, allowed are {limits.target_margin_rad:g}"
        )
    if gain > 1.0 + ROUNDING:
        failures.append(f"a gain was {gain:.3g} times what is allowed")
    if expected == "damp":
        failures += _judge_damp(kind, seen, reaction_s, limit_s, gap_s, damping, first, bundle.control_dt_s)
    else:
        failures += _judge_ride(expected, seen, reaction_s)
    return Trial(
        kind.name, link, mode, expected, moment, reaction_s, limit_s, gap_s, beyond, gain, finite,
        seen.causes[0] if seen.causes else "", tuple(failures),
    )  # fmt: skip


def is_damping(commands: np.ndarray, joints: int) -> np.ndarray:
    """Which commands are damping: no stiffness, and every joint damped.

    Args:
        commands: ``[N, 1 + 3 J]``.
        joints: Number of joints.

    Returns:
        bool ``[N]``.
    """
    soft = np.logical_not(commands[:, 1 + joints : 1 + 2 * joints].any(axis=1))
    return np.logical_and(soft, (commands[:, 1 + 2 * joints :] > 0).all(axis=1))


def _judge_damp(
    kind: FaultKind,
    seen: Observed,
    reaction_s: Optional[float],
    limit_s: float,
    gap_s: float,
    damping: np.ndarray,
    first: np.ndarray,
    control_dt_s: float,
) -> List[str]:
    failures = []
    if reaction_s is None:
        failures.append("no damping")
    elif reaction_s > limit_s + ROUNDING:
        failures.append(f"damped after {1e3 * reaction_s:.0f} ms, allowed are {1e3 * limit_s:.0f} ms")
    if len(first) and not damping[first[0] :].all():
        failures.append("not latched: the robot was driven again after damping")
    if len(first) and seen.timed_out_s is None and gap_s > PERIODS * control_dt_s:
        failures.append(f"damping was not sent for {1e3 * gap_s:.0f} ms")
    if not names_cause(kind.words, seen.causes):
        found = "; ".join(seen.causes) or "nothing"
        failures.append(f"the log names {found}, expected {' or '.join(kind.words)}")
    return failures


def _judge_ride(expected: str, seen: Observed, reaction_s: Optional[float]) -> List[str]:
    failures = []
    if reaction_s is not None:
        failures.append(f"damped after {1e3 * reaction_s:.0f} ms, expected to {expected}")
    if seen.causes:
        failures.append(f"latched {seen.causes[0]}")
    if expected == "hold" and not seen.held:
        failures.append("did not hold the pose while the fault lasted")
    if not seen.runs:
        failures.append(f"does not run afterwards (mode {seen.end_mode})")
    return failures


def names_cause(words: Sequence[str], causes: Sequence[str]) -> bool:
    """Whether what the runtime latched, or what the supervisor did, is one of the faults that name the cause."""
    return any(cause.split(":")[0] in words for cause in causes)


def _longest_gap_s(times: np.ndarray, end_s: float) -> float:
    if not len(times):
        return 0.0
    return float(np.diff(np.append(times, end_s)).max())
