"""Sorted splats into the pixels of a tile, front to back; compiled by numba."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201, ANN202
# Intrinsics get their typing context from numba, not from the caller.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import numba
import numpy as np

from gaussgym_render import channels, lanes, oracle
from gaussgym_render.projection import LOG2_MIN_ALPHA, SLACK_PX

_F = np.float32
_MAX_ALPHA = _F(oracle.MAX_ALPHA)
_MIN_ALPHA = _F(oracle.MIN_ALPHA)
_MIN_T = _F(oracle.MIN_TRANSMITTANCE)
_RECORD = lanes.RECORD
_AHEAD = 8  # splats between asking for a record and using it


@numba.njit(cache=True, nogil=True, error_model="numpy")
def clear(height, width, stride, words, image, open_bits):
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
    above = log2_opacity - row_falloff * nearest * nearest - LOG2_MIN_ALPHA
    if above < _F(-1e-4):
        return np.int64(1), np.int64(0)
    half = lanes.sqrt(max(above, _F(0.0)) / falloff) + SLACK_PX
    low = u + min(slope * top, slope * bottom) - half - _F(0.5)
    high = u + max(slope * top, slope * bottom) + half - _F(0.5)
    first = max(x0, np.int64(np.ceil(max(low, _F(-1.0)))))
    return first, min(x1, np.int64(np.floor(min(high, _F(x1)))))


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")
def blend(span, order, records, image, open_bits, size, pixels_open):
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
def blend_before_surfaces(splats, surfaces, records, image, open_bits, size):
    """Blend each pixel's splats as far as those that lie before its opaque surface, if it has one.

    Splats and surfaces are both sorted by depth: between two surfaces runs `blend`, and a pixel whose surface has been
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
            pixels_open = blend((first, last, count), order, records, image, open_bits, size, pixels_open)
            first = last
        if s == covered or pixels_open == 0:
            break
        pixel = pixels[surface_order[s]]
        pixels_open -= _close(np.uint64(1), pixel % width, pixel // width, image, open_bits, size)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def show_surfaces(covered, pixels, layer, image, width, stride):
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
def write_seen(tile, covered, owner, seen):
    """Say which instance each pixel of a tile shows; the owners of a tile without surfaces are not filled."""
    for y in range(tile[3]):
        for x in range(tile[2]):
            seen[tile[1] + y, tile[0] + x] = owner[y * tile[2] + x] if covered > 0 else -1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def write_tile(tile, stride, image, background, rgb, depth, alpha):
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
def write_float(tile, stride, image, background, rgb):
    """As `write_tile`, the colours alone and not rounded."""
    colors, _ = image
    for y in range(tile[3]):
        for x in range(tile[2]):
            at = lanes.CHANNELS * (y * stride + x)
            left = abs(colors[at])
            for c in range(3):
                value = colors[at + 1 + c] + left * background[c]
                rgb[tile[1] + y, tile[0] + x, c] = min(max(value, _F(0.0)), _F(1.0))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def blend_channels(
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
