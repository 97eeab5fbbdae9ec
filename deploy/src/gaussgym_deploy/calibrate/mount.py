"""Where the camera sits on the robot, from a board at a known place relative to the robot's base.

Procedure: the robot stands still in its default pose on a flat floor; the board lies face up on the floor before it, or hangs
on a wall, wholly in view; where the board's origin is, and how it is turned, is measured in the base frame (+x forward, +y left,
+z up, origin at the base's origin: above the floor by the height of the base). A board that lies face up with its lines pointing
away from the robot has roll 180 degrees, pitch 0, yaw 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Tuple

import numpy as np

from ..bundle import BundleError
from .boards import Board, find_board
from .camera_file import CameraFile
from .clips import Clip, opencv

__all__ = ["BoardPlace", "calibrate_mount"]

MAX_MOTION_PX = 2.0
MAX_REACH_M = 1.5
"""A camera further than this from the base's origin is not on the robot."""
MAX_RMS_PX = 2.0


@dataclass(frozen=True)
class BoardPlace:
    """Where a board is in the base frame.

    Attributes:
        position_b_m: Its origin (see :mod:`.boards`) [m].
        rpy_deg: Roll, pitch, yaw: its axes are those of the base turned about x, then y, then z of the base [degrees].
    """

    position_b_m: Tuple[float, float, float]
    rpy_deg: Tuple[float, float, float] = (180.0, 0.0, 0.0)

    @property
    def pose(self) -> np.ndarray:
        """T_base_board, ``[4, 4]``."""
        roll, pitch, yaw = np.radians(self.rpy_deg)
        turn = [
            [[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]],
            [[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]],
            [[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]],
        ]
        x, y, z = (np.array(matrix, dtype=np.float64) for matrix in turn)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = z @ y @ x, self.position_b_m
        return pose


def calibrate_mount(clip: Clip, board: Board, camera: CameraFile, place: BoardPlace) -> CameraFile:
    """Find the camera's pose in the base frame.

    Args:
        clip: The board, the robot standing still.
        board: The board.
        camera: Calibrated intrinsics.
        place: Where the board is.

    Returns:
        The camera with its mount.

    Raises:
        BundleError: The board is not seen, it moved, the clip is another camera's, or the camera would not be on the robot.
    """
    if clip.size_wh != (camera.width, camera.height):
        raise BundleError(
            f"{clip.path}: frames of {clip.size_wh[0]}x{clip.size_wh[1]} px, the calibration is for"
            f" {camera.width}x{camera.height}"
        )
    points, pixels, seen = _mean_view(clip, board)
    orders = [pixels, pixels[::-1]] if board.kind == "checkerboard" else [pixels]
    solutions = [s for order in orders for s in _poses(points, order, camera)]
    if not solutions:
        raise BundleError(f"{clip.path}: no pose of the board fits its points; check the board's numbers")
    least = min(rms for rms, _ in solutions)
    fitting = [
        (rms, place.pose @ np.linalg.inv(pose)) for rms, pose in solutions if rms <= 2.0 * least + 0.05
    ]
    # A checkerboard may have been read from its other end: of the poses that fit, the one nearest to the robot is meant.
    rms, mount = min(fitting, key=lambda s: float(np.linalg.norm(s[1][:3, 3])))
    reach = float(np.linalg.norm(mount[:3, 3]))
    if rms > MAX_RMS_PX or reach > MAX_REACH_M:
        raise BundleError(
            f"{clip.path}: the camera would be {reach:.2f} m from the base's origin (points off by {rms:.1f} px); check where the"
            " board is (position and roll, pitch, yaw in the base frame) and its size"
        )
    position, quat = tuple(mount[:3, 3].tolist()), tuple(_quat_wxyz(mount[:3, :3]).tolist())
    return camera.with_errors(
        {"mount_frames": seen, "mount_rms_px": rms}, position_b_m=position, quat_b_c_wxyz=quat
    )


def _mean_view(clip: Clip, board: Board) -> Tuple[np.ndarray, np.ndarray, int]:
    """The board's points, averaged over the frames in which all that the first one shows are seen."""
    views = [found for found in (find_board(board, grey) for grey in clip.grey) if found is not None]
    if not views:
        raise BundleError(
            f"{clip.path}: no {board.kind} of {board.columns} x {board.rows} seen in {len(clip.grey)} frames"
        )
    points = max(views, key=lambda v: len(v[0]))[0]
    same = [pixels for seen, pixels in views if seen.shape == points.shape and np.allclose(seen, points)]
    aligned: List[np.ndarray] = [same[0]]
    for pixels in same[1:]:
        ends = (pixels, pixels[::-1]) if board.kind == "checkerboard" else (pixels,)
        aligned.append(min(ends, key=lambda p: float(np.abs(p - same[0]).max())))
    stack = np.stack(aligned)
    motion = float(np.abs(stack - np.median(stack, axis=0)).max())
    if motion > MAX_MOTION_PX:
        raise BundleError(
            f"{clip.path}: the board moves by {motion:.0f} px in the image; robot and board must stand still"
        )
    return points, stack.mean(axis=0), len(stack)


def _poses(points: np.ndarray, pixels: np.ndarray, camera: CameraFile) -> List[Any]:
    """Poses T_camera_board that fit a planar board, with the root mean square of their points [px]; before the camera only."""
    cv2 = opencv()
    distortion = np.array(camera.distortion)
    pixels = np.ascontiguousarray(pixels, dtype=np.float64)
    points = points.astype(np.float64)
    count, turns, shifts, _ = cv2.solvePnPGeneric(
        points, pixels, camera.matrix, distortion, flags=cv2.SOLVEPNP_IPPE
    )
    out = []
    for turn, shift in list(zip(turns, shifts))[: int(count)]:
        turn, shift = cv2.solvePnPRefineLM(points, pixels, camera.matrix, distortion, turn, shift)
        if shift[2] <= 0:
            continue
        projected, _ = cv2.projectPoints(points, turn, shift, camera.matrix, distortion)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], shift.ravel()
        rms = float(np.sqrt(((projected.reshape(-1, 2) - pixels) ** 2).sum(axis=1).mean()))
        out.append((rms, pose))
    return out


def _quat_wxyz(matrix: np.ndarray) -> np.ndarray:
    """Unit quaternion with w >= 0 of a rotation matrix: the eigenvector of Bar-Itzhack's symmetric form (2000)."""
    m = matrix
    form = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    quat = np.linalg.eigh(form)[1][:, -1]
    return quat if quat[0] >= 0 else -quat
