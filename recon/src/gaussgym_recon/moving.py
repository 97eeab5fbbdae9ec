# numpy's and open3d's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Splats, meshes and cameras moved by a similarity: means, axes, sizes, and colours that depend on the viewing direction."""

from __future__ import annotations

import numpy as np
from gaussgym_render.harmonics import basis
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import multiply_quats_wxyz, normalize, quat_wxyz_from_matrix
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.splats import Splats
from numpy.typing import ArrayLike, NDArray

from gaussgym_recon.posed import Similarity


def move_splats(splats: Splats, similarity: Similarity) -> Splats:
    """The splats in the target frame of a similarity; they look there as they did before, from the moved cameras.

    Args:
        splats: In the source frame.
        similarity: Takes points of the source frame to the target frame; its rotation is proper.
    """
    turn = quat_wxyz_from_matrix(similarity.rotation)
    return Splats(
        means=similarity.apply(splats.means.astype(np.float64)),
        quats_wxyz=normalize(multiply_quats_wxyz(turn, splats.quats_wxyz))
        if len(splats)
        else splats.quats_wxyz,
        scales=splats.scales * np.float32(similarity.scale),
        opacities=splats.opacities,
        sh=turn_harmonics(splats.sh, similarity.rotation),
        labels=splats.labels,
    )


def move_mesh(mesh: Mesh, similarity: Similarity) -> Mesh:
    """The mesh in the target frame of a similarity."""
    return Mesh(similarity.apply(mesh.vertices.astype(np.float64)), mesh.faces, mesh.colors)


def turn_harmonics(sh: NDArray[np.floating], rotation: ArrayLike) -> NDArray[np.float32]:
    """Coefficients of the same view-dependent colours after the splats were rotated.

    Seen along `rotation @ d`, a turned splat has the colour that it had along `d`. Each band turns within itself; its matrix is
    the exact least-squares solution over more directions than it has functions.

    Args:
        sh: Coefficients `[N, K, 3]` of degree 0 to 3, as in `Splats.sh`.
        rotation: Proper, `[3, 3]`, from the old frame to the new one.
    """
    rotation = np.asarray(rotation, dtype=np.float64)
    degree = round(sh.shape[1] ** 0.5) - 1
    directions = _directions(64)
    new, old = basis(directions, degree), basis(directions @ rotation, degree)  # row d @ R is Rᵀ d
    out = np.array(sh, dtype=np.float64)
    for band in range(1, degree + 1):
        rows = slice(band * band, (band + 1) ** 2)
        matrix = np.linalg.lstsq(new[:, rows], old[:, rows], rcond=None)[0]
        out[:, rows] = np.einsum("ij,njc->nic", matrix, sh[:, rows].astype(np.float64))
    return out.astype(np.float32)


def proper_rotation(matrix: ArrayLike, where: str, *, tolerance: float = 1e-3) -> NDArray[np.float64]:
    """A matrix of a file as an exact rotation.

    Args:
        matrix: `[3, 3]`.
        where: File and field, for the message.
        tolerance: How far its products with its transpose may be from the identity.

    Raises:
        InputError: It is none: of another shape, sheared, scaled or a reflection.
    """
    try:
        matrix = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: found no table of numbers, expected a rotation [3, 3]") from None
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise InputError(
            f"{where}: found shape {matrix.shape} or values that are not finite, expected a rotation [3, 3]"
        )
    error = float(np.abs(matrix @ matrix.T - np.eye(3)).max())
    if error > tolerance or np.linalg.det(matrix) < 0:
        kind = (
            "a reflection"
            if error <= tolerance
            else f"rows that are off by {error:.3g} from orthonormal ones"
        )
        raise InputError(f"{where}: found {kind}, expected a rotation")
    u, _, vt = np.linalg.svd(matrix)
    return u @ vt


def _directions(count: int) -> NDArray[np.float64]:
    """Unit vectors spread evenly over the sphere (a Fibonacci lattice)."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    angle = np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1)
