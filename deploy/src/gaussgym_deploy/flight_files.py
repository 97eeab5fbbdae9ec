"""Checks of a flight recording's folder before a long command reads it, with numpy alone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, Dict, Mapping, Tuple

import numpy as np

from .bundle import BundleError

__all__ = ["NEEDED", "check_flight", "read_flight"]

NEEDED = ("t_s", "robot_t_s", "joint_pos", "joint_vel", "quat_wxyz", "ang_vel_b", "target", "kp", "kd")
"""Arrays without which a recording says nothing about a robot; their first axis is the control step."""


def flight_folder(path: Path) -> Path:
    """The folder of a recording that was named by its folder or by one of its files."""
    return path.parent if path.name in ("flight.npz", "flight.json") else path


def check_flight(path: Path) -> Dict[str, Any]:
    """Refuse what is no flight recording; reads the description and the arrays' shapes, not the arrays.

    Args:
        path: Folder of the recording.

    Returns:
        The description (``flight.json``).

    Raises:
        BundleError: A file or array is missing, or arrays do not fit each other.
    """
    folder = flight_folder(path)
    fields = _description(folder / "flight.json")
    for key, kind in (("robot", str), ("joint_names", list)):
        if not isinstance(fields.get(key), kind):
            raise BundleError(f"{folder / 'flight.json'}: {key!r} is missing; record the flight again")
    file = folder / "flight.npz"
    shapes = _shapes(file)
    missing = [name for name in NEEDED if name not in shapes]
    if missing:
        raise BundleError(f"{file}: lacks {', '.join(missing)}; record the flight again")
    steps, joints = shapes["t_s"][0] if shapes["t_s"] else 0, len(fields["joint_names"])
    for name in NEEDED:
        if not shapes[name] or shapes[name][0] != steps:
            raise BundleError(f"{file}: {name!r} has shape {list(shapes[name])}, expected {steps} rows")
    if shapes["joint_pos"] != (steps, joints):
        raise BundleError(
            f"{file}: 'joint_pos' has shape {list(shapes['joint_pos'])}, the description names {joints} joints"
        )
    if steps < 2:
        raise BundleError(f"{file}: holds {steps} control steps, expected a recording")
    return fields


def read_flight(path: Path) -> Tuple[Dict[str, Any], Mapping[str, np.ndarray]]:
    """Description and arrays of a recording.

    Raises:
        BundleError: See :func:`check_flight`.
    """
    fields = check_flight(path)
    with np.load(str(flight_folder(path) / "flight.npz"), allow_pickle=False) as arrays:
        return fields, {name: arrays[name] for name in arrays.files}


def _description(path: Path) -> Dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected the folder of a flight recording") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: not valid JSON ({error}); record the flight again") from None
    if not isinstance(fields, dict):
        raise BundleError(f"{path}: holds a {type(fields).__name__}, expected an object")
    return fields


def _shapes(path: Path) -> Dict[str, Tuple[int, ...]]:
    """Shapes of the arrays of an npz file, from their headers."""
    shapes = {}
    try:
        with zipfile.ZipFile(str(path)) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shapes[name[: -len(".npy")]] = read(member)[0]
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror or error}; expected the arrays of a flight recording"
        ) from None
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise BundleError(f"{path}: not a readable npz file ({error}); record the flight again") from None
    return shapes
