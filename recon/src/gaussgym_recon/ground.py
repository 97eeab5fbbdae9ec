# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""Mesh → ground as one height a grid point, with what is known and what is not.

Above each grid point lie layers of surface: the floor, a table, what hangs in the air. The ground is the lowest that views
confirm. Where none is, the hole is filled from its lower rim, and what views saw through is never filled: it sinks, and stays
unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from numba import njit
from numpy.typing import NDArray

from gaussgym_recon.depth_views import DepthView
from gaussgym_recon.fusion import FusionCfg
from gaussgym_recon.ground_prior import expected_ground, grid_of, smooth_ground
from gaussgym_recon.posed import PosedCapture
from gaussgym_recon.visibility import votes_of

_GAP_M = 0.03
"""Surfaces farther apart than this, upwards, are two layers."""
_MAX_POINTS = 6_000_000
_RIM_M = 0.04
"""Holes whose rim differs by more, slope aside, are filled from its lower part."""
_STEEPEST = 0.45
"""Rise over run with which a rim goes on into a hole; what is steeper is the edge of a step."""
_LARGE_HOLE_M2, _UNSURE_RIM_M = 0.125, 0.05
"""Beside holes of this size the heights of so much of what was seen are not used."""
_DROP_M = 0.25
"""Holes whose rim differs by more stay unknown."""
_SINKS_M = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5)
_FIRM_VIEWS = 5
_VOTES_WITHIN_M = 8.0

Floats = NDArray[np.floating]


@dataclass
class Layers:
    """Layers of upward-facing surface over grid points, sorted by grid point, then from below.

    Attributes:
        cell: ``[L]`` index of the grid point.
        z: ``[L]`` median height of the layer there [m].
        cover: ``[L]`` share of the cell around the grid point that it covers, 0..1.
    """

    cell: NDArray[np.int64]
    z: Floats
    cover: Floats

    def take(self, which: NDArray[np.bool_]) -> Layers:
        """Some of them."""
        return Layers(self.cell[which], self.z[which], self.cover[which])


def ground_heightfield(
    mesh: Mesh,
    posed: PosedCapture,
    cfg: FusionCfg,
    *,
    evidence: Floats | None = None,
    depths: Sequence[DepthView] = (),
) -> Heightfield:
    """The ground around the walked path.

    The walk itself says where ground must be: one camera height below the cameras, within ``reach_m``. A smooth surface is
    fitted to all evidence of ground there (`smooth_ground`). Around it the lowest confirmed layer of each cell counts. Cells
    that the mesh does not reach take the height of the lower rim, or of the smooth surface far from any, and count as known
    where the hole is small or evidence lies close by, and nobody saw through.

    Args:
        mesh: Fused surface [m].
        posed: Cameras and sparse points.
        cfg: Settings.
        evidence: ``[n, 4]`` further points that may be ground, and their weight (stereo points).
        depths: Measured depth, for the votes of views; none: all layers count as confirmed and nothing as seen through.

    Raises:
        InputError: If nothing shows ground around the path.
    """
    origin, shape = grid_of(posed, cfg)
    expected, near = expected_ground(posed, origin, shape, cfg)
    clues = [np.column_stack([posed.points, np.full(len(posed.points), 3.0)]), _surface_clues(mesh)]
    clues += [] if evidence is None else [evidence]
    smooth, sure = smooth_ground(np.concatenate(clues), expected, near, origin, cfg)
    layers = surface_layers(mesh, origin, shape, cfg)
    offset = layers.z - smooth.reshape(-1)[layers.cell]
    close = (offset > -cfg.drop_m) & (offset < cfg.reach_m) & near.reshape(-1)[layers.cell]
    layers, offset = layers.take(close), offset[close]
    seen_by = votes_of(_at(layers.cell, layers.z, origin, shape, cfg), depths, max_depth_m=_VOTES_WITHIN_M)
    confirm = seen_by.confirm if len(depths) else np.full(len(layers.z), 2, np.int32)
    keep = ~seen_by.refuted() & ((offset > -0.5 * cfg.reach_m) | (confirm >= 2 + (len(depths) == 0)))
    height, views = lowest_confirmed(layers.take(keep), confirm[keep], shape)
    return finish_heightfield(
        height, smooth, near, origin, cfg, sure=sure, firm=views >= _FIRM_VIEWS, depths=depths
    )


def _at(cell: NDArray[np.int64], z: Floats, origin: Floats, shape: tuple[int, int], cfg: FusionCfg) -> Floats:
    """World points ``[n, 3]`` over grid points."""
    j, i = np.divmod(cell, shape[1])
    return np.column_stack([origin[0] + i * cfg.cell_m, origin[1] + j * cfg.cell_m, z])


