# numpy's and open3d's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""A walk through a mesh that nobody walked: the longest way over its even ground that keeps clear of everything."""

from __future__ import annotations

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import look_at
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from gaussgym_recon.layouts.meshes import faces_up, ray_scene

EYE_M = 0.6
"""Height of the eyes that look along the walk [m]."""
_CELL_M = 0.1
_MAX_STEP_M = 0.15
_CLEARANCE_M = 0.3
_HEADROOM_M = 0.8
_MAX_CELLS = 25_000_000


def virtual_walk(mesh: Mesh) -> NDArray[np.float64]:
    """Cameras along a way over the largest even ground of a mesh.

    Args:
        mesh: Metres, +Z up.

    Returns:
        OpenCV camera-to-world `[n, 4, 4]`, a decimetre or so apart, `EYE_M` above the ground.

    Raises:
        InputError: It has no ground of at least a metre that a robot could stand on.
    """
    height, origin = _ground(mesh)
    clear = np.asarray(ndimage.distance_transform_edt(np.pad(_even(height), 1)))[1:-1, 1:-1] * _CELL_M
    labels, count = ndimage.label(clear >= _CLEARANCE_M)  # type: ignore[misc]
    if not count:
        raise InputError(
            "the mesh has no even ground with 0.3 m to all sides: is --up or --metres-per-unit wrong? "
            "Else give a walk with --cameras"
        )
    labels = np.asarray(labels)
    largest = int(np.argmax(np.bincount(labels.reshape(-1))[1:])) + 1
    way = _longest_way(np.equal(labels, largest), clear)
    ground = height[way[:, 0], way[:, 1]]
    points = np.column_stack([way[:, ::-1] * _CELL_M + origin, ground + EYE_M])
    if np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1).sum() < 1.0:
        raise InputError(
            "the longest way over even ground of the mesh is shorter than a metre; give a walk with --cameras"
        )
    ahead = points[np.minimum(np.arange(len(points)) + 3, len(points) - 1)]
    behind = points[np.maximum(np.arange(len(points)) - 3, 0)]
    return np.stack(
        [
            np.asarray(look_at(p, p + (a - b)), np.float64)
            for p, a, b in zip(points, ahead, behind, strict=True)
        ]
    )


def _ground(mesh: Mesh) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Height of the lowest surface that faces up and has headroom `[ny, nx]` [m], NaN where there is none; the grid's origin."""
    import open3d as o3d

    low, high = mesh.vertices.min(axis=0).astype(float), mesh.vertices.max(axis=0).astype(float)
    nx, ny = np.ceil((high[:2] - low[:2]) / _CELL_M).astype(int) + 1
    if nx * ny > _MAX_CELLS:
        raise InputError(
            f"the mesh is {high[0] - low[0]:.0f} x {high[1] - low[1]:.0f} m: is --metres-per-unit wrong? Else cut the mesh"
        )
    x, y = np.meshgrid(low[0] + np.arange(nx) * _CELL_M, low[1] + np.arange(ny) * _CELL_M)
    rays = np.zeros((ny, nx, 6), np.float32)
    rays[..., 0], rays[..., 1], rays[..., 2], rays[..., 5] = x, y, low[2] - 1, 1
    found = ray_scene(mesh).list_intersections(o3d.core.Tensor(rays.reshape(-1, 6)))
    ray, z = found["ray_ids"].numpy().astype(np.int64), found["t_hit"].numpy() + low[2] - 1
    order = np.lexsort((z, ray))
    ray, z, face = ray[order], z[order], found["primitive_ids"].numpy().astype(np.int64)[order]
    same = np.append(ray[1:] == ray[:-1], False)
    stands = (~same | (np.append(z[1:], np.inf) - z > _HEADROOM_M)) & faces_up(mesh)[face]
    ray, z = ray[stands], z[stands]
    first = np.flatnonzero(np.diff(ray, prepend=-1))
    height = np.full(nx * ny, np.nan)
    height[ray[first]] = z[first]
    return height.reshape(ny, nx), low[:2]


def _even(height: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Cells whose ground is there and steps little to all neighbours."""
    filled = np.where(np.isfinite(height), height, np.inf)
    top, bottom = ndimage.maximum_filter(filled, 3), ndimage.minimum_filter(filled, 3)
    with np.errstate(invalid="ignore"):
        return np.isfinite(top) & (top - bottom <= _MAX_STEP_M)


def _longest_way(free: NDArray[np.bool_], clear: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cells `[n, 2]` (row, column) of the way between two far ends of a region, in its middle where it can be."""
    cells = np.argwhere(free)
    number = np.full(free.shape, -1)
    number[tuple(cells.T)] = np.arange(len(cells))
    cost_here = 1.0 + (0.6 / np.maximum(clear[tuple(cells.T)], 0.1)) ** 2
    rows, columns, costs = [], [], []
    for step in ((0, 1), (1, 0), (1, 1), (1, -1)):
        to = cells + step
        inside = np.all((to >= 0) & (to < np.array(free.shape)), axis=1)
        other = np.full(len(cells), -1)
        other[inside] = number[tuple(to[inside].T)]
        a = np.flatnonzero(other >= 0)
        rows.append(a)
        columns.append(other[a])
        costs.append(np.hypot(*step) * 0.5 * (cost_here[a] + cost_here[other[a]]))
    graph = coo_matrix(
        (np.concatenate(costs), (np.concatenate(rows), np.concatenate(columns))), (len(cells),) * 2
    ).tocsr()
    start = int(np.argmax(dijkstra(graph, directed=False, indices=0)))
    away, previous = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    at, way = int(np.argmax(np.where(np.isfinite(away), away, -1))), []
    while at >= 0:
        way.append(at)
        at = int(previous[at])
    return cells[way]
