"""Frames per second over image sizes, batch sizes, numbers of scenes and of splats."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gaussgym_render.bench.machine import available_bytes
from gaussgym_render.bench.scenes import Place, Workload, make_workload
from gaussgym_render.cpu import CpuRasterizer
from gaussgym_render.frames import Frames
from gaussgym_render.renderer import SplatRenderer

SIZES = ((64, 48), (84, 48), (128, 128), (320, 240), (640, 480))
"""Image sizes [px]: the policy's, the one of GaussGym's released configuration, three larger."""
CAMERAS = (1, 64, 1024, 4096)
SCENES = (1, 8, 128)
SPLATS = (20_000, 100_000, 500_000)
REPEATS = 5
"""Measurements of a cell, where time allows."""
MEMORY_SHARE = 0.8
"""Of the memory that is free, a cell may take this much."""
_BYTES_PER_PIXEL = 11  # rgb, depth and alpha of a frame
_BYTES_PER_SPLAT = 160  # at most, of a scene's means and of its arrays in an atlas, while those are joined


@dataclass(frozen=True, kw_only=True)
class MatrixCfg:
    """What to measure.

    Attributes:
        sizes: Image sizes [px].
        cameras: Batch sizes.
        scenes: Numbers of scenes.
        splats: Splats of each scene; None: as many as the scene has.
        backend: Renderer backend.
        threads: CPU threads, None for all.
        seconds: Time to spend on a cell [s].
        limit_s: A cell whose batch takes longer than this is skipped [s].
    """

    sizes: Sequence[tuple[int, int]] = SIZES
    cameras: Sequence[int] = CAMERAS
    scenes: Sequence[int] = SCENES
    splats: Sequence[int | None] = SPLATS
    backend: str = "auto"
    threads: int | None = None
    seconds: float = 1.0
    limit_s: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Speed in one cell of the matrix: median over the repeats, slowest and fastest; or why there is none.

    Attributes:
        width_px: Image width.
        height_px: Image height.
        cameras: Cameras in a batch.
        scenes: Scenes that they are spread over.
        splats: Splats of each scene.
        skipped: Why the cell was not measured; None: it was.
        repeats: Measurements.
        frames_per_s: Frames per second of wall time.
        frames_per_s_min: Slowest repeat.
        frames_per_s_max: Fastest repeat.
        frames_per_cpu_s: Frames per second of CPU time of the process.
        visible_splats: Splats that touch the image, mean over cameras; None where the backend does not count or draws in tiles.
    """

    width_px: int
    height_px: int
    cameras: int
    scenes: int
    splats: int
    skipped: str | None = None
    repeats: int = 0
    frames_per_s: float | None = None
    frames_per_s_min: float | None = None
    frames_per_s_max: float | None = None
    frames_per_cpu_s: float | None = None
    visible_splats: float | None = None


def run_matrix(
    make_place: Callable[[int | None], Place], cfg: MatrixCfg, *, on_cell: Callable[[Cell], None]
) -> list[Cell]:
    """Measure all cells.

    Args:
        make_place: Gives the scene with so many splats (None: its own number).
        cfg: What to measure.
        on_cell: Told of each cell as it is done.
    """
    cells = []
    for num_splats in cfg.splats:
        place = make_place(num_splats)
        for num_scenes, (width, height) in itertools.product(cfg.scenes, cfg.sizes):
            for cell in _measure_batches(place, num_scenes, width, height, cfg):
                cells.append(cell)
                on_cell(cell)
    return cells


def num_cells(cfg: MatrixCfg) -> int:
    """How many cells `run_matrix` reports."""
    return len(cfg.sizes) * len(cfg.cameras) * len(cfg.scenes) * len(cfg.splats)


def _measure_batches(
    place: Place, num_scenes: int, width: int, height: int, cfg: MatrixCfg
) -> Iterator[Cell]:
    """The cells of all batch sizes, with one renderer."""
    where: dict[str, Any] = {
        "width_px": width,
        "height_px": height,
        "scenes": num_scenes,
        "splats": len(place.splats),
    }
    free = MEMORY_SHARE * available_bytes()
    held = num_scenes * len(place.splats) * (_BYTES_PER_SPLAT + place.splats.sh[0].size * 8)
    renderer = None
    for count in cfg.cameras:
        need = held + count * width * height * _BYTES_PER_PIXEL
        if need > free:
            yield Cell(
                cameras=count, **where, skipped=f"takes {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
            )
            continue
        workload = make_workload(place, num_scenes, count, width, height)
        if renderer is None:
            renderer = SplatRenderer(
                workload.scenes, width, height, backend=cfg.backend, num_threads=cfg.threads
            )
        yield _measure(renderer, workload, where, cfg)


