"""What faults do to states and images on their way from the robot: small functions, found by the name of their kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Deque, Dict

import numpy as np

from ..robot_io import LinkError, RobotState
from .injection import Injection

__all__ = ["STATE_FAULTS", "Passing", "copy_state"]


@dataclass
class Passing:
    """A state on its way, and those before it.

    Attributes:
        state: A private copy of what the robot says; functions change it, or give another.
        since_s: Seconds since the fault began.
        injection: The fault.
        given: What was handed out last.
        history: Clean states of the last second, oldest first, the present one last.
    """

    state: RobotState
    since_s: float
    injection: Injection
    given: RobotState
    history: Deque[RobotState]

    def ago(self, seconds: float) -> RobotState:
        """The clean state of so long ago (the oldest that there is)."""
        wanted_s = self.state.t_s - seconds
        return next((state for state in reversed(self.history) if state.t_s <= wanted_s), self.history[0])


StateFault = Callable[[Passing], RobotState]
STATE_FAULTS: Dict[str, StateFault] = {}
"""By kind: what becomes of a state while the fault is on."""


def _state_fault(*names: str) -> Callable[[StateFault], StateFault]:
    def add(function: StateFault) -> StateFault:
        STATE_FAULTS.update({name: function for name in names})
        return function

    return add


def _for(seconds: float, fault: StateFault) -> StateFault:
    """The fault ends after so many seconds (or one control period, where seconds are negative)."""

    def act(passing: Passing) -> RobotState:
        last_s = seconds if seconds >= 0 else passing.injection.bundle.control_dt_s - 1e-6
        return fault(passing) if passing.since_s < last_s else passing.state

    return act


ONE_PERIOD = -1.0


@_state_fault("state_dropped", "state_repeated")
def _nothing_new(passing: Passing) -> RobotState:
    return passing.given


@_state_fault("state_stale")
def _stale(passing: Passing) -> RobotState:
    return passing.ago(0.3)


@_state_fault("state_lag_grows")
def _lag_grows(passing: Passing) -> RobotState:
    return passing.ago(0.5 * passing.since_s)


@_state_fault("state_swapped_once")
def _swapped(passing: Passing) -> RobotState:
    # First the newer one early (the one before it is still on its way), then the older one, then all is well.
    passing.injection.calls += 1
    if passing.injection.calls == 2:
        return passing.history[-3] if len(passing.history) > 2 else passing.state
    return passing.state


@_state_fault("crc_burst", "truncated")
def _thrown_away(passing: Passing) -> RobotState:
    # What every link does with a message that does not hold: keep the last good one, count.
    passing.injection.stash["corrupt"] = passing.injection.stash.get("corrupt", 0) + 1
    return passing.given


@_state_fault("crc_often")
def _thrown_away_often(passing: Passing) -> RobotState:
    passing.injection.calls += 1
    return _thrown_away(passing) if passing.injection.calls % 10 == 1 else passing.state


@_state_fault("out_of_order")
def _out_of_order(passing: Passing) -> RobotState:
    # What every link does with a state that is older than the last: keep that, count.
    passing.injection.calls += 1
    if passing.injection.calls % 10 != 1:
        return passing.state
    passing.injection.stash["out_of_order"] = passing.injection.stash.get("out_of_order", 0) + 1
    return passing.given


@_state_fault("crc_once", "truncated_once")
def _thrown_away_once(passing: Passing) -> RobotState:
    passing.injection.calls += 1
    return _thrown_away(passing) if passing.injection.calls == 1 else passing.state


@_state_fault("state_misshapen")
def _misshapen(passing: Passing) -> RobotState:
    passing.state.joint_pos = passing.state.joint_pos[:-1]
    return passing.state


def _put(attribute: str, value: float) -> StateFault:
    """One entry of a field becomes this value."""

    def act(passing: Passing) -> RobotState:
        array = getattr(passing.state, attribute)
        array[passing.injection.joint % len(array)] = value
        return passing.state

    return act


for _field, _attribute in (
    ("joint_pos", "joint_pos"),
    ("joint_vel", "joint_vel"),
    ("quat", "quat_wxyz"),
    ("ang_vel", "ang_vel_b"),
    ("command", "command"),
):
    STATE_FAULTS[f"nan_{_field}"] = _put(_attribute, float("nan"))
    STATE_FAULTS[f"inf_{_field}"] = _put(_attribute, float("inf"))
STATE_FAULTS["huge_joint_pos"] = _put("joint_pos", 1e30)


@_state_fault("nan_time")
def _nan_time(passing: Passing) -> RobotState:
    passing.state.t_s = float("nan")
    return passing.state


@_state_fault("quat_zero")
def _quat_zero(passing: Passing) -> RobotState:
    passing.state.quat_wxyz *= 0.0
    return passing.state


@_state_fault("quat_not_unit")
def _quat_not_unit(passing: Passing) -> RobotState:
    passing.state.quat_wxyz *= 0.5
    return passing.state


@_state_fault("quat_negated")
def _quat_negated(passing: Passing) -> RobotState:
    passing.state.quat_wxyz *= -1.0
    return passing.state


@_state_fault("tilt")
def _tilt(passing: Passing) -> RobotState:
    half_rad = 0.25 * np.pi * passing.injection.sign
    passing.state.quat_wxyz[:] = np.cos(half_rad), np.sin(half_rad), 0.0, 0.0
    return passing.state


@_state_fault("joint_limit")
def _joint_limit(passing: Passing) -> RobotState:
    injection = passing.injection
    low, high = injection.bundle.joint_pos_limit[injection.joint]
    passing.state.joint_pos[injection.joint] = high + 0.3 if injection.sign > 0 else low - 0.3
    return passing.state


@_state_fault("joint_velocity")
def _joint_velocity(passing: Passing) -> RobotState:
    injection = passing.injection
    limit = np.broadcast_to(injection.bundle.joint_vel_limit, passing.state.joint_vel.shape)
    passing.state.joint_vel[injection.joint] = injection.sign * 2.0 * limit[injection.joint]
    return passing.state


@_state_fault("joint_torque")
def _joint_torque(passing: Passing) -> RobotState:
    injection, joints = passing.injection, len(passing.state.joint_pos)
    limit = np.broadcast_to(injection.bundle.torque_limit, (joints,))
    torque = np.zeros(joints) if passing.state.joint_torque is None else passing.state.joint_torque
    torque[injection.joint] = injection.sign * 3.0 * limit[injection.joint]
    passing.state.joint_torque = torque
    return passing.state


STATE_FAULTS["joint_spike"] = _for(ONE_PERIOD, _joint_limit)
STATE_FAULTS["velocity_spike"] = _for(ONE_PERIOD, _joint_velocity)
STATE_FAULTS["torque_spike"] = _for(ONE_PERIOD, _joint_torque)
STATE_FAULTS["state_dropped_once"] = _for(ONE_PERIOD, _nothing_new)
STATE_FAULTS["state_late_once"] = _for(0.06, _nothing_new)


@_state_fault("battery_low")
def _battery_low(passing: Passing) -> RobotState:
    passing.state.battery_fraction = 0.02
    return passing.state


@_state_fault("battery_unknown")
def _battery_unknown(passing: Passing) -> RobotState:
    passing.state.battery_fraction = float("nan")
    return passing.state


@_state_fault("motor_hot")
def _motor_hot(passing: Passing) -> RobotState:
    temperature_c = np.full(len(passing.state.joint_pos), 40.0)
    temperature_c[passing.injection.joint] = 110.0
    passing.state.motor_temperature_c = temperature_c
    return passing.state


def _shift_clock(passing: Passing, seconds: float) -> RobotState:
    passing.state.t_s += seconds
    passing.state.rgb_t_s += seconds
    return passing.state


@_state_fault("clock_back")
def _clock_back(passing: Passing) -> RobotState:
    return _shift_clock(passing, -3600.0)


@_state_fault("clock_forward")
def _clock_forward(passing: Passing) -> RobotState:
    return _shift_clock(passing, 10.0)


@_state_fault("clock_jitter")
def _clock_jitter(passing: Passing) -> RobotState:
    # Within the link's order: a time stamp never overtakes the next one, which lies at least 2 ms ahead only by chance.
    passing.injection.calls += 1
    passing.state.t_s -= 0.004 * (0.5 + 0.5 * np.sin(2.4 * passing.injection.calls))
    if passing.state.t_s <= passing.given.t_s:
        return passing.given
    return passing.state


@_state_fault("writer_restarted")
def _writer_restarted(passing: Passing) -> RobotState:
    first_s = passing.injection.stash.setdefault("first_s", passing.state.t_s)
    passing.state.rgb, passing.state.rgb_t_s = None, float("-inf")
    passing.state.t_s -= first_s
    return passing.state


@_state_fault("second_publisher")
def _second_publisher(passing: Passing) -> RobotState:
    passing.state.rival_writers = 1
    return passing.state


@_state_fault("link_lost")
def _link_lost(passing: Passing) -> RobotState:
    raise LinkError("cable pulled (injected)")


def _camera_ago(passing: Passing, seconds: float) -> RobotState:
    old = passing.ago(seconds)
    passing.state.rgb, passing.state.rgb_t_s = old.rgb, old.rgb_t_s
    return passing.state


@_state_fault("camera_frozen")
def _camera_frozen(passing: Passing) -> RobotState:
    passing.state.rgb, passing.state.rgb_t_s = passing.given.rgb, passing.given.rgb_t_s
    return passing.state


@_state_fault("camera_late_once")
def _camera_late_once(passing: Passing) -> RobotState:
    # The frame in the air is lost: the one before it is shown until the next but one.
    first = passing.injection.stash.setdefault("held", (passing.given.rgb, passing.given.rgb_t_s))
    frame_s = passing.state.rgb_t_s
    lost_s = passing.injection.stash.setdefault("lost_s", frame_s) if frame_s != first[1] else frame_s
    if frame_s in (first[1], lost_s):
        passing.state.rgb, passing.state.rgb_t_s = first
    return passing.state


@_state_fault("camera_black")
def _camera_black(passing: Passing) -> RobotState:
    # A frame that was taken before the fault stays as it was.
    seen_s = passing.injection.stash.setdefault("seen_s", passing.given.rgb_t_s)
    if passing.state.rgb is not None and passing.state.rgb_t_s != seen_s:
        passing.state.rgb = np.zeros_like(passing.state.rgb)
    return passing.state


@_state_fault("camera_black_once")
def _camera_black_once(passing: Passing) -> RobotState:
    stash, frame_s = passing.injection.stash, passing.state.rgb_t_s
    new = passing.state.rgb is not None and frame_s != stash.setdefault("seen_s", passing.given.rgb_t_s)
    if new and stash.setdefault("black_s", frame_s) == frame_s:
        passing.state.rgb = np.zeros_like(passing.state.rgb)
    return passing.state


@_state_fault("camera_restamped")
def _camera_restamped(passing: Passing) -> RobotState:
    if passing.state.rgb is not None:
        passing.state.rgb = passing.injection.stash.setdefault("held", passing.given.rgb)
    passing.state.ang_vel_b[2] += 0.5
    return passing.state


@_state_fault("camera_disconnected")
def _camera_disconnected(passing: Passing) -> RobotState:
    passing.state.rgb, passing.state.rgb_t_s = None, float("-inf")
    return passing.state


@_state_fault("camera_late")
def _camera_late(passing: Passing) -> RobotState:
    return _camera_ago(passing, 0.8)


@_state_fault("camera_wrong_size")
def _camera_wrong_size(passing: Passing) -> RobotState:
    if passing.state.rgb is not None:
        passing.state.rgb = passing.state.rgb[: passing.state.rgb.shape[0] // 2]
    return passing.state


@_state_fault("camera_wrong_type")
def _camera_wrong_type(passing: Passing) -> RobotState:
    if passing.state.rgb is not None:
        passing.state.rgb = passing.state.rgb.astype(np.float32) / 255.0
    return passing.state


def copy_state(state: RobotState) -> RobotState:
    """A private copy; the image is shared (it is replaced, never written into)."""
    optional = ("lin_acc_b", "joint_torque", "motor_temperature_c", "position_w")
    return replace(
        state,
        joint_pos=state.joint_pos.copy(),
        joint_vel=state.joint_vel.copy(),
        quat_wxyz=state.quat_wxyz.copy(),
        ang_vel_b=state.ang_vel_b.copy(),
        command=state.command.copy(),
        **{name: None if getattr(state, name) is None else getattr(state, name).copy() for name in optional},
    )
