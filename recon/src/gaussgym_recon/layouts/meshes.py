# numpy's and open3d's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Meshes of others: every common file kind, and slices of one place put together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.mesh import Mesh
from numpy.typing import NDArray

from gaussgym_recon.layouts.glb import read_glb

SUFFIXES = (".ply", ".glb", ".obj", ".stl", ".off")


def read_mesh(path: Path) -> Mesh:
    """Triangles of a file, in its frame; of a GLB with the transforms of its nodes.

    Raises:
        InputError: It is no mesh, damaged, or holds no triangle.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: not a mesh by its name, expected one of: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: not found, expected a mesh")
    if path.suffix.lower() == ".glb":
        mesh = read_glb(path)
    else:
        mesh = _plain_ply(path) or _by_open3d(path)
    if not len(mesh.faces):
        raise InputError(
            f"{path}: holds {len(mesh.vertices)} vertices and no triangle, expected a mesh (not a point cloud)"
        )
    return mesh


def _plain_ply(path: Path) -> Mesh | None:
    """A binary PLY with nothing but triangles; None where it takes more to read it."""
    with path.open("rb") as file:
        head = file.read(4096)
    if path.suffix.lower() != ".ply" or b"format binary_little_endian" not in head:
        return None
    faces = head.partition(b"element face")[2].partition(b"end_header")[0]
    if faces.count(b"property") != 1:
        return None
    return Mesh.load_ply(path)


def _by_open3d(path: Path) -> Mesh:
    import open3d as o3d

    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        found = o3d.io.read_triangle_mesh(str(path))
    vertices, faces = np.asarray(found.vertices), np.asarray(found.triangles)
    if not len(vertices):
        raise InputError(
            f"{path}: not readable as a mesh, expected one of: {', '.join(SUFFIXES)}; copy the file again"
        )
    colors = np.asarray(found.vertex_colors)
    return Mesh(
        vertices, faces, np.round(colors * 255).astype(np.uint8) if len(colors) == len(vertices) else None
    )


def distances_m(mesh: Mesh, points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Distance of points `[n, 3]` to the nearest triangle of a mesh, in its units."""
    import open3d as o3d

    return ray_scene(mesh).compute_distance(o3d.core.Tensor(np.ascontiguousarray(points, np.float32))).numpy()


def ray_scene(mesh: Mesh):  # noqa: ANN201
    """The mesh, ready for open3d's rays and nearest points."""
    import open3d as o3d

    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.core.Tensor(mesh.vertices), o3d.core.Tensor(mesh.faces.astype(np.uint32)))
    return scene


def faces_up(mesh: Mesh) -> NDArray[np.bool_]:
    """Which triangles one could stand on: those tilted by less than 60 degrees, counter-clockwise from above."""
    corner = mesh.vertices[mesh.faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    return normal[:, 2] > 0.5 * np.linalg.norm(normal, axis=1)


def merge_slices(slices: list[Mesh], *, overlap_m: float) -> Mesh:
    """Slices of one surface as one mesh, in which what two of them hold appears once.

    Of each slice those triangles are added that the slices before it lack: a triangle is left out when its corners, the middles
    of its edges and its centre all lie within `overlap_m` of what is already there. Slices that were decimated apart thus keep
    the first one's triangles in their overlap, with a seam of at most one triangle where both go on.

    Args:
        slices: In one frame [m].
        overlap_m: Distance up to which two surfaces are one [m].
    """
    merged = slices[0]
    for piece in slices[1:]:
        corner = piece.vertices[piece.faces]
        probes = np.concatenate(
            [corner, 0.5 * (corner + np.roll(corner, 1, axis=1)), corner.mean(axis=1, keepdims=True)], axis=1
        )
        near = distances_m(merged, probes.reshape(-1, 3)).reshape(len(piece.faces), 7) <= overlap_m
        merged = _joined(merged, _with_faces(piece, ~near.all(axis=1)))
    return merged


def _with_faces(mesh: Mesh, keep: NDArray[np.bool_]) -> Mesh:
    used, faces = np.unique(mesh.faces[keep], return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3), None if mesh.colors is None else mesh.colors[used])


def _joined(a: Mesh, b: Mesh) -> Mesh:
    colors = None if a.colors is None or b.colors is None else np.concatenate([a.colors, b.colors])
    return Mesh(
        np.concatenate([a.vertices, b.vertices]), np.concatenate([a.faces, b.faces + len(a.vertices)]), colors
    )
