"""Kinds of camera out of files: what a comparison with a real camera (`gaussgym-learn compare`) or a calibration wrote."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from gaussgym_scene import InputError

from gaussgym_render.lens import LensCfg
from gaussgym_render.robot_camera import RobotCameraCfg
from gaussgym_render.sensor import SensorCfg

PRESET, CALIBRATION = "gaussgym-preset", "gaussgym-camera"


def read_camera_model(path: Path | str) -> RobotCameraCfg:
    """A kind of camera from a file.

    A preset (format `gaussgym-preset`) gives the sensor: ``{"sensor": {FIELD: [low, high]}}``, fields of `SensorCfg`. A
    calibration (format `gaussgym-camera`) gives the lens: ``{"distortion": [k1, k2, p1, p2, k3]}``, OpenCV's.

    Raises:
        InputError: Not such a file, an unknown field, or values out of range.
    """
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a preset or a calibration") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected a preset or a calibration") from None
    kind = found.get("format") if isinstance(found, dict) else None
    if kind not in (PRESET, CALIBRATION) or found.get("version") != 1:
        raise InputError(f"{path}: format is {kind!r}, expected {PRESET!r} or {CALIBRATION!r}, version 1")
    try:
        if kind == CALIBRATION:
            coefficients = tuple(float(x) for x in found["distortion"])
            return RobotCameraCfg(lens=LensCfg(model="opencv", coefficients=coefficients))
        return RobotCameraCfg(sensor=SensorCfg(**_ranges(path, found.get("sensor", {}))))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise InputError(f"{path}: {error}") from None
        raise InputError(f"{path}: cannot be read as a camera ({error!r}); write it again") from None


def _ranges(path: Path, values: Any) -> dict[str, tuple[float, float]]:
    known = [field.name for field in fields(SensorCfg)]
    ranges = {}
    for name, value in values.items():
        pair = value if isinstance(value, list) else []
        if (
            name not in known
            or len(pair) != 2
            or not all(isinstance(x, int | float) and math.isfinite(x) for x in pair)
        ):
            raise InputError(
                f"{path}: sensor.{name} is {value!r}, expected [low, high] of one of: {', '.join(known)}"
            )
        ranges[name] = (float(pair[0]), float(pair[1]))
    return ranges