def _upward(mesh: Mesh) -> Floats:
    """Corners ``[F, 3, 3]`` of the triangles that face up more than sideways."""
    v = mesh.vertices[mesh.faces].astype(np.float64)
    normal = np.cross(v[:, 1] - v[:, 0], v[:, 2] - v[:, 0])
    length = np.linalg.norm(normal, axis=1)
    return v[(normal[:, 2] > 0.5 * length) & (length > 0)]


def _surface_clues(mesh: Mesh, most: int = 300_000) -> Floats:
    """Middles of upward-facing triangles, of weight 1."""
    middle = _upward(mesh).mean(axis=1)
    middle = middle[:: max(1, len(middle) // most)]
    return np.column_stack([middle, np.ones(len(middle))])


def surface_layers(mesh: Mesh, origin: Floats, shape: tuple[int, int], cfg: FusionCfg) -> Layers:
    """Layers of upward-facing surface over each grid point, from up to 3 x 3 points a cell."""
    split = max(1, min(3, math.isqrt(_MAX_POINTS // (shape[0] * shape[1]))))
    spacing = cfg.cell_m / split
    start = np.asarray(origin) - 0.5 * (split - 1) * spacing
    corners = _upward(mesh)
    size = (shape[0] * split, shape[1] * split)
    empty = np.zeros(0, np.int64), np.zeros(0, np.float64)
    count = _drop_points(corners, start, spacing, *size, *empty)
    point, z = np.zeros(count, np.int64), np.zeros(count)
    _drop_points(corners, start, spacing, *size, point, z)
    j, i = np.divmod(point, size[1])
    cell = (j // split) * shape[1] + i // split
    order = np.lexsort((z, cell))
    cell, z = cell[order], z[order]
    first = np.flatnonzero((np.diff(cell, prepend=-1) != 0) | (np.diff(z, prepend=-np.inf) > _GAP_M))
    count_of = np.diff(np.append(first, len(cell)))
    middle = 0.5 * (z[first + (count_of - 1) // 2] + z[first + count_of // 2]) if len(first) else z[:0]
    return Layers(cell[first], middle, np.minimum(1.0, count_of / split**2))


@njit(cache=True)
def _drop_points(corners, start, spacing, rows, columns, point, z):
    """Points of a grid under triangles ``[F, 3, 3]``: count them and, if there is room, keep index and height."""
    kept, room = 0, len(point)
    for f in range(len(corners)):
        ax, ay = (corners[f, 0, 0] - start[0]) / spacing, (corners[f, 0, 1] - start[1]) / spacing
        bx, by = (corners[f, 1, 0] - start[0]) / spacing, (corners[f, 1, 1] - start[1]) / spacing
        cx, cy = (corners[f, 2, 0] - start[0]) / spacing, (corners[f, 2, 1] - start[1]) / spacing
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-12:
            continue
        for j in range(max(0, math.ceil(min(ay, by, cy))), min(rows - 1, math.floor(max(ay, by, cy))) + 1):
            for i in range(
                max(0, math.ceil(min(ax, bx, cx))), min(columns - 1, math.floor(max(ax, bx, cx))) + 1
            ):
                wb = ((i - ax) * (cy - ay) - (j - ay) * (cx - ax)) / area
                wc = ((bx - ax) * (j - ay) - (by - ay) * (i - ax)) / area
                if wb < -1e-9 or wc < -1e-9 or wb + wc > 1 + 1e-9:
                    continue
                if kept < room:
                    point[kept] = j * columns + i
                    low = corners[f, 0, 2]
                    z[kept] = low + wb * (corners[f, 1, 2] - low) + wc * (corners[f, 2, 2] - low)
                kept += 1
    return kept


def lowest_confirmed(
    layers: Layers, confirm: NDArray[np.int32], shape: tuple[int, int]
) -> tuple[Floats, NDArray[np.int32]]:
    """Height of the ground ``[ny, nx]`` over each grid point, NaN where there is no layer, and how many views confirm it.

    Layers that far fewer views confirm than another of the same cell are left out (what stereo sees below a shiny floor). Of
    the rest the lowest counts, unless it covers less than half of the cell and the one above covers more: there runs the edge
    of a step, and the grid point is on its upper side.
    """
    height, views = np.full(shape[0] * shape[1], np.nan), np.zeros(shape[0] * shape[1], np.int32)
    if len(layers.cell):
        most = np.zeros(shape[0] * shape[1], np.int32)
        np.maximum.at(most, layers.cell, confirm)
        firm = confirm >= 0.2 * most[layers.cell]
        kept, confirm = layers.take(firm), confirm[firm]
        first = np.flatnonzero(np.diff(kept.cell, prepend=-1))
        above = np.minimum(first + 1, len(kept.cell) - 1)
        higher = (kept.cell[above] == kept.cell[first]) & (kept.cover[first] < 0.5)
        higher &= kept.cover[above] > kept.cover[first]
        chosen = np.where(higher, above, first)
        height[kept.cell[chosen]], views[kept.cell[chosen]] = kept.z[chosen], confirm[chosen]
    return height.reshape(shape), views.reshape(shape)


def finish_heightfield(
    height: Floats,
    expected: Floats,
    near: NDArray[np.bool_],
    origin: Floats,
    cfg: FusionCfg,
    *,
    sure: NDArray[np.bool_] | None = None,
    firm: NDArray[np.bool_] | None = None,
    depths: Sequence[DepthView] = (),
) -> Heightfield:
    """Take out spikes, smooth what is only noise, fill holes.

    Args:
        height: ``[ny, nx]`` [m], NaN where nothing was seen.
        expected: Fallback far from anything seen [m].
        near: Cells within the margin of the path; others stay unknown.
        origin: World position of cell ``[0, 0]``.
        cfg: Settings.
        sure: Cells that count as known without the mesh, or None.
        firm: Cells that so many views confirm that they are no spikes: posts and narrow gaps; or None.
        depths: Measured depth, for what was seen through.
    """
    anything = np.isfinite(height)
    height = without_rims(height, cfg.cell_m)
    seen = np.isfinite(height)
    rims = anything & ~seen
    spikes = _spikes(fill_holes(height, seen, expected, cfg)[0], seen, cfg.cell_m)
    seen &= ~spikes if firm is None else ~(spikes & ~firm)
    filled, rise = fill_holes(height, seen, expected, cfg)
    filled = np.where(seen, _without_noise(filled, seen, cfg.cell_m), filled)
    size = 2 * max(1, round(0.5 * cfg.hole_m / cfg.cell_m)) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    closed = cv2.morphologyEx(
        np.pad(seen | rims, size).astype(np.uint8),  # a rim's height is not trusted, that there is ground is
        cv2.MORPH_CLOSE,
        disk,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )[size:-size, size:-size]
    known = closed > 0
    if sure is not None:
        known |= sure & _is_even(height - expected, seen, cfg.cell_m)
    known &= near & (rise <= _DROP_M)
    if len(depths):
        holes = np.flatnonzero((~seen & near).reshape(-1))
        sunk = sink(_at(holes, filled.reshape(-1)[holes], origin, height.shape, cfg), depths)
        changed = sunk < filled.reshape(-1)[holes]
        filled.reshape(-1)[holes] = sunk
        known.reshape(-1)[holes[changed]] = False
    return Heightfield(filled.astype(np.float32), cfg.cell_m, origin, known)


def without_rims(height: Floats, cell_m: float) -> Floats:
    """Heights without the outermost cells beside large holes: fused surface ends in what one or two views saw last, from afar.

    Patches that are all rim stay as they are: there is nothing better.
    """
    hole = np.isnan(height)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8), connectivity=4)
    large = hole & (stats[labels, cv2.CC_STAT_AREA] * cell_m**2 >= _LARGE_HOLE_M2)
    if not large.any():
        return height
    far = cv2.distanceTransform((~large).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    rim = far * cell_m <= _UNSURE_RIM_M + 1e-6
    _, patches = cv2.connectedComponents((~hole).astype(np.uint8), connectivity=8)
    rim &= np.isin(patches, np.unique(patches[~rim & ~hole]))
    return np.where(rim, np.nan, height)


def _is_even(residual: Floats, seen: NDArray[np.bool_], cell_m: float) -> NDArray[np.bool_]:
    """Where what was seen around stays within 3 cm of the smooth ground, so that this may stand for what was not."""
    sigma = 0.2 / cell_m
    weight = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), sigma)
    off = cv2.GaussianBlur(np.where(seen, np.abs(residual), 0).astype(np.float32), (0, 0), sigma)
    return off < 0.03 * np.maximum(weight, 1e-6)


def sink(points: Floats, depths: Sequence[DepthView]) -> Floats:
    """Heights ``[P]`` to which points ``[P, 3]`` go down until views no longer see through them."""
    z = points[:, 2].copy()
    active = np.arange(len(points))
    for depth in (0.0, *_SINKS_M):
        at = points[active] - [0, 0, depth]
        z[active] = at[:, 2]
        found = votes_of(at, depths, max_depth_m=_VOTES_WITHIN_M)
        active = active[found.refuted(least=2)]
        if not len(active):
            break
    return z


def _spikes(filled: Floats, seen: NDArray[np.bool_], cell_m: float) -> NDArray[np.bool_]:
    """What stands out by 12 cm, up or down, on all sides within a quarter of a metre; the edges of steps do not."""
    size = 2 * max(1, round(0.125 / cell_m)) + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    height = filled.astype(np.float32)
    up = height - cv2.morphologyEx(height, cv2.MORPH_OPEN, disk)
    down = cv2.morphologyEx(height, cv2.MORPH_CLOSE, disk) - height
    return seen & (np.maximum(up, down) > 0.12)


def fill_holes(
    height: Floats, seen: NDArray[np.bool_], expected: Floats, cfg: FusionCfg
) -> tuple[Floats, Floats]:
    """Fill unseen cells, small holes from the lower part of their rim: what hides ground stands before it.

    Farther from anything seen: residual to the expected ground, blurred ever wider, nearest first.

    Returns:
        Heights, and how far the rim around each hole cell rises, slope aside (0 elsewhere) [m].
    """
    from scipy import ndimage

    height = np.where(seen, np.nan_to_num(height), expected)
    done, rise = seen.copy(), np.zeros(height.shape)
    reach = max(2, round(cfg.hole_m / cfg.cell_m))
    _fill_from_rim(height, seen, reach, _STEEPEST * cfg.cell_m, done, rise)
    residual = height - expected
    weight, out = done.astype(float), residual.copy()
    for sigma_m in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        if done.all():
            break
        sigma = sigma_m / cfg.cell_m
        w = ndimage.gaussian_filter(weight, sigma)
        value = ndimage.gaussian_filter(residual * weight, sigma) / np.maximum(w, 1e-9)
        take = ~done & (w > 0.05)
        out[take] = value[take]
        done |= take
    return out + expected, rise


@njit(cache=True)
def _slope_behind(height, seen, y, x, dj, di, steepest):
    """Rise a cell away from a hole where the rim is even over three and over six cells, else 0: it may be the edge of a step."""
    ny, nx = seen.shape
    b, a = y + 6 * dj, x + 6 * di
    if not (0 <= b < ny and 0 <= a < nx and seen[b, a] and seen[y + 3 * dj, x + 3 * di]):
        return 0.0
    near = (height[y + 3 * dj, x + 3 * di] - height[y, x]) / 3
    far = (height[b, a] - height[y, x]) / 6
    even = abs(near - far) < 0.2 * steepest and abs(far) <= steepest * math.hypot(dj, di)
    return far if even else 0.0


@njit(cache=True)
def _fill_from_rim(height, seen, reach, steepest, done, rise):
    """Look from each unseen cell in eight directions for the rim; where most find it, the mean of its lower part counts.

    Of the rim only what is about as near as its nearest part: a long hole has its sides, not its ends, for a rim.
    """
    ny, nx = seen.shape
    value, away = np.empty(8), np.empty(8)
    for j in range(ny):
        for i in range(nx):
            if seen[j, i]:
                continue
            found = 0
            for d in range(9):
                dj, di = d // 3 - 1, d % 3 - 1
                if dj == 0 and di == 0:
                    continue
                for step in range(1, reach + 1):
                    y, x = j + dj * step, i + di * step
                    if y < 0 or x < 0 or y >= ny or x >= nx:
                        break
                    if seen[y, x]:
                        slope = _slope_behind(height, seen, y, x, dj, di, steepest)
                        value[found], away[found] = height[y, x] - slope * step, step * math.hypot(dj, di)
                        found += 1
                        break
            if found < 5:
                continue
            near = 2.0 * away[:found].min() + 2.0
            low, high = np.inf, -np.inf
            for n in range(found):
                if away[n] <= near:
                    low, high = min(low, value[n]), max(high, value[n])
            total, weight = 0.0, 0.0
            for n in range(found):
                if away[n] <= near and value[n] <= low + _RIM_M:
                    total += value[n] / away[n]
                    weight += 1.0 / away[n]
            height[j, i] = total / weight
            rise[j, i] = high - low
            done[j, i] = True


def _without_noise(height: Floats, seen: NDArray[np.bool_], cell_m: float) -> Floats:
    """Bilateral smoothing as strong as the noise, which leaves steps alone (Tomasi & Manduchi 1998)."""
    base = float(np.median(height))
    flat = cv2.medianBlur((height - base).astype(np.float32), 3)
    noise = 1.4826 * float(np.median(np.abs(flat - (height - base))[seen])) if seen.any() else 0.0
    flat = cv2.medianBlur(flat, 5) if noise > 0.002 else flat
    sigma = float(np.clip(4.0 * noise, 0.006, 0.04))
    smooth = cv2.bilateralFilter(flat, d=0, sigmaColor=sigma, sigmaSpace=0.1 / cell_m)
    return smooth.astype(np.float64) + base
