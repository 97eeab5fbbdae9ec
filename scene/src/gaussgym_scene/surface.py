"""Textured surfaces: the one description from which a procedural scene's triangles, ground and splats are made."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import quat_wxyz_from_matrix
from gaussgym_scene.mesh import Appearance, Mesh
from gaussgym_scene.splats import Splats

SH_C0 = 0.28209479177387814
"""Constant spherical-harmonics basis function: colour = 0.5 + SH_C0 · sh."""

OVERLAP = 0.65
"""Standard deviation of a splat over the spacing of its neighbours.

A square lattice of discs with this overlap and `OPACITY` lets 4 % of the background through at most, between four
centres: Π(1 − 0.98·exp(−d²/2σ²)) over the 4 nearest at 0.71 spacings and the 8 next at 1.58.
"""
OPACITY = 0.98
THICKNESS_M = 0.003
"""Standard deviation of a splat across its surface [m]."""


@dataclass(frozen=True)
class Patch:
    """A grid of quads in space, painted with one texture.

    The front side is where cross(along a row, along a column) points; each quad is split along the diagonal from
    `[r, c]` to `[r + 1, c + 1]`.
    """

    points: NDArray[np.float64]
    """Grid points [m], world frame, shape `[R, C, 3]`."""
    uv: NDArray[np.float64]
    """Texture coordinates of the grid points, shape `[R, C, 2]`."""
    texture: int
    """Index of the texture."""
    ground: bool = False
    """Whether the heightfield stands on it."""
    coarseness: float = 1.0
    """Splat spacing here over the scene's splat spacing; `inf` gives no splats."""

    @cached_property
    def arc_lengths(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean distance from the first column to each column, and from the first row to each row [m]."""
        along_row = np.sqrt((np.diff(self.points, axis=1) ** 2).sum(axis=2)).mean(axis=0)
        along_col = np.sqrt((np.diff(self.points, axis=0) ** 2).sum(axis=2)).mean(axis=1)
        return np.concatenate([[0], np.cumsum(along_row)]), np.concatenate([[0], np.cumsum(along_col)])

    def lattice_size(self, spacing: float) -> tuple[int, int]:
        """Number of splats along a column and along a row for a scene's splat spacing [m]."""
        row, col = self.arc_lengths
        step = spacing * self.coarseness
        return max(1, round(col[-1] / step)), max(1, round(row[-1] / step))


class AveragedTextures:
    """Textures averaged over boxes of texels, each made once."""

    def __init__(self, textures: list[NDArray[np.uint8]]) -> None:
        self.textures = textures
        self._reduced: dict[tuple[int, ...], NDArray[np.uint8]] = {}

    def colors(self, index: int, uv: NDArray[np.float64], texels: tuple[float, float]) -> NDArray[np.float64]:
        """Mean colours 0..1 `[N, 3]` of one texture around `uv` `[N, 2]`, over boxes of about (width, height) texels."""
        h, w = self.textures[index].shape[:2]
        # Powers of √2 are near enough to the box asked for, and few.
        box = tuple(
            min(round(2 ** (round(2 * np.log2(max(1.0, n))) / 2)), size) for n, size in zip(texels, (w, h))
        )
        reduced = self._reduced.get((index, *box))
        if reduced is None:
            image = self.textures[index]
            reduced = np.asarray(Image.fromarray(image).reduce(box)) if box != (1, 1) else image
            self._reduced[(index, *box)] = reduced
        rh, rw = reduced.shape[:2]
        uv = np.where((uv < 0) | (uv > 1), uv - np.floor(uv), uv)
        x = np.clip(uv[:, 0] * w / box[0] - 0.5, 0, rw - 1)
        y = np.clip(uv[:, 1] * h / box[1] - 0.5, 0, rh - 1)
        i, j = x.astype(np.int64), y.astype(np.int64)
        i1, j1 = np.minimum(i + 1, rw - 1), np.minimum(j + 1, rh - 1)
        fx, fy = (x - i)[:, None], (y - j)[:, None]
        near = reduced[j, i] * (1 - fx) + reduced[j, i1] * fx
        far = reduced[j1, i] * (1 - fx) + reduced[j1, i1] * fx
        return (near * (1 - fy) + far * fy) / 255.0


def triangles_of(patches: list[Patch]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Split patches into triangles.

    Args:
        patches: Any number of patches.

    Returns:
        Vertices `[V, 3]` [m], faces `[F, 3]` counter-clockwise seen from the front, and uv of the corners `[F, 3, 2]`.
    """
    vertices, faces, uvs, start = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], [np.zeros((0, 3, 2))], 0
    for patch in patches:
        rows, cols = patch.points.shape[:2]
        index = np.arange(rows * cols).reshape(rows, cols)
        a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
        corners = np.stack([np.stack([a, b, c], -1), np.stack([a, c, d], -1)], axis=2).reshape(-1, 3)
        vertices.append(patch.points.reshape(-1, 3))
        faces.append(corners + start)
        uvs.append(patch.uv.reshape(-1, 2)[corners])
        start += rows * cols
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(uvs)


def mesh_of(patches: list[Patch], textures: list[NDArray[np.uint8]]) -> tuple[Mesh, Appearance]:
    """Make the triangle mesh and its appearance.

    Args:
        patches: The surfaces.
        textures: sRGB images `[h, w, 3]` that the patches name by index.

    Returns:
        The mesh (vertex colours are the texture averaged over about 10 cm) and the appearance of its faces.
    """
    vertices, faces, uv = triangles_of(patches)
    texture_id = np.concatenate(
        [np.full(2 * (p.points.shape[0] - 1) * (p.points.shape[1] - 1), p.texture, np.int32) for p in patches]
    )
    averaged = AveragedTextures(textures)
    colors = [averaged.colors(p.texture, p.uv.reshape(-1, 2), (16, 16)) for p in patches]
    mesh = Mesh(
        vertices.astype(np.float32),
        faces.astype(np.int32),
        np.rint(255 * np.concatenate(colors)).astype(np.uint8),
    )
    return mesh, Appearance(uv.astype(np.float32), texture_id, textures)


def splats_of(
    patches: list[Patch],
    textures: list[NDArray[np.uint8]],
    *,
    splat_spacing_m: float = 0.05,
    max_splats: int = 100_000,
    thickness_m: float = THICKNESS_M,
) -> tuple[Splats, float]:
    """Cover textured surfaces with flat splats that look like them.

    Every patch carries a lattice of discs that lie in its triangles; a disc has the texture's mean colour over its
    share of the surface. If the spacing asked for takes more than `max_splats`, it is widened until they suffice.

    Args:
        patches: The surfaces.
        textures: sRGB images `[h, w, 3]`.
        splat_spacing_m: Distance of neighbouring splats [m] where a patch's coarseness is 1.
        max_splats: Upper bound of their number.
        thickness_m: Standard deviation across the surface [m].

    Returns:
        The splats (degree 0) and the spacing that was used [m].

    Raises:
        InputError: If the spacing is not positive, or `max_splats` is less than one for each patch.
    """
    shown = [patch for patch in patches if np.isfinite(patch.coarseness)]
    if not splat_spacing_m > 0 or max_splats < len(shown):
        raise InputError(
            f"splat_spacing_m {splat_spacing_m} and max_splats {max_splats}: expected > 0 and at least {len(shown)}, "
            "one for each surface"
        )
    spacing = splat_spacing_m
    while (count := sum(rows * cols for rows, cols in (p.lattice_size(spacing) for p in shown))) > max_splats:
        spacing *= max(1.005, 0.999 * (count / max_splats) ** 0.5)
    averaged = AveragedTextures(textures)
    parts = [_patch_splats(patch, averaged, spacing, thickness_m) for patch in shown]
    means, rotations, scales, colors = (np.concatenate(list(column)) for column in zip(*parts))
    splats = Splats(
        means.astype(np.float32),
        quat_wxyz_from_matrix(rotations).astype(np.float32),
        scales.astype(np.float32),
        np.full(len(means), OPACITY, np.float32),
        ((colors - 0.5) / SH_C0).astype(np.float32)[:, None],
    )
    return splats, spacing


def heights_below(
    vertices: ArrayLike, faces: ArrayLike, grid_xy: NDArray[np.float64], cell_m: float
) -> NDArray[np.float64]:
    """Cast rays straight down from above onto triangles, at the points of a regular grid.

    Args:
        vertices: Shape `[V, 3]` [m].
        faces: Shape `[F, 3]`.
        grid_xy: The grid points `[ny, nx, 2]` [m]; rows along +Y, columns along +X.
        cell_m: Their spacing [m].

    Returns:
        Height of the topmost triangle [m], shape `[ny, nx]`; −inf where there is none. Vertical triangles are never hit;
        a point on the common edge of two triangles belongs to both.
    """
    corners = np.asarray(vertices, dtype=np.float64)[np.asarray(faces)]
    ny, nx = grid_xy.shape[:2]
    local = (corners[..., :2] - grid_xy[0, 0]) / cell_m
    low = np.clip(np.ceil(local.min(axis=1) - 1e-6), 0, (nx, ny)).astype(np.int64)
    high = np.clip(np.floor(local.max(axis=1) + 1e-6) + 1, 0, (nx, ny)).astype(np.int64)
    area = _cross2(local[:, 1] - local[:, 0], local[:, 2] - local[:, 0])
    size = np.where((np.abs(area) > 1e-9)[:, None], np.maximum(high - low, 0), 0)
    heights = np.full(ny * nx, -np.inf)
    order = np.flatnonzero(size.prod(axis=1))
    for chunk in np.array_split(order, max(1, size.prod(axis=1).sum() // 2_000_000)):
        count = size[chunk].prod(axis=1)
        face = np.repeat(chunk, count)
        k = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
        cell = low[face] + np.stack([k % size[face, 0], k // size[face, 0]], axis=1)
        a, b, c = local[face, 0], local[face, 1], local[face, 2]
        wb = _cross2(cell - a, c - a) / area[face]
        wc = _cross2(b - a, cell - a) / area[face]
        inside = (wb >= -1e-6) & (wc >= -1e-6) & (wb + wc <= 1 + 1e-6)
        z = corners[face, :, 2]
        z = z[:, 0] + wb * (z[:, 1] - z[:, 0]) + wc * (z[:, 2] - z[:, 0])
        np.maximum.at(heights, (cell[:, 1] * nx + cell[:, 0])[inside], z[inside])
    return heights.reshape(ny, nx)


def _cross2(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    # With area = cross(b − a, c − a): weight of b is cross(p − a, c − a)/area, of c cross(b − a, p − a)/area.
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _lattice(lengths: NDArray[np.float64], count: int) -> tuple[NDArray, NDArray, NDArray]:
    """Cell, position within the cell 0..1, and step in cells, of `count` points evenly along a side."""
    index = np.arange(len(lengths), dtype=np.float64)
    middle = np.interp((np.arange(count) + 0.5) * lengths[-1] / count, lengths, index)
    cell = np.minimum(middle.astype(np.int64), len(lengths) - 2)
    # The step in the cell's own measure, so that scale = |edge of the cell| · step even where cells differ in length.
    step = lengths[-1] / count / np.diff(lengths)[cell]
    return cell, middle - cell, step


def _patch_splats(
    patch: Patch, averaged: AveragedTextures, spacing: float, thickness_m: float
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Means, rotations, scales and colours of one patch's splats."""
    rows, cols = patch.lattice_size(spacing)
    row_lengths, col_lengths = patch.arc_lengths
    c, fc, dc = (np.tile(values, rows) for values in _lattice(row_lengths, cols))
    r, fr, dr = (np.repeat(values, cols) for values in _lattice(col_lengths, rows))
    corners = np.concatenate([patch.points, patch.uv], axis=2)
    p00, p01, p11, p10 = corners[r, c], corners[r, c + 1], corners[r + 1, c + 1], corners[r + 1, c]
    lower = (fc >= fr)[:, None]  # the triangle 00, 01, 11; else 00, 11, 10
    du = np.where(lower, p01 - p00, p11 - p10)
    dv = np.where(lower, p11 - p01, p10 - p00)
    at = p00 + fc[:, None] * du + fr[:, None] * dv
    normal = np.cross(du[:, :3], dv[:, :3])
    length_u = np.linalg.norm(du[:, :3], axis=1)
    area = np.linalg.norm(normal, axis=1)
    x = du[:, :3] / length_u[:, None]
    z = normal / area[:, None]
    rotations = np.stack([x, np.cross(z, x), z], axis=2)
    scales = np.stack([OVERLAP * length_u * dc, OVERLAP * area / length_u * dr], axis=1)
    scales = np.concatenate([scales, np.full((len(scales), 1), thickness_m)], axis=1)
    h, w = averaged.textures[patch.texture].shape[:2]
    footprint = np.abs(du[:, 3:] * dc[:, None]) + np.abs(dv[:, 3:] * dr[:, None])
    texels = np.median(footprint, axis=0) * (w, h)
    colors = averaged.colors(patch.texture, at[:, 3:], (texels[0], texels[1]))
    return at[:, :3], rotations, scales, colors
