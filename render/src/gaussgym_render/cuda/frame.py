"""A frame on the device: buffers of fixed capacity, cameras in waves, the order of launches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import warp as wp  # noqa: TID253  (this package is imported only where the backend is asked for)

from gaussgym_render.atlas import CHUNK
from gaussgym_render.cuda import bins, blend_fast, objects, overflow, project
from gaussgym_render.cuda import blend as blending
from gaussgym_render.cuda import cameras as preparing
from gaussgym_render.cuda.bins import Segments, TileGrid, tile_grid
from gaussgym_render.cuda.blend import Images
from gaussgym_render.cuda.cameras import Cameras, Wave
from gaussgym_render.cuda.device_atlas import DeviceAtlas
from gaussgym_render.cuda.overflow import BINS, Counters, make_limit
from gaussgym_render.cuda.project import WORDS, Records
from gaussgym_render.cuda.scan import Scan
from gaussgym_render.cuda.sort import SortBuffers, sort_segments

if TYPE_CHECKING:
    from gaussgym_render.cuda.extras import Extras

BLOCK = CHUNK
"""Threads of a block."""
DROPPED_BITS = 3
"""Of the depths that are sorted by where half precision suffices. One pass less over most tiles; with nine, as 16-bit keys would
have it, opaque splats of one wall change places (24/255 in 1 of 10 000 pixels of the procedural street).
"""
BLOCKS_PER_SM = 8
"""Of kernels whose blocks take work in turn."""


@dataclass(frozen=True, kw_only=True)
class CudaCfg:
    """How much is rendered at once, and the memory for it.

    Attributes:
        wave_cameras: Most cameras of a wave; fewer where scenes are so large that all they may see would not fit the memory.
        visible_per_camera: Splats that a wave has room for, divided by its cameras, which share it; None: all of the largest
            scene.
        memory_bytes: For what cameras see [B]; None: an eighth of the device's.
        pairs_per_visible: Room for pairs of splat and macro-tile, for each visible splat; images of one macro-tile need none.
        kernels: What sorts and blends: 'plain', or 'fast', written for blocks of threads, or 'half', which blends in half
            precision besides (45 dB from the oracle) and stops where 8-bit colours need no more. None has run on a GPU yet.
        graphs: Whether repeated calls become CUDA graphs; None: on CUDA devices.
    """

    wave_cameras: int = 256
    visible_per_camera: int | None = None
    memory_bytes: int | None = None
    pairs_per_visible: float = 2.0
    kernels: Literal["plain", "fast", "half"] = "plain"
    graphs: bool | None = None


RECORD_BYTES = 44
"""Of a record without its key and number."""
PAIR_BYTES = 20
"""Of a pair: key and number, room to sort them, and to put ties in order."""
CPU_BYTES = 1 << 30
"""What `CudaCfg.memory_bytes` is on the CPU, where nothing else is said."""
MIN_WAVE = 32
"""Cameras that a wave keeps, a group of one scene, even if all that they may see does not fit."""


@dataclass(frozen=True)
class Capacity:
    """Room of a frame's buffers.

    Attributes:
        wave_size: Cameras of a wave.
        records: Splats that they see.
        pairs: Of splat and macro-tile; those of images of one macro-tile are the records.
    """

    wave_size: int
    records: int
    pairs: int


def plan_capacity(
    cfg: CudaCfg, num_cameras: int, num_slots: int, num_tiles: int, memory_bytes: int
) -> Capacity:
    """Find room for what cameras can see of scenes of up to `num_slots` splats, on images of `num_tiles` macro-tiles.

    Waves are made smaller before anything could overflow, but not smaller than `MIN_WAVE`: there the farthest splats may go.
    """
    per_record = RECORD_BYTES + PAIR_BYTES * (cfg.pairs_per_visible if num_tiles > 1 else 1.0)
    most = max(int(memory_bytes / per_record), 1)
    wanted = num_slots if cfg.visible_per_camera is None else min(cfg.visible_per_camera, num_slots)
    wave_size = min(cfg.wave_cameras, num_cameras, max(most // wanted, MIN_WAVE))
    records = min(wave_size * wanted, most)
    return Capacity(
        wave_size, records, records if num_tiles == 1 else max(int(records * cfg.pairs_per_visible), 1)
    )


@dataclass(frozen=True)
class FrameInputs:
    """What a call renders, Warp arrays on the device; see `preparing.prepare_cameras`.

    Attributes:
        c2w: Camera to world `[C, 4, 4]`, float32 or float64.
        ks: Calibration matrices `[C, 3, 3]`, the same.
        ids: Scenes `[C]`, int32 or int64.
        mask: Which to render, bool `[C]`, or empty.
        sizes: Width and height of each image, of the type of `ids` `[C, 2]`, or empty.
    """

    c2w: Any
    ks: Any
    ids: Any
    mask: Any
    sizes: Any


def make_cameras(count: int, device: Any) -> Any:
    """Room for prepared cameras."""
    cameras = Cameras()
    cameras.scenes = wp.zeros(count, dtype=wp.int32, device=device)
    cameras.rotations = wp.zeros(count, dtype=wp.mat33, device=device)
    cameras.exact_rotations = wp.zeros(count, dtype=wp.mat33d, device=device)
    cameras.centers_w = wp.zeros(count, dtype=wp.vec3d, device=device)
    cameras.intrinsics = wp.zeros(count, dtype=wp.vec4, device=device)
    cameras.tan_limits = wp.zeros(count, dtype=wp.vec4, device=device)
    cameras.sizes = wp.zeros(count, dtype=wp.vec2i, device=device)
    return cameras


def make_wave(size: int, max_chunks: int, order: Any, active: Any, device: Any) -> Any:
    """Room for the work items of a wave; `start` is set for each."""
    wave = Wave()
    wave.order, wave.active, wave.start, wave.max_chunks = order, active, 0, max_chunks
    for name in ("num_items", "item_starts"):
        setattr(wave, name, wp.zeros(size + 1, dtype=wp.int32, device=device))
    wave.group_sizes = wp.zeros(size, dtype=wp.int32, device=device)
    wave.masks = wp.zeros(size * max_chunks, dtype=wp.uint32, device=device)
    wave.origins_c = wp.zeros(size * max_chunks, dtype=wp.vec3, device=device)
    wave.bits = wp.zeros(size * max_chunks * WORDS, dtype=wp.uint32, device=device)
    for name in ("counts", "offsets"):
        setattr(wave, name, wp.zeros(size * max_chunks + 1, dtype=wp.int32, device=device))
    return wave


def make_records(capacity: int, device: Any, *, keyed: bool = True) -> Any:
    """Room for records; for keys and values too, twice, for sorting, where segments are the cameras' records."""
    records = Records()
    records.geometry = wp.zeros(capacity, dtype=wp.vec4, device=device)
    records.peak = wp.zeros(capacity, dtype=wp.vec2, device=device)
    records.color = wp.zeros(capacity, dtype=wp.vec4, device=device)
    records.slot = wp.zeros(capacity, dtype=wp.int32, device=device)
    records.keys = wp.zeros(2 * capacity * keyed, dtype=wp.int32, device=device)
    records.values = wp.zeros(2 * capacity * keyed, dtype=wp.int32, device=device)
    return records


