# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Blends the splats of each tile front to back, and what each splat, pixel by pixel, did to the loss."""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.
# ruff: noqa: ANN001, ANN201, ANN202, SIM110

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from gaussgym_render.differentiable.constants import PARTIAL, TILE
from gaussgym_render.differentiable.vectors import (
    BEHIND,
    BLUE,
    DEPTH,
    FINAL,
    GREEN,
    LIVE,
    PLANE,
    RED,
    SUMS,
    V_BLUE,
    V_DEPTH,
    V_GREEN,
    V_RED,
    blend_row,
    blend_row_backward,
    reduce_lanes,
)


@njit(cache=True)
def _all_done(buf):
    for p in range(PLANE):
        if buf[p] > 0.0:
            return False
    return True


@njit(parallel=True, cache=True, boundscheck=False)
def blend(tile_start, list_rank, record, tiles_x, tiles_y, hop, width, height, rgb, depth, trans):
    """Composite front to back; ``depth`` accumulates weight x z, ``trans`` is what remains of the background."""
    half = np.float32(0.5)
    for turn in prange(tiles_x * tiles_y):
        tile = turn * hop % (tiles_x * tiles_y)
        ox, oy = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        buf = np.zeros(6 * PLANE, np.float32)
        y_end = min(oy + TILE, height)
        columns = min(TILE, width - ox)
        for row in range(y_end - oy):  # pixels outside the image count as done
            for x in range(columns):
                buf[row * TILE + x] = 1.0
                buf[FINAL + row * TILE + x] = 1.0
        for n in range(tile_start[tile], tile_start[tile + 1]):
            k = list_rank[n]
            mx, my = record[k, 0] - np.float32(ox) - half, record[k, 1] - half
            half_a, b_, half_c = half * record[k, 2], record[k, 3], half * record[k, 4]
            op, r, g, b, z = record[k, 5], record[k, 6], record[k, 7], record[k, 8], record[k, 9]
            for row in range(max(oy, int(record[k, 10])), min(y_end, int(record[k, 11]))):
                dy = np.float32(row) - my
                blend_row(buf, (row - oy) * TILE, mx, half_a, b_ * dy, half_c * dy * dy, op, r, g, b, z)
            if n & 7 == 7 and _all_done(buf):
                break
        for row in range(oy, y_end):
            for x in range(columns):
                p = (row - oy) * TILE + x
                rgb[row, ox + x, 0] = buf[RED + p]
                rgb[row, ox + x, 1] = buf[GREEN + p]
                rgb[row, ox + x, 2] = buf[BLUE + p]
                depth[row, ox + x] = buf[DEPTH + p]
                trans[row, ox + x] = buf[FINAL + p]


@njit(parallel=True, cache=True, boundscheck=False)
def blend_backward(
    tile_start,
    list_rank,
    list_slot,
    record,
    tiles_x,
    tiles_y,
    hop,
    width,
    height,
    v_rgb,
    v_depth,
    behind,
    partial,
):
    """Partial gradients of every (tile, splat) pair.

    ``behind [H,W]`` is the final value of the pixel dotted with its gradient; what a splat adds is taken off it, so that
    what is left is what lies behind the splat.
    """
    half = np.float32(0.5)
    for turn in prange(tiles_x * tiles_y):
        tile = turn * hop % (tiles_x * tiles_y)
        ox, oy = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        buf = np.zeros(6 * PLANE + 7 * TILE, np.float32)
        y_end = min(oy + TILE, height)
        for row in range(oy, y_end):
            for x in range(min(TILE, width - ox)):
                p = (row - oy) * TILE + x
                buf[LIVE + p] = 1.0
                buf[BEHIND + p] = behind[row, ox + x]
                buf[V_RED + p] = v_rgb[row, ox + x, 0]
                buf[V_GREEN + p] = v_rgb[row, ox + x, 1]
                buf[V_BLUE + p] = v_rgb[row, ox + x, 2]
                buf[V_DEPTH + p] = v_depth[row, ox + x]
        for n in range(tile_start[tile], tile_start[tile + 1]):
            k = list_rank[n]
            mx, my = record[k, 0] - np.float32(ox) - half, record[k, 1] - half
            half_a, b_, half_c = half * record[k, 2], record[k, 3], half * record[k, 4]
            op, r, g, b, z = record[k, 5], record[k, 6], record[k, 7], record[k, 8], record[k, 9]
            for x in range(7 * TILE):
                buf[SUMS + x] = 0.0
            for row in range(max(oy, int(record[k, 10])), min(y_end, int(record[k, 11]))):
                dy = np.float32(row) - my
                blend_row_backward(
                    buf, (row - oy) * TILE, mx, half_a, b_ * dy, half_c * dy * dy, dy, op, r, g, b, z
                )
            reduce_lanes(buf, mx, partial, np.intp(list_slot[n]) * PARTIAL)
            if n & 7 == 7 and _all_done(buf):
                for rest in range(n + 1, tile_start[tile + 1]):
                    start = np.intp(list_slot[rest]) * PARTIAL
                    partial[start : start + PARTIAL] = 0.0
                break


@njit(parallel=True, cache=True)
def gather(row_offset, slot, partial, record, v2d, v_rgb):
    """Sum the partial gradients of each visible splat in slot order.

    Column 7 is the sum over tiles of the length of the image-plane gradient: tiles that pull in different directions do
    not cancel, so that it finds splats too large for what they cover (the idea of AbsGS, Ye et al. 2024, by tile).
    """
    for k in prange(v2d.shape[0]):
        s0, sx, sy, sxx, sxy, syy, c0, c1, c2, c3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        pull = 0.0
        for j in range(slot[row_offset[k]], slot[row_offset[k + 1]]):
            s0 += partial[j * PARTIAL + 0]
            sx += partial[j * PARTIAL + 1]
            sy += partial[j * PARTIAL + 2]
            sxx += partial[j * PARTIAL + 3]
            sxy += partial[j * PARTIAL + 4]
            syy += partial[j * PARTIAL + 5]
            c0 += partial[j * PARTIAL + 6]
            c1 += partial[j * PARTIAL + 7]
            c2 += partial[j * PARTIAL + 8]
            c3 += partial[j * PARTIAL + 9]
            px = record[k, 2] * partial[j * PARTIAL + 1] + record[k, 3] * partial[j * PARTIAL + 2]
            py = record[k, 3] * partial[j * PARTIAL + 1] + record[k, 4] * partial[j * PARTIAL + 2]
            pull += math.sqrt(px * px + py * py)
        v2d[k, 0] = -(record[k, 2] * sx + record[k, 3] * sy)
        v2d[k, 1] = -(record[k, 3] * sx + record[k, 4] * sy)
        v2d[k, 2] = 0.5 * sxx
        v2d[k, 3] = sxy
        v2d[k, 4] = 0.5 * syy
        v2d[k, 5] = -s0 / record[k, 5]
        v2d[k, 6] = c3
        v2d[k, 7] = pull
        v_rgb[k, 0] = c0
        v_rgb[k, 1] = c1
        v_rgb[k, 2] = c2
