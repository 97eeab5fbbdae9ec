"""Splats of a wave of cameras: culled by chunk, marked where visible, projected into records.

A work item is a chunk and up to 32 cameras of its scene, and a thread one of its splats: what the splat is comes from memory
once, then meets one camera after the other. Two passes, so that every record has a place that does not depend on the order in
which threads run: `mark` sets a bit for every visible splat, `project` counts the bits before its own and writes there.

Arithmetic is float32 relative to the chunk's centre; what lies between centre and camera is subtracted in float64, once a chunk
and camera, and so is the depth that splats are sorted by, which is the oracle's to the last bit. The formulas are those of
`gaussgym_render.projection`.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false, reportReturnType=false
# ruff: noqa: UP018, RUF046, SIM102  (loop variables are declared by a call; `and` evaluates both sides)

from __future__ import annotations

import math

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

from gaussgym_render import harmonics, oracle
from gaussgym_render.atlas import CHUNK, NUM_SHAPE
from gaussgym_render.cuda.cameras import Cameras, Wave, group_of_item
from gaussgym_render.cuda.device_atlas import Scenes

wp.set_module_options({"enable_backward": False})

WORDS = CHUNK // 32
"""Words of a chunk's visibility bits."""
SLACK_PX = wp.constant(2e-3)
"""Boxes only have to contain every pixel that passes the test of alpha."""

_CHUNK = wp.constant(CHUNK)
_SHAPE = wp.constant(NUM_SHAPE * CHUNK)
_COLOR = wp.constant(3 * CHUNK)
_CHUNK_64 = wp.constant(wp.int64(CHUNK))
_COLOR_64 = wp.constant(wp.int64(3 * CHUNK))
_WORDS = wp.constant(WORDS)
_EPS_2D = wp.constant(oracle.EPS_2D)
MIN_ALPHA = wp.constant(oracle.MIN_ALPHA)
LOG2_MIN_ALPHA = wp.constant(math.log2(oracle.MIN_ALPHA))
_MIN_COMPENSATION_SQ = wp.constant(oracle.MIN_COMPENSATION**2)
_LOG2E = wp.constant(1.4426950408889634)
_LN2 = wp.constant(0.6931471805599453)
_C1 = wp.constant(harmonics.C1)
_C20, _C21, _C22, _C23, _C24 = (wp.constant(c) for c in harmonics.C2)
_C30, _C31, _C32, _C33, _C34, _C35, _C36 = (wp.constant(c) for c in harmonics.C3)


@wp.struct
class Records:
    """Projected splats: those of a camera together, in the order of the atlas; R is their capacity.

    With `d` a pixel's centre minus the splat's, a splat's alpha there is
    `2^(log2 of the opacity - row falloff · dy² - falloff · (dx - slope · dy)²)`, as in `gaussgym_render.lanes`.
    """

    geometry: wp.array[wp.vec4]
    """u, v [px], slope, falloff [1/px²], `[R]`."""
    peak: wp.array[wp.vec2]
    """Row falloff [1/px²], log2 of the opacity, compensation included, `[R]`."""
    color: wp.array[wp.vec4]
    """Red, green, blue (clamped at 0 only) and depth along +Z [m], `[R]`."""
    slot: wp.array[wp.int32]
    """Slot of the splat in the atlas, `[R]`."""
    keys: wp.array[wp.int32]
    """Bits of the depth: positive floats sort like integers, `[2 R]` (the second half is room for sorting); empty where
    segments have their own."""
    values: wp.array[wp.int32]
    """Number of the record, `[2 R]`, or empty."""


@wp.struct
class Footprint:
    """A splat on a camera's image; see `Records`."""

    u: float
    v: float
    z: float
    slope: float
    falloff: float
    row_falloff: float
    log2_opacity: float
    visible: wp.bool


_POPCOUNT = """
#if defined(__CUDA_ARCH__)
    return __popc(word);
#else
    return __builtin_popcount(word);
#endif
"""


@wp.func_native(_POPCOUNT)
def popcount(word: wp.uint32) -> int:
    """Bits of a word that are set."""
    ...


# On a GPU the 32 threads of a warp vote and one writes; on the CPU each thread sets its own bit in a cleared word.
_VOTE = """
#if defined(__CUDA_ARCH__)
    unsigned ballot = __ballot_sync(0xffffffffu, flag);
    if (lane == 0) bits.data[word] = ballot;
#else
    if (flag) bits.data[word] |= 1u << lane;
#endif
"""