def _measure(renderer: SplatRenderer, workload: Workload, where: dict[str, Any], cfg: MatrixCfg) -> Cell:
    """One cell."""
    few = workload.take(np.arange(min(len(workload), 16)))
    batch_s = (
        min(_seconds(renderer, few)[0] for _ in range(2)) * len(workload) / len(few)
    )  # the first compiles
    if batch_s > cfg.limit_s:
        reason = f"a batch takes about {batch_s:.0f} s, the limit is {cfg.limit_s:g} s"
        return Cell(cameras=len(workload), **where, skipped=reason)
    out = renderer.render(workload.c2w, workload.K, workload.scene_ids)
    repeats = int(np.clip(cfg.seconds / batch_s, 1, REPEATS))
    calls = max(1, int(cfg.seconds / repeats / batch_s))
    wall, cpu = np.empty(repeats), np.empty(repeats)
    for r in range(repeats):
        wall[r], cpu[r] = _seconds(renderer, workload, calls, out)
    frames, rasterizer = calls * len(workload), renderer.rasterizer
    counted = isinstance(rasterizer, CpuRasterizer) and len(rasterizer.tiles) == 1
    return Cell(
        cameras=len(workload),
        **where,
        repeats=repeats,
        frames_per_s=float(np.median(frames / wall)),
        frames_per_s_min=float(frames / wall.max()),
        frames_per_s_max=float(frames / wall.min()),
        frames_per_cpu_s=float(np.median(frames / cpu)),
        visible_splats=float(rasterizer.num_visible.mean()) if counted else None,  # type: ignore[union-attr]
    )


def _seconds(
    renderer: SplatRenderer, workload: Workload, calls: int = 1, out: Frames | None = None
) -> tuple[float, float]:
    """Wall and CPU time of rendering a batch `calls` times [s]."""
    start, start_cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        renderer.render(workload.c2w, workload.K, workload.scene_ids, out=out)
    return time.perf_counter() - start, time.process_time() - start_cpu


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What a larger batch, or more scenes, do to the cost of a frame at equal splats a scene.

    Attributes:
        what: What grows: 'cameras' or 'scenes'.
        few: The smaller number.
        many: The larger number.
        width_px: Image width.
        height_px: Image height.
        splats: Splats of each scene.
        time_ratio: CPU time per frame with many over that with few, median over repeats that alternate between them.
        time_ratio_min: Least of the repeats.
        time_ratio_max: Greatest of the repeats.
    """

    what: str
    few: int
    many: int
    width_px: int
    height_px: int
    splats: int
    time_ratio: float
    time_ratio_min: float
    time_ratio_max: float


def measure_scaling(
    place: Place,
    size: tuple[int, int],
    *,
    backend: str,
    threads: int | None,
    cameras: tuple[int, int] = (64, 4096),
    scenes: tuple[int, int] = (1, 128),
    repeats: int = 5,
) -> list[Scaling]:
    """Compare the cost of a frame in small and large batches (of one scene), and in one and many scenes.

    Args:
        place: The scene, copied for many, and its cameras.
        size: Image size [px].
        backend: Renderer backend.
        threads: CPU threads, None for all.
        cameras: Batch sizes to compare.
        scenes: Numbers of scenes to compare, in batches of a quarter of the larger batch size.
        repeats: Pairs of measurements.
    """
    batch = max(cameras[1] // 4, 1)
    pairs = [
        ("cameras", cameras, [make_workload(place, 1, count, *size) for count in cameras]),
        ("scenes", scenes, [make_workload(place, count, batch, *size) for count in scenes]),
    ]
    rows = []
    for what, (few, many), workloads in pairs:
        renderers = [
            SplatRenderer(load.scenes, *size, backend=backend, num_threads=threads) for load in workloads
        ]
        outs = [r.render(load.c2w, load.K, load.scene_ids) for r, load in zip(renderers, workloads)]
        calls = [max(len(load) for load in workloads) // len(load) for load in workloads]
        cpu = np.empty((repeats, 2))
        for r in range(repeats):
            for i, (renderer, load) in enumerate(zip(renderers, workloads)):
                cpu[r, i] = _seconds(renderer, load, calls[i], outs[i])[1] / (calls[i] * len(load))
        ratios = cpu[:, 1] / cpu[:, 0]
        rows.append(
            Scaling(
                what=what,
                few=few,
                many=many,
                width_px=size[0],
                height_px=size[1],
                splats=len(place.splats),
                time_ratio=float(np.median(ratios)),
                time_ratio_min=float(ratios.min()),
                time_ratio_max=float(ratios.max()),
            )
        )
    return rows
