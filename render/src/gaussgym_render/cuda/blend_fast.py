"""Sorted splats into pixels, front to back: the fast kernels, a block for every 32x32 pixels of a macro-tile.

A block walks its macro-tile's segment 256 records at a time. Each thread takes one of them, finds which of the block's sixteen
sub-tiles (8x8 pixels) its ellipse can touch, and appends it to a ring in shared memory if there is any, while the next ones are
on their way from memory. Whenever the ring holds 256 records, ballots turn the records' masks of sub-tiles into the sub-tiles'
masks of records, and each warp blends two sub-tiles, a lane two pixels of each, over the records whose bits are set. A warp
leaves a sub-tile out, and the block ends, when no pixel of it is open any more.

Kernels: `blend_single`, float32, is the plain kernel's twin to rounding; `blend_half` evaluates and blends both pixels of a
lane in one instruction of half precision, over no more than a batch at a time, and keeps float32 sums across batches. Pixels
stop where the oracle's do; `stop_below` lets them stop early besides, where 8-bit colours need no more (`STOP_BELOW_8_BIT`).
Both have a twin that ends at opaque surfaces, as `objects.blend_before_surfaces` does.

The same text runs on Warp's CPU device as fibers (see `gaussgym_render.cuda.block`), in half precision too, which is rounded
there after every operation; only the approximations of `ex2` are the GPU's own.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# ruff: noqa: ANN202

from __future__ import annotations

from functools import cache
from typing import Any

import warp as wp  # noqa: TID253  (imported only where the backend is asked for)
from gaussgym_scene.errors import InputError

from gaussgym_render import oracle
from gaussgym_render.cuda import block
from gaussgym_render.cuda.bins import Segments
from gaussgym_render.cuda.blend import Images
from gaussgym_render.cuda.cameras import Cameras, Wave, wave_camera
from gaussgym_render.cuda.project import LOG2_MIN_ALPHA, SLACK_PX, Records

THREADS = 256
PORTION_PX = 32
"""Side of what one block blends: sixteen sub-tiles, two for each of its warps."""
STOP_BELOW_8_BIT = 1.0 / 512.0
"""A transmittance with which nothing behind changes an 8-bit colour by more than half a step."""

# The walk of a block: `STORE` fills a slot of the ring, `BEGIN`, `BLEND` and `FINISH` are a lane's two pixels of a sub-tile;
# `SURFACE` and `VEIL` are for opaque surfaces, of each pixel before and after.
_WALK = """
    struct alignas(16) Four { float x, y, z, w; };
    struct alignas(8) Two { float x, y; };
