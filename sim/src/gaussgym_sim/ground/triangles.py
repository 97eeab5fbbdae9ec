# Numba's functions are not annotated; its argument types are looser than its stubs.
# ruff: noqa: ANN001, ANN202, RUF046
# pyright: reportCallIssue=false, reportArgumentType=false
"""A scene's own triangles as ground: those near robots, few enough for physics, shifted by the thickness that engines add."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

from gaussgym_sim.ground.voxels import known_ground

_WELD_M = 1e-4
_MAX_CELL_M = 0.1


@dataclass(frozen=True)
class MeshCfg:
    """Which triangles `ground_mesh` keeps; lengths in metres."""

    top_m: float = 1.5
    """Triangles that lie wholly higher than this above the ground go."""
    below_m: float = 1.0
    """So do those wholly deeper than this below it."""
    reach_m: float = 0.6
    """And those farther than this from known ground."""
    max_triangles: int = 60_000
    """Of more, vertices that are close together are merged."""


def ground_mesh(mesh: Mesh, field: Heightfield, cfg: MeshCfg | None = None) -> tuple[Mesh, str]:
    """The triangles that robots can touch.

    Args:
        mesh: of the scene [m].
        field: its ground; only known points count.
        cfg: settings.

    Returns:
        A mesh without colours whose equal vertices are one, and one line on what was done.

    Raises:
        InputError: none are near the ground, or too many even where vertices within 10 cm are merged.
    """
    cfg = cfg or MeshCfg()
    ground, _, distance = known_ground(field)
    near = np.where(distance * field.cell_m <= cfg.reach_m, ground, np.nan)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    low, high = corners.min(axis=1), corners.max(axis=1)
    start = np.asarray(field.origin_xy_m, np.float64)
    keep = _touches(low, high, near, start, field.cell_m, cfg.top_m, cfg.below_m)
    if not keep.any():
        raise InputError("none of the mesh's triangles is near the ground; choose terrain 'heightfield'")
    exact = clustered(Mesh(mesh.vertices, mesh.faces[keep]), _WELD_M)
    out, cell = exact, 0.02
    while len(out.faces) > cfg.max_triangles:
        if cell > _MAX_CELL_M:
            raise InputError(
                f"{len(exact.faces)} triangles near the ground, {len(out.faces)} with vertices within 10 cm merged, expected at "
                f"most {cfg.max_triangles}; crop the scene, or choose terrain 'boxes' or 'heightfield'"
            )
        out, cell = clustered(exact, cell), 1.5 * cell
    note = f"{len(out.faces)} of {len(mesh.faces)} triangles"
    if out is not exact:
        note += f" ({len(exact.faces)} before vertices within {100 * cell / 1.5:.1f} cm were merged)"
    return out, note


@numba.njit(cache=True, nogil=True)
def _touches(low, high, near, start, cell_m, top_m, below_m):
    """Whether bounds [F, 3] reach into the space between ``below_m`` under and ``top_m`` over ground that is not NaN."""
    ny, nx = near.shape
    out = np.zeros(len(low), np.bool_)
    for f in range(len(low)):
        i0 = max(int(math.floor((low[f, 0] - start[0]) / cell_m)), 0)
        j0 = max(int(math.floor((low[f, 1] - start[1]) / cell_m)), 0)
        i1 = min(int(math.ceil((high[f, 0] - start[0]) / cell_m)), nx - 1)
        j1 = min(int(math.ceil((high[f, 1] - start[1]) / cell_m)), ny - 1)
        for j in range(j0, j1 + 1):
            for i in range(i0, i1 + 1):
                z = near[j, i]
                if low[f, 2] <= z + top_m and high[f, 2] >= z - below_m:
                    out[f] = True
                    break
            if out[f]:
                break
    return out


def clustered(mesh: Mesh, cell_m: float) -> Mesh:
    """Merge the vertices within each cube of ``cell_m`` into their mean; what shrinks to a line or is there twice goes."""
    vertices = mesh.vertices.astype(np.float64)
    cells = np.floor(vertices / cell_m + 0.37).astype(np.int64)
    used = np.unique(mesh.faces)
    _, owner, count = np.unique(cells[used], axis=0, return_inverse=True, return_counts=True)
    owner = owner.reshape(-1)
    merged = np.stack([np.bincount(owner, vertices[used, k]) for k in range(3)], axis=1) / count[:, None]
    new = np.full(len(vertices), -1)
    new[used] = owner
    faces = new[mesh.faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    faces = faces[np.sort(first)]
    corners = merged[faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    return Mesh(merged.astype(np.float32), faces[area > 1e-9].astype(np.int32))


def shifted_back(mesh: Mesh, distance_m: float) -> NDArray[np.float64]:
    """Vertices [V, 3] moved such that every triangle lies ``distance_m`` behind where it was.

    Each vertex moves by d with n·d = -distance for the normals n of all triangles around it, in the sense of least squares
    weighted by their angles there: exact at faces, edges and corners of three faces. At vertices where opposite sides of
    something thin meet there is no such d, and they move little.
    """
    vertices = mesh.vertices.astype(np.float64)
    corners = vertices[mesh.faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    system, wanted = np.zeros((len(vertices), 3, 3)), np.zeros((len(vertices), 3))
    for k in range(3):
        u, v = corners[:, (k + 1) % 3] - corners[:, k], corners[:, (k + 2) % 3] - corners[:, k]
        cosine = (u * v).sum(axis=1) / (np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1))
        angle = np.arccos(np.clip(cosine, -1, 1))
        np.add.at(system, mesh.faces[:, k], angle[:, None, None] * normal[:, :, None] * normal[:, None])
        np.add.at(wanted, mesh.faces[:, k], -distance_m * angle[:, None] * normal)
    # Directions in which nearly nothing is asked for stay 0.
    move = (np.linalg.pinv(system, rcond=1e-2, hermitian=True) @ wanted[..., None])[..., 0]
    length = np.linalg.norm(move, axis=1, keepdims=True)
    return vertices + move * np.minimum(1.0, 3 * distance_m / np.maximum(length, 1e-12))
