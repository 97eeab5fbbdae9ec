"""Segments: the records that a camera's macro-tile shows, counted, placed and, once sorted by depth, with ties put in order.

An image of up to `SINGLE_TILE_PIXELS` is one macro-tile: its segment is the camera's records, and nothing is copied.
"""

# Warp reads annotations and indices in a way of its own.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportGeneralTypeIssues=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# ruff: noqa: UP018, RUF046, SIM109  (loop variables are declared by a call; `and` evaluates both sides)

from __future__ import annotations

from dataclasses import dataclass

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

from gaussgym_render.cuda.cameras import Cameras, Wave, wave_camera
from gaussgym_render.cuda.device_atlas import Scenes
from gaussgym_render.cuda.overflow import BINS, Limit, depth_bin
from gaussgym_render.cuda.project import LOG2_MIN_ALPHA, SLACK_PX, Records

wp.set_module_options({"enable_backward": False})

SINGLE_TILE_PIXELS = 8192
"""An image of up to this many pixels is one macro-tile."""
TILE_PX = 64
"""Side of the macro-tiles of larger ones."""
_BINS = wp.constant(BINS)


@dataclass(frozen=True)
class TileGrid:
    """Macro-tiles of an image.

    Attributes:
        columns: Across.
        rows: Down.
        width: Of one [px].
        height: Of one [px].
    """

    columns: int
    rows: int
    width: int
    height: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.columns * self.rows


