"""Guards: what must hold for the policy to go on (checks, which trip) and what may leave the runtime (limits, which clip).

A check returns a :class:`Fault` that says why, or None. One fault ends the run: the state machine latches it and the
runtime damps from then on. A limit changes the command quietly and counts how often it had to.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, Mapping, Optional

import numpy as np

from .bundle import BundleError, PolicyBundle
from .observation import gravity_b_from_quat
from .robot_io import RobotState

__all__ = ["Fault", "GuardLimits", "Guards"]


@dataclass(frozen=True)
class Fault:
    """Why the runtime stopped the policy.

    Attributes:
        kind: ``state_age``, ``camera_age``, ``camera_shape``, ``tilt``, ``joint_position``, ``joint_velocity``,
            ``non_finite_state``, ``non_finite_action``, ``policy``, ``link``, ``deadline`` or ``estop``.
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
        state_age_s: Largest age of the robot's state [s].
        camera_age_s: Largest age of the camera frame [s] (at 10 Hz a healthy one is up to 0.1 s old).
        tilt_rad: Largest angle between the base's up axis and the vertical [rad].
        joint_pos_margin_rad: How far beyond a joint limit a joint may be [rad] (soft stops, calibration).
        joint_vel_factor: Largest joint velocity as a multiple of the joint's velocity limit.
        joint_ticks: Control steps in a row for which a joint must be beyond its limits (impacts are single spikes).
        torque_factor: The target is kept so close to the joint that the PD torque stays below this multiple of the torque
            limit. Above 1, since trained policies push by targets out of reach, and the motor saturates anyway.
        target_margin_rad: How far beyond a joint limit a target may lie [rad].
        target_rate_rad_s: Fastest change of a target [rad/s].
        deadline_misses: Missed control periods in a row that end the run.
    """

    state_age_s: float = 0.1
    camera_age_s: float = 0.5
    tilt_rad: float = 1.2
    joint_pos_margin_rad: float = 0.15
    joint_vel_factor: float = 1.5
    joint_ticks: int = 3
    torque_factor: float = 1.5
    target_margin_rad: float = 0.5
    target_rate_rad_s: float = 60.0
    deadline_misses: int = 10

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
        values: Dict[str, Any] = dict(overrides)
        if "deadline_misses" in values:
            values["deadline_misses"] = int(values["deadline_misses"])
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
        self._has_target = False
        self._beyond_pos = self._beyond_vel = 0

    def reset(self) -> None:
        """Begin an episode: forget counters of joints beyond limits and the last target; interventions are kept."""
        self._has_target = False
        self._beyond_pos = self._beyond_vel = 0

    def check_link(self, state: RobotState, state_age_s: float) -> Optional[Fault]:
        """The state is fresh and finite (asked in every mode).

        Args:
            state: The robot's newest state.
            state_age_s: How long ``t_s`` has not moved [s].
        """
        for name in ("joint_pos", "joint_vel", "quat_wxyz", "ang_vel_b", "command"):
            if not np.isfinite(getattr(state, name)).all():
                return Fault("non_finite_state", f"{name} holds NaN or infinity")
        if not np.isfinite(state.t_s):
            return Fault("non_finite_state", "t_s is not finite")
        if state_age_s > self.limits.state_age_s:
            return Fault(
                "state_age", f"state is {state_age_s:.3f} s old, at most {self.limits.state_age_s:g} s"
            )
        return None

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
        return None

    def check_camera(self, state: RobotState, state_age_s: float) -> Optional[Fault]:
        """A frame of the right size is there and fresh (asked while a policy that sees is running)."""
        camera = self._bundle.camera
        if camera is None:
            return None
        if state.rgb is None:
            return Fault("camera_age", "no camera frame")
        if state.rgb.shape != (camera.height, camera.width, 3) or state.rgb.dtype != np.uint8:
            return Fault(
                "camera_shape",
                f"frame is {state.rgb.dtype} {list(state.rgb.shape)}, expected uint8 {[camera.height, camera.width, 3]}",
            )
        age_s = state.t_s - state.rgb_t_s + state_age_s
        if not age_s <= self.limits.camera_age_s:
            return Fault("camera_age", f"frame is {age_s:.3f} s old, at most {self.limits.camera_age_s:g} s")
        return None

    def check_action(self, action: np.ndarray) -> Optional[Fault]:
        """The policy's output is finite."""
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

    def limit_target(self, target: np.ndarray, state: RobotState) -> None:
        """Keep position targets within joint limits, torque reach and rate, in place.

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
        self._last_target[:] = target
        self._has_target = True

    def _clip(self, target: np.ndarray, low: np.ndarray, high: np.ndarray, name: str) -> None:
        self._before[:] = target
        np.clip(target, low, high, out=target)
        self.interventions[name] += int(np.not_equal(self._before, target).any())

    def _joint_fault(self, kind: str, which: np.ndarray, values: np.ndarray, unit: str) -> Fault:
        index = int(np.argmax(which))
        limit = (
            f"{self._vel_limit[index]:.2f}"
            if kind == "joint_velocity"
            else f"{self._lower[index]:.2f} ... {self._upper[index]:.2f}"
        )
        name = self._bundle.joint_names[index]
        return Fault(kind, f"{name} at {values[index]:.2f} {unit}, limit {limit} {unit}")
