"""The flight recorder: the last 60 s of a run in memory taken once, written as a folder when something happened and at the end.

::

    flight.json     what the numbers mean: units, texts of faults, bundle, thresholds, versions (written last)
    flight.npz      one row per control step, oldest first, and the camera frames that these rows name

:data:`FIELDS` lists the arrays. What the runtime read, what the operator said, what went into the networks and what left for the
robot are all there, in the types that they had, so that :mod:`gaussgym_deploy.replay` can run the same code over them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import shutil
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

from .bundle import BundleError, PolicyBundle
from .camera import CameraWatch
from .guards import Fault
from .operator import OperatorCommand
from .policy import Policy
from .robot_io import JointCommand, RobotState
from .states import Mode, StateMachine

__all__ = ["FIELDS", "Flight", "FlightRecorder", "read_flight"]

FORMAT, VERSION = "gaussgym-flight", 1
MANIFEST, ARRAYS = "flight.json", "flight.npz"
MODES = tuple(Mode)
NO_FRAME, MISFIT = -1, -2
MAX_TEXTS = 64

FIELDS: Dict[str, str] = {
    "t_s": "runtime's clock [s]",
    "readable": "whether a state could be read; without one the state's fields are those of the row before",
    "robot_t_s": "robot's clock [s]",
    "joint_pos": "[rad], [T, J]",
    "joint_vel": "[rad/s], [T, J]",
    "quat_wxyz": "attitude of the base, base to world, [T, 4]",
    "ang_vel_b": "[rad/s], [T, 3]",
    "command": "v_x, v_y [m/s], yaw rate [rad/s] that the policy saw: the operator's, else the robot's own, [T, 3]",
    "lin_acc_b": "[m/s^2], NaN where the robot does not say, [T, 3]",
    "joint_torque": "[N m], NaN where the robot does not say, [T, J]",
    "motor_temperature_c": "[degrees C], NaN where the robot does not say, [T, J]",
    "position_w": "odometry [m], NaN where the robot does not say, [T, 3]",
    "battery_fraction": "0 ... 1, NaN where the robot does not say",
    "corrupt": "damaged states so far",
    "out_of_order": "late states so far",
    "rival_writers": "other writers of commands",
    "round_trip_s": "newest command-to-state round trip [s], NaN where the link does not say",
    "rgb_frame": "index into rgb of the newest frame; -1: none yet, -2: one of another size",
    "rgb_t_s": "when it was taken: robot's clock, or runtime's where 'camera_thread' is true [s]",
    "operator_velocity": "what the operator's link said, [T, 3]",
    "operator_alive_s": "runtime's clock [s]",
    "operator_mode": "index into modes, -1: as before",
    "operator_stop": "index into texts, -1: none",
    "operator_error": "index into texts of the fault that its link was, -1: none",
    "given_fault": "index into texts of a fault found outside of the control step, -1: none",
    "state_age_s": "[s]",
    "frame_age_s": "of the frame that the policy has [s], infinite without one",
    "goal": "index into modes: what the operator wanted when the step began",
    "mode": "index into modes, after the step",
    "entered_s": "when that mode began, runtime's clock [s]",
    "stand_from": "pose from which the robot stood up [rad], [T, J]",
    "fault": "index into texts of the latched fault, -1: none",
    "supervisor_fault": "index into texts, -1: the supervisor forwards",
    "hidden": "recurrent state before the step, [T, H]",
    "feature": "encoder's output for the last frame but the newest, where the step encoded one, [T, F]",
    "last_action": "clipped action of the step before, [T, J]",
    "proprio": "the policy's input, NaN where it did not run, [T, P]",
    "action": "the policy's output, not clipped, NaN where it did not run, [T, J]",
    "target": "what was sent [rad], NaN where nothing was, [T, J]",
    "kp": "[N m/rad], [T, J]",
    "kd": "[N m s/rad], [T, J]",
    "interventions": "whether a limit changed the command: action_clip, target_position, torque, target_rate, [T, 4]",
    "late_s": "how late the step began [s]",
    "inference_s": "time of the networks [s]",
}
"""Arrays with one row per control step (``T``), and their meaning; ``rgb`` (uint8 ``[K, H, W, 3]``) comes with them."""

OPTIONAL = ("lin_acc_b", "joint_torque", "motor_temperature_c", "position_w")
STATE = ("joint_pos", "joint_vel", "quat_wxyz", "ang_vel_b", "command")
NUMBERS = ("battery_fraction", "corrupt", "out_of_order", "rival_writers", "round_trip_s")


class FlightRecorder:
    """Keeps the newest control steps; the runtime calls it in this order: operator, frame, inputs, step.

    Args:
        bundle: Sizes and rates.
        directory: Folder to write.
        about: More for ``flight.json``; plain JSON.
        seconds: How much is kept [s].

    Attributes:
        error: Why the last writing failed, or None.
        directory: Folder to write.
    """

    def __init__(
        self,
        bundle: PolicyBundle,
        directory: Union[str, Path],
        *,
        about: Optional[Dict[str, Any]] = None,
        seconds: float = 60.0,
    ) -> None:
        self.directory = Path(directory)
        self.error: Optional[str] = None
        self._bundle, self._about = bundle, dict(about or {})
        capacity = max(int(seconds * bundle.control_hz), 2)
        self._rows = {name: _filled(capacity, *kind) for name, kind in _kinds(bundle).items()}
        camera = bundle.camera
        # Robots' cameras are often faster than the policy's; frames beyond this shorten what can be replayed, not what is kept.
        frames = 0 if camera is None else max(int(2 * seconds * bundle.camera_hz), 2)
        size = (0, 0, 3) if camera is None else (camera.height, camera.width, 3)
        self._rgb = np.zeros((frames, *size), dtype=np.uint8)
        self._rgb.fill(1)  # touched now, not page by page during the run
        self._writer: Optional[threading.Thread] = None
        self.restart()

    def restart(self) -> None:
        """Begin anew; what was recorded is forgotten."""
        self.count = self._frames = 0
        self._frame = NO_FRAME
        self._texts: List[List[str]] = []
        self._clear()

    def _clear(self) -> None:
        """Prepare the next row."""
        row, rows = self.count % len(self._rows["t_s"]), self._rows
        self._row = row
        for name in ("operator_mode", "operator_stop", "operator_error"):
            rows[name][row] = -1
        for name in ("operator_velocity", "proprio", "action", "target", "kp", "kd"):
            rows[name][row] = np.nan
        for name in ("hidden", "feature", "last_action"):
            rows[name][row] = 0.0
        rows["operator_alive_s"][row] = -np.inf

    def operator(self, wish: Optional[OperatorCommand], fault: Optional[Fault] = None) -> None:
        """What the operator's link said, or the fault that it was."""
        rows, row = self._rows, self._row
        rows["operator_error"][row] = self._text(fault)
        if wish is not None:
            rows["operator_velocity"][row] = wish.velocity
            rows["operator_alive_s"][row] = wish.alive_s
            rows["operator_mode"][row] = -1 if wish.mode is None else MODES.index(Mode(wish.mode))
            rows["operator_stop"][row] = self._text(None if wish.stop is None else Fault("estop", wish.stop))

    def frame(self, rgb: np.ndarray) -> None:
        """A new camera frame, before it is judged; copied."""
        if not len(self._rgb):
            return
        if rgb.shape != self._rgb.shape[1:] or rgb.dtype != np.uint8:
            self._frame = MISFIT
            return
        self._rgb[self._frames % len(self._rgb)] = rgb
        self._frame = self._frames
        self._frames += 1

    def inputs(self, policy: Policy, last_action: np.ndarray, proprio: np.ndarray) -> None:
        """What goes into the networks; call before they run."""
        rows, row = self._rows, self._row
        if policy.hidden is not None:
            rows["hidden"][row] = policy.hidden.reshape(-1)
        if policy.feature is not None:
            rows["feature"][row] = policy.feature.reshape(-1)
        rows["last_action"][row] = last_action
        rows["proprio"][row] = proprio[0]

    def action(self, action: np.ndarray) -> None:
        """What came out of them."""
        if action.shape == self._rows["action"].shape[1:]:
            self._rows["action"][self._row] = action

    def step(
        self,
        now_s: float,
        state: RobotState,
        *,
        readable: bool,
        state_age_s: float,
        given_fault: Optional[Fault],
        goal: Mode,
        machine: StateMachine,
        watch: CameraWatch,
        command: Optional[JointCommand],
        interventions: Tuple[int, ...],
        late_s: float,
        inference_s: float,
    ) -> None:
        """Complete the row of a control step and begin the next.

        Args:
            now_s: Runtime's clock [s].
            state: The newest state.
            readable: Whether it was read in this step.
            state_age_s: Its age [s].
            given_fault: A fault found outside of the step.
            goal: The operator's when the step began.
            machine: After the step.
            watch: After the step.
            command: What was sent, or None.
            interventions: Whether each limit changed it.
            late_s: [s].
            inference_s: [s].
        """
        rows, row = self._rows, self._row
        rows["t_s"][row], rows["readable"][row] = now_s, readable
        self._state(rows, row, state)
        rows["rgb_frame"][row], rows["rgb_t_s"][row] = self._frame, watch.stamp
        rows["state_age_s"][row], rows["frame_age_s"][row] = state_age_s, watch.age_s(now_s)
        rows["given_fault"][row], rows["fault"][row] = self._text(given_fault), self._text(machine.fault)
        rows["goal"][row], rows["mode"][row] = MODES.index(goal), MODES.index(machine.mode)
        rows["entered_s"][row], rows["stand_from"][row] = machine.entered_s, machine.stand_from
        if command is not None:
            rows["target"][row], rows["kp"][row], rows["kd"][row] = command.q, command.kp, command.kd
        rows["interventions"][row] = interventions
        rows["late_s"][row], rows["inference_s"][row] = late_s, inference_s
        self.count += 1
        self._clear()

    def _state(self, rows: Dict[str, np.ndarray], row: int, state: RobotState) -> None:
        rows["robot_t_s"][row] = state.t_s
        for name in STATE:
            _put(rows[name], row, getattr(state, name))
        for name in OPTIONAL:
            _put(rows[name], row, getattr(state, name))
        for name in NUMBERS:
            rows[name][row] = getattr(state, name)
        text = state.supervisor_fault
        rows["supervisor_fault"][row] = -1 if not text else self._text(Fault("supervisor", text))

    def _text(self, fault: Optional[Fault]) -> int:
        """Index of a fault's text; the table is bounded, and its last place takes all that do not fit."""
        if fault is None:
            return -1
        entry = [fault.kind, fault.detail]
        # From the newest on: a latched fault is asked for in every step.
        for index in range(len(self._texts) - 1, -1, -1):
            if self._texts[index] == entry:
                return index
        if len(self._texts) < MAX_TEXTS:
            self._texts.append(entry)
        return len(self._texts) - 1

    def save(self, *, wait: bool = True) -> None:
        """Write the folder: copied now, written by a thread, put in its place when it is whole.

        Args:
            wait: Return only when it is written.
        """
        if self._writer is not None:
            if not wait and self._writer.is_alive():
                return
            self._writer.join()
        self._writer = threading.Thread(
            target=self._write, args=self._snapshot(), name="flight", daemon=False
        )
        self._writer.start()
        if wait:
            self._writer.join()

    def _snapshot(self) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
        """The arrays, oldest first, and the manifest."""
        capacity = len(self._rows["t_s"])
        order = np.arange(
            max(self.count - capacity + 1, 0), self.count
        )  # the oldest place is the next row's already
        kept = max(self._frames - len(self._rgb), 0)
        frame = self._rows["rgb_frame"][order % capacity]
        lost = (frame >= 0) & (frame < kept)
        order = order[int(lost.sum()) :]  # frame numbers grow, so that these rows are the oldest
        arrays = {name: values[order % capacity] for name, values in self._rows.items()}
        frame = arrays["rgb_frame"]
        used = np.unique(frame[frame >= 0])
        arrays["rgb"] = self._rgb[used % max(len(self._rgb), 1)]
        arrays["rgb_frame"] = np.where(frame >= 0, np.searchsorted(used, frame), frame)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "robot": self._bundle.robot,
            "joint_names": list(self._bundle.joint_names),
            "bundle": str(self._bundle.path),
            "bundle_sha256": bundle_sha256(self._bundle),
            "control_dt_s": self._bundle.control_dt_s,
            "from_start": bool(len(order) and order[0] == 0),
            "modes": [mode.value for mode in MODES],
            "texts": [list(entry) for entry in self._texts],
            "fields": FIELDS,
            "machine": f"{platform.machine()} {platform.system()}, Python {platform.python_version()}, numpy {np.__version__}",
            **self._about,
        }
        return arrays, manifest

    def _write(self, arrays: Dict[str, np.ndarray], manifest: Dict[str, Any]) -> None:
        partial = self.directory.with_name(self.directory.name + ".partial")
        try:
            shutil.rmtree(str(partial), ignore_errors=True)
            partial.mkdir(parents=True)
            with open(str(partial / ARRAYS), "wb") as file:
                named: Dict[str, Any] = dict(arrays)
                np.savez(file, **named)
            data = (partial / ARRAYS).read_bytes()
            manifest = {**manifest, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            with open(str(partial / MANIFEST), "w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            shutil.rmtree(str(self.directory), ignore_errors=True)
            partial.rename(self.directory)
            self.error = None
        except (OSError, ValueError) as error:  # a full disk must not stop the run
            self.error = f"the flight is not written: {error}"


def bundle_sha256(bundle: PolicyBundle) -> str:
    """Hash of a bundle's manifest, which holds the hashes of all its files."""
    return hashlib.sha256((bundle.path / "policy.json").read_bytes()).hexdigest()


def _kinds(bundle: PolicyBundle) -> Dict[str, Tuple[Any, ...]]:
    """Type and shape of a row of each field."""
    joints, recurrent = len(bundle.joint_names), bundle.recurrent
    hidden = 0 if recurrent is None else recurrent.layers * recurrent.hidden
    kinds: Dict[str, Tuple[Any, ...]] = {name: (np.float64,) for name in FIELDS}
    for name in (
        "joint_pos",
        "joint_vel",
        "joint_torque",
        "motor_temperature_c",
        "stand_from",
        "target",
        "kp",
        "kd",
    ):
        kinds[name] = (np.float64, joints)
    for name in ("ang_vel_b", "command", "lin_acc_b", "position_w", "operator_velocity"):
        kinds[name] = (np.float64, 3)
    for name in ("corrupt", "out_of_order", "rival_writers", "rgb_frame"):
        kinds[name] = (np.int64,)
    for name in (
        "operator_stop",
        "operator_error",
        "given_fault",
        "fault",
        "supervisor_fault",
        "operator_mode",
        "goal",
        "mode",
    ):
        kinds[name] = (np.int16,)
    kinds["quat_wxyz"] = (np.float64, 4)
    kinds["readable"] = (np.bool_,)
    kinds["interventions"] = (np.bool_, 4)
    kinds["hidden"], kinds["feature"] = (np.float32, hidden), (np.float32, bundle.feature_size)
    kinds["proprio"] = (np.float32, bundle.proprio_size)
    kinds["action"] = kinds["last_action"] = (np.float32, joints)
    return kinds


def _filled(capacity: int, dtype: Any, *shape: int) -> np.ndarray:
    """Zeros whose pages are there already: the recorder must not grow during the run."""
    array = np.empty((capacity, *shape), dtype=dtype)
    array.fill(0)
    return array


def _put(rows: np.ndarray, row: int, value: Optional[np.ndarray]) -> None:
    """NaN for what is not said, or has not the shape that it should have (a fault says so)."""
    rows[row] = value if value is not None and value.shape == rows.shape[1:] else np.nan


@dataclass(frozen=True)
class Flight:
    """A flight that was read and checked.

    Attributes:
        path: Its folder.
        manifest: ``flight.json``.
        arrays: ``flight.npz``: :data:`FIELDS` and ``rgb``.
    """

    path: Path
    manifest: Dict[str, Any]
    arrays: Dict[str, np.ndarray]

    def __len__(self) -> int:
        """Number of control steps."""
        return len(self.arrays["t_s"])

    def fault(self, field: str, row: int) -> Optional[Fault]:
        """The fault that a field names in a row, or None."""
        index = int(self.arrays[field][row])
        return None if index < 0 else Fault(*self.manifest["texts"][index])


def read_flight(directory: Union[str, Path]) -> Flight:
    """Read a flight: hash, fields and lengths are checked.

    Args:
        directory: Its folder.

    Raises:
        BundleError: When it is no whole flight.
    """
    path = Path(directory)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        data = (path / ARRAYS).read_bytes()
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path}: not the folder of a flight ({error}); expected {MANIFEST} and {ARRAYS}"
        ) from None
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or manifest.get("version") != VERSION
    ):
        raise BundleError(f"{path / MANIFEST}: expected format {FORMAT!r}, version {VERSION}")
    if hashlib.sha256(data).hexdigest() != manifest.get("sha256"):
        raise BundleError(f"{path / ARRAYS}: differs from the hash in {MANIFEST}; copy the flight again")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path / ARRAYS}: not a readable npz file ({error})") from None
    missing = [name for name in (*FIELDS, "rgb") if name not in arrays]
    if missing:
        raise BundleError(f"{path / ARRAYS}: lacks {', '.join(missing)}")
    if len({len(arrays[name]) for name in FIELDS}) != 1 or not len(arrays["t_s"]):
        raise BundleError(f"{path / ARRAYS}: fields differ in length, or there is no control step")
    return Flight(path, manifest, arrays)
