"""CPU backend: splat-major compositing of many small images, compiled by numba.

At robot resolutions a whole image fits into the L1/L2 cache and most splats cover three to five pixels, so tiles and their
lists cost more than they save. One job is one camera (or one tile of a larger image): cull chunks against its frustum, project
what is left eight splats at a time, radix-sort by depth, then blend front to back, each splat over the rows of its own ellipse.
A bit per pixel says which pixels are still open; a splat that only touches finished ones costs a few instructions. Jobs share
nothing, so an image does not depend on its batch.

Threads are Python's (the kernel releases the interpreter lock): no runtime that dislikes forks or other libraries' threads.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202
# Intrinsics get their typing context from numba, not from the caller.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gaussgym_render import channels, edits, harmonics, lanes, oracle, zbuffer
from gaussgym_render.atlas import CHUNK, NUM_SHAPE, Atlas
from gaussgym_render.channels import ChannelArrays
from gaussgym_render.edits import SceneEdits
from gaussgym_render.objects import Instances, ObjectSet, build_objects

MAX_TILE_PIXELS = 26000
"""Above this many pixels an image is cut into tiles, so that a tile's buffers (20 B a pixel) stay in the L2 cache."""

_COMPILING = threading.Lock()
_F = np.float32
_LOG2E = _F(1.4426950408889634)
_LN2 = _F(0.6931471805599453)
_EPS_2D = _F(oracle.EPS_2D)
_MAX_ALPHA = _F(oracle.MAX_ALPHA)
_MIN_ALPHA = _F(oracle.MIN_ALPHA)
_LOG2_MIN_ALPHA = _F(np.log2(oracle.MIN_ALPHA))
_MIN_COMPENSATION_SQ = _F(oracle.MIN_COMPENSATION**2)
_MIN_T = _F(oracle.MIN_TRANSMITTANCE)
# A pixel's alpha is decided by comparing it with 1/255; boxes and rows only have to contain every pixel that passes.
_SLACK_PX = _F(2e-3)
_NUM_PROJECTED = 7  # u, v, z, slope, falloff, row falloff, log2 of the opacity
_NUM_BOX = 5  # x0, x1, y0, y1, whether visible
_RECORD = lanes.RECORD  # a cache line, see `lanes.append_records`
_RADIX_BITS = 10
_HISTOGRAM = (
    1 << 11
) + 1  # a third of 32 bits, and how many more cameras are sorted by all their bits at once
_WARY_CAMERAS = 32
_SHORT_RUN = 24  # splats of equal depth that are sorted by insertion
_AHEAD = 8  # splats between asking for a record and using it
_FLAGS = {
    "contract",
    "nsz",
    "arcp",
}  # no NaN, infinity or reassociation shortcuts: results must not depend on them

_LOG2_POLY = (
    _F(1.442694958092702),
    _F(-0.7213527638517038),
    _F(0.48092401220265113),
    _F(-0.3602416314389946),
    _F(0.2870764936545907),
    _F(-0.24882810151322374),
    _F(0.23420312884463823),
    _F(-0.14617052155403334),
)


