"""Intrinsics and distortion from views of a board (Zhang 2000, as OpenCV has it), and refusal of views that do not tell them."""

from __future__ import annotations

from typing import Any, List, Tuple

import numpy as np

from ..bundle import BundleError
from .boards import Board, find_board
from .camera_file import CameraFile
from .clips import Clip, opencv

__all__ = ["calibrate_intrinsics"]

MIN_VIEWS = 8
MIN_TILT_RAD = np.radians(10.0)
"""Views whose boards are all within this of being parallel do not tell focal length from distance."""
MAX_FOCAL_ERROR = 0.02
MAX_RMS_PX = 2.0

Views = List[Tuple[np.ndarray, np.ndarray]]


def calibrate_intrinsics(clip: Clip, board: Board) -> CameraFile:
    """Find a camera's intrinsics and distortion.

    Args:
        clip: Views of the board, from many sides, in all parts of the image.
        board: The board.

    Raises:
        BundleError: The board is not seen, in too few frames, always alike, or nothing fits.
    """
    views = [found for found in (find_board(board, grey) for grey in clip.grey) if found is not None]
    if not views:
        raise BundleError(
            f"{clip.path}: no {board.kind} of {board.columns} x {board.rows} seen in {len(clip.grey)} frames; check the numbers"
            " (a checkerboard's inner corners), light and focus"
        )
    if len(views) < MIN_VIEWS:
        raise BundleError(
            f"{clip.path}: the board is seen in {len(views)} of {len(clip.grey)} frames, expected at least {MIN_VIEWS}"
        )
    solved = _solve(views, clip.size_wh)
    worst = solved["per_view"] > 3.0 * np.median(solved["per_view"]) + 0.05
    if worst.any() and (~worst).sum() >= MIN_VIEWS:
        views = [view for view, bad in zip(views, worst) if not bad]
        solved = _solve(views, clip.size_wh)
    _check(clip, solved)
    matrix, errors = solved["matrix"], solved["errors"]
    return CameraFile(
        width=int(clip.size_wh[0]),
        height=int(clip.size_wh[1]),
        fx=float(matrix[0, 0]),
        fy=float(matrix[1, 1]),
        cx=float(matrix[0, 2] + 0.5),
        cy=float(matrix[1, 2] + 0.5),
        distortion=tuple(float(x) for x in solved["distortion"][:4]),
        errors={
            "views": len(views),
            "reprojection_rms_px": float(solved["rms"]),
            "std_fx_fy_cx_cy_px": [float(x) for x in errors[:4]],
            "std_distortion": [float(x) for x in errors[4:8]],
        },
    )


def _solve(views: Views, size_wh: Any) -> Any:
    cv2 = opencv()
    points, pixels = [v[0] for v in views], [v[1] for v in views]
    rms, matrix, distortion, turns, _, errors, _, per_view = cv2.calibrateCameraExtended(
        points, pixels, size_wh, None, None, flags=cv2.CALIB_FIX_K3
    )
    return {
        "rms": rms,
        "matrix": matrix,
        "distortion": np.asarray(distortion).ravel(),
        "turns": turns,
        "errors": np.asarray(errors).ravel(),
        "per_view": np.asarray(per_view).ravel(),
    }


def _check(clip: Clip, solved: Any) -> None:
    """Refuse what fits nothing, or anything."""
    cv2 = opencv()
    normals = np.array([cv2.Rodrigues(np.asarray(turn))[0][:, 2] for turn in solved["turns"]])
    tilt = float(np.arccos(np.clip(normals @ normals.T, -1.0, 1.0)).max())
    alike = (
        f"{clip.path}: the board is always seen alike (its directions differ by at most {np.degrees(tilt):.0f} degrees);"
        " tilt it in different directions, and move it through the whole image"
    )
    if tilt < MIN_TILT_RAD:
        raise BundleError(alike)
    matrix, errors = solved["matrix"], solved["errors"]
    if not np.isfinite(matrix).all() or not solved["rms"] <= MAX_RMS_PX:
        raise BundleError(
            f"{clip.path}: the points are off by {solved['rms']:.1f} px (root mean square), expected at most {MAX_RMS_PX:g};"
            " wrong numbers of the board, blurred frames or a rolling shutter in motion"
        )
    focal = float(max(errors[0] / matrix[0, 0], errors[1] / matrix[1, 1]))
    if not focal <= MAX_FOCAL_ERROR:
        raise BundleError(alike + f" (focal length known to {100 * focal:.0f} % only)")
