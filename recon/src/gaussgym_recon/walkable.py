# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Walkable paths: the way the cameras went, put on the ground, and ways over the free ground around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.paths import Paths
from numpy.typing import NDArray

from gaussgym_recon.free_space import FreeSpace, RoutesCfg, Spots, free_routes, free_space, spots_of
from gaussgym_recon.robot_sizes import robot_size

Piece = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]
"""A line's points ``[n, 2]``, heights ``[n]`` and half widths ``[n]`` [m]."""


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
        max_gap_m: Unknown ground up to this long does not end the walk, unless its height steps.
        min_length_m: Shorter pieces are dropped.
        max_turn_rad: Turn over `turn_window_m` that ends a path: where the photographer turned round on the spot, no robot that
            follows the line could (a right-angled corridor corner stays).
        turn_window_m: Length over which a turn is measured.
        robot: Whose size and abilities the ways over free ground suit.
        robots: Whose free space is measured and reported.
        routes: How ways over free ground are found.
    """

    spacing_m: float = 0.25
    smoothing_m: float = 0.8
    max_step_m: float = 0.25
    max_side_step_m: float = 0.06
    max_half_width_m: float = 1.5
    min_half_width_m: float = 0.3
    max_gap_m: float = 0.6
    min_length_m: float = 1.0
    max_turn_rad: float = 2.1
    turn_window_m: float = 1.0
    robot: str = "go2"
    robots: tuple[str, ...] = ("go1", "go2", "t1")
    routes: RoutesCfg = field(default_factory=RoutesCfg)


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
    return _both_ways(_walked_pieces(camera_xy_m, ground, cfg))


def scene_paths(
    camera_xy_m: NDArray[np.floating], ground: Heightfield, mesh: Mesh | None, cfg: WalkableCfg | None = None
) -> tuple[Paths, Spots, dict[str, Any]]:
    """All paths of a scene: the walk's first, then ways over free ground; where robots fit; and how much room each has.

    Args:
        camera_xy_m: Horizontal positions of the cameras in walking order ``[n, 2]`` [m].
        ground: Heightfield in the same frame.
        mesh: Surface in the same frame, for what hangs over the ground; or None.
        cfg: Settings.

    Returns:
        Paths, possibly none; spots; and by robot ``area_m2`` where it can be, ``spots``, and ``longest_path_m``, the longest
        stretch of a path along which it has room.
    """
    cfg = cfg or WalkableCfg()
    pieces = _walked_pieces(camera_xy_m, ground, cfg)
    spaces = {
        name: free_space(ground, mesh, robot_size(name)) for name in dict.fromkeys((cfg.robot, *cfg.robots))
    }
    free = spaces[cfg.robot]
    for line in free_routes(free, np.asarray(camera_xy_m), [xy for xy, _, _ in pieces], cfg.routes):
        xy = _resample(line, cfg.spacing_m)
        room = free.at(free.clear_m, xy) - free.robot.half_width_m
        pieces.append((xy, ground.sample(xy), np.clip(room, 0.05, cfg.max_half_width_m)))
    paths = _both_ways(pieces)
    spots = spots_of([spaces[name] for name in cfg.robots])
    report = {
        name: {
            "area_m2": spaces[name].area_m2,
            "spots": int(spots.fits[name].sum()),
            "longest_path_m": _longest_with_room(paths, spaces[name]),
        }
        for name in cfg.robots
    }
    return paths, spots, report


def _longest_with_room(paths: Paths, free: FreeSpace) -> float:
    """Length of the longest stretch of a path on which a robot's middle may be [m]."""
    if not len(paths):
        return 0.0
    room = free.at(free.open, paths.points[:, :2].astype(np.float64))
    arc = paths.arc_length_m()
    cut = ~room | (np.diff(paths.path_id, prepend=-1) != 0)
    group = np.cumsum(cut)
    lengths = [np.ptp(arc[room & (group == g)]) for g in np.unique(group[room])]
    return float(max(lengths, default=0.0))


def _walked_pieces(camera_xy_m: NDArray[np.floating], ground: Heightfield, cfg: WalkableCfg) -> list[Piece]:
    """The parts of the walk that are known, even and wide enough."""
    line = _smooth_line(np.asarray(camera_xy_m, np.float64), cfg)
    if len(line) < 2:
        return []
    z, direction = ground.sample(line), _directions(line)
    width = _half_widths(line, direction, ground, cfg)
    known, bridged = _with_bridges(ground.is_known(line), round(cfg.max_gap_m / cfg.spacing_m))
    if bridged.any():
        at = np.arange(len(line))
        width[bridged] = np.interp(at[bridged], at[~bridged], width[~bridged])
    good = known & (width >= cfg.min_half_width_m)
    good &= _turns(direction, cfg) <= cfg.max_turn_rad
    breaks = np.abs(np.diff(z, prepend=z[:1])) > cfg.max_step_m
    group = np.cumsum(~good | breaks | np.roll(~good, 1))
    pieces = []
    for g in np.unique(group[good]):
        index = np.flatnonzero(good & (group == g))
        if (len(index) - 1) * cfg.spacing_m >= cfg.min_length_m:
            pieces.append((line[index], z[index], width[index]))
    return pieces


def _with_bridges(known: NDArray[np.bool_], longest: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Known points with gaps of up to ``longest`` points closed, and which those are: somebody walked there, unseen or not."""
    bridged = np.zeros(len(known), bool)
    edges = np.flatnonzero(np.diff(known.astype(int)))
    for end, begin in pairwise(edges):
        if known[end] and begin - end <= longest:
            bridged[end + 1 : begin + 1] = True
    return known | bridged, bridged


def _both_ways(pieces: list[Piece]) -> Paths:
    """Paths of even ids along the pieces, of odd ids back."""
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
