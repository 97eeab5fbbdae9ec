"""Ground of a MuJoCo model out of triangle meshes: grids become heightfields, boxes boxes, anything else a rigid flex."""

import mujoco
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ._types import Misuse

_SURFACE = {"contype": 0, "conaffinity": 1, "priority": 0}


class TriangleMesh:
    """One mesh of the world, already moved to its place. [V, 3] and [T, 3]."""

    def __init__(self, vertices, triangles, friction, restitution):
        self.vertices, self.triangles = vertices, triangles
        self.friction, self.restitution = friction, restitution
        self.low, self.high = vertices[:, :2].min(axis=0), vertices[:, :2].max(axis=0)

    def holds(self, xy):
        return bool((xy >= self.low).all() and (xy <= self.high).all())

    def pieces(self):
        """Vertices and triangles of each connected part."""
        t = self.triangles
        ends = np.concatenate([t[:, [0, 1]], t[:, [1, 2]]])
        graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(self.vertices),) * 2)
        count, label = connected_components(graph, directed=False)
        for k in range(count):
            used = np.flatnonzero(label == k)
            number = np.full(len(self.vertices), -1)
            number[used] = np.arange(len(used))
            yield self.vertices[used], number[t[label[t[:, 0]] == k]]


def add_mesh(spec, mesh):
    """Add a mesh to a model as what it is."""
    for k, (vertices, triangles) in enumerate(mesh.pieces()):
        if not len(triangles):
            raise Misuse("a triangle mesh has vertices that no triangle uses")
        if not (_add_box(spec, vertices, triangles) or _add_grid(spec, f"ground{k}", vertices, triangles)):
            spec.add_flex(
                name=f"ground{k}", dim=2, vert=vertices.ravel().tolist(), elem=triangles.ravel().tolist(),
                vertbody=["world"], radius=0.005, **_SURFACE,
            )  # fmt: skip


def _normals(vertices, triangles):
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def _add_box(spec, vertices, triangles):
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    if (
        len(vertices) != 8
        or len(triangles) != 12
        or (not np.isin(vertices, [low, high]).all() and not _at(vertices, low, high))
    ):
        return False
    centre = (low + high) / 2
    outward = vertices[triangles].mean(axis=1) - centre
    if ((_normals(vertices, triangles) * outward).sum(axis=1) <= 0).any():
        raise Misuse("a box has triangles that face inward")
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=centre, size=(high - low) / 2, **_SURFACE)
    return True


def _at(vertices, low, high):
    return bool((np.isclose(vertices, low, atol=1e-5) | np.isclose(vertices, high, atol=1e-5)).all())


def _add_grid(spec, name, vertices, triangles):
    """Heights over a regular grid, as a heightfield, or a slab where they are all one."""
    x, y = (_lines(vertices[:, k]) for k in range(2))
    if len(x) * len(y) != len(vertices) or min(len(x), len(y)) < 2:
        return False
    i, j = np.abs(vertices[:, :1] - x).argmin(axis=1), np.abs(vertices[:, 1:2] - y).argmin(axis=1)
    heights = np.full((len(y), len(x)), np.nan)
    heights[j, i] = vertices[:, 2]
    if np.isnan(heights).any() or len(triangles) != 2 * (len(x) - 1) * (len(y) - 1):
        return False
    if (_normals(vertices, triangles)[:, 2] <= 0).any():
        raise Misuse("a ground has triangles that face down")
    low, spread = float(heights.min()), float(np.ptp(heights))
    centre, half = ((x[0] + x[-1]) / 2, (y[0] + y[-1]) / 2), ((x[-1] - x[0]) / 2, (y[-1] - y[0]) / 2)
    if spread < 1e-6:
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, pos=(*centre, low - 0.5), size=(*half, 0.5), **_SURFACE
        )
        return True
    if max(np.ptp(np.diff(x)), np.ptp(np.diff(y))) > 1e-3 * (x[1] - x[0]):
        return False
    spec.add_hfield(
        name=name, nrow=len(y), ncol=len(x), size=[*half, spread, 0.5],
        userdata=((heights - low) / spread).astype(np.float32).ravel(),
    )  # fmt: skip
    spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_HFIELD, hfieldname=name, pos=(*centre, low), **_SURFACE
    )
    return True


def _lines(values):
    """Coordinates of a grid's lines: values closer than rounding are one."""
    ordered = np.sort(values)
    return ordered[np.concatenate([[True], np.diff(ordered) > 1e-4])]
