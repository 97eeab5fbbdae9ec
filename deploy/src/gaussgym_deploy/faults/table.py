"""Every fault kind: what happens, how the runtime must react, how soon, and what the log must call it.

The table is the contract of the safety layer; :mod:`gaussgym_deploy.faults.trials` holds the code to it. A reaction is

- ``ride``: nothing happens. The mode stays, nothing is latched, and the robot still walks afterwards.
- ``hold``: the robot stays on its feet where it is, and goes on when the fault is over (a robot that stands and whose camera
  is gone does not start to walk).
- ``damp``: damping commands, sent again and again, latched, and the log names the cause.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Iterable, Optional, Sequence, Tuple

from ..bundle import BundleError
from ..guards import GuardLimits

__all__ = [
    "CAMERA_BOUND_S",
    "KINDS",
    "OPERATOR_BOUND_S",
    "PERIODS",
    "TABLE",
    "FaultKind",
    "allowed_s",
    "select_kinds",
]

PERIODS = 2
"""Control periods between the moment from which a fault can be known and the first damping command."""
CAMERA_BOUND_S = 0.5
"""Camera faults: from the fault itself to the first damping command [s]."""
OPERATOR_BOUND_S = 0.3
"""A lost operator: from the last sign of life to the first damping command [s]."""


ALL_LINKS = ("bench", "sim", "dds-sim")


@dataclass(frozen=True)
class FaultKind:
    """One row.

    Attributes:
        name: What ``--kinds`` takes.
        what: What happens, one line.
        side: Where it happens: ``state``, ``camera``, ``policy``, ``operator``, ``link``, ``process``, ``log``.
        run: Reaction of a robot that runs: ``ride`` or ``damp``.
        stand: Reaction of one that stands (up): ``ride``, ``hold`` or ``damp``; None where the fault cannot happen then.
        threshold: The documented threshold from which it can be known: a field of :class:`~gaussgym_deploy.guards.GuardLimits`
            in seconds (``*_s``) or control steps (``*_ticks``, ``*_misses``); empty: at once.
        known_s: When it can be known, where no threshold says so [s].
        known_periods: The same in control periods (silence is known when the next command does not come).
        factor: Multiple of the threshold (a lag that grows by half a second per second takes twice as long).
        bound: ``control`` (:data:`PERIODS` after it can be known), ``camera`` or ``operator`` (fixed, from the fault itself).
        words: Fault kinds of the log of which one must be there.
        links: Where it makes sense.
        real_time: About processes and the machine's time: not for links in virtual time.
    """

    name: str
    what: str
    side: str
    run: str = "damp"
    stand: Optional[str] = "damp"
    threshold: str = ""
    known_s: float = 0.0
    known_periods: float = 0.0
    factor: float = 1.0
    bound: str = "control"
    words: Tuple[str, ...] = ()
    links: Tuple[str, ...] = ALL_LINKS
    real_time: bool = False

    def expected(self, mode: str) -> Optional[str]:
        """Reaction in ``stand`` or ``run``."""
        return self.run if mode == "run" else self.stand

    @property
    def modes(self) -> Tuple[str, ...]:
        """Modes in which it can happen."""
        return ("run",) if self.stand is None else ("stand", "run")


def allowed_s(kind: FaultKind, limits: GuardLimits, control_dt_s: float) -> float:
    """Longest time from the fault to the first damping command at the robot's end [s].

    Args:
        kind: Which fault.
        limits: The thresholds in force.
        control_dt_s: Control period [s].
    """
    if kind.bound == "camera":
        return CAMERA_BOUND_S
    if kind.bound == "operator":
        return OPERATOR_BOUND_S
    return known_after_s(kind, limits, control_dt_s) + PERIODS * control_dt_s


def known_after_s(kind: FaultKind, limits: GuardLimits, control_dt_s: float) -> float:
    """How long after the fault its threshold is reached [s]."""
    if not kind.threshold:
        return kind.known_s + kind.known_periods * control_dt_s
    value = float(getattr(limits, kind.threshold))
    if not kind.threshold.endswith("_s"):
        value = (value - 1.0) * control_dt_s  # the first of n steps in a row is the fault itself
    return kind.factor * value


NOT_DDS = ("bench", "sim")
"""DDS cannot say it (ticks are integers, a frame has one length) or catches it before we do."""


def _ride(name: str, what: str, side: str, **changes: object) -> FaultKind:
    return replace(FaultKind(name, what, side, run="ride", stand="ride"), **changes)  # type: ignore[arg-type]


def _silent(name: str, what: str) -> FaultKind:
    """The runtime's process says nothing more, which is known when its next command does not come."""
    words = ("heartbeat", "runtime_gone")
    return FaultKind(name, what, "process", known_periods=1.0, words=words, real_time=True)