@wp.func_native(_VOTE)
def vote(flag: int, lane: int, word: int, bits: wp.array[wp.uint32]) -> None:
    """Set a thread's bit of a word; on a GPU all threads of the warp take part."""
    ...


@wp.func
def half_space(normal: wp.vec3, offset: float, rotation: wp.mat33, to_center: wp.vec3, half: wp.vec3) -> bool:
    """Whether a box reaches into the half space `normal · x + offset >= 0` of the camera frame, rounding errors allowed for."""
    n = wp.transpose(rotation) * normal
    size = wp.abs(n[0]) + wp.abs(n[1]) + wp.abs(n[2])
    nearest = wp.dot(n, to_center) + wp.abs(n[0]) * half[0] + wp.abs(n[1]) * half[1] + wp.abs(n[2]) * half[2]
    far = wp.abs(to_center[0]) + wp.abs(to_center[1]) + wp.abs(to_center[2])
    return nearest + offset + 1.0e-5 * far * size >= 0.0


@wp.func
def chunk_visible(scenes: Scenes, cameras: Cameras, chunk: int, camera: int, near: float) -> bool:
    """Whether a splat of a chunk can touch a camera's image; see `gaussgym_render.projection.chunk_visible`."""
    rotation, half, k = cameras.rotations[camera], scenes.halves_w[chunk], cameras.intrinsics[camera]
    to_center = wp.vec3(wp.vec3d(scenes.centers_w[chunk]) - cameras.centers_w[camera])
    limits, size = cameras.tan_limits[camera], cameras.sizes[camera]
    steep_x = wp.max(wp.abs(limits[0]), wp.abs(limits[1]))
    steep_y = wp.max(wp.abs(limits[2]), wp.abs(limits[3]))
    reach = 3.34 * scenes.sigmas_m[chunk]
    reach_x = reach * k[0] * wp.sqrt(1.0 + steep_x * steep_x)
    reach_y = reach * k[1] * wp.sqrt(1.0 + steep_y * steep_y)
    blur = 1.84
    width, height = float(size[0]), float(size[1])
    if not half_space(wp.vec3(0.0, 0.0, 1.0), -near, rotation, to_center, half):
        return False
    if not half_space(wp.vec3(k[0], 0.0, k[2] + blur), reach_x, rotation, to_center, half):
        return False
    if not half_space(wp.vec3(-k[0], 0.0, width - k[2] + blur), reach_x, rotation, to_center, half):
        return False
    if not half_space(wp.vec3(0.0, k[1], k[3] + blur), reach_y, rotation, to_center, half):
        return False
    return half_space(wp.vec3(0.0, -k[1], height - k[3] + blur), reach_y, rotation, to_center, half)


@wp.func
def detailed_enough(scenes: Scenes, cameras: Cameras, chunk: int, camera: int, scene: int) -> bool:
    """Whether a node may stand for its subtree: its error, at the nearest point of its box, against the scene's threshold."""
    center, low, high = cameras.centers_w[camera], scenes.lows_w[chunk], scenes.highs_w[chunk]
    zero = wp.float64(0.0)
    dx = wp.max(wp.max(low[0] - center[0], center[0] - high[0]), zero)
    dy = wp.max(wp.max(low[1] - center[1], center[1] - high[1]), zero)
    dz = wp.max(wp.max(low[2] - center[2], center[2] - high[2]), zero)
    k = cameras.intrinsics[camera]
    shown = wp.float64(wp.max(k[0], k[1])) * wp.float64(scenes.errors_m[chunk])
    return shown <= scenes.thresholds_px[scene] * wp.sqrt(dx * dx + dy * dy + dz * dz)


@wp.func
def in_cut(scenes: Scenes, cameras: Cameras, chunk: int, camera: int, scene: int) -> bool:
    """Whether a camera's cut through the scene's tree passes here: the node has detail enough and the one above has not.

    Boxes nest and errors grow towards the root, exactly: that is what walking down from the root would give.
    """
    above = scenes.parents[chunk]
    if above >= 0:
        if detailed_enough(scenes, cameras, above, camera, scene):
            return False
    if scenes.errors_m[chunk] == 0.0:
        return True
    return detailed_enough(scenes, cameras, chunk, camera, scene)


