"""A calibrated camera (`gaussgym-deploy calibrate`) as the camera that a policy is trained with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from gaussgym_deploy.bundle import BundleError
from gaussgym_deploy.calibrate.camera_file import FORMAT, CameraFile
from gaussgym_scene.errors import InputError
from gaussgym_sim.sensors.camera import CameraCfg


def is_calibration(camera_model: str) -> bool:
    """Whether a camera model is a file that `calibrate` wrote (and not a name, nor the preset of a comparison)."""
    if not camera_model.endswith(".json"):
        return False
    try:
        found = json.loads(Path(camera_model).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # who reads it as a camera model says what is wrong
    return isinstance(found, dict) and found.get("format") == FORMAT


def calibrated(cfg: CameraCfg, path: Path | str) -> CameraCfg:
    """The camera whose images the robot hands to its policy: the largest middle part of the real camera's, without distortion.

    The robot's `ImageFit` takes the distortion out, so that training needs none.

    Args:
        cfg: size and rate.
        path: `camera.json`; without a calibrated mount the robot's nominal one stays.

    Raises:
        InputError: no such file, or not one that `calibrate` wrote.
    """
    try:
        found = CameraFile.load(Path(path))
        mounted = found.position_b_m is not None and found.quat_b_c_wxyz is not None
        somewhere = (
            found
            if mounted
            else dataclasses.replace(found, position_b_m=(0.0, 0.0, 0.0), quat_b_c_wxyz=(1.0, 0.0, 0.0, 0.0))
        )
        spec = somewhere.spec(cfg.width, cfg.height)
    except BundleError as error:
        raise InputError(str(error)) from None
    return dataclasses.replace(
        cfg,
        focal_px=(spec.fx, spec.fy),
        center_px=(spec.cx, spec.cy),
        position_b_m=found.position_b_m if mounted else None,
        quat_b_c_wxyz=found.quat_b_c_wxyz if mounted else None,
    )
