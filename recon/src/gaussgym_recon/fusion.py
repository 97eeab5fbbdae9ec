# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""Depth images → truncated signed distances on a sparse grid of voxels → triangles (Curless & Levoy 1996).

What differs from what libraries offer: distances are those to the plane that a pixel sees, not along its ray, and depth between
pixels is interpolated where the surface goes on, so that planes come out exactly however flat the view; measurements weigh by
the square of their distance (depth errors of stereo and of most sensors grow with it); voxels that one view alone has seen make
no surface; and neither does the border between what was seen through and what lies just behind an edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.mesh import Mesh
from numba import njit, prange
from numpy.typing import NDArray

from gaussgym_recon.depth_views import DepthView, facing_of
from gaussgym_recon.posed import PosedCapture

_BLOCK = 8
"""Voxels along the edge of a block; only blocks near measured surface exist."""
_MAX_BLOCKS = 120_000
"""About 1.2 GB; voxels grow until so many suffice."""
_JUMP = 0.6
"""Of distance over truncation between neighbouring voxels, beyond which they do not belong to one surface."""
_FULL_WEIGHT_M = 2.0
"""Nearer measurements weigh no more."""


@dataclass(frozen=True)
class FusionCfg:
    """Settings of the fusion and of the ground made from it; lengths in metres.

    Attributes:
        voxel_m: Edge of a voxel; grows where memory would not do.
        depth_max_m: Depth beyond this is not fused.
        min_alpha: Pixels that the splats cover less are not fused.
        min_views: Views that must have seen a voxel.
        cell_m: Spacing of the heightfield; grows to at most 5 cm where there would be more than ``max_cells``.
        max_cells: See there.
        margin_m: The heightfield reaches this far around the walked path.
        layer_m: Surface closer together than this, upwards, is one layer of ground.
        reach_m: Ground is looked for this far above the height expected from the walk, and half as far below.
        drop_m: And this far below where views saw it there.
        hole_m: Holes up to this width count as known once filled.
    """

    voxel_m: float = 0.02
    depth_max_m: float = 8.0
    min_alpha: float = 0.7
    min_views: int = 2
    cell_m: float = 0.025
    max_cells: int = 6_000_000
    margin_m: float = 3.0
    layer_m: float = 0.06
    reach_m: float = 0.6
    drop_m: float = 1.5
    hole_m: float = 0.3


def fitted_to(cfg: FusionCfg, posed: PosedCapture) -> FusionCfg:
    """Settings for one walk: photographs far apart are fused farther, long walks with larger voxels and cells.

    Far depth is poor depth, hence a limit of 25 m; a drone is farther from all there is, so from there it is twice the height.
    """
    xy = posed.c2w[:, :2, 3]
    steps = np.linalg.norm(np.diff(posed.c2w[:, :3, 3], axis=0), axis=1)
    reach = max(cfg.depth_max_m, 2.0 * float(np.median(steps)) + 2.0 * posed.camera_height_m)
    voxel = max(cfg.voxel_m, min(0.08, float(steps.sum()) / 5000))
    area = float(np.prod(np.ptp(xy, axis=0) + 2 * cfg.margin_m))
    cell = max(cfg.cell_m, min(0.05, math.sqrt(area / cfg.max_cells)))
    far = max(25.0, 2.0 * posed.camera_height_m)
    return replace(cfg, depth_max_m=min(reach, far), voxel_m=voxel, cell_m=cell)


def fuse_mesh(
    depths: list[DepthView], cfg: FusionCfg, *, on_progress: Callable[[float, str], None] | None = None
) -> Mesh:
    """Fuse depth images and extract the triangles of the surface they show.

    Args:
        depths: Depth images with cameras.
        cfg: Settings.
        on_progress: Told the fraction of images fused.

    Raises:
        InputError: If no depth image holds a surface.
    """
    voxel = cfg.voxel_m
    while True:
        touched = [_touched_blocks(view, cfg.depth_max_m, voxel) for view in depths]
        keys = np.unique(np.concatenate([np.zeros(0, np.int64), *touched]))
        if len(keys) <= _MAX_BLOCKS:
            break
        voxel *= 1.25
    if not len(keys):
        raise InputError(
            f"no depth within {cfg.depth_max_m} m in any of {len(depths)} views; the splats do not show any ground nearby"
        )
    blocks = _blocks_of(keys)
    shape = (len(keys), _BLOCK, _BLOCK, _BLOCK)
    tsdf, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    color, views = np.zeros((*shape, 3), np.float32), np.zeros(shape, np.uint8)
    for n, (view, mine) in enumerate(zip(depths, touched)):
        _integrate(
            blocks, np.searchsorted(keys, mine), np.linalg.inv(view.c2w)[:3], np.asarray(view.k, np.float64),
            np.where(view.depth_m < cfg.depth_max_m, view.depth_m, 0).astype(np.float32),
            facing_of(view.depth_m, view.k), np.ascontiguousarray(view.weight, np.float32),
            np.ascontiguousarray(view.rgb, np.float32), voxel, tsdf, weight, color, views,
        )  # fmt: skip
        if on_progress is not None:
            on_progress((n + 1) / len(depths), f"depth image {n + 1} of {len(depths)}")
    weight[views < min(cfg.min_views, len(depths))] = 0
    _cut_shadows(tsdf, weight, _neighbours(keys))
    mesh = _extract(blocks, voxel, tsdf, weight, color)
    return without_crumbs(mesh, minimum=200)