SLOT
    GG_SHARED Slot ring[2 * THREADS];  // records that touch a sub-tile, in order; half of it is blended at a time
    GG_SHARED unsigned masks[16][8];
    GG_SHARED int counts[2][8];
    const Four* all_geometry = (const Four*)geometry.data;
    const Two* all_peaks = (const Two*)peaks.data;
    const Four* all_colors = (const Four*)colors.data;
    const int column = lane & 7, row = lane >> 3;
    // `left` is negative where a pixel is closed: outside the image, or where the next splat would have taken it to the end.
    float left[2][2], red[2][2], green[2][2], blue[2][2], far[2][2];
    GG_UNROLL
    for (int k = 0; k < 2; ++k) {
        GG_UNROLL
        for (int p = 0; p < 2; ++p) {
            const int x = x_first + 8 * ((warp_id + 8 * k) & 3) + column;
            const int y = y_first + 8 * ((warp_id + 8 * k) >> 2) + row + 4 * p;
            left[k][p] = x < x_end && y < y_end ? 1.0f : -1.0f;
            red[k][p] = green[k][p] = blue[k][p] = far[k][p] = 0.0f;
SURFACE
        }
    }
    Four shape = {}, color = {};
    Two peak = {};
    auto fetch = [&](int record) {
        if (record < 0) return;
        shape = all_geometry[record];
        peak = all_peaks[record];
        color = all_colors[record];
    };
    fetch(begin + t < end ? values.data[begin + t] : -1);
    int coming = begin + THREADS + t < end ? values.data[begin + THREADS + t] : -1;
    int head = 0, tail = 0, turn = 0;
    for (int start = begin; start < end; start += THREADS, turn ^= 1) {
        unsigned touched = 0u;
        if (start + t < end) {
            const float reach = peak.y - LOG2_MIN_ALPHA, origin = shape.x - (float)x_first;
            GG_UNROLL
            for (int band = 0; band < 4; ++band) {
                const float top = (float)(y_first + 8 * band) + 0.5f - shape.y, bottom = top + 7.0f;
                const float nearest = min(max(0.0f, top), bottom);
                const float above = reach - peak.x * nearest * nearest;
                const float half = gg_sqrt(gg_ratio(max(above, 0.0f), shape.w)) + SLACK_PX;
                const float at_top = shape.z * top, at_bottom = shape.z * bottom;
                const float low = (origin + min(at_top, at_bottom) - half - 7.5f) * 0.125f;
                const float high = (origin + max(at_top, at_bottom) + half - 0.5f) * 0.125f;
                const int from = (int)gg_ceil(min(max(low, 0.0f), 4.0f));
                const int to = (int)gg_floor(max(min(high, 3.0f), -1.0f));
                if (above >= -1.0e-4f && from <= to) touched |= ((2u << to) - (1u << from)) << (4 * band);
            }
        }
        const unsigned votes = gg_ballot(touched != 0u);
        if (lane == 0) counts[turn][warp_id] = gg_count(votes);
        const bool open = max(max(left[0][0], left[0][1]), max(left[1][0], left[1][1])) > stop_below;
        if (!gg_sync_or(open)) break;  // behind it no warp reads what is overwritten next
        int before = 0, all = 0;
        GG_UNROLL
        for (int w = 0; w < 8; ++w) {
            const int count = counts[turn][w];
            all += count;
            before += w < warp_id ? count : 0;
        }
        if (touched != 0u) {
            Slot& slot = ring[(tail + before + gg_count(votes & ((1u << lane) - 1u))) & (2 * THREADS - 1)];
            STORE
        }
        tail += all;
        fetch(coming);
        const int later = start + 2 * THREADS + t;
        coming = later < end ? values.data[later] : -1;
        const bool last = start + THREADS >= end;
        while (tail - head >= THREADS || (last && tail > head)) {
            GG_SYNC();
            const Slot* batch = ring + (head & (2 * THREADS - 1));
            const unsigned mine = head + t < tail ? batch[t].touched : 0u;
            unsigned word = 0u;
            GG_UNROLL
            for (int sub = 0; sub < 16; ++sub) {
                const unsigned touching = gg_ballot((mine >> sub) & 1u);
                if (lane == sub) word = gg_reverse(touching);
            }
            if (lane < 16) masks[lane][warp_id] = word;
            GG_SYNC();
            GG_UNROLL
            for (int k = 0; k < 2; ++k) {
                if (!gg_warp_any(max(left[k][0], left[k][1]) > stop_below)) continue;
                const int sub = warp_id + 8 * k;
                const float x = (float)(x_first + 8 * (sub & 3) + column) + 0.5f;
                const float y = (float)(y_first + 8 * (sub >> 2) + row) + 0.5f;
                BEGIN
                GG_ROLLED
                for (int chunk = 0; chunk < 8; ++chunk) {
                    unsigned bits = masks[sub][chunk];  // the first record at the top
                    GG_ROLLED
                    while (bits) {
                        const int bit = gg_top(bits) - 1;
                        bits &= ~(1u << bit);
                        const Slot* slot = batch + 32 * chunk + 31 - bit;
                        BLEND
                    }
                }
                FINISH
            }
            head += THREADS;
        }
    }
    GG_UNROLL
    for (int k = 0; k < 2; ++k) {
        GG_UNROLL
        for (int p = 0; p < 2; ++p) {
            const int x = x_first + 8 * ((warp_id + 8 * k) & 3) + column;
            const int y = y_first + 8 * ((warp_id + 8 * k) >> 2) + row + 4 * p;
            if (x >= x_end || y >= y_end) continue;
            float rest = gg_abs(left[k][p]);
VEIL
            const float solid = 1.0f - rest;
            const float shown[3] = {red[k][p] + rest * background[0], green[k][p] + rest * background[1],
                                    blue[k][p] + rest * background[2]};
            char* at = (char*)rgb.data + camera * rgb.strides[0] + y * rgb.strides[1] + x * rgb.strides[2];
            GG_UNROLL
            for (int c = 0; c < 3; ++c)
                *(unsigned char*)(at + c * rgb.strides[3]) = (unsigned char)(min(max(shown[c], 0.0f), 1.0f) * 255.0f + 0.5f);
            *(float*)((char*)depth.data + camera * depth.strides[0] + y * depth.strides[1] + x * depth.strides[2]) =
                solid > 0.0f ? far[k][p] / solid : 0.0f;
            *(float*)((char*)alpha.data + camera * alpha.strides[0] + y * alpha.strides[1] + x * alpha.strides[2]) = solid;
        }
    }
    GG_SYNC();