def make_segments(size: int, grid: TileGrid, records: Any, capacity: int, device: Any) -> Any:
    """Segments of a wave; those of images of one tile lie in the records' own keys and values."""
    segments = Segments()
    segments.offsets = wp.zeros(size * grid.count + 1, dtype=wp.int32, device=device)
    if grid.count == 1:
        segments.keys, segments.values = records.keys, records.values
    else:
        segments.keys = wp.zeros(2 * capacity, dtype=wp.int32, device=device)
        segments.values = wp.zeros(2 * capacity, dtype=wp.int32, device=device)
    segments.columns, segments.rows = grid.columns, grid.rows
    segments.tile_width, segments.tile_height = grid.width, grid.height
    return segments


class Frame:
    """Renders calls of up to C cameras; owns the buffers, and allocates none while it renders.

    Args:
        atlas: The scenes, on their device.
        num_cameras: C.
        width: Image width [px].
        height: Image height [px].
        near: Nearest depth of a splat's mean [m].
        antialiased: Whether to compensate opacities for the low-pass.
        cfg: Capacities.
    """

    def __init__(
        self,
        atlas: DeviceAtlas,
        num_cameras: int,
        width: int,
        height: int,
        *,
        near: float,
        antialiased: bool,
        cfg: CudaCfg,
    ) -> None:
        self.atlas, self.num_cameras, self.width, self.height = atlas, num_cameras, width, height
        self.near, self.antialiased, self.cfg = near, int(antialiased), cfg
        self.device = device = atlas.device
        self.grid = tile_grid(width, height)
        memory_bytes = cfg.memory_bytes or (device.total_memory // 8 if device.is_cuda else CPU_BYTES)
        self.capacity = plan_capacity(
            cfg, num_cameras, atlas.max_chunks * CHUNK, self.grid.count, memory_bytes
        )
        self.wave_size, pairs = self.capacity.wave_size, self.capacity.pairs
        self.num_segments = self.wave_size * self.grid.count
        self.cameras = make_cameras(num_cameras, device)
        self.sorted_scenes = wp.zeros(2 * num_cameras, dtype=wp.int32, device=device)
        self.order = wp.zeros(2 * num_cameras, dtype=wp.int32, device=device)
        self.active = wp.zeros(1, dtype=wp.int32, device=device)
        self.refused = wp.zeros(1, dtype=wp.int32, device=device)
        self.wave = make_wave(self.wave_size, atlas.max_chunks, self.order, self.active, device)
        self.records = make_records(self.capacity.records, device, keyed=self.grid.count == 1)
        self.segments = make_segments(self.wave_size, self.grid, self.records, pairs, device)
        self.sort_buffers, self.sorted_pairs = None, (self.segments.keys, self.segments.values)
        if cfg.kernels != "plain":
            self.sort_buffers, self.sorted_pairs = self._make_sort()
        self.segment_counts = wp.zeros(self.num_segments + 1, dtype=wp.int32, device=device)
        self.room, self.pair_room = make_limit(self.capacity.records, device), make_limit(pairs, device)
        self.scan = Scan(max(self.wave_size * atlas.max_chunks, self.num_segments) + 1, device)
        self.ranked = wp.zeros(pairs, dtype=wp.int32, device=device)
        self.num_blocks = BLOCKS_PER_SM * device.sm_count if device.is_cuda else 1
        self.num_threads = BLOCK * self.num_blocks if device.is_cuda else 1

    def _make_sort(self) -> tuple[SortBuffers, tuple[Any, Any]]:
        """Buffers of `sort_segments` and what it sorts: the first halves of keys and values, the second are its spares."""
        count, pairs = self.capacity.pairs, (self.segments.keys, self.segments.values)
        buffers = SortBuffers.create(self.num_segments, 1, self.device)
        spare_keys, spare_values = (array[count : 2 * count] for array in pairs)
        keys, values = (array[:count] for array in pairs)
        return replace(buffers, spare_keys=spare_keys, spare_values=spare_values), (keys, values)

    def counters(self) -> Counters:
        """What went wrong since the last call of this; waits for the device."""
        wp.synchronize_device(self.device)
        refused, room, pairs = (
            array.numpy().copy() for array in (self.refused, self.room.dropped, self.pair_room.dropped)
        )
        for array in (self.refused, self.room.dropped, self.pair_room.dropped):
            array.zero_()
        return Counters(int(refused[0]), int(room[0]), int(pairs[0]), int(room[1] + pairs[1]))

    def launch(self, kernel: Any, dim: Any, inputs: list[Any]) -> None:
        """Run a kernel."""
        wp.launch(kernel, dim=dim, inputs=inputs, device=self.device, block_dim=BLOCK)

    def render(self, inputs: FrameInputs, images: Any, extras: Extras | None = None) -> None:
        """Render cameras into `images` (see `blend.Images`): launches only, on the device's current stream.

        `extras` says what else is drawn, changed and written.
        """
        self.prepare(inputs)
        if extras is not None:
            extras.prepare(self, inputs.c2w.shape[0])
        for start in range(0, inputs.c2w.shape[0], self.wave_size):
            self.wave.start = start
            self.project_wave()
            if extras is not None:
                extras.recolor(self)
            self.bin_wave()
            self.sort_wave()
            if extras is None:
                self.blend_wave(images)
            else:
                extras.blend(self, images)

    def prepare(self, inputs: FrameInputs) -> None:
        """Prepare all cameras, and put those of a scene together."""
        c = inputs.c2w.shape[0]
        scenes = self.atlas.num_scenes
        self.launch(
            preparing.prepare_cameras,
            c,
            [
                inputs.c2w, inputs.ks, inputs.ids, inputs.mask, inputs.sizes, self.width, self.height, scenes,
                self.cameras, self.sorted_scenes, self.order, self.refused,
            ],
        )  # fmt: skip
        wp.utils.radix_sort_pairs(self.sorted_scenes, self.order, c, 0, scenes.bit_length())
        self.active.zero_()
        self.launch(preparing.count_active, c, [self.sorted_scenes, c, scenes, self.active])

    def project_wave(self) -> None:
        """Cull, mark, count and project what the wave's cameras see."""
        wave, scenes, cameras = self.wave, self.atlas.scenes, self.cameras
        self.launch(preparing.group_cameras, self.wave_size, [scenes, self.sorted_scenes, wave])
        self.scan.run(wave.num_items, wave.item_starts)
        rows = self.wave_size * self.atlas.max_chunks
        self.launch(project.cull, rows, [scenes, cameras, wave, self.near])
        wave.bits.zero_()
        optics = [scenes, cameras, wave, self.near, self.antialiased, self.num_blocks]
        self.launch(project.mark, (self.num_blocks, CHUNK), optics)
        self.launch(project.count_visible, rows, [wave])
        self.scan.run(wave.counts, wave.offsets)
        room = [scenes, cameras, wave, self.room]
        self.launch(overflow.histogram_chunks, rows, room)
        self.launch(overflow.find_cut, 1, [wave.offsets, self.room])
        self.launch(overflow.drop_chunks, rows, room)
        self.scan.run(wave.counts, wave.offsets, self.room.cut, BINS)
        self.launch(project.project, (self.num_blocks, CHUNK), [*optics, self.records])

    def bin_wave(self) -> None:
        """Find the segments: what each macro-tile shows."""
        segments, counts, limit = self.segments, self.segment_counts, self.pair_room
        if self.grid.count == 1:
            self.launch(bins.camera_segments, self.wave_size + 1, [self.wave, segments])
            return
        pairs = [self.cameras, self.wave, self.records, segments, counts, limit, self.num_threads]
        counts.zero_()
        self.launch(bins.visit_pairs, self.num_threads, [bins.COUNT, *pairs])
        self.scan.run(counts, segments.offsets)
        self.launch(bins.visit_pairs, self.num_threads, [bins.HISTOGRAM, *pairs])
        self.launch(overflow.find_cut, 1, [segments.offsets, limit])
        self.launch(bins.clear_counts, len(counts), [counts, limit])
        self.launch(bins.visit_pairs, self.num_threads, [bins.RECOUNT, *pairs])
        self.scan.run(counts, segments.offsets, limit.cut, BINS)
        counts.zero_()
        self.launch(bins.visit_pairs, self.num_threads, [bins.FILL, *pairs])

    def sort_wave(self) -> None:
        """Sort the segments by depth, ties by the splats' order in the input."""
        segments = self.segments
        if self.sort_buffers is not None:
            keys, values = self.sorted_pairs
            order = {"slots": self.records.slot, "numbers": self.atlas.scenes.source}
            drop = DROPPED_BITS if self.cfg.kernels == "half" else 0
            sort_segments(segments.offsets, keys, values, self.sort_buffers, **order, drop=drop)
            return
        wp.utils.segmented_sort_pairs(segments.keys, segments.values, self.capacity.pairs, segments.offsets)
        ties = [segments, self.num_segments, self.ranked, self.num_threads]
        self.launch(bins.rank_ties, self.num_threads, [self.atlas.scenes, self.records, *ties])
        self.launch(bins.keep_ties, self.num_threads, ties)

    def blend_wave(self, images: Any, surfaces: Any = None, seen: Any = None) -> None:
        """Blend the wave's images, as far as surfaces if there are any; see `objects.blend_before_surfaces`."""
        arrays = [self.cameras, self.wave, self.records, self.segments, images]
        threads = (self.wave_size, blending.num_threads(self.width, self.height))
        if self.cfg.kernels != "plain":
            half = self.cfg.kernels == "half"
            stop_below = blend_fast.STOP_BELOW_8_BIT if half else 0.0
            blend_fast.blend(
                *arrays, half_precision=half, stop_below=stop_below, surfaces=surfaces, seen=seen
            )
        elif surfaces is None:
            self.launch(blending.blend, threads, arrays)
        else:
            self.launch(objects.blend_before_surfaces, threads, [*arrays, surfaces, seen])


def make_images(rgb: Any, depth: Any, alpha: Any, background: Any) -> Any:
    """Frames as kernels take them."""
    images = Images()
    images.rgb, images.depth, images.alpha, images.background = rgb, depth, alpha, wp.vec3(*background)
    return images
