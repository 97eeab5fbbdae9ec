"""Guards: what must hold for the policy to go on (checks, which trip) and what may leave the runtime (limits, which clip).

A check returns a :class:`Fault` that says why, or None. One fault ends the run: the state machine latches it and the
runtime damps from then on. A limit changes the command quietly and counts how often it had to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Dict, Mapping, Optional

import numpy as np

from .bundle import BundleError, PolicyBundle
from .observation import gravity_b_from_quat
from .robot_io import RobotState

__all__ = ["FAULT_KINDS", "Fault", "GuardLimits", "Guards"]

FAULT_KINDS = {
    "state_age": "no newer state came for `state_age_s`, or states come that much later than the quickest one did",
    "crc": "more than `corrupt_per_s` states were thrown away as damaged within a second, or the state is stale for it",
    "out_of_order": "more than `out_of_order_per_s` states came late within a second, or the state is stale for it",
    "clock": "one clock jumped by more than `clock_jump_s` against the other, or the runtime's went back",
    "non_finite_state": "a reading is NaN, infinite or beyond 1e6",
    "state_shape": "a reading has another number of joints than the bundle",
    "quaternion": "the attitude's norm is off 1 by more than `quat_norm_error`",
    "tilt": "the base's up axis is further than `tilt_rad` from the vertical",
    "joint_position": "a joint is `joint_pos_margin_rad` beyond its limits, `joint_ticks` steps in a row",
    "joint_velocity": "a joint is faster than `joint_vel_factor` x its limit, `joint_ticks` steps in a row",
    "joint_torque": "a measured torque is above `measured_torque_factor` x its limit, `torque_ticks` steps in a row",
    "motor_temperature": "a motor is hotter than `motor_temperature_c`",
    "battery": "the charge is below `battery_fraction`",
    "second_publisher": "somebody else writes to the command channel",
    "camera_age": "the newest usable frame is older than `camera_age_s`",
    "camera_black": "the same, and the frames since are darker than `camera_dark_level`",
    "camera_frozen": "the same, and the frames since show the same pixels under new time stamps while the robot moves",
    "camera_shape": "a frame has another size or type than the policy's camera",
    "operator": "no sign of life from the operator for `operator_age_s`, or its link raised or sent what is no command",
    "estop": "emergency stop",
    "non_finite_action": "the policy gave NaN or infinity",
    "policy": "the networks raised, or gave another number of actions",
    "deadline": "`deadline_misses` control periods in a row were missed",
    "link": "the robot's link raised when read, or refused `unsent_commands` commands in a row",
    "supervisor": "the supervisor damps and takes no more commands, or its process is dead",
    "internal": "the runtime itself raised",
}
"""All kinds of fault, with what makes them; names in backquotes are :class:`GuardLimits`."""

READINGS = (
    ("joint_pos", 0), ("joint_vel", 0), ("quat_wxyz", 4), ("ang_vel_b", 3), ("command", 3), ("lin_acc_b", 3),
    ("joint_torque", 0), ("motor_temperature_c", 0), ("position_w", 3),
)  # fmt: skip
"""Arrays of a state with their sizes; 0: one value per joint."""
DRIFT = 0.02
"""By how much the robot's clock may run slower than the runtime's (simulators that do not quite keep up)."""
ABSURD = 1e6
"""No reading of a robot is that large in SI units."""


@dataclass(frozen=True)
class Fault:
    """Why the runtime stopped the policy.

    Attributes:
        kind: A key of :data:`FAULT_KINDS`.
        detail: What was found and what the limit is, one line.
    """

    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass(frozen=True)
class GuardLimits:
    """Thresholds. The defaults suit a quadruped of Go1's size; a bundle's ``guards`` override them by name.

    Attributes:
        state_age_s: Largest age of the robot's state, against the quickest one that came [s].
        corrupt_per_s: More damaged states than this within a second are too many (at 500 states per second, 1 %).
        out_of_order_per_s: More late states than this within a second are too many.
        clock_jump_s: Largest change of robot's against runtime's clock between two new states [s]. A state that is older than
            the one before by less than this is a late packet: it does not count as new.
        quat_norm_error: Largest difference of the attitude quaternion's norm from 1.
        camera_age_s: Largest age of the camera frame [s] (at 10 Hz a healthy one is up to 0.1 s old).
        camera_dark_level: Mean pixel value, 0 ... 255, below which a frame counts as black, hence not as a frame.
        operator_age_s: Largest age of the operator's last sign of life [s].
        battery_fraction: Smallest state of charge, 0 ... 1.
        motor_temperature_c: Highest motor temperature [°C].
        tilt_rad: Largest angle between the base's up axis and the vertical [rad].
        joint_pos_margin_rad: How far beyond a joint limit a joint may be [rad] (soft stops, calibration).
        joint_vel_factor: Largest joint velocity as a multiple of the joint's velocity limit.
        joint_ticks: Control steps in a row for which a joint must be beyond its limits (impacts are single spikes).
        measured_torque_factor: Largest measured torque as a multiple of the torque limit.
        torque_ticks: Control steps in a row for which a measured torque must be above it.
        torque_factor: The target is kept so close to the joint that the PD torque stays below this multiple of the torque
            limit. Above 1, since trained policies push by targets out of reach, and the motor saturates anyway.
        target_margin_rad: How far beyond a joint limit a target may lie [rad].
        target_rate_rad_s: Fastest change of a target [rad/s].
        deadline_misses: Missed control periods in a row that end the run.
        unsent_commands: Commands in a row that the link refuses.
    """

    state_age_s: float = 0.1
    corrupt_per_s: int = 4
    out_of_order_per_s: int = 4
    clock_jump_s: float = 0.2
    quat_norm_error: float = 0.1
    camera_age_s: float = 0.4
    camera_dark_level: float = 2.0
    operator_age_s: float = 0.25
    battery_fraction: float = 0.1
    motor_temperature_c: float = 85.0
    tilt_rad: float = 1.2
    joint_pos_margin_rad: float = 0.15
    joint_vel_factor: float = 1.5
    joint_ticks: int = 3
    measured_torque_factor: float = 1.2
    torque_ticks: int = 5
    torque_factor: float = 1.5
    target_margin_rad: float = 0.5
    target_rate_rad_s: float = 60.0
    deadline_misses: int = 10
    unsent_commands: int = 3

    @classmethod
    def of(cls, overrides: Mapping[str, float]) -> GuardLimits:
        """The defaults with some changed.

        Args:
            overrides: By field name, positive.

        Raises:
            BundleError: For a name that does not exist or a value that is not positive.
        """
        known = [field.name for field in fields(cls)]
        for name, value in overrides.items():
            if name not in known:
                raise BundleError(f"guard {name!r} is unknown; there is {', '.join(known)}")
            if not value > 0:
                raise BundleError(f"guard {name!r} is {value!r}, expected a positive number")
        values: Dict[str, Any] = {
            name: int(value) if isinstance(getattr(cls, name), int) else value
            for name, value in overrides.items()
        }
        return cls(**values)


class Guards:
    """The checks and limits for one bundle; keeps the counters that they need.

    Args:
        bundle: Joint limits, gains, rates.
        limits: Thresholds; default: the bundle's.

    Attributes:
        limits: The thresholds in force.
        interventions: How many control steps each limit changed (``action_clip``, ``target_position``, ``torque``,
            ``target_rate``).
    """

    def __init__(self, bundle: PolicyBundle, limits: Optional[GuardLimits] = None) -> None:
        self.limits = limits or GuardLimits.of(bundle.guards)
        self.interventions: Dict[str, int] = {
            "action_clip": 0, "target_position": 0, "torque": 0, "target_rate": 0,
        }  # fmt: skip
        self._bundle = bundle
        joints = len(bundle.joint_names)
        margin = self.limits.joint_pos_margin_rad
        self._lower, self._upper = (
            bundle.joint_pos_limit[:, 0] - margin,
            bundle.joint_pos_limit[:, 1] + margin,
        )
        margin = self.limits.target_margin_rad
        self._target_lower = bundle.joint_pos_limit[:, 0] - margin
        self._target_upper = bundle.joint_pos_limit[:, 1] + margin
        self._vel_limit = bundle.joint_vel_limit * self.limits.joint_vel_factor
        # Where kp is zero the target does nothing, and its distance is not limited.
        stiff = np.where(bundle.kp > 0, bundle.kp, np.inf)
        self._reach = np.where(bundle.kp > 0, self.limits.torque_factor * bundle.torque_limit / stiff, np.inf)
        self._damping_ratio_s = bundle.kd / stiff
        self._rate = self.limits.target_rate_rad_s * bundle.control_dt_s
        self._gravity_b = np.zeros(3)
        self._centre, self._low, self._high, self._before = (np.zeros(joints) for _ in range(4))
        self._last_target = np.zeros(joints)
        self._joints = (joints,)
        self._torque_limit = bundle.torque_limit * self.limits.measured_torque_factor
        self._rejects = (Rejects("crc", "damaged"), Rejects("out_of_order", "late"))
        self.reset()

    def reset(self) -> None:
        """Begin an episode: forget counters of joints beyond limits, clocks and the last target; interventions are kept."""
        self._has_target = False
        self._beyond_pos = self._beyond_vel = self._beyond_torque = 0
        self._t_s = self._now_s = -np.inf
        self._offset_s: Optional[float] = None
        self._best_s = -np.inf
        self._moved_s: Optional[float] = None
        for rejects in self._rejects:
            rejects.reset()

    def resume(self, t_s: float, now_s: float, state_age_s: float, last_target: Optional[np.ndarray]) -> None:
        """Go on in the middle of a run (replays); counters of joints beyond limits begin at zero.

        Args:
            t_s: Robot's clock [s].
            now_s: Runtime's clock [s].
            state_age_s: Age of that state then [s].
            last_target: The policy's last target [rad], or None where it did not run.
        """
        self.reset()
        self._t_s, self._now_s, self._moved_s = t_s, now_s, now_s
        self._offset_s = t_s - now_s
        self._best_s = self._offset_s + state_age_s
        if last_target is not None:
            self._last_target[:], self._has_target = last_target, True

    def check_clock(self, t_s: float, now_s: float) -> Optional[Fault]:
        """Robot's and runtime's clocks go forward together (asked in every mode, before :meth:`check_link`).

        Args:
            t_s: The state's time, robot's clock [s].
            now_s: Current time, runtime's clock [s].
        """
        limit_s = self.limits.clock_jump_s
        back_s, self._now_s = self._now_s - now_s, now_s
        if back_s > 0:
            return Fault("clock", f"the runtime's clock went back by {back_s:.3f} s")
        if self._offset_s is not None and self._t_s - limit_s < t_s <= self._t_s:
            return None  # the same state again, or a late packet
        before_s, self._offset_s = self._offset_s, t_s - now_s
        elapsed_s = 0.0 if self._moved_s is None else now_s - self._moved_s
        self._best_s = max(self._offset_s, self._best_s - DRIFT * elapsed_s)
        self._t_s, self._moved_s = t_s, now_s
        if before_s is not None and abs(self._offset_s - before_s) > limit_s:
            return Fault(
                "clock",
                f"the robot's clock jumped by {self._offset_s - before_s:+.3f} s against the runtime's, at most {limit_s:g} s",
            )
        return None

    def state_age_s(self, now_s: float) -> float:
        """Age of the newest state [s], as of the last :meth:`check_clock`; 0 before the first.

        The clocks have no common zero: the state that came quickest counts as 0 s old when it came. That yardstick wears off by
        2 % of the time, for clocks (and simulators) that run at slightly different speeds.

        Args:
            now_s: Current time, runtime's clock [s].
        """
        if self._moved_s is None or self._offset_s is None:
            return 0.0
        return now_s - self._moved_s + self._best_s - self._offset_s

    def check_link(self, state: RobotState, state_age_s: float) -> Optional[Fault]:
        """The supervisor forwards; the state is fresh, whole and finite; nobody else commands (asked in every mode).

        Args:
            state: The robot's newest state.
            state_age_s: Its age [s].
        """
        if state.supervisor_fault:
            return Fault("supervisor", f"damps by itself ({state.supervisor_fault})")
        fault = self._check_readings(state) or self._check_age(state, state_age_s)
        if fault is not None:
            return fault
        if state.rival_writers > 0:
            return Fault("second_publisher", f"{state.rival_writers} other writers on the command channel")
        norm = math.sqrt(state.quat_wxyz.dot(state.quat_wxyz))
        if abs(norm - 1.0) > self.limits.quat_norm_error:
            return Fault(
                "quaternion",
                f"norm of the attitude is {norm:.3f}, expected 1 +- {self.limits.quat_norm_error:g}",
            )
        return None

    def _check_readings(self, state: RobotState) -> Optional[Fault]:
        with np.errstate(over="ignore", invalid="ignore"):
            fault = self._check_arrays(state)
        if fault is not None:
            return fault
        if not math.isfinite(state.t_s):
            return Fault("non_finite_state", "t_s is not finite")
        if math.isinf(state.battery_fraction):
            return Fault("non_finite_state", "battery_fraction is infinite")
        return None

    def _check_arrays(self, state: RobotState) -> Optional[Fault]:
        for name, size in READINGS:
            values = getattr(state, name)
            if values is None:
                continue
            if values.shape != (self._joints if size == 0 else (size,)):
                return Fault(
                    "state_shape",
                    f"{name} has shape {list(values.shape)}, expected {size or self._joints[0]} values",
                )
            # One dot product instead of isfinite().all(): NaN, infinity and overflow all fail the comparison.
            if not values.dot(values) < ABSURD * ABSURD:
                return Fault("non_finite_state", f"{name} holds NaN, infinity or a value beyond {ABSURD:g}")
        return None

    def _check_age(self, state: RobotState, state_age_s: float) -> Optional[Fault]:
        """Stale or too often rejected; a stale state has the kind of what was rejected meanwhile."""
        crc, late = self._rejects
        limits = self.limits
        fresh = self._moved_s == self._now_s
        damaged = crc.count(state.corrupt, self._now_s, limits.corrupt_per_s, fresh=fresh)
        fault = late.count(state.out_of_order, self._now_s, limits.out_of_order_per_s, fresh=fresh) or damaged
        if state_age_s <= limits.state_age_s:
            return fault
        detail = f"state is {state_age_s:.3f} s old, at most {limits.state_age_s:g} s"
        for rejects in self._rejects:
            if rejects.while_stale:
                return Fault(rejects.kind, f"{detail}; {rejects.while_stale} {rejects.what} states since")
        return Fault("state_age", detail)

    def check_body(self, state: RobotState) -> Optional[Fault]:
        """The robot is upright and its joints are within their limits (asked while it stands or runs)."""
        gravity_b_from_quat(state.quat_wxyz, self._gravity_b)
        norm = float(np.linalg.norm(self._gravity_b))
        tilt_rad = float(np.arccos(np.clip(-self._gravity_b[2] / max(norm, 1e-9), -1.0, 1.0)))
        if tilt_rad > self.limits.tilt_rad:
            return Fault(
                "tilt", f"base is tilted by {tilt_rad:.2f} rad, at most {self.limits.tilt_rad:g} rad"
            )
        outside = (state.joint_pos < self._lower) | (state.joint_pos > self._upper)
        self._beyond_pos = self._beyond_pos + 1 if outside.any() else 0
        if self._beyond_pos >= self.limits.joint_ticks:
            return self._joint_fault("joint_position", outside, state.joint_pos, "rad")
        fast = np.abs(state.joint_vel) > self._vel_limit
        self._beyond_vel = self._beyond_vel + 1 if fast.any() else 0
        if self._beyond_vel >= self.limits.joint_ticks:
            return self._joint_fault("joint_velocity", fast, state.joint_vel, "rad/s")
        return self._check_motors(state)

    def _check_motors(self, state: RobotState) -> Optional[Fault]:
        limits = self.limits
        if state.joint_torque is not None:
            strong = np.abs(state.joint_torque) > self._torque_limit
            self._beyond_torque = self._beyond_torque + 1 if strong.any() else 0
            if self._beyond_torque >= limits.torque_ticks:
                return self._joint_fault("joint_torque", strong, state.joint_torque, "N·m")
        if state.motor_temperature_c is not None:
            hot = state.motor_temperature_c > limits.motor_temperature_c
            if hot.any():
                return self._joint_fault("motor_temperature", hot, state.motor_temperature_c, "°C")
        if state.battery_fraction < limits.battery_fraction:
            return Fault(
                "battery", f"charge is {state.battery_fraction:.0%}, at least {limits.battery_fraction:.0%}"
            )
        return None

    def check_action(self, action: np.ndarray) -> Optional[Fault]:
        """The policy's output is finite, one number per joint."""
        if action.shape != self._joints:
            return Fault("policy", f"gave actions of shape {list(action.shape)}, expected {self._joints[0]}")
        if np.isfinite(action).all():
            return None
        names = [name for name, value in zip(self._bundle.joint_names, action) if not np.isfinite(value)]
        return Fault("non_finite_action", f"policy gave NaN or infinity for {', '.join(names[:3])}")

    def limit_action(self, action: np.ndarray, out: np.ndarray) -> None:
        """Clip the action as in training.

        Args:
            action: ``[J]``.
            out: Receives the clipped action, ``[J]``.
        """
        clip = self._bundle.action_clip
        np.clip(action, -clip, clip, out=out)
        self.interventions["action_clip"] += int(np.not_equal(out, action).any())

    def begin_at(self, target: np.ndarray) -> None:
        """The next target is limited in rate from here: the robot stood up to it.

        Args:
            target: [rad], ``[J]``.
        """
        self._last_target[:] = target
        self._has_target = True

    def limit_target(self, target: np.ndarray, state: RobotState) -> None:
        """Keep position targets within joint limits, torque reach and rate, in place.

        Where the windows do not meet (readings that jump), joint limits come before rate, and rate before torque.

        Args:
            target: [rad], ``[J]``.
            state: The robot's newest state.
        """
        self._clip(target, self._target_lower, self._target_upper, "target_position")
        # kp (target - q) - kd qd = +-tau  =>  target = q + kd/kp qd +- tau/kp
        np.multiply(self._damping_ratio_s, state.joint_vel, out=self._centre)
        self._centre += state.joint_pos
        np.subtract(self._centre, self._reach, out=self._low)
        np.add(self._centre, self._reach, out=self._high)
        self._clip(target, self._low, self._high, "torque")
        if self._has_target:
            np.subtract(self._last_target, self._rate, out=self._low)
            np.add(self._last_target, self._rate, out=self._high)
            self._clip(target, self._low, self._high, "target_rate")
        # A joint that reads far beyond its limits puts the torque's window out there: the joint's limits come last.
        np.maximum(target, self._target_lower, out=target)
        np.minimum(target, self._target_upper, out=target)
        self._last_target[:] = target
        self._has_target = True

    def _clip(self, target: np.ndarray, low: np.ndarray, high: np.ndarray, name: str) -> None:
        self._before[:] = target
        np.maximum(target, low, out=target)  # half the time of np.clip on so few numbers
        np.minimum(target, high, out=target)
        self.interventions[name] += int(np.not_equal(self._before, target).any())

    def _joint_fault(self, kind: str, which: np.ndarray, values: np.ndarray, unit: str) -> Fault:
        index = int(np.argmax(which))
        limit = {
            "joint_position": f"{self._lower[index]:.2f} ... {self._upper[index]:.2f}",
            "joint_velocity": f"{self._vel_limit[index]:.2f}",
            "joint_torque": f"{self._torque_limit[index]:.2f}",
            "motor_temperature": f"{self.limits.motor_temperature_c:g}",
        }[kind]
        name = self._bundle.joint_names[index]
        return Fault(kind, f"{name} at {values[index]:.2f} {unit}, limit {limit} {unit}")


class Rejects:
    """Counts states that a link threw away: within the running second, and since the last good one.

    Args:
        kind: Kind of the fault that too many are.
        what: How they are called in its text.

    Attributes:
        while_stale: Thrown away since the last good state.
    """

    def __init__(self, kind: str, what: str) -> None:
        self.kind, self.what = kind, what
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self.while_stale = 0
        self._last: Optional[int] = None
        self._base, self._since_s = 0, -np.inf

    def count(self, total: int, now_s: float, limit: int, *, fresh: bool) -> Optional[Fault]:
        """Take the link's total into account.

        Args:
            total: Thrown away since the link opened.
            now_s: Current time [s].
            limit: How many are allowed within a second.
            fresh: Whether a newer state came now.
        """
        if self._last is None or total < self._last:  # the first state, or a link that was opened anew
            self._last = self._base = total
        if total > self._last and now_s - self._since_s > 1.0:
            self._base, self._since_s = self._last, now_s
        self.while_stale = 0 if fresh else self.while_stale + total - self._last
        self._last = total
        if total - self._base > limit:
            return Fault(
                self.kind, f"{total - self._base} {self.what} states within a second, at most {limit}"
            )
        return None
