"""Splats of a scene into one camera: culled by chunk, projected, coloured, appended to a list; compiled by numba."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN201, ANN202
# Intrinsics get their typing context from numba, not from the caller.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import numba
import numpy as np

from gaussgym_render import edits, harmonics, lanes, oracle
from gaussgym_render.atlas import CHUNK, NUM_SHAPE

NUM_PROJECTED = 7
"""Quantities of a projected splat: u, v, z, slope, falloff, row falloff, log2 of the opacity (see `lanes.blend_block`)."""
NUM_BOX = 5
"""And words: x0, x1, y0, y1, whether visible."""
# A pixel's alpha is decided by comparing it with 1/255; boxes and rows only have to contain every pixel that passes.
SLACK_PX = np.float32(2e-3)
FLAGS = {
    "contract",
    "nsz",
    "arcp",
}  # no NaN, infinity or reassociation shortcuts: results must not depend on them
_F = np.float32
_LOG2E = _F(1.4426950408889634)
_LN2 = _F(0.6931471805599453)
_EPS_2D = _F(oracle.EPS_2D)
_MIN_ALPHA = _F(oracle.MIN_ALPHA)
LOG2_MIN_ALPHA = _F(np.log2(oracle.MIN_ALPHA))
_MIN_COMPENSATION_SQ = _F(oracle.MIN_COMPENSATION**2)
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


@numba.njit(inline="always", fastmath=FLAGS, error_model="numpy")
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
def place_camera(c2w, w2c):
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
def tan_limits(k, size, tan_limit):
    """The Jacobian's clamp `[6]`: lowest, highest x/z, `sqrt(1 + largest²)`, and the same of y/z."""
    for axis in range(2):
        focal, centre, extent = k[axis, axis], k[axis, 2], size[axis]
        margin = oracle.TAN_MARGIN * 0.5 * extent / focal
        low, high = -(centre / focal + margin), (extent - centre) / focal + margin
        steepest = max(abs(low), abs(high))
        tan_limit[3 * axis], tan_limit[3 * axis + 1] = low, high
        tan_limit[3 * axis + 2] = np.sqrt(1.0 + steepest * steepest)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def chunk_visible(bounds, view, k, near, tan_limit, tile):
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
def detailed_enough(bounds, error_m, view, focal, threshold_px):
    """Whether a node may stand for its subtree: its error, at the nearest point of the box of means, against the threshold.

    Distances, not depths: a camera that turns on the spot keeps its levels.
    """
    dx = max(abs(view[9] - bounds[0]) - bounds[3], 0.0)
    dy = max(abs(view[10] - bounds[1]) - bounds[4], 0.0)
    dz = max(abs(view[11] - bounds[2]) - bounds[5], 0.0)
    return focal * error_m <= threshold_px * np.sqrt(dx * dx + dy * dy + dz * dz)


@numba.njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy")
def camera_points(means, view, xyz):
    """Means of a chunk in the camera frame, rounded from float64: their depth order is the oracle's, bit by bit."""
    for i in range(CHUNK):
        dx = np.float64(means[i]) - view[9]
        dy = np.float64(means[1 * CHUNK + i]) - view[10]
        dz = np.float64(means[2 * CHUNK + i]) - view[11]
        xyz[i] = _F(view[0] * dx + view[1] * dy + view[2] * dz)
        xyz[1 * CHUNK + i] = _F(view[3] * dx + view[4] * dy + view[5] * dz)
        xyz[2 * CHUNK + i] = _F(view[6] * dx + view[7] * dy + view[8] * dz)


@numba.njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy")
def project_chunk(shapes, xyz, view, k, near, tan_limit, tile, antialiased, out, box):
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
        extent_sq = _F(2.0) * _LN2 * max(log2_opacity - LOG2_MIN_ALPHA, _F(0.0))
        hx, hy = lanes.sqrt(extent_sq * cxx) + SLACK_PX, lanes.sqrt(extent_sq * cyy) + SLACK_PX
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


@numba.njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy")
def unit_directions(means, view, directions):
    """Unit vectors from the camera centre to a chunk's means, world frame, as planes."""
    for i in range(CHUNK):
        dx = _F(np.float64(means[i]) - view[9])
        dy = _F(np.float64(means[CHUNK + i]) - view[10])
        dz = _F(np.float64(means[2 * CHUNK + i]) - view[11])
        scale = _F(1.0) / lanes.sqrt(max(dx * dx + dy * dy + dz * dz, _F(1e-30)))
        directions[i], directions[CHUNK + i], directions[2 * CHUNK + i] = dx * scale, dy * scale, dz * scale


@numba.njit(cache=True, nogil=True, error_model="numpy")
def widen(halves, start, count, out):
    """Convert `count` halves, a multiple of sixteen, to float32."""
    for i in range(0, count, lanes.HALVES):
        lanes.widen(halves, np.int64(start + i), out, np.int64(i))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def collect_visible(out, box, colors, first_slot, source, count, records, keys, numbers):
    """Append a chunk's visible splats to the camera's list, one cache line each, and their depths and numbers in the input apart;
    returns the new length.
    """
    first = count
    for i in range(0, CHUNK, lanes.RECORD):
        count = lanes.append_records(
            out, box, colors, np.int64(i), np.int64(CHUNK), np.int64(first_slot + i), source, records, count
        )
    for i in range(first, count):
        keys[np.uintp(i)] = np.uint32(lanes.float_bits(records[np.uintp(i * lanes.RECORD + 2)]))
        numbers[np.uintp(i)] = lanes.float_bits(records[np.uintp(i * lanes.RECORD + 9)])
    return count


@numba.njit(cache=True, nogil=True, error_model="numpy")
def project_scene(
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
        visible = chunk_visible(bounds[chunk], view, k, near, tan_limit, tile)
        drawn = visible and detailed_enough(bounds[chunk], errors_m[chunk], view, focal, threshold_px)
        next_chunk += 1 if visible and not drawn else skip[chunk]
        if drawn:
            places = means[chunk * 3 * CHUNK : (chunk + 1) * 3 * CHUNK]
            widen(shapes, chunk * NUM_SHAPE * CHUNK, NUM_SHAPE * CHUNK, shape)
            camera_points(places, view, xyz)
            project_chunk(shape, xyz, view, k, near, tan_limit, tile, antialiased, out, box)
            widen(base_colors, 3 * CHUNK * chunk, 3 * CHUNK, colors)
            if num_rest > 0:
                unit_directions(places, view, directions)
                widen(
                    rest,
                    rest_offset + 3 * CHUNK * num_rest * (chunk - chunks[0]),
                    3 * CHUNK * num_rest,
                    bands,
                )
                harmonics.add_bands(directions, bands, 0, num_rest, weights, colors)
            if len(changes[0]) > 0:
                widen(base_colors, 3 * CHUNK * chunk, 3 * CHUNK, bands)
                edits.edit_chunk(camera, changes, bounds[chunk], places, shape, bands, view, colors)
            count = collect_visible(out, box, colors, chunk * CHUNK, source, count, records, keys, numbers)
    return count