@numba.njit(inline="always", fastmath=_FLAGS, error_model="numpy")
def _log2(x):
    """log2 of a positive normal float32, absolute error about 1e-7 (minimax on the mantissa in [√½, √2))."""
    bits = lanes.float_bits(x)
    exponent = (bits - np.int32(0x3F3504F3)) >> np.int32(23)
    m = lanes.bits_float(bits - (exponent << np.int32(23))) - _F(1.0)
    c = _LOG2_POLY
    poly = c[7]
    poly = poly * m + c[6]
    poly = poly * m + c[5]
    poly = poly * m + c[4]
    poly = poly * m + c[3]
    poly = poly * m + c[2]
    poly = poly * m + c[1]
    poly = poly * m + c[0]
    return _F(exponent) + poly * m


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _view(c2w, w2c):
    """Write the rows of the world-to-camera rotation (inverse of the upper 3x3) and the camera centre into `w2c [12]`."""
    a, b, c = c2w[0, 0], c2w[0, 1], c2w[0, 2]
    d, e, f = c2w[1, 0], c2w[1, 1], c2w[1, 2]
    g, h, i = c2w[2, 0], c2w[2, 1], c2w[2, 2]
    scale = 1.0 / (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    w2c[0], w2c[1], w2c[2] = (e * i - f * h) * scale, (c * h - b * i) * scale, (b * f - c * e) * scale
    w2c[3], w2c[4], w2c[5] = (f * g - d * i) * scale, (a * i - c * g) * scale, (c * d - a * f) * scale
    w2c[6], w2c[7], w2c[8] = (d * h - e * g) * scale, (b * g - a * h) * scale, (a * e - b * d) * scale
    w2c[9], w2c[10], w2c[11] = c2w[0, 3], c2w[1, 3], c2w[2, 3]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _chunk_visible(bounds, view, k, near, tan_limit, tile):
    """Whether a splat of a chunk can touch the tile: its box of means against the frustum, widened by the splats' extent.

    EWA's standard deviation along u is at most `(fx/z)·σ·sqrt(1 + tan²) + sqrt(0.3)`, so that a splat left of the tile has
    `fx·x - (x0 - cx)·z < -z·3.33·(…)`: a half space, tested against the box (and likewise for the other sides).
    """
    dx, dy, dz = bounds[0] - view[9], bounds[1] - view[10], bounds[2] - view[11]
    reach = 3.34 * bounds[6]
    blur = 1.84
    for side in range(5):
        if side == 4:
            nx, ny, nz, offset = 0.0, 0.0, 1.0, -near
        elif side == 0:
            nx, ny, nz = k[0, 0], 0.0, k[0, 2] - tile[0] + blur
            offset = reach * k[0, 0] * tan_limit[2]
        elif side == 1:
            nx, ny, nz = -k[0, 0], 0.0, tile[0] + tile[2] - k[0, 2] + blur
            offset = reach * k[0, 0] * tan_limit[2]
        elif side == 2:
            nx, ny, nz = 0.0, k[1, 1], k[1, 2] - tile[1] + blur
            offset = reach * k[1, 1] * tan_limit[5]
        else:
            nx, ny, nz = 0.0, -k[1, 1], tile[1] + tile[3] - k[1, 2] + blur
            offset = reach * k[1, 1] * tan_limit[5]
        wx = nx * view[0] + ny * view[3] + nz * view[6]
        wy = nx * view[1] + ny * view[4] + nz * view[7]
        wz = nx * view[2] + ny * view[5] + nz * view[8]
        nearest = (
            wx * dx + wy * dy + wz * dz + abs(wx) * bounds[3] + abs(wy) * bounds[4] + abs(wz) * bounds[5]
        )
        if nearest + offset + 1e-5 * (abs(dx) + abs(dy) + abs(dz)) * (abs(wx) + abs(wy) + abs(wz)) < 0.0:
            return False
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _detailed_enough(bounds, error_m, view, focal, threshold_px):
    """Whether a node may stand for its subtree: its error, at the nearest point of the box of means, against the threshold.

    Distances, not depths: a camera that turns on the spot keeps its levels.
    """
    dx = max(abs(view[9] - bounds[0]) - bounds[3], 0.0)
    dy = max(abs(view[10] - bounds[1]) - bounds[4], 0.0)
    dz = max(abs(view[11] - bounds[2]) - bounds[5], 0.0)
    return focal * error_m <= threshold_px * np.sqrt(dx * dx + dy * dy + dz * dz)


@numba.njit(cache=True, nogil=True, fastmath=_FLAGS, error_model="numpy")
def _camera_points(means, view, xyz):
    """Means of a chunk in the camera frame, rounded from float64: their depth order is the oracle's, bit by bit."""
    for i in range(CHUNK):
        dx = np.float64(means[i]) - view[9]
        dy = np.float64(means[1 * CHUNK + i]) - view[10]
        dz = np.float64(means[2 * CHUNK + i]) - view[11]
        xyz[i] = _F(view[0] * dx + view[1] * dy + view[2] * dz)
        xyz[1 * CHUNK + i] = _F(view[3] * dx + view[4] * dy + view[5] * dz)
        xyz[2 * CHUNK + i] = _F(view[6] * dx + view[7] * dy + view[8] * dz)


@numba.njit(cache=True, nogil=True, fastmath=_FLAGS, error_model="numpy")
def _project_chunk(shapes, xyz, view, k, near, tan_limit, tile, antialiased, out, box):
    """EWA projection of a chunk, branch-free so that LLVM vectorizes it (and with flat arrays: rows of a matrix would have to be
    checked against each other for overlap, which it gives up).

    The covariance is kept as a factor, `Σ = (R S)(R S)ᵀ`: with `A = J W R S` (2x3) the determinant of `A Aᵀ` is a sum of squares
    (Lagrange's identity), exact for needles and discs, where `ac - b²` of float32 entries is noise.
    """
    fx, fy, cx, cy = _F(k[0, 0]), _F(k[1, 1]), _F(k[0, 2]), _F(k[1, 2])
    r0, r1, r2 = _F(view[0]), _F(view[1]), _F(view[2])
    r3, r4, r5 = _F(view[3]), _F(view[4]), _F(view[5])
    r6, r7, r8 = _F(view[6]), _F(view[7]), _F(view[8])
    lo_x, hi_x, lo_y, hi_y = _F(tan_limit[0]), _F(tan_limit[1]), _F(tan_limit[3]), _F(tan_limit[4])
    z_near = _F(near)
    tile_x, tile_y, last_x, last_y = _F(tile[0]), _F(tile[1]), _F(tile[2] - 1), _F(tile[3] - 1)
    floor_ratio = _MIN_COMPENSATION_SQ if antialiased else _F(1.0)
    for i in range(CHUNK):
        z = max(xyz[2 * CHUNK + i], z_near)
        rz = _F(1.0) / z
        tx, ty = xyz[i] * rz, xyz[1 * CHUNK + i] * rz
        u, v = fx * tx + cx - tile_x, fy * ty + cy - tile_y
        tx, ty = min(max(tx, lo_x), hi_x), min(max(ty, lo_y), hi_y)
        sx, sy = fx * rz, fy * rz
        m0, m1, m2 = sx * (r0 - tx * r6), sx * (r1 - tx * r7), sx * (r2 - tx * r8)
        n0, n1, n2 = sy * (r3 - ty * r6), sy * (r4 - ty * r7), sy * (r5 - ty * r8)
        a0 = m0 * shapes[i] + m1 * shapes[3 * CHUNK + i] + m2 * shapes[6 * CHUNK + i]
        a1 = m0 * shapes[1 * CHUNK + i] + m1 * shapes[4 * CHUNK + i] + m2 * shapes[7 * CHUNK + i]
        a2 = m0 * shapes[2 * CHUNK + i] + m1 * shapes[5 * CHUNK + i] + m2 * shapes[8 * CHUNK + i]
        b0 = n0 * shapes[i] + n1 * shapes[3 * CHUNK + i] + n2 * shapes[6 * CHUNK + i]
        b1 = n0 * shapes[1 * CHUNK + i] + n1 * shapes[4 * CHUNK + i] + n2 * shapes[7 * CHUNK + i]
        b2 = n0 * shapes[2 * CHUNK + i] + n1 * shapes[5 * CHUNK + i] + n2 * shapes[8 * CHUNK + i]
        cxx, cxy, cyy = a0 * a0 + a1 * a1 + a2 * a2, a0 * b0 + a1 * b1 + a2 * b2, b0 * b0 + b1 * b1 + b2 * b2
        e0, e1, e2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
        det = e0 * e0 + e1 * e1 + e2 * e2
        det_blur = det + _EPS_2D * (cxx + cyy) + _EPS_2D * _EPS_2D
        cxx, cyy = cxx + _EPS_2D, cyy + _EPS_2D
        opacity = shapes[9 * CHUNK + i] * lanes.sqrt(max(det / det_blur, floor_ratio))
        log2_opacity = _log2(max(opacity, _F(1e-20)))
        extent_sq = _F(2.0) * _LN2 * max(log2_opacity - _LOG2_MIN_ALPHA, _F(0.0))
        hx, hy = lanes.sqrt(extent_sq * cxx) + _SLACK_PX, lanes.sqrt(extent_sq * cyy) + _SLACK_PX
        keep = (opacity >= _MIN_ALPHA) & (xyz[2 * CHUNK + i] >= z_near)
        x0, x1 = np.ceil(u - hx - _F(0.5)), np.floor(u + hx - _F(0.5))
        y0, y1 = np.ceil(v - hy - _F(0.5)), np.floor(v + hy - _F(0.5))
        x0, x1 = min(max(x0, _F(0.0)), last_x + _F(1.0)), max(min(x1, last_x), _F(-1.0))
        y0, y1 = min(max(y0, _F(0.0)), last_y + _F(1.0)), max(min(y1, last_y), _F(-1.0))
        keep &= (x0 <= x1) & (y0 <= y1)
        out[i], out[1 * CHUNK + i], out[2 * CHUNK + i] = u, v, xyz[2 * CHUNK + i]
        out[3 * CHUNK + i] = cxy / cyy
        out[4 * CHUNK + i] = _F(0.5) * _LOG2E * cyy / det_blur
        out[5 * CHUNK + i] = _F(0.5) * _LOG2E / cyy
        out[6 * CHUNK + i] = log2_opacity
        box[i], box[1 * CHUNK + i] = np.int32(x0), np.int32(x1)
        box[2 * CHUNK + i], box[3 * CHUNK + i] = np.int32(y0), np.int32(y1)
        box[4 * CHUNK + i] = np.int32(keep)


@numba.njit(cache=True, nogil=True, fastmath=_FLAGS, error_model="numpy")
def _directions(means, view, directions):
    """Unit vectors from the camera centre to a chunk's means, world frame, as planes."""
    for i in range(CHUNK):
        dx = _F(np.float64(means[i]) - view[9])
        dy = _F(np.float64(means[CHUNK + i]) - view[10])
        dz = _F(np.float64(means[2 * CHUNK + i]) - view[11])
        scale = _F(1.0) / lanes.sqrt(max(dx * dx + dy * dy + dz * dz, _F(1e-30)))
        directions[i], directions[CHUNK + i], directions[2 * CHUNK + i] = dx * scale, dy * scale, dz * scale


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _widen(halves, start, count, out):
    """Convert `count` halves, a multiple of sixteen, to float32."""
    for i in range(0, count, lanes.HALVES):
        lanes.widen(halves, np.int64(start + i), out, np.int64(i))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _collect(out, box, colors, first_slot, source, count, records, keys, numbers):
    """Append a chunk's visible splats to the camera's list, one cache line each, and their depths and numbers in the input apart;
    returns the new length.
    """
    first = count
    for i in range(0, CHUNK, _RECORD):
        count = lanes.append_records(
            out, box, colors, np.int64(i), np.int64(CHUNK), np.int64(first_slot + i), source, records, count
        )
    for i in range(first, count):
        keys[np.uintp(i)] = np.uint32(lanes.float_bits(records[np.uintp(i * _RECORD + 2)]))
        numbers[np.uintp(i)] = lanes.float_bits(records[np.uintp(i * _RECORD + 9)])
    return count


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _sort(keys, count, order, pairs, histograms):
    """Sort positive float32 bits stably; fills `order[:count]`, and leaves the keys sorted in `keys`.

    Two radix passes over the highest 20 bits in which the keys differ leave them nearly sorted; insertion does the rest. Where
    that takes long (a wall seen straight on, and something far behind it) three passes take all bits, and do so at once for the
    next cameras, which probably see the wall too: `histograms[-1]` counts down for how many.
    """
    low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(count):
        low, high = min(low, keys[i]), max(high, keys[i])
        order[i] = i
    spread = high - low if count > 0 else np.uint32(0)
    bits = 0
    while bits < 32 and (spread >> np.uint32(bits)) != 0:
        bits += 1
    shift = max(bits - 2 * _RADIX_BITS, 0)
    if shift == 0 or histograms[-1] == 0:
        _radix_pass(keys, order, count, low, shift, _RADIX_BITS, histograms, pairs, True)
        _radix_pass(keys, order, count, low, shift + _RADIX_BITS, _RADIX_BITS, histograms, pairs, False)
        if shift == 0 or _insert(keys, count, order):
            return
        histograms[-1] = _WARY_CAMERAS
    histograms[-1] -= 1
    width = (bits + 2) // 3
    _radix_pass(keys, order, count, low, 0, width, histograms, pairs, True)
    _radix_pass(keys, order, count, low, width, width, histograms, pairs, False)
    _radix_pass(keys, order, count, low, 2 * width, width, histograms, pairs, True)
    for i in range(count):
        keys[i], order[i] = np.uint32(pairs[i] >> np.uint64(32)), np.int32(pairs[i] & np.uint64(0xFFFFFFFF))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _radix_pass(keys, order, count, low, shift, width, histogram, pairs, into_pairs):
    """Distribute by `width` bits of the keys above `low`, from `keys` and `order` into `pairs` or back."""
    mask, down = np.uint32((1 << width) - 1), np.uint32(shift)
    histogram[: 1 << width] = 0
    for i in range(count):
        key = keys[i] if into_pairs else np.uint32(pairs[i] >> np.uint64(32))
        histogram[np.uintp(((key - low) >> down) & mask)] += 1
    total = 0
    for digit in range(1 << width):
        total, histogram[digit] = total + histogram[digit], total
    if into_pairs:
        for i in range(count):
            digit = np.uintp(((keys[i] - low) >> down) & mask)
            at = histogram[digit]
            histogram[digit] = at + 1
            pairs[np.uintp(at)] = (np.uint64(keys[i]) << np.uint64(32)) | np.uint64(order[i])
        return
    for i in range(count):
        key = np.uint32(pairs[i] >> np.uint64(32))
        digit = np.uintp(((key - low) >> down) & mask)
        at = histogram[digit]
        histogram[digit] = at + 1
        keys[np.uintp(at)], order[np.uintp(at)] = key, np.int32(pairs[i] & np.uint64(0xFFFFFFFF))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _insert(keys, count, order):
    """Sort nearly sorted keys by insertion, stably; gives up, and returns False, where they are not."""
    budget = count + 64
    for i in range(1, count):
        key = keys[i]
        if key >= keys[i - 1]:
            continue
        moved, to = order[i], i
        while to > 0 and keys[to - 1] > key:
            keys[to], order[to] = keys[to - 1], order[to - 1]
            to -= 1
        keys[to], order[to] = key, moved
        budget -= i - to
        if budget < 0:
            return False
    return True


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _break_ties(keys, count, order, numbers):
    """Put splats of equal depth into the order of the input (they come in the atlas's)."""
    start = 0
    for i in range(1, count + 1):
        if i < count and keys[i] == keys[start]:
            continue
        if i - start > _SHORT_RUN:
            run = order[start:i]
            run[:] = run[np.argsort(numbers[run])]
        elif i - start > 1:  # by insertion: scenes on a grid hold thousands of pairs
            for j in range(start + 1, i):
                moved = order[j]
                number = numbers[moved]
                to = j
                while to > start and numbers[order[to - 1]] > number:
                    order[to] = order[to - 1]
                    to -= 1
                order[to] = moved
        start = i


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _clear(height, width, stride, words, image, open_bits):
    """Reset the buffers to an empty image with every pixel open; what lies beside it is blended into but never read."""
    colors, depths = image
    count = (height + lanes.BLOCK) * stride
    for p in range(count):
        at = lanes.CHANNELS * p
        colors[at], colors[at + 1], colors[at + 2], colors[at + 3] = _F(1.0), _F(0.0), _F(0.0), _F(0.0)
    depths[:count] = _F(0.0)
    for y in range(height + lanes.BLOCK):
        for w in range(words):
            rest = width - 64 * w if y < height else 0
            bits = np.uint64(0)
            if rest >= 64:
                bits = np.uint64(0xFFFFFFFFFFFFFFFF)
            elif rest > 0:
                bits = (np.uint64(1) << np.uint64(rest)) - np.uint64(1)
            open_bits[y * words + w] = bits


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _close(finished, x0, y0, image, open_bits, size):
    """Mark pixels of a block (bit `4·row + column`) as finished; returns how many of them belong to the tile."""
    width, height, stride, words = size
    count = 0
    for bit in range(lanes.BLOCK * lanes.BLOCK):
        if (finished >> np.uint64(bit)) & np.uint64(1) == 0:
            continue
        x, y = x0 + bit % lanes.BLOCK, y0 + bit // lanes.BLOCK
        at = lanes.CHANNELS * (y * stride + x)
        image[0][at] = -abs(image[0][at])
        if x < width and y < height:
            word, mask = y * words + (x >> 6), np.uint64(1) << np.uint64(x & 63)
            count += np.int64((open_bits[word] & mask) != 0)
            open_bits[word] &= ~mask
    return count


@numba.njit(nogil=True, error_model="numpy", inline="always")
def _block_columns(y, u, v, slope, falloff, row_falloff, log2_opacity, x0, x1):
    """First and last column at which the ellipse can touch the four rows from `y` on; empty if first > last."""
    top, bottom = _F(y) + _F(0.5) - v, _F(y) + _F(3.5) - v
    nearest = min(max(_F(0.0), top), bottom)
    above = log2_opacity - row_falloff * nearest * nearest - _LOG2_MIN_ALPHA
    if above < _F(-1e-4):
        return np.int64(1), np.int64(0)
    half = lanes.sqrt(max(above, _F(0.0)) / falloff) + _SLACK_PX
    low = u + min(slope * top, slope * bottom) - half - _F(0.5)
    high = u + max(slope * top, slope * bottom) + half - _F(0.5)
    first = max(x0, np.int64(np.ceil(max(low, _F(-1.0)))))
    return first, min(x1, np.int64(np.floor(min(high, _F(x1)))))


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
def _blend(span, order, records, image, open_bits, size, pixels_open):
    """Blend splats in the given order, each over its box, until no pixel is open; returns how many are.

    `span` is the first splat of the order, one past the last, and how many there are in all (to ask for records ahead). Half of
    the splats of an outdoor image fit into two rows of four pixels, most of the others into four. Only flat arrays, scalars and
    intrinsics here: views and functions of arrays would count references.
    """
    width, height, stride, words = size
    first_splat, last_splat, count = span
    colors, depths = image
    worth_testing = (3 * width * height) // 4
    for i in range(first_splat, last_splat):
        # Records lie in the order of the atlas, all over the L2 cache.
        lanes.prefetch(records, np.int64(order[min(i + _AHEAD, count - 1)]) * _RECORD)
        at = np.int64(order[i]) * _RECORD
        xs, ys = lanes.float_bits(records[np.uintp(at + 7)]), lanes.float_bits(records[np.uintp(at + 8)])
        x0, x1, y0, y1 = np.int64(xs & 0xFFFF), np.int64(xs >> 16), np.int64(ys & 0xFFFF), np.int64(ys >> 16)
        u, v, z = records[np.uintp(at)], records[np.uintp(at + 1)], records[np.uintp(at + 2)]
        slope, falloff = records[np.uintp(at + 3)], records[np.uintp(at + 4)]
        row_falloff, log2_opacity = records[np.uintp(at + 5)], records[np.uintp(at + 6)]
        r, g, b = records[np.uintp(at + 10)], records[np.uintp(at + 11)], records[np.uintp(at + 12)]
        # Pixels rarely close outdoors: tests only pay once a good part of them has.
        testing = pixels_open < worth_testing
        if x1 - x0 < lanes.BLOCK and y1 - y0 < 2:
            if (
                testing
                and lanes.open_flat_block(open_bits, y0 * words + (x0 >> 6), words, np.uint64(x0 & 63)) == 0
            ):
                continue
            finished = lanes.blend_flat_block(
                colors, depths, y0 * stride + x0, stride, _F(x0) + _F(0.5) - u, _F(y0) + _F(0.5) - v,
                slope, falloff, row_falloff, log2_opacity, r, g, b, z, _MAX_ALPHA, _MIN_ALPHA, _MIN_T,
            )  # fmt: skip
            if finished != 0:
                pixels_open -= _close(finished, x0, y0, image, open_bits, size)
        else:
            single = x1 - x0 < lanes.BLOCK and y1 - y0 < lanes.BLOCK
            for y in range(y0, y1 + 1, lanes.BLOCK):
                first, last = x0, x1
                if not single:
                    first, last = _block_columns(y, u, v, slope, falloff, row_falloff, log2_opacity, x0, x1)
                for x in range(first, last + 1, lanes.BLOCK):
                    if (
                        testing
                        and lanes.open_block(open_bits, y * words + (x >> 6), words, np.uint64(x & 63)) == 0
                    ):
                        continue
                    finished = lanes.blend_block(
                        colors, depths, y * stride + x, stride, _F(x) + _F(0.5) - u, _F(y) + _F(0.5) - v,
                        slope, falloff, row_falloff, log2_opacity, r, g, b, z, _MAX_ALPHA, _MIN_ALPHA, _MIN_T,
                    )  # fmt: skip
                    if finished != 0:
                        pixels_open -= _close(finished, x, y, image, open_bits, size)
        if pixels_open == 0:
            break
    return pixels_open


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _blend_before_surfaces(splats, surfaces, records, image, open_bits, size):
    """Blend each pixel's splats as far as those that lie before its opaque surface, if it has one.

    Splats and surfaces are both sorted by depth: between two surfaces runs `_blend`, and a pixel whose surface has been
    reached is finished like one whose transmittance is used up. Without surfaces that is one run over all splats.
    """
    count, order, keys = splats
    covered, pixels, surface_order, surface_keys = surfaces
    width, height, _stride, _words = size
    pixels_open = width * height
    first = 0
    for s in range(covered + 1):
        last = count
        if s < covered:
            last = first
            while last < count and keys[last] < surface_keys[s]:
                last += 1
        if last > first:
            pixels_open = _blend((first, last, count), order, records, image, open_bits, size, pixels_open)
            first = last
        if s == covered or pixels_open == 0:
            break
        pixel = pixels[surface_order[s]]
        pixels_open -= _close(np.uint64(1), pixel % width, pixel // width, image, open_bits, size)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _show_surfaces(covered, pixels, layer, image, width, stride):
    """Let the transmittance that is left at the opaque surfaces show them; an owner that is mostly veiled gives its pixel up."""
    _, _, _, depth, rgb, owner = layer
    colors, depths = image
    for s in range(covered):
        pixel = pixels[s]
        p = (pixel // width) * stride + pixel % width
        at = lanes.CHANNELS * p
        left = abs(colors[at])
        colors[at] = _F(0.0)
        for c in range(3):
            colors[at + 1 + c] += left * rgb[3 * pixel + c]
        depths[p] += left * _F(depth[pixel])
        if left <= _F(0.5):
            owner[pixel] = -1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _write_seen(tile, covered, owner, seen):
    """Say which instance each pixel of a tile shows; the owners of a tile without surfaces are not filled."""
    for y in range(tile[3]):
        for x in range(tile[2]):
            seen[tile[1] + y, tile[0] + x] = owner[y * tile[2] + x] if covered > 0 else -1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _write(tile, stride, image, background, rgb, depth, alpha):
    """Turn the buffers of a tile into output pixels."""
    colors, depths = image
    for y in range(tile[3]):
        for x in range(tile[2]):
            at = lanes.CHANNELS * (y * stride + x)
            left = abs(colors[at])
            a = _F(1.0) - left
            for c in range(3):
                value = colors[at + 1 + c] + left * background[c]
                rgb[tile[1] + y, tile[0] + x, c] = np.uint8(
                    min(max(value, _F(0.0)), _F(1.0)) * _F(255.0) + _F(0.5)
                )
            alpha[tile[1] + y, tile[0] + x] = a
            depth[tile[1] + y, tile[0] + x] = depths[y * stride + x] / a if a > _F(0.0) else _F(0.0)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _tan_limits(k, size, tan_limit):
    """The Jacobian's clamp `[6]`: lowest, highest x/z, `sqrt(1 + largest²)`, and the same of y/z."""
    for axis in range(2):
        focal, centre, extent = k[axis, axis], k[axis, 2], size[axis]
        margin = oracle.TAN_MARGIN * 0.5 * extent / focal
        low, high = -(centre / focal + margin), (extent - centre) / focal + margin
        steepest = max(abs(low), abs(high))
        tan_limit[3 * axis], tan_limit[3 * axis + 1] = low, high
        tan_limit[3 * axis + 2] = np.sqrt(1.0 + steepest * steepest)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _project_scene(
    chunks,
    levels,
    bounds,
    source,
    splats,
    rest_offset,
    num_rest,
    view,
    k,
    near,
    tan_limit,
    tile,
    antialiased,
    camera,
    changes,
    scratch,
):
    """Cull, choose levels, project, colour and collect one camera's splats; returns how many."""
    xyz, out, box, records, keys, numbers, directions, weights, colors, shape, bands = scratch
    skip, errors_m, threshold_px = levels
    means, shapes, base_colors, rest = splats
    focal = max(k[0, 0], k[1, 1])
    count, next_chunk = 0, chunks[0]
    while next_chunk < chunks[1]:
        chunk = next_chunk
        visible = _chunk_visible(bounds[chunk], view, k, near, tan_limit, tile)
        drawn = visible and _detailed_enough(bounds[chunk], errors_m[chunk], view, focal, threshold_px)
        next_chunk += 1 if visible and not drawn else skip[chunk]
        if drawn:
            places = means[chunk * 3 * CHUNK : (chunk + 1) * 3 * CHUNK]
            _widen(shapes, chunk * NUM_SHAPE * CHUNK, NUM_SHAPE * CHUNK, shape)
            _camera_points(places, view, xyz)
            _project_chunk(shape, xyz, view, k, near, tan_limit, tile, antialiased, out, box)
            _widen(base_colors, 3 * CHUNK * chunk, 3 * CHUNK, colors)
            if num_rest > 0:
                _directions(places, view, directions)
                _widen(
                    rest,
                    rest_offset + 3 * CHUNK * num_rest * (chunk - chunks[0]),
                    3 * CHUNK * num_rest,
                    bands,
                )
                harmonics.add_bands(directions, bands, 0, num_rest, weights, colors)
            if len(changes[0]) > 0:
                _widen(base_colors, 3 * CHUNK * chunk, 3 * CHUNK, bands)
                edits.edit_chunk(camera, changes, bounds[chunk], places, shape, bands, view, colors)
            count = _collect(out, box, colors, chunk * CHUNK, source, count, records, keys, numbers)
    return count


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _draw_objects(camera, instances, view, k, near, tile, histogram, scratch):
    """Draw a camera's objects and sort the pixels that show one by its depth; returns how many do."""
    offsets, object_ids, poses_w, objects, _ = instances
    layer, (pixels, order, keys, pairs) = scratch
    if len(offsets) == 0 or offsets[camera] == offsets[camera + 1]:
        return 0
    zbuffer.draw_instances(
        offsets[camera], offsets[camera + 1], object_ids, poses_w, objects, view, k, near, tile, layer
    )
    covered = zbuffer.list_covered(tile[2] * tile[3], layer[3], pixels, keys)
    _sort(keys, covered, order, pairs, histogram)
    return covered


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _render_jobs(
    counter,
    jobs,
    cameras,
    atlas,
    instances,
    changes,
    size,
    near,
    antialiased,
    background,
    frames,
    extra,
    scratch,
    visible,
):
    """Take jobs (camera, tile) from the queue until it is empty."""
    c2w, ks, scene_ids, sizes = cameras
    chunk_ranges, bounds, skip, errors_m, thresholds_px, source, splats, rest_offsets, num_rest = atlas
    projection, (order, pairs, histogram), (image, open_bits, view, tan_limit), sums, surfaces = scratch
    records, keys, numbers = projection[3], projection[4], projection[5]
    layer, (pixels, surface_order, surface_keys, _) = surfaces
    seen = instances[4]
    while True:
        job = lanes.next_job(counter)
        if job >= len(jobs):
            break
        camera, tile = jobs[job, 0], jobs[job, 1:]
        scene, k = scene_ids[camera], ks[camera]
        chunks = (chunk_ranges[scene, 0], chunk_ranges[scene, 1])
        _view(c2w[camera], view)
        _tan_limits(k, sizes[camera], tan_limit)
        count = _project_scene(
            chunks, (skip, errors_m, thresholds_px[scene]), bounds, source, splats, rest_offsets[scene], num_rest[scene],
            view, k, near, tan_limit, tile, antialiased, camera, changes, projection,
        )  # fmt: skip
        visible[job] = count
        _sort(keys, count, order, pairs, histogram)
        _break_ties(keys, count, order, numbers)
        covered = _draw_objects(camera, instances, view, k, near, tile, histogram, surfaces)
        picture = (tile[2], tile[3], size[2], tile[2] // 64 + 2)
        _clear(picture[1], picture[0], picture[2], picture[3], image, open_bits)
        _blend_before_surfaces(
            (count, order, keys),
            (covered, pixels, surface_order, surface_keys),
            records,
            image,
            open_bits,
            picture,
        )
        if extra[2]:
            _blend_channels(
                camera,
                tile,
                (count, order, records),
                covered,
                layer[3],
                extra,
                splats,
                changes,
                view,
                k,
                sums,
            )
        _show_surfaces(covered, pixels, layer, image, tile[2], size[2])
        if len(seen) > 0:
            _write_seen(tile, covered, layer[5], seen[camera])
        _write(tile, size[2], image, background, frames[0][camera], frames[1][camera], frames[2][camera])
        if len(extra[1][0]) > 0:
            _write_float(tile, size[2], image, background, extra[1][0][camera])
        if extra[2]:
            channels.write_channels(camera, tile, sums[5], frames[2][camera], sums, extra[1])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _blend_channels(
    camera, tile, sorted_splats, covered, surface_depth, extra, splats, changes, view, k, sums
):
    """Blend what is wanted beside the colours of a tile."""
    count, order, records = sorted_splats
    tables, arrays, _ = extra
    closing = sums[5]
    for p in range(tile[2] * tile[3]):
        closing[p] = _F(surface_depth[p]) if covered > 0 else _F(np.inf)
    wanted = (len(arrays[2]) > 0, len(arrays[3]) > 0, arrays[4].shape[3] if len(arrays[4]) > 0 else 0)
    channels.blend_channels(
        count,
        order,
        records,
        tables,
        splats[0],
        splats[1],
        (camera, changes),
        view,
        k,
        tile,
        closing,
        wanted,
        sums,
    )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _write_float(tile, stride, image, background, rgb):
    """As `_write`, the colours alone and not rounded."""
    colors, _ = image
    for y in range(tile[3]):
        for x in range(tile[2]):
            at = lanes.CHANNELS * (y * stride + x)
            left = abs(colors[at])
            for c in range(3):
                value = colors[at + 1 + c] + left * background[c]
                rgb[tile[1] + y, tile[0] + x, c] = min(max(value, _F(0.0)), _F(1.0))


def tile_grid(width: int, height: int) -> NDArray[np.int64]:
    """Cut an image into tiles of at most `MAX_TILE_PIXELS`: `[T, 4]` as x, y, width, height."""
    columns = rows = 1
    while -(-width // columns) * -(-height // rows) > MAX_TILE_PIXELS:
        if width / columns > height / rows:
            columns += 1
        else:
            rows += 1
    xs = np.linspace(0, width, columns + 1).round().astype(np.int64)
    ys = np.linspace(0, height, rows + 1).round().astype(np.int64)
    return np.array(
        [(xs[i], ys[j], xs[i + 1] - xs[i], ys[j + 1] - ys[j]) for j in range(rows) for i in range(columns)],
        np.int64,
    )


def _object_arrays(objects: ObjectSet) -> tuple[NDArray[Any], ...]:
    """Arrays of an object set in the kernel's order."""
    return (
        objects.vertices_o, objects.faces, objects.colors, objects.vertex_offsets, objects.face_offsets,
        objects.bounds_o, objects.light,
    )  # fmt: skip


def _object_scratch(num_vertices: int, num_pixels: int) -> tuple[Any, ...]:
    """One thread's buffers for the largest object and a tile's pixels."""
    layer = (
        np.empty(12, np.float64),
        np.empty((num_vertices, 5), np.float64),
        np.empty((num_vertices, 4), np.int64),
        np.empty(num_pixels, np.float64),
        np.empty(3 * num_pixels, np.float32),
        np.empty(num_pixels, np.int32),
    )
    sort = (
        np.empty(num_pixels, np.int64),
        np.empty(num_pixels, np.int32),
        np.empty(num_pixels, np.uint32),
        np.empty(num_pixels, np.uint64),
    )
    return layer, sort


def _channel_scratch(num_pixels: int, num_features: int) -> tuple[Any, ...]:
    """One thread's buffers for the channels of a tile's pixels."""
    return (
        np.empty(num_pixels, np.float32),
        np.empty(num_pixels, np.float32),
        np.empty(num_pixels, np.int32),
        np.empty((num_pixels, 3 + num_features), np.float32),
        np.empty(3 + num_features, np.float32),
        np.empty(num_pixels, np.float32),
    )


_NO_CHANNELS = ChannelArrays(
    np.zeros((0, 0, 0, 3), np.float32), np.zeros((0, 0, 0), np.float32), np.zeros((0, 0, 0, 3), np.float32),
    np.zeros((0, 0, 0), np.int32), np.zeros((0, 0, 0, 0), np.float32),
)  # fmt: skip
_NO_INSTANCES = (
    np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4, 4)), _object_arrays(build_objects([])),
    np.zeros((0, 0, 0), np.int32),
)  # fmt: skip


class CpuRasterizer:
    """Renders batches of cameras from an atlas with all cores; owns the threads and their scratch memory.

    Args:
        atlas: The scenes.
        width: Image width [px].
        height: Image height [px].
        near: Nearest depth of a splat's mean [m].
        antialiased: Whether to compensate opacities for the low-pass.
        num_threads: Threads; default: as many as the process may run on.
    """

    def __init__(
        self,
        atlas: Atlas,
        width: int,
        height: int,
        *,
        near: float,
        antialiased: bool,
        num_threads: int | None = None,
    ) -> None:
        self.atlas, self.width, self.height = atlas, width, height
        self.near, self.antialiased = float(near), antialiased
        self.num_threads = num_threads or available_cores()
        self.tiles = tile_grid(width, height)
        self.num_visible = np.zeros(0, np.int64)
        self._stride = int(self.tiles[:, 2].max()) + lanes.BLOCK
        halves = (
            array.reshape(-1).view(np.uint16) for array in (atlas.shapes, atlas.base_colors, atlas.rest)
        )
        self._atlas_arrays = (
            atlas.chunk_ranges, atlas.bounds_w, atlas.skip, atlas.errors_m, atlas.thresholds_px, atlas.source,
            (atlas.means.reshape(-1), *halves), atlas.rest_offsets, atlas.num_rest,
        )  # fmt: skip
        self._object_vertices = (
            -1
        )  # of the largest object that the scratch memory holds; none before objects come
        self._num_features = -1  # that the scratch memory holds sums for; -1: for no channels at all
        self._tables = (np.zeros(0, np.int32), np.zeros((0, 0), np.float32))
        self._scratch = [
            (*self._make_scratch(), _channel_scratch(0, 0), _object_scratch(0, 0))
            for _ in range(self.num_threads)
        ]
        self._counter = np.zeros(1, np.int64)
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = -1
        self._compile()

    def _compile(self) -> None:
        """Compile by rendering nothing, in one thread: numba can deadlock when two threads compile the same function."""
        none = np.zeros(0, np.int64)
        frames = (
            np.zeros((0, self.height, self.width, 3), np.uint8),
            np.zeros((0, self.height, self.width), np.float32),
            np.zeros((0, self.height, self.width), np.float32),
        )
        with _COMPILING:
            self.render(np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), none, none, np.zeros(3, np.float32), frames)

    def _make_scratch(self) -> tuple[Any, ...]:
        """Buffers of one thread, sized for the largest scene."""
        most = max(self.atlas.max_chunks, 1) * CHUNK + _RECORD  # more, since `_collect` writes ahead
        tile_height = int(self.tiles[:, 3].max())
        words = int(self.tiles[:, 2].max()) // 64 + 2
        projection = (
            np.empty(3 * CHUNK, np.float32),
            np.empty(_NUM_PROJECTED * CHUNK, np.float32),
            np.empty(_NUM_BOX * CHUNK, np.int32),
            np.empty(most * _RECORD, np.float32),
            np.empty(most, np.uint32),
            np.empty(most, np.int32),
            np.empty(3 * CHUNK, np.float32),
            np.empty(15 * CHUNK, np.float32),
            np.empty(3 * CHUNK, np.float32),
            np.empty(NUM_SHAPE * CHUNK, np.float32),
            np.empty(3 * 15 * CHUNK, np.float32),
        )
        sort = (
            np.empty(most, np.int32),
            np.empty(most, np.uint64),
            np.zeros(_HISTOGRAM, np.int32),
        )
        picture = (
            (
                np.empty((tile_height + lanes.BLOCK) * lanes.CHANNELS * self._stride, np.float32),
                np.empty((tile_height + lanes.BLOCK) * self._stride, np.float32),
            ),
            np.empty((tile_height + lanes.BLOCK) * words, np.uint64),
            np.empty(12, np.float64),
            np.empty(6, np.float64),
        )
        return projection, sort, picture

    def render(
        self,
        c2w: NDArray[np.float64],
        ks: NDArray[np.float64],
        scene_ids: NDArray[np.int64],
        cameras: NDArray[np.int64],
        background: NDArray[np.float32],
        frames: tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]],
        objects: Instances | None = None,
        seen: NDArray[np.int32] | None = None,
        changes: SceneEdits | None = None,
        extra: ChannelArrays | None = None,
        sizes: NDArray[np.int64] | None = None,
    ) -> None:
        """Render the chosen cameras into `frames`.

        Args:
            c2w: Camera to world `[C, 4, 4]`.
            ks: Calibration matrices `[C, 3, 3]` [px].
            scene_ids: Scene of each camera `[C]`.
            cameras: Which cameras to render, indices into C.
            background: Linear RGB `[3]`.
            frames: rgb `[C, H, W, 3]`, depth `[C, H, W]`, alpha `[C, H, W]`; other cameras stay as they are.
            objects: Opaque objects, as `gaussgym_render.objects.check_instances` gives them.
            seen: Filled with the instance that makes up most of each pixel `[C, H, W]`, -1 where none does; None: not wanted.
            changes: Edits, as `gaussgym_render.edits.check_edits` gives them.
            extra: More outputs to fill.
            sizes: Width and height of each camera's image, the top left part of its frame `[C, 2]`; None: all of it.
        """
        # Cameras of one scene follow each other: its splats stay in the cache.
        cameras = cameras[np.argsort(scene_ids[cameras], kind="stable")]
        jobs = np.empty((len(cameras) * len(self.tiles), 5), np.int64)
        jobs[:, 0] = np.repeat(cameras, len(self.tiles))
        jobs[:, 1:] = np.tile(self.tiles, (len(cameras), 1))
        if sizes is None:
            sizes = np.tile(np.array([self.width, self.height], np.int64), (len(c2w), 1))
        else:
            jobs[:, 3:] = np.minimum(jobs[:, 3:], sizes[jobs[:, 0]] - jobs[:, 1:3])
            jobs = np.ascontiguousarray(jobs[(jobs[:, 3:] > 0).all(1)])
        self.num_visible = np.zeros(len(jobs), np.int64)
        self._counter[0] = 0
        size = np.array([self.width, self.height, self._stride], np.int64)
        # Copies, since read-only or strided inputs would be another type to numba and compile again.
        views = (
            np.array(c2w, np.float64, order="C"),
            np.array(ks, np.float64, order="C"),
            np.array(scene_ids, np.int64, order="C"),
            np.array(sizes, np.int64, order="C"),
        )
        background = np.array(background, np.float32, order="C")
        instances = self._instances(objects, seen)
        edit_arrays = edits.kernel_arrays(changes)
        more = self._channels(extra)

        def work(thread: int) -> None:
            _render_jobs(
                self._counter, jobs, views, self._atlas_arrays, instances, edit_arrays, size, self.near,
                self.antialiased, background, frames, more, self._scratch[thread], self.num_visible,
            )  # fmt: skip

        threads = min(self.num_threads, len(jobs))
        futures = [self._executor().submit(work, thread) for thread in range(1, threads)]
        work(0)
        for future in futures:
            future.result()

    def set_channels(
        self, labels: Sequence[NDArray[np.int32] | None], features: Sequence[NDArray[np.float32]] | None
    ) -> None:
        """Say what the outputs `labels` and `features` are made of.

        Args:
            labels: Of each scene's splats `[N]`, None for none.
            features: Of each scene's splats `[N, F]`; None: there are none.
        """
        table = np.zeros(0, np.int32)
        if any(own is not None for own in labels):
            table = channels.by_slot(self.atlas, labels, (), np.int32, -1)
        width = 0 if features is None else features[0].shape[1]
        values = np.zeros((0, 0), np.float32)
        if features is not None:
            values = channels.by_slot(self.atlas, features, (width,), np.float32, 0.0)
        self._tables = table, values

    def set_label_table(self, labels: NDArray[np.int32]) -> None:
        """Labels by the atlas's slot `[slots]`, -1 for none, read as they are when a call renders; instead of `set_channels`."""
        self._tables = labels, self._tables[1]

    def _channels(self, extra: ChannelArrays | None) -> tuple[Any, ...]:
        """Tables, outputs and whether channels are to be blended, as the kernel takes them; makes room for their sums."""
        if extra is None:
            return self._tables, _NO_CHANNELS.astuple(), False
        arrays = extra.astuple()
        blended = any(len(array) > 0 for array in arrays[1:])
        width = self._tables[1].shape[1]
        if blended and width != self._num_features:
            self._num_features = width
            pixels = int((self.tiles[:, 2] * self.tiles[:, 3]).max())
            self._scratch = [
                (*scratch[:-2], _channel_scratch(pixels, width), scratch[-1]) for scratch in self._scratch
            ]
        return self._tables, arrays, blended

    def _instances(self, objects: Instances | None, seen: NDArray[np.int32] | None) -> tuple[Any, ...]:
        """The objects and where to say which is seen, as the kernel takes them; makes room for the largest object."""
        if objects is None:
            return _NO_INSTANCES
        if objects.objects.max_vertices > self._object_vertices:
            self._object_vertices = objects.objects.max_vertices
            pixels = int((self.tiles[:, 2] * self.tiles[:, 3]).max())
            self._scratch = [
                (*scratch[:-1], _object_scratch(self._object_vertices, pixels)) for scratch in self._scratch
            ]
        arrays = _object_arrays(objects.objects)
        seen = _NO_INSTANCES[4] if seen is None else seen
        return objects.camera_offsets, objects.object_ids, objects.poses_w, arrays, seen

    def _executor(self) -> ThreadPoolExecutor:
        """The worker threads; a forked child has none of its parent's and starts its own."""
        if self._pool is None or self._pool_pid != os.getpid():
            self._pool = ThreadPoolExecutor(max(self.num_threads - 1, 1), thread_name_prefix="splats")
            self._pool_pid = os.getpid()
        return self._pool


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
