"""Replays a flight through the runtime's own code: the same readings must give the same actions, bit for bit.

A flight that begins with the run is replayed from its first step. One whose beginning was overwritten is taken up after its
first step, from the recurrent state, feature, action, target and clocks that it recorded; only the counters of joints that were
beyond their limits for fewer than a handful of steps begin at zero then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional

import numpy as np

from .bundle import BundleError, PolicyBundle
from .camera import Camera, CameraFrame, CameraThread
from .guards import Fault, GuardLimits
from .operator import OperatorCommand
from .recorder import MISFIT, MODES, NUMBERS, OPTIONAL, STATE, Flight, bundle_sha256
from .robot_io import JointCommand, RobotState
from .runtime import Runtime

__all__ = ["ReplayReport", "replay"]

COMPARED = ("action", "proprio", "target", "kp", "kd")


@dataclass(frozen=True)
class ReplayReport:
    """Outcome of a replay.

    Attributes:
        steps: Control steps replayed.
        policy_steps: Those in which the policy ran.
        identical: Whether actions, inputs, commands, modes and faults are the same, bit for bit.
        max_abs_error: Largest difference by field; infinite where one side has a number and the other none.
        first_difference: Row of the first one, or None.
        what: What differs there.
        fault: The fault that the replay ended in, or None.
    """

    steps: int
    policy_steps: int
    identical: bool
    max_abs_error: Dict[str, float]
    first_difference: Optional[int]
    what: str
    fault: Optional[str]


def replay(bundle: PolicyBundle, flight: Flight) -> ReplayReport:
    """Run a flight's readings through the runtime and compare.

    Args:
        bundle: The bundle that flew.
        flight: The flight.

    Raises:
        BundleError: When it is another bundle, or was changed since.
    """
    found, expected = bundle_sha256(bundle), flight.manifest.get("bundle_sha256")
    if found != expected:
        raise BundleError(
            f"{bundle.path}: sha256 of its manifest is {found[:12]}, the flight was made with {str(expected)[:12]};"
            f" give the bundle that flew ({flight.manifest.get('bundle')})"
        )
    again = _Replay(bundle, flight)
    first = again.begin()
    errors: Dict[str, float] = {name: 0.0 for name in COMPARED}
    difference, what = None, ""
    for row in range(first, len(flight)):
        again.step(row)
        for name in again.differences(row, errors):
            if difference is None:
                difference, what = row, name
    ran = np.isfinite(flight.arrays["proprio"][first:]).all(axis=1)
    fault = again.runtime.machine.fault
    return ReplayReport(
        len(flight) - first,
        int(ran.sum()),
        difference is None,
        errors,
        difference,
        what,
        None if fault is None else str(fault),
    )


class _Tape:
    """Robot, operator and camera of a replay: each says what was recorded for the current row."""

    def __init__(self, bundle: PolicyBundle, flight: Flight) -> None:
        self.flight, self.row = flight, 0
        self.sent: Optional[JointCommand] = None
        self.state = RobotState.zeros(len(bundle.joint_names))
        self._misfit = np.zeros((1, 1, 3), dtype=np.uint8)
        self._frame: Optional[CameraFrame] = None

    def turn_to(self, row: int) -> None:
        """Set the state to that of a row."""
        arrays, state = self.flight.arrays, self.state
        self.row, self.sent = row, None
        state.t_s = float(arrays["robot_t_s"][row])
        for name in STATE:
            setattr(state, name, arrays[name][row].copy())
        for name in OPTIONAL:
            values = arrays[name][row]
            setattr(state, name, None if np.isnan(values).all() else values)
        for name in NUMBERS:
            setattr(state, name, arrays[name][row].item())
        fault = self.flight.fault("supervisor_fault", row)
        state.supervisor_fault = "" if fault is None else fault.detail
        state.rgb, state.rgb_t_s = self._image(row), float(arrays["rgb_t_s"][row])
        self._frame = None if state.rgb is None else CameraFrame(state.rgb, state.rgb_t_s, state.rgb_t_s, row)

    def _image(self, row: int) -> Optional[np.ndarray]:
        index = int(self.flight.arrays["rgb_frame"][row])
        if index == MISFIT:
            return self._misfit
        return None if index < 0 else self.flight.arrays["rgb"][index]

    def write(self, command: JointCommand) -> None:
        """Remember what was sent."""
        self.sent = JointCommand(command.q.copy(), command.kp.copy(), command.kd.copy())

    def latest(self) -> Optional[CameraFrame]:
        """The frame of the row."""
        return self._frame

    def close(self) -> None:
        """Nothing to let go of."""


class _RecordedOperator:
    def __init__(self, tape: _Tape) -> None:
        self._tape = tape

    def read(self, state: RobotState, now_s: float) -> OperatorCommand:
        tape, arrays = self._tape, self._tape.flight.arrays
        fault, stop = (tape.flight.fault(f"operator_{what}", tape.row) for what in ("error", "stop"))
        if fault is not None:
            raise RuntimeError(fault.detail)
        mode = int(arrays["operator_mode"][tape.row])
        return OperatorCommand(
            velocity=arrays["operator_velocity"][tape.row],
            alive_s=float(arrays["operator_alive_s"][tape.row]),
            stop=None if stop is None else stop.detail,
            mode=None if mode < 0 else MODES[mode].value,
        )

    def close(self) -> None:
        pass


class _RecordedCamera(CameraThread):
    def __init__(self, tape: _Tape) -> None:
        camera: Camera = tape  # type: ignore[assignment]  # never read: the thread does not start
        super().__init__(camera)
        self._tape = tape

    def latest(self) -> Optional[CameraFrame]:
        return self._tape.latest()


class _Replay:
    """A runtime on a tape."""

    def __init__(self, bundle: PolicyBundle, flight: Flight) -> None:
        about = flight.manifest
        self.flight = flight
        self.tape = _Tape(bundle, flight)
        self.runtime = Runtime(
            bundle,
            self.tape,  # type: ignore[arg-type]  # read() is not needed: states are handed in
            operator=_RecordedOperator(self.tape) if about["operator"] else None,
            camera=_RecordedCamera(self.tape) if about["camera_thread"] else None,
            limits=GuardLimits(**about["limits"]),
            damp_s=about["damp_s"],
            stand_s=about["stand_s"],
        )

    def begin(self) -> int:
        """Take up the flight; returns the first row to replay."""
        arrays = self.flight.arrays
        if self.flight.manifest["from_start"]:
            self.runtime.restart(float(arrays["t_s"][0]))
            return 0
        if len(self.flight) < 2:
            raise BundleError(f"{self.flight.path}: holds one step of a run that began earlier, expected two")
        self.tape.turn_to(0)
        self.runtime.resume(
            {name: values[0] for name, values in arrays.items() if name != "rgb"},
            {name: arrays[name][1] for name in ("hidden", "feature", "last_action")},
            self.tape.state,
            fault=self.flight.fault("fault", 0),
        )
        return 1

    def step(self, row: int) -> None:
        """One control step."""
        arrays, tape, runtime = self.flight.arrays, self.tape, self.runtime
        tape.turn_to(row)
        runtime.goal = MODES[int(arrays["goal"][row])]
        runtime.last_action_raw[:] = np.nan
        state = tape.state if arrays["readable"][row] else None
        runtime.control(state, float(arrays["t_s"][row]), fault=self.flight.fault("given_fault", row))

    def differences(self, row: int, errors: Dict[str, float]) -> list:
        """Names of what differs in a row; largest differences go into ``errors``."""
        arrays, runtime, sent = self.flight.arrays, self.runtime, self.tape.sent
        nothing = np.full(len(runtime.bundle.joint_names), np.nan)
        ran = bool(np.isfinite(arrays["proprio"][row]).all())
        got = {
            "action": runtime.last_action_raw,
            "proprio": runtime.proprio[0] if ran else arrays["proprio"][row],
            "target": nothing if sent is None else sent.q,
            "kp": nothing if sent is None else sent.kp,
            "kd": nothing if sent is None else sent.kd,
        }
        differing = []
        for name, values in got.items():
            recorded = arrays[name][row]
            if not np.array_equal(values, recorded, equal_nan=True):
                differing.append(name)
                off = float(np.abs(values - recorded).max())
                errors[name] = max(errors[name], np.inf if np.isnan(off) else off)
        fault: Optional[Fault] = runtime.machine.fault
        recorded_fault = self.flight.fault("fault", row)
        if MODES[int(arrays["mode"][row])] is not runtime.machine.mode:
            differing.append("mode")
        if (None if fault is None else fault.kind) != (
            None if recorded_fault is None else recorded_fault.kind
        ):
            differing.append("fault")
        return differing