def _bad_values() -> Iterable[FaultKind]:
    """NaN and infinity in each field of a state."""
    fields = {
        "joint_pos": "a joint angle", "joint_vel": "a joint velocity", "quat": "the quaternion", "ang_vel": "the gyroscope",
        "command": "the robot's own velocity command",
    }  # fmt: skip
    for field, text in fields.items():
        links = NOT_DDS if field == "command" else ALL_LINKS
        yield FaultKind(f"nan_{field}", f"NaN in {text}", "state", words=("non_finite_state",), links=links)
    yield FaultKind(
        "nan_time", "NaN as the robot's time", "state", words=("non_finite_state", "clock"), links=NOT_DDS
    )
    yield FaultKind("inf_joint_pos", "infinity in a joint angle", "state", words=("non_finite_state",))
    yield FaultKind("inf_ang_vel", "infinity in the gyroscope", "state", words=("non_finite_state",))


TABLE: Tuple[FaultKind, ...] = (
    # ------------------------------------------------------------------------------------------------ states on their way
    _ride("state_dropped_once", "no new state for one control period", "state"),
    _ride("state_late_once", "no new state for three control periods, then the newest", "state"),
    FaultKind("state_dropped", "no state comes any more", "state", threshold="state_age_s", words=("state_age",)),
    FaultKind("state_repeated", "the same state again and again", "state", threshold="state_age_s", words=("state_age",)),
    FaultKind(
        "state_stale", "states of 0.3 s ago", "state", threshold="state_age_s",
        words=("state_age", "clock", "out_of_order"),
    ),
    FaultKind(
        "state_lag_grows", "states fall behind by half a second per second", "state", threshold="state_age_s", factor=2.1,
        words=("state_age", "clock"),
    ),
    _ride("state_swapped_once", "one state is overtaken by the next", "state"),
    FaultKind("out_of_order", "every tenth state comes late", "state", known_s=0.1, words=("out_of_order",)),
    _ride("crc_once", "one state with a bad CRC", "state"),
    FaultKind("crc_often", "every tenth state with a bad CRC", "state", known_s=0.1, words=("crc",)),
    FaultKind("crc_burst", "every state with a bad CRC", "state", threshold="state_age_s", words=("crc", "state_age")),
    _ride("truncated_once", "one state cut short on the wire", "state", links=NOT_DDS),
    FaultKind(
        "truncated", "every state cut short on the wire", "state", threshold="state_age_s", words=("crc", "state_age"),
        links=NOT_DDS,
    ),
    FaultKind(
        "state_misshapen", "a driver that hands out eleven of twelve joints", "state",
        words=("state_shape",), links=NOT_DDS,
    ),
    *_bad_values(),
    FaultKind("huge_joint_pos", "joint angle of 1e30 rad", "state", words=("non_finite_state", "joint_position")),
    FaultKind("quat_zero", "quaternion of zeros", "state", words=("quaternion",)),
    FaultKind("quat_not_unit", "quaternion of length 0.5", "state", words=("quaternion",)),
    _ride("quat_negated", "quaternion with the other sign (the same attitude)", "state"),
    # ------------------------------------------------------------------------------------------------ the robot's body
    FaultKind("tilt", "the base lies on its side", "state", words=("tilt",)),
    _ride("joint_spike", "a joint beyond its limit in one control period", "state"),
    FaultKind("joint_limit", "a joint beyond its limit", "state", threshold="joint_ticks", words=("joint_position",)),
    _ride("velocity_spike", "a joint too fast in one control period", "state"),
    FaultKind("joint_velocity", "a joint too fast", "state", threshold="joint_ticks", words=("joint_velocity",)),
    _ride("torque_spike", "three times the torque limit measured in one control period", "state"),
    FaultKind("joint_torque", "the same again and again", "state", threshold="torque_ticks", words=("joint_torque",)),
    FaultKind("battery_low", "battery at 2 %", "state", words=("battery",)),
    _ride("battery_unknown", "the robot stops saying how full its battery is", "state", links=NOT_DDS),
    FaultKind("motor_hot", "a motor at 110 °C", "state", words=("motor_temperature",)),
    # ------------------------------------------------------------------------------------------------ clocks and peers
    FaultKind("clock_back", "the robot's clock jumps back by an hour", "state", words=("clock", "out_of_order")),
    FaultKind("clock_forward", "the robot's clock jumps ahead by ten seconds", "state", words=("clock",)),
    _ride("clock_jitter", "time stamps shake by 4 ms", "state"),
    FaultKind("writer_restarted", "the robot's computer restarts: time from zero", "state", words=("clock", "link")),
    FaultKind(
        "second_publisher", "somebody else publishes commands as well (links look every 20 ms)", "state", known_s=0.02,
        words=("second_publisher",),
    ),
    FaultKind("link_lost", "the link raises at every read", "link", words=("link", "state_age"), links=NOT_DDS),
    _ride("send_failed_once", "one command cannot be sent", "link", links=NOT_DDS),
    FaultKind("send_fails", "no command can be sent for 0.2 s", "link", known_s=0.2, words=("link",), links=NOT_DDS),
    # ------------------------------------------------------------------------------------------------ camera
    _ride("camera_late_once", "one frame is lost", "camera", stand=None),
    _ride("camera_black_once", "one frame is black", "camera", stand=None),
    FaultKind("camera_frozen", "no new frame any more", "camera", stand="hold", bound="camera", words=("camera_age",)),
    FaultKind("camera_black", "every frame is black", "camera", stand="hold", bound="camera", words=("camera_black",)),
    FaultKind(
        "camera_restamped", "the same pixels under new time stamps while the robot turns", "camera", stand=None, bound="camera",
        words=("camera_frozen",),
    ),
    FaultKind("camera_disconnected", "no image any more", "camera", stand="hold", bound="camera", words=("camera_age",)),
    FaultKind("camera_late", "frames come 0.8 s late", "camera", stand="hold", bound="camera", words=("camera_age",)),
    FaultKind("camera_wrong_size", "frames of half the height", "camera", stand="hold", bound="camera", words=("camera_shape",)),
    FaultKind("camera_wrong_type", "frames of floats", "camera", stand="hold", bound="camera", words=("camera_shape",)),
    # ------------------------------------------------------------------------------------------------ policy
    FaultKind("action_nan", "NaN in an action", "policy", stand=None, words=("non_finite_action",)),
    FaultKind("action_inf", "infinity in an action", "policy", stand=None, words=("non_finite_action",)),
    _ride("action_huge", "one action of a million (clipped)", "policy", stand=None),
    _ride("action_shakes", "the largest action, its sign changing at every step, for 0.1 s (limited)", "policy", stand=None),
    FaultKind("action_misshapen", "eleven of twelve actions", "policy", stand=None, words=("policy", "non_finite_action")),
    FaultKind("policy_raises", "the policy raises", "policy", stand=None, words=("policy",)),
    _ride("inference_late_once", "one inference takes 15 ms", "policy", stand=None),
    FaultKind(
        "inference_late", "every inference takes 70 ms", "policy", stand=None, known_periods=1.0,
        words=("heartbeat", "supervisor", "deadline"),
    ),
    # ------------------------------------------------------------------------------------------------ operator
    _ride("operator_late_once", "no sign of life for 0.15 s", "operator"),
    FaultKind("operator_lost", "no sign of life any more", "operator", bound="operator", words=("operator",)),
    FaultKind("operator_estop", "the operator presses the emergency stop", "operator", words=("estop",)),
    FaultKind("operator_nan", "the operator's link gives NaN", "operator", words=("operator", "non_finite_state")),
    FaultKind("operator_raises", "the gamepad's driver raises", "operator", words=("operator",)),
    # ------------------------------------------------------------------------------------------------ processes, machine
    _ride("log_disk_full", "the disk of the log is full", "log"),
    _ride("runtime_busy_once", "another thread holds the interpreter for 15 ms", "process", real_time=True),
    _silent("runtime_busy", "another thread holds the interpreter for 0.3 s"),
    _silent("runtime_paused", "the runtime's process is stopped (SIGSTOP) for 0.3 s"),
    _silent("runtime_killed", "the runtime's process is killed (SIGKILL)"),
    _silent("runtime_crashes", "the runtime's process crashes (SIGSEGV)"),
    FaultKind(
        "supervisor_killed", "the supervisor is killed (SIGKILL): the motors' own time-out damps", "process", known_s=0.1,
        words=("supervisor", "link"), real_time=True,
    ),
)  # fmt: skip

KINDS: Dict[str, FaultKind] = {kind.name: kind for kind in TABLE}


def select_kinds(names: Sequence[str], link: str) -> Tuple[FaultKind, ...]:
    """The rows that make sense on a link.

    Args:
        names: Which; empty: all.
        link: Name of the link.

    Raises:
        BundleError: For a name that is not in the table.
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise BundleError(f"fault kind {unknown[0]!r} is unknown; there is {', '.join(KINDS)}")
    chosen = names or KINDS
    return tuple(KINDS[name] for name in chosen if link in KINDS[name].links)
