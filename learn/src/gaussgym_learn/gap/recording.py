"""A flight recording (`flight.npz` + `flight.json`, written by the deploy runtime) as states and commands on one clock."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_GAP_S = 0.06
"""States further apart than this do not belong to one piece: too much can have happened in between."""
CLOCK_WINDOW = 101
"""States over which the clocks of robot and runtime are compared: two seconds at 50 Hz."""
_NEEDED = ("t_s", "robot_t_s", "joint_pos", "joint_vel", "quat_wxyz", "ang_vel_b", "target", "kp", "kd")


@dataclass(frozen=True)
class Recording:
    """What a robot measured and was told, `S` states, `C` commands, `J` joints, `K` images; all times on the robot's clock [s].

    Attributes:
        path: the folder.
        robot: registry name.
        joint_names: in the order of the joint arrays.
        t_s: when each state was measured, strictly growing within a piece, `[S]`.
        piece: which unbroken piece (no reset, no gap) a state belongs to, `[S]`.
        joint_pos, joint_vel: [rad], [rad/s], `[S, J]`.
        quat_wxyz: attitude of the base, base to world, `[S, 4]`.
        ang_vel_b: gyroscope [rad/s], `[S, 3]`.
        joint_torque: [N·m], `[S, J]`, or None.
        lin_acc_b: accelerometer [m/s²], `[S, 3]`, or None.
        position_w: odometry [m], `[S, 3]`, or None; where it is told more rarely than states, straight lines in between.
        steady_odometry: whether odometry comes with nearly every state, so that it also tells velocity.
        sent_s: when each command was sent, `[C]`.
        target, kp, kd: [rad], [N·m/rad], [N·m·s/rad], `[C, J]`.
        state_age_s: time from a state's measurement to the command that answers it, mean [s]; the quickest answer counts as 0.
        rgb: uint8 `[K, H, W, 3]`, or None.
        rgb_t_s: when each image was taken, `[K]`.
    """

    path: Path
    robot: str
    joint_names: tuple[str, ...]
    t_s: Array
    piece: NDArray[np.int64]
    joint_pos: Array
    joint_vel: Array
    quat_wxyz: Array
    ang_vel_b: Array
    joint_torque: Array | None
    lin_acc_b: Array | None
    position_w: Array | None
    steady_odometry: bool
    sent_s: Array
    target: Array
    kp: Array
    kd: Array
    state_age_s: float
    rgb: NDArray[np.uint8] | None
    rgb_t_s: Array

    def __len__(self) -> int:
        """Number of states."""
        return len(self.t_s)


def read_recording(path: Path | str) -> Recording:
    """Read a flight recording.

    Args:
        path: its folder, or one of the two files in it.

    Raises:
        InputError: a file or field is missing, or does not fit.
    """
    folder = Path(path)
    folder = folder.parent if folder.name in ("flight.npz", "flight.json") else folder
    fields, arrays = _read_json(folder / "flight.json"), _read_npz(folder / "flight.npz")
    names = fields.get("joint_names")
    if not isinstance(fields.get("robot"), str) or not isinstance(names, list) or not names:
        raise InputError(
            f"{folder / 'flight.json'}: expected 'robot' and 'joint_names'; record the flight again"
        )
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise InputError(f"{folder / 'flight.npz'}: lacks {', '.join(missing)}; record the flight again")
    _check_shapes(folder / "flight.npz", arrays, len(names))
    if len(arrays["t_s"]) < 2:
        raise InputError(
            f"{folder / 'flight.npz'}: holds {len(arrays['t_s'])} control steps, expected at least 2"
        )
    return _recording(folder, fields, arrays)


def _recording(folder: Path, fields: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Recording:
    runtime_s, robot_s = (arrays[name].astype(np.float64) for name in ("t_s", "robot_t_s"))
    restarts = np.concatenate(([True], (np.diff(runtime_s) <= 0) | (np.diff(robot_s) < 0)))
    era = np.cumsum(restarts) - 1  # rows between two restarts of a clock
    offset_s = _clock_offset(runtime_s, robot_s, era)
    thinking_s = np.nan_to_num(arrays.get("inference_s", np.zeros(len(robot_s))))
    sent_s = runtime_s + thinking_s - offset_s
    fresh = np.concatenate(([True], np.diff(robot_s) > 0)) & _finite_states(arrays)
    if "position_w" in arrays:
        told_where = np.isfinite(arrays["position_w"]).all(axis=1)
        if told_where.mean() > 0.5:  # links read it more rarely than states: the first rows lack it
            fresh &= told_where
    rows = np.flatnonzero(fresh)
    broken = (np.diff(era[rows]) != 0) | (np.diff(robot_s[rows]) > MAX_GAP_S)
    told = np.isfinite(np.concatenate([arrays[n] for n in ("target", "kp", "kd")], axis=1)).all(axis=1)
    told &= np.concatenate(([True], np.diff(sent_s) > 0))
    commands = np.flatnonzero(told)
    if len(rows) < 2 or len(commands) < 2:
        raise InputError(
            f"{folder / 'flight.npz'}: holds {len(rows)} states and {len(commands)} commands, expected at least 2 of each"
        )
    if fields.get("camera_thread") and "rgb_t_s" in arrays and len(arrays["rgb_t_s"]) == len(offset_s):
        arrays = arrays | {"rgb_t_s": arrays["rgb_t_s"] - offset_s}  # stamped by the runtime's clock
    rgb, rgb_t_s = _images(folder, arrays)
    position, steady = _odometry(_optional(arrays, "position_w", rows), robot_s[rows])
    measured = {
        n: arrays[n][rows].astype(np.float64) for n in ("joint_pos", "joint_vel", "quat_wxyz", "ang_vel_b")
    }
    told_of = {n: arrays[n][commands].astype(np.float64) for n in ("target", "kp", "kd")}
    return Recording(
        path=folder,
        robot=fields["robot"],
        joint_names=tuple(fields["joint_names"]),
        t_s=robot_s[rows],
        piece=np.concatenate(([0], np.cumsum(broken))),
        sent_s=sent_s[commands],
        state_age_s=float(np.mean((sent_s - robot_s)[rows])),
        rgb=rgb,
        rgb_t_s=rgb_t_s,
        **measured,
        **told_of,
        joint_torque=_optional(arrays, "joint_torque", rows),
        lin_acc_b=_optional(arrays, "lin_acc_b", rows),
        position_w=position,
        steady_odometry=steady,
    )


def _clock_offset(runtime_s: Array, robot_s: Array, era: NDArray[np.int64]) -> Array:
    """Runtime's clock less robot's, `[T]`: the least seen nearby in the era, when a state took no time to arrive.

    Nearby, because clocks drift apart (50 ppm are 3 ms a minute), and a simulated robot that was held up stays behind.
    """
    offset = np.zeros(len(era))
    for number in range(int(era[-1]) + 1):
        rows = era == number
        apart = runtime_s[rows] - robot_s[rows]
        width = min(len(apart), CLOCK_WINDOW)
        windows = np.lib.stride_tricks.sliding_window_view(apart, width)
        # Not the very least: one jump of a clock would take all its neighbours with it.
        least = np.quantile(windows, 0.01, axis=1)
        offset[rows] = np.pad(least, ((width - 1) // 2, width // 2), mode="edge")
    return offset


def _finite_states(arrays: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
    columns = [
        arrays[n].reshape(len(arrays["t_s"]), -1)
        for n in ("joint_pos", "joint_vel", "quat_wxyz", "ang_vel_b")
    ]
    values = np.concatenate(columns, axis=1)
    return np.isfinite(values).all(axis=1) & (np.linalg.norm(arrays["quat_wxyz"], axis=1) > 0.5)


def _optional(arrays: dict[str, NDArray[Any]], name: str, rows: NDArray[np.int64]) -> Array | None:
    """A quantity that not every robot tells; None where it told nothing, or not always."""
    if name not in arrays:
        return None
    values = arrays[name][rows].astype(np.float64)
    return values if np.isfinite(values).all() else None


def _odometry(position: Array | None, t_s: Array) -> tuple[Array | None, bool]:
    """Odometry without the repetitions of links that read it more rarely than states, and whether it comes with most states."""
    if position is None:
        return None, False
    fresh = np.concatenate(([True], (np.diff(position, axis=0) != 0).any(axis=1)))
    if fresh.sum() < 2:
        return position, False
    between = [np.interp(t_s, t_s[fresh], position[fresh, axis]) for axis in range(3)]
    return np.stack(between, axis=1), bool(fresh.mean() > 0.8)


def _images(folder: Path, arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[np.uint8] | None, Array]:
    """Images and their times; the recorder keeps the number of the current image in each row."""
    rgb = arrays.get("rgb")
    if rgb is None or len(rgb) == 0:
        return None, np.zeros(0)
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        raise InputError(
            f"{folder / 'flight.npz'}: 'rgb' is {rgb.dtype} {list(rgb.shape)}, expected uint8 [K, H, W, 3]"
        )
    times = np.asarray(arrays.get("rgb_t_s", np.zeros(0)), dtype=np.float64)
    if len(times) == len(rgb):
        return rgb, times
    frame = arrays.get("rgb_frame")
    if frame is None or len(frame) != len(times):
        raise InputError(
            f"{folder / 'flight.npz'}: 'rgb_frame' and 'rgb_t_s' do not tell when the images were taken"
        )
    out = np.full(len(rgb), np.nan)
    shown = (frame >= 0) & (frame < len(rgb))
    out[frame[shown]] = times[shown]
    known = np.isfinite(out)
    return (rgb[known], out[known]) if known.any() else (None, np.zeros(0))


def _check_shapes(path: Path, arrays: dict[str, NDArray[Any]], joints: int) -> None:
    steps = len(arrays["t_s"])
    width = {"quat_wxyz": 4, "ang_vel_b": 3, "lin_acc_b": 3, "position_w": 3, "t_s": 0, "robot_t_s": 0}
    for name in (*_NEEDED, "joint_torque", "lin_acc_b", "position_w"):
        if name not in arrays:
            continue
        columns = width.get(name, joints)
        expected = (steps, columns) if columns else (steps,)
        if arrays[name].shape != expected:
            raise InputError(
                f"{path}: {name!r} has shape {list(arrays[name].shape)}, expected {list(expected)}"
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected the folder of a flight recording") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); record the flight again") from None
    if not isinstance(fields, dict):
        raise InputError(f"{path}: holds a {type(fields).__name__}, expected an object")
    return fields


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror or error}; expected the arrays of a flight recording"
        ) from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable npz file ({error}); record the flight again") from None