"""

_SINGLE = {
    "SLOT": """
    struct alignas(16) Slot { Four shape; float down, top, drift; unsigned touched; Four color; };
""",
    "STORE": """
            shape.w = gg_sqrt(shape.w);
            slot.shape = shape;
            slot.down = gg_sqrt(peak.x);
            slot.top = peak.y;
            slot.drift = 4.0f * shape.z * shape.w;
            slot.touched = touched;
            slot.color = color;
""",
    "BEGIN": "",
    "BLEND": """
                        const Four form = slot->shape, shade = slot->color;
                        const float step = slot->down, top = slot->top, drift = slot->drift;
                        // Distances in units in which the power is minus their squares.
                        const float dy = y - form.y, under = step * dy, aside = form.w * (x - form.x - form.z * dy);
                        GG_UNROLL
                        for (int p = 0; p < 2; ++p) {
                            const float down = p ? under + 4.0f * step : under, across = p ? aside - drift : aside;
                            const float power = top - down * down - across * across;
                            const float opaque = power >= LOG2_MIN_ALPHA ? min(MAX_ALPHA, gg_exp2(power)) : 0.0f;
                            const float after = left[k][p] - left[k][p] * opaque;
                            const bool kept = after > MIN_TRANSMITTANCE;
                            const float weight = kept ? left[k][p] * opaque : 0.0f;
                            red[k][p] += weight * shade.x;
                            green[k][p] += weight * shade.y;
                            blue[k][p] += weight * shade.z;
                            far[k][p] += weight * shade.w;
                            left[k][p] = kept ? after : -gg_abs(left[k][p]);
                        }
""",
    "FINISH": "",
}

# Two halves in a word: the pixels of a lane. Transmittances and sums are those since the batch began; the threshold that closes
# a pixel is divided by what was left then. A closed pixel's transmittance is negative here too.
_HALF = {
    "SLOT": """
    struct alignas(16) Shade { unsigned x, y, z, w; };
    struct alignas(16) Slot { float x, y, slope, across, down; unsigned top, touched; Shade color; };
    const unsigned most = gg_pack(MAX_ALPHA, MAX_ALPHA), least = gg_pack(MIN_ALPHA, MIN_ALPHA);
""",
    "STORE": """
            slot.x = shape.x;
            slot.y = shape.y;
            slot.across = gg_sqrt(shape.w);
            slot.down = gg_sqrt(peak.x);
            slot.slope = shape.z * slot.across;
            slot.top = gg_pack(peak.y, peak.y);
            slot.touched = touched;
            auto twice = [&](float number) -> unsigned { number = min(number, 60000.0f); return gg_pack(number, number); };
            slot.color = {twice(color.x), twice(color.y), twice(color.z), twice(color.w)};
""",
    "BEGIN": """
                const unsigned close = gg_pack(gg_ratio(MIN_TRANSMITTANCE, gg_abs(left[k][0])),
                                               gg_ratio(MIN_TRANSMITTANCE, gg_abs(left[k][1])));
                unsigned share = gg_pack(left[k][0] > 0.0f ? 1.0f : -1.0f, left[k][1] > 0.0f ? 1.0f : -1.0f);
                unsigned reds = 0u, greens = 0u, blues = 0u, fars = 0u;
""",
    "BLEND": """
                        // Single precision up to here: along a thin splat distances are differences of large numbers.
                        const float dy = y - slot->y, under = slot->down * dy;
                        const float aside = slot->across * (x - slot->x) - slot->slope * dy;
                        const unsigned down = gg_pack(under, under + 4.0f * slot->down);
                        const unsigned across = gg_pack(aside, aside - 4.0f * slot->slope);
                        unsigned power = gg_fma2(gg_minus2(down), down, slot->top);
                        power = gg_fma2(gg_minus2(across), across, power);
                        unsigned opaque = gg_min2(gg_exp2_2(power), most);
                        opaque &= gg_at_least2(opaque, least);
                        // Fused: what an opaque splat leaves is a thousandth, and decides whether it closes the pixel.
                        const unsigned weight = gg_mul2(share, opaque), after = gg_fma2(gg_minus2(share), opaque, share);
                        const unsigned kept = gg_at_least2(after, close);
                        const unsigned added = weight & kept;
                        share = (after & kept) | ((share | 0x80008000u) & ~kept);
                        const Shade shade = slot->color;
                        reds = gg_fma2(added, shade.x, reds);
                        greens = gg_fma2(added, shade.y, greens);
                        blues = gg_fma2(added, shade.z, blues);
                        fars = gg_fma2(added, shade.w, fars);
