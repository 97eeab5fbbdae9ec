# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Walkable paths: the way the cameras went, put on the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from numpy.typing import NDArray


@dataclass(frozen=True)
class WalkableCfg:
    """Settings; lengths in metres.

    Attributes:
        spacing_m: Between points of a path.
        smoothing_m: Standard deviation along the walk with which its jitter is smoothed.
        max_step_m: Height change between neighbouring points that ends a path.
        max_side_step_m: Height change between neighbouring cells that ends the width.
        max_half_width_m: Widest half width.
        min_half_width_m: Points with less room are not part of a path.
        min_length_m: Shorter pieces are dropped.
        max_turn_rad: Turn over `turn_window_m` that ends a path: where the photographer turned round on the spot, no robot that
            follows the line could (a right-angled corridor corner stays).
        turn_window_m: Length over which a turn is measured.
    """

    spacing_m: float = 0.25
    smoothing_m: float = 0.8
    max_step_m: float = 0.25
    max_side_step_m: float = 0.06
    max_half_width_m: float = 1.5
    min_half_width_m: float = 0.3
    min_length_m: float = 1.0
    max_turn_rad: float = 2.1
    turn_window_m: float = 1.0


def walkable_paths(
    camera_xy_m: NDArray[np.floating], ground: Heightfield, cfg: WalkableCfg | None = None
) -> Paths:
    """Centre lines along the walk, in both directions.

    Args:
        camera_xy_m: Horizontal positions of the cameras in walking order ``[n, 2]`` [m].
        ground: Heightfield in the same frame.
        cfg: Settings.

    Returns:
        Paths, possibly none: see :func:`longest_path_m`. Even ids go the way the cameras went, odd ids back.
    """
    cfg = cfg or WalkableCfg()
    line = _smooth_line(np.asarray(camera_xy_m, np.float64), cfg)
    pieces = []
    if len(line) >= 2:
        z = ground.sample(line)
        direction = _directions(line)
        width = _half_widths(line, direction, ground, cfg)
        good = (
            ground.is_known(line)
            & (width >= cfg.min_half_width_m)
            & (_turns(direction, cfg) <= cfg.max_turn_rad)
        )
        breaks = np.abs(np.diff(z, prepend=z[:1])) > cfg.max_step_m
        group = np.cumsum(~good | breaks | np.roll(~good, 1))
        for g in np.unique(group[good]):
            index = np.flatnonzero(good & (group == g))
            if (len(index) - 1) * cfg.spacing_m >= cfg.min_length_m:
                pieces.append((line[index], z[index], width[index]))
    points, ids, widths = [np.zeros((0, 4))], [np.zeros(0, int)], [np.zeros(0)]
    for n, (xy, z, width) in enumerate(pieces):
        for back in (False, True):
            order = slice(None, None, -1 if back else 1)
            d = _directions(xy[order])
            yaw = np.arctan2(d[:, 1], d[:, 0])
            points.append(np.column_stack([xy[order], z[order], yaw]))
            ids.append(np.full(len(xy), 2 * n + back))
            widths.append(width[order])
    return Paths(np.concatenate(points), np.concatenate(ids), np.concatenate(widths))


def longest_path_m(paths: Paths) -> float:
    """Length of the longest path [m]; 0 without any."""
    return float(paths.arc_length_m().max()) if len(paths) else 0.0


def _smooth_line(xy: NDArray[np.floating], cfg: WalkableCfg) -> NDArray[np.floating]:
    """Resample evenly, smooth over arc length, resample again; standing still adds nothing."""
    line = _resample(xy, 0.05)
    if len(line) < 3:
        return line
    from scipy.ndimage import gaussian_filter1d

    sigma = min(cfg.smoothing_m / 0.05, len(line) / 6)
    # Odd reflection keeps both ends where they are.
    pad = min(len(line) - 1, int(4 * sigma))
    padded = np.concatenate([2 * line[0] - line[pad:0:-1], line, 2 * line[-1] - line[-2 : -pad - 2 : -1]])
    smooth = gaussian_filter1d(padded, sigma, axis=0)[pad : pad + len(line)]
    return _resample(smooth, cfg.spacing_m)


def _resample(xy: NDArray[np.floating], spacing: float) -> NDArray[np.floating]:
    steps = np.linalg.norm(np.diff(xy, axis=0), axis=1)
    keep = np.concatenate([[True], steps > 1e-6])
    xy = xy[keep]
    arc = np.concatenate([[0], np.cumsum(steps[steps > 1e-6])])
    at = np.arange(0, arc[-1] + 1e-9, spacing)
    return np.stack([np.interp(at, arc, xy[:, k]) for k in range(2)], axis=1)


def _directions(line: NDArray[np.floating]) -> NDArray[np.floating]:
    d = np.gradient(line, axis=0)
    return d / np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-9)


def _turns(direction: NDArray[np.floating], cfg: WalkableCfg) -> NDArray[np.floating]:
    """Angle between the directions half a window behind and ahead of each point [rad]."""
    reach = max(1, round(0.5 * cfg.turn_window_m / cfg.spacing_m))
    index = np.arange(len(direction))
    behind = direction[np.maximum(index - reach, 0)]
    ahead = direction[np.minimum(index + reach, len(direction) - 1)]
    return np.arccos(np.clip((behind * ahead).sum(axis=1), -1, 1))


def _half_widths(
    line: NDArray[np.floating], direction: NDArray[np.floating], ground: Heightfield, cfg: WalkableCfg
) -> NDArray[np.floating]:
    """Distance to either side over which the ground is known and free of steps; the smaller of the two."""
    offsets = np.arange(0, cfg.max_half_width_m + 1e-9, ground.cell_m)
    width = np.full(len(line), cfg.max_half_width_m)
    for side in (1.0, -1.0):
        normal = side * np.stack([-direction[:, 1], direction[:, 0]], axis=1)
        at = line[:, None] + offsets[None, :, None] * normal[:, None]
        step = np.abs(np.diff(ground.sample(at), axis=1))
        free = ground.is_known(at)[:, 1:] & (step <= cfg.max_side_step_m)
        reach = np.where(free.all(1), len(offsets) - 1, np.argmin(free, axis=1))
        width = np.minimum(width, offsets[reach])
    return width
