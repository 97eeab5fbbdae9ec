# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
"""Which splats touch which tiles of the image, front to back."""

# Kernels take plain arrays whose dtypes numba infers, and LLVM code generators take its untyped objects.
# ruff: noqa: ANN001, ANN201, ANN202, RUF046

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from gaussgym_render.differentiable.constants import ALPHA_MIN, FILL_BANDS, TILE


@njit(cache=True)
def depth_order(depth, rect):
    """Indices of visible splats, front to back, ties by index: a radix sort on the bits of the positive depth."""
    n = depth.shape[0]
    count = 0
    for i in range(n):
        if rect[i, 1] > rect[i, 0]:
            count += 1
    ids = np.empty(count, np.int32)
    keys = np.empty(count, np.uint32)
    k = 0
    bits = depth.view(np.uint32)
    for i in range(n):
        if rect[i, 1] > rect[i, 0]:
            ids[k] = i
            keys[k] = bits[i]
            k += 1
    ids2 = np.empty(count, np.int32)
    keys2 = np.empty(count, np.uint32)
    start = np.empty(2049, np.int64)
    for shift in (0, 11, 22):
        start[:] = 0
        for k in range(count):
            start[((keys[k] >> np.uint32(shift)) & np.uint32(2047)) + 1] += 1
        for b in range(2048):
            start[b + 1] += start[b]
        for k in range(count):
            b = (keys[k] >> np.uint32(shift)) & np.uint32(2047)
            p = start[b]
            start[b] = p + 1
            ids2[p] = ids[k]
            keys2[p] = keys[k]
        ids, ids2 = ids2, ids
        keys, keys2 = keys2, keys
    return ids


@njit(cache=True)
def _row_span(mx, my, A, B, C, limit, hx, d0, d1):
    """Left and right end of the ellipse sigma <= limit for offsets dy in [d0, d1]; (1, -1) where it is empty."""
    det = A * C - B * B
    dy_right = -B * hx / C  # dy at the right-most point of the ellipse; the left-most lies opposite
    e = min(max(dy_right, d0), d1)
    root = 2.0 * limit * A - e * e * det
    f = min(max(-dy_right, d0), d1)
    root2 = 2.0 * limit * A - f * f * det
    if root < 0.0 and root2 < 0.0:
        return 1.0, -1.0
    right = hx if e == dy_right else (-B * e + math.sqrt(max(root, 0.0))) / A
    left = -hx if f == -dy_right else (-B * f - math.sqrt(max(root2, 0.0))) / A
    return left, right


@njit(parallel=True, cache=True, error_model="numpy")
def spans(ids, mean2d, conic, opac, half, rect, row_offset, span):
    """Tile columns [span0, span1) that each splat touches in each tile row of its rectangle."""
    for k in prange(ids.shape[0]):
        i = ids[k]
        mx, my = float(mean2d[i, 0]), float(mean2d[i, 1])
        A, B, C = float(conic[i, 0]), float(conic[i, 1]), float(conic[i, 2])
        limit = math.log(float(opac[i]) / ALPHA_MIN) + 1e-4
        y0, y1 = rect[i, 2], rect[i, 3]
        t0 = y0 // TILE
        for t in range(t0, (y1 - 1) // TILE + 1):
            p = row_offset[k] + t - t0
            top = max(y0, t * TILE) + 0.5 - my
            bottom = min(y1, (t + 1) * TILE) - 0.5 - my
            left, right = _row_span(mx, my, A, B, C, limit, float(half[i, 0]), top, bottom)
            x0 = max(rect[i, 0], int(math.ceil(mx + left - 0.501)))
            x1 = min(rect[i, 1], int(math.floor(mx + right - 0.499)) + 1)
            if left > right or x0 >= x1:
                span[p, 0] = 0
                span[p, 1] = 0
            else:
                span[p, 0] = x0 // TILE
                span[p, 1] = (x1 - 1) // TILE + 1


@njit(cache=True)
def row_offsets(ids, rect):
    """Where the tile rows of each splat begin among those of all."""
    offset = np.empty(ids.shape[0] + 1, np.int64)
    offset[0] = 0
    for k in range(ids.shape[0]):
        i = ids[k]
        offset[k + 1] = offset[k] + (rect[i, 3] - 1) // TILE - rect[i, 2] // TILE + 1
    return offset


@njit(cache=True)
def slots_and_counts(ids, rect, row_offset, span, tiles_x, tiles_y):
    """Where the slots of each splat's tile row begin, a slot a (tile, splat) pair, and where each tile's list of splats does."""
    slot = np.empty(span.shape[0] + 1, np.int64)
    slot[0] = 0
    tile_start = np.zeros(tiles_x * tiles_y + 1, np.int64)
    for k in range(ids.shape[0]):
        t = rect[ids[k], 2] // TILE
        for p in range(row_offset[k], row_offset[k + 1]):
            slot[p + 1] = slot[p] + span[p, 1] - span[p, 0]
            for tx in range(span[p, 0], span[p, 1]):
                tile_start[t * tiles_x + tx + 1] += 1
            t += 1
    for t in range(tiles_x * tiles_y):
        tile_start[t + 1] += tile_start[t]
    return slot, tile_start


@njit(parallel=True, cache=True)
def fill_tiles(ids, rect, row_offset, span, slot, tile_start, tiles_x, tiles_y, list_rank, list_slot):
    """Each tile's list of splats, front to back, and the slot of each pair; bands of tile rows side by side."""
    bands = min(FILL_BANDS, tiles_y)
    for turn in prange(bands):
        band = np.int64(turn)
        if bands % 3:  # no thread has all of the sky
            band = band * 3 % bands
        low, high = band * tiles_y // bands, (band + 1) * tiles_y // bands
        cursor = tile_start[low * tiles_x : high * tiles_x].copy()
        for k in range(ids.shape[0]):
            t0 = rect[ids[k], 2] // TILE
            for t in range(max(t0, low), min(t0 + row_offset[k + 1] - row_offset[k], high)):
                p = row_offset[k] + t - t0
                first = (t - low) * tiles_x
                for tx in range(span[p, 0], span[p, 1]):
                    place = cursor[first + tx]
                    list_rank[place] = k
                    list_slot[place] = slot[p] + tx - span[p, 0]
                    cursor[first + tx] = place + 1


@njit(parallel=True, cache=True)
def pack(ids, mean2d, conic, opac, depth, rect, rgb, record):
    """What blending needs of each visible splat, in one record."""
    for k in prange(ids.shape[0]):
        i = ids[k]
        record[k, 0] = mean2d[i, 0]
        record[k, 1] = mean2d[i, 1]
        record[k, 2] = conic[i, 0]
        record[k, 3] = conic[i, 1]
        record[k, 4] = conic[i, 2]
        record[k, 5] = opac[i]
        record[k, 6] = rgb[k, 0]
        record[k, 7] = rgb[k, 1]
        record[k, 8] = rgb[k, 2]
        record[k, 9] = depth[i]
        record[k, 10] = rect[i, 2]
        record[k, 11] = rect[i, 3]
