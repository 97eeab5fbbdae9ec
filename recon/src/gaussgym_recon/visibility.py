# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""What measured depth says about points: views that saw a surface there, and views that saw through to something behind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from gaussgym_recon.depth_views import DepthView

MARGIN_M = 0.06
MARGIN_FRACTION = 0.02
"""Depths that differ by less than the sum of the two (fraction of the depth) may be the same surface."""


@dataclass(frozen=True)
class Votes:
    """Of views about points.

    Attributes:
        confirm: int32 ``[P]``, views that measured a surface there.
        through: int32 ``[P]``, views that measured a surface behind it, on all pixels around: nothing can be there.
    """

    confirm: NDArray[np.int32]
    through: NDArray[np.int32]

    def refuted(self, *, least: int = 3) -> NDArray[np.bool_]:
        """Points that at least ``least`` views, and twice as many as confirm them, saw through."""
        return (self.through >= least) & (self.through > 2 * self.confirm)


def votes_of(
    points: NDArray[np.floating],
    views: Sequence[DepthView],
    *,
    measured_only: bool = True,
    margin_m: float = MARGIN_M,
    max_depth_m: float = np.inf,
) -> Votes:
    """Ask depth images about points.

    Args:
        points: ``[P, 3]`` world points [m].
        views: Depth images with cameras, of any sizes.
        measured_only: Only pixels that stereo or a sensor measured count.
        margin_m: See `MARGIN_M`.
        max_depth_m: Farther depths say nothing (they are too inexact).
    """
    points = np.ascontiguousarray(points, np.float32)
    confirm, through = np.zeros(len(points), np.int32), np.zeros(len(points), np.int32)
    for view in views:
        use = view.depth_m > 0
        if measured_only:
            use = use & view.measured
        depth = np.where(use & (view.depth_m < max_depth_m), view.depth_m, 0).astype(np.float32)
        w2c = np.linalg.inv(view.c2w)[:3].astype(np.float32)
        _vote(points, depth, w2c, np.asarray(view.k, np.float32), np.float32(margin_m), confirm, through)
    return Votes(confirm, through)


@njit(parallel=True, cache=True, error_model="numpy")
def _vote(points, depth, w2c, k, margin_m, confirm, through):
    height, width = depth.shape
    for p in prange(len(points)):
        x, y, z = points[p, 0], points[p, 1], points[p, 2]
        cz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
        if cz < 0.1:
            continue
        cx = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
        cy = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
        u = math.floor(k[0, 0] * cx / cz + k[0, 2])
        v = math.floor(k[1, 1] * cy / cz + k[1, 2])
        if u < 1 or v < 1 or u >= width - 1 or v >= height - 1:
            continue
        margin = margin_m + np.float32(MARGIN_FRACTION) * cz
        # Seen through only if all pixels around look farther: one that hits an edge says nothing.
        behind, here, unknown = 0, False, 0
        for dv in range(-1, 2):
            for du in range(-1, 2):
                d = depth[v + dv, u + du]
                if not d > 0:
                    unknown += 1
                elif d > cz + margin:
                    behind += 1
                elif d > cz - margin:
                    here = True
        if here:
            confirm[p] += 1
        elif behind >= 5 and behind + unknown == 9:
            through[p] += 1