def tile_grid(width: int, height: int) -> TileGrid:
    """The macro-tiles of images of this size [px]."""
    if width * height <= SINGLE_TILE_PIXELS:
        return TileGrid(1, 1, width, height)
    return TileGrid(-(-width // TILE_PX), -(-height // TILE_PX), TILE_PX, TILE_PX)


@wp.struct
class Segments:
    """The splats of W cameras' T macro-tiles, front to back once they are sorted; P is the capacity."""

    offsets: wp.array[wp.int32]
    """Where the segment of camera w's tile t begins: entry `w · T + t`; the last is their end, `[W · T + 1]`."""
    keys: wp.array[wp.int32]
    """Bits of the depth, `[2 P]`; the second half is room for sorting."""
    values: wp.array[wp.int32]
    """Records, `[2 P]`."""
    columns: int
    """Tiles across."""
    rows: int
    """Tiles down."""
    tile_width: int
    """[px]."""
    tile_height: int
    """[px]."""


@wp.kernel
def camera_segments(wave: Wave, segments: Segments) -> None:
    """Where each camera's records begin, `[W + 1]`: the segments of images of one tile."""
    w = wp.tid()
    segments.offsets[w] = wave.offsets[w * wave.max_chunks]


@wp.func
def rows_touched(geometry: wp.vec4, peak: wp.vec2, limit: int) -> wp.vec2i:
    """First and last row of pixels that a splat can touch, of `limit`; empty if the first is above the last."""
    half = wp.sqrt(wp.max(peak[1] - LOG2_MIN_ALPHA, 0.0) / peak[0]) + SLACK_PX
    low = wp.max(wp.ceil(geometry[1] - half - 0.5), 0.0)
    high = wp.min(wp.floor(geometry[1] + half - 0.5), float(limit - 1))
    return wp.vec2i(int(low), int(high))


@wp.func
def columns_touched(geometry: wp.vec4, peak: wp.vec2, first_row: int, last_row: int, limit: int) -> wp.vec2i:
    """First and last column that a splat can touch in a band of rows, of `limit`; empty if the first is above the last."""
    top, bottom = float(first_row) + 0.5 - geometry[1], float(last_row) + 0.5 - geometry[1]
    nearest = wp.min(wp.max(0.0, top), bottom)
    above = peak[1] - LOG2_MIN_ALPHA - peak[0] * nearest * nearest
    if above < -1.0e-4:
        return wp.vec2i(1, 0)
    half = wp.sqrt(wp.max(above, 0.0) / geometry[3]) + SLACK_PX
    slope = geometry[2]
    # The widest row of the ellipse within the band may lie off its middle: bound both by the band's ends.
    low = geometry[0] + wp.min(slope * top, slope * bottom) - half - 0.5
    high = geometry[0] + wp.max(slope * top, slope * bottom) + half - 0.5
    first, last = wp.max(wp.ceil(low), 0.0), wp.min(wp.floor(high), float(limit - 1))
    if first > last:
        return wp.vec2i(1, 0)
    return wp.vec2i(int(first), int(last))


@wp.func
def camera_of_record(wave: Wave, record: int) -> int:
    """Place in the wave of the camera that a record belongs to."""
    low, high = int(0), int(wave.group_sizes.shape[0])
    while low < high:
        middle = (low + high) // 2
        if wave.offsets[(middle + 1) * wave.max_chunks] > record:
            high = middle
        else:
            low = middle + 1
    return low


COUNT, HISTOGRAM, RECOUNT, FILL = (wp.constant(mode) for mode in range(4))
"""What `visit_pairs` does with the pairs: count them, and where there are too many sort them into bins of depth and count
again; write them."""


@wp.kernel
def visit_pairs(
    mode: int,
    cameras: Cameras,
    wave: Wave,
    records: Records,
    segments: Segments,
    counts: wp.array[wp.int32],
    limit: Limit,
    num_threads: int,
) -> None:
    """Take every pair of a record and a macro-tile that it can touch, in any order: sorting makes it the one.

    Args:
        mode: One of `COUNT`, `HISTOGRAM`, `RECOUNT`, `FILL`.
        cameras: Of the call.
        wave: Whose cameras they are.
        records: Of the wave.
        segments: To fill.
        counts: How many pairs each segment has, 0 before each mode that needs it, `[W · T + 1]`.
        limit: Of pairs.
        num_threads: How many threads take records in turn.
    """
    record = int(wp.tid())
    if mode == HISTOGRAM and segments.offsets[segments.offsets.shape[0] - 1] <= limit.capacity:
        return
    if mode == RECOUNT and limit.cut[0] == _BINS:
        return
    while record < wave.offsets[wave.offsets.shape[0] - 1]:
        geometry, peak, z = records.geometry[record], records.peak[record], records.color[record][3]
        bin = depth_bin(z)
        w = camera_of_record(wave, record)
        size = cameras.sizes[wave_camera(wave, w)]
        rows = rows_touched(geometry, peak, size[1])
        first_row, last_row = rows[0] // segments.tile_height, rows[1] // segments.tile_height
        if rows[0] > rows[1] or ((mode == RECOUNT or mode == FILL) and bin >= limit.cut[0]):
            last_row = first_row - 1
        for row in range(first_row, last_row + 1):
            top = wp.max(rows[0], row * segments.tile_height)
            bottom = wp.min(rows[1], (row + 1) * segments.tile_height - 1)
            span = columns_touched(geometry, peak, top, bottom, size[0])
            if span[0] <= span[1]:
                for column in range(span[0] // segments.tile_width, span[1] // segments.tile_width + 1):
                    segment = (w * segments.rows + row) * segments.columns + column
                    if mode == HISTOGRAM:
                        wp.atomic_add(limit.histogram, bin, 1)
                    else:
                        before = wp.atomic_add(counts, segment, 1)
                        if mode == FILL:
                            segments.keys[segments.offsets[segment] + before] = wp.cast(z, wp.int32)
                            segments.values[segments.offsets[segment] + before] = record
        record += num_threads


@wp.kernel
def clear_counts(counts: wp.array[wp.int32], limit: Limit) -> None:
    """Start counting anew where there are too many pairs."""
    if limit.cut[0] != _BINS:
        counts[wp.tid()] = 0


@wp.func
def segment_of(segments: Segments, num_segments: int, pair: int) -> int:
    """The segment that a pair lies in."""
    low, high = int(0), int(num_segments)
    while low < high:
        middle = (low + high) // 2
        if segments.offsets[middle + 1] > pair:
            high = middle
        else:
            low = middle + 1
    return low


@wp.kernel
def rank_ties(
    scenes: Scenes,
    records: Records,
    segments: Segments,
    num_segments: int,
    ranked: wp.array[wp.int32],
    num_threads: int,
) -> None:
    """Put the records of runs of equal depth, in sorted segments, into the order of the input: into `ranked`.

    Few depths are equal, but a wall that is seen straight on holds thousands: each member of a run counts those before it.
    """
    pair = int(wp.tid())
    total = segments.offsets[num_segments]
    while pair < total:
        key = segments.keys[pair]
        tied = False
        if pair > 0:
            tied = segments.keys[pair - 1] == key
        if pair + 1 < total:
            tied = tied or segments.keys[pair + 1] == key
        if tied:
            segment = segment_of(segments, num_segments, pair)
            begin, end = segments.offsets[segment], segments.offsets[segment + 1]
            own, before = scenes.source[records.slot[segments.values[pair]]], int(0)
            first, last = int(pair), int(pair) + 1
            while first > begin and segments.keys[wp.max(first - 1, 0)] == key:
                first -= 1
                before += int(scenes.source[records.slot[segments.values[first]]] < own)
            while last < end and segments.keys[wp.min(last, total - 1)] == key:
                before += int(scenes.source[records.slot[segments.values[last]]] < own)
                last += 1
            ranked[first + before] = segments.values[pair]
        pair += num_threads


@wp.kernel
def keep_ties(segments: Segments, num_segments: int, ranked: wp.array[wp.int32], num_threads: int) -> None:
    """Copy what `rank_ties` ordered back into the segments."""
    pair = int(wp.tid())
    total = segments.offsets[num_segments]
    while pair < total:
        key = segments.keys[pair]
        tied = False
        if pair > 0:
            tied = segments.keys[pair - 1] == key
        if pair + 1 < total:
            tied = tied or segments.keys[pair + 1] == key
        if tied:
            segments.values[pair] = ranked[pair]
        pair += num_threads
