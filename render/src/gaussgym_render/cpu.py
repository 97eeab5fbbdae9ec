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

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gaussgym_render import harmonics, lanes, oracle
from gaussgym_render.atlas import CHUNK, Atlas

MAX_TILE_PIXELS = 26000
"""Above this many pixels an image is cut into tiles, so that a tile's buffers (20 B a pixel) stay in the L2 cache."""

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
_NUM_PROJECTED = 8  # u, v, z, slope, falloff, row falloff, log2 of the opacity, spare
_NUM_BOX = 5  # x0, x1, y0, y1, slot
_RADIX_BITS = 11
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


@numba.njit(inline="always", fastmath=_FLAGS)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True, fastmath=_FLAGS)
def _camera_points(planes, view, xyz):
    """Means of a chunk in the camera frame, rounded from float64: their depth order is the oracle's, bit by bit."""
    for i in range(CHUNK):
        dx = np.float64(planes[0, i]) - view[9]
        dy = np.float64(planes[1, i]) - view[10]
        dz = np.float64(planes[2, i]) - view[11]
        xyz[0, i] = _F(view[0] * dx + view[1] * dy + view[2] * dz)
        xyz[1, i] = _F(view[3] * dx + view[4] * dy + view[5] * dz)
        xyz[2, i] = _F(view[6] * dx + view[7] * dy + view[8] * dz)


