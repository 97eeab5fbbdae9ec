"""Where the CPU backend's time goes: cull, project, colour, collect, sort, blend, write.

The backend does all of it in one compiled function. Here the same pieces run in the same order in a
loop that stops after a given step, in one thread; a step's time is what it adds. So each runs on data as warm as in earnest.
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import time
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from gaussgym_render import blending, harmonics, projection, sorting
from gaussgym_render.atlas import CHUNK, NUM_SHAPE
from gaussgym_render.bench.scenes import Workload
from gaussgym_render.cpu import CpuRasterizer
from gaussgym_render.renderer import SplatRenderer

STEPS = ("cull", "project", "colour", "collect", "sort", "blend", "write")
CAMERAS, REPEATS = 32, 7
"""Cameras measured, and how often each; the steps take turns."""


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """CPU time of a frame by step, and of the whole frame by the backend itself, one thread; medians.

    Attributes:
        width_px: Image width.
        height_px: Image height.
        splats: Splats of each scene.
        cameras: Cameras measured.
        milliseconds: By step, in `STEPS`' order; a step too short for the clock may read a little below 0.
        backend_milliseconds: The backend's own time for the same cameras.
    """

    width_px: int
    height_px: int
    splats: int
    cameras: int
    milliseconds: dict[str, float]
    backend_milliseconds: float


def time_steps(workload: Workload, *, cameras: int = CAMERAS, repeats: int = REPEATS) -> StepTimes:
    """Time the CPU backend's steps on the first cameras of a workload.

    Args:
        workload: Scenes and cameras.
        cameras: How many of its cameras to take.
        repeats: Measurements of each step.
    """
    few = workload.take(np.arange(min(cameras, len(workload))))
    renderer = SplatRenderer(few.scenes, few.width, few.height, backend="cpu", num_threads=1)
    assert isinstance(renderer.rasterizer, CpuRasterizer)
    frames = renderer.render(few.c2w, few.K, few.scene_ids)
    images = (frames.rgb, frames.depth, frames.alpha)
    ms = np.empty((repeats + 1, len(STEPS) + 1))
    for r in range(repeats + 1):  # the first compiles
        for step in range(len(STEPS) + 1):
            start = time.process_time()
            if step < len(STEPS):
                run_steps(renderer.rasterizer, few, images, step)
            else:
                renderer.render(few.c2w, few.K, few.scene_ids, out=frames)
            ms[r, step] = 1000.0 * (time.process_time() - start) / len(few)
    added = np.median(np.diff(ms[1:, : len(STEPS)], axis=1, prepend=0.0), axis=0)
    return StepTimes(
        width_px=few.width,
        height_px=few.height,
        splats=len(few.scenes[0]),
        cameras=len(few),
        milliseconds=dict(zip(STEPS, added.tolist())),
        backend_milliseconds=float(np.median(ms[1:, -1])),
    )


def run_steps(
    rasterizer: CpuRasterizer,
    workload: Workload,
    images: tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]],
    last: int,
) -> None:
    """Render a workload's cameras as far as a step.

    Args:
        rasterizer: The backend, black background, no objects.
        workload: Its scenes and the cameras.
        images: rgb, depth, alpha of all cameras; written by the last step.
        last: Index of the step to stop after, in `STEPS`.
    """
    tiles = rasterizer.tiles
    jobs = np.empty((len(workload) * len(tiles), 5), np.int64)
    jobs[:, 0] = np.repeat(np.arange(len(workload)), len(tiles))
    jobs[:, 1:] = np.tile(tiles, (len(workload), 1))
    size = np.array([rasterizer.width, rasterizer.height, rasterizer._stride], np.int64)
    views = (workload.c2w, workload.K, workload.scene_ids)
    black, scratch = np.zeros(3, np.float32), rasterizer._scratch[0][:3]
    settings = (size, rasterizer.near, rasterizer.antialiased, black)
    _run(last, jobs, views, rasterizer._atlas_arrays, settings, images, scratch)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _project_scene(last, scene, atlas, view, k, near, tan_limit, tile, antialiased, scratch):
    """As `projection.project_scene` without edits, as far as a step."""
    chunk_ranges, bounds, skip, errors_m, thresholds_px, source, splats, rest_offsets, num_rests = atlas
    xyz, out, box, records, keys, numbers, directions, weights, colors, shape, bands = scratch
    means, shapes, base_colors, rest = splats
    focal, num_rest = max(k[0, 0], k[1, 1]), num_rests[scene]
    first, end = chunk_ranges[scene, 0], chunk_ranges[scene, 1]
    count, next_chunk = 0, first
    while next_chunk < end:
        chunk = next_chunk
        visible = projection.chunk_visible(bounds[chunk], view, k, near, tan_limit, tile)
        threshold_px = thresholds_px[scene]
        drawn = visible and projection.detailed_enough(
            bounds[chunk], errors_m[chunk], view, focal, threshold_px
        )
        next_chunk += 1 if visible and not drawn else skip[chunk]
        if not drawn or last < 1:
            continue
        places = means[chunk * 3 * CHUNK : (chunk + 1) * 3 * CHUNK]
        projection.widen(shapes, chunk * NUM_SHAPE * CHUNK, NUM_SHAPE * CHUNK, shape)
        projection.camera_points(places, view, xyz)
        projection.project_chunk(shape, xyz, view, k, near, tan_limit, tile, antialiased, out, box)
        if last < 2:
            continue
        projection.widen(base_colors, 3 * CHUNK * chunk, 3 * CHUNK, colors)
        if num_rest > 0:
            projection.unit_directions(places, view, directions)
            size = 3 * CHUNK * num_rest
            projection.widen(rest, rest_offsets[scene] + size * (chunk - first), size, bands)
            harmonics.add_bands(directions, bands, 0, num_rest, weights, colors)
        if last >= 3:
            count = projection.collect_visible(
                out, box, colors, chunk * CHUNK, source, count, records, keys, numbers
            )
    return count


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _run(last, jobs, cameras, atlas, settings, images, scratch):
    """As `cpu._render_jobs` without objects, edits and further outputs, as far as a step."""
    c2w, ks, scene_ids = cameras
    size, near, antialiased, background = settings
    projected, (order, pairs, histogram), (image, open_bits, view, tan_limit) = scratch
    records, keys, numbers = projected[3], projected[4], projected[5]
    for job in range(len(jobs)):
        camera, tile = jobs[job, 0], jobs[job, 1:]
        projection.place_camera(c2w[camera], view)
        projection.tan_limits(ks[camera], size, tan_limit)
        count = _project_scene(
            last, scene_ids[camera], atlas, view, ks[camera], near, tan_limit, tile, antialiased, projected
        )
        if last < 4:
            continue
        sorting.sort(keys, count, order, pairs, histogram)
        sorting.break_ties(keys, count, order, numbers)
        if last < 5:
            continue
        picture = (tile[2], tile[3], size[2], tile[2] // 64 + 2)
        blending.clear(picture[1], picture[0], picture[2], picture[3], image, open_bits)
        blending.blend((0, count, count), order, records, image, open_bits, picture, tile[2] * tile[3])
        if last >= 6:
            blending.write_tile(
                tile, size[2], image, background, images[0][camera], images[1][camera], images[2][camera]
            )
