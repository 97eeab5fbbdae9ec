"""CPU backend: splat-major compositing of many small images, compiled by numba.

At robot resolutions a whole image fits into the L1/L2 cache and most splats cover three to five pixels, so tiles and their
lists cost more than they save. One job is one camera (or one tile of a larger image): cull chunks against its frustum, project
what is left sixteen splats at a time, radix-sort by depth, then blend front to back, each splat over blocks of its own box
(`projection`, `sorting`, `blending`).
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

from gaussgym_render import blending, channels, edits, lanes, projection, sorting, zbuffer
from gaussgym_render.atlas import CHUNK, NUM_SHAPE, Atlas
from gaussgym_render.channels import ChannelArrays
from gaussgym_render.edits import SceneEdits
from gaussgym_render.objects import Instances, ObjectSet, build_objects

MAX_TILE_PIXELS = 26000
"""Above this many pixels an image is cut into tiles, so that a tile's buffers (20 B a pixel) stay in the L2 cache."""

_COMPILING = threading.Lock()
_F = np.float32


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
    sorting.sort(keys, covered, order, pairs, histogram)
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
    projected, (order, pairs, histogram), (image, open_bits, view, tan_limit), sums, surfaces = scratch
    records, keys, numbers = projected[3], projected[4], projected[5]
    layer, (pixels, surface_order, surface_keys, _) = surfaces
    seen = instances[4]
    while True:
        job = lanes.next_job(counter)
        if job >= len(jobs):
            break
        camera, tile = jobs[job, 0], jobs[job, 1:]
        scene, k = scene_ids[camera], ks[camera]
        chunks = (chunk_ranges[scene, 0], chunk_ranges[scene, 1])
        projection.place_camera(c2w[camera], view)
        projection.tan_limits(k, sizes[camera], tan_limit)
        count = projection.project_scene(
            chunks, (skip, errors_m, thresholds_px[scene]), bounds, source, splats, rest_offsets[scene], num_rest[scene],
            view, k, near, tan_limit, tile, antialiased, camera, changes, projected,
        )  # fmt: skip
        visible[job] = count
        sorting.sort(keys, count, order, pairs, histogram)
        sorting.break_ties(keys, count, order, numbers)
        covered = _draw_objects(camera, instances, view, k, near, tile, histogram, surfaces)
        picture = (tile[2], tile[3], size[2], tile[2] // 64 + 2)
        blending.clear(picture[1], picture[0], picture[2], picture[3], image, open_bits)
        blending.blend_before_surfaces(
            (count, order, keys),
            (covered, pixels, surface_order, surface_keys),
            records,
            image,
            open_bits,
            picture,
        )
        if extra[2]:
            blending.blend_channels(
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
        blending.show_surfaces(covered, pixels, layer, image, tile[2], size[2])
        if len(seen) > 0:
            blending.write_seen(tile, covered, layer[5], seen[camera])
        blending.write_tile(
            tile, size[2], image, background, frames[0][camera], frames[1][camera], frames[2][camera]
        )
        if len(extra[1][0]) > 0:
            blending.write_float(tile, size[2], image, background, extra[1][0][camera])
        if extra[2]:
            channels.write_channels(camera, tile, sums[5], frames[2][camera], sums, extra[1])


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
        most = (
            max(self.atlas.max_chunks, 1) * CHUNK + lanes.RECORD
        )  # more, since `projection.collect_visible` writes ahead
        tile_height = int(self.tiles[:, 3].max())
        words = int(self.tiles[:, 2].max()) // 64 + 2
        projected = (
            np.empty(3 * CHUNK, np.float32),
            np.empty(projection.NUM_PROJECTED * CHUNK, np.float32),
            np.empty(projection.NUM_BOX * CHUNK, np.int32),
            np.empty(most * lanes.RECORD, np.float32),
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
            np.zeros(sorting.HISTOGRAM, np.int32),
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
        return projected, sort, picture

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