@wp.kernel
def cull(scenes: Scenes, cameras: Cameras, wave: Wave, near: float) -> None:
    """Say for every work item which cameras of its group see its chunk, and draw it at its level of detail."""
    item = wp.tid()
    num_items = wave.item_starts[wave.item_starts.shape[0] - 1]
    if item >= num_items:
        return
    w = group_of_item(wave, item)
    scene = cameras.scenes[wave.order[wave.start + w]]
    chunk = scenes.chunk_ranges[scene, 0] + item - wave.item_starts[w]
    mask = wp.uint32(0)
    for j in range(wave.group_sizes[w]):
        camera = wave.order[wave.start + w + j]
        if in_cut(scenes, cameras, chunk, camera, scene):
            if chunk_visible(scenes, cameras, chunk, camera, near):
                mask = mask | (wp.uint32(1) << wp.uint32(j))
                to_center = wp.vec3d(scenes.centers_w[chunk]) - cameras.centers_w[camera]
                origin = cameras.exact_rotations[camera] * to_center
                local = item - wave.item_starts[w]
                wave.origins_c[(w + j) * wave.max_chunks + local] = wp.vec3(origin)
    wave.masks[item] = mask


@wp.func
def mean_of(scenes: Scenes, chunk: int, i: int) -> wp.vec3:
    """Where a splat is [m]."""
    at = chunk * _COLOR + i
    return wp.vec3(scenes.means[at], scenes.means[at + _CHUNK], scenes.means[at + 2 * _CHUNK])


@wp.func
def factor_of(scenes: Scenes, chunk: int, i: int) -> wp.mat33:
    """Rotation times scale of a splat [m]."""
    at = chunk * _SHAPE + i
    return wp.mat33(
        float(scenes.shapes[at]), float(scenes.shapes[at + _CHUNK]), float(scenes.shapes[at + 2 * _CHUNK]),
        float(scenes.shapes[at + 3 * _CHUNK]), float(scenes.shapes[at + 4 * _CHUNK]),
        float(scenes.shapes[at + 5 * _CHUNK]), float(scenes.shapes[at + 6 * _CHUNK]),
        float(scenes.shapes[at + 7 * _CHUNK]), float(scenes.shapes[at + 8 * _CHUNK]),
    )  # fmt: skip


@wp.func
def opacity_of(scenes: Scenes, chunk: int, i: int) -> float:
    """A splat's opacity."""
    return float(scenes.shapes[chunk * _SHAPE + 9 * _CHUNK + i])


@wp.func
def footprint(
    p: wp.vec3, factor: wp.mat33, opacity: float, cameras: Cameras, camera: int, near: float, antialiased: int
) -> Footprint:
    """EWA projection of a splat at `p` in the camera frame; see `gaussgym_render.projection.project_chunk`."""
    out = Footprint()
    k, limits, r = cameras.intrinsics[camera], cameras.tan_limits[camera], cameras.rotations[camera]
    z = wp.max(p[2], near)
    rz = 1.0 / z
    tx, ty = p[0] * rz, p[1] * rz
    u, v = k[0] * tx + k[2], k[1] * ty + k[3]
    tx, ty = wp.min(wp.max(tx, limits[0]), limits[1]), wp.min(wp.max(ty, limits[2]), limits[3])
    sx, sy = k[0] * rz, k[1] * rz
    m = wp.vec3(sx * (r[0, 0] - tx * r[2, 0]), sx * (r[0, 1] - tx * r[2, 1]), sx * (r[0, 2] - tx * r[2, 2]))
    n = wp.vec3(sy * (r[1, 0] - ty * r[2, 0]), sy * (r[1, 1] - ty * r[2, 1]), sy * (r[1, 2] - ty * r[2, 2]))
    a, b = m * factor, n * factor
    cxx, cxy, cyy = wp.dot(a, a), wp.dot(a, b), wp.dot(b, b)
    e = wp.cross(a, b)
    det = wp.dot(e, e)
    det_blur = det + _EPS_2D * (cxx + cyy) + _EPS_2D * _EPS_2D
    cxx, cyy = cxx + _EPS_2D, cyy + _EPS_2D
    if antialiased != 0:
        opacity = opacity * wp.sqrt(wp.max(det / det_blur, _MIN_COMPENSATION_SQ))
    log2_opacity = wp.log2(wp.max(opacity, 1.0e-20))
    extent_sq = 2.0 * _LN2 * wp.max(log2_opacity - LOG2_MIN_ALPHA, 0.0)
    hx, hy = wp.sqrt(extent_sq * cxx) + SLACK_PX, wp.sqrt(extent_sq * cyy) + SLACK_PX
    size = cameras.sizes[camera]
    x0, x1 = wp.max(wp.ceil(u - hx - 0.5), 0.0), wp.min(wp.floor(u + hx - 0.5), float(size[0] - 1))
    y0, y1 = wp.max(wp.ceil(v - hy - 0.5), 0.0), wp.min(wp.floor(v + hy - 0.5), float(size[1] - 1))
    out.visible = opacity >= MIN_ALPHA and p[2] >= near and x0 <= x1 and y0 <= y1
    out.u = u
    out.v = v
    out.z = z
    out.slope = cxy / cyy
    out.falloff = 0.5 * _LOG2E * cyy / det_blur
    out.row_falloff = 0.5 * _LOG2E / cyy
    out.log2_opacity = log2_opacity
    return out


