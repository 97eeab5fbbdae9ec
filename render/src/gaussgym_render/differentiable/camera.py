# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Forward and backward pass of one camera, on plain arrays."""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gaussgym_render.differentiable.blending import blend, blend_backward, gather
from gaussgym_render.differentiable.colors import colors_from_sh, colors_from_sh_backward
from gaussgym_render.differentiable.constants import CHUNK, PARTIAL, RECORD, TILE
from gaussgym_render.differentiable.projection import project, project_backward
from gaussgym_render.differentiable.tiles import (
    depth_order,
    fill_tiles,
    pack,
    row_offsets,
    slots_and_counts,
    spans,
)


@dataclass
class RasterState:
    """What the forward pass of one camera leaves for its backward pass (arrays of ``V`` visible splats, front to back)."""

    view: np.ndarray
    K: np.ndarray
    width: int
    height: int
    antialiased: bool
    ids: np.ndarray
    rect: np.ndarray
    row_offset: np.ndarray
    slot: np.ndarray
    tile_start: np.ndarray
    list_rank: np.ndarray
    list_slot: np.ndarray
    record: np.ndarray
    rgb_visible: np.ndarray
    sh_degree: int | None
    tiles: tuple[int, int]
    mean2d: np.ndarray


@dataclass
class RasterGradients:
    """Gradients of one camera: parameters in full length, image-plane means of the visible splats only.

    ``pull_visible [V]`` is the tile-wise length of the image-plane gradient (see ``gather``).
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    colors: np.ndarray
    view: np.ndarray | None
    means2d_visible: np.ndarray
    pull_visible: np.ndarray


def _hop(tiles: int) -> int:
    """A step through all tiles that never visits one twice and never stays in one part of the image.

    Threads get equal runs of turns: in the order of the image one would have the sky and another the ground.
    """
    hop = max(1, round(0.618 * tiles))
    while math.gcd(hop, tiles) != 1:
        hop += 1
    return hop


def raster_forward(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    view: np.ndarray,
    K: np.ndarray,
    width: int,
    height: int,
    *,
    near: float = 0.01,
    far: float = 1e10,
    antialiased: bool = True,
    sh_degree: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, RasterState]:
    """Forward pass of one camera on numpy arrays (the trainer calls this directly, without torch).

    Args:
        means: float32 ``[N,3]`` world [m].
        quats: float32 ``[N,4]`` wxyz, any length.
        scales: float32 ``[N,3]`` standard deviations [m].
        opacities: float32 ``[N]`` in 0..1.
        colors: float32 ``[N,3]``, or SH ``[N,K,3]`` where ``sh_degree`` is given.
        view: ``[4,4]`` world to camera.
        K: ``[3,3]`` pixels.
        width: pixels.
        height: pixels.
        near: nearest depth drawn [m].
        far: farthest depth drawn [m].
        antialiased: multiply opacity by the low-pass compensation (Mip-Splatting).
        sh_degree: degree to evaluate, at most that of ``colors``.

    Returns:
        ``rgb [H,W,3]`` without background, ``depth [H,W]`` accumulated weight times z, transmittance ``[H,W]``, state.
    """
    n = means.shape[0]
    view = np.ascontiguousarray(view, np.float64)
    K = np.ascontiguousarray(K, np.float64)
    mean2d = np.empty((n, 2), np.float32)
    conic = np.empty((n, 3), np.float32)
    opac = np.empty(n, np.float32)
    depth = np.zeros(n, np.float32)
    half = np.empty((n, 2), np.float32)
    rect = np.empty((n, 4), np.int32)
    project(
        means,
        quats,
        scales,
        opacities,
        view,
        K,
        width,
        height,
        near,
        far,
        antialiased,
        mean2d,
        conic,
        opac,
        depth,
        half,
        rect,
    )
    ids = depth_order(depth, rect)
    row_offset = row_offsets(ids, rect)
    span = np.empty((int(row_offset[-1]), 2), np.int32)
    spans(ids, mean2d, conic, opac, half, rect, row_offset, span)
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    slot, tile_start = slots_and_counts(ids, rect, row_offset, span, tiles_x, tiles_y)
    list_rank = np.empty(int(slot[-1]), np.int32)
    list_slot = np.empty(int(slot[-1]), np.int32)
    fill_tiles(ids, rect, row_offset, span, slot, tile_start, tiles_x, tiles_y, list_rank, list_slot)
    if sh_degree is None:
        rgb_visible = np.ascontiguousarray(colors[ids])
    else:
        rgb_visible = np.empty((len(ids), 3), np.float32)
        position = -view[:3, :3].T @ view[:3, 3]
        colors_from_sh(means, colors, sh_degree, position, ids, rgb_visible)
    record = np.empty((len(ids), RECORD), np.float32)
    pack(ids, mean2d, conic, opac, depth, rect, rgb_visible, record)
    rgb = np.empty((height, width, 3), np.float32)
    depth_sum = np.empty((height, width), np.float32)
    trans = np.empty((height, width), np.float32)
    hop = _hop(tiles_x * tiles_y)
    blend(tile_start, list_rank, record, tiles_x, tiles_y, hop, width, height, rgb, depth_sum, trans)
    state = RasterState(
        view, K, width, height, antialiased, ids, rect, row_offset, slot, tile_start, list_rank, list_slot, record,
        rgb_visible, sh_degree, (tiles_x, tiles_y), mean2d,
    )  # fmt: skip
    return rgb, depth_sum, trans, state


def raster_backward(
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    colors: np.ndarray,
    state: RasterState,
    rgb: np.ndarray,
    depth_sum: np.ndarray,
    trans: np.ndarray,
    v_rgb: np.ndarray,
    v_depth_sum: np.ndarray,
    v_trans: np.ndarray,
    *,
    camera_gradient: bool = False,
) -> RasterGradients:
    """Backward pass of :func:`raster_forward`: gradients of a scalar loss from those of its three images.

    Args:
        means: as in the forward pass; likewise ``quats``, ``scales``, ``opacities``, ``colors``.
        quats: as in the forward pass.
        scales: as in the forward pass.
        opacities: as in the forward pass.
        colors: as in the forward pass.
        state: of the forward pass.
        rgb: image of the forward pass; likewise ``depth_sum`` and ``trans``.
        depth_sum: as ``rgb``.
        trans: as ``rgb``.
        v_rgb: float32 ``[H,W,3]`` gradient of the loss by ``rgb``.
        v_depth_sum: float32 ``[H,W]``.
        v_trans: float32 ``[H,W]``.
        camera_gradient: also give the gradient by the viewmat (rows 0..2).
    """
    ids, count = state.ids, len(state.ids)
    behind = np.einsum("hwc,hwc->hw", rgb, v_rgb)
    behind += depth_sum * v_depth_sum + trans * v_trans
    partial = np.empty(len(state.list_rank) * PARTIAL, np.float32)
    tiles_x, tiles_y = state.tiles
    blend_backward(
        state.tile_start, state.list_rank, state.list_slot, state.record, tiles_x, tiles_y, _hop(tiles_x * tiles_y),
        state.width, state.height,
        np.ascontiguousarray(v_rgb, np.float32), np.ascontiguousarray(v_depth_sum, np.float32), behind, partial,
    )  # fmt: skip
    v2d = np.empty((count, 8), np.float32)
    v_rgb_visible = np.empty((count, 3), np.float32)
    gather(state.row_offset, state.slot, partial, state.record, v2d, v_rgb_visible)
    v_means, v_quats, v_scales = np.zeros_like(means), np.zeros_like(quats), np.zeros_like(scales)
    v_opac, v_colors = np.zeros_like(opacities), np.zeros_like(colors)
    chunks = -(-count // CHUNK) if camera_gradient else 0
    v_view_chunks = np.zeros((chunks, 12))
    project_backward(
        means, quats, scales, opacities, state.view, state.K, state.width, state.height, state.antialiased, ids, v2d,
        v_means, v_quats, v_scales, v_opac, v_view_chunks,
    )  # fmt: skip
    v_position = np.zeros((chunks, 3))
    if state.sh_degree is None:
        v_colors[ids] = v_rgb_visible
    else:
        position = -state.view[:3, :3].T @ state.view[:3, 3]
        colors_from_sh_backward(
            means,
            colors,
            state.sh_degree,
            position,
            ids,
            state.rgb_visible,
            v_rgb_visible,
            v_means,
            v_colors,
            v_position,
        )
    v_view = None
    if camera_gradient:
        v_view = np.zeros((4, 4))
        v_view[:3] = v_view_chunks.sum(0).reshape(3, 4)
        # position = -Rt t
        g = v_position.sum(0)
        v_view[:3, 3] -= state.view[:3, :3] @ g
        v_view[:3, :3] -= np.outer(state.view[:3, 3], g)
    return RasterGradients(v_means, v_quats, v_scales, v_opac, v_colors, v_view, v2d[:, :2], v2d[:, 7])