def _touched_blocks(view: DepthView, depth_max_m: float, voxel_m: float) -> NDArray[np.int64]:
    """Keys, ascending, of the blocks within the truncation of what a depth image shows."""
    v, u = np.nonzero((view.depth_m > 0) & (view.depth_m < depth_max_m))
    z = view.depth_m[v, u].astype(np.float64)
    ray = np.stack(
        [(u + 0.5 - view.k[0, 2]) / view.k[0, 0], (v + 0.5 - view.k[1, 2]) / view.k[1, 1], np.ones(len(u))], 1
    )
    side, reach = _BLOCK * voxel_m, 4.0 * voxel_m
    found = []
    for off in (-reach, -0.5 * reach, 0.0, 0.5 * reach, reach):
        point = (ray * (z + off)[:, None]) @ view.c2w[:3, :3].T + view.c2w[:3, 3]
        found.append(np.unique(_keys_of(np.floor(point / side).astype(np.int64))))
    return np.unique(np.concatenate(found))


def _keys_of(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number a block, within 2^20 blocks of the origin."""
    b = blocks + 2**20
    return (b[:, 0] << 42) | (b[:, 1] << 21) | b[:, 2]


def _blocks_of(keys: NDArray[np.int64]) -> NDArray[np.int32]:
    mask = (1 << 21) - 1
    return (np.stack([keys >> 42, (keys >> 21) & mask, keys & mask], axis=1) - 2**20).astype(np.int32)


@njit(inline="always")
def _depth_at(depth, u, v):
    """Depth at an image point: inverse depth is linear on planes, and interpolated where four pixels show one surface."""
    height, width = depth.shape
    iu, iv = math.floor(u), math.floor(v)
    if iu < 0 or iv < 0 or iu >= width or iv >= height:
        return np.float32(0.0)
    near = depth[iv, iu]
    x, y = u - 0.5, v - 0.5
    ix, iy = math.floor(x), math.floor(y)
    if not near > 0 or ix < 0 or iy < 0 or ix >= width - 1 or iy >= height - 1:
        return near
    a, b, c, d = depth[iy, ix], depth[iy, ix + 1], depth[iy + 1, ix], depth[iy + 1, ix + 1]
    low, high = min(min(a, b), min(c, d)), max(max(a, b), max(c, d))
    if not low > 0 or high > np.float32(1.05) * low:
        return near
    fx, fy = np.float32(x - ix), np.float32(y - iy)
    one = np.float32(1.0)
    top = (one - fx) / a + fx / b
    return one / ((one - fy) * top + fy * ((one - fx) / c + fx / d))


@njit(parallel=True, cache=True, error_model="numpy")
def _integrate(blocks, mine, w2c, k, depth, facing, pixel_weight, rgb, voxel, tsdf, weight, color, views):
    # Behind a surface a layer or two of voxels is enough; what lies deeper may be in plain sight of others.
    reach, behind = np.float32(4.0 * voxel), np.float32(3.0 * voxel)
    for n in prange(len(mine)):
        b = mine[n]
        for i in range(_BLOCK):
            for j in range(_BLOCK):
                for m in range(_BLOCK):
                    x = (blocks[b, 0] * _BLOCK + m) * voxel
                    y = (blocks[b, 1] * _BLOCK + j) * voxel
                    z = (blocks[b, 2] * _BLOCK + i) * voxel
                    cz = w2c[2, 0] * x + w2c[2, 1] * y + w2c[2, 2] * z + w2c[2, 3]
                    if cz < 0.05:
                        continue
                    cx = w2c[0, 0] * x + w2c[0, 1] * y + w2c[0, 2] * z + w2c[0, 3]
                    cy = w2c[1, 0] * x + w2c[1, 1] * y + w2c[1, 2] * z + w2c[1, 3]
                    u, v = k[0, 0] * cx / cz + k[0, 2], k[1, 1] * cy / cz + k[1, 2]
                    measured = _depth_at(depth, u, v)
                    if not measured > 0:
                        continue
                    iu, iv = math.floor(u), math.floor(v)
                    sdf = (measured - np.float32(cz)) * facing[iv, iu]
                    if sdf < -behind:
                        continue
                    far = np.float32(_FULL_WEIGHT_M) / max(measured, np.float32(_FULL_WEIGHT_M))
                    w = pixel_weight[iv, iu] * far * far
                    if sdf < 0:  # the farther behind the surface, the likelier another surface
                        w *= max(np.float32(1.0) + sdf / behind, np.float32(0.05))
                    value = min(sdf / reach, np.float32(1.0))
                    old = weight[b, i, j, m]
                    new = old + w
                    if not new > 0:
                        continue
                    tsdf[b, i, j, m] = (tsdf[b, i, j, m] * old + value * w) / new
                    for c in range(3):
                        color[b, i, j, m, c] = (color[b, i, j, m, c] * old + rgb[iv, iu, c] * w) / new
                    weight[b, i, j, m] = new
                    if views[b, i, j, m] < 255:
                        views[b, i, j, m] += 1


def _neighbours(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """``[B, 6]`` index of the blocks before and behind along x, y, z; -1 where there is none."""
    steps = np.array([-(1 << 42), 1 << 42, -(1 << 21), 1 << 21, -1, 1])
    wanted = keys[:, None] + steps
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)


@njit(parallel=True, cache=True)
def _cut_shadows(tsdf, weight, neighbours):
    """Forget voxels just behind a surface that lie beside ones seen through.

    From voxel to voxel a distance changes by no more than a voxel, a quarter of the truncation; where it jumps, no surface was
    seen but the shadow that an edge casts.
    """
    size = tsdf.shape[1]
    for b in prange(len(tsdf)):
        for i in range(size):
            for j in range(size):
                for m in range(size):
                    value = tsdf[b, i, j, m]
                    if not weight[b, i, j, m] > 0 or value >= 0:
                        continue
                    for d in range(6):
                        step = 1 if d % 2 else -1
                        x, y, z = m + step * (d < 2), j + step * (d // 2 == 1), i + step * (d > 3)
                        other = np.int64(b)
                        if x < 0 or x >= size or y < 0 or y >= size or z < 0 or z >= size:
                            other = neighbours[b, d]
                            if other < 0:
                                continue
                            x, y, z = x % size, y % size, z % size
                        # Distances >= 0 are not touched here, so that blocks can be done side by side.
                        beside = tsdf[other, z, y, x]
                        if beside >= 0 and weight[other, z, y, x] > 0 and beside - value > _JUMP:
                            weight[b, i, j, m] = 0
                            break


def _extract(
    blocks: NDArray[np.int32], voxel: float, tsdf: NDArray[np.float32], weight: NDArray[np.float32],
    color: NDArray[np.float32],
) -> Mesh:  # fmt: skip
    """Marching cubes by open3d."""
    import open3d as o3d

    core: Any = o3d.core
    grid = o3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"), attr_dtypes=(core.float32,) * 3, attr_channels=((1,), (1,), (3,)),
        voxel_size=voxel, block_resolution=_BLOCK, block_count=len(blocks), device=core.Device("CPU:0"),
    )  # fmt: skip
    slots, _ = grid.hashmap().activate(core.Tensor(blocks))
    slots = slots.numpy()
    grid.attribute("tsdf").numpy()[slots, ..., 0] = tsdf
    grid.attribute("weight").numpy()[slots, ..., 0] = weight
    grid.attribute("color").numpy()[slots] = color
    mesh = grid.extract_triangle_mesh(1e-6).to_legacy()
    colors = np.clip(np.asarray(mesh.vertex_colors) * 255, 0, 255).astype(np.uint8)
    return Mesh(np.asarray(mesh.vertices), np.asarray(mesh.triangles), colors if len(colors) else None)


def without_crumbs(mesh: Mesh, *, minimum: int) -> Mesh:
    """Drop connected pieces of fewer than ``minimum`` triangles and vertices nobody uses."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    f, n = mesh.faces, len(mesh.vertices)
    if not len(f):
        return mesh
    edges = np.concatenate([f[:, :2], f[:, 1:]])
    _, label = connected_components(coo_matrix((np.ones(len(edges), bool), edges.T), (n, n)), directed=False)
    size = np.bincount(label[f[:, 0]], minlength=label.max() + 1)
    return keep_faces(mesh, size[label[f[:, 0]]] >= minimum)


def keep_faces(mesh: Mesh, keep: NDArray[np.bool_]) -> Mesh:
    """The faces picked by a mask ``[F]``, and the vertices they use."""
    used, inverse = np.unique(mesh.faces[keep], return_inverse=True)
    colors = None if mesh.colors is None else mesh.colors[used]
    return Mesh(mesh.vertices[used], inverse.reshape(-1, 3), colors)
