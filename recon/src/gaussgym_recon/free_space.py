# numpy's argument types are looser than its stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Where a robot of a given size can be, how much room it has there, and ways from place to place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

from gaussgym_recon.robot_sizes import RobotSize

Floats = NDArray[np.floating]

CELL_M = 0.05
_MAX_CELLS = 1_000_000
_SLOPE_OVER_M = 0.5
"""Length over which ground slopes: about a robot's."""
_STEP_OVER_M = 0.1
"""Height differences over this length are steps; over more they are slope."""
_STEP_NOISE_M = 0.02
"""What reconstruction may add to a step."""
_OVERHANG_POINTS = 3
"""Points of surface a cell must hold, between a robot's step and its height, to be blocked."""


@dataclass(frozen=True)
class FreeSpace:
    """Ground as one robot sees it, on a grid like a `Heightfield`'s.

    Attributes:
        ground: Heights and what is known, at this grid.
        slope_rad: ``[ny, nx]`` over half a metre.
        step_m: ``[ny, nx]`` largest height difference to points within `_STEP_OVER_M`.
        clear_m: ``[ny, nx]`` distance to the nearest place it must not touch; 0 there.
        robot: Whose.
    """

    ground: Heightfield
    slope_rad: Floats
    step_m: Floats
    clear_m: Floats
    robot: RobotSize

    @property
    def open(self) -> NDArray[np.bool_]:
        """``[ny, nx]`` where the robot's middle may be."""
        return self.clear_m >= self.robot.half_width_m

    @property
    def area_m2(self) -> float:
        """Of where its middle may be."""
        return float(self.open.sum()) * self.ground.cell_m**2

    def at(self, values: NDArray[Any], xy: Floats) -> NDArray[Any]:
        """Values ``[ny, nx]`` at the grid points nearest to ``[..., 2]`` [m]."""
        i, j = np.moveaxis(np.rint((xy - self.ground.origin_xy_m) / self.ground.cell_m).astype(int), -1, 0)
        ny, nx = values.shape
        return values[np.clip(j, 0, ny - 1), np.clip(i, 0, nx - 1)]


def free_space(ground: Heightfield, mesh: Mesh | None, robot: RobotSize) -> FreeSpace:
    """Find where a robot can be.

    Blocked is ground that is unknown, too steep or a step too high, and whatever the mesh has between the robot's step and
    its height above the ground: walls, table tops, branches.

    Args:
        ground: The scene's.
        mesh: The scene's surface in the same frame, or None.
        robot: How large, and what it climbs.
    """
    from scipy import ndimage

    field = _at_planning_cell(ground)
    height, cell = field.height_m.astype(np.float64), field.cell_m
    reach = 2 * max(1, round(_STEP_OVER_M / cell / 2)) + 1
    step = ndimage.maximum_filter(height, reach) - ndimage.minimum_filter(height, reach)
    smooth = ndimage.gaussian_filter(height, 0.5 * _SLOPE_OVER_M / cell)
    slope = np.arctan(np.hypot(*np.gradient(smooth, cell)))
    blocked = ~field.known | (step > robot.max_step_m + _STEP_NOISE_M) | (slope > robot.max_slope_rad)
    if mesh is not None and len(mesh.vertices):
        blocked |= _overhead(field, mesh, robot)
    # Outside the grid is unknown too.
    clear = ndimage.distance_transform_edt(np.pad(~blocked, 1))[1:-1, 1:-1] * cell  # type: ignore[index]
    return FreeSpace(field, slope, step, np.asarray(clear), robot)


def _at_planning_cell(field: Heightfield) -> Heightfield:
    cells = field.height_m.size * field.cell_m**2 / CELL_M**2
    cell = max(field.cell_m, CELL_M * math.sqrt(max(1.0, cells / _MAX_CELLS)))
    if cell <= field.cell_m:
        return field
    nx, ny = (max(2, math.floor(size / cell + 1e-6) + 1) for size in field.size_m)
    xy = np.stack(np.meshgrid(np.arange(nx) * cell, np.arange(ny) * cell), -1) + field.origin_xy_m
    return Heightfield(field.sample(xy), cell, field.origin_xy_m, field.is_known(xy))