""",
    "FINISH": """
                GG_UNROLL
                for (int p = 0; p < 2; ++p) {
                    const float whole = gg_abs(left[k][p]);
                    red[k][p] += whole * gg_part(reds, p);
                    green[k][p] += whole * gg_part(greens, p);
                    blue[k][p] += whole * gg_part(blues, p);
                    far[k][p] += whole * gg_part(fars, p);
                    left[k][p] = whole * gg_part(share, p);
                }
""",
}


def _before_surfaces(parts: dict[str, str], *changes: tuple[str, str]) -> dict[str, str]:
    """A variant that blends each pixel as far as its opaque surface, which what is left shows.

    Args:
        parts: Of the variant without surfaces.
        changes: What is added to its parts: text that stands there once, and text instead.
    """
    made = {
        **parts,
        "SLOT": parts["SLOT"]
        + "    const Four* all_surfaces = (const Four*)surfaces.data + (size_t)w * surfaces.shape[1];\n"
        "    float limit[2][2];\n",
        "SURFACE": "            limit[k][p] = left[k][p] > 0.0f ? all_surfaces[y * width + x].w : 0.0f;\n",
        "VEIL": """
            if (limit[k][p] < 3.0e38f) {
                const Four surface = all_surfaces[y * width + x];
                red[k][p] += rest * surface.x;
                green[k][p] += rest * surface.y;
                blue[k][p] += rest * surface.z;
                far[k][p] += rest * surface.w;
                if (seen.shape[0] > 0 && rest <= 0.5f)
                    *(int*)((char*)seen.data + camera * seen.strides[0] + y * seen.strides[1] + x * seen.strides[2]) = -1;
                rest = 0.0f;
            }
""",
    }
    for old, new in changes:
        (name,) = (name for name, part in made.items() if old in part)
        made[name] = made[name].replace(old, new)
    return made


_NO_SURFACES = {"SURFACE": "", "VEIL": ""}
_VARIANTS = {
    "blend_single": {**_SINGLE, **_NO_SURFACES},
    "blend_half": {**_HALF, **_NO_SURFACES},
    "blend_single_surfaces": _before_surfaces(
        _SINGLE,
        ("kept = after > MIN_TRANSMITTANCE;", "kept = after > MIN_TRANSMITTANCE && shade.w < limit[k][p];"),
    ),
    # A half is too coarse to say which of a splat and a surface is in front.
    "blend_half_surfaces": _before_surfaces(
        _HALF,
        ("top, touched; Shade color;", "top, touched; float z; Shade color;"),
        ("slot.touched = touched;", "slot.touched = touched;\n            slot.z = color.w;"),
        (
            "kept = gg_at_least2(after, close);",
            "kept = gg_at_least2(after, close) &"
            " ((slot->z < limit[k][0] ? 0x0000ffffu : 0u) | (slot->z < limit[k][1] ? 0xffff0000u : 0u));",
        ),
    ),
}


def _text(parts: dict[str, str], prelude: str = block.PRELUDE) -> str:
    """A variant's snippet with its constants filled in."""
    text = _WALK
    for name, part in parts.items():
        text = text.replace(name + "\n", part + "\n")
    constants = {
        "LOG2_MIN_ALPHA": LOG2_MIN_ALPHA,
        "MIN_ALPHA": oracle.MIN_ALPHA,
        "MAX_ALPHA": oracle.MAX_ALPHA,
        "MIN_TRANSMITTANCE": oracle.MIN_TRANSMITTANCE,
        "SLACK_PX": float(SLACK_PX),
    }
    for name, number in constants.items():
        text = text.replace(name, f"({number!r}f)")
    return prelude + block.NUMBERS + text.replace("THREADS", str(THREADS))