@wp.kernel
def mark(
    scenes: Scenes, cameras: Cameras, wave: Wave, near: float, antialiased: int, num_blocks: int
) -> None:
    """Set the bits of visible splats; blocks of 256 threads take one item after the other. The bits are 0 before."""
    block, i = wp.tid()
    num_items = wave.item_starts[wave.item_starts.shape[0] - 1]
    item = int(block)
    while item < num_items:
        mask = wave.masks[item]
        if mask != wp.uint32(0):
            w = group_of_item(wave, item)
            scene = cameras.scenes[wave.order[wave.start + w]]
            local = item - wave.item_starts[w]
            chunk = scenes.chunk_ranges[scene, 0] + local
            factor, opacity = factor_of(scenes, chunk, i), opacity_of(scenes, chunk, i)
            offset = mean_of(scenes, chunk, i) - scenes.centers_w[chunk]
            for j in range(wave.group_sizes[w]):
                if ((mask >> wp.uint32(j)) & wp.uint32(1)) != wp.uint32(0):
                    camera = wave.order[wave.start + w + j]
                    at = (w + j) * wave.max_chunks + local
                    p = cameras.rotations[camera] * offset + wave.origins_c[at]
                    seen = footprint(p, factor, opacity, cameras, camera, near, antialiased)
                    vote(int(seen.visible), i % 32, at * _WORDS + i // 32, wave.bits)
        item += num_blocks


@wp.kernel
def count_visible(wave: Wave) -> None:
    """Count the bits of every camera's chunks."""
    at = wp.tid()
    total = int(0)
    for word in range(_WORDS):
        total += popcount(wave.bits[at * _WORDS + word])
    wave.counts[at] = total


@wp.func
def shown_color(scenes: Scenes, chunk: int, i: int, scene: int, direction: wp.vec3) -> wp.vec3:
    """A splat's colour seen along a unit direction (world frame, from the camera), not clamped."""
    at = chunk * _COLOR + i
    color = wp.vec3(
        float(scenes.base_colors[at]),
        float(scenes.base_colors[at + _CHUNK]),
        float(scenes.base_colors[at + 2 * _CHUNK]),
    )
    num_rest = scenes.num_rest[scene]
    if num_rest == 0:
        return color
    local = chunk - scenes.chunk_ranges[scene, 0]
    first = scenes.rest_offsets[scene] + _COLOR_64 * wp.int64(num_rest) * wp.int64(local) + wp.int64(i)
    x, y, z = direction[0], direction[1], direction[2]
    color += (
        band(scenes, first, 0, -_C1 * y) + band(scenes, first, 1, _C1 * z) + band(scenes, first, 2, -_C1 * x)
    )
    if num_rest > 3:
        xx, yy, zz = x * x, y * y, z * z
        color += band(scenes, first, 3, _C20 * x * y) + band(scenes, first, 4, _C21 * y * z)
        color += band(scenes, first, 5, _C22 * (zz + zz - xx - yy))
        color += band(scenes, first, 6, _C23 * x * z) + band(scenes, first, 7, _C24 * (xx - yy))
        if num_rest > 8:
            color += band(scenes, first, 8, _C30 * y * (3.0 * xx - yy)) + band(
                scenes, first, 9, _C31 * x * y * z
            )
            color += band(scenes, first, 10, _C32 * y * (4.0 * zz - xx - yy))
            color += band(scenes, first, 11, _C33 * z * (zz + zz - 3.0 * (xx + yy)))
            color += band(scenes, first, 12, _C34 * x * (4.0 * zz - xx - yy))
            color += band(scenes, first, 13, _C35 * z * (xx - yy)) + band(
                scenes, first, 14, _C36 * x * (xx - 3.0 * yy)
            )
    return color


@wp.func
def band(scenes: Scenes, first: wp.int64, k: int, weight: float) -> wp.vec3:
    """One coefficient's share of a colour."""
    at = first + wp.int64(k) * _COLOR_64
    return wp.vec3(
        weight * float(scenes.rest[at]),
        weight * float(scenes.rest[at + _CHUNK_64]),
        weight * float(scenes.rest[at + _CHUNK_64 + _CHUNK_64]),
    )


@wp.func
def exact_depth(cameras: Cameras, camera: int, mean: wp.vec3) -> float:
    """Depth along +Z [m], rounded from float64: the order of the oracle."""
    r, d = cameras.exact_rotations[camera], wp.vec3d(mean) - cameras.centers_w[camera]
    return float(r[2, 0] * d[0] + r[2, 1] * d[1] + r[2, 2] * d[2])


@wp.kernel
def project(
    scenes: Scenes,
    cameras: Cameras,
    wave: Wave,
    near: float,
    antialiased: int,
    num_blocks: int,
    records: Records,
) -> None:
    """Write the records of the splats whose bits are set, each at its place; blocks of 256 threads take items in turn."""
    block, i = wp.tid()
    num_items = wave.item_starts[wave.item_starts.shape[0] - 1]
    item = int(block)
    while item < num_items:
        mask = wave.masks[item]
        if mask != wp.uint32(0):
            w = group_of_item(wave, item)
            scene = cameras.scenes[wave.order[wave.start + w]]
            local = item - wave.item_starts[w]
            chunk = scenes.chunk_ranges[scene, 0] + local
            for j in range(wave.group_sizes[w]):
                if ((mask >> wp.uint32(j)) & wp.uint32(1)) != wp.uint32(0):
                    at = (w + j) * wave.max_chunks + local
                    if wave.counts[at] > 0:
                        own = wave.bits[at * _WORDS + i // 32] >> wp.uint32(i % 32)
                        if (own & wp.uint32(1)) != wp.uint32(0):
                            place = wave.offsets[at] + bits_before(wave.bits, at * _WORDS, i)
                            camera = wave.order[wave.start + w + j]
                            origin = wave.origins_c[at]
                            write_record(
                                scenes,
                                cameras,
                                scene,
                                chunk,
                                i,
                                camera,
                                origin,
                                near,
                                antialiased,
                                place,
                                records,
                            )
        item += num_blocks


@wp.func
def bits_before(bits: wp.array[wp.uint32], first: int, i: int) -> int:
    """How many of a chunk's bits before the i-th are set."""
    count = popcount(bits[first + i // 32] & ((wp.uint32(1) << wp.uint32(i % 32)) - wp.uint32(1)))
    for word in range(i // 32):
        count += popcount(bits[first + word])
    return count


@wp.func
def write_record(
    scenes: Scenes,
    cameras: Cameras,
    scene: int,
    chunk: int,
    i: int,
    camera: int,
    origin: wp.vec3,
    near: float,
    antialiased: int,
    place: int,
    records: Records,
) -> None:
    """Project a visible splat with its colour, and write it where it belongs."""
    mean = mean_of(scenes, chunk, i)
    p = cameras.rotations[camera] * (mean - scenes.centers_w[chunk]) + origin
    seen = footprint(
        p, factor_of(scenes, chunk, i), opacity_of(scenes, chunk, i), cameras, camera, near, antialiased
    )
    away = mean - wp.vec3(cameras.centers_w[camera])
    direction = away / wp.sqrt(wp.max(wp.dot(away, away), 1.0e-30))
    color = shown_color(scenes, chunk, i, scene, direction)
    z = exact_depth(cameras, camera, mean)
    records.geometry[place] = wp.vec4(seen.u, seen.v, seen.slope, seen.falloff)
    records.peak[place] = wp.vec2(seen.row_falloff, seen.log2_opacity)
    records.color[place] = wp.vec4(wp.max(color[0], 0.0), wp.max(color[1], 0.0), wp.max(color[2], 0.0), z)
    records.slot[place] = chunk * _CHUNK + i
    if place < records.keys.shape[0]:
        records.keys[place] = wp.cast(z, wp.int32)
        records.values[place] = place