def _overhead(field: Heightfield, mesh: Mesh, robot: RobotSize) -> NDArray[np.bool_]:
    """Cells ``[ny, nx]`` above which the mesh has something that the robot would run into."""
    from scipy import ndimage

    corners = mesh.vertices[mesh.faces].astype(np.float64)
    low, high = field.origin_xy_m, field.origin_xy_m + field.size_m
    near = ((corners[..., :2].max(1) > low) & (corners[..., :2].min(1) < high)).all(1)
    points = _spread_over(corners[near], field.cell_m / 2)
    place = np.rint((points[:, :2] - field.origin_xy_m) / field.cell_m).astype(int)
    ny, nx = field.height_m.shape
    inside = ((place >= 0) & (place < [nx, ny])).all(1)
    place, z = place[inside], points[inside, 2]
    # Faces of steps stand between a lower and a higher cell: only what is above both is in the way.
    floor = ndimage.maximum_filter(field.height_m, 3)
    above = z - floor[place[:, 1], place[:, 0]]
    hit = (above > robot.max_step_m) & (above < robot.height_m)
    count = np.bincount(place[hit, 1] * nx + place[hit, 0], minlength=ny * nx)
    return count.reshape(ny, nx) >= _OVERHANG_POINTS


def _spread_over(corners: Floats, spacing: float) -> Floats:
    """Points ``[n, 3]`` over triangles ``[F, 3, 3]``, no farther apart than about ``spacing``."""
    edge = np.linalg.norm(np.roll(corners, 1, axis=1) - corners, axis=2).max(1, initial=0)
    out = [np.zeros((0, 3))]
    parts = np.clip(np.ceil(edge / spacing).astype(int), 1, 400)
    for n in np.unique(parts):
        i, j = np.meshgrid(np.arange(n), np.arange(n))
        a, b = ((i + 0.5) / n)[i + j < n], ((j + 0.5) / n)[i + j < n]
        a, b = a * (1 - 0.25 / n), b * (1 - 0.25 / n)
        weight = np.stack([1 - a - b, a, b], axis=1)
        for some in np.array_split(
            corners[parts == n], max(1, len(weight) * int((parts == n).sum()) // 2_000_000)
        ):
            out.append(np.einsum("pk,fkc->fpc", weight, some).reshape(-1, 3))
    return np.concatenate(out)


@dataclass(frozen=True)
class RoutesCfg:
    """How ways over free ground are found; lengths in metres.

    Attributes:
        count: Most ways.
        goal_m: Ways should be at least this long, where there is room.
        min_length_m: Shorter ones are left out.
        comfort_m: Ways keep this far from what is in the way where they can.
        apart_m: Ways closer together than this run the same way.
        max_shared: Share of a way that may run the same way as earlier ones.
        smoothing_m: Standard deviation of the smoothing along it.
    """

    count: int = 6
    goal_m: float = 10.0
    min_length_m: float = 3.0
    comfort_m: float = 0.8
    apart_m: float = 0.5
    max_shared: float = 0.7
    smoothing_m: float = 0.4


def free_routes(free: FreeSpace, start_xy: Floats, known_lines: list[Floats], cfg: RoutesCfg) -> list[Floats]:
    """Ways over free ground, each from a place that earlier ones do not reach to one at least ``goal_m`` away.

    Args:
        free: Where the robot can be.
        start_xy: ``[n, 2]`` places somebody walked; only ground that connects with them counts [m].
        known_lines: Lines ``[n, 2]`` that exist already.
        cfg: Settings.

    Returns:
        Lines ``[n, 2]`` [m], smooth, along which the robot has room; possibly none.
    """
    grid = _Graph(free, start_xy, cfg)
    lines, found = list(known_lines), []
    for _ in range(3 * cfg.count):
        if len(found) == cfg.count or not len(grid.nodes):
            break
        start = grid.farthest_from(lines)
        if start is None:
            break
        line = grid.way_from(start, lines)
        if line is None:
            grid.forget(start)
            continue
        line = _smoothed(line, free, cfg)
        length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
        if length < cfg.min_length_m or _shared(line, lines, cfg.apart_m) > cfg.max_shared:
            grid.forget(start)
            continue
        lines.append(line)
        found.append(line)
    return found


def _shared(line: Floats, lines: list[Floats], apart_m: float) -> float:
    """Share of a line's points that have another line within ``apart_m``."""
    from scipy.spatial import cKDTree

    if not lines:
        return 0.0
    return float((cKDTree(np.concatenate(lines)).query(line)[0] < apart_m).mean())


class _Graph:
    """Open cells, every second one where cells are fine, joined to their eight neighbours; owns the shortest-path matrix."""

    def __init__(self, free: FreeSpace, start_xy: Floats, cfg: RoutesCfg) -> None:
        from scipy.sparse.csgraph import connected_components
        from scipy.spatial import cKDTree

        self._cfg = cfg
        stride = max(1, round(0.1 / free.ground.cell_m))
        open_ = free.open[::stride, ::stride]
        clear = free.clear_m[::stride, ::stride]
        spacing = stride * free.ground.cell_m
        matrix = _links(open_, clear, spacing, cfg.comfort_m)
        j, i = np.nonzero(open_)
        xy = np.stack([i, j], axis=1) * spacing + free.ground.origin_xy_m
        keep = np.zeros(len(xy), bool)
        if len(xy) and len(start_xy):
            _, label = connected_components(matrix, directed=False)
            distance, nearest = cKDTree(xy).query(start_xy)
            keep = np.isin(label, np.unique(label[nearest[distance < 0.5]]))
        self.nodes, self.matrix = xy[keep], matrix[keep][:, keep]
        self._candidate = np.ones(len(self.nodes), bool)

    def farthest_from(self, lines: list[Floats]) -> int | None:
        """The candidate node farthest from all lines; None without any farther than `RoutesCfg.apart_m`."""
        from scipy.spatial import cKDTree

        if not self._candidate.any():
            return None
        if not lines:
            return int(np.flatnonzero(self._candidate)[0])
        distance = cKDTree(np.concatenate(lines)).query(self.nodes)[0] * self._candidate
        best = int(np.argmax(distance))
        return best if distance[best] > self._cfg.apart_m else None

    def forget(self, start: int) -> None:
        """Never start here again, nor beside."""
        self._candidate &= np.linalg.norm(self.nodes - self.nodes[start], axis=1) > 2 * self._cfg.apart_m

    def way_from(self, start: int, lines: list[Floats]) -> Floats | None:
        """The way to the node, far enough to be a goal, that lies farthest from other lines; else to the farthest."""
        from scipy.sparse.csgraph import dijkstra
        from scipy.spatial import cKDTree

        cost, before = dijkstra(self.matrix, directed=False, indices=start, return_predecessors=True)
        reached = np.isfinite(cost)
        if reached.sum() < 2:
            return None
        away = np.linalg.norm(self.nodes - self.nodes[start], axis=1)
        goals = reached & (away >= self._cfg.goal_m)
        if goals.any() and lines:
            apart = cKDTree(np.concatenate(lines)).query(self.nodes)[0]
            # Far from what exists; of equally far ones the farther goal.
            end = int(np.argmax(np.where(goals, np.minimum(apart, 3.0) + 0.05 * away, -1)))
        else:
            end = int(np.argmax(np.where(reached, cost, -1)))
        way = [end]
        while way[-1] != start:
            way.append(int(before[way[-1]]))
        return self.nodes[way[::-1]]


def _links(open_: NDArray[np.bool_], clear: Floats, spacing: float, comfort_m: float) -> Any:
    """Sparse matrix of the lengths between neighbouring open cells, longer where there is little room."""
    from scipy.sparse import coo_matrix

    number = np.full(open_.shape, -1)
    number[open_] = np.arange(open_.sum())
    dear = 1.0 + 3.0 * np.clip(1.0 - clear / comfort_m, 0, 1) ** 2
    rows, columns, lengths = [], [], []
    ny, nx = open_.shape
    for dj, di in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = (slice(0, ny - dj), slice(max(0, -di), nx - max(0, di)))
        b = (slice(dj, ny), slice(max(0, di), nx - max(0, -di)))
        both = open_[a] & open_[b]
        rows.append(number[a][both])
        columns.append(number[b][both])
        lengths.append(spacing * math.hypot(dj, di) * 0.5 * (dear[a] + dear[b])[both])
    count = int(open_.sum())
    join = [np.concatenate(parts) for parts in (lengths, rows, columns)]
    return coo_matrix((join[0], (join[1], join[2])), (count, count)).tocsr()


def _smoothed(line: Floats, free: FreeSpace, cfg: RoutesCfg) -> Floats:
    """A way over cells as a smooth line, smoothed less where the smooth one would not have room."""
    from scipy.ndimage import gaussian_filter1d

    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.arange(0, arc[-1] + 1e-9, 0.05)
    fine = np.stack([np.interp(at, arc, line[:, k]) for k in range(2)], axis=1)
    for sigma_m in (2 * cfg.smoothing_m, cfg.smoothing_m, 0.5 * cfg.smoothing_m, 0.25 * cfg.smoothing_m):
        pad = min(len(fine) - 1, round(4 * sigma_m / 0.05))
        if pad < 1:
            break
        # Odd reflection keeps both ends where they are.
        long = np.concatenate([2 * fine[0] - fine[pad:0:-1], fine, 2 * fine[-1] - fine[-2 : -pad - 2 : -1]])
        smooth = gaussian_filter1d(long, sigma_m / 0.05, axis=0)[pad : pad + len(fine)]
        if free.at(free.open, smooth).all():
            return smooth
    return fine


@dataclass(frozen=True)
class Spots:
    """Places where robots can start or be sent to, about half a metre apart.

    Attributes:
        points: ``[S, 3]`` on the ground [m].
        clear_m: ``[S]`` room around, for the smallest robot that fits [m].
        slope_rad: ``[S]``.
        step_m: ``[S]`` highest step beside it.
        fits: By robot, ``[S]`` whether it can be there.
    """

    points: Floats
    clear_m: Floats
    slope_rad: Floats
    step_m: Floats
    fits: dict[str, NDArray[np.bool_]]

    def save_npz(self, path: Path) -> None:
        """Write one compressed npz; ``fits_<robot>`` for each robot."""
        arrays: dict[str, NDArray[Any]] = {
            "points": self.points.astype(np.float32), "clear_m": self.clear_m.astype(np.float32),
            "slope_rad": self.slope_rad.astype(np.float32), "step_m": self.step_m.astype(np.float32),
        }  # fmt: skip
        np.savez_compressed(path, **arrays, **{f"fits_{name}": fit for name, fit in self.fits.items()})


def spots_of(spaces: list[FreeSpace], *, spacing_m: float = 0.5) -> Spots:
    """The roomiest place of each square of ``spacing_m`` where any robot can be.

    Args:
        spaces: Free space of each robot, of one ground.
        spacing_m: Edge of the squares.
    """
    clear = np.max([np.where(space.open, space.clear_m, 0) for space in spaces], axis=0)
    first = spaces[0]
    j, i = np.nonzero(clear)
    side = max(1, round(spacing_m / first.ground.cell_m))
    square = (j // side) * (clear.shape[1] // side + 1) + i // side
    order = np.lexsort((-clear[j, i], square))
    chosen = order[np.diff(square[order], prepend=-1) != 0]
    j, i = j[chosen], i[chosen]
    xy = np.stack([i, j], axis=1) * first.ground.cell_m + first.ground.origin_xy_m
    points = np.column_stack([xy, first.ground.height_m[j, i]])
    fits = {space.robot.name: space.open[j, i] for space in spaces}
    return Spots(points, clear[j, i], first.slope_rad[j, i], first.step_m[j, i], fits)
