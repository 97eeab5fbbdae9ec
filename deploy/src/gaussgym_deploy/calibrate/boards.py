"""Boards with known points: a checkerboard, or a grid of AprilTags (family 36h11).

A board's frame lies in its print: origin at the first point, +x along a line of the print, +y down the print, +z into the board.
For a checkerboard the first point is the inner corner at the upper left; one that looks the same after half a turn has two, and
whoever needs to know which tries both. For tags it is the upper left corner of tag 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Tuple

import numpy as np

from ..bundle import BundleError
from .clips import opencv

__all__ = ["BOARDS", "Board", "find_board"]

BOARDS = ("checkerboard", "apriltag")
MIN_TAGS = 4


@dataclass(frozen=True)
class Board:
    """A printed board.

    Attributes:
        kind: One of :data:`BOARDS`.
        columns: Inner corners a line, or tags a line.
        rows: Lines of them.
        size_m: Edge of a square, or of a tag's black border [m].
        gap_m: Between tags [m]; tags only.
    """

    kind: str
    columns: int
    rows: int
    size_m: float
    gap_m: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            BundleError: An unknown kind, too few points, no size.
        """
        if self.kind not in BOARDS:
            raise BundleError(f"unknown board {self.kind!r}; choose one of: {', '.join(BOARDS)}")
        least = 3 if self.kind == "checkerboard" else 2
        if self.columns < least or self.rows < least:
            raise BundleError(
                f"a {self.kind} of {self.columns} x {self.rows}; expected at least {least} x {least}"
                + (" inner corners" if least == 3 else " tags")
            )
        if (
            not 0 < self.size_m < 10
            or not 0 <= self.gap_m < 10
            or (self.kind == "apriltag" and self.gap_m == 0)
        ):
            raise BundleError(
                f"size {self.size_m:g} m, gap {self.gap_m:g} m; expected the printed sizes in metres (tags: a gap above 0)"
            )

    @property
    def points(self) -> np.ndarray:
        """Points of a checkerboard in the board's frame [m], ``[columns * rows, 3]``, line by line."""
        y, x = np.mgrid[: self.rows, : self.columns]
        return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1).astype(np.float32) * np.float32(
            self.size_m
        )

    def tags(self) -> Any:
        """OpenCV's grid of tags."""
        cv2 = opencv()
        family = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
        return cv2.aruco.GridBoard((self.columns, self.rows), self.size_m, self.gap_m, family)


def find_board(board: Board, grey: np.ndarray) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """Find a board in an image.

    Args:
        board: Which.
        grey: uint8 ``[H, W]``.

    Returns:
        Points in the board's frame [m] float32 ``[M, 3]`` and in the image float32 ``[M, 2]`` (OpenCV's pixels: the centre of
        the first is 0), or None.
    """
    cv2 = opencv()
    if board.kind == "checkerboard":
        flags = cv2.CALIB_CB_ACCURACY | cv2.CALIB_CB_NORMALIZE_IMAGE
        found, corners = cv2.findChessboardCornersSB(grey, (board.columns, board.rows), flags=flags)
        if not found:
            return None
        return board.points, _refined(board, grey, np.asarray(corners, dtype=np.float32).reshape(-1, 2))
    settings = cv2.aruco.DetectorParameters()
    # Lines fitted to a tag's edges: refining the corners themselves pulls them inward by a third of a pixel (their black side is
    # a quarter of the window). This method counts from the corner of the first pixel, all others from its centre.
    settings.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_APRILTAG
    grid = board.tags()
    detector = cv2.aruco.ArucoDetector(grid.getDictionary(), settings)
    corners, ids, _ = detector.detectMarkers(grey)
    if ids is None or len(ids) < MIN_TAGS:
        return None
    points, pixels = grid.matchImagePoints(corners, ids)
    if points is None or len(points) < 4 * MIN_TAGS:
        return None
    return points.reshape(-1, 3).astype(np.float32), (pixels.reshape(-1, 2) - 0.5).astype(np.float32)


def _refined(board: Board, grey: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Corners put where the gradients around them meet; the window reaches a third of the way to the next corner."""
    cv2 = opencv()
    grid = corners.reshape(board.rows, board.columns, 2)
    steps = [np.linalg.norm(np.diff(grid, axis=axis), axis=-1).min() for axis in (0, 1)]
    reach = int(np.clip(min(steps) / 3, 2, 15))
    enough = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 50, 1e-3)
    return cv2.cornerSubPix(grey, corners.reshape(-1, 1, 2).copy(), (reach, reach), (-1, -1), enough).reshape(
        -1, 2
    )
