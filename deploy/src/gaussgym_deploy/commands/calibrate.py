"""``calibrate-camera``, ``calibrate-mount``, ``calibrate-latency``: what is to be known about a robot's camera."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np

from ..bundle import BundleError
from ..calibrate.boards import Board
from ..calibrate.camera_file import CameraFile
from ..calibrate.clips import read_clip
from ..calibrate.intrinsics import calibrate_intrinsics
from ..calibrate.latency import blink_latency, shake_latency
from ..calibrate.mount import BoardPlace, calibrate_mount
from ..flight_files import read_flight

__all__ = ["calibrate_camera", "calibrate_camera_latency", "calibrate_camera_mount"]


def calibrate_camera(
    clip: Path,
    /,
    *,
    columns: int,
    rows: int,
    size_m: float,
    board: str = "checkerboard",
    gap_m: float = 0.0,
    output: Path = Path("camera.json"),
    frames: int = 60,
) -> Path:
    """Intrinsics and distortion from views of a board, held at many angles in all parts of the image.

    Args:
        clip: Folder of images, video or flight recording.
        columns: Inner corners a line of a checkerboard, or tags a line.
        rows: Lines of them.
        size_m: Edge of a square, or of a tag [m].
        board: checkerboard or apriltag (a grid, family 36h11, tag 0 at the upper left).
        gap_m: Between tags [m].
        output: File to write.
        frames: Frames looked at, at most.
    """
    camera = calibrate_intrinsics(read_clip(clip, most=frames), Board(board, columns, rows, size_m, gap_m))
    errors = camera.errors
    fx, fy, cx, cy = errors["std_fx_fy_cx_cy_px"]
    print(f"{errors['views']} views, points off by {errors['reprojection_rms_px']:.3f} px (root mean square)")
    print(f"fx {camera.fx:.2f} +- {fx:.2f}, fy {camera.fy:.2f} +- {fy:.2f}, cx {camera.cx:.2f} +- {cx:.2f},"
          f" cy {camera.cy:.2f} +- {cy:.2f} px")  # fmt: skip
    print("distortion k1, k2, p1, p2: " + ", ".join(f"{x:.5f}" for x in camera.distortion))
    return camera.save(output)


def calibrate_camera_mount(
    clip: Path,
    /,
    *,
    camera: Path,
    columns: int,
    rows: int,
    size_m: float,
    board_position_m: Tuple[float, float, float],
    board_rpy_deg: Tuple[float, float, float] = (180.0, 0.0, 0.0),
    board: str = "checkerboard",
    gap_m: float = 0.0,
    output: Optional[Path] = None,
    frames: int = 20,
) -> Path:
    """The camera's pose in the base frame, from a board at a measured place; robot and board stand still.

    Args:
        clip: Folder of images, video or flight recording.
        camera: camera.json of 'calibrate-camera'.
        columns: Inner corners a line of a checkerboard, or tags a line.
        rows: Lines of them.
        size_m: Edge of a square, or of a tag [m].
        board_position_m: First inner corner, or upper left corner of tag 0, in the base frame: forward, left, up [m].
        board_rpy_deg: How the board is turned in the base frame: roll, pitch, yaw; 180 0 0 lies face up, lines pointing away.
        board: checkerboard or apriltag.
        gap_m: Between tags [m].
        output: File to write; default: the camera's own.
        frames: Frames looked at, at most.
    """
    known = CameraFile.load(camera)
    place = BoardPlace(board_position_m, board_rpy_deg)
    mounted = calibrate_mount(
        read_clip(clip, most=frames), Board(board, columns, rows, size_m, gap_m), known, place
    )
    assert mounted.position_b_m is not None
    assert mounted.quat_b_c_wxyz is not None
    print("position in the base frame [m]: " + ", ".join(f"{x:.4f}" for x in mounted.position_b_m))
    print("rotation camera to base, wxyz: " + ", ".join(f"{x:.5f}" for x in mounted.quat_b_c_wxyz))
    return mounted.save(output or camera)


def calibrate_camera_latency(
    clip: Path,
    /,
    *,
    states: Optional[Path] = None,
    blinks: Optional[Path] = None,
    camera: Optional[Path] = None,
) -> Optional[Path]:
    """How late the camera's images are against the robot's state, from a shaken clip or a blinking light.

    Args:
        clip: Flight recording with images, or folder of images with times.csv (file, time_s) on the robot's clock.
        states: Flight recording with the gyroscope; default: the clip itself.
        blinks: File with one time [s] a line at which a light went on, off, on ...: in place of the gyroscope.
        camera: camera.json into which the latency is written.
    """
    known = None if camera is None else CameraFile.load(camera)
    images = read_clip(clip)
    if blinks is not None:
        found = blink_latency(images, _numbers(blinks))
    else:
        _, arrays = read_flight(clip if states is None else states)
        found = shake_latency(images, arrays["robot_t_s"], arrays["ang_vel_b"])
    print(
        f"latency {1e3 * found.seconds:.1f} +- {1e3 * found.std_error_s:.1f} ms ({found.frames} frames,"
        f" {100 * found.explained:.0f} % of the motion explained)"
    )
    if known is None or camera is None:
        return None
    errors = {"std_latency_s": found.std_error_s, "latency_frames": found.frames}
    return known.with_errors(errors, latency_s=found.seconds).save(camera)


def _numbers(path: Path) -> np.ndarray:
    try:
        return np.array([float(line) for line in path.read_text(encoding="utf-8").split()])
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected times of a blinking light") from None
    except ValueError:
        raise BundleError(f"{path}: expected one time in seconds a line") from None