@numba.njit(cache=True, nogil=True, fastmath=_FLAGS)
def _project_chunk(planes, xyz, view, k, near, tan_limit, tile, antialiased, out, box):
    """EWA projection of a chunk, branch-free so that LLVM vectorizes it.

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
        z = max(xyz[2, i], z_near)
        rz = _F(1.0) / z
        tx, ty = xyz[0, i] * rz, xyz[1, i] * rz
        u, v = fx * tx + cx - tile_x, fy * ty + cy - tile_y
        tx, ty = min(max(tx, lo_x), hi_x), min(max(ty, lo_y), hi_y)
        sx, sy = fx * rz, fy * rz
        m0, m1, m2 = sx * (r0 - tx * r6), sx * (r1 - tx * r7), sx * (r2 - tx * r8)
        n0, n1, n2 = sy * (r3 - ty * r6), sy * (r4 - ty * r7), sy * (r5 - ty * r8)
        a0 = m0 * planes[3, i] + m1 * planes[6, i] + m2 * planes[9, i]
        a1 = m0 * planes[4, i] + m1 * planes[7, i] + m2 * planes[10, i]
        a2 = m0 * planes[5, i] + m1 * planes[8, i] + m2 * planes[11, i]
        b0 = n0 * planes[3, i] + n1 * planes[6, i] + n2 * planes[9, i]
        b1 = n0 * planes[4, i] + n1 * planes[7, i] + n2 * planes[10, i]
        b2 = n0 * planes[5, i] + n1 * planes[8, i] + n2 * planes[11, i]
        cxx, cxy, cyy = a0 * a0 + a1 * a1 + a2 * a2, a0 * b0 + a1 * b1 + a2 * b2, b0 * b0 + b1 * b1 + b2 * b2
        e0, e1, e2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
        det = e0 * e0 + e1 * e1 + e2 * e2
        det_blur = det + _EPS_2D * (cxx + cyy) + _EPS_2D * _EPS_2D
        cxx, cyy = cxx + _EPS_2D, cyy + _EPS_2D
        opacity = planes[12, i] * np.sqrt(max(det / det_blur, floor_ratio))
        log2_opacity = _log2(max(opacity, _F(1e-20)))
        extent_sq = _F(2.0) * _LN2 * max(log2_opacity - _LOG2_MIN_ALPHA, _F(0.0))
        hx, hy = np.sqrt(extent_sq * cxx) + _SLACK_PX, np.sqrt(extent_sq * cyy) + _SLACK_PX
        keep = (opacity >= _MIN_ALPHA) & (xyz[2, i] >= z_near)
        x0, x1 = np.ceil(u - hx - _F(0.5)), np.floor(u + hx - _F(0.5))
        y0, y1 = np.ceil(v - hy - _F(0.5)), np.floor(v + hy - _F(0.5))
        x0, x1 = min(max(x0, _F(0.0)), last_x + _F(1.0)), max(min(x1, last_x), _F(-1.0))
        y0, y1 = min(max(y0, _F(0.0)), last_y + _F(1.0)), max(min(y1, last_y), _F(-1.0))
        keep &= (x0 <= x1) & (y0 <= y1)
        out[0, i], out[1, i], out[2, i] = u, v, xyz[2, i]
        out[3, i] = cxy / cyy
        out[4, i] = _F(0.5) * _LOG2E * cyy / det_blur
        out[5, i] = _F(0.5) * _LOG2E / cyy
        out[6, i] = log2_opacity
        box[0, i], box[1, i] = np.int32(x0), np.int32(x1)
        box[2, i], box[3, i] = np.int32(y0), np.int32(y1)
        box[4, i] = np.int32(keep)


@numba.njit(cache=True, nogil=True)
def _collect(out, box, first_slot, count, records, boxes, keys):
    """Append a chunk's visible splats to the camera's list; returns the new length."""
    for i in range(CHUNK):
        if box[4, i] != 0:
            for j in range(7):
                records[count, j] = out[j, i]
            for j in range(4):
                boxes[count, j] = box[j, i]
            boxes[count, 4] = first_slot + i
            keys[count] = np.uint32(lanes.float_bits(out[2, i]))
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _sort(keys, count, order, keys_b, order_b, histogram):
    """Stable radix sort of positive float32 bits; fills `order[:count]`, and leaves the keys sorted in `keys`."""
    low, high = np.uint32(0xFFFFFFFF), np.uint32(0)
    for i in range(count):
        low, high = min(low, keys[i]), max(high, keys[i])
        order[i] = i
    spread = high - low if count > 0 else np.uint32(0)
    bits = 0
    while bits < 32 and (spread >> np.uint32(bits)) != 0:
        bits += 1
    passes = (bits + _RADIX_BITS - 1) // _RADIX_BITS
    if passes == 0:
        return
    width = (bits + passes - 1) // passes
    mask = np.uint32((1 << width) - 1)
    for p in range(passes):
        shift = np.uint32(p * width)
        src_k, src_o, dst_k, dst_o = (
            (keys, order, keys_b, order_b) if p % 2 == 0 else (keys_b, order_b, keys, order)
        )
        histogram[: 1 << width] = 0
        for i in range(count):
            histogram[((src_k[i] - low) >> shift) & mask] += 1
        total = 0
        for b in range(1 << width):
            total, histogram[b] = total + histogram[b], total
        for i in range(count):
            b = ((src_k[i] - low) >> shift) & mask
            at = histogram[b]
            histogram[b] = at + 1
            dst_k[at], dst_o[at] = src_k[i], src_o[i]
    if passes % 2 == 1:
        for i in range(count):
            keys[i], order[i] = keys_b[i], order_b[i]


@numba.njit(cache=True, nogil=True)
def _break_ties(keys, count, order, boxes, source):
    """Put splats of equal depth into the order of the input (they come in the atlas's)."""
    start = 0
    for i in range(1, count + 1):
        if i < count and keys[i] == keys[start]:
            continue
        if i - start > 1:
            run = order[start:i]
            slots = np.empty(len(run), np.int32)
            for j in range(len(run)):
                slots[j] = source[boxes[run[j], 4]]
            run[:] = run[np.argsort(slots)]
        start = i


@numba.njit(cache=True, nogil=True)
def _clear(height, width, stride, image, open_bits):
    """Reset the buffers to an empty image with every pixel open."""
    words = open_bits.shape[1]
    for y in range(height):
        row = y * lanes.CHANNELS * stride
        for x in range(stride):
            image[row + x] = _F(1.0)
        for x in range(stride, lanes.CHANNELS * stride):
            image[row + x] = _F(0.0)
        for w in range(words):
            rest = width - 64 * w
            if rest >= 64:
                open_bits[y, w] = np.uint64(0xFFFFFFFFFFFFFFFF)
            elif rest > 0:
                open_bits[y, w] = (np.uint64(1) << np.uint64(rest)) - np.uint64(1)
            else:
                open_bits[y, w] = np.uint64(0)


@numba.njit(cache=True, nogil=True, inline="always")
def _open_lanes(open_bits, y, x):
    """Which of the eight pixels from x on are open; the row has a spare word at its end."""
    word, shift = x >> 6, np.uint64(x & 63)
    low = open_bits[y, word] >> shift
    high = (open_bits[y, word + 1] << np.uint64(1)) << (np.uint64(63) - shift)
    return (low | high) & np.uint64(0xFF)


@numba.njit(cache=True, nogil=True, inline="always")
def _close(open_bits, y, x, finished):
    """Mark lanes as finished; returns how many of them were open."""
    newly = finished & _open_lanes(open_bits, y, x)
    word, shift = x >> 6, np.uint64(x & 63)
    open_bits[y, word] &= ~(newly << shift)
    open_bits[y, word + 1] &= ~((newly >> np.uint64(1)) >> (np.uint64(63) - shift))
    count = 0
    while newly != 0:
        newly &= newly - np.uint64(1)
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _any_open(open_bits, x0, x1, y0, y1):
    """Whether a box holds an open pixel."""
    first, last = x0 >> 6, x1 >> 6
    left = np.uint64(0xFFFFFFFFFFFFFFFF) << np.uint64(x0 & 63)
    right = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(63 - (x1 & 63))
    if first == last:
        found = np.uint64(0)
        for y in range(y0, y1 + 1):
            found |= open_bits[y, first]
        return (found & left & right) != 0
    for y in range(y0, y1 + 1):
        found = (open_bits[y, first] & left) | (open_bits[y, last] & right)
        for w in range(first + 1, last):
            found |= open_bits[y, w]
        if found != 0:
            return True
    return False


@numba.njit(cache=True, nogil=True)
def _splat_color(slot, slot_in_scene, base_colors, rest, rest_offset, num_rest, planes, view, rgb):
    """Colour of a splat seen from the camera centre, into `rgb [3]`."""
    for c in range(3):
        rgb[c] = base_colors[slot, c]
    if num_rest > 0:
        i, chunk = slot % CHUNK, slot // CHUNK
        dx, dy, dz = (
            np.float64(planes[chunk, 0, i]) - view[9],
            np.float64(planes[chunk, 1, i]) - view[10],
            np.float64(planes[chunk, 2, i]) - view[11],
        )
        scale = 1.0 / np.sqrt(dx * dx + dy * dy + dz * dz)
        start = rest_offset + slot_in_scene * 3 * num_rest
        coefficients = rest[start : start + 3 * num_rest]
        harmonics.add_bands(_F(dx * scale), _F(dy * scale), _F(dz * scale), coefficients, num_rest, rgb)
    for c in range(3):
        rgb[c] = max(rgb[c], _F(0.0))


@numba.njit(cache=True, nogil=True, fastmath=_FLAGS)
def _blend_splat(record, box, rgb, image, stride, open_bits):
    """Blend one splat over the rows of its ellipse; returns how many pixels it finished.

    Per row the exponent is written as `log2_peak - falloff·(x - centre)²`, a square completed in x: sums of squares do not
    cancel, however elongated the splat.
    """
    u, v, z, slope, falloff, row_falloff, log2_opacity = (
        record[0], record[1], record[2], record[3], record[4], record[5], record[6],
    )  # fmt: skip
    x0, x1 = np.int64(box[0]), np.int64(box[1])
    closed = 0
    for y in range(np.int64(box[2]), np.int64(box[3]) + 1):
        dy = _F(y) + _F(0.5) - v
        log2_peak = log2_opacity - row_falloff * dy * dy
        above = log2_peak - _LOG2_MIN_ALPHA
        if above < _F(-1e-4):
            continue
        centre = u + slope * dy
        first, last = x0, x1
        if x1 - x0 >= lanes.LANES:
            half = np.sqrt(max(above, _F(0.0)) / falloff) + _SLACK_PX
            first = max(x0, np.int64(np.ceil(max(centre - half - _F(0.5), _F(-1.0)))))
            last = min(x1, np.int64(np.floor(min(centre + half - _F(0.5), _F(x1)))))
        base = y * lanes.CHANNELS * stride
        for x in range(first, last + 1, lanes.LANES):
            if _open_lanes(open_bits, y, x) != 0:
                finished = lanes.blend(
                    image, base + x, stride, _F(x) + _F(0.5) - centre, falloff, log2_peak,
                    rgb[0], rgb[1], rgb[2], z, _MAX_ALPHA, _MIN_ALPHA, _MIN_T,
                )  # fmt: skip
                if finished != 0:
                    closed += _close(open_bits, y, x, finished)
    return closed


@numba.njit(cache=True, nogil=True)
def _write(tile, stride, image, background, rgb, depth, alpha):
    """Turn the buffers of a tile into output pixels."""
    for y in range(tile[3]):
        row = y * lanes.CHANNELS * stride
        for x in range(tile[2]):
            left = abs(image[row + x])
            a = _F(1.0) - left
            for c in range(3):
                value = image[row + (c + 1) * stride + x] + left * background[c]
                rgb[tile[1] + y, tile[0] + x, c] = np.uint8(
                    min(max(value, _F(0.0)), _F(1.0)) * _F(255.0) + _F(0.5)
                )
            alpha[tile[1] + y, tile[0] + x] = a
            depth[tile[1] + y, tile[0] + x] = image[row + 4 * stride + x] / a if a > _F(0.0) else _F(0.0)


@numba.njit(cache=True, nogil=True)
def _project_scene(
    chunk_first, chunk_last, bounds, planes, view, k, near, tan_limit, tile, antialiased, scratch
):
    """Cull, project and collect one camera's splats; returns how many."""
    xyz, out, box, records, boxes, keys = scratch
    count = 0
    for chunk in range(chunk_first, chunk_last):
        if _chunk_visible(bounds[chunk], view, k, near, tan_limit, tile):
            _camera_points(planes[chunk], view, xyz)
            _project_chunk(planes[chunk], xyz, view, k, near, tan_limit, tile, antialiased, out, box)
            count = _collect(out, box, chunk * CHUNK, count, records, boxes, keys)
    return count


@numba.njit(cache=True, nogil=True)
def _render_jobs(
    counter, jobs, c2w, ks, scene_ids, atlas, size, near, antialiased, background, frames, scratch, visible
):
    """Take jobs (camera, tile) from the queue until it is empty."""
    chunk_offsets, bounds, planes, source, base_colors, rest, rest_offsets, num_rest = atlas
    rgb_out, depth_out, alpha_out = frames
    projection, (order, keys_b, order_b, histogram), (image, open_bits, view, tan_limit, rgb) = scratch
    records, boxes, keys = projection[3], projection[4], projection[5]
    stride = size[2]
    while True:
        job = lanes.next_job(counter)
        if job >= len(jobs):
            break
        camera, tile = jobs[job, 0], jobs[job, 1:]
        scene, k = scene_ids[camera], ks[camera]
        _view(c2w[camera], view)
        for axis in range(2):
            focal, centre, extent = k[axis, axis], k[axis, 2], size[axis]
            margin = oracle.TAN_MARGIN * 0.5 * extent / focal
            low, high = -(centre / focal + margin), (extent - centre) / focal + margin
            steepest = max(abs(low), abs(high))
            tan_limit[3 * axis], tan_limit[3 * axis + 1] = low, high
            tan_limit[3 * axis + 2] = np.sqrt(1.0 + steepest * steepest)
        first, last = chunk_offsets[scene], chunk_offsets[scene + 1]
        count = _project_scene(
            first, last, bounds, planes, view, k, near, tan_limit, tile, antialiased, projection
        )
        visible[job] = count
        _sort(keys, count, order, keys_b, order_b, histogram)
        _break_ties(keys, count, order, boxes, source)
        _clear(tile[3], tile[2], stride, image, open_bits)
        pixels_open = tile[2] * tile[3]
        for i in range(count):
            box = boxes[order[i]]
            if not _any_open(open_bits, box[0], box[1], box[2], box[3]):
                continue
            slot = np.int64(box[4])
            _splat_color(
                slot,
                slot - first * CHUNK,
                base_colors,
                rest,
                rest_offsets[scene],
                num_rest[scene],
                planes,
                view,
                rgb,
            )
            pixels_open -= _blend_splat(records[order[i]], box, rgb, image, stride, open_bits)
            if pixels_open == 0:
                break
        _write(tile, stride, image, background, rgb_out[camera], depth_out[camera], alpha_out[camera])


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
        self._stride = int(self.tiles[:, 2].max()) + lanes.LANES
        self._atlas_arrays = (
            atlas.chunk_offsets, atlas.bounds_w, atlas.planes, atlas.source, atlas.base_colors, atlas.rest,
            atlas.rest_offsets, atlas.num_rest,
        )  # fmt: skip
        self._scratch = [self._make_scratch() for _ in range(self.num_threads)]
        self._counter = np.zeros(1, np.int64)
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = -1

    def _make_scratch(self) -> tuple[Any, ...]:
        """Buffers of one thread, sized for the largest scene."""
        most = max(self.atlas.max_chunks, 1) * CHUNK
        tile_height = int(self.tiles[:, 3].max())
        words = int(self.tiles[:, 2].max()) // 64 + 2
        projection = (
            np.empty((3, CHUNK), np.float32),
            np.empty((_NUM_PROJECTED, CHUNK), np.float32),
            np.empty((_NUM_BOX, CHUNK), np.int32),
            np.empty((most, _NUM_PROJECTED), np.float32),
            np.empty((most, 8), np.int32),
            np.empty(most, np.uint32),
        )
        sort = (
            np.empty(most, np.int32),
            np.empty(most, np.uint32),
            np.empty(most, np.int32),
            np.empty(1 << _RADIX_BITS, np.int64),
        )
        picture = (
            np.empty(tile_height * lanes.CHANNELS * self._stride, np.float32),
            np.empty((tile_height, words), np.uint64),
            np.empty(12, np.float64),
            np.empty(6, np.float64),
            np.empty(3, np.float32),
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
    ) -> None:
        """Render the chosen cameras into `frames`.

        Args:
            c2w: Camera to world `[C, 4, 4]`.
            ks: Calibration matrices `[C, 3, 3]` [px].
            scene_ids: Scene of each camera `[C]`.
            cameras: Which cameras to render, indices into C.
            background: Linear RGB `[3]`.
            frames: rgb `[C, H, W, 3]`, depth `[C, H, W]`, alpha `[C, H, W]`; other cameras stay as they are.
        """
        # Cameras of one scene follow each other: its splats stay in the cache.
        cameras = cameras[np.argsort(scene_ids[cameras], kind="stable")]
        jobs = np.empty((len(cameras) * len(self.tiles), 5), np.int64)
        jobs[:, 0] = np.repeat(cameras, len(self.tiles))
        jobs[:, 1:] = np.tile(self.tiles, (len(cameras), 1))
        self.num_visible = np.zeros(len(jobs), np.int64)
        self._counter[0] = 0
        size = np.array([self.width, self.height, self._stride], np.int64)

        def work(thread: int) -> None:
            _render_jobs(
                self._counter, jobs, c2w, ks, scene_ids, self._atlas_arrays, size, self.near, self.antialiased,
                background, frames, self._scratch[thread], self.num_visible,
            )  # fmt: skip

        threads = min(self.num_threads, len(jobs))
        futures = [self._executor().submit(work, thread) for thread in range(1, threads)]
        if threads:
            work(0)
        for future in futures:
            future.result()

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