def _make_blend(name: str, parts: dict[str, str], prelude: str) -> Any:
    """A kernel of blocks, one for each portion of each macro-tile."""
    resident = 3 if parts["SURFACE"] else 4  # blocks of a multiprocessor: surfaces take registers

    @wp.func_native(_text(parts, prelude))
    def blend_portion(
        geometry: wp.array[wp.vec4],
        peaks: wp.array[wp.vec2],
        colors: wp.array[wp.vec4],
        values: wp.array[wp.int32],
        begin: int,
        end: int,
        x_first: int,
        y_first: int,
        x_end: int,
        y_end: int,
        stop_below: float,
        camera: int,
        background: wp.vec3,
        rgb: wp.array4d[wp.uint8],
        depth: wp.array3d[wp.float32],
        alpha: wp.array3d[wp.float32],
        w: int,
        width: int,
        surfaces: wp.array2d[wp.vec4],
        seen: wp.array3d[wp.int32],
    ): ...

    @wp.kernel(name=name, module="unique", enable_backward=False, launch_bounds=(THREADS, resident))
    def blend(
        cameras: Cameras,
        wave: Wave,
        records: Records,
        segments: Segments,
        images: Images,
        portions: wp.vec2i,
        stop_below: float,
        surfaces: wp.array2d[wp.vec4],
        seen: wp.array3d[wp.int32],
    ):
        item = wp.tid() // wp.static(THREADS)
        portion = item % (portions[0] * portions[1])
        segment = item // (portions[0] * portions[1])
        tile = segment % (segments.columns * segments.rows)
        camera = wave_camera(wave, segment // (segments.columns * segments.rows))
        if camera < 0:
            return
        size = cameras.sizes[camera]
        x_tile = (tile % segments.columns) * segments.tile_width
        y_tile = (tile // segments.columns) * segments.tile_height
        x_first = x_tile + (portion % portions[0]) * wp.static(PORTION_PX)
        y_first = y_tile + (portion // portions[0]) * wp.static(PORTION_PX)
        x_end = wp.min(size[0], x_tile + segments.tile_width)
        y_end = wp.min(size[1], y_tile + segments.tile_height)
        if x_first >= x_end or y_first >= y_end:
            return
        blend_portion(
            records.geometry,
            records.peak,
            records.color,
            segments.values,
            segments.offsets[segment],
            segments.offsets[segment + 1],
            x_first,
            y_first,
            x_end,
            y_end,
            stop_below,
            camera,
            images.background,
            images.rgb,
            images.depth,
            images.alpha,
            segment // (segments.columns * segments.rows),
            images.depth.shape[2],
            surfaces,
            seen,
        )

    return blend


def make_block_kernels(prelude: str = block.PRELUDE) -> dict[Any, int]:
    """The kernels, single and half precision, without surfaces and with, and their threads.

    `prelude` is `block.PRELUDE` or a test's change of it.
    """
    return {_make_blend(name, parts, prelude): THREADS for name, parts in _VARIANTS.items()}


BLOCK_KERNELS = make_block_kernels()
"""For launches, for compiling ahead of time, and for reports."""


@cache
def _nothing(device: str) -> tuple[Any, Any]:
    """No surfaces, and nobody who asks."""
    return wp.zeros((0, 0), dtype=wp.vec4, device=device), wp.zeros((0, 0, 0), dtype=wp.int32, device=device)


def blend(
    cameras: Any,
    wave: Any,
    records: Any,
    segments: Any,
    images: Any,
    *,
    half_precision: bool = False,
    stop_below: float = 0.0,
    surfaces: Any = None,
    seen: Any = None,
) -> None:
    """Blend a wave's macro-tiles, on the current stream.

    Args:
        cameras: Prepared (`project.Cameras`).
        wave: Whose cameras they are (`project.Wave`).
        records: Of the wave (`project.Records`).
        segments: Sorted (`bins.Segments`).
        images: To be written (`blend.Images`); pixels outside a camera's own size are left alone.
        half_precision: Whether to blend in half precision.
        stop_below: Transmittance under which pixels may stop before the oracle's do; 0: never.
        surfaces: Opaque surfaces of the wave's pixels, see `objects.Surfaces.shown`; None: there are none.
        seen: Which instance each surface belongs to, int32 `[C, H, W]`, -1 written where splats veil more than half of it; empty
            if nobody asks. None: without surfaces.

    Raises:
        InputError: If the device runs no blocks of threads: Warp's CPU device, unless `warp.config.enable_cpu_blocks`.
    """
    device = records.geometry.device
    if not block.can_run_blocks(device):
        raise InputError(
            f"The fast blend kernels need blocks of threads, which Warp's device '{device}' runs only with "
            "warp.config.enable_cpu_blocks; set that, or take the plain kernel."
        )
    across = -(-segments.tile_width // PORTION_PX)
    down = -(-segments.tile_height // PORTION_PX)
    blocks = (len(segments.offsets) - 1) * across * down
    kernel = tuple(BLOCK_KERNELS)[int(half_precision) + (0 if surfaces is None else 2)]
    if surfaces is None:
        surfaces, seen = _nothing(device.alias)
    wp.launch(
        kernel,
        blocks * THREADS,
        [cameras, wave, records, segments, images, wp.vec2i(across, down), stop_below, surfaces, seen],
        device=device,
        block_dim=THREADS,
    )
